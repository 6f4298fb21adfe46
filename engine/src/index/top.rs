//! The best subjects of a scan, each subject once.
//!
//! Grouping belongs inside the scan: the best rows of a gallery may all be of one subject, so picking rows first and
//! grouping afterwards would lose subjects. A row only costs more than a comparison when its score reaches the floor,
//! which is the score of the worst subject that still counts.
//!
//! Rows are ordered by score (best first), then subject id, then face id (a template before faces). The order is total
//! over the rows of a gallery, so the result does not depend on the order in which rows are offered, nor on how a scan
//! was split among threads.

use std::cmp::Ordering;
use std::collections::HashSet;

use super::{Hit, RowKey};

/// Lists up to this length are kept in order all the time, so that the floor is always as high as it can be.
const ORDERED: usize = 64;
/// Candidates of longer lists that are kept beyond twice the limit before they are thinned out.
const SLACK: usize = 32;

#[derive(Clone, Copy)]
struct Candidate<'a> {
    score: f32,
    key: &'a RowKey,
}

impl Candidate<'_> {
    fn order(&self, other: &Self) -> Ordering {
        other
            .score
            .total_cmp(&self.score)
            .then_with(|| self.key.subject.cmp(&other.key.subject))
            .then_with(|| self.key.face.cmp(&other.key.face))
    }
}

/// Collects the best `limit` subjects out of the rows it is offered.
pub(super) struct TopSubjects<'a> {
    limit: usize,
    /// No row below this score can change the result.
    floor: f32,
    /// In order, each subject once, where the list is short.
    found: Vec<Candidate<'a>>,
}

impl<'a> TopSubjects<'a> {
    pub(super) fn new(limit: usize) -> Self {
        let floor = if limit == 0 { f32::INFINITY } else { f32::NEG_INFINITY };
        Self { limit, floor, found: Vec::new() }
    }

    /// No row below this score can change the result.
    pub(super) fn floor(&self) -> f32 {
        self.floor
    }

    /// Takes over a floor that another part of the same scan has found.
    pub(super) fn raise_floor(&mut self, floor: f32) {
        self.floor = self.floor.max(floor);
    }

    /// Takes a row into account. `score` is not NaN.
    pub(super) fn offer(&mut self, score: f32, key: &'a RowKey) {
        // A row equal to the floor may still come first by its subject id.
        if score < self.floor {
            return;
        }
        let candidate = Candidate { score, key };
        if self.limit <= ORDERED {
            self.put_in_order(candidate);
        } else {
            self.found.push(candidate);
            if self.found.len() >= self.limit.saturating_mul(2).saturating_add(SLACK) {
                self.thin_out();
            }
        }
    }

    fn put_in_order(&mut self, candidate: Candidate<'a>) {
        let is_better = |other: &Candidate<'a>| candidate.order(other) == Ordering::Less;
        if let Some(own) = self.found.iter().position(|other| other.key.subject == candidate.key.subject) {
            if !is_better(&self.found[own]) {
                return;
            }
            self.found.remove(own);
        }
        let at = self.found.partition_point(|other| !is_better(other));
        self.found.insert(at, candidate);
        self.found.truncate(self.limit);
        if let Some(last) = self.found.get(self.limit - 1) {
            self.floor = self.floor.max(last.score);
        }
    }

    /// Takes over what another scan found.
    pub(super) fn merge(mut self, other: Self) -> Self {
        for candidate in other.found {
            self.offer(candidate.score, candidate.key);
        }
        self
    }

    /// What was found in several parts of a scan for some probes, whose lists have these limits.
    pub(super) fn merge_each(limits: impl Iterator<Item = usize>, parts: Vec<Vec<Self>>) -> Vec<Self> {
        let new = limits.map(Self::new).collect();
        parts
            .into_iter()
            .fold(new, |all: Vec<Self>, part| all.into_iter().zip(part).map(|(all, part)| all.merge(part)).collect())
    }

    /// Whether `limit` subjects were found.
    pub(super) fn is_full(&mut self) -> bool {
        self.thin_out();
        self.found.len() == self.limit
    }

    /// The result, best first.
    pub(super) fn into_hits(mut self) -> Vec<Hit> {
        self.thin_out();
        self.found
            .into_iter()
            .map(|c| Hit { subject: c.key.subject.clone(), score: c.score, face: c.key.face })
            .collect()
    }

    /// Keeps the best row of each of the best `limit` subjects and raises the floor.
    fn thin_out(&mut self) {
        if self.limit <= ORDERED {
            return;
        }
        self.found.sort_unstable_by(Candidate::order);
        let mut seen = HashSet::with_capacity(self.limit.min(self.found.len()));
        let limit = self.limit;
        self.found.retain(|candidate| seen.len() < limit && seen.insert(&candidate.key.subject));
        if limit > 0 && self.found.len() == limit {
            self.floor = self.found[limit - 1].score;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Rng, key};
    use super::*;

    fn collect(rows: &[(f32, RowKey)], limit: usize, parts: usize) -> Vec<Hit> {
        rows.chunks(rows.len().div_ceil(parts).max(1))
            .map(|part| {
                let mut top = TopSubjects::new(limit);
                part.iter().for_each(|(score, key)| top.offer(*score, key));
                top
            })
            .reduce(TopSubjects::merge)
            .map(TopSubjects::into_hits)
            .unwrap_or_default()
    }

    #[test]
    fn each_subject_comes_once_with_its_best_row() {
        let mut rng = Rng::new(3);
        // Few distinct scores, so that ties are everywhere.
        let rows: Vec<_> = (0..3000u64).map(|i| (rng.below(40) as f32 / 40.0, key(rng.below(700), Some(i)))).collect();
        for limit in [1, 2, 10, 300, 699, 5000] {
            let mut expected: Vec<Hit> = Vec::new();
            let mut sorted: Vec<_> = rows.iter().collect();
            sorted
                .sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.subject.cmp(&b.1.subject)).then(a.1.face.cmp(&b.1.face)));
            for (score, key) in sorted {
                if !expected.iter().any(|hit| hit.subject == key.subject) {
                    expected.push(Hit { subject: key.subject.clone(), score: *score, face: key.face });
                }
            }
            expected.truncate(limit);
            for parts in [1, 3, 50] {
                assert_eq!(collect(&rows, limit, parts), expected, "limit {limit}, {parts} parts");
            }
        }
    }

    #[test]
    fn a_limit_of_zero_finds_nothing() {
        assert!(collect(&[(1.0, key(1, None))], 0, 1).is_empty());
    }

    #[test]
    fn subjects_whose_ids_end_alike_are_told_apart() {
        let ids = ["north:00000001", "south:00000001", "1", "01", "00000001"];
        let keys: Vec<RowKey> =
            ids.iter().map(|id| RowKey { subject: (*id).try_into().unwrap(), face: None }).collect();
        let mut top = TopSubjects::new(4);
        // Twice, so that each is met again.
        for (number, key) in keys.iter().chain(&keys).enumerate() {
            top.offer(0.1 * number as f32, key);
        }
        let found: Vec<String> = top.into_hits().iter().map(|hit| hit.subject.as_str().to_owned()).collect();
        assert_eq!(found, ["00000001", "01", "1", "south:00000001"]);
    }
}
