//! The receiver operating characteristic of scores, with the points that scikit-learn keeps.
//!
//! Published rates at a false accept rate are read off a curve that scikit-learn has thinned and are not interpolated, so a
//! figure depends on which points the curve has. The rules, those of `sklearn.metrics.roc_curve`: one point for each
//! distinct score, from high to low; a point is dropped if both counts rise as much before it as after it; then a first
//! point of zeros at an infinite threshold.

use rayon::prelude::*;
use serde::Serialize;

use super::EvalError;
use super::error::check_length;

/// Rates at which IJB-B and IJB-C are reported.
pub const IJB_RATES: [f64; 6] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];

/// What is accepted at one threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RocPoint {
    /// Scores from here on are accepted.
    pub threshold: f64,
    /// Non-mated comparisons among them.
    pub false_accepts: usize,
    /// Mated comparisons among them.
    pub true_accepts: usize,
}

/// A receiver operating characteristic.
#[derive(Debug, Clone, PartialEq)]
pub struct Roc {
    /// Thresholds from high to low, the first one infinite.
    pub points: Vec<RocPoint>,
    /// Mated comparisons.
    pub mated: usize,
    /// Non-mated comparisons.
    pub non_mated: usize,
}

/// True accept rate where the false accept rate is nearest to a wanted one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TarAtFar {
    /// The false accept rate that was asked for.
    pub far: f64,
    /// The one that is nearest to it on the curve.
    pub measured_far: f64,
    /// Share of mated comparisons accepted.
    pub tar: f64,
    /// The threshold; `None` where nothing is accepted.
    pub threshold: Option<f64>,
}

impl Roc {
    /// The curve of scores, of which `mated` says which compare images of one person.
    ///
    /// # Errors
    /// [`EvalError::Length`] for lists of different lengths, [`EvalError::None`] for empty ones, [`EvalError::NotFinite`] for
    /// a score that is not finite.
    pub fn new(scores: &[f64], mated: &[bool]) -> Result<Self, EvalError> {
        check_length("labels of comparisons", mated.len(), scores.len())?;
        if scores.is_empty() {
            return Err(EvalError::None("comparisons"));
        }
        if let Some(index) = scores.iter().position(|score| !score.is_finite()) {
            return Err(EvalError::NotFinite { what: "the score of comparison", index });
        }
        let mut sorted: Vec<(f64, bool)> = scores.iter().copied().zip(mated.iter().copied()).collect();
        sorted.par_sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let mut all: Vec<RocPoint> = Vec::new();
        let (mut false_accepts, mut true_accepts) = (0, 0);
        for (score, is_mated) in sorted {
            if is_mated {
                true_accepts += 1
            } else {
                false_accepts += 1
            }
            let point = RocPoint { threshold: score, false_accepts, true_accepts };
            match all.last_mut() {
                Some(last) if last.threshold == score => *last = point,
                _ => all.push(point),
            }
        }
        let first = RocPoint { threshold: f64::INFINITY, false_accepts: 0, true_accepts: 0 };
        let points = std::iter::once(first)
            .chain(all.iter().enumerate().filter(|(at, _)| is_corner(&all, *at)).map(|(_, point)| *point))
            .collect();
        Ok(Self { points, mated: true_accepts, non_mated: false_accepts })
    }

    /// False accept rate of each point. `None` without non-mated comparisons.
    pub fn fpr(&self) -> Option<Vec<f64>> {
        let whole = self.non_mated as f64;
        (self.non_mated > 0).then(|| self.points.iter().map(|point| point.false_accepts as f64 / whole).collect())
    }

    /// True accept rate of each point. `None` without mated comparisons.
    pub fn tpr(&self) -> Option<Vec<f64>> {
        let whole = self.mated as f64;
        (self.mated > 0).then(|| self.points.iter().map(|point| point.true_accepts as f64 / whole).collect())
    }

    /// Area under the curve. `None` unless there are both mated and non-mated comparisons.
    pub fn area(&self) -> Option<f64> {
        let (fpr, tpr) = (self.fpr()?, self.tpr()?);
        let trapezia = fpr.windows(2).zip(tpr.windows(2));
        Some(trapezia.map(|(x, y)| (x[1] - x[0]) * (y[0] + y[1]) / 2.0).sum())
    }

    /// The point whose false accept rate is nearest to `far`; of several the one that accepts most. `None` unless there
    /// are both mated and non-mated comparisons.
    pub fn tar_at(&self, far: f64) -> Option<TarAtFar> {
        let (fpr, tpr) = (self.fpr()?, self.tpr()?);
        let mut best = fpr.len() - 1;
        for at in (0..best).rev() {
            if (fpr[at] - far).abs() < (fpr[best] - far).abs() {
                best = at;
            }
        }
        let threshold = Some(self.points[best].threshold).filter(|threshold| threshold.is_finite());
        Some(TarAtFar { far, measured_far: fpr[best], tar: tpr[best], threshold })
    }

    /// [`tar_at`](Self::tar_at) for several rates; empty unless there are both mated and non-mated comparisons.
    pub fn table(&self, rates: &[f64]) -> Vec<TarAtFar> {
        rates.iter().map_while(|far| self.tar_at(*far)).collect()
    }

    /// The curve as false and true accept rates; empty unless there are both mated and non-mated comparisons.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        self.fpr().unwrap_or_default().into_iter().zip(self.tpr().unwrap_or_default()).collect()
    }
}

/// Whether the curve bends at a point, as far as second differences of the counts tell.
fn is_corner(all: &[RocPoint], at: usize) -> bool {
    if at == 0 || at + 1 == all.len() {
        return true;
    }
    let (before, here, after) = (&all[at - 1], &all[at], &all[at + 1]);
    let bends = |count: fn(&RocPoint) -> usize| count(here) - count(before) != count(after) - count(here);
    bends(|point| point.false_accepts) || bends(|point| point.true_accepts)
}
