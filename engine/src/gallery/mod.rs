//! Galleries in use: the store joined with an index per gallery.
//!
//! Every write goes to the store first and is durable there before the index hears of it; the index row of a subject
//! is then made again from what the store holds, under the gallery's writer lock. Whatever order concurrent writes
//! come in, the last one to refresh a subject has read all of them. Searches wait for no writer.
//!
//! ```text
//! enrol ─► store.commit (durable) ─► refresh subject: store.faces ─► template::fuse ─► index.upsert
//! search ─► index.search ─► threshold ─► candidates (explain: store.faces)
//! ```

mod agglomerate;
mod agreement;
#[cfg(test)]
mod analysis_tests;
#[cfg(test)]
mod caface_tests;
mod calibrate;
mod care;
#[cfg(test)]
mod care_tests;
mod clusters;
mod confusion;
mod database;
mod decision;
mod documents;
mod duplicates;
mod enrol;
mod facts;
mod guard;
mod jobs;
mod migrate;
mod mover;
mod open;
mod pairs;
mod regroup;
mod reviews;
mod search;
#[cfg(test)]
mod snapshot_tests;
mod snapshots;
mod subjects;
#[cfg(test)]
mod tests;
mod walk;
mod watches;

pub use agreement::{Agreement, Mated, NonMated, Spread};
pub use calibrate::{CalibrateOptions, CalibrationProbes, CalibrationStatus, GalleryCalibration};
pub use clusters::{Cluster, ClusterFace, ClusterOptions, Clusters};
pub use confusion::{Confusion, LeaveOneOut, LeaveOneOutOptions, ScoreSpread, Suspect};
pub use database::{Database, DatabaseConfig, GallerySettings, IndexTotals};
pub use decision::{Decider, Decision, ServerScores, Threshold, ThresholdSource};
pub use duplicates::{DuplicateOptions, DuplicatePair, Duplicates};
pub use enrol::{Enrolled, NewFace};
pub use facts::{Comparison, Field, Filter, MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES};
pub use guard::Inspection;
pub use jobs::{JobBook, NewAttachment};
pub use open::stored_rows;
pub use pairs::Pair;
pub use regroup::{Regrouping, RegroupingKind, Undone};
pub use reviews::{NewReview, Review, ReviewedProbe, Verdict};
pub use search::{Candidate, CandidateFace, SearchQuery, SearchResult, StoredProbe, SubjectMatch};
pub use snapshots::{SnapshotConfig, SnapshotCounts};
pub use subjects::SubjectSettings;
pub use watches::{
    Hit, HitSource, NewHit, Progress, Secret, Watch, WatchBook, WatchSettings, WatchSources, WatchedSearches, Webhook,
};

use crate::calibration::CalibrationError;
use crate::ids::{GalleryId, ModelId, RegroupingId, ReviewId, SubjectId, WatchId};
use crate::index::IndexError;
use crate::model::ModelUnavailable;
use crate::store::StoreError;
use crate::template::TemplateError;

/// Why a gallery did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum GalleryError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The index refused the vector.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The faces could not be fused.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The embeddings are of another model than the gallery.
    #[error("gallery {gallery} holds embeddings of model {expected}, not of {actual}")]
    ModelMismatch {
        /// Which gallery.
        gallery: GalleryId,
        /// The gallery's model.
        expected: ModelId,
        /// The model of the request.
        actual: ModelId,
    },
    /// The gallery's model is not at hand.
    #[error("gallery {gallery} is of model {model}, which cannot be used: {reason}")]
    ModelUnavailable {
        /// Which gallery.
        gallery: GalleryId,
        /// The model.
        model: ModelId,
        /// Why it cannot be used.
        reason: ModelUnavailable,
    },
    /// A gallery is to fuse by `caface`, and its model has no network for that.
    #[error(
        "the rule caface needs a CAFace network beside the model, and no flip fusion; gallery {gallery} is of {model}"
    )]
    NoCaface {
        /// Which gallery.
        gallery: GalleryId,
        /// Its model.
        model: ModelId,
    },
    /// A ready embedding was to be enrolled where faces are fused by `caface`.
    #[error("gallery {0} fuses by caface, which looks at images, so ready embeddings cannot be enrolled there")]
    NeedsImages(GalleryId),
    /// A threshold is given as a rate, and the gallery is not calibrated for its model and fusion rule.
    #[error(
        "gallery {0} is not calibrated for its present model and fusion rule, so a rate cannot be turned into a score; \
         calibrate it, or give a score"
    )]
    CalibrationMissing(GalleryId),
    /// A calibration could not be made.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// A subject whose consent or expiry bars it from being matched.
    #[error("subject {0} may not be matched: its consent is pending or withdrawn, or it has expired")]
    NotMatchable(SubjectId),
    /// A face is to be enrolled of a subject that took its consent back.
    #[error("subject {0} has withdrawn consent, so no face of it can be enrolled")]
    ConsentMissing(SubjectId),
    /// An operation on two subjects names one twice.
    #[error("subject {0} is named twice; two subjects are wanted")]
    SameSubject(SubjectId),
    /// Two subjects are to become one that are known to be two people.
    #[error("subjects {0} and {1} are kept apart")]
    KeptApart(SubjectId, SubjectId),
    /// Faces are to go to a subject with less in the way of matching them.
    #[error(
        "consent or expiry of subject {from} bar more than those of {into}, to which its faces would go; make them alike first"
    )]
    LaxerTerms {
        /// Whose the faces are.
        from: SubjectId,
        /// Whose they would be.
        into: SubjectId,
    },
    /// No such regrouping of the gallery.
    #[error("there is no regrouping {1} of gallery {0}")]
    NoRegrouping(GalleryId, RegroupingId),
    /// A regrouping is to be undone that was undone before.
    #[error("regrouping {0} was undone already")]
    AlreadyUndone(RegroupingId),
    /// A regrouping is to be undone whose faces' subject has gone, merged on or removed.
    #[error("regrouping {0} gave faces to subject {1}, who is gone: undo what was done with {1} since first")]
    UndoneInOrder(RegroupingId, SubjectId),
    /// No such review.
    #[error("there is no review {0}")]
    NoReview(ReviewId),
    /// No such watch.
    #[error("there is no watch {0}")]
    NoWatch(WatchId),
    /// The database is being closed, so longer work is not begun.
    #[error("the server is stopping")]
    Stopping,
    /// A gallery is to move to the model it is of already.
    #[error("gallery {0} is of model {1} already")]
    SameModel(GalleryId, ModelId),
}
