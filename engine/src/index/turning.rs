//! Coding the rows of a large gallery in a basis in which their heads hold most of what there is of them, in the background.
//!
//! The basis is learnt once there are enough rows, and again when there are many times as many. Chunk after chunk is coded in it and
//! takes the place of the same rows coded as they came, or in the basis before; searches know what each chunk is coded in, and find
//! the same.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::basis::Basis;
use super::flat::{CHUNK_ROWS, ChunkRows, FlatRows};
use super::gallery::{GalleryIndex, Generation};
use super::maintenance::retire;
use super::trial::on_own_threads;

/// Full chunks coded otherwise that are worth coding anew.
const LEAST_CHUNKS: usize = 8;
/// Chunks that are published together: what they replace is kept until then.
const TOGETHER: usize = 256;
/// A basis is learnt again when there are so many times as many rows.
const GROWTH: usize = 8;

/// In which rows are to be coded.
#[derive(Default)]
pub(super) struct Turning {
    basis: Option<Arc<Basis>>,
    /// Live rows when it was learnt, or when there was none to learn; 0 before.
    learnt_at: usize,
}

impl Turning {
    /// As an index has it whose rows were read from a file.
    pub(super) fn of(rows: &FlatRows) -> Self {
        let basis = rows.bases.iter().max_by_key(|basis| basis.rows()).cloned();
        Self { learnt_at: basis.as_ref().map_or(0, |basis| basis.rows()), basis }
    }

    fn is_outdated(&self, rows: usize) -> bool {
        self.learnt_at == 0 || rows > GROWTH * self.learnt_at
    }
}

/// Full chunks that are not coded in this basis.
fn coded_otherwise(rows: &FlatRows, basis: &Arc<Basis>) -> Vec<usize> {
    let is_other =
        |chunk: &usize| rows.chunks[*chunk].rows.coded.basis().is_none_or(|known| !Arc::ptr_eq(known, basis));
    (0..rows.slots() / CHUNK_ROWS).filter(is_other).collect()
}

impl GalleryIndex {
    /// Whether there are rows that are worth coding anew.
    pub(super) fn has_rows_to_turn(&self, rows: &FlatRows) -> bool {
        if rows.rows() < self.config.basis_min_rows.max(CHUNK_ROWS) {
            return false;
        }
        let turning = self.turning.lock();
        turning.is_outdated(rows.rows())
            || turning.basis.as_ref().is_some_and(|basis| coded_otherwise(rows, basis).len() >= LEAST_CHUNKS)
    }

    /// Codes rows anew where it is worth it, and gives whether it was. For who does the background work.
    pub(super) fn turn_rows(&self) -> bool {
        let seen = self.published.load_full();
        if !self.has_rows_to_turn(&seen.rows) {
            return false;
        }
        let threads = self.config.graph.build_threads;
        let live = seen.rows.rows();
        let mut learnt = false;
        if self.turning.lock().is_outdated(live) {
            let basis = on_own_threads(threads, || Basis::learn(&seen.rows)).map(Arc::new);
            let head = basis.as_ref().map(|basis| basis.head());
            tracing::info!(rows = live, dim = self.dim, head, "directions of most variance learnt");
            let mut turning = self.turning.lock();
            // One that is in use serves on where there is no better one.
            turning.basis = basis.or_else(|| turning.basis.take());
            turning.learnt_at = live;
            learnt = true;
        }
        drop(seen);
        let basis = self.turning.lock().basis.clone();
        if let Some(basis) = basis {
            let others = coded_otherwise(&self.published.load().rows, &basis);
            for numbers in others.chunks(TOGETHER) {
                let seen = self.published.load_full();
                let turned =
                    |number: &usize| (*number, Arc::new(seen.rows.chunks[*number].rows.turned(self.dim, &basis)));
                let turned = on_own_threads(threads, || numbers.par_iter().map(turned).collect());
                drop(seen);
                self.replace_chunks(turned);
            }
        }
        self.preparations.fetch_add(u64::from(learnt), Ordering::Release);
        true
    }

    /// Publishes chunks of the same rows with their vectors elsewhere or coded otherwise, and returns when those before are not used
    /// any more. For who does the background work: full chunks are as they were but for their live bits, as nobody else
    /// renumbers slots.
    pub(super) fn replace_chunks(&self, chunks: Vec<(usize, Arc<ChunkRows>)>) {
        let before = {
            let _writer = self.writer.lock();
            let now = self.published.load_full();
            let rows = now.rows.with_moved(chunks);
            let cascade = now.cascade.as_ref().map(|cascade| Arc::new(cascade.moved(&now.rows, &rows)));
            self.publish(Generation { rows, cascade, graph: now.graph.clone(), subjects: now.subjects });
            now
        };
        // Searches that began before hold what has gone.
        retire(Some(before));
    }
}
