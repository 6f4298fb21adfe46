//! What a graph finds, when it is asked and when it is not.

use super::Model;
use crate::index::fixture::{Faces, Rng, key};
use crate::index::{GalleryIndex, GraphCodes, GraphConfig, IndexConfig, IndexKind, Maintenance, SearchMode};

/// One thread, so that a graph is the same every time.
fn config() -> IndexConfig {
    IndexConfig {
        ann_above_rows: 3000,
        auto_min_recall: 0.5,
        graph_min_rows: 500,
        maintenance_min_rows: 50,
        graph: GraphConfig { build_threads: 1, ..GraphConfig::default() },
        ..IndexConfig::default()
    }
}

/// `people` persons with `images` faces each.
fn gallery(index: &GalleryIndex, people: &[Vec<f32>], images: u64, faces: &mut Faces) -> Model {
    let mut model = Model::default();
    for (subject, person) in people.iter().enumerate() {
        for face in 0..images {
            model.0.insert(key(subject as u64, Some(face)), faces.image(person));
        }
    }
    // In a fixed order: that of a map is not.
    let mut rows: Vec<_> = model.0.clone().into_iter().collect();
    rows.sort_by(|a, b| (&a.0.subject, a.0.face).cmp(&(&b.0.subject, b.0.face)));
    index.extend(rows).unwrap();
    model
}

/// The floor for default parameters: 20,000 rows of 5,000 people, 192 values.
#[test]
fn recall_has_a_floor() {
    let mut faces = Faces::new(192, 11);
    let people = faces.people(5_000);
    let config =
        IndexConfig { graph: GraphConfig { build_threads: 1, ..GraphConfig::default() }, ..Default::default() };
    let index = GalleryIndex::new(192, config);
    gallery(&index, &people, 4, &mut faces);
    let first = index.search(&people[0], 10, SearchMode::Ann).unwrap();
    assert_eq!((first.kind, first.recall), (IndexKind::Exact, None), "no graph is there yet");
    assert_eq!(index.maintain(), Maintenance { build_graph: true, ..Maintenance::default() });
    let mut rng = Rng::new(12);
    let (mut found, mut first_right) = (0, 0);
    const PROBES: usize = 500;
    for _ in 0..PROBES {
        let subject = rng.below(people.len() as u64);
        let probe = faces.image(&people[subject as usize]);
        let exact = index.search(&probe, 10, SearchMode::Exact).unwrap();
        let answer = index.search(&probe, 10, SearchMode::Ann).unwrap();
        assert_eq!(answer.kind, IndexKind::Ann);
        assert_eq!(answer.recall, index.stats().graph.map(|graph| graph.recall_at_10));
        found += answer.hits.iter().filter(|hit| exact.hits.contains(hit)).count();
        first_right += usize::from(answer.hits[0] == exact.hits[0]);
    }
    let (recall, rank_1) = (found as f64 / (PROBES * 10) as f64, first_right as f64 / PROBES as f64);
    let measured = index.stats().graph.unwrap().recall_at_10;
    println!("recall@10 {recall:.4}, rank-1 {rank_1:.4}, measured at build {measured:.4}");
    assert!(recall >= 0.9, "recall@10 {recall}");
    assert!(rank_1 >= 0.98, "rank-1 {rank_1}");
    assert!((f64::from(measured) - recall).abs() < 0.01, "measured {measured}, seen {recall}");
    // Longer lists are found as well.
    for limit in [50, 100, 200] {
        let recall = recall_of(&index, &people, &mut faces, limit);
        println!("recall@{limit} {recall:.4}");
        assert!(f64::from(measured) - recall < 0.01, "recall@{limit} {recall}, measured {measured}");
    }
}

/// The share of the exact list that a graph finds.
fn recall_of(index: &GalleryIndex, people: &[Vec<f32>], faces: &mut Faces, limit: usize) -> f64 {
    let (mut found, mut wanted) = (0, 0);
    for person in people.iter().step_by(50) {
        let probe = faces.image(person);
        let exact = index.search(&probe, limit, SearchMode::Exact).unwrap();
        let answer = index.search(&probe, limit, SearchMode::Ann).unwrap();
        assert_eq!(answer.kind, IndexKind::Ann);
        found += answer.hits.iter().filter(|hit| exact.hits.contains(hit)).count();
        wanted += exact.hits.len();
    }
    f64::from(found as u32) / f64::from(wanted as u32)
}

/// Bits say less, so more candidates are looked at, until what is found is enough.
#[test]
fn a_graph_over_bits_looks_at_more_candidates() {
    let mut faces = Faces::new(192, 17);
    let people = faces.people(2_000);
    let [bytes, bits] = [GraphCodes::Bytes, GraphCodes::Bits].map(|codes| {
        let graph = GraphConfig { build_threads: 1, codes, ..GraphConfig::default() };
        let index = GalleryIndex::new(192, IndexConfig { graph, ..config() });
        let mut faces = faces.others(18);
        let model = gallery(&index, &people, 2, &mut faces);
        index.search(&people[0], 1, SearchMode::Ann).unwrap();
        assert!(index.maintain().build_graph);
        for person in people.iter().step_by(40) {
            let probe = faces.image(person);
            let answer = index.search(&probe, 10, SearchMode::Ann).unwrap();
            assert_eq!(answer.kind, IndexKind::Ann);
            model.check_hits(&probe, &answer.hits);
        }
        index.stats().graph.unwrap()
    });
    println!("bytes {bytes:?}, bits {bits:?}");
    assert!(bytes.recall_at_10 >= 0.9 && bits.recall_at_10 >= 0.8, "{bytes:?} {bits:?}");
    assert!(bits.search_candidates > bytes.search_candidates, "{bytes:?} {bits:?}");
}

#[test]
fn the_mode_and_the_size_decide() {
    let mut faces = Faces::new(48, 13);
    let people = faces.people(2_000);
    let index = GalleryIndex::new(48, config());
    let mut model = gallery(&index, &people[..1_000], 2, &mut faces);
    let kind = |mode, limit| index.search(&people[3], limit, mode).unwrap().kind;
    assert!(!index.maintenance().is_due(), "2,000 rows and nobody asked");
    assert_eq!(kind(SearchMode::Ann, 10), IndexKind::Exact);
    assert!(index.maintenance().build_graph, "somebody asked");
    index.maintain();
    assert!(!index.maintenance().is_due());
    assert_eq!(kind(SearchMode::Ann, 10), IndexKind::Ann);
    assert_eq!(kind(SearchMode::Auto, 10), IndexKind::Exact, "not above the size");
    assert_eq!(kind(SearchMode::Exact, 10), IndexKind::Exact);
    assert_eq!(kind(SearchMode::Ann, 0), IndexKind::Exact);
    assert_eq!(kind(SearchMode::Ann, 900), IndexKind::Exact, "longer than a graph is good for");
    // More rows than the share allows: the graph is outdated, and used until the next one is there.
    for (i, person) in people[1_000..].iter().enumerate() {
        for face in 0..2 {
            let row = (key(1_000 + i as u64, Some(face)), faces.image(person));
            index.upsert(row.0.clone(), &row.1).unwrap();
            model.0.insert(row.0, row.1);
        }
    }
    assert_eq!(index.stats().graph.unwrap().rows, 2_000);
    assert_eq!(kind(SearchMode::Auto, 10), IndexKind::Ann, "above the size");
    // The newest rows are not in the graph and are found all the same.
    let newest = model.0[&key(1_999, Some(1))].clone();
    assert_eq!(index.search(&newest, 1, SearchMode::Ann).unwrap().hits[0].subject, key(1_999, None).subject);
    assert_eq!(index.maintain(), Maintenance { build_graph: true, ..Maintenance::default() });
    assert_eq!(index.stats().graph.unwrap().rows, 4_000);
    for probe in &people[..20] {
        model.check_hits(probe, &index.search(probe, 10, SearchMode::Auto).unwrap().hits);
    }
}

/// All else goes on while a graph waits for its thread, unless the graph would be lost by it.
#[test]
fn other_work_waits_for_no_graph() {
    let mut faces = Faces::new(128, 19);
    let people = faces.people(1_000);
    let index = GalleryIndex::new(128, IndexConfig { cascade_min_rows: 512, ..config() });
    gallery(&index, &people, 2, &mut faces);
    let kind = |mode| index.search(&people[3], 10, mode).unwrap().kind;
    kind(SearchMode::Ann);
    kind(SearchMode::Cascade);
    let due = index.maintenance();
    assert!(due.prepare_cascade && due.build_graph, "{due:?}");
    let only_cascade = Maintenance { prepare_cascade: true, ..Maintenance::default() };
    assert_eq!(index.maintain_beside_graphs(), only_cascade);
    assert_eq!((kind(SearchMode::Cascade), kind(SearchMode::Ann)), (IndexKind::Cascade, IndexKind::Exact));
    assert!(index.maintenance().build_graph && !index.maintain_beside_graphs().is_due());
    let only_graph = Maintenance { build_graph: true, ..Maintenance::default() };
    assert_eq!(index.maintain(), only_graph);
    assert_eq!((kind(SearchMode::Cascade), kind(SearchMode::Ann)), (IndexKind::Cascade, IndexKind::Ann));
    // Dropping dead slots would take the graph along.
    let removed: usize = (0..500).map(|subject| index.remove_subject(&key(subject, None).subject)).sum();
    assert_eq!(removed, 1_000);
    let due = index.maintenance();
    assert!(due.compact && due.build_graph, "{due:?}");
    assert!(!index.maintain_beside_graphs().is_due() && index.stats().tombstones == 1_000);
    assert_eq!(kind(SearchMode::Ann), IndexKind::Ann);
    let done = index.maintain();
    assert!(done.compact && done.build_graph && index.stats().tombstones == 0, "{done:?}");
    // Together they are done by one call, the cascade first.
    let both = GalleryIndex::new(128, IndexConfig { cascade_min_rows: 512, ..config() });
    gallery(&both, &people, 2, &mut faces);
    for mode in [SearchMode::Ann, SearchMode::Cascade] {
        both.search(&people[3], 10, mode).unwrap();
    }
    assert_eq!(both.maintain(), Maintenance { prepare_cascade: true, ..only_graph });
}

#[test]
fn a_poor_graph_is_not_chosen_by_itself() {
    let mut faces = Faces::new(48, 14);
    let people = faces.people(4_000);
    let config = IndexConfig { auto_min_recall: 1.1, ..config() };
    let index = GalleryIndex::new(48, config);
    gallery(&index, &people, 1, &mut faces);
    assert!(index.maintain().build_graph);
    assert_eq!(index.search(&people[0], 10, SearchMode::Auto).unwrap().kind, IndexKind::Exact);
    assert_eq!(index.search(&people[0], 10, SearchMode::Ann).unwrap().kind, IndexKind::Ann);
}

#[test]
fn tombstones_are_never_returned_and_an_unfilled_list_is_done_exactly() {
    let mut faces = Faces::new(48, 15);
    // One crowded place and a few people elsewhere: near the crowd a graph proposes nobody else.
    let crowd = faces.people(1).remove(0);
    let others = faces.people(30);
    let index = GalleryIndex::new(48, IndexConfig { compact_share: 1.0, rebuild_share: 10.0, ..config() });
    let crowded: Vec<_> = std::iter::repeat_n(crowd.clone(), 1_500).collect();
    let mut model = gallery(&index, &crowded, 1, &mut faces);
    for (i, person) in others.iter().enumerate() {
        let row = (key(5_000 + i as u64, None), faces.image(person));
        index.upsert(row.0.clone(), &row.1).unwrap();
        model.0.insert(row.0, row.1);
    }
    index.search(&crowd, 1, SearchMode::Ann).unwrap();
    assert!(index.maintain().build_graph);
    for subject in 0..1_480 {
        let subject = key(subject, None).subject;
        assert_eq!(index.remove_subject(&subject), model.remove_subject(&subject));
        if subject.as_str().ends_with("00") {
            let answer = index.search(&crowd, 10, SearchMode::Ann).unwrap();
            model.check_hits(&crowd, &answer.hits);
            assert_eq!(answer.hits.len(), 10);
        }
    }
    let answer = index.search(&crowd, 30, SearchMode::Ann).unwrap();
    assert_eq!(answer.kind, IndexKind::Exact);
    model.check_exact(&crowd, 30, &answer.hits);
}

#[test]
fn parameters_out_of_range_are_brought_into_it() {
    let small = GraphConfig {
        max_links: 0,
        build_candidates: 0,
        search_candidates: 0,
        build_threads: 1,
        codes: GraphCodes::Bits,
    };
    let large = GraphConfig {
        max_links: 1000,
        build_candidates: 1_000_000,
        search_candidates: 1_000_000,
        build_threads: 9999,
        codes: GraphCodes::Bytes,
    };
    for (recall_target, graph) in [(-1.0, small), (f32::NAN, large)] {
        let index = GalleryIndex::new(8, IndexConfig { recall_target, graph, ..config() });
        let mut rng = Rng::new(16);
        index.extend((0..600).map(|i| (key(i, None), rng.unit(8)))).unwrap();
        let probe = rng.unit(8);
        index.search(&probe, 3, SearchMode::Ann).unwrap();
        assert!(index.maintain().build_graph);
        assert_eq!(index.search(&probe, 3, SearchMode::Ann).unwrap().hits.len(), 3);
        assert!(!index.maintenance().is_due());
    }
}
