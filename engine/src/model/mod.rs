//! Recognition models: from aligned crops to features.
//!
//! A [`Model`] is weights plus [`Manifest`] plus the flip setting. Its id names all three, because features of
//! different models, or of one model with and without flip fusion, must never be compared. Crops go in as RGB; the
//! colour order and scale that the network wants are applied in one place ([`Model::extract`]).
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use vultus_engine::{align::AlignedCrop, model::Model};
//! let model = Model::embedded(true, &candle_core::Device::Cpu)?;
//! let crop = AlignedCrop::new(image::open("crop.png")?.to_rgb8())?;
//! let features = model.extract(&[crop])?;
//! println!("{} {}", model.id(), features[0].norm);
//! # Ok(())
//! # }
//! ```

mod architecture;
pub mod caface;
mod device;
#[cfg(test)]
pub(crate) mod fill;
mod impostor;
pub mod ir;
pub mod manifest;
pub mod mobilefacenet;
pub mod vit;
pub mod weights;

use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};

pub use architecture::{Architecture, UnknownArchitecture};
pub use device::{DeviceError, select_device};
pub use impostor::ImpostorScores;
pub use manifest::{Color, ImpostorScore, Manifest};
pub use weights::WeightsError;

use crate::align::{AlignedCrop, REFERENCE, SIZE};
use crate::face::{Feature, Landmarks};
use crate::ids::ModelId;
pub use crate::kernel::conv::Arithmetic;
use crate::quality::NormStats;
use ir::{Ir, IrError};
use mobilefacenet::{MobileFaceNet, Variant};
use vit::Vit;

/// Most images in one forward pass; longer lists are split. It bounds the memory of a call.
const MAX_BATCH: usize = 32;

const EMBEDDED_WEIGHTS: &[u8] = include_bytes!("../../assets/mobilefacenet.safetensors");
const EMBEDDED_MANIFEST: &str = include_str!("../../assets/mobilefacenet.json");

/// Input of a [`Backbone`].
#[derive(Debug, Clone)]
pub struct Batch {
    /// (N, 3, 112, 112), normalised and in the colour order of the manifest.
    pub pixels: Tensor,
    /// (N, 5, 2) landmarks in the crop, for networks that look at them.
    pub landmarks: Option<Tensor>,
}

/// A network: a batch to raw features, neither normalised nor fused.
pub trait Backbone: Send + Sync {
    /// Raw features (N, dim), f32, on the device of the batch.
    fn forward(&self, batch: &Batch) -> candle_core::Result<Tensor>;

    /// As [`Backbone::forward`], and the style of each face for set fusion: mean and standard deviation of channels of
    /// inner maps, (N, 384, 2). Only some networks have one.
    fn forward_with_style(&self, batch: &Batch) -> candle_core::Result<(Tensor, Option<Tensor>)> {
        Ok((self.forward(batch)?, None))
    }

    /// Length of a feature.
    fn dim(&self) -> usize;
}

/// Why a model cannot be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The manifest is not JSON of the right form.
    #[error("the manifest cannot be read: {0}")]
    ManifestSyntax(#[from] serde_json::Error),
    /// The manifest holds a value that cannot work.
    #[error("the manifest is wrong: {0}")]
    ManifestValue(String),
    /// The weights are not the ones of the manifest.
    #[error("the weights have the SHA-256 {found}, the manifest says {expected}")]
    Checksum {
        /// In the manifest.
        expected: String,
        /// Of the file.
        found: String,
    },
    /// The weights do not fit the network.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The manifest has no norm statistics for flip fusion.
    #[error("model {0} has no norm statistics for flip fusion")]
    NoFlip(String),
    /// The network failed.
    #[error("the network failed: {0}")]
    Compute(#[from] candle_core::Error),
    /// The feature of a crop is zero or not finite.
    #[error("the feature of crop {index} is zero or not finite")]
    UnusableFeature {
        /// Position of the crop in the call.
        index: usize,
    },
}

impl From<IrError> for ModelError {
    fn from(error: IrError) -> Self {
        match error {
            IrError::Weights(error) => Self::Weights(error),
            IrError::Compute(error) => Self::Compute(error),
            IrError::Architecture(_) => Self::Compute(candle_core::Error::wrap(error)),
        }
    }
}

/// A feature and how it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct StyledFeature {
    /// Direction and norm.
    pub feature: Feature,
    /// (384, 2) row by row, for [`caface`]. Networks without a style have none.
    pub style: Option<Vec<f32>>,
}

/// A network ready for use.
pub struct Model {
    manifest: Manifest,
    id: ModelId,
    flip: bool,
    norm_stats: NormStats,
    device: Device,
    backbone: Box<dyn Backbone>,
    /// (byte - mean) * scale for each byte.
    levels: [f32; 256],
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("id", &self.id).field("device", &self.device).finish_non_exhaustive()
    }
}

impl Model {
    /// The model that is compiled in.
    pub fn embedded(flip: bool, device: &Device) -> Result<Self, ModelError> {
        Self::embedded_with(flip, device, Arithmetic::for_device(device))
    }

    /// The model that is compiled in, with the given implementation.
    pub fn embedded_with(flip: bool, device: &Device, arithmetic: Arithmetic) -> Result<Self, ModelError> {
        Self::from_parts(EMBEDDED_WEIGHTS, EMBEDDED_MANIFEST, flip, device, arithmetic)
    }

    /// A model from a safetensors file and the manifest beside it (same name, extension `json`).
    pub fn from_file(weights: &Path, flip: bool, device: &Device) -> Result<Self, ModelError> {
        let manifest_path = weights.with_extension("json");
        let manifest = std::fs::read_to_string(&manifest_path)
            .map_err(|source| ModelError::Io { path: manifest_path.clone(), source })?;
        let bytes = std::fs::read(weights).map_err(|source| ModelError::Io { path: weights.to_path_buf(), source })?;
        Self::from_parts(&bytes, &manifest, flip, device, Arithmetic::for_device(device))
    }

    /// A model from the bytes of a safetensors file and of its manifest.
    pub fn from_parts(
        weights: &[u8],
        manifest: &str,
        flip: bool,
        device: &Device,
        arithmetic: Arithmetic,
    ) -> Result<Self, ModelError> {
        let manifest: Manifest = serde_json::from_str(manifest)?;
        manifest.check().map_err(ModelError::ManifestValue)?;
        let found: String = Sha256::digest(weights).iter().map(|byte| format!("{byte:02x}")).collect();
        if found != manifest.sha256 {
            return Err(ModelError::Checksum { expected: manifest.sha256, found });
        }
        let norm_stats = match (flip, manifest.norm.flip) {
            (false, _) => manifest.norm.plain,
            (true, Some(stats)) => stats,
            (true, None) => return Err(ModelError::NoFlip(manifest.name)),
        };
        let backbone = build(manifest.architecture, manifest.dim, weights, device, arithmetic)?;
        let suffix = if flip { "+flip" } else { "" };
        let id = ModelId(format!("{}-{}{suffix}", manifest.name, &found[..16]));
        let mut levels = [0f32; 256];
        for (byte, level) in levels.iter_mut().enumerate() {
            *level = (byte as f32 - manifest.input.mean) * manifest.input.scale;
        }
        Ok(Self { manifest, id, flip, norm_stats, device: device.clone(), backbone, levels })
    }

    /// Names the embedding space: name, first 16 hex digits of the weights' SHA-256, `+flip` with flip fusion.
    pub fn id(&self) -> &ModelId {
        &self.id
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Length of an embedding.
    pub fn dim(&self) -> usize {
        self.backbone.dim()
    }

    /// Whether the features of a crop and of its mirror image are added.
    pub fn flip(&self) -> bool {
        self.flip
    }

    /// Where the network runs.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Norms of ordinary portraits under this model's flip setting.
    pub fn norm_stats(&self) -> NormStats {
        self.norm_stats
    }

    /// The manifest's impostor scores under this model's flip setting.
    pub fn impostor_scores(&self) -> ImpostorScores {
        self.manifest.impostor_scores.iter().copied().filter(|score| score.flip == self.flip).collect()
    }

    /// The feature of each crop, in order. With flip fusion the raw features of crop and mirror image are added
    /// before direction and norm are taken.
    pub fn extract(&self, crops: &[AlignedCrop]) -> Result<Vec<Feature>, ModelError> {
        let raw = self.raw_features(crops)?;
        let feature = |(index, raw)| Feature::from_raw(raw).ok_or(ModelError::UnusableFeature { index });
        raw.into_iter().enumerate().map(feature).collect()
    }

    /// As [`Model::extract`], each feature with the style of its crop as it is, not mirrored.
    pub fn extract_with_style(&self, crops: &[AlignedCrop]) -> Result<Vec<StyledFeature>, ModelError> {
        let raw = self.raw(crops, true)?;
        let feature = |(index, raw): (usize, Raw)| {
            let feature = Feature::from_raw(raw.feature).ok_or(ModelError::UnusableFeature { index })?;
            Ok(StyledFeature { feature, style: raw.style })
        };
        raw.into_iter().enumerate().map(feature).collect()
    }

    /// As [`Model::extract`], not yet split into direction and norm.
    pub(crate) fn raw_features(&self, crops: &[AlignedCrop]) -> Result<Vec<Vec<f32>>, ModelError> {
        Ok(self.raw(crops, false)?.into_iter().map(|raw| raw.feature).collect())
    }

    fn raw(&self, crops: &[AlignedCrop], with_style: bool) -> Result<Vec<Raw>, ModelError> {
        let mut all = Vec::with_capacity(crops.len());
        let crops_at_once = if self.flip { MAX_BATCH / 2 } else { MAX_BATCH };
        for crops in crops.chunks(crops_at_once) {
            let mut images: Vec<(&AlignedCrop, bool)> = crops.iter().map(|crop| (crop, false)).collect();
            if self.flip {
                images.extend(crops.iter().map(|crop| (crop, true)));
            }
            let batch = self.batch(&images)?;
            let (raw, styles) = match with_style {
                true => self.backbone.forward_with_style(&batch)?,
                false => (self.backbone.forward(&batch)?, None),
            };
            let raw = raw.to_vec2::<f32>()?;
            let styles = styles.map(|styles| styles.flatten_from(1)?.to_vec2::<f32>()).transpose()?;
            let mut styles = styles.into_iter().flatten();
            let (plain, mirrored) = raw.split_at(crops.len());
            all.extend(plain.iter().enumerate().map(|(index, raw)| {
                let feature = match mirrored.get(index) {
                    Some(other) => raw.iter().zip(other).map(|(a, b)| a + b).collect(),
                    None => raw.clone(),
                };
                Raw { feature, style: styles.next() }
            }));
        }
        Ok(all)
    }

    /// Bytes to what the network wants: planes in its colour order, scaled, mirrored where asked. The only place
    /// where colour order and scale are applied.
    fn batch(&self, images: &[(&AlignedCrop, bool)]) -> candle_core::Result<Batch> {
        let side = SIZE as usize;
        let plane = side * side;
        let order = match self.manifest.input.color {
            Color::Rgb => [0, 1, 2],
            Color::Bgr => [2, 1, 0],
        };
        let mut pixels = vec![0f32; images.len() * 3 * plane];
        for ((crop, mirrored), planes) in images.iter().zip(pixels.chunks_exact_mut(3 * plane)) {
            for (at, rgb) in crop.image().as_raw().chunks_exact(3).enumerate() {
                let (row, column) = (at / side, at % side);
                let column = if *mirrored { side - 1 - column } else { column };
                for (channel, source) in order.into_iter().enumerate() {
                    planes[channel * plane + row * side + column] = self.levels[usize::from(rgb[source])];
                }
            }
        }
        let pixels = Tensor::from_vec(pixels, (images.len(), 3, side, side), &self.device)?;
        let landmarks = if self.manifest.architecture.needs_landmarks() {
            let points: Vec<f32> = images.iter().flat_map(|(crop, mirrored)| landmarks(crop, *mirrored)).collect();
            Some(Tensor::from_vec(points, (images.len(), 5, 2), &self.device)?)
        } else {
            None
        };
        Ok(Batch { pixels, landmarks })
    }
}

/// Landmarks of a crop or of its mirror image, x before y. A crop that came without has them where alignment puts them.
fn landmarks(crop: &AlignedCrop, mirrored: bool) -> [f32; 10] {
    let landmarks = crop.landmarks().copied().unwrap_or(Landmarks(REFERENCE));
    let landmarks = if mirrored { landmarks.mirrored(SIZE) } else { landmarks };
    let mut points = [0.0; 10];
    for (to, from) in points.iter_mut().zip(landmarks.0.iter().flatten()) {
        *to = *from;
    }
    points
}

/// What comes out of the network for one crop.
struct Raw {
    feature: Vec<f32>,
    style: Option<Vec<f32>>,
}

/// The network of an architecture with the weights of a safetensors file.
fn build(
    architecture: Architecture,
    dim: usize,
    weights: &[u8],
    device: &Device,
    arithmetic: Arithmetic,
) -> Result<Box<dyn Backbone>, ModelError> {
    let vb = weights::load(weights, &architecture.tensors(dim), device)?;
    Ok(match architecture {
        Architecture::Mobilefacenet => Box::new(MobileFaceNet::new(Variant::Tf, dim, &vb, device, arithmetic)?),
        Architecture::MobilefacenetY1 => Box::new(MobileFaceNet::new(Variant::Y1, dim, &vb, device, arithmetic)?),
        Architecture::Ir18
        | Architecture::Ir34
        | Architecture::Ir50
        | Architecture::Ir101
        | Architecture::Ir152
        | Architecture::Ir200
        | Architecture::IrSe50
        | Architecture::IrSe101 => Box::new(Ir::new(architecture, dim, &vb, device, arithmetic)?),
        Architecture::VitBase | Architecture::VitBaseKprpe => {
            Box::new(Vit::new(architecture.needs_landmarks(), dim, &vb)?)
        }
    })
}

#[cfg(test)]
mod tests;
