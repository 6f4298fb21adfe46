//! The manifest of a model: everything beside the weights that is needed to use them.
//!
//! It is a JSON file next to the weights, with the same name. A manifest that parses is checked for values that
//! cannot work ([`Manifest::check`]), so the rest of the engine may rely on them.

use serde::{Deserialize, Serialize};

use super::ModelError;
pub use super::architecture::Architecture;
use crate::quality::NormStats;
use crate::template::{Fusion, FusionRule};

/// Description of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name, the first part of the model id: `[a-z0-9_-]{1,64}`.
    pub name: String,
    /// Which network the weights belong to.
    pub architecture: Architecture,
    /// Length of the embedding.
    pub dim: usize,
    /// What the network wants to see.
    pub input: Input,
    /// Norms on ordinary portraits.
    pub norm: Norms,
    /// How faces are fused into a template unless a gallery says otherwise.
    pub fusion: Fusion,
    /// Scores exceeded by the given share of comparisons of different people, by falling rate.
    #[serde(default)]
    pub impostor_scores: Vec<ImpostorScore>,
    /// The false match rate whose score is the threshold where none is given, above 0 and below 1.
    pub threshold_fmr: f64,
    /// The score that is the threshold where `impostor_scores` is empty: an assumption until scores are measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Where the weights come from.
    pub source: String,
    /// Licence of the weights (SPDX).
    pub licence: String,
    /// SHA-256 of the weights file, 64 lower-case hex digits.
    pub sha256: String,
}

/// Input of a network: a square crop, value = (byte - mean) * scale.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Side of the crop in pixels.
    pub size: u32,
    /// Order of the colour planes.
    pub color: Color,
    /// How `color` was decided, where the model was imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color_source: Option<ColorSource>,
    /// Subtracted from each byte.
    pub mean: f32,
    /// Multiplied afterwards.
    pub scale: f32,
}

/// Order of the colour planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Color {
    /// Red first.
    Rgb,
    /// Blue first.
    Bgr,
}

/// How the colour order of an imported model was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColorSource {
    /// By whoever imported it.
    Operator,
    /// By `color_space` in a file that came with the weights.
    Config,
    /// By the kind of checkpoint, which is trained with one order only.
    Layout,
    /// By what is usual; nothing that came with the weights says so.
    Assumed,
}

/// Norms without and with flip fusion.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norms {
    /// Of the feature of a crop.
    pub plain: NormStats,
    /// Of the feature of a crop plus that of its mirror image. Without it the model cannot be used with flip fusion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flip: Option<NormStats>,
    /// Where `plain` comes from, where the model was imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<NormSource>,
}

/// Where the norm statistics of an imported model come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormSource {
    /// Running mean and deviation over the training pictures, kept by the loss head.
    Head,
    /// Measured on sample crops at import.
    Samples,
    /// Measured on drawn faces at import, which are no portraits: a guess.
    Assumed,
}

/// The score at one false match rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImpostorScore {
    /// Share of comparisons of different people that reach `score`.
    pub fmr: f64,
    /// Cosine.
    pub score: f32,
    /// Whether it was measured with flip fusion; see [`super::Model::impostor_scores`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flip: bool,
}

impl Manifest {
    /// Reads a manifest and checks its values.
    pub fn parse(text: &str) -> Result<Self, ModelError> {
        let manifest: Self = serde_json::from_str(text)?;
        manifest.check().map_err(ModelError::ManifestValue)?;
        Ok(manifest)
    }

    /// Checks the values a type cannot, naming the first that does not work.
    pub fn check(&self) -> Result<(), String> {
        let stats = [Some(self.norm.plain), self.norm.flip];
        if !super::registry::is_name(&self.name) {
            Err("`name` has 1 to 64 characters out of a-z 0-9 _ -".into())
        } else if !(1..=4096).contains(&self.dim) {
            Err(format!("`dim` is {}, outside of 1 to 4096", self.dim))
        } else if self.input.size != crate::align::SIZE {
            Err(format!("`input.size` is {}, but crops have {} pixels", self.input.size, crate::align::SIZE))
        } else if !self.input.mean.is_finite() || !self.input.scale.is_finite() || self.input.scale == 0.0 {
            Err("`input.mean` and `input.scale` are finite, and the scale is not 0".into())
        } else if stats.iter().flatten().any(|s| !s.mean.is_finite() || !s.std.is_finite() || s.std <= 0.0) {
            Err("`norm` has finite means and positive standard deviations".into())
        } else if !self.fusion.is_valid() {
            Err("`fusion.tau` is from 0.05 to 100, `fusion.cap` from -10 to 10".into())
        } else if self.fusion.rule == FusionRule::Caface {
            // What takes its place where it cannot be used has to be some other rule.
            Err("`fusion.rule` is not caface, which galleries and requests ask for".into())
        } else if !(self.threshold_fmr > 0.0 && self.threshold_fmr < 1.0) {
            Err("`threshold_fmr` lies between 0 and 1".into())
        } else if self.threshold.is_some_and(|score| !(-1.0..=1.0).contains(&score)) {
            Err("`threshold` is a score from -1 to 1".into())
        } else if self.impostor_scores.iter().any(|s| !(s.fmr > 0.0 && s.fmr < 1.0 && s.score.abs() <= 1.0)) {
            Err("`impostor_scores` have rates between 0 and 1 and scores from -1 to 1".into())
        } else if self.sha256.len() != 64 || !self.sha256.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')) {
            Err("`sha256` has 64 lower-case hex digits".into())
        } else {
            Ok(())
        }
    }
}
