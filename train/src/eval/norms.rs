//! How norms of features follow the quality of images.
//!
//! AdaFace takes the norm as a measure of quality (Kim et al. 2022, section 3.2). Whether it is one for a network shows in
//! the same photos at several sizes: means alone do not tell, since spreads may be as large as what lies between them.

use serde::Serialize;

use super::EvalError;

/// Norms of a set of photos.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct NormSpread {
    /// How many there are.
    pub photos: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub std: f64,
    /// The norm that one in twenty does not reach.
    pub p05: f64,
    /// The one in the middle.
    pub median: f64,
    /// The norm that one in twenty exceeds.
    pub p95: f64,
}

impl NormSpread {
    /// Of norms in any order.
    ///
    /// # Errors
    /// [`EvalError::None`] without norms, [`EvalError::NotFinite`].
    pub fn new(norms: &[f64]) -> Result<Self, EvalError> {
        let sorted = sorted(norms)?;
        let count = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / count;
        let variance = sorted.iter().map(|norm| (norm - mean).powi(2)).sum::<f64>() / count;
        // The nearest rank.
        let at = |share: f64| sorted[((share * count).ceil() as usize).clamp(1, sorted.len()) - 1];
        Ok(Self { photos: sorted.len(), mean, std: variance.sqrt(), p05: at(0.05), median: at(0.5), p95: at(0.95) })
    }
}

/// How surely norms tell two sets apart: the share of pairs, one of each set, in which that of `better` is higher, equal
/// ones counting half (the area under the ROC). 0.5 is not at all, 1 without an overlap.
///
/// # Errors
/// As [`NormSpread::new`].
pub fn separation(better: &[f64], worse: &[f64]) -> Result<f64, EvalError> {
    let (better, worse) = (sorted(better)?, sorted(worse)?);
    let higher = |norm: &f64| {
        let (below, up_to) =
            (worse.partition_point(|other| other < norm), worse.partition_point(|other| other <= norm));
        (below + up_to) as f64 / 2.0
    };
    Ok(better.iter().map(higher).sum::<f64>() / (better.len() as f64 * worse.len() as f64))
}

/// Points of the distribution function: norms with the share of photos up to each, at most `points` of them.
///
/// # Errors
/// As [`NormSpread::new`].
pub fn distribution(norms: &[f64], points: usize) -> Result<Vec<(f64, f64)>, EvalError> {
    let sorted = sorted(norms)?;
    let step = sorted.len().div_ceil(points.max(1));
    let at = |place: usize| (sorted[place], (place + 1) as f64 / sorted.len() as f64);
    let inner = (0..sorted.len()).step_by(step).map(at);
    Ok(inner.chain([at(sorted.len() - 1)]).collect())
}

fn sorted(norms: &[f64]) -> Result<Vec<f64>, EvalError> {
    if norms.is_empty() {
        return Err(EvalError::None("norms"));
    }
    if let Some(index) = norms.iter().position(|norm| !norm.is_finite()) {
        return Err(EvalError::NotFinite { what: "the norm of feature", index });
    }
    let mut sorted = norms.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    Ok(sorted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_mean_deviation_and_ranks() {
        let norms: Vec<f64> = (1..=20).rev().map(f64::from).collect();
        let spread = NormSpread::new(&norms).unwrap();
        assert_eq!((spread.photos, spread.mean, spread.p05, spread.median, spread.p95), (20, 10.5, 1.0, 10.0, 19.0));
        assert!((spread.std - 33.25f64.sqrt()).abs() < 1e-12);
        assert!(NormSpread::new(&[]).is_err() && NormSpread::new(&[f64::NAN]).is_err());
    }

    #[test]
    fn separation_is_the_share_of_pairs() {
        assert_eq!(separation(&[5.0, 6.0], &[1.0, 2.0, 3.0]).unwrap(), 1.0);
        assert_eq!(separation(&[1.0], &[5.0]).unwrap(), 0.0);
        // (2 over 1) and (2 over 2, half) of four pairs, and both of 3.
        assert_eq!(separation(&[2.0, 3.0], &[1.0, 2.0]).unwrap(), 3.5 / 4.0);
        assert_eq!(separation(&[4.0, 4.0], &[4.0]).unwrap(), 0.5);
    }

    #[test]
    fn a_distribution_rises_to_one() {
        let norms: Vec<f64> = (0..1000).map(f64::from).collect();
        let points = distribution(&norms, 50).unwrap();
        assert!(points.len() <= 51 && points.windows(2).all(|two| two[0].1 <= two[1].1));
        assert_eq!((points[0], *points.last().unwrap()), ((0.0, 0.001), (999.0, 1.0)));
    }
}
