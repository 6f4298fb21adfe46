//! `/v1/galleries/{gallery}/duplicates`: subjects that are probably one person.

use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vultus_engine::gallery::{DuplicateOptions, DuplicatePair, Duplicates};

use super::analysis::{check_threshold, checked_limit, newest, start, usual_items};
use super::decision::{ThresholdInForce, ThresholdRequest};
use super::params::GalleryPath;
use crate::app::App;
use crate::extract::{Json, Path};
use crate::problem::Problem;

const KIND: &str = "duplicates";

/// What is taken for a duplicate.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = DuplicatesRequest, example = json!({"limit": 100}))]
pub struct DuplicatesBody {
    /// From here on two subjects are a pair. Left out: where enrolment would take a face for a duplicate.
    #[schema(nullable = false)]
    pub threshold: Option<ThresholdRequest>,
    /// Most pairs told.
    #[schema(minimum = 1, maximum = 10_000)]
    pub limit: usize,
}

impl Default for DuplicatesBody {
    fn default() -> Self {
        Self { threshold: None, limit: usual_items() }
    }
}

/// Two subjects that are probably one person.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = DuplicatePair)]
pub struct PairView {
    /// The one whose id comes first.
    pub subject: String,
    /// The other.
    pub other: String,
    /// Cosine of their templates; in a gallery of events of their most alike faces.
    pub score: f32,
    /// The rate at which searches for people who are not enrolled reach the score; null where the gallery is not
    /// calibrated.
    #[schema(required = true)]
    pub fpir: Option<f64>,
    /// Faces of `subject`.
    pub faces: u64,
    /// Faces of `other`.
    pub other_faces: u64,
}

impl From<DuplicatePair> for PairView {
    fn from(pair: DuplicatePair) -> Self {
        let DuplicatePair { subject, other, score, fpir, faces, other_faces } = pair;
        Self { subject: subject.to_string(), other: other.to_string(), score, fpir, faces, other_faces }
    }
}

/// What a search for duplicates found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Duplicates)]
pub struct DuplicatesView {
    /// When it was begun.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
    /// The gallery's revision then.
    pub revision: u64,
    /// The model of the scores.
    pub model_id: String,
    /// From where on two subjects were a pair.
    pub threshold: ThresholdInForce,
    /// Subjects searched.
    pub searched: u64,
    /// Best first.
    pub pairs: Vec<PairView>,
    /// Whether there are more.
    pub truncated: bool,
}

impl From<Duplicates> for DuplicatesView {
    fn from(of: Duplicates) -> Self {
        Self {
            at: of.at,
            revision: of.revision,
            model_id: of.model_id.to_string(),
            threshold: of.threshold.into(),
            searched: of.searched,
            pairs: of.pairs.into_iter().map(PairView::from).collect(),
            truncated: of.truncated,
        }
    }
}

/// Gives the newest finished search for duplicates.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/duplicates", operation_id = "get_duplicates", tag = "reports",
    params(GalleryPath),
    responses((status = 200, description = "What it found.", body = DuplicatesView)),
    extensions(("x-problems" = json!(["gallery_not_found", "report_not_found"]))))]
pub async fn get(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| Ok(axum::Json(newest(app, KIND, &gallery)?))).await
}

/// Looks for subjects that are probably one person: a job.
///
/// Pairs that are kept apart are left out, and so are subjects with faces of one picture, who are two people for certain.
/// Its result is what `GET` gives once it is done.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/duplicates", operation_id = "find_duplicates", tag = "reports",
    params(GalleryPath), request_body = DuplicatesBody,
    responses((status = 202, description = "The job.", body = crate::jobs::JobView,
        headers(("Location" = String, description = "Where it is.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "calibration_missing", "jobs_full", "model_mismatch"]))))]
pub async fn find(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
    Json(DuplicatesBody { threshold, limit }): Json<DuplicatesBody>,
) -> Result<impl IntoResponse, Problem> {
    let threshold = threshold.map(ThresholdRequest::checked).transpose()?;
    let options = DuplicateOptions { threshold, limit: checked_limit(limit)? };
    app.blocking(move |app| {
        check_threshold(app, &gallery, threshold)?;
        start(app, KIND, gallery, move |app, gallery, progress| {
            Ok(DuplicatesView::from(app.database.duplicates(gallery, &options, progress)?))
        })
    })
    .await
}
