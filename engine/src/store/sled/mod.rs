//! The store in a folder, on sled 0.34.7.
//!
//! # Files
//! `layout` and `codec` say what lies where, `draft` plans a write and `write` makes it one sled transaction, `committer`
//! makes transactions durable, `read` and `sets` answer, `check` compares, `purge` removes what deleted galleries and
//! ended migrations left, `witness` notes how far the change log has come.
//!
//! # Durability
//! sled's `flush` writes its log and waits for the pages with `sync_file_range`, which survives `kill -9` but says
//! nothing about the disk's own cache or the file's length. A commit is therefore: transaction, `flush`, `fdatasync` on
//! the file `db`; the last two once for all writers that wait. No value is longer than a piece of 4 KiB (`layout`), so
//! sled never puts a page into a file of its own, which it would not sync. Between two `fdatasync`s sled trusts that
//! what it flushed earlier stays: a disk that reorders its cache at loss of power can only harm writes that were not
//! acknowledged, unless one single interval writes so much that sled reuses a segment freed within it.
//!
//! # Concurrency
//! One writer at a time plans against the trees and applies the plan in one transaction. Readers that need several rows
//! hold a shared lock that the writer takes for the time of the transaction (not of the sync), so they never see half
//! of a write; long scans give it back every few hundred rows. Everything read or refused waits until it is durable.
//!
//! # Failure
//! Where a write fails halfway or a sync fails, every call fails until the store is opened anew. sled panics on some
//! kinds of damage; that is caught and is [`StoreError::Damaged`].

mod check;
mod codec;
mod committer;
mod draft;
mod findings;
mod layout;
mod purge;
mod read;
mod sets;
#[cfg(test)]
mod tests;
mod witness;
mod write;

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use vultus_migrations::MigrationError;

use self::committer::{Committer, Work};
use self::layout::{NEXT_GALLERY, Tree, decode_key, decode_number};
use self::witness::Witness;
use crate::store::StoreError;

/// Memory sled may keep pages in.
const CACHE_BYTES: u64 = 256 << 20;

/// How often the lock is tried, and how long in between.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(30);

/// Keeps everything in a folder. See the module's notes.
pub struct SledStore {
    // Dropped in this order: the thread ends before the last handle on the trees goes.
    committer: Committer,
    core: Arc<Core>,
}

/// What the commit thread shares with the store.
struct Core {
    db: sled::Db,
    /// The file sled writes to, opened once more for `fdatasync`.
    file: File,
    witness: Witness,
    /// Sequence number of the last change applied, for the witness.
    applied_seq: AtomicU64,
    /// All trees, each at the index of its number.
    trees: Vec<sled::Tree>,
    /// Held by whoever writes, while planning and applying.
    writer: Mutex<Writer>,
    /// Held for writing while a transaction is applied and for reading while several rows are read.
    visible: RwLock<()>,
}

/// What the next write starts from.
struct Writer {
    last_seq: u64,
    next_gallery: u64,
}

impl SledStore {
    /// Opens the store in a folder, which is made when it is not there, and brings it to the current schema version.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another process (or another `SledStore`) has it open, [`StoreError::Newer`] when a
    /// later version of the program wrote it, [`StoreError::Damaged`] when it does not read back.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder)?;
        let core = Arc::new(guarded(|| Core::open(folder))?);
        let committer = Committer::start(Arc::clone(&core))?;
        if !core.tree(Tree::Purges).is_empty() || !core.tree(Tree::RetiredSets).is_empty() {
            committer.untidy();
        }
        Ok(Self { committer, core })
    }

    /// How many times data were synced to disk since the store was opened. Fewer than commits when several writers
    /// shared a sync.
    pub fn syncs(&self) -> u64 {
        self.committer.syncs()
    }
}

impl Core {
    fn open(folder: &Path) -> Result<Self, StoreError> {
        let db = open_database(folder)?;
        vultus_migrations::prepare(&db, folder).map_err(|error| match error {
            MigrationError::Newer { found, supported } => StoreError::Newer { found, supported },
            MigrationError::Damaged(what) => StoreError::Damaged(what),
            MigrationError::Database(error) => database(error),
            MigrationError::Io(error) => StoreError::Io(error),
        })?;
        let trees = Tree::ALL.iter().map(|tree| db.open_tree(tree.name()).map_err(database));
        let trees = trees.collect::<Result<Vec<_>, _>>()?;
        let witness = Witness::open(&folder.join("durable"))?;
        sync_entries(folder)?;
        let mut core = Self {
            file: File::open(folder.join("db"))?,
            db,
            witness,
            applied_seq: AtomicU64::new(0),
            trees,
            writer: Mutex::new(Writer { last_seq: 0, next_gallery: 1 }),
            visible: RwLock::new(()),
        };
        let last = core.tree(Tree::Changes).last().map_err(database)?;
        let last_seq = last.map_or(Ok(0), |(key, _)| decode_key(Tree::Changes, &key))?;
        if let Some(durable) = core.witness.seq().filter(|durable| *durable > last_seq) {
            return Err(StoreError::Damaged(format!(
                "the change log ends at {last_seq}, but entry {durable} was on disk. Restore a backup, or remove the \
                 file 'durable' to go on without what is lost"
            )));
        }
        *core.applied_seq.get_mut() = last_seq;
        let next = core.tree(Tree::Meta).get(NEXT_GALLERY).map_err(database)?;
        let next_gallery = next.map_or(Ok(1), |bytes| decode_number(&bytes))?;
        *core.writer.get_mut() = Writer { last_seq, next_gallery };
        Ok(core)
    }

    fn tree(&self, tree: Tree) -> &sled::Tree {
        &self.trees[tree as usize]
    }
}

impl Work for Core {
    fn sync(&self) -> io::Result<()> {
        let seq = self.applied_seq.load(Ordering::Acquire);
        self.db.flush().map_err(as_io)?;
        self.file.sync_data()?;
        self.witness.note(seq)
    }

    fn tidy(&self) -> io::Result<bool> {
        self.purge_some().map_err(as_io)
    }
}

/// Runs what may make sled panic.
fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(StoreError::Damaged("the database panicked; see the log".to_owned())))
}

/// Makes the names of the folder and its files durable; syncing a file does not do that.
fn sync_entries(folder: &Path) -> io::Result<()> {
    File::open(folder.join("conf"))?.sync_all()?;
    File::open(folder.join("blobs"))?.sync_all()?;
    File::open(folder)?.sync_all()?;
    let folder = folder.canonicalize()?;
    folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Opens sled, with some patience for the lock: a store that was just closed in this process can keep it for a moment,
/// in a thread of sled that is about to end or in a child process between its fork and its exec.
fn open_database(folder: &Path) -> Result<sled::Db, StoreError> {
    let mut attempts = LOCK_ATTEMPTS;
    loop {
        attempts -= 1;
        match sled::Config::new().path(folder).cache_capacity(CACHE_BYTES).open().map_err(opening) {
            Err(StoreError::InUse) if attempts > 0 => std::thread::sleep(LOCK_PAUSE),
            result => return result,
        }
    }
}

/// Reads sled's error on opening. It reports the lock of another process as an error of kind `Other` with this text.
fn opening(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) if error.to_string().starts_with("could not acquire lock") => StoreError::InUse,
        // A file that ends too soon is damage; to the caller an error of reading would look like one of the disk.
        sled::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            StoreError::Damaged(error.to_string())
        }
        other => database(other),
    }
}

fn database(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) => StoreError::Io(error),
        // These say nothing about contents.
        other => StoreError::Damaged(other.to_string()),
    }
}

fn as_io(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}
