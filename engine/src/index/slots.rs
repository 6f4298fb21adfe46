//! Where the rows of each subject are. Only the writer of a gallery needs to know.
//!
//! The table holds four bytes a subject and no name: names stand in the rows, which whoever asks has at hand.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::RowKey;
use super::flat::FlatRows;
use crate::ids::{FaceId, SubjectId};

/// A row of a subject that has several.
type Placed = (Option<FaceId>, u32);

/// The slots of all live rows, by subject and face.
#[derive(Default)]
pub(super) struct Slots {
    subjects: HashTable<Place>,
    /// Rows of subjects that have several, by face: two at least, or none where it is free for another subject.
    several: Vec<Vec<Placed>>,
    free: Vec<u32>,
    hashes: RandomState,
}

/// Where a subject's rows are.
#[derive(Clone, Copy)]
enum Place {
    /// The slot of its only row.
    One(u32),
    /// Which of [`Slots::several`].
    Several(u32),
}

impl Slots {
    /// The slots of all live rows of a state.
    pub(super) fn of(rows: &FlatRows) -> Self {
        let mut slots = Self::default();
        for (slot, row) in rows.live_rows(0..rows.slots()) {
            slots.insert(rows, row.key, slot);
        }
        slots
    }

    /// Number of subjects with a live row.
    pub(super) fn subjects(&self) -> usize {
        self.subjects.len()
    }

    /// Number of rows that were noted.
    pub(super) fn rows(&self) -> usize {
        let single = self.subjects.iter().filter(|place| matches!(place, Place::One(_))).count();
        single + self.several.iter().map(Vec::len).sum::<usize>()
    }

    /// Memory taken for so many rows of so many subjects, in bytes, estimated.
    pub(super) fn bytes(rows: usize, subjects: usize) -> usize {
        // The table keeps a byte beside each place and is three quarters full.
        let table = subjects * (size_of::<Place>() + 1) * 4 / 3;
        let several =
            if rows > subjects { rows * size_of::<Placed>() + subjects * size_of::<Vec<Placed>>() } else { 0 };
        table + several
    }

    /// Notes where a row is and gives where it was. `rows` holds all rows that were noted, dead ones included.
    pub(super) fn insert(&mut self, rows: &FlatRows, key: &RowKey, slot: usize) -> Option<usize> {
        let slot = u32::try_from(slot).expect("a gallery has fewer than 2³² slots");
        let Self { subjects, several, free, hashes } = self;
        let hash = hashes.hash_one(&key.subject);
        let Some(place) = subjects.find_mut(hash, |place| subject(rows, several, *place) == &key.subject) else {
            subjects.insert_unique(hash, Place::One(slot), |place| hashes.hash_one(subject(rows, several, *place)));
            return None;
        };
        match *place {
            Place::One(old) if rows.key(old as usize).face == key.face => {
                *place = Place::One(slot);
                Some(old as usize)
            }
            Place::One(old) => {
                let mut both = vec![(rows.key(old as usize).face, old), (key.face, slot)];
                both.sort_by_key(|(face, _)| *face);
                let number = free.pop().unwrap_or(several.len() as u32);
                match several.get_mut(number as usize) {
                    Some(free) => *free = both,
                    None => several.push(both),
                }
                *place = Place::Several(number);
                None
            }
            Place::Several(number) => {
                let faces = &mut several[number as usize];
                match faces.binary_search_by_key(&key.face, |(face, _)| *face) {
                    Ok(at) => Some(std::mem::replace(&mut faces[at].1, slot) as usize),
                    Err(at) => {
                        faces.insert(at, (key.face, slot));
                        None
                    }
                }
            }
        }
    }

    /// Where a row is.
    pub(super) fn get(&self, rows: &FlatRows, key: &RowKey) -> Option<usize> {
        let is_its = |place: &Place| subject(rows, &self.several, *place) == &key.subject;
        match *self.subjects.find(self.hashes.hash_one(&key.subject), is_its)? {
            Place::One(slot) => (rows.key(slot as usize).face == key.face).then_some(slot as usize),
            Place::Several(number) => {
                let faces = &self.several[number as usize];
                let at = faces.binary_search_by_key(&key.face, |(face, _)| *face).ok()?;
                Some(faces[at].1 as usize)
            }
        }
    }

    /// Forgets a row and gives where it was.
    pub(super) fn remove(&mut self, rows: &FlatRows, key: &RowKey) -> Option<usize> {
        let slot = self.get(rows, key)?;
        let Self { subjects, several, free, hashes } = self;
        let is_its = |place: &Place| subject(rows, several, *place) == &key.subject;
        let mut entry = subjects.find_entry(hashes.hash_one(&key.subject), is_its).ok()?;
        match *entry.get() {
            Place::One(_) => drop(entry.remove()),
            Place::Several(number) => {
                let faces = &mut several[number as usize];
                faces.retain(|(face, _)| *face != key.face);
                // Two rows at least make several, so one is left.
                if let [(_, left)] = faces[..] {
                    *entry.get_mut() = Place::One(left);
                    faces.clear();
                    free.push(number);
                }
            }
        }
        Some(slot)
    }

    /// Forgets all rows of a subject and gives where they were.
    pub(super) fn remove_subject(&mut self, rows: &FlatRows, subject: &SubjectId) -> Vec<usize> {
        let is_its = |place: &Place| self::subject(rows, &self.several, *place) == subject;
        let hash = self.hashes.hash_one(subject);
        match self.subjects.find_entry(hash, is_its) {
            Err(_) => Vec::new(),
            Ok(entry) => match entry.remove().0 {
                Place::One(slot) => vec![slot as usize],
                Place::Several(number) => {
                    self.free.push(number);
                    let faces = std::mem::take(&mut self.several[number as usize]);
                    faces.into_iter().map(|(_, slot)| slot as usize).collect()
                }
            },
        }
    }
}

/// Whose place it is.
fn subject<'a>(rows: &'a FlatRows, several: &[Vec<Placed>], place: Place) -> &'a SubjectId {
    let slot = match place {
        Place::One(slot) => slot,
        Place::Several(number) => several[number as usize][0].1,
    };
    &rows.key(slot as usize).subject
}
