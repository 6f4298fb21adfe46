//! `/v1/detect`: where are the faces? Nothing is kept.

use std::time::Instant;

use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vultus_engine::detect::DetectOptions;

use super::faces::ImageForm;
use super::wire::{DetectorName, FaceFound};
use crate::app::App;
use crate::extract::object;
use crate::extract::submission::{Body, EmbeddingItem, ImageItem, Submission};
use crate::problem::{Code, Problem};
use crate::service::examine::detect_all;
use crate::service::timing::{TimingsMs, since};

/// Options of a detection as query parameters or form parts.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DetectParams {
    /// Lowest detector score (0.1 to 1) of a face; the server's where left out.
    #[param(minimum = 0.1, maximum = 1.0, nullable = false)]
    pub min_score: Option<f32>,
    /// Who looks for faces; the server's choice where left out.
    #[param(nullable = false)]
    pub detector: Option<DetectorName>,
}

/// Photos to look for faces in.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = DetectRequest, example = json!({"images": [{"data": "/9j/4AAQSkZJRg=="}]}))]
pub struct DetectBody {
    /// Photos.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 64)]
    pub images: Vec<ImageItem>,
    /// Lowest detector score (0.1 to 1) of a face; the server's where left out.
    #[schema(minimum = 0.1, maximum = 1.0, nullable = false)]
    pub min_score: Option<f32>,
    /// Who looks for faces; the server's choice where left out.
    #[schema(nullable = false)]
    pub detector: Option<DetectorName>,
}

impl Body for DetectBody {
    type Params = DetectParams;

    fn take(&mut self) -> (Vec<ImageItem>, Vec<EmbeddingItem>) {
        (std::mem::take(&mut self.images), Vec::new())
    }

    fn fill(&mut self, params: DetectParams) -> Result<(), Problem> {
        self.min_score = self.min_score.or(params.min_score);
        self.detector = self.detector.or(params.detector);
        if self.min_score.is_some_and(|score| !(0.1..=1.0).contains(&score)) {
            return Err(Problem::with(Code::InvalidRequest, "min_score is a number from 0.1 to 1"));
        }
        Ok(())
    }
}

/// The faces of one image.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = DetectedImage)]
pub struct ImageFaces {
    /// Which image of the request, from 0.
    pub image: usize,
    /// Width of the upright photo in pixels; absent when it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub width: Option<u32>,
    /// Height of the upright photo in pixels; absent when it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub height: Option<u32>,
    /// Best score first; empty when there is none.
    pub faces: Vec<FaceFound>,
    /// Why the image could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub problem: Option<Problem>,
}

/// The faces of the images of a request.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Detection)]
pub struct DetectionView {
    /// In the order of the request.
    pub images: Vec<ImageFaces>,
    /// Milliseconds by stage.
    pub timings_ms: TimingsMs,
}

/// Finds the faces of photos. A photo without a face is no error here; one that cannot be read is, when it is alone.
#[utoipa::path(post, path = "/v1/detect", operation_id = "detect", tag = "faces",
    params(DetectParams),
    request_body(content((DetectBody = "application/json"), (ImageForm = "multipart/form-data"),
        (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"))),
    responses((status = 200, description = "The faces of each image.", body = DetectionView)),
    extensions(("x-images" = json!("photos"))))]
pub async fn detect(State(app): State<App>, submission: Submission<DetectBody>) -> Result<impl IntoResponse, Problem> {
    let started = Instant::now();
    let defaults = app.config.detect_options();
    let options = DetectOptions {
        detector: submission.options.detector.map_or(defaults.detector, Into::into),
        min_score: submission.options.min_score.unwrap_or(defaults.min_score),
        ..defaults
    };
    let examined = detect_all(&app, submission.items, options).await?.or_problem()?;
    let images = examined
        .images
        .into_iter()
        .enumerate()
        .map(|(image, result)| match result {
            Ok(found) => ImageFaces {
                image,
                width: Some(found.width),
                height: Some(found.height),
                faces: found.faces.iter().map(FaceFound::from).collect(),
                problem: None,
            },
            Err(problem) => ImageFaces { image, width: None, height: None, faces: Vec::new(), problem: Some(problem) },
        })
        .collect();
    let timings_ms = TimingsMs { total: since(started), ..examined.timings };
    Ok(axum::Json(DetectionView { images, timings_ms }))
}
