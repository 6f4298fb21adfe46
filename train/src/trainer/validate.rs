//! A look at identities that are not trained on.
//!
//! Each crop is compared with the mean direction of every held-out identity, its own without the crop itself. The share
//! of crops whose own identity is nearest is what is reported: it needs no threshold and no pairs, and rises as training
//! goes on for a few dozen identities as for many.

use candle_core::{Device, Tensor};
use vultus_engine::model::manifest::Input;

use super::{TrainError, input};
use crate::data::{Dataset, SIDE};
use crate::network::Network;

/// Crops in a forward pass.
const AT_ONCE: usize = 32;

/// The outcome.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Validation {
    /// Share of crops nearest to their own identity.
    pub accuracy: f64,
    /// Crops that were compared: those of identities with at least two.
    pub crops: usize,
    /// Mean norm of their embeddings.
    pub norm: f64,
}

/// Looks at all crops of a set, without augmentation.
///
/// # Errors
/// [`TrainError::Data`], [`TrainError::Network`].
pub fn validate(network: &mut Network, wanted: &Input, dataset: &dyn Dataset) -> Result<Validation, TrainError> {
    let mut embeddings: Vec<Vec<f32>> = Vec::with_capacity(dataset.len());
    let all: Vec<usize> = (0..dataset.len()).collect();
    for indices in all.chunks(AT_ONCE) {
        let mut pixels = Vec::new();
        for index in indices {
            input::of_crop(&dataset.image(*index)?, wanted, &mut pixels);
        }
        let pixels = Tensor::from_vec(pixels, (indices.len(), 3, SIDE, SIDE), &Device::Cpu)?;
        embeddings.extend(network.embed(&pixels)?.to_vec2::<f32>()?);
    }
    let labels: Vec<usize> = all.iter().map(|index| dataset.label(*index) as usize).collect();
    Ok(nearest(&embeddings, &labels, dataset.classes()))
}

/// Of raw embeddings and their classes.
fn nearest(embeddings: &[Vec<f32>], labels: &[usize], classes: usize) -> Validation {
    let dim = embeddings.first().map_or(0, Vec::len);
    let mut norms = 0.0;
    let unit: Vec<Vec<f64>> = embeddings
        .iter()
        .map(|raw| {
            let norm = raw.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            norms += norm;
            raw.iter().map(|value| f64::from(*value) / norm.max(1e-12)).collect()
        })
        .collect();
    let mut sums = vec![vec![0.0; dim]; classes];
    let mut counts = vec![0usize; classes];
    for (unit, label) in unit.iter().zip(labels) {
        counts[*label] += 1;
        sums[*label].iter_mut().zip(unit).for_each(|(sum, value)| *sum += value);
    }
    let cosine = |a: &[f64], b: &[f64]| {
        let (dot, length) = a.iter().zip(b).fold((0.0, 0.0), |(dot, length), (a, b)| (dot + a * b, length + a * a));
        dot / f64::sqrt(length).max(1e-12)
    };
    let (mut right, mut crops) = (0usize, 0usize);
    for (unit, label) in unit.iter().zip(labels) {
        if counts[*label] < 2 {
            continue;
        }
        crops += 1;
        let without: Vec<f64> = sums[*label].iter().zip(unit).map(|(sum, value)| sum - value).collect();
        let own = cosine(&without, unit);
        let others = (0..classes).filter(|class| class != label && counts[*class] > 0);
        right += usize::from(others.into_iter().all(|class| cosine(&sums[class], unit) < own));
    }
    let share = |count: usize, of: usize| if of == 0 { 0.0 } else { count as f64 / of as f64 };
    Validation { accuracy: share(right, crops), crops, norm: norms / embeddings.len().max(1) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_count_that_are_nearest_to_the_others_of_their_identity() {
        let embeddings =
            [[2.0, 0.0], [3.0, 0.1], [0.0, 1.0], [0.1, 1.0], [1.0, 0.2], [-1.0, 0.0]].map(|row: [f32; 2]| row.to_vec());
        // The fifth lies with the first identity; the sixth is alone and is not counted.
        let found = nearest(&embeddings, &[0, 0, 1, 1, 1, 2], 3);
        assert_eq!((found.accuracy, found.crops), (4.0 / 5.0, 5));
        // Nothing is told apart where all are the same.
        assert_eq!(nearest(&vec![vec![1.0, 1.0]; 4], &[0, 0, 1, 1], 2).accuracy, 0.0);
    }
}
