//! What is kept within a memory limit, in which order things go, and that searches stay right.

use std::path::Path;
use std::sync::Arc;

use crate::index::fixture::{Faces, key};
use crate::index::{
    GalleryIndex, GraphConfig, IndexConfig, IndexKind, LoadedGraph, Maintenance, MemoryParts, SearchMode, VectorPool,
    Withheld,
};

const DIM: usize = 128;
const PEOPLE: u64 = 1_600;

fn config(vectors: Option<Arc<VectorPool>>) -> IndexConfig {
    IndexConfig {
        cascade_min_rows: 600,
        graph_min_rows: 500,
        maintenance_min_rows: 50,
        graph: GraphConfig { build_threads: 1, ..GraphConfig::default() },
        vectors,
        ..IndexConfig::default()
    }
}

fn limited(folder: &Path, limit: usize) -> Arc<VectorPool> {
    VectorPool::with_memory_limit(folder, usize::MAX, Some(limit))
}

/// People with two rows each, the same for the same number.
fn fill(index: &GalleryIndex, people: std::ops::Range<u64>) {
    for number in people {
        let mut faces = Faces::new(DIM, 900 + number);
        let person = faces.person();
        index.extend((0..2).map(|image| (key(number, Some(image)), faces.image(&person)))).unwrap();
    }
}

fn probe(number: u64) -> Vec<f32> {
    let mut faces = Faces::new(DIM, 900 + number);
    let person = faces.person();
    faces.image(&person)
}

fn ask(index: &GalleryIndex) {
    for mode in [SearchMode::Cascade, SearchMode::Ann] {
        index.search(&probe(0), 1, mode).unwrap();
    }
}

/// Does what is due until nothing is.
fn settle(index: &GalleryIndex) {
    let rounds = (0..20).take_while(|_| index.maintain().is_due()).count();
    assert!(rounds < 20, "the work ends");
}

/// What an index of these people keeps without a limit, cascade and graph included.
fn all_parts() -> MemoryParts {
    let index = GalleryIndex::new(DIM, config(None));
    fill(&index, 0..PEOPLE);
    ask(&index);
    settle(&index);
    let stats = index.stats();
    assert!(stats.cascade.is_some() && stats.graph.is_some() && stats.filed_bytes == 0);
    assert_eq!(stats.bytes, stats.memory.total());
    stats.memory
}

/// What is found in each mode; exact answers are those of an index without a limit.
fn kinds(index: &GalleryIndex, twin: &GalleryIndex) -> [IndexKind; 2] {
    for number in (0..PEOPLE).step_by(97) {
        let exact = twin.search(&probe(number), 10, SearchMode::Exact).unwrap();
        assert_eq!(index.search(&probe(number), 10, SearchMode::Exact).unwrap(), exact);
        for mode in [SearchMode::Cascade, SearchMode::Ann] {
            let answer = index.search(&probe(number), 10, mode).unwrap();
            if answer.kind == IndexKind::Exact {
                assert_eq!(answer, exact, "it is said that nothing is missed");
            }
        }
    }
    [SearchMode::Cascade, SearchMode::Ann].map(|mode| index.search(&probe(1), 10, mode).unwrap().kind)
}

#[test]
fn what_does_not_fit_goes_to_files_or_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let twin = GalleryIndex::new(DIM, config(None));
    fill(&twin, 0..PEOPLE);
    let all = all_parts();
    let rows = all.digits + all.keys;
    // Of vectors, those of a chunk that is not full stay.
    let open = 2 * PEOPLE as usize % 512 * DIM * 4;
    let with_margin = |bytes: usize| bytes * 16 / 15 + 16;
    use IndexKind::{Ann, Cascade, Exact};
    let cases = [
        (with_margin(all.total()), [Cascade, Ann], false),
        (with_margin(all.total() - all.vectors + open), [Cascade, Ann], true),
        (with_margin(all.total() - all.vectors), [Cascade, Exact], false),
        (with_margin(rows + all.sketches + open), [Cascade, Exact], true),
        (rows + open, [Exact, Exact], true),
        (0, [Exact, Exact], true),
    ];
    for (limit, expected, filed) in cases {
        let pool = limited(folder.path(), limit);
        let index = GalleryIndex::new(DIM, config(Some(Arc::clone(&pool))));
        fill(&index, 0..PEOPLE);
        ask(&index);
        settle(&index);
        let stats = index.stats();
        assert_eq!(kinds(&index, &twin), expected, "{limit} {stats:?}");
        assert_eq!(stats.filed_bytes > 0, filed, "{limit} {stats:?}");
        assert!(stats.bytes <= limit.max(rows + open), "{limit} {stats:?}");
        assert_eq!(pool.totals().parts, stats.memory);
        let [cascade, graph] = expected.map(|kind| kind == Exact);
        let Withheld { cascade: of_cascade, graph: of_graph } = stats.withheld;
        assert_eq!((of_cascade.is_some(), of_graph.is_some()), (cascade, graph), "{limit}");
        let totals = pool.totals();
        assert_eq!((totals.cascades_withheld, totals.graphs_withheld), (cascade.into(), graph.into()));
        assert_eq!((totals.cascades_dropped, totals.graphs_dropped, totals.limit), (0, 0, Some(limit)));
        // Enrolment goes on.
        index.upsert(key(77_777, None), &probe(77_777)).unwrap();
        let first = index.search(&probe(77_777), 1, SearchMode::Exact).unwrap().hits.remove(0);
        assert_eq!(first.subject, key(77_777, None).subject);
        drop(index);
        assert_eq!(pool.totals().parts, MemoryParts::default(), "nothing is left on the account");
    }
}

#[test]
fn a_graph_is_not_dropped_before_the_next_one_is_built() {
    let folder = tempfile::tempdir().unwrap();
    let all = all_parts();
    // Room for a graph, and not for two.
    let limit = ((all.total() - all.graph) * 14 / 10 + all.graph * 16 / 10) * 16 / 15;
    let pool = limited(folder.path(), limit);
    let index = GalleryIndex::new(DIM, config(Some(Arc::clone(&pool))));
    fill(&index, 0..PEOPLE);
    ask(&index);
    settle(&index);
    let before = index.stats().graph.unwrap().rows;
    fill(&index, PEOPLE..PEOPLE * 13 / 10);
    assert!(index.wants_graph());
    for _ in 0..5 {
        let done = index.maintain_beside_graphs();
        assert!(!done.drop_graph && !done.build_graph, "{done:?}");
    }
    assert_eq!(index.stats().graph.unwrap().rows, before);
    let done: Vec<_> = std::iter::repeat_with(|| index.maintain()).take_while(Maintenance::is_due).take(20).collect();
    assert!(done.len() < 20 && done[0].drop_graph && done.iter().any(|done| done.build_graph), "{done:?}");
    assert!(index.stats().graph.unwrap().rows > before);
}

#[test]
fn vectors_leave_memory_for_a_graph_and_a_growing_gallery_loses_them_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let all = all_parts();
    // Room for the graph and a few rows more.
    let limit = (all.total() - all.vectors) * 16 / 15 + all.total() / 20;
    let pool = limited(folder.path(), limit);
    let index = GalleryIndex::new(DIM, config(Some(Arc::clone(&pool))));
    fill(&index, 0..PEOPLE);
    let before: Vec<_> = (0..9).map(|n| index.search(&probe(n), 10, SearchMode::Exact).unwrap()).collect();
    assert_eq!(index.stats().filed_bytes, 0);
    index.search(&probe(0), 1, SearchMode::Cascade).unwrap();
    settle(&index);
    let by_cascade: Vec<_> = (0..9).map(|n| index.search(&probe(n), 10, SearchMode::Cascade).unwrap()).collect();
    index.search(&probe(0), 1, SearchMode::Ann).unwrap();
    let done = index.maintain();
    assert!(done.file_vectors && done.build_graph && index.stats().filed_bytes > 0);
    for number in 0..9u64 {
        let search = |mode| index.search(&probe(number), 10, mode).unwrap();
        assert_eq!(search(SearchMode::Exact), before[number as usize]);
        assert_eq!(search(SearchMode::Cascade), by_cascade[number as usize]);
    }
    assert!(pool.totals().filed_chunks > 0);
    let (mut dropped, mut drops) = (Vec::new(), 0);
    for people in (PEOPLE..40 * PEOPLE).step_by(800) {
        fill(&index, people..people + 800);
        let done = index.maintain();
        if done.drop_graph {
            assert_eq!(index.stats().memory.vectors, 2 * (people + 800) as usize % 512 * DIM * 4, "vectors go first");
            dropped.push("graph");
        }
        if done.drop_cascade {
            // One that is outdated goes for the next one where there is no room for both; the last goes for good.
            let rest: Vec<_> =
                std::iter::repeat_with(|| index.maintain()).take_while(Maintenance::is_due).take(20).collect();
            assert!(rest.len() < 20, "the work ends");
            drops += 1 + rest.iter().filter(|done| done.drop_cascade).count();
            if index.stats().cascade.is_none() {
                dropped.push("cascade");
                break;
            }
        }
        assert!(index.stats().bytes <= limit, "{:?}", index.stats());
    }
    assert_eq!(dropped, ["graph", "cascade"]);
    assert_eq!((pool.totals().graphs_dropped, pool.totals().cascades_dropped), (1, drops as u64));
    settle(&index);
    for mode in [SearchMode::Ann, SearchMode::Cascade] {
        let answer = index.search(&probe(3), 10, mode).unwrap();
        assert_eq!((answer.kind, answer.recall), (IndexKind::Exact, None));
    }
    // With the rows the reason goes.
    let subjects = index.subjects() as u64;
    (900..subjects).for_each(|number| {
        index.remove_subject(&key(number, None).subject);
    });
    settle(&index);
    assert_eq!(index.stats().withheld, Withheld::default());
    assert_eq!(index.search(&probe(3), 10, SearchMode::Ann).unwrap().kind, IndexKind::Ann);
    assert_eq!(index.search(&probe(3), 10, SearchMode::Cascade).unwrap().kind, IndexKind::Cascade);
}

/// As the two threads of a database do.
fn maintain_by_two(index: &GalleryIndex) -> Maintenance {
    let done = index.maintain_beside_graphs();
    assert!(!done.build_graph && !done.drop_graph, "{done:?}");
    if index.wants_graph() { index.maintain() } else { done }
}

#[test]
fn indexes_share_the_limit() {
    [GalleryIndex::maintain, maintain_by_two].into_iter().for_each(share_the_limit);
}

fn share_the_limit(maintain: fn(&GalleryIndex) -> Maintenance) {
    let folder = tempfile::tempdir().unwrap();
    let all = all_parts();
    // The graph of one beside the rows of two, and the vectors of neither.
    let limit = (all.graph + all.sketches + 2 * (all.digits + all.keys) + 2 * 256 * DIM * 4) * 16 / 15 + 1_000;
    assert!(limit > 2 * (all.total() - all.graph), "vectors of both fit as long as there is no graph");
    let pool = limited(folder.path(), limit);
    let one = GalleryIndex::new(DIM, config(Some(Arc::clone(&pool))));
    let other = GalleryIndex::new(DIM, config(Some(Arc::clone(&pool))));
    fill(&one, 0..PEOPLE);
    fill(&other, 0..PEOPLE);
    ask(&one);
    for _ in 0..5 {
        maintain(&one);
        maintain(&other);
    }
    assert!(one.stats().graph.is_some() && other.stats().filed_bytes > 0);
    assert!(pool.totals().parts.total() <= limit);
    ask(&other);
    settle(&other);
    assert!(other.stats().withheld.graph.is_some() && other.stats().graph.is_none());
    assert!(one.stats().graph.is_some(), "what somebody has is not taken for another");
    drop(one);
    settle(&other);
    assert!(other.stats().graph.is_some());
}

#[test]
fn vectors_that_cannot_go_to_files_let_the_rest_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a file");
    std::fs::write(&path, "").unwrap();
    let all = all_parts();
    // Without a graph all of it fits, vectors included.
    let pool = limited(&path, (all.total() - all.graph) * 17 / 16);
    let index = GalleryIndex::new(DIM, config(Some(Arc::clone(&pool))));
    fill(&index, 0..PEOPLE);
    ask(&index);
    settle(&index);
    assert_eq!((index.stats().filed_bytes, index.stats().graph), (0, None));
    assert!(index.stats().cascade.is_some());
    fill(&index, PEOPLE..4 * PEOPLE);
    settle(&index);
    assert!(index.stats().cascade.is_none() && index.stats().withheld.cascade.is_some());
    assert_eq!(index.search(&probe(3), 1, SearchMode::Cascade).unwrap().kind, IndexKind::Exact);
}

#[test]
fn a_graph_that_does_not_fit_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.snapshot");
    let index = GalleryIndex::new(DIM, config(None));
    fill(&index, 0..PEOPLE);
    ask(&index);
    settle(&index);
    index.freeze().save(&path, b"").unwrap();
    let all = index.stats().memory;
    for (limit, fits) in [(all.total() * 17 / 16, true), (all.total() - all.graph, false)] {
        let pool = limited(folder.path(), limit);
        let loaded = GalleryIndex::load(DIM, config(Some(pool)), &path).unwrap();
        assert_eq!(matches!(loaded.graph, LoadedGraph::Read), fits);
        assert_eq!(matches!(loaded.graph, LoadedGraph::Withheld), !fits);
        settle(&loaded.index);
        assert_eq!(loaded.index.stats().withheld.graph.is_some(), !fits);
        assert_eq!(loaded.index.rows(), index.rows());
    }
}
