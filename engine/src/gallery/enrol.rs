//! Enrolment: faces become part of a subject.

use jiff::Timestamp;

use super::database::{Database, now};
use super::{GalleryError, SubjectSettings};
use crate::face::{BoundingBox, Feature, Landmarks};
use crate::ids::{FaceId, GalleryId, MediaId, ModelId, SubjectId};
use crate::model::ServedModel;
use crate::quality::quality;
use crate::store::{Consent, Face, FaceSource, Operation, Override, PictureId, StoredFace, Subject};

/// A face ready to be enrolled.
pub struct NewFace {
    /// Embedding and norm.
    pub feature: Feature,
    /// The photo or video it came from.
    pub media: MediaId,
    /// How it came in.
    pub source: FaceSource,
    /// Where it was in the photo.
    pub bbox: Option<BoundingBox>,
    /// Its landmarks in the photo.
    pub landmarks: Option<Landmarks>,
    /// The detector's score.
    pub detection_score: Option<f32>,
    /// The picture it was found in.
    pub picture: Option<PictureId>,
    /// Checks that are overridden for it.
    pub overrides: Vec<Override>,
    /// The aligned crop as an encoded image, kept when the gallery keeps crops.
    pub crop: Option<Vec<u8>>,
}

/// What an enrolment did.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// The faces as stored, in the order they were given.
    pub faces: Vec<Face>,
    /// The gallery's revision once they were in.
    pub revision: u64,
}

impl Database {
    /// Adds faces to a subject, which is made when it is not there. Durable on return, and found by the next search.
    ///
    /// The faces' features are of `model`: [`GalleryError::ModelMismatch`] when the gallery is of another by now.
    /// [`GalleryError::NeedsImages`] for a ready embedding where the gallery fuses by `caface`.
    pub fn enrol(
        &self,
        gallery: &GalleryId,
        subject: &SubjectId,
        model: &ModelId,
        faces: Vec<NewFace>,
    ) -> Result<Enrolled, GalleryError> {
        self.add(gallery, &[subject], model, faces.into_iter().map(|face| (subject, face)).collect())
    }

    /// Adds each face to a subject of its own, all of them in one transaction and published together. See
    /// [`enrol`](Self::enrol).
    pub fn enrol_each(
        &self,
        gallery: &GalleryId,
        model: &ModelId,
        faces: Vec<(SubjectId, NewFace)>,
    ) -> Result<Enrolled, GalleryError> {
        let (subjects, faces): (Vec<SubjectId>, Vec<NewFace>) = faces.into_iter().unzip();
        let all: Vec<&SubjectId> = subjects.iter().collect();
        self.add(gallery, &all, model, all.iter().copied().zip(faces).collect())
    }

    /// Adds faces to subjects, each once in `subjects`.
    fn add(
        &self,
        gallery: &GalleryId,
        subjects: &[&SubjectId],
        model: &ModelId,
        faces: Vec<(&SubjectId, NewFace)>,
    ) -> Result<Enrolled, GalleryError> {
        let open = self.gallery_in_use(gallery)?;
        // While this is held the gallery stays with its model.
        let _member = open.members.read();
        let state = open.state();
        let served = &state.in_use.model;
        if served.id != *model {
            return Err(GalleryError::ModelMismatch {
                gallery: gallery.clone(),
                expected: served.id.clone(),
                actual: model.clone(),
            });
        }
        if state.settings.by_caface() && faces.iter().any(|(_, face)| face.source == FaceSource::Embedding) {
            return Err(GalleryError::NeedsImages(gallery.clone()));
        }
        let keep_crops = state.settings.keep_crops;
        let at = now();
        let mut operations = Vec::with_capacity(subjects.len() + faces.len());
        for &subject in subjects {
            let there = self.store.subject(gallery, subject)?;
            if there.is_some_and(|there| there.consent == Consent::Withdrawn) {
                return Err(GalleryError::ConsentMissing(subject.clone()));
            }
            let ensured = Subject {
                id: subject.clone(),
                labels: Vec::new(),
                metadata: SubjectSettings::empty_metadata(),
                expires_at: None,
                consent: Consent::NotRecorded,
                created_at: at,
                updated_at: at,
                revision: 0,
            };
            operations.push(Operation::EnsureSubject { gallery: gallery.clone(), subject: ensured });
        }
        let mut stored: Vec<Face> = Vec::with_capacity(faces.len());
        for (subject, new) in faces {
            let face = record(served, subject, &new, at);
            stored.push(face.clone());
            operations.push(Operation::AddFace {
                gallery: gallery.clone(),
                face: StoredFace { face, embedding: new.feature.embedding, style: new.feature.style },
                crop: new.crop.filter(|_| keep_crops),
            });
        }
        let committed = self.store.commit(at, &operations)?;
        let ids: Vec<FaceId> = stored.iter().map(|face| face.id).collect();
        match subjects {
            [subject] => open.refresh(self.store(), &[subject], &ids)?,
            _ => {
                let each = stored.iter().zip(&ids).map(|(face, id)| (&face.subject, std::slice::from_ref(id)));
                open.refresh_each(self.store(), &each.collect::<Vec<_>>())?;
            }
        }
        if state.standby.is_some() {
            self.mover.wake();
        }
        Ok(Enrolled { faces: stored, revision: committed.last_seq })
    }

    /// The records that [`enrol`](Self::enrol) would store, without storing them.
    pub fn preview(&self, subject: &SubjectId, model: &ServedModel, faces: &[NewFace]) -> Vec<Face> {
        let at = now();
        faces.iter().map(|face| record(model, subject, face, at)).collect()
    }
}

fn record(model: &ServedModel, subject: &SubjectId, new: &NewFace, at: Timestamp) -> Face {
    Face {
        id: FaceId::generate(),
        subject: subject.clone(),
        media: new.media.clone(),
        source: new.source,
        norm: new.feature.norm,
        quality: quality(new.feature.norm, model.norm_stats),
        bbox: new.bbox,
        landmarks: new.landmarks,
        detection_score: new.detection_score,
        picture: new.picture,
        overrides: new.overrides.clone(),
        created_at: at,
    }
}
