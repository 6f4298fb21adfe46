//! A calibration at one size of its gallery: rates of scores and scores of rates.

use serde::Serialize;

use super::tail::Pareto;
use super::{Calibration, counts};

/// Rates are never given as 0 or 1: no measurement shows that something never happens. This is the smallest one.
pub const SMALLEST_RATE: f64 = 1e-9;
/// And this the largest.
pub const LARGEST_RATE: f64 = 1.0 - 1e-9;
/// A gallery supports a rate when the upper end of the interval is at most this many times the rate.
pub const SUPPORTED_RATIO: f64 = 3.0;
/// The largest score there is: that of a cosine.
const LARGEST_SCORE: f64 = 1.0;
/// The rates of [`View::table`].
pub const TABLE_RATES: [f64; 8] = [0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001];

/// The FPIR of a score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Share of non-mated searches with a candidate of this score or more: the mean of what the data allow.
    pub value: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end. It counts suspected pairs as different people, since nobody has said that they are not.
    pub high: f64,
    /// Below [`View::smallest_fpir`]: the gallery does not support a rate this small.
    pub extrapolated: bool,
}

/// The score of an FPIR.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ScoreEstimate {
    /// From here on a candidate is a match; at most 1, the largest cosine.
    pub score: f64,
    /// The rate at this score. It is the one asked for unless that lies outside of what scores can reach.
    pub fpir: f64,
    /// Lower end of the 95 % interval of the rate at this score.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Below [`View::smallest_fpir`].
    pub extrapolated: bool,
}

/// A calibration at one size of its gallery. Making one takes about half a millisecond, asking it some 10 µs a score and
/// 150 µs a rate; keep it while the size stays.
#[derive(Debug, Clone)]
pub struct View {
    calibration: Calibration,
    /// Size now over size then.
    growth: f64,
    /// Tail interval at the threshold in logits at the calibrated size, down and up.
    reach: (f64, f64),
    /// From here on rates are extrapolated.
    limit: f64,
}

impl View {
    pub(super) fn new(calibration: Calibration, gallery_size: u64) -> Self {
        let growth = gallery_size.max(1) as f64 / calibration.gallery_size.max(1) as f64;
        let mut view = Self { calibration, growth: 1.0, reach: (0.0, 0.0), limit: f64::INFINITY };
        let k = view.calibration.dispersion;
        let (low, high) = view.tail_means(view.calibration.threshold);
        let at = counts::logit(view.calibration.mean, k);
        view.reach = (at - counts::logit(low, k), counts::logit(high, k) - at);
        view.growth = growth;
        view.limit = view.limit();
        view
    }

    /// Subjects of the gallery over those when it was calibrated.
    pub fn growth(&self) -> f64 {
        self.growth
    }

    /// FPIR of a threshold at this score, with a 95 % interval. A score that is no number counts as the lowest one.
    pub fn fpir_at(&self, score: f64) -> Estimate {
        let value = self.rate(self.mean(score));
        let (low, high) = self.interval(score);
        let high = self.rate(high + self.suspected(score));
        let extrapolated = score > self.limit;
        // Far out a few heavy draws make the mean, and quantiles say little.
        let high = if extrapolated { high.max(SUPPORTED_RATIO * value) } else { high };
        Estimate { value, low: self.rate(low).min(value), high: clamp(high.max(value)), extrapolated }
    }

    /// The lowest score whose FPIR is at most this one, with the interval of the rate there.
    pub fn score_at(&self, fpir: f64) -> ScoreEstimate {
        let fpir = clamp(fpir);
        let (mut low, mut high) = (self.lowest(), LARGEST_SCORE.max(self.lowest()));
        let met = |score: f64| self.rate(self.mean(score)) <= fpir;
        if met(low) {
            high = low;
        } else if met(high) {
            for _ in 0..60 {
                let middle = (low + high) / 2.0;
                if met(middle) {
                    high = middle;
                } else {
                    low = middle;
                }
            }
        }
        let Estimate { value, low, high: upper, extrapolated } = self.fpir_at(high);
        // Where even the largest score is reached too often, no score keeps the rate.
        let extrapolated = extrapolated || value > fpir;
        ScoreEstimate { score: high, fpir: value, low, high: upper, extrapolated }
    }

    /// The smallest FPIR that the gallery supports: down to it the upper end of the interval, suspected pairs aside, is
    /// at most [`SUPPORTED_RATIO`] times the estimate.
    pub fn smallest_fpir(&self) -> f64 {
        self.rate(self.mean(self.limit))
    }

    /// Scores of the rates [`TABLE_RATES`].
    pub fn table(&self) -> Vec<(f64, ScoreEstimate)> {
        TABLE_RATES.iter().map(|&rate| (rate, self.score_at(rate))).collect()
    }

    /// What suspected pairs of this score or more add to the expected candidates at the calibrated size, were they
    /// different people. The list holds the best ones only; the others are taken to be like them.
    fn suspected(&self, score: f64) -> f64 {
        let listed = &self.calibration.suspects;
        let sum: f64 = listed.iter().filter(|pair| pair.score >= score).map(|pair| pair.mean).sum();
        sum * self.calibration.suspects_total as f64 / listed.len().max(1) as f64
    }

    fn lowest(&self) -> f64 {
        self.calibration.body.first().map_or(-1.0, |knot| knot.score)
    }

    /// FPIR at the present size of an expected number of candidates at the calibrated one.
    fn rate(&self, mean: f64) -> f64 {
        clamp(counts::rate(mean * self.growth, self.calibration.dispersion))
    }

    /// Expected candidates at the calibrated size.
    fn mean(&self, score: f64) -> f64 {
        let calibration = &self.calibration;
        if score > calibration.threshold {
            let draws = calibration.tail.iter();
            let count = draws.len() as f64;
            let survival: f64 = draws.map(|(_, tail)| tail.survival(score - calibration.threshold)).sum();
            return calibration.mean * survival / count;
        }
        // ln of the mean is linear between the measured points.
        let next = calibration.body.partition_point(|knot| knot.score <= score || score.is_nan());
        match (next.checked_sub(1).map(|i| calibration.body[i]), calibration.body.get(next)) {
            _ if score.is_nan() => calibration.body.first().map_or(calibration.mean, |knot| knot.mean),
            (Some(a), Some(b)) => {
                let part = (score - a.score) / (b.score - a.score);
                (a.mean.ln() + (b.mean.ln() - a.mean.ln()) * part).exp()
            }
            (Some(knot), None) => knot.mean,
            (None, Some(knot)) => knot.mean,
            (None, None) => calibration.mean,
        }
    }

    /// Ends of the 95 % interval of the expected candidates at the calibrated size.
    fn interval(&self, score: f64) -> (f64, f64) {
        let calibration = &self.calibration;
        if score > calibration.threshold {
            return self.tail_means(score);
        }
        // The error of a share p of n searches is 1 / √(n p (1 − p)) = 2 cosh(logit / 2) / √n in logits; scaled to meet
        // the tail's interval. Near a share of 1 it grows faster than the logit; there the lower end stays where it is.
        let k = calibration.dispersion;
        let (here, there) = (counts::logit(self.mean(score), k), counts::logit(calibration.mean, k));
        let ratio = |logit: f64| ((logit / 2.0).cosh() / (there / 2.0).cosh()).max(1.0);
        let turn = 2.0 * (2.0 * (there / 2.0).cosh() / self.reach.0.max(1e-9)).asinh();
        let lower = here.min(turn.max(there));
        (
            counts::mean_of_logit(lower - self.reach.0 * ratio(lower), k),
            counts::mean_of_logit(here + self.reach.1 * ratio(here), k),
        )
    }

    /// The quantiles at 2.5 % and 97.5 % of the expected candidates above the threshold.
    fn tail_means(&self, score: f64) -> (f64, f64) {
        let calibration = &self.calibration;
        let by = score - calibration.threshold;
        let mut means: Vec<f64> =
            calibration.tail.iter().map(|(factor, tail)| calibration.mean * factor * tail.survival(by)).collect();
        means.sort_by(f64::total_cmp);
        (quantile(&means, 0.025), quantile(&means, 0.975))
    }

    /// Where the interval first grows beyond what counts as supported.
    fn limit(&self) -> f64 {
        let supported = |score: f64| {
            let (_, high) = self.interval(score);
            self.rate(high) <= SUPPORTED_RATIO * self.rate(self.mean(score))
        };
        let (from, to) = (self.calibration.threshold, LARGEST_SCORE.max(self.calibration.threshold));
        const STEPS: usize = 48;
        let at = |step: usize| from + (to - from) * step as f64 / STEPS as f64;
        let Some(first) = (0..=STEPS).find(|&step| !supported(at(step))) else { return to };
        let (mut good, mut bad) = (at(first.saturating_sub(1)), at(first));
        for _ in 0..30 {
            let middle = (good + bad) / 2.0;
            if supported(middle) {
                good = middle;
            } else {
                bad = middle;
            }
        }
        good
    }
}

impl super::Draws {
    fn iter(&self) -> impl ExactSizeIterator<Item = (f64, Pareto)> + '_ {
        let pairs = self.scale.iter().zip(&self.shape);
        self.factor.iter().zip(pairs).map(|(&factor, (&scale, &shape))| (factor, Pareto { scale, shape }))
    }
}

/// Linear between the sorted values.
fn quantile(sorted: &[f64], p: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = p * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// Not a number stands for the worst rate.
fn clamp(rate: f64) -> f64 {
    if rate.is_nan() { LARGEST_RATE } else { rate.clamp(SMALLEST_RATE, LARGEST_RATE) }
}
