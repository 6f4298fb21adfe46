//! `/v1/templates`: probe templates, fused once and searched with as often as wanted.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use vultus_engine::ids::GalleryId;
use vultus_engine::quality::quality;

use super::faces::ImageForm;
use super::wire::{DetectorName, FusionSpec, RuleName, SourceName, fusion_params};
use crate::app::App;
use crate::extract::submission::{Body, EmbeddingItem, ImageItem, ImageParams, Submission};
use crate::extract::{Path, Query, object};
use crate::problem::Problem;
use crate::service::probes::{Held, NewProbe};
use crate::service::select::Select;
use crate::service::timing::TimingsMs;
use crate::service::tracks::{bind, frame, take};

/// A probe template in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct TemplatePath {
    /// Template id.
    pub template: Uuid,
}

/// What of a template is wanted.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GetTemplateParams {
    /// Give the vector too.
    #[param(nullable = false)]
    pub vector: Option<bool>,
}

/// Options of a template as query parameters or form parts.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TemplateParams {
    /// The gallery to be searched, whose model is used.
    #[param(value_type = Option<String>, pattern = "^[A-Za-z0-9_.:-]{1,128}$", nullable = false)]
    pub gallery: Option<GalleryId>,
    /// Name or id of a model, in place of a gallery; the server's own where both are left out.
    #[param(max_length = 128, nullable = false)]
    pub model: Option<String>,
    /// Fusion rule; the model's where left out.
    #[param(nullable = false)]
    pub fusion: Option<RuleName>,
    /// τ of `softmax_quality`.
    #[param(minimum = 0.05, maximum = 100.0, nullable = false)]
    pub tau: Option<f32>,
    /// Damp faces that disagree with the rest.
    #[param(nullable = false)]
    pub robust: Option<bool>,
    /// Seconds it is kept after its last use; the server's choice where left out.
    #[param(minimum = 1, nullable = false)]
    pub ttl_s: Option<u64>,
    /// Which face of each photo; `main` where left out.
    #[param(nullable = false)]
    pub select: Option<Select>,
    /// Who looks for faces; the server's choice where left out.
    #[param(nullable = false)]
    pub detector: Option<DetectorName>,
    /// The photo or video the images come from: 1 to 256 bytes. Left out, each is a media of its own.
    #[param(min_length = 1, max_length = 256, nullable = false)]
    pub media: Option<String>,
    /// The images are 112×112 crops that were aligned already.
    #[param(nullable = false)]
    pub aligned: Option<bool>,
    /// Give the vector too.
    #[param(nullable = false)]
    pub vector: Option<bool>,
}

/// Images or ready embeddings of one person.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = NewTemplate, example = json!({"images": [{"data": "/9j/4AAQSkZJRg=="}]}))]
pub struct TemplateBody {
    /// Photos or aligned crops.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 64)]
    pub images: Vec<ImageItem>,
    /// Ready embeddings.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 64)]
    pub embeddings: Vec<EmbeddingItem>,
    /// The gallery to be searched, whose model is used.
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9_.:-]{1,128}$", nullable = false)]
    pub gallery: Option<GalleryId>,
    /// Name or id of a model, in place of a gallery; the server's own where both are left out.
    #[schema(max_length = 128, nullable = false)]
    pub model: Option<String>,
    /// Fusion rule; the model's where left out.
    #[serde(deserialize_with = "object::optional")]
    #[schema(nullable = false)]
    pub fusion: Option<FusionSpec>,
    /// Seconds it is kept after its last use; the server's choice where left out.
    #[schema(minimum = 1, nullable = false)]
    pub ttl_s: Option<u64>,
    /// Which face of each photo; `main` where left out.
    #[schema(nullable = false)]
    pub select: Option<Select>,
    /// Who looks for faces; the server's choice where left out.
    #[schema(nullable = false)]
    pub detector: Option<DetectorName>,
    /// Give the vector too.
    #[schema(nullable = false)]
    pub vector: Option<bool>,
}

impl Body for TemplateBody {
    type Params = TemplateParams;

    fn take(&mut self) -> (Vec<ImageItem>, Vec<EmbeddingItem>) {
        (std::mem::take(&mut self.images), std::mem::take(&mut self.embeddings))
    }

    fn fill(&mut self, params: TemplateParams) -> Result<(), Problem> {
        self.fusion = self.fusion.or(fusion_params(params.fusion, params.tau, params.robust)?);
        self.gallery = self.gallery.take().or(params.gallery);
        self.model = self.model.take().or(params.model);
        self.ttl_s = self.ttl_s.or(params.ttl_s);
        self.select = self.select.or(params.select);
        self.detector = self.detector.or(params.detector);
        self.vector = self.vector.or(params.vector);
        Ok(())
    }

    fn image_params(params: &TemplateParams) -> ImageParams {
        ImageParams { media: params.media.clone(), aligned: params.aligned.unwrap_or(false) }
    }
}

/// A face of a probe template.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = TemplateFace)]
pub struct TemplateFaceView {
    /// Position of the face among those of the template, from 0.
    pub face: u64,
    /// The photo or video it came from.
    pub media: String,
    /// How it came in.
    pub source: SourceName,
    /// Length of the raw feature.
    pub norm: f32,
    /// CDF of the standardised norm, 0 to 1.
    pub quality: f32,
    /// Share of the template; the shares sum to 1.
    pub weight: f32,
}

/// A probe template.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = ProbeTemplate)]
pub struct TemplateView {
    /// Its id, to be given to a search as `template`.
    pub id: Uuid,
    /// The model it is of.
    pub model_id: String,
    /// How its faces were fused.
    pub fusion: FusionSpec,
    /// ‖Σx‖ / Σnorm of its faces: low means outliers or two people mixed.
    pub coherence: f32,
    /// Its faces.
    pub faces: Vec<TemplateFaceView>,
    /// The unit vector, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub vector: Option<Vec<f32>>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// When it goes, unless it is used before.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: jiff::Timestamp,
}

/// A probe template that was made.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = TemplateMade)]
pub struct TemplateMadeView {
    /// The template.
    #[serde(flatten)]
    pub template: TemplateView,
    /// Images that gave no face, each with its problem.
    pub rejected: Vec<Problem>,
    /// Milliseconds by stage.
    pub timings_ms: TimingsMs,
}

fn view(id: Uuid, held: &Held, vector: bool) -> Result<TemplateView, Problem> {
    let track = held.track();
    let template = track.explain(track.fusion())?;
    let stats = track.model().norm_stats;
    let faces = track.frames(0).zip(&template.weights).map(|((number, frame), weight)| TemplateFaceView {
        face: number,
        media: frame.media.to_string(),
        source: frame.source.into(),
        norm: frame.feature.norm,
        quality: quality(frame.feature.norm, stats),
        weight: *weight,
    });
    Ok(TemplateView {
        id,
        model_id: track.model().id.to_string(),
        fusion: template.fusion.into(),
        coherence: template.coherence,
        faces: faces.collect(),
        vector: vector.then_some(template.vector),
        created_at: held.created_at,
        expires_at: held.expires_at(),
    })
}

/// Fuses faces of one person into a probe template, which can be searched with until it has not been used for its time
/// to live. It is kept in memory only.
///
/// Each image gives one face. Images that give none are listed under `rejected` as long as another gives one.
#[utoipa::path(post, path = "/v1/templates", operation_id = "create_template", tag = "probes",
    params(TemplateParams),
    request_body(content((TemplateBody = "application/json"), (ImageForm = "multipart/form-data"),
        (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"))),
    responses((status = 201, description = "The template.", body = TemplateMadeView,
        headers(("Location" = String, description = "Where it is.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "unknown_model", "several_faces", "faces_contradict",
        "track_full", "probes_full"])), ("x-images" = json!(true))))]
pub async fn create(
    State(app): State<App>,
    submission: Submission<TemplateBody>,
) -> Result<impl IntoResponse, Problem> {
    let started = std::time::Instant::now();
    let Submission { items, options } = submission;
    let fusion = options.fusion.map(FusionSpec::checked).transpose()?;
    let model = bind(&app, options.gallery.as_ref(), options.model).await?;
    let select = options.select.unwrap_or_default();
    let taken = take(&app, items, &model, select, options.detector.map(Into::into)).await?;
    let new = NewProbe {
        fusion: fusion.map_or(model.served().fusion, |fusion| fusion.resolve(model.served().fusion)),
        model,
        gallery: options.gallery,
        ttl_s: options.ttl_s,
        camera: None,
        label: None,
    };
    let (frames, vector) = (taken.samples.into_iter().map(frame).collect(), options.vector.unwrap_or(false));
    let template = app
        .blocking(move |app| {
            let (id, held) = app.probes.add_template(new, frames)?;
            view(id, &held, vector).inspect_err(|_| drop(app.probes.remove_template(id)))
        })
        .await?;
    let mut headers = HeaderMap::new();
    if let Ok(location) = format!("/v1/templates/{}", template.id).try_into() {
        headers.insert(header::LOCATION, location);
    }
    let timings_ms = TimingsMs { total: crate::service::timing::since(started), ..taken.timings };
    let made = TemplateMadeView { template, rejected: taken.rejected, timings_ms };
    Ok((StatusCode::CREATED, headers, axum::Json(made)))
}

/// Gives a probe template with the weights of its faces.
#[utoipa::path(get, path = "/v1/templates/{template}", operation_id = "get_template", tag = "probes",
    params(TemplatePath, GetTemplateParams),
    responses((status = 200, description = "The template.", body = TemplateView)),
    extensions(("x-problems" = json!(["template_not_found"]))))]
pub async fn get(
    State(app): State<App>,
    Path(TemplatePath { template }): Path<TemplatePath>,
    Query(params): Query<GetTemplateParams>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let held = app.probes.template(template)?;
        Ok(axum::Json(view(template, &held, params.vector.unwrap_or(false))?))
    })
    .await
}

/// Lets a probe template go before its time.
#[utoipa::path(delete, path = "/v1/templates/{template}", operation_id = "delete_template", tag = "probes",
    params(TemplatePath),
    responses((status = 204, description = "Gone.")),
    extensions(("x-problems" = json!(["template_not_found"]))))]
pub async fn delete(
    State(app): State<App>,
    Path(TemplatePath { template }): Path<TemplatePath>,
) -> Result<StatusCode, Problem> {
    app.probes.remove_template(template)?;
    Ok(StatusCode::NO_CONTENT)
}
