//! Group commit and the files sled writes.

use crate::store::sled::SledStore;
use crate::store::suite::*;
use crate::store::{Operation, Store, Subject};

#[test]
fn writers_share_syncs() {
    const THREADS: u128 = 8;
    const COMMITS: u128 = 25;
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    commit(&store, &[create_gallery("a"), create_subject("a", "x")]).unwrap();
    let before = store.syncs();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                for number in 0..COMMITS {
                    commit(store, &[add_face("a", "x", thread * 1000 + number)]).unwrap();
                }
            });
        }
    });
    let syncs = store.syncs() - before;
    assert!((1..(THREADS * COMMITS) as u64).contains(&syncs), "{syncs} syncs");
    assert_eq!(store.counts(&gid("a")).unwrap().faces, (THREADS * COMMITS) as u64);
    let before = dump(&store);
    drop(store);
    assert_eq!(dump(&SledStore::open(folder.path()).unwrap()), before);
}

#[test]
fn a_commit_alone_is_one_sync_and_reading_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let before = store.syncs();
    commit(&store, &[create_gallery("a")]).unwrap();
    assert_eq!(store.syncs(), before + 1);
    dump(&store);
    commit(&store, &[create_gallery("a")]).unwrap_err();
    assert_eq!(store.syncs(), before + 1);
}

/// sled puts pages above a size into files of their own and does not sync those: no value may bring it there.
#[test]
fn no_page_gets_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    let long_id = |n: usize| format!("{n:03}{}", "s".repeat(125));
    let gallery = "g".repeat(128);
    commit(&store, &[create_gallery(&gallery)]).unwrap();
    for n in 0..40 {
        let id = long_id(n);
        let large = Subject { metadata: "m".repeat(60_000 + n), ..subject(&id) };
        let numbers = n as u128 * 10..n as u128 * 10 + 8;
        let faces = numbers.map(|number| Operation::AddFace {
            gallery: gid(&gallery),
            face: face(&id, number),
            crop: Some(vec![number as u8; 40_000]),
        });
        let create = Operation::CreateSubject { gallery: gid(&gallery), subject: large };
        commit(&store, &[create].into_iter().chain(faces).collect::<Vec<_>>()).unwrap();
        store.put_answer(&[n as u8; 32], &answer(n as i64, vec![1; 300_000])).unwrap();
    }
    // Deleting merges pages.
    for n in (0..40).filter(|n| n % 3 != 0) {
        commit(&store, &[delete_subject(&gallery, &long_id(n))]).unwrap();
    }
    let files = || std::fs::read_dir(folder.path().join("blobs")).unwrap().count();
    assert_eq!(files(), 0);
    dump(&store);
    drop(store);
    let store = SledStore::open(folder.path()).unwrap();
    dump(&store);
    assert_eq!(files(), 0);
}
