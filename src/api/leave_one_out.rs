//! `/v1/galleries/{gallery}/leave_one_out`: who is confused with whom, and which faces are under the wrong name.

use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use vultus_engine::gallery::{Confusion, LeaveOneOut, LeaveOneOutOptions, ScoreSpread, Suspect};

use super::analysis::{checked_limit, newest, start, usual_items};
use super::params::GalleryPath;
use crate::app::App;
use crate::extract::{Json, Path};
use crate::problem::Problem;

const KIND: &str = "leave_one_out";

/// What is told.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = LeaveOneOutRequest, example = json!({"limit": 100}))]
pub struct LeaveOneOutBody {
    /// Most suspects told, and most pairs of subjects.
    #[schema(minimum = 1, maximum = 10_000)]
    pub limit: usize,
}

impl Default for LeaveOneOutBody {
    fn default() -> Self {
        Self { limit: usual_items() }
    }
}

/// A distribution of scores.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(as = ScoreSpread)]
pub struct SpreadView {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub std: f64,
    /// The lowest.
    pub lowest: f64,
    /// 5 % are below it.
    pub p05: f64,
    /// Half are below it.
    pub median: f64,
    /// 95 % are below it.
    pub p95: f64,
    /// The highest.
    pub highest: f64,
}

impl From<ScoreSpread> for SpreadView {
    fn from(of: ScoreSpread) -> Self {
        let ScoreSpread { mean, std, lowest, p05, median, p95, highest } = of;
        Self { mean, std, lowest, p05, median, p95, highest }
    }
}

/// Faces of one subject that are more like another one.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Confusion)]
pub struct ConfusionView {
    /// Whose faces.
    pub subject: String,
    /// Whom they are more like than anybody else.
    pub other: String,
    /// How many.
    pub faces: u64,
    /// The highest score of one of them against `other`.
    pub score: f32,
}

impl From<Confusion> for ConfusionView {
    fn from(of: Confusion) -> Self {
        let Confusion { subject, other, faces, score } = of;
        Self { subject: subject.to_string(), other: other.to_string(), faces, score }
    }
}

/// A face that is probably under the wrong name, or good for nothing.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = SuspectFace)]
pub struct SuspectView {
    /// The subject it is under.
    pub subject: String,
    /// Face id.
    pub face: Uuid,
    /// The photo or video it came from.
    pub media: String,
    /// CDF of the standardised norm, 0 to 1.
    pub quality: f32,
    /// Its score against its subject's other faces.
    pub own_score: f32,
    /// Where its subject would come in a search; null behind the first 20 others.
    #[schema(required = true)]
    pub own_rank: Option<u64>,
    /// The other subject it is most like; null where there is no other.
    #[schema(required = true)]
    pub best_other: Option<String>,
    /// Its score against that one.
    #[schema(required = true)]
    pub best_other_score: Option<f32>,
    /// How far the own score is below the higher of the other subject's and the one that enrolment asks.
    pub suspicion: f32,
}

impl From<Suspect> for SuspectView {
    fn from(of: Suspect) -> Self {
        Self {
            subject: of.subject.to_string(),
            face: of.face.0,
            media: of.media.to_string(),
            quality: of.quality,
            own_score: of.own_score,
            own_rank: of.own_rank,
            best_other: of.best_other.map(|other| other.to_string()),
            best_other_score: of.best_other_score,
            suspicion: of.suspicion,
        }
    }
}

/// The leave-one-out report of a gallery.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = LeaveOneOut)]
pub struct LeaveOneOutView {
    /// When it was begun.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
    /// The gallery's revision then.
    pub revision: u64,
    /// The model of the scores.
    pub model_id: String,
    /// Faces of subjects with others.
    pub measured: u64,
    /// Faces that are their subject's only one.
    pub not_measurable: u64,
    /// Share of the measured faces whose subject comes first; null where none was measured.
    #[schema(required = true)]
    pub rank1: Option<f64>,
    /// Scores against the own subject.
    #[schema(required = true)]
    pub own_scores: Option<SpreadView>,
    /// Best scores of another subject.
    #[schema(required = true)]
    pub other_scores: Option<SpreadView>,
    /// Who is confused with whom, most faces first.
    pub confusions: Vec<ConfusionView>,
    /// All such pairs.
    pub confusions_total: u64,
    /// The most suspicious first.
    pub suspects: Vec<SuspectView>,
    /// All of them.
    pub suspects_total: u64,
}

impl From<LeaveOneOut> for LeaveOneOutView {
    fn from(of: LeaveOneOut) -> Self {
        Self {
            at: of.at,
            revision: of.revision,
            model_id: of.model_id.to_string(),
            measured: of.measured,
            not_measurable: of.not_measurable,
            rank1: of.rank1,
            own_scores: of.own_scores.map(SpreadView::from),
            other_scores: of.other_scores.map(SpreadView::from),
            confusions: of.confusions.into_iter().map(ConfusionView::from).collect(),
            confusions_total: of.confusions_total,
            suspects: of.suspects.into_iter().map(SuspectView::from).collect(),
            suspects_total: of.suspects_total,
        }
    }
}

/// Gives the newest finished leave-one-out report.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/leave_one_out", operation_id = "get_leave_one_out", tag = "reports",
    params(GalleryPath),
    responses((status = 200, description = "The report.", body = LeaveOneOutView)),
    extensions(("x-problems" = json!(["gallery_not_found", "report_not_found"]))))]
pub async fn get(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| Ok(axum::Json(newest(app, KIND, &gallery)?))).await
}

/// Searches each face of a gallery with itself left out: a job.
///
/// Faces that are more like another subject than their own, or unlike their own, come first in the report: they are
/// probably mislabelled. A subject's only face has nothing to be compared with and is only counted. The result is what
/// `GET` gives once it is done.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/leave_one_out", operation_id = "leave_one_out", tag = "reports",
    params(GalleryPath), request_body = LeaveOneOutBody,
    responses((status = 202, description = "The job.", body = crate::jobs::JobView,
        headers(("Location" = String, description = "Where it is.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "jobs_full", "model_mismatch"]))))]
pub async fn run(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
    Json(LeaveOneOutBody { limit }): Json<LeaveOneOutBody>,
) -> Result<impl IntoResponse, Problem> {
    let options = LeaveOneOutOptions { limit: checked_limit(limit)? };
    app.blocking(move |app| {
        start(app, KIND, gallery, move |app, gallery, progress| {
            Ok(LeaveOneOutView::from(app.database.leave_one_out(gallery, &options, progress)?))
        })
    })
    .await
}
