//! Error rates from the outcomes of searches.

/// Fewest false positives that must be expected among the non-mated searches for a rate to be measured: with fewer, not even
/// the order of magnitude is known.
pub const LEAST_EXPECTED: f64 = 3.0;

/// The outcome of a mated search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mated {
    /// Rank of the mate, 1 for the first candidate. Others of the same score count as before it.
    pub rank: usize,
    /// Score of the mate.
    pub score: f64,
}

/// One point of the trade-off between the two errors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DetPoint {
    /// The threshold.
    pub threshold: f64,
    /// Share of non-mated searches with a candidate at or above it.
    pub fpir: f64,
    /// Share of mated searches whose first candidate is not the mate at or above it.
    pub fnir: f64,
}

/// The outcomes of searches of one kind.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Searches {
    /// Of people who are enrolled.
    pub mated: Vec<Mated>,
    /// Of people who are not: the highest score of each.
    pub non_mated: Vec<f64>,
}

impl Searches {
    /// Share of mated searches with the mate among the first `rank` candidates. `None` without mated searches.
    pub fn rank(&self, rank: usize) -> Option<f64> {
        share(self.mated.iter().filter(|mated| mated.rank <= rank).count(), self.mated.len())
    }

    /// [`rank`](Self::rank) for 1 to `ranks`; empty without mated searches.
    pub fn cmc(&self, ranks: usize) -> Vec<f64> {
        (1..=ranks).map_while(|rank| self.rank(rank)).collect()
    }

    /// Share of non-mated searches with a candidate at or above a threshold. `None` without non-mated searches.
    pub fn fpir(&self, threshold: f64) -> Option<f64> {
        share(self.non_mated.iter().filter(|score| **score >= threshold).count(), self.non_mated.len())
    }

    /// Share of mated searches without the mate among the first `rank` candidates at or above a threshold. `None`
    /// without mated searches.
    pub fn fnir(&self, rank: usize, threshold: f64) -> Option<f64> {
        share(self.mated.iter().filter(|mated| !is_hit(mated, rank, threshold)).count(), self.mated.len())
    }

    /// The lowest threshold whose FPIR does not exceed a rate. `None` where the searches do not carry the rate: fewer than
    /// [`LEAST_EXPECTED`] false positives are to be expected among them.
    pub fn threshold_at(&self, fpir: f64) -> Option<f64> {
        let expected = fpir * self.non_mated.len() as f64;
        if expected.is_nan() || expected < LEAST_EXPECTED - 1e-9 || fpir >= 1.0 {
            return None;
        }
        let mut scores = self.non_mated.clone();
        scores.sort_by(|a, b| b.total_cmp(a));
        // As many may reach the threshold; the next one must stay just below it.
        let allowed = (expected + 1e-9).floor() as usize;
        scores.get(allowed).map(|score| score.next_up())
    }

    /// TPIR at the threshold of an FPIR, the mate being the first candidate. `None` where the rate is not carried.
    pub fn tpir_at(&self, fpir: f64) -> Option<f64> {
        Some(1.0 - self.fnir(1, self.threshold_at(fpir)?)?)
    }

    /// Whether each mated search finds its mate first, at or above a threshold.
    pub fn hits(&self, threshold: f64) -> impl Iterator<Item = bool> {
        self.mated.iter().map(move |mated| is_hit(mated, 1, threshold))
    }

    /// The errors at the thresholds of some FPIRs; rates that are not carried are left out.
    pub fn det(&self, rates: &[f64]) -> Vec<DetPoint> {
        let point = |&rate: &f64| {
            let threshold = self.threshold_at(rate)?;
            Some(DetPoint { threshold, fpir: self.fpir(threshold)?, fnir: self.fnir(1, threshold)? })
        };
        rates.iter().filter_map(point).collect()
    }
}

fn is_hit(mated: &Mated, rank: usize, threshold: f64) -> bool {
    mated.rank <= rank && mated.score >= threshold
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten non-mated maxima 0.1 to 1.0 and five mated searches.
    fn searches() -> Searches {
        let mated = [(1, 0.95), (1, 0.65), (2, 0.85), (1, 0.3), (7, 0.2)];
        Searches {
            mated: mated.into_iter().map(|(rank, score)| Mated { rank, score }).collect(),
            non_mated: (1..=10).rev().map(|i| f64::from(i) / 10.0).collect(),
        }
    }

    #[test]
    fn rates_are_those_counted_by_hand() {
        let searches = searches();
        assert_eq!(searches.cmc(7), [0.6, 0.8, 0.8, 0.8, 0.8, 0.8, 1.0]);
        // "At or above": a score equal to the threshold counts.
        assert_eq!(searches.fpir(0.7), Some(0.4));
        assert_eq!(searches.fpir(0.71), Some(0.3));
        assert_eq!(searches.fnir(1, 0.65), Some(0.6));
        assert_eq!(searches.fnir(2, 0.65), Some(0.4));
        assert_eq!(searches.fnir(7, 0.0), Some(0.0));
    }

    #[test]
    fn a_threshold_keeps_its_rate() {
        let searches = searches();
        // Three of ten may reach it: 1.0, 0.9 and 0.8.
        let threshold = searches.threshold_at(0.3).unwrap();
        assert!(threshold > 0.7 && threshold < 0.700_000_001, "{threshold}");
        assert_eq!(searches.fpir(threshold), Some(0.3));
        approx::assert_abs_diff_eq!(searches.tpir_at(0.3).unwrap(), 0.2, epsilon = 1e-12);
        assert_eq!(searches.hits(threshold).collect::<Vec<_>>(), [true, false, false, false, false]);
        let points = searches.det(&[0.5, 0.3, 0.01]);
        assert_eq!(points.len(), 2);
        assert_eq!((points[0].fpir, points[0].fnir), (0.5, 0.6));
        assert_eq!((points[1].fpir, points[1].fnir), (0.3, 0.8));
    }

    #[test]
    fn what_the_searches_do_not_carry_is_not_told() {
        let searches = searches();
        assert_eq!(searches.threshold_at(0.29), None);
        assert_eq!(searches.threshold_at(1.0), None);
        assert_eq!(searches.threshold_at(f64::NAN), None);
        assert_eq!(searches.tpir_at(0.01), None);
        let none = Searches::default();
        assert_eq!((none.rank(1), none.fpir(0.5), none.fnir(1, 0.5), none.tpir_at(0.5)), (None, None, None, None));
        assert!(none.cmc(5).is_empty());
    }

    #[test]
    fn equal_scores_do_not_slip_past_the_threshold() {
        let searches = Searches { mated: vec![], non_mated: [[0.9; 5], [0.5; 5]].concat() };
        // Three may reach it, but five have the score, so none does.
        let threshold = searches.threshold_at(0.3).unwrap();
        assert_eq!(searches.fpir(threshold), Some(0.0));
    }
}
