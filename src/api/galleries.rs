//! `/v1/galleries`: enrolled sets.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vultus_engine::gallery::GallerySettings;
use vultus_engine::ids::GalleryId;
use vultus_engine::store::{Gallery, GalleryCounts, GalleryKind};

use super::paging::{Page, PageParams};
use super::params::{GalleryPath, IfMatchHeader};
use super::wire::{FusionPatch, FusionSpec, ThresholdPatch, ThresholdRequest};
use crate::app::App;
use crate::extract::condition::{IfMatch, etag, until_settled};
use crate::extract::object;
use crate::extract::{Json, Path, Query};
use crate::problem::{Code, Problem};

/// What a row of a gallery's index is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GalleryKind)]
pub enum KindName {
    /// One template a subject, fused from all of the subject's faces.
    #[default]
    Consolidated,
    /// One row a face.
    Events,
}

/// Settings of a gallery that can be changed.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SettingsBody {
    /// How templates are fused; null follows the model.
    #[serde(deserialize_with = "object::optional")]
    pub fusion: Option<FusionSpec>,
    /// From which score a candidate is a match; null follows the server.
    #[serde(deserialize_with = "object::optional")]
    pub threshold: Option<ThresholdRequest>,
    /// Faces below this quality (0 to 1) are refused at enrolment; null accepts all.
    pub min_quality: Option<f32>,
    /// Keep aligned crops, which a later change of model needs.
    pub keep_crops: bool,
    /// Free text for people, at most 1,000 characters.
    pub label: Option<String>,
}

/// A JSON merge patch (RFC 7396) of a gallery's settings: what is left out stays, null resets.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GalleryPatch)]
#[allow(dead_code, reason = "documents what a patch can hold; it is merged as JSON")]
pub struct PatchGallery {
    /// How templates are fused.
    fusion: Option<FusionPatch>,
    /// From which score a candidate is a match.
    threshold: Option<ThresholdPatch>,
    /// Faces below this quality (0 to 1) are refused at enrolment.
    #[schema(minimum = 0.0, maximum = 1.0)]
    min_quality: Option<f32>,
    /// Keep aligned crops.
    keep_crops: Option<bool>,
    /// Free text for people, at most 1,000 characters.
    #[schema(max_length = 1000)]
    label: Option<String>,
}

/// A new gallery.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewGallery, example = json!({"id": "staff", "min_quality": 0.05}))]
pub struct CreateGallery {
    /// Chosen by you: 1 to 128 characters out of A-Z a-z 0-9 _ . : -
    #[schema(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$")]
    pub id: GalleryId,
    /// What is searched. Cannot be changed later.
    #[serde(default)]
    pub kind: KindName,
    /// Name or id of an installed model; the server's own where left out. Changed later by a migration.
    #[serde(default)]
    #[schema(max_length = 128, nullable = false)]
    pub model: Option<String>,
    /// How templates are fused; null follows the model.
    #[serde(default, deserialize_with = "object::optional")]
    pub fusion: Option<FusionSpec>,
    /// From which score a candidate is a match; null follows the server.
    #[serde(default, deserialize_with = "object::optional")]
    pub threshold: Option<ThresholdRequest>,
    /// Faces below this quality (0 to 1) are refused at enrolment; null accepts all.
    #[serde(default)]
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub min_quality: Option<f32>,
    /// Keep aligned crops, which a later change of model needs.
    #[serde(default)]
    pub keep_crops: bool,
    /// Free text for people, at most 1,000 characters.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub label: Option<String>,
}

/// A new gallery under the id of the path, or new settings of the one there.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = PutGallery)]
pub struct PutGallery {
    /// What is searched. Cannot be changed later; left out, as it is.
    #[schema(nullable = false)]
    pub kind: Option<KindName>,
    /// How templates are fused; null follows the model.
    #[serde(deserialize_with = "object::optional")]
    pub fusion: Option<FusionSpec>,
    /// From which score a candidate is a match; null follows the server.
    #[serde(deserialize_with = "object::optional")]
    pub threshold: Option<ThresholdRequest>,
    /// Faces below this quality (0 to 1) are refused at enrolment; null accepts all.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub min_quality: Option<f32>,
    /// Keep aligned crops, which a later change of model needs.
    pub keep_crops: bool,
    /// Free text for people, at most 1,000 characters.
    #[schema(max_length = 1000)]
    pub label: Option<String>,
}

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
    /// From which score a candidate is a match; null follows the server.
    #[schema(required = true)]
    pub threshold: Option<ThresholdRequest>,
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
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// When its settings last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: jiff::Timestamp,
}

impl GalleryView {
    fn new(gallery: &Gallery, counts: GalleryCounts) -> Self {
        Self {
            id: gallery.id.to_string(),
            kind: match gallery.kind {
                GalleryKind::Consolidated => KindName::Consolidated,
                GalleryKind::Events => KindName::Events,
            },
            model_id: gallery.model_id.to_string(),
            fusion: gallery.fusion.map(FusionSpec::from),
            threshold: gallery.threshold.map(|score| ThresholdRequest { score }),
            min_quality: gallery.min_quality,
            keep_crops: gallery.keep_crops,
            label: gallery.label.clone(),
            subjects: counts.subjects,
            faces: counts.faces,
            revision: counts.revision,
            created_at: gallery.created_at,
            updated_at: gallery.updated_at,
        }
    }
}

impl From<KindName> for GalleryKind {
    fn from(kind: KindName) -> Self {
        match kind {
            KindName::Consolidated => Self::Consolidated,
            KindName::Events => Self::Events,
        }
    }
}

impl SettingsBody {
    fn checked(self) -> Result<GallerySettings, Problem> {
        if self.min_quality.is_some_and(|q| !(0.0..=1.0).contains(&q)) {
            return Err(Problem::with(Code::InvalidRequest, "min_quality is a number from 0 to 1"));
        }
        if self.label.as_ref().is_some_and(|label| label.chars().count() > 1000) {
            return Err(Problem::with(Code::InvalidRequest, "label has at most 1000 characters"));
        }
        Ok(GallerySettings {
            fusion: self.fusion.map(FusionSpec::checked).transpose()?,
            threshold: self.threshold.map(ThresholdRequest::checked).transpose()?,
            min_quality: self.min_quality,
            keep_crops: self.keep_crops,
            label: self.label,
        })
    }

    fn of(gallery: &Gallery) -> Self {
        Self {
            fusion: gallery.fusion.map(FusionSpec::from),
            threshold: gallery.threshold.map(|score| ThresholdRequest { score }),
            min_quality: gallery.min_quality,
            keep_crops: gallery.keep_crops,
            label: gallery.label.clone(),
        }
    }
}

impl From<PutGallery> for (Option<KindName>, SettingsBody) {
    fn from(body: PutGallery) -> Self {
        let PutGallery { kind, fusion, threshold, min_quality, keep_crops, label } = body;
        (kind, SettingsBody { fusion, threshold, min_quality, keep_crops, label })
    }
}

fn view(app: &App, gallery: &Gallery) -> Result<GalleryView, Problem> {
    Ok(GalleryView::new(gallery, app.database.counts(&gallery.id)?))
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
    let CreateGallery { id, kind, model, fusion, threshold, min_quality, keep_crops, label } = body;
    let settings = SettingsBody { fusion, threshold, min_quality, keep_crops, label }.checked()?;
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
            let settings: SettingsBody = super::merge(SettingsBody::of(&there), patch.clone())?;
            // Bound to what was just read even without If-Match, so that no other change is lost.
            let expected = condition.revision().unwrap_or(there.revision);
            let gallery = app.database.update_gallery(&id, settings.checked()?, Some(expected))?;
            answer(app, StatusCode::OK, &gallery)
        })
    })
    .await
}

/// Removes a gallery with its subjects and faces.
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
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
