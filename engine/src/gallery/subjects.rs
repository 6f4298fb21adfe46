//! Subjects of a gallery and their faces, as their owners see to them.

use jiff::Timestamp;

use super::care::is_matchable;
use super::database::{Database, now};
use super::{GalleryError, pairs};
use crate::ids::{FaceId, GalleryId, SubjectId};
use crate::store::{Consent, Operation, StoreError, StoredFace, Subject};

/// Subjects removed at a time because they have expired.
const EXPIRED_AT_ONCE: usize = 100;

/// What a caller may set of a subject.
#[derive(Clone, Default, PartialEq)]
pub struct SubjectSettings {
    /// See [`Subject::labels`].
    pub labels: Vec<String>,
    /// See [`Subject::metadata`].
    pub metadata: String,
    /// See [`Subject::expires_at`].
    pub expires_at: Option<Timestamp>,
    /// See [`Subject::consent`].
    pub consent: Consent,
}

impl SubjectSettings {
    /// The metadata of a subject that has none: an empty JSON object.
    pub fn empty_metadata() -> String {
        "{}".to_owned()
    }
}

pub(super) fn new_subject(id: SubjectId, settings: SubjectSettings) -> Subject {
    let at = now();
    let SubjectSettings { labels, metadata, expires_at, consent } = settings;
    Subject { id, labels, metadata, expires_at, consent, created_at: at, updated_at: at, revision: 0 }
}

impl Database {
    /// Commits a change and brings the rows after it, while nobody takes a state in which they do not agree.
    fn changing<T>(
        &self,
        gallery: &GalleryId,
        change: impl FnOnce() -> Result<T, GalleryError>,
    ) -> Result<T, GalleryError> {
        // Opened for it, lest somebody else open it in between, with the rows of before.
        let open = self.gallery_in_use(gallery).ok();
        let _member = open.as_ref().map(|open| open.members.read());
        change()
    }

    /// Adds a subject without faces.
    pub fn create_subject(
        &self,
        gallery: &GalleryId,
        id: SubjectId,
        settings: SubjectSettings,
    ) -> Result<Subject, GalleryError> {
        let subject = new_subject(id, settings);
        let operation = Operation::CreateSubject { gallery: gallery.clone(), subject: subject.clone() };
        let committed = self.changing(gallery, || {
            let committed = self.store.commit(subject.created_at, &[operation])?;
            self.if_in_use(gallery, |open| open.refresh_subject(self.store(), &subject.id))?;
            Ok(committed)
        })?;
        Ok(Subject { revision: committed.last_seq, ..subject })
    }

    /// Replaces a subject's record.
    pub fn update_subject(
        &self,
        gallery: &GalleryId,
        id: &SubjectId,
        settings: SubjectSettings,
        expected: Option<u64>,
    ) -> Result<Subject, GalleryError> {
        let there = self.subject(gallery, id)?;
        let subject = Subject { created_at: there.created_at, ..new_subject(id.clone(), settings) };
        let operation = Operation::UpdateSubject { gallery: gallery.clone(), subject: subject.clone(), expected };
        let committed = self.changing(gallery, || {
            let committed = self.store.commit(subject.updated_at, &[operation])?;
            self.if_in_use(gallery, |open| open.refresh_subject(self.store(), id))?;
            Ok(committed)
        })?;
        Ok(Subject { revision: committed.last_seq, ..subject })
    }

    /// One subject.
    pub fn subject(&self, gallery: &GalleryId, id: &SubjectId) -> Result<Subject, GalleryError> {
        let subject = self.store.subject(gallery, id)?;
        Ok(subject.ok_or_else(|| StoreError::NoSubject(gallery.clone(), id.clone()))?)
    }

    /// One subject, which may be matched now. [`GalleryError::NotMatchable`] for one that may not.
    pub(super) fn matchable_subject(&self, gallery: &GalleryId, id: &SubjectId) -> Result<Subject, GalleryError> {
        let subject = self.subject(gallery, id)?;
        if is_matchable(&subject, now()) { Ok(subject) } else { Err(GalleryError::NotMatchable(id.clone())) }
    }

    /// Removes a subject with its faces and what it is kept apart from.
    pub fn delete_subject(
        &self,
        gallery: &GalleryId,
        id: &SubjectId,
        expected: Option<u64>,
    ) -> Result<(), GalleryError> {
        let mut operations = vec![Operation::DeleteSubject { gallery: gallery.clone(), subject: id.clone(), expected }];
        if self.store.gallery(gallery)?.is_some() {
            for other in self.kept_apart_from(gallery, id)? {
                operations.extend(pairs::remove(gallery, id, &other));
            }
        }
        self.changing(gallery, || {
            self.store.commit(now(), &operations)?;
            self.if_in_use(gallery, |open| open.forget(self.store(), id))
        })
    }

    /// A subject's faces in order of enrolment.
    pub fn faces(&self, gallery: &GalleryId, subject: &SubjectId) -> Result<Vec<StoredFace>, GalleryError> {
        self.subject(gallery, subject)?;
        Ok(self.store.faces(gallery, subject)?)
    }

    /// One face of a subject.
    pub fn face(&self, gallery: &GalleryId, subject: &SubjectId, id: FaceId) -> Result<StoredFace, GalleryError> {
        self.subject(gallery, subject)?;
        let face = self.store.face(gallery, id)?.filter(|stored| stored.face.subject == *subject);
        Ok(face.ok_or_else(|| StoreError::NoFace(gallery.clone(), id))?)
    }

    /// Removes one face of a subject.
    pub fn delete_face(&self, gallery: &GalleryId, subject: &SubjectId, id: FaceId) -> Result<(), GalleryError> {
        let operation = Operation::DeleteFace { gallery: gallery.clone(), subject: subject.clone(), face: id };
        self.changing(gallery, || {
            self.store.commit(now(), &[operation])?;
            self.if_in_use(gallery, |open| open.refresh(self.store(), &[subject], &[id]))
        })
    }

    /// Removes subjects of a gallery in use that have expired, some at a time.
    pub(super) fn remove_expired(&self, gallery: &GalleryId) -> Result<(), GalleryError> {
        let Some(open) = self.open_gallery(gallery) else { return Ok(()) };
        let at = now();
        for id in open.care.due(at, EXPIRED_AT_ONCE) {
            let Some(subject) = self.store.subject(gallery, &id)? else {
                open.refresh_subject(self.store(), &id)?;
                continue;
            };
            if subject.expires_at.is_none_or(|expires| expires > at) {
                open.refresh_subject(self.store(), &id)?;
                continue;
            }
            // A record that changes at this moment may have a later expiry, so its removal waits for the next round.
            match self.delete_subject(gallery, &id, Some(subject.revision)) {
                Ok(()) => tracing::info!(%gallery, "an expired subject was removed"),
                Err(GalleryError::Store(StoreError::RevisionMismatch { .. } | StoreError::NoSubject(..))) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
