//! How near is near in a cascade: chosen on probes made of the gallery's own rows, and tried on others.

use super::Hit;
use super::RowKey;
use super::cascade::{Cascade, MOST, RECALL_AT};
use super::flat::FlatRows;
use super::scan::Query;
use super::top::TopSubjects;
use super::trial::seen_anew;

/// Probes that say how many rows have to go on, and as many others that say what is found then.
const TRIALS: usize = 800;
/// The share of probes whose best subject has to be found.
const RANK_1: f64 = 0.9995;

/// The share of the rows that are as near to a probe as a subject that is to be found, or nearer.
#[derive(Clone, Copy)]
struct Found {
    near: f64,
    /// It is the best one.
    is_best: bool,
}

impl Cascade {
    /// Chooses what goes on, and measures what is found.
    pub(super) fn try_out(&mut self, rows: &FlatRows, slot_of: &dyn Fn(&RowKey) -> Option<usize>) {
        let probes = seen_anew(rows, 2 * TRIALS, self.covers());
        let queries: Vec<Query<'_>> = probes.iter().map(|probe| Query { probe, limit: RECALL_AT }).collect();
        let exact: Vec<Vec<Hit>> = rows.scan_many(&queries).into_iter().map(TopSubjects::into_hits).collect();
        // Every other one, so that both halves are of the whole gallery.
        let mut all = Vec::new();
        for (probe, hits) in probes.iter().zip(&exact).step_by(2) {
            let sight = self.directions().probe(probe);
            let product = |hit: &Hit| {
                let key = RowKey { subject: hit.subject.clone(), face: hit.face };
                Some(self.product_with(&sight, rows.row(slot_of(&key)?)?.vector))
            };
            let products: Vec<(usize, i32)> =
                hits.iter().enumerate().filter_map(|(rank, hit)| Some((rank, product(hit)?))).collect();
            let reached: Vec<i32> = products.iter().map(|(_, product)| *product).collect();
            let near = self.shares_reaching(&sight, &reached);
            all.extend(products.iter().zip(near).map(|((rank, _), near)| Found { near, is_best: *rank == 0 }));
        }
        self.trial.near = least_for(&all, self.trial.target.into());
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

/// The least share within which there are so many of all, and nearly all of the best; more than [`MOST`] is not taken.
fn least_for(all: &[Found], target: f64) -> f64 {
    let mut shares: Vec<f64> = all.iter().map(|found| found.near).collect();
    let mut of_best: Vec<f64> = all.iter().filter(|found| found.is_best).map(|found| found.near).collect();
    quantile(&mut shares, target).max(quantile(&mut of_best, RANK_1)).min(MOST)
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
        let found = |number: usize| Found {
            near: ((number * 37) % 1_000) as f64 / 50_000.0,
            is_best: number.is_multiple_of(100) && number != 0,
        };
        let all: Vec<Found> = (0..1_000).map(found).collect();
        // The best lie within 0.018.
        for (target, expected) in [(0.5, 0.018), (0.9, 0.018), (0.99, 0.019_78)] {
            let near = least_for(&all, target);
            assert!((near - expected).abs() < 1e-4, "{target}: {near}");
            assert!(all.iter().filter(|found| found.near <= near).count() as f64 >= target * 1_000.0);
            assert!(all.iter().filter(|found| found.is_best).all(|found| found.near <= near));
        }
        // What cannot be had is not promised: as much goes on as may.
        assert_eq!(least_for(&[Found { near: 0.5, is_best: false }], 0.9), MOST);
        assert_eq!(least_for(&[], 0.9), 0.0);
    }

    #[test]
    fn quantiles_are_values() {
        assert_eq!(quantile(&mut [], 0.5), 0.0);
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0, 4.0], 0.51), 3.0);
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0, 4.0], 1.0), 4.0);
    }
}
