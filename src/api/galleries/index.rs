//! What a gallery's index says of itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vultus_engine::index::{IndexStats, MemoryParts};

/// The index of a gallery, as it is at the moment.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = GalleryIndex)]
pub struct IndexView {
    /// Rows that searches compare: subjects, or in a gallery of events their faces.
    pub rows: u64,
    /// What it keeps in memory, estimated.
    pub memory_bytes: MemoryView,
    /// Bytes of vectors in files.
    pub filed_bytes: u64,
    /// Sketches of the rows for a first look.
    pub cascade: PartView,
    /// A graph over the rows.
    pub graph: PartView,
}

/// Bytes in memory, by part.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = IndexMemory)]
pub struct MemoryView {
    /// All of it.
    pub total: u64,
    /// Vectors in single precision.
    pub vectors: u64,
    /// Coarse and fine digits, which every exact search reads.
    pub digits: u64,
    /// Names of rows.
    pub keys: u64,
    /// Sketches of the cascade.
    pub sketches: u64,
    /// The graph.
    pub graph: u64,
}

/// A part of an index that is made in the background.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = IndexPart)]
pub struct PartView {
    /// What has become of it.
    pub state: PartState,
    /// Rows it is over; null without it.
    #[schema(required = true)]
    pub rows: Option<u64>,
    /// The share of the exact top 10 it found on a sample of this gallery; null without it.
    #[schema(required = true)]
    pub recall_at_10: Option<f32>,
}

/// Whether a part of an index is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = IndexPartState)]
pub enum PartState {
    /// It is in use.
    Ready,
    /// Nobody has asked for it, there are too few rows for it, or it is being made.
    None,
    /// It does not fit into `search.memory_limit_mb`: searches that ask for it are answered exactly.
    Withheld,
}

impl PartView {
    fn new(made: Option<(usize, f32)>, withheld: Option<usize>) -> Self {
        let state = match (made, withheld) {
            (Some(_), _) => PartState::Ready,
            (None, Some(_)) => PartState::Withheld,
            (None, None) => PartState::None,
        };
        Self { state, rows: made.map(|(rows, _)| rows as u64), recall_at_10: made.map(|(_, recall)| recall) }
    }
}

impl From<MemoryParts> for MemoryView {
    fn from(parts: MemoryParts) -> Self {
        let MemoryParts { vectors, digits, keys, sketches, graph } = parts;
        Self {
            total: parts.total() as u64,
            vectors: vectors as u64,
            digits: digits as u64,
            keys: keys as u64,
            sketches: sketches as u64,
            graph: graph as u64,
        }
    }
}

impl From<IndexStats> for IndexView {
    fn from(stats: IndexStats) -> Self {
        let cascade = stats.cascade.map(|cascade| (cascade.rows, cascade.recall_at_10));
        let graph = stats.graph.map(|graph| (graph.rows, graph.recall_at_10));
        Self {
            rows: stats.rows as u64,
            memory_bytes: stats.memory.into(),
            filed_bytes: stats.filed_bytes as u64,
            cascade: PartView::new(cascade, stats.withheld.cascade),
            graph: PartView::new(graph, stats.withheld.graph),
        }
    }
}
