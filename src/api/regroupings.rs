//! Merging and splitting subjects, moving faces, and undoing it: `/v1/galleries/{gallery}/regroupings` and the verbs of
//! a subject.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use vultus_engine::gallery::{Regrouping, RegroupingKind, Undone};
use vultus_engine::ids::{FaceId, GalleryId, RegroupingId, SubjectId};

use super::paging::{Page, PageParams};
use super::params::{FacePath, GalleryPath, SubjectPath};
use crate::app::App;
use crate::extract::{Json, Path, Query};
use crate::problem::{Code, Problem};

/// Most faces of a split.
const MAX_FACES: usize = 10_000;

/// A regrouping in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct RegroupingPath {
    /// Gallery id.
    #[param(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$", example = "staff")]
    pub gallery: GalleryId,
    /// Regrouping id.
    pub regrouping: Uuid,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = RegroupingKind)]
pub enum KindName {
    /// All faces of one subject went to another, and it was removed.
    Merge,
    /// Some faces of a subject went to a new one.
    Split,
    /// A face went to another subject.
    Move,
}

/// A merge, a split or a move, with what undoes it kept.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Regrouping)]
pub struct RegroupingView {
    /// Its id.
    pub id: Uuid,
    /// What was done.
    pub kind: KindName,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
    /// Whose the faces were.
    pub from: String,
    /// Whose they are since.
    pub into: String,
    /// The faces.
    pub faces: Vec<Uuid>,
    /// When it was undone; null while it stands.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub undone_at: Option<jiff::Timestamp>,
}

impl From<&Regrouping> for RegroupingView {
    fn from(of: &Regrouping) -> Self {
        Self {
            id: of.id.0,
            kind: match of.kind {
                RegroupingKind::Merge => KindName::Merge,
                RegroupingKind::Split => KindName::Split,
                RegroupingKind::Move => KindName::Move,
            },
            at: of.at,
            from: of.from.to_string(),
            into: of.into.to_string(),
            faces: of.faces.iter().map(|face| face.0).collect(),
            undone_at: of.undone_at,
        }
    }
}

/// What undoing did.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Undone)]
pub struct UndoneView {
    /// The regrouping that was undone.
    #[serde(flatten)]
    pub regrouping: RegroupingView,
    /// Its faces that had gone elsewhere or been removed since, and were left alone.
    pub left: Vec<Uuid>,
}

impl From<Undone> for UndoneView {
    fn from(undone: Undone) -> Self {
        Self { regrouping: (&undone.regrouping).into(), left: undone.left.iter().map(|face| face.0).collect() }
    }
}

/// Who is merged into the subject of the path.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MergeRequest, example = json!({"subject": "ada-2"}))]
pub struct MergeBody {
    /// The subject whose faces are taken over and which is then removed. Labels and metadata of the subject of the path
    /// stay as they are.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$")]
    pub subject: SubjectId,
    /// Also when the two are kept apart.
    #[serde(default)]
    pub even_if_kept_apart: bool,
}

/// Which faces leave the subject of the path: some, for a new subject, or those that a merge brought.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = SplitRequest, example = json!({"faces": ["01a20c73-3c10-7081-b8cd-13949bf1b0a0"], "into": "eve"}))]
pub struct SplitBody {
    /// Faces of the subject that go to a new one.
    #[schema(max_items = 10_000, nullable = false)]
    pub faces: Option<Vec<Uuid>>,
    /// The new subject's id; a UUIDv7 where left out.
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9_.:-]{1,128}$", nullable = false)]
    pub into: Option<SubjectId>,
    /// In place of faces: a merge into this subject, which is undone, so that the subject that was merged is there again
    /// as it was.
    #[schema(nullable = false)]
    pub merge: Option<Uuid>,
}

/// Whom a face is given to.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FacePatch, example = json!({"subject": "bob"}))]
pub struct MoveBody {
    /// A subject of the gallery.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$")]
    pub subject: SubjectId,
}

fn created(gallery: &GalleryId, done: &Regrouping) -> impl IntoResponse + use<> {
    let location = format!("/v1/galleries/{gallery}/regroupings/{}", done.id);
    (StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(RegroupingView::from(done)))
}

/// Merges another subject into this one: its faces come over, and it is removed. Can be undone.
///
/// Refused (`consent_missing`) where consent or expiry of the other bar more than those of this one.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/subjects/{subject}/merge", operation_id = "merge_subjects",
    tag = "subjects", params(SubjectPath), request_body = MergeBody,
    responses((status = 201, description = "What was done.", body = RegroupingView,
        headers(("Location" = String, description = "Where it is kept.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found", "kept_apart", "model_mismatch",
        "consent_missing"]))))]
pub async fn merge(
    State(app): State<App>,
    Path(SubjectPath { gallery, subject }): Path<SubjectPath>,
    Json(body): Json<MergeBody>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let done = app.database.merge(&gallery, &subject, &body.subject, body.even_if_kept_apart)?;
        Ok(created(&gallery, &done))
    })
    .await
}

/// Splits faces off into a new subject, or undoes a merge into this one. Can be undone.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/subjects/{subject}/split", operation_id = "split_subject",
    tag = "subjects", params(SubjectPath), request_body = SplitBody,
    responses(
        (status = 200, description = "The merge was undone.", body = UndoneView),
        (status = 201, description = "What was done.", body = RegroupingView,
            headers(("Location" = String, description = "Where it is kept.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found", "subject_exists", "face_not_found",
        "regrouping_not_found", "already_undone", "consent_missing", "model_mismatch"]))))]
pub async fn split(
    State(app): State<App>,
    Path(SubjectPath { gallery, subject }): Path<SubjectPath>,
    Json(body): Json<SplitBody>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| match body {
        SplitBody { faces: None, into: None, merge: Some(merge) } => {
            let id = RegroupingId(merge);
            let there = app.database.regrouping(&gallery, id)?;
            if there.kind != RegroupingKind::Merge || there.into != subject {
                return Err(Problem::with(Code::RegroupingNotFound, format!("{id} is no merge into {subject}")));
            }
            Ok(axum::Json(UndoneView::from(app.database.undo(&gallery, id)?)).into_response())
        }
        SplitBody { faces: Some(faces), into, merge: None } if (1..=MAX_FACES).contains(&faces.len()) => {
            let mut faces: Vec<FaceId> = faces.into_iter().map(FaceId).collect();
            faces.sort();
            faces.dedup();
            let into = into.unwrap_or_else(SubjectId::generate);
            Ok(created(&gallery, &app.database.split(&gallery, &subject, &faces, into)?).into_response())
        }
        _ => Err(Problem::with(
            Code::InvalidRequest,
            format!("a split names 1 to {MAX_FACES} `faces`, or a `merge` that it undoes"),
        )),
    })
    .await
}

/// Gives a face to another subject. Can be undone.
#[utoipa::path(patch, path = "/v1/galleries/{gallery}/subjects/{subject}/faces/{face}", operation_id = "move_face",
    tag = "faces", params(FacePath),
    request_body(content((MoveBody = "application/merge-patch+json"), (MoveBody = "application/json"))),
    responses((status = 200, description = "What was done.", body = RegroupingView)),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found", "face_not_found", "model_mismatch",
        "consent_missing"]))))]
pub async fn move_face(
    State(app): State<App>,
    Path(FacePath { gallery, subject, face }): Path<FacePath>,
    Json(body): Json<MoveBody>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let done = app.database.move_face(&gallery, &subject, &body.subject, FaceId(face))?;
        Ok(axum::Json(RegroupingView::from(&done)))
    })
    .await
}

/// Lists merges, splits and moves of a gallery in the order they were done.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/regroupings", operation_id = "list_regroupings", tag = "subjects",
    params(GalleryPath, PageParams),
    responses((status = 200, description = "A page of regroupings.", body = Page<RegroupingView>)),
    extensions(("x-problems" = json!(["gallery_not_found"]))))]
pub async fn list(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
    Query(page): Query<PageParams>,
) -> Result<impl IntoResponse, Problem> {
    let limit = page.limit()?;
    let after = page.after()?.map(|after| after.parse::<RegroupingId>()).transpose();
    let after = after.map_err(|_| Problem::with(Code::InvalidParameter, "cursor is not one that a page gave"))?;
    app.blocking(move |app| {
        let found = app.database.regroupings(&gallery, after, limit + 1)?;
        let views = found.iter().map(RegroupingView::from).collect();
        Ok(axum::Json(Page::cut(views, limit, |of| of.id.to_string())))
    })
    .await
}

/// Gives one regrouping.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/regroupings/{regrouping}", operation_id = "get_regrouping",
    tag = "subjects", params(RegroupingPath),
    responses((status = 200, description = "The regrouping.", body = RegroupingView)),
    extensions(("x-problems" = json!(["gallery_not_found", "regrouping_not_found"]))))]
pub async fn get(
    State(app): State<App>,
    Path(RegroupingPath { gallery, regrouping }): Path<RegroupingPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let found = app.database.regrouping(&gallery, RegroupingId(regrouping))?;
        Ok(axum::Json(RegroupingView::from(&found)))
    })
    .await
}

/// Undoes a merge, a split or a move: faces that are still where it put them go back, a subject that it removed is there
/// again as it was.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/regroupings/{regrouping}/undo", operation_id = "undo_regrouping",
    tag = "subjects", params(RegroupingPath),
    responses((status = 200, description = "What was undone.", body = UndoneView)),
    extensions(("x-problems" = json!(["gallery_not_found", "regrouping_not_found", "subject_not_found",
        "subject_exists", "already_undone", "consent_missing", "model_mismatch"]))))]
pub async fn undo(
    State(app): State<App>,
    Path(RegroupingPath { gallery, regrouping }): Path<RegroupingPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let undone = app.database.undo(&gallery, RegroupingId(regrouping))?;
        Ok(axum::Json(UndoneView::from(undone)))
    })
    .await
}
