//! How sums of many values are spread, from means and covariances of the values.
//!
//! The product of a probe with the levels of a row is a sum over a hundred directions and more, turned at random within one another,
//! so it is spread nearly normally over the rows of a gallery. Which product a small share of the rows reaches then follows from
//! means and covariances of the levels, and no row has to be looked at for it.

use serde::{Deserialize, Serialize};

use super::principal::variation;
use super::vector::dot;

/// Nothing is expected so many standard deviations out.
const FARTHEST: f64 = 12.0;
/// How often an interval that holds a quantile is halved.
const HALVINGS: usize = 48;

/// Means and covariances of values.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Moments {
    means: Vec<f32>,
    /// A row for each value.
    covariances: Vec<f32>,
}

impl Moments {
    /// Those of a sample of so many values each.
    pub(super) fn of(sample: &[Vec<f32>], count: usize) -> Self {
        let weight = 1.0 / sample.len().max(1) as f32;
        let mut means = vec![0f32; count];
        for values in sample {
            means.iter_mut().zip(values).for_each(|(mean, value)| *mean += value * weight);
        }
        let sample: Vec<&[f32]> = sample.iter().map(Vec::as_slice).collect();
        let mut covariances = variation(&sample, &means);
        covariances.iter_mut().for_each(|value| *value *= weight);
        Self { means, covariances }
    }

    /// Whether they are those of so many values.
    pub(super) fn are_of(&self, count: usize) -> bool {
        self.means.len() == count && self.covariances.len() == count * count
    }

    /// How sums of the values are spread, each with its weight.
    pub(super) fn along(&self, weights: &[f32]) -> Spread {
        let count = self.means.len();
        let rows = self.covariances.chunks_exact(count.max(1)).zip(weights);
        let variance: f32 = rows.map(|(row, weight)| weight * dot(row, weights)).sum();
        Spread { mean: dot(&self.means, weights).into(), deviation: f64::from(variance.max(0.0)).sqrt() }
    }

    /// Memory of those of so many values, in bytes.
    pub(super) fn bytes_for(count: usize) -> usize {
        count * (count + 1) * size_of::<f32>()
    }
}

/// Mean and standard deviation of whole numbers that are spread normally.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    mean: f64,
    deviation: f64,
}

impl Spread {
    /// The number that this share of the numbers reach.
    pub(super) fn reached_by(self, share: f64) -> i32 {
        (self.mean + quantile_above(share) * self.deviation).floor() as i32
    }

    /// The share of the numbers that reach this one.
    pub(super) fn share_reaching(self, number: i32) -> f64 {
        // All may be the same.
        share_above((f64::from(number) - self.mean) / self.deviation.max(0.5))
    }
}

/// The share of a standard normal distribution above `z`.
fn share_above(z: f64) -> f64 {
    libm::erfc(z / std::f64::consts::SQRT_2) / 2.0
}

/// Above what this share of a standard normal distribution is, within [`FARTHEST`].
fn quantile_above(share: f64) -> f64 {
    let (mut low, mut high) = (-FARTHEST, FARTHEST);
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        if share_above(middle) >= share { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn quantiles_are_those_of_tables() {
        for (share, expected) in
            [(0.5, 0.0), (0.1, 1.281_552), (0.01, 2.326_348), (0.001, 3.090_232), (1e-6, 4.753_424)]
        {
            assert!((quantile_above(share) - expected).abs() < 1e-6, "{share}");
            assert!((share_above(expected) / share - 1.0).abs() < 1e-5, "{share}");
            assert!((quantile_above(1.0 - share) + expected).abs() < 1e-6, "{share}");
        }
        assert_eq!(quantile_above(2.0), -FARTHEST);
        assert!((quantile_above(0.0) - FARTHEST).abs() < 1e-9);
    }

    #[test]
    fn sums_are_spread_as_means_and_covariances_say() {
        let mut random = Random::new(7);
        // Levels that depend on one another.
        let sample: Vec<Vec<f32>> = (0..20_000)
            .map(|_| {
                let common = random.normal();
                (0..64)
                    .map(|at| (2.0 + common * f64::from(at % 3) / 4.0 + random.normal()).clamp(0.0, 3.0).floor() as f32)
                    .collect()
            })
            .collect();
        let moments = Moments::of(&sample[..10_000], 64);
        assert!(moments.are_of(64) && !moments.are_of(128));
        let weights: Vec<f32> = (0..64).map(|_| (random.normal() * 40.0).round() as f32).collect();
        let spread = moments.along(&weights);
        let sums: Vec<i32> = sample[10_000..].iter().map(|values| dot(values, &weights) as i32).collect();
        for share in [0.5, 0.1, 0.02, 0.005] {
            let reached = spread.reached_by(share);
            let found = sums.iter().filter(|sum| **sum >= reached).count() as f64 / sums.len() as f64;
            assert!((found / share - 1.0).abs() < 0.3, "{share}: {found}");
        }
    }

    #[test]
    fn a_number_is_reached_by_the_share_that_it_has() {
        let spread = Spread { mean: 210.3, deviation: 47.1 };
        // Further out nearly all reach it, which is told apart less well.
        for number in 0..500 {
            assert!(spread.reached_by(spread.share_reaching(number)) <= number, "{number}");
            assert!(spread.reached_by(spread.share_reaching(number)) >= number - 1, "{number}");
        }
        assert!(spread.reached_by(1.0) < 0 && spread.reached_by(0.0) > 700);
        let all_same = Spread { mean: 12.0, deviation: 0.0 };
        assert_eq!(all_same.reached_by(0.001), 12);
        assert!(all_same.share_reaching(12) > 0.4 && all_same.share_reaching(20) < 1e-9);
    }
}
