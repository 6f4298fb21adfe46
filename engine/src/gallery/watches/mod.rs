//! Watches and their hits, as they are kept.
//!
//! A [`WatchBook`] is the one owner of the collections `Watches`, `Hits` and `Cursors` of a store. Watches are few and
//! also held in memory, so that a search learns without a read of the disk that nobody watches it.
//!
//! Of each watch
//! - hits have numbers from 1 without a gap, in the order they were committed: hit and highest number are one write,
//!   made under the watch's own lock;
//! - the last acknowledged number is a document of its own, so that finding and delivering do not write over each other;
//! - at most so many hits are kept, the newest. What goes is the oldest, so nothing undelivered goes before what has been
//!   delivered; what goes undelivered all the same is counted.

mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard, RwLock};

pub use record::{
    Hit, HitSource, NewHit, Progress, Secret, Watch, WatchSettings, WatchSources, WatchedSearches, Webhook,
};

use self::record::{Delivered, Head};
use super::database::now;
use super::{GalleryError, documents};
use crate::ids::WatchId;
use crate::store::{Collection, Operation, Store, StoreError};

/// Most documents that one commit removes beside what it adds.
const REMOVED_AT_ONCE: u64 = 1000;

/// All watches of a store.
pub struct WatchBook {
    store: Arc<dyn Store>,
    max_hits: u64,
    entries: RwLock<BTreeMap<WatchId, Arc<Entry>>>,
    /// Held while watches are made, changed or removed.
    changing: Mutex<()>,
}

struct Entry {
    watch: RwLock<Arc<Watch>>,
    log: Mutex<Log>,
}

/// The state of a watch's hits; its lock is held over each write of them.
#[derive(Debug, Clone, Copy, Default)]
struct Log {
    head: Head,
    delivered: Delivered,
    /// The watch is removed, or about to be.
    gone: bool,
}

impl WatchBook {
    /// Reads the watches of a store, of each of which at most `max_hits` (at least 1) hits are kept.
    pub fn open(store: Arc<dyn Store>, max_hits: u64) -> Result<Self, GalleryError> {
        let mut entries = BTreeMap::new();
        let watches: Vec<Watch> = documents::list(store.as_ref(), None, Collection::Watches, &[], None, usize::MAX)?;
        for watch in watches {
            let id = watch.id;
            let head = documents::get(store.as_ref(), None, Collection::Cursors, &head_key(id))?.unwrap_or_default();
            let delivered = documents::get(store.as_ref(), None, Collection::Cursors, &delivered_key(id))?;
            let log = Log { head, delivered: delivered.unwrap_or_default(), gone: false };
            entries.insert(id, Arc::new(Entry { watch: RwLock::new(Arc::new(watch)), log: Mutex::new(log) }));
        }
        Ok(Self { store, max_hits: max_hits.max(1), entries: RwLock::new(entries), changing: Mutex::default() })
    }

    /// All watches, by id, which is the order they were made in.
    pub fn watches(&self) -> Vec<Arc<Watch>> {
        self.entries.read().values().map(|entry| Arc::clone(&entry.watch.read())).collect()
    }

    /// The enabled watches that `pick` chooses.
    pub fn looking(&self, pick: impl Fn(&WatchSettings) -> bool) -> Vec<Arc<Watch>> {
        let entries = self.entries.read();
        let watches = entries.values().map(|entry| Arc::clone(&entry.watch.read()));
        watches.filter(|watch| watch.settings.enabled && pick(&watch.settings)).collect()
    }

    /// One watch.
    pub fn watch(&self, id: WatchId) -> Result<Arc<Watch>, GalleryError> {
        Ok(Arc::clone(&self.entry(id)?.watch.read()))
    }

    /// Which hits of a watch are kept, and how far their delivery is.
    pub fn progress(&self, id: WatchId) -> Result<Progress, GalleryError> {
        let Log { head, delivered, .. } = *self.entry(id)?.log.lock();
        Ok(Progress { oldest: head.oldest, last: head.last, delivered_up_to: delivered.up_to, dropped: head.dropped })
    }

    /// Makes a watch; `None` when there are `most` already.
    pub fn create(&self, settings: WatchSettings, most: usize) -> Result<Option<Arc<Watch>>, GalleryError> {
        let _changing = self.changing.lock();
        if self.entries.read().len() >= most {
            return Ok(None);
        }
        self.require_galleries(&settings)?;
        let at = now();
        let watch = Arc::new(Watch { id: WatchId::generate(), settings, created_at: at, updated_at: at });
        let key = watch.id.0;
        self.store.commit(at, &[documents::put(None, Collection::Watches, key.as_bytes(), &*watch)?])?;
        let entry = Entry { watch: RwLock::new(Arc::clone(&watch)), log: Mutex::default() };
        self.entries.write().insert(watch.id, Arc::new(entry));
        Ok(Some(watch))
    }

    /// Changes a watch. `change` is told what is there, and is run once.
    ///
    /// Where a webhook comes to a watch that had none, earlier hits are not delivered to it.
    pub fn update<E: From<GalleryError>>(
        &self,
        id: WatchId,
        change: impl FnOnce(&Watch) -> Result<WatchSettings, E>,
    ) -> Result<Arc<Watch>, E> {
        let _changing = self.changing.lock();
        let entry = self.entry(id)?;
        let there = Arc::clone(&entry.watch.read());
        let settings = change(&there)?;
        let write = || -> Result<Arc<Watch>, GalleryError> {
            self.require_galleries(&settings)?;
            let at = now();
            let watch = Arc::new(Watch { settings: settings.clone(), updated_at: at, ..(*there).clone() });
            let mut log = entry.log.lock();
            let mut operations = vec![documents::put(None, Collection::Watches, id.0.as_bytes(), &*watch)?];
            let mut delivered = log.delivered;
            if watch.settings.webhook.is_some() && there.settings.webhook.is_none() {
                delivered.up_to = log.head.last;
                operations.push(documents::put(None, Collection::Cursors, &delivered_key(id), &delivered)?);
            }
            self.store.commit(at, &operations)?;
            log.delivered = delivered;
            *entry.watch.write() = Arc::clone(&watch);
            Ok(watch)
        };
        write().map_err(E::from)
    }

    /// Removes a watch with its hits.
    pub fn remove(&self, id: WatchId) -> Result<(), GalleryError> {
        let _changing = self.changing.lock();
        let entry = self.entry(id)?;
        let mut log = entry.log.lock();
        // First, so that nothing looks on and nothing is delivered while the hits go.
        self.entries.write().remove(&id);
        log.gone = true;
        let hits = (log.head.oldest..=log.head.last).map(|number| remove_hit(id, number)).collect::<Vec<_>>();
        // The watch itself goes last: one cut off in between is still there at the next start, and can be removed.
        for some in hits.chunks(REMOVED_AT_ONCE as usize) {
            self.store.commit(now(), some)?;
        }
        let rest = [
            documents::remove(None, Collection::Watches, id.0.as_bytes()),
            documents::remove(None, Collection::Cursors, &head_key(id)),
            documents::remove(None, Collection::Cursors, &delivered_key(id)),
        ];
        self.store.commit(now(), &rest)?;
        Ok(())
    }

    /// Keeps hits of a watch, durably, and gives them with their numbers. None are kept of a watch that is removed.
    pub fn add_hits(&self, id: WatchId, new: Vec<NewHit>) -> Result<Vec<Hit>, GalleryError> {
        let Some(entry) = self.entries.read().get(&id).cloned() else { return Ok(Vec::new()) };
        let mut log = entry.log.lock();
        if log.gone || new.is_empty() {
            return Ok(Vec::new());
        }
        let at = now();
        let mut head = log.head;
        let first = head.last + 1;
        let hits: Vec<Hit> = new.into_iter().zip(first..).map(|(hit, number)| hit.numbered(id, number, at)).collect();
        head.last += hits.len() as u64;
        let puts = hits.iter().map(|hit| documents::put(None, Collection::Hits, &hit_key(id, hit.number), hit));
        let mut operations = puts.collect::<Result<Vec<Operation>, StoreError>>()?;
        let excess = (head.last + 1 - head.oldest).saturating_sub(self.max_hits).min(REMOVED_AT_ONCE);
        let gone = head.oldest..head.oldest + excess;
        if entry.watch.read().settings.webhook.is_some() {
            head.dropped += gone.clone().filter(|number| *number > log.delivered.up_to).count() as u64;
        }
        head.oldest = gone.end;
        operations.extend(gone.map(|number| remove_hit(id, number)));
        operations.push(documents::put(None, Collection::Cursors, &head_key(id), &head)?);
        self.store.commit(at, &operations)?;
        log.head = head;
        Ok(hits)
    }

    /// At most `limit` hits of a watch that are kept, those with numbers above `after`, in order.
    pub fn hits(&self, id: WatchId, after: u64, limit: usize) -> Result<Vec<Hit>, GalleryError> {
        self.entry(id)?;
        let prefix = id.0.as_bytes();
        Ok(documents::list(self.store.as_ref(), None, Collection::Hits, prefix, Some(&hit_key(id, after)), limit)?)
    }

    /// The hit that is to be delivered next, if any waits.
    pub fn undelivered(&self, id: WatchId) -> Result<Option<Hit>, GalleryError> {
        let Progress { last, delivered_up_to, .. } = self.progress(id)?;
        if delivered_up_to >= last {
            return Ok(None);
        }
        Ok(self.hits(id, delivered_up_to, 1)?.into_iter().next())
    }

    /// Notes, durably, that the hits up to a number were acknowledged.
    pub fn set_delivered(&self, id: WatchId, up_to: u64) -> Result<(), GalleryError> {
        let entry = self.entry(id)?;
        let mut log: MutexGuard<'_, Log> = entry.log.lock();
        if log.gone || up_to <= log.delivered.up_to {
            return Ok(());
        }
        let delivered = Delivered { up_to };
        let operation = documents::put(None, Collection::Cursors, &delivered_key(id), &delivered)?;
        self.store.commit(now(), &[operation])?;
        log.delivered = delivered;
        Ok(())
    }

    fn entry(&self, id: WatchId) -> Result<Arc<Entry>, GalleryError> {
        self.entries.read().get(&id).cloned().ok_or(GalleryError::NoWatch(id))
    }

    /// A watch on a gallery that is not there is a slip of the pen, and would never tell.
    fn require_galleries(&self, settings: &WatchSettings) -> Result<(), GalleryError> {
        let named = std::iter::once(&settings.gallery).chain(&settings.sources.enrolments);
        for gallery in named {
            self.store.gallery(gallery)?.ok_or_else(|| StoreError::NoGallery(gallery.clone()))?;
        }
        Ok(())
    }
}

fn hit_key(id: WatchId, number: u64) -> Vec<u8> {
    [id.0.as_bytes().as_slice(), &number.to_be_bytes()].concat()
}

fn head_key(id: WatchId) -> Vec<u8> {
    [id.0.as_bytes().as_slice(), b"head"].concat()
}

fn delivered_key(id: WatchId) -> Vec<u8> {
    [id.0.as_bytes().as_slice(), b"delivered"].concat()
}

fn remove_hit(id: WatchId, number: u64) -> Operation {
    documents::remove(None, Collection::Hits, &hit_key(id, number))
}
