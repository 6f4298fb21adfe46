//! Why a model cannot be loaded or used.

use std::path::PathBuf;

use super::ir::IrError;
use super::{Architecture, Precision, WeightsError};

/// Why a model cannot be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The manifest is not JSON of the right form.
    #[error("the manifest cannot be read: {0}")]
    ManifestSyntax(#[from] serde_json::Error),
    /// The manifest holds a value that cannot work.
    #[error("the manifest is wrong: {0}")]
    ManifestValue(String),
    /// The weights are not the ones of the manifest.
    #[error("the weights have the SHA-256 {found}, the manifest says {expected}")]
    Checksum {
        /// In the manifest.
        expected: String,
        /// Of the file.
        found: String,
    },
    /// The weights do not fit the network.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The network for set fusion beside the model cannot be used.
    #[error("{}: {source}", path.display())]
    Aggregator {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: WeightsError,
    },
    /// There is a network for set fusion, but none for this architecture.
    #[error("{}: a CAFace network goes with an ir_101 of 512 dimensions, not with {architecture}", path.display())]
    NoStyle {
        /// Its file.
        path: PathBuf,
        /// Architecture of the model.
        architecture: Architecture,
    },
    /// The manifest has no norm statistics for flip fusion.
    #[error("model {0} has no norm statistics for flip fusion")]
    NoFlip(String),
    /// The architecture is not run in this precision.
    #[error(
        "{architecture} runs in f32 only, not in {precision}: networks of the improved residual family run in both"
    )]
    NoPrecision {
        /// Architecture of the model.
        architecture: Architecture,
        /// What was asked for.
        precision: Precision,
    },
    /// The network failed.
    #[error("the network failed: {0}")]
    Compute(#[from] candle_core::Error),
    /// The feature of a crop is zero or not finite.
    #[error("the feature of crop {index} is zero or not finite")]
    UnusableFeature {
        /// Position of the crop in the call.
        index: usize,
    },
}

impl From<IrError> for ModelError {
    fn from(error: IrError) -> Self {
        match error {
            IrError::Weights(error) => Self::Weights(error),
            IrError::Compute(error) => Self::Compute(error),
            IrError::Architecture(_) => Self::Compute(candle_core::Error::wrap(error)),
        }
    }
}
