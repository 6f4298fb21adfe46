//! What deleted galleries leave is removed, now or after the next opening.

use std::time::Duration;

use crate::store::Operation;
use crate::store::sled::layout::{GalleryKey, Tree};
use crate::store::sled::{Core, SledStore};
use crate::store::suite::*;

fn fill(id: &str, faces: u128) -> Vec<Operation> {
    let faces = (0..faces).map(|number| add_face(id, "x", number));
    [create_gallery(id), create_subject(id, "x")].into_iter().chain(faces).collect()
}

fn rows(core: &Core) -> usize {
    Tree::OF_GALLERIES.into_iter().chain([Tree::Overflow]).map(|tree| core.tree(tree).len()).sum()
}

#[test]
fn a_purge_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    commit(&store, &fill("gone", 1200)).unwrap();
    commit(&store, &fill("kept", 30)).unwrap();
    drop(store);
    // The delete by hand and without the thread, so that it is known how far the purge came.
    let open = || Core::open(folder.path()).unwrap();
    let check = |core: &Core| assert_eq!(core.check(&core.writer.lock()).unwrap().problems, Vec::<String>::new());
    let core = open();
    let kept = {
        let all = rows(&core);
        let of = |key: GalleryKey, tree| core.tree(tree).scan_prefix(key.prefix()).count();
        let of_overflow =
            |tree| core.tree(Tree::Overflow).scan_prefix([&[tree as u8][..], &GalleryKey(2).prefix()].concat()).count();
        let kept: usize = Tree::OF_GALLERIES.into_iter().map(|tree| of(GalleryKey(2), tree) + of_overflow(tree)).sum();
        assert!(all > kept + 4 * 1200);
        kept
    };
    core.tree(Tree::Galleries).remove("gone").unwrap();
    core.tree(Tree::Counts).remove(GalleryKey(1).prefix()).unwrap();
    core.tree(Tree::Purges).insert(GalleryKey(1).prefix(), &[]).unwrap();
    check(&core);
    let mut core = Some(core);
    let mut steps = 0;
    while core.get_or_insert_with(open).purge_some().unwrap() {
        check(core.as_ref().unwrap());
        steps += 1;
        if steps % 4 == 0 {
            core = None;
        }
    }
    assert!(steps > 10);
    let core = core.unwrap();
    assert_eq!(rows(&core), kept);
    assert!(core.tree(Tree::Purges).is_empty());
    drop(core);
    let store = SledStore::open(folder.path()).unwrap();
    assert_eq!(scan(&store, &gid("kept")).len(), 30);
    dump(&store);
}

#[test]
fn the_thread_purges_in_the_background() {
    let folder = tempfile::tempdir().unwrap();
    let store = SledStore::open(folder.path()).unwrap();
    commit(&store, &fill("a", 900)).unwrap();
    commit(&store, &[delete_gallery("a")]).unwrap();
    commit(&store, &fill("a", 3)).unwrap();
    let purged = |store: &SledStore| {
        (0..10_000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            store.core.tree(Tree::Purges).is_empty()
        })
    };
    assert!(purged(&store));
    assert_eq!(store.core.tree(Tree::Faces).len(), 3);
    dump(&store);
    // Closed before it is done, it goes on by itself once open.
    commit(&store, &[delete_gallery("a")]).unwrap();
    drop(store);
    let store = SledStore::open(folder.path()).unwrap();
    assert!(purged(&store));
    assert_eq!(rows(&store.core), 0);
    dump(&store);
}
