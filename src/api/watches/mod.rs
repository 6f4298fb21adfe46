//! `/v1/watches`: who of a watchlist is seen, told at once.

mod settings;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use vultus_engine::gallery::{Progress, Secret, Watch, WatchSettings};
use vultus_engine::ids::WatchId;

pub use self::settings::{CreateWatch, LeastName, PatchWatch, SearchesName, SourcesSpec, WebhookBody, WebhookPatch};

use super::decision::ThresholdRequest;
use super::paging::{Page, PageParams};
use crate::app::App;
use crate::extract::{Json, Path, Query};
use crate::problem::{Code, Problem};
use crate::watches::{HitView, events};

/// The header with which a reader of events says what it has.
const LAST_EVENT_ID: &str = "last-event-id";
/// The largest number that every reader of JSON can hold.
const MAX_NUMBER: u64 = (1 << 53) - 1;

/// A watch in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct WatchPath {
    /// Watch id.
    pub watch: Uuid,
}

/// A webhook and how its delivery stands.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookView {
    /// Where hits are posted to.
    pub url: String,
    /// The secret that was made, in the answer to the request that made it; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub secret: Option<String>,
    /// Number of the last hit that was acknowledged, or that came before there was a webhook.
    pub delivered_up_to: u64,
    /// Hits that wait to be delivered.
    pub waiting: u64,
    /// Hits that retention took before they were delivered.
    pub dropped: u64,
    /// Why the last attempt failed; null when it did not.
    #[schema(required = true)]
    pub last_error: Option<String>,
    /// When the next attempt is, after one that failed.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub next_attempt_at: Option<jiff::Timestamp>,
}

/// A watch.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Watch)]
pub struct WatchView {
    /// Its id.
    pub id: Uuid,
    /// The watchlist.
    pub gallery: String,
    /// From where on a candidate is a match; null follows the gallery.
    #[schema(required = true)]
    pub threshold: Option<ThresholdRequest>,
    /// From where on a person should look at a candidate; null follows the gallery.
    #[schema(required = true)]
    pub review_threshold: Option<ThresholdRequest>,
    /// Which probes it looks at.
    pub sources: SourcesSpec,
    /// The least decision that is a hit.
    pub min_decision: LeastName,
    /// Where hits are posted to; null: nowhere.
    #[schema(required = true)]
    pub webhook: Option<WebhookView>,
    /// Whether it looks and delivers at all.
    pub enabled: bool,
    /// Free text.
    #[schema(required = true)]
    pub label: Option<String>,
    /// Number of the oldest hit that is kept; one above `last_hit` when none is.
    pub oldest_hit: u64,
    /// Number of the last hit; 0 before the first.
    pub last_hit: u64,
    /// Why it could not look at the last probe, such as a gallery that is gone or not calibrated; null when it could.
    #[schema(required = true)]
    pub trouble: Option<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// When its settings last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: jiff::Timestamp,
}

/// Hits of a watch.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Hits)]
pub struct HitsView {
    /// In the order of their numbers.
    pub items: Vec<HitView>,
    /// Number of the oldest hit that is kept; one above `last` when none is.
    pub oldest: u64,
    /// Number of the last hit; 0 before the first.
    pub last: u64,
}

fn view(app: &App, watch: &Watch, made: Option<&Secret>) -> Result<WatchView, Problem> {
    let Progress { oldest, last, delivered_up_to, dropped } = app.watches.book().progress(watch.id)?;
    let WatchSettings { gallery, thresholds, sources, min_decision, webhook, enabled, label } = &watch.settings;
    let webhook = webhook.as_ref().map(|webhook| {
        let state = app.watches.delivery(watch.id);
        WebhookView {
            url: webhook.url.clone(),
            secret: made.map(|secret| secret.expose().to_owned()),
            delivered_up_to,
            waiting: (last + 1).saturating_sub(oldest.max(delivered_up_to + 1)),
            dropped,
            last_error: state.last_error,
            next_attempt_at: state.next_attempt_at,
        }
    });
    Ok(WatchView {
        id: watch.id.0,
        gallery: gallery.to_string(),
        threshold: thresholds.matching.map(ThresholdRequest::from),
        review_threshold: thresholds.review.map(ThresholdRequest::from),
        sources: sources.into(),
        min_decision: LeastName::of(*min_decision),
        webhook,
        enabled: *enabled,
        label: label.clone(),
        oldest_hit: oldest,
        last_hit: last,
        trouble: app.watches.trouble(watch.id),
        created_at: watch.created_at,
        updated_at: watch.updated_at,
    })
}

/// Lists watches in the order they were made.
#[utoipa::path(get, path = "/v1/watches", operation_id = "list_watches", tag = "watches", params(PageParams),
    responses((status = 200, description = "A page of watches.", body = Page<WatchView>)))]
pub async fn list(State(app): State<App>, Query(page): Query<PageParams>) -> Result<impl IntoResponse, Problem> {
    let limit = page.limit()?;
    let after = page.after()?.map(|after| after.parse::<WatchId>()).transpose();
    let after = after.map_err(|_| Problem::with(Code::InvalidParameter, "cursor is not one that a page gave"))?;
    app.blocking(move |app| {
        let watches = app.watches.book().watches();
        let rest = watches.iter().filter(|watch| after.is_none_or(|after| watch.id > after)).take(limit + 1);
        let views = rest.map(|watch| view(app, watch, None)).collect::<Result<Vec<_>, _>>()?;
        Ok(axum::Json(Page::cut(views, limit, |watch| watch.id.to_string())))
    })
    .await
}

/// Makes a watch: whoever of its gallery is seen by one of its sources becomes a hit, durably, before the request that
/// saw them is answered.
///
/// Hits are listed, streamed as events, and posted to a webhook when one is named. The server connects to that address
/// and to no other; what is posted is signed.
#[utoipa::path(post, path = "/v1/watches", operation_id = "create_watch", tag = "watches", request_body = CreateWatch,
    responses((status = 201, description = "The watch, with the secret if one was made.", body = WatchView,
        headers(("Location" = String, description = "Where it is.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "webhook_refused", "watches_full"]))))]
pub async fn create(State(app): State<App>, Json(body): Json<CreateWatch>) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let (settings, made) = body.checked(&app.watches, None)?;
        let watch = app.watches.create(settings)?;
        let location = format!("/v1/watches/{}", watch.id);
        let view = view(app, &watch, made.as_ref())?;
        Ok((StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(view)))
    })
    .await
}

/// Gives one watch, and how its delivery stands. Its secret is not shown.
#[utoipa::path(get, path = "/v1/watches/{watch}", operation_id = "get_watch", tag = "watches", params(WatchPath),
    responses((status = 200, description = "The watch.", body = WatchView)),
    extensions(("x-problems" = json!(["watch_not_found"]))))]
pub async fn get(
    State(app): State<App>,
    Path(WatchPath { watch }): Path<WatchPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let watch = app.watches.book().watch(WatchId(watch))?;
        Ok(axum::Json(view(app, &watch, None)?))
    })
    .await
}

/// Changes a watch: a JSON merge patch (RFC 7396). What the body leaves out stays; null resets.
///
/// A webhook keeps its secret unless the patch gives another. A delivery that failed is tried again at once.
#[utoipa::path(patch, path = "/v1/watches/{watch}", operation_id = "update_watch", tag = "watches", params(WatchPath),
    request_body(content((PatchWatch = "application/merge-patch+json"), (PatchWatch = "application/json"))),
    responses((status = 200, description = "The watch, with the secret if one was made.", body = WatchView)),
    extensions(("x-problems" = json!(["watch_not_found", "gallery_not_found", "webhook_refused"]))))]
pub async fn patch(
    State(app): State<App>,
    Path(WatchPath { watch }): Path<WatchPath>,
    Json(patch): Json<Map<String, Value>>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let mut made = None;
        let watch = app.watches.update(WatchId(watch), |there| {
            let body = super::merge(CreateWatch::before_patch(there, &patch), patch.clone())?;
            let (settings, secret) = body.checked(&app.watches, Some(there))?;
            made = secret;
            Ok(settings)
        })?;
        Ok(axum::Json(view(app, &watch, made.as_ref())?))
    })
    .await
}

/// Removes a watch with its hits. Its event streams end.
#[utoipa::path(delete, path = "/v1/watches/{watch}", operation_id = "delete_watch", tag = "watches", params(WatchPath),
    responses((status = 204, description = "Removed.")),
    extensions(("x-problems" = json!(["watch_not_found"]))))]
pub async fn delete(State(app): State<App>, Path(WatchPath { watch }): Path<WatchPath>) -> Result<StatusCode, Problem> {
    app.blocking(move |app| {
        app.watches.remove(WatchId(watch))?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Which hits.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct HitsParams {
    /// The number that was seen last: those above it are given. All that are kept where left out.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_i64, nullable = false)]
    pub after: Option<u64>,
    /// Most items wanted.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    pub limit: Option<u32>,
}

/// Lists the hits of a watch that are kept, by number.
#[utoipa::path(get, path = "/v1/watches/{watch}/hits", operation_id = "list_hits", tag = "watches",
    params(WatchPath, HitsParams),
    responses((status = 200, description = "Hits.", body = HitsView)),
    extensions(("x-problems" = json!(["watch_not_found"]))))]
pub async fn hits(
    State(app): State<App>,
    Path(WatchPath { watch }): Path<WatchPath>,
    Query(HitsParams { after, limit }): Query<HitsParams>,
) -> Result<impl IntoResponse, Problem> {
    let (limit, after) = (PageParams { limit, cursor: None }.limit()?, number(after)?.unwrap_or(0));
    app.blocking(move |app| {
        let (book, id) = (app.watches.book(), WatchId(watch));
        let found = book.hits(id, after, limit)?;
        let Progress { oldest, last, .. } = book.progress(id)?;
        Ok(axum::Json(HitsView { items: found.iter().map(HitView::from).collect(), oldest, last }))
    })
    .await
}

/// The number of a hit, checked.
fn number(after: Option<u64>) -> Result<Option<u64>, Problem> {
    match after {
        Some(after) if after > MAX_NUMBER => {
            Err(Problem::with(Code::InvalidParameter, format!("after is a number from 0 to {MAX_NUMBER}")))
        }
        after => Ok(after),
    }
}

/// The number in a `Last-Event-ID`.
fn last_event(value: &HeaderValue) -> Result<u64, Problem> {
    let text = value.to_str().unwrap_or_default().trim();
    let digits = (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits);
    number.ok_or_else(|| Problem::with(Code::InvalidParameter, "Last-Event-ID is the number of a hit"))
}

/// From which hit on events are wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsParams {
    /// The number that was seen last: the events begin after it. With neither this nor `Last-Event-ID` they begin with
    /// the next hit.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_i64, nullable = false)]
    pub after: Option<u64>,
}

/// The header with which a reader of events comes back.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "documents the header that the handler reads")]
pub struct LastEventIdHeader {
    /// The `id` of the event that was seen last; it goes before `after`.
    #[param(rename = "Last-Event-ID", required = false, nullable = false, pattern = "^[0-9]{1,15}$", example = "17")]
    pub last_event_id: Option<String>,
}

/// Streams the hits of a watch as server-sent events, those that are kept first and others as they come.
///
/// Each event has the hit's number as `id`, the name `hit`, and the hit as JSON. A comment keeps the connection alive.
/// The stream ends when the server stops or the watch is removed.
#[utoipa::path(get, path = "/v1/watches/{watch}/events", operation_id = "stream_hits", tag = "watches",
    params(WatchPath, EventsParams, LastEventIdHeader),
    responses((status = 200, description = "Events.", body = String, content_type = "text/event-stream")),
    extensions(("x-problems" = json!(["watch_not_found", "streams_full"]))))]
pub async fn stream(
    State(app): State<App>,
    Path(WatchPath { watch }): Path<WatchPath>,
    Query(EventsParams { after }): Query<EventsParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = headers.get(LAST_EVENT_ID).map(last_event).transpose()?.or(number(after)?);
    let events = events(&app, WatchId(watch), after).await?;
    // For proxies that would otherwise collect what should arrive at once.
    Ok(([("x-accel-buffering", "no")], events).into_response())
}
