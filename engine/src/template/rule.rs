//! Fusion rules: how much each face of a template weighs.
//!
//! A rule maps the faces' norms to weights; what the weights are used for is [`super::fuse`]'s business. Weights are
//! relative: only their ratios matter, since a template is normalised at the end.
//!
//! `softmax_quality` grows with the norm, and above a cap it stops growing. Norms differ between good pictures of one
//! person for reasons that say nothing of how well they are recognised, so ranking them costs accuracy; below the cap
//! the norm tells useless frames from useful ones, and there the weight falls fast. `docs/TEMPLATES.md` has the
//! measurements.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::quality::{NormStats, z};

/// Smallest and largest τ accepted. Below, the best face alone counts; above, all count alike.
pub const TAU_RANGE: std::ops::RangeInclusive<f32> = 0.05..=100.0;
/// Smallest and largest cap accepted, in standard deviations of the norm.
pub const CAP_RANGE: std::ops::RangeInclusive<f32> = -10.0..=10.0;

/// How the faces of a template are weighted. The names are stable: they stand in galleries and answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FusionRule {
    /// w = norm: the sum of raw features, AdaFace's published rule.
    Norm,
    /// w = exp(min(z, cap) / τ) with z the standardised norm; w = exp(z / τ) where there is no cap.
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

    /// Raised whenever the same faces with the same parameters would give another template than before.
    pub fn version(self) -> u32 {
        match self {
            Self::Norm | Self::SoftmaxQuality | Self::Mean | Self::Best | Self::Caface => 1,
        }
    }

    /// Whether faces that disagree with the rest can be damped under this rule.
    pub fn has_robust(self) -> bool {
        !matches!(self, Self::Best | Self::Caface)
    }

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

/// A rule with its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fusion {
    /// The rule.
    pub rule: FusionRule,
    /// τ of `softmax_quality`: the number of standard deviations of the norm over which the weight grows e-fold. The
    /// other rules ignore it.
    #[serde(default = "default_tau")]
    pub tau: f32,
    /// Cap of `softmax_quality`: the standardised norm above which all faces weigh alike. The other rules ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap: Option<f32>,
    /// Whether faces that disagree with the rest are damped, whatever the rule says of them. `best` and `caface` ignore
    /// it: the one has nothing to damp, the other looks at the faces itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub robust: bool,
}

/// τ where none is given.
pub fn default_tau() -> f32 {
    1.0
}

impl From<FusionRule> for Fusion {
    fn from(rule: FusionRule) -> Self {
        Self::new(rule, default_tau())
    }
}

impl Fusion {
    /// A rule with τ, no cap, not robust.
    pub fn new(rule: FusionRule, tau: f32) -> Self {
        Self { rule, tau, cap: None, robust: false }
    }

    /// A rule that was asked for by its name alone; see [`FusionRequest::resolve`].
    pub fn named(rule: FusionRule, own: Self) -> Self {
        FusionRequest::from(rule).resolve(own)
    }

    /// Whether the parameters are ones that templates can be fused with.
    pub fn is_valid(&self) -> bool {
        TAU_RANGE.contains(&self.tau) && self.cap.is_none_or(|cap| CAP_RANGE.contains(&cap))
    }

    /// The logarithm of a face's weight, up to a constant shared by all faces, where the weight depends on the face
    /// alone; `None` where faces are compared with each other.
    pub(crate) fn log_weight(&self, norm: f32, stats: NormStats) -> Option<f64> {
        let alone = !self.robust && !matches!(self.rule, FusionRule::Best | FusionRule::Caface);
        if alone { self.log_weights(&[norm], stats).first().copied() } else { None }
    }

    /// Logarithms of the weights of faces with the given norms; only their differences matter. Logarithms, because the
    /// weights of `softmax_quality` can lie further apart than a float reaches. `best` gives 0 to the first of the
    /// highest norms and minus infinity to the others.
    pub(super) fn log_weights(&self, norms: &[f32], stats: NormStats) -> Vec<f64> {
        match self.rule {
            // The network's weights are per value of the feature; where one number a face is asked for, all are alike.
            FusionRule::Mean | FusionRule::Caface => vec![0.0; norms.len()],
            FusionRule::Norm => norms.iter().map(|norm| f64::from(*norm).ln()).collect(),
            FusionRule::SoftmaxQuality => {
                let cap = self.cap.map_or(f64::INFINITY, f64::from);
                norms.iter().map(|norm| f64::from(z(*norm, stats)).min(cap) / f64::from(self.tau)).collect()
            }
            FusionRule::Best => {
                let best = highest(norms.iter().copied());
                (0..norms.len()).map(|i| if Some(i) == best { 0.0 } else { f64::NEG_INFINITY }).collect()
            }
        }
    }
}

/// A rule as it is asked for, with the parameters that were given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FusionRequest {
    /// The rule.
    pub rule: FusionRule,
    /// See [`Fusion::tau`].
    pub tau: Option<f32>,
    /// See [`Fusion::cap`].
    pub cap: Option<f32>,
    /// See [`Fusion::robust`].
    pub robust: bool,
}

impl From<FusionRule> for FusionRequest {
    fn from(rule: FusionRule) -> Self {
        Self { rule, tau: None, cap: None, robust: false }
    }
}

impl From<Fusion> for FusionRequest {
    fn from(Fusion { rule, tau, cap, robust }: Fusion) -> Self {
        Self { rule, tau: Some(tau), cap, robust }
    }
}

impl FusionRequest {
    /// What is meant under a model whose own fusion is `own`: where that is of the rule asked for and no parameter is
    /// given, its parameters, which were measured for the model.
    pub fn resolve(self, own: Fusion) -> Fusion {
        let Self { rule, tau, cap, robust } = self;
        match (tau, cap) {
            (None, None) if own.rule == rule => Fusion { robust, ..own },
            (tau, cap) => Fusion { rule, tau: tau.unwrap_or_else(default_tau), cap, robust },
        }
    }
}

/// Position of the first of the highest norms.
pub(super) fn highest(norms: impl Iterator<Item = f32>) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (i, norm) in norms.enumerate() {
        if best.is_none_or(|(_, highest)| norm > highest) {
            best = Some((i, norm));
        }
    }
    best.map(|(i, _)| i)
}
