//! Where the rows of each subject are. Only the writer of a gallery needs to know.

use std::collections::HashMap;

use super::RowKey;
use super::flat::FlatRows;
use crate::ids::{FaceId, SubjectId};

/// The slots of all live rows, by subject and face.
#[derive(Default)]
pub(super) struct Slots {
    /// Sorted by face. Never empty.
    subjects: HashMap<SubjectId, Vec<(Option<FaceId>, usize)>>,
}

impl Slots {
    /// The slots of all live rows of a state.
    pub(super) fn of(rows: &FlatRows) -> Self {
        let mut slots = Self::default();
        for (slot, row) in rows.live_rows(0..rows.slots()) {
            slots.insert(row.key, slot);
        }
        slots
    }

    /// Number of subjects with a live row.
    pub(super) fn subjects(&self) -> usize {
        self.subjects.len()
    }

    /// Notes where a row is and gives where it was.
    pub(super) fn insert(&mut self, key: &RowKey, slot: usize) -> Option<usize> {
        let faces = self.subjects.entry(key.subject.clone()).or_insert_with(|| Vec::with_capacity(1));
        match faces.binary_search_by_key(&key.face, |(face, _)| *face) {
            Ok(at) => Some(std::mem::replace(&mut faces[at].1, slot)),
            Err(at) => {
                faces.insert(at, (key.face, slot));
                None
            }
        }
    }

    /// Where a row is.
    pub(super) fn get(&self, key: &RowKey) -> Option<usize> {
        let faces = self.subjects.get(&key.subject)?;
        let at = faces.binary_search_by_key(&key.face, |(face, _)| *face).ok()?;
        Some(faces[at].1)
    }

    /// Forgets a row and gives where it was.
    pub(super) fn remove(&mut self, key: &RowKey) -> Option<usize> {
        let faces = self.subjects.get_mut(&key.subject)?;
        let at = faces.binary_search_by_key(&key.face, |(face, _)| *face).ok()?;
        let (_, slot) = faces.remove(at);
        if faces.is_empty() {
            self.subjects.remove(&key.subject);
        }
        Some(slot)
    }

    /// Forgets all rows of a subject and gives where they were.
    pub(super) fn remove_subject(&mut self, subject: &SubjectId) -> Vec<usize> {
        self.subjects.remove(subject).unwrap_or_default().into_iter().map(|(_, slot)| slot).collect()
    }
}
