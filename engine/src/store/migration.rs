//! A gallery's move from one model to another.
//!
//! While a migration is under way the gallery holds its features twice: the set in use, which is searched, and the
//! standby set of the other model. Faces are embedded into the standby set one by one; cutting over and rolling back
//! exchange the two sets in one transaction; ending the migration drops the standby set.
//!
//! ```text
//! Embedding ─► Ready ─► CutOver ◄─► RolledBack
//!     └──────────┴────────│─────────────┴─► Cancelled   (the old model stays)
//!                         └─► Completed                 (the new model stays)
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::face::Feature;
use crate::ids::{FaceId, MigrationId, ModelId, SubjectId};

use super::{StoredFace, Thresholds};

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Faces are being embedded with the new model.
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

impl Stage {
    /// Whether the migration is over and its standby set dropped.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled)
    }

    /// Whether the new model is the one in use.
    pub fn uses_new(self) -> bool {
        matches!(self, Self::CutOver | Self::Completed)
    }

    /// The name that stands in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Ready => "ready",
            Self::CutOver => "cut_over",
            Self::RolledBack => "rolled_back",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A gallery under one of the two models.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// The model.
    pub model_id: ModelId,
    /// Length of its embeddings.
    pub dim: u32,
    /// The gallery's own thresholds under this model; scores of different models cannot be compared.
    pub thresholds: Thresholds,
}

/// A gallery's move from one model to another.
#[derive(Debug, Clone, PartialEq)]
pub struct Migration {
    /// Assigned when it is started.
    pub id: MigrationId,
    /// Before.
    pub from: Side,
    /// After.
    pub to: Side,
    /// How far it is.
    pub stage: Stage,
    /// Faces in the standby set. Kept by the store.
    pub standby_faces: u64,
    /// Why faces could not be embedded, where that was so.
    pub failure: Option<String>,
    /// The agreement report as JSON text, once all faces were embedded.
    pub report: Option<String>,
    /// When it was started.
    pub created_at: Timestamp,
    /// When its stage last changed.
    pub updated_at: Timestamp,
}

impl Migration {
    /// The side in use.
    pub fn in_use(&self) -> &Side {
        if self.stage.uses_new() { &self.to } else { &self.from }
    }

    /// The side of the standby set; meaningless once the migration has ended.
    pub fn standby(&self) -> &Side {
        if self.stage.uses_new() { &self.from } else { &self.to }
    }
}

/// A face's feature for the standby set.
#[derive(Clone, PartialEq)]
pub struct StandbyFeature {
    /// Whose face.
    pub subject: SubjectId,
    /// Which.
    pub face: FaceId,
    /// Embedding and norm.
    pub feature: Feature,
    /// CDF of the standardised norm.
    pub quality: f32,
}

/// Embeddings are biometric data, so they stay out of logs.
impl std::fmt::Debug for StandbyFeature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StandbyFeature").field("face", &self.face).finish_non_exhaustive()
    }
}

/// A face as a scan of the standby set shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct StandbyFace {
    /// Whose face.
    pub subject: SubjectId,
    /// Which.
    pub face: FaceId,
    /// The face with its feature of the standby set; `None` while it lacks one.
    pub stored: Option<StoredFace>,
}
