//! Damage is an error or a finding, never a panic or a silent answer.

use std::path::Path;

use crate::store::sled::layout::{GalleryKey, Tree, piece_key};
use crate::store::sled::{Core, SledStore};
use crate::store::suite::*;
use crate::store::{Store, StoreError};

fn filled(folder: &Path) -> SledStore {
    let store = SledStore::open(folder).unwrap();
    let operations = [
        create_gallery("a"),
        create_subject("a", "x"),
        add_face("a", "x", 4),
        add_face("a", "x", 5),
        create_gallery("b"),
        create_subject("b", "y"),
    ];
    commit(&store, &operations).unwrap();
    store.put_answer(&[3; 32], &answer(1, vec![8; 9000])).unwrap();
    store
}

/// Damages a filled store and returns what the check finds.
fn findings(damage: impl FnOnce(&Core)) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path());
    assert_eq!(store.check().unwrap().problems, Vec::<String>::new());
    damage(&store.core);
    store.check().unwrap().problems
}

const A: GalleryKey = GalleryKey(1);

#[test]
fn the_check_finds_what_is_wrong() {
    let face_row = || A.face(&sid("x"), fid(4));
    let remove = |tree: Tree, key: Vec<u8>| {
        findings(|core| {
            assert!(core.tree(tree).remove(&key).unwrap().is_some());
        })
    };
    let put = |tree: Tree, key: Vec<u8>, value: &[u8]| {
        findings(|core| {
            core.tree(tree).insert(key, value).unwrap();
        })
    };
    let seq = |seq: u64| seq.to_be_bytes().to_vec();
    let contains = |found: Vec<String>, wanted: &str| {
        assert!(found.iter().any(|line| line.contains(wanted)), "{wanted:?} is not in {found:?}");
    };
    contains(remove(Tree::Vectors, face_row()), "gallery a: a face has no vector");
    contains(remove(Tree::Faces, face_row()), "gallery a: a vector is of no face");
    contains(remove(Tree::Faces, face_row()), "gallery a: a crop is of no face");
    contains(remove(Tree::Faces, face_row()), "gallery a: a face id leads to no face");
    contains(remove(Tree::Faces, face_row()), "gallery a: 2 faces are counted, 1 are there");
    contains(remove(Tree::FaceSubjects, A.owner(fid(4))), "gallery a: a face cannot be found by its id");
    contains(remove(Tree::Subjects, A.subject(&sid("x"))), "gallery a: a face has no subject (2 times)");
    contains(remove(Tree::Subjects, A.subject(&sid("x"))), "gallery a: 1 subjects are counted, 0 are there");
    contains(remove(Tree::Galleries, b"a".to_vec()), "subjects: a row is of no gallery");
    contains(remove(Tree::Galleries, b"a".to_vec()), "counts: a row is of no gallery");
    contains(remove(Tree::Counts, A.prefix().to_vec()), "gallery a: it has no counts");
    contains(remove(Tree::Changes, seq(3)), "change log: 4 follows on 2");
    contains(remove(Tree::Changes, seq(1)), "change log: it starts at 2");
    contains(remove(Tree::Changes, seq(6)), "change log: it ends at 5");
    contains(remove(Tree::Answers, vec![3; 32]), "answers_by_time");
    contains(remove(Tree::AnswersByTime, [&[0x80, 0, 0, 0, 0, 0, 0, 1], &[3; 32][..]].concat()), "never be forgotten");
    contains(put(Tree::Vectors, face_row(), &[0; 31]), "not of its model's dimension");
    contains(put(Tree::Vectors, face_row(), &[0xff; 32]), "a value that is no number");
    contains(remove(Tree::Overflow, piece_key(Tree::Crops, &face_row(), 1)), "a value lacks a piece");
    contains(put(Tree::Crops, A.face(&sid("x"), fid(5)), &[1]), "a piece is of no value");
    contains(put(Tree::Faces, face_row(), b"garbage"), "tree faces: a record does not decode");
    contains(put(Tree::Changes, seq(2), b""), "tree changes: a record does not decode");
    contains(put(Tree::Galleries, b"q".to_vec(), &[0xff; 40]), "tree galleries: a record does not decode");
}

#[test]
fn reading_damage_is_an_error_that_shows_no_contents() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path());
    let damaged = |result: Result<(), StoreError>, tree: &str| match result {
        Err(StoreError::Damaged(what)) => {
            assert!(what.contains(tree), "{what}");
            assert!(!what.contains("secret"), "{what}");
        }
        other => panic!("{other:?}"),
    };
    let spoil = |tree: Tree, key: &[u8]| store.core.tree(tree).insert(key, b"secret").unwrap();
    spoil(Tree::Vectors, &A.face(&sid("x"), fid(4)));
    damaged(store.face(&gid("a"), fid(4)).map(drop), "vectors");
    damaged(store.faces(&gid("a"), &sid("x")).map(drop), "vectors");
    spoil(Tree::Faces, &A.face(&sid("x"), fid(5)));
    damaged(store.face(&gid("a"), fid(5)).map(drop), "faces");
    spoil(Tree::Subjects, &A.subject(&sid("x")));
    damaged(store.subject(&gid("a"), &sid("x")).map(drop), "subjects");
    damaged(commit(&store, &[add_face("a", "x", 9)]).map(drop), "subjects");
    spoil(Tree::Counts, &A.prefix());
    damaged(store.counts(&gid("a")).map(drop), "counts");
    spoil(Tree::Changes, &3_u64.to_be_bytes());
    damaged(store.changes(0, 10).map(drop), "changes");
    spoil(Tree::Answers, &[3; 32]);
    damaged(store.answer(&[3; 32]).map(drop), "answers");
    spoil(Tree::Galleries, b"b");
    damaged(store.gallery(&gid("b")).map(drop), "galleries");
    damaged(store.galleries().map(drop), "galleries");
}

#[test]
fn damaged_files_do_not_open() {
    let spoilt = |spoil: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        drop(filled(folder.path()));
        // sled writes a snapshot when it opens what was written before.
        drop(SledStore::open(folder.path()).unwrap());
        spoil(folder.path());
        SledStore::open(folder.path()).map(drop)
    };
    let overwrite = |path: &Path, bytes: &[u8]| std::fs::write(path, bytes).unwrap();
    let snapshot = |folder: &Path| {
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap.")).unwrap()
    };
    let results = [
        spoilt(&|folder| overwrite(&folder.join("conf"), b"this is no configuration")),
        spoilt(&|folder| overwrite(&snapshot(folder), b"this is no snapshot file")),
        spoilt(&|folder| overwrite(&folder.join("db"), &[])),
        spoilt(&|folder| {
            let length = std::fs::metadata(folder.join("db")).unwrap().len() as usize;
            overwrite(&folder.join("db"), &vec![0x5a; length]);
        }),
    ];
    for (number, result) in results.into_iter().enumerate() {
        assert!(matches!(result, Err(StoreError::Damaged(_))), "{number}: {result:?}");
    }
}

/// sled reads its log up to the first thing that does not check and takes what is there for all there is.
#[test]
fn a_log_that_lost_its_end_does_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = filled(folder.path());
    let last_seq = store.last_seq().unwrap();
    drop(store);
    // The same folder before more was written: a log without its end.
    let earlier = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &Path| {
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    copy(folder.path(), earlier.path());
    let store = SledStore::open(folder.path()).unwrap();
    for number in 100..200 {
        commit(&store, &[add_face("a", "x", number)]).unwrap();
    }
    drop(store);
    std::fs::copy(folder.path().join("durable"), earlier.path().join("durable")).unwrap();
    match SledStore::open(earlier.path()).map(drop) {
        Err(StoreError::Damaged(what)) => {
            assert!(what.contains(&format!("ends at {last_seq}")), "{what}");
            assert!(what.contains(&(last_seq + 100).to_string()), "{what}");
        }
        other => panic!("{other:?}"),
    }
    // A note that is damaged itself says nothing.
    std::fs::write(earlier.path().join("durable"), [9; 16]).unwrap();
    assert_eq!(SledStore::open(earlier.path()).unwrap().last_seq().unwrap(), last_seq);
}

#[test]
fn a_flipped_bit_is_found_or_does_no_harm() {
    for place in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let store = filled(folder.path());
        for number in 100..200 {
            commit(&store, &[add_face("a", "x", number)]).unwrap();
        }
        let before = dump(&store);
        drop(store);
        let file = folder.path().join("db");
        let mut bytes = std::fs::read(&file).unwrap();
        let at = bytes.len() * (2 * place + 1) / 24;
        bytes[at] ^= 0x40;
        std::fs::write(&file, bytes).unwrap();
        match SledStore::open(folder.path()) {
            Err(StoreError::Damaged(_)) => {}
            Err(other) => panic!("{place}: {other}"),
            Ok(store) => match store.check() {
                Err(StoreError::Damaged(_)) => {}
                Err(other) => panic!("{place}: {other}"),
                Ok(report) if !report.problems.is_empty() => {}
                Ok(_) => assert_eq!(dump(&store), before, "{place}"),
            },
        }
    }
}
