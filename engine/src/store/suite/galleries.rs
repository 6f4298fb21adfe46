//! Galleries: every operation and every refusal.

use super::*;

pub(crate) fn create_read_update_delete(store: &dyn Store) {
    assert_eq!(store.galleries().unwrap(), vec![]);
    assert_eq!(store.last_seq().unwrap(), 0);
    dump(store);
    let committed = store.commit(at(5), &[create_gallery("b"), create_gallery("a")]).unwrap();
    assert_eq!(committed, Committed { last_seq: 2, changes: 2 });
    let expected = [Gallery { revision: 2, ..gallery("a") }, Gallery { revision: 1, ..gallery("b") }];
    assert_eq!(store.galleries().unwrap(), expected);
    assert_eq!(
        store.changes(0, 10).unwrap()[1],
        Change { seq: 2, at: at(5), gallery: gid("a"), kind: ChangeKind::GalleryCreated }
    );

    let settings = Gallery {
        id: gid("a"),
        // These four are not for changing.
        kind: GalleryKind::Events,
        model_id: ModelId("other".to_owned()),
        dim: 3,
        created_at: at(99),
        fusion: None,
        thresholds: Thresholds::default(),
        guards: Guards { wrong_person: Guard::Score(0.5), duplicate_subject: Guard::Off },
        min_quality: Some(0.5),
        keep_crops: false,
        label: None,
        updated_at: at(6),
        revision: 77,
    };
    commit(store, &[Operation::UpdateGallery { gallery: settings.clone(), expected: Some(2) }]).unwrap();
    let Gallery { kind, model_id, dim, created_at, .. } = gallery("a");
    let expected = Gallery { kind, model_id, dim, created_at, revision: 3, ..settings };
    assert_eq!(store.gallery(&gid("a")).unwrap(), Some(expected));
    assert_eq!(store.changes(2, 10).unwrap()[0].kind, ChangeKind::GalleryUpdated);

    commit(store, &[Operation::DeleteGallery { gallery: gid("a"), expected: Some(3) }]).unwrap();
    assert_eq!(store.gallery(&gid("a")).unwrap(), None);
    assert_eq!(store.changes(3, 10).unwrap()[0].kind, ChangeKind::GalleryDeleted);
    dump(store);
}

pub(crate) fn refusals(store: &dyn Store) {
    commit(store, &[create_gallery("a")]).unwrap();
    let before = dump(store);
    let update = |id, expected| Operation::UpdateGallery { gallery: gallery(id), expected };
    let delete = |id, expected| Operation::DeleteGallery { gallery: gid(id), expected };
    let refused = |operation| commit(store, &[operation]).unwrap_err();
    assert!(matches!(refused(create_gallery("a")), StoreError::GalleryExists(id) if id == gid("a")));
    assert!(matches!(refused(update("b", None)), StoreError::NoGallery(id) if id == gid("b")));
    assert!(matches!(refused(delete("b", None)), StoreError::NoGallery(_)));
    for operation in [update("a", Some(9)), delete("a", Some(9))] {
        assert!(matches!(refused(operation), StoreError::RevisionMismatch { expected: 9, actual: 1 }));
    }
    assert_eq!(dump(store), before);
}

pub(crate) fn counts_and_revisions(store: &dyn Store) {
    let counts = || store.counts(&gid("a")).unwrap();
    let sizes = |subjects, faces, revision| GalleryCounts { subjects, faces, revision };
    commit(store, &[create_gallery("a"), create_gallery("b")]).unwrap();
    assert_eq!(counts(), sizes(0, 0, 1));
    commit(store, &[create_subject("a", "x"), create_subject("b", "x")]).unwrap();
    assert_eq!(counts(), sizes(1, 0, 3));
    commit(store, &[add_face("a", "x", 1), add_face("a", "x", 2)]).unwrap();
    assert_eq!(counts(), sizes(1, 2, 6));
    commit(store, &[Operation::UpdateSubject { gallery: gid("a"), subject: subject("x"), expected: None }]).unwrap();
    assert_eq!(counts(), sizes(1, 2, 7));
    assert_eq!(store.gallery(&gid("a")).unwrap().unwrap().revision, 1, "that of the settings");
    commit(store, &[delete_face("a", "x", 1)]).unwrap();
    assert_eq!(counts(), sizes(1, 1, 8));
    commit(store, &[delete_subject("a", "x")]).unwrap();
    assert_eq!(counts(), sizes(0, 0, 9));
    commit(store, &[Operation::UpdateGallery { gallery: gallery("a"), expected: Some(1) }]).unwrap();
    assert_eq!(counts(), sizes(0, 0, 10));
    assert_eq!(store.counts(&gid("b")).unwrap(), sizes(1, 0, 4));
    dump(store);
}

pub(crate) fn deleted_galleries_leave_nothing_to_the_next(store: &dyn Store) {
    let fill = |numbers: std::ops::Range<u128>| -> Vec<Operation> {
        let faces = numbers.map(|number| add_face("a", "x", number));
        [create_gallery("a"), create_subject("a", "x")].into_iter().chain(faces).collect()
    };
    commit(store, &fill(0..40)).unwrap();
    commit(store, &[delete_gallery("a")]).unwrap();
    assert!(matches!(store.counts(&gid("a")), Err(StoreError::NoGallery(_))));
    dump(store);
    commit(store, &fill(40..43)).unwrap();
    assert_eq!(scan(store, &gid("a")).len(), 3);
    assert_eq!(store.face(&gid("a"), fid(1)).unwrap(), None);
    dump(store);
    // All in one write.
    let operations = [vec![delete_gallery("a")], fill(1..4), vec![delete_gallery("a")], fill(7..9)].concat();
    commit(store, &operations).unwrap();
    assert_eq!(scan(store, &gid("a")), [face("x", 7), face("x", 8)]);
    dump(store);
}
