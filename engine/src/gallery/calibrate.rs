//! What scores are worth in a gallery.

use super::GalleryError;
use crate::ids::GalleryId;

/// What a calibration says, if there is one.
pub(super) struct Rates<'a> {
    gallery: &'a GalleryId,
}

/// A rate with what is known of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RateEstimate {
    /// The false positive identification rate.
    pub fpir: f64,
    /// Whether it lies beyond what the data carry.
    pub extrapolated: bool,
}

impl<'a> Rates<'a> {
    /// Of a gallery that is not calibrated.
    pub(super) fn none(gallery: &'a GalleryId) -> Self {
        Self { gallery }
    }

    /// The rate at which non-mated searches reach a score.
    pub(super) fn fpir_at(&self, _score: f32) -> Option<RateEstimate> {
        None
    }

    /// The score that keeps a rate, and whether that is beyond what the data carry.
    pub(super) fn score_at(&self, _fpir: f64) -> Result<(f32, bool), GalleryError> {
        Err(GalleryError::CalibrationMissing(self.gallery.clone()))
    }
}
