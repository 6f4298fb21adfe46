//! Subjects of a gallery that are probably one person.
//!
//! Each subject's template (in a gallery of events each of its faces) is searched with the subject left out. A pair is
//! told once, with its best score. Left out are pairs that somebody knows to be two people (see
//! [`Database::keep_apart`]), and subjects with faces of one picture, who are two people for certain.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::GalleryError;
use super::calibrate::Rates;
use super::database::{Database, now};
use super::decision::{Decider, ServerScores, Threshold, ThresholdSource};
use super::guard::duplicate_rule;
use super::open::template;
use super::walk::Best;
use crate::ids::{GalleryId, ModelId, SubjectId};
use crate::store::{GalleryKind, Guard, PictureId, StoredFace, ThresholdSetting, Thresholds};

/// Most other subjects that one search may find.
const DEPTH: usize = 100;

/// What is taken for a duplicate.
#[derive(Debug, Clone, Copy)]
pub struct DuplicateOptions {
    /// From here on two subjects are a pair. `None`: where enrolment would take a face for a duplicate.
    pub threshold: Option<ThresholdSetting>,
    /// Most pairs told.
    pub limit: usize,
}

/// Two subjects that are probably one person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DuplicatePair {
    /// The one whose id comes first.
    pub subject: SubjectId,
    /// The other.
    pub other: SubjectId,
    /// Cosine of their templates, or of their most alike faces in a gallery of events.
    pub score: f32,
    /// The rate at which non-mated searches reach the score; `None` where the gallery is not calibrated.
    pub fpir: Option<f64>,
    /// Faces of `subject`.
    pub faces: u64,
    /// Faces of `other`.
    pub other_faces: u64,
}

/// What a search for duplicates found.
#[derive(Debug, Clone, Serialize)]
pub struct Duplicates {
    /// When it was begun.
    pub at: Timestamp,
    /// The gallery's revision then.
    pub revision: u64,
    /// The model of the scores.
    pub model_id: ModelId,
    /// From where on two subjects were a pair.
    pub threshold: Threshold,
    /// Subjects searched.
    pub searched: u64,
    /// Best first.
    pub pairs: Vec<DuplicatePair>,
    /// Whether there are more.
    pub truncated: bool,
}

impl Database {
    /// Finds subjects of a gallery that are probably one person. `progress` hears how many were searched, of how many,
    /// and can stop it ([`GalleryError::Stopping`]).
    ///
    /// # Errors
    /// [`GalleryError::CalibrationMissing`] for a rate where the gallery is not calibrated.
    pub fn duplicates(
        &self,
        gallery: &GalleryId,
        options: &DuplicateOptions,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Duplicates, GalleryError> {
        let open = self.gallery_in_use(gallery)?;
        open.expire();
        let (at, revision) = (now(), self.store.counts(gallery)?.revision);
        let state = open.state();
        let side = &state.in_use;
        let rates = Rates::of(&state, side);
        let asked = Thresholds { matching: options.threshold, review: None };
        let usual = match state.settings.guards.duplicate_subject {
            Guard::Score(score) => score,
            Guard::Auto | Guard::Off => duplicate_rule(&state, side).unwrap_or(side.model.threshold),
        };
        let usual = ServerScores { matching: usual, review: None };
        let threshold = Decider::resolve(&[(ThresholdSource::Request, asked)], usual, &rates)?.matching;
        let total = side.index.subjects() as u64;
        let mut searched = 0;
        let mut found = Best::new(options.limit, |a: &DuplicatePair, b| {
            b.score.total_cmp(&a.score).then_with(|| (&a.subject, &a.other).cmp(&(&b.subject, &b.other)))
        });
        self.walk(&open, &side.model.id, |subject, faces| {
            searched += 1;
            if progress(searched, total.max(searched)).is_break() {
                return Err(GalleryError::Stopping);
            }
            let apart = self.kept_apart_from(gallery, subject)?;
            // Scores are the same from both sides, so those that come before have met this subject already.
            let accept = |other: &SubjectId| other > subject && !apart.contains(other);
            let mut best: HashMap<SubjectId, f32> = HashMap::new();
            let probes = match state.settings.kind {
                GalleryKind::Events => faces.iter().map(|face| face.embedding.clone()).collect(),
                // Faces that contradict each other completely have no template.
                GalleryKind::Consolidated => template(faces, state.fusion(&side.model), &side.model)
                    .map(|template| vec![template.vector])
                    .unwrap_or_default(),
            };
            for probe in probes {
                let hits = side.index.search_where(&probe, DEPTH, &accept)?.hits;
                let enough = hits.iter().take_while(|hit| hit.score >= threshold.score).count();
                if enough == DEPTH {
                    found.note_left_out();
                }
                for hit in hits.into_iter().take(enough) {
                    let score = best.entry(hit.subject).or_insert(hit.score);
                    *score = score.max(hit.score);
                }
            }
            let pictures = pictures(faces);
            for (other, score) in best {
                let others = self.store.faces(gallery, &other)?;
                if others.iter().any(|face| face.face.picture.is_some_and(|picture| pictures.contains(&picture))) {
                    continue;
                }
                let (faces, other_faces) = (faces.len() as u64, others.len() as u64);
                let fpir = rates.fpir_at(score).map(|estimate| estimate.fpir);
                found.offer(DuplicatePair { subject: subject.clone(), other, score, fpir, faces, other_faces });
            }
            Ok(())
        })?;
        let (pairs, truncated) = found.finish();
        let model_id = side.model.id.clone();
        Ok(Duplicates { at, revision, model_id, threshold, searched, pairs, truncated })
    }
}

/// The pictures that faces were found in.
fn pictures(faces: &[StoredFace]) -> HashSet<PictureId> {
    faces.iter().filter_map(|stored| stored.face.picture).collect()
}
