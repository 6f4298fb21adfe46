//! How long a durable commit of one face takes alone, and how many a second 16 writers get through together; how long
//! it takes to read a gallery of 200,000 faces from start to end.
//!
//! Vectors are random unit vectors of 512 values from a fixed seed, without crops. The store lies in the folder that
//! `VULTUS_BENCH_FOLDER` names, or else in the system's folder for temporary files: what is measured is its disk.
//!
//! ```text
//! cargo bench -p vultus-engine --bench store
//! ```

use std::hint::black_box;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use uuid::Uuid;
use vultus_engine::ids::{FaceId, GalleryId, MediaId, ModelId, SubjectId};
use vultus_engine::store::sled::SledStore;
use vultus_engine::store::{
    Consent, Face, FaceSource, Gallery, GalleryKind, Guards, Operation, Store, StoredFace, Subject, Thresholds,
};

const DIM: u32 = 512;
const WRITERS: u64 = 16;
const SCANNED: u64 = 200_000;

fn gallery_id() -> GalleryId {
    GalleryId::try_from("bench").expect("a valid id")
}

/// Four faces a subject.
fn subject_id(number: u64) -> SubjectId {
    SubjectId::try_from(format!("subject-{:08}", number / 4)).expect("a valid id")
}

/// Enrols a face, with its subject where that is new.
fn enrol(number: u64) -> [Operation; 2] {
    let now = Timestamp::UNIX_EPOCH;
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut embedding: Vec<f32> = (0..DIM)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    let norm = embedding.iter().map(|value| value * value).sum::<f32>().sqrt();
    embedding.iter_mut().for_each(|value| *value /= norm);
    let subject = subject_id(number);
    let id = Uuid::from_u128(u128::from(number) << 64 | u128::from(state));
    let face = Face {
        id: FaceId(id),
        subject: subject.clone(),
        media: MediaId::try_from(id.to_string()).expect("a valid id"),
        source: FaceSource::Embedding,
        norm: 25.0,
        quality: 0.5,
        bbox: None,
        landmarks: None,
        detection_score: None,
        picture: None,
        overrides: Vec::new(),
        created_at: now,
    };
    let record = Subject {
        id: subject,
        labels: Vec::new(),
        metadata: "{}".to_owned(),
        expires_at: None,
        consent: Consent::NotRecorded,
        created_at: now,
        updated_at: now,
        revision: 0,
    };
    [
        Operation::EnsureSubject { gallery: gallery_id(), subject: record },
        Operation::AddFace { gallery: gallery_id(), face: StoredFace { face, embedding, style: None }, crop: None },
    ]
}

fn commit(store: &SledStore, operations: &[Operation]) {
    store.commit(Timestamp::UNIX_EPOCH, operations).expect("the store works");
}

fn open() -> (tempfile::TempDir, SledStore) {
    let folder = match std::env::var_os("VULTUS_BENCH_FOLDER") {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    };
    let folder = folder.expect("a folder can be made");
    let store = SledStore::open(folder.path()).expect("the store opens");
    let gallery = Gallery {
        id: gallery_id(),
        kind: GalleryKind::Consolidated,
        model_id: ModelId("bench".to_owned()),
        dim: DIM,
        fusion: None,
        thresholds: Thresholds::default(),
        guards: Guards::default(),
        min_quality: None,
        keep_crops: false,
        label: None,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        revision: 0,
    };
    commit(&store, &[Operation::CreateGallery(gallery)]);
    (folder, store)
}

fn commits(criterion: &mut Criterion) {
    let (_folder, store) = open();
    let mut group = criterion.benchmark_group("durable_commit");
    group.sample_size(20);
    let mut next = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("alone", |bencher| {
        bencher.iter(|| {
            commit(&store, &enrol(next));
            next += 1;
        });
    });
    // The time is that of one commit where 16 threads make theirs at once: wall time over all commits.
    let before = (store.syncs(), next);
    group.bench_function("of_16_writers", |bencher| {
        bencher.iter_custom(|rounds| {
            let each = rounds.div_ceil(WRITERS);
            let first = next;
            next += each * WRITERS;
            let start = Instant::now();
            std::thread::scope(|scope| {
                for writer in 0..WRITERS {
                    let (store, first) = (&store, first + writer * each);
                    scope.spawn(move || (first..first + each).for_each(|number| commit(store, &enrol(number))));
                }
            });
            let wall = start.elapsed();
            Duration::from_secs_f64(wall.as_secs_f64() * rounds as f64 / (each * WRITERS) as f64)
        });
    });
    group.finish();
    let (syncs, commits) = (store.syncs() - before.0, next - before.1);
    println!("16 writers: {commits} commits in {syncs} syncs");
}

fn scan(criterion: &mut Criterion) {
    let (_folder, store) = open();
    for first in (0..SCANNED).step_by(1000) {
        let operations: Vec<Operation> = (first..first + 1000).flat_map(enrol).collect();
        commit(&store, &operations);
    }
    let bytes = store.size_on_disk().expect("the store works");
    println!("{SCANNED} faces of {DIM} values take {bytes} bytes, {} a face", bytes / SCANNED);
    let mut group = criterion.benchmark_group("scan");
    group.sample_size(10).throughput(Throughput::Elements(SCANNED));
    group.bench_function("200k_faces", |bencher| {
        bencher.iter(|| {
            let mut faces = 0_u64;
            let visited = store.scan_faces(&gallery_id(), &mut |face| {
                black_box(&face);
                faces += 1;
                ControlFlow::Continue(())
            });
            visited.expect("the store works");
            assert_eq!(faces, SCANNED);
        });
    });
    group.finish();
}

criterion_group!(benches, commits, scan);
criterion_main!(benches);
