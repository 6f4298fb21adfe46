//! The rows of a gallery.
//!
//! [`FlatRows`] is an immutable state of a gallery's rows. Rows have **slots**, numbered in the order they came and
//! kept in chunks of [`CHUNK_ROWS`]; all chunks but the last are full, so slot *s* is row *s* mod 512 of chunk *s* / 512.
//! A row is never changed in place: a new vector for a key kills the old slot and takes a new one.
//!
//! A new state shares with its predecessor every chunk that did not change. `FlatEdit` makes one: the first row it
//! appends copies the last chunk, and killing a row copies the live bits of its chunk (64 bytes) and no vectors.

use std::ops::Range;
use std::sync::Arc;

use super::RowKey;
use super::basis::Basis;
use super::codes::CodedRows;
use super::mapped::{VectorPool, Vectors};

/// Rows in a full chunk.
pub const CHUNK_ROWS: usize = 512;

/// One bit for each row of a chunk: set while the row is live.
#[derive(Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct LiveBits([u64; CHUNK_ROWS / 64]);

impl LiveBits {
    pub(super) fn get(&self, row: usize) -> bool {
        self.0[row / 64] >> (row % 64) & 1 == 1
    }

    pub(super) fn set(&mut self, row: usize, live: bool) {
        let bit = 1 << (row % 64);
        if live {
            self.0[row / 64] |= bit;
        } else {
            self.0[row / 64] &= !bit;
        }
    }

    /// The rows of which it holds; rows beyond them are not set.
    pub(super) fn of<T>(rows: &[T], holds: impl Fn(&T) -> bool) -> Self {
        let mut bits = Self::default();
        for (word, rows) in bits.0.iter_mut().zip(rows.chunks(u64::BITS as usize)) {
            *word = rows.iter().rev().fold(0, |word, row| word << 1 | u64::from(holds(row)));
        }
        bits
    }

    /// The rows that are set in words, the first in the lowest bit of the first.
    pub(super) fn of_words(words: [u64; CHUNK_ROWS / 64]) -> Self {
        Self(words)
    }

    /// The rows that are set in both.
    pub(super) fn and(self, other: Self) -> Self {
        Self(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    /// The rows that are set, in order.
    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        self.0.into_iter().enumerate().flat_map(|(word, bits)| {
            std::iter::successors((bits != 0).then_some(bits), |bits| Some(bits & (bits - 1)).filter(|left| *left != 0))
                .map(move |bits| word * 64 + bits.trailing_zeros() as usize)
        })
    }

    /// The same without rows from `rows` on.
    pub(super) fn of_first(mut self, rows: usize) -> Self {
        (rows..CHUNK_ROWS).for_each(|row| self.set(row, false));
        self
    }

    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

#[derive(Default)]
pub(super) struct ChunkRows {
    pub(super) keys: Vec<RowKey>,
    /// `keys.len()` × dim values, row by row.
    pub(super) vectors: Arc<Vectors>,
    /// The same as digits.
    pub(super) coded: CodedRows,
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
            vectors: Arc::new(Vectors::Own { values: copy(&self.vectors, rows, room), pool: None }),
            coded: self.coded.with_room(room),
        }
    }
}

impl ChunkRows {
    /// The same rows with their vectors elsewhere.
    pub(super) fn with_vectors(&self, vectors: Vectors) -> Self {
        Self { keys: self.keys.clone(), vectors: Arc::new(vectors), coded: self.coded.clone() }
    }

    /// The same rows coded in a basis.
    pub(super) fn turned(&self, dim: usize, basis: &Arc<Basis>) -> Self {
        let coded = CodedRows::turned(&self.vectors, dim, basis);
        Self { keys: self.keys.clone(), vectors: Arc::clone(&self.vectors), coded }
    }

    fn push(&mut self, key: RowKey, vector: &[f32], pool: Option<&Arc<VectorPool>>) {
        self.keys.push(key);
        self.coded.push(vector);
        let vectors = std::mem::take(&mut self.vectors);
        let mut values = Arc::try_unwrap(vectors).map_or_else(|shared| shared.to_vec(), Vectors::into_values);
        values.extend_from_slice(vector);
        let is_full = self.keys.len() == CHUNK_ROWS;
        if is_full {
            self.keys.shrink_to_fit();
            values.shrink_to_fit();
            self.coded.settle();
        }
        self.vectors = Arc::new(match pool {
            Some(pool) if is_full => pool.place(values),
            _ => Vectors::Own { values, pool: None },
        });
    }
}

#[derive(Clone, Default)]
pub(super) struct Chunk {
    pub(super) rows: Arc<ChunkRows>,
    pub(super) live: LiveBits,
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
    pub(super) chunks: Vec<Arc<Chunk>>,
    /// In which chunks are coded that are not coded as they came.
    pub(super) bases: Vec<Arc<Basis>>,
    /// How many chunks are coded in each of them.
    turned: Vec<usize>,
    live: usize,
    /// Where vectors of full chunks go; in memory without one.
    pool: Option<Arc<VectorPool>>,
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
        Self { dim, chunks: Vec::new(), bases: Vec::new(), turned: Vec::new(), live: 0, pool: None }
    }

    /// A state without rows, whose vectors are placed by a pool.
    pub(super) fn with_pool(dim: usize, pool: Option<Arc<VectorPool>>) -> Self {
        Self { pool, ..Self::new(dim) }
    }

    /// A state of these chunks, of which all but the last are full.
    pub(super) fn of_chunks(dim: usize, chunks: Vec<Arc<Chunk>>, pool: Option<Arc<VectorPool>>) -> Self {
        let live = chunks.iter().map(|chunk| chunk.live.count()).sum();
        let (bases, turned) = bases_of(&chunks);
        Self { dim, chunks, bases, turned, live, pool }
    }

    /// Values in a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Live rows.
    pub fn rows(&self) -> usize {
        self.live
    }

    /// Slots given out, live and dead.
    pub fn slots(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK_ROWS + last.len())
    }

    /// Dead slots: rows that were removed or replaced and still take room.
    pub fn tombstones(&self) -> usize {
        self.slots() - self.live
    }

    /// What of the vectors is in files and not in memory, in bytes.
    pub fn filed_bytes(&self) -> usize {
        self.chunks.iter().filter(|chunk| chunk.rows.vectors.is_filed()).count()
            * CHUNK_ROWS
            * self.dim
            * size_of::<f32>()
    }

    /// What digits, tails and the bases they are in take, in bytes.
    pub(super) fn digits_bytes(&self) -> usize {
        let of_chunks = |chunks: usize, basis| chunks * CHUNK_ROWS * CodedRows::row_bytes(self.dim, basis);
        let turned = self.bases.iter().zip(&self.turned);
        let in_bases: usize =
            turned.clone().map(|(basis, chunks)| of_chunks(*chunks, Some(basis)) + basis.bytes()).sum();
        let as_they_came = self.slots() - turned.map(|(_, chunks)| chunks * CHUNK_ROWS).sum::<usize>();
        in_bases + as_they_came * CodedRows::row_bytes(self.dim, None)
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

    /// The key of a slot that was given out, be its row live or dead.
    pub(super) fn key(&self, slot: usize) -> &RowKey {
        &self.chunks[slot / CHUNK_ROWS].rows.keys[slot % CHUNK_ROWS]
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

    /// The same state where these chunks have their vectors elsewhere or are coded otherwise.
    pub(super) fn with_moved(&self, moved: Vec<(usize, Arc<ChunkRows>)>) -> Self {
        let mut next = self.clone();
        for (number, rows) in moved {
            if let Some(chunk) = next.chunks.get_mut(number) {
                *chunk = Arc::new(Chunk { rows, live: chunk.live });
            }
        }
        (next.bases, next.turned) = bases_of(&next.chunks);
        next
    }

    /// The same live rows in the same order without dead slots. Chunks before the first dead slot are shared.
    pub(super) fn compacted(&self) -> Self {
        let shared = self.chunks.iter().take_while(|chunk| chunk.is_full_and_live()).count();
        let head = Self::of_chunks(self.dim, self.chunks[..shared].to_vec(), self.pool.clone());
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

/// The bases that chunks are coded in, each once, and how many chunks are coded in each.
fn bases_of(chunks: &[Arc<Chunk>]) -> (Vec<Arc<Basis>>, Vec<usize>) {
    let (mut bases, mut turned): (Vec<Arc<Basis>>, Vec<usize>) = Default::default();
    for basis in chunks.iter().filter_map(|chunk| chunk.rows.coded.basis()) {
        match bases.iter().position(|known| Arc::ptr_eq(known, basis)) {
            Some(number) => turned[number] += 1,
            None => {
                bases.push(Arc::clone(basis));
                turned.push(1);
            }
        }
    }
    (bases, turned)
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
        rows.push(key, vector, self.next.pool.as_ref());
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

    /// The rows as this edit has them.
    pub(super) fn rows(&self) -> &FlatRows {
        &self.next
    }

    pub(super) fn finish(self) -> FlatRows {
        self.next
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fixture::{Rng, key};
    use super::*;

    /// Rows of some subjects.
    pub(in crate::index) fn rows(count: u64, dim: usize, seed: u64) -> Vec<(RowKey, Vec<f32>)> {
        let mut rng = Rng::new(seed);
        (0..count).map(|i| (key(rng.below(count / 3 + 1), Some(i)), rng.unit(dim))).collect()
    }

    /// A state of these rows.
    pub(in crate::index) fn filled(rows: &[(RowKey, Vec<f32>)], dim: usize) -> FlatRows {
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
}
