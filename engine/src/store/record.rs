//! What the store holds: galleries, subjects and faces. The layout on disk is frozen in `migrations/`; a change here
//! needs a new version there.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::face::{BoundingBox, Landmarks, Style};
use crate::ids::{FaceId, GalleryId, MediaId, ModelId, SubjectId};
use crate::template::{Fusion, FusionRule};

/// What a row of a gallery's index is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GalleryKind {
    /// One template a subject, fused from all of the subject's faces.
    Consolidated,
    /// One row a face.
    Events,
}

/// An enrolled set of subjects, bound to one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Gallery {
    /// Chosen by the caller.
    pub id: GalleryId,
    /// What is searched: subject templates or single faces.
    pub kind: GalleryKind,
    /// Every embedding in the gallery is of this model.
    pub model_id: ModelId,
    /// Length of the embeddings.
    pub dim: u32,
    /// How templates are fused; `None` follows the model's manifest.
    pub fusion: Option<Fusion>,
    /// From where on a candidate is a match or for a person to look at; what is open follows the server.
    pub thresholds: Thresholds,
    /// Faces below this quality (0 to 1) are not enrolled; `None` accepts all.
    pub min_quality: Option<f32>,
    /// What enrolments are compared with.
    pub guards: Guards,
    /// Whether aligned crops are kept, which a later change of model needs.
    pub keep_crops: bool,
    /// Free text for people.
    pub label: Option<String>,
    /// When the gallery was created.
    pub created_at: Timestamp,
    /// When its settings last changed.
    pub updated_at: Timestamp,
    /// Sequence number of the last change of these settings. Set by the store.
    pub revision: u64,
}

impl Gallery {
    /// Whether the gallery's rule is `caface`.
    pub fn by_caface(&self) -> bool {
        self.fusion.is_some_and(|fusion| fusion.rule == FusionRule::Caface)
    }
}

/// A threshold as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ThresholdSetting {
    /// A cosine, −1 to 1.
    Score(f32),
    /// The false positive identification rate to keep, above 0 and below 1; the score follows from the calibration.
    Fpir(f64),
}

/// Where decisions change.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Thresholds {
    /// From here on a candidate is a match.
    pub matching: Option<ThresholdSetting>,
    /// From here on, and below a match, a person looks at it.
    pub review: Option<ThresholdSetting>,
}

/// What an enrolment is compared with.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Guard {
    /// A score that follows from the model and, where it matters, the size of the gallery.
    #[default]
    Auto,
    /// Nothing: the check is not made.
    Off,
    /// This cosine.
    Score(f32),
}

/// The checks that keep a gallery from being poisoned, beside its lowest quality.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Guards {
    /// A face less like its subject's other faces than this is not enrolled.
    pub wrong_person: Guard,
    /// A face at least as like another subject as this is not enrolled.
    pub duplicate_subject: Guard,
}

/// Whether a subject may be matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consent {
    /// Nothing is recorded; the subject is matched.
    #[default]
    NotRecorded,
    /// The subject agreed.
    Granted,
    /// The subject was asked; not matched until granted.
    Pending,
    /// The subject took it back; not matched, and no face is enrolled.
    Withdrawn,
}

impl Consent {
    /// Whether searches find the subject.
    pub fn allows_matching(self) -> bool {
        matches!(self, Self::NotRecorded | Self::Granted)
    }
}

/// A person with an id.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Chosen by the caller, or a UUIDv7.
    pub id: SubjectId,
    /// Names and tags for people.
    pub labels: Vec<String>,
    /// A JSON object of the caller's, as text.
    pub metadata: String,
    /// From when on the subject is not found any more and is removed; `None`: never.
    pub expires_at: Option<Timestamp>,
    /// Whether the subject may be matched.
    pub consent: Consent,
    /// When the subject was created.
    pub created_at: Timestamp,
    /// When labels or metadata last changed.
    pub updated_at: Timestamp,
    /// Sequence number of the last change of this record. Set by the store.
    pub revision: u64,
}

/// Labels and metadata are personal data, so they stay out of logs.
impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("id", &self.id).field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// How a face came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaceSource {
    /// Detected in a photo.
    Photo,
    /// Given as an aligned 112×112 crop.
    Crop,
    /// Given as an embedding and norm.
    Embedding,
}

/// One enrolled face, without its vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Face {
    /// Assigned at enrolment.
    pub id: FaceId,
    /// Whose face.
    pub subject: SubjectId,
    /// The photo or video it came from.
    pub media: MediaId,
    /// How it came in.
    pub source: FaceSource,
    /// Length of the raw feature.
    pub norm: f32,
    /// CDF of the standardised norm, 0 to 1.
    pub quality: f32,
    /// Where it was in the photo; `None` unless `source` is `Photo`.
    pub bbox: Option<BoundingBox>,
    /// Its landmarks in the photo; `None` unless `source` is `Photo`.
    pub landmarks: Option<Landmarks>,
    /// The detector's score; `None` unless `source` is `Photo`.
    pub detection_score: Option<f32>,
    /// The picture it was found in; faces of one picture are never one person.
    pub picture: Option<PictureId>,
    /// Checks that found fault with it and were overridden.
    pub overrides: Vec<Override>,
    /// When it was enrolled.
    pub created_at: Timestamp,
}

/// Names a picture by what its file holds, so that the same file has the same name whenever it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PictureId(pub [u8; 16]);

/// A check of an enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The face's quality.
    Quality,
    /// Whether it is like its subject's other faces.
    WrongPerson,
    /// Whether it is like another subject.
    DuplicateSubject,
}

/// A check that a face did not pass and was enrolled in spite of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Override {
    /// Which.
    pub check: Check,
    /// What the face has: a quality or a cosine.
    pub value: f32,
    /// What was required.
    pub required: f32,
    /// For [`Check::DuplicateSubject`]: the subject it is like.
    pub subject: Option<SubjectId>,
}

/// A face with its feature: the record has the norm.
#[derive(Clone, PartialEq)]
pub struct StoredFace {
    /// The record.
    pub face: Face,
    /// Unit vector of the gallery's dimension.
    pub embedding: Vec<f32>,
    /// How the face was taken, where the model had a network for set fusion.
    pub style: Option<Style>,
}

/// Embeddings are biometric data, so they stay out of logs.
impl fmt::Debug for StoredFace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredFace").field("face", &self.face.id).finish_non_exhaustive()
    }
}

/// The stored answer to a request that carried an `Idempotency-Key`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredAnswer {
    /// Hash of the request body; another body under the same key is refused.
    pub request_hash: [u8; 32],
    /// HTTP-like status of the answer.
    pub status: u16,
    /// Media type of the body.
    pub content_type: String,
    /// `Location` of what was made, where there is one.
    pub location: Option<String>,
    /// `ETag` of the answer, where there is one.
    pub etag: Option<String>,
    /// The body as it was sent.
    pub body: Vec<u8>,
    /// When it was stored, in seconds since the Unix epoch; old ones are forgotten.
    pub created_s: i64,
}

/// Answers can hold biometric data, so they stay out of logs.
impl fmt::Debug for StoredAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredAnswer").field("status", &self.status).finish_non_exhaustive()
    }
}
