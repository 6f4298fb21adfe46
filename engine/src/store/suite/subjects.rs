//! Subjects and faces: every operation and every refusal.

use super::*;

pub(crate) fn create_read_update_delete(store: &dyn Store) {
    commit(store, &[create_gallery("a"), create_subject("a", "x")]).unwrap();
    assert_eq!(store.subject(&gid("a"), &sid("x")).unwrap(), Some(Subject { revision: 2, ..subject("x") }));
    assert_eq!(store.subject(&gid("a"), &sid("y")).unwrap(), None);
    let new = Subject {
        labels: vec![],
        metadata: "{}".to_owned(),
        created_at: at(50),
        updated_at: at(9),
        revision: 70,
        ..subject("x")
    };
    let update = Operation::UpdateSubject { gallery: gid("a"), subject: new.clone(), expected: Some(2) };
    commit(store, &[update]).unwrap();
    let expected = Subject { created_at: at(1), revision: 3, ..new };
    assert_eq!(store.subject(&gid("a"), &sid("x")).unwrap(), Some(expected));
    commit(store, &[Operation::DeleteSubject { gallery: gid("a"), subject: sid("x"), expected: Some(3) }]).unwrap();
    assert_eq!(store.subject(&gid("a"), &sid("x")).unwrap(), None);
    let kinds: Vec<ChangeKind> = store.changes(1, 10).unwrap().into_iter().map(|change| change.kind).collect();
    let x = || sid("x");
    assert_eq!(
        kinds,
        [ChangeKind::SubjectCreated(x()), ChangeKind::SubjectUpdated(x()), ChangeKind::SubjectDeleted(x())]
    );
    dump(store);
}

pub(crate) fn refusals(store: &dyn Store) {
    commit(store, &[create_gallery("a"), create_subject("a", "x")]).unwrap();
    let before = dump(store);
    let create = |gallery, id| create_subject(gallery, id);
    let ensure = |gallery, id| Operation::EnsureSubject { gallery: gid(gallery), subject: subject(id) };
    let update =
        |gallery, id, expected| Operation::UpdateSubject { gallery: gid(gallery), subject: subject(id), expected };
    let delete = |gallery, id, expected| Operation::DeleteSubject { gallery: gid(gallery), subject: sid(id), expected };
    let refused = |operation| commit(store, &[operation]).unwrap_err();
    for operation in [create("b", "x"), ensure("b", "x"), update("b", "x", None), delete("b", "x", None)] {
        assert!(matches!(refused(operation), StoreError::NoGallery(id) if id == gid("b")));
    }
    for operation in [update("a", "y", None), delete("a", "y", Some(2))] {
        assert!(matches!(refused(operation), StoreError::NoSubject(g, s) if g == gid("a") && s == sid("y")));
    }
    for operation in [update("a", "x", Some(1)), delete("a", "x", Some(1))] {
        assert!(matches!(refused(operation), StoreError::RevisionMismatch { expected: 1, actual: 2 }));
    }
    assert!(matches!(refused(create("a", "x")), StoreError::SubjectExists(..)));
    assert_eq!(dump(store), before);
}

pub(crate) fn ensure(store: &dyn Store) {
    let ensure = |labels: &str| {
        let subject = Subject { labels: vec![labels.to_owned()], ..subject("x") };
        Operation::EnsureSubject { gallery: gid("a"), subject }
    };
    commit(store, &[create_gallery("a")]).unwrap();
    let committed = commit(store, &[ensure("first"), ensure("second")]).unwrap();
    assert_eq!(committed, Committed { last_seq: 2, changes: 1 });
    assert_eq!(commit(store, &[ensure("third")]).unwrap(), Committed { last_seq: 2, changes: 0 });
    assert_eq!(store.subject(&gid("a"), &sid("x")).unwrap().unwrap().labels, ["first"]);
    dump(store);
}

pub(crate) fn faces(store: &dyn Store) {
    commit(store, &[create_gallery("a"), create_subject("a", "x")]).unwrap();
    let without_crop = Operation::AddFace { gallery: gid("a"), face: face("x", 3), crop: None };
    commit(store, &[add_face("a", "x", 2), without_crop, add_face("a", "x", 1)]).unwrap();
    assert_eq!(store.faces(&gid("a"), &sid("x")).unwrap(), [face("x", 1), face("x", 2), face("x", 3)]);
    assert_eq!(store.faces(&gid("a"), &sid("y")).unwrap(), []);
    assert_eq!(store.face(&gid("a"), fid(2)).unwrap(), Some(face("x", 2)));
    assert_eq!(store.face(&gid("a"), fid(9)).unwrap(), None);
    assert_eq!(store.crop(&gid("a"), fid(2)).unwrap(), Some(crop(2)));
    assert_eq!(store.crop(&gid("a"), fid(3)).unwrap(), None);
    assert_eq!(store.crop(&gid("a"), fid(9)).unwrap(), None);
    assert_eq!(store.changes(2, 1).unwrap()[0].kind, ChangeKind::FaceAdded(sid("x"), fid(2)));
    commit(store, &[delete_face("a", "x", 2)]).unwrap();
    assert_eq!(store.changes(5, 1).unwrap()[0].kind, ChangeKind::FaceDeleted(sid("x"), fid(2)));
    assert_eq!(store.face(&gid("a"), fid(2)).unwrap(), None);
    assert_eq!(store.crop(&gid("a"), fid(2)).unwrap(), None);
    assert_eq!(store.faces(&gid("a"), &sid("x")).unwrap(), [face("x", 1), face("x", 3)]);
    // The id is free again, for another subject too.
    commit(store, &[create_subject("a", "y"), add_face("a", "y", 2)]).unwrap();
    assert_eq!(store.face(&gid("a"), fid(2)).unwrap(), Some(face("y", 2)));
    dump(store);
}

pub(crate) fn face_refusals(store: &dyn Store) {
    let setup = [
        create_gallery("a"),
        create_subject("a", "x"),
        create_subject("a", "y"),
        add_face("a", "x", 1),
        create_gallery("b"),
        create_subject("b", "x"),
    ];
    commit(store, &setup).unwrap();
    let before = dump(store);
    let refused = |operation| commit(store, &[operation]).unwrap_err();
    assert!(matches!(refused(add_face("c", "x", 2)), StoreError::NoGallery(_)));
    assert!(matches!(refused(add_face("a", "z", 2)), StoreError::NoSubject(..)));
    for subject in ["x", "y"] {
        assert!(matches!(refused(add_face("a", subject, 1)), StoreError::FaceExists(_, id) if id == fid(1)));
    }
    for length in [0, 7, 9] {
        let mut wrong = face("x", 2);
        wrong.embedding.resize(length, 0.0);
        let operation = Operation::AddFace { gallery: gid("a"), face: wrong, crop: None };
        assert!(matches!(refused(operation), StoreError::WrongDimension { expected: DIM, actual } if actual == length));
    }
    assert!(matches!(refused(delete_face("c", "x", 1)), StoreError::NoGallery(_)));
    assert!(matches!(refused(delete_face("a", "z", 1)), StoreError::NoSubject(..)));
    assert!(matches!(refused(delete_face("a", "x", 2)), StoreError::NoFace(..)));
    assert!(matches!(refused(delete_face("a", "y", 1)), StoreError::NoFace(..)), "it is another's");
    assert!(matches!(refused(delete_face("b", "x", 1)), StoreError::NoFace(..)), "it is elsewhere");
    assert_eq!(dump(store), before);
}

pub(crate) fn deleting_takes_faces_along(store: &dyn Store) {
    // Ids of which one is the start of another, and one that sorts between them.
    let mut operations = vec![create_gallery("a")];
    for (subject, first) in [("x", 0), ("x-", 100), ("x1", 200), ("w", 300)] {
        operations.push(create_subject("a", subject));
        operations.extend((first..first + 20).map(|number| add_face("a", subject, number)));
    }
    commit(store, &operations).unwrap();
    dump(store);
    let committed = commit(store, &[delete_subject("a", "x")]).unwrap();
    assert_eq!(committed.changes, 1);
    let left = scan(store, &gid("a"));
    assert_eq!(left.len(), 60);
    assert!(left.iter().all(|face| face.face.subject != sid("x")));
    assert_eq!(store.face(&gid("a"), fid(3)).unwrap(), None);
    dump(store);
    // Faces of the same write go too.
    commit(store, &[create_subject("a", "x"), add_face("a", "x", 4), delete_subject("a", "x")]).unwrap();
    assert_eq!(store.face(&gid("a"), fid(4)).unwrap(), None);
    dump(store);
}

fn move_face(gallery: &str, from: &str, to: &str, number: u128) -> Operation {
    Operation::MoveFace { gallery: gid(gallery), from: sid(from), to: sid(to), face: fid(number) }
}

pub(crate) fn faces_move(store: &dyn Store) {
    let faces = [add_face("a", "x", 5), add_face("a", "x", 6), add_face("a", "y", 7)];
    commit(store, &[create_gallery("a"), create_subject("a", "x"), create_subject("a", "y")]).unwrap();
    commit(store, &faces).unwrap();
    let before = dump(store);
    for (operation, wanted) in [
        (move_face("a", "x", "z", 5), "there is no subject z"),
        (move_face("a", "z", "x", 5), "there is no subject z"),
        (move_face("a", "y", "x", 5), "there is no face"),
        (move_face("b", "x", "y", 5), "there is no gallery b"),
    ] {
        let error = commit(store, &[operation]).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{error}");
    }
    assert!(commit(store, &[move_face("a", "x", "y", 5), create_gallery("a")]).is_err());
    assert_eq!(dump(store), before);
    assert_eq!(commit(store, &[move_face("a", "x", "x", 5)]).unwrap().changes, 0);

    commit(store, &[move_face("a", "x", "y", 6), move_face("a", "x", "y", 5)]).unwrap();
    let (x, y) = (store.faces(&gid("a"), &sid("x")).unwrap(), store.faces(&gid("a"), &sid("y")).unwrap());
    assert_eq!((x.len(), y.len()), (0, 3));
    let mut moved = face("x", 5);
    moved.face.subject = sid("y");
    assert_eq!(y[0], moved, "nothing else of it has changed");
    let last = store.changes(store.last_seq().unwrap() - 1, 1).unwrap().remove(0);
    assert_eq!(last.kind, ChangeKind::FaceMoved(sid("y"), fid(5), sid("x")));
    dump(store);
    commit(store, &[delete_subject("a", "y")]).unwrap();
    assert_eq!(store.crop(&gid("a"), fid(5)).unwrap(), None);
    dump(store);
}

pub(crate) fn a_subject_is_restored(store: &dyn Store) {
    let record = Subject { revision: 2, expires_at: Some(at(70)), consent: Consent::Granted, ..subject("x") };
    let create = Operation::CreateSubject { gallery: gid("a"), subject: record.clone() };
    let restore = || Operation::RestoreSubject { gallery: gid("a"), subject: record.clone() };
    commit(store, &[create_gallery("a"), create]).unwrap();
    assert!(matches!(commit(store, &[restore()]), Err(StoreError::SubjectExists(..))));
    commit(store, &[delete_subject("a", "x"), create_subject("a", "y"), restore()]).unwrap();
    assert_eq!(store.subject(&gid("a"), &sid("x")).unwrap(), Some(record));
    dump(store);
}
