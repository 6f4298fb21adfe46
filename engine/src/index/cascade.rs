//! The cascade: a first look at two bits a value of all rows, then at the coarse digits of those that look near, then at vectors of
//! few.
//!
//! On the first look a row is near where its sketch (`sketch`) says that its score is high. Near rows whose digits say so too have
//! their vectors compared, so scores are exact, and what is missed are rows whose sketches mislead, and hardly ever one whose digits
//! do. How near is near is chosen for each gallery by trying it on probes made of its own rows (`calibration`); what is found is
//! measured on other probes, and said in every answer. Probes that wait together meet each chunk together.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::RowKey;
use super::bounds::CodedProbe;
use super::candidates::SharedFloor;
use super::flat::{CHUNK_ROWS, Chunk, ChunkRows, FlatRows, LiveBits};
use super::mapped::Plane;
use super::near::Wanted;
use super::scan::{Look, Query};
use super::shared::shared_out;
use super::sketch::Directions;
use super::top::TopSubjects;
use crate::kernel::isa::Isa;
use crate::kernel::levels::{self, BLOCK, PROBES};
use crate::kernel::{ask_for, ask_for_value};

/// The list length that recall is measured for.
pub(super) const RECALL_AT: usize = 10;
/// More rows than this share do not go on: an exact search would be about as fast.
pub(super) const MOST: f64 = 0.1;
/// Rows that go on at least.
const LEAST: usize = 64;
/// Probes that meet each chunk together.
const TOGETHER: usize = 16;
/// From this many rows on, times probes, a search is shared among threads.
const PARALLEL_ROWS: usize = 400_000;
/// Chunks a thread takes at a time: one probe alone, and several.
const CHUNKS_PER_TASK: usize = 64;
const CHUNKS_PER_TASK_TOGETHER: usize = 16;
/// Near rows that are looked at further together: what they are compared by has been asked for by then.
const AT_ONCE: usize = 8;
/// So many chunks ahead what says where its rows lie is asked for, and how much of the next sketch.
const CHUNKS_AHEAD: usize = 3;
const SKETCH_AHEAD: usize = 4096;

/// Chunks that are sketched before they are laid into memory in order.
const LAID_TOGETHER: usize = 256;

/// Blocks of a chunk, and rows of a word of live bits.
pub(super) const BLOCKS: usize = CHUNK_ROWS / BLOCK;
const WORD_ROWS: usize = 64;

/// A full chunk as levels.
#[derive(Clone)]
struct Sketched {
    /// Whose they are.
    rows: Arc<ChunkRows>,
    blocks: Plane,
}

/// What trying a cascade showed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    /// Rows that it was tried on.
    pub(super) rows: usize,
    /// The share of the exact top 10 subjects that was to be found.
    pub(super) target: f32,
    /// The share of the rows that goes on.
    pub(super) near: f64,
    /// The share of the exact top 10 subjects that were found.
    pub(super) recall_at_10: f32,
    /// The share of probes whose best subject was found.
    pub(super) rank_1: f32,
}

/// The sketches of all full chunks of a state.
pub(super) struct Cascade {
    directions: Arc<Directions>,
    chunks: Vec<Sketched>,
    pub(super) trial: Trial,
}

/// What is near for one of several probes.
struct Near {
    number: usize,
    /// The share of the rows that goes on.
    share: f64,
}

/// A probe that is searched for.
struct Sought<'p> {
    query: Query<'p>,
    coded: CodedProbe,
    /// To be multiplied by levels.
    sight: Vec<i8>,
    /// The least product of what is near.
    least: i32,
    floor: SharedFloor,
}

impl Cascade {
    /// Whether vectors of so many values gain by a cascade.
    pub(super) fn suits(dim: usize) -> bool {
        Directions::count(dim) > 0
    }

    /// For the full chunks of a state, of which there is at least one, tried on probes made of its rows. `target` is the share of
    /// the exact top 10 that is to be found, `slot_of` knows where rows are. Takes a minute for some million rows.
    pub(super) fn build(rows: &FlatRows, target: f32, slot_of: &dyn Fn(&RowKey) -> Option<usize>) -> Self {
        let directions = Arc::new(Directions::learn(rows));
        let chunks = sketched(&directions, rows, &[]);
        let trial = Trial { rows: rows.rows(), target, near: MOST, recall_at_10: 0.0, rank_1: 0.0 };
        let mut cascade = Self { directions, chunks, trial };
        cascade.try_out(rows, slot_of);
        cascade
    }

    /// The same for a later state, whose chunks that did not change keep their sketches.
    pub(super) fn extended(&self, rows: &FlatRows) -> Self {
        let chunks = sketched(&self.directions, rows, &self.chunks);
        Self { directions: Arc::clone(&self.directions), chunks, trial: self.trial }
    }

    /// The same over a state whose chunks are those of another one with their vectors elsewhere, or coded otherwise.
    pub(super) fn moved(&self, before: &FlatRows, after: &FlatRows) -> Self {
        debug_assert!(self.is_of(before));
        let each = self.chunks.iter().zip(&after.chunks);
        let chunks = each.map(|(own, chunk)| Sketched { rows: Arc::clone(&chunk.rows), blocks: own.blocks.clone() });
        Self { directions: Arc::clone(&self.directions), chunks: chunks.collect(), trial: self.trial }
    }

    /// Of directions, the sketches of the first full chunks of a state, and what trying it showed.
    pub(super) fn of_parts(directions: Directions, rows: &FlatRows, sketches: Vec<Plane>, trial: Trial) -> Self {
        let chunks = sketches.into_iter().zip(&rows.chunks);
        let chunks = chunks.map(|(blocks, chunk)| Sketched { rows: Arc::clone(&chunk.rows), blocks }).collect();
        Self { directions: Arc::new(directions), chunks, trial }
    }

    /// The directions of its sketches.
    pub(super) fn directions(&self) -> &Directions {
        &self.directions
    }

    /// The sketch of a chunk, where it has one.
    pub(super) fn sketch_of(&self, chunk: usize) -> Option<&[u8]> {
        self.chunks.get(chunk).map(|chunk| &*chunk.blocks)
    }

    /// What trying it showed.
    pub(super) fn trial(&self) -> Trial {
        self.trial
    }

    /// Slots below this number are in it.
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
        self.covers() * self.directions.row_bytes() + self.directions.bytes()
    }

    /// The same of a cascade over so many rows of `dim` values.
    pub(super) fn bytes_for(dim: usize, rows: usize) -> usize {
        let width = levels::block_bytes(Directions::count(dim));
        rows / CHUNK_ROWS * CHUNK_ROWS / BLOCK * width + Directions::bytes_for(dim)
    }

    /// The best subjects for a checked probe; `None` where so many are wanted that a first look saves nothing.
    pub(super) fn search<'a>(&self, rows: &'a FlatRows, query: Query<'_>) -> Option<TopSubjects<'a>> {
        self.search_many(rows, &[query]).pop().flatten()
    }

    /// The same for several probes.
    pub(super) fn search_many<'a>(&self, rows: &'a FlatRows, queries: &[Query<'_>]) -> Vec<Option<TopSubjects<'a>>> {
        debug_assert!(self.is_of(rows));
        let mut answers: Vec<Option<TopSubjects<'a>>> = queries.iter().map(|_| None).collect();
        let wanted = queries.iter().enumerate();
        let wanted = wanted.filter_map(|(number, query)| Some(Near { number, share: self.share_for(query.limit)? }));
        let wanted: Vec<Near> = wanted.collect();
        let threads = rayon::current_num_threads();
        for wanted in wanted.chunks(TOGETHER) {
            // Threads share the probes where there are enough for all of them, which leaves less to put together than sharing the rows.
            let found: Vec<TopSubjects<'a>> = if threads > 1 && wanted.len() >= threads * PROBES {
                let each = wanted.par_chunks(wanted.len().div_ceil(threads));
                each.flat_map_iter(|wanted| self.search_these(rows, queries, wanted, false)).collect()
            } else {
                self.search_these(rows, queries, wanted, true)
            };
            wanted.iter().zip(found).for_each(|(near, found)| answers[near.number] = Some(found));
        }
        answers
    }

    /// Searches for some of the probes; threads may share the rows.
    fn search_these<'a>(
        &self,
        rows: &'a FlatRows,
        queries: &[Query<'_>],
        wanted: &[Near],
        shared: bool,
    ) -> Vec<TopSubjects<'a>> {
        let sought = self.seek(rows, queries, wanted);
        let found = self.search_together(rows, &sought, shared).into_iter().zip(&sought);
        let whole = |(top, sought): (TopSubjects<'a>, &Sought<'_>)| {
            let rest = rows.scan_above(sought.query, &sought.coded, self.covers(), top.floor());
            top.merge(rest)
        };
        found.map(whole).collect()
    }

    /// What is near for a list of so many subjects; `None` where that is too much for a cascade.
    fn share_for(&self, limit: usize) -> Option<f64> {
        // Recall is measured for the first ten; longer lists reach further down.
        let longer = (limit as f64 / RECALL_AT as f64).max(1.0);
        let least = LEAST.saturating_mul(limit.div_ceil(RECALL_AT)) as f64 / self.covers() as f64;
        let share = (self.trial.near * longer).max(least);
        (limit > 0 && share <= 2.0 * MOST).then_some(share)
    }

    /// Prepares some of the probes.
    fn seek<'p>(&self, rows: &FlatRows, queries: &[Query<'p>], wanted: &[Near]) -> Vec<Sought<'p>> {
        let of_each = || wanted.iter().map(|near| queries[near.number]);
        let coded = CodedProbe::several(of_each().map(|query| query.probe), &rows.bases);
        let sights: Vec<Vec<i8>> = of_each().map(|query| self.directions.probe(query.probe)).collect();
        let shares = wanted.iter().map(|near| near.share);
        let least = self.least_products(&sights.iter().map(Vec::as_slice).zip(shares).collect::<Vec<Wanted<'_>>>());
        let each = of_each().zip(coded).zip(sights).zip(least);
        each.map(|(((query, coded), sight), least)| Sought { query, coded, sight, least, floor: SharedFloor::new() })
            .collect()
    }

    fn search_together<'a>(&self, rows: &'a FlatRows, sought: &[Sought<'_>], shared: bool) -> Vec<TopSubjects<'a>> {
        let all = self.chunks.len();
        let new_passes = || sought.iter().map(Pass::new).collect::<Vec<_>>();
        let is_small = self.covers() * sought.len() < PARALLEL_ROWS;
        if is_small || !shared || rayon::current_num_threads() == 1 {
            return self.walk(rows, 0..all, new_passes()).into_iter().map(Pass::finish).collect();
        }
        let chunks = if sought.len() == 1 { CHUNKS_PER_TASK } else { CHUNKS_PER_TASK_TOGETHER };
        let found = shared_out(
            all.div_ceil(chunks),
            new_passes,
            |passes, task| {
                let start = task * chunks;
                self.walk(rows, start..(start + chunks).min(all), passes)
            },
            |passes| passes.into_iter().map(Pass::finish).collect(),
        );
        TopSubjects::merge_each(sought.iter().map(|sought| sought.query.limit), found)
    }

    /// Takes the rows of some chunks into account that are near.
    fn walk<'a, 's>(
        &self,
        rows: &'a FlatRows,
        chunks: Range<usize>,
        mut passes: Vec<Pass<'a, 's>>,
    ) -> Vec<Pass<'a, 's>> {
        let isa = Isa::current();
        let probes: Vec<(&[i8], i32)> = passes.iter().map(|pass| (&pass.sought.sight[..], pass.sought.least)).collect();
        for number in chunks {
            let (chunk, blocks) = (&*rows.chunks[number], &self.chunks[number].blocks);
            self.ask_for_chunks_behind(rows, number);
            for (passes, probes) in passes.chunks_mut(PROBES).zip(probes.chunks(PROBES)) {
                let mut near = [0u16; PROBES * BLOCKS];
                let near = &mut near[..passes.len() * BLOCKS];
                levels::reaching(isa, probes, blocks, near);
                for (near, pass) in near.as_chunks::<BLOCKS>().0.iter().zip(passes) {
                    let (words, _) = near.as_chunks::<{ WORD_ROWS / BLOCK }>();
                    let word =
                        |at: usize| words[at].iter().rev().fold(0, |word, near| word << BLOCK | u64::from(*near));
                    let near = LiveBits::of_words(std::array::from_fn(word)).and(chunk.live);
                    near.iter().for_each(|row| pass.meet(chunk, row));
                }
            }
        }
        passes
    }

    /// Asks for what will be looked at when the next chunks come.
    fn ask_for_chunks_behind(&self, rows: &FlatRows, number: usize) {
        if let Some(next) = self.chunks.get(number + 1) {
            ask_for(&next.blocks[..next.blocks.len().min(SKETCH_AHEAD)]);
        }
        if let (Some(own), Some(chunk)) =
            (self.chunks.get(number + CHUNKS_AHEAD), rows.chunks.get(number + CHUNKS_AHEAD))
        {
            ask_for_value(&**chunk);
            ask_for_value(&*own.rows);
        }
    }

    /// The product of a probe with a row.
    pub(super) fn product_with(&self, sight: &[i8], vector: &[f32]) -> i32 {
        let levels = self.directions.levels(vector);
        sight.iter().zip(levels).map(|(code, level)| i32::from(*code) * i32::from(level)).sum()
    }
}

/// A walk over chunks for one probe.
struct Pass<'a, 's> {
    sought: &'s Sought<'s>,
    look: Look<'a, 's>,
    /// What was near: digits are asked for some rows before they are looked at.
    before: Vec<(&'a Chunk, usize)>,
    now: Vec<(&'a Chunk, usize)>,
}

impl<'a, 's> Pass<'a, 's> {
    fn new(sought: &'s Sought<'s>) -> Self {
        let look = Look::patient(sought.query.probe, &sought.coded, sought.query.limit);
        Self { sought, look, before: Vec::new(), now: Vec::new() }
    }

    /// Notes a live row that is near.
    fn meet(&mut self, chunk: &'a Chunk, row: usize) {
        chunk.rows.coded.ask_for_likely(row);
        self.now.push((chunk, row));
        if self.now.len() == AT_ONCE {
            self.turn();
        }
    }

    /// Looks at what was near before.
    fn turn(&mut self) {
        let Self { sought, look, before, now } = self;
        look.share(&sought.floor);
        before.drain(..).for_each(|(chunk, row)| look.compare_coarsely(chunk, row));
        std::mem::swap(before, now);
    }

    fn finish(mut self) -> TopSubjects<'a> {
        self.turn();
        self.turn();
        self.look.finish()
    }
}

/// The full chunks of a state as sketches; those that are there already are taken over.
fn sketched(directions: &Directions, rows: &FlatRows, known: &[Sketched]) -> Vec<Sketched> {
    let full = rows.slots() / CHUNK_ROWS;
    let mut all: Vec<Sketched> = Vec::with_capacity(full);
    for chunks in rows.chunks[..full].chunks(LAID_TOGETHER) {
        let known = |at: usize| known.get(all.len() + at).filter(|known| Arc::ptr_eq(&known.rows, &chunks[at].rows));
        let sketch = |at: usize| known(at).is_none().then(|| directions.sketch_chunk(&chunks[at].rows));
        let made: Vec<Option<Vec<u8>>> = (0..chunks.len()).into_par_iter().map(sketch).collect();
        // One after the other, as they are read.
        let each = made.into_iter().enumerate().filter_map(|(at, made)| match made {
            Some(blocks) => Some(Sketched { rows: Arc::clone(&chunks[at].rows), blocks: Plane::of(&blocks) }),
            None => known(at).cloned(),
        });
        let each: Vec<Sketched> = each.collect();
        all.extend(each);
    }
    all
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
        assert!(trial.near <= MOST && trial.recall_at_10 > 0.85 && trial.rank_1 > 0.98, "{trial:?}");
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
        assert!(std::ptr::eq(extended.chunks[0].blocks.as_ptr(), cascade.chunks[0].blocks.as_ptr()));
        assert!(!cascade.is_of(&FlatRows::new(DIM)));
        assert_eq!(extended.trial(), cascade.trial());
    }
}
