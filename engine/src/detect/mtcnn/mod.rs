//! MTCNN, the detector that the authors of AdaFace align with: a pyramid of scales and three networks in a cascade
//! (Zhang, Zhang, Li and Qiao, 2016).
//!
//! It exists in two forms. [`Form::Compat`] does what the published code does, to the pixel: its first network takes the
//! softmax over the columns of a row of cells instead of over the two classes, so that at most one cell of a row can
//! pass, and of several small faces many are missed. [`Form::Correct`] takes it over the classes. Everything else is the
//! same, including what looks odd: boxes that were cut at the photo's edge stay cut.
//!
//! Thresholds are those of the published code; [`DetectOptions::min_score`] applies to the last network's score on top.
//! Smallest faces are 20 pixels, or [`DetectOptions::min_size_px`] if that is more. It decides the finest scale, and with
//! it most of the cost: for a large photo whose faces are large, ask for 40, and P-Net sees a quarter of the pixels.
//! [`DetectOptions::nms`] has no meaning here.

mod abreast;
mod boxes;
mod cascade;
mod networks;
mod pillow;

use candle_core::Device;
use image::RgbImage;

use super::{DetectError, DetectOptions};
use crate::face::DetectedFace;
use crate::kernel::conv::Arithmetic;
use crate::model::weights;
use abreast::Abreast;
use networks::Networks;

const EMBEDDED_WEIGHTS: &[u8] = include_bytes!("../../../assets/mtcnn.safetensors");

/// How P-Net's two values for a cell become a probability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Over the two classes, as the network was trained.
    Correct,
    /// Over the columns of a row, as published.
    Compat,
}

/// The three networks with the embedded weights, for both forms.
#[derive(Debug)]
pub struct Mtcnn {
    networks: Networks,
}

impl Mtcnn {
    /// The networks that are compiled in.
    pub fn embedded(device: &Device) -> Result<Self, DetectError> {
        Self::embedded_with(device, Arithmetic::for_device(device))
    }

    /// The networks that are compiled in, with the given implementation.
    pub fn embedded_with(device: &Device, arithmetic: Arithmetic) -> Result<Self, DetectError> {
        let vb = weights::load(EMBEDDED_WEIGHTS, &networks::tensors(), device)?;
        Ok(Self { networks: Networks::new(&vb, device, arithmetic)? })
    }

    /// The faces of one photo, by descending score.
    pub fn detect_one(
        &self,
        photo: &RgbImage,
        form: Form,
        options: &DetectOptions,
    ) -> Result<Vec<DetectedFace>, DetectError> {
        let wanted = f64::from(options.min_size_px);
        let min_face_px = wanted.max(cascade::MIN_FACE_PX);
        let scales = cascade::scales(photo.width(), photo.height(), min_face_px);
        let rows = Abreast::of(photo);
        let levels = self.networks.each(&scales, |scale| cascade::propose(&self.networks, &rows, form, *scale))?;
        let proposed = cascade::next(cascade::merge(levels));
        let refined = cascade::next(cascade::refine(&self.networks, photo, proposed)?);
        let mut faces = cascade::finish(&self.networks, photo, refined)?;
        // Faces as small as the networks find them are welcome unless larger ones were asked for.
        let large = |face: &DetectedFace| {
            let shorter = face.bbox.width().min(face.bbox.height());
            wanted <= cascade::MIN_FACE_PX || shorter >= options.min_size_px
        };
        faces.retain(|face| face.score >= options.min_score && large(face));
        faces.truncate(options.max_faces.unwrap_or(usize::MAX));
        Ok(faces)
    }
}

#[cfg(test)]
mod tests;
