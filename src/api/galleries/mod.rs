//! `/v1/galleries`: enrolled sets.

mod index;
mod settings;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vultus_engine::index::IndexStats;
use vultus_engine::store::{Gallery, GalleryCounts, GalleryKind};

pub use self::index::{IndexView, MemoryView, PartState, PartView};
pub use self::settings::{CreateGallery, GuardSpec, GuardsSpec, KindName, PatchGallery, PutGallery};

use self::settings::SettingsBody;
use super::decision::ThresholdRequest;
use super::paging::{Page, PageParams};
use super::params::{GalleryPath, IfMatchHeader};
use super::wire::FusionSpec;
use crate::app::App;
use crate::extract::condition::{IfMatch, etag, until_settled};
use crate::extract::{Json, Path, Query};
use crate::problem::{Code, Problem};

/// A gallery.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Gallery)]
pub struct GalleryView {
    /// Its id.
    pub id: String,
    /// What is searched.
    pub kind: KindName,
    /// The model every embedding in it is of.
    #[schema(example = "mobilefacenet-17d5763f9ac4054b")]
    pub model_id: String,
    /// How templates are fused; null follows the model.
    #[schema(required = true)]
    pub fusion: Option<FusionSpec>,
    /// From where on a candidate is a match; null follows the server.
    #[schema(required = true)]
    pub threshold: Option<ThresholdRequest>,
    /// From where on a person should look at a candidate; null follows the server.
    #[schema(required = true)]
    pub review_threshold: Option<ThresholdRequest>,
    /// What enrolments are compared with.
    pub guards: GuardsSpec,
    /// Quality a face must have; null accepts all.
    #[schema(required = true)]
    pub min_quality: Option<f32>,
    /// Whether aligned crops are kept.
    pub keep_crops: bool,
    /// Free text.
    #[schema(required = true)]
    pub label: Option<String>,
    /// Subjects in it.
    pub subjects: u64,
    /// Faces in it.
    pub faces: u64,
    /// Sequence number of the last change of anything in it.
    pub revision: u64,
    /// Its index; null while nothing has searched it or written to it since the start, or its model is not at hand.
    #[schema(required = true)]
    pub index: Option<IndexView>,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// When its settings last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: jiff::Timestamp,
}

impl GalleryView {
    fn new(gallery: &Gallery, counts: GalleryCounts, index: Option<IndexStats>) -> Self {
        Self {
            id: gallery.id.to_string(),
            kind: match gallery.kind {
                GalleryKind::Consolidated => KindName::Consolidated,
                GalleryKind::Events => KindName::Events,
            },
            model_id: gallery.model_id.to_string(),
            fusion: gallery.fusion.map(FusionSpec::from),
            threshold: gallery.thresholds.matching.map(ThresholdRequest::from),
            review_threshold: gallery.thresholds.review.map(ThresholdRequest::from),
            guards: gallery.guards.into(),
            min_quality: gallery.min_quality,
            keep_crops: gallery.keep_crops,
            label: gallery.label.clone(),
            subjects: counts.subjects,
            faces: counts.faces,
            revision: counts.revision,
            index: index.map(IndexView::from),
            created_at: gallery.created_at,
            updated_at: gallery.updated_at,
        }
    }
}

fn view(app: &App, gallery: &Gallery) -> Result<GalleryView, Problem> {
    let index = app.database.index_stats(&gallery.id);
    Ok(GalleryView::new(gallery, app.database.counts(&gallery.id)?, index))
}

/// The answer to a request that made or changed a gallery.
fn answer(app: &App, status: StatusCode, gallery: &Gallery) -> Result<impl IntoResponse + use<>, Problem> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, etag(gallery.revision));
    if status == StatusCode::CREATED
        && let Ok(location) = format!("/v1/galleries/{}", gallery.id).try_into()
    {
        headers.insert(header::LOCATION, location);
    }
    Ok((status, headers, axum::Json(view(app, gallery)?)))
}

/// Lists galleries by id.
#[utoipa::path(get, path = "/v1/galleries", operation_id = "list_galleries", tag = "galleries",
    params(PageParams),
    responses((status = 200, description = "A page of galleries.", body = Page<GalleryView>)))]
pub async fn list(State(app): State<App>, Query(page): Query<PageParams>) -> Result<impl IntoResponse, Problem> {
    let (limit, after) = (page.limit()?, page.after()?);
    app.blocking(move |app| {
        let galleries = app.database.galleries()?;
        let rest = galleries.iter().filter(|g| after.as_deref().is_none_or(|after| g.id.as_str() > after));
        let views = rest.take(limit + 1).map(|g| view(app, g)).collect::<Result<Vec<_>, _>>()?;
        Ok(axum::Json(Page::cut(views, limit, |g| g.id.clone())))
    })
    .await
}

/// Adds a gallery, bound to a model: the server's own, or the one named.
#[utoipa::path(post, path = "/v1/galleries", operation_id = "create_gallery", tag = "galleries",
    request_body = CreateGallery,
    responses((status = 201, description = "The gallery.", body = GalleryView,
        headers(("Location" = String, description = "Where it is."), ("ETag" = String, description = "Its revision.")))),
    extensions(("x-problems" = json!(["gallery_exists", "unknown_model"]))))]
pub async fn create(State(app): State<App>, Json(body): Json<CreateGallery>) -> Result<impl IntoResponse, Problem> {
    let (id, kind, model, settings) = body.parts();
    let settings = settings.checked()?;
    app.blocking(move |app| {
        let models = app.pipeline.models();
        let model = model.map(|model| models.resolve(&model)).transpose()?;
        if let Some(model) = &model {
            models.get(model)?;
        }
        let gallery = app.database.create_gallery(id, kind.into(), model.as_ref(), settings)?;
        answer(app, StatusCode::CREATED, &gallery)
    })
    .await
}

/// Gives one gallery.
#[utoipa::path(get, path = "/v1/galleries/{gallery}", operation_id = "get_gallery", tag = "galleries",
    params(GalleryPath),
    responses((status = 200, description = "The gallery.", body = GalleryView,
        headers(("ETag" = String, description = "Its revision.")))),
    extensions(("x-problems" = json!(["gallery_not_found"]))))]
pub async fn get(
    State(app): State<App>,
    Path(GalleryPath { gallery: id }): Path<GalleryPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let gallery = app.database.gallery(&id)?;
        answer(app, StatusCode::OK, &gallery)
    })
    .await
}

/// Adds a gallery under this id, or replaces the settings of the one there. What the body leaves out is reset.
#[utoipa::path(put, path = "/v1/galleries/{gallery}", operation_id = "put_gallery", tag = "galleries",
    params(GalleryPath, IfMatchHeader),
    request_body = PutGallery,
    responses(
        (status = 200, description = "Settings replaced.", body = GalleryView,
            headers(("ETag" = String, description = "Its revision."))),
        (status = 201, description = "Gallery added.", body = GalleryView,
            headers(("Location" = String, description = "Where it is."), ("ETag" = String, description = "Its revision.")))),
    extensions(("x-problems" = json!(["revision_mismatch", "gallery_exists", "gallery_not_found"]))))]
pub async fn put(
    State(app): State<App>,
    Path(GalleryPath { gallery: id }): Path<GalleryPath>,
    condition: IfMatch,
    Json(body): Json<PutGallery>,
) -> Result<impl IntoResponse, Problem> {
    let (kind, settings) = body.into();
    let settings = settings.checked()?;
    let races = [Code::GalleryExists, Code::GalleryNotFound];
    app.blocking(move |app| {
        until_settled(condition, &races, || match app.database.store().gallery(&id)? {
            Some(there) if kind.is_some_and(|kind| GalleryKind::from(kind) != there.kind) => {
                Err(Problem::with(Code::InvalidRequest, "the kind of a gallery cannot be changed"))
            }
            Some(_) => {
                let gallery = app.database.update_gallery(&id, settings.clone(), condition.revision())?;
                answer(app, StatusCode::OK, &gallery).map(IntoResponse::into_response)
            }
            None if condition != IfMatch::Absent => {
                Err(Problem::with(Code::RevisionMismatch, format!("there is no gallery {id}")))
            }
            None => {
                let kind = kind.unwrap_or_default().into();
                let gallery = app.database.create_gallery(id.clone(), kind, None, settings.clone())?;
                answer(app, StatusCode::CREATED, &gallery).map(IntoResponse::into_response)
            }
        })
    })
    .await
}

/// Changes settings of a gallery: a JSON merge patch (RFC 7396). What the body leaves out stays; null resets.
#[utoipa::path(patch, path = "/v1/galleries/{gallery}", operation_id = "update_gallery", tag = "galleries",
    params(GalleryPath, IfMatchHeader),
    request_body(content((PatchGallery = "application/merge-patch+json"), (PatchGallery = "application/json"))),
    responses((status = 200, description = "The gallery.", body = GalleryView,
        headers(("ETag" = String, description = "Its revision.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "revision_mismatch"]))))]
pub async fn patch(
    State(app): State<App>,
    Path(GalleryPath { gallery: id }): Path<GalleryPath>,
    condition: IfMatch,
    Json(patch): Json<serde_json::Map<String, serde_json::Value>>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        until_settled(condition, &[Code::RevisionMismatch], || {
            let there = app.database.gallery(&id)?;
            let settings = super::merge(SettingsBody::of(&there).before_patch(&patch), patch.clone())?;
            // Bound to what was just read even without If-Match, so that no other change is lost.
            let expected = condition.revision().unwrap_or(there.revision);
            let gallery = app.database.update_gallery(&id, settings.checked()?, Some(expected))?;
            answer(app, StatusCode::OK, &gallery)
        })
    })
    .await
}

/// Removes a gallery with its subjects and faces, and with the jobs that name them.
#[utoipa::path(delete, path = "/v1/galleries/{gallery}", operation_id = "delete_gallery", tag = "galleries",
    params(GalleryPath, IfMatchHeader),
    responses((status = 204, description = "Removed.")),
    extensions(("x-problems" = json!(["gallery_not_found", "revision_mismatch"]))))]
pub async fn delete(
    State(app): State<App>,
    Path(GalleryPath { gallery: id }): Path<GalleryPath>,
    condition: IfMatch,
) -> Result<StatusCode, Problem> {
    app.blocking(move |app| {
        app.database.delete_gallery(&id, condition.revision())?;
        app.jobs.forget_gallery(&id)?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
