//! Exact search equals brute force, whatever was done to the gallery before.

use proptest::prelude::*;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::Model;
use crate::index::fixture::{Rng, key};
use crate::index::{GalleryIndex, IndexConfig, IndexError, IndexKind, SearchMode};

/// Work in the background is due after a handful of writes.
fn eager() -> IndexConfig {
    IndexConfig { maintenance_min_rows: 3, ..IndexConfig::default() }
}

#[derive(Debug, Clone)]
enum Op {
    Upsert(u64, Option<u64>, u64),
    Remove(u64, Option<u64>),
    RemoveSubject(u64),
    /// A face goes from one subject to another.
    Regroup(u64, u64, u64),
    Bulk(u64, u64),
    Maintain,
}

fn op() -> impl Strategy<Value = Op> {
    let subject = || 0..12u64;
    let face = || proptest::option::of(0..4u64);
    prop_oneof![
        // Few distinct vectors, so that equal scores and repeated vectors are common.
        8 => (subject(), face(), 0..40u64).prop_map(|(s, f, v)| Op::Upsert(s, f, v)),
        3 => (subject(), face()).prop_map(|(s, f)| Op::Remove(s, f)),
        1 => subject().prop_map(Op::RemoveSubject),
        2 => (subject(), subject(), 0..4u64).prop_map(|(a, b, f)| Op::Regroup(a, b, f)),
        1 => (0..700u64, 0..1000u64).prop_map(|(rows, seed)| Op::Bulk(rows, seed)),
        1 => Just(Op::Maintain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn equals_brute_force(
        dim in 1..70usize,
        ops in proptest::collection::vec(op(), 1..80),
        limit in prop_oneof![Just(0usize), 1..20usize, Just(10_000)],
        seed in 0..1000u64,
    ) {
        let index = GalleryIndex::new(dim, eager());
        let mut model = Model::default();
        let vector = |n: u64| Rng::new(n).unit(dim);
        for op in ops {
            match op {
                Op::Upsert(s, f, v) => {
                    index.upsert(key(s, f), &vector(v)).unwrap();
                    model.0.insert(key(s, f), vector(v));
                }
                Op::Remove(s, f) => {
                    assert_eq!(index.remove(&key(s, f)), model.0.remove(&key(s, f)).is_some());
                }
                Op::RemoveSubject(s) => {
                    let subject = key(s, None).subject;
                    assert_eq!(index.remove_subject(&subject), model.remove_subject(&subject));
                }
                Op::Regroup(from, to, f) => {
                    if let Some(row) = model.0.remove(&key(from, Some(f))) {
                        assert!(index.remove(&key(from, Some(f))));
                        index.upsert(key(to, Some(f)), &row).unwrap();
                        model.0.insert(key(to, Some(f)), row);
                    }
                }
                Op::Bulk(rows, seed) => {
                    let rows: Vec<_> = (0..rows).map(|i| (key(seed + i, None), vector(seed * 7 + i))).collect();
                    assert_eq!(index.extend(rows.clone()).unwrap(), rows.len());
                    model.0.extend(rows);
                }
                Op::Maintain => {
                    index.maintain();
                    assert!(!index.maintenance().is_due());
                }
            }
        }
        assert_eq!(index.stats().rows, model.0.len());
        for probe in [vector(seed), vector(seed + 500)] {
            let before = index.search(&probe, limit, SearchMode::Exact).unwrap();
            assert_eq!((before.kind, before.recall), (IndexKind::Exact, None));
            model.check_exact(&probe, limit, &before.hits);
            index.maintain();
            // To the bit: compaction moves rows and changes nothing.
            assert_eq!(index.search(&probe, limit, SearchMode::Exact).unwrap(), before);
        }
    }
}

#[test]
fn an_empty_index_answers() {
    let index = GalleryIndex::new(4, IndexConfig::default());
    let probe = [1.0, 0.0, 0.0, 0.0];
    for mode in [SearchMode::Auto, SearchMode::Exact, SearchMode::Ann] {
        let answer = index.search(&probe, 10, mode).unwrap();
        assert!(answer.hits.is_empty());
        assert_eq!(answer.kind, IndexKind::Exact);
    }
    assert!(!index.remove(&key(1, None)));
    assert_eq!(index.remove_subject(&key(1, None).subject), 0);
    assert!(!index.maintain().is_due());
    let stats = index.stats();
    assert_eq!((stats.rows, stats.tombstones, stats.bytes, stats.graph), (0, 0, 0, None));
}

#[test]
fn bad_vectors_are_refused() {
    let index = GalleryIndex::new(3, IndexConfig::default());
    let good = [0.0, 1.0, 0.0];
    index.upsert(key(1, None), &good).unwrap();
    let wrong = IndexError::WrongDimension { expected: 3, actual: 2 };
    for (bad, error) in [
        (&[1.0, 0.0][..], wrong),
        (&[f32::NAN, 0.0, 0.0], IndexError::NotUnit),
        (&[f32::INFINITY, 0.0, 0.0], IndexError::NotUnit),
        (&[0.0; 3], IndexError::NotUnit),
        (&[1.0, 1.0, 0.0], IndexError::NotUnit),
    ] {
        assert_eq!(index.upsert(key(1, None), bad), Err(error.clone()));
        for mode in [SearchMode::Auto, SearchMode::Exact, SearchMode::Ann] {
            assert_eq!(index.search(bad, 10, mode), Err(error.clone()));
        }
        // Rows before the bad one are in, the others are not.
        assert_eq!(index.extend([(key(2, None), &good[..]), (key(3, None), bad), (key(4, None), &good)]), Err(error));
        assert_eq!(index.stats().rows, 2);
        index.remove(&key(2, None));
    }
    let hits = index.search(&good, 10, SearchMode::Auto).unwrap().hits;
    assert_eq!(hits.len(), 1);
    assert_eq!((hits[0].subject.as_str(), hits[0].score), ("s000001", 1.0));
}

#[test]
fn a_write_is_seen_at_once_and_loading_again_changes_nothing() {
    let index = GalleryIndex::new(16, IndexConfig::default());
    let mut rng = Rng::new(9);
    let rows: Vec<_> = (0..9000).map(|i| (key(i, None), rng.unit(16))).collect();
    assert_eq!(index.extend(rows.iter().map(|(key, vector)| (key.clone(), vector))).unwrap(), 9000);
    let loaded = index.stats();
    assert_eq!(index.extend(rows).unwrap(), 9000);
    assert_eq!(index.stats(), loaded);
    for i in 0..100 {
        let vector = rng.unit(16);
        index.upsert(key(i * 80, None), &vector).unwrap();
        let hit = &index.search(&vector, 1, SearchMode::Auto).unwrap().hits[0];
        assert_eq!(hit.subject, key(i * 80, None).subject);
        assert!(hit.score > 0.999_999);
    }
    assert_eq!((index.stats().rows, index.stats().tombstones), (9000, 100));
}

#[test]
fn changes_are_applied_together_or_not_at_all() {
    let index = GalleryIndex::new(8, IndexConfig::default());
    let unit = |n: u64| Rng::new(n).unit(8);
    let changes = || vec![(key(1, None), Some(unit(1))), (key(2, None), Some(unit(2))), (key(3, None), None)];
    assert_eq!(index.apply(changes()), Ok(true));
    assert_eq!(index.apply(changes()), Ok(false), "all of it is there already");
    let bad = vec![(key(1, None), None), (key(2, None), Some(vec![9.0; 8]))];
    assert_eq!(index.apply(bad), Err(IndexError::NotUnit));
    assert_eq!(index.stats().rows, 2);
    assert_eq!(index.apply(vec![(key(1, None), None), (key(4, None), Some(unit(4)))]), Ok(true));
    let found = index.search(&unit(4), 9, SearchMode::Exact).unwrap().hits;
    assert_eq!((found.len(), &found[0].subject), (2, &key(4, None).subject));
    assert_eq!(index.stats().subjects, 2);
}

/// Searches within a pool of threads, of which one could come upon another that it waits for; together; and from threads of
/// their own, which do wait for each other.
#[test]
fn searches_at_the_same_time_find_what_each_finds_alone() {
    const DIM: usize = 16;
    let mut rng = Rng::new(17);
    // So many that threads share a search.
    let rows: Vec<_> = (0..21_000).map(|row| (key(row / 2, Some(row)), rng.unit(DIM))).collect();
    let index = GalleryIndex::new(DIM, IndexConfig::default());
    index.extend(rows).unwrap();
    let probes: Vec<(Vec<f32>, usize)> = (0..90).map(|number| (rng.unit(DIM), [10, 1, 40][number % 3])).collect();
    let search = |(probe, limit): &(Vec<f32>, usize)| index.search(probe, *limit, SearchMode::Exact).unwrap();
    let alone: Vec<_> = probes.iter().map(search).collect();
    let in_pool: Vec<_> = probes.par_iter().map(search).collect();
    assert_eq!(in_pool, alone);
    let queries: Vec<(&[f32], usize)> = probes.iter().map(|(probe, limit)| (&probe[..], *limit)).collect();
    assert_eq!(index.search_many(&queries, SearchMode::Exact).unwrap(), alone);
    let own_threads: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = probes.iter().map(|probe| scope.spawn(|| search(probe))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(own_threads, alone);
    let bad = [(&probes[0].0[..], 1), (&[0.0; DIM][..], 1)];
    assert_eq!(index.search_many(&bad, SearchMode::Exact), Err(IndexError::NotUnit));
}

/// Rows of a gallery that has grown are coded anew in the background, while it is written to and searched.
#[test]
fn rows_that_were_coded_anew_are_found_as_before() {
    use crate::index::fixture::Faces;

    const DIM: usize = 192;
    let config = IndexConfig { basis_min_rows: 5_000, maintenance_min_rows: 200, ..IndexConfig::default() };
    let index = GalleryIndex::new(DIM, config);
    let mut faces = Faces::new(DIM, 77);
    let people = faces.people(3_000);
    let mut model = Model::default();
    for (number, person) in people.iter().enumerate() {
        for image in 0..2 {
            let vector = faces.image(person);
            index.upsert(key(number as u64, Some(image)), &vector).unwrap();
            model.0.insert(key(number as u64, Some(image)), vector);
        }
        if number == 2_000 {
            assert!(!index.maintain().turn_rows, "too few rows");
        }
    }
    index.search(&faces.image(&people[0]), 1, SearchMode::Cascade).unwrap();
    let before = index.stats().memory.digits;
    let done = index.maintain();
    assert!(done.turn_rows && !index.maintain().is_due());
    assert!(index.stats().memory.digits > before);
    let check = |index: &GalleryIndex, model: &Model, faces: &mut Faces| {
        for person in people.iter().step_by(151) {
            let probe = faces.image(person);
            model.check_exact(&probe, 10, &index.search(&probe, 10, SearchMode::Exact).unwrap().hits);
            model.check_hits(&probe, &index.search(&probe, 10, SearchMode::Cascade).unwrap().hits);
        }
    };
    check(&index, &model, &mut faces);
    // Rows go, so that chunks are written anew as they came, and are coded again.
    for number in 0..1_000 {
        index.remove_subject(&key(number * 2, None).subject);
        model.remove_subject(&key(number * 2, None).subject);
        let late = faces.image(&people[number as usize]);
        index.upsert(key(10_000 + number, None), &late).unwrap();
        model.0.insert(key(10_000 + number, None), late);
    }
    check(&index, &model, &mut faces);
    let done = index.maintain();
    assert!(done.compact && done.turn_rows);
    check(&index, &model, &mut faces);
}
