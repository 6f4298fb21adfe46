//! One search, exact and approximate, over galleries of 10,000 and 100,000 rows of 192 values.

mod fixture;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use vultus_engine as engine;
use vultus_engine::index::{GalleryIndex, IndexConfig, IndexKind, SearchMode};

const DIM: usize = 192;
const IMAGES: u64 = 4;

fn search(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("search");
    for rows in [10_000u64, 100_000] {
        let mut faces = fixture::Faces::new(DIM, 31);
        let people = faces.people((rows / IMAGES) as usize);
        let index = GalleryIndex::new(DIM, IndexConfig::default());
        for (subject, person) in people.iter().enumerate() {
            let images = (0..IMAGES).map(|face| (fixture::key(subject as u64, Some(face)), faces.image(person)));
            index.extend(images).expect("unit vectors");
        }
        let probes: Vec<_> = people.iter().step_by(people.len() / 64).map(|person| faces.image(person)).collect();
        index.search(&probes[0], 10, SearchMode::Ann).expect("a unit vector");
        index.maintain();
        let graph = index.stats().graph.expect("a graph was asked for");
        println!("{rows} rows: graph built in {} ms, recall@10 {:.4}", graph.build_ms, graph.recall_at_10);
        for (name, mode, kind) in
            [("exact", SearchMode::Exact, IndexKind::Exact), ("ann", SearchMode::Ann, IndexKind::Ann)]
        {
            group.bench_with_input(BenchmarkId::new(name, rows), &mode, |bencher, mode| {
                let mut next = 0;
                bencher.iter(|| {
                    next = (next + 1) % probes.len();
                    let answer = index.search(black_box(&probes[next]), 10, *mode).expect("a unit vector");
                    assert_eq!(answer.kind, kind);
                    answer
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, search);
criterion_main!(benches);
