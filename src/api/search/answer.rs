//! What a search answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use vultus_engine::gallery::{Candidate, Decision, SearchResult};
use vultus_engine::ids::{GalleryId, ModelId};
use vultus_engine::index::IndexKind;

use crate::api::calibration::CalibrationNote;
use crate::api::decision::{DecisionName, ThresholdInForce, in_force};
use crate::api::wire::{FusionSpec, ProbeFace};
use crate::problem::Problem;
use crate::service::search::{Probe, Searched};
use crate::service::timing::TimingsMs;

/// How a gallery was searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = IndexKind)]
pub enum KindName {
    /// Every row was compared.
    Exact,
    /// Bits of all rows were looked at, and the rows that looked nearest scored exactly.
    Cascade,
    /// A graph was walked and its candidates scored exactly.
    Ann,
}

/// A gallery that was searched.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = SearchedGallery)]
pub struct GallerySearched {
    /// Its id.
    pub gallery: String,
    /// Sequence number of the last change of the gallery before the search.
    pub revision: u64,
    /// How it was searched.
    pub index: KindName,
    /// Of a cascade or a graph: the share of the exact top 10 it found on a sample of this gallery; null for exact search.
    #[schema(required = true)]
    pub recall: Option<f32>,
    /// The threshold in force.
    pub threshold: ThresholdInForce,
    /// The review threshold in force; null when nothing sets one.
    #[schema(required = true)]
    pub review_threshold: Option<ThresholdInForce>,
    /// The calibration behind its rates; null while there is none that applies.
    #[schema(required = true)]
    pub calibration: Option<CalibrationNote>,
}

/// An enrolled face of a candidate.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = CandidateFace)]
pub struct CandidateFaceView {
    /// Its id.
    pub id: Uuid,
    /// The photo or video it came from.
    pub media: String,
    /// Length of its raw feature.
    pub norm: f32,
    /// CDF of its standardised norm.
    pub quality: f32,
    /// Its share of the subject's template; the shares sum to 1. In a gallery of events the best face has all of it.
    pub weight: f32,
    /// Its own cosine with the probe.
    pub score: f32,
    /// What the subject would score without this face; null where it has no other, or the rule is `caface`.
    #[schema(required = true)]
    pub score_without: Option<f32>,
}

/// A subject of the candidate list.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Candidate)]
pub struct CandidateView {
    /// Where the subject is enrolled.
    pub gallery: String,
    /// Who.
    pub subject: String,
    /// Position in the list, from 1.
    pub rank: u32,
    /// Cosine of probe and reference, −1 to 1.
    pub score: f32,
    /// The false positive identification rate the score stands for; null while the gallery is not calibrated.
    #[schema(required = true)]
    pub fpir: Option<f64>,
    /// What is said of the candidate, at the gallery's thresholds in force.
    pub decision: DecisionName,
    /// In a gallery of events: the face that was found; null otherwise.
    #[schema(required = true)]
    pub face: Option<Uuid>,
    /// With `explain`: every face of the subject; empty otherwise.
    pub faces: Vec<CandidateFaceView>,
}

/// A probe.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Probe)]
pub struct ProbeView {
    /// How its faces were fused.
    pub fusion: FusionSpec,
    /// ‖Σx‖ / Σnorm of its faces: low means outliers or two people mixed.
    pub coherence: f32,
    /// Its faces.
    pub faces: Vec<ProbeFace>,
}

/// What one probe found.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = SearchAnswer)]
pub struct AnswerView {
    /// Names this search.
    pub search_id: Uuid,
    /// The model of probe and references.
    pub model_id: String,
    /// The decision on the best candidate; `none` without candidates.
    pub decision: DecisionName,
    /// The threshold in force; null when the galleries searched have different ones (see `galleries`).
    #[schema(required = true)]
    pub threshold: Option<ThresholdInForce>,
    /// The review threshold in force; null when nothing sets one, or the galleries have different ones.
    #[schema(required = true)]
    pub review_threshold: Option<ThresholdInForce>,
    /// Best first, each subject of a gallery once. Candidates below the threshold are listed too, with decision `none`.
    pub candidates: Vec<CandidateView>,
    /// The probe.
    pub probe: ProbeView,
    /// The galleries searched.
    pub galleries: Vec<GallerySearched>,
    /// Images that gave no face, each with its problem.
    pub rejected: Vec<Problem>,
    /// Milliseconds by stage.
    pub timings_ms: TimingsMs,
}

/// What each face found, with `faces=each`.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = SearchAnswers)]
pub struct AnswersView {
    /// One for each face, images in the order of the request, faces of an image best first.
    pub searches: Vec<AnswerView>,
    /// Images that gave no face, each with its problem.
    pub rejected: Vec<Problem>,
    /// Milliseconds by stage.
    pub timings_ms: TimingsMs,
}

/// The answer to a search.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = SearchResponse)]
#[allow(clippy::large_enum_variant, reason = "made once a request and sent at once")]
pub enum SearchResponse {
    /// With `faces=fuse`.
    #[schema(title = "Fused")]
    Fused(AnswerView),
    /// With `faces=each`.
    #[schema(title = "Each")]
    Each(AnswersView),
}

/// The answer to one probe, best candidates of all galleries first.
pub(crate) fn view(model: &ModelId, searched: Searched, limit: usize, timings_ms: TimingsMs) -> AnswerView {
    let Searched { id, probe, results } = searched;
    let mut candidates: Vec<(GalleryId, Candidate)> = Vec::new();
    let mut galleries = Vec::with_capacity(results.len());
    for (gallery, result) in results {
        galleries.push(gallery_view(&gallery, &result));
        candidates.extend(result.candidates.into_iter().map(|candidate| (gallery.clone(), candidate)));
    }
    // Stable, so that equal scores stay in the order of the galleries and of each index.
    candidates.sort_by(|(_, a), (_, b)| b.score.total_cmp(&a.score));
    candidates.truncate(limit);
    let decision = candidates.first().map_or(Decision::None, |(_, best)| best.decision);
    let same = |of: fn(&GallerySearched) -> Option<ThresholdInForce>| {
        let first = galleries.first().and_then(of);
        first.filter(|first| galleries.iter().all(|gallery| of(gallery) == Some(*first)))
    };
    AnswerView {
        search_id: id,
        model_id: model.to_string(),
        decision: decision.into(),
        threshold: same(|gallery| Some(gallery.threshold)),
        review_threshold: same(|gallery| gallery.review_threshold),
        candidates: candidates.into_iter().zip(1..).map(|((g, c), rank)| candidate_view(&g, c, rank)).collect(),
        probe: probe_view(&probe),
        galleries,
        rejected: Vec::new(),
        timings_ms,
    }
}

fn gallery_view(gallery: &GalleryId, result: &SearchResult) -> GallerySearched {
    let (threshold, review_threshold) = in_force(&result.decider);
    GallerySearched {
        gallery: gallery.to_string(),
        revision: result.revision,
        index: match result.kind {
            IndexKind::Exact => KindName::Exact,
            IndexKind::Cascade => KindName::Cascade,
            IndexKind::Ann => KindName::Ann,
        },
        recall: result.recall,
        threshold,
        review_threshold,
        calibration: result.calibration.as_ref().map(CalibrationNote::from),
    }
}

fn candidate_view(gallery: &GalleryId, candidate: Candidate, rank: u32) -> CandidateView {
    CandidateView {
        gallery: gallery.to_string(),
        subject: candidate.subject.to_string(),
        rank,
        score: candidate.score,
        fpir: candidate.fpir,
        decision: candidate.decision.into(),
        face: candidate.face.map(|face| face.0),
        faces: candidate.faces.iter().map(CandidateFaceView::from).collect(),
    }
}

impl From<&vultus_engine::gallery::CandidateFace> for CandidateFaceView {
    fn from(face: &vultus_engine::gallery::CandidateFace) -> Self {
        Self {
            id: face.id.0,
            media: face.media.to_string(),
            norm: face.norm,
            quality: face.quality,
            weight: face.part.weight,
            score: face.part.score,
            score_without: face.part.score_without,
        }
    }
}

pub(crate) fn probe_view(probe: &Probe) -> ProbeView {
    let faces = probe.samples.iter().zip(&probe.template.weights);
    ProbeView {
        fusion: probe.template.fusion.into(),
        coherence: probe.template.coherence,
        faces: faces.map(|(sample, weight)| ProbeFace::new(sample, *weight)).collect(),
    }
}
