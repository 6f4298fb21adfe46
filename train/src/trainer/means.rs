//! Directions of classes from a network that knows faces already.

use std::collections::BTreeMap;

use vultus_engine::model::manifest::Input;
use vultus_engine::random::Random;

use super::TrainError;
use super::validate::{AT_ONCE, embed};
use crate::data::{Damaged, Dataset, Readable};
use crate::network::Network;

/// Crops of a class that its direction is the mean of, at most.
const CROPS: usize = 16;

/// Directions of classes, each of as many values as an embedding.
pub(super) type Directions = BTreeMap<u32, Vec<f32>>;

/// The mean direction of some crops of each class, drawn from the seed and not augmented. A class without a crop that can
/// be read has none. Damaged images are passed over: the loader tells of them.
///
/// # Errors
/// [`TrainError::Data`] where files cannot be read at all, [`TrainError::Network`], [`TrainError::Tensor`].
pub(super) fn class_means(
    network: &mut Network,
    wanted: &Input,
    dataset: &dyn Dataset,
    seed: u64,
) -> Result<Directions, TrainError> {
    let (dim, classes) = (network.dim(), dataset.classes());
    let mut taken = vec![0usize; classes];
    let mut indices = Random::named(seed, "crops for class means").order(dataset.len());
    indices.retain(|index| {
        let taken = &mut taken[dataset.label(*index) as usize];
        *taken += 1;
        *taken <= CROPS
    });
    let mut sums = vec![vec![0f64; dim]; classes];
    for indices in indices.chunks(AT_ONCE) {
        let Readable { indices, crops, .. } = Readable::read(dataset, indices.iter().copied(), AT_ONCE, Damaged::Skip)?;
        if crops.is_empty() {
            continue;
        }
        for (raw, index) in embed(network, wanted, &crops)?.iter().zip(indices) {
            let norm = length(raw.iter().map(|value| f64::from(*value))).max(1e-12);
            let sum = &mut sums[dataset.label(index) as usize];
            sum.iter_mut().zip(raw).for_each(|(sum, value)| *sum += f64::from(*value) / norm);
        }
    }
    let direction = |(class, sum): (u32, Vec<f64>)| {
        let norm = length(sum.iter().copied());
        (norm > 1e-6).then(|| (class, sum.iter().map(|value| (value / norm) as f32).collect()))
    };
    Ok((0..).zip(sums).filter_map(direction).collect())
}

fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use vultus_engine::model::Architecture;

    use super::*;
    use crate::data::{Crop, DataError};

    /// Classes 0 and 1 with three crops each, one of them damaged; class 2 has none.
    struct Drawn;

    impl Dataset for Drawn {
        fn len(&self) -> usize {
            6
        }

        fn classes(&self) -> usize {
            3
        }

        fn label(&self, index: usize) -> u32 {
            (index % 2) as u32
        }

        fn name(&self, index: usize) -> String {
            index.to_string()
        }

        fn image(&self, index: usize) -> Result<Crop, DataError> {
            if index == 4 {
                return Err(DataError::WrongSize { name: "4".into(), width: 1, height: 1, wanted: "112" });
            }
            let step = 1 + 12 * (index % 2);
            Ok(Crop::from_bgr((0..Crop::BYTES).map(|at| ((at / 3) * step / 7 + index) as u8).collect()))
        }
    }

    #[test]
    fn directions_are_those_of_crops() {
        let mut network = Network::new(Architecture::Mobilefacenet, 8, 3).unwrap();
        let wanted = Architecture::Mobilefacenet.default_input();
        let found = class_means(&mut network, &wanted, &Drawn, 5).unwrap();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [0, 1]);
        let crops = |class: usize| {
            (0..6).filter(move |index| index % 2 == class && *index != 4).map(|index| Drawn.image(index).unwrap())
        };
        for (class, direction) in [0, 1].into_iter().zip(found.values()) {
            let raw = embed(&mut network, &wanted, &crops(class).collect::<Vec<_>>()).unwrap();
            let mut mean = vec![0f64; 8];
            for raw in &raw {
                let norm = length(raw.iter().map(|value| f64::from(*value)));
                mean.iter_mut().zip(raw).for_each(|(sum, value)| *sum += f64::from(*value) / norm);
            }
            let norm = length(mean.iter().copied());
            let cosine: f64 = direction.iter().zip(&mean).map(|(a, b)| f64::from(*a) * b / norm).sum();
            assert!((cosine - 1.0).abs() < 1e-5, "class {class}: {cosine}");
            assert!((length(direction.iter().map(|value| f64::from(*value))) - 1.0).abs() < 1e-5);
        }
    }
}
