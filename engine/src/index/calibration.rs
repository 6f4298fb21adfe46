//! How near is near in a cascade: chosen on probes made of the gallery's own rows, and tried on others.

use super::Hit;
use super::RowKey;
use super::cascade::{Cascade, MOST, RECALL_AT, Shares};
use super::flat::FlatRows;
use super::scan::Query;
use super::top::TopSubjects;
use super::trial::seen_anew;

/// Probes that say how many rows have to go on, and as many others that say what is found then.
const TRIALS: usize = 400;
/// The share of probes whose best subject has to be found.
const RANK_1: f64 = 0.9995;
/// Shares of what is to be found that the first look may let through: the more, the more rows are looked at a second time.
const LET_THROUGH: [f64; 6] = [0.93, 0.95, 0.97, 0.98, 0.99, 0.995];
/// What a second look at eight rows takes, in nanoseconds, and what a row takes that goes on. Only which is cheaper depends on
/// them.
const BLOCK_NS: f64 = 8.0;
const ROW_NS: f64 = 80.0;

/// The shares of the rows that are as near to a probe as a subject that is to be found.
#[derive(Clone, Copy)]
struct Found {
    first: f64,
    second: f64,
    /// It is the best one.
    is_best: bool,
}

impl Cascade {
    /// Chooses what goes on, and measures what is found.
    pub(super) fn try_out(&mut self, rows: &FlatRows, target: f32, slot_of: &dyn Fn(&RowKey) -> Option<usize>) {
        let probes: Vec<Vec<f32>> =
            (0..2 * TRIALS).filter_map(|number| seen_anew(rows, number, 2 * TRIALS, self.covers())).collect();
        let queries: Vec<Query<'_>> = probes.iter().map(|probe| Query { probe, limit: RECALL_AT }).collect();
        let exact: Vec<Vec<Hit>> = rows.scan_many(&queries).into_iter().map(TopSubjects::into_hits).collect();
        // Every other one, so that both halves are of the whole gallery.
        let mut all = Vec::new();
        for (probe, hits) in probes.iter().zip(&exact).step_by(2) {
            let sight = self.sight(probe);
            let [first, second] = self.distances_of(&sight);
            for (rank, hit) in hits.iter().enumerate() {
                let key = RowKey { subject: hit.subject.clone(), face: hit.face };
                let Some(row) = slot_of(&key).and_then(|slot| rows.row(slot)) else { continue };
                let [away, weighed] = sight.distances_to(&self.sight(row.vector));
                let (first, second) = (first.share_within(away), second.share_within(weighed));
                all.push(Found { first, second, is_best: rank == 0 });
            }
        }
        self.trial.shares = cheapest(&all, target.into());
        let others: Vec<usize> = (1..queries.len()).step_by(2).collect();
        let tried: Vec<Query<'_>> = others.iter().map(|&number| queries[number]).collect();
        let (mut wanted, mut found, mut right) = (0, 0, 0);
        for (&number, answer) in others.iter().zip(self.search_many(rows, &tried)) {
            let hits = &exact[number];
            let answer = answer.map_or_else(|| hits.clone(), TopSubjects::into_hits);
            // A subject that ties with the last counts.
            let Some(last) = hits.last() else { continue };
            wanted += hits.len();
            found += answer.iter().filter(|hit| hit.score >= last.score).count();
            right += usize::from(answer.first().is_some_and(|hit| hit.score >= hits[0].score));
        }
        let share_of = |part: usize, of: usize| if of == 0 { 1.0 } else { part as f32 / of as f32 };
        self.trial.recall_at_10 = share_of(found, wanted);
        self.trial.rank_1 = share_of(right, others.len());
    }
}

/// The shares with which so much of what is to be found is found in the shortest time.
fn cheapest(all: &[Found], target: f64) -> Shares {
    let each = LET_THROUGH.iter().filter_map(|let_through| {
        let first = least_for(all, *let_through, |found| found.first);
        let passed: Vec<Found> = all.iter().copied().filter(|found| found.first <= first).collect();
        let of_passed = target * all.len() as f64 / passed.len().max(1) as f64;
        let second = (of_passed <= 1.0).then(|| least_for(&passed, of_passed, |found| found.second).min(MOST))?;
        let blocks = (1.0 - (1.0 - first).powi(8)) / 8.0;
        Some((Shares { first: first.max(second), second }, blocks * BLOCK_NS + second * ROW_NS))
    });
    let best = each.min_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map_or(Shares { first: 1.0, second: MOST }, |(shares, _)| shares)
}

/// The least share within which there are so many of all, and nearly all of the best.
fn least_for(all: &[Found], target: f64, share: impl Fn(&Found) -> f64) -> f64 {
    let mut shares: Vec<f64> = all.iter().map(&share).collect();
    let mut of_best: Vec<f64> = all.iter().filter(|found| found.is_best).map(share).collect();
    quantile(&mut shares, target).max(quantile(&mut of_best, RANK_1))
}

/// The value that this share of values does not exceed; 0 without values.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (share * values.len() as f64).ceil() as usize;
    values.get(at.saturating_sub(1).min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_finds_as_much_as_asked_and_the_best_ones() {
        // Far on the first look is not far on the second.
        let found = |number: usize| Found {
            first: number as f64 / 1_000.0,
            second: ((number * 37) % 1_000) as f64 / 50_000.0,
            is_best: number.is_multiple_of(100),
        };
        let all: Vec<Found> = (0..1_000).map(found).collect();
        for target in [0.5, 0.9, 0.99] {
            let Shares { first, second } = cheapest(&all, target);
            let is_near = |found: &&Found| found.first <= first && found.second <= second;
            assert!(all.iter().filter(is_near).count() as f64 >= target * 1_000.0 - 1.0, "{target}");
            assert!(all.iter().filter(|found| found.is_best).all(|found| is_near(&found)));
            assert!(second <= MOST && first <= 1.0);
        }
        let nothing = cheapest(&[], 0.9);
        assert!(nothing.second <= MOST);
        // What cannot be had is not promised: as much goes on as may.
        assert_eq!(cheapest(&all, 1.0), Shares { first: 1.0, second: MOST });
    }

    #[test]
    fn quantiles_are_values() {
        assert_eq!(quantile(&mut [], 0.5), 0.0);
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0, 4.0], 0.51), 3.0);
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0, 4.0], 1.0), 4.0);
    }
}
