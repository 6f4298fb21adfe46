//! What indexes keep in memory, and what is done where that would pass a limit.
//!
//! The limit is one for all indexes that share a [`VectorPool`](super::VectorPool). Digits and names of rows have to be in
//! memory; the rest goes or is not made, in this order: vectors go to files (new ones at once, those in memory in the
//! background), no graph is built, a graph is dropped, no cascade is prepared, a cascade is dropped. Whoever wants to make a
//! cascade or a graph that would fit without vectors asks for the room, which the vectors of all indexes then leave. Exact
//! searches and writes go on in any case, also where digits and names alone pass the limit.
//!
//! What is counted is what stays. A search or a build takes more for a while: a build about as much again as what it makes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::cascade::Cascade;
use super::flat::ChunkRows;
use super::gallery::{GalleryIndex, Generation};
use super::hnsw::{Graph, GraphConfig};
use super::maintenance::{Maintenance, retire};
use super::mapped::VectorPool;

/// One part of so many of the limit stays free when something is made that could be done without, so that a few rows more do not
/// take it away again.
const MARGIN: usize = 16;

/// What is kept in memory, by part, in bytes. Estimated from what there is of each; the bookkeeping of the allocator is not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryParts {
    /// Vectors in single precision, those in files left out.
    pub vectors: usize,
    /// Digits and tails of rows, their scales, and the bases that they are in.
    pub digits: usize,
    /// Names of rows, and the table of where they are.
    pub keys: usize,
    /// Sketches of the cascade, and its directions.
    pub sketches: usize,
    /// The graph with its codes of vectors.
    pub graph: usize,
}

impl MemoryParts {
    /// All parts.
    pub fn total(&self) -> usize {
        self.array().into_iter().sum()
    }

    /// Each part together with that of another.
    pub fn plus(self, other: Self) -> Self {
        Self {
            vectors: self.vectors + other.vectors,
            digits: self.digits + other.digits,
            keys: self.keys + other.keys,
            sketches: self.sketches + other.sketches,
            graph: self.graph + other.graph,
        }
    }

    fn array(&self) -> [usize; 5] {
        [self.vectors, self.digits, self.keys, self.sketches, self.graph]
    }
}

/// What an index goes without because of the memory limit, and the bytes that each would take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Withheld {
    /// A cascade.
    pub cascade: Option<usize>,
    /// A graph.
    pub graph: Option<usize>,
}

/// What all indexes of a pool keep in memory, and what was done for the limit since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryTotals {
    /// Most that is to be kept, in bytes.
    pub limit: Option<usize>,
    /// What is kept.
    pub parts: MemoryParts,
    /// Chunks of rows whose vectors went from memory to a file.
    pub filed_chunks: u64,
    /// Times that a graph was not built, or that one was dropped.
    pub graphs_withheld: u64,
    /// See above.
    pub graphs_dropped: u64,
    /// Times that a cascade was not prepared, or that one was dropped.
    pub cascades_withheld: u64,
    /// See above.
    pub cascades_dropped: u64,
}

/// What the indexes of a pool keep together.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) limit: Option<usize>,
    /// Vectors of full chunks.
    pub(super) vectors: AtomicUsize,
    /// All else, as the parts of [`MemoryParts`]; vectors of chunks that are not full are the first.
    others: [AtomicUsize; 5],
    /// Held from seeing what there is room for to asking for it: two threads would find the same room.
    assessing: Mutex<()>,
    /// Room that is asked for.
    asked: AtomicUsize,
    /// Set while vectors cannot be written to files.
    pub(super) files_fail: AtomicBool,
    filed_chunks: AtomicU64,
    graphs: [AtomicU64; 2],
    cascades: [AtomicU64; 2],
}

impl Memory {
    pub(super) fn new(limit: Option<usize>) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Bytes of all but vectors of full chunks.
    fn others(&self) -> usize {
        self.others.iter().map(|part| part.load(Ordering::Relaxed)).sum()
    }

    /// Bytes that vectors of full chunks may take.
    pub(super) fn left_for_vectors(&self) -> usize {
        let asked = self.asked.load(Ordering::Relaxed);
        self.limit.map_or(usize::MAX, |limit| limit.saturating_sub(self.others()).saturating_sub(asked))
    }

    pub(super) fn totals(&self) -> MemoryTotals {
        let [open, digits, keys, sketches, graph] =
            std::array::from_fn(|part| self.others[part].load(Ordering::Relaxed));
        let vectors = open + self.vectors.load(Ordering::Relaxed);
        let [filed_chunks, graphs_withheld, graphs_dropped, cascades_withheld, cascades_dropped] =
            [&self.filed_chunks, &self.graphs[0], &self.graphs[1], &self.cascades[0], &self.cascades[1]]
                .map(|count| count.load(Ordering::Relaxed));
        MemoryTotals {
            limit: self.limit,
            parts: MemoryParts { vectors, digits, keys, sketches, graph },
            filed_chunks,
            graphs_withheld,
            graphs_dropped,
            cascades_withheld,
            cascades_dropped,
        }
    }
}

/// What one index takes of it.
pub(super) struct Account {
    pool: Option<Arc<VectorPool>>,
    noted: Mutex<MemoryParts>,
    asked: Mutex<usize>,
    withheld: Mutex<Withheld>,
}

impl Account {
    pub(super) fn new(pool: Option<Arc<VectorPool>>) -> Self {
        Self { pool, noted: Mutex::default(), asked: Mutex::default(), withheld: Mutex::default() }
    }

    fn memory(&self) -> Option<&Memory> {
        self.pool.as_ref().map(|pool| &pool.memory)
    }

    /// Notes what the index keeps now, vectors of full chunks left out.
    pub(super) fn note(&self, parts: MemoryParts) {
        let Some(memory) = self.memory() else { return };
        let mut noted = self.noted.lock();
        for ((sum, before), now) in memory.others.iter().zip(noted.array()).zip(parts.array()) {
            // Sums of what was noted never fall below 0; one step may, and wraps around and back.
            sum.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
        }
        *noted = parts;
    }

    fn ask(&self, bytes: usize) {
        let Some(memory) = self.memory() else { return };
        let mut asked = self.asked.lock();
        memory.asked.fetch_add(bytes.wrapping_sub(*asked), Ordering::Relaxed);
        *asked = bytes;
    }

    pub(super) fn withheld(&self) -> Withheld {
        *self.withheld.lock()
    }

    /// Whether a part of so many bytes fits beside what others keep and these parts, which are not noted yet.
    pub(super) fn has_room_beside(&self, parts: &MemoryParts, bytes: usize) -> bool {
        let Some((memory, limit)) = self.memory().and_then(|memory| Some((memory, memory.limit?))) else { return true };
        memory.others() + parts.total() + bytes <= limit - limit / MARGIN
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.note(MemoryParts::default());
        self.ask(0);
    }
}

/// What is to be done within the limit.
pub(super) struct Assessed {
    pub(super) due: Maintenance,
    withheld: Withheld,
    /// Room that is needed.
    ask: usize,
    /// Bytes of vectors that have to go.
    excess: usize,
    /// Whether a graph is due that somebody else builds.
    graph_waits: bool,
}

/// What comes of making room.
pub(super) struct Room {
    /// What was done for it.
    pub(super) done: Maintenance,
    /// What is due now.
    pub(super) due: Maintenance,
    pub(super) seen: Arc<Generation>,
    /// Whether a graph is due beside, which somebody else builds, and whose room stays asked for.
    pub(super) graph_waits: bool,
}

/// Where something that is to be made finds room.
enum Fit {
    Beside,
    /// Only once the one before is gone.
    Instead,
    Nowhere,
}

impl GalleryIndex {
    /// What is due, less what the limit forbids, and with what makes room. Without `with_graph` somebody else builds the graph: then
    /// what would take the one that is there along waits as well.
    pub(super) fn assess(&self, generation: &Generation, with_graph: bool) -> Assessed {
        let mut assessed = self.assess_limit(generation, with_graph);
        let due = &mut assessed.due;
        if due.build_graph && !with_graph {
            (due.build_graph, assessed.graph_waits) = (false, true);
            if generation.drops_graph() {
                (due.compact, due.prepare_cascade) = (false, false);
                due.extend_cascade = generation.has_rows_to_sketch();
            }
        }
        assessed
    }

    fn assess_limit(&self, generation: &Generation, with_graph: bool) -> Assessed {
        let due = self.due(generation);
        let cascade_waits = !with_graph && due.build_graph && generation.drops_graph();
        let mut assessed = Assessed { due, withheld: Withheld::default(), ask: 0, excess: 0, graph_waits: false };
        let Some((memory, limit)) = self.account.memory().and_then(|memory| Some((memory, memory.limit?))) else {
            return assessed;
        };
        let Assessed { due, withheld, ask, excess, .. } = &mut assessed;
        let parts = generation.parts();
        let of_others = memory.asked.load(Ordering::Relaxed).saturating_sub(*self.account.asked.lock());
        let fixed = memory.others() + of_others;
        let most = limit - limit / MARGIN;
        let fit = |bytes: usize, asked: usize, before: usize| match fixed + asked + bytes {
            sum if sum <= most => Fit::Beside,
            sum if before > 0 && sum - before <= most => Fit::Instead,
            _ => Fit::Nowhere,
        };
        if due.prepare_cascade || due.extend_cascade {
            let all = Cascade::bytes_for(self.dim, generation.rows.slots());
            // Bits that are there are shared where more come.
            let (bytes, before) =
                if due.extend_cascade { (all.saturating_sub(parts.sketches), 0) } else { (all, parts.sketches) };
            match fit(bytes, *ask, before) {
                Fit::Beside => *ask += bytes,
                Fit::Instead if cascade_waits => {}
                Fit::Instead => (due.prepare_cascade, due.drop_cascade) = (false, true),
                Fit::Nowhere => {
                    withheld.cascade = Some(bytes);
                    (due.prepare_cascade, due.extend_cascade) = (false, false);
                }
            }
        }
        if due.build_graph {
            let GraphConfig { codes, max_links, .. } = self.config.graph;
            let bytes = Graph::bytes_for(codes, self.dim, generation.rows.rows(), max_links);
            match fit(bytes, *ask, parts.graph) {
                Fit::Beside => *ask += bytes,
                // Who builds the next one drops this one.
                Fit::Instead if !with_graph => {}
                Fit::Instead => (due.build_graph, due.drop_graph) = (false, true),
                Fit::Nowhere => (due.build_graph, withheld.graph) = (false, Some(bytes)),
            }
        }
        let vectors = memory.vectors.load(Ordering::Relaxed);
        let is_stuck = memory.files_fail.load(Ordering::Relaxed);
        *excess = vectors.saturating_sub(limit.saturating_sub(fixed + *ask));
        if *excess > 0 {
            if is_stuck {
                *ask = 0;
                // As much as they would take is not known any more, and does not matter: nothing fits.
                withheld.cascade = withheld.cascade.or_else(|| due.prepare_cascade.then_some(0));
                withheld.graph = withheld.graph.or_else(|| due.build_graph.then_some(0));
            }
            due.file_vectors = !is_stuck && generation.rows.chunks.iter().any(|chunk| chunk.rows.vectors.is_movable());
            // What is wanted waits until those of all indexes have gone.
            (due.prepare_cascade, due.extend_cascade, due.build_graph) = (false, false, false);
        }
        if memory.others() + vectors > limit && (vectors == 0 || is_stuck) {
            due.drop_graph |= parts.graph > 0;
            let no_graphs = memory.others[4].load(Ordering::Relaxed) == 0;
            due.drop_cascade |= no_graphs && parts.sketches > 0;
        }
        assessed
    }

    /// Makes room as far as the limit asks for it.
    pub(super) fn make_room(&self, with_graph: bool) -> Room {
        let mut done = Maintenance::default();
        loop {
            let seen = self.published.load_full();
            let assessed = {
                let _alone = self.account.memory().map(|memory| memory.assessing.lock());
                let assessed = self.assess(&seen, with_graph);
                self.heed(&assessed);
                assessed
            };
            let Maintenance { file_vectors, drop_graph, drop_cascade, .. } = assessed.due;
            if file_vectors {
                done.file_vectors = true;
                self.file_vectors(seen, assessed.excess);
            } else if drop_graph {
                done.drop_graph = true;
                self.drop_graph(seen);
            } else if drop_cascade {
                done.drop_cascade = true;
                self.drop_cascade(seen);
            } else {
                return Room { done, due: assessed.due, seen, graph_waits: assessed.graph_waits };
            }
        }
    }

    /// Says that nothing is being made any more.
    pub(super) fn needs_no_room(&self) {
        self.account.ask(0);
    }

    /// Asks for room, and tells once what is not made.
    fn heed(&self, assessed: &Assessed) {
        let Some(memory) = self.account.memory() else { return };
        self.account.ask(assessed.ask);
        let before = std::mem::replace(&mut *self.account.withheld.lock(), assessed.withheld);
        let limit_bytes = memory.limit;
        let held_bytes = memory.totals().parts.total();
        if let (None, Some(bytes)) = (before.graph, assessed.withheld.graph) {
            memory.graphs[0].fetch_add(1, Ordering::Relaxed);
            tracing::warn!(limit_bytes, held_bytes, bytes, "no graph is built: it does not fit into the memory limit");
        }
        if let (None, Some(bytes)) = (before.cascade, assessed.withheld.cascade) {
            memory.cascades[0].fetch_add(1, Ordering::Relaxed);
            tracing::warn!(
                limit_bytes,
                held_bytes,
                bytes,
                "no cascade is prepared: it does not fit into the memory limit"
            );
        }
    }

    /// Moves vectors of full chunks to files until so many bytes have gone.
    fn file_vectors(&self, seen: Arc<Generation>, excess: usize) {
        let Some(pool) = &self.account.pool else { return };
        let mut moved: Vec<(usize, Arc<ChunkRows>)> = Vec::new();
        let mut gone = 0;
        for (number, chunk) in seen.rows.chunks.iter().enumerate() {
            if gone >= excess {
                break;
            }
            if !chunk.rows.vectors.is_movable() {
                continue;
            }
            let Some(vectors) = pool.to_file(&chunk.rows.vectors) else { break };
            gone += size_of_val(&chunk.rows.vectors[..]);
            moved.push((number, Arc::new(chunk.rows.with_vectors(vectors))));
        }
        drop(seen);
        if moved.is_empty() {
            return;
        }
        let chunks = moved.len();
        self.replace_chunks(moved);
        pool.memory.filed_chunks.fetch_add(chunks as u64, Ordering::Relaxed);
        let limit_bytes = pool.memory.limit;
        tracing::info!(limit_bytes, bytes = gone, "vectors went to files, for the memory limit");
    }

    fn drop_graph(&self, seen: Arc<Generation>) {
        // It is wanted again when there is room.
        self.graph_requested.store(true, Ordering::Relaxed);
        let graph = seen.graph.clone();
        drop(seen);
        self.change(|generation| generation.graph = None);
        if let Some(memory) = self.account.memory() {
            memory.graphs[1].fetch_add(1, Ordering::Relaxed);
            let (limit_bytes, bytes) = (memory.limit, graph.as_ref().map(|graph| graph.bytes()));
            tracing::warn!(limit_bytes, bytes, "a graph was dropped, for the memory limit");
        }
        retire(graph);
    }

    fn drop_cascade(&self, seen: Arc<Generation>) {
        self.cascade_requested.store(true, Ordering::Relaxed);
        let bytes = seen.cascade.as_ref().map(|cascade| cascade.bytes());
        drop(seen);
        self.change(|generation| generation.cascade = None);
        if let Some(memory) = self.account.memory() {
            memory.cascades[1].fetch_add(1, Ordering::Relaxed);
            let limit_bytes = memory.limit;
            tracing::warn!(limit_bytes, bytes, "a cascade was dropped, for the memory limit");
        }
    }
}
