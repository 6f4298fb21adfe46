//! Fusion rules: how much each face of a template weighs.
//!
//! A rule maps the faces' norms to weights; what the weights are used for is [`super::fuse`]'s business. Weights are
//! relative: only their ratios matter, since a template is normalised at the end.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::quality::{NormStats, z};

/// Smallest and largest τ accepted. Below, the best face alone counts; above, all count alike.
pub const TAU_RANGE: std::ops::RangeInclusive<f32> = 0.05..=100.0;

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
    /// The CAFace network (Kim et al. 2022) weighs the faces; available where its weights are loaded.
    Caface,
}

impl FusionRule {
    /// Every rule, in the order they are documented.
    pub const ALL: [Self; 5] = [Self::Norm, Self::SoftmaxQuality, Self::Mean, Self::Best, Self::Caface];

    /// The name that stands in requests and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Norm => "norm",
            Self::SoftmaxQuality => "softmax_quality",
            Self::Mean => "mean",
            Self::Best => "best",
            Self::Caface => "caface",
        }
    }
}

impl fmt::Display for FusionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no fusion rule {0:?}; the rules are norm, softmax_quality, mean, best, caface")]
pub struct UnknownRule(pub String);

impl FromStr for FusionRule {
    type Err = UnknownRule;
    fn from_str(text: &str) -> Result<Self, UnknownRule> {
        Self::ALL.into_iter().find(|rule| rule.name() == text).ok_or_else(|| UnknownRule(text.to_owned()))
    }
}

/// A rule with its parameter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fusion {
    /// The rule.
    pub rule: FusionRule,
    /// τ of `softmax_quality`: the number of standard deviations of the norm over which the weight grows e-fold. The
    /// other rules ignore it.
    #[serde(default = "default_tau")]
    pub tau: f32,
}

/// τ where none is given.
pub fn default_tau() -> f32 {
    1.0
}

impl From<FusionRule> for Fusion {
    fn from(rule: FusionRule) -> Self {
        Self { rule, tau: default_tau() }
    }
}

impl Fusion {
    /// Whether the parameters are ones that templates can be fused with.
    pub fn is_valid(&self) -> bool {
        TAU_RANGE.contains(&self.tau)
    }

    /// The logarithm of a face's weight, up to a constant shared by all faces, where the weight depends on the face
    /// alone; `None` where faces are compared with each other.
    pub(crate) fn log_weight(&self, norm: f32, stats: NormStats) -> Option<f64> {
        match self.rule {
            FusionRule::Mean => Some(0.0),
            FusionRule::Norm => Some(f64::from(norm).ln()),
            FusionRule::SoftmaxQuality => Some(f64::from(z(norm, stats)) / f64::from(self.tau)),
            FusionRule::Best | FusionRule::Caface => None,
        }
    }

    /// Weights of faces with the given norms, scaled so that the largest is 1 (`softmax_quality` would otherwise
    /// overflow). `best` gives 1 to the first of the highest norms.
    pub(super) fn weights(&self, norms: &[f32], stats: NormStats) -> Vec<f64> {
        let highest = norms.iter().copied().fold(f32::MIN, f32::max);
        match self.rule {
            // The network's weights are per value of the feature; where one number a face is asked for, all are alike.
            FusionRule::Mean | FusionRule::Caface => vec![1.0; norms.len()],
            FusionRule::Norm => norms.iter().map(|n| f64::from(*n) / f64::from(highest)).collect(),
            FusionRule::SoftmaxQuality => {
                let top = f64::from(z(highest, stats));
                norms.iter().map(|n| ((f64::from(z(*n, stats)) - top) / f64::from(self.tau)).exp()).collect()
            }
            FusionRule::Best => {
                let best = norms.iter().position(|n| *n == highest);
                (0..norms.len()).map(|i| if Some(i) == best { 1.0 } else { 0.0 }).collect()
            }
        }
    }
}
