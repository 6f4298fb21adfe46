//! `/v1/galleries/{gallery}/subjects`: persons with an id.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use vultus_engine::gallery::SubjectSettings;
use vultus_engine::ids::{GalleryId, SubjectId};
use vultus_engine::store::{Consent, Subject};

use super::paging::{Page, PageParams};
use super::params::{GalleryPath, IfMatchHeader, SubjectPath};
use crate::app::App;
use crate::extract::condition::{IfMatch, etag, until_settled};
use crate::extract::{Json, Path, Query};
use crate::problem::{Code, Problem};

/// Most bytes of a subject's metadata as JSON text.
const MAX_METADATA_BYTES: usize = 16 << 10;
/// Most labels of a subject.
const MAX_LABELS: usize = 64;
/// Most characters of a label.
const MAX_LABEL_CHARS: usize = 256;

/// What can be set of a subject.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = SubjectSettings, example = json!({"labels": ["Ada"], "metadata": {"badge": 17}}))]
pub struct SubjectBody {
    /// Names and tags for people.
    #[schema(max_items = 64)]
    pub labels: Vec<String>,
    /// Any JSON object, at most 16 KiB as text.
    #[schema(value_type = Object, additional_properties = true)]
    pub metadata: Map<String, Value>,
    /// From when on the subject is not found any more and is removed with its faces; at latest 9999-12-30T22:00:00Z. Null:
    /// never.
    #[serde(deserialize_with = "expiry")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<jiff::Timestamp>,
    /// Whether the subject may be matched.
    pub consent: ConsentName,
}

/// A time, or null. The latest there is lies short of the end of the year 9999, so that its year has four digits in every
/// time zone.
fn expiry<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<jiff::Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let wanted = "expires_at is a time such as 2030-01-31T00:00:00Z, at latest 9999-12-30T22:00:00Z, or null for never";
    text.parse().map(Some).map_err(|_| D::Error::custom(format!("{wanted}, not {text:.50}")))
}

/// Whether a subject may be matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Consent)]
pub enum ConsentName {
    /// Nothing is recorded; searches find the subject.
    #[default]
    NotRecorded,
    /// The subject agreed.
    Granted,
    /// The subject was asked: faces can be enrolled, searches do not find them.
    Pending,
    /// The subject took it back: no face can be enrolled, searches do not find those that are there.
    Withdrawn,
}

impl From<ConsentName> for Consent {
    fn from(name: ConsentName) -> Self {
        match name {
            ConsentName::NotRecorded => Self::NotRecorded,
            ConsentName::Granted => Self::Granted,
            ConsentName::Pending => Self::Pending,
            ConsentName::Withdrawn => Self::Withdrawn,
        }
    }
}

impl From<Consent> for ConsentName {
    fn from(consent: Consent) -> Self {
        match consent {
            Consent::NotRecorded => Self::NotRecorded,
            Consent::Granted => Self::Granted,
            Consent::Pending => Self::Pending,
            Consent::Withdrawn => Self::Withdrawn,
        }
    }
}

/// A JSON merge patch (RFC 7396) of a subject: what is left out stays, null empties.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SubjectPatch)]
#[allow(dead_code, reason = "documents what a patch can hold; it is merged as JSON")]
pub struct PatchSubject {
    /// Names and tags for people.
    #[schema(max_items = 64)]
    labels: Option<Vec<String>>,
    /// Merged member by member.
    #[schema(value_type = Option<Object>, additional_properties = true)]
    metadata: Option<Map<String, Value>>,
    /// From when on the subject is not found any more and is removed.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<jiff::Timestamp>,
    /// Whether the subject may be matched.
    consent: Option<ConsentName>,
}

/// A new subject.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = NewSubject, example = json!({"id": "ada", "labels": ["Ada"]}))]
pub struct CreateSubject {
    /// Chosen by you: 1 to 128 characters out of A-Z a-z 0-9 _ . : - Left out, a UUIDv7.
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9_.:-]{1,128}$", nullable = false)]
    pub id: Option<SubjectId>,
    /// Names and tags for people.
    #[schema(max_items = 64)]
    pub labels: Vec<String>,
    /// Any JSON object, at most 16 KiB as text.
    #[schema(value_type = Object, additional_properties = true)]
    pub metadata: Map<String, Value>,
    /// From when on the subject is not found any more and is removed with its faces; at latest 9999-12-30T22:00:00Z. Null:
    /// never.
    #[serde(deserialize_with = "expiry")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<jiff::Timestamp>,
    /// Whether the subject may be matched.
    pub consent: ConsentName,
}

/// A subject.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = Subject)]
pub struct SubjectView {
    /// Its id.
    pub id: String,
    /// Names and tags for people.
    pub labels: Vec<String>,
    /// The JSON object given.
    #[schema(value_type = Object, additional_properties = true)]
    pub metadata: Map<String, Value>,
    /// From when on the subject is not found any more and is removed with its faces; null: never.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub expires_at: Option<jiff::Timestamp>,
    /// Whether the subject may be matched.
    pub consent: ConsentName,
    /// Sequence number of the last change of this record.
    pub revision: u64,
    /// When the subject was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// When the record last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: jiff::Timestamp,
}

impl SubjectBody {
    fn checked(mut self) -> Result<SubjectSettings, Problem> {
        if self.labels.len() > MAX_LABELS || self.labels.iter().any(|l| l.chars().count() > MAX_LABEL_CHARS) {
            return Err(Problem::with(
                Code::InvalidRequest,
                format!("a subject has at most {MAX_LABELS} labels of at most {MAX_LABEL_CHARS} characters"),
            ));
        }
        let metadata = Value::Object(std::mem::take(&mut self.metadata)).to_string();
        if metadata.len() > MAX_METADATA_BYTES {
            return Err(Problem::with(
                Code::InvalidRequest,
                format!("metadata has at most {MAX_METADATA_BYTES} bytes as JSON"),
            ));
        }
        let Self { labels, expires_at, consent, .. } = self;
        Ok(SubjectSettings { labels, metadata, expires_at, consent: consent.into() })
    }
}

impl From<SubjectView> for SubjectBody {
    fn from(view: SubjectView) -> Self {
        let SubjectView { labels, metadata, expires_at, consent, .. } = view;
        Self { labels, metadata, expires_at, consent }
    }
}

impl TryFrom<&Subject> for SubjectView {
    type Error = Problem;

    fn try_from(subject: &Subject) -> Result<Self, Problem> {
        Ok(Self {
            id: subject.id.to_string(),
            labels: subject.labels.clone(),
            metadata: serde_json::from_str(&subject.metadata).map_err(Problem::internal)?,
            expires_at: subject.expires_at,
            consent: subject.consent.into(),
            revision: subject.revision,
            created_at: subject.created_at,
            updated_at: subject.updated_at,
        })
    }
}

/// The answer to a request that made or changed a subject.
fn answer(status: StatusCode, gallery: &GalleryId, subject: &Subject) -> Result<impl IntoResponse + use<>, Problem> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, etag(subject.revision));
    if status == StatusCode::CREATED
        && let Ok(location) = format!("/v1/galleries/{gallery}/subjects/{}", subject.id).try_into()
    {
        headers.insert(header::LOCATION, location);
    }
    Ok((status, headers, axum::Json(SubjectView::try_from(subject)?)))
}

/// Lists the subjects of a gallery by id.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/subjects", operation_id = "list_subjects", tag = "subjects",
    params(GalleryPath, PageParams),
    responses((status = 200, description = "A page of subjects.", body = Page<SubjectView>)),
    extensions(("x-problems" = json!(["gallery_not_found"]))))]
pub async fn list(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
    Query(page): Query<PageParams>,
) -> Result<impl IntoResponse, Problem> {
    let limit = page.limit()?;
    let after = page.after()?.map(|after| SubjectId::try_from(after.as_str())).transpose();
    let after = after.map_err(|_| Problem::with(Code::InvalidParameter, "cursor is not one that a page gave"))?;
    app.blocking(move |app| {
        let subjects = app.database.store().subjects(&gallery, after.as_ref(), limit + 1)?;
        let views = subjects.iter().map(SubjectView::try_from).collect::<Result<Vec<_>, _>>()?;
        Ok(axum::Json(Page::cut(views, limit, |s| s.id.clone())))
    })
    .await
}

/// Adds a subject without faces. Enrolling a face of a subject that is not there adds it too.
#[utoipa::path(post, path = "/v1/galleries/{gallery}/subjects", operation_id = "create_subject", tag = "subjects",
    params(GalleryPath), request_body = CreateSubject,
    responses((status = 201, description = "The subject.", body = SubjectView,
        headers(("Location" = String, description = "Where it is."), ("ETag" = String, description = "Its revision.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_exists"]))))]
pub async fn create(
    State(app): State<App>,
    Path(GalleryPath { gallery }): Path<GalleryPath>,
    Json(body): Json<CreateSubject>,
) -> Result<impl IntoResponse, Problem> {
    let CreateSubject { id, labels, metadata, expires_at, consent } = body;
    let settings = SubjectBody { labels, metadata, expires_at, consent }.checked()?;
    let id = id.unwrap_or_else(SubjectId::generate);
    app.blocking(move |app| {
        let subject = app.database.create_subject(&gallery, id, settings)?;
        answer(StatusCode::CREATED, &gallery, &subject)
    })
    .await
}

/// Gives one subject.
#[utoipa::path(get, path = "/v1/galleries/{gallery}/subjects/{subject}", operation_id = "get_subject", tag = "subjects",
    params(SubjectPath),
    responses((status = 200, description = "The subject.", body = SubjectView,
        headers(("ETag" = String, description = "Its revision.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found"]))))]
pub async fn get(
    State(app): State<App>,
    Path(SubjectPath { gallery, subject }): Path<SubjectPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let subject = app.database.subject(&gallery, &subject)?;
        answer(StatusCode::OK, &gallery, &subject)
    })
    .await
}

/// Adds a subject under this id, or replaces the record of the one there. What the body leaves out is emptied.
#[utoipa::path(put, path = "/v1/galleries/{gallery}/subjects/{subject}", operation_id = "put_subject", tag = "subjects",
    params(SubjectPath, IfMatchHeader), request_body = SubjectBody,
    responses(
        (status = 200, description = "Record replaced.", body = SubjectView,
            headers(("ETag" = String, description = "Its revision."))),
        (status = 201, description = "Subject added.", body = SubjectView,
            headers(("Location" = String, description = "Where it is."), ("ETag" = String, description = "Its revision.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found", "subject_exists", "revision_mismatch"]))))]
pub async fn put(
    State(app): State<App>,
    Path(SubjectPath { gallery, subject: id }): Path<SubjectPath>,
    condition: IfMatch,
    Json(body): Json<SubjectBody>,
) -> Result<impl IntoResponse, Problem> {
    let settings = body.checked()?;
    let races = [Code::SubjectExists, Code::SubjectNotFound];
    app.blocking(move |app| {
        until_settled(condition, &races, || {
            let there = app.database.store().subject(&gallery, &id)?.is_some();
            if !there && condition != IfMatch::Absent {
                return Err(Problem::with(Code::RevisionMismatch, format!("there is no subject {id}")));
            }
            let (status, subject) = if there {
                (StatusCode::OK, app.database.update_subject(&gallery, &id, settings.clone(), condition.revision())?)
            } else {
                (StatusCode::CREATED, app.database.create_subject(&gallery, id.clone(), settings.clone())?)
            };
            answer(status, &gallery, &subject)
        })
    })
    .await
}

/// Changes a subject's record: a JSON merge patch (RFC 7396). What the body leaves out stays; null empties.
#[utoipa::path(patch, path = "/v1/galleries/{gallery}/subjects/{subject}", operation_id = "update_subject",
    tag = "subjects", params(SubjectPath, IfMatchHeader), request_body(content((PatchSubject = "application/merge-patch+json"), (PatchSubject = "application/json"))),
    responses((status = 200, description = "The subject.", body = SubjectView,
        headers(("ETag" = String, description = "Its revision.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found", "revision_mismatch"]))))]
pub async fn patch(
    State(app): State<App>,
    Path(SubjectPath { gallery, subject: id }): Path<SubjectPath>,
    condition: IfMatch,
    Json(patch): Json<Map<String, Value>>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        until_settled(condition, &[Code::RevisionMismatch], || {
            let there = app.database.subject(&gallery, &id)?;
            let view = SubjectView::try_from(&there)?;
            let body = super::merge(SubjectBody::from(view), patch.clone())?;
            // Bound to what was just read even without If-Match, so that no other change is lost.
            let expected = condition.revision().unwrap_or(there.revision);
            let subject = app.database.update_subject(&gallery, &id, body.checked()?, Some(expected))?;
            answer(StatusCode::OK, &gallery, &subject)
        })
    })
    .await
}

/// Removes a subject with its faces.
#[utoipa::path(delete, path = "/v1/galleries/{gallery}/subjects/{subject}", operation_id = "delete_subject",
    tag = "subjects", params(SubjectPath, IfMatchHeader),
    responses((status = 204, description = "Removed.")),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found", "revision_mismatch"]))))]
pub async fn delete(
    State(app): State<App>,
    Path(SubjectPath { gallery, subject }): Path<SubjectPath>,
    condition: IfMatch,
) -> Result<StatusCode, Problem> {
    app.blocking(move |app| {
        app.database.delete_subject(&gallery, &subject, condition.revision())?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
