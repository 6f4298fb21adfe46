//! Search over the vectors of one gallery. An index is a cache of the store: it can be thrown away and built again.
//!
//! [`GalleryIndex`] is what the rest of the engine uses. It keeps the rows ([`flat`]), sketches of them for a first look where the
//! gallery is large enough (`cascade`), a graph where one was asked for ([`hnsw`]), and the work that is left for the
//! background ([`maintenance`]). It can be written to a file and read again (`snapshot`).
//!
//! # Invariants
//! - A search reads one published state and waits for no writer. Exact searches of a large gallery that come while one runs wait
//!   for it, to be done together (`combine`). A write that has returned is in every later search.
//! - A score is the product of the probe and the row, computed in one way only ([`vector`]): exact and approximate
//!   search, whole and compacted galleries give the same bits.
//! - An exact search reads the coarse half of each row first and passes over those whose score provably cannot reach the list
//!   (`scan`, `codes`, `bounds`).
//! - Rows are grouped by subject inside the scan (`top`), and equal scores are ordered by subject id.
//! - An approximate search may miss a row. It never returns a removed row or a wrong score, and it says that it was
//!   approximate, with the recall that was measured.

mod basis;
mod bounds;
mod calibration;
mod candidates;
mod cascade;
mod codes;
mod combine;
pub mod flat;
pub mod gallery;
mod graph_codes;
mod graph_files;
pub mod hnsw;
pub mod maintenance;
mod mapped;
mod mask;
mod memory;
mod near;
mod principal;
mod scan;
mod shared;
mod sketch;
mod slots;
pub mod snapshot;
mod spread;
mod stats;
mod top;
mod trial;
mod turning;
pub mod vector;

// The fixture names the engine through its including module, so that tests and benches share it.
#[cfg(test)]
use crate as engine;
#[cfg(test)]
#[path = "../../benches/fixture/mod.rs"]
mod fixture;
#[cfg(test)]
mod tests;

pub use gallery::{GalleryIndex, IndexConfig};
pub use graph_codes::GraphCodes;
pub use hnsw::GraphConfig;
pub use maintenance::Maintenance;
pub use mapped::VectorPool;
pub use mask::{NumberOf, RowMask, RowNumbers};
pub use memory::{MemoryParts, MemoryTotals, Withheld};
pub use scan::Accept;
pub use snapshot::{Frozen, Loaded, LoadedGraph, SnapshotError};
pub use stats::{CascadeStats, GraphStats, IndexStats};
pub use trial::disturbed;

use crate::ids::{FaceId, SubjectId};

/// Names a row: a subject's template, or one face of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RowKey {
    /// Whose row.
    pub subject: SubjectId,
    /// The face, or `None` for the subject's template.
    pub face: Option<FaceId>,
}

/// How the caller wants a search done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchMode {
    /// The index chooses.
    #[default]
    Auto,
    /// Every row is compared.
    Exact,
    /// Bits of all rows are looked at, and the rows that look nearest are compared; exact where that is not prepared.
    Cascade,
    /// The graph is walked; exact where no graph is ready.
    Ann,
}

/// How a search was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexKind {
    /// Every row was compared.
    Exact,
    /// Bits of all rows were looked at, and the rows that looked nearest scored exactly.
    Cascade,
    /// The graph was walked and its candidates scored exactly.
    Ann,
}

/// A subject found, with the rows that speak for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Who.
    pub subject: SubjectId,
    /// Cosine of the probe and the subject's best row.
    pub score: f32,
    /// The subject's best row: `None` for a template.
    pub face: Option<FaceId>,
}

/// The answer to a search.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchOutcome {
    /// Best first, each subject once. Equal scores are ordered by subject id.
    pub hits: Vec<Hit>,
    /// How the search was done.
    pub kind: IndexKind,
    /// Where it was not exact: the share of the exact top 10 that was found on a sample when the index was prepared.
    pub recall: Option<f32>,
}

impl SearchOutcome {
    fn exact(hits: Vec<Hit>) -> Self {
        Self { hits, kind: IndexKind::Exact, recall: None }
    }
}

/// Why an index did not do as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The vector's length is not the index's.
    #[error("the vector has {actual} values, the index wants {expected}")]
    WrongDimension {
        /// The index's dimension.
        expected: usize,
        /// The vector's length.
        actual: usize,
    },
    /// A value is NaN or infinite, or the vector's length is not 1.
    #[error("the vector is not a finite unit vector")]
    NotUnit,
}

/// Search over one published, immutable state of a gallery's rows.
pub trait VectorIndex: Send + Sync {
    /// Values in a vector.
    fn dim(&self) -> usize;

    /// Live rows.
    fn rows(&self) -> usize;

    /// The best `limit` subjects for `probe`, a unit vector of [`dim`](Self::dim) values: best first, each subject once
    /// with its best row, equal scores ordered by subject id. Fewer where the gallery has fewer; none for a limit of 0.
    ///
    /// # Errors
    /// [`IndexError::WrongDimension`] or [`IndexError::NotUnit`] for a bad probe.
    fn search(&self, probe: &[f32], limit: usize) -> Result<SearchOutcome, IndexError>;
}
