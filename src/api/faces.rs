//! `/v1/galleries/{gallery}/subjects/{subject}/faces`: enrolment.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vultus_engine::ids::FaceId;
use vultus_engine::store::{Check, Face, Override};

use super::paging::{Page, PageParams};
use super::params::{FacePath, SubjectPath};
use super::wire::{DetectorName, Location, SourceName};
use crate::app::App;
use crate::extract::submission::{Body, EmbeddingItem, ImageItem, ImageParams, Submission};
use crate::extract::{Path, Query, object};
use crate::problem::{Code, Problem};
use crate::service::enrol::{Allowed, EnrolOptions, enrol as enrol_faces};
use crate::service::select::Select;
use crate::service::timing::TimingsMs;

/// Options of an enrolment as query parameters or form parts.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EnrolParams {
    /// Which face of each photo; `only` where left out.
    #[param(nullable = false)]
    pub select: Option<Select>,
    /// Who looks for faces; the server's choice where left out.
    #[param(nullable = false)]
    pub detector: Option<DetectorName>,
    /// Do everything but store.
    #[param(nullable = false)]
    pub dry_run: Option<bool>,
    /// Quality (0 to 1) a face must have, beside the gallery's own requirement.
    #[param(minimum = 0.0, maximum = 1.0, nullable = false)]
    pub min_quality: Option<f32>,
    /// Checks to override, separated by commas: `quality`, `wrong_person`, `duplicate_subject`. Recorded with each face
    /// that did not pass them.
    #[param(max_length = 100, nullable = false)]
    pub allow: Option<String>,
    /// The photo or video the images come from: 1 to 256 bytes. Left out, each is a media of its own.
    #[param(min_length = 1, max_length = 256, nullable = false)]
    pub media: Option<String>,
    /// The images are 112×112 crops that were aligned already.
    #[param(nullable = false)]
    pub aligned: Option<bool>,
}

/// Images or ready embeddings of one subject.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = EnrolRequest, example = json!({"images": [{"data": "/9j/4AAQSkZJRg=="}], "select": "only"}))]
pub struct EnrolBody {
    /// Photos or aligned crops.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 64)]
    pub images: Vec<ImageItem>,
    /// Ready embeddings.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 64)]
    pub embeddings: Vec<EmbeddingItem>,
    /// Which face of each photo; `only` where left out.
    #[schema(nullable = false)]
    pub select: Option<Select>,
    /// Who looks for faces; the server's choice where left out.
    #[schema(nullable = false)]
    pub detector: Option<DetectorName>,
    /// Do everything but store.
    #[schema(nullable = false)]
    pub dry_run: Option<bool>,
    /// Quality (0 to 1) a face must have, beside the gallery's own requirement.
    #[schema(minimum = 0.0, maximum = 1.0, nullable = false)]
    pub min_quality: Option<f32>,
    /// Checks to override. Recorded with each face that did not pass them.
    #[schema(max_items = 3, nullable = false)]
    pub allow: Option<Vec<CheckName>>,
}

impl Body for EnrolBody {
    type Params = EnrolParams;

    fn take(&mut self) -> (Vec<ImageItem>, Vec<EmbeddingItem>) {
        (std::mem::take(&mut self.images), std::mem::take(&mut self.embeddings))
    }

    fn fill(&mut self, params: EnrolParams) -> Result<(), Problem> {
        self.select = self.select.or(params.select);
        self.detector = self.detector.or(params.detector);
        self.dry_run = self.dry_run.or(params.dry_run);
        self.min_quality = self.min_quality.or(params.min_quality);
        if let (None, Some(list)) = (&self.allow, params.allow) {
            self.allow = Some(CheckName::list(&list)?);
        }
        if self.min_quality.is_some_and(|q| !(0.0..=1.0).contains(&q)) {
            return Err(Problem::with(Code::InvalidRequest, "min_quality is a number from 0 to 1"));
        }
        Ok(())
    }

    fn image_params(params: &EnrolParams) -> ImageParams {
        ImageParams { media: params.media.clone(), aligned: params.aligned.unwrap_or(false) }
    }
}

/// Images in a form; the options of the query can be text parts.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documents the form that Submission reads")]
pub struct ImageForm {
    /// Photos (JPEG, PNG or WebP).
    #[schema(value_type = Vec<String>, format = Binary, required = false)]
    image: Vec<u8>,
    /// Aligned 112×112 crops.
    #[schema(value_type = Vec<String>, format = Binary, required = false)]
    crop: Vec<u8>,
}

/// A check of an enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EnrolmentCheck)]
pub enum CheckName {
    /// The face's quality.
    Quality,
    /// Whether it is like its subject's other faces.
    WrongPerson,
    /// Whether it is like another subject.
    DuplicateSubject,
}

impl CheckName {
    /// A list as a parameter has it.
    pub(super) fn list(text: &str) -> Result<Vec<Self>, Problem> {
        text.split(',').map(Self::parse).collect()
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        serde_json::from_value(text.trim().into()).map_err(|_| {
            let known = "quality, wrong_person and duplicate_subject";
            Problem::with(Code::InvalidParameter, format!("allow takes {known}, not {text:.50}"))
        })
    }
}

impl From<CheckName> for Check {
    fn from(name: CheckName) -> Self {
        match name {
            CheckName::Quality => Self::Quality,
            CheckName::WrongPerson => Self::WrongPerson,
            CheckName::DuplicateSubject => Self::DuplicateSubject,
        }
    }
}

/// A check that a face did not pass and was enrolled in spite of.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Override)]
pub struct OverrideView {
    /// Which.
    pub check: CheckName,
    /// What the face has: a quality or a cosine.
    pub value: f32,
    /// What was required: a `duplicate_subject` reaches it, the others do not.
    pub required: f32,
    /// With `duplicate_subject`: the subject it is like.
    #[schema(required = true)]
    pub subject: Option<String>,
}

impl From<&Override> for OverrideView {
    fn from(of: &Override) -> Self {
        Self {
            check: match of.check {
                Check::Quality => CheckName::Quality,
                Check::WrongPerson => CheckName::WrongPerson,
                Check::DuplicateSubject => CheckName::DuplicateSubject,
            },
            value: of.value,
            required: of.required,
            subject: of.subject.as_ref().map(ToString::to_string),
        }
    }
}

/// An enrolled face.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Face)]
pub struct FaceView {
    /// Its id.
    pub id: uuid::Uuid,
    /// Whose face.
    pub subject: String,
    /// The photo or video it came from.
    pub media: String,
    /// How it came in.
    pub source: SourceName,
    /// Length of the raw feature.
    pub norm: f32,
    /// CDF of the standardised norm, 0 to 1.
    pub quality: f32,
    /// Where it was.
    #[serde(flatten)]
    pub location: Location,
    /// Checks that it did not pass and that were overridden.
    pub overrides: Vec<OverrideView>,
    /// When it was enrolled.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
}

impl From<&Face> for FaceView {
    fn from(face: &Face) -> Self {
        Self {
            id: face.id.0,
            subject: face.subject.to_string(),
            media: face.media.to_string(),
            source: face.source.into(),
            norm: face.norm,
            quality: face.quality,
            location: Location {
                bbox: face.bbox.map(|b| [b.x1, b.y1, b.x2, b.y2]),
                landmarks: face.landmarks.map(|landmarks| landmarks.0),
                score: face.detection_score,
            },
            overrides: face.overrides.iter().map(OverrideView::from).collect(),
            created_at: face.created_at,
        }
    }
}

/// A face of an enrolment, with the image it came from.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = EnrolledFace)]
pub struct EnrolledFace {
    /// Which image of the request, from 0; embeddings count on after the images.
    pub image: usize,
    /// The face.
    #[serde(flatten)]
    pub face: FaceView,
}

/// What an enrolment did.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Enrolment)]
pub struct EnrolmentView {
    /// The gallery.
    pub gallery: String,
    /// The subject.
    pub subject: String,
    /// The model of the embeddings.
    pub model_id: String,
    /// Whether nothing was stored.
    pub dry_run: bool,
    /// Faces stored, or in a dry run, that would be.
    pub faces: Vec<EnrolledFace>,
    /// Images that gave no face, each with its problem.
    pub rejected: Vec<Problem>,
    /// The gallery's revision with these faces; null in a dry run.
    #[schema(required = true)]
    pub revision: Option<u64>,
    /// Milliseconds by stage.
    pub timings_ms: TimingsMs,
}

/// Enrols faces of a subject, who is added when not there yet.
///
/// Each image gives one face. Images that give none are listed under `rejected` as long as another gives one; when
/// none does, the answer is the first one's problem. A face that is unlike its subject's others (`wrong_person`) or like
/// another subject (`duplicate_subject`) is such a problem, with what it has and what is required. The answer is sent when the faces are durably stored, and the
/// next search finds them.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/subjects/{subject}/faces", operation_id = "enrol_faces",
    tag = "faces", params(SubjectPath, EnrolParams),
    request_body(content((EnrolBody = "application/json"), (ImageForm = "multipart/form-data"),
        (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"))),
    responses(
        (status = 200, description = "A dry run: what would be stored.", body = EnrolmentView),
        (status = 201, description = "Stored.", body = EnrolmentView,
            headers(("Location" = String, description = "The subject's faces.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "quality_too_low", "several_faces",
        "wrong_person", "duplicate_subject", "consent_missing"])), ("x-images" = json!(true))))]
pub async fn enrol(
    State(app): State<App>,
    Path(SubjectPath { gallery, subject }): Path<SubjectPath>,
    submission: Submission<EnrolBody>,
) -> Result<impl IntoResponse, Problem> {
    let options = EnrolOptions {
        select: submission.options.select.unwrap_or(Select::Only),
        detector: submission.options.detector.map(Into::into),
        min_quality: submission.options.min_quality,
        dry_run: submission.options.dry_run.unwrap_or(false),
        allow: Allowed::of(submission.options.allow.iter().flatten().map(|check| (*check).into())),
    };
    let location = format!("/v1/galleries/{gallery}/subjects/{subject}/faces");
    let done = enrol_faces(&app, gallery.clone(), subject.clone(), submission.items, options).await?;
    let view = EnrolmentView {
        gallery: gallery.to_string(),
        subject: subject.to_string(),
        model_id: done.model.to_string(),
        dry_run: options.dry_run,
        faces: done.faces.iter().map(|(image, face)| EnrolledFace { image: *image, face: face.into() }).collect(),
        rejected: done.rejected,
        revision: done.revision,
        timings_ms: done.timings,
    };
    let mut headers = HeaderMap::new();
    let status = if options.dry_run {
        StatusCode::OK
    } else {
        if let Ok(location) = location.try_into() {
            headers.insert(header::LOCATION, location);
        }
        StatusCode::CREATED
    };
    Ok((status, headers, axum::Json(view)))
}

/// Lists the faces of a subject in order of enrolment.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/subjects/{subject}/faces", operation_id = "list_faces",
    tag = "faces", params(SubjectPath, PageParams),
    responses((status = 200, description = "A page of faces.", body = Page<FaceView>)),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found"]))))]
pub async fn list(
    State(app): State<App>,
    Path(SubjectPath { gallery, subject }): Path<SubjectPath>,
    Query(page): Query<PageParams>,
) -> Result<impl IntoResponse, Problem> {
    let limit = page.limit()?;
    let after = page.after()?.map(|after| after.parse::<FaceId>()).transpose();
    let after = after.map_err(|_| Problem::with(Code::InvalidParameter, "cursor is not one that a page gave"))?;
    app.blocking(move |app| {
        let faces = app.database.faces(&gallery, &subject)?;
        let rest = faces.iter().filter(|stored| after.is_none_or(|after| stored.face.id > after));
        let views = rest.take(limit + 1).map(|stored| FaceView::from(&stored.face)).collect();
        Ok(axum::Json(Page::cut(views, limit, |face| face.id.to_string())))
    })
    .await
}

/// Gives one face.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/subjects/{subject}/faces/{face}", operation_id = "get_face",
    tag = "faces", params(FacePath),
    responses((status = 200, description = "The face.", body = FaceView)),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found", "face_not_found"]))))]
pub async fn get(
    State(app): State<App>,
    Path(FacePath { gallery, subject, face }): Path<FacePath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let stored = app.database.face(&gallery, &subject, FaceId(face))?;
        Ok(axum::Json(FaceView::from(&stored.face)))
    })
    .await
}

/// Gives the aligned crop of a face as PNG, where the gallery keeps crops.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/subjects/{subject}/faces/{face}/crop", operation_id = "get_crop",
    tag = "faces", params(FacePath),
    responses((status = 200, description = "112 by 112 pixels.", body = Vec<u8>, content_type = "image/png")),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found", "face_not_found", "crop_not_found"]))))]
pub async fn crop(
    State(app): State<App>,
    Path(FacePath { gallery, subject, face }): Path<FacePath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let stored = app.database.face(&gallery, &subject, FaceId(face))?;
        let png = app.database.store().crop(&gallery, stored.face.id)?;
        let png = png.ok_or_else(|| Problem::new(Code::CropNotFound))?;
        Ok(([(header::CONTENT_TYPE, "image/png")], png))
    })
    .await
}

/// Removes one face. The subject stays, without faces if this was the last.
#[utoipa::path(delete, path = "/v1/galleries/{gallery}/subjects/{subject}/faces/{face}", operation_id = "delete_face",
    tag = "faces", params(FacePath),
    responses((status = 204, description = "Removed.")),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found", "face_not_found"]))))]
pub async fn delete(
    State(app): State<App>,
    Path(FacePath { gallery, subject, face }): Path<FacePath>,
) -> Result<StatusCode, Problem> {
    app.blocking(move |app| {
        app.database.delete_face(&gallery, &subject, FaceId(face))?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
