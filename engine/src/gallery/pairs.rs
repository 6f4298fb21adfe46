//! Pairs of subjects that somebody knows to be two people, however alike they look.
//!
//! A pair stands under each of its subjects, so that all that a subject is kept apart from is one list. Searches with a
//! stored subject or face pass over such subjects, enrolment does not take one for a duplicate of the other, nor does
//! the search for duplicates, and they are not merged.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::database::{Database, now};
use super::{GalleryError, documents};
use crate::ids::{GalleryId, SubjectId};
use crate::store::{Collection, Operation, Store, StoreError};

/// Most pairs of one subject.
const MOST_OF_ONE: usize = 10_000;

/// Two subjects that are known to be two people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// One of them.
    pub subject: SubjectId,
    /// The other.
    pub other: SubjectId,
    /// Why, for people.
    #[serde(default)]
    pub note: Option<String>,
    /// When it was said.
    pub at: Timestamp,
}

fn id(subject: &SubjectId, other: &SubjectId) -> Vec<u8> {
    [subject.as_str().as_bytes(), &[0], other.as_str().as_bytes()].concat()
}

fn of(subject: &SubjectId) -> Vec<u8> {
    [subject.as_str().as_bytes(), &[0]].concat()
}

/// The operations that put a pair, under both of its subjects.
pub(super) fn put(gallery: &GalleryId, pair: &Pair) -> Result<[Operation; 2], StoreError> {
    let Pair { subject, other, note, at } = pair.clone();
    let turned = Pair { subject: other, other: subject, note, at };
    let put = |pair: &Pair| documents::put(Some(gallery), Collection::Pairs, &id(&pair.subject, &pair.other), pair);
    Ok([put(pair)?, put(&turned)?])
}

/// The operations that remove a pair.
pub(super) fn remove(gallery: &GalleryId, subject: &SubjectId, other: &SubjectId) -> [Operation; 2] {
    let remove = |id: Vec<u8>| documents::remove(Some(gallery), Collection::Pairs, &id);
    [remove(id(subject, other)), remove(id(other, subject))]
}

/// All pairs of a subject.
pub(super) fn pairs_of(store: &dyn Store, gallery: &GalleryId, subject: &SubjectId) -> Result<Vec<Pair>, StoreError> {
    documents::list(store, Some(gallery), Collection::Pairs, &of(subject), None, MOST_OF_ONE)
}

impl Database {
    /// Notes that two subjects of a gallery are two people.
    pub fn keep_apart(
        &self,
        gallery: &GalleryId,
        subject: &SubjectId,
        other: &SubjectId,
        note: Option<String>,
    ) -> Result<Pair, GalleryError> {
        if subject == other {
            return Err(GalleryError::SameSubject(subject.clone()));
        }
        self.subject(gallery, subject)?;
        self.subject(gallery, other)?;
        let pair = Pair { subject: subject.clone(), other: other.clone(), note, at: now() };
        self.store.commit(pair.at, &put(gallery, &pair)?)?;
        Ok(pair)
    }

    /// Takes back that two subjects are two people; says whether it had been noted.
    pub fn allow_together(
        &self,
        gallery: &GalleryId,
        subject: &SubjectId,
        other: &SubjectId,
    ) -> Result<bool, GalleryError> {
        let there: Option<Pair> = documents::get(self.store(), Some(gallery), Collection::Pairs, &id(subject, other))?;
        self.store.commit(now(), &remove(gallery, subject, other))?;
        Ok(there.is_some())
    }

    /// What a subject is kept apart from, by the other's id.
    pub fn pairs(&self, gallery: &GalleryId, subject: &SubjectId) -> Result<Vec<Pair>, GalleryError> {
        self.subject(gallery, subject)?;
        Ok(pairs_of(self.store(), gallery, subject)?)
    }

    /// The other subjects of all pairs of a subject, whether it is there or not.
    pub(super) fn kept_apart_from(
        &self,
        gallery: &GalleryId,
        subject: &SubjectId,
    ) -> Result<HashSet<SubjectId>, GalleryError> {
        let pairs = pairs_of(self.store(), gallery, subject)?;
        Ok(pairs.into_iter().map(|pair| pair.other).collect())
    }
}
