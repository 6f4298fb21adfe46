//! Version 3: decisions with a stated rate, care of subjects, documents. Frozen; a change is a new version.
//!
//! All of version 2 ([`v0002_feature_sets`](crate::v0002_feature_sets)) stays as it was described there, but for what
//! follows.
//!
//! # Records that go on
//! A record in `galleries`, `subjects`, `faces` or `migrations` can be followed, in the same value, by a second
//! structure: [`GalleryMore`], [`SubjectMore`], [`FaceMore`], [`MigrationMore`]. It is left out where all of it is as the
//! documentation of its members calls usual, so rows of version 2 stand as they are.
//!
//! # Documents
//! | tree | key | value |
//! |---|---|---|
//! | `documents` | gallery key (`u64::MAX`: of no gallery), collection (one byte), id | JSON text |
//!
//! The collections: 0 calibrations, 1 regroupings, 2 pairs that are not one person, 3 reviews (all of a gallery);
//! 4 watches, 5 hits of watches, 6 jobs, 7 how far deliveries are (all of no gallery). Members that a reader does not
//! know are passed over and those that are missing have their defaults, so that these texts can grow without a version.
//! A purge mark covers the documents of a deleted gallery.
//!
//! # Change log
//! [`ChangeKind`] is that of version 1 with a variant more at the end.

use serde::{Deserialize, Serialize};

pub use crate::v0002_feature_sets::Time;
use crate::{META_TREE, MigrationError};

/// Names of all trees. Those of version 2 come first, in their order there.
pub const TREES: [&str; 18] = [
    META_TREE,
    "galleries",
    "counts",
    "subjects",
    "faces",
    "vectors",
    "crops",
    "face_subjects",
    "changes",
    "answers",
    "answers_by_time",
    "purges",
    "overflow",
    "measures",
    "sets",
    "migrations",
    "retired_sets",
    "documents",
];

/// Stands for a gallery key in keys of documents that are of no gallery.
pub const NO_GALLERY: u64 = u64::MAX;

/// Creates the tree that is new. Rows of version 2 are read as they are.
pub(crate) fn run(db: &sled::Db) -> Result<(), MigrationError> {
    for tree in TREES {
        db.open_tree(tree)?;
    }
    Ok(())
}

/// A threshold as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Threshold {
    /// A score.
    Score(f32),
    /// A false positive identification rate.
    Fpir(f64),
}

/// What the `threshold` of a record, which is the score from which a candidate is a match, cannot say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ThresholdsMore {
    /// The rate at which a candidate is a match, in place of a score. Usually none.
    pub fpir: Option<f64>,
    /// From where on a person looks at a candidate. Usually none.
    pub review: Option<Threshold>,
}

/// What an enrolment is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub enum Guard {
    /// A score that follows from the model. Usual.
    #[default]
    Auto,
    /// Nothing.
    Off,
    /// This score.
    Score(f32),
}

/// What follows on the record of a gallery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct GalleryMore {
    /// Thresholds.
    pub thresholds: ThresholdsMore,
    /// Whether a face has to be like its subject's others.
    pub wrong_person: Guard,
    /// Whether a face must not be like another subject.
    pub duplicate_subject: Guard,
    /// Whether templates damp faces that disagree with the rest. Usually not.
    pub robust: bool,
    /// The standardised norm above which all faces weigh alike. Usually none.
    pub cap: Option<f32>,
}

/// Whether a subject may be matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub enum Consent {
    /// Nothing is recorded; matched. Usual.
    #[default]
    NotRecorded,
    /// Given; matched.
    Granted,
    /// Asked for; not matched.
    Pending,
    /// Taken back; not matched.
    Withdrawn,
}

/// What follows on the record of a subject.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct SubjectMore {
    /// When the subject is removed. Usually never.
    pub expires_at: Option<Time>,
    /// Consent.
    pub consent: Consent,
}

/// A check that an enrolment was let through in spite of.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Check {
    /// Quality.
    Quality,
    /// Likeness to the subject's other faces.
    WrongPerson,
    /// Likeness to another subject.
    DuplicateSubject,
}

/// What was found and what would have been required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Override {
    /// The check.
    pub check: Check,
    /// The face's value.
    pub value: f32,
    /// The value required.
    pub required: f32,
    /// For [`Check::DuplicateSubject`]: the other subject.
    pub subject: Option<String>,
}

/// What follows on the record of a face.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FaceMore {
    /// Names the picture the face was found in by its bytes. Usually none.
    pub picture: Option<[u8; 16]>,
    /// Checks that were overridden. Usually none.
    pub overrides: Vec<Override>,
}

/// What follows on the record of a migration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct MigrationMore {
    /// Thresholds under the old model.
    pub from: ThresholdsMore,
    /// Thresholds under the new one.
    pub to: ThresholdsMore,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// The gallery was added.
    GalleryCreated,
    /// Its settings were replaced.
    GalleryUpdated,
    /// It was removed.
    GalleryDeleted,
    /// A subject was added.
    SubjectCreated(String),
    /// Its record was replaced.
    SubjectUpdated(String),
    /// It was removed with its faces.
    SubjectDeleted(String),
    /// A face was added to a subject.
    FaceAdded(String, [u8; 16]),
    /// A face was removed.
    FaceDeleted(String, [u8; 16]),
    /// A face was moved: to whom, which, from whom.
    FaceMoved(String, [u8; 16], String),
}
