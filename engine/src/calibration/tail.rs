//! The tail of non-mated scores: a generalised Pareto distribution above a threshold, with what the data leave open.
//!
//! Excesses y over a high threshold follow S(y) = (1 + ξ y / σ)^(−1/ξ) for nearly every distribution (Pickands 1975;
//! Coles 2001, chapter 4); ξ → 0 is exp(−y / σ). Some hundred excesses fix the scale σ well and the shape ξ badly, and
//! ξ is what decides over rates far out. Scores of different faces are close to normally distributed, and for a normal
//! distribution cut at the survival p the best ξ is known (its penultimate form, Fisher and Tippett 1928):
//! ξ(p) = −(h − z) / h, where z is the quantile at p and h the hazard there. So ξ has a normal prior around that value.
//!
//! The posterior over (σ, ξ) is summed on a grid instead of found by ascent: it cannot fail to converge, and draws from
//! it keep the asymmetry that a covariance matrix would lose.

use super::random::Random;

/// Standard deviation of the prior on ξ around the value of a normal distribution.
const SHAPE_SD: f64 = 0.045;
/// How far out the prior looks: ξ of a normal distribution falls in size towards its end, and what is asked of a tail
/// lies some decades beyond its threshold.
const OUTWARD: f64 = 3.0;
/// Values of ξ on the grid.
const SHAPES: (f64, f64, usize) = (-0.30, 0.25, 56);
/// Values of ln σ on the grid, around the logarithm of the mean excess.
const SCALES: (f64, f64, usize) = (-1.0, 1.0, 61);
/// Draws kept of a posterior.
pub(super) const DRAWS: usize = 200;
/// Smallest scale: scores are f32, so closer ones are equal.
const SMALLEST_SCALE: f64 = 1e-6;

/// An excess over the threshold and how much it counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Excess {
    pub(super) by: f64,
    pub(super) weight: f64,
}

/// One (σ, ξ) that the data allow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pareto {
    pub(super) scale: f64,
    pub(super) shape: f64,
}

impl Pareto {
    /// S(y), 0 beyond the end of a distribution with ξ < 0.
    pub(super) fn survival(self, y: f64) -> f64 {
        (-self.cumulative_hazard(y)).exp()
    }

    /// −ln S(y).
    fn cumulative_hazard(self, y: f64) -> f64 {
        let t = self.shape * y / self.scale;
        if self.shape.abs() < 1e-9 {
            y / self.scale
        } else if t <= -1.0 {
            f64::INFINITY
        } else {
            t.ln_1p() / self.shape
        }
    }
}

/// Draws from the posterior of the tail. The weights of the excesses sum to the number of independent ones among them.
/// Excesses beyond `end` are left out, and the others then follow the tail given that they do not exceed it: whatever
/// lies beyond, and how much of it, has no influence.
///
/// `rate` is the share of all comparisons that exceed the threshold, above 0 and at most 1/2.
pub(super) fn posterior(excesses: &[Excess], end: Option<f64>, rate: f64, random: &mut Random) -> Vec<Pareto> {
    let observed: Vec<Excess> = excesses.iter().filter(|e| end.is_none_or(|end| e.by <= end)).copied().collect();
    let events: f64 = observed.iter().map(|e| e.weight).sum();
    let mean = observed.iter().map(|e| e.weight * e.by).sum::<f64>() / events.max(f64::MIN_POSITIVE);
    let centre = mean.max(SMALLEST_SCALE).ln();
    let expected_shape = normal_shape(rate / OUTWARD);

    let mut cells = Vec::with_capacity(SCALES.2 * SHAPES.2);
    for log_scale in grid(SCALES).map(|offset| centre + offset) {
        let scale = log_scale.exp();
        for shape in grid(SHAPES) {
            let cell = Pareto { scale, shape };
            let log_density = |e: &Excess| -e.weight * (1.0 + shape) * cell.cumulative_hazard(e.by);
            let mut log = observed.iter().map(log_density).sum::<f64>() - events * log_scale;
            if let Some(end) = end {
                log -= events * (-(-cell.cumulative_hazard(end)).exp_m1()).ln();
            }
            log -= ((shape - expected_shape) / SHAPE_SD).powi(2) / 2.0;
            cells.push((cell, log));
        }
    }
    draw(&cells, random)
}

/// Cells in proportion to their weight: the quantiles at (i + 1/2) / DRAWS of the cells in a row, then mixed, since the
/// order would otherwise tie the scale to whatever else is drawn beside it.
fn draw(cells: &[(Pareto, f64)], random: &mut Random) -> Vec<Pareto> {
    let highest = cells.iter().map(|&(_, log)| log).filter(|log| !log.is_nan()).fold(f64::MIN, f64::max);
    let weight = |log: f64| if log.is_nan() { 0.0 } else { (log - highest).exp() };
    let total: f64 = cells.iter().map(|&(_, log)| weight(log)).sum();
    let mut draws = Vec::with_capacity(DRAWS);
    let mut sum = 0.0;
    for &(cell, log) in cells {
        sum += weight(log);
        while draws.len() < DRAWS && (draws.len() as f64 + 0.5) / DRAWS as f64 * total <= sum {
            draws.push(cell);
        }
    }
    random.shuffle(&mut draws);
    draws
}

fn grid((from, to, steps): (f64, f64, usize)) -> impl Iterator<Item = f64> {
    (0..steps).map(move |i| from + (to - from) * i as f64 / (steps - 1) as f64)
}

/// ξ that fits a normal distribution best just above its quantile at the survival `rate`.
pub(super) fn normal_shape(rate: f64) -> f64 {
    let (mut low, mut high) = (0.0, 40.0);
    for _ in 0..60 {
        let z = (low + high) / 2.0;
        let log_survival = -z * z / 2.0 - (std::f64::consts::TAU).ln() / 2.0 - hazard(z).ln();
        if log_survival > rate.ln() {
            low = z;
        } else {
            high = z;
        }
    }
    let z = (low + high) / 2.0;
    let h = hazard(z);
    -(h - z) / h
}

/// Density over survival of the standard normal distribution at z >= 0, by Laplace's continued fraction
/// (Abramowitz and Stegun 26.2.14).
fn hazard(z: f64) -> f64 {
    let fraction = (1..=400).rev().fold(0.0, |fraction, n| f64::from(n) / (z + fraction));
    z + fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hazard_and_shape_of_the_normal_distribution() {
        // phi(z) / (1 - Phi(z)), from tables of the normal distribution.
        for (z, expected) in [(1.0, 1.525_135), (2.0, 2.373_216), (3.0, 3.283_099), (5.0, 5.186_504)] {
            approx::assert_relative_eq!(hazard(z), expected, max_relative = 1e-5);
        }
        // z = 3.0902, h = 3.3670 at one in a thousand.
        approx::assert_relative_eq!(normal_shape(1e-3), -0.0822, epsilon = 2e-4);
        assert!(normal_shape(1e-6) > normal_shape(1e-2));
        assert!(normal_shape(0.5).is_finite() && normal_shape(1e-300).is_finite());
    }

    #[test]
    fn survival_is_the_textbook_form() {
        for shape in [-0.2, 0.0, 1e-10, 0.2] {
            let tail = Pareto { scale: 0.03, shape };
            assert_eq!(tail.survival(0.0), 1.0);
            for y in [0.01, 0.05, 0.1] {
                let expected =
                    if shape.abs() < 1e-9 { (-y / 0.03f64).exp() } else { (1.0 + shape * y / 0.03).powf(-1.0 / shape) };
                approx::assert_relative_eq!(tail.survival(y), expected, max_relative = 1e-9);
            }
        }
        assert_eq!(Pareto { scale: 0.03, shape: -0.2 }.survival(1.0), 0.0);
    }

    /// Excesses at the quantiles of a known tail.
    fn excesses(tail: Pareto, count: usize) -> Vec<Excess> {
        let quantile = |p: f64| tail.scale * (p.powf(-tail.shape) - 1.0) / tail.shape;
        (0..count).map(|i| Excess { by: quantile((i as f64 + 0.5) / count as f64), weight: 1.0 }).collect()
    }

    #[test]
    fn a_known_tail_is_found_with_and_without_its_end() {
        let truth = Pareto { scale: 0.035, shape: -0.08 };
        let data = excesses(truth, 500);
        for end in [None, Some(0.08)] {
            let draws = posterior(&data, end, 1e-3, &mut Random::new(1));
            assert_eq!(draws.len(), DRAWS);
            let mean = |f: fn(&Pareto) -> f64| draws.iter().map(f).sum::<f64>() / DRAWS as f64;
            approx::assert_relative_eq!(mean(|d| d.scale), truth.scale, max_relative = 0.05);
            approx::assert_relative_eq!(mean(|d| d.shape), truth.shape, epsilon = 0.03);
        }
    }

    #[test]
    fn equal_or_no_excesses_still_give_draws() {
        let equal = vec![Excess { by: 1e-6, weight: 1.0 }; 50];
        for data in [&equal[..], &equal[..1], &[]] {
            let draws = posterior(data, None, 1e-3, &mut Random::new(1));
            assert_eq!(draws.len(), DRAWS);
            assert!(draws.iter().all(|d| d.scale.is_finite() && d.scale > 0.0));
        }
    }
}
