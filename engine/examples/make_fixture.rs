//! Makes the small database that later versions are tested against: `migrations/fixtures/vNNNN/`.
//!
//! ```text
//! cargo run -p vultus-engine --example make_fixture -- migrations/fixtures/v0003
//! ```
//!
//! Contents are synthetic and follow from fixed seeds. A fixture is made once, by the program of its version, and then
//! never again: it stands for what that version left on disks.

use std::error::Error;
use std::path::PathBuf;

use jiff::Timestamp;
use uuid::Uuid;
use vultus_engine::face::{BoundingBox, Feature, Landmarks, Style};
use vultus_engine::ids::{FaceId, GalleryId, MediaId, MigrationId, ModelId, SubjectId};
use vultus_engine::store::sled::SledStore;
use vultus_engine::store::{
    Check, Collection, Consent, DocumentKey, Face, FaceSource, Gallery, GalleryKind, Guard, Guards, Migration,
    Operation, Override, PictureId, Side, Stage, StandbyFeature, Store, StoredAnswer, StoredFace, Subject,
    ThresholdSetting, Thresholds,
};
use vultus_engine::template::{Fusion, FusionRule};

const DIM: u32 = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let folder: PathBuf = std::env::args_os().nth(1).ok_or("say which folder to make")?.into();
    if folder.exists() {
        return Err(format!("{} exists; a fixture is made once", folder.display()).into());
    }
    let store = SledStore::open(&folder)?;
    let (people, events, gone) = (gallery("people")?, gallery("events")?, gallery("gone")?);
    let plain = Gallery {
        kind: GalleryKind::Events,
        fusion: None,
        thresholds: Thresholds::default(),
        min_quality: None,
        guards: Guards::default(),
        keep_crops: false,
        label: None,
        ..events
    };
    store.commit(
        time(0)?,
        &[Operation::CreateGallery(people.clone()), Operation::CreateGallery(plain), Operation::CreateGallery(gone)],
    )?;
    for subject in 0..3_u32 {
        let id = SubjectId::try_from(format!("subject-{subject}"))?;
        let record = Subject {
            id: id.clone(),
            labels: vec![format!("Label {subject}"), "ü".to_owned()],
            // The last one spans three pieces.
            expires_at: (subject == 1).then(|| time(99)).transpose()?,
            consent: if subject == 1 { Consent::Granted } else { Consent::NotRecorded },
            metadata: format!("{{\"note\":\"{}\"}}", "n".repeat(subject as usize * 5000)),
            created_at: time(1)?,
            updated_at: time(1)?,
            revision: 0,
        };
        let mut operations = vec![Operation::CreateSubject { gallery: people.id.clone(), subject: record }];
        for number in 0..=subject {
            operations.push(add_face(&people.id, &id, subject * 10 + number)?);
        }
        store.commit(time(2)?, &operations)?;
    }
    let settings = Gallery { label: Some("Renamed".to_owned()), updated_at: time(3)?, ..people.clone() };
    let subject = SubjectId::try_from("subject-1")?;
    store.commit(
        time(3)?,
        &[
            Operation::UpdateGallery { gallery: settings, expected: None },
            Operation::DeleteFace { gallery: people.id.clone(), subject: subject.clone(), face: face_id(11) },
            Operation::DeleteGallery { gallery: GalleryId::try_from("gone")?, expected: None },
        ],
    )?;
    // In the middle of a move to another model: two faces are done.
    let thresholds = Thresholds { matching: Some(ThresholdSetting::Score(0.4)), review: None };
    let side = |model: &str, dim| Side { model_id: ModelId(model.to_owned()), dim, thresholds };
    let migration = Migration {
        id: MigrationId(Uuid::from_u128(1)),
        from: side("synthetic-0123456789abcdef+flip", DIM),
        to: side("other-fedcba9876543210", 4),
        stage: Stage::Embedding,
        standby_faces: 0,
        failure: None,
        report: None,
        created_at: time(4)?,
        updated_at: time(4)?,
    };
    let standby = |subject: &str, number: u32| -> Result<StandbyFeature, Box<dyn Error>> {
        let style = Some(Style { network: [7; 8], values: vec![0.25; 64] });
        Ok(StandbyFeature {
            subject: SubjectId::try_from(subject)?,
            face: face_id(number),
            feature: Feature { embedding: vec![0.0, 1.0, 0.0, 0.0], norm: 5.0, style },
            quality: 0.25,
        })
    };
    let (gallery, id) = (people.id.clone(), migration.id);
    let features = vec![standby("subject-0", 0)?, standby("subject-1", 10)?];
    store.commit(
        time(4)?,
        &[
            Operation::StartMigration { gallery: gallery.clone(), migration },
            Operation::PutStandby {
                gallery,
                migration: id,
                model: ModelId("other-fedcba9876543210".to_owned()),
                features,
            },
        ],
    )?;
    // A face moves, and documents are kept.
    let document = |gallery: Option<&GalleryId>, id: &[u8], body: &[u8]| Operation::PutDocument {
        key: DocumentKey { gallery: gallery.cloned(), collection: Collection::Reviews, id: id.to_vec() },
        body: body.to_vec(),
    };
    let to = SubjectId::try_from("subject-0")?;
    store.commit(
        time(5)?,
        &[
            Operation::MoveFace { gallery: people.id.clone(), from: subject, to, face: face_id(10) },
            document(Some(&people.id), b"one", &vec![b' '; 5000]),
            document(None, b"two", b"{}"),
        ],
    )?;
    let answer = StoredAnswer {
        request_hash: [4; 32],
        status: 201,
        content_type: "application/json".to_owned(),
        location: Some("/made".to_owned()),
        etag: Some("\"1\"".to_owned()),
        body: vec![b'x'; 4096],
        created_s: 1_700_000_000,
    };
    store.put_answer(&[5; 32], &answer)?;
    let report = store.check()?;
    println!("{report:?}");
    drop(store);
    // Once more, as sled writes its snapshot when it opens what is there.
    drop(SledStore::open(&folder)?);
    Ok(())
}

fn time(second: i64) -> Result<Timestamp, jiff::Error> {
    Timestamp::new(1_700_000_000 + second, 500_000_000)
}

fn face_id(number: u32) -> FaceId {
    FaceId(Uuid::from_u128(u128::from(number)))
}

fn gallery(id: &str) -> Result<Gallery, Box<dyn Error>> {
    Ok(Gallery {
        id: GalleryId::try_from(id)?,
        kind: GalleryKind::Consolidated,
        model_id: ModelId("synthetic-0123456789abcdef+flip".to_owned()),
        dim: DIM,
        fusion: Some(Fusion { rule: FusionRule::SoftmaxQuality, tau: 0.5, cap: Some(-1.0), robust: true }),
        thresholds: Thresholds {
            matching: Some(ThresholdSetting::Score(0.3)),
            review: Some(ThresholdSetting::Fpir(0.01)),
        },
        min_quality: Some(0.1),
        guards: Guards { wrong_person: Guard::Score(0.125), duplicate_subject: Guard::Off },
        keep_crops: true,
        label: Some("People".to_owned()),
        created_at: time(0)?,
        updated_at: time(0)?,
        revision: 0,
    })
}

fn add_face(gallery: &GalleryId, subject: &SubjectId, number: u32) -> Result<Operation, Box<dyn Error>> {
    let source = [FaceSource::Photo, FaceSource::Crop, FaceSource::Embedding][(number % 3) as usize];
    let photo = source == FaceSource::Photo;
    let mut embedding = vec![0.0; DIM as usize];
    embedding[(number % DIM) as usize] = 1.0;
    let of = |check| Override { check, value: 0.25, required: 0.5, subject: None };
    let overrides = if number == 21 { vec![of(Check::Quality), of(Check::WrongPerson)] } else { Vec::new() };
    let face = Face {
        id: face_id(number),
        subject: subject.clone(),
        media: MediaId::try_from(format!("photo {number}.jpg"))?,
        source,
        norm: 20.0 + number as f32,
        quality: 0.5,
        bbox: photo.then_some(BoundingBox { x1: 1.0, y1: 2.0, x2: 101.5, y2: 120.0 }),
        landmarks: photo.then_some(Landmarks([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 10.0]])),
        detection_score: photo.then_some(0.875),
        picture: photo.then_some(PictureId([number as u8; 16])),
        overrides,
        created_at: time(2)?,
    };
    // Not an image: the store does not look inside.
    let crop = (source != FaceSource::Embedding).then(|| vec![number as u8; 5000]);
    Ok(Operation::AddFace { gallery: gallery.clone(), face: StoredFace { face, embedding, style: None }, crop })
}
