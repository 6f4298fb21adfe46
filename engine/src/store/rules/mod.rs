//! What each operation of a write means, once for all implementations.
//!
//! An implementation offers its state as a [`Ledger`], in which every call sees the effects of those before it, and
//! makes all of them take effect together, or none when [`carry_out`] fails.

mod migration;

use jiff::Timestamp;

use super::{
    Change, ChangeKind, Committed, DocumentKey, Gallery, GalleryCounts, Migration, Operation, StandbyFeature,
    StoreError, StoredFace, Subject,
};
use crate::ids::{FaceId, GalleryId, MigrationId, SubjectId};

/// The state as one write sees and changes it.
///
/// Apart from [`Ledger::gallery`], methods are called only for galleries that are there.
pub(super) trait Ledger {
    fn gallery(&mut self, gallery: &GalleryId) -> Result<Option<Gallery>, StoreError>;
    /// Adds a gallery, with nothing in it and no counts.
    fn add_gallery(&mut self, gallery: Gallery) -> Result<(), StoreError>;
    fn replace_gallery(&mut self, gallery: Gallery) -> Result<(), StoreError>;
    /// Removes a gallery, its counts and all in it.
    fn remove_gallery(&mut self, gallery: &GalleryId) -> Result<(), StoreError>;

    fn counts(&mut self, gallery: &GalleryId) -> Result<GalleryCounts, StoreError>;
    fn set_counts(&mut self, gallery: &GalleryId, counts: GalleryCounts) -> Result<(), StoreError>;

    fn subject(&mut self, gallery: &GalleryId, subject: &SubjectId) -> Result<Option<Subject>, StoreError>;
    /// Adds or replaces a subject's record; its faces stay.
    fn put_subject(&mut self, gallery: &GalleryId, subject: Subject) -> Result<(), StoreError>;
    /// Removes a subject and its faces and says how many faces that were.
    fn remove_subject(&mut self, gallery: &GalleryId, subject: &SubjectId) -> Result<Removed, StoreError>;

    /// Whose face it is; `None` when the gallery has no such face.
    fn face_owner(&mut self, gallery: &GalleryId, face: FaceId) -> Result<Option<SubjectId>, StoreError>;
    fn add_face(&mut self, gallery: &GalleryId, face: &StoredFace, crop: Option<&[u8]>) -> Result<(), StoreError>;
    fn remove_face(&mut self, gallery: &GalleryId, subject: &SubjectId, face: FaceId) -> Result<Removed, StoreError>;
    /// Gives a face that is there to another subject that is there.
    fn move_face(
        &mut self,
        gallery: &GalleryId,
        from: &SubjectId,
        to: &SubjectId,
        face: FaceId,
    ) -> Result<(), StoreError>;

    /// Adds, replaces or removes a document.
    fn set_document(&mut self, key: &DocumentKey, body: Option<&[u8]>) -> Result<(), StoreError>;

    /// One migration, ended or not.
    fn migration(&mut self, gallery: &GalleryId, id: MigrationId) -> Result<Option<Migration>, StoreError>;
    /// Adds or replaces a migration's record.
    fn put_migration(&mut self, gallery: &GalleryId, migration: Migration) -> Result<(), StoreError>;
    /// The migration whose features the standby set holds.
    fn under_way(&mut self, gallery: &GalleryId) -> Result<Option<MigrationId>, StoreError>;
    /// Adds an empty standby set. Called only when there is none.
    fn open_standby(&mut self, gallery: &GalleryId, migration: MigrationId) -> Result<(), StoreError>;
    /// Puts a feature of a face that is there into the standby set and says whether the face lacked one.
    fn put_standby(&mut self, gallery: &GalleryId, feature: &StandbyFeature) -> Result<bool, StoreError>;
    /// Exchanges the set in use and the standby set, which has a feature of every face.
    fn switch_sets(&mut self, gallery: &GalleryId) -> Result<(), StoreError>;
    /// Drops the standby set.
    fn drop_standby(&mut self, gallery: &GalleryId) -> Result<(), StoreError>;

    /// Sequence number of the last change, those of this write included.
    fn last_seq(&self) -> u64;
    /// Appends to the change log; `change.seq` is `last_seq() + 1`.
    fn log(&mut self, change: Change) -> Result<(), StoreError>;
}

/// What went with a face or a subject.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Removed {
    /// Faces.
    pub(super) faces: u64,
    /// Features in the standby set.
    pub(super) standby: u64,
}

/// Carries out the operations of one write in order.
///
/// # Errors
/// The first operation that is refused ends the write; what the ledger took until then must not take effect.
pub(super) fn carry_out(
    ledger: &mut impl Ledger,
    at: Timestamp,
    operations: &[Operation],
) -> Result<Committed, StoreError> {
    let before = ledger.last_seq();
    for operation in operations {
        if let Some((gallery, kind)) = step(ledger, at, operation)? {
            let seq = ledger.last_seq() + 1;
            if kind != ChangeKind::GalleryDeleted {
                let counts = ledger.counts(&gallery)?;
                ledger.set_counts(&gallery, GalleryCounts { revision: seq, ..counts })?;
            }
            ledger.log(Change { seq, at, gallery, kind })?;
        }
    }
    let last_seq = ledger.last_seq();
    Ok(Committed { last_seq, changes: last_seq - before })
}

/// Carries out one operation and says what to log; `None` when it did nothing.
fn step(
    ledger: &mut impl Ledger,
    at: Timestamp,
    operation: &Operation,
) -> Result<Option<(GalleryId, ChangeKind)>, StoreError> {
    let seq = ledger.last_seq() + 1;
    let (gallery, kind) = match operation {
        Operation::CreateGallery(new) => {
            if ledger.gallery(&new.id)?.is_some() {
                return Err(StoreError::GalleryExists(new.id.clone()));
            }
            ledger.add_gallery(Gallery { revision: seq, ..new.clone() })?;
            ledger.set_counts(&new.id, GalleryCounts::default())?;
            (&new.id, ChangeKind::GalleryCreated)
        }
        Operation::UpdateGallery { gallery: new, expected } => {
            let old = existing(ledger, &new.id)?;
            same_revision(*expected, old.revision)?;
            ledger.replace_gallery(Gallery {
                kind: old.kind,
                model_id: old.model_id,
                dim: old.dim,
                created_at: old.created_at,
                revision: seq,
                ..new.clone()
            })?;
            (&new.id, ChangeKind::GalleryUpdated)
        }
        Operation::DeleteGallery { gallery, expected } => {
            same_revision(*expected, existing(ledger, gallery)?.revision)?;
            ledger.remove_gallery(gallery)?;
            (gallery, ChangeKind::GalleryDeleted)
        }
        Operation::CreateSubject { gallery, subject } => {
            if !ensure_subject(ledger, gallery, subject)? {
                return Err(StoreError::SubjectExists(gallery.clone(), subject.id.clone()));
            }
            (gallery, ChangeKind::SubjectCreated(subject.id.clone()))
        }
        Operation::EnsureSubject { gallery, subject } => {
            if !ensure_subject(ledger, gallery, subject)? {
                return Ok(None);
            }
            (gallery, ChangeKind::SubjectCreated(subject.id.clone()))
        }
        Operation::UpdateSubject { gallery, subject, expected } => {
            let old = existing_subject(ledger, gallery, &subject.id)?;
            same_revision(*expected, old.revision)?;
            ledger.put_subject(gallery, Subject { created_at: old.created_at, revision: seq, ..subject.clone() })?;
            (gallery, ChangeKind::SubjectUpdated(subject.id.clone()))
        }
        Operation::DeleteSubject { gallery, subject, expected } => {
            same_revision(*expected, existing_subject(ledger, gallery, subject)?.revision)?;
            let removed = ledger.remove_subject(gallery, subject)?;
            migration::forget(ledger, gallery, removed)?;
            recount(ledger, gallery, |counts| {
                counts.subjects = counts.subjects.checked_sub(1)?;
                counts.faces = counts.faces.checked_sub(removed.faces)?;
                Some(())
            })?;
            (gallery, ChangeKind::SubjectDeleted(subject.clone()))
        }
        Operation::AddFace { gallery, face, crop } => {
            let (subject, id) = (&face.face.subject, face.face.id);
            let expected = existing(ledger, gallery)?.dim;
            if ledger.subject(gallery, subject)?.is_none() {
                return Err(StoreError::NoSubject(gallery.clone(), subject.clone()));
            }
            if usize::try_from(expected).ok() != Some(face.embedding.len()) {
                return Err(StoreError::WrongDimension { expected, actual: face.embedding.len() });
            }
            if ledger.face_owner(gallery, id)?.is_some() {
                return Err(StoreError::FaceExists(gallery.clone(), id));
            }
            ledger.add_face(gallery, face, crop.as_deref())?;
            recount(ledger, gallery, |counts| {
                counts.faces += 1;
                Some(())
            })?;
            (gallery, ChangeKind::FaceAdded(subject.clone(), id))
        }
        Operation::DeleteFace { gallery, subject, face } => {
            existing_subject(ledger, gallery, subject)?;
            if ledger.face_owner(gallery, *face)?.as_ref() != Some(subject) {
                return Err(StoreError::NoFace(gallery.clone(), *face));
            }
            let removed = ledger.remove_face(gallery, subject, *face)?;
            migration::forget(ledger, gallery, removed)?;
            recount(ledger, gallery, |counts| {
                counts.faces = counts.faces.checked_sub(removed.faces)?;
                Some(())
            })?;
            (gallery, ChangeKind::FaceDeleted(subject.clone(), *face))
        }
        Operation::MoveFace { gallery, from, to, face } => {
            existing_subject(ledger, gallery, from)?;
            existing_subject(ledger, gallery, to)?;
            if ledger.face_owner(gallery, *face)?.as_ref() != Some(from) {
                return Err(StoreError::NoFace(gallery.clone(), *face));
            }
            if from == to {
                return Ok(None);
            }
            ledger.move_face(gallery, from, to, *face)?;
            (gallery, ChangeKind::FaceMoved(to.clone(), *face, from.clone()))
        }
        Operation::RestoreSubject { gallery, subject } => {
            if !add_subject(ledger, gallery, subject.clone())? {
                return Err(StoreError::SubjectExists(gallery.clone(), subject.id.clone()));
            }
            (gallery, ChangeKind::SubjectCreated(subject.id.clone()))
        }
        Operation::PutDocument { key, body } => {
            set_document(ledger, key, Some(body))?;
            return Ok(None);
        }
        Operation::RemoveDocument { key } => {
            set_document(ledger, key, None)?;
            return Ok(None);
        }
        Operation::StartMigration { gallery, migration } => {
            migration::start(ledger, at, gallery, migration)?;
            return Ok(None);
        }
        Operation::PutStandby { gallery, migration, model, features } => {
            migration::put(ledger, gallery, *migration, model, features)?;
            return Ok(None);
        }
        Operation::NoteMigration { gallery, migration, ready, failure, report } => {
            migration::note(ledger, at, gallery, *migration, *ready, failure.clone(), report.clone())?;
            return Ok(None);
        }
        Operation::SwitchModel { gallery, migration, to_new } => {
            migration::switch(ledger, at, gallery, *migration, *to_new)?;
            (gallery, ChangeKind::GalleryUpdated)
        }
        Operation::EndMigration { gallery, migration } => {
            migration::end(ledger, at, gallery, *migration)?;
            return Ok(None);
        }
    };
    Ok(Some((gallery.clone(), kind)))
}

fn existing(ledger: &mut impl Ledger, gallery: &GalleryId) -> Result<Gallery, StoreError> {
    ledger.gallery(gallery)?.ok_or_else(|| StoreError::NoGallery(gallery.clone()))
}

fn existing_subject(ledger: &mut impl Ledger, gallery: &GalleryId, subject: &SubjectId) -> Result<Subject, StoreError> {
    existing(ledger, gallery)?;
    ledger.subject(gallery, subject)?.ok_or_else(|| StoreError::NoSubject(gallery.clone(), subject.clone()))
}

/// Adds a subject unless it is there and says whether it did.
fn ensure_subject(ledger: &mut impl Ledger, gallery: &GalleryId, subject: &Subject) -> Result<bool, StoreError> {
    let revision = ledger.last_seq() + 1;
    add_subject(ledger, gallery, Subject { revision, ..subject.clone() })
}

/// As [`ensure_subject`], with the revision that the record states.
fn add_subject(ledger: &mut impl Ledger, gallery: &GalleryId, subject: Subject) -> Result<bool, StoreError> {
    existing(ledger, gallery)?;
    if ledger.subject(gallery, &subject.id)?.is_some() {
        return Ok(false);
    }
    ledger.put_subject(gallery, subject)?;
    recount(ledger, gallery, |counts| {
        counts.subjects += 1;
        Some(())
    })?;
    Ok(true)
}

fn set_document(ledger: &mut impl Ledger, key: &DocumentKey, body: Option<&[u8]>) -> Result<(), StoreError> {
    if let Some(gallery) = &key.gallery {
        existing(ledger, gallery)?;
    }
    ledger.set_document(key, body)
}

fn same_revision(expected: Option<u64>, actual: u64) -> Result<(), StoreError> {
    match expected {
        Some(expected) if expected != actual => Err(StoreError::RevisionMismatch { expected, actual }),
        _ => Ok(()),
    }
}

/// Changes a gallery's counts. A count below zero means that they did not match the contents.
fn recount(
    ledger: &mut impl Ledger,
    gallery: &GalleryId,
    change: impl FnOnce(&mut GalleryCounts) -> Option<()>,
) -> Result<(), StoreError> {
    let mut counts = ledger.counts(gallery)?;
    change(&mut counts).ok_or_else(|| StoreError::Damaged(format!("the counts of gallery {gallery} are too low")))?;
    ledger.set_counts(gallery, counts)
}
