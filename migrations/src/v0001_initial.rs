//! Version 1: the first layout. Frozen; a change is a new version.
//!
//! # Trees
//! | tree | key | value |
//! |---|---|---|
//! | `meta` | text | `schema_version`: `u32`; `next_gallery`: `u64`, the next gallery key (little-endian; absent: 1) |
//! | `galleries` | gallery id | [`Gallery`] |
//! | `counts` | gallery key | [`Counts`] |
//! | `subjects` | gallery key, subject id | [`Subject`] |
//! | `faces` | gallery key, subject id, `0`, face id | [`Face`] |
//! | `vectors` | as `faces` | embedding, `f32` little-endian |
//! | `crops` | as `faces` | encoded image |
//! | `face_subjects` | gallery key, face id | subject id |
//! | `changes` | sequence number | [`Change`] |
//! | `answers` | idempotency key, 32 bytes | [`Answer`] |
//! | `answers_by_time` | `i64` seconds with the sign bit flipped, idempotency key | nothing |
//! | `purges` | gallery key | nothing; rows under the key are leftovers of a deleted gallery |
//! | `overflow` | number of the tree in [`TREES`] (one byte), key there, `u32` piece number from 1 | next piece |
//!
//! Numbers in keys are big-endian so that they sort. A gallery key is a `u64` given to a gallery when it is created and
//! never again, so that a gallery made anew under an old id does not see rows of the old one. Face ids are the 16 bytes
//! of the UUID. Ids of galleries and subjects hold no byte 0, which is why `0` can end one: keys sort by subject id and
//! then face id.
//!
//! # Pieces
//! Values end at [`PIECE_BYTES`]: of a longer one, the row holds the first piece and `overflow` the others. All pieces
//! but the last are exactly that long and the last is shorter (it may be empty), so that a missing piece is noticed.
//! Leaves of sled hold up to 20 rows; with pieces of this size they stay below the 128 KiB from which sled writes a
//! page to a file of its own, which it does not sync.
//!
//! # Beside the database
//! The file `durable`: the sequence number of the last change known to be on disk and its bitwise complement, both
//! `u64` little-endian. It may be missing or behind.
//!
//! # Records
//! postcard of the structures below, fields in order, enums as the number of the variant.

use serde::{Deserialize, Serialize};

use crate::{META_TREE, MigrationError};

/// Names of all trees.
pub const TREES: [&str; 13] = [
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
];

/// Longest value of a row in bytes.
pub const PIECE_BYTES: usize = 4096;

/// Key in `meta` of the next gallery key.
pub const NEXT_GALLERY_KEY: &str = "next_gallery";

/// Creates the trees.
pub(crate) fn run(db: &sled::Db) -> Result<(), MigrationError> {
    for tree in TREES {
        db.open_tree(tree)?;
    }
    Ok(())
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since the Unix epoch.
    pub second: i64,
    /// Nanoseconds on top, with the sign of `second`.
    pub nanosecond: i32,
}

/// What a row of the gallery's index is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum GalleryKind {
    /// One template a subject.
    Consolidated,
    /// One row a face.
    Events,
}

/// How faces are weighted in a template.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum FusionRule {
    /// By norm.
    Norm,
    /// By the exponential of the standardised norm.
    SoftmaxQuality,
    /// All alike.
    Mean,
    /// The best alone.
    Best,
}

/// A fusion rule with its parameter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fusion {
    /// The rule.
    pub rule: FusionRule,
    /// τ of `SoftmaxQuality`.
    pub tau: f32,
}

/// A gallery's settings. Its id is the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gallery {
    /// The gallery key, first part of all other keys.
    pub key: u64,
    /// Kind.
    pub kind: GalleryKind,
    /// Model of all embeddings.
    pub model_id: String,
    /// Length of all embeddings.
    pub dim: u32,
    /// Fusion, where the gallery has its own.
    pub fusion: Option<Fusion>,
    /// Threshold, where the gallery has its own.
    pub threshold: Option<f32>,
    /// Lowest quality enrolled.
    pub min_quality: Option<f32>,
    /// Whether crops are kept.
    pub keep_crops: bool,
    /// Free text.
    pub label: Option<String>,
    /// When created.
    pub created_at: Time,
    /// When changed.
    pub updated_at: Time,
    /// Sequence number of the last change of these settings.
    pub revision: u64,
}

/// Sizes of a gallery.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Subjects.
    pub subjects: u64,
    /// Faces.
    pub faces: u64,
    /// Sequence number of the last change of anything in the gallery.
    pub revision: u64,
}

/// A subject. Its id is in the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Labels.
    pub labels: Vec<String>,
    /// JSON text.
    pub metadata: String,
    /// When created.
    pub created_at: Time,
    /// When changed.
    pub updated_at: Time,
    /// Sequence number of the last change of this record.
    pub revision: u64,
}

/// How a face came in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum FaceSource {
    /// Detected in a photo.
    Photo,
    /// An aligned crop.
    Crop,
    /// An embedding.
    Embedding,
}

/// A face. Its id and its subject's are in the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Face {
    /// Media id.
    pub media: String,
    /// How it came in.
    pub source: FaceSource,
    /// Length of the raw feature.
    pub norm: f32,
    /// Quality, 0 to 1.
    pub quality: f32,
    /// Left, top, right, bottom in pixels.
    pub bbox: Option<[f32; 4]>,
    /// Five points in pixels.
    pub landmarks: Option<[[f32; 2]; 5]>,
    /// The detector's score.
    pub detection_score: Option<f32>,
    /// When enrolled.
    pub created_at: Time,
}

/// An entry of the change log. Its sequence number is the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// When committed.
    pub at: Time,
    /// Gallery id.
    pub gallery: String,
    /// What happened.
    pub kind: ChangeKind,
}

/// What happened. Subject ids as text, face ids as bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// Gallery added.
    GalleryCreated,
    /// Settings replaced.
    GalleryUpdated,
    /// Gallery removed.
    GalleryDeleted,
    /// Subject added.
    SubjectCreated(String),
    /// Subject replaced.
    SubjectUpdated(String),
    /// Subject removed.
    SubjectDeleted(String),
    /// Face added.
    FaceAdded(String, [u8; 16]),
    /// Face removed.
    FaceDeleted(String, [u8; 16]),
}

/// An answer kept under an idempotency key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Hash of the request.
    pub request_hash: [u8; 32],
    /// Status.
    pub status: u16,
    /// Media type of the body.
    pub content_type: String,
    /// Location.
    pub location: Option<String>,
    /// Entity tag.
    pub etag: Option<String>,
    /// Body.
    pub body: Vec<u8>,
    /// Seconds since the Unix epoch.
    pub created_s: i64,
}
