//! Rows between digits and vectors: what digits say their scores are raises the floor of the list, and vectors are multiplied late.

use std::sync::atomic::{AtomicI32, Ordering};

use super::bounds::Range;
use super::flat::ChunkRows;
use super::top::TopSubjects;
use super::vector::cosine;
use crate::kernel::ask_for;

/// Rows that wait for their vectors to be multiplied, or four times as many as the list is long where that is more: then it is done
/// for those that are likely to be on the list. The more wait, the fewer of them are, but the lower the floor is meanwhile.
const WAITING: usize = 32;
/// How many times as many wait in a search that is [`patient`](Candidates::patient).
const PATIENCE: usize = 16;
/// So many vectors ahead they are asked for.
const VECTORS_AHEAD: usize = 4;

/// The highest floor that a part of a scan has found: a row below it counts in none of them.
pub(super) struct SharedFloor(AtomicI32);

impl SharedFloor {
    pub(super) fn new() -> Self {
        Self::of(f32::NEG_INFINITY)
    }

    pub(super) fn of(floor: f32) -> Self {
        Self(AtomicI32::new(Self::in_order(floor)))
    }

    /// A number whose order is that of the floors, and back.
    fn in_order(floor: f32) -> i32 {
        let bits = floor.to_bits().cast_signed();
        if bits < 0 { bits ^ i32::MAX } else { bits }
    }

    /// Exchanges what both know.
    fn share(&self, top: &mut TopSubjects<'_>) {
        let own = Self::in_order(top.floor());
        let highest = self.0.fetch_max(own, Ordering::Relaxed).max(own);
        top.raise_floor(f32::from_bits(Self::in_order_back(highest)));
    }

    fn in_order_back(number: i32) -> u32 {
        if number < 0 { (number ^ i32::MAX).cast_unsigned() } else { number.cast_unsigned() }
    }
}

/// A live row whose score is not known yet.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    rows: &'a ChunkRows,
    row: usize,
    /// What its score does not exceed.
    most: f32,
    /// What its score is about.
    about: f32,
}

impl<'a> Candidate<'a> {
    fn vector(&self, dim: usize) -> &'a [f32] {
        let rows = self.rows;
        &rows.vectors[self.row * dim..(self.row + 1) * dim]
    }
}

/// Which candidates have their scores found out.
#[derive(Clone, Copy, PartialEq)]
enum Which {
    /// Those that are likely to be on the list. Others wait: by the time that nobody is left who raises the floor, few of them can.
    Likely,
    /// All that can be on the list.
    All,
}

/// The candidates of a search for one probe, and the list that comes of them.
pub(super) struct Candidates<'a, 'p> {
    probe: &'p [f32],
    /// Subjects by what their scores are at least: the floor of this list is one of the list that is sought.
    least: TopSubjects<'a>,
    waiting: Vec<Candidate<'a>>,
    /// When so many wait, scores are found out.
    most: usize,
    /// Subjects by the scores of rows whose vectors were multiplied.
    top: TopSubjects<'a>,
}

impl<'a, 'p> Candidates<'a, 'p> {
    pub(super) fn new(probe: &'p [f32], limit: usize) -> Self {
        let most = limit.saturating_mul(4).max(WAITING);
        let (least, top) = (TopSubjects::new(limit), TopSubjects::new(limit));
        Self { probe, least, waiting: Vec::new(), most, top }
    }

    /// Those of a search that looks at rows of which most may be on the list, and multiplies vectors when it has seen many: the
    /// floor has risen by what digits say then.
    pub(super) fn patient(probe: &'p [f32], limit: usize) -> Self {
        let candidates = Self::new(probe, limit);
        Self { most: candidates.most.saturating_mul(PATIENCE), ..candidates }
    }

    /// No row whose score is below it can change the result.
    pub(super) fn floor(&self) -> f32 {
        self.least.floor()
    }

    /// Exchanges floors with other parts of the search.
    pub(super) fn share(&mut self, floor: &SharedFloor) {
        floor.share(&mut self.least);
    }

    /// Notes a live row between what its score lies.
    pub(super) fn note(&mut self, rows: &'a ChunkRows, row: usize, Range { least, most }: Range) {
        if most >= self.floor() {
            self.waiting.push(Candidate { rows, row, most, about: (least + most) / 2.0 });
            self.least.offer(least, &rows.keys[row]);
        }
    }

    /// Finds out scores where many wait for that.
    pub(super) fn score_if_many(&mut self) {
        if self.waiting.len() < self.most {
            return;
        }
        self.score(Which::Likely);
        // Looking at them again and again would cost more than their vectors do.
        if self.waiting.len() > self.most / 2 {
            self.score(Which::All);
        }
    }

    /// What was found.
    pub(super) fn finish(mut self) -> TopSubjects<'a> {
        self.score(Which::All);
        self.top
    }

    fn score(&mut self, which: Which) {
        let Self { probe, least, waiting, top, .. } = self;
        // The most promising first: they raise the floor above others.
        waiting.retain(|candidate| candidate.most >= least.floor());
        waiting.sort_unstable_by(|a, b| b.most.total_cmp(&a.most));
        let ask_for = |candidate: &Candidate<'a>| ask_for(bytemuck::cast_slice(candidate.vector(probe.len())));
        waiting.iter().take(VECTORS_AHEAD).for_each(ask_for);
        let mut left = 0;
        for at in 0..waiting.len() {
            let candidate = waiting[at];
            if candidate.most < least.floor() {
                break;
            }
            waiting.get(at + VECTORS_AHEAD).into_iter().for_each(ask_for);
            if which == Which::Likely && candidate.about < least.floor() {
                waiting[left] = candidate;
                left += 1;
                continue;
            }
            let key = &candidate.rows.keys[candidate.row];
            let score = cosine(probe, candidate.vector(probe.len()));
            top.offer(score, key);
            least.offer(score, key);
        }
        waiting.truncate(left);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Rng;
    use super::super::flat::CHUNK_ROWS;
    use super::super::flat::tests::{filled, rows};
    use super::*;

    #[test]
    fn floors_keep_their_order() {
        let floors = [f32::NEG_INFINITY, -1.0, -0.5, -0.0, 0.0, 0.25, 1.0, f32::INFINITY];
        for pair in floors.windows(2) {
            assert!(SharedFloor::in_order(pair[0]) < SharedFloor::in_order(pair[1]));
        }
        for floor in floors {
            assert_eq!(SharedFloor::in_order_back(SharedFloor::in_order(floor)), floor.to_bits());
        }
    }

    /// Narrow ranges and wide ones, and rows that are all the same, so that all of them wait.
    #[test]
    fn the_list_is_that_of_all_scores_whatever_is_known_before() {
        const DIM: usize = 16;
        let mut rng = Rng::new(23);
        let drawn = rows(900, DIM, 3);
        let same: Vec<_> = drawn.iter().map(|(key, _)| (key.clone(), drawn[0].1.clone())).collect();
        for (rows, probe) in [(&drawn, &drawn[7].1), (&same, &drawn[0].1), (&same, &drawn[7].1)] {
            let rows = filled(rows, DIM);
            for (width, limit) in [(0.0, 10), (0.02, 10), (0.4, 10), (0.02, 1), (0.1, 100), (0.1, 0), (2.0, 2_000)] {
                let both = [Candidates::new(probe, limit), Candidates::patient(probe, limit)];
                let mut all = TopSubjects::new(limit);
                let found = both.map(|mut candidates| {
                    for (slot, row) in rows.live_rows(0..rows.slots()) {
                        let score = cosine(probe, row.vector);
                        let below = width * rng.uniform();
                        let range = Range { least: score - below, most: score + width - below };
                        let chunk = &rows.chunks[slot / CHUNK_ROWS];
                        candidates.note(&chunk.rows, slot % CHUNK_ROWS, range);
                        candidates.score_if_many();
                        assert!(candidates.waiting.len() < candidates.most);
                    }
                    candidates.finish().into_hits()
                });
                rows.live_rows(0..rows.slots()).for_each(|(_, row)| all.offer(cosine(probe, row.vector), row.key));
                let all = all.into_hits();
                assert_eq!(found, [all.clone(), all], "width {width}, limit {limit}");
            }
        }
    }
}
