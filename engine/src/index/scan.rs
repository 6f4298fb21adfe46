//! Exact search: every live row is compared with the probe, coarsely first and in full where its score may reach the list.
//!
//! A row costs its coarse digits. Where the bound they give reaches the list's floor, the fine digits give a closer one, then the
//! tail where it has one, which tells within a little what the score is. What scores are at least raises the floor; vectors are
//! multiplied when some rows wait for that, the most promising first, as long as they can still be on the list.
//! Probes that wait together meet each row together.
//!
//! This is also the twin that every other search is measured against.

use std::sync::Arc;

use super::bounds::{CodedProbe, CodedProbes, Digits};
use super::candidates::{Candidates, SharedFloor};
use super::flat::{CHUNK_ROWS, Chunk, ChunkRows, FlatRows, LiveBits};
use super::mask::RowMask;
use super::shared::shared_out;
use super::top::TopSubjects;
use super::vector::check_unit;
use super::{IndexError, SearchOutcome, VectorIndex};
use crate::ids::SubjectId;
use crate::kernel::reach::WORD;

/// From this many slots on, a scan is shared among threads; below, handing out the work costs more than it saves.
const PARALLEL_SLOTS: usize = 20_000;

/// Chunks that a thread takes at a time.
const CHUNKS_PER_TASK: usize = 4;

/// Says which subjects count.
pub type Accept<'a> = &'a (dyn Fn(&SubjectId) -> bool + Sync);

/// Which rows count.
#[derive(Clone, Copy)]
pub(super) struct Passing<'a> {
    /// Rows of which it is known.
    pub(super) mask: Option<&'a RowMask>,
    /// Asked of the subjects of rows that are set in the mask.
    pub(super) masked: Accept<'a>,
    /// Asked of the subjects of all others.
    pub(super) accept: Accept<'a>,
}

impl Passing<'_> {
    /// All of them.
    const ALL: Self = Self { mask: None, masked: &|_| true, accept: &|_| true };
}

/// Of a chunk with at most so many rows that pass, each is looked at alone.
const FEW: usize = CHUNK_ROWS / 8;

/// A probe that was checked.
#[derive(Clone, Copy)]
pub(super) struct Query<'p> {
    pub(super) probe: &'p [f32],
    /// Subjects wanted.
    pub(super) limit: usize,
}

impl FlatRows {
    /// Compares `probe` with the live rows from slot `from` on. The probe was checked.
    pub(super) fn scan<'a>(&'a self, probe: &[f32], from: usize, limit: usize) -> TopSubjects<'a> {
        let coded = CodedProbe::new(probe, &self.bases);
        self.scan_above(Query { probe, limit }, &coded, from, f32::NEG_INFINITY)
    }

    /// As [`FlatRows::scan`], of a probe whose codes are at hand, and rows whose score is at least `floor`.
    pub(super) fn scan_above<'a>(
        &'a self,
        query: Query<'_>,
        coded: &CodedProbe,
        from: usize,
        floor: f32,
    ) -> TopSubjects<'a> {
        self.scan_part(query, coded, from, floor, Passing::ALL)
    }

    /// As [`FlatRows::scan`], of rows that pass. What is asked is asked only of rows that may reach the list, so it may cost
    /// something.
    pub(super) fn scan_where<'a>(&'a self, probe: &[f32], limit: usize, passing: Passing<'_>) -> TopSubjects<'a> {
        let coded = CodedProbe::new(probe, &self.bases);
        self.scan_part(Query { probe, limit }, &coded, 0, f32::NEG_INFINITY, passing)
    }

    fn scan_part<'a>(
        &'a self,
        Query { probe, limit }: Query<'_>,
        coded: &CodedProbe,
        from: usize,
        least: f32,
        passing: Passing<'_>,
    ) -> TopSubjects<'a> {
        let chunks = self.chunks.get(from / CHUNK_ROWS..).unwrap_or_default();
        let floor = SharedFloor::of(least);
        let skip = |at: usize| if at == 0 { from % CHUNK_ROWS } else { 0 };
        let new_look = || Look::new(probe, coded, limit);
        if is_small(chunks) {
            let all = chunks.iter().enumerate();
            all.fold(new_look(), |look, (at, chunk)| look.after(at, chunk, skip(at), passing, &floor)).finish()
        } else {
            let found = shared_out(
                chunks.len().div_ceil(CHUNKS_PER_TASK),
                new_look,
                |look, task| {
                    let of_task = chunks.iter().enumerate().skip(task * CHUNKS_PER_TASK).take(CHUNKS_PER_TASK);
                    of_task.fold(look, |look, (at, chunk)| look.after(at, chunk, skip(at), passing, &floor))
                },
                |look| look.finish_above(&floor),
            );
            found.into_iter().fold(TopSubjects::new(limit), TopSubjects::merge)
        }
    }

    /// Whether a scan takes so long that threads share it.
    pub(super) fn is_large(&self) -> bool {
        !is_small(&self.chunks)
    }

    /// Compares several probes with all live rows.
    pub(super) fn scan_many<'a>(&'a self, queries: &[Query<'_>]) -> Vec<TopSubjects<'a>> {
        match queries {
            [] => Vec::new(),
            [one] => vec![self.scan(one.probe, 0, one.limit)],
            _ => queries.chunks(CodedProbes::MOST).flat_map(|queries| self.scan_together(queries)).collect(),
        }
    }

    fn scan_together<'a>(&'a self, queries: &[Query<'_>]) -> Vec<TopSubjects<'a>> {
        let coded = CodedProbes::new(queries.iter().map(|query| query.probe), &self.bases);
        let floors: Vec<SharedFloor> = queries.iter().map(|_| SharedFloor::new()).collect();
        let new_looks = || {
            let numbered = queries.iter().enumerate();
            numbered.map(|(number, query)| Look::new(query.probe, coded.probe(number), query.limit)).collect()
        };
        if is_small(&self.chunks) {
            let looks =
                self.chunks.iter().fold(new_looks(), |looks, chunk| after_together(looks, &coded, chunk, &floors));
            looks.into_iter().map(Look::finish).collect()
        } else {
            let found = shared_out(
                self.chunks.len().div_ceil(CHUNKS_PER_TASK),
                new_looks,
                |looks, task| {
                    let of_task = self.chunks.iter().skip(task * CHUNKS_PER_TASK).take(CHUNKS_PER_TASK);
                    of_task.fold(looks, |looks, chunk| after_together(looks, &coded, chunk, &floors))
                },
                |looks| looks.into_iter().zip(&floors).map(|(look, floor)| look.finish_above(floor)).collect(),
            );
            TopSubjects::merge_each(queries.iter().map(|query| query.limit), found)
        }
    }
}

/// Searches that have also looked at a chunk.
fn after_together<'a, 'p>(
    mut looks: Vec<Look<'a, 'p>>,
    coded: &CodedProbes,
    chunk: &'a Chunk,
    floors: &[SharedFloor],
) -> Vec<Look<'a, 'p>> {
    floors.iter().zip(&mut looks).for_each(|(floor, look)| look.share(floor));
    scan_chunk_together(coded, chunk, &mut looks);
    looks
}

fn scan_chunk_together<'a>(coded: &CodedProbes, chunk: &'a Chunk, looks: &mut [Look<'a, '_>]) {
    /// Rows between two looks at the floors.
    const ROWS: usize = 64;
    let rows = &*chunk.rows;
    let mut products = [[0; CodedProbes::MOST]; ROWS];
    let mut reaching = [0; ROWS];
    for start in (0..rows.keys.len()).step_by(ROWS) {
        let count = ROWS.min(rows.keys.len() - start);
        let mut floors = [f32::INFINITY; CodedProbes::MOST];
        looks.iter().zip(&mut floors).for_each(|(look, floor)| *floor = look.floor());
        let digits = coded.reaching(&rows.coded, start, &floors, &mut products[..count], &mut reaching[..count]);
        for (at, reaching) in reaching[..count].iter().enumerate().filter(|(_, reaching)| **reaching != 0) {
            if !chunk.live.get(start + at) {
                continue;
            }
            let mut left = *reaching;
            while left != 0 {
                let number = left.trailing_zeros() as usize;
                left &= left - 1;
                looks[number].suspect(chunk, start + at, products[at][number], digits);
            }
        }
        looks.iter_mut().filter(|look| look.has_suspects()).for_each(Look::turn);
    }
}

/// A search under way.
///
/// What a suspect is compared by lies here and there in memory. It is asked for when the row is first suspected, and read a
/// turn later.
pub(super) struct Look<'a, 'p> {
    pub(super) coded: &'p CodedProbe,
    /// Rows that may be on the list.
    candidates: Candidates<'a, 'p>,
    before: Vec<Suspect<'a>>,
    now: Vec<Suspect<'a>>,
    of_chunk_before: ChunkSuspects<'a>,
    of_chunk: ChunkSuspects<'a>,
    /// Products of fine digits: room for them.
    fine: Vec<i32>,
}

/// Live rows of one chunk whose coarse bounds reached the list, with the products of their coarse digits.
#[derive(Default)]
struct ChunkSuspects<'a> {
    rows: Option<&'a ChunkRows>,
    listed: Vec<u16>,
    products: Vec<i32>,
}

/// A live row whose bound reached the list.
struct Suspect<'a> {
    rows: &'a ChunkRows,
    row: usize,
    product: i32,
    /// What the product is of.
    digits: Digits,
}

impl<'a, 'p> Look<'a, 'p> {
    pub(super) fn new(probe: &'p [f32], coded: &'p CodedProbe, limit: usize) -> Self {
        Self::of(Candidates::new(probe, limit), coded)
    }

    /// A search of rows of which most may be on the list.
    pub(super) fn patient(probe: &'p [f32], coded: &'p CodedProbe, limit: usize) -> Self {
        Self::of(Candidates::patient(probe, limit), coded)
    }

    fn of(candidates: Candidates<'a, 'p>, coded: &'p CodedProbe) -> Self {
        Self {
            coded,
            candidates,
            before: Vec::new(),
            now: Vec::new(),
            of_chunk_before: ChunkSuspects::default(),
            of_chunk: ChunkSuspects::default(),
            fine: Vec::new(),
        }
    }

    /// No row whose score is below it can change the result.
    pub(super) fn floor(&self) -> f32 {
        self.candidates.floor()
    }

    /// Exchanges floors with other parts of the search.
    pub(super) fn share(&mut self, floor: &SharedFloor) {
        self.candidates.share(floor);
    }

    /// The search that has also looked at a chunk, the `number`th, from row `skip` on, and exchanged floors before.
    fn after(
        mut self,
        number: usize,
        chunk: &'a Chunk,
        skip: usize,
        passing: Passing<'_>,
        floor: &SharedFloor,
    ) -> Self {
        self.share(floor);
        match passing.mask.and_then(|mask| mask.passing(number, chunk)).map(|rows| rows.and(chunk.live)) {
            Some(rows) if rows.count() <= FEW => self.scan_few(chunk, rows, passing.masked),
            Some(rows) => self.scan(chunk, skip, rows, passing.masked),
            None => self.scan(chunk, skip, chunk.live, passing.accept),
        }
        self
    }

    /// Looks at some rows of a chunk.
    fn scan_few(&mut self, chunk: &'a Chunk, rows: LiveBits, accept: Accept<'_>) {
        rows.iter().for_each(|row| chunk.rows.coded.ask_for_coarse(row));
        for row in rows.iter() {
            let (coarse, bound) = self.coded.coarse_bound(&chunk.rows.coded, row);
            if bound >= self.floor() && accept(&chunk.rows.keys[row].subject) {
                self.suspect(chunk, row, coarse, Digits::Coarse);
            }
        }
        self.turn();
    }

    /// Looks at the rows of a chunk from `skip` on that are set in `wanted`.
    fn scan(&mut self, chunk: &'a Chunk, skip: usize, wanted: LiveBits, accept: Accept<'_>) {
        let rows = &*chunk.rows;
        let count = rows.keys.len();
        let (mut products, mut words) = ([0; CHUNK_ROWS], [0; CHUNK_ROWS / WORD]);
        // What the floor rises by meanwhile is seen when suspects are looked at.
        let floor = self.floor();
        self.coded.reaching(&rows.coded, floor, &mut products[..count], &mut words[..count.div_ceil(WORD)]);
        let ChunkSuspects { rows: of, listed, products: coarse } = &mut self.of_chunk;
        *of = Some(rows);
        for row in LiveBits::of_words(words).and(wanted).iter() {
            if row >= skip && accept(&rows.keys[row].subject) {
                rows.coded.ask_for_fine(row);
                listed.push(row as u16);
                coarse.push(products[row]);
            }
        }
        self.turn();
    }

    /// Notes a live row whose bound, by the product of some of its digits, reaches the list.
    pub(super) fn suspect(&mut self, chunk: &'a Chunk, row: usize, product: i32, digits: Digits) {
        match digits {
            Digits::Coarse => chunk.rows.coded.ask_for_fine(row),
            Digits::Both => chunk.rows.coded.ask_for_tail(row),
        }
        self.now.push(Suspect { rows: &chunk.rows, row, product, digits });
    }

    /// Whether a turn has anything to look at, beside what is listed for a chunk: mostly it has not.
    #[inline]
    fn has_suspects(&self) -> bool {
        !(self.now.is_empty() && self.before.is_empty())
    }

    /// Looks at the suspects of the turn before.
    pub(super) fn turn(&mut self) {
        let Self { coded, candidates, before, now, of_chunk_before, of_chunk, fine, .. } = self;
        if let Some(rows) = of_chunk_before.rows.take() {
            let ChunkSuspects { listed, products, .. } = &mut *of_chunk_before;
            coded.fine_bounds(&rows.coded, listed, products, fine, |row, product, bound| {
                if bound >= candidates.floor() {
                    rows.coded.ask_for_tail(row);
                    now.push(Suspect { rows, row, product, digits: Digits::Both });
                }
            });
            listed.clear();
            products.clear();
        }
        std::mem::swap(of_chunk_before, of_chunk);
        for Suspect { rows, row, product, digits } in before.drain(..) {
            if digits == Digits::Coarse {
                let (product, bound) = coded.fine_bound(&rows.coded, row, product);
                if bound >= candidates.floor() {
                    rows.coded.ask_for_tail(row);
                    now.push(Suspect { rows, row, product, digits: Digits::Both });
                }
                continue;
            }
            let range = coded.range(&rows.coded, row, product);
            candidates.note(rows, row, range);
        }
        std::mem::swap(before, now);
        candidates.score_if_many();
    }

    /// Looks at the coarse digits of a live row, and takes them at their word: what they leave out is as little as it usually is.
    /// For searches that may miss a row.
    pub(super) fn compare_coarsely(&mut self, chunk: &'a Chunk, row: usize) {
        let rows = &*chunk.rows;
        self.candidates.note(rows, row, self.coded.likely_range(&rows.coded, row));
        self.candidates.score_if_many();
    }

    /// What was found, of rows that no other part of the search has found to be below the list.
    fn finish_above(mut self, floor: &SharedFloor) -> TopSubjects<'a> {
        self.share(floor);
        self.finish()
    }

    /// What was found.
    pub(super) fn finish(mut self) -> TopSubjects<'a> {
        let is_done = |look: &Self| {
            let chunks = [&look.of_chunk, &look.of_chunk_before];
            !look.has_suspects() && chunks.iter().all(|chunk| chunk.rows.is_none())
        };
        while !is_done(&self) {
            self.turn();
        }
        self.candidates.finish()
    }
}

fn is_small(chunks: &[Arc<Chunk>]) -> bool {
    chunks.len() * CHUNK_ROWS < PARALLEL_SLOTS
}

impl VectorIndex for FlatRows {
    fn dim(&self) -> usize {
        self.dim()
    }

    fn rows(&self) -> usize {
        self.rows()
    }

    fn search(&self, probe: &[f32], limit: usize) -> Result<SearchOutcome, IndexError> {
        check_unit(probe, self.dim())?;
        Ok(SearchOutcome::exact(self.scan(probe, 0, limit).into_hits()))
    }
}

#[cfg(test)]
mod tests;
