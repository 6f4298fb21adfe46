//! `/v1/galleries/{gallery}/clusters`: which faces are one person's.

use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use vultus_engine::gallery::{Cluster, ClusterFace, ClusterOptions, Clusters};

use super::analysis::{check_threshold, checked_limit, newest, start, usual_items};
use super::decision::{ThresholdInForce, ThresholdRequest};
use super::params::GalleryPath;
use crate::app::App;
use crate::extract::{Json, Path};
use crate::problem::{Code, Problem};

const KIND: &str = "clusters";

/// How clusters are made.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = ClustersRequest, example = json!({"min_faces": 3}))]
pub struct ClustersBody {
    /// Average score from which on two clusters are one person. Left out: the score that 0.1 % of the comparisons of
    /// different people reach.
    #[schema(nullable = false)]
    pub threshold: Option<ThresholdRequest>,
    /// Clusters of fewer faces are not told.
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub min_faces: usize,
    /// Most clusters told.
    #[schema(minimum = 1, maximum = 10_000)]
    pub limit: usize,
}

impl Default for ClustersBody {
    fn default() -> Self {
        Self { threshold: None, min_faces: 2, limit: usual_items() }
    }
}

/// A face of a cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = ClusterFace)]
pub struct FaceView {
    /// Face id.
    pub face: Uuid,
    /// The subject it is under.
    pub subject: String,
    /// The photo or video it came from.
    pub media: String,
    /// CDF of the standardised norm, 0 to 1.
    pub quality: f32,
}

impl From<ClusterFace> for FaceView {
    fn from(of: ClusterFace) -> Self {
        let ClusterFace { face, subject, media, quality } = of;
        Self { face: face.0, subject: subject.to_string(), media: media.to_string(), quality }
    }
}

/// Faces that are probably one person's.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Cluster)]
pub struct ClusterView {
    /// Number, from 1; the largest cluster comes first.
    pub cluster: u64,
    /// Best quality first.
    pub faces: Vec<FaceView>,
    /// Subjects that the faces are under.
    pub subjects: Vec<String>,
    /// The average score of all pairs within it, weighted by quality; null where there is one vector only.
    #[schema(required = true)]
    pub coherence: Option<f64>,
    /// The face of the highest quality.
    pub best: Uuid,
}

impl From<Cluster> for ClusterView {
    fn from(of: Cluster) -> Self {
        Self {
            cluster: of.cluster,
            faces: of.faces.into_iter().map(FaceView::from).collect(),
            subjects: of.subjects.iter().map(ToString::to_string).collect(),
            coherence: of.coherence,
            best: of.best.0,
        }
    }
}

/// What clustering found.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Clusters)]
pub struct ClustersView {
    /// When it was begun.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
    /// The gallery's revision then.
    pub revision: u64,
    /// The model of the scores.
    pub model_id: String,
    /// From where on clusters were joined.
    pub threshold: ThresholdInForce,
    /// Faces that were clustered.
    pub faces: u64,
    /// Faces that were not, since a gallery this large is not clustered as a whole.
    pub skipped: u64,
    /// By the number of faces.
    pub clusters: Vec<ClusterView>,
    /// Clusters of enough faces, told or not.
    pub total: u64,
    /// Faces in clusters of too few.
    pub left_alone: u64,
}

impl From<Clusters> for ClustersView {
    fn from(of: Clusters) -> Self {
        Self {
            at: of.at,
            revision: of.revision,
            model_id: of.model_id.to_string(),
            threshold: of.threshold.into(),
            faces: of.faces,
            skipped: of.skipped,
            clusters: of.clusters.into_iter().map(ClusterView::from).collect(),
            total: of.total,
            left_alone: of.left_alone,
        }
    }
}

/// Gives the clusters of the newest finished job.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/clusters", operation_id = "get_clusters", tag = "reports",
    params(GalleryPath),
    responses((status = 200, description = "The clusters.", body = ClustersView)),
    extensions(("x-problems" = json!(["gallery_not_found", "report_not_found"]))))]
pub async fn get(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| Ok(axum::Json(newest(app, KIND, &gallery)?))).await
}

/// Clusters a gallery's faces, so that each cluster is one person: a job.
///
/// In a gallery of events each face is clustered by itself, elsewhere each subject's template stands for its faces. Faces
/// of one picture never share a cluster, nor do subjects that are kept apart. Faces of low quality are added to clusters
/// and do not join two. The result is what `GET` gives once it is done.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/clusters", operation_id = "find_clusters", tag = "reports",
    params(GalleryPath), request_body = ClustersBody,
    responses((status = 202, description = "The job.", body = crate::jobs::JobView,
        headers(("Location" = String, description = "Where it is.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "calibration_missing", "jobs_full", "model_mismatch"]))))]
pub async fn find(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
    Json(ClustersBody { threshold, min_faces, limit }): Json<ClustersBody>,
) -> Result<impl IntoResponse, Problem> {
    if !(1..=1_000_000).contains(&min_faces) {
        return Err(Problem::with(Code::InvalidRequest, "min_faces is a number from 1 to 1000000"));
    }
    let threshold = threshold.map(ThresholdRequest::checked).transpose()?;
    let options = ClusterOptions { threshold, min_faces, limit: checked_limit(limit)? };
    app.blocking(move |app| {
        check_threshold(app, &gallery, threshold)?;
        start(app, KIND, gallery, move |app, gallery, progress| {
            Ok(ClustersView::from(app.database.clusters(gallery, &options, progress)?))
        })
    })
    .await
}
