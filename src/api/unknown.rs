//! `/v1/galleries/{gallery}/faces`: enrolment of people whom nobody has named.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::faces::{CheckName, EnrolledFace, ImageForm};
use super::params::GalleryPath;
use super::wire::DetectorName;
use crate::app::App;
use crate::extract::submission::{Body, EmbeddingItem, ImageItem, ImageParams, Submission};
use crate::extract::{Path, object};
use crate::problem::{Code, Problem};
use crate::service::enrol::Allowed;
use crate::service::timing::TimingsMs;
use crate::service::unknown::{MAX_PREFIX, Prefix, UnknownOptions, enrol as enrol_unknown};

/// What ids of unknown subjects start with where the request does not say.
const PREFIX: &str = "unknown-";

/// Options of an enrolment of unknown faces as query parameters or form parts.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UnknownParams {
    /// What the new subjects' ids start with; a UUIDv7 follows. `unknown-` where left out.
    #[param(pattern = "^[A-Za-z0-9_.:-]{0,92}$", nullable = false)]
    pub prefix: Option<String>,
    /// Who looks for faces; the server's choice where left out.
    #[param(nullable = false)]
    pub detector: Option<DetectorName>,
    /// Do everything but store.
    #[param(nullable = false)]
    pub dry_run: Option<bool>,
    /// Quality (0 to 1) a face must have, beside the gallery's own requirement.
    #[param(minimum = 0.0, maximum = 1.0, nullable = false)]
    pub min_quality: Option<f32>,
    /// Checks to override, separated by commas: `quality`, `duplicate_subject`. Recorded with each face that did not pass
    /// them.
    #[param(max_length = 100, nullable = false)]
    pub allow: Option<String>,
    /// The photo or video the images come from: 1 to 256 bytes. Left out, each is a media of its own.
    #[param(min_length = 1, max_length = 256, nullable = false)]
    pub media: Option<String>,
    /// The images are 112×112 crops that were aligned already.
    #[param(nullable = false)]
    pub aligned: Option<bool>,
}

/// Images or ready embeddings of people whom nobody has named.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = EnrolUnknownRequest, example = json!({"images": [{"data": "/9j/4AAQSkZJRg=="}], "prefix": "gate-2."}))]
pub struct UnknownBody {
    /// Photos or aligned crops.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 64)]
    pub images: Vec<ImageItem>,
    /// Ready embeddings.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 64)]
    pub embeddings: Vec<EmbeddingItem>,
    /// What the new subjects' ids start with; a UUIDv7 follows. `unknown-` where left out.
    #[schema(pattern = "^[A-Za-z0-9_.:-]{0,92}$", nullable = false)]
    pub prefix: Option<String>,
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

impl Body for UnknownBody {
    type Params = UnknownParams;

    fn take(&mut self) -> (Vec<ImageItem>, Vec<EmbeddingItem>) {
        (std::mem::take(&mut self.images), std::mem::take(&mut self.embeddings))
    }

    fn fill(&mut self, params: UnknownParams) -> Result<(), Problem> {
        self.prefix = self.prefix.take().or(params.prefix);
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

    fn image_params(params: &UnknownParams) -> ImageParams {
        ImageParams { media: params.media.clone(), aligned: params.aligned.unwrap_or(false) }
    }
}

/// What an enrolment of unknown faces did.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = UnknownEnrolment)]
pub struct UnknownEnrolmentView {
    /// The gallery.
    pub gallery: String,
    /// The model of the embeddings.
    pub model_id: String,
    /// Whether nothing was to be stored.
    pub dry_run: bool,
    /// Faces stored, or in a dry run, that would be, each with its new subject. The ids of a dry run are not kept.
    pub faces: Vec<EnrolledFace>,
    /// Images without a face, and faces that were kept out, each with its problem: `quality_too_low`, or
    /// `duplicate_subject` with the `subject` it is like. `faces` tells where in the photo the face is.
    pub rejected: Vec<Problem>,
    /// The gallery's revision with these faces; null where nothing was stored.
    #[schema(required = true)]
    pub revision: Option<u64>,
    /// Milliseconds by stage.
    pub timings_ms: TimingsMs,
}

/// Enrols every face of every image as a new subject of its own, with an id that is made for it.
///
/// For photos of crowds and for people whom nobody has named; `/clusters` then tells which of them are one person. Faces
/// of one photo are never taken for one person.
///
/// A face that is like a subject who is there (`duplicate_subject`), or like a face of another image of the request, is no
/// new subject: it is listed under `rejected` with the subject it is like, unless `allow` names the check. A gallery of
/// events has no such check unless its guards set a score. All faces of a request are stored together or not at all. When
/// no image shows a face, the answer is the first one's problem.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/faces", operation_id = "enrol_unknown",
    tag = "faces", params(GalleryPath, UnknownParams),
    request_body(content((UnknownBody = "application/json"), (ImageForm = "multipart/form-data"),
        (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"))),
    responses(
        (status = 200, description = "Nothing was stored: a dry run, or every face was kept out.",
            body = UnknownEnrolmentView),
        (status = 201, description = "Stored.", body = UnknownEnrolmentView)),
    extensions(("x-problems" = json!(["gallery_not_found"])), ("x-images" = json!(true))))]
pub async fn enrol(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
    submission: Submission<UnknownBody>,
) -> Result<impl IntoResponse, Problem> {
    let Submission { items, options } = submission;
    let prefix = Prefix::new(options.prefix.unwrap_or_else(|| PREFIX.to_owned())).map_err(|_| {
        let detail = format!("prefix has at most {MAX_PREFIX} characters, out of A-Z a-z 0-9 _ . : -");
        Problem::with(Code::InvalidRequest, detail)
    })?;
    let dry_run = options.dry_run.unwrap_or(false);
    let options = UnknownOptions {
        prefix,
        detector: options.detector.map(Into::into),
        min_quality: options.min_quality,
        dry_run,
        allow: Allowed::of(options.allow.iter().flatten().map(|check| (*check).into())),
    };
    let done = enrol_unknown(&app, gallery.clone(), items, options).await?;
    let status = if done.revision.is_some() { StatusCode::CREATED } else { StatusCode::OK };
    let view = UnknownEnrolmentView {
        gallery: gallery.to_string(),
        model_id: done.model.to_string(),
        dry_run,
        faces: done.faces.iter().map(|(image, face)| EnrolledFace { image: *image, face: face.into() }).collect(),
        rejected: done.rejected,
        revision: done.revision,
        timings_ms: done.timings,
    };
    Ok((status, axum::Json(view)))
}
