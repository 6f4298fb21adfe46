//! What an index leaves for the background: dropping dead slots and building graphs.
//!
//! Both renumber slots, so rows and graph are made together and published as one generation. The work starts from the
//! generation of the moment; writes go on meanwhile, and searches never notice. What was written since is then carried
//! over: every write is either a slot that died or a slot that was appended, so the difference of two states says all.
//! Most of it is carried over beside the writers and only the rest while they wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::VectorIndex;
use super::flat::{FlatEdit, FlatRows};
use super::gallery::{GalleryIndex, Generation};
use super::hnsw::Graph;
use super::slots::Slots;

/// How often what was written meanwhile is carried over beside the writers, before they have to wait.
const CATCH_UP_ROUNDS: usize = 2;

/// How long a graph that was replaced is kept for the searches that still walk it, in milliseconds.
const RETIRE_MS: u64 = 2_000;

/// Background work on an index: due, or done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// Dead slots are dropped.
    pub compact: bool,
    /// A graph is built, the first one or anew.
    pub build_graph: bool,
}

impl Maintenance {
    /// Whether there is anything to do.
    pub fn is_due(&self) -> bool {
        self.compact || self.build_graph
    }
}

impl GalleryIndex {
    /// The background work that is due. Cheap: call it after writes and searches.
    pub fn maintenance(&self) -> Maintenance {
        self.due(&self.published.load())
    }

    /// Does the background work that is due and says what was done. Takes as long as building a graph takes, so call it
    /// on a thread of its own. Searches and writes go on meanwhile; a second caller waits for the first.
    pub fn maintain(&self) -> Maintenance {
        let _turn = self.maintaining.lock();
        let mut seen = self.published.load_full();
        let due = self.due(&seen);
        if !due.is_due() {
            return due;
        }
        let rows = seen.rows.compacted();
        let mut slots = Slots::of(&rows);
        let graph = due.build_graph.then(|| Arc::new(Graph::build(&rows, slots.subjects(), self.config.graph)));
        let mut edit = FlatEdit::new(&rows);
        for _ in 0..CATCH_UP_ROUNDS {
            let now = self.published.load_full();
            carry_over(&seen.rows, &now.rows, &mut slots, &mut edit);
            seen = now;
        }
        let replaced = {
            let mut writer = self.writer.lock();
            let now = self.published.load_full();
            carry_over(&seen.rows, &now.rows, &mut slots, &mut edit);
            let subjects = slots.subjects();
            *writer = slots;
            self.published.store(Arc::new(Generation { rows: edit.finish(), graph, subjects }));
            now.graph.clone()
        };
        drop(seen);
        retire(replaced);
        let stats = self.stats();
        tracing::info!(
            rows = stats.rows,
            bytes = stats.bytes,
            compacted = due.compact,
            graph_rows = stats.graph.map(|graph| graph.rows),
            recall_at_10 = stats.graph.map(|graph| graph.recall_at_10),
            build_ms = stats.graph.map(|graph| graph.build_ms),
            "index maintained"
        );
        due
    }

    fn due(&self, generation: &Generation) -> Maintenance {
        let Generation { rows, graph, .. } = generation;
        let config = &self.config;
        let exceeds = |changed: usize, share: f32, of: usize| {
            changed >= config.maintenance_min_rows.max(1) && changed as f32 > share * of as f32
        };
        let compact = exceeds(rows.tombstones(), config.compact_share, rows.slots());
        let wanted =
            graph.is_some() || rows.rows() > config.ann_above_rows || self.graph_requested.load(Ordering::Relaxed);
        let outdated = graph.as_ref().is_none_or(|graph| {
            let changed = rows.slots() - graph.covers() + rows.tombstones();
            // Compaction renumbers the slots, so a graph never outlives it.
            compact || exceeds(changed, config.rebuild_share, graph.covers())
        });
        let enough = rows.rows() >= config.graph_min_rows.max(1);
        Maintenance { compact, build_graph: wanted && outdated && enough }
    }
}

/// Applies to `edit` and `slots`, which have numbers of their own, what happened between two states.
fn carry_over(before: &FlatRows, now: &FlatRows, slots: &mut Slots, edit: &mut FlatEdit) {
    for row in now.died_since(before) {
        if let Some(slot) = slots.remove(row.key) {
            edit.kill(slot);
        }
    }
    for (_, row) in now.live_rows(before.slots()..now.slots()) {
        let slot = edit.push(row.key.clone(), row.vector);
        slots.insert(row.key, slot);
    }
}

/// Drops a graph once nobody searches it, so that taking it apart falls to this thread and not to a search.
fn retire(graph: Option<Arc<Graph>>) {
    let Some(graph) = graph else { return };
    for _ in 0..RETIRE_MS {
        if Arc::strong_count(&graph) == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
