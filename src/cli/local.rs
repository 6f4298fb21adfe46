//! The networks without a server, for `detect`, `embed` and `verify`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use image::RgbImage;
use vultus_engine::align::{AlignedCrop, align};
use vultus_engine::detect::DetectOptions;
use vultus_engine::face::{DetectedFace, Feature};
use vultus_engine::image::{DecodeLimits, decode};
use vultus_engine::infer::Pipeline;

use crate::config::Settings;
use crate::problem::Problem;

/// Threads that read images and wait for the networks.
pub(super) fn threads() -> usize {
    2 * std::thread::available_parallelism().map_or(2, usize::from)
}

/// Detector and backbone on this thread's terms.
pub(super) struct Local {
    pub(super) pipeline: Pipeline,
    settings: Settings,
}

impl Local {
    /// Starts the networks.
    pub(super) fn start(settings: Settings) -> anyhow::Result<Self> {
        super::serve::init_log(&settings.log);
        Ok(Self { pipeline: crate::server::start_pipeline(&settings)?, settings })
    }

    /// Reads an image file.
    pub(super) fn read(&self, path: &Path) -> anyhow::Result<RgbImage> {
        let bytes = std::fs::read(path).context("cannot be read")?;
        let limits = DecodeLimits {
            max_bytes: self.settings.limits.max_image_bytes,
            max_pixels: self.settings.limits.max_image_pixels,
            ..DecodeLimits::default()
        };
        decode(&bytes, &limits).map_err(|error| Problem::from(error).into())
    }

    /// Finds the faces of a photo, best first.
    pub(super) fn detect(&self, photo: &Arc<RgbImage>) -> anyhow::Result<Vec<DetectedFace>> {
        let options = DetectOptions {
            min_score: self.settings.model.min_detection_score,
            min_size_px: self.settings.model.min_face_px,
            max_faces: Some(self.settings.limits.max_faces_per_image),
            ..DetectOptions::default()
        };
        let permit = self.pipeline.admit(1)?;
        Ok(self.pipeline.detect(&permit, Arc::clone(photo), options).wait()?.output)
    }

    /// Aligns faces of a photo.
    pub(super) fn align(&self, photo: &RgbImage, faces: &[DetectedFace]) -> anyhow::Result<Vec<AlignedCrop>> {
        Ok(faces.iter().map(|face| align(photo, &face.landmarks)).collect::<Result<_, _>>()?)
    }

    /// Embeds aligned crops.
    pub(super) fn embed(&self, crops: Vec<AlignedCrop>) -> anyhow::Result<Vec<Feature>> {
        let permit = self.pipeline.admit(1)?;
        Ok(self.pipeline.embed(&permit, crops).wait()?.output)
    }
}
