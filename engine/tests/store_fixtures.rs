//! A store that an earlier version left opens and shows what was put in. The counterpart that reads the raw rows is in
//! the migrations crate, as are the fixtures.

use std::ops::ControlFlow;
use std::path::Path;

use vultus_engine::ids::{FaceId, GalleryId, SubjectId};
use vultus_engine::store::sled::SledStore;
use vultus_engine::store::{
    ChangeKind, Check, Collection, Consent, GalleryKind, Guard, PictureId, Store, ThresholdSetting, Thresholds,
};

#[test]
fn every_version_reads_as_what_was_put_in() {
    for version in ["v0001", "v0002", "v0003"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/fixtures").join(version);
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let store = SledStore::open(folder.path()).unwrap();
        let report = store.check().unwrap();
        assert_eq!(report.problems, Vec::<String>::new(), "{version}");
        let changes = if version == "v0003" { 16 } else { 15 };
        assert_eq!((report.galleries, report.subjects, report.faces, report.changes), (2, 3, 5, changes));
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
        let sid = |id: &str| SubjectId::try_from(id).unwrap();
        if version != "v0001" {
            let subject = sid(if version == "v0002" { "subject-1" } else { "subject-0" });
            let standby = store.standby_faces(&people, &subject).unwrap();
            let last = standby.last().unwrap();
            assert_eq!(last.embedding, [0.0, 1.0, 0.0, 0.0]);
            assert_eq!((last.face.norm, last.face.quality), (5.0, 0.25));
            assert_eq!(last.style.as_ref().unwrap().values, [0.25; 64]);
        }
        if version == "v0003" {
            let thresholds =
                Thresholds { matching: Some(ThresholdSetting::Score(0.3)), review: Some(ThresholdSetting::Fpir(0.01)) };
            assert_eq!(galleries[1].thresholds, thresholds);
            assert_eq!(galleries[1].guards.wrong_person, Guard::Score(0.125));
            assert!(galleries[1].fusion.unwrap().robust);
            let record = store.subject(&people, &sid("subject-1")).unwrap().unwrap();
            assert_eq!((record.consent, record.expires_at.is_some()), (Consent::Granted, true));
            assert_eq!(faces[3].face.overrides[1].check, Check::WrongPerson);
            assert_eq!(faces[3].face.picture, Some(PictureId([21; 16])));
            let moved = store.changes(15, 1).unwrap().remove(0);
            assert_eq!(moved.kind, ChangeKind::FaceMoved(sid("subject-0"), faces[1].face.id, sid("subject-1")));
            let reviews = store.documents(Some(&people), Collection::Reviews, b"", None, 9).unwrap();
            assert_eq!(reviews, [(b"one".to_vec(), vec![b' '; 5000])]);
            let reviews = store.documents(None, Collection::Reviews, b"", None, 9).unwrap();
            assert_eq!(reviews, [(b"two".to_vec(), b"{}".to_vec())]);
        }
        let change = store.changes(13, 1).unwrap().remove(0);
        let deleted = FaceId(uuid::Uuid::from_u128(11));
        assert_eq!(change.kind, ChangeKind::FaceDeleted(SubjectId::try_from("subject-1").unwrap(), deleted));
        assert_eq!(store.answer(&[5; 32]).unwrap().unwrap().body, vec![b'x'; 4096]);
    }
}
