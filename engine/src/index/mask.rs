//! Which rows a filter lets through, as bits: looked up for each row once, and not by each search that has the filter.
//!
//! Whoever knows the subjects has numbers for them. Which number each row's subject has is noted once ([`RowNumbers`]); a filter then
//! says which numbers pass, and the rows follow ([`RowMask`]) without a look at any name.

use std::sync::{Arc, Weak};

use rayon::prelude::*;

use super::flat::{CHUNK_ROWS, Chunk, ChunkRows, FlatRows, LiveBits};
use super::gallery::GalleryIndex;
use crate::ids::SubjectId;

/// Says which number a subject has.
pub type NumberOf<'a> = &'a (dyn Fn(&SubjectId) -> Option<u32> + Sync);

/// The number of no subject.
const NOBODY: u32 = u32::MAX;
/// So many chunks may have come after a mask; a new one is cheaper than asking about the rows of more.
const LATER_CHUNKS: usize = 2;
/// Chunks a thread takes at a time.
const CHUNKS_PER_TASK: usize = 64;

/// The numbers of the subjects of an index's rows. They stay true as long as subjects keep their numbers, whatever is written to the
/// index: rows that came later are not among them.
#[derive(Default)]
pub struct RowNumbers {
    /// For each full chunk whose they are, and a number for each row. Of a chunk with a live row without number, none.
    chunks: Vec<Numbered>,
}

/// A chunk and a number for each of its rows.
type Numbered = (Weak<ChunkRows>, Arc<[u32]>);

/// The rows of an index whose subjects a filter lets through. It stays true of them as long as the answers of the filter do, whatever
/// is written to the index: rows that came later are not in it and are asked about.
pub struct RowMask {
    /// For each full chunk whose it is, and the rows that pass.
    chunks: Vec<(Weak<ChunkRows>, LiveBits)>,
}

fn is_of(rows: &Weak<ChunkRows>, chunk: &Chunk) -> bool {
    std::ptr::eq(rows.as_ptr(), Arc::as_ptr(&chunk.rows))
}

impl RowNumbers {
    /// Of the rows of a state; those that were known `before` are taken over.
    pub(super) fn of(rows: &FlatRows, before: &Self, number_of: NumberOf<'_>) -> Self {
        let one = |(at, chunk): (usize, &Arc<Chunk>)| match before.chunks.get(at) {
            Some(known) if is_of(&known.0, chunk) => known.clone(),
            _ => numbered(chunk, number_of)
                .map_or_else(Default::default, |numbers| (Arc::downgrade(&chunk.rows), numbers)),
        };
        Self { chunks: full(rows).par_iter().enumerate().with_min_len(CHUNKS_PER_TASK).map(one).collect() }
    }
}

impl RowMask {
    /// The rows of a state whose numbers pass.
    pub(super) fn of(rows: &FlatRows, numbers: &RowNumbers, passes: impl Fn(u32) -> bool + Sync) -> Self {
        let one = |(chunk, (whose, numbers)): (&Arc<Chunk>, &Numbered)| {
            if is_of(whose, chunk) {
                (whose.clone(), LiveBits::of(numbers, |number| passes(*number)).and(chunk.live))
            } else {
                Default::default()
            }
        };
        Self { chunks: rows.chunks.par_iter().zip(&numbers.chunks).with_min_len(CHUNKS_PER_TASK).map(one).collect() }
    }

    /// The rows of a chunk that pass; `None` where that is not known.
    pub(super) fn passing(&self, number: usize, chunk: &Chunk) -> Option<LiveBits> {
        let (rows, passing) = self.chunks.get(number)?;
        is_of(rows, chunk).then_some(*passing)
    }

    /// Whether it is about the rows of a state but for a few.
    fn covers(&self, rows: &FlatRows) -> bool {
        let full = full(rows);
        let known = full.iter().zip(&self.chunks).filter(|(chunk, (rows, _))| is_of(rows, chunk)).count();
        known + LATER_CHUNKS >= full.len()
    }
}

/// The numbers of a chunk's rows, of which dead ones need none; `None` where a live one has none.
fn numbered(chunk: &Chunk, number_of: NumberOf<'_>) -> Option<Arc<[u32]>> {
    // Rows of one subject mostly lie together.
    let mut last: Option<(&SubjectId, u32)> = None;
    let keys = chunk.rows.keys.iter().enumerate();
    let numbers = keys.map(|(row, key)| match last {
        Some((subject, number)) if *subject == key.subject => Some(number),
        _ => {
            let number = number_of(&key.subject);
            last = number.map(|number| (&key.subject, number));
            number.or((!chunk.live.get(row)).then_some(NOBODY))
        }
    });
    numbers.collect::<Option<Vec<u32>>>().map(Into::into)
}

impl GalleryIndex {
    /// The numbers of the rows of now; those that were known `before` are taken over.
    pub fn number_rows(&self, before: &RowNumbers, number_of: NumberOf<'_>) -> RowNumbers {
        RowNumbers::of(&self.published.load().rows, before, number_of)
    }

    /// The rows of now whose numbers pass.
    pub fn mask(&self, numbers: &RowNumbers, passes: impl Fn(u32) -> bool + Sync) -> RowMask {
        RowMask::of(&self.published.load().rows, numbers, passes)
    }

    /// Whether a mask is about the rows of now but for a few, which it is no more after compaction or growth.
    pub fn is_masked_by(&self, mask: &RowMask) -> bool {
        mask.covers(&self.published.load().rows)
    }
}

/// The chunks that have all their rows.
fn full(rows: &FlatRows) -> &[Arc<Chunk>] {
    &rows.chunks[..rows.slots() / CHUNK_ROWS]
}
