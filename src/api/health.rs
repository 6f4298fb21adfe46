//! `/healthz`, `/readyz`: for supervisors and load balancers.

use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::App;
use crate::problem::Problem;

/// The process answers.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Health)]
pub struct HealthView {
    /// `ok`.
    #[schema(example = "ok")]
    pub status: String,
    /// Version of the server.
    #[schema(example = "0.1.0")]
    pub version: String,
}

/// The server takes requests.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Readiness)]
pub struct ReadinessView {
    /// `ready`.
    #[schema(example = "ready")]
    pub status: String,
    /// The model in use.
    pub model_id: String,
    /// Images in work now.
    pub images_in_work: usize,
}

/// Says that the process answers.
#[utoipa::path(get, path = "/healthz", operation_id = "health", tag = "health",
    responses((status = 200, description = "The process answers.", body = HealthView)), security(()))]
pub async fn live() -> impl IntoResponse {
    axum::Json(HealthView { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// Says whether requests should be sent here: galleries are loaded, the networks run, the server is not stopping.
#[utoipa::path(get, path = "/readyz", operation_id = "readiness", tag = "health",
    responses((status = 200, description = "Requests can be sent.", body = ReadinessView)), security(()),
    extensions(("x-problems" = json!(["not_ready"]))))]
pub async fn ready(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    app.blocking(|app| app.readiness()).await?;
    Ok(axum::Json(ReadinessView {
        status: "ready".to_owned(),
        model_id: app.database.model().id.to_string(),
        images_in_work: app.pipeline.health().in_work,
    }))
}
