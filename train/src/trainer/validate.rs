//! A look at identities that are not trained on.
//!
//! Each crop is compared with the mean direction of every held-out identity, its own without the crop itself. The share
//! of crops whose own identity is nearest is what is reported: it needs no threshold and no pairs, and rises as training
//! goes on for a few dozen identities as for many.
//!
//! A network that knows faces well leaves little to see in that. So crops may be looked at small, too: shrunk to a side and
//! enlarged again, they are compared with the same means of whole crops. How norms fall with the side is told along.

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use vultus_engine::model::manifest::Input;

use super::{TrainError, input};
use crate::data::{Crop, Damaged, Dataset, Interpolation, Readable, SIDE, Size, resize};
use crate::network::Network;

/// Crops in a forward pass.
pub(super) const AT_ONCE: usize = 32;

/// The outcome.
#[derive(Debug, Clone, PartialEq)]
pub struct Validation {
    /// Mean of the accuracies of all sides.
    pub accuracy: f64,
    /// Crops that were compared: those of identities with at least two.
    pub crops: usize,
    /// Whole crops first, then each side asked for.
    pub sides: Vec<OfSide>,
    /// What was wrong with images that were left out.
    pub skipped: Vec<String>,
}

/// How crops of one side did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OfSide {
    /// Pixels that they were shrunk to.
    pub side: usize,
    /// Share of crops nearest to their own identity.
    pub accuracy: f64,
    /// Mean norm of their embeddings.
    pub norm_mean: f64,
    /// Standard deviation of them.
    pub norm_std: f64,
}

/// Looks at all crops of a set, without augmentation, whole and shrunk to each of `sides`.
///
/// # Errors
/// [`TrainError::Data`], with [`Damaged::Skip`] only for what is not about one image; [`TrainError::Network`].
pub fn validate(
    network: &mut Network,
    wanted: &Input,
    dataset: &dyn Dataset,
    sides: &[usize],
    damaged: Damaged,
) -> Result<Validation, TrainError> {
    let (mut labels, mut skipped) = (Vec::with_capacity(dataset.len()), Vec::new());
    let mut looks: Vec<Vec<Vec<f32>>> = vec![Vec::with_capacity(dataset.len()); 1 + sides.len()];
    for start in (0..dataset.len()).step_by(AT_ONCE) {
        let all = start..dataset.len().min(start + AT_ONCE);
        let Readable { indices, crops, skipped: of_chunk } = Readable::read(dataset, all, AT_ONCE, damaged)?;
        skipped.extend(of_chunk);
        if crops.is_empty() {
            continue;
        }
        labels.extend(indices.iter().map(|index| dataset.label(*index) as usize));
        looks[0].extend(embed(network, wanted, &crops)?);
        for (look, side) in looks[1..].iter_mut().zip(sides) {
            let small: Vec<Crop> = crops.iter().map(|crop| shrunk(crop, *side)).collect();
            look.extend(embed(network, wanted, &small)?);
        }
    }
    let gallery = Gallery::new(&looks[0], &labels, dataset.classes());
    let sides = [SIDE].iter().chain(sides).zip(&looks).map(|(side, look)| gallery.look(*side, look, &labels)).collect();
    Ok(Validation { skipped, ..gallery.sum_up(sides) })
}

/// Raw embeddings of crops, as a trained network gives them, all at once.
pub(super) fn embed(network: &mut Network, wanted: &Input, crops: &[Crop]) -> Result<Vec<Vec<f32>>, TrainError> {
    let mut pixels = Vec::new();
    crops.iter().for_each(|crop| input::of_crop(crop, wanted, &mut pixels));
    let pixels = Tensor::from_vec(pixels, (crops.len(), 3, SIDE, SIDE), &Device::Cpu)?;
    Ok(network.embed(&pixels)?.to_vec2::<f32>()?)
}

/// A crop down to a side by means over areas, as a sensor sums light, and up again linearly.
fn shrunk(crop: &Crop, side: usize) -> Crop {
    let (whole, small) = (Size::square(SIDE), Size::square(side));
    let little = resize(crop.pixels(), whole, small, Interpolation::Area);
    Crop::from_bgr(resize(&little, small, whole, Interpolation::Linear))
}

/// Whole crops: their unit vectors, and the sum of them for each identity.
struct Gallery {
    unit: Vec<Vec<f64>>,
    sums: Vec<Vec<f64>>,
    counts: Vec<usize>,
}

impl Gallery {
    fn new(whole: &[Vec<f32>], labels: &[usize], classes: usize) -> Self {
        let dim = whole.first().map_or(0, Vec::len);
        let unit: Vec<Vec<f64>> = whole.iter().map(|raw| split(raw).0).collect();
        let (mut sums, mut counts) = (vec![vec![0.0; dim]; classes], vec![0usize; classes]);
        for (unit, label) in unit.iter().zip(labels) {
            counts[*label] += 1;
            sums[*label].iter_mut().zip(unit).for_each(|(sum, value)| *sum += value);
        }
        Self { unit, sums, counts }
    }

    /// The crops in their order, as they are at some side.
    fn look(&self, side: usize, crops: &[Vec<f32>], labels: &[usize]) -> OfSide {
        let (mut right, mut compared, mut norms) = (0usize, 0usize, Vec::with_capacity(crops.len()));
        for ((raw, whole), label) in crops.iter().zip(&self.unit).zip(labels) {
            let (unit, norm) = split(raw);
            norms.push(norm);
            if self.counts[*label] < 2 {
                continue;
            }
            compared += 1;
            let without: Vec<f64> = self.sums[*label].iter().zip(whole).map(|(sum, value)| sum - value).collect();
            let own = cosine(&without, &unit);
            let mut others = (0..self.sums.len()).filter(|class| class != label && self.counts[*class] > 0);
            right += usize::from(others.all(|class| cosine(&self.sums[class], &unit) < own));
        }
        let count = norms.len().max(1) as f64;
        let norm_mean = norms.iter().sum::<f64>() / count;
        let variance = norms.iter().map(|norm| (norm - norm_mean).powi(2)).sum::<f64>() / count;
        OfSide { side, accuracy: share(right, compared), norm_mean, norm_std: variance.sqrt() }
    }

    fn sum_up(&self, sides: Vec<OfSide>) -> Validation {
        let accuracy = sides.iter().map(|of_side| of_side.accuracy).sum::<f64>() / sides.len().max(1) as f64;
        let crops = self.counts.iter().filter(|count| **count >= 2).sum();
        Validation { accuracy, crops, sides, skipped: Vec::new() }
    }
}

/// Direction and norm of a raw embedding.
fn split(raw: &[f32]) -> (Vec<f64>, f64) {
    let norm = raw.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    (raw.iter().map(|value| f64::from(*value) / norm.max(1e-12)).collect(), norm)
}

/// Of any vector and a unit one.
fn cosine(a: &[f64], unit: &[f64]) -> f64 {
    let (dot, length) = a.iter().zip(unit).fold((0.0, 0.0), |(dot, length), (a, b)| (dot + a * b, length + a * a));
    dot / f64::sqrt(length).max(1e-12)
}

fn share(count: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { count as f64 / of as f64 }
}

#[cfg(test)]
mod tests {
    use vultus_engine::model::Architecture;

    use super::*;
    use crate::data::DataError;

    #[test]
    fn crops_count_that_are_nearest_to_the_others_of_their_identity() {
        let whole =
            [[2.0, 0.0], [3.0, 0.1], [0.0, 1.0], [0.1, 1.0], [1.0, 0.2], [-1.0, 0.0]].map(|row: [f32; 2]| row.to_vec());
        // The fifth lies with the first identity; the sixth is alone and is not counted.
        let labels = [0, 0, 1, 1, 1, 2];
        let gallery = Gallery::new(&whole, &labels, 3);
        let found = gallery.look(SIDE, &whole, &labels);
        assert_eq!((found.side, found.accuracy), (SIDE, 4.0 / 5.0));
        // Small, the second has turned to another identity; its whole crop stays out of its own all the same.
        let mut small = whole.clone();
        small[1] = vec![0.0, 0.5];
        let of_small = gallery.look(20, &small, &labels);
        assert_eq!((of_small.side, of_small.accuracy), (20, 3.0 / 5.0));
        let summed = gallery.sum_up(vec![found, of_small]);
        assert_eq!((summed.crops, (summed.accuracy - 0.7).abs() < 1e-12), (5, true));
        // Nothing is told apart where all are the same.
        let same = vec![vec![1.0, 1.0]; 4];
        let labels = [0, 0, 1, 1];
        assert_eq!(Gallery::new(&same, &labels, 2).look(SIDE, &same, &labels).accuracy, 0.0);
    }

    #[test]
    fn norms_are_those_of_the_side() {
        let whole = vec![vec![3.0, 4.0], vec![0.0, 7.0]];
        let found = Gallery::new(&whole, &[0, 0], 1).look(SIDE, &whole, &[0, 0]);
        assert_eq!((found.norm_mean, found.norm_std), (6.0, 1.0));
    }

    /// Two identities of three crops, of which the first is damaged.
    struct Drawn;

    impl Dataset for Drawn {
        fn len(&self) -> usize {
            6
        }
        fn classes(&self) -> usize {
            2
        }
        fn label(&self, index: usize) -> u32 {
            (index / 3) as u32
        }
        fn name(&self, index: usize) -> String {
            index.to_string()
        }
        fn image(&self, index: usize) -> Result<Crop, DataError> {
            if index == 0 {
                return Err(DataError::WrongSize { name: "0".into(), width: 1, height: 1, wanted: "112" });
            }
            Ok(Crop::from_bgr((0..Crop::BYTES).map(|at| ((at / 3) * (1 + index / 3) + index) as u8).collect()))
        }
    }

    #[test]
    fn a_damaged_crop_is_left_out_where_that_is_asked_for() {
        let mut network = Network::new(Architecture::Mobilefacenet, 8, 3).unwrap();
        let wanted = Architecture::Mobilefacenet.default_input();
        let mut look = |damaged| validate(&mut network, &wanted, &Drawn, &[20], damaged);
        assert!(matches!(look(Damaged::Stop), Err(TrainError::Data(_))));
        let found = look(Damaged::Skip).unwrap();
        assert_eq!((found.crops, found.sides.len(), found.skipped.len()), (5, 2, 1));
    }

    #[test]
    fn a_shrunk_crop_has_its_light_and_not_its_detail() {
        // Stripes of one pixel: all of them within one of a small side.
        let crop = Crop::from_bgr((0..Crop::BYTES).map(|at| if (at / 3) % 2 == 0 { 200 } else { 100 }).collect());
        assert!(shrunk(&crop, 14).pixels().iter().all(|value| *value == 150));
        assert_eq!(shrunk(&crop, SIDE), crop);
    }
}
