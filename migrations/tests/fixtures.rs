//! Databases that earlier versions left are brought to the current one, and the frozen structures read them.

use std::path::Path;

use vultus_migrations::{
    Prepared, SCHEMA_VERSION, prepare, v0001_initial as v1, v0002_feature_sets as v2, v0003_decisions as v3,
};

/// A copy of a fixture: opening changes it.
fn copy_of(version: &str) -> tempfile::TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(version);
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> T {
    let (record, rest) = postcard::take_from_bytes(bytes).unwrap();
    assert!(rest.is_empty());
    record
}

#[test]
fn version_1() {
    let folder = copy_of("v0001");
    let db = sled::open(folder.path()).unwrap();
    let rows = |tree: &str| -> Vec<(Vec<u8>, Vec<u8>)> {
        let tree = db.open_tree(tree).unwrap();
        tree.iter().map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
    };
    let (stamp, next) = (rows("meta").pop().unwrap(), rows("meta").remove(0));
    assert_eq!(stamp, (b"schema_version".to_vec(), 1_u32.to_le_bytes().to_vec()));
    assert_eq!(next, (b"next_gallery".to_vec(), 4_u64.to_le_bytes().to_vec()));
    assert!(v1::TREES.iter().all(|tree| db.tree_names().iter().any(|name| name == tree.as_bytes())));

    let galleries = rows("galleries");
    let ids: Vec<&[u8]> = galleries.iter().map(|(id, _)| id.as_slice()).collect();
    assert_eq!(ids, [&b"events"[..], b"people"]);
    let people: v1::Gallery = read(&galleries[1].1);
    assert_eq!((people.key, people.dim, people.label.as_deref()), (1, 8, Some("Renamed")));
    assert_eq!(people.fusion, Some(v1::Fusion { rule: v1::FusionRule::SoftmaxQuality, tau: 0.5 }));
    assert_eq!(people.created_at, v1::Time { second: 1_700_000_000, nanosecond: 500_000_000 });
    let events: v1::Gallery = read(&galleries[0].1);
    assert_eq!((events.key, events.kind, events.fusion), (2, v1::GalleryKind::Events, None));

    let counts: Vec<v1::Counts> = rows("counts").iter().map(|(_, value)| read(value)).collect();
    assert_eq!((counts[0].subjects, counts[0].faces), (3, 5));

    let subjects = rows("subjects");
    assert_eq!(subjects[1].0, [&1_u64.to_be_bytes()[..], b"subject-1"].concat());
    assert_eq!(subjects[2].1.len(), v1::PIECE_BYTES);
    let overflow = db.open_tree("overflow").unwrap();
    let mut whole = subjects[2].1.clone();
    for piece in 1..=2_u32 {
        let key = [&[3], &subjects[2].0[..], &piece.to_be_bytes()].concat();
        whole.extend_from_slice(&overflow.get(key).unwrap().unwrap());
    }
    let long: v1::Subject = read(&whole);
    assert_eq!(long.metadata, format!("{{\"note\":\"{}\"}}", "n".repeat(10_000)));
    assert_eq!(long.labels, ["Label 2", "ü"]);

    let (faces, vectors) = (rows("faces"), rows("vectors"));
    let keys = |rows: &[(Vec<u8>, Vec<u8>)]| rows.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    assert_eq!(keys(&faces), keys(&vectors));
    assert_eq!(faces[1].0, [&1_u64.to_be_bytes()[..], b"subject-1\0", &10_u128.to_be_bytes()].concat());
    let face: v1::Face = read(&faces[4].1);
    assert_eq!((face.media.as_str(), face.source, face.norm), ("photo 22.jpg", v1::FaceSource::Crop, 42.0));
    let face: v1::Face = read(&faces[3].1);
    assert_eq!((face.source, face.bbox), (v1::FaceSource::Photo, Some([1.0, 2.0, 101.5, 120.0])));
    assert_eq!(vectors[4].1, [0.0_f32, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0].map(f32::to_le_bytes).concat());
    assert_eq!(rows("crops").len(), 4);
    assert_eq!(rows("face_subjects").len(), 5);

    let changes = rows("changes");
    assert_eq!(changes.len(), 15);
    assert!(changes.iter().zip(1_u64..).all(|((key, _), seq)| *key == seq.to_be_bytes()));
    let change: v1::Change = read(&changes[13].1);
    assert_eq!(change.kind, v1::ChangeKind::FaceDeleted("subject-1".to_owned(), 11_u128.to_be_bytes()));
    let change: v1::Change = read(&changes[14].1);
    assert_eq!((change.gallery.as_str(), change.kind), ("gone", v1::ChangeKind::GalleryDeleted));

    assert_eq!(rows("answers")[0].0, [5; 32]);
    assert_eq!(rows("answers_by_time")[0].0[..8], (1_700_000_000_u64 | 1 << 63).to_be_bytes());

    assert_eq!(prepare(&db, folder.path()).unwrap(), Prepared { from: Some(1), to: SCHEMA_VERSION });
}

#[test]
fn version_2() {
    let folder = copy_of("v0002");
    let db = sled::open(folder.path()).unwrap();
    let rows = |tree: &str| -> Vec<(Vec<u8>, Vec<u8>)> {
        let tree = db.open_tree(tree).unwrap();
        tree.iter().map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
    };
    assert!(v2::TREES.iter().all(|tree| db.tree_names().iter().any(|name| name == tree.as_bytes())));
    let sets = rows("sets");
    assert_eq!(sets[0].0, 1_u64.to_be_bytes());
    let standby = v2::Standby { set: 4, migration: 1_u128.to_be_bytes() };
    assert_eq!(read::<v2::Sets>(&sets[0].1), v2::Sets { in_use: 1, standby: Some(standby) });
    let migrations = rows("migrations");
    assert_eq!(migrations[0].0, [&1_u64.to_be_bytes()[..], &1_u128.to_be_bytes()].concat());
    let migration: v2::Migration = read(&migrations[0].1);
    assert_eq!((migration.stage, migration.standby_faces), (v2::Stage::Embedding, 2));
    assert_eq!((migration.from.dim, migration.to.dim, migration.to.threshold), (8, 4, Some(0.4)));
    let measures = rows("measures");
    assert_eq!(measures.len(), 2);
    assert_eq!(measures[1].0, [&4_u64.to_be_bytes()[..], b"subject-1\0", &10_u128.to_be_bytes()].concat());
    let measures: v2::Measures = read(&measures[1].1);
    assert_eq!((measures.norm, measures.quality), (5.0, 0.25));
    assert_eq!(measures.style.unwrap().values, [0.25; 64]);
    assert_eq!(rows("vectors").len(), 7);
    assert_eq!(prepare(&db, folder.path()).unwrap(), Prepared { from: Some(2), to: SCHEMA_VERSION });
}

/// A record and what follows on it, if anything does.
fn read_both<R: serde::de::DeserializeOwned, M: serde::de::DeserializeOwned + Default>(bytes: &[u8]) -> (R, M) {
    let (record, rest) = postcard::take_from_bytes(bytes).unwrap();
    (record, if rest.is_empty() { M::default() } else { read(rest) })
}

#[test]
fn version_3() {
    let folder = copy_of("v0003");
    let db = sled::open(folder.path()).unwrap();
    let rows = |tree: &str| -> Vec<(Vec<u8>, Vec<u8>)> {
        let tree = db.open_tree(tree).unwrap();
        tree.iter().map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).unwrap()).collect()
    };
    assert!(v3::TREES.iter().all(|tree| db.tree_names().iter().any(|name| name == tree.as_bytes())));
    let galleries = rows("galleries");
    let (people, more): (v1::Gallery, v3::GalleryMore) = read_both(&galleries[1].1);
    assert_eq!((people.threshold, more.thresholds.review), (Some(0.3), Some(v3::Threshold::Fpir(0.01))));
    assert_eq!((more.wrong_person, more.duplicate_subject), (v3::Guard::Score(0.125), v3::Guard::Off));
    assert_eq!((more.robust, more.cap), (true, Some(-1.0)));
    let (_, usual): (v1::Gallery, v3::GalleryMore) = read_both(&galleries[0].1);
    assert_eq!(usual, v3::GalleryMore::default());
    // Its record spans two pieces.
    let subject = rows("subjects").swap_remove(1);
    let piece = [&[3], &subject.0[..], &1_u32.to_be_bytes()].concat();
    let whole = [&subject.1[..], &db.open_tree("overflow").unwrap().get(piece).unwrap().unwrap()].concat();
    let (_, more): (v1::Subject, v3::SubjectMore) = read_both(&whole);
    assert_eq!((more.consent, more.expires_at.is_some()), (v3::Consent::Granted, true));
    let faces = rows("faces");
    let (_, more): (v1::Face, v3::FaceMore) = read_both(&faces[3].1);
    assert_eq!((more.picture, more.overrides.len()), (Some([21; 16]), 2));
    // Face 10 moved, with all that is kept of it.
    let moved = [&1_u64.to_be_bytes()[..], b"subject-0\0", &10_u128.to_be_bytes()].concat();
    assert_eq!(faces[1].0, moved);
    assert!(rows("crops").iter().any(|(key, _)| *key == moved));
    assert!(rows("measures").iter().any(|(key, _)| key[8..] == moved[8..] && key[..8] == 4_u64.to_be_bytes()));
    let documents = rows("documents");
    assert_eq!(documents[0].0, [&1_u64.to_be_bytes()[..], &[3], b"one"].concat());
    assert_eq!(documents[1], ([&v3::NO_GALLERY.to_be_bytes()[..], &[3], b"two"].concat(), b"{}".to_vec()));
    assert_eq!(prepare(&db, folder.path()).unwrap(), Prepared { from: Some(3), to: SCHEMA_VERSION });
}
