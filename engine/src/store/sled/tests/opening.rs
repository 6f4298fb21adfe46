//! Opening: who may, and which versions.

use std::io::Read;

use super::*;
use crate::store::sled::{SledStore, open_database};
use crate::store::suite::*;
use crate::store::{Store, StoreError};

#[test]
fn a_store_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    assert!(matches!(SledStore::open(folder.path()), Err(StoreError::InUse)));
    drop(store);
    SledStore::open(folder.path()).unwrap();
}

#[test]
fn another_process_keeps_us_out_until_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start_child("opening::child_that_holds_the_store", folder.path(), &[]);
    let mut lines = lines(&mut child);
    assert!(lines.any(|line| line == "open"));
    assert!(matches!(SledStore::open(folder.path()), Err(StoreError::InUse)));
    child.kill().unwrap();
    child.wait().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    assert_eq!(dump(&store), dump(&crate::store::memory::MemoryStore::new()));
}

#[test]
fn child_that_holds_the_store() {
    let Some(folder) = child_folder() else { return };
    let _store = SledStore::open(&folder).unwrap();
    report("open");
    // Until the parent ends it, or itself.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::thread::park();
}

#[test]
fn contents_outlive_closing() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("made/on/the/way");
    let store = SledStore::open(&folder).unwrap();
    commit(&store, &[create_gallery("a"), create_subject("a", "x"), add_face("a", "x", 6)]).unwrap();
    let before = dump(&store);
    for second in 10..13 {
        // Answers are kept too.
        store.put_answer(&[1; 32], &answer(second, vec![5; 10_000])).unwrap();
    }
    drop(store);
    let store = SledStore::open(&folder).unwrap();
    assert_eq!(dump(&store), before);
    assert_eq!(store.answer(&[1; 32]).unwrap(), Some(answer(12, vec![5; 10_000])));
    assert!(store.size_on_disk().unwrap() > 10_000);
    // Gallery keys are not given out again.
    commit(&store, &[delete_gallery("a"), create_gallery("b"), create_subject("b", "x")]).unwrap();
    drop(store);
    let store = SledStore::open(&folder).unwrap();
    commit(&store, &[create_gallery("c")]).unwrap();
    dump(&store);
}

#[test]
fn a_newer_schema_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    drop(SledStore::open(folder.path()).unwrap());
    let stamp = |bytes: &[u8]| {
        let db = open_database(folder.path()).unwrap();
        db.open_tree(vultus_migrations::META_TREE).unwrap().insert(vultus_migrations::STAMP_KEY, bytes).unwrap();
    };
    let supported = vultus_migrations::SCHEMA_VERSION;
    stamp(&(supported + 1).to_le_bytes());
    match SledStore::open(folder.path()).map(drop) {
        Err(StoreError::Newer { found, supported: known }) => {
            assert_eq!((found, known), (supported + 1, supported));
        }
        other => panic!("{other:?}"),
    }
    stamp(b"garbage");
    assert!(matches!(SledStore::open(folder.path()), Err(StoreError::Damaged(_))));
    stamp(&supported.to_le_bytes());
    SledStore::open(folder.path()).unwrap();
}
