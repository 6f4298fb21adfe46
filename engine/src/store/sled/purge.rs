//! Removing what deleted galleries and retired feature sets left, some rows at a time.
//!
//! Deleting a gallery of a million faces in one transaction would stop everyone for seconds and hold all keys in
//! memory. The transaction therefore removes only the gallery's record and leaves a mark under its key; no read finds
//! the rows from then on. The mark goes last, so that a purge cut off anywhere goes on when the store is next opened.

use ::sled::{Batch, Result};

use super::Core;
use super::layout::Tree;

/// Rows removed while the writer's lock is held.
const PURGE_AT_ONCE: usize = 500;

impl Core {
    /// Removes some rows of a deleted gallery or a retired set. Returns whether there may be more.
    pub(super) fn purge_some(&self) -> Result<bool> {
        let _writer = self.writer.lock();
        for (marks, trees) in [(Tree::Purges, &Tree::OF_GALLERIES[..]), (Tree::RetiredSets, &Tree::OF_SETS)] {
            let Some((key, _)) = self.tree(marks).first()? else { continue };
            for &tree in trees {
                let of_overflow = [&[tree as u8], key.as_ref()].concat();
                if self.remove_some(tree, &key)? || self.remove_some(Tree::Overflow, &of_overflow)? {
                    return Ok(true);
                }
            }
            self.tree(marks).remove(&key)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn remove_some(&self, tree: Tree, prefix: &[u8]) -> Result<bool> {
        let tree = self.tree(tree);
        let mut batch = Batch::default();
        let mut found = false;
        for key in tree.scan_prefix(prefix).keys().take(PURGE_AT_ONCE) {
            batch.remove(key?);
            found = true;
        }
        if found {
            tree.apply_batch(batch)?;
        }
        Ok(found)
    }
}
