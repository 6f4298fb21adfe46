//! `/v1/galleries/{gallery}/search` and `/v1/search`: who is this?

use std::time::Instant;

use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use vultus_engine::gallery::{Candidate, Decision, SearchQuery, SearchResult};
use vultus_engine::ids::GalleryId;
use vultus_engine::index::{IndexKind, SearchMode};

use super::faces::ImageForm;
use super::params::GalleryPath;
use super::wire::{
    DecisionName, FusionSpec, ProbeFace, RuleName, ThresholdInForce, ThresholdRequest, checked_score, fusion_params,
};
use crate::app::App;
use crate::extract::Path;
use crate::extract::submission::{Body, EmbeddingItem, ImageItem, ImageParams, Submission};
use crate::problem::{Code, Problem};
use crate::service::search::{Grouping, Probe, Searched, probes, search as search_galleries};
use crate::service::select::Select;
use crate::service::timing::{TimingsMs, since};

/// Candidates where the request does not say.
const DEFAULT_LIMIT: u32 = 10;
/// Most candidates of a search.
const MAX_LIMIT: u32 = 1000;
/// Most galleries of a search.
const MAX_GALLERIES: usize = 16;

/// How a gallery is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(title = "SearchMode")]
pub enum ModeName {
    /// The index chooses.
    Auto,
    /// Every row is compared.
    Exact,
    /// A graph is walked; exact until it is built.
    Ann,
}

/// How faces become probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(title = "Faces")]
pub enum FacesName {
    /// One face of each image, all fused into one probe.
    Fuse,
    /// Every face of every image is a probe of its own.
    Each,
}

/// Options of a search as query parameters or form parts.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SearchParams {
    /// Most candidates wanted; 10 where left out.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    pub limit: Option<u32>,
    /// Score (−1 to 1) from which a candidate is a match; the gallery's, else the server's where left out.
    #[param(minimum = -1.0, maximum = 1.0, nullable = false)]
    pub threshold: Option<f32>,
    /// Fusion rule of the probe; the model's where left out.
    #[param(nullable = false)]
    pub fusion: Option<RuleName>,
    /// τ of `softmax_quality`.
    #[param(minimum = 0.05, maximum = 100.0, nullable = false)]
    pub tau: Option<f32>,
    /// `auto` where left out.
    #[param(nullable = false)]
    pub mode: Option<ModeName>,
    /// `fuse` where left out.
    #[param(nullable = false)]
    pub faces: Option<FacesName>,
    /// Which face of each photo goes into a fused probe; `main` where left out.
    #[param(nullable = false)]
    pub select: Option<Select>,
    /// List every face of each candidate with its weight and score.
    #[param(nullable = false)]
    pub explain: Option<bool>,
    /// The photo or video the images come from: 1 to 256 bytes. Left out, each is a media of its own.
    #[param(min_length = 1, max_length = 256, nullable = false)]
    pub media: Option<String>,
    /// The images are 112×112 crops that were aligned already.
    #[param(nullable = false)]
    pub aligned: Option<bool>,
    /// For `/v1/search`: the galleries, separated by commas.
    #[param(max_length = 2100, nullable = false)]
    pub galleries: Option<String>,
}

/// A probe and how to search with it.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(title = "SearchRequest", example = json!({
    "images": [{"data": "/9j/4AAQSkZJRg=="}], "limit": 5, "threshold": {"score": 0.4}, "explain": true
}))]
pub struct SearchBody {
    /// Photos or aligned crops.
    #[schema(max_items = 64)]
    pub images: Vec<ImageItem>,
    /// Ready embeddings.
    #[schema(max_items = 64)]
    pub embeddings: Vec<EmbeddingItem>,
    /// Most candidates wanted; 10 where left out.
    #[schema(minimum = 1, maximum = 1000, nullable = false)]
    pub limit: Option<u32>,
    /// From which score a candidate is a match; the gallery's, else the server's where left out.
    #[schema(nullable = false)]
    pub threshold: Option<ThresholdRequest>,
    /// Fusion rule of the probe; the model's where left out.
    #[schema(nullable = false)]
    pub fusion: Option<FusionSpec>,
    /// `auto` where left out.
    #[schema(nullable = false)]
    pub mode: Option<ModeName>,
    /// `fuse` where left out.
    #[schema(nullable = false)]
    pub faces: Option<FacesName>,
    /// Which face of each photo goes into a fused probe; `main` where left out.
    #[schema(nullable = false)]
    pub select: Option<Select>,
    /// List every face of each candidate with its weight and score.
    #[schema(nullable = false)]
    pub explain: Option<bool>,
    /// For `/v1/search`: the galleries.
    #[schema(value_type = Option<Vec<String>>, max_items = 16, nullable = false)]
    pub galleries: Option<Vec<GalleryId>>,
}

impl Body for SearchBody {
    type Params = SearchParams;

    fn take(&mut self) -> (Vec<ImageItem>, Vec<EmbeddingItem>) {
        (std::mem::take(&mut self.images), std::mem::take(&mut self.embeddings))
    }

    fn fill(&mut self, params: SearchParams) -> Result<(), Problem> {
        let fusion = fusion_params(params.fusion, params.tau)?;
        self.limit = self.limit.or(params.limit);
        self.threshold = self.threshold.or(params.threshold.map(|score| ThresholdRequest { score }));
        self.fusion = self.fusion.or(fusion);
        self.mode = self.mode.or(params.mode);
        self.faces = self.faces.or(params.faces);
        self.select = self.select.or(params.select);
        self.explain = self.explain.or(params.explain);
        if let (None, Some(list)) = (&self.galleries, params.galleries) {
            let ids = list.split(',').map(GalleryId::try_from).collect::<Result<_, _>>();
            self.galleries = Some(ids.map_err(|error| Problem::with(Code::InvalidParameter, error.to_string()))?);
        }
        Ok(())
    }

    fn image_params(params: &SearchParams) -> ImageParams {
        ImageParams { media: params.media.clone(), aligned: params.aligned.unwrap_or(false) }
    }
}

impl SearchBody {
    fn query(&self) -> Result<SearchQuery, Problem> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Problem::with(Code::InvalidRequest, format!("limit is a number from 1 to {MAX_LIMIT}")));
        }
        Ok(SearchQuery {
            limit: limit as usize,
            mode: match self.mode.unwrap_or(ModeName::Auto) {
                ModeName::Auto => SearchMode::Auto,
                ModeName::Exact => SearchMode::Exact,
                ModeName::Ann => SearchMode::Ann,
            },
            threshold: self.threshold.map(|threshold| checked_score(threshold.score)).transpose()?,
            explain: self.explain.unwrap_or(false),
        })
    }

    fn grouping(&self) -> Grouping {
        match self.faces.unwrap_or(FacesName::Fuse) {
            FacesName::Fuse => Grouping::Fuse(self.select.unwrap_or_default()),
            FacesName::Each => Grouping::Each,
        }
    }
}

/// How a gallery was searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(title = "IndexKind")]
pub enum KindName {
    /// Every row was compared.
    Exact,
    /// A graph was walked and its candidates scored exactly.
    Ann,
}

/// A gallery that was searched.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(title = "SearchedGallery")]
pub struct GallerySearched {
    /// Its id.
    pub gallery: String,
    /// Sequence number of the last change of the gallery before the search.
    pub revision: u64,
    /// How it was searched.
    pub index: KindName,
    /// Of a graph: the share of the exact top 10 it found on a sample of this gallery; null for exact search.
    pub recall: Option<f32>,
    /// The threshold in force.
    pub threshold: ThresholdInForce,
}

/// An enrolled face of a candidate.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(title = "CandidateFace")]
pub struct CandidateFaceView {
    /// Its id.
    pub id: Uuid,
    /// The photo or video it came from.
    pub media: String,
    /// Length of its raw feature.
    pub norm: f32,
    /// CDF of its standardised norm.
    pub quality: f32,
    /// Its share of the subject's template; the shares sum to 1.
    pub weight: f32,
    /// Its own cosine with the probe.
    pub score: f32,
}

/// A subject of the candidate list.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(title = "Candidate")]
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
    pub fpir: Option<f64>,
    /// Match or not, at the gallery's threshold in force.
    pub decision: DecisionName,
    /// In a gallery of events: the face that was found; null otherwise.
    pub face: Option<Uuid>,
    /// With `explain`: every face of the subject; empty otherwise.
    pub faces: Vec<CandidateFaceView>,
}

/// A probe.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(title = "Probe")]
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
#[schema(title = "SearchAnswer")]
pub struct AnswerView {
    /// Names this search.
    pub search_id: Uuid,
    /// The model of probe and references.
    pub model_id: String,
    /// The decision on the best candidate; `none` without candidates.
    pub decision: DecisionName,
    /// The threshold in force; null when the galleries searched have different ones (see `galleries`).
    pub threshold: Option<ThresholdInForce>,
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
#[schema(title = "SearchAnswers")]
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
#[schema(title = "SearchResponse")]
#[allow(clippy::large_enum_variant, reason = "made once a request and sent at once")]
pub enum SearchResponse {
    /// With `faces=fuse`.
    #[schema(title = "Fused")]
    Fused(AnswerView),
    /// With `faces=each`.
    #[schema(title = "Each")]
    Each(AnswersView),
}

/// Searches one gallery.
///
/// With `faces=fuse` (the default) one face of every image goes into one quality-weighted probe; images without a face
/// are listed under `rejected` as long as another has one. With `faces=each` every face is searched on its own.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/search", operation_id = "search_gallery", tag = "search",
    params(GalleryPath, SearchParams),
    request_body(content((SearchBody = "application/json"), (ImageForm = "multipart/form-data"),
        (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"))),
    responses((status = 200, description = "The candidates.", body = SearchResponse)),
    extensions(("x-problems" = json!(["gallery_not_found", "several_faces", "faces_contradict"])), ("x-images" = json!(true))))]
pub async fn gallery(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
    submission: Submission<SearchBody>,
) -> Result<impl IntoResponse, Problem> {
    if submission.options.galleries.is_some() {
        return Err(Problem::with(Code::InvalidRequest, "galleries goes with /v1/search; this searches one"));
    }
    answer(&app, vec![gallery], submission).await
}

/// Searches several galleries at once; each candidate says where it is enrolled.
#[utoipa::path(post, path = "/v1/search", operation_id = "search", tag = "search",
    params(SearchParams),
    request_body(content((SearchBody = "application/json"), (ImageForm = "multipart/form-data"),
        (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"))),
    responses((status = 200, description = "The candidates.", body = SearchResponse)),
    extensions(("x-problems" = json!(["gallery_not_found", "several_faces", "faces_contradict"])), ("x-images" = json!(true))))]
pub async fn several(State(app): State<App>, submission: Submission<SearchBody>) -> Result<impl IntoResponse, Problem> {
    let mut galleries = submission.options.galleries.clone().unwrap_or_default();
    galleries.sort();
    galleries.dedup();
    if !(1..=MAX_GALLERIES).contains(&galleries.len()) {
        return Err(Problem::with(Code::InvalidRequest, format!("galleries names 1 to {MAX_GALLERIES} galleries")));
    }
    answer(&app, galleries, submission).await
}

async fn answer(
    app: &App,
    galleries: Vec<GalleryId>,
    submission: Submission<SearchBody>,
) -> Result<axum::Json<SearchResponse>, Problem> {
    let started = Instant::now();
    let Submission { items, options, .. } = submission;
    let query = options.query()?;
    let grouping = options.grouping();
    let fusion = options.fusion.map(FusionSpec::checked).transpose()?;
    // A gallery that cannot be searched is not worth an inference.
    let asked = galleries.clone();
    app.blocking(move |app| {
        asked.iter().try_for_each(|id| Ok(app.database.check_model(&app.database.gallery(id)?)?))
    })
    .await?;
    let made = probes(app, items, grouping, fusion).await?;
    let (searched, search_ms) = search_galleries(app, galleries, made.probes, query).await?;
    let timings_ms = TimingsMs { search: search_ms, total: since(started), ..made.timings };
    let limit = query.limit;
    let mut answers = searched.into_iter().map(|one| view(app, one, limit, timings_ms));
    Ok(axum::Json(match grouping {
        Grouping::Fuse(_) => {
            let answer = answers.next().ok_or_else(|| Problem::internal("a fused search has one answer"))?;
            SearchResponse::Fused(AnswerView { rejected: made.rejected, ..answer })
        }
        Grouping::Each => {
            SearchResponse::Each(AnswersView { searches: answers.collect(), rejected: made.rejected, timings_ms })
        }
    }))
}

fn view(app: &App, searched: Searched, limit: usize, timings_ms: TimingsMs) -> AnswerView {
    let Searched { probe, results } = searched;
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
    let shared = galleries.first().map(|first| first.threshold);
    AnswerView {
        search_id: Uuid::now_v7(),
        model_id: app.database.model().id.to_string(),
        decision: decision.into(),
        threshold: shared.filter(|shared| galleries.iter().all(|g| g.threshold == *shared)),
        candidates: candidates.into_iter().zip(1..).map(|((g, c), rank)| candidate_view(&g, c, rank)).collect(),
        probe: probe_view(&probe),
        galleries,
        rejected: Vec::new(),
        timings_ms,
    }
}

fn gallery_view(gallery: &GalleryId, result: &SearchResult) -> GallerySearched {
    GallerySearched {
        gallery: gallery.to_string(),
        revision: result.revision,
        index: match result.kind {
            IndexKind::Exact => KindName::Exact,
            IndexKind::Ann => KindName::Ann,
        },
        recall: result.recall,
        threshold: result.threshold.into(),
    }
}

fn candidate_view(gallery: &GalleryId, candidate: Candidate, rank: u32) -> CandidateView {
    CandidateView {
        gallery: gallery.to_string(),
        subject: candidate.subject.to_string(),
        rank,
        score: candidate.score,
        fpir: None,
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
        }
    }
}

pub(super) fn probe_view(probe: &Probe) -> ProbeView {
    let faces = probe.samples.iter().zip(&probe.template.weights);
    ProbeView {
        fusion: probe.template.fusion.into(),
        coherence: probe.template.coherence,
        faces: faces.map(|(sample, weight)| ProbeFace::new(sample, *weight)).collect(),
    }
}
