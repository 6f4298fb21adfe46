//! Whatever way rows are scanned, the answer is that of comparing them one by one.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::super::basis::Basis;
use super::super::fixture::{Faces, Rng, key};
use super::super::flat::FlatEdit;
use super::super::flat::tests::{filled, rows};
use super::super::mask::RowNumbers;
use super::super::vector::cosine;
use super::*;

/// As the definition has it.
fn one_by_one<'a>(rows: &'a FlatRows, probe: &[f32], limit: usize) -> TopSubjects<'a> {
    let mut top = TopSubjects::new(limit);
    for (_, row) in rows.live_rows(0..rows.slots()) {
        top.offer(cosine(probe, row.vector), row.key);
    }
    top
}

#[test]
fn probes_together_find_what_each_finds_alone() {
    let mut faces = Faces::new(96, 9);
    let people = faces.people(700);
    let mut edit = FlatEdit::new(&FlatRows::new(96));
    for (number, person) in people.iter().enumerate() {
        for image in 0..3 {
            edit.push(key(number as u64, Some(image)), &faces.image(person));
        }
    }
    (5..2000).step_by(7).for_each(|slot| edit.kill(slot));
    let flat = edit.finish();
    let probes: Vec<Vec<f32>> = people.iter().step_by(19).map(|person| faces.image(person)).collect();
    let queries: Vec<Query<'_>> =
        probes.iter().enumerate().map(|(at, probe)| Query { probe, limit: [10, 0, 1, 60][at % 4] }).collect();
    for queries in [&queries[..], &queries[..1], &queries[..16], &queries[..17], &[]] {
        let together = flat.scan_many(queries);
        assert_eq!(together.len(), queries.len());
        for (query, top) in queries.iter().zip(together) {
            assert_eq!(top.into_hits(), one_by_one(&flat, query.probe, query.limit).into_hits());
        }
    }
}

#[test]
fn chunks_in_a_basis_among_others_do_not_change_the_answer() {
    const DIM: usize = 192;
    let mut faces = Faces::new(DIM, 19);
    let people = faces.people(2_400);
    let mut edit = FlatEdit::new(&FlatRows::new(DIM));
    for (number, person) in people.iter().enumerate() {
        (0..2).for_each(|image| {
            edit.push(key(number as u64, Some(image)), &faces.image(person));
        });
    }
    let as_they_came = edit.finish();
    // Two bases, and chunks as they came between.
    let half = FlatRows::of_chunks(DIM, as_they_came.chunks[..4].to_vec(), None);
    let bases = [&as_they_came, &half].map(|rows| Arc::new(Basis::learn(rows).unwrap()));
    let turned = |chunk: usize| (chunk, Arc::new(as_they_came.chunks[chunk].rows.turned(DIM, &bases[chunk % 2])));
    let moved = as_they_came.with_moved([0, 2, 3, 6, 7].map(turned).to_vec());
    assert_eq!(moved.bases.len(), 2);
    let mut edit = FlatEdit::new(&moved);
    (3..4_800).step_by(11).for_each(|slot| edit.kill(slot));
    let moved = edit.finish();
    assert!(moved.digits_bytes() > as_they_came.digits_bytes());
    let probes: Vec<Vec<f32>> = people.iter().step_by(60).map(|person| faces.image(person)).collect();
    let queries: Vec<Query<'_>> =
        probes.iter().enumerate().map(|(at, probe)| Query { probe, limit: [10, 1, 300][at % 3] }).collect();
    let accept = |subject: &SubjectId| subject.as_str().bytes().map(u32::from).sum::<u32>() % 3 == 0;
    for (Query { probe, limit }, together) in queries.iter().zip(moved.scan_many(&queries)) {
        let answer = one_by_one(&moved, probe, *limit).into_hits();
        assert_eq!(moved.scan(probe, 0, *limit).into_hits(), answer);
        assert_eq!(together.into_hits(), answer);
        let all = one_by_one(&moved, probe, 10_000).into_hits().into_iter();
        let expected: Vec<_> = all.filter(|hit| accept(&hit.subject)).take(*limit).collect();
        let passing = Passing { mask: None, masked: &|_| true, accept: &accept };
        assert_eq!(moved.scan_where(probe, *limit, passing).into_hits(), expected);
    }
    let compacted = moved.compacted();
    assert_eq!((compacted.rows(), compacted.bases.len()), (moved.rows(), 0), "what is written anew is as it came");
    assert_eq!(compacted.scan(&probes[0], 0, 10).into_hits(), moved.scan(&probes[0], 0, 10).into_hits());
}

#[test]
fn rows_that_are_nearly_alike_are_told_apart_by_their_scores() {
    const DIM: usize = 64;
    let mut rng = Rng::new(23);
    let centre = rng.unit(DIM);
    let mut edit = FlatEdit::new(&FlatRows::new(DIM));
    for number in 0..3_000u64 {
        // What sets them apart is less than what digits leave open; some are the same to the bit.
        let away = if number % 5 == 0 { vec![0.0; DIM] } else { rng.unit(DIM) };
        let row: Vec<f32> = centre.iter().zip(away).map(|(centre, away)| centre + 1e-4 * away).collect();
        let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        edit.push(key(number, None), &row.iter().map(|value| value / norm).collect::<Vec<_>>());
    }
    let flat = edit.finish();
    let probes = [centre.clone(), rng.unit(DIM), centre.iter().map(|value| -value).collect()];
    for limit in [1, 10, 100, 5_000] {
        let queries: Vec<Query<'_>> = probes.iter().map(|probe| Query { probe, limit }).collect();
        for (query, together) in queries.iter().zip(flat.scan_many(&queries)) {
            let answer = one_by_one(&flat, query.probe, limit).into_hits();
            assert_eq!(flat.scan(query.probe, 0, limit).into_hits(), answer);
            assert_eq!(together.into_hits(), answer);
        }
    }
}

#[test]
fn splitting_and_compacting_do_not_change_the_answer() {
    let rows = rows(PARALLEL_SLOTS as u64 + 3000, 24, 5);
    let mut edit = FlatEdit::new(&filled(&rows, 24));
    (0..rows.len()).skip(1500).step_by(3).for_each(|slot| edit.kill(slot));
    let scattered = edit.finish();
    let compacted = scattered.compacted();
    assert_eq!((compacted.tombstones(), compacted.rows()), (0, scattered.rows()));
    assert!(Arc::ptr_eq(&scattered.chunks[1], &compacted.chunks[1]));
    let mut rng = Rng::new(6);
    for limit in [1, 10, 2000] {
        let probe = rng.unit(24);
        let answer = scattered.search(&probe, limit).unwrap();
        assert_eq!(compacted.search(&probe, limit).unwrap(), answer);
        assert_eq!(one_by_one(&scattered, &probe, limit).into_hits(), answer.hits);
        let queries: Vec<_> = [&probe; 3].into_iter().map(|probe| Query { probe, limit }).collect();
        for top in scattered.scan_many(&queries) {
            assert_eq!(top.into_hits(), answer.hits);
        }
    }
}

#[test]
fn a_mask_changes_nothing_but_what_is_asked() {
    let rows = rows(PARALLEL_SLOTS as u64 + 700, 24, 15);
    let mut edit = FlatEdit::new(&filled(&rows, 24));
    (0..rows.len()).step_by(5).for_each(|slot| edit.kill(slot));
    let masked_rows = edit.finish();
    // What came and went since the mask was made.
    let mut edit = FlatEdit::new(&masked_rows);
    (1..rows.len()).step_by(50).for_each(|slot| edit.kill(slot));
    rows[..900].iter().for_each(|(key, vector)| {
        edit.push(key.clone(), vector);
    });
    let now = edit.finish();
    let mut rng = Rng::new(16);
    for one_in in [2u64, 10, 100, 3_000, 1_000_000] {
        let number = |subject: &SubjectId| subject.as_str().bytes().fold(7u64, |all, byte| all * 31 + u64::from(byte));
        let accept = |subject: &SubjectId| number(subject).is_multiple_of(one_in);
        // As many numbers as subjects, in the order they come.
        let names = Mutex::new(Vec::new());
        let number_of = |subject: &SubjectId| {
            let mut names = names.lock();
            let known = names.iter().position(|name| name == subject);
            Some(known.unwrap_or_else(|| {
                names.push(subject.clone());
                names.len() - 1
            }) as u32)
        };
        let numbers = RowNumbers::of(&masked_rows, &RowNumbers::default(), &number_of);
        let names = names.into_inner();
        let mask = RowMask::of(&masked_rows, &numbers, |number| accept(&names[number as usize]));
        let asked = AtomicUsize::new(0);
        let counting = |subject: &SubjectId| {
            asked.fetch_add(1, Ordering::Relaxed);
            accept(subject)
        };
        let odd = |subject: &SubjectId| number(subject) % 3 != 0;
        for _ in 0..5 {
            let probe = rng.unit(24);
            let alone = Passing { mask: None, masked: &|_| unreachable!(), accept: &accept };
            let expected = now.scan_where(&probe, 10, alone).into_hits();
            let with_mask = Passing { mask: Some(&mask), masked: &|_| true, accept: &counting };
            assert_eq!(now.scan_where(&probe, 10, with_mask).into_hits(), expected, "1 in {one_in}");
            let also = |subject: &SubjectId| accept(subject) && odd(subject);
            let both = Passing { mask: Some(&mask), masked: &odd, accept: &also };
            let alone = Passing { mask: None, masked: &|_| unreachable!(), accept: &also };
            assert_eq!(now.scan_where(&probe, 10, both).into_hits(), now.scan_where(&probe, 10, alone).into_hits());
        }
        assert!(asked.into_inner() <= 5 * 3 * CHUNK_ROWS, "only of what is not masked");
    }
}

#[test]
fn a_scan_can_start_anywhere() {
    let rows = rows(1200, 8, 7);
    let flat = filled(&rows, 8);
    let probe = Rng::new(8).unit(8);
    for from in [0, 1, 511, 512, 513, 1199, 1200, 5000] {
        let tail = filled(rows.get(from..).unwrap_or_default(), 8);
        assert_eq!(flat.scan(&probe, from, 10).into_hits(), tail.scan(&probe, 0, 10).into_hits(), "{from}");
    }
}
