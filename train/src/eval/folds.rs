//! Verification accuracy in ten folds, as LFW and the sets after it are reported.
//!
//! For each fold the threshold is chosen that decides most pairs of the other nine rightly, and the accuracy is that on
//! the fold itself (Huang et al. 2007, "Labeled Faces in the Wild", section 4, "View 2"). Thresholds are those of the
//! InsightFace toolbox, which all published figures go back to: squared distances of 0, 0.01, …, 3.99, of several equally
//! good ones the lowest. A pair is of one person if its distance is below the threshold, not at it.

use serde::Serialize;

use super::error::check_length;
use super::{EvalError, Rows};

/// Folds of the usual protocols.
pub const FOLDS: usize = 10;
/// How many thresholds are tried.
const THRESHOLDS: usize = 400;
/// From one threshold to the next.
const STEP: f64 = 0.01;

/// Outcome of a verification protocol in folds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verification {
    /// Share of right decisions in each fold.
    pub accuracies: Vec<f64>,
    /// Squared distance that was the threshold of each fold.
    pub thresholds: Vec<f64>,
    /// At each of the thresholds tried, the mean over the folds of the share of mated pairs below it.
    #[serde(skip)]
    pub tpr: Vec<f64>,
    /// At each of the thresholds tried, the mean over the folds of the share of non-mated pairs below it.
    #[serde(skip)]
    pub fpr: Vec<f64>,
}

impl Verification {
    /// Mean accuracy, the figure that papers print.
    pub fn accuracy(&self) -> f64 {
        mean(&self.accuracies)
    }

    /// Standard deviation of the accuracies over the folds, with their number as divisor.
    pub fn deviation(&self) -> f64 {
        let mean = self.accuracy();
        let squares: Vec<f64> = self.accuracies.iter().map(|value| (value - mean).powi(2)).collect();
        self::mean(&squares).sqrt()
    }

    /// Mean of the folds' thresholds, a squared distance; the cosine is 1 − half of it.
    pub fn threshold(&self) -> f64 {
        mean(&self.thresholds)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The squared distances that are tried as thresholds.
pub fn thresholds() -> Vec<f64> {
    (0..THRESHOLDS).map(|at| at as f64 * STEP).collect()
}

/// Squared Euclidean distances of pairs: rows 0 and 1, rows 2 and 3 and so on.
///
/// # Errors
/// [`EvalError::Length`] for an odd number of rows.
pub fn squared_distances<T: Copy + Into<f64>>(embeddings: &Rows<T>) -> Result<Vec<f64>, EvalError> {
    check_length("embeddings in the last pair", 2 - embeddings.len() % 2, 2)?;
    Ok((0..embeddings.len() / 2)
        .map(|pair| {
            let (a, b) = (embeddings.row(2 * pair), embeddings.row(2 * pair + 1));
            a.iter().zip(b).map(|(x, y)| ((*x).into() - (*y).into()).powi(2)).sum()
        })
        .collect())
}

/// Folds of neighbouring pairs, as near to one size as can be, the larger ones first.
pub fn contiguous(pairs: usize, folds: usize) -> Vec<usize> {
    let (size, larger) = (pairs / folds.max(1), pairs % folds.max(1));
    (0..folds).flat_map(|fold| std::iter::repeat_n(fold, size + usize::from(fold < larger))).collect()
}

/// Verifies in ten folds of neighbouring pairs. See [`verify`].
///
/// # Errors
/// As [`verify`].
pub fn ten_folds(distances: &[f64], same: &[bool]) -> Result<Verification, EvalError> {
    verify(distances, same, &contiguous(distances.len(), FOLDS), FOLDS)
}

/// Pairs of a fold by the first threshold they are below; the last place is that of pairs below none.
#[derive(Clone)]
struct Counts {
    same: [usize; THRESHOLDS + 1],
    different: [usize; THRESHOLDS + 1],
}

/// Verifies in given folds.
///
/// `distances` are squared distances of pairs of unit vectors; a pair that could not be compared has an infinite one and is
/// never taken for one person. `same` says of each pair whether it is of one person, `fold_of` in which of `folds` it is.
///
/// # Errors
/// [`EvalError::Length`] for lists of different lengths, [`EvalError::NotFinite`] for a distance that is NaN,
/// [`EvalError::EmptyFold`] for a fold without pairs, [`EvalError::None`] for fewer than two folds.
pub fn verify(distances: &[f64], same: &[bool], fold_of: &[usize], folds: usize) -> Result<Verification, EvalError> {
    check_length("decisions", same.len(), distances.len())?;
    check_length("fold numbers", fold_of.len(), distances.len())?;
    if folds < 2 {
        return Err(EvalError::None("folds to choose a threshold on"));
    }
    let thresholds = thresholds();
    let none = Counts { same: [0; THRESHOLDS + 1], different: [0; THRESHOLDS + 1] };
    let (mut by_fold, mut all) = (vec![none.clone(); folds], none);
    for (pair, ((distance, same), fold)) in distances.iter().zip(same).zip(fold_of).enumerate() {
        if distance.is_nan() {
            return Err(EvalError::NotFinite { what: "the distance of pair", index: pair });
        }
        let below = thresholds.partition_point(|threshold| distance >= threshold);
        let fold =
            by_fold.get_mut(*fold).ok_or(EvalError::Length { what: "folds", expected: folds, actual: fold + 1 })?;
        for counts in [fold, &mut all] {
            if *same { counts.same[below] += 1 } else { counts.different[below] += 1 }
        }
    }
    by_fold.iter_mut().for_each(Counts::accumulate);
    all.accumulate();
    if let Some(fold) = by_fold.iter().position(|counts| counts.pairs() == 0) {
        return Err(EvalError::EmptyFold { fold: fold + 1, folds, pairs: distances.len() });
    }
    let mut outcome = Verification {
        accuracies: Vec::with_capacity(folds),
        thresholds: Vec::with_capacity(folds),
        tpr: vec![0.0; THRESHOLDS],
        fpr: vec![0.0; THRESHOLDS],
    };
    for counts in &by_fold {
        let mut best = 0;
        for at in 1..THRESHOLDS {
            if all.right(at) - counts.right(at) > all.right(best) - counts.right(best) {
                best = at;
            }
        }
        outcome.thresholds.push(thresholds[best]);
        outcome.accuracies.push(counts.right(best) as f64 / counts.pairs() as f64);
        for at in 0..THRESHOLDS {
            outcome.tpr[at] += share(counts.same[at], counts.same[THRESHOLDS]) / folds as f64;
            outcome.fpr[at] += share(counts.different[at], counts.different[THRESHOLDS]) / folds as f64;
        }
    }
    Ok(outcome)
}

impl Counts {
    /// From counts at each threshold to counts up to it.
    fn accumulate(&mut self) {
        for at in 1..=THRESHOLDS {
            self.same[at] += self.same[at - 1];
            self.different[at] += self.different[at - 1];
        }
    }

    fn pairs(&self) -> usize {
        self.same[THRESHOLDS] + self.different[THRESHOLDS]
    }

    /// Right decisions at a threshold.
    fn right(&self, at: usize) -> usize {
        self.same[at] + self.different[THRESHOLDS] - self.different[at]
    }
}

/// A share that is 0 of nothing, as in the published code.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
