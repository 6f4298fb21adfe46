//! Images and embeddings as requests bring them.
//!
//! An operation on images takes any of these bodies, and the same options with each:
//!
//! | media type | images | options |
//! |---|---|---|
//! | `image/jpeg`, `image/png`, `image/webp`, `application/octet-stream` | the body is one image | query parameters |
//! | `multipart/form-data` | each `image` part is one; a `crop` part is an aligned crop | query parameters and text parts |
//! | `application/json` | `images`, `embeddings` | query parameters and members; members win |

use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, FromRequestParts, Multipart, Request};
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vultus_engine::ids::MediaId;

use super::{Query, media_type, parse_json, read_body};
use crate::app::App;
use crate::problem::{Code, Problem};

/// An image in JSON.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Image)]
pub struct ImageItem {
    /// The file (JPEG, PNG or WebP) in base64.
    #[schema(content_encoding = "base64", example = "/9j/4AAQSkZJRg==")]
    pub data: String,
    /// The photo or video it comes from: 1 to 256 bytes. Left out, each image is a media of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256, example = "camera-3/000017", nullable = false)]
    pub media: Option<String>,
    /// The image is a 112×112 crop that was aligned already; no face is looked for.
    #[serde(default)]
    pub aligned: bool,
}

/// A ready embedding in JSON.
#[derive(Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Embedding)]
pub struct EmbeddingItem {
    /// The unit vector, as `/v1/embed` gave it.
    #[schema(min_items = 1, max_items = 4096)]
    pub embedding: Vec<f32>,
    /// The length of the raw feature, as `/v1/embed` gave it.
    #[schema(exclusive_minimum = 0.0, example = 68.8)]
    pub norm: f32,
    /// The model that made it, as `/v1/embed` gave it.
    #[schema(example = "mobilefacenet-17d5763f9ac4054b")]
    pub model_id: String,
    /// The photo or video it comes from: 1 to 256 bytes. Left out, each embedding is a media of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 256, nullable = false)]
    pub media: Option<String>,
}

/// One thing a request brings to be worked on.
pub enum Item {
    /// An encoded image.
    Image {
        /// The file.
        bytes: Vec<u8>,
        /// The photo or video it comes from.
        media: MediaId,
        /// A 112×112 crop, aligned already.
        aligned: bool,
    },
    /// A ready embedding.
    Embedding {
        /// Embedding, norm and model id.
        item: EmbeddingItem,
        /// The photo or video it comes from.
        media: MediaId,
    },
}

/// A JSON body that holds images and options.
pub trait Body: DeserializeOwned + Default + Send + 'static {
    /// The same options as query parameters.
    type Params: DeserializeOwned + Default + Send + 'static;

    /// Images and embeddings, taken out.
    fn take(&mut self) -> (Vec<ImageItem>, Vec<EmbeddingItem>);

    /// Fills in from the parameters what the body leaves open.
    fn fill(&mut self, params: Self::Params) -> Result<(), Problem>;

    /// Most embeddings of a request; as many as images where left out.
    const MAX_EMBEDDINGS: Option<usize> = None;

    /// Whether the options name a probe that is held already, so that the request brings none.
    fn names_probe(&self) -> bool {
        false
    }

    /// Parameters that say something of the images themselves.
    fn image_params(params: &Self::Params) -> ImageParams {
        let _ = params;
        ImageParams::default()
    }
}

/// What parameters can say of the images of a raw or multipart body.
#[derive(Debug, Clone, Default)]
pub struct ImageParams {
    /// The photo or video all of them come from.
    pub media: Option<String>,
    /// They are aligned crops.
    pub aligned: bool,
}

/// A request's images and options.
pub struct Submission<B> {
    /// What was brought: at least one, unless the options name a probe.
    pub items: Vec<Item>,
    /// The options.
    pub options: B,
}

impl<B: Body> FromRequest<App> for Submission<B> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let Query(params) = Query::<B::Params>::from_request_parts(&mut parts, app).await?;
        let media = media_type(&parts.headers).unwrap_or_default();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let request = Request::from_parts(parts, body);
        let submission = match media.as_str() {
            "application/json" => Self::from_json(&read_body(request, app).await?, params)?,
            "multipart/form-data" => Self::from_multipart(request, app, &query).await?,
            "application/octet-stream" => Self::from_image(read_body(request, app).await?.into(), params)?,
            image if image.starts_with("image/") => Self::from_image(read_body(request, app).await?.into(), params)?,
            _ => {
                return Err(Problem::with(
                    Code::UnsupportedMediaType,
                    "this operation takes image/jpeg, image/png, image/webp, multipart/form-data or application/json",
                ));
            }
        };
        let limit = app.config.limits.max_images_per_request;
        let named = submission.options.names_probe();
        let ready = |item: &&Item| matches!(item, Item::Embedding { .. });
        let embeddings = B::MAX_EMBEDDINGS.map_or(0, |_| submission.items.iter().filter(ready).count());
        if let Some(most) = B::MAX_EMBEDDINGS.filter(|most| embeddings > *most) {
            return Err(Problem {
                required: Some(most as f64),
                ..Problem::with(Code::TooManyImages, format!("{embeddings} embeddings; at most {most} are taken"))
            });
        }
        match submission.items.len() - embeddings {
            0 if named && submission.items.is_empty() => Ok(submission),
            _ if named => {
                let detail = "a probe is a template, a track, or what the request brings; only one of them";
                Err(Problem::with(Code::InvalidRequest, detail))
            }
            0 if embeddings > 0 => Ok(submission),
            0 => Err(Problem::with(Code::InvalidRequest, "the request brings no image and no embedding")),
            n if n > limit => Err(Problem {
                required: Some(limit as f64),
                ..Problem::with(Code::TooManyImages, format!("{n} images; at most {limit} are taken"))
            }),
            _ => Ok(submission),
        }
    }
}

impl<B: Body> Submission<B> {
    fn from_json(body: &[u8], params: B::Params) -> Result<Self, Problem> {
        let mut options: B = parse_json(body)?;
        let (images, embeddings) = options.take();
        options.fill(params)?;
        let mut items = Vec::with_capacity(images.len() + embeddings.len());
        for (index, image) in images.into_iter().enumerate() {
            // Tools wrap lines of base64, which changes nothing.
            let data: Vec<u8> = image.data.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
            let bytes = STANDARD
                .decode(data)
                .map_err(|_| Problem::with(Code::InvalidRequest, "images: data is not base64").at_image(index))?;
            items.push(Item::Image { bytes, media: media_id(image.media)?, aligned: image.aligned });
        }
        for mut item in embeddings {
            let media = media_id(item.media.take())?;
            items.push(Item::Embedding { item, media });
        }
        Ok(Self { items, options })
    }

    fn from_image(bytes: Vec<u8>, params: B::Params) -> Result<Self, Problem> {
        let ImageParams { media, aligned } = B::image_params(&params);
        let items = vec![Item::Image { bytes, media: media_id(media)?, aligned }];
        let mut options = B::default();
        options.fill(params)?;
        Ok(Self { items, options })
    }

    async fn from_multipart(request: Request, app: &App, query: &str) -> Result<Self, Problem> {
        let mut form = Multipart::from_request(request, app)
            .await
            .map_err(|rejection| Problem::with(Code::MalformedBody, rejection.body_text()))?;
        let max_images = app.config.limits.max_images_per_request;
        let (mut images, mut text_parts) = (Vec::new(), 0);
        let mut pairs = query.to_owned();
        while let Some(field) = form.next_field().await.map_err(|error| multipart_problem(&error))? {
            let name = field.name().unwrap_or_default().to_owned();
            let is_file = field.file_name().is_some();
            let bytes = field_bytes(field).await?;
            if name == "image" || name == "crop" {
                images.push((bytes, name == "crop"));
                if images.len() > max_images {
                    return Err(Problem { required: Some(max_images as f64), ..Problem::new(Code::TooManyImages) });
                }
                continue;
            }
            if is_file {
                let detail = format!("part {name:?} is not known; images come in parts named `image`, crops in `crop`");
                return Err(Problem::with(Code::InvalidRequest, detail));
            }
            text_parts += 1;
            if text_parts > MAX_TEXT_PARTS {
                return Err(Problem::with(Code::InvalidRequest, "the form has too many parts"));
            }
            let text = String::from_utf8(bytes)
                .map_err(|_| Problem::with(Code::InvalidRequest, format!("part {name:?} is not text")))?;
            let pair = serde_urlencoded::to_string([(name, text)]).unwrap_or_default();
            pairs = if pairs.is_empty() { pair } else { format!("{pairs}&{pair}") };
        }
        let params: B::Params = serde_urlencoded::from_str(&pairs)
            .map_err(|error| Problem::with(Code::InvalidRequest, error.to_string()))?;
        let ImageParams { media, aligned } = B::image_params(&params);
        let mut items = Vec::with_capacity(images.len());
        for (bytes, crop) in images {
            items.push(Item::Image { bytes, media: media_id(media.clone())?, aligned: aligned || crop });
        }
        let mut options = B::default();
        options.fill(params)?;
        Ok(Self { items, options })
    }
}

/// Most parts of a form that are not images.
const MAX_TEXT_PARTS: usize = 32;

async fn field_bytes(field: Field<'_>) -> Result<Vec<u8>, Problem> {
    Ok(field.bytes().await.map_err(|error| multipart_problem(&error))?.into())
}

fn multipart_problem(error: &MultipartError) -> Problem {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Problem::new(Code::BodyTooLarge)
    } else {
        Problem::with(Code::MalformedBody, error.body_text())
    }
}

fn media_id(given: Option<String>) -> Result<MediaId, Problem> {
    given.map_or_else(
        || Ok(MediaId::generate()),
        |text| MediaId::try_from(text).map_err(|error| Problem::with(Code::InvalidRequest, error.to_string())),
    )
}
