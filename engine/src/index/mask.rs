//! Which rows a filter lets through, as bits: asked of each row once, and not by each search that has the filter.

use std::sync::{Arc, Weak};

use rayon::prelude::*;

use super::flat::{CHUNK_ROWS, Chunk, ChunkRows, FlatRows, LiveBits};
use super::gallery::GalleryIndex;
use super::scan::Accept;
use crate::ids::SubjectId;

/// The rows of an index whose subjects a filter lets through. It stays true of them as long as the answers of the filter do, whatever
/// is written to the index: rows that came later are not in it and are asked about.
pub struct RowMask {
    /// For each full chunk whose it is, and the rows that pass.
    chunks: Vec<(Weak<ChunkRows>, LiveBits)>,
}

impl RowMask {
    /// Asks about each subject of the full chunks.
    pub(super) fn of(rows: &FlatRows, accept: Accept<'_>) -> Self {
        let one = |chunk: &Arc<Chunk>| {
            let mut passing = LiveBits::default();
            // Rows of one subject mostly lie together.
            let mut last: Option<(&SubjectId, bool)> = None;
            for (row, key) in chunk.rows.keys.iter().enumerate().filter(|(row, _)| chunk.live.get(*row)) {
                let passes = match last {
                    Some((subject, passes)) if *subject == key.subject => passes,
                    _ => accept(&key.subject),
                };
                last = Some((&key.subject, passes));
                passing.set(row, passes);
            }
            (Arc::downgrade(&chunk.rows), passing)
        };
        let full = rows.slots() / CHUNK_ROWS;
        Self { chunks: rows.chunks[..full].par_iter().map(one).collect() }
    }

    /// The rows of a chunk that pass; `None` where that was not asked.
    pub(super) fn passing(&self, number: usize, chunk: &Chunk) -> Option<LiveBits> {
        let (rows, passing) = self.chunks.get(number)?;
        std::ptr::eq(rows.as_ptr(), Arc::as_ptr(&chunk.rows)).then_some(*passing)
    }

    /// Share of the full chunks of a state that it is about.
    fn share_of(&self, rows: &FlatRows) -> f64 {
        let full = rows.slots() / CHUNK_ROWS;
        let known =
            rows.chunks[..full].iter().enumerate().filter(|(number, chunk)| self.passing(*number, chunk).is_some());
        if full == 0 { 1.0 } else { known.count() as f64 / full as f64 }
    }
}

impl GalleryIndex {
    /// The rows of now whose subjects `accept` lets through. Asks about every subject.
    pub fn mask(&self, accept: Accept<'_>) -> RowMask {
        RowMask::of(&self.published.load().rows, accept)
    }

    /// Whether a mask is about most of the rows of now, which it is no more after compaction or much growth.
    pub fn is_masked_by(&self, mask: &RowMask) -> bool {
        mask.share_of(&self.published.load().rows) > 0.9
    }
}
