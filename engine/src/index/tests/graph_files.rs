//! A graph that was written and read again.

use std::path::{Path, PathBuf};

use crate::index::fixture::{Faces, key};
use crate::index::{
    GalleryIndex, GraphCodes, GraphConfig, IndexConfig, IndexKind, Loaded, LoadedGraph, SearchMode, VectorPool,
    snapshot,
};

const DIM: usize = 128;
const PEOPLE: u64 = 1_200;

fn config() -> IndexConfig {
    IndexConfig {
        cascade_min_rows: 600,
        graph_min_rows: 500,
        maintenance_min_rows: 50,
        graph: GraphConfig { build_threads: 1, ..GraphConfig::default() },
        ..IndexConfig::default()
    }
}

/// An index with a cascade, a graph, and rows that came after both, and probes for it.
fn filled() -> (GalleryIndex, Vec<Vec<f32>>) {
    filled_with(GraphCodes::Bytes)
}

fn filled_with(codes: GraphCodes) -> (GalleryIndex, Vec<Vec<f32>>) {
    let mut faces = Faces::new(DIM, 61);
    let index = GalleryIndex::new(DIM, IndexConfig { graph: GraphConfig { codes, ..config().graph }, ..config() });
    let people = faces.people(PEOPLE as usize);
    for (number, person) in people.iter().enumerate() {
        index.extend((0..2).map(|image| (key(number as u64, Some(image)), faces.image(person)))).unwrap();
    }
    let probes: Vec<Vec<f32>> = people.iter().step_by(20).map(|person| faces.image(person)).collect();
    for mode in [SearchMode::Cascade, SearchMode::Ann] {
        index.search(&probes[0], 1, mode).unwrap();
    }
    index.maintain();
    index.extend((0..20).map(|late| (key(50_000 + late, None), faces.person()))).unwrap();
    (index, probes)
}

fn load(path: &Path) -> (GalleryIndex, LoadedGraph) {
    let Loaded { index, graph, .. } = GalleryIndex::load(DIM, config(), path).unwrap();
    (index, graph)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn with_ending(folder: &Path, ending: &str) -> PathBuf {
    files(folder).into_iter().find(|file| file.to_string_lossy().ends_with(ending)).unwrap()
}

#[test]
fn what_is_read_answers_as_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.snapshot");
    let (index, probes) = filled();
    let size = index.freeze().save(&path, b"").unwrap();
    let written: u64 = files(folder.path()).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!((files(folder.path()).len(), written), (3, size));
    for vectors in [None, Some(VectorPool::new(folder.path(), 0))] {
        let loaded = GalleryIndex::load(DIM, IndexConfig { vectors, ..config() }, &path).unwrap();
        assert!(matches!(loaded.graph, LoadedGraph::Read));
        let loaded = loaded.index;
        assert_eq!(loaded.stats().graph, index.stats().graph);
        assert_eq!(loaded.stats().memory.graph, index.stats().memory.graph);
        assert!(!loaded.maintenance().is_due());
        for probe in &probes {
            let answer = index.search(probe, 10, SearchMode::Ann).unwrap();
            assert_eq!(answer.kind, IndexKind::Ann);
            assert_eq!(loaded.search(probe, 10, SearchMode::Ann).unwrap(), answer);
        }
        // Rows go and come as before.
        let gone = index.search(&probes[0], 1, SearchMode::Exact).unwrap().hits.remove(0).subject;
        loaded.remove_subject(&gone);
        loaded.upsert(key(70_000, None), &probes[1]).unwrap();
        let found = |probe| loaded.search(probe, 10, SearchMode::Ann).unwrap().hits;
        assert!(found(&probes[0]).iter().all(|hit| hit.subject != gone));
        assert_eq!(found(&probes[1])[0].subject, key(70_000, None).subject);
    }
}

#[test]
fn rows_that_died_lead_on_and_are_not_in_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.snapshot");
    let (index, probes) = filled();
    let codes = |vector: &[f32]| GraphCodes::Bytes.of(vector);
    let vector_of = |index: &GalleryIndex, number: u64| {
        let generation = index.published.load_full();
        let wanted = key(number, Some(1));
        let all = 0..generation.rows.slots();
        all.filter_map(|slot| generation.rows.row(slot)).find(|row| *row.key == wanted).map(|row| codes(row.vector))
    };
    let holds = |bytes: &[i8]| {
        let file = std::fs::read(with_ending(folder.path(), "hnsw.data")).unwrap();
        file.windows(bytes.len()).any(|window| window == bytemuck::cast_slice::<i8, u8>(bytes))
    };
    let (dead, alive) = (vector_of(&index, 7).unwrap(), vector_of(&index, 8).unwrap());
    index.freeze().save(&path, b"").unwrap();
    assert!(holds(&dead) && holds(&alive));
    // Two rows in fifteen.
    (0..PEOPLE).filter(|number| number % 15 == 7 || number % 15 == 2).for_each(|number| {
        index.remove_subject(&key(number, None).subject);
    });
    index.freeze().save(&path, b"").unwrap();
    assert!(!holds(&dead) && holds(&alive));
    let (loaded, graph) = load(&path);
    assert!(matches!(graph, LoadedGraph::Read));
    let died = (2 * PEOPLE * 2 / 15) as usize;
    assert_eq!(loaded.stats().graph.unwrap().rows, 2 * PEOPLE as usize - died);
    assert_eq!((loaded.stats().tombstones, index.stats().tombstones), (0, died));
    let recall = |index: &GalleryIndex| {
        let found = probes.iter().map(|probe| {
            let exact = index.search(probe, 10, SearchMode::Exact).unwrap().hits;
            let answer = index.search(probe, 10, SearchMode::Ann).unwrap();
            assert_eq!(answer.kind, IndexKind::Ann);
            answer.hits.iter().filter(|hit| exact.contains(hit)).count()
        });
        found.sum::<usize>() as f64 / (10 * probes.len()) as f64
    };
    let (before, after) = (recall(&index), recall(&loaded));
    assert!(before > 0.9 && after > before - 0.03, "{before} {after}");
    // What was read can be written again; those who are gone stay so.
    loaded.remove_subject(&key(8, None).subject);
    loaded.freeze().save(&path, b"").unwrap();
    assert!(!holds(&dead) && !holds(&alive));
    let again = load(&path).0;
    assert_eq!(again.stats().graph.unwrap().rows, 2 * PEOPLE as usize - died - 2);
    assert!(recall(&again) > before - 0.03);
}

/// Whatever graphs are built over now, one that was written is read as it was.
#[test]
fn a_graph_over_bits_is_written_and_read_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.snapshot");
    let sizes = [GraphCodes::Bits, GraphCodes::Bytes].map(|codes| {
        let (index, probes) = filled_with(codes);
        index.freeze().save(&path, b"").unwrap();
        let (loaded, graph) = load(&path);
        assert!(matches!(graph, LoadedGraph::Read));
        assert_eq!(loaded.stats().graph, index.stats().graph);
        for probe in &probes {
            let answer = index.search(probe, 10, SearchMode::Ann).unwrap();
            assert_eq!(answer.kind, IndexKind::Ann);
            assert_eq!(loaded.search(probe, 10, SearchMode::Ann).unwrap(), answer);
        }
        assert_eq!(loaded.stats().memory.graph, index.stats().memory.graph);
        loaded.stats().memory.graph
    });
    // A bit in the place of a byte for each value of each row.
    assert_eq!(sizes[1] - sizes[0], 2 * PEOPLE as usize * (DIM - DIM / 8));
}

#[test]
fn a_graph_is_outdated_after_reading_as_it_was_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.snapshot");
    for (one_in, outdated) in [(16, false), (4, true)] {
        let (index, _) = filled();
        (0..PEOPLE).filter(|number| number % one_in == 0).for_each(|number| {
            index.remove_subject(&key(number, None).subject);
        });
        assert_eq!(index.maintenance().build_graph, outdated);
        index.freeze().save(&path, b"").unwrap();
        let (loaded, _) = load(&path);
        assert_eq!(loaded.maintenance().build_graph, outdated, "one in {one_in}");
        loaded.maintain();
        assert!(!loaded.maintenance().is_due());
        let rows = loaded.stats().graph.unwrap().rows;
        assert_eq!(rows == loaded.rows(), outdated);
    }
    // Nobody of it is left.
    let (index, probes) = filled();
    (0..PEOPLE).for_each(|number| {
        index.remove_subject(&key(number, None).subject);
    });
    index.freeze().save(&path, b"").unwrap();
    let (loaded, graph) = load(&path);
    assert!(matches!(graph, LoadedGraph::None) && files(folder.path()).len() == 1);
    assert_eq!(loaded.search(&probes[0], 3, SearchMode::Ann).unwrap().kind, IndexKind::Exact);
}

#[test]
fn a_graph_that_is_not_what_was_written_is_built_anew_and_the_rest_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.snapshot");
    let (index, probes) = filled();
    index.freeze().save(&path, b"").unwrap();
    let refused = |what: &str| {
        let (loaded, graph) = load(&path);
        assert!(matches!(graph, LoadedGraph::Refused(_)), "{what}: {graph:?}");
        assert_eq!((loaded.rows(), loaded.stats().cascade), (index.rows(), index.stats().cascade), "{what}");
        assert_eq!(loaded.stats().graph, None);
        assert!(loaded.maintenance().build_graph, "{what}");
        let answer = loaded.search(&probes[0], 10, SearchMode::Ann).unwrap();
        assert_eq!(answer, index.search(&probes[0], 10, SearchMode::Exact).unwrap());
        loaded
    };
    for ending in ["hnsw.graph", "hnsw.data"] {
        let file = with_ending(folder.path(), ending);
        let whole = std::fs::read(&file).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 7).chain([whole.len() - 1]) {
            let mut damaged = whole.clone();
            damaged[at] ^= 8;
            std::fs::write(&file, damaged).unwrap();
            refused(&format!("{ending}, byte {at}"));
        }
        for len in [0, 1, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&file, &whole[..len]).unwrap();
            refused(&format!("{ending}, cut to {len}"));
        }
        std::fs::write(&file, [&whole[..], b"x"].concat()).unwrap();
        refused(&format!("{ending}, longer"));
        std::fs::remove_file(&file).unwrap();
        refused(&format!("no {ending}"));
        std::fs::write(&file, whole).unwrap();
    }
    // Files of another graph under the names of this one.
    let other = folder.path().join("other").join("one.snapshot");
    index.extend((0..800).map(|number| (key(80_000 + number, None), Faces::new(DIM, number).person()))).unwrap();
    assert!(index.maintain().build_graph);
    index.freeze().save(&other, b"").unwrap();
    let whole = with_ending(folder.path(), "hnsw.graph");
    let mine = std::fs::read(&whole).unwrap();
    std::fs::copy(with_ending(other.parent().unwrap(), "hnsw.graph"), &whole).unwrap();
    let (loaded, graph) = load(&path);
    assert!(matches!(graph, LoadedGraph::Refused(_)));
    assert!(loaded.maintain().build_graph);
    assert_eq!(loaded.search(&probes[0], 10, SearchMode::Ann).unwrap().kind, IndexKind::Ann);
    std::fs::write(&whole, mine).unwrap();
    assert!(matches!(load(&path).1, LoadedGraph::Read));
}

#[test]
fn files_that_nobody_names_are_removed_and_all_go_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one.snapshot");
    let others = [folder.path().join("two.0123456789abcdef.hnsw.data"), folder.path().join("two.snapshot")];
    others.iter().for_each(|file| std::fs::write(file, "x").unwrap());
    let left = folder.path().join("one.0123456789abcdef.hnsw.graph");
    let (index, _) = filled();
    for act in [true, false] {
        index.upsert(key(90_000, Some(u64::from(act))), &Faces::new(DIM, 5).person()).unwrap();
        index.freeze().save(&path, b"").unwrap();
        std::fs::write(&left, "x").unwrap();
        if act {
            assert!(matches!(load(&path).1, LoadedGraph::Read));
        } else {
            index.remove_subject(&key(3, None).subject);
            index.freeze().save(&path, b"").unwrap();
        }
        assert_eq!(files(folder.path()).len(), 3 + others.len());
        assert!(!left.exists() && matches!(load(&path).1, LoadedGraph::Read));
    }
    std::fs::write(&left, "x").unwrap();
    snapshot::remove(&path).unwrap();
    let mut expected = others.to_vec();
    expected.sort();
    assert_eq!(files(folder.path()), expected);
    snapshot::remove(&path).unwrap();
    assert!(snapshot::is_of(&path, &left) && snapshot::is_of(&path, &path) && !snapshot::is_of(&path, &others[0]));
}
