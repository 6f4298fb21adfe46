//! Writes of several operations happen together or not at all.

use super::*;

pub(crate) fn a_refused_write_leaves_nothing(store: &dyn Store) {
    let setup = [
        create_gallery("a"),
        create_subject("a", "x"),
        add_face("a", "x", 1),
        add_face("a", "x", 2),
        create_gallery("b"),
        create_subject("b", "x"),
        add_face("b", "x", 1),
    ];
    commit(store, &setup).unwrap();
    let before = dump(store);
    let bad = || create_gallery("b");
    let update = |id| Operation::UpdateGallery { gallery: Gallery { label: None, ..gallery(id) }, expected: None };
    let changed = Subject { labels: vec![], ..subject("x") };
    let change = Operation::UpdateSubject { gallery: gid("a"), subject: changed, expected: None };
    let writes = [
        vec![create_gallery("c"), create_subject("c", "x"), add_face("c", "x", 5), bad()],
        vec![create_subject("a", "y"), add_face("a", "y", 3), bad()],
        vec![delete_face("a", "x", 1), add_face("a", "x", 1), delete_face("a", "x", 2), bad()],
        vec![delete_subject("a", "x"), create_subject("a", "x"), add_face("a", "x", 2), bad()],
        vec![update("a"), change, bad()],
        vec![delete_gallery("a"), create_gallery("a"), create_subject("a", "q"), bad()],
        vec![delete_gallery("a"), delete_gallery("a")],
        vec![add_face("a", "x", 3), add_face("a", "x", 4), add_face("a", "x", 3)],
    ];
    for write in writes {
        assert!(commit(store, &write).is_err());
        assert_eq!(dump(store), before);
    }
    // Nor does it leave a hole in the sequence.
    assert_eq!(commit(store, &[create_subject("a", "y")]).unwrap(), Committed { last_seq: 8, changes: 1 });
    dump(store);
}

pub(crate) fn operations_see_those_before_them(store: &dyn Store) {
    let update = Operation::UpdateSubject { gallery: gid("a"), subject: subject("x"), expected: Some(2) };
    let operations = [
        create_gallery("a"),
        create_subject("a", "x"),
        update,
        add_face("a", "x", 1),
        delete_face("a", "x", 1),
        add_face("a", "x", 1),
        Operation::DeleteSubject { gallery: gid("a"), subject: sid("x"), expected: Some(3) },
        create_subject("a", "x"),
        add_face("a", "x", 1),
    ];
    assert_eq!(commit(store, &operations).unwrap(), Committed { last_seq: 9, changes: 9 });
    assert_eq!(scan(store, &gid("a")), [face("x", 1)]);
    dump(store);
}

pub(crate) fn writes_without_changes(store: &dyn Store) {
    assert_eq!(commit(store, &[]).unwrap(), Committed { last_seq: 0, changes: 0 });
    commit(store, &[create_gallery("a")]).unwrap();
    assert_eq!(commit(store, &[]).unwrap(), Committed { last_seq: 1, changes: 0 });
    dump(store);
}
