//! Face detection: from photos to boxes, landmarks and scores.
//!
//! [`Detector`] is what the rest of the engine uses, [`Detectors`] its implementation, which chooses by
//! [`DetectOptions::detector`]. [`YuNetDetector`] is the YuNet network ([`yunet`]), its outputs turned into candidates
//! ([`decode`]), overlaps removed ([`nms`]), and the scales and tiles over which large photos are scanned
//! ([`pyramid`]). [`mtcnn`] is the other one, for whoever must work as the AdaFace repository does.

pub mod decode;
mod detectors;
pub mod mtcnn;
pub mod nms;
pub mod pyramid;
pub mod yunet;

use candle_core::Device;
use image::RgbImage;

use crate::face::DetectedFace;
use crate::kernel::conv::Arithmetic;
use crate::model::{WeightsError, weights};
pub use detectors::{DetectorKind, Detectors};
use yunet::YuNet;

/// Why detection failed.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The weights do not fit the network.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The network failed.
    #[error("the detector failed: {0}")]
    Compute(#[from] candle_core::Error),
    /// A photo could not be scaled.
    #[error("a photo cannot be scaled: {0}")]
    Resize(String),
}

/// What counts as a face.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DetectOptions {
    /// Who looks.
    pub detector: DetectorKind,
    /// Lowest score, 0 to 1.
    pub min_score: f32,
    /// Of two boxes that overlap more than this (intersection over union), the one with the lower score is dropped. MTCNN
    /// has limits of its own.
    pub nms: f32,
    /// Smallest box: its shorter side in pixels of the photo. MTCNN looks for none below 20.
    pub min_size_px: f32,
    /// Most faces of a photo, the best first. `None` is no limit.
    pub max_faces: Option<usize>,
}

impl Default for DetectOptions {
    fn default() -> Self {
        Self { detector: DetectorKind::Yunet, min_score: 0.6, nms: 0.3, min_size_px: 0.0, max_faces: None }
    }
}

/// Finds faces.
pub trait Detector: Send + Sync {
    /// The faces of each photo, by descending score. A photo without faces gives an empty list.
    fn detect(&self, photos: &[&RgbImage], options: &DetectOptions) -> Result<Vec<Vec<DetectedFace>>, DetectError>;
}

const EMBEDDED_WEIGHTS: &[u8] = include_bytes!("../../assets/yunet_2023mar.safetensors");

/// YuNet over an image pyramid.
#[derive(Debug)]
pub struct YuNetDetector {
    network: YuNet,
}

impl YuNetDetector {
    /// The detector that is compiled in.
    pub fn embedded(device: &Device) -> Result<Self, DetectError> {
        Self::embedded_with(device, Arithmetic::for_device(device))
    }

    /// The detector that is compiled in, with the given implementation.
    pub fn embedded_with(device: &Device, arithmetic: Arithmetic) -> Result<Self, DetectError> {
        let vb = weights::load(EMBEDDED_WEIGHTS, &yunet::tensors(), device)?;
        Ok(Self { network: YuNet::new(&vb, device, arithmetic)? })
    }

    /// The network.
    pub fn network(&self) -> &YuNet {
        &self.network
    }
}

impl Detector for YuNetDetector {
    fn detect(&self, photos: &[&RgbImage], options: &DetectOptions) -> Result<Vec<Vec<DetectedFace>>, DetectError> {
        pyramid::scan(&self.network, photos, options)
    }
}

#[cfg(test)]
mod tests;
