//! What an index says of itself.

use super::RowKey;
use super::cascade::Trial;
use super::flat::{CHUNK_ROWS, Chunk};
use super::gallery::{GalleryIndex, Generation};
use super::memory::{MemoryParts, Withheld};
use super::slots::Slots;

/// What the text of a subject's id takes, which its rows share: its counts, some twenty characters, the allocator's share.
const ID_BYTES: usize = 48;

/// What an index holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IndexStats {
    /// Live rows.
    pub rows: usize,
    /// Subjects with a live row.
    pub subjects: usize,
    /// Rows that were removed or replaced and still take room.
    pub tombstones: usize,
    /// Memory taken in bytes, estimated: all of [`memory`](Self::memory).
    pub bytes: usize,
    /// The same by part.
    pub memory: MemoryParts,
    /// What of the vectors is in files, in bytes.
    pub filed_bytes: usize,
    /// The cascade, where there is one.
    pub cascade: Option<CascadeStats>,
    /// The graph, where there is one.
    pub graph: Option<GraphStats>,
    /// What it goes without because of the memory limit.
    pub withheld: Withheld,
}

/// What is known of a cascade.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CascadeStats {
    /// Rows it was tried on.
    pub rows: usize,
    /// Share of the rows that are looked at beyond their sketch.
    pub share: f64,
    /// The share of the exact top 10 that it found on a sample.
    pub recall_at_10: f32,
    /// The share of the sample whose best subject it found.
    pub rank_1: f32,
}

/// What is known of a graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GraphStats {
    /// Rows it is over.
    pub rows: usize,
    /// The share of the exact top 10 that it found on a sample when it was built.
    pub recall_at_10: f32,
    /// Candidates that a search looks at, at least: what that recall took.
    pub search_candidates: usize,
    /// How long building and measuring it took, in milliseconds.
    pub build_ms: u64,
}

impl Generation {
    /// What it keeps in memory beside vectors of full chunks.
    pub(super) fn parts(&self) -> MemoryParts {
        let Self { rows, cascade, graph, subjects } = self;
        let slots = rows.slots();
        MemoryParts {
            vectors: slots % CHUNK_ROWS * rows.dim() * size_of::<f32>(),
            digits: rows.digits_bytes(),
            keys: slots * size_of::<RowKey>()
                + rows.chunks.len() * size_of::<Chunk>()
                + Slots::bytes(rows.rows(), *subjects)
                + subjects * ID_BYTES,
            sketches: cascade.as_ref().map_or(0, |cascade| cascade.bytes()),
            graph: graph.as_ref().map_or(0, |graph| graph.bytes()),
        }
    }
}

impl GalleryIndex {
    /// What the index holds. Takes a moment where it is large.
    pub fn stats(&self) -> IndexStats {
        let generation = self.published.load();
        let Generation { rows, cascade, graph, subjects } = &**generation;
        let filed_bytes = rows.filed_bytes();
        let vectors = rows.slots() * rows.dim() * size_of::<f32>() - filed_bytes;
        let memory = MemoryParts { vectors, ..generation.parts() };
        IndexStats {
            rows: rows.rows(),
            subjects: *subjects,
            tombstones: rows.tombstones(),
            bytes: memory.total(),
            memory,
            filed_bytes,
            cascade: cascade.as_ref().map(|cascade| {
                let Trial { rows, near, recall_at_10, rank_1, .. } = cascade.trial();
                CascadeStats { rows, share: near, recall_at_10, rank_1 }
            }),
            graph: graph.as_ref().map(|graph| GraphStats {
                rows: graph.covers(),
                recall_at_10: graph.recall_at_10(),
                search_candidates: graph.known().search_candidates,
                build_ms: graph.build_ms(),
            }),
            withheld: self.account.withheld(),
        }
    }
}
