//! What decides whether a subject is found at all, beside its faces: consent, expiry, and what filters look at.
//!
//! A subject that may not be matched has no row in the index. Consent changes with a write, which refreshes the rows;
//! expiry comes by itself, so the next one due is known without a lock, and whoever searches first after it removes the
//! rows. The background removes the subject from the store soon after.
//!
//! What filters look at is read from the store when a gallery is first searched with a filter, and kept from then on. Which rows a
//! filter lets through is kept too, for the next search with it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::GalleryError;
use super::facts::{Facts, Filter};
use crate::ids::{GalleryId, SubjectId};
use crate::index::{GalleryIndex, RowMask, RowNumbers};
use crate::store::{Store, Subject};

/// Subjects read from the store at a time.
const PAGE: usize = 1_000;

/// Filters of which masks are kept.
const MASKS: usize = 8;

/// A filter that searches had lately, and what it lets through.
struct Filtered {
    filter: Filter,
    index: Weak<GalleryIndex>,
    version: u64,
    mask: Arc<RowMask>,
}

/// The numbers of the rows of an index, one of the gallery's sides.
struct Numbered {
    index: Weak<GalleryIndex>,
    era: u64,
    numbers: Arc<RowNumbers>,
}

/// What is kept for the next filtered search.
#[derive(Default)]
struct Lately {
    /// The last one last.
    filtered: Vec<Filtered>,
    numbered: Vec<Numbered>,
}

/// See the module's notes. Changed by whoever holds the gallery's rows.
#[derive(Default)]
pub(super) struct Care {
    expiries: Mutex<Expiries>,
    /// When the next subject expires, in milliseconds since the Unix epoch.
    next_ms: AtomicI64,
    facts: RwLock<Option<Facts>>,
    lately: Mutex<Lately>,
}

#[derive(Default)]
struct Expiries {
    in_order: BTreeSet<(Timestamp, SubjectId)>,
    of: HashMap<SubjectId, Timestamp>,
}

impl Expiries {
    fn set(&mut self, subject: &SubjectId, at: Option<Timestamp>) {
        if let Some(old) = self.of.remove(subject) {
            self.in_order.remove(&(old, subject.clone()));
        }
        if let Some(at) = at {
            self.of.insert(subject.clone(), at);
            self.in_order.insert((at, subject.clone()));
        }
    }
}

/// Whether searches may find a subject at a time.
pub(super) fn is_matchable(subject: &Subject, now: Timestamp) -> bool {
    subject.consent.allows_matching() && subject.expires_at.is_none_or(|at| at > now)
}

impl Care {
    /// Reads all subjects, and gives those that may not be matched.
    pub(super) fn load(
        store: &dyn Store,
        gallery: &GalleryId,
        now: Timestamp,
    ) -> Result<(Self, HashSet<SubjectId>), GalleryError> {
        let care = Self { next_ms: AtomicI64::new(i64::MAX), ..Self::default() };
        let mut barred = HashSet::new();
        each_subject(store, gallery, |subject| {
            if !is_matchable(&subject, now) {
                barred.insert(subject.id.clone());
            }
            if subject.expires_at.is_some() {
                care.note_expiry(&subject.id, subject.expires_at);
            }
            Ok(())
        })?;
        Ok((care, barred))
    }

    fn note_expiry(&self, subject: &SubjectId, at: Option<Timestamp>) {
        let mut expiries = self.expiries.lock();
        expiries.set(subject, at);
        let next = expiries.in_order.first().map_or(i64::MAX, |(at, _)| at.as_millisecond());
        self.next_ms.store(next, Ordering::Release);
    }

    /// Takes over what a subject's record says now; `None` when it is gone.
    pub(super) fn note(&self, id: &SubjectId, subject: Option<&Subject>) -> Result<(), GalleryError> {
        self.note_expiry(id, subject.and_then(|subject| subject.expires_at));
        if let Some(facts) = &mut *self.facts.write() {
            match subject {
                Some(subject) => facts.set(subject)?,
                None => facts.remove(id),
            }
        }
        Ok(())
    }

    /// Whether some subject's time has come.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.next_ms.load(Ordering::Acquire) <= now.as_millisecond()
    }

    /// Subjects whose time has come, at most `limit`.
    pub(super) fn due(&self, now: Timestamp, limit: usize) -> Vec<SubjectId> {
        let expiries = self.expiries.lock();
        let due = expiries.in_order.iter().take_while(|(at, _)| *at <= now);
        due.take(limit).map(|(_, subject)| subject.clone()).collect()
    }

    /// Puts off looking at subjects whose rows are gone until the background has removed them.
    pub(super) fn rows_removed(&self, now: Timestamp) {
        let expiries = self.expiries.lock();
        let next = expiries.in_order.iter().find(|(at, _)| *at > now);
        self.next_ms.store(next.map_or(i64::MAX, |(at, _)| at.as_millisecond()), Ordering::Release);
    }

    /// What filters look at, where that was loaded.
    pub(super) fn facts(&self) -> RwLockReadGuard<'_, Option<Facts>> {
        self.facts.read()
    }

    /// The rows that a filter lets through by what is known. Rows that came lately are not among them.
    pub(super) fn mask(&self, filter: &Filter, index: &Arc<GalleryIndex>, facts: &Facts) -> Arc<RowMask> {
        let is_its = |other: &Weak<GalleryIndex>| std::ptr::eq(other.as_ptr(), Arc::as_ptr(index));
        let (version, era) = (facts.version(), facts.era());
        let before = {
            let Lately { filtered, numbered } = &mut *self.lately.lock();
            filtered.retain(|one| one.version == version && one.index.strong_count() > 0);
            numbered.retain(|one| one.era == era && one.index.strong_count() > 0);
            if let Some(at) = filtered.iter().position(|one| is_its(&one.index) && one.filter == *filter) {
                let one = filtered.remove(at);
                if index.is_masked_by(&one.mask) {
                    let mask = Arc::clone(&one.mask);
                    filtered.push(one);
                    return mask;
                }
            }
            numbered.iter().find(|one| is_its(&one.index)).map(|one| Arc::clone(&one.numbers)).unwrap_or_default()
        };
        // Without the lock: who searches with a filter that is known need not wait.
        let numbers = Arc::new(index.number_rows(&before, &|subject| facts.number(subject)));
        let passing = facts.select(filter);
        let mask = Arc::new(index.mask(&numbers, |number| passing.contains(number as usize)));
        let Lately { filtered, numbered } = &mut *self.lately.lock();
        numbered.retain(|one| !is_its(&one.index));
        numbered.push(Numbered { index: Arc::downgrade(index), era, numbers });
        if filtered.len() >= MASKS {
            filtered.remove(0);
        }
        let (filter, index) = (filter.clone(), Arc::downgrade(index));
        filtered.push(Filtered { filter, index, version, mask: Arc::clone(&mask) });
        mask
    }

    /// Loads what filters look at. The gallery's rows are held, so that no change comes in between.
    pub(super) fn load_facts(&self, store: &dyn Store, gallery: &GalleryId) -> Result<(), GalleryError> {
        if self.facts.read().is_some() {
            return Ok(());
        }
        let mut facts = Facts::default();
        each_subject(store, gallery, |subject| Ok(facts.set(&subject)?))?;
        *self.facts.write() = Some(facts);
        Ok(())
    }
}

fn each_subject(
    store: &dyn Store,
    gallery: &GalleryId,
    mut visit: impl FnMut(Subject) -> Result<(), GalleryError>,
) -> Result<(), GalleryError> {
    let mut after: Option<SubjectId> = None;
    loop {
        let page = store.subjects(gallery, after.as_ref(), PAGE)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.id.clone());
        page.into_iter().try_for_each(&mut visit)?;
    }
}
