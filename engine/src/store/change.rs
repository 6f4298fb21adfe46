//! The change log: what happened, in order.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{FaceId, GalleryId, SubjectId};

/// One entry of the change log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Position in the log; no number is left out.
    pub seq: u64,
    /// When it was committed.
    pub at: Timestamp,
    /// The gallery it happened in.
    pub gallery: GalleryId,
    /// What happened.
    pub kind: ChangeKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ChangeKind {
    /// The gallery was added.
    GalleryCreated,
    /// The gallery's settings were replaced.
    GalleryUpdated,
    /// The gallery was removed with all in it.
    GalleryDeleted,
    /// A subject was added.
    SubjectCreated(SubjectId),
    /// A subject's labels or metadata were replaced.
    SubjectUpdated(SubjectId),
    /// A subject was removed with its faces.
    SubjectDeleted(SubjectId),
    /// A face was added.
    FaceAdded(SubjectId, FaceId),
    /// A face was removed.
    FaceDeleted(SubjectId, FaceId),
    /// A face was moved to the first subject, from the second.
    FaceMoved(SubjectId, FaceId, SubjectId),
}
