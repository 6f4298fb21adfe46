//! The index of one gallery: its rows, and a cascade and a graph over them where they are worth it.
//!
//! Rows, cascade and graph are published together as one generation through [`ArcSwap`]. Searches take the generation of the
//! moment and wait for no writer; writers take turns, make the next generation and publish it before they return. What takes long
//! is left to [`GalleryIndex::maintain`](super::maintenance), which runs beside both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rayon::prelude::*;

use super::cascade::Cascade;
use super::combine::Combiner;
use super::flat::{CHUNK_ROWS, FlatEdit, FlatRows};
use super::hnsw::{Graph, GraphConfig, GraphIndex};
use super::mapped::VectorPool;
use super::mask::RowMask;
use super::memory::Account;
use super::scan::{Accept, Passing, Query};
use super::slots::Slots;
use super::top::TopSubjects;
use super::turning::Turning;
use super::vector::check_unit;
use super::{IndexError, IndexKind, RowKey, SearchMode, SearchOutcome, VectorIndex};
use crate::ids::SubjectId;

/// Searches that are done together.
const TOGETHER: usize = 64;

/// Rows that a bulk load publishes at a time.
const BATCH_ROWS: usize = 8 * CHUNK_ROWS;

/// When an index prepares a cascade or a graph, when it uses them, and when it cleans up.
#[derive(Debug, Clone)]
pub struct IndexConfig {
    /// With more live rows than this, a cascade is prepared and [`SearchMode::Auto`] uses it, or a graph that was asked for and
    /// is faster.
    pub ann_above_rows: usize,
    /// [`SearchMode::Auto`] stays exact while the measured recall is below this, 0 to 1.
    pub auto_min_recall: f32,
    /// The share of the exact top 10 that a cascade or a graph is prepared to find, 0 to 1; less is less work.
    pub recall_target: f32,
    /// With fewer live rows than this no cascade is prepared, whatever is asked: comparing them all is as fast.
    pub cascade_min_rows: usize,
    /// With fewer live rows than this, rows stay coded as they came: comparing them all takes little either way.
    pub basis_min_rows: usize,
    /// With fewer live rows than this no graph is built, whatever is asked: comparing them all is faster.
    pub graph_min_rows: usize,
    /// Cascade and graph are made anew when rows that came or died since make up more than this share of those they were made
    /// with.
    pub rebuild_share: f32,
    /// Dead slots are dropped when they make up more than this share of all slots.
    pub compact_share: f32,
    /// Fewer changed rows than this are never a reason for work in the background.
    pub maintenance_min_rows: usize,
    /// Where vectors go, and how much memory all that indexes keep may take; all in memory without one. Indexes can share it.
    pub vectors: Option<Arc<VectorPool>>,
    /// How graphs are built and walked. Values outside of their ranges are brought to the nearest bound.
    pub graph: GraphConfig,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            ann_above_rows: 200_000,
            auto_min_recall: 0.85,
            recall_target: 0.95,
            cascade_min_rows: 8_192,
            basis_min_rows: 32_768,
            graph_min_rows: 2_000,
            rebuild_share: 0.2,
            compact_share: 0.25,
            maintenance_min_rows: 512,
            vectors: None,
            graph: GraphConfig::default(),
        }
    }
}

/// [`SearchMode::Auto`] takes what finds less than was aimed at, by no more than this.
const SHORT_OF_TARGET: f32 = 0.1;

impl IndexConfig {
    /// The same with this [`recall_target`](Self::recall_target), and an [`auto_min_recall`](Self::auto_min_recall) a tenth below it.
    pub fn aiming_at(self, recall: f32) -> Self {
        Self { auto_min_recall: recall - SHORT_OF_TARGET, recall_target: recall, ..self }
    }

    /// The same with each value brought into its range.
    fn clamped(self) -> Self {
        let recall_target = if self.recall_target.is_nan() { 0.0 } else { self.recall_target.clamp(0.0, 1.0) };
        Self { recall_target, graph: self.graph.clamped(), ..self }
    }
}

/// What a search sees: rows, and a cascade and a graph over the first of them.
pub(super) struct Generation {
    pub(super) rows: FlatRows,
    pub(super) cascade: Option<Arc<Cascade>>,
    pub(super) graph: Option<Arc<Graph>>,
    /// Subjects with a live row.
    pub(super) subjects: usize,
}

/// The index of one gallery. Share it in an [`Arc`]; all methods take `&self`.
pub struct GalleryIndex {
    pub(super) dim: usize,
    pub(super) config: IndexConfig,
    pub(super) published: ArcSwap<Generation>,
    /// Where the rows of the published generation are. Held by whoever publishes the next one.
    pub(super) writer: Mutex<Slots>,
    /// Set by the first search that asked for a cascade.
    pub(super) cascade_requested: AtomicBool,
    /// Set by the first search that asked for a graph.
    pub(super) graph_requested: AtomicBool,
    /// Searches that wait at the same time.
    pub(super) combiner: Combiner,
    /// Rows that came or died, and those that died and left no other in their place.
    pub(super) changes: [AtomicU64; 2],
    /// Cascades and graphs that were made.
    pub(super) preparations: AtomicU64,
    /// What it takes of the memory that indexes share.
    pub(super) account: Account,
    /// In which rows are to be coded.
    pub(super) turning: Mutex<Turning>,
    /// Held while background work is done, so that slots are renumbered by one thread only.
    pub(super) maintaining: Mutex<()>,
}

impl GalleryIndex {
    /// An empty index for vectors of `dim` values.
    pub fn new(dim: usize, config: IndexConfig) -> Self {
        let rows = FlatRows::with_pool(dim, config.vectors.clone());
        let account = Account::new(config.vectors.clone());
        Self {
            dim,
            config: config.clamped(),
            published: ArcSwap::from_pointee(Generation { rows, cascade: None, graph: None, subjects: 0 }),
            writer: Mutex::default(),
            cascade_requested: AtomicBool::new(false),
            graph_requested: AtomicBool::new(false),
            combiner: Combiner::default(),
            changes: Default::default(),
            preparations: AtomicU64::new(0),
            account,
            turning: Mutex::default(),
            maintaining: Mutex::default(),
        }
    }

    /// Values in a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Adds a row, or replaces the row of that key. Every search that starts after this returns sees it.
    ///
    /// # Errors
    /// [`IndexError::WrongDimension`], or [`IndexError::NotUnit`] where the vector is not finite or its length is not 1
    /// within [`UNIT_TOLERANCE`](super::vector::UNIT_TOLERANCE). The row of that key stays as it was.
    pub fn upsert(&self, key: RowKey, vector: &[f32]) -> Result<(), IndexError> {
        self.extend([(key, vector)]).map(drop)
    }

    /// Adds or replaces many rows, published in batches; gives how many. Of rows with the same key the last stays. Rows
    /// are taken from the iterator between the batches, so a slow source keeps no other writer waiting.
    ///
    /// # Errors
    /// As [`upsert`](Self::upsert), for the first bad row. The rows before it are in, the others are not.
    pub fn extend<V: AsRef<[f32]>>(&self, rows: impl IntoIterator<Item = (RowKey, V)>) -> Result<usize, IndexError> {
        let mut rows = rows.into_iter();
        let mut taken = 0;
        loop {
            let mut batch = Vec::new();
            let mut bad = None;
            for (key, vector) in rows.by_ref().take(BATCH_ROWS) {
                if let Err(error) = check_unit(vector.as_ref(), self.dim) {
                    bad = Some(error);
                    break;
                }
                batch.push((key, vector));
            }
            let done = batch.len() < BATCH_ROWS;
            taken += batch.len();
            if !batch.is_empty() {
                self.write(|slots, edit| {
                    batch.into_iter().for_each(|(key, v)| {
                        put(slots, edit, key, v.as_ref());
                    })
                });
            }
            match bad {
                Some(error) => return Err(error),
                None if done => return Ok(taken),
                None => {}
            }
        }
    }

    /// Puts and removes rows, all of it published at once: a search sees either none of the changes or all. Gives whether
    /// there was anything to change.
    ///
    /// # Errors
    /// As [`upsert`](Self::upsert), for the first bad row. Nothing is changed then.
    pub fn apply(&self, changes: Vec<(RowKey, Option<Vec<f32>>)>) -> Result<bool, IndexError> {
        changes.iter().filter_map(|(_, vector)| vector.as_ref()).try_for_each(|vector| check_unit(vector, self.dim))?;
        let mut changed = false;
        self.write(|slots, edit| {
            for (key, vector) in changes {
                match vector {
                    Some(vector) => changed |= put(slots, edit, key, &vector),
                    None => {
                        if let Some(slot) = slots.remove(edit.rows(), &key) {
                            edit.kill(slot);
                            changed = true;
                        }
                    }
                }
            }
        });
        Ok(changed)
    }

    /// Removes a row; gives whether it was there. No search that starts after this returns sees it.
    pub fn remove(&self, key: &RowKey) -> bool {
        let mut found = false;
        self.write(|slots, edit| {
            if let Some(slot) = slots.remove(edit.rows(), key) {
                edit.kill(slot);
                found = true;
            }
        });
        found
    }

    /// Removes all rows of a subject; gives how many there were. No search that starts after this returns sees them.
    pub fn remove_subject(&self, subject: &SubjectId) -> usize {
        let mut found = 0;
        self.write(|slots, edit| {
            let dead = slots.remove_subject(edit.rows(), subject);
            found = dead.len();
            dead.into_iter().for_each(|slot| edit.kill(slot));
        });
        found
    }

    /// The best `limit` subjects for `probe`: best first, each subject once with its best row.
    ///
    /// The first search with [`SearchMode::Cascade`] or [`SearchMode::Ann`] asks for a cascade or a graph, which
    /// [`maintain`](Self::maintain) prepares. Until it is there, and where it would not do (see [`GraphIndex`]), the answer is
    /// exact and says so.
    ///
    /// # Errors
    /// [`IndexError::WrongDimension`] or [`IndexError::NotUnit`] for a bad probe.
    pub fn search(&self, probe: &[f32], limit: usize, mode: SearchMode) -> Result<SearchOutcome, IndexError> {
        check_unit(probe, self.dim)?;
        let generation = self.published.load();
        // A thread of a pool must not wait for another search: the one that leads may be further down its own stack.
        let may_wait = rayon::current_thread_index().is_none();
        if may_wait && matches!(self.way(&generation, mode), Way::Exact) && generation.rows.is_large() {
            drop(generation);
            return Ok(self.combiner.search(probe, limit, TOGETHER, |probes| self.scan_many(probes)));
        }
        self.search_in(&generation, Query { probe, limit }, mode)
    }

    /// Compares probes that were checked with every row of now.
    fn scan_many(&self, probes: &[(&[f32], usize)]) -> Vec<SearchOutcome> {
        let queries: Vec<Query<'_>> = probes.iter().map(|(probe, limit)| Query { probe, limit: *limit }).collect();
        let generation = self.published.load();
        let tops = generation.rows.scan_many(&queries);
        tops.into_iter().map(|top| SearchOutcome::exact(top.into_hits())).collect()
    }

    /// As [`search`](Self::search), for several probes, which is faster than one after the other. All see the same rows.
    ///
    /// # Errors
    /// As [`search`](Self::search), for the first bad probe.
    pub fn search_many(&self, probes: &[(&[f32], usize)], mode: SearchMode) -> Result<Vec<SearchOutcome>, IndexError> {
        probes.iter().try_for_each(|(probe, _)| check_unit(probe, self.dim))?;
        let generation = self.published.load();
        if matches!(self.way(&generation, mode), Way::Exact) {
            return Ok(self.scan_many(probes));
        }
        let queries: Vec<Query<'_>> = probes.iter().map(|(probe, limit)| Query { probe, limit: *limit }).collect();
        if let Way::Cascade(cascade) = self.way(&generation, mode) {
            let tops = cascade.search_many(&generation.rows, &queries);
            let answers = queries.iter().zip(tops);
            return answers.map(|(query, top)| answer_of(cascade, top, &generation.rows, *query)).collect();
        }
        queries.into_par_iter().map(|query| self.search_in(&generation, query, mode)).collect()
    }

    /// Searches with a probe that was checked.
    fn search_in(
        &self,
        generation: &Generation,
        query: Query<'_>,
        mode: SearchMode,
    ) -> Result<SearchOutcome, IndexError> {
        let rows = &generation.rows;
        let Query { probe, limit } = query;
        match self.way(generation, mode) {
            Way::Graph(graph) => GraphIndex::new(graph, rows).search(probe, limit),
            Way::Cascade(cascade) => answer_of(cascade, cascade.search(rows, query), rows, query),
            Way::Exact => rows.search(probe, limit),
        }
    }

    /// How a generation is searched.
    fn way<'a>(&self, generation: &'a Generation, mode: SearchMode) -> Way<'a> {
        let Generation { rows, cascade, graph, .. } = generation;
        let (cascade, graph) = (cascade.as_deref(), graph.as_deref());
        match mode {
            SearchMode::Exact => Way::Exact,
            SearchMode::Cascade => {
                self.cascade_requested.store(true, Ordering::Relaxed);
                cascade.map_or(Way::Exact, Way::Cascade)
            }
            SearchMode::Ann => {
                self.graph_requested.store(true, Ordering::Relaxed);
                graph.map_or(Way::Exact, Way::Graph)
            }
            SearchMode::Auto if rows.rows() <= self.config.ann_above_rows => Way::Exact,
            SearchMode::Auto => {
                let least = self.config.auto_min_recall;
                let cascade = cascade.filter(|cascade| cascade.trial().recall_at_10 >= least);
                let graph = graph.filter(|graph| graph.recall_at_10() >= least);
                match (cascade, graph) {
                    // The graph was timed beside the cascade of that moment.
                    (Some(_), Some(graph)) if graph.is_faster() => Way::Graph(graph),
                    (Some(cascade), _) => Way::Cascade(cascade),
                    (None, Some(graph)) => Way::Graph(graph),
                    (None, None) => Way::Exact,
                }
            }
        }
    }

    /// As [`search`](Self::search), of subjects that `accept` lets through; always exact, since a graph that has to pass
    /// over most of its rows is slower than comparing them all. `accept` is asked only of subjects whose score would
    /// put them on the list.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn search_where(&self, probe: &[f32], limit: usize, accept: Accept<'_>) -> Result<SearchOutcome, IndexError> {
        self.search_passing(probe, limit, Passing { mask: None, masked: accept, accept })
    }

    /// As [`search_where`](Self::search_where) where the answers to a part of what is asked are known: `masked` is asked of subjects
    /// that are set in the mask, and `accept` of rows that came after it.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn search_masked(
        &self,
        probe: &[f32],
        limit: usize,
        mask: &RowMask,
        masked: Accept<'_>,
        accept: Accept<'_>,
    ) -> Result<SearchOutcome, IndexError> {
        self.search_passing(probe, limit, Passing { mask: Some(mask), masked, accept })
    }

    fn search_passing(&self, probe: &[f32], limit: usize, passing: Passing<'_>) -> Result<SearchOutcome, IndexError> {
        check_unit(probe, self.dim)?;
        let generation = self.published.load();
        Ok(SearchOutcome::exact(generation.rows.scan_where(probe, limit, passing).into_hits()))
    }

    /// Subjects with a live row.
    pub fn subjects(&self) -> usize {
        self.published.load().subjects
    }

    /// Live rows.
    pub fn rows(&self) -> usize {
        self.published.load().rows.rows()
    }

    /// How many rows have come or died since the index was made or loaded, and how many of them were removed for good. Both only
    /// grow.
    pub fn changes(&self) -> (u64, u64) {
        let [all, removed] = &self.changes;
        (all.load(Ordering::Relaxed), removed.load(Ordering::Relaxed))
    }

    /// How many cascades and graphs were made, and bases learnt, since the index was made or loaded. Only grows; what was counted
    /// before [`freeze`](Self::freeze) is in what that gives.
    pub fn preparations(&self) -> u64 {
        self.preparations.load(Ordering::Acquire)
    }

    /// Publishes what searches see from now on. Whoever does it holds the writer.
    pub(super) fn publish(&self, generation: Generation) {
        self.account.note(generation.parts());
        self.published.store(Arc::new(generation));
    }

    /// Publishes the generation of now with a change that leaves the rows as they are.
    pub(super) fn change(&self, change: impl FnOnce(&mut Generation)) {
        let _writer = self.writer.lock();
        let now = self.published.load_full();
        let mut next = Generation {
            rows: now.rows.clone(),
            cascade: now.cascade.clone(),
            graph: now.graph.clone(),
            subjects: now.subjects,
        };
        change(&mut next);
        self.publish(next);
    }

    /// Makes the next generation with `change` and publishes it.
    fn write(&self, change: impl FnOnce(&mut Slots, &mut FlatEdit)) {
        let mut slots = self.writer.lock();
        let now = self.published.load();
        let mut edit = FlatEdit::new(&now.rows);
        change(&mut slots, &mut edit);
        let came = edit.rows().slots() - now.rows.slots();
        let died = now.rows.rows() + came - edit.rows().rows();
        self.changes[0].fetch_add((came + died) as u64, Ordering::Relaxed);
        self.changes[1].fetch_add(died.saturating_sub(came) as u64, Ordering::Relaxed);
        let subjects = slots.subjects();
        let (cascade, graph) = (now.cascade.clone(), now.graph.clone());
        self.publish(Generation { rows: edit.finish(), cascade, graph, subjects });
    }
}

/// What a cascade found, or every row compared where it did not look.
fn answer_of(
    cascade: &Cascade,
    found: Option<TopSubjects<'_>>,
    rows: &FlatRows,
    query: Query<'_>,
) -> Result<SearchOutcome, IndexError> {
    let recall = Some(cascade.trial().recall_at_10);
    match found {
        Some(top) => Ok(SearchOutcome { hits: top.into_hits(), kind: IndexKind::Cascade, recall }),
        None => rows.search(query.probe, query.limit),
    }
}

/// How a search is done.
enum Way<'a> {
    Exact,
    Cascade(&'a Cascade),
    Graph(&'a Graph),
}

/// Adds or replaces a checked row; gives whether it is another one than before.
fn put(slots: &mut Slots, edit: &mut FlatEdit, key: RowKey, vector: &[f32]) -> bool {
    let old = slots.get(edit.rows(), &key);
    // Loading what is already there makes no tombstones.
    if old.and_then(|slot| edit.rows().row(slot)).is_some_and(|row| row.vector == vector) {
        return false;
    }
    if let Some(slot) = old {
        edit.kill(slot);
    }
    let slot = edit.push(key.clone(), vector);
    slots.insert(edit.rows(), &key, slot);
    true
}
