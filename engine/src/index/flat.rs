//! The exact index: every live row is compared with the probe, as bytes first and in full where its score may reach the list.
//!
//! [`FlatRows`] is an immutable state of a gallery's rows. Rows have **slots**, numbered in the order they came and
//! kept in chunks of [`CHUNK_ROWS`]; all chunks but the last are full, so slot *s* is row *s* mod 512 of chunk *s* / 512.
//! A row is never changed in place: a new vector for a key kills the old slot and takes a new one.
//!
//! A new state shares with its predecessor every chunk that did not change. `FlatEdit` makes one: the first row it
//! appends copies the last chunk, and killing a row copies the live bits of its chunk (64 bytes) and no vectors.
//!
//! This index is also the twin every other index is measured against.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::codes::{CodedProbe, CodedRows};
use super::top::TopSubjects;
use super::vector::{check_unit, cosine};
use super::{IndexError, IndexKind, RowKey, SearchOutcome, VectorIndex};
use crate::ids::SubjectId;

/// Rows in a full chunk.
pub const CHUNK_ROWS: usize = 512;

/// From this many slots on, a scan is shared among threads; below, handing out the work costs more than it saves.
const PARALLEL_SLOTS: usize = 20_000;

/// Chunks a thread takes at a time.
const CHUNKS_PER_TASK: usize = 8;

/// One bit for each row of a chunk: set while the row is live.
#[derive(Clone, Copy, Default)]
struct LiveBits([u64; CHUNK_ROWS / 64]);

impl LiveBits {
    fn get(&self, row: usize) -> bool {
        self.0[row / 64] >> (row % 64) & 1 == 1
    }

    fn set(&mut self, row: usize, live: bool) {
        let bit = 1 << (row % 64);
        if live {
            self.0[row / 64] |= bit;
        } else {
            self.0[row / 64] &= !bit;
        }
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

#[derive(Default)]
struct ChunkRows {
    keys: Vec<RowKey>,
    /// `keys.len()` × dim values, row by row.
    vectors: Vec<f32>,
    /// The same as bytes.
    coded: CodedRows,
}

impl Clone for ChunkRows {
    /// A copy is made to append to it, so it has room for a few more rows.
    fn clone(&self) -> Self {
        /// A copy of `values`, as many for each row, with room for those of `rows`.
        fn copy<T: Clone>(values: &[T], rows: usize, room: usize) -> Vec<T> {
            let mut copy = Vec::with_capacity(values.len() / rows.max(1) * room);
            copy.extend_from_slice(values);
            copy
        }
        let rows = self.keys.len();
        let room = (rows + 8).min(CHUNK_ROWS);
        Self {
            keys: copy(&self.keys, rows, room),
            vectors: copy(&self.vectors, rows, room),
            coded: self.coded.with_room(room),
        }
    }
}

impl ChunkRows {
    fn push(&mut self, key: RowKey, vector: &[f32]) {
        self.keys.push(key);
        self.vectors.extend_from_slice(vector);
        self.coded.push(vector);
        if self.keys.len() == CHUNK_ROWS {
            self.keys.shrink_to_fit();
            self.vectors.shrink_to_fit();
            self.coded.shrink_to_fit();
        }
    }
}

#[derive(Clone, Default)]
struct Chunk {
    rows: Arc<ChunkRows>,
    live: LiveBits,
}

impl Chunk {
    fn len(&self) -> usize {
        self.rows.keys.len()
    }

    fn is_full_and_live(&self) -> bool {
        self.live.count() == CHUNK_ROWS
    }
}

/// An immutable state of the rows of one gallery. Cloning it shares the rows.
#[derive(Clone)]
pub struct FlatRows {
    dim: usize,
    chunks: Vec<Arc<Chunk>>,
    live: usize,
}

/// A live row of a state.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) key: &'a RowKey,
    pub(super) vector: &'a [f32],
}

impl FlatRows {
    /// A state without rows, for vectors of `dim` values.
    pub fn new(dim: usize) -> Self {
        Self { dim, chunks: Vec::new(), live: 0 }
    }

    /// Slots given out, live and dead.
    pub fn slots(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK_ROWS + last.len())
    }

    /// Dead slots: rows that were removed or replaced and still take room.
    pub fn tombstones(&self) -> usize {
        self.slots() - self.live
    }

    /// Memory taken by vectors, their bytes and keys, dead ones included, in bytes. An estimate: the texts of the ids and the
    /// bookkeeping of the allocator are not in it.
    pub fn bytes(&self) -> usize {
        let row = self.dim * size_of::<f32>() + CodedRows::row_bytes(self.dim) + size_of::<RowKey>();
        self.slots() * row + self.chunks.len() * size_of::<Chunk>()
    }

    /// The row at `slot`, or `None` where it is dead or was never given out.
    pub(super) fn row(&self, slot: usize) -> Option<Row<'_>> {
        let chunk = self.chunks.get(slot / CHUNK_ROWS)?;
        let at = slot % CHUNK_ROWS;
        chunk
            .live
            .get(at)
            .then(|| Row { key: &chunk.rows.keys[at], vector: &chunk.rows.vectors[at * self.dim..(at + 1) * self.dim] })
    }

    /// The live rows of `slots` with their slots, in order.
    pub(super) fn live_rows(&self, slots: Range<usize>) -> impl Iterator<Item = (usize, Row<'_>)> {
        slots.filter_map(|slot| Some((slot, self.row(slot)?)))
    }

    /// The rows that were live in `before` and no longer are. `before` is an earlier state with the same numbering.
    pub(super) fn died_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Row<'a>> {
        before
            .chunks
            .iter()
            .zip(&self.chunks)
            .enumerate()
            .filter(|(_, (old, new))| !Arc::ptr_eq(old, new))
            .flat_map(|(at, _)| before.live_rows(at * CHUNK_ROWS..(at + 1) * CHUNK_ROWS))
            .filter_map(|(slot, row)| self.row(slot).is_none().then_some(row))
    }

    /// Compares `probe` with the live rows from slot `from` on. The probe was checked.
    pub(super) fn scan<'a>(&'a self, probe: &[f32], from: usize, limit: usize) -> TopSubjects<'a> {
        self.scan_where(probe, from, limit, &|_| true)
    }

    /// As [`FlatRows::scan`], of subjects that `accept` lets through. It is asked only of rows whose score would put them
    /// on the list, so it may cost something.
    pub(super) fn scan_where<'a>(
        &'a self,
        probe: &[f32],
        from: usize,
        limit: usize,
        accept: &(dyn Fn(&SubjectId) -> bool + Sync),
    ) -> TopSubjects<'a> {
        let first_chunk = from / CHUNK_ROWS;
        let chunks = self.chunks.get(first_chunk..).unwrap_or_default();
        let coded = CodedProbe::new(probe);
        let scan_one = |mut top: TopSubjects<'a>, (at, chunk): (usize, &'a Arc<Chunk>)| {
            let skip = if at == 0 { from % CHUNK_ROWS } else { 0 };
            let rows = &*chunk.rows;
            let count = rows.keys.len();
            let (mut sums, mut bounds) = ([0; CHUNK_ROWS], [0.0; CHUNK_ROWS]);
            let bounds = &mut bounds[..count];
            coded.bounds(&rows.coded, &mut sums[..count], bounds);
            for (row, bound) in bounds.iter().enumerate().skip(skip) {
                if *bound >= top.floor() && chunk.live.get(row) {
                    let vector = &rows.vectors[row * self.dim..(row + 1) * self.dim];
                    top.offer_if(cosine(probe, vector), &rows.keys[row], accept);
                }
            }
            top
        };
        let new_top = || TopSubjects::new(limit);
        if chunks.len() * CHUNK_ROWS < PARALLEL_SLOTS {
            chunks.iter().enumerate().fold(new_top(), scan_one)
        } else {
            chunks
                .par_iter()
                .enumerate()
                .with_min_len(CHUNKS_PER_TASK)
                .fold(new_top, scan_one)
                .reduce(new_top, TopSubjects::merge)
        }
    }

    /// The same live rows in the same order without dead slots. Chunks before the first dead slot are shared.
    pub(super) fn compacted(&self) -> Self {
        let shared = self.chunks.iter().take_while(|chunk| chunk.is_full_and_live()).count();
        let head = Self { dim: self.dim, chunks: self.chunks[..shared].to_vec(), live: shared * CHUNK_ROWS };
        if self.tombstones() == 0 {
            return self.clone();
        }
        let mut edit = FlatEdit::new(&head);
        for (_, row) in self.live_rows(shared * CHUNK_ROWS..self.slots()) {
            edit.push(row.key.clone(), row.vector);
        }
        edit.finish()
    }
}

impl VectorIndex for FlatRows {
    fn dim(&self) -> usize {
        self.dim
    }

    fn rows(&self) -> usize {
        self.live
    }

    fn search(&self, probe: &[f32], limit: usize) -> Result<SearchOutcome, IndexError> {
        check_unit(probe, self.dim)?;
        let hits = if limit == 0 { Vec::new() } else { self.scan(probe, 0, limit).into_hits() };
        Ok(SearchOutcome { hits, kind: IndexKind::Exact, recall: None })
    }
}

/// Makes the next state out of a state.
pub(super) struct FlatEdit {
    next: FlatRows,
}

impl FlatEdit {
    pub(super) fn new(base: &FlatRows) -> Self {
        Self { next: base.clone() }
    }

    /// Appends a checked row and gives its slot.
    pub(super) fn push(&mut self, key: RowKey, vector: &[f32]) -> usize {
        debug_assert_eq!(vector.len(), self.next.dim);
        if self.next.chunks.last().is_none_or(|last| last.len() == CHUNK_ROWS) {
            self.next.chunks.push(Arc::default());
        }
        let at = self.next.chunks.len() - 1;
        // Copies only while a published state shares the chunk: once for any number of rows.
        let chunk = Arc::make_mut(&mut self.next.chunks[at]);
        let rows = Arc::make_mut(&mut chunk.rows);
        let row = rows.keys.len();
        rows.push(key, vector);
        chunk.live.set(row, true);
        self.next.live += 1;
        at * CHUNK_ROWS + row
    }

    /// Kills the row at `slot`. A dead slot stays dead.
    pub(super) fn kill(&mut self, slot: usize) {
        if self.next.row(slot).is_some() {
            Arc::make_mut(&mut self.next.chunks[slot / CHUNK_ROWS]).live.set(slot % CHUNK_ROWS, false);
            self.next.live -= 1;
        }
    }

    /// The row at `slot` as this edit has it.
    pub(super) fn row(&self, slot: usize) -> Option<Row<'_>> {
        self.next.row(slot)
    }

    pub(super) fn finish(self) -> FlatRows {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Rng, key};
    use super::*;

    fn rows(count: u64, dim: usize, seed: u64) -> Vec<(RowKey, Vec<f32>)> {
        let mut rng = Rng::new(seed);
        (0..count).map(|i| (key(rng.below(count / 3 + 1), Some(i)), rng.unit(dim))).collect()
    }

    fn filled(rows: &[(RowKey, Vec<f32>)], dim: usize) -> FlatRows {
        let mut edit = FlatEdit::new(&FlatRows::new(dim));
        for (key, vector) in rows {
            edit.push(key.clone(), vector);
        }
        edit.finish()
    }

    #[test]
    fn states_are_immutable_and_share_chunks() {
        let rows = rows(1300, 8, 4);
        let before = filled(&rows, 8);
        let mut edit = FlatEdit::new(&before);
        edit.kill(700);
        edit.kill(700);
        assert_eq!(edit.push(rows[0].0.clone(), &rows[0].1), 1300);
        let after = edit.finish();
        assert_eq!((before.slots(), before.rows(), before.tombstones()), (1300, 1300, 0));
        assert_eq!((after.slots(), after.rows(), after.tombstones()), (1301, 1300, 1));
        assert!(before.row(700).is_some() && after.row(700).is_none());
        assert!(before.row(1300).is_none() && after.row(1300).is_some());
        assert!(Arc::ptr_eq(&before.chunks[0], &after.chunks[0]));
        assert!(Arc::ptr_eq(&before.chunks[1].rows, &after.chunks[1].rows));
        assert!(!Arc::ptr_eq(&before.chunks[2].rows, &after.chunks[2].rows));
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
            let mut one_by_one = TopSubjects::new(limit);
            for (_, row) in scattered.live_rows(0..scattered.slots()) {
                one_by_one.offer(cosine(&probe, row.vector), row.key);
            }
            assert_eq!(one_by_one.into_hits(), answer.hits);
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
