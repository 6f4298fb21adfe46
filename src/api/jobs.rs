//! `/v1/jobs`: work that goes on when its request has been answered.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;
use vultus_engine::ids::GalleryId;

use super::paging::{Page, PageParams};
use crate::app::App;
use crate::extract::{Path, Query};
use crate::jobs::{JobFilter, JobView, StateName};
use crate::problem::{Code, Problem};

/// A job in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct JobPath {
    /// Job id.
    pub job: Uuid,
}

/// Which jobs are listed.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListJobsParams {
    /// Most items wanted.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    pub limit: Option<u32>,
    /// Where to go on: `next` of the page before.
    #[param(max_length = 400, nullable = false)]
    pub cursor: Option<String>,
    /// Only jobs of this kind.
    #[param(nullable = false)]
    pub kind: Option<String>,
    /// Only jobs on this gallery.
    #[param(value_type = Option<String>, pattern = "^[A-Za-z0-9_.:-]{1,128}$", nullable = false)]
    pub gallery: Option<GalleryId>,
    /// Only jobs in this state.
    #[param(nullable = false)]
    pub state: Option<StateName>,
}

/// 202 with a job.
pub type Accepted = (StatusCode, HeaderMap, axum::Json<JobView>);

/// The answer to a request that started a job: 202, and where it can be watched.
pub fn accepted(job: JobView) -> Accepted {
    let mut headers = HeaderMap::new();
    if let Ok(location) = format!("/v1/jobs/{}", job.id).try_into() {
        headers.insert(header::LOCATION, location);
    }
    (StatusCode::ACCEPTED, headers, axum::Json(job))
}

/// Lists jobs, newest first, without their results. Those that ended long ago are not kept.
#[utoipa::path(get, path = "/v1/jobs", operation_id = "list_jobs", tag = "jobs",
    params(ListJobsParams),
    responses((status = 200, description = "A page of jobs.", body = Page<JobView>)))]
pub async fn list(State(app): State<App>, Query(params): Query<ListJobsParams>) -> Result<impl IntoResponse, Problem> {
    let page = PageParams { limit: params.limit, cursor: params.cursor };
    let limit = page.limit()?;
    let bad_cursor = |_| Problem::with(Code::InvalidParameter, "cursor is not one that a page gave");
    let after = page.after()?.map(|text| Uuid::parse_str(&text).map_err(bad_cursor)).transpose()?;
    let filter = JobFilter { kind: params.kind, gallery: params.gallery, state: params.state };
    let jobs = app.blocking(move |app| Ok(app.jobs.list(&filter, after, limit + 1))).await?;
    Ok(axum::Json(Page::cut(jobs, limit, |job| job.id.to_string())))
}

/// Gives one job: how far it is, and its result once it is done.
///
/// A restart of the server keeps what has ended; what had not has failed with `job_interrupted`.
#[utoipa::path(get, path = "/v1/jobs/{job}", operation_id = "get_job", tag = "jobs",
    params(JobPath),
    responses((status = 200, description = "The job.", body = JobView)),
    extensions(("x-problems" = json!(["job_not_found"]))))]
pub async fn get(State(app): State<App>, Path(JobPath { job }): Path<JobPath>) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| Ok(axum::Json(app.jobs.get(job)?))).await
}

/// Cancels a job. One that runs has ended when its state says so.
#[utoipa::path(post, path = "/v1/jobs/{job}/cancel", operation_id = "cancel_job", tag = "jobs",
    params(JobPath),
    responses((status = 200, description = "The job.", body = JobView)),
    extensions(("x-problems" = json!(["job_not_found", "job_ended"]))))]
pub async fn cancel(
    State(app): State<App>,
    Path(JobPath { job }): Path<JobPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| Ok(axum::Json(app.jobs.cancel(job)?))).await
}
