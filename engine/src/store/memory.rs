//! The store in memory: the twin of [`SledStore`](super::sled::SledStore) for tests. Nothing survives the process.
//!
//! One lock guards everything. A write changes the state in place and notes how to take each change back; when an
//! operation is refused, the notes are played backwards.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::RwLock;

use super::rules::{Ledger, carry_out};
use super::{
    Change, CheckReport, Committed, Gallery, GalleryCounts, Operation, Store, StoreError, StoredAnswer, StoredFace,
    Subject,
};
use crate::ids::{FaceId, GalleryId, SubjectId};

/// Keeps everything in maps. See the module's notes.
#[derive(Default)]
pub struct MemoryStore {
    state: RwLock<State>,
}

#[derive(Default)]
struct State {
    galleries: BTreeMap<GalleryId, GalleryState>,
    changes: Vec<Change>,
    answers: BTreeMap<[u8; 32], StoredAnswer>,
}

struct GalleryState {
    gallery: Gallery,
    counts: GalleryCounts,
    subjects: BTreeMap<SubjectId, SubjectState>,
    owners: BTreeMap<FaceId, SubjectId>,
}

struct SubjectState {
    subject: Subject,
    faces: BTreeMap<FaceId, FaceState>,
}

#[derive(Clone)]
struct FaceState {
    face: Arc<StoredFace>,
    crop: Option<Arc<[u8]>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a gallery under the lock.
    fn read<T>(&self, gallery: &GalleryId, read: impl FnOnce(&GalleryState) -> T) -> Result<T, StoreError> {
        let state = self.state.read();
        state.galleries.get(gallery).map(read).ok_or_else(|| StoreError::NoGallery(gallery.clone()))
    }
}

impl GalleryState {
    fn face(&self, face: FaceId) -> Option<&FaceState> {
        self.subjects.get(self.owners.get(&face)?)?.faces.get(&face)
    }
}

impl Store for MemoryStore {
    fn galleries(&self) -> Result<Vec<Gallery>, StoreError> {
        Ok(self.state.read().galleries.values().map(|state| state.gallery.clone()).collect())
    }

    fn gallery(&self, gallery: &GalleryId) -> Result<Option<Gallery>, StoreError> {
        Ok(self.state.read().galleries.get(gallery).map(|state| state.gallery.clone()))
    }

    fn counts(&self, gallery: &GalleryId) -> Result<GalleryCounts, StoreError> {
        self.read(gallery, |state| state.counts)
    }

    fn subject(&self, gallery: &GalleryId, subject: &SubjectId) -> Result<Option<Subject>, StoreError> {
        self.read(gallery, |state| state.subjects.get(subject).map(|state| state.subject.clone()))
    }

    fn subjects(
        &self,
        gallery: &GalleryId,
        after: Option<&SubjectId>,
        limit: usize,
    ) -> Result<Vec<Subject>, StoreError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(gallery, |state| {
            let subjects = state.subjects.range((from, Bound::Unbounded));
            subjects.take(limit).map(|(_, state)| state.subject.clone()).collect()
        })
    }

    fn faces(&self, gallery: &GalleryId, subject: &SubjectId) -> Result<Vec<StoredFace>, StoreError> {
        self.read(gallery, |state| {
            let faces = state.subjects.get(subject).map(|state| state.faces.values());
            faces.into_iter().flatten().map(|face| StoredFace::clone(&face.face)).collect()
        })
    }

    fn face(&self, gallery: &GalleryId, face: FaceId) -> Result<Option<StoredFace>, StoreError> {
        self.read(gallery, |state| state.face(face).map(|face| StoredFace::clone(&face.face)))
    }

    fn crop(&self, gallery: &GalleryId, face: FaceId) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(gallery, |state| Some(state.face(face)?.crop.as_ref()?.to_vec()))
    }

    fn scan_faces(
        &self,
        gallery: &GalleryId,
        visit: &mut dyn FnMut(StoredFace) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        // Visited without the lock, so that the visitor may use the store.
        let faces: Vec<Arc<StoredFace>> = self.read(gallery, |state| {
            let faces = state.subjects.values().flat_map(|state| state.faces.values());
            faces.map(|face| Arc::clone(&face.face)).collect()
        })?;
        for face in faces {
            if visit(StoredFace::clone(&face)).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn commit(&self, at: Timestamp, operations: &[Operation]) -> Result<Committed, StoreError> {
        let mut state = self.state.write();
        let mut draft = Draft { state: &mut state, undo: Vec::new() };
        let result = carry_out(&mut draft, at, operations);
        if result.is_err() {
            draft.take_back();
        }
        result
    }

    fn changes(&self, after: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
        let state = self.state.read();
        // Entry n stands at index n - 1.
        let first = usize::try_from(after).unwrap_or(usize::MAX).min(state.changes.len());
        Ok(state.changes[first..].iter().take(limit).cloned().collect())
    }

    fn last_seq(&self) -> Result<u64, StoreError> {
        Ok(self.state.read().changes.len() as u64)
    }

    fn answer(&self, key: &[u8; 32]) -> Result<Option<StoredAnswer>, StoreError> {
        Ok(self.state.read().answers.get(key).cloned())
    }

    fn put_answer(&self, key: &[u8; 32], answer: &StoredAnswer) -> Result<(), StoreError> {
        self.state.write().answers.insert(*key, answer.clone());
        Ok(())
    }

    fn forget_answers(&self, before_s: i64) -> Result<u64, StoreError> {
        let mut state = self.state.write();
        let before = state.answers.len();
        state.answers.retain(|_, answer| answer.created_s >= before_s);
        Ok((before - state.answers.len()) as u64)
    }

    fn check(&self) -> Result<CheckReport, StoreError> {
        let state = self.state.read();
        let mut report = CheckReport {
            schema_version: vultus_migrations::SCHEMA_VERSION,
            galleries: state.galleries.len() as u64,
            changes: state.changes.len() as u64,
            sequence: state.changes.first().zip(state.changes.last()).map(|(first, last)| (first.seq, last.seq)),
            ..CheckReport::default()
        };
        for (id, gallery) in &state.galleries {
            let subjects = gallery.subjects.len() as u64;
            let faces = gallery.subjects.values().map(|subject| subject.faces.len() as u64).sum();
            report.subjects += subjects;
            report.faces += faces;
            let revision = gallery.counts.revision;
            if gallery.counts != (GalleryCounts { subjects, faces, revision }) {
                report.problems.push(format!("gallery {id}: the counts do not match the contents"));
            }
            if gallery.owners.len() as u64 != faces {
                report.problems.push(format!("gallery {id}: faces and their owners do not match"));
            }
        }
        if state.changes.iter().zip(1..).any(|(change, seq)| change.seq != seq) {
            report.problems.push("the change log has a gap".to_owned());
        }
        report.problems.truncate(100);
        Ok(report)
    }

    fn size_on_disk(&self) -> Result<u64, StoreError> {
        Ok(0)
    }
}

/// A write in progress.
struct Draft<'a> {
    state: &'a mut State,
    undo: Vec<Undo>,
}

/// How to take one change back.
enum Undo {
    /// Put back what stood under the id: a whole gallery, or nothing.
    Gallery(GalleryId, Option<GalleryState>),
    Settings(Gallery),
    Counts(GalleryId, GalleryCounts),
    /// Put back the record alone, or take the subject out.
    Record(GalleryId, SubjectId, Option<Subject>),
    /// Put back a removed subject with its faces.
    Subject(GalleryId, SubjectState),
    AddedFace(GalleryId, SubjectId, FaceId),
    RemovedFace(GalleryId, FaceState),
    Change,
}

impl Draft<'_> {
    fn at(&mut self, gallery: &GalleryId) -> Result<&mut GalleryState, StoreError> {
        self.state.galleries.get_mut(gallery).ok_or_else(|| StoreError::NoGallery(gallery.clone()))
    }

    fn take_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            self.take_back_one(undo);
        }
    }

    fn take_back_one(&mut self, undo: Undo) {
        let galleries = &mut self.state.galleries;
        match undo {
            Undo::Gallery(id, Some(old)) => {
                galleries.insert(id, old);
            }
            Undo::Gallery(id, None) => {
                galleries.remove(&id);
            }
            Undo::Settings(old) => {
                if let Some(state) = galleries.get_mut(&old.id) {
                    state.gallery = old;
                }
            }
            Undo::Counts(id, old) => {
                if let Some(state) = galleries.get_mut(&id) {
                    state.counts = old;
                }
            }
            Undo::Record(id, subject, old) => {
                if let Some(state) = galleries.get_mut(&id) {
                    match (old, state.subjects.get_mut(&subject)) {
                        (Some(old), Some(slot)) => slot.subject = old,
                        _ => drop(state.subjects.remove(&subject)),
                    }
                }
            }
            Undo::Subject(id, old) => {
                if let Some(state) = galleries.get_mut(&id) {
                    state.owners.extend(old.faces.keys().map(|face| (*face, old.subject.id.clone())));
                    state.subjects.insert(old.subject.id.clone(), old);
                }
            }
            Undo::AddedFace(id, subject, face) => {
                if let Some(state) = galleries.get_mut(&id) {
                    state.owners.remove(&face);
                    state.subjects.get_mut(&subject).map(|state| state.faces.remove(&face));
                }
            }
            Undo::RemovedFace(id, old) => {
                if let Some(state) = galleries.get_mut(&id) {
                    let (subject, face) = (old.face.face.subject.clone(), old.face.face.id);
                    state.subjects.get_mut(&subject).map(|state| state.faces.insert(face, old));
                    state.owners.insert(face, subject);
                }
            }
            Undo::Change => {
                self.state.changes.pop();
            }
        }
    }
}

impl Ledger for Draft<'_> {
    fn gallery(&mut self, gallery: &GalleryId) -> Result<Option<Gallery>, StoreError> {
        Ok(self.state.galleries.get(gallery).map(|state| state.gallery.clone()))
    }

    fn add_gallery(&mut self, gallery: Gallery) -> Result<(), StoreError> {
        let id = gallery.id.clone();
        let state = GalleryState {
            gallery,
            counts: GalleryCounts::default(),
            subjects: BTreeMap::new(),
            owners: BTreeMap::new(),
        };
        let old = self.state.galleries.insert(id.clone(), state);
        self.undo.push(Undo::Gallery(id, old));
        Ok(())
    }

    fn replace_gallery(&mut self, gallery: Gallery) -> Result<(), StoreError> {
        let id = gallery.id.clone();
        let old = std::mem::replace(&mut self.at(&id)?.gallery, gallery);
        self.undo.push(Undo::Settings(old));
        Ok(())
    }

    fn remove_gallery(&mut self, gallery: &GalleryId) -> Result<(), StoreError> {
        let old = self.state.galleries.remove(gallery);
        self.undo.push(Undo::Gallery(gallery.clone(), old));
        Ok(())
    }

    fn counts(&mut self, gallery: &GalleryId) -> Result<GalleryCounts, StoreError> {
        Ok(self.at(gallery)?.counts)
    }

    fn set_counts(&mut self, gallery: &GalleryId, counts: GalleryCounts) -> Result<(), StoreError> {
        let old = std::mem::replace(&mut self.at(gallery)?.counts, counts);
        self.undo.push(Undo::Counts(gallery.clone(), old));
        Ok(())
    }

    fn subject(&mut self, gallery: &GalleryId, subject: &SubjectId) -> Result<Option<Subject>, StoreError> {
        Ok(self.at(gallery)?.subjects.get(subject).map(|state| state.subject.clone()))
    }

    fn put_subject(&mut self, gallery: &GalleryId, subject: Subject) -> Result<(), StoreError> {
        let (id, subjects) = (subject.id.clone(), &mut self.at(gallery)?.subjects);
        let old = if let Some(state) = subjects.get_mut(&id) {
            Some(std::mem::replace(&mut state.subject, subject))
        } else {
            subjects.insert(id.clone(), SubjectState { subject, faces: BTreeMap::new() });
            None
        };
        self.undo.push(Undo::Record(gallery.clone(), id, old));
        Ok(())
    }

    fn remove_subject(&mut self, gallery: &GalleryId, subject: &SubjectId) -> Result<u64, StoreError> {
        let state = self.at(gallery)?;
        let Some(old) = state.subjects.remove(subject) else { return Ok(0) };
        for face in old.faces.keys() {
            state.owners.remove(face);
        }
        let faces = old.faces.len() as u64;
        self.undo.push(Undo::Subject(gallery.clone(), old));
        Ok(faces)
    }

    fn face_owner(&mut self, gallery: &GalleryId, face: FaceId) -> Result<Option<SubjectId>, StoreError> {
        Ok(self.at(gallery)?.owners.get(&face).cloned())
    }

    fn add_face(&mut self, gallery: &GalleryId, face: &StoredFace, crop: Option<&[u8]>) -> Result<(), StoreError> {
        let (subject, id) = (face.face.subject.clone(), face.face.id);
        let stored = FaceState { face: Arc::new(face.clone()), crop: crop.map(Arc::from) };
        let state = self.at(gallery)?;
        state.subjects.get_mut(&subject).map(|state| state.faces.insert(id, stored));
        state.owners.insert(id, subject.clone());
        self.undo.push(Undo::AddedFace(gallery.clone(), subject, id));
        Ok(())
    }

    fn remove_face(&mut self, gallery: &GalleryId, subject: &SubjectId, face: FaceId) -> Result<(), StoreError> {
        let state = self.at(gallery)?;
        state.owners.remove(&face);
        let old = state.subjects.get_mut(subject).and_then(|state| state.faces.remove(&face));
        if let Some(old) = old {
            self.undo.push(Undo::RemovedFace(gallery.clone(), old));
        }
        Ok(())
    }

    fn last_seq(&self) -> u64 {
        self.state.changes.len() as u64
    }

    fn log(&mut self, change: Change) -> Result<(), StoreError> {
        self.state.changes.push(change);
        self.undo.push(Undo::Change);
        Ok(())
    }
}
