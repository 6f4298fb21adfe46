//! One suite of tests for every implementation of [`Store`], and what tests of the store build their data from.
//!
//! [`conformance!`] makes a module of tests out of a function that opens an empty store. [`dump`] reads all that a store
//! shows; two stores that went through the same writes have equal dumps.

mod atomic;
mod documents;
mod galleries;
mod migrations;
mod random;
mod reading;
mod subjects;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::face::{BoundingBox, Landmarks, Style};
use crate::ids::{MediaId, ModelId};
use crate::template::{Fusion, FusionRule};

/// Length of the embeddings of [`gallery`].
pub(super) const DIM: u32 = 8;

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::new(1_700_000_000 + second, 250_000_000).unwrap()
}

pub(super) fn gid(id: &str) -> GalleryId {
    GalleryId::try_from(id).unwrap()
}

pub(super) fn sid(id: &str) -> SubjectId {
    SubjectId::try_from(id).unwrap()
}

pub(super) fn fid(number: u128) -> FaceId {
    FaceId(Uuid::from_u128(number))
}

pub(super) fn gallery(id: &str) -> Gallery {
    Gallery {
        id: gid(id),
        kind: GalleryKind::Consolidated,
        model_id: ModelId("synthetic-0123456789abcdef".to_owned()),
        dim: DIM,
        fusion: Some(Fusion::new(FusionRule::SoftmaxQuality, 0.5)),
        thresholds: score(0.25),
        min_quality: None,
        guards: Guards::default(),
        keep_crops: true,
        label: Some("Prüfung".to_owned()),
        created_at: at(0),
        updated_at: at(0),
        revision: 0,
    }
}

pub(super) fn subject(id: &str) -> Subject {
    Subject {
        id: sid(id),
        labels: vec!["one".to_owned(), "zwei".to_owned()],
        metadata: r#"{"n":1}"#.to_owned(),
        expires_at: None,
        consent: Consent::NotRecorded,
        created_at: at(1),
        updated_at: at(1),
        revision: 0,
    }
}

/// A face of a subject whose vector follows from its number.
pub(super) fn face(subject: &str, number: u128) -> StoredFace {
    let source = [FaceSource::Photo, FaceSource::Crop, FaceSource::Embedding][(number % 3) as usize];
    let photo = source == FaceSource::Photo;
    let n = number as f32;
    StoredFace {
        face: Face {
            id: fid(number),
            subject: sid(subject),
            media: MediaId::try_from(format!("photo {number}.jpg")).unwrap(),
            source,
            norm: 20.0 + n,
            quality: 1.0 / (1.0 + n),
            bbox: photo.then_some(BoundingBox { x1: -1.5, y1: 2.0, x2: 100.25, y2: 130.0 }),
            landmarks: photo.then_some(Landmarks([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, n]])),
            detection_score: photo.then_some(0.9),
            picture: (number >= 4).then_some(PictureId([number as u8; 16])),
            overrides: overrides(number),
            created_at: at(2),
        },
        embedding: vector(number, DIM),
        style: style(number),
    }
}

/// Checks that were overridden, which few faces have.
pub(super) fn overrides(number: u128) -> Vec<Override> {
    let of = |check, subject| Override { check, value: 0.25, required: 0.5, subject };
    match number {
        5 => vec![of(Check::Quality, None), of(Check::DuplicateSubject, Some(sid("twin")))],
        6 => vec![of(Check::WrongPerson, None)],
        _ => Vec::new(),
    }
}

/// A score from which on a candidate is a match.
pub(super) fn score(score: f32) -> Thresholds {
    Thresholds { matching: Some(ThresholdSetting::Score(score)), review: None }
}

/// A document of a gallery.
pub(super) fn put_document(gallery: Option<&str>, collection: Collection, id: &[u8], body: Vec<u8>) -> Operation {
    let key = DocumentKey { gallery: gallery.map(gid), collection, id: id.to_vec() };
    Operation::PutDocument { key, body }
}

/// The style of a face, which every third has not.
pub(super) fn style(number: u128) -> Option<Style> {
    let network = (number as u64).to_le_bytes();
    (!number.is_multiple_of(3)).then(|| Style { network, values: vector(number + 1000, 64) })
}

/// A unit vector that follows from a seed.
pub(super) fn vector(seed: u128, dim: u32) -> Vec<f32> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let raw: Vec<f32> = (0..dim)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    let norm = raw.iter().map(|value| value * value).sum::<f32>().sqrt();
    raw.iter().map(|value| value / norm).collect()
}

pub(super) fn answer(created_s: i64, body: Vec<u8>) -> StoredAnswer {
    StoredAnswer {
        request_hash: [7; 32],
        status: 201,
        content_type: "application/json".to_owned(),
        location: Some("/v1/somewhere".to_owned()),
        etag: None,
        body,
        created_s,
    }
}

pub(super) fn create_gallery(id: &str) -> Operation {
    Operation::CreateGallery(gallery(id))
}

pub(super) fn create_subject(gallery: &str, id: &str) -> Operation {
    Operation::CreateSubject { gallery: gid(gallery), subject: subject(id) }
}

pub(super) fn add_face(gallery: &str, subject: &str, number: u128) -> Operation {
    Operation::AddFace { gallery: gid(gallery), face: face(subject, number), crop: Some(crop(number)) }
}

/// A crop whose length differs with the number: none, short, around and above the length of a piece.
pub(super) fn crop(number: u128) -> Vec<u8> {
    let length = [0, 100, 4095, 4096, 4097, 8192, 30_000][(number % 7) as usize];
    (0..length).map(|i| (i as u128 * 31 + number) as u8).collect()
}

/// A migration to a model with embeddings of `dim` values.
pub(super) fn migration(number: u128, dim: u32) -> Migration {
    let side = |name: &str, dim, thresholds| Side { model_id: ModelId(name.to_owned()), dim, thresholds };
    Migration {
        id: MigrationId(Uuid::from_u128(number)),
        from: side("synthetic-0123456789abcdef", DIM, score(0.25)),
        to: side("other-fedcba9876543210", dim, score(0.5)),
        stage: Stage::Embedding,
        standby_faces: 0,
        failure: None,
        report: None,
        created_at: at(0),
        updated_at: at(0),
    }
}

pub(super) fn delete_gallery(gallery: &str) -> Operation {
    Operation::DeleteGallery { gallery: gid(gallery), expected: None }
}

pub(super) fn delete_subject(gallery: &str, id: &str) -> Operation {
    Operation::DeleteSubject { gallery: gid(gallery), subject: sid(id), expected: None }
}

pub(super) fn delete_face(gallery: &str, subject: &str, number: u128) -> Operation {
    Operation::DeleteFace { gallery: gid(gallery), subject: sid(subject), face: fid(number) }
}

/// All faces of a gallery in the order of the scan.
pub(super) fn scan(store: &dyn Store, gallery: &GalleryId) -> Vec<StoredFace> {
    let mut faces = Vec::new();
    let visited = store.scan_faces(gallery, &mut |face| {
        faces.push(face);
        ControlFlow::Continue(())
    });
    visited.unwrap();
    faces
}

/// All that a store shows.
#[derive(Debug, PartialEq)]
pub(super) struct Dump {
    galleries: BTreeMap<GalleryId, GalleryDump>,
    documents: Vec<(Collection, Document)>,
    changes: Vec<Change>,
    last_seq: u64,
}

#[derive(Debug, PartialEq)]
struct GalleryDump {
    gallery: Gallery,
    counts: GalleryCounts,
    subjects: Vec<(Subject, Vec<StoredFace>)>,
    crops: Vec<(FaceId, Option<Vec<u8>>)>,
    migrations: Vec<Migration>,
    documents: Vec<(Collection, Document)>,
    standby: Vec<StandbyFace>,
}

fn documents(store: &dyn Store, gallery: Option<&GalleryId>) -> Vec<(Collection, Document)> {
    let mut all = Vec::new();
    for collection in Collection::ALL {
        for (id, body) in store.documents(gallery, collection, &[], None, usize::MAX).unwrap() {
            let key = DocumentKey { gallery: gallery.cloned(), collection, id: id.clone() };
            assert_eq!(store.document(&key).unwrap().as_ref(), Some(&body));
            all.push((collection, (id, body)));
        }
    }
    all
}

/// Reads everything through the trait, in more than one way where there is one, and checks the store.
pub(super) fn dump(store: &dyn Store) -> Dump {
    let mut galleries = BTreeMap::new();
    for gallery in store.galleries().unwrap() {
        let id = gallery.id.clone();
        assert_eq!(store.gallery(&id).unwrap().as_ref(), Some(&gallery));
        let scanned = scan(store, &id);
        let subjects: Vec<(Subject, Vec<StoredFace>)> = store
            .subjects(&id, None, usize::MAX)
            .unwrap()
            .into_iter()
            .map(|subject| {
                assert_eq!(store.subject(&id, &subject.id).unwrap().as_ref(), Some(&subject));
                let faces = store.faces(&id, &subject.id).unwrap();
                (subject, faces)
            })
            .collect();
        let of_subjects: Vec<StoredFace> = subjects.iter().flat_map(|(_, faces)| faces.clone()).collect();
        assert_eq!(of_subjects, scanned, "subject after subject, by face id");
        let mut crops = Vec::new();
        for face in &scanned {
            assert_eq!(store.face(&id, face.face.id).unwrap().as_ref(), Some(face));
            crops.push((face.face.id, store.crop(&id, face.face.id).unwrap()));
        }
        let counts = store.counts(&id).unwrap();
        assert_eq!((counts.subjects, counts.faces), (subjects.len() as u64, scanned.len() as u64));
        let migrations = store.migrations(&id).unwrap();
        let mut standby = Vec::new();
        let visited = store.scan_standby(&id, &mut |face| {
            standby.push(face);
            ControlFlow::Continue(())
        });
        visited.unwrap();
        let of_subjects: Vec<StoredFace> =
            subjects.iter().flat_map(|(subject, _)| store.standby_faces(&id, &subject.id).unwrap()).collect();
        assert_eq!(of_subjects, standby.iter().filter_map(|face| face.stored.clone()).collect::<Vec<_>>());
        let counted = migrations.iter().find(|migration| !migration.stage.is_ended()).map_or(0, |m| m.standby_faces);
        assert_eq!(counted, of_subjects.len() as u64);
        let documents = documents(store, Some(&id));
        galleries.insert(id, GalleryDump { gallery, counts, subjects, crops, migrations, documents, standby });
    }
    let changes = store.changes(0, usize::MAX).unwrap();
    let last_seq = store.last_seq().unwrap();
    let numbers: Vec<u64> = changes.iter().map(|change| change.seq).collect();
    assert_eq!(numbers, (1..=last_seq).collect::<Vec<_>>(), "no number is left out");
    let report = store.check().unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.sequence, (last_seq > 0).then_some((1, last_seq)));
    assert_eq!(report.changes, last_seq);
    assert_eq!(report.galleries, galleries.len() as u64);
    assert_eq!(report.subjects, galleries.values().map(|dump: &GalleryDump| dump.counts.subjects).sum::<u64>());
    assert_eq!(report.faces, galleries.values().map(|dump| dump.counts.faces).sum::<u64>());
    Dump { galleries, documents: documents(store, None), changes, last_seq }
}

/// Commits at the time of the next change.
pub(super) fn commit(store: &dyn Store, operations: &[Operation]) -> Result<Committed, StoreError> {
    store.commit(at(store.last_seq()? as i64), operations)
}

/// A module of tests for one implementation. `$open` makes an empty store and what keeps its files.
macro_rules! conformance {
    ($name:ident, $open:expr) => {
        mod $name {
            conformance!(@tests $open, galleries: create_read_update_delete, refusals, counts_and_revisions,
                deleted_galleries_leave_nothing_to_the_next);
            conformance!(@tests $open, subjects: create_read_update_delete, refusals, ensure, faces, face_refusals,
                deleting_takes_faces_along, faces_move, a_subject_is_restored);
            conformance!(@tests $open, documents: put_read_remove, in_pages, refusals);
            conformance!(@tests $open, atomic: a_refused_write_leaves_nothing, operations_see_those_before_them,
                writes_without_changes);
            conformance!(@tests $open, migrations: there_and_back, refusals, faces_come_and_go, ending_drops_the_standby,
                a_refused_write_leaves_the_sets);
            conformance!(@tests $open, reading: order_and_pages, scans_can_stop, changes_in_pages, missing_galleries,
                answers, long_values, writers_and_readers_at_once);
        }
    };
    (@tests $open:expr, $group:ident: $($test:ident),+) => {
        mod $group {
            $(
                #[test]
                fn $test() {
                    let (_files, store) = $open();
                    crate::store::suite::$group::$test(&store);
                }
            )+
        }
    };
}

conformance!(memory, || ((), crate::store::memory::MemoryStore::new()));
conformance!(sled, || {
    let folder = tempfile::tempdir().unwrap();
    let store = crate::store::sled::SledStore::open(folder.path()).unwrap();
    (folder, store)
});
