//! When a calibration no longer describes its gallery.
//!
//! The rule: the number of subjects has changed by more than a fifth either way, or more than a fifth of the subjects
//! that were calibrated on have been changed, or the embeddings or the fusion rule are others. After a mere change of
//! size thresholds can still be had, corrected by [`Calibration::at_size`]; the wider interval says what that costs.
//! After the other two there is nothing to correct with.

use serde::Serialize;

use super::Calibration;

/// Share of subjects that may come, go or change.
pub const STALE_SHARE: f64 = 0.2;

/// What has become of a gallery since its calibration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// Subjects with a template now.
    pub gallery_size: u64,
    /// Subjects enrolled, changed or removed since.
    pub changed_subjects: u64,
    /// Whether the gallery still has the model of the calibration.
    pub same_model: bool,
    /// Whether the gallery still has the fusion rule of the calibration.
    pub same_fusion: bool,
}

/// Why a calibration is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stale {
    /// Embeddings are of another model: scores cannot be compared.
    Model,
    /// Templates are fused by another rule.
    Fusion,
    /// The number of subjects has changed by more than [`STALE_SHARE`]. Views at the present size are corrected for it.
    Size,
    /// As many subjects as [`STALE_SHARE`] of those calibrated on were changed.
    Changes,
}

impl Calibration {
    /// Whether the calibration is stale, and the gravest reason.
    pub fn staleness(&self, since: Since) -> Option<Stale> {
        let then = self.gallery_size as f64;
        if !since.same_model {
            Some(Stale::Model)
        } else if !since.same_fusion {
            Some(Stale::Fusion)
        } else if (since.gallery_size as f64 - then).abs() > STALE_SHARE * then {
            Some(Stale::Size)
        } else if since.changed_subjects as f64 > STALE_SHARE * then {
            Some(Stale::Changes)
        } else {
            None
        }
    }
}
