//! Fusion rules: how much each face of a template weighs.

use serde::{Deserialize, Serialize};

/// How the faces of a template are weighted. The names are stable: they stand in galleries and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FusionRule {
    /// w = norm: the sum of raw features, AdaFace's published rule.
    Norm,
    /// w = exp(z / τ) with z the standardised norm.
    SoftmaxQuality,
    /// w = 1.
    Mean,
    /// The face with the highest norm alone.
    Best,
}

/// A rule with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fusion {
    /// The rule.
    pub rule: FusionRule,
    /// τ of `softmax_quality`: the number of standard deviations of the norm over which the weight grows by e.
    #[serde(default = "default_tau")]
    pub tau: f32,
}

/// τ where none is given.
pub fn default_tau() -> f32 {
    1.0
}
