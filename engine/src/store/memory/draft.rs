//! A write in progress, and how to take it back.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{FaceState, GalleryState, State, SubjectState};
use crate::ids::{FaceId, GalleryId, MigrationId, SubjectId};
use crate::store::rules::{Ledger, Removed};
use crate::store::{
    Change, DocumentKey, Gallery, GalleryCounts, Migration, StandbyFeature, StoreError, StoredFace, Subject,
};

/// A write in progress.
pub(super) struct Draft<'a> {
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
    Migration(GalleryId, MigrationId, Option<Migration>),
    UnderWay(GalleryId, Option<MigrationId>),
    /// Put back a face's feature of the standby set.
    Standby(GalleryId, SubjectId, FaceId, Option<Arc<StoredFace>>),
    /// Give a face back to the first subject.
    Moved(GalleryId, SubjectId, SubjectId, FaceId),
    Document(DocumentKey, Option<Vec<u8>>),
    /// Exchange the sets again.
    Switched(GalleryId),
    Change,
}

impl<'a> Draft<'a> {
    pub(super) fn new(state: &'a mut State) -> Self {
        Self { state, undo: Vec::new() }
    }
}

impl Draft<'_> {
    fn at(&mut self, gallery: &GalleryId) -> Result<&mut GalleryState, StoreError> {
        self.state.galleries.get_mut(gallery).ok_or_else(|| StoreError::NoGallery(gallery.clone()))
    }

    /// Puts or removes a document and gives the one that was there.
    fn replace_document(&mut self, key: &DocumentKey, body: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let documents = match &key.gallery {
            Some(gallery) => &mut self.state.galleries.get_mut(gallery)?.documents,
            None => &mut self.state.documents,
        };
        let id = (key.collection, key.id.clone());
        match body {
            Some(body) => documents.insert(id, body),
            None => documents.remove(&id),
        }
    }

    pub(super) fn take_back(&mut self) {
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
            Undo::Migration(id, migration, old) => {
                if let Some(state) = galleries.get_mut(&id) {
                    match old {
                        Some(old) => drop(state.migrations.insert(migration, old)),
                        None => drop(state.migrations.remove(&migration)),
                    }
                }
            }
            Undo::UnderWay(id, old) => {
                if let Some(state) = galleries.get_mut(&id) {
                    state.under_way = old;
                }
            }
            Undo::Standby(id, subject, face, old) => {
                let face = galleries.get_mut(&id).and_then(|state| state.face_mut(&subject, face));
                if let Some(face) = face {
                    face.standby = old;
                }
            }
            Undo::Moved(id, from, to, face) => {
                if let Some(state) = galleries.get_mut(&id) {
                    state.move_face(&to, &from, face);
                }
            }
            Undo::Document(key, old) => {
                self.replace_document(&key, old);
            }
            Undo::Switched(id) => {
                if let Some(state) = galleries.get_mut(&id) {
                    state.switch();
                }
            }
            Undo::Change => {
                self.state.changes.pop();
            }
        }
    }
}

impl GalleryState {
    fn face_mut(&mut self, subject: &SubjectId, face: FaceId) -> Option<&mut FaceState> {
        self.subjects.get_mut(subject)?.faces.get_mut(&face)
    }

    fn move_face(&mut self, from: &SubjectId, to: &SubjectId, face: FaceId) {
        let moved = self.subjects.get_mut(from).and_then(|state| state.faces.remove(&face));
        let Some(mut moved) = moved else { return };
        for stored in std::iter::once(&mut moved.face).chain(&mut moved.standby) {
            Arc::make_mut(stored).face.subject = to.clone();
        }
        self.subjects.get_mut(to).map(|state| state.faces.insert(face, moved));
        self.owners.insert(face, to.clone());
    }

    /// Exchanges the two features of every face that has both.
    fn switch(&mut self) {
        for face in self.subjects.values_mut().flat_map(|state| state.faces.values_mut()) {
            if let Some(standby) = &mut face.standby {
                std::mem::swap(&mut face.face, standby);
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
            migrations: BTreeMap::new(),
            under_way: None,
            documents: BTreeMap::new(),
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

    fn remove_subject(&mut self, gallery: &GalleryId, subject: &SubjectId) -> Result<Removed, StoreError> {
        let state = self.at(gallery)?;
        let Some(old) = state.subjects.remove(subject) else { return Ok(Removed::default()) };
        for face in old.faces.keys() {
            state.owners.remove(face);
        }
        let standby = old.faces.values().filter(|face| face.standby.is_some()).count() as u64;
        let removed = Removed { faces: old.faces.len() as u64, standby };
        self.undo.push(Undo::Subject(gallery.clone(), old));
        Ok(removed)
    }

    fn face_owner(&mut self, gallery: &GalleryId, face: FaceId) -> Result<Option<SubjectId>, StoreError> {
        Ok(self.at(gallery)?.owners.get(&face).cloned())
    }

    fn add_face(&mut self, gallery: &GalleryId, face: &StoredFace, crop: Option<&[u8]>) -> Result<(), StoreError> {
        let (subject, id) = (face.face.subject.clone(), face.face.id);
        let stored = FaceState { face: Arc::new(face.clone()), standby: None, crop: crop.map(Arc::from) };
        let state = self.at(gallery)?;
        state.subjects.get_mut(&subject).map(|state| state.faces.insert(id, stored));
        state.owners.insert(id, subject.clone());
        self.undo.push(Undo::AddedFace(gallery.clone(), subject, id));
        Ok(())
    }

    fn remove_face(&mut self, gallery: &GalleryId, subject: &SubjectId, face: FaceId) -> Result<Removed, StoreError> {
        let state = self.at(gallery)?;
        state.owners.remove(&face);
        let old = state.subjects.get_mut(subject).and_then(|state| state.faces.remove(&face));
        let Some(old) = old else { return Ok(Removed::default()) };
        let removed = Removed { faces: 1, standby: u64::from(old.standby.is_some()) };
        self.undo.push(Undo::RemovedFace(gallery.clone(), old));
        Ok(removed)
    }

    fn move_face(
        &mut self,
        gallery: &GalleryId,
        from: &SubjectId,
        to: &SubjectId,
        face: FaceId,
    ) -> Result<(), StoreError> {
        self.at(gallery)?.move_face(from, to, face);
        self.undo.push(Undo::Moved(gallery.clone(), from.clone(), to.clone(), face));
        Ok(())
    }

    fn set_document(&mut self, key: &DocumentKey, body: Option<&[u8]>) -> Result<(), StoreError> {
        let old = self.replace_document(key, body.map(<[u8]>::to_vec));
        self.undo.push(Undo::Document(key.clone(), old));
        Ok(())
    }

    fn migration(&mut self, gallery: &GalleryId, id: MigrationId) -> Result<Option<Migration>, StoreError> {
        Ok(self.at(gallery)?.migrations.get(&id).cloned())
    }

    fn put_migration(&mut self, gallery: &GalleryId, migration: Migration) -> Result<(), StoreError> {
        let id = migration.id;
        let old = self.at(gallery)?.migrations.insert(id, migration);
        self.undo.push(Undo::Migration(gallery.clone(), id, old));
        Ok(())
    }

    fn under_way(&mut self, gallery: &GalleryId) -> Result<Option<MigrationId>, StoreError> {
        Ok(self.at(gallery)?.under_way)
    }

    fn open_standby(&mut self, gallery: &GalleryId, migration: MigrationId) -> Result<(), StoreError> {
        let old = self.at(gallery)?.under_way.replace(migration);
        self.undo.push(Undo::UnderWay(gallery.clone(), old));
        Ok(())
    }

    fn put_standby(&mut self, gallery: &GalleryId, feature: &StandbyFeature) -> Result<bool, StoreError> {
        let Some(face) = self.at(gallery)?.face_mut(&feature.subject, feature.face) else { return Ok(false) };
        let mut stored = StoredFace::clone(&face.face);
        stored.face.norm = feature.feature.norm;
        stored.face.quality = feature.quality;
        stored.embedding.clone_from(&feature.feature.embedding);
        stored.style.clone_from(&feature.feature.style);
        let old = face.standby.replace(Arc::new(stored));
        let lacked = old.is_none();
        self.undo.push(Undo::Standby(gallery.clone(), feature.subject.clone(), feature.face, old));
        Ok(lacked)
    }

    fn switch_sets(&mut self, gallery: &GalleryId) -> Result<(), StoreError> {
        self.at(gallery)?.switch();
        self.undo.push(Undo::Switched(gallery.clone()));
        Ok(())
    }

    fn drop_standby(&mut self, gallery: &GalleryId) -> Result<(), StoreError> {
        let state = self.at(gallery)?;
        let mut undo = vec![Undo::UnderWay(gallery.clone(), state.under_way.take())];
        for (subject, subject_state) in &mut state.subjects {
            for (&id, face) in &mut subject_state.faces {
                undo.push(Undo::Standby(gallery.clone(), subject.clone(), id, face.standby.take()));
            }
        }
        self.undo.append(&mut undo);
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
