//! `/v1/galleries/{gallery}/subjects/{subject}/kept_apart`: who a subject is known not to be.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vultus_engine::gallery::Pair;
use vultus_engine::ids::{GalleryId, SubjectId};

use super::params::SubjectPath;
use crate::app::App;
use crate::extract::{Json, Path};
use crate::problem::{Code, Problem};

/// Most characters of a note.
const MAX_NOTE: usize = 1000;

/// Two subjects in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct PairPath {
    /// Gallery id.
    #[param(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$", example = "staff")]
    pub gallery: GalleryId,
    /// Subject id.
    #[param(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$", example = "ada")]
    pub subject: SubjectId,
    /// The other subject's id.
    #[param(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$", example = "eve")]
    pub other: SubjectId,
}

/// Why two subjects are two people.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = KeepApartRequest, example = json!({"note": "twins"}))]
pub struct KeepApartBody {
    /// For people, at most 1,000 characters.
    #[schema(max_length = 1000)]
    pub note: Option<String>,
}

/// A subject that is known to be somebody else.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = KeptApart)]
pub struct PairView {
    /// The other subject.
    pub subject: String,
    /// Why.
    #[schema(required = true)]
    pub note: Option<String>,
    /// When it was said.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
}

/// Who a subject is known not to be.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = KeptApartList)]
pub struct PairsView {
    /// By the other's id.
    pub items: Vec<PairView>,
}

impl From<Pair> for PairView {
    fn from(pair: Pair) -> Self {
        Self { subject: pair.other.to_string(), note: pair.note, at: pair.at }
    }
}

/// Lists who a subject is known not to be.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/subjects/{subject}/kept_apart", operation_id = "list_kept_apart",
    tag = "subjects", params(SubjectPath),
    responses((status = 200, description = "The other subjects.", body = PairsView)),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found"]))))]
pub async fn list(
    State(app): State<App>,
    Path(SubjectPath { gallery, subject }): Path<SubjectPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let pairs = app.database.pairs(&gallery, &subject)?;
        Ok(axum::Json(PairsView { items: pairs.into_iter().map(PairView::from).collect() }))
    })
    .await
}

/// Notes that two subjects are two people, however alike they look.
///
/// Searches with the one as the probe pass over the other, enrolment takes neither for a duplicate of the other, nor
/// does the search for duplicates, and they are not merged.
#[utoipa::path(put, path = "/v1/galleries/{gallery}/subjects/{subject}/kept_apart/{other}", operation_id = "keep_apart",
    tag = "subjects", params(PairPath), request_body = KeepApartBody,
    responses((status = 200, description = "Noted.", body = PairView)),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found"]))))]
pub async fn put(
    State(app): State<App>,
    Path(PairPath { gallery, subject, other }): Path<PairPath>,
    Json(KeepApartBody { note }): Json<KeepApartBody>,
) -> Result<impl IntoResponse, Problem> {
    if note.as_ref().is_some_and(|note| note.chars().count() > MAX_NOTE) {
        return Err(Problem::with(Code::InvalidRequest, format!("note has at most {MAX_NOTE} characters")));
    }
    app.blocking(move |app| Ok(axum::Json(PairView::from(app.database.keep_apart(&gallery, &subject, &other, note)?))))
        .await
}

/// Takes back that two subjects are two people.
#[utoipa::path(delete, path = "/v1/galleries/{gallery}/subjects/{subject}/kept_apart/{other}",
    operation_id = "allow_together", tag = "subjects", params(PairPath),
    responses((status = 204, description = "Taken back, or never said.")),
    extensions(("x-problems" = json!(["gallery_not_found"]))))]
pub async fn delete(
    State(app): State<App>,
    Path(PairPath { gallery, subject, other }): Path<PairPath>,
) -> Result<StatusCode, Problem> {
    app.blocking(move |app| {
        app.database.allow_together(&gallery, &subject, &other)?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
