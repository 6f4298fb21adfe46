//! From photos to features with the engine's own detector, aligner and models.

use std::path::{Path, PathBuf};

use image::RgbImage;
use rayon::prelude::*;
use vultus_engine::align::AlignedCrop;
use vultus_engine::detect::{DetectOptions, Detector, DetectorKind, Detectors};
use vultus_engine::face::{DetectedFace, Feature};
use vultus_engine::image::{DecodeError, DecodeLimits, decode};
use vultus_engine::model::{Device, Model, ModelError};

use super::fusion::Normed;
use super::{EvalError, Rows};

/// Crops that go through the network at once.
pub const BATCH: usize = 64;

/// Why a photo gives no feature, apart from showing no face.
#[derive(Debug, thiserror::Error)]
pub enum FaceError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no whole image.
    #[error("{}: {source}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        source: DecodeError,
    },
    /// An image of a set is no whole one.
    #[error("image {number}: {source}")]
    Decode {
        /// Which, from 0.
        number: usize,
        /// Why.
        source: DecodeError,
    },
    /// The detector failed.
    #[error(transparent)]
    Detect(#[from] vultus_engine::detect::DetectError),
    /// The crop cannot be made.
    #[error(transparent)]
    Align(#[from] vultus_engine::align::AlignError),
    /// The network failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// Reads an image file as upright RGB.
///
/// # Errors
/// [`FaceError::Io`], [`FaceError::Damaged`].
pub fn read_photo(path: &Path) -> Result<RgbImage, FaceError> {
    let bytes = std::fs::read(path).map_err(|source| FaceError::Io { path: path.to_path_buf(), source })?;
    decode(&bytes, &DecodeLimits::default()).map_err(|source| FaceError::Damaged { path: path.to_path_buf(), source })
}

/// Finds the main face of photos and aligns it.
#[derive(Debug)]
pub struct Finder {
    detectors: Detectors,
    options: DetectOptions,
}

impl Finder {
    /// With a detector that is compiled into the engine.
    ///
    /// # Errors
    /// [`FaceError::Detect`].
    pub fn new(detector: DetectorKind, device: &Device) -> Result<Self, FaceError> {
        let options = DetectOptions { detector, ..DetectOptions::default() };
        Ok(Self { detectors: Detectors::embedded(device)?, options })
    }

    /// The aligned main face of a photo. `None` where no face is found, or none that can be aligned.
    ///
    /// # Errors
    /// [`FaceError::Detect`].
    pub fn crop(&self, photo: &RgbImage) -> Result<Option<AlignedCrop>, FaceError> {
        let faces = self.detectors.detect(&[photo], &self.options)?.pop().unwrap_or_default();
        let face = main_face(&faces, photo.width(), photo.height());
        Ok(face.and_then(|face| self.options.detector.align(photo, &face.landmarks).ok()))
    }
}

/// The large and central face that a photo is of: area minus twice the squared distance of its centre from the photo's. Of
/// several the one that the detector is surest of.
pub fn main_face(faces: &[DetectedFace], width: u32, height: u32) -> Option<&DetectedFace> {
    let worth = |face: &DetectedFace| {
        let [x, y] = face.bbox.centre();
        face.bbox.area() - 2.0 * ((x - width as f32 / 2.0).powi(2) + (y - height as f32 / 2.0).powi(2))
    };
    // Faces come best score first, and only a strictly better one displaces an earlier.
    faces.iter().reduce(|best, face| if worth(face) > worth(best) { face } else { best })
}

/// Features of crops; `None` for a crop whose feature is zero or not finite.
///
/// # Errors
/// [`FaceError::Model`].
pub fn features(model: &Model, crops: &[AlignedCrop]) -> Result<Vec<Option<Feature>>, FaceError> {
    let mut found = Vec::with_capacity(crops.len());
    for batch in crops.chunks(BATCH) {
        match model.extract(batch) {
            Ok(features) => found.extend(features.into_iter().map(Some)),
            // One crop without a usable feature does not spoil the others.
            Err(ModelError::UnusableFeature { .. }) => {
                for crop in batch {
                    found.push(match model.extract(std::slice::from_ref(crop)) {
                        Ok(mut features) => features.pop(),
                        Err(ModelError::UnusableFeature { .. }) => None,
                        Err(error) => return Err(error.into()),
                    });
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// Features of whatever `crop` makes of each item, on all cores, in order. `None` where there is no crop or no feature.
/// `done` is told how many more items are finished.
///
/// # Errors
/// The first that `crop` or the network reports.
pub fn features_of<I: Sync>(
    model: &Model,
    items: &[I],
    crop: impl Fn(&I) -> Result<Option<AlignedCrop>, FaceError> + Sync,
    done: impl Fn(usize),
) -> Result<Vec<Option<Feature>>, FaceError> {
    let mut all = Vec::with_capacity(items.len());
    for block in items.chunks(BATCH) {
        let crops: Vec<Option<AlignedCrop>> = block.par_iter().map(&crop).collect::<Result<_, _>>()?;
        let there: Vec<AlignedCrop> = crops.iter().flatten().cloned().collect();
        let mut found = features(model, &there)?.into_iter();
        all.extend(crops.iter().map(|crop| crop.as_ref().and_then(|_| found.next().flatten())));
        done(block.len());
    }
    Ok(all)
}

/// Unit vectors and norms of features; zeros for those that are missing.
///
/// # Errors
/// [`EvalError::None`] without features, [`EvalError::Length`] for features of another length than `dim`.
pub fn normed(features: &[Option<Feature>], dim: usize) -> Result<Normed, EvalError> {
    let zeros = vec![0.0; dim];
    let mut values = Vec::with_capacity(features.len() * dim);
    for feature in features {
        let row = feature.as_ref().map_or(&zeros, |feature| &feature.embedding);
        super::error::check_length("values of a feature", row.len(), dim)?;
        values.extend_from_slice(row);
    }
    let norms = features.iter().map(|feature| feature.as_ref().map_or(0.0, |feature| feature.norm)).collect();
    Normed::new(Rows::new("feature", dim, values)?, norms)
}

/// Flip fusion as the engine does it: the raw features of a crop and of its mirror image are added. `None` where they
/// cancel out.
pub fn with_mirrored(plain: &Feature, flipped: &Feature) -> Option<Feature> {
    let raw = |feature: &Feature| feature.embedding.iter().map(|value| value * feature.norm).collect::<Vec<f32>>();
    let sum: Vec<f32> = raw(plain).iter().zip(raw(flipped)).map(|(a, b)| a + b).collect();
    let norm = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
    let embedding = sum.iter().map(|value| value / norm).collect();
    (norm.is_finite() && norm > 1e-6).then_some(Feature { embedding, norm, style: None })
}

/// The mirror image of a crop.
///
/// # Errors
/// [`FaceError::Align`], which cannot happen: the size stays.
pub fn mirrored(crop: &AlignedCrop) -> Result<AlignedCrop, FaceError> {
    let flipped = AlignedCrop::new(image::imageops::flip_horizontal(crop.image()))?;
    Ok(match crop.landmarks() {
        Some(landmarks) => flipped.with_landmarks(landmarks.mirrored(crop.image().width())),
        None => flipped,
    })
}
