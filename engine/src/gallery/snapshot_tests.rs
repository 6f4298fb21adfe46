//! Starts that read an index where the last run left it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{Timestamp, ToSpan};

use super::*;
use crate::align::AlignedCrop;
use crate::face::Feature;
use crate::ids::{FaceId, MediaId};
use crate::index::{IndexConfig, SearchMode};
use crate::model::{ImpostorScores, ModelSource, ServedModel};
use crate::quality::NormStats;
use crate::random::Random;
use crate::store::memory::MemoryStore;
use crate::store::{Consent, FaceSource, GalleryKind};
use crate::template::{FusionRequest, FusionRule};

const DIM: usize = 16;
const SUBJECTS: u64 = 60;

struct Source;

impl ModelSource for Source {
    fn model(&self, _: &ModelId) -> Result<Arc<ServedModel>, ModelUnavailable> {
        Ok(model())
    }

    fn embed(&self, _: &ModelId, _: Vec<AlignedCrop>) -> Result<Vec<Option<Feature>>, ModelUnavailable> {
        unreachable!("nothing is embedded")
    }
}

fn model() -> Arc<ServedModel> {
    Arc::new(ServedModel {
        id: ModelId("m".to_owned()),
        dim: DIM,
        norm_stats: NormStats { mean: 20.0, std: 2.0 },
        fusion: FusionRule::Mean.into(),
        threshold: 0.5,
        impostors: ImpostorScores::default(),
        network: None,
    })
}

fn gid() -> GalleryId {
    GalleryId::try_from("g").unwrap()
}

fn sid(number: u64) -> SubjectId {
    SubjectId::try_from(format!("s{number}")).unwrap()
}

fn unit(seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let vector: Vec<f32> = (0..DIM).map(|_| random.normal() as f32).collect();
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter().map(|value| value / length).collect()
}

/// A run of a database. `min_interval` says whether it writes snapshots after its first one.
fn open(store: &Arc<MemoryStore>, folder: &Path, min_interval: Duration) -> Arc<Database> {
    let snapshots = SnapshotConfig { min_rows: 10, min_interval, ..SnapshotConfig::new(folder.to_owned()) };
    let index = IndexConfig { graph_min_rows: 30, ..IndexConfig::default() };
    let config = DatabaseConfig { model: model(), review: None, index, snapshots: Some(snapshots) };
    Database::open(store.clone(), Arc::new(Source), config).unwrap()
}

const NEVER: Duration = Duration::from_secs(3600);

fn enrol(database: &Database, subject: u64, seed: u64) -> FaceId {
    let face = NewFace {
        feature: Feature { embedding: unit(seed), norm: 20.0, style: None },
        media: MediaId::try_from(format!("photo {seed}")).unwrap(),
        source: FaceSource::Embedding,
        bbox: None,
        landmarks: None,
        detection_score: None,
        picture: None,
        overrides: Vec::new(),
        crop: None,
    };
    database.enrol(&gid(), &sid(subject), &model().id, vec![face]).unwrap().faces[0].id
}

/// Everybody, best first, with scores.
fn everybody(database: &Database) -> Vec<(String, f32, Option<FaceId>)> {
    let result = database.search(&gid(), &model().id, &unit(9_999), &SearchQuery::plain(1_000)).unwrap();
    result.candidates.into_iter().map(|found| (found.subject.to_string(), found.score, found.face)).collect()
}

fn counts(database: &Database) -> (u64, u64) {
    let SnapshotCounts { read, refused, .. } = database.snapshot_counts();
    (read.load(Ordering::Relaxed), refused.load(Ordering::Relaxed))
}

fn wait_for_snapshots(database: &Database, count: u64) {
    for _ in 0..1_000 {
        if database.snapshot_counts().written.load(Ordering::Relaxed) >= count {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no snapshot was written");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect()
}

/// A store with a gallery of which there is a snapshot.
fn kept(kind: GalleryKind, folder: &Path) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    let database = open(&store, folder, NEVER);
    database.create_gallery(gid(), kind, None, GallerySettings::default()).unwrap();
    for subject in 0..SUBJECTS {
        enrol(&database, subject, subject);
    }
    // The first one may have been written while they came.
    drop(database);
    files(folder).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let database = open(&store, folder, NEVER);
    wait_for_snapshots(&database, 1);
    store
}

#[test]
fn a_start_reads_the_snapshot_and_what_has_changed_since() {
    for kind in [GalleryKind::Consolidated, GalleryKind::Events] {
        let folder = tempfile::tempdir().unwrap();
        let store = kept(kind, folder.path());
        let database = open(&store, folder.path(), NEVER);
        assert_eq!(counts(&database), (1, 0));
        let rows = everybody(&database);
        assert_eq!(rows.len(), SUBJECTS as usize);
        // All kinds of changes, none of which is in the snapshot.
        let added = enrol(&database, 3, 1_003);
        enrol(&database, 1_000, 2_000);
        database.delete_subject(&gid(), &sid(5), None).unwrap();
        database.delete_face(&gid(), &sid(3), added).unwrap();
        enrol(&database, 4, 1_004);
        let consent = SubjectSettings { consent: Consent::Withdrawn, ..SubjectSettings::default() };
        database.update_subject(&gid(), &sid(6), consent, None).unwrap();
        database.merge(&gid(), &sid(8), &sid(9), true).unwrap();
        let soon = Timestamp::now().checked_add(50.milliseconds()).unwrap();
        let expiring = SubjectSettings { expires_at: Some(soon), ..SubjectSettings::default() };
        database.update_subject(&gid(), &sid(7), expiring, None).unwrap();
        std::thread::sleep(Duration::from_millis(80));
        let expected = everybody(&database);
        assert_ne!(expected, rows);
        drop(database);
        let again = open(&store, folder.path(), NEVER);
        assert_eq!(counts(&again), (1, 0));
        assert_eq!(everybody(&again), expected);
        let anew = Database::open(
            store.clone(),
            Arc::new(Source),
            DatabaseConfig { model: model(), review: None, index: IndexConfig::default(), snapshots: None },
        );
        assert_eq!(everybody(&anew.unwrap()), expected);
    }
}

#[test]
fn what_is_not_of_this_gallery_or_not_whole_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let store = kept(GalleryKind::Consolidated, folder.path());
    let [path] = &files(folder.path())[..] else { panic!("one file") };
    let whole = std::fs::read(path).unwrap();
    let expected = everybody(&open(&store, folder.path(), NEVER));
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 4;
    for bytes in [&damaged, &whole[..whole.len() - 9], b""] {
        std::fs::write(path, bytes).unwrap();
        let database = open(&store, folder.path(), NEVER);
        assert_eq!((counts(&database), everybody(&database)), ((0, 1), expected.clone()));
    }
    // A store with another history: as a backup of before would be.
    let other = Arc::new(MemoryStore::new());
    let database = open(&other, folder.path(), NEVER);
    database.create_gallery(gid(), GalleryKind::Consolidated, None, GallerySettings::default()).unwrap();
    for subject in 0..SUBJECTS + 20 {
        enrol(&database, subject, subject + 500);
    }
    let others = everybody(&database);
    drop(database);
    std::fs::write(path, &whole).unwrap();
    let database = open(&other, folder.path(), NEVER);
    assert_eq!((counts(&database), everybody(&database)), ((0, 1), others));
    drop(database);
    // Another rule makes other templates.
    std::fs::write(path, &whole).unwrap();
    let database = open(&store, folder.path(), NEVER);
    assert_eq!(counts(&database), (1, 0));
    let fusion = Some(FusionRequest { rule: FusionRule::Norm, ..FusionRequest::from(FusionRule::Norm) });
    database.update_gallery(&gid(), GallerySettings { fusion, ..GallerySettings::default() }, None).unwrap();
    drop(database);
    std::fs::write(path, &whole).unwrap();
    assert_eq!(counts(&open(&store, folder.path(), NEVER)), (0, 1));
}

#[test]
fn what_was_removed_leaves_the_file_and_galleries_take_theirs_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = kept(GalleryKind::Consolidated, folder.path());
    let [path] = &files(folder.path())[..] else { panic!("one file") };
    let holds = |subject: u64| {
        let name = format!("s{subject}");
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(name.len()).any(|window| window == name.as_bytes())
    };
    assert!(holds(42));
    std::fs::write(folder.path().join(".snapshot-cut-off"), "x").unwrap();
    let database = open(&store, folder.path(), Duration::ZERO);
    assert_eq!(files(folder.path()).len(), 1);
    database.delete_subject(&gid(), &sid(42), None).unwrap();
    wait_for_snapshots(&database, 1);
    assert!(!holds(42));
    database.delete_gallery(&gid(), None).unwrap();
    assert!(files(folder.path()).is_empty());
}

#[test]
fn another_rule_gets_another_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let store = kept(GalleryKind::Consolidated, folder.path());
    let database = open(&store, folder.path(), Duration::ZERO);
    for subject in 0..SUBJECTS {
        enrol(&database, subject, subject + 3_000);
    }
    wait_for_snapshots(&database, 1);
    let written = database.snapshot_counts().written.load(Ordering::Relaxed);
    // The new index counts its changes from its own beginning.
    let fusion = Some(FusionRequest::from(FusionRule::Norm));
    database.update_gallery(&gid(), GallerySettings { fusion, ..GallerySettings::default() }, None).unwrap();
    wait_for_snapshots(&database, written + 1);
    let expected = everybody(&database);
    drop(database);
    let again = open(&store, folder.path(), NEVER);
    assert_eq!((counts(&again), everybody(&again)), ((1, 0), expected));
}

#[test]
fn a_snapshot_that_cannot_be_written_is_not_tried_all_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a file and no folder");
    std::fs::write(&path, "").unwrap();
    let store = Arc::new(MemoryStore::new());
    let database = open(&store, &path, NEVER);
    database.create_gallery(gid(), GalleryKind::Events, None, GallerySettings::default()).unwrap();
    for subject in 0..SUBJECTS {
        enrol(&database, subject, subject);
    }
    let open = database.open_gallery(&gid()).unwrap();
    // The background may have been first; a second try comes after a rest.
    let _ = database.keep_snapshot(&open);
    assert!(matches!(database.keep_snapshot(&open), Ok(false)));
    assert_eq!(database.snapshot_counts().written.load(Ordering::Relaxed), 0);
}

/// Waits until something is so that the background brings about.
fn wait_until(is_so: impl Fn() -> bool, what: &str) {
    for _ in 0..1_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}");
}

#[test]
fn a_graph_is_kept_with_its_snapshot_and_goes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = kept(GalleryKind::Consolidated, folder.path());
    let graph = |database: &Database| database.index_stats(&gid()).unwrap().graph;
    let graphs = |database: &Database| {
        let SnapshotCounts { graphs_read, graphs_refused, graphs_written, .. } = database.snapshot_counts();
        [graphs_read, graphs_refused, graphs_written].map(|count| count.load(Ordering::Relaxed))
    };
    let database = open(&store, folder.path(), Duration::ZERO);
    assert_eq!((files(folder.path()).len(), graph(&database)), (1, None));
    // No row has changed: the graph is reason enough to write.
    let ann = SearchQuery { mode: SearchMode::Ann, ..SearchQuery::plain(3) };
    database.search(&gid(), &model().id, &unit(9_999), &ann).unwrap();
    wait_until(|| graphs(&database)[2] > 0, "no graph was written");
    let (built, expected) = (graph(&database), everybody(&database));
    drop(database);
    assert_eq!(files(folder.path()).len(), 3);
    let database = open(&store, folder.path(), NEVER);
    assert_eq!((counts(&database), graphs(&database)), ((1, 0), [1, 0, 0]));
    assert_eq!(graph(&database), built);
    drop(database);
    // What a killed writer leaves, and files of a gallery that is no more.
    let snapshot = files(folder.path()).into_iter().find(|file| file.extension().unwrap() == "snapshot").unwrap();
    let stem = snapshot.file_stem().unwrap().to_str().unwrap();
    let of_nobody = "0".repeat(64);
    for left in [".snapshot-cut-off", &format!("{stem}.00ff.hnsw.graph"), &format!("{of_nobody}.00ff.hnsw.data")] {
        std::fs::write(folder.path().join(left), "x").unwrap();
    }
    let data = files(folder.path())
        .into_iter()
        .find(|file| file.to_str().unwrap().ends_with("hnsw.data") && !file.to_str().unwrap().contains(&of_nobody));
    let data = data.unwrap();
    let mut bytes = std::fs::read(&data).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    let database = open(&store, folder.path(), NEVER);
    assert_eq!((counts(&database), graphs(&database)), ((1, 0), [0, 1, 0]));
    assert_eq!(everybody(&database), expected);
    assert_eq!(files(folder.path()).len(), 3, "{:?}", files(folder.path()));
    wait_until(|| graph(&database).is_some(), "the graph was not built anew");
    database.delete_gallery(&gid(), None).unwrap();
    assert!(files(folder.path()).is_empty());
}
