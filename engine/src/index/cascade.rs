//! The cascade: a first look at the bits of all rows, then digits, then vectors, of ever fewer of them.
//!
//! Rows whose bits are nearest to the probe's go on to the exact scan's steps, so scores are exact and only a row whose bits
//! mislead is missed. How many rows go on is chosen for each gallery by trying it on probes made of its own rows; what it
//! finds is measured on other probes, and said in every answer.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::codes::CodedProbe;
use super::flat::{CHUNK_ROWS, Chunk, ChunkRows, FlatRows};
use super::scan::{Look, Query, SharedFloor};
use super::sketch::Planes;
use super::top::TopSubjects;
use super::trial::seen_anew;
use super::{Hit, RowKey};
use crate::kernel::bits::{BLOCK, distances};
use crate::kernel::isa::Isa;

/// Probes that say how many rows have to go on, and as many others that say what is found then.
const TRIALS: usize = 400;
/// The list length that recall is measured for.
const RECALL_AT: usize = 10;
/// The share of probes whose best subject has to be found.
const RANK_1: f64 = 0.9995;
/// More rows than this share do not go on: an exact search would be about as fast.
const MOST: f64 = 0.1;
/// Chunks that say which distance how many rows have.
const LOOKED_AT: usize = 32;
/// Rows that go on at least.
const LEAST: usize = 64;
/// From this many slots on, a search is shared among threads.
const PARALLEL_SLOTS: usize = 400_000;
/// Chunks a thread takes at a time.
const CHUNKS_PER_TASK: usize = 64;

/// Rows whose bits are near, in their chunks.
type Near<'a> = Vec<(&'a Chunk, usize)>;

/// A full chunk as bits.
#[derive(Clone)]
struct Sketched {
    /// Whose bits they are.
    rows: Arc<ChunkRows>,
    blocks: Arc<[u64]>,
}

/// What trying a cascade showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Trial {
    /// Rows that it was tried on.
    pub(super) rows: usize,
    /// Share of the rows that go on.
    pub(super) share: f64,
    /// The share of the exact top 10 subjects that were found.
    pub(super) recall_at_10: f32,
    /// The share of probes whose best subject was found.
    pub(super) rank_1: f32,
}

/// The bits of all full chunks of a state.
pub(super) struct Cascade {
    planes: Arc<Planes>,
    chunks: Vec<Sketched>,
    trial: Trial,
}

impl Cascade {
    /// Whether vectors of so many values gain by a cascade.
    pub(super) fn suits(dim: usize) -> bool {
        Planes::bits(dim) > 0
    }

    /// For the full chunks of a state, of which there is at least one, tried on probes made of its rows. `target` is the share of
    /// the exact top 10 that is to be found, `slot_of` knows where rows are. Takes a minute for some million rows.
    pub(super) fn build(rows: &FlatRows, target: f32, slot_of: &dyn Fn(&RowKey) -> Option<usize>) -> Self {
        let planes = Arc::new(Planes::learn(rows));
        let chunks = sketched(&planes, rows, &[]);
        let trial = Trial { rows: rows.rows(), share: MOST, recall_at_10: 0.0, rank_1: 0.0 };
        let mut cascade = Self { planes, chunks, trial };
        cascade.try_out(rows, target, slot_of);
        cascade
    }

    /// The same for a later state, whose chunks that did not change keep their bits.
    pub(super) fn extended(&self, rows: &FlatRows) -> Self {
        let chunks = sketched(&self.planes, rows, &self.chunks);
        Self { planes: Arc::clone(&self.planes), chunks, trial: self.trial }
    }

    /// What trying it showed.
    pub(super) fn trial(&self) -> Trial {
        self.trial
    }

    /// Slots below this number have their bits in it.
    pub(super) fn covers(&self) -> usize {
        self.chunks.len() * CHUNK_ROWS
    }

    /// Whether it is about the chunks of this state.
    pub(super) fn is_of(&self, rows: &FlatRows) -> bool {
        self.chunks.len() <= rows.chunks.len()
            && self.chunks.iter().zip(&rows.chunks).all(|(own, chunk)| Arc::ptr_eq(&own.rows, &chunk.rows))
    }

    /// Memory taken in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.covers() * self.planes.words() * size_of::<u64>() + self.planes.bytes()
    }

    /// The best subjects for a checked probe; `None` where so many are wanted that looking at bits first saves nothing.
    pub(super) fn search<'a>(&self, rows: &'a FlatRows, query: Query<'_>) -> Option<TopSubjects<'a>> {
        debug_assert!(self.is_of(rows));
        // Recall is measured for the first ten; longer lists reach further down.
        let share = self.trial.share * (query.limit as f64 / RECALL_AT as f64).max(1.0);
        let least = LEAST.saturating_mul(query.limit.div_ceil(RECALL_AT)) as f64 / self.covers() as f64;
        let share = share.max(least);
        if query.limit == 0 || share > 2.0 * MOST {
            return None;
        }
        let (coded, bits) = (CodedProbe::new(query.probe), self.planes.sketch(query.probe));
        let floor = SharedFloor::new();
        let most = self.distances_of(&bits).distance_of(share);
        let new_look = || Look::new(query.probe, &coded, query.limit);
        let top = if rows.slots() < PARALLEL_SLOTS || rayon::current_num_threads() == 1 {
            self.look(rows, &bits, most, 0..self.chunks.len(), &floor, new_look()).finish()
        } else {
            let task = |number: usize| {
                let start = number * CHUNKS_PER_TASK;
                start..(start + CHUNKS_PER_TASK).min(self.chunks.len())
            };
            (0..self.chunks.len().div_ceil(CHUNKS_PER_TASK))
                .into_par_iter()
                .fold(new_look, |look, number| self.look(rows, &bits, most, task(number), &floor, look))
                .map(Look::finish)
                .reduce(|| TopSubjects::new(query.limit), TopSubjects::merge)
        };
        Some(top.merge(rows.scan(query.probe, self.covers(), query.limit)))
    }

    /// Takes the rows of some chunks into account whose bits are at most `most` away.
    fn look<'a, 'p>(
        &self,
        rows: &'a FlatRows,
        bits: &[u64],
        most: u16,
        chunks: Range<usize>,
        floor: &SharedFloor,
        mut look: Look<'a, 'p>,
    ) -> Look<'a, 'p> {
        let (isa, coded) = (Isa::current(), look.coded);
        let (mut away, mut near) = ([0; CHUNK_ROWS], [0; CHUNK_ROWS / BLOCK]);
        // Coarse digits are asked for a chunk before they are looked at.
        let (mut before, mut now) = (Near::new(), Near::new());
        let turn = |look: &mut Look<'a, 'p>, before: &mut Near<'a>| {
            for (chunk, row) in before.drain(..) {
                let (coarse, bound) = coded.coarse_bound(&chunk.rows.coded, row);
                if bound >= look.top.floor() {
                    look.suspect(chunk, row, coarse);
                }
            }
            look.turn();
            floor.share(&mut look.top);
        };
        for number in chunks {
            let chunk = &*rows.chunks[number];
            distances(isa, bits, &self.chunks[number].blocks, most, &mut away, &mut near);
            for (block, near) in near.iter().enumerate() {
                let mut left = *near;
                while left != 0 {
                    let row = block * BLOCK + left.trailing_zeros() as usize;
                    left &= left - 1;
                    if chunk.live.get(row) {
                        chunk.rows.coded.ask_for_coarse(row);
                        now.push((chunk, row));
                    }
                }
            }
            turn(&mut look, &mut before);
            std::mem::swap(&mut before, &mut now);
        }
        turn(&mut look, &mut before);
        look
    }

    /// How far a part of the rows is from a probe.
    fn distances_of(&self, bits: &[u64]) -> Histogram {
        let isa = Isa::current();
        let mut counts = vec![0; self.planes.words() * 64 + 1];
        let (mut away, mut near) = ([0; CHUNK_ROWS], [0; CHUNK_ROWS / BLOCK]);
        let count = LOOKED_AT.min(self.chunks.len());
        for number in 0..count {
            let chunk = &self.chunks[number * self.chunks.len() / count];
            distances(isa, bits, &chunk.blocks, 0, &mut away, &mut near);
            away.iter().for_each(|away| counts[usize::from(*away)] += 1);
        }
        Histogram { counts, of: count * CHUNK_ROWS }
    }

    /// Chooses the share that goes on, and measures what is found.
    fn try_out(&mut self, rows: &FlatRows, target: f32, slot_of: &dyn Fn(&RowKey) -> Option<usize>) {
        let probes: Vec<Vec<f32>> =
            (0..2 * TRIALS).filter_map(|number| seen_anew(rows, number, 2 * TRIALS, self.covers())).collect();
        let queries: Vec<Query<'_>> = probes.iter().map(|probe| Query { probe, limit: RECALL_AT }).collect();
        let exact: Vec<Vec<Hit>> = rows.scan_many(&queries).into_iter().map(TopSubjects::into_hits).collect();
        // Every other one, so that both halves are of the whole gallery.
        let (mut firsts, mut all) = (Vec::new(), Vec::new());
        for (probe, hits) in probes.iter().zip(&exact).step_by(2) {
            let bits = self.planes.sketch(probe);
            let histogram = self.distances_of(&bits);
            for (rank, hit) in hits.iter().enumerate() {
                let key = RowKey { subject: hit.subject.clone(), face: hit.face };
                let Some(row) = slot_of(&key).and_then(|slot| rows.row(slot)) else { continue };
                let away: u32 =
                    self.planes.sketch(row.vector).iter().zip(&bits).map(|(a, b)| (a ^ b).count_ones()).sum();
                let share = histogram.share_within(away as u16);
                all.push(share);
                if rank == 0 {
                    firsts.push(share);
                }
            }
        }
        self.trial.share = quantile(&mut all, target.into()).max(quantile(&mut firsts, RANK_1)).min(MOST);
        let (mut wanted, mut found, mut right) = (0, 0, 0);
        let others = || queries.iter().zip(&exact).skip(1).step_by(2);
        for (query, hits) in others() {
            let answer = self.search(rows, *query).map_or_else(|| hits.clone(), TopSubjects::into_hits);
            // A subject that ties with the last counts.
            let Some(last) = hits.last() else { continue };
            wanted += hits.len();
            found += answer.iter().filter(|hit| hit.score >= last.score).count();
            right += usize::from(answer.first().is_some_and(|hit| hit.score >= hits[0].score));
        }
        let share_of = |part: usize, of: usize| if of == 0 { 1.0 } else { part as f32 / of as f32 };
        self.trial.recall_at_10 = share_of(found, wanted);
        self.trial.rank_1 = share_of(right, others().count());
    }
}

/// How many rows are how far away.
struct Histogram {
    counts: Vec<u32>,
    of: usize,
}

impl Histogram {
    /// The least distance that at least this share of the rows is within.
    fn distance_of(&self, share: f64) -> u16 {
        let wanted = (share * self.of as f64).ceil() as u32;
        let mut sum = 0;
        let reaches = |count: &u32| {
            sum += count;
            sum >= wanted
        };
        self.counts.iter().position(reaches).unwrap_or(self.counts.len() - 1) as u16
    }

    /// The share of the rows that is within a distance.
    fn share_within(&self, distance: u16) -> f64 {
        f64::from(self.counts[..=usize::from(distance)].iter().sum::<u32>()) / self.of as f64
    }
}

/// The value that this share of values does not exceed; 0 without values.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (share * values.len() as f64).ceil() as usize;
    values.get(at.saturating_sub(1).min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// The full chunks of a state as bits; those that are there already are taken over.
fn sketched(planes: &Planes, rows: &FlatRows, known: &[Sketched]) -> Vec<Sketched> {
    let full = rows.slots() / CHUNK_ROWS;
    let one = |(number, chunk): (usize, &Arc<Chunk>)| match known.get(number) {
        Some(known) if Arc::ptr_eq(&known.rows, &chunk.rows) => known.clone(),
        _ => Sketched { rows: Arc::clone(&chunk.rows), blocks: planes.sketch_chunk(&chunk.rows).into() },
    };
    rows.chunks[..full].par_iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::fixture::{Faces, key};
    use super::super::flat::FlatEdit;
    use super::*;

    const DIM: usize = 128;

    fn gallery(people: u64, faces: &mut Faces) -> (FlatRows, Vec<Vec<f32>>, HashMap<RowKey, usize>) {
        let centres = faces.people(people as usize);
        let mut edit = FlatEdit::new(&FlatRows::new(DIM));
        let mut slots = HashMap::new();
        for (number, centre) in centres.iter().enumerate() {
            for image in 0..2 {
                let key = key(number as u64, Some(image));
                slots.insert(key.clone(), edit.push(key, &faces.image(centre)));
            }
        }
        (edit.finish(), centres, slots)
    }

    #[test]
    fn the_cascade_finds_as_much_as_it_says() {
        let mut faces = Faces::new(DIM, 41);
        let (rows, centres, slots) = gallery(6_000, &mut faces);
        let cascade = Cascade::build(&rows, 0.9, &|key| slots.get(key).copied());
        let trial = cascade.trial();
        assert!(trial.share <= MOST && trial.recall_at_10 > 0.85 && trial.rank_1 > 0.98, "{trial:?}");
        assert_eq!((cascade.covers(), trial.rows), (12_000 / CHUNK_ROWS * CHUNK_ROWS, 12_000));
        let (mut found, mut wanted) = (0, 0);
        for centre in centres.iter().step_by(20) {
            let probe = faces.image(centre);
            let exact = rows.scan(&probe, 0, 10).into_hits();
            let answer = cascade.search(&rows, Query { probe: &probe, limit: 10 }).unwrap().into_hits();
            wanted += exact.len();
            found += answer.iter().filter(|hit| exact.contains(hit)).count();
        }
        let recall = found as f32 / wanted as f32;
        assert!((recall - trial.recall_at_10).abs() < 0.03, "{recall} {trial:?}");
        // Whoever asks for a tenth of the gallery is better served by an exact search.
        let probe = faces.image(&centres[0]);
        assert!(cascade.search(&rows, Query { probe: &probe, limit: 6_000 }).is_none());
    }

    #[test]
    fn later_rows_and_deaths_are_seen() {
        let mut faces = Faces::new(DIM, 42);
        let (rows, centres, slots) = gallery(3_000, &mut faces);
        let cascade = Cascade::build(&rows, 0.9, &|key| slots.get(key).copied());
        let mut edit = FlatEdit::new(&rows);
        let late = faces.person();
        let late_row = faces.image(&late);
        edit.push(key(9_999, None), &late_row);
        (0..2).for_each(|image| edit.kill(slots[&key(7, Some(image))]));
        let now = edit.finish();
        assert!(cascade.is_of(&now));
        let search = |probe: &[f32]| cascade.search(&now, Query { probe, limit: 10 }).unwrap().into_hits();
        assert_eq!(search(&late_row)[0].subject, key(9_999, None).subject);
        assert!(search(&centres[7]).iter().all(|hit| hit.subject != key(7, None).subject));
        let mut edit = FlatEdit::new(&now);
        (0..CHUNK_ROWS as u64).for_each(|number| {
            edit.push(key(20_000 + number, None), &faces.image(&late));
        });
        let grown = edit.finish();
        let extended = cascade.extended(&grown);
        assert!(extended.is_of(&grown) && extended.covers() == cascade.covers() + CHUNK_ROWS);
        assert!(Arc::ptr_eq(&extended.chunks[0].blocks, &cascade.chunks[0].blocks));
        assert!(!cascade.is_of(&FlatRows::new(DIM)));
        assert_eq!(extended.trial(), cascade.trial());
    }

    #[test]
    fn quantiles_are_values() {
        assert_eq!(quantile(&mut [], 0.5), 0.0);
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0, 4.0], 0.51), 3.0);
        assert_eq!(quantile(&mut [3.0, 1.0, 2.0, 4.0], 1.0), 4.0);
    }
}
