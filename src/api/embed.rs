//! `/v1/embed`: faces as embeddings and norms. Nothing is kept.

use std::time::Instant;

use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::faces::ImageForm;
use super::wire::{DetectorName, Location};
use crate::app::App;
use crate::extract::object;
use crate::extract::submission::{Body, EmbeddingItem, ImageItem, ImageParams, Submission};
use crate::problem::Problem;
use crate::service::examine::{Embedding, Sample, Wanted, embed_all};
use crate::service::select::Select;
use crate::service::timing::{TimingsMs, since};

/// Options of an embedding as query parameters or form parts.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EmbedParams {
    /// Embed only one face of each photo; all where left out.
    #[param(nullable = false)]
    pub select: Option<Select>,
    /// Who looks for faces; the server's choice where left out.
    #[param(nullable = false)]
    pub detector: Option<DetectorName>,
    /// The images are 112×112 crops that were aligned already.
    #[param(nullable = false)]
    pub aligned: Option<bool>,
}

/// Photos or aligned crops to embed.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = EmbedRequest, example = json!({"images": [{"data": "/9j/4AAQSkZJRg=="}]}))]
pub struct EmbedBody {
    /// Photos or aligned crops.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 64)]
    pub images: Vec<ImageItem>,
    /// Embed only one face of each photo; all where left out.
    #[schema(nullable = false)]
    pub select: Option<Select>,
    /// Who looks for faces; the server's choice where left out.
    #[schema(nullable = false)]
    pub detector: Option<DetectorName>,
}

impl Body for EmbedBody {
    type Params = EmbedParams;

    fn take(&mut self) -> (Vec<ImageItem>, Vec<EmbeddingItem>) {
        (std::mem::take(&mut self.images), Vec::new())
    }

    fn fill(&mut self, params: EmbedParams) -> Result<(), Problem> {
        self.select = self.select.or(params.select);
        self.detector = self.detector.or(params.detector);
        Ok(())
    }

    fn image_params(params: &EmbedParams) -> ImageParams {
        ImageParams { media: None, aligned: params.aligned.unwrap_or(false) }
    }
}

/// One face with its embedding.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = EmbeddedFace)]
pub struct EmbeddedFace {
    /// Where it was.
    #[serde(flatten)]
    pub location: Location,
    /// Length of the raw feature.
    pub norm: f32,
    /// CDF of the standardised norm, 0 to 1.
    pub quality: f32,
    /// Unit vector.
    pub embedding: Vec<f32>,
}

/// The faces of one image.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = EmbeddedImage)]
pub struct ImageEmbeddings {
    /// Which image of the request, from 0.
    pub image: usize,
    /// Best detector score first.
    pub faces: Vec<EmbeddedFace>,
    /// Why the image gave no face.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub problem: Option<Problem>,
}

/// The faces of the images of a request.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Embeddings)]
pub struct EmbeddingsView {
    /// The model of the embeddings.
    pub model_id: String,
    /// In the order of the request.
    pub images: Vec<ImageEmbeddings>,
    /// Milliseconds by stage.
    pub timings_ms: TimingsMs,
}

impl EmbeddedFace {
    /// A face as `/v1/embed` and `vultus embed` give it.
    pub fn new(sample: Sample) -> Self {
        Self {
            location: sample.detection.as_ref().into(),
            norm: sample.feature.norm,
            quality: sample.quality,
            embedding: sample.feature.embedding,
        }
    }
}

/// Embeds the faces of photos, or aligned crops.
#[utoipa::path(post, path = "/v1/embed", operation_id = "embed", tag = "faces",
    params(EmbedParams),
    request_body(content((EmbedBody = "application/json"), (ImageForm = "multipart/form-data"),
        (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"))),
    responses((status = 200, description = "The faces of each image.", body = EmbeddingsView)),
    extensions(("x-problems" = json!(["several_faces"])), ("x-images" = json!(true))))]
pub async fn embed(State(app): State<App>, submission: Submission<EmbedBody>) -> Result<impl IntoResponse, Problem> {
    let started = Instant::now();
    let detector = submission.options.detector.map(Into::into);
    let wanted = submission.options.select.map_or(Wanted::Every, Wanted::One);
    let model = app.default_model();
    let how = Embedding { model: &model, wanted, detector };
    let examined = embed_all(&app, submission.items, how).await?.or_problem()?;
    let images = examined
        .images
        .into_iter()
        .enumerate()
        .map(|(image, result)| match result {
            Ok(samples) => {
                let faces = samples.into_iter().map(EmbeddedFace::new).collect();
                ImageEmbeddings { image, faces, problem: None }
            }
            Err(problem) => ImageEmbeddings { image, faces: Vec::new(), problem: Some(problem) },
        })
        .collect();
    Ok(axum::Json(EmbeddingsView {
        model_id: model.served().id.to_string(),
        images,
        timings_ms: TimingsMs { total: since(started), ..examined.timings },
    }))
}
