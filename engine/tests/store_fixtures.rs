//! A store that an earlier version left opens and shows what was put in. The counterpart that reads the raw rows is in
//! the migrations crate, as are the fixtures.

use std::ops::ControlFlow;
use std::path::Path;

use vultus_engine::ids::{FaceId, GalleryId, SubjectId};
use vultus_engine::store::sled::SledStore;
use vultus_engine::store::{ChangeKind, GalleryKind, Store};

#[test]
fn every_version_reads_as_what_was_put_in() {
    for version in ["v0001", "v0002"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/fixtures").join(version);
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let store = SledStore::open(folder.path()).unwrap();
        let report = store.check().unwrap();
        assert_eq!(report.problems, Vec::<String>::new(), "{version}");
        assert_eq!((report.galleries, report.subjects, report.faces, report.changes), (2, 3, 5, 15));
        assert_eq!(report.schema_version, vultus_migrations::SCHEMA_VERSION);

        let people = GalleryId::try_from("people").unwrap();
        let galleries = store.galleries().unwrap();
        assert_eq!(galleries[0].kind, GalleryKind::Events);
        assert_eq!((galleries[1].id.clone(), galleries[1].label.as_deref()), (people.clone(), Some("Renamed")));
        let subject = SubjectId::try_from("subject-2").unwrap();
        let record = store.subject(&people, &subject).unwrap().unwrap();
        assert_eq!(record.metadata.len(), 10_011);
        let mut faces = Vec::new();
        store
            .scan_faces(&people, &mut |face| {
                faces.push(face);
                ControlFlow::Continue(())
            })
            .unwrap();
        let ids: Vec<u128> = faces.iter().map(|face| face.face.id.0.as_u128()).collect();
        assert_eq!(ids, [0, 10, 20, 21, 22]);
        assert!(faces.iter().zip(ids).all(|(face, id)| face.embedding[(id % 8) as usize] == 1.0));
        let crop = store.crop(&people, FaceId(uuid::Uuid::from_u128(22))).unwrap();
        assert_eq!(crop, Some(vec![22; 5000]));
        let migrations = store.migrations(&people).unwrap();
        let done = migrations.iter().map(|migration| migration.standby_faces).collect::<Vec<_>>();
        assert_eq!(done, if version == "v0001" { vec![] } else { vec![2] });
        if version == "v0002" {
            let standby = store.standby_faces(&people, &SubjectId::try_from("subject-1").unwrap()).unwrap();
            assert_eq!(standby[0].embedding, [0.0, 1.0, 0.0, 0.0]);
            assert_eq!((standby[0].face.norm, standby[0].face.quality), (5.0, 0.25));
            assert_eq!(standby[0].style.as_ref().unwrap().values, [0.25; 64]);
        }
        let change = store.changes(13, 1).unwrap().remove(0);
        let deleted = FaceId(uuid::Uuid::from_u128(11));
        assert_eq!(change.kind, ChangeKind::FaceDeleted(SubjectId::try_from("subject-1").unwrap(), deleted));
        assert_eq!(store.answer(&[5; 32]).unwrap().unwrap().body, vec![b'x'; 4096]);
    }
}
