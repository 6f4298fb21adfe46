//! `/v1/reviews`: a person confirms or rejects a candidate.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use vultus_engine::gallery::{NewReview, Review, ReviewedProbe, Verdict};
use vultus_engine::ids::{FaceId, GalleryId, ReviewId, SubjectId};

use super::paging::{Page, PageParams};
use crate::app::App;
use crate::extract::{Json, Path, Query, object};
use crate::problem::{Code, Problem};

/// Most characters of a note or a name.
const MAX_TEXT: usize = 1000;

/// What a person said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Verdict)]
pub enum VerdictName {
    /// Probe and candidate are the same person.
    Confirmed,
    /// They are not.
    Rejected,
}

/// What the candidate was found with, as far as it can be named.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = ReviewedProbe)]
pub struct ProbeBody {
    /// The search that found it.
    pub search_id: Option<Uuid>,
    /// The track that was searched.
    #[schema(max_length = 128)]
    pub track: Option<String>,
    /// The hit of a watch.
    #[schema(max_length = 128)]
    pub hit: Option<String>,
    /// The subject of the same gallery that was searched. A rejection then also keeps the two apart.
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9_.:-]{1,128}$")]
    pub subject: Option<SubjectId>,
    /// The enrolled face that was searched.
    pub face: Option<Uuid>,
}

/// A review to keep.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewReview, example = json!({"gallery": "staff", "subject": "ada", "verdict": "confirmed", "score": 0.61}))]
pub struct ReviewBody {
    /// The gallery of the candidate.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$")]
    pub gallery: GalleryId,
    /// The candidate.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$")]
    pub subject: SubjectId,
    /// What was said.
    pub verdict: VerdictName,
    /// What the candidate was found with.
    #[serde(default, deserialize_with = "object::optional")]
    pub probe: Option<ProbeBody>,
    /// The score that was looked at, −1 to 1.
    #[serde(default)]
    #[schema(minimum = -1.0, maximum = 1.0)]
    pub score: Option<f32>,
    /// Who said it, at most 1,000 characters.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub reviewer: Option<String>,
    /// Why, at most 1,000 characters.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub note: Option<String>,
}

/// A review.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Review)]
pub struct ReviewView {
    /// Its id.
    pub id: Uuid,
    /// The gallery of the candidate.
    pub gallery: String,
    /// The candidate; it may be gone since.
    pub subject: String,
    /// What was said.
    pub verdict: VerdictName,
    /// What the candidate was found with.
    pub probe: ProbeBody,
    /// The score that was looked at.
    #[schema(required = true)]
    pub score: Option<f32>,
    /// Who said it.
    #[schema(required = true)]
    pub reviewer: Option<String>,
    /// Why.
    #[schema(required = true)]
    pub note: Option<String>,
    /// The gallery's revision at that time.
    pub revision: u64,
    /// When it was given.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
}

impl ReviewView {
    fn new(gallery: &GalleryId, review: Review) -> Self {
        let ReviewedProbe { search_id, track, hit, subject, face } = review.probe;
        Self {
            id: review.id.0,
            gallery: gallery.to_string(),
            subject: review.subject.to_string(),
            verdict: match review.verdict {
                Verdict::Confirmed => VerdictName::Confirmed,
                Verdict::Rejected => VerdictName::Rejected,
            },
            probe: ProbeBody { search_id, track, hit, subject, face: face.map(|face| face.0) },
            score: review.score,
            reviewer: review.reviewer,
            note: review.note,
            revision: review.revision,
            at: review.at,
        }
    }
}

impl ReviewBody {
    fn checked(self) -> Result<(GalleryId, NewReview), Problem> {
        let Self { gallery, subject, verdict, probe, score, reviewer, note } = self;
        let ProbeBody { search_id, track, hit, subject: searched, face } = probe.unwrap_or_default();
        let texts = [&reviewer, &note, &track, &hit];
        if texts.into_iter().flatten().any(|text| text.chars().count() > MAX_TEXT) {
            return Err(Problem::with(Code::InvalidRequest, format!("a text has at most {MAX_TEXT} characters")));
        }
        if score.is_some_and(|score| !(-1.0..=1.0).contains(&score)) {
            return Err(Problem::with(Code::InvalidRequest, "score is a number from -1 to 1"));
        }
        let verdict = match verdict {
            VerdictName::Confirmed => Verdict::Confirmed,
            VerdictName::Rejected => Verdict::Rejected,
        };
        let probe = ReviewedProbe { search_id, track, hit, subject: searched, face: face.map(FaceId) };
        Ok((gallery, NewReview { subject, verdict, probe, score, reviewer, note }))
    }
}

/// Which reviews.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReviewsParams {
    /// The gallery of the candidates.
    #[param(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$")]
    pub gallery: Option<GalleryId>,
    /// Most items wanted.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    pub limit: Option<u32>,
    /// Where to go on: `next` of the page before.
    #[param(max_length = 400, nullable = false)]
    pub cursor: Option<String>,
}

/// A review in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ReviewPath {
    /// Review id.
    pub review: Uuid,
}

/// Keeps what a person said of a candidate.
#[utoipa::path(post, path = "/v1/reviews", operation_id = "create_review", tag = "reviews", request_body = ReviewBody,
    responses((status = 201, description = "The review.", body = ReviewView,
        headers(("Location" = String, description = "Where it is.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "subject_not_found"]))))]
pub async fn create(State(app): State<App>, Json(body): Json<ReviewBody>) -> Result<impl IntoResponse, Problem> {
    let (gallery, review) = body.checked()?;
    app.blocking(move |app| {
        let review = app.database.add_review(&gallery, review)?;
        let location = format!("/v1/reviews/{}", review.id);
        Ok((StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(ReviewView::new(&gallery, review))))
    })
    .await
}

/// Lists the reviews of a gallery in the order they were given.
#[utoipa::path(get, path = "/v1/reviews", operation_id = "list_reviews", tag = "reviews", params(ReviewsParams),
    responses((status = 200, description = "A page of reviews.", body = Page<ReviewView>)),
    extensions(("x-problems" = json!(["gallery_not_found"]))))]
pub async fn list(State(app): State<App>, Query(params): Query<ReviewsParams>) -> Result<impl IntoResponse, Problem> {
    let ReviewsParams { gallery, limit, cursor } = params;
    let page = PageParams { limit, cursor };
    let limit = page.limit()?;
    let gallery = gallery.ok_or_else(|| Problem::with(Code::InvalidParameter, "gallery is missing"))?;
    let after = page.after()?.map(|after| after.parse::<ReviewId>()).transpose();
    let after = after.map_err(|_| Problem::with(Code::InvalidParameter, "cursor is not one that a page gave"))?;
    app.blocking(move |app| {
        let found = app.database.reviews(&gallery, after, limit + 1)?;
        let views = found.into_iter().map(|review| ReviewView::new(&gallery, review)).collect();
        Ok(axum::Json(Page::cut(views, limit, |of| of.id.to_string())))
    })
    .await
}

/// Gives one review.
#[utoipa::path(get, path = "/v1/reviews/{review}", operation_id = "get_review", tag = "reviews", params(ReviewPath),
    responses((status = 200, description = "The review.", body = ReviewView)),
    extensions(("x-problems" = json!(["review_not_found"]))))]
pub async fn get(
    State(app): State<App>,
    Path(ReviewPath { review }): Path<ReviewPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let (gallery, review) = app.database.find_review(ReviewId(review))?;
        Ok(axum::Json(ReviewView::new(&gallery, review)))
    })
    .await
}
