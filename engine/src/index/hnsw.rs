//! The approximate index: a navigable small-world graph (Malkov and Yashunin 2018), built by `hnsw_rs`.
//!
//! A [`Graph`] is built once over the slots of a compacted state and never changed. It walks over vectors as bytes or bits
//! (`graph_codes`), whose distances are a good guess. It proposes slots; [`GraphIndex`]
//! looks them up among the rows of *now*, so a row that died after the graph was built is dropped and every score is
//! the exact product. Rows that came after the graph was built are scanned. An approximate answer can therefore miss a
//! row, but it never holds a wrong score, a dead row, or an old vector.
//!
//! `hnsw_rs` ends the process on parameters it does not like and panics on a distance that is NaN or negative, so
//! [`GraphConfig`] is brought into its range first, vectors are checked before they are stored, and the distance is
//! kept at 0 or above. It has no deletion and must not be searched while it grows: both hold by construction here. How a
//! graph is kept in files says `graph_files`.

use std::time::Instant;

use hnsw_rs::hnsw::Hnsw;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::cascade::Cascade;
use super::flat::FlatRows;
use super::graph_codes::{CodeDistance, GraphCodes};
use super::scan::Query;
use super::top::TopSubjects;
use super::trial::{on_own_threads, seen_anew};
use super::vector::{check_unit, cosine};
use super::{IndexError, IndexKind, SearchOutcome, VectorIndex};

/// Layers of a graph at most. `hnsw_rs` has no more.
pub(super) const MAX_LAYERS: usize = 16;

/// Rows inserted one after another before threads join in: rows inserted at the same moment do not see one another,
/// and the first of them would stay without links.
const SERIAL_ROWS: usize = 256;

/// Rows searched for to measure a graph: with 200, what was stated was a point from what others found.
const RECALL_SAMPLE: usize = 800;

/// Searches that are timed.
const TIMED: usize = 101;

/// More candidates than this are not taken to reach the recall target: an exact search would be about as fast.
const MAX_CALIBRATED: usize = 512;

/// The list length that recall is measured for.
const RECALL_AT: usize = 10;

/// What a row of a graph takes beside its vector, in bytes: the row, a list of links for each of the layers, a lock.
const ROW_BYTES: usize = 800;

/// What [`GraphConfig::max_links`] adds to it for each: about twice as many links are kept, each in an allocation of its own.
const LINK_BYTES: usize = 140;

/// How graphs are built and walked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GraphConfig {
    /// Links a row keeps on each layer, twice as many on the lowest. 4 to 128.
    pub max_links: usize,
    /// Candidates looked at when a row is linked. 8 to 2,000.
    pub build_candidates: usize,
    /// Candidates a search looks at, at least. 8 to 10,000. After a build they are doubled until as much is found as is to be, up
    /// to 512 and to an eighth of the rows. More are taken for longer lists, for subjects of several rows and for tombstones.
    pub search_candidates: usize,
    /// Threads that build a graph; 0 for half of the processors. They are not the threads that searches use. With one
    /// thread the same rows always give the same graph.
    pub build_threads: usize,
    /// What of its rows a graph keeps and walks over.
    pub codes: GraphCodes,
}

impl Default for GraphConfig {
    fn default() -> Self {
        Self {
            max_links: 16,
            build_candidates: 200,
            search_candidates: 64,
            build_threads: 0,
            codes: GraphCodes::default(),
        }
    }
}

impl GraphConfig {
    /// The same with each value brought into its range.
    pub fn clamped(self) -> Self {
        Self {
            max_links: self.max_links.clamp(4, 128),
            build_candidates: self.build_candidates.clamp(8, 2_000),
            search_candidates: self.search_candidates.clamp(8, 10_000),
            build_threads: self.build_threads.min(256),
            codes: self.codes,
        }
    }
}

/// What `hnsw_rs` makes.
pub(super) type Links = Hnsw<'static, i8, CodeDistance>;

/// What is known of a graph beside its links.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) codes: GraphCodes,
    /// Slots below this number are in the graph.
    pub(super) covers: usize,
    /// Places in it that stand for no slot any more: of rows that had died when it was written to files.
    pub(super) waypoints: usize,
    /// What [`GraphConfig::search_candidates`] was raised to.
    pub(super) search_candidates: usize,
    /// Rows for each subject on average when the graph was built, at least 1.
    pub(super) rows_per_subject: usize,
    pub(super) recall_at_10: f32,
    /// What it was to be.
    pub(super) target: f32,
    pub(super) is_faster: bool,
    pub(super) build_ms: u64,
}

/// A graph over the slots below [`Graph::covers`].
pub struct Graph {
    links: Links,
    dim: usize,
    known: Known,
}

impl Graph {
    /// Builds a graph over all rows of a state without dead slots and measures it. Takes minutes for a million rows.
    /// `target` is the share of the exact top 10 that is to be found. `cascade` over the same rows is timed beside it.
    pub(super) fn build(
        rows: &FlatRows,
        subjects: usize,
        config: GraphConfig,
        target: f32,
        cascade: Option<&Cascade>,
    ) -> Self {
        debug_assert_eq!(rows.tombstones(), 0);
        let config = config.clamped();
        let started = Instant::now();
        let covers = rows.slots();
        let distance = CodeDistance::new(config.codes, rows.dim());
        let links = Hnsw::new(config.max_links, covers.max(1), MAX_LAYERS, config.build_candidates, distance);
        let insert = |links: &Links, slot: usize| {
            if let Some(row) = rows.row(slot) {
                links.insert_slice((&config.codes.of(row.vector), slot));
            }
        };
        let serial = SERIAL_ROWS.min(covers);
        (0..serial).for_each(|slot| insert(&links, slot));
        let known = Known {
            codes: config.codes,
            covers,
            waypoints: 0,
            search_candidates: config.search_candidates,
            rows_per_subject: covers.checked_div(subjects).unwrap_or(1).max(1),
            recall_at_10: 0.0,
            target,
            is_faster: false,
            build_ms: 0,
        };
        let mut graph = Self { links, dim: rows.dim(), known };
        let finish = || {
            (serial..covers).into_par_iter().for_each(|slot| insert(&graph.links, slot));
            graph.links.set_searching_mode(true);
            graph.calibrate(rows);
            graph.known.is_faster = cascade.is_none_or(|cascade| graph.beats(cascade, rows));
        };
        on_own_threads(config.build_threads, finish);
        graph.known.build_ms = started.elapsed().as_millis() as u64;
        graph
    }

    /// A graph whose links were made before, over vectors of `dim` values.
    pub(super) fn of_parts(mut links: Links, dim: usize, known: Known) -> Self {
        links.set_searching_mode(true);
        Self { links, dim, known }
    }

    /// Its links.
    pub(super) fn links(&self) -> &Links {
        &self.links
    }

    /// What is known of it.
    pub(super) fn known(&self) -> Known {
        self.known
    }

    /// Slots below this number are in the graph.
    pub fn covers(&self) -> usize {
        self.known.covers
    }

    /// The share of the exact top 10 subjects that the graph finds, measured after the build with probes made of up to
    /// 800 of its own rows. A subject that ties with the tenth counts.
    pub fn recall_at_10(&self) -> f32 {
        self.known.recall_at_10
    }

    /// Whether a search was faster than by the cascade over the same rows, or there was none.
    pub(super) fn is_faster(&self) -> bool {
        self.known.is_faster
    }

    /// How long building and measuring took, in milliseconds.
    pub fn build_ms(&self) -> u64 {
        self.known.build_ms
    }

    /// Memory taken in bytes, estimated: the graph keeps codes of its vectors, and its links are small allocations.
    pub fn bytes(&self) -> usize {
        let max_links = usize::from(self.links.get_max_nb_connection());
        Self::bytes_for(self.known.codes, self.dim, self.known.covers + self.known.waypoints, max_links)
    }

    /// The same of a graph that would be built over so many rows of `dim` values with so many links.
    pub(super) fn bytes_for(codes: GraphCodes, dim: usize, rows: usize, max_links: usize) -> usize {
        rows * (codes.width(dim) + ROW_BYTES + LINK_BYTES * max_links)
    }

    /// Up to `candidates` slots near the probe. None where the probe is not near anything.
    fn propose(&self, probe: &[f32], candidates: usize) -> impl Iterator<Item = usize> {
        self.links.search(&self.known.codes.of(probe), candidates, candidates).into_iter().map(|found| found.d_id)
    }

    /// Measures the graph and raises the candidates of a search until it is good enough.
    fn calibrate(&mut self, rows: &FlatRows) {
        let covers = self.known.covers;
        let sample = RECALL_SAMPLE.min(covers);
        let probes: Vec<_> = seen_anew(rows, sample, covers)
            .into_par_iter()
            .filter_map(|probe| {
                let exact = rows.scan(&probe, 0, RECALL_AT).into_hits();
                exact.last().map(|last| last.score).map(|last| (probe, exact.len(), last))
            })
            .collect();
        let most = MAX_CALIBRATED.min(covers / 8);
        loop {
            self.known.recall_at_10 = self.measure(rows, &probes);
            let next = self.known.search_candidates * 2;
            if self.known.recall_at_10 >= self.known.target || next > most {
                break;
            }
            self.known.search_candidates = next;
        }
    }

    /// Times a search beside that of a cascade, taking turns; the medians are compared.
    fn beats(&self, cascade: &Cascade, rows: &FlatRows) -> bool {
        let index = GraphIndex { graph: self, rows };
        let (mut own, mut others): (Vec<_>, Vec<_>) = seen_anew(rows, TIMED, self.known.covers)
            .into_iter()
            .map(|probe| {
                let started = Instant::now();
                let mut top = TopSubjects::new(RECALL_AT);
                index.offer_candidates(&probe, RECALL_AT, &mut top);
                let own = started.elapsed();
                cascade.search(rows, Query { probe: &probe, limit: RECALL_AT });
                (own, started.elapsed() - own)
            })
            .unzip();
        own.sort_unstable();
        others.sort_unstable();
        own.get(own.len() / 2) < others.get(others.len() / 2)
    }

    /// The share of the exact top 10 that is found for `probes`, each with the length of its exact list and the last
    /// score in it.
    fn measure(&self, rows: &FlatRows, probes: &[(Vec<f32>, usize, f32)]) -> f32 {
        let index = GraphIndex { graph: self, rows };
        let found = |(probe, _, last): &(Vec<f32>, usize, f32)| {
            let mut top = TopSubjects::new(RECALL_AT);
            index.offer_candidates(probe, RECALL_AT, &mut top);
            top.into_hits().iter().filter(|hit| hit.score >= *last).count()
        };
        let found: usize = probes.par_iter().map(found).sum();
        let wanted: usize = probes.iter().map(|(_, length, _)| length).sum();
        if wanted == 0 { 1.0 } else { found as f32 / wanted as f32 }
    }
}

/// A graph together with the rows of now.
pub struct GraphIndex<'a> {
    graph: &'a Graph,
    rows: &'a FlatRows,
}

impl<'a> GraphIndex<'a> {
    /// `rows` is the state the graph was built over or one that came from it without renumbering.
    pub(super) fn new(graph: &'a Graph, rows: &'a FlatRows) -> Self {
        Self { graph, rows }
    }

    /// Candidates for a list of `limit` subjects: twice as many subjects, each with all its rows, and at least as many for each as the
    /// list has that recall is measured for, or longer lists would be found less well than is stated; as many more as the share of
    /// dead rows takes away.
    fn candidates(&self, limit: usize) -> usize {
        let Known { covers, waypoints, search_candidates, rows_per_subject, .. } = self.graph.known;
        let as_measured = search_candidates.saturating_mul(limit.max(RECALL_AT)).div_ceil(RECALL_AT);
        let wanted = limit.saturating_mul(2).saturating_mul(rows_per_subject).max(as_measured);
        let (slots, live) = (self.rows.slots() + waypoints, self.rows.rows().max(1));
        // In u128: the product of two counts.
        let scaled = wanted as u128 * slots.max(live) as u128 / live as u128;
        usize::try_from(scaled).unwrap_or(usize::MAX).min(covers + waypoints)
    }

    fn offer_candidates(&self, probe: &[f32], limit: usize, top: &mut TopSubjects<'a>) {
        for slot in self.graph.propose(probe, self.candidates(limit)) {
            if let Some(row) = self.rows.row(slot) {
                top.offer(cosine(probe, row.vector), row.key);
            }
        }
    }
}

impl VectorIndex for GraphIndex<'_> {
    fn dim(&self) -> usize {
        self.rows.dim()
    }

    fn rows(&self) -> usize {
        self.rows.rows()
    }

    /// Exact, and said to be, where the list is so long that the graph saves nothing or where the graph does not fill
    /// it.
    fn search(&self, probe: &[f32], limit: usize) -> Result<SearchOutcome, IndexError> {
        check_unit(probe, self.rows.dim())?;
        if limit == 0 || self.candidates(limit) >= self.graph.known.covers / 4 {
            return self.rows.search(probe, limit);
        }
        let mut top = TopSubjects::new(limit);
        self.offer_candidates(probe, limit, &mut top);
        if !top.is_full() {
            return self.rows.search(probe, limit);
        }
        let hits = top.merge(self.rows.scan(probe, self.graph.known.covers, limit)).into_hits();
        Ok(SearchOutcome { hits, kind: IndexKind::Ann, recall: Some(self.graph.known.recall_at_10) })
    }
}
