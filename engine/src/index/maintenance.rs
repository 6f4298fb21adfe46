//! What an index leaves for the background: dropping dead slots, preparing cascades, building graphs, and coding rows anew
//! (`turning`).
//!
//! Dropping dead slots renumbers the others, so rows and what stands on them are made together and published as one
//! generation. The work starts from the generation of the moment; writes go on meanwhile, and searches never notice. What was
//! written since is then carried over: every write is either a slot that died or a slot that was appended, so the difference of two states says all.
//! Most of it is carried over beside the writers and only the rest while they wait.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cascade::{Cascade, Trial};
use super::flat::{CHUNK_ROWS, FlatEdit, FlatRows};
use super::gallery::{GalleryIndex, Generation};
use super::hnsw::Graph;
use super::memory::Room;
use super::slots::Slots;
use super::trial::on_own_threads;

/// How often what was written meanwhile is carried over beside the writers, before they have to wait.
const CATCH_UP_ROUNDS: usize = 2;

/// Rows without a sketch that are worth adding to a cascade.
const EXTEND_ROWS: usize = 8 * CHUNK_ROWS;

/// How long what was replaced is kept for the searches that still use it, in milliseconds.
const RETIRE_MS: u64 = 2_000;

/// Background work on an index: due, or done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintenance {
    /// Dead slots are dropped.
    pub compact: bool,
    /// A cascade is prepared, the first one or anew.
    pub prepare_cascade: bool,
    /// Rows that came since have their sketches added to the cascade.
    pub extend_cascade: bool,
    /// A graph is built, the first one or anew.
    pub build_graph: bool,
    /// Rows are coded in a basis in which their heads hold most of what there is of them.
    pub turn_rows: bool,
    /// Vectors go from memory to files, for the memory limit.
    pub file_vectors: bool,
    /// The graph is dropped, for the memory limit.
    pub drop_graph: bool,
    /// The cascade is dropped, for the memory limit.
    pub drop_cascade: bool,
}

impl Maintenance {
    /// Whether there is anything to do.
    pub fn is_due(&self) -> bool {
        *self != Self::default()
    }

    /// All of this and all of another.
    fn and(self, other: Self) -> Self {
        Self {
            compact: self.compact || other.compact,
            prepare_cascade: self.prepare_cascade || other.prepare_cascade,
            extend_cascade: self.extend_cascade || other.extend_cascade,
            build_graph: self.build_graph || other.build_graph,
            turn_rows: self.turn_rows || other.turn_rows,
            file_vectors: self.file_vectors || other.file_vectors,
            drop_graph: self.drop_graph || other.drop_graph,
            drop_cascade: self.drop_cascade || other.drop_cascade,
        }
    }

    /// This together with what makes room in another.
    fn after(self, room: Self) -> Self {
        let Self { file_vectors, drop_graph, drop_cascade, .. } = room;
        Self { file_vectors, drop_graph, drop_cascade, ..self }
    }

    /// Whether slots may be renumbered.
    fn makes(&self) -> bool {
        self.compact || self.prepare_cascade || self.build_graph
    }
}

impl GalleryIndex {
    /// The background work that is due. Cheap: call it after writes and searches.
    pub fn maintenance(&self) -> Maintenance {
        self.assess(&self.published.load(), true).due
    }

    /// Does the background work that is due and says what was done. Takes as long as building a graph takes, so call it
    /// on a thread of its own. Searches and writes go on meanwhile; a second caller waits for the first.
    pub fn maintain(&self) -> Maintenance {
        let _turn = self.maintaining.lock();
        let done = self.maintain_in_turn(true);
        // The graph that waited for the cascade.
        if done.prepare_cascade && !done.build_graph { done.and(self.maintain_in_turn(true)) } else { done }
    }

    /// The same without the graph, which [`maintain`](Self::maintain) builds where one [`is due`](Self::wants_graph), so that it takes
    /// no longer than some ten seconds for a million rows; nothing is done while another caller is at work on this index. Where a graph
    /// that is there would be lost by it, dead slots stay, and the cascade is not prepared anew, until the next one is built.
    pub fn maintain_beside_graphs(&self) -> Maintenance {
        self.maintaining.try_lock().map(|_turn| self.maintain_in_turn(false)).unwrap_or_default()
    }

    /// Whether a graph is due, if there is room for it or not.
    pub fn wants_graph(&self) -> bool {
        self.due(&self.published.load()).build_graph
    }

    fn maintain_in_turn(&self, with_graph: bool) -> Maintenance {
        let Room { done, mut due, seen, graph_waits } = self.make_room(with_graph);
        if due.build_graph && due.prepare_cascade && !seen.drops_graph() {
            // A cascade is ready in a moment, and searches should not wait for the graph to have it.
            due.build_graph = false;
        }
        if due.is_due() {
            let replaced = if due.makes() {
                self.make(due, seen)
            } else {
                if due.extend_cascade {
                    self.extend_cascade(&seen);
                }
                // What holds a state keeps what it is made of from being replaced.
                drop(seen);
                None
            };
            // What was made is counted from when it was published.
            if !graph_waits {
                self.needs_no_room();
            }
            retire(replaced);
            // What was compacted is coded as it came.
            due.turn_rows = self.turn_rows();
        }
        due.after(done)
    }

    /// Drops dead slots, prepares a cascade and builds a graph, as far as they are due, for the state that is given. Gives the graph
    /// that was replaced.
    fn make(&self, due: Maintenance, mut seen: Arc<Generation>) -> Option<Arc<Graph>> {
        let rows = seen.rows.compacted();
        let mut slots = Slots::of(&rows);
        let config = &self.config;
        let cascade = self.cascade_over(&rows, &slots, &seen, due.prepare_cascade);
        let graph = if due.build_graph {
            Some(Arc::new(Graph::build(
                &rows,
                slots.subjects(),
                config.graph,
                config.recall_target,
                cascade.as_deref(),
            )))
        } else {
            // Nothing was renumbered where nothing was compacted.
            let kept = seen.graph.clone().filter(|_| seen.rows.tombstones() == 0);
            if kept.is_none() && seen.graph.is_some() {
                self.graph_requested.store(true, Ordering::Relaxed);
            }
            kept
        };
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
            let kept = graph.clone();
            self.publish(Generation { rows: edit.finish(), cascade, graph, subjects });
            // One that stays in use is not waited for.
            let is_kept = |old: &Arc<Graph>| kept.as_ref().is_some_and(|kept| Arc::ptr_eq(old, kept));
            now.graph.clone().filter(|old| !is_kept(old))
        };
        drop(seen);
        // Counted when it can be seen, so that who finds it counted finds it.
        self.preparations.fetch_add(u64::from(due.prepare_cascade) + u64::from(due.build_graph), Ordering::Release);
        let stats = self.stats();
        tracing::info!(
            rows = stats.rows,
            bytes = stats.bytes,
            compacted = due.compact,
            cascade = ?stats.cascade,
            graph_rows = stats.graph.map(|graph| graph.rows),
            recall_at_10 = stats.graph.map(|graph| graph.recall_at_10),
            build_ms = stats.graph.map(|graph| graph.build_ms),
            "index maintained"
        );
        replaced
    }

    /// The cascade over a state that replaces another.
    fn cascade_over(&self, rows: &FlatRows, slots: &Slots, before: &Generation, anew: bool) -> Option<Arc<Cascade>> {
        let config = &self.config;
        on_own_threads(config.graph.build_threads, || {
            if anew && rows.slots() >= CHUNK_ROWS {
                return Some(Cascade::build(rows, config.recall_target, &|key| slots.get(rows, key)));
            }
            before.cascade.as_ref().map(|cascade| cascade.extended(rows))
        })
        .map(Arc::new)
    }

    /// Adds the sketches of rows that came since to the cascade.
    fn extend_cascade(&self, seen: &Generation) {
        let Some(cascade) = &seen.cascade else { return };
        let extended = on_own_threads(self.config.graph.build_threads, || cascade.extended(&seen.rows));
        // Full chunks stay as they are: only this thread, by its turn, renumbers slots.
        self.change(|generation| generation.cascade = Some(Arc::new(extended)));
    }

    /// What is due without regard to any limit.
    pub(super) fn due(&self, generation: &Generation) -> Maintenance {
        let Generation { rows, cascade, graph, .. } = generation;
        let config = &self.config;
        let exceeds = |changed: usize, share: f32, of: usize| {
            changed >= config.maintenance_min_rows.max(1) && changed as f32 > share * of as f32
        };
        let compact = exceeds(rows.tombstones(), config.compact_share, rows.slots());
        let large = rows.rows() > config.ann_above_rows;
        let enough = |least: usize| rows.rows() >= least.max(1);
        let prepare_cascade = {
            let wanted = cascade.is_some() || large || self.cascade_requested.load(Ordering::Relaxed);
            let outdated = cascade.as_ref().is_none_or(|cascade| {
                let Trial { rows: tried, target, .. } = cascade.trial();
                target != config.recall_target
                    || exceeds(rows.rows().abs_diff(tried) + rows.tombstones(), config.rebuild_share, tried)
            });
            wanted && outdated && Cascade::suits(self.dim) && enough(config.cascade_min_rows.max(CHUNK_ROWS))
        };
        let extend_cascade = generation.has_rows_to_sketch() && !prepare_cascade;
        let build_graph = {
            // A graph is built for who asks for it: cascades cost less and find as much.
            let wanted =
                graph.is_some() || self.graph_requested.load(Ordering::Relaxed) || large && !Cascade::suits(self.dim);
            let outdated = graph.as_ref().is_none_or(|graph| {
                let changed = rows.slots() - graph.covers() + rows.tombstones() + graph.known().waypoints;
                // Compaction renumbers the slots, so a graph never outlives it.
                compact
                    || prepare_cascade && rows.tombstones() > 0
                    || graph.known().target != config.recall_target
                    || exceeds(changed, config.rebuild_share, graph.covers() + graph.known().waypoints)
            });
            wanted && outdated && enough(config.graph_min_rows)
        };
        let turn_rows = self.has_rows_to_turn(rows);
        Maintenance { compact, prepare_cascade, extend_cascade, build_graph, turn_rows, ..Maintenance::default() }
    }
}

impl Generation {
    /// Whether the graph goes when dead slots are dropped, which renumbers the others.
    pub(super) fn drops_graph(&self) -> bool {
        self.graph.is_some() && self.rows.tombstones() > 0
    }

    /// Whether enough rows have come that the cascade has no sketches of.
    pub(super) fn has_rows_to_sketch(&self) -> bool {
        self.cascade.as_ref().is_some_and(|cascade| cascade.covers() + EXTEND_ROWS <= self.rows.slots())
    }
}

/// Applies to `edit` and `slots`, which have numbers of their own, what happened between two states.
fn carry_over(before: &FlatRows, now: &FlatRows, slots: &mut Slots, edit: &mut FlatEdit) {
    for row in now.died_since(before) {
        if let Some(slot) = slots.remove(edit.rows(), row.key) {
            edit.kill(slot);
        }
    }
    for (_, row) in now.live_rows(before.slots()..now.slots()) {
        let slot = edit.push(row.key.clone(), row.vector);
        slots.insert(edit.rows(), row.key, slot);
    }
}

/// Drops a graph, or what else was published, once nobody searches it, so that taking it apart falls to this thread and not to a
/// search.
pub(super) fn retire<T>(old: Option<Arc<T>>) {
    let Some(old) = old else { return };
    for _ in 0..RETIRE_MS {
        if Arc::strong_count(&old) == 1 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
