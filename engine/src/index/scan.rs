//! Exact search: every live row is compared with the probe, coarsely first and in full where its score may reach the list.
//!
//! A row costs its coarse digits. Where the bound they give reaches the list's floor, the fine digits give a closer one, then the
//! tail where it has one, and where that does too, the vectors are multiplied. Few rows come so far, as the floor rises with the
//! first subjects found.
//! Probes that wait together meet each row together.
//!
//! This is also the twin that every other search is measured against.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rayon::prelude::*;

use super::bounds::{CodedProbe, CodedProbes, Digits};
use super::flat::{CHUNK_ROWS, Chunk, ChunkRows, FlatRows, LiveBits};
use super::mask::RowMask;
use super::top::TopSubjects;
use super::vector::{check_unit, cosine};
use super::{IndexError, SearchOutcome, VectorIndex};
use crate::ids::SubjectId;
use crate::kernel::ask_for;
use crate::kernel::reach::WORD;

/// From this many slots on, a scan is shared among threads; below, handing out the work costs more than it saves.
const PARALLEL_SLOTS: usize = 20_000;

/// Chunks a thread takes at a time.
const CHUNKS_PER_TASK: usize = 8;

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

/// The highest floor that a part of a scan has found: a row below it counts in none of them.
pub(super) struct SharedFloor(AtomicI32);

impl SharedFloor {
    pub(super) fn new() -> Self {
        Self::of(f32::NEG_INFINITY)
    }

    fn of(floor: f32) -> Self {
        Self(AtomicI32::new(Self::in_order(floor)))
    }

    /// A number whose order is that of the floors, and back.
    fn in_order(floor: f32) -> i32 {
        let bits = floor.to_bits().cast_signed();
        if bits < 0 { bits ^ i32::MAX } else { bits }
    }

    /// Exchanges what both know.
    pub(super) fn share(&self, top: &mut TopSubjects<'_>) {
        let own = Self::in_order(top.floor());
        let highest = self.0.fetch_max(own, Ordering::Relaxed).max(own);
        top.raise_floor(f32::from_bits(Self::in_order_back(highest)));
    }

    fn in_order_back(number: i32) -> u32 {
        if number < 0 { (number ^ i32::MAX).cast_unsigned() } else { number.cast_unsigned() }
    }
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
            let all = chunks.par_iter().enumerate().with_min_len(CHUNKS_PER_TASK);
            all.fold(new_look, |look, (at, chunk)| look.after(at, chunk, skip(at), passing, &floor))
                .map(Look::finish)
                .reduce(|| TopSubjects::new(limit), TopSubjects::merge)
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
            let new_tops = || queries.iter().map(|query| TopSubjects::new(query.limit)).collect();
            let all = self.chunks.par_iter().with_min_len(CHUNKS_PER_TASK);
            all.fold(new_looks, |looks, chunk| after_together(looks, &coded, chunk, &floors))
                .map(|looks| looks.into_iter().map(Look::finish).collect::<Vec<_>>())
                .reduce(new_tops, |left, right| {
                    left.into_iter().zip(right).map(|(left, right)| left.merge(right)).collect()
                })
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
    floors.iter().zip(&mut looks).for_each(|(floor, look)| floor.share(&mut look.top));
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
        looks.iter().zip(&mut floors).for_each(|(look, floor)| *floor = look.top.floor());
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
        looks.iter_mut().for_each(Look::turn);
    }
}

/// A search under way.
///
/// What a suspect is compared by lies here and there in memory. It is asked for when the row is first suspected, and read a
/// turn later.
pub(super) struct Look<'a, 'p> {
    probe: &'p [f32],
    pub(super) coded: &'p CodedProbe,
    pub(super) top: TopSubjects<'a>,
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
        Self {
            probe,
            coded,
            top: TopSubjects::new(limit),
            before: Vec::new(),
            now: Vec::new(),
            of_chunk_before: ChunkSuspects::default(),
            of_chunk: ChunkSuspects::default(),
            fine: Vec::new(),
        }
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
        floor.share(&mut self.top);
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
            if bound >= self.top.floor() && accept(&chunk.rows.keys[row].subject) {
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
        let floor = self.top.floor();
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
            Digits::Both if chunk.rows.coded.ask_for_tail(row) => {}
            Digits::Both => ask_for(bytemuck::cast_slice(self.vector(&chunk.rows, row))),
        }
        self.now.push(Suspect { rows: &chunk.rows, row, product, digits });
    }

    fn vector(&self, rows: &'a ChunkRows, row: usize) -> &'a [f32] {
        &rows.vectors[row * self.probe.len()..(row + 1) * self.probe.len()]
    }

    /// Looks at the suspects of the turn before.
    pub(super) fn turn(&mut self) {
        let Self { probe, coded, top, before, now, of_chunk_before, of_chunk, fine } = self;
        if let Some(rows) = of_chunk_before.rows.take() {
            let ChunkSuspects { listed, products, .. } = &mut *of_chunk_before;
            coded.fine_bounds(&rows.coded, listed, products, fine, |row, product, bound| {
                if bound >= top.floor() {
                    if !rows.coded.ask_for_tail(row) {
                        ask_for(bytemuck::cast_slice(&rows.vectors[row * probe.len()..(row + 1) * probe.len()]));
                    }
                    now.push(Suspect { rows, row, product, digits: Digits::Both });
                }
            });
            listed.clear();
            products.clear();
        }
        std::mem::swap(of_chunk_before, of_chunk);
        for Suspect { rows, row, product, digits } in before.drain(..) {
            let bound = match digits {
                Digits::Coarse => {
                    let (product, bound) = coded.fine_bound(&rows.coded, row, product);
                    if bound >= top.floor() && rows.coded.ask_for_tail(row) {
                        now.push(Suspect { rows, row, product, digits: Digits::Both });
                        continue;
                    }
                    bound
                }
                Digits::Both => coded.whole_bound(&rows.coded, row, product),
            };
            if bound >= top.floor() {
                let vector = &rows.vectors[row * probe.len()..(row + 1) * probe.len()];
                top.offer(cosine(probe, vector), &rows.keys[row]);
            }
        }
        std::mem::swap(before, now);
    }

    /// What was found.
    pub(super) fn finish(mut self) -> TopSubjects<'a> {
        let is_done = |look: &Self| {
            let chunks = [&look.of_chunk, &look.of_chunk_before];
            look.now.is_empty() && look.before.is_empty() && chunks.iter().all(|chunk| chunk.rows.is_none())
        };
        while !is_done(&self) {
            self.turn();
        }
        self.top
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
mod tests {
    use parking_lot::Mutex;

    use super::super::basis::Basis;
    use super::super::fixture::{Faces, Rng, key};
    use super::super::flat::FlatEdit;
    use super::super::flat::tests::{filled, rows};
    use super::super::mask::RowNumbers;
    use super::*;

    /// As the definition has it.
    fn one_by_one<'a>(rows: &'a FlatRows, probe: &[f32], limit: usize) -> TopSubjects<'a> {
        let mut top = TopSubjects::new(limit);
        for (_, row) in rows.live_rows(0..rows.slots()) {
            top.offer(cosine(probe, row.vector), row.key);
        }
        top
    }

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

    #[test]
    fn probes_together_find_what_each_finds_alone() {
        let mut faces = Faces::new(96, 9);
        let people = faces.people(700);
        let mut edit = FlatEdit::new(&FlatRows::new(96));
        for (number, person) in people.iter().enumerate() {
            for image in 0..3 {
                edit.push(key(number as u64, Some(image)), &faces.image(person));
            }
        }
        (5..2000).step_by(7).for_each(|slot| edit.kill(slot));
        let flat = edit.finish();
        let probes: Vec<Vec<f32>> = people.iter().step_by(19).map(|person| faces.image(person)).collect();
        let queries: Vec<Query<'_>> =
            probes.iter().enumerate().map(|(at, probe)| Query { probe, limit: [10, 0, 1, 60][at % 4] }).collect();
        for queries in [&queries[..], &queries[..1], &queries[..16], &queries[..17], &[]] {
            let together = flat.scan_many(queries);
            assert_eq!(together.len(), queries.len());
            for (query, top) in queries.iter().zip(together) {
                assert_eq!(top.into_hits(), one_by_one(&flat, query.probe, query.limit).into_hits());
            }
        }
    }

    #[test]
    fn chunks_in_a_basis_among_others_do_not_change_the_answer() {
        const DIM: usize = 192;
        let mut faces = Faces::new(DIM, 19);
        let people = faces.people(2_400);
        let mut edit = FlatEdit::new(&FlatRows::new(DIM));
        for (number, person) in people.iter().enumerate() {
            (0..2).for_each(|image| {
                edit.push(key(number as u64, Some(image)), &faces.image(person));
            });
        }
        let as_they_came = edit.finish();
        // Two bases, and chunks as they came between.
        let half = FlatRows::of_chunks(DIM, as_they_came.chunks[..4].to_vec(), None);
        let bases = [&as_they_came, &half].map(|rows| Arc::new(Basis::learn(rows).unwrap()));
        let turned = |chunk: usize| (chunk, Arc::new(as_they_came.chunks[chunk].rows.turned(DIM, &bases[chunk % 2])));
        let moved = as_they_came.with_moved([0, 2, 3, 6, 7].map(turned).to_vec());
        assert_eq!(moved.bases.len(), 2);
        let mut edit = FlatEdit::new(&moved);
        (3..4_800).step_by(11).for_each(|slot| edit.kill(slot));
        let moved = edit.finish();
        assert!(moved.digits_bytes() > as_they_came.digits_bytes());
        let probes: Vec<Vec<f32>> = people.iter().step_by(60).map(|person| faces.image(person)).collect();
        let queries: Vec<Query<'_>> =
            probes.iter().enumerate().map(|(at, probe)| Query { probe, limit: [10, 1, 300][at % 3] }).collect();
        let accept = |subject: &SubjectId| subject.as_str().bytes().map(u32::from).sum::<u32>() % 3 == 0;
        for (Query { probe, limit }, together) in queries.iter().zip(moved.scan_many(&queries)) {
            let answer = one_by_one(&moved, probe, *limit).into_hits();
            assert_eq!(moved.scan(probe, 0, *limit).into_hits(), answer);
            assert_eq!(together.into_hits(), answer);
            let all = one_by_one(&moved, probe, 10_000).into_hits().into_iter();
            let expected: Vec<_> = all.filter(|hit| accept(&hit.subject)).take(*limit).collect();
            let passing = Passing { mask: None, masked: &|_| true, accept: &accept };
            assert_eq!(moved.scan_where(probe, *limit, passing).into_hits(), expected);
        }
        let compacted = moved.compacted();
        assert_eq!((compacted.rows(), compacted.bases.len()), (moved.rows(), 0), "what is written anew is as it came");
        assert_eq!(compacted.scan(&probes[0], 0, 10).into_hits(), moved.scan(&probes[0], 0, 10).into_hits());
    }

    #[test]
    fn splitting_and_compacting_do_not_change_the_answer() {
        let rows = rows(PARALLEL_SLOTS as u64 + 3000, 24, 5);
        let mut edit = FlatEdit::new(&filled(&rows, 24));
        (0..rows.len()).skip(1500).step_by(3).for_each(|slot| edit.kill(slot));
        let scattered = edit.finish();
        let compacted = scattered.compacted();
        assert_eq!((compacted.tombstones(), compacted.rows()), (0, scattered.rows()));
        assert!(Arc::ptr_eq(&scattered.chunks[1], &compacted.chunks[1]));
        let mut rng = Rng::new(6);
        for limit in [1, 10, 2000] {
            let probe = rng.unit(24);
            let answer = scattered.search(&probe, limit).unwrap();
            assert_eq!(compacted.search(&probe, limit).unwrap(), answer);
            assert_eq!(one_by_one(&scattered, &probe, limit).into_hits(), answer.hits);
            let queries: Vec<_> = [&probe; 3].into_iter().map(|probe| Query { probe, limit }).collect();
            for top in scattered.scan_many(&queries) {
                assert_eq!(top.into_hits(), answer.hits);
            }
        }
    }

    #[test]
    fn a_mask_changes_nothing_but_what_is_asked() {
        let rows = rows(PARALLEL_SLOTS as u64 + 700, 24, 15);
        let mut edit = FlatEdit::new(&filled(&rows, 24));
        (0..rows.len()).step_by(5).for_each(|slot| edit.kill(slot));
        let masked_rows = edit.finish();
        // What came and went since the mask was made.
        let mut edit = FlatEdit::new(&masked_rows);
        (1..rows.len()).step_by(50).for_each(|slot| edit.kill(slot));
        rows[..900].iter().for_each(|(key, vector)| {
            edit.push(key.clone(), vector);
        });
        let now = edit.finish();
        let mut rng = Rng::new(16);
        for one_in in [2u64, 10, 100, 3_000, 1_000_000] {
            let number =
                |subject: &SubjectId| subject.as_str().bytes().fold(7u64, |all, byte| all * 31 + u64::from(byte));
            let accept = |subject: &SubjectId| number(subject).is_multiple_of(one_in);
            // As many numbers as subjects, in the order they come.
            let names = Mutex::new(Vec::new());
            let number_of = |subject: &SubjectId| {
                let mut names = names.lock();
                let known = names.iter().position(|name| name == subject);
                Some(known.unwrap_or_else(|| {
                    names.push(subject.clone());
                    names.len() - 1
                }) as u32)
            };
            let numbers = RowNumbers::of(&masked_rows, &RowNumbers::default(), &number_of);
            let names = names.into_inner();
            let mask = RowMask::of(&masked_rows, &numbers, |number| accept(&names[number as usize]));
            let asked = std::sync::atomic::AtomicUsize::new(0);
            let counting = |subject: &SubjectId| {
                asked.fetch_add(1, Ordering::Relaxed);
                accept(subject)
            };
            let odd = |subject: &SubjectId| number(subject) % 3 != 0;
            for _ in 0..5 {
                let probe = rng.unit(24);
                let alone = Passing { mask: None, masked: &|_| unreachable!(), accept: &accept };
                let expected = now.scan_where(&probe, 10, alone).into_hits();
                let with_mask = Passing { mask: Some(&mask), masked: &|_| true, accept: &counting };
                assert_eq!(now.scan_where(&probe, 10, with_mask).into_hits(), expected, "1 in {one_in}");
                let also = |subject: &SubjectId| accept(subject) && odd(subject);
                let both = Passing { mask: Some(&mask), masked: &odd, accept: &also };
                let alone = Passing { mask: None, masked: &|_| unreachable!(), accept: &also };
                assert_eq!(now.scan_where(&probe, 10, both).into_hits(), now.scan_where(&probe, 10, alone).into_hits());
            }
            assert!(asked.into_inner() <= 5 * 3 * CHUNK_ROWS, "only of what is not masked");
        }
    }

    #[test]
    fn a_scan_can_start_anywhere() {
        let rows = rows(1200, 8, 7);
        let flat = filled(&rows, 8);
        let probe = Rng::new(8).unit(8);
        for from in [0, 1, 511, 512, 513, 1199, 1200, 5000] {
            let tail = filled(rows.get(from..).unwrap_or_default(), 8);
            assert_eq!(flat.scan(&probe, from, 10).into_hits(), tail.scan(&probe, 0, 10).into_hits(), "{from}");
        }
    }
}
