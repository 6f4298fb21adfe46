//! What decides whether a subject is found at all, beside its faces: consent, expiry, and what filters look at.
//!
//! A subject that may not be matched has no row in the index. Consent changes with a write, which refreshes the rows;
//! expiry comes by itself, so the next one due is known without a lock, and whoever searches first after it removes the
//! rows. The background removes the subject from the store soon after.
//!
//! What filters look at is read from the store when a gallery is first searched with a filter, and kept from then on. Which rows a
//! filter lets through is kept too, once it comes again.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use jiff::Timestamp;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::GalleryError;
use super::filter::{Facts, Filter};
use crate::ids::{GalleryId, SubjectId};
use crate::index::{GalleryIndex, RowMask};
use crate::store::{Store, Subject};

/// Subjects read from the store at a time.
const PAGE: usize = 1_000;

/// Facts of a gallery's subjects.
#[derive(Default)]
pub(super) struct Known {
    by_id: HashMap<SubjectId, Facts>,
    /// Grows when what was known of a subject is known otherwise.
    version: u64,
}

impl Known {
    /// Those of a subject.
    pub(super) fn get(&self, subject: &SubjectId) -> Option<&Facts> {
        self.by_id.get(subject)
    }

    /// Takes over what is known now.
    fn set(&mut self, subject: &SubjectId, facts: Option<Facts>) {
        let is_same = match facts {
            Some(facts) => {
                let same = self.by_id.get(subject).is_none_or(|known| *known == facts);
                self.by_id.insert(subject.clone(), facts);
                same
            }
            None => self.by_id.remove(subject).is_none(),
        };
        // The rows of a new subject come after this: no mask has them.
        self.version += u64::from(!is_same);
    }
}

/// Filters of which masks are kept.
const MASKS: usize = 8;

/// A filter that searches had lately, the last one last.
struct Filtered {
    filter: Filter,
    index: Weak<GalleryIndex>,
    version: u64,
    mask: Option<Arc<RowMask>>,
}

/// See the module's notes. Changed by whoever holds the gallery's rows.
#[derive(Default)]
pub(super) struct Care {
    expiries: Mutex<Expiries>,
    /// When the next subject expires, in milliseconds since the Unix epoch.
    next_ms: AtomicI64,
    facts: RwLock<Option<Known>>,
    filtered: Mutex<Vec<Filtered>>,
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
            facts.set(id, subject.map(Facts::try_from).transpose()?);
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
    pub(super) fn facts(&self) -> RwLockReadGuard<'_, Option<Known>> {
        self.facts.read()
    }

    /// The rows that a filter lets through by what is `known`; `None` the first time it is asked for, as making a mask takes longer
    /// than the search for which it might never be used again.
    pub(super) fn mask(&self, filter: &Filter, index: &Arc<GalleryIndex>, known: &Known) -> Option<Arc<RowMask>> {
        let mut filtered = self.filtered.lock();
        let is_it = |one: &Filtered| std::ptr::eq(one.index.as_ptr(), Arc::as_ptr(index)) && one.filter == *filter;
        let there = filtered.iter().position(is_it).map(|at| filtered.remove(at));
        let there = there.filter(|one| one.version == known.version);
        let mask = there.map(|one| {
            let mask = one.mask.filter(|mask| index.is_masked_by(mask));
            mask.unwrap_or_else(|| {
                let accept = |subject: &SubjectId| known.get(subject).is_some_and(|facts| filter.matches(facts));
                Arc::new(index.mask(&accept))
            })
        });
        if filtered.len() >= MASKS {
            filtered.remove(0);
        }
        let (filter, index) = (filter.clone(), Arc::downgrade(index));
        filtered.push(Filtered { filter, index, version: known.version, mask: mask.clone() });
        mask
    }

    /// Loads what filters look at. The gallery's rows are held, so that no change comes in between.
    pub(super) fn load_facts(&self, store: &dyn Store, gallery: &GalleryId) -> Result<(), GalleryError> {
        if self.facts.read().is_some() {
            return Ok(());
        }
        let mut by_id = HashMap::new();
        each_subject(store, gallery, |subject| {
            by_id.insert(subject.id.clone(), Facts::try_from(&subject)?);
            Ok(())
        })?;
        *self.facts.write() = Some(Known { by_id, version: 0 });
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
