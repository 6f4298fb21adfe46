//! What can follow on a record in the same value; see the notes of schema version 3.
//!
//! A structure here is written only where something in it is not as usual, so most rows do without.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{TimeRecord, encode};
use crate::ids::SubjectId;
use crate::store::record::{Face, Gallery, Guard, Guards, Subject};
use crate::store::sled::layout::Tree;
use crate::store::{Check, Consent, Migration, Override, PictureId, StoreError, ThresholdSetting, Thresholds};

/// Encodes a record and what follows on it.
pub(super) fn encode_both<R, M>(tree: Tree, record: &R, more: &M) -> Result<Vec<u8>, StoreError>
where
    R: Serialize,
    M: Serialize + Default + PartialEq,
{
    let mut bytes = encode(tree, record)?;
    if *more != M::default() {
        bytes.extend(encode(tree, more)?);
    }
    Ok(bytes)
}

/// Decodes a record and what follows on it, if anything does.
pub(super) fn decode_both<R, M>(tree: Tree, bytes: &[u8]) -> Result<(R, M), StoreError>
where
    R: DeserializeOwned,
    M: DeserializeOwned + Default,
{
    let damaged = || tree.damaged("a record does not decode");
    let (record, rest) = postcard::take_from_bytes(bytes).map_err(|_| damaged())?;
    if rest.is_empty() {
        return Ok((record, M::default()));
    }
    match postcard::take_from_bytes(rest) {
        Ok((more, [])) => Ok((record, more)),
        _ => Err(damaged()),
    }
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum ThresholdRecord {
    Score(f32),
    Fpir(f64),
}

/// What the score in a record cannot say.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ThresholdsMore {
    fpir: Option<f64>,
    review: Option<ThresholdRecord>,
}

/// Thresholds as the score in the record and what follows.
pub(super) fn split_thresholds(thresholds: Thresholds) -> (Option<f32>, ThresholdsMore) {
    let (score, fpir) = match thresholds.matching {
        None => (None, None),
        Some(ThresholdSetting::Score(score)) => (Some(score), None),
        Some(ThresholdSetting::Fpir(fpir)) => (None, Some(fpir)),
    };
    let review = thresholds.review.map(|review| match review {
        ThresholdSetting::Score(score) => ThresholdRecord::Score(score),
        ThresholdSetting::Fpir(fpir) => ThresholdRecord::Fpir(fpir),
    });
    (score, ThresholdsMore { fpir, review })
}

/// The opposite of [`split_thresholds`].
pub(super) fn join_thresholds(score: Option<f32>, more: ThresholdsMore) -> Thresholds {
    Thresholds {
        matching: more.fpir.map(ThresholdSetting::Fpir).or(score.map(ThresholdSetting::Score)),
        review: more.review.map(|review| match review {
            ThresholdRecord::Score(score) => ThresholdSetting::Score(score),
            ThresholdRecord::Fpir(fpir) => ThresholdSetting::Fpir(fpir),
        }),
    }
}

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
enum GuardRecord {
    #[default]
    Auto,
    Off,
    Score(f32),
}

impl From<Guard> for GuardRecord {
    fn from(guard: Guard) -> Self {
        match guard {
            Guard::Auto => Self::Auto,
            Guard::Off => Self::Off,
            Guard::Score(score) => Self::Score(score),
        }
    }
}

impl From<GuardRecord> for Guard {
    fn from(record: GuardRecord) -> Self {
        match record {
            GuardRecord::Auto => Self::Auto,
            GuardRecord::Off => Self::Off,
            GuardRecord::Score(score) => Self::Score(score),
        }
    }
}

/// Follows on the record of a gallery.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct GalleryMore {
    pub(super) thresholds: ThresholdsMore,
    wrong_person: GuardRecord,
    duplicate_subject: GuardRecord,
    pub(super) robust: bool,
    pub(super) cap: Option<f32>,
}

impl GalleryMore {
    pub(super) fn of(gallery: &Gallery) -> Self {
        let Guards { wrong_person, duplicate_subject } = gallery.guards;
        Self {
            thresholds: split_thresholds(gallery.thresholds).1,
            wrong_person: wrong_person.into(),
            duplicate_subject: duplicate_subject.into(),
            robust: gallery.fusion.is_some_and(|fusion| fusion.robust),
            cap: gallery.fusion.and_then(|fusion| fusion.cap),
        }
    }

    pub(super) fn guards(&self) -> Guards {
        Guards { wrong_person: self.wrong_person.into(), duplicate_subject: self.duplicate_subject.into() }
    }
}

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
enum ConsentRecord {
    #[default]
    NotRecorded,
    Granted,
    Pending,
    Withdrawn,
}

/// Follows on the record of a subject.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct SubjectMore {
    pub(super) expires_at: Option<TimeRecord>,
    consent: ConsentRecord,
}

impl SubjectMore {
    pub(super) fn of(subject: &Subject) -> Self {
        Self {
            expires_at: subject.expires_at.map(Into::into),
            consent: match subject.consent {
                Consent::NotRecorded => ConsentRecord::NotRecorded,
                Consent::Granted => ConsentRecord::Granted,
                Consent::Pending => ConsentRecord::Pending,
                Consent::Withdrawn => ConsentRecord::Withdrawn,
            },
        }
    }

    pub(super) fn consent(&self) -> Consent {
        match self.consent {
            ConsentRecord::NotRecorded => Consent::NotRecorded,
            ConsentRecord::Granted => Consent::Granted,
            ConsentRecord::Pending => Consent::Pending,
            ConsentRecord::Withdrawn => Consent::Withdrawn,
        }
    }
}

#[derive(PartialEq, Serialize, Deserialize)]
enum CheckRecord {
    Quality,
    WrongPerson,
    DuplicateSubject,
}

#[derive(PartialEq, Serialize, Deserialize)]
struct OverrideRecord {
    check: CheckRecord,
    value: f32,
    required: f32,
    subject: Option<String>,
}

/// Follows on the record of a face.
#[derive(Default, PartialEq, Serialize, Deserialize)]
pub(super) struct FaceMore {
    picture: Option<[u8; 16]>,
    overrides: Vec<OverrideRecord>,
}

impl FaceMore {
    pub(super) fn of(face: &Face) -> Self {
        let record = |of: &Override| OverrideRecord {
            check: match of.check {
                Check::Quality => CheckRecord::Quality,
                Check::WrongPerson => CheckRecord::WrongPerson,
                Check::DuplicateSubject => CheckRecord::DuplicateSubject,
            },
            value: of.value,
            required: of.required,
            subject: of.subject.as_ref().map(|subject| subject.as_str().to_owned()),
        };
        Self { picture: face.picture.map(|picture| picture.0), overrides: face.overrides.iter().map(record).collect() }
    }

    pub(super) fn picture(&self) -> Option<PictureId> {
        self.picture.map(PictureId)
    }

    pub(super) fn overrides(self) -> Result<Vec<Override>, StoreError> {
        let read = |record: OverrideRecord| {
            let subject = record.subject.map(SubjectId::try_from).transpose();
            Ok(Override {
                check: match record.check {
                    CheckRecord::Quality => Check::Quality,
                    CheckRecord::WrongPerson => Check::WrongPerson,
                    CheckRecord::DuplicateSubject => Check::DuplicateSubject,
                },
                value: record.value,
                required: record.required,
                subject: subject.map_err(|_| Tree::Faces.damaged("a subject id is not valid"))?,
            })
        };
        self.overrides.into_iter().map(read).collect()
    }
}

/// Follows on the record of a migration.
#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct MigrationMore {
    pub(super) from: ThresholdsMore,
    pub(super) to: ThresholdsMore,
}

impl MigrationMore {
    pub(super) fn of(migration: &Migration) -> Self {
        Self { from: split_thresholds(migration.from.thresholds).1, to: split_thresholds(migration.to.thresholds).1 }
    }
}
