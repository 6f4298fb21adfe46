//! The identification error trade-off: FNIR over FPIR, as NIST's evaluations report it (Grother et al., NIST IR 8271).
//!
//! *Investigation* looks at all candidates: FNIR(R, 0) is the share of mated searches without the mate among the first R.
//! *Identification* looks at those at or above a threshold T, which is set for a rate of false positives: FNIR(R, T) at
//! FPIR(T). The rates are those of [`vultus_engine::evaluate::Searches`]; a threshold is only told where the searches carry it.

use serde::Serialize;
use vultus_engine::evaluate::{Mated, Searches};

use super::EvalError;
use super::search::{Labelled, Search, Ties, search_all};

/// Ranks at which investigation is reported.
pub const RANKS: [usize; 5] = [1, 5, 10, 20, 50];
/// Rates at which identification is reported.
pub const FPIRS: [f64; 5] = [0.001, 0.003, 0.01, 0.03, 0.1];

/// Both errors at one threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OperatingPoint {
    /// The false positive identification rate that was asked for.
    pub fpir: f64,
    /// The one at the threshold, which is not higher.
    pub measured_fpir: f64,
    /// The threshold.
    pub threshold: f64,
    /// Share of mated searches whose first candidate is not the mate at or above the threshold.
    pub fnir_first: f64,
    /// Share of mated searches whose mate is not at or above the threshold, whatever its rank.
    pub fnir_any: f64,
}

/// Errors of a gallery's searches.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TradeOff {
    /// Searches for persons who are enrolled.
    pub mated: usize,
    /// Searches for persons who are not.
    pub non_mated: usize,
    /// Templates in the gallery.
    pub gallery: usize,
    /// Ranks with FNIR(R, 0). Empty without mated searches.
    pub investigation: Vec<(usize, f64)>,
    /// Errors at the rates that the searches carry.
    pub identification: Vec<OperatingPoint>,
    /// The searches, as the engine's measurements take them.
    #[serde(skip)]
    pub searches: Searches,
}

/// Searches as the engine's measurements take them.
pub fn outcomes(searches: &[Search]) -> Searches {
    let mated = |search: &Search| search.mate.map(|mate| Mated { rank: mate.rank, score: mate.score });
    let non_mated = searches.iter().filter(|search| search.mate.is_none());
    Searches {
        mated: searches.iter().filter_map(mated).collect(),
        non_mated: non_mated.filter_map(|search| search.best_other).collect(),
    }
}

/// Searches a gallery with probes of persons who are enrolled, once or more often, and of others. Equal scores count
/// against the mate.
///
/// # Errors
/// As [`search_all`].
pub fn trade_off(probes: &Labelled, gallery: &Labelled) -> Result<TradeOff, EvalError> {
    let searches = outcomes(&search_all(probes, gallery, Ties::AgainstMate)?);
    let point = |&fpir: &f64| {
        let threshold = searches.threshold_at(fpir)?;
        Some(OperatingPoint {
            fpir,
            measured_fpir: searches.fpir(threshold)?,
            threshold,
            fnir_first: searches.fnir(1, threshold)?,
            fnir_any: searches.fnir(usize::MAX, threshold)?,
        })
    };
    Ok(TradeOff {
        mated: searches.mated.len(),
        non_mated: searches.non_mated.len(),
        gallery: gallery.len(),
        investigation: RANKS.iter().filter_map(|&rank| Some((rank, 1.0 - searches.rank(rank)?))).collect(),
        identification: FPIRS.iter().filter_map(point).collect(),
        searches,
    })
}

impl TradeOff {
    /// FNIR of the first candidate over FPIR, at every score of a non-mated search from high to low.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let mut thresholds = self.searches.non_mated.clone();
        thresholds.sort_by(|a, b| b.total_cmp(a));
        thresholds.dedup();
        let mut mates: Vec<f64> = self.searches.mated.iter().filter(|m| m.rank == 1).map(|m| m.score).collect();
        mates.sort_by(|a, b| b.total_cmp(a));
        let mut highest = self.searches.non_mated.clone();
        highest.sort_by(|a, b| b.total_cmp(a));
        let share = |sorted: &[f64], whole: usize, threshold: f64| {
            sorted.partition_point(|score| *score >= threshold) as f64 / whole as f64
        };
        let point =
            |&threshold: &f64| (share(&highest, highest.len(), threshold), 1.0 - share(&mates, self.mated, threshold));
        if self.mated == 0 { Vec::new() } else { thresholds.iter().map(point).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Rows;

    #[test]
    fn scores_that_are_one_in_single_precision_are_still_two() {
        let rows = |values: Vec<f64>| Rows::new("row", 2, values).unwrap();
        let gallery = Labelled::new(rows(vec![1.0, 0.0, 0.0, 1.0]), vec![1, 2]).unwrap();
        // The mate's score is just above that of the fourth stranger, who stays below the threshold.
        let mut probes = vec![0.7, 0.0, 0.95, 0.0, 0.9, 0.0, 0.85, 0.0, 0.0, 0.7 - 1e-9];
        (0..26).for_each(|_| probes.extend([0.2, 0.0]));
        let labels = std::iter::once(1).chain(std::iter::repeat_n(9, 30)).collect();
        let outcome = trade_off(&Labelled::new(rows(probes), labels).unwrap(), &gallery).unwrap();
        let point = outcome.identification.last().unwrap();
        assert_eq!((point.fpir, point.measured_fpir, point.fnir_first, point.fnir_any), (0.1, 0.1, 0.0, 0.0));
    }
}
