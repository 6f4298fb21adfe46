//! The cascade: a first look at the bits of all rows, a second one at those of the rows that look near, then digits, then vectors,
//! of ever fewer of them.
//!
//! On the first look those bits count, all the same, whose planes the probe is far from, which is fast; on the second all count by
//! how far the probe is from their planes, which tells better. Rows that are near on both go on to the exact scan's steps, so scores are exact and only a row whose
//! bits mislead is missed. How near is near is chosen for each gallery by trying it on probes made of its own rows
//! (`calibration`); what is found is measured on other probes, and said in every answer. Probes that wait together meet each
//! chunk together.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::RowKey;
use super::bounds::{CodedProbe, Digits};
use super::flat::{CHUNK_ROWS, Chunk, ChunkRows, FlatRows};
use super::scan::{Look, Query, SharedFloor};
use super::sketch::{Planes, bits_of, marked, weighed};
use super::top::TopSubjects;
use crate::kernel::bits::{BLOCK, Marked, WEIGHT_BITS, Weighed};
use crate::kernel::isa::Isa;

/// The list length that recall is measured for.
pub(super) const RECALL_AT: usize = 10;
/// More rows than this share do not go on: an exact search would be about as fast.
pub(super) const MOST: f64 = 0.1;
/// Rows whose nearness is a word.
const WORD_ROWS: usize = 64;
/// Chunks that say which distance how many rows have.
const LOOKED_AT: usize = 16;
/// Rows that go on at least.
const LEAST: usize = 64;
/// Probes that meet each chunk together.
const TOGETHER: usize = 16;
/// Probes that a thread prepares at a time.
const PREPARED: usize = 8;
/// From this many rows on, times probes, a search is shared among threads.
const PARALLEL_ROWS: usize = 400_000;
/// Chunks a thread takes at a time: one probe alone, and several.
const CHUNKS_PER_TASK: usize = 64;
const CHUNKS_PER_TASK_TOGETHER: usize = 16;

/// Rows whose bits are near, in their chunks.
type Near<'a> = Vec<(&'a Chunk, usize)>;

/// A full chunk as bits.
#[derive(Clone)]
struct Sketched {
    /// Whose bits they are.
    rows: Arc<ChunkRows>,
    blocks: Arc<[u64]>,
}

/// What shares of the rows are near.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Shares {
    /// On the first look.
    pub(super) first: f64,
    /// On the second one: these go on.
    pub(super) second: f64,
}

/// What trying a cascade showed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    /// Rows that it was tried on.
    pub(super) rows: usize,
    /// What goes on.
    pub(super) shares: Shares,
    /// The share of the exact top 10 subjects that were found.
    pub(super) recall_at_10: f32,
    /// The share of probes whose best subject was found.
    pub(super) rank_1: f32,
}

/// The bits of all full chunks of a state.
pub(super) struct Cascade {
    planes: Arc<Planes>,
    chunks: Vec<Sketched>,
    pub(super) trial: Trial,
}

/// A probe as bits.
pub(super) struct Sight {
    bits: Vec<u64>,
    marked: Marked,
    weighed: Weighed,
}

/// A probe that is searched for.
struct Sought<'p> {
    query: Query<'p>,
    coded: CodedProbe,
    sight: Sight,
    /// Largest distance of what is near on the first look.
    most: u16,
    /// On the second one.
    most_weighed: u16,
    floor: SharedFloor,
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
        let shares = Shares { first: 1.0, second: MOST };
        let trial = Trial { rows: rows.rows(), shares, recall_at_10: 0.0, rank_1: 0.0 };
        let mut cascade = Self { planes, chunks, trial };
        cascade.try_out(rows, target, slot_of);
        cascade
    }

    /// The same for a later state, whose chunks that did not change keep their bits.
    pub(super) fn extended(&self, rows: &FlatRows) -> Self {
        let chunks = sketched(&self.planes, rows, &self.chunks);
        Self { planes: Arc::clone(&self.planes), chunks, trial: self.trial }
    }

    /// The same over a state whose chunks are those of another one with their vectors elsewhere, or coded otherwise.
    pub(super) fn moved(&self, before: &FlatRows, after: &FlatRows) -> Self {
        debug_assert!(self.is_of(before));
        let each = self.chunks.iter().zip(&after.chunks);
        let chunks =
            each.map(|(own, chunk)| Sketched { rows: Arc::clone(&chunk.rows), blocks: Arc::clone(&own.blocks) });
        Self { planes: Arc::clone(&self.planes), chunks: chunks.collect(), trial: self.trial }
    }

    /// Of planes, the bits of the first full chunks of a state, and what trying it showed.
    pub(super) fn of_parts(planes: Planes, rows: &FlatRows, bits: Vec<Arc<[u64]>>, trial: Trial) -> Self {
        let chunks = bits.into_iter().zip(&rows.chunks);
        let chunks = chunks.map(|(blocks, chunk)| Sketched { rows: Arc::clone(&chunk.rows), blocks }).collect();
        Self { planes: Arc::new(planes), chunks, trial }
    }

    /// Where its planes lie.
    pub(super) fn planes(&self) -> &Planes {
        &self.planes
    }

    /// The bits of a chunk, where it has them.
    pub(super) fn bits_of(&self, chunk: usize) -> Option<&[u64]> {
        self.chunks.get(chunk).map(|chunk| &*chunk.blocks)
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

    /// The same of a cascade over so many rows of `dim` values.
    pub(super) fn bytes_for(dim: usize, rows: usize) -> usize {
        let bits = Planes::bits(dim);
        rows / CHUNK_ROWS * CHUNK_ROWS * bits / 8 + bits * (dim + 2 * size_of::<f32>())
    }

    /// A probe or a row as bits.
    pub(super) fn sight(&self, vector: &[f32]) -> Sight {
        let sides = self.planes.sides(vector);
        Sight { bits: bits_of(&sides), marked: marked(&sides), weighed: weighed(&sides) }
    }

    /// The best subjects for a checked probe; `None` where so many are wanted that looking at bits first saves nothing.
    pub(super) fn search<'a>(&self, rows: &'a FlatRows, query: Query<'_>) -> Option<TopSubjects<'a>> {
        self.search_many(rows, &[query]).pop().flatten()
    }

    /// The same for several probes.
    pub(super) fn search_many<'a>(&self, rows: &'a FlatRows, queries: &[Query<'_>]) -> Vec<Option<TopSubjects<'a>>> {
        debug_assert!(self.is_of(rows));
        let mut answers: Vec<Option<TopSubjects<'a>>> = queries.iter().map(|_| None).collect();
        let wanted: Vec<usize> =
            (0..queries.len()).filter(|&number| self.shares_for(queries[number].limit).is_some()).collect();
        for numbers in wanted.chunks(TOGETHER) {
            let sought: Vec<Sought<'_>> =
                numbers.par_chunks(PREPARED).flat_map_iter(|numbers| self.seek(rows, queries, numbers)).collect();
            for ((number, sought), top) in numbers.iter().zip(&sought).zip(self.search_together(rows, &sought)) {
                let rest = rows.scan_above(sought.query, &sought.coded, self.covers(), top.floor());
                answers[*number] = Some(top.merge(rest));
            }
        }
        answers
    }

    /// What is near for a list of so many subjects.
    fn shares_for(&self, limit: usize) -> Option<Shares> {
        let Shares { first, second } = self.trial.shares;
        // Recall is measured for the first ten; longer lists reach further down.
        let longer = (limit as f64 / RECALL_AT as f64).max(1.0);
        let least = LEAST.saturating_mul(limit.div_ceil(RECALL_AT)) as f64 / self.covers() as f64;
        let second = (second * longer).max(least);
        let first = (first * longer).max(second).min(1.0);
        (limit > 0 && second <= 2.0 * MOST).then_some(Shares { first, second })
    }

    /// Prepares those of the probes with these numbers, whose lists are not too long for a cascade.
    fn seek<'p>(&self, rows: &FlatRows, queries: &[Query<'p>], numbers: &[usize]) -> Vec<Sought<'p>> {
        let coded = CodedProbe::several(numbers.iter().map(|&number| queries[number].probe), &rows.bases);
        let each = numbers.iter().zip(coded).filter_map(|(&number, coded)| {
            let query = queries[number];
            let Shares { first, second } = self.shares_for(query.limit)?;
            let sight = self.sight(query.probe);
            let [histogram, histogram_weighed] = self.distances_of(&sight);
            let (most, most_weighed) = (histogram.distance_of(first), histogram_weighed.distance_of(second));
            Some(Sought { query, coded, most, most_weighed, sight, floor: SharedFloor::new() })
        });
        each.collect()
    }

    fn search_together<'a>(&self, rows: &'a FlatRows, sought: &[Sought<'_>]) -> Vec<TopSubjects<'a>> {
        let all = self.chunks.len();
        let new_passes = || sought.iter().map(Pass::new).collect::<Vec<_>>();
        let is_small = self.covers() * sought.len() < PARALLEL_ROWS || rayon::current_num_threads() == 1;
        if is_small {
            return self.walk(rows, 0..all, new_passes()).into_iter().map(Pass::finish).collect();
        }
        let chunks = if sought.len() == 1 { CHUNKS_PER_TASK } else { CHUNKS_PER_TASK_TOGETHER };
        let new_tops = || sought.iter().map(|sought| TopSubjects::new(sought.query.limit)).collect();
        (0..all.div_ceil(chunks))
            .into_par_iter()
            .fold(new_passes, |passes, task| {
                let start = task * chunks;
                self.walk(rows, start..(start + chunks).min(all), passes)
            })
            .map(|passes| passes.into_iter().map(Pass::finish).collect::<Vec<_>>())
            .reduce(new_tops, |left, right| left.into_iter().zip(right).map(|(l, r)| l.merge(r)).collect())
    }

    /// Takes the rows of some chunks into account that are near.
    fn walk<'a, 's>(
        &self,
        rows: &'a FlatRows,
        chunks: Range<usize>,
        mut passes: Vec<Pass<'a, 's>>,
    ) -> Vec<Pass<'a, 's>> {
        let isa = Isa::current();
        let mut near = [0; CHUNK_ROWS / BLOCK];
        for number in chunks {
            let (chunk, blocks) = (&*rows.chunks[number], &self.chunks[number].blocks);
            for pass in &mut passes {
                let Sought { sight, most, most_weighed, .. } = pass.sought;
                sight.marked.nearest(isa, blocks, *most, &mut near);
                sight.weighed.refine(isa, blocks, *most_weighed, &mut near);
                let (words, _) = near.as_chunks::<{ WORD_ROWS / BLOCK }>();
                for (at, word) in words.iter().enumerate() {
                    let mut left = u64::from_le_bytes(*word);
                    while left != 0 {
                        pass.meet(chunk, at * WORD_ROWS + left.trailing_zeros() as usize);
                        left &= left - 1;
                    }
                }
                pass.turn();
            }
        }
        passes
    }

    /// How far a part of the rows is from a probe, on the first and on the second look.
    pub(super) fn distances_of(&self, sight: &Sight) -> [Histogram; 2] {
        let isa = Isa::current();
        let bits = self.planes.words() * u64::BITS as usize;
        let (mut counts, mut counts_weighed) = (vec![0; bits + 1], vec![0; (bits << WEIGHT_BITS) + 1]);
        let mut away = [0; CHUNK_ROWS];
        let count = LOOKED_AT.min(self.chunks.len());
        for number in 0..count {
            let chunk = &self.chunks[number * self.chunks.len() / count];
            sight.marked.distances(isa, &chunk.blocks, &mut away);
            away.iter().for_each(|away| counts[usize::from(*away)] += 1);
            for block in chunk.blocks.chunks_exact(self.planes.words() * BLOCK) {
                let weighed = sight.weighed.distances(isa, block);
                weighed.iter().for_each(|away| counts_weighed[usize::from(*away)] += 1);
            }
        }
        [counts, counts_weighed].map(|counts| Histogram { counts, of: count * CHUNK_ROWS })
    }
}

impl Sight {
    /// How far another vector is from a probe, on the first and on the second look.
    pub(super) fn distances_to(&self, other: &Self) -> [u16; 2] {
        let block: Vec<u64> = other.bits.iter().flat_map(|word| [*word; BLOCK]).collect();
        [self.marked.distance_to(&other.bits), self.weighed.distances(Isa::current(), &block)[0]]
    }
}

/// A walk over chunks for one probe.
struct Pass<'a, 's> {
    sought: &'s Sought<'s>,
    look: Look<'a, 's>,
    /// What was near in the chunk before, and in this one: digits are asked for a chunk before they are looked at.
    before: Near<'a>,
    now: Near<'a>,
}

impl<'a, 's> Pass<'a, 's> {
    fn new(sought: &'s Sought<'s>) -> Self {
        let look = Look::new(sought.query.probe, &sought.coded, sought.query.limit);
        Self { sought, look, before: Near::new(), now: Near::new() }
    }

    /// Notes a row that is near.
    fn meet(&mut self, chunk: &'a Chunk, row: usize) {
        if chunk.live.get(row) {
            chunk.rows.coded.ask_for_coarse(row);
            self.now.push((chunk, row));
        }
    }

    /// Looks at what was near in the chunk before.
    fn turn(&mut self) {
        let Self { sought, look, before, now } = self;
        for (chunk, row) in before.drain(..) {
            let (coarse, bound) = sought.coded.coarse_bound(&chunk.rows.coded, row);
            if bound >= look.floor() {
                look.suspect(chunk, row, coarse, Digits::Coarse);
            }
        }
        look.turn();
        look.share(&sought.floor);
        std::mem::swap(before, now);
    }

    fn finish(mut self) -> TopSubjects<'a> {
        self.turn();
        self.turn();
        self.look.finish()
    }
}

/// How many rows are how far away.
pub(super) struct Histogram {
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
    pub(super) fn share_within(&self, distance: u16) -> f64 {
        f64::from(self.counts[..=usize::from(distance)].iter().sum::<u32>()) / self.of as f64
    }
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
        assert!(trial.shares.second <= MOST && trial.recall_at_10 > 0.85 && trial.rank_1 > 0.98, "{trial:?}");
        assert_eq!((cascade.covers(), trial.rows), (12_000 / CHUNK_ROWS * CHUNK_ROWS, 12_000));
        let (mut found, mut wanted) = (0, 0);
        let probes: Vec<Vec<f32>> = centres.iter().step_by(20).map(|centre| faces.image(centre)).collect();
        let queries: Vec<Query<'_>> = probes.iter().map(|probe| Query { probe, limit: 10 }).collect();
        for (query, together) in queries.iter().zip(cascade.search_many(&rows, &queries)) {
            let exact = rows.scan(query.probe, 0, 10).into_hits();
            let answer = cascade.search(&rows, *query).unwrap().into_hits();
            assert_eq!(together.unwrap().into_hits(), answer);
            wanted += exact.len();
            found += answer.iter().filter(|hit| exact.contains(hit)).count();
        }
        let recall = found as f32 / wanted as f32;
        assert!((recall - trial.recall_at_10).abs() < 0.03, "{recall} {trial:?}");
        // Whoever asks for a tenth of the gallery is better served by an exact search.
        let probe = faces.image(&centres[0]);
        assert!(cascade.search(&rows, Query { probe: &probe, limit: 6_000 }).is_none());
        let limits = [6_000, 10, 0].map(|limit| Query { probe: &probe, limit });
        let found: Vec<bool> = cascade.search_many(&rows, &limits).iter().map(Option::is_some).collect();
        assert_eq!(found, [false, true, false]);
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
}
