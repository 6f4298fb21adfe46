//! Verification sets of the field as validation: accuracy in ten folds, as `vultus-train eval verify` has it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use vultus_engine::model::manifest::Input;

use super::TrainError;
use super::validate::{AT_ONCE, embed};
use crate::data::{Crop, flip};
use crate::eval::EvalError;
use crate::eval::bin_set::BinSet;
use crate::eval::folds::{FOLDS, ten_folds};
use crate::network::Network;

/// How pairs of a set were decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfSet {
    /// The file's name without its extension.
    pub set: String,
    /// Mean accuracy of the ten folds, with flip fusion.
    pub accuracy: f64,
    /// Mean of the folds' thresholds, a squared distance.
    pub threshold: f64,
}

/// A `.bin` file of pairs.
#[derive(Debug)]
pub(super) struct EvaluationSet {
    name: String,
    pairs: BinSet,
}

impl EvaluationSet {
    /// Reads a file of at least as many pairs as folds.
    ///
    /// # Errors
    /// [`TrainError::Eval`].
    pub(super) fn open(path: &Path) -> Result<Self, TrainError> {
        let pairs = BinSet::read(path)?;
        let count = pairs.same().len();
        if count < FOLDS {
            return Err(EvalError::file(path, format!("{count} pairs are too few for {FOLDS} folds")).into());
        }
        Ok(Self { name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), pairs })
    }

    /// Decides all pairs by a network as it is.
    ///
    /// # Errors
    /// [`TrainError::Data`] for an image that is damaged or no crop, [`TrainError::Network`], [`TrainError::Eval`] for
    /// embeddings that are not finite.
    pub(super) fn look(&self, network: &mut Network, wanted: &Input) -> Result<OfSet, TrainError> {
        let mut distances = Vec::with_capacity(self.pairs.same().len());
        let images: Vec<usize> = (0..self.pairs.len()).collect();
        // Whole pairs, as AT_ONCE is even.
        for images in images.chunks(AT_ONCE) {
            let name = |image: usize| format!("image {image} of {}", self.name);
            let decode = |image: &usize| Crop::decode(&self.pairs.image(*image), || name(*image));
            let mut crops = images.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
            let plain = embed(network, wanted, &crops)?;
            crops.iter_mut().for_each(flip);
            let mirrored = embed(network, wanted, &crops)?;
            let unit: Vec<Vec<f64>> = plain.iter().zip(&mirrored).map(|(a, b)| fused(a, b)).collect();
            let (pairs, _) = unit.as_chunks::<2>();
            distances.extend(pairs.iter().map(|[a, b]| a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>()));
        }
        let outcome = ten_folds(&distances, self.pairs.same())?;
        Ok(OfSet { set: self.name.clone(), accuracy: outcome.accuracy(), threshold: outcome.threshold() })
    }
}

/// The direction of the sum of two raw embeddings.
fn fused(plain: &[f32], mirrored: &[f32]) -> Vec<f64> {
    let sum: Vec<f64> = plain.iter().zip(mirrored).map(|(a, b)| f64::from(*a) + f64::from(*b)).collect();
    let norm = sum.iter().map(|value| value * value).sum::<f64>().sqrt().max(1e-12);
    sum.iter().map(|value| value / norm).collect()
}

/// The mean that chooses the best checkpoint. `None` without sets.
pub(super) fn mean_accuracy(sets: &[OfSet]) -> Option<f64> {
    (!sets.is_empty()).then(|| sets.iter().map(|set| set.accuracy).sum::<f64>() / sets.len() as f64)
}
