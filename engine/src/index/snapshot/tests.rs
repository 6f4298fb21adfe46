//! What is read is what was written, or nothing.

use super::super::fixture::{Faces, key};
use super::super::mapped::VectorPool;
use super::super::{IndexKind, SearchMode};
use super::*;

const DIM: usize = 128;

/// An index with a cascade, an unfinished chunk and dead rows, and probes for it.
fn filled(config: IndexConfig) -> (GalleryIndex, Vec<Vec<f32>>) {
    let mut faces = Faces::new(DIM, 51);
    let index = GalleryIndex::new(DIM, config);
    let people = faces.people(1_500);
    for (number, person) in people.iter().enumerate() {
        for image in 0..2 {
            let face = (!number.is_multiple_of(7)).then_some(image);
            index.upsert(key(number as u64, face), &faces.image(person)).unwrap();
        }
    }
    for number in (0..1_500).step_by(9) {
        index.remove_subject(&key(number, None).subject);
    }
    let probes: Vec<Vec<f32>> = people.iter().step_by(50).map(|person| faces.image(person)).collect();
    index.search(&probes[0], 1, SearchMode::Cascade).unwrap();
    index.maintain();
    index.upsert(key(9_999, None), &probes[0]).unwrap();
    index.remove_subject(&key(100, None).subject);
    (index, probes)
}

fn config() -> IndexConfig {
    IndexConfig { cascade_min_rows: 600, maintenance_min_rows: 20, ..IndexConfig::default() }
}

#[test]
fn what_is_loaded_answers_as_what_was_saved_and_goes_on_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshots").join("one");
    let (index, probes) = filled(config());
    let size = index.freeze().save(&path, b"label").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
    for vectors in [None, Some(VectorPool::new(folder.path(), 0))] {
        let filed = vectors.is_some();
        let Loaded { index: loaded, label, .. } =
            GalleryIndex::load(DIM, IndexConfig { vectors, ..config() }, &path).unwrap();
        assert_eq!(label, b"label");
        assert_eq!((loaded.rows(), loaded.subjects()), (index.rows(), index.subjects()));
        assert_eq!(loaded.stats().tombstones, 0);
        assert_eq!(loaded.stats().filed_bytes > 0, filed);
        assert_eq!(loaded.stats().cascade, index.stats().cascade);
        for probe in &probes {
            let exact = index.search(probe, 10, SearchMode::Exact).unwrap();
            assert_eq!(loaded.search(probe, 10, SearchMode::Exact).unwrap(), exact);
            let found = loaded.search(probe, 10, SearchMode::Cascade).unwrap();
            assert_eq!(found.kind, IndexKind::Cascade);
            assert_eq!(found.hits[0], exact.hits[0]);
        }
        // It can be written to as any other, and saved again.
        let late = key(20_000, Some(1));
        loaded.upsert(late.clone(), &probes[1]).unwrap();
        assert_eq!(loaded.search(&probes[1], 1, SearchMode::Exact).unwrap().hits[0].subject, late.subject);
        assert_eq!(loaded.remove_subject(&key(8, None).subject), 2);
        assert!(!loaded.remove(&key(100, None)));
        let again = folder.path().join("again");
        loaded.freeze().save(&again, b"").unwrap();
        let again = GalleryIndex::load(DIM, config(), &again).unwrap().index;
        assert_eq!(again.rows(), index.rows() - 1);
    }
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn a_cascade_that_was_to_find_another_share_is_prepared_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let (index, probes) = filled(config());
    index.maintain();
    index.freeze().save(&path, b"").unwrap();
    let load = |recall| GalleryIndex::load(DIM, config().aiming_at(recall), &path).unwrap().index;
    assert!(!load(0.95).maintenance().prepare_cascade);
    let loaded = load(0.5);
    assert_eq!(loaded.search(&probes[0], 10, SearchMode::Cascade).unwrap().kind, IndexKind::Cascade);
    assert!(loaded.maintain().prepare_cascade);
    assert!(!loaded.maintenance().is_due());
    let [before, after] = [&index, &loaded].map(|index| index.stats().cascade.unwrap());
    assert!(after.share < before.share && after.recall_at_10 <= before.recall_at_10, "{before:?} {after:?}");
}

#[test]
fn an_empty_index_can_be_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty");
    GalleryIndex::new(DIM, config()).freeze().save(&path, b"").unwrap();
    let loaded = GalleryIndex::load(DIM, config(), &path).unwrap().index;
    assert_eq!(loaded.rows(), 0);
}

#[test]
fn a_file_that_is_not_whole_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let (index, _) = filled(config());
    index.freeze().save(&path, b"label").unwrap();
    let whole = std::fs::read(&path).unwrap();
    let load = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        GalleryIndex::load(DIM, config(), &path).map(drop)
    };
    assert!(load(&whole).is_ok());
    // Any byte that is another than it was.
    for at in (0..whole.len()).step_by(whole.len() / 40).chain([whole.len() - 1, whole.len() - 20, whole.len() - 45]) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        let error = load(&bytes).unwrap_err();
        assert!(matches!(error, SnapshotError::Damaged(_)), "{at}: {error}");
    }
    for len in [0, 1, TRAILER - 1, TRAILER, whole.len() / 2, whole.len() - 1] {
        assert!(load(&whole[..len]).is_err(), "{len}");
    }
    let mut other = whole.clone();
    let end = other.len();
    other[end - 8..].reverse();
    assert!(matches!(load(&other), Err(SnapshotError::OtherVersion)));
    std::fs::write(&path, &whole).unwrap();
    let of_dim = |dim| GalleryIndex::load(dim, config(), &path).map(drop);
    assert!(matches!(of_dim(64), Err(SnapshotError::OtherDimension(DIM))));
    let missing = GalleryIndex::load(DIM, config(), &folder.path().join("none")).map(drop);
    assert!(matches!(missing, Err(SnapshotError::Io(_))));
}

#[test]
fn rows_in_a_basis_are_read_as_they_were() {
    const DIM: usize = 192;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot");
    let mut faces = Faces::new(DIM, 52);
    let config = || IndexConfig { basis_min_rows: 4_500, ..config() };
    let index = GalleryIndex::new(DIM, config());
    let people = faces.people(5_000);
    for (number, person) in people.iter().enumerate() {
        index.upsert(key(number as u64, None), &faces.image(person)).unwrap();
    }
    assert!(index.maintain().turn_rows);
    index.freeze().save(&path, b"").unwrap();
    let Loaded { index: loaded, .. } = GalleryIndex::load(DIM, config(), &path).unwrap();
    assert_eq!(loaded.published.load().rows.bases.len(), 1);
    assert_eq!(loaded.stats().memory, index.stats().memory);
    assert!(!loaded.maintenance().turn_rows, "it is known what they are coded in");
    for person in people.iter().step_by(170) {
        let probe = faces.image(person);
        let found = index.search(&probe, 10, SearchMode::Exact).unwrap();
        assert_eq!(loaded.search(&probe, 10, SearchMode::Exact).unwrap(), found);
    }
    let whole = std::fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 25) {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(GalleryIndex::load(DIM, config(), &path).map(drop), Err(SnapshotError::Damaged(_))), "{at}");
    }
}
