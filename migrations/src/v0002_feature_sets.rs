//! Version 2: a gallery can hold its features twice, of two models, while it moves from one to the other. Frozen; a
//! change is a new version.
//!
//! All of version 1 ([`v0001_initial`](crate::v0001_initial)) stays as it was described there, but for what follows.
//!
//! # Feature sets
//! A feature set is the features of a gallery's faces under one model. It has a set key, a `u64` from the same counter
//! as gallery keys (`next_gallery`), and its vectors lie in `vectors` under that key:
//!
//! | tree | key | value |
//! |---|---|---|
//! | `vectors` | **set key**, subject id, `0`, face id | embedding, `f32` little-endian |
//! | `measures` | as `vectors` | [`Measures`] |
//! | `sets` | gallery key | [`Sets`]; absent: the set in use has the gallery's own key, and there is no other |
//! | `migrations` | gallery key, migration id (16 bytes) | [`Migration`] |
//! | `retired_sets` | set key | nothing; rows under the key are leftovers |
//!
//! The first set of a gallery has the gallery's key, so what version 1 wrote is such a set as it stands. Norm and
//! quality of a feature are those of its row in `measures` and, where there is none, those in the record of the face,
//! which are of the model the face was enrolled with. A feature with a style has a row in `measures` in any case, one
//! without has one in every set but a gallery's first.
//!
//! A purge mark (`purges`) covers a deleted gallery's rows in the trees of version 1, those of its first set included;
//! its other sets are marked in `retired_sets`.
//!
//! # Fusion rules
//! A gallery's fusion can be [`FusionRule::Caface`], a variant added at the end.

use serde::{Deserialize, Serialize};

pub use crate::v0001_initial::Time;
use crate::{META_TREE, MigrationError};

/// Names of all trees. Those of version 1 come first, in their order there.
pub const TREES: [&str; 17] = [
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
];

/// Creates the trees that are new. Rows of version 1 are read as they are.
pub(crate) fn run(db: &sled::Db) -> Result<(), MigrationError> {
    for tree in TREES {
        db.open_tree(tree)?;
    }
    Ok(())
}

/// Norm, quality and style of a feature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Length of the raw feature.
    pub norm: f32,
    /// Quality, 0 to 1.
    pub quality: f32,
    /// What a network for set fusion looks at, where the model had one.
    pub style: Option<Style>,
}

/// How a face was taken, as a network for set fusion sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Style {
    /// First bytes of the SHA-256 of the network's weights.
    pub network: [u8; 8],
    /// What the network made of statistics of the face.
    pub values: Vec<f32>,
}

/// The feature sets of a gallery.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sets {
    /// Key of the set that is searched.
    pub in_use: u64,
    /// The set of the other model, while a migration is under way.
    pub standby: Option<Standby>,
}

/// The set that is not searched.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Standby {
    /// Its key.
    pub set: u64,
    /// Id of the migration.
    pub migration: [u8; 16],
}

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Stage {
    /// Faces are being embedded.
    Embedding,
    /// All faces were embedded; searches still use the old model.
    Ready,
    /// Searches use the new model; the old features are kept up to date.
    CutOver,
    /// Searches use the old model again; the new features are kept up to date.
    RolledBack,
    /// Ended with the new model in use; the old features are gone.
    Completed,
    /// Ended with the old model in use; the new features are gone.
    Cancelled,
}

/// A model as a migration names it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Model id.
    pub model_id: String,
    /// Length of its embeddings.
    pub dim: u32,
    /// The gallery's own threshold under this model.
    pub threshold: Option<f32>,
}

/// A gallery's move from one model to another. Its id is in the key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Migration {
    /// Model before.
    pub from: Side,
    /// Model after.
    pub to: Side,
    /// How far it is.
    pub stage: Stage,
    /// Faces in the standby set.
    pub standby_faces: u64,
    /// Why faces could not be embedded, where that was so.
    pub failure: Option<String>,
    /// The agreement report as JSON text.
    pub report: Option<String>,
    /// When started.
    pub created_at: Time,
    /// When its stage last changed.
    pub updated_at: Time,
}

/// How faces are weighted in a template: version 1 with a rule more.
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
    /// By the CAFace network.
    Caface,
}
