//! Writes, searches and background work at the same time.

use std::collections::HashSet;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::Model;
use crate::ids::SubjectId;
use crate::index::fixture::{Rng, key};
use crate::index::{GalleryIndex, GraphConfig, IndexConfig, IndexKind, SearchMode, VectorPool};

/// Long enough for a sketch.
const DIM: usize = 128;
const OPERATIONS: usize = 4_000;
/// Subjects from here on are removed once and never come back.
const MORTAL: u64 = 1_000;

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// One writer with a model beside it, one thread that keeps compacting and building graphs, one that keeps searching.
#[test]
fn nothing_is_lost_and_the_dead_stay_dead() {
    let folder = tempfile::tempdir().unwrap();
    let index = GalleryIndex::new(
        DIM,
        IndexConfig {
            ann_above_rows: 400,
            auto_min_recall: 0.0,
            graph_min_rows: 300,
            cascade_min_rows: 600,
            // Vectors of full chunks lie in files.
            vectors: Some(VectorPool::new(folder.path(), 0)),
            maintenance_min_rows: 20,
            graph: GraphConfig { build_candidates: 40, build_threads: 1, ..GraphConfig::default() },
            ..IndexConfig::default()
        },
    );
    let done = AtomicBool::new(false);
    let gone: RwLock<HashSet<SubjectId>> = RwLock::default();
    let (compactions, builds, cascades) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let model = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let did = index.maintain();
                compactions.fetch_add(usize::from(did.compact), Ordering::Relaxed);
                builds.fetch_add(usize::from(did.build_graph), Ordering::Relaxed);
                cascades.fetch_add(usize::from(did.prepare_cascade), Ordering::Relaxed);
            }
        });
        scope.spawn(|| {
            let mut rng = Rng::new(21);
            while !done.load(Ordering::Acquire) {
                let modes = [SearchMode::Auto, SearchMode::Exact, SearchMode::Cascade, SearchMode::Ann];
                let mode = modes[rng.below(4) as usize];
                let dead_before = gone.read().unwrap().clone();
                let hits = index.search(&rng.unit(DIM), 20, mode).unwrap().hits;
                for hit in &hits {
                    assert!(!dead_before.contains(&hit.subject), "{} came back", hit.subject);
                }
                let subjects: HashSet<_> = hits.iter().map(|hit| &hit.subject).collect();
                assert_eq!(subjects.len(), hits.len(), "a subject came twice");
            }
        });
        // Also when the writer fails, or the other threads would go on for ever.
        let _stop = OnDrop(|| done.store(true, Ordering::Release));
        write(&index, &gone)
    });
    assert!(compactions.into_inner() > 0 && builds.into_inner() > 0 && cascades.into_inner() > 0);
    index.maintain();
    assert_eq!(index.stats().rows, model.0.len());
    let mut rng = Rng::new(22);
    let mut approximate = [0, 0];
    for _ in 0..50 {
        let probe = rng.unit(DIM);
        model.check_exact(&probe, 30, &index.search(&probe, 30, SearchMode::Exact).unwrap().hits);
        for (mode, kind, count) in [(SearchMode::Ann, IndexKind::Ann, 0), (SearchMode::Cascade, IndexKind::Cascade, 1)]
        {
            let answer = index.search(&probe, 5, mode).unwrap();
            approximate[count] += usize::from(answer.kind == kind);
            model.check_hits(&probe, &answer.hits);
        }
    }
    assert!(approximate.iter().all(|count| *count > 0), "{approximate:?}");
}

fn write(index: &GalleryIndex, gone: &RwLock<HashSet<SubjectId>>) -> Model {
    let mut rng = Rng::new(20);
    let mut model = Model::default();
    let mut mortals = 0;
    for step in 0..OPERATIONS {
        let subject = rng.below(500);
        let face = Some(rng.below(3));
        match rng.below(10) {
            0 => {
                let key = key(subject, face);
                assert_eq!(index.remove(&key), model.0.remove(&key).is_some());
            }
            1 => {
                let subject = key(subject, None).subject;
                assert_eq!(index.remove_subject(&subject), model.remove_subject(&subject));
            }
            2 => {
                mortals += 1;
                let mortal = key(MORTAL + mortals, face);
                let vector = rng.unit(DIM);
                index.upsert(mortal.clone(), &vector).unwrap();
                model.0.insert(mortal, vector);
            }
            3 if mortals > 0 => {
                let mortal = key(MORTAL + 1 + rng.below(mortals), None).subject;
                assert_eq!(index.remove_subject(&mortal), model.remove_subject(&mortal));
                // Once it is gone it must not be added again, and it is not: its number was used.
                gone.write().unwrap().insert(mortal);
            }
            4 => {
                let rows: Vec<_> = (0..20).map(|_| (key(rng.below(500), face), rng.unit(DIM))).collect();
                assert_eq!(index.extend(rows.clone()).unwrap(), 20);
                model.0.extend(rows);
            }
            _ => {
                let vector = rng.unit(DIM);
                index.upsert(key(subject, face), &vector).unwrap();
                model.0.insert(key(subject, face), vector);
            }
        }
        if step % 400 == 399 {
            // On a busy machine all writes could be done before the background thread comes to its turn.
            while index.maintenance().is_due() {
                std::thread::yield_now();
            }
        }
        if step % 8 == 0 {
            let probe = rng.unit(DIM);
            let mode = if step % 16 == 0 { SearchMode::Exact } else { SearchMode::Auto };
            let answer = index.search(&probe, 10, mode).unwrap();
            match answer.kind {
                IndexKind::Exact => model.check_exact(&probe, 10, &answer.hits),
                IndexKind::Cascade | IndexKind::Ann => model.check_hits(&probe, &answer.hits),
            }
        }
    }
    model
}
