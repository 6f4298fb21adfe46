//! The store in memory: the twin of [`SledStore`](super::sled::SledStore) for tests. Nothing survives the process.
//!
//! One lock guards everything. A write changes the state in place and notes how to take each change back; when an
//! operation is refused, the notes are played backwards.

mod draft;

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use parking_lot::RwLock;

use self::draft::Draft;
use super::rules::carry_out;
use super::{
    Change, CheckReport, Collection, Committed, Document, DocumentKey, Gallery, GalleryCounts, Migration, Operation,
    StandbyFace, Store, StoreError, StoredAnswer, StoredFace, Subject,
};
use crate::ids::{FaceId, GalleryId, MigrationId, SubjectId};

/// Keeps everything in maps. See the module's notes.
#[derive(Default)]
pub struct MemoryStore {
    state: RwLock<State>,
    /// See [`MemoryStore::fail_writes`].
    failing: AtomicBool,
}

#[derive(Default)]
struct State {
    galleries: BTreeMap<GalleryId, GalleryState>,
    changes: Vec<Change>,
    answers: BTreeMap<[u8; 32], StoredAnswer>,
    documents: Documents,
}

type Documents = BTreeMap<(Collection, Vec<u8>), Vec<u8>>;

struct GalleryState {
    gallery: Gallery,
    counts: GalleryCounts,
    subjects: BTreeMap<SubjectId, SubjectState>,
    owners: BTreeMap<FaceId, SubjectId>,
    migrations: BTreeMap<MigrationId, Migration>,
    under_way: Option<MigrationId>,
    documents: Documents,
}

struct SubjectState {
    subject: Subject,
    faces: BTreeMap<FaceId, FaceState>,
}

#[derive(Clone)]
struct FaceState {
    face: Arc<StoredFace>,
    /// With the feature of the standby set.
    standby: Option<Arc<StoredFace>>,
    crop: Option<Arc<[u8]>>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on every write fails, as on a full disk, or none does any more.
    pub fn fail_writes(&self, failing: bool) {
        self.failing.store(failing, Ordering::Release);
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

    fn migrations(&self, gallery: &GalleryId) -> Result<Vec<Migration>, StoreError> {
        self.read(gallery, |state| state.migrations.values().cloned().collect())
    }

    fn standby_faces(&self, gallery: &GalleryId, subject: &SubjectId) -> Result<Vec<StoredFace>, StoreError> {
        self.read(gallery, |state| {
            let faces = state.subjects.get(subject).map(|state| state.faces.values());
            faces.into_iter().flatten().filter_map(|face| face.standby.as_deref().cloned()).collect()
        })
    }

    fn scan_standby(
        &self,
        gallery: &GalleryId,
        visit: &mut dyn FnMut(StandbyFace) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let faces: Vec<StandbyFace> = self.read(gallery, |state| {
            let faces = state.subjects.values().flat_map(|state| state.faces.values());
            let all = faces.filter(|_| state.under_way.is_some()).map(|face| StandbyFace {
                subject: face.face.face.subject.clone(),
                face: face.face.face.id,
                stored: face.standby.as_deref().cloned(),
            });
            all.collect()
        })?;
        for face in faces {
            if visit(face).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn document(&self, key: &DocumentKey) -> Result<Option<Vec<u8>>, StoreError> {
        let state = self.state.read();
        let id = (key.collection, key.id.clone());
        Ok(match &key.gallery {
            Some(gallery) => state.galleries.get(gallery).and_then(|state| state.documents.get(&id)),
            None => state.documents.get(&id),
        }
        .cloned())
    }

    fn documents(
        &self,
        gallery: Option<&GalleryId>,
        collection: Collection,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Document>, StoreError> {
        let list = |documents: &Documents| {
            let from = after.map_or_else(
                || Bound::Included((collection, prefix.to_vec())),
                |after| Bound::Excluded((collection, after.to_vec())),
            );
            documents
                .range((from, Bound::Unbounded))
                .skip_while(|((_, id), _)| id.as_slice() < prefix)
                .take_while(|((of, id), _)| *of == collection && id.starts_with(prefix))
                .take(limit)
                .map(|((_, id), body)| (id.clone(), body.clone()))
                .collect()
        };
        match gallery {
            Some(gallery) => self.read(gallery, |state| list(&state.documents)),
            None => Ok(list(&self.state.read().documents)),
        }
    }

    fn commit(&self, at: Timestamp, operations: &[Operation]) -> Result<Committed, StoreError> {
        if self.failing.load(Ordering::Acquire) {
            return Err(StoreError::Io(std::io::ErrorKind::StorageFull.into()));
        }
        let mut state = self.state.write();
        let mut draft = Draft::new(&mut state);
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
            let standby = gallery.subjects.values().flat_map(|subject| subject.faces.values());
            let standby = standby.filter(|face| face.standby.is_some()).count() as u64;
            let counted = gallery.under_way.and_then(|id| gallery.migrations.get(&id));
            if counted.map_or(0, |migration| migration.standby_faces) != standby {
                report.problems.push(format!("gallery {id}: the standby set does not match its count"));
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
