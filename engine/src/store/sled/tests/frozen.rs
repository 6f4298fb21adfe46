//! The layout is that of the schema version in `vultus-migrations`, byte for byte.

use jiff::Timestamp;
use vultus_migrations::v0001_initial as frozen;
use vultus_migrations::v0002_feature_sets as second;
use vultus_migrations::v0003_decisions as third;

use crate::face::Style;
use crate::ids::MigrationId;
use crate::store::record::{FaceSource, Gallery, GalleryKind};
use crate::store::sled::codec::*;
use crate::store::sled::layout::*;
use crate::store::suite::*;
use crate::store::{
    Change, ChangeKind, Collection, Consent, GalleryCounts, Guard, Guards, Migration, Side, Stage, ThresholdSetting,
    Thresholds,
};
use crate::template::{Fusion, FusionRule};

const TIME: frozen::Time = frozen::Time { second: -77, nanosecond: -250_000_000 };

fn time() -> Timestamp {
    Timestamp::new(TIME.second, TIME.nanosecond).unwrap()
}

fn bytes(record: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_stdvec(record).unwrap()
}

#[test]
fn trees_and_limits() {
    assert_eq!(Tree::ALL.map(Tree::name), third::TREES);
    assert_eq!(third::TREES[..17], second::TREES);
    assert_eq!(second::TREES[..13], frozen::TREES);
    assert!(Tree::ALL.iter().enumerate().all(|(number, tree)| *tree as usize == number));
    assert_eq!(PIECE_BYTES, frozen::PIECE_BYTES);
    assert_eq!(NEXT_GALLERY, frozen::NEXT_GALLERY_KEY.as_bytes());
    assert_eq!(vultus_migrations::SCHEMA_VERSION, 3, "a new version needs its own comparison");
}

#[test]
fn keys() {
    let key = GalleryKey(0x0102_0304_0506_0708);
    let (prefix, face) = ([1, 2, 3, 4, 5, 6, 7, 8], [0xab; 16]);
    let id = fid(u128::from_be_bytes(face));
    assert_eq!(key.prefix(), prefix);
    assert_eq!(key.subject(&sid("Ab")), [&prefix[..], b"Ab"].concat());
    assert_eq!(key.faces_of(&sid("Ab")), [&prefix[..], b"Ab\0"].concat());
    assert_eq!(key.face(&sid("Ab"), id), [&prefix[..], b"Ab\0", &face].concat());
    assert_eq!(key.owner(id), [&prefix[..], &face].concat());
    assert_eq!(face_of_key(&key.face(&sid("Ab"), id)).unwrap(), (sid("Ab"), id));
    assert_eq!(answer_time(2, &[9; 32]), [&[0x80, 0, 0, 0, 0, 0, 0, 2], &[9; 32][..]].concat());
    assert!(answer_time(-1, &[9; 32]) < answer_time(0, &[0; 32]));
    assert_eq!(piece_key(Tree::Crops, b"k", 258), [6, b'k', 0, 0, 1, 2]);
}

#[test]
fn values_in_pieces() {
    for (length, further) in [(0, vec![]), (4095, vec![]), (4096, vec![0]), (4097, vec![1]), (8192, vec![4096, 0])] {
        let value = vec![1; length];
        let (first, rest) = pieces(&value);
        assert_eq!(first.len(), length.min(4096));
        let rest: Vec<(u32, usize)> = rest.map(|(number, piece)| (number, piece.len())).collect();
        assert_eq!(rest, (1..).zip(further).collect::<Vec<_>>());
    }
}

#[test]
fn galleries() {
    for (kind, frozen_kind) in [
        (GalleryKind::Consolidated, frozen::GalleryKind::Consolidated),
        (GalleryKind::Events, frozen::GalleryKind::Events),
    ] {
        for (rule, frozen_rule) in [
            (FusionRule::Norm, frozen::FusionRule::Norm),
            (FusionRule::SoftmaxQuality, frozen::FusionRule::SoftmaxQuality),
            (FusionRule::Mean, frozen::FusionRule::Mean),
            (FusionRule::Best, frozen::FusionRule::Best),
        ] {
            let ours =
                Gallery { kind, fusion: Some(Fusion::new(rule, 1.5)), created_at: time(), revision: 5, ..gallery("a") };
            let theirs = frozen::Gallery {
                key: 300,
                kind: frozen_kind,
                model_id: ours.model_id.0.clone(),
                dim: DIM,
                fusion: Some(frozen::Fusion { rule: frozen_rule, tau: 1.5 }),
                threshold: Some(0.25),
                min_quality: None,
                keep_crops: true,
                label: ours.label.clone(),
                created_at: TIME,
                updated_at: frozen::Time { second: 1_700_000_000, nanosecond: 250_000_000 },
                revision: 5,
            };
            assert_eq!(encode_gallery(GalleryKey(300), &ours).unwrap(), bytes(&theirs));
            assert_eq!(decode_gallery(gid("a"), &bytes(&theirs)).unwrap(), (GalleryKey(300), ours));
        }
    }
    let ours = GalleryCounts { subjects: 1, faces: 300, revision: 70_000 };
    let theirs = frozen::Counts { subjects: 1, faces: 300, revision: 70_000 };
    assert_eq!(encode_counts(ours).unwrap(), bytes(&theirs));
    assert_eq!(decode_counts(&bytes(&theirs)).unwrap(), ours);
}

#[test]
fn subjects_and_faces() {
    let ours = crate::store::Subject { created_at: time(), updated_at: time(), revision: 6, ..subject("x") };
    let theirs = frozen::Subject {
        labels: ours.labels.clone(),
        metadata: ours.metadata.clone(),
        created_at: TIME,
        updated_at: TIME,
        revision: 6,
    };
    assert_eq!(encode_subject(&ours).unwrap(), bytes(&theirs));
    assert!(decode_subject(sid("x"), &bytes(&theirs)).unwrap() == ours);

    for number in 0..3 {
        let mut ours = face("x", number).face;
        ours.created_at = time();
        let theirs = frozen::Face {
            media: ours.media.as_str().to_owned(),
            source: match ours.source {
                FaceSource::Photo => frozen::FaceSource::Photo,
                FaceSource::Crop => frozen::FaceSource::Crop,
                FaceSource::Embedding => frozen::FaceSource::Embedding,
            },
            norm: ours.norm,
            quality: ours.quality,
            bbox: ours.bbox.map(|of| [of.x1, of.y1, of.x2, of.y2]),
            landmarks: ours.landmarks.map(|of| of.0),
            detection_score: ours.detection_score,
            created_at: TIME,
        };
        assert_eq!(encode_face(&ours).unwrap(), bytes(&theirs));
        assert_eq!(decode_face(sid("x"), fid(number), &bytes(&theirs)).unwrap(), ours);
    }
    assert_eq!(encode_vector(&[1.0, -2.5]), [0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0]);
    assert_eq!(decode_vector(&[0, 0, 0x80, 0x3f, 0, 0, 0x20, 0xc0], 2).unwrap(), [1.0, -2.5]);
}

#[test]
fn changes_and_answers() {
    let (x, id) = (|| sid("x"), fid(5));
    let (text, raw) = (|| "x".to_owned(), 5_u128.to_be_bytes());
    for (ours, theirs) in [
        (ChangeKind::GalleryCreated, frozen::ChangeKind::GalleryCreated),
        (ChangeKind::GalleryUpdated, frozen::ChangeKind::GalleryUpdated),
        (ChangeKind::GalleryDeleted, frozen::ChangeKind::GalleryDeleted),
        (ChangeKind::SubjectCreated(x()), frozen::ChangeKind::SubjectCreated(text())),
        (ChangeKind::SubjectUpdated(x()), frozen::ChangeKind::SubjectUpdated(text())),
        (ChangeKind::SubjectDeleted(x()), frozen::ChangeKind::SubjectDeleted(text())),
        (ChangeKind::FaceAdded(x(), id), frozen::ChangeKind::FaceAdded(text(), raw)),
        (ChangeKind::FaceDeleted(x(), id), frozen::ChangeKind::FaceDeleted(text(), raw)),
    ] {
        let ours = Change { seq: 9, at: time(), gallery: gid("a"), kind: ours };
        let theirs = frozen::Change { at: TIME, gallery: "a".to_owned(), kind: theirs };
        assert_eq!(encode_change(&ours).unwrap(), bytes(&theirs));
        assert_eq!(decode_change(9, &bytes(&theirs)).unwrap(), ours);
    }
    let ours = answer(-3, vec![1, 2, 3]);
    let theirs = frozen::Answer {
        request_hash: ours.request_hash,
        status: ours.status,
        content_type: ours.content_type.clone(),
        location: ours.location.clone(),
        etag: None,
        body: ours.body.clone(),
        created_s: -3,
    };
    assert_eq!(encode_answer(&ours).unwrap(), bytes(&theirs));
    assert_eq!(decode_answer(&bytes(&theirs)).unwrap(), ours);
}

#[test]
fn feature_sets() {
    let id = MigrationId(uuid::Uuid::from_u128(7));
    let ours = Sets { in_use: SetKey(3), standby: Some((SetKey(300), id)) };
    let standby = second::Standby { set: 300, migration: 7_u128.to_be_bytes() };
    let theirs = second::Sets { in_use: 3, standby: Some(standby) };
    assert_eq!(encode_sets(ours).unwrap(), bytes(&theirs));
    assert_eq!(decode_sets(&bytes(&theirs)).unwrap(), ours);
    for values in [None, Some(vec![0.5, -1.25])] {
        let style = values.clone().map(|values| Style { network: *b"abcdefgh", values });
        let ours = Measures { norm: 21.5, quality: 0.75, style };
        let style = values.map(|values| second::Style { network: *b"abcdefgh", values });
        let theirs = second::Measures { norm: 21.5, quality: 0.75, style };
        assert_eq!(encode_measures(&ours).unwrap(), bytes(&theirs));
        assert_eq!(decode_measures(&bytes(&theirs)).unwrap(), ours);
    }
    let face = GalleryKey(1).face(&sid("x"), fid(5));
    assert_eq!(SetKey(2).of_face(&face), GalleryKey(2).face(&sid("x"), fid(5)));
    assert_eq!(GalleryKey(1).migration(id), [&1_u64.to_be_bytes()[..], &7_u128.to_be_bytes()].concat());
    assert_eq!(migration_of_key(&GalleryKey(1).migration(id)).unwrap(), id);
}

#[test]
fn migrations() {
    for (stage, frozen_stage) in [
        (Stage::Embedding, second::Stage::Embedding),
        (Stage::Ready, second::Stage::Ready),
        (Stage::CutOver, second::Stage::CutOver),
        (Stage::RolledBack, second::Stage::RolledBack),
        (Stage::Completed, second::Stage::Completed),
        (Stage::Cancelled, second::Stage::Cancelled),
    ] {
        let ours = Migration {
            stage,
            standby_faces: 300,
            failure: Some("no".to_owned()),
            report: Some("{}".to_owned()),
            created_at: time(),
            updated_at: time(),
            ..migration(7, 4)
        };
        let side = |side: &Side, threshold| second::Side {
            model_id: side.model_id.0.clone(),
            dim: side.dim,
            threshold: Some(threshold),
        };
        let theirs = second::Migration {
            from: side(&ours.from, 0.25),
            to: side(&ours.to, 0.5),
            stage: frozen_stage,
            standby_faces: 300,
            failure: ours.failure.clone(),
            report: ours.report.clone(),
            created_at: TIME,
            updated_at: TIME,
        };
        assert_eq!(encode_migration(&ours).unwrap(), bytes(&theirs));
        assert_eq!(decode_migration(ours.id, &bytes(&theirs)).unwrap(), ours);
    }
    let caface = Gallery { fusion: Some(Fusion::new(FusionRule::Caface, 1.0)), ..gallery("a") };
    let encoded = encode_gallery(GalleryKey(1), &caface).unwrap();
    assert_eq!(decode_gallery(gid("a"), &encoded).unwrap().1, caface);
    assert_eq!(bytes(&second::FusionRule::Caface), [4]);
}

#[test]
fn records_that_go_on() {
    let plain = Gallery { fusion: Some(Fusion::new(FusionRule::Mean, 1.0)), ..gallery("a") };
    let base = encode_gallery(GalleryKey(3), &plain).unwrap();
    let rate = Thresholds { matching: Some(ThresholdSetting::Fpir(0.01)), review: Some(ThresholdSetting::Score(0.5)) };
    let ours = Gallery {
        fusion: Some(Fusion { rule: FusionRule::Mean, tau: 1.0, cap: Some(-1.0), robust: true }),
        thresholds: Thresholds { matching: Some(ThresholdSetting::Score(0.25)), ..rate },
        guards: Guards { wrong_person: Guard::Off, duplicate_subject: Guard::Score(0.75) },
        ..plain.clone()
    };
    let thresholds = third::ThresholdsMore { fpir: None, review: Some(third::Threshold::Score(0.5)) };
    let theirs = third::GalleryMore {
        thresholds,
        wrong_person: third::Guard::Off,
        duplicate_subject: third::Guard::Score(0.75),
        robust: true,
        cap: Some(-1.0),
    };
    assert_eq!(encode_gallery(GalleryKey(3), &ours).unwrap(), [base, bytes(&theirs)].concat());
    let read = decode_gallery(gid("a"), &encode_gallery(GalleryKey(3), &ours).unwrap()).unwrap().1;
    assert_eq!(read, ours);
    let by_rate = Gallery { thresholds: rate, ..plain };
    let read = decode_gallery(gid("a"), &encode_gallery(GalleryKey(3), &by_rate).unwrap()).unwrap().1;
    assert_eq!(read, by_rate);

    for (consent, frozen_consent) in [
        (Consent::NotRecorded, third::Consent::NotRecorded),
        (Consent::Granted, third::Consent::Granted),
        (Consent::Pending, third::Consent::Pending),
        (Consent::Withdrawn, third::Consent::Withdrawn),
    ] {
        let ours = crate::store::Subject { expires_at: Some(time()), consent, ..subject("x") };
        let base = encode_subject(&subject("x")).unwrap();
        let theirs = third::SubjectMore { expires_at: Some(TIME), consent: frozen_consent };
        let encoded = encode_subject(&ours).unwrap();
        assert_eq!(encoded, [base, bytes(&theirs)].concat());
        assert!(decode_subject(sid("x"), &encoded).unwrap() == ours);
        assert!(decode_subject(sid("x"), &[&encoded[..], &[0]].concat()).is_err());
        assert!(decode_subject(sid("x"), &encoded[..encoded.len() - 1]).is_err());
    }

    for number in 4..7 {
        let ours = face("x", number).face;
        let mut plain = ours.clone();
        (plain.picture, plain.overrides) = (None, Vec::new());
        let of = |check, subject| third::Override { check, value: 0.25, required: 0.5, subject };
        let overrides = match number {
            5 => vec![of(third::Check::Quality, None), of(third::Check::DuplicateSubject, Some("twin".to_owned()))],
            6 => vec![of(third::Check::WrongPerson, None)],
            _ => Vec::new(),
        };
        let theirs = third::FaceMore { picture: Some([number as u8; 16]), overrides };
        let encoded = encode_face(&ours).unwrap();
        assert_eq!(encoded, [encode_face(&plain).unwrap(), bytes(&theirs)].concat());
        assert_eq!(decode_face(sid("x"), fid(number), &encoded).unwrap(), ours);
    }

    let mut ours = migration(7, 4);
    let base = encode_migration(&ours).unwrap();
    ours.to.thresholds.review = Some(ThresholdSetting::Fpir(0.02));
    let to = third::ThresholdsMore { fpir: None, review: Some(third::Threshold::Fpir(0.02)) };
    let theirs = third::MigrationMore { from: third::ThresholdsMore::default(), to };
    let encoded = encode_migration(&ours).unwrap();
    assert_eq!(encoded, [base, bytes(&theirs)].concat());
    assert_eq!(decode_migration(ours.id, &encoded).unwrap(), ours);
}

#[test]
fn moves_and_documents() {
    let ours =
        Change { seq: 9, at: time(), gallery: gid("a"), kind: ChangeKind::FaceMoved(sid("x"), fid(5), sid("y")) };
    let kind = third::ChangeKind::FaceMoved("x".to_owned(), 5_u128.to_be_bytes(), "y".to_owned());
    let theirs = [bytes(&TIME), bytes(&"a"), bytes(&kind)].concat();
    assert_eq!(encode_change(&ours).unwrap(), theirs);
    assert_eq!(decode_change(9, &theirs).unwrap(), ours);
    let added = third::ChangeKind::FaceAdded("x".to_owned(), 5_u128.to_be_bytes());
    assert_eq!(bytes(&added), bytes(&frozen::ChangeKind::FaceAdded("x".to_owned(), 5_u128.to_be_bytes())));

    assert_eq!(GalleryKey::NONE, GalleryKey(third::NO_GALLERY));
    assert_eq!(GalleryKey(1).document(Collection::Reviews, b"id"), [0, 0, 0, 0, 0, 0, 0, 1, 3, b'i', b'd']);
    assert_eq!(document_of_key(&GalleryKey::NONE.document(Collection::Cursors, b"id")).unwrap(), b"id");
    assert!(document_of_key(&GalleryKey(1).prefix()).is_err());
    assert!(Collection::ALL.iter().enumerate().all(|(number, of)| *of as usize == number));
}
