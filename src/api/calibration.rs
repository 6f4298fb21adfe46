//! `/v1/galleries/{gallery}/calibration`: what scores are worth in a gallery.

use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vultus_engine::calibration::{ScoreEstimate, Stale, Suspect};
use vultus_engine::gallery::{CalibrateOptions, CalibrationProbes, CalibrationStatus};
use vultus_engine::ids::GalleryId;

use super::analysis::start_naming;
use super::params::GalleryPath;
use super::wire::FusionSpec;
use crate::app::App;
use crate::extract::{Json, Path};
use crate::jobs::About;
use crate::problem::{Code, Problem};

/// What subjects are searched with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = CalibrationProbes)]
pub enum ProbesName {
    /// Templates and single faces.
    #[default]
    Both,
    /// Templates of all faces of a subject: for searches with tracks and templates.
    Templates,
    /// Single faces: for searches with single photos.
    Faces,
}

impl From<ProbesName> for CalibrationProbes {
    fn from(name: ProbesName) -> Self {
        match name {
            ProbesName::Both => Self::Both,
            ProbesName::Templates => Self::Templates,
            ProbesName::Faces => Self::Faces,
        }
    }
}

impl From<CalibrationProbes> for ProbesName {
    fn from(probes: CalibrationProbes) -> Self {
        match probes {
            CalibrationProbes::Both => Self::Both,
            CalibrationProbes::Templates => Self::Templates,
            CalibrationProbes::Faces => Self::Faces,
        }
    }
}

/// What a gallery is calibrated with.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = CalibrationRequest, example = json!({"non_mated": "visitors"}))]
pub struct CalibrateBody {
    /// A gallery of people who are not in this one, of the same model. Left out, only the gallery's own subjects are
    /// searched, each with itself left out.
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9_.:-]{1,128}$", nullable = false)]
    pub non_mated: Option<GalleryId>,
    /// Leave out the gallery's own subjects; needs `non_mated`.
    pub only_non_mated: bool,
    /// What subjects are searched with: best what the gallery is going to be searched with.
    pub probes: ProbesName,
    /// Seed of the draws that intervals are made of.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    pub seed: u64,
}

/// Why a calibration should be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = StaleReason)]
pub enum StaleName {
    /// Embeddings are of another model.
    Model,
    /// Templates are fused by another rule.
    Fusion,
    /// The number of subjects has changed by more than a fifth; thresholds are corrected for it, with wider intervals.
    Size,
    /// More than a fifth of the subjects were changed since.
    Changes,
}

impl From<Stale> for StaleName {
    fn from(stale: Stale) -> Self {
        match stale {
            Stale::Model => Self::Model,
            Stale::Fusion => Self::Fusion,
            Stale::Size => Self::Size,
            Stale::Changes => Self::Changes,
        }
    }
}

/// The score of a rate.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(as = CalibrationRow)]
pub struct RowView {
    /// False positive identification rate asked for.
    pub fpir: f64,
    /// Score that keeps it at the present size of the gallery; the largest one where none does.
    pub score: f64,
    /// The rate at this score. More than was asked for where no score keeps that.
    pub fpir_estimate: f64,
    /// Lower end of the 95 % interval of the rate at this score.
    pub fpir_low: f64,
    /// Upper end.
    pub fpir_high: f64,
    /// The gallery does not support a rate this small: it follows from the shape of the tail alone, or no score keeps it.
    pub extrapolated: bool,
}

impl From<(f64, ScoreEstimate)> for RowView {
    fn from((fpir, of): (f64, ScoreEstimate)) -> Self {
        Self {
            fpir,
            score: of.score,
            fpir_estimate: of.fpir,
            fpir_low: of.low,
            fpir_high: of.high,
            extrapolated: of.extrapolated,
        }
    }
}

/// Two subjects that are probably one person, and were left out of the estimate.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = CalibrationSuspect)]
pub struct SuspectView {
    /// One of them.
    pub subject: String,
    /// The other, of this gallery.
    pub other: String,
    /// Whether `subject` is of the gallery `non_mated`.
    pub outsider: bool,
    /// Their highest score.
    pub score: f64,
}

impl From<&Suspect> for SuspectView {
    fn from(of: &Suspect) -> Self {
        Self { subject: of.first.clone(), other: of.second.clone(), outsider: of.outsider, score: of.score }
    }
}

/// What a calibration says by now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Calibration)]
pub struct CalibrationView {
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
    /// The gallery's revision then.
    pub revision: u64,
    /// The model of the scores.
    pub model_id: String,
    /// The rule of the templates.
    pub fusion: FusionSpec,
    /// The gallery of people who are not enrolled, where one was used.
    #[schema(required = true)]
    pub non_mated: Option<String>,
    /// What subjects were searched with.
    pub probes: ProbesName,
    /// Subjects of the gallery then.
    pub calibrated_size: u64,
    /// Subjects of the gallery now; the table is corrected to it.
    pub gallery_size: u64,
    /// Non-mated searches it was made from.
    pub searches: u64,
    /// Whether it should be made again.
    pub stale: bool,
    /// Why; null while it is not stale.
    #[schema(required = true)]
    pub stale_reason: Option<StaleName>,
    /// The smallest rate the gallery supports: down to it the upper end of the interval is at most three times the
    /// estimate.
    pub smallest_fpir: f64,
    /// Scores of usual rates.
    pub table: Vec<RowView>,
    /// Pairs of subjects that are probably one person, best first, at most 32.
    pub suspects: Vec<SuspectView>,
    /// All such pairs.
    pub suspects_total: u64,
}

impl From<&CalibrationStatus> for CalibrationView {
    fn from(status: &CalibrationStatus) -> Self {
        let (made, of) = (&status.made, &status.made.calibration);
        Self {
            at: made.at,
            revision: made.revision,
            model_id: made.model_id.to_string(),
            fusion: made.fusion.into(),
            non_mated: made.non_mated.as_ref().map(ToString::to_string),
            probes: made.probes.into(),
            calibrated_size: of.gallery_size(),
            gallery_size: status.gallery_size,
            searches: of.searches(),
            stale: status.stale.is_some(),
            stale_reason: status.stale.map(StaleName::from),
            smallest_fpir: status.view.smallest_fpir(),
            table: status.view.table().into_iter().map(RowView::from).collect(),
            suspects: of.suspects().iter().map(SuspectView::from).collect(),
            suspects_total: of.suspects_total(),
        }
    }
}

/// What an answer says of the calibration behind its rates.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = CalibrationNote)]
pub struct CalibrationNote {
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
    /// Subjects of the gallery then.
    pub calibrated_size: u64,
    /// Whether it should be made again.
    pub stale: bool,
    /// Why; null while it is not stale.
    #[schema(required = true)]
    pub stale_reason: Option<StaleName>,
}

impl From<&CalibrationStatus> for CalibrationNote {
    fn from(status: &CalibrationStatus) -> Self {
        Self {
            at: status.made.at,
            calibrated_size: status.made.calibration.gallery_size(),
            stale: status.stale.is_some(),
            stale_reason: status.stale.map(StaleName::from),
        }
    }
}

/// Gives a gallery's calibration, corrected to its present size.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/calibration", operation_id = "get_calibration", tag = "calibration",
    params(GalleryPath),
    responses((status = 200, description = "The calibration.", body = CalibrationView)),
    extensions(("x-problems" = json!(["gallery_not_found", "calibration_missing", "model_mismatch"]))))]
pub async fn get(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let status = app.database.calibration(&gallery)?;
        let status = status.ok_or_else(|| {
            Problem::with(Code::CalibrationMissing, format!("gallery {gallery} is not calibrated for its model"))
        })?;
        Ok(axum::Json(CalibrationView::from(&status)))
    })
    .await
}

/// Calibrates a gallery: a job whose result is the calibration.
///
/// Each subject's template is searched with the subject left out, and so are some of its faces. The
/// scores that such searches reach say which share of searches for people who are not enrolled reaches a threshold.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/calibration", operation_id = "calibrate", tag = "calibration",
    params(GalleryPath), request_body = CalibrateBody,
    responses((status = 202, description = "The job.", body = crate::jobs::JobView,
        headers(("Location" = String, description = "Where it is.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "jobs_full", "model_mismatch"]))))]
pub async fn calibrate(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
    Json(body): Json<CalibrateBody>,
) -> Result<impl IntoResponse, Problem> {
    let CalibrateBody { non_mated, only_non_mated, probes, seed } = body;
    if only_non_mated && non_mated.is_none() {
        return Err(Problem::with(Code::InvalidRequest, "only_non_mated needs a gallery in non_mated"));
    }
    if non_mated.as_ref() == Some(&gallery) {
        return Err(Problem::with(Code::InvalidRequest, "non_mated is a gallery of other people"));
    }
    app.blocking(move |app| {
        if let Some(other) = &non_mated {
            app.database.gallery(other)?;
        }
        let about = About::new("calibration", Some(gallery.clone())).naming(non_mated.clone());
        let options = CalibrateOptions { non_mated, only_non_mated, probes: probes.into(), seed };
        start_naming(app, about, gallery, move |app, gallery, progress| {
            Ok(CalibrationView::from(&app.database.calibrate(gallery, &options, progress)?))
        })
    })
    .await
}
