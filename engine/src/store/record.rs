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
    /// Score from which a candidate is a match; `None` follows the server.
    pub threshold: Option<f32>,
    /// Faces below this quality (0 to 1) are not enrolled; `None` accepts all.
    pub min_quality: Option<f32>,
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

/// A person with an id.
#[derive(Clone, PartialEq)]
pub struct Subject {
    /// Chosen by the caller, or a UUIDv7.
    pub id: SubjectId,
    /// Names and tags for people.
    pub labels: Vec<String>,
    /// A JSON object of the caller's, as text.
    pub metadata: String,
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
    /// When it was enrolled.
    pub created_at: Timestamp,
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
