//! `/v1/changes`: what happened, in order.

use axum::extract::State;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use vultus_engine::store::{Change, ChangeKind};

use crate::app::App;
use crate::extract::Query;
use crate::problem::{Code, Problem};

/// Entries where the request does not say.
const DEFAULT_LIMIT: u32 = 100;
/// Most entries of an answer.
const MAX_LIMIT: u32 = 10_000;

/// Largest sequence number that JSON readers keep exact.
const MAX_SEQ: u64 = (1 << 53) - 1;

/// Which part of the change log.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChangesParams {
    /// Give entries above this sequence number; from the first where left out.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_i64, nullable = false)]
    pub after: Option<u64>,
    /// Most entries wanted; 100 where left out.
    #[param(minimum = 1, maximum = 10000, nullable = false)]
    pub limit: Option<u32>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ChangeKind)]
pub enum KindName {
    /// A gallery was added.
    GalleryCreated,
    /// A gallery's settings were replaced.
    GalleryUpdated,
    /// A gallery was removed with all in it.
    GalleryDeleted,
    /// A subject was added.
    SubjectCreated,
    /// A subject's labels, metadata, expiry or consent were replaced.
    SubjectUpdated,
    /// A subject was removed with its faces.
    SubjectDeleted,
    /// A face was added.
    FaceAdded,
    /// A face was removed.
    FaceDeleted,
    /// A face was moved from another subject to this one.
    FaceMoved,
}

/// One entry of the change log.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Change)]
pub struct ChangeView {
    /// Position in the log; no number is left out.
    pub seq: u64,
    /// When it was committed.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
    /// What happened.
    pub kind: KindName,
    /// The gallery it happened in.
    pub gallery: String,
    /// The subject it happened to; null when it was the gallery.
    #[schema(required = true)]
    pub subject: Option<String>,
    /// The face it happened to; null when it was the gallery or a subject.
    #[schema(required = true)]
    pub face: Option<Uuid>,
    /// With `face_moved`: whose the face was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub from: Option<String>,
}

/// A part of the change log.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Changes)]
pub struct ChangesView {
    /// In order.
    pub items: Vec<ChangeView>,
    /// Sequence number of the last change of all; 0 when there was none.
    pub last_seq: u64,
}

impl From<Change> for ChangeView {
    fn from(change: Change) -> Self {
        let mut moved_from = None;
        let (kind, subject, face) = match change.kind {
            ChangeKind::GalleryCreated => (KindName::GalleryCreated, None, None),
            ChangeKind::GalleryUpdated => (KindName::GalleryUpdated, None, None),
            ChangeKind::GalleryDeleted => (KindName::GalleryDeleted, None, None),
            ChangeKind::SubjectCreated(subject) => (KindName::SubjectCreated, Some(subject), None),
            ChangeKind::SubjectUpdated(subject) => (KindName::SubjectUpdated, Some(subject), None),
            ChangeKind::SubjectDeleted(subject) => (KindName::SubjectDeleted, Some(subject), None),
            ChangeKind::FaceAdded(subject, face) => (KindName::FaceAdded, Some(subject), Some(face)),
            ChangeKind::FaceDeleted(subject, face) => (KindName::FaceDeleted, Some(subject), Some(face)),
            ChangeKind::FaceMoved(subject, face, from) => {
                moved_from = Some(from);
                (KindName::FaceMoved, Some(subject), Some(face))
            }
        };
        Self {
            seq: change.seq,
            at: change.at,
            kind,
            gallery: change.gallery.to_string(),
            subject: subject.map(String::from),
            face: face.map(|face| face.0),
            from: moved_from.map(String::from),
        }
    }
}

/// Gives the change log from a sequence number on, for followers and for checking that nothing is missing.
#[utoipa::path(get, path = "/v1/changes", operation_id = "list_changes", tag = "changes",
    params(ChangesParams),
    responses((status = 200, description = "Entries in order.", body = ChangesView)))]
pub async fn list(State(app): State<App>, Query(params): Query<ChangesParams>) -> Result<impl IntoResponse, Problem> {
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::with(Code::InvalidParameter, format!("limit is a number from 1 to {MAX_LIMIT}")));
    }
    let after = params.after.unwrap_or(0);
    if after > MAX_SEQ {
        return Err(Problem::with(Code::InvalidParameter, format!("after is a number from 0 to {MAX_SEQ}")));
    }
    app.blocking(move |app| {
        let store = app.database.store();
        let items = store.changes(after, limit as usize)?;
        let last_seq = store.last_seq()?;
        Ok(axum::Json(ChangesView { items: items.into_iter().map(ChangeView::from).collect(), last_seq }))
    })
    .await
}
