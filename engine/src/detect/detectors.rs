//! Every detector behind one [`Detector`]: the options say which of them looks.

use std::sync::OnceLock;

use candle_core::Device;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::mtcnn::{Form, Mtcnn};
use super::{DetectError, DetectOptions, Detector, YuNetDetector};
use crate::align::{AlignError, AlignedCrop, align, align_compat};
use crate::face::{DetectedFace, Landmarks};

/// Which detector looks for faces, and how its faces are aligned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DetectorKind {
    /// YuNet: fast, faces of any size.
    #[default]
    Yunet,
    /// MTCNN with its first network as it was trained.
    Mtcnn,
    /// MTCNN and its alignment as the AdaFace repository publishes them, defects included.
    MtcnnCompat,
}

impl DetectorKind {
    /// Cuts out the aligned crop of a face that this detector found.
    pub fn align(self, photo: &RgbImage, landmarks: &Landmarks) -> Result<AlignedCrop, AlignError> {
        match self {
            Self::Yunet | Self::Mtcnn => align(photo, landmarks),
            Self::MtcnnCompat => align_compat(photo, landmarks),
        }
    }
}

/// All detectors. MTCNN is loaded when it is first asked for.
#[derive(Debug)]
pub struct Detectors {
    device: Device,
    yunet: YuNetDetector,
    mtcnn: OnceLock<Mtcnn>,
}

impl Detectors {
    /// The detectors that are compiled in.
    pub fn embedded(device: &Device) -> Result<Self, DetectError> {
        Ok(Self { device: device.clone(), yunet: YuNetDetector::embedded(device)?, mtcnn: OnceLock::new() })
    }

    fn mtcnn(&self) -> Result<&Mtcnn, DetectError> {
        match self.mtcnn.get() {
            Some(mtcnn) => Ok(mtcnn),
            None => {
                // Two threads may both load it; the second's copy is dropped.
                let mtcnn = Mtcnn::embedded(&self.device)?;
                Ok(self.mtcnn.get_or_init(|| mtcnn))
            }
        }
    }
}

impl Detector for Detectors {
    fn detect(&self, photos: &[&RgbImage], options: &DetectOptions) -> Result<Vec<Vec<DetectedFace>>, DetectError> {
        let form = match options.detector {
            DetectorKind::Yunet => return self.yunet.detect(photos, options),
            DetectorKind::Mtcnn => Form::Correct,
            DetectorKind::MtcnnCompat => Form::Compat,
        };
        let mtcnn = self.mtcnn()?;
        photos.iter().map(|photo| mtcnn.detect_one(photo, form, options)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWN: &[u8] = include_bytes!("../../tests/data/mtcnn/drawn.png");

    #[test]
    fn options_choose_the_detector() {
        let photo = image::load_from_memory(DRAWN).unwrap().to_rgb8();
        let detectors = Detectors::embedded(&Device::Cpu).unwrap();
        let find = |detector| {
            let options = DetectOptions { detector, ..DetectOptions::default() };
            detectors.detect(&[&photo, &photo], &options).unwrap()
        };
        let kinds = [DetectorKind::Yunet, DetectorKind::Mtcnn, DetectorKind::MtcnnCompat];
        let [yunet, mtcnn, compat] = kinds.map(find);
        let alone = YuNetDetector::embedded(&Device::Cpu).unwrap();
        assert_eq!(yunet, alone.detect(&[&photo, &photo], &DetectOptions::default()).unwrap());
        for (found, form) in [(mtcnn, Form::Correct), (compat, Form::Compat)] {
            let networks = Mtcnn::embedded(&Device::Cpu).unwrap();
            let expected = networks.detect_one(&photo, form, &DetectOptions::default()).unwrap();
            assert_eq!(found, vec![expected; 2]);
        }
    }

    #[test]
    fn only_the_published_form_mirrors() {
        // A profile: the landmarks squeezed to a third of their width.
        let profile = crate::align::REFERENCE.map(|[x, y]| [56.0 + (x - 56.0) / 3.0, y]);
        let photo = RgbImage::from_fn(112, 112, |x, _| image::Rgb([2 * x as u8; 3]));
        let rises = |kind: DetectorKind| {
            let crop = kind.align(&photo, &Landmarks(profile)).unwrap();
            crop.image().get_pixel(70, 60)[0] > crop.image().get_pixel(40, 60)[0]
        };
        assert!(rises(DetectorKind::Yunet) && rises(DetectorKind::Mtcnn) && !rises(DetectorKind::MtcnnCompat));
    }
}
