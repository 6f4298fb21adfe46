//! From images to faces: decode, detect, choose, align, embed.
//!
//! Every image of a request goes its own way through the stages, so that the networks batch across images and
//! requests alike. The number of decoded photos held at a time is bounded apart from the queue, since one can be large.

use std::sync::Arc;
use std::time::Instant;

use image::RgbImage;
use vultus_engine::align::AlignedCrop;
use vultus_engine::detect::{DetectOptions, DetectorKind};
use vultus_engine::face::{DetectedFace, Feature};
use vultus_engine::ids::MediaId;
use vultus_engine::image::decode;
use vultus_engine::infer::{Embedder, Permit};
use vultus_engine::model::ServedModel;
use vultus_engine::quality::quality;
use vultus_engine::store::{FaceSource, PictureId};

use super::select::Select;
use super::timing::{TimingsMs, ms, since};
use crate::app::App;
use crate::extract::submission::{EmbeddingItem, Item};
use crate::problem::{Code, Problem};

/// Allowed deviation of a given embedding's length from 1.
const UNIT_TOLERANCE: f64 = 1e-3;

/// Which faces of each photo are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// One, by a rule.
    One(Select),
    /// All.
    Every,
}

/// One face with its feature.
pub struct Sample {
    /// Which image of the request, from 0.
    pub image: usize,
    /// The photo or video it comes from.
    pub media: MediaId,
    /// How it came in.
    pub source: FaceSource,
    /// Embedding and norm.
    pub feature: Feature,
    /// CDF of the standardised norm.
    pub quality: f32,
    /// Where it was; `None` for crops and ready embeddings.
    pub detection: Option<DetectedFace>,
    /// The aligned crop; `None` for ready embeddings.
    pub crop: Option<AlignedCrop>,
    /// Names the photo it was found in by the bytes of its file; `None` for crops and ready embeddings.
    pub picture: Option<PictureId>,
}

/// A photo's size and faces.
pub struct Found {
    /// Width of the upright photo in pixels.
    pub width: u32,
    /// Height of the upright photo in pixels.
    pub height: u32,
    /// Best first.
    pub faces: Vec<DetectedFace>,
}

/// What came of the images of a request, one by one.
pub struct Examined<T> {
    /// By image, in the order of the request.
    pub images: Vec<Result<T, Problem>>,
    /// The slowest of each stage.
    pub timings: TimingsMs,
}

impl<T> Examined<T> {
    fn collect(results: Vec<(Result<T, Problem>, TimingsMs)>) -> Self {
        let mut timings = TimingsMs::default();
        let images = results
            .into_iter()
            .enumerate()
            .map(|(index, (result, took))| {
                timings = timings.worst(took);
                result.map_err(|problem| problem.at_image(index))
            })
            .collect();
        Self { images, timings }
    }

    /// Fails with the first image's problem when no image came to anything, or when the server is at fault.
    pub fn or_problem(self) -> Result<Self, Problem> {
        let grave = self.images.iter().filter_map(|r| r.as_ref().err()).find(|p| p.code.status().is_server_error());
        if let Some(problem) = grave {
            return Err(problem.clone());
        }
        match self.images.first() {
            Some(Err(first)) if self.images.iter().all(Result::is_err) => Err(first.clone()),
            _ => Ok(self),
        }
    }
}

/// Finds the faces of every image. Embeddings are refused.
pub async fn detect_all(app: &App, items: Vec<Item>, options: DetectOptions) -> Result<Examined<Found>, Problem> {
    let permit = app.pipeline.admit(items.len())?;
    let each = items.into_iter().map(|item| detect_one(app, &permit, item, options));
    Ok(Examined::collect(futures::future::join_all(each).await))
}

/// How faces become samples.
#[derive(Debug, Clone, Copy)]
pub struct Embedding<'a> {
    /// The backbone.
    pub model: &'a Embedder,
    /// Which faces.
    pub wanted: Wanted,
    /// Who looks for them; the server's choice where left out.
    pub detector: Option<DetectorKind>,
}

impl Embedding<'_> {
    fn detect_options(&self, app: &App) -> DetectOptions {
        let defaults = app.config.detect_options();
        DetectOptions { detector: self.detector.unwrap_or(defaults.detector), ..defaults }
    }
}

/// Embeds the wanted faces of every image.
pub async fn embed_all(app: &App, items: Vec<Item>, how: Embedding<'_>) -> Result<Examined<Vec<Sample>>, Problem> {
    // Ready embeddings need no network, and there can be more of them than permits.
    let images = items.iter().filter(|item| matches!(item, Item::Image { .. })).count();
    let permit = app.pipeline.admit(images)?;
    let each = items.into_iter().enumerate().map(|(index, item)| embed_one(app, &permit, index, item, how));
    Ok(Examined::collect(futures::future::join_all(each).await))
}

/// Embeds samples anew with another backbone, from their crops. Refused when one came in as an embedding, which is of
/// the model it is of.
pub async fn embed_again<'a>(
    app: &App,
    samples: impl Iterator<Item = &'a mut Sample>,
    model: &Embedder,
) -> Result<(), Problem> {
    let mut samples: Vec<&mut Sample> = samples.collect();
    let crops: Option<Vec<AlignedCrop>> = samples.iter().map(|sample| sample.crop.clone()).collect();
    let Some(crops) = crops else {
        return Err(Problem {
            expected_model_id: Some(model.served().id.to_string()),
            ..Problem::new(Code::ModelMismatch)
        });
    };
    let permit = app.pipeline.admit(crops.len())?;
    let features = app.pipeline.embed(&permit, model, crops).done().await?;
    for (sample, feature) in samples.iter_mut().zip(features.output) {
        sample.quality = quality(feature.norm, model.served().norm_stats);
        sample.feature = feature;
    }
    Ok(())
}

fn picture_id(file: &[u8]) -> PictureId {
    let mut id = [0; 16];
    id.copy_from_slice(&blake3::hash(file).as_bytes()[..16]);
    PictureId(id)
}

async fn detect_one(
    app: &App,
    permit: &Permit,
    item: Item,
    options: DetectOptions,
) -> (Result<Found, Problem>, TimingsMs) {
    let mut timings = TimingsMs::default();
    let found = async {
        let Item::Image { bytes, aligned: false, .. } = item else {
            return Err(Problem::with(Code::InvalidRequest, "this operation takes photos, not crops or embeddings"));
        };
        let _slot = app.photo_slot(&bytes).await?;
        let (photo, _) = decode_photo(app, bytes, &mut timings).await?;
        let faces = detect_photo(app, permit, &photo, options, &mut timings).await?;
        Ok(Found { width: photo.width(), height: photo.height(), faces })
    }
    .await;
    (found, timings)
}

async fn embed_one(
    app: &App,
    permit: &Permit,
    image: usize,
    item: Item,
    how: Embedding<'_>,
) -> (Result<Vec<Sample>, Problem>, TimingsMs) {
    let mut timings = TimingsMs::default();
    let model = how.model;
    let samples = async {
        let (bytes, media, aligned) = match item {
            Item::Embedding { item, media } => return Ok(vec![ready(model.served(), image, item, media)?]),
            Item::Image { bytes, media, aligned } => (bytes, media, aligned),
        };
        let (source, picture, crops) = if aligned {
            // What is called a crop can be a picture of any size.
            let _slot = app.photo_slot(&bytes).await?;
            let (picture, _) = decode_photo(app, bytes, &mut timings).await?;
            (FaceSource::Crop, None, vec![(None, aligned_crop(picture)?)])
        } else {
            let (picture, crops) = crops(app, permit, bytes, how, &mut timings).await?;
            (FaceSource::Photo, Some(picture), crops)
        };
        let started = Instant::now();
        let pictures = crops.iter().map(|(_, crop)| crop.clone()).collect();
        let features = app.pipeline.embed(permit, model, pictures).done().await?;
        timings.embed = since(started);
        let stats = model.served().norm_stats;
        Ok(crops
            .into_iter()
            .zip(features.output)
            .map(|((detection, crop), feature)| Sample {
                image,
                media: media.clone(),
                source,
                quality: quality(feature.norm, stats),
                feature,
                detection,
                crop: Some(crop),
                picture,
            })
            .collect())
    }
    .await;
    (samples, timings)
}

/// The photo's name and aligned crops of its wanted faces. The photo is let go before the crops are embedded.
async fn crops(
    app: &App,
    permit: &Permit,
    bytes: Vec<u8>,
    how: Embedding<'_>,
    timings: &mut TimingsMs,
) -> Result<(PictureId, Vec<(Option<DetectedFace>, AlignedCrop)>), Problem> {
    let options = how.detect_options(app);
    let _slot = app.photo_slot(&bytes).await?;
    let (photo, picture) = decode_photo(app, bytes, timings).await?;
    let faces = detect_photo(app, permit, &photo, options, timings).await?;
    let chosen = match how.wanted {
        Wanted::One(select) => vec![select.pick(&faces, photo.width(), photo.height())?],
        Wanted::Every if faces.is_empty() => {
            return Err(Problem::with(Code::NoFace, "no face was found in the image"));
        }
        Wanted::Every => faces,
    };
    let crop = move |face: DetectedFace| Ok((Some(face), options.detector.align(&photo, &face.landmarks)?));
    Ok((picture, app.blocking(move |_| chosen.into_iter().map(crop).collect()).await?))
}

/// Decodes a photo and names it.
async fn decode_photo(
    app: &App,
    bytes: Vec<u8>,
    timings: &mut TimingsMs,
) -> Result<(Arc<RgbImage>, PictureId), Problem> {
    let started = Instant::now();
    let slot = Arc::clone(&app.decode_slots).acquire_owned().await.map_err(Problem::internal)?;
    let decoded = app.blocking(move |app| {
        // Kept by the work itself, which goes on when its request is given up.
        let _slot = slot;
        Ok((Arc::new(decode(&bytes, &app.config.decode_limits())?), picture_id(&bytes)))
    });
    let decoded = decoded.await;
    timings.decode = since(started);
    decoded
}

async fn detect_photo(
    app: &App,
    permit: &Permit,
    photo: &Arc<RgbImage>,
    options: DetectOptions,
    timings: &mut TimingsMs,
) -> Result<Vec<DetectedFace>, Problem> {
    let done = app.pipeline.detect(permit, Arc::clone(photo), options).done().await?;
    timings.detect = ms(done.timing.queued + done.timing.ran);
    Ok(done.output)
}

fn aligned_crop(picture: Arc<RgbImage>) -> Result<AlignedCrop, Problem> {
    let picture = Arc::try_unwrap(picture).unwrap_or_else(|shared| shared.as_ref().clone());
    let (width, height) = picture.dimensions();
    AlignedCrop::new(picture).map_err(|_| {
        Problem::with(Code::InvalidRequest, format!("an aligned crop is 112 by 112 pixels, not {width} by {height}"))
    })
}

/// A ready embedding, checked.
fn ready(model: &ServedModel, image: usize, item: EmbeddingItem, media: MediaId) -> Result<Sample, Problem> {
    if item.model_id != model.id.0 {
        return Err(Problem {
            expected_model_id: Some(model.id.to_string()),
            ..Problem::with(Code::ModelMismatch, format!("the embedding is of model {:.100}", item.model_id))
        });
    }
    if item.embedding.len() != model.dim {
        let (dim, given) = (model.dim, item.embedding.len());
        return Err(Problem::with(Code::InvalidRequest, format!("the embedding has {given} values, not {dim}")));
    }
    if !item.norm.is_finite() || item.norm <= 0.0 {
        return Err(Problem::with(Code::InvalidRequest, "norm is a positive number"));
    }
    let length = item.embedding.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    // Written so that a length that is no number is refused too.
    let unit = (length - 1.0).abs() <= UNIT_TOLERANCE;
    if !unit {
        return Err(Problem::with(Code::InvalidRequest, "the embedding is not a unit vector"));
    }
    // What JSON rounded away is put back, so that stored vectors are unit to f32.
    let embedding = item.embedding.iter().map(|v| (f64::from(*v) / length) as f32).collect();
    Ok(Sample {
        image,
        media,
        source: FaceSource::Embedding,
        quality: quality(item.norm, model.norm_stats),
        feature: Feature { embedding, norm: item.norm, style: None },
        detection: None,
        crop: None,
        picture: None,
    })
}
