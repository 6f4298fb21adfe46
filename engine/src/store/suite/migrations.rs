//! A gallery's move to another model.

use super::*;
use crate::face::Feature;

/// Length of the embeddings of the other model.
const OTHER: u32 = 4;

fn id(number: u128) -> MigrationId {
    MigrationId(Uuid::from_u128(number))
}

fn start(gallery: &str, number: u128) -> Operation {
    Operation::StartMigration { gallery: gid(gallery), migration: migration(number, OTHER) }
}

fn put(gallery: &str, number: u128, subject: &str, faces: &[u128], dim: u32) -> Operation {
    let feature = |&face: &u128| StandbyFeature {
        subject: sid(subject),
        face: fid(face),
        feature: Feature { embedding: vector(face + 100, dim), norm: 5.0 + face as f32, style: style(face) },
        quality: 0.125,
    };
    let features = faces.iter().map(feature).collect();
    let model =
        if dim == OTHER { migration(number, OTHER).to.model_id } else { migration(number, OTHER).from.model_id };
    Operation::PutStandby { gallery: gid(gallery), migration: id(number), model, features }
}

fn note(gallery: &str, number: u128, ready: bool) -> Operation {
    let report = Some("{\"agree\":1}".to_owned());
    Operation::NoteMigration { gallery: gid(gallery), migration: id(number), ready, failure: None, report }
}

fn switch(gallery: &str, number: u128, to_new: bool) -> Operation {
    Operation::SwitchModel { gallery: gid(gallery), migration: id(number), to_new }
}

fn end(gallery: &str, number: u128) -> Operation {
    Operation::EndMigration { gallery: gid(gallery), migration: id(number) }
}

fn stage(store: &dyn Store, gallery: &str, number: u128) -> Stage {
    let all = store.migrations(&gid(gallery)).unwrap();
    all.into_iter().find(|migration| migration.id == id(number)).unwrap().stage
}

/// Gallery `g` with faces 1 and 2 of `x` and face 3 of `y`.
fn enrolled(store: &dyn Store) {
    let operations = [
        create_gallery("g"),
        create_subject("g", "x"),
        create_subject("g", "y"),
        add_face("g", "x", 1),
        add_face("g", "x", 2),
        add_face("g", "y", 3),
    ];
    commit(store, &operations).unwrap();
}

pub(crate) fn there_and_back(store: &dyn Store) {
    enrolled(store);
    let before = scan(store, &gid("g"));
    let seq = store.last_seq().unwrap();
    commit(store, &[start("g", 1), put("g", 1, "x", &[1, 2], OTHER)]).unwrap();
    commit(store, &[put("g", 1, "x", &[2], OTHER), put("g", 1, "y", &[3], OTHER), note("g", 1, true)]).unwrap();
    assert_eq!(store.last_seq().unwrap(), seq, "what nobody sees is not logged");
    assert_eq!(scan(store, &gid("g")), before);
    let standby = store.standby_faces(&gid("g"), &sid("x")).unwrap();
    assert_eq!(standby[1].embedding, vector(102, OTHER));
    assert_eq!((standby[1].face.norm, standby[1].face.quality), (7.0, 0.125));
    assert_eq!(standby[1].face.media, before[1].face.media);
    dump(store);

    let committed = commit(store, &[switch("g", 1, true)]).unwrap();
    assert_eq!(committed.changes, 1);
    let gallery = store.gallery(&gid("g")).unwrap().unwrap();
    assert_eq!((gallery.model_id.0.as_str(), gallery.dim), ("other-fedcba9876543210", OTHER));
    assert_eq!((gallery.thresholds, gallery.revision), (score(0.5), committed.last_seq));
    assert_eq!(store.faces(&gid("g"), &sid("x")).unwrap(), standby);
    assert_eq!(store.face(&gid("g"), fid(2)).unwrap().as_ref(), Some(&standby[1]));
    assert_eq!(store.standby_faces(&gid("g"), &sid("x")).unwrap(), before[..2]);
    dump(store);

    commit(store, &[switch("g", 1, false)]).unwrap();
    assert_eq!(scan(store, &gid("g")), before);
    assert_eq!(store.gallery(&gid("g")).unwrap().unwrap().thresholds, score(0.25));
    assert_eq!(stage(store, "g", 1), Stage::RolledBack);
    commit(store, &[switch("g", 1, true)]).unwrap();
    assert_eq!(stage(store, "g", 1), Stage::CutOver);
    let report = store.migrations(&gid("g")).unwrap().remove(0).report;
    assert_eq!(report.as_deref(), Some("{\"agree\":1}"));
    dump(store);
}

pub(crate) fn refusals(store: &dyn Store) {
    enrolled(store);
    let refused = |operation: Operation| commit(store, &[operation]).unwrap_err();
    assert!(matches!(refused(start("none", 1)), StoreError::NoGallery(_)));
    assert!(matches!(refused(end("g", 1)), StoreError::NoMigration(..)));
    commit(store, &[start("g", 1)]).unwrap();
    assert!(matches!(refused(start("g", 2)), StoreError::MigrationUnderWay(_, other) if other == id(1)));
    assert!(matches!(refused(put("g", 1, "x", &[1], DIM)), StoreError::Switched(_)), "of the model in use");
    let mut long = put("g", 1, "x", &[1], OTHER);
    if let Operation::PutStandby { features, .. } = &mut long {
        features[0].feature.embedding.push(0.0);
    }
    assert!(matches!(refused(long), StoreError::WrongDimension { expected: OTHER, .. }));
    assert!(matches!(refused(switch("g", 1, true)), StoreError::WrongStage { stage: Stage::Embedding, .. }));
    commit(store, &[put("g", 1, "x", &[1, 2], OTHER), note("g", 1, true)]).unwrap();
    assert!(matches!(refused(switch("g", 1, true)), StoreError::StandbyIncomplete { missing: 1 }));
    assert!(matches!(refused(switch("g", 1, false)), StoreError::WrongStage { stage: Stage::Ready, .. }));
    commit(store, &[end("g", 1)]).unwrap();
    assert!(matches!(refused(end("g", 1)), StoreError::WrongStage { stage: Stage::Cancelled, .. }));
    assert!(matches!(refused(put("g", 1, "x", &[1], OTHER)), StoreError::WrongStage { .. }));
    dump(store);
}

pub(crate) fn faces_come_and_go(store: &dyn Store) {
    enrolled(store);
    // Of a face that is gone, or of another subject, nothing is put.
    commit(store, &[start("g", 1), put("g", 1, "x", &[1, 2, 9], OTHER), put("g", 1, "x", &[3], OTHER)]).unwrap();
    assert_eq!(store.migrations(&gid("g")).unwrap()[0].standby_faces, 2);
    commit(store, &[delete_face("g", "x", 1), add_face("g", "y", 4)]).unwrap();
    assert_eq!(store.migrations(&gid("g")).unwrap()[0].standby_faces, 1);
    commit(store, &[put("g", 1, "y", &[3, 4], OTHER), note("g", 1, true), switch("g", 1, true)]).unwrap();
    dump(store);
    // Enrolled under the new model; the old one has to catch up before it can come back.
    let mut new = face("x", 5);
    new.embedding = vector(5, OTHER);
    let add = Operation::AddFace { gallery: gid("g"), face: new.clone(), crop: None };
    commit(store, &[add]).unwrap();
    assert_eq!(store.face(&gid("g"), fid(5)).unwrap(), Some(new));
    assert!(matches!(commit(store, &[switch("g", 1, false)]), Err(StoreError::StandbyIncomplete { missing: 1 })));
    commit(store, &[delete_subject("g", "y")]).unwrap();
    commit(store, &[put("g", 1, "x", &[5], DIM), switch("g", 1, false)]).unwrap();
    let back = store.face(&gid("g"), fid(5)).unwrap().unwrap();
    assert_eq!((back.face.norm, back.embedding), (10.0, vector(105, DIM)));
    assert_eq!(scan(store, &gid("g")).len(), 2);
    dump(store);
}

pub(crate) fn ending_drops_the_standby(store: &dyn Store) {
    enrolled(store);
    let all = [start("g", 1), put("g", 1, "x", &[1, 2], OTHER), put("g", 1, "y", &[3], OTHER), note("g", 1, true)];
    commit(store, &all).unwrap();
    commit(store, &[switch("g", 1, true), end("g", 1)]).unwrap();
    assert_eq!(stage(store, "g", 1), Stage::Completed);
    assert!(store.standby_faces(&gid("g"), &sid("x")).unwrap().is_empty());
    assert_eq!(scan(store, &gid("g")).len(), 3);
    dump(store);
    // And on to a third set, given up half-way.
    commit(store, &[start("g", 2), put("g", 2, "x", &[1], OTHER), end("g", 2)]).unwrap();
    assert_eq!(stage(store, "g", 2), Stage::Cancelled);
    assert_eq!(scan(store, &gid("g")).len(), 3);
    dump(store);
    commit(store, &[start("g", 3), put("g", 3, "x", &[1], OTHER), delete_gallery("g"), create_gallery("g")]).unwrap();
    assert!(store.migrations(&gid("g")).unwrap().is_empty());
    assert!(scan(store, &gid("g")).is_empty());
    dump(store);
}

pub(crate) fn a_refused_write_leaves_the_sets(store: &dyn Store) {
    enrolled(store);
    let all = [start("g", 1), put("g", 1, "x", &[1, 2], OTHER), put("g", 1, "y", &[3], OTHER), note("g", 1, true)];
    commit(store, &all).unwrap();
    let before = dump(store);
    let refused = [
        delete_face("g", "x", 1),
        put("g", 1, "x", &[2], OTHER),
        switch("g", 1, true),
        end("g", 1),
        start("g", 2),
        create_gallery("g"),
    ];
    assert!(matches!(commit(store, &refused), Err(StoreError::GalleryExists(_))));
    assert_eq!(dump(store), before);
}
