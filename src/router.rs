//! Every route, in one list.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, Request, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tower_http::trace::TraceLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::api::{
    calibration, changes, clusters, detect, duplicates, embed, faces, galleries, health, jobs, leave_one_out, metrics,
    migrations, models, pairs, probes, regroupings, reviews, search, subjects, templates, tracks, unknown, verify,
    watches,
};
use crate::app::App;
use crate::middleware::{auth, fallback, idempotency};
use crate::openapi::Document;

/// The request header that names a request in logs; made where the client sends none, and sent back.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The documented routes which need a key when one is set: all under `/v1`, and `/metrics`.
fn resources() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(galleries::list, galleries::create))
        .routes(routes!(galleries::get, galleries::put, galleries::patch, galleries::delete))
        .routes(routes!(subjects::list, subjects::create))
        .routes(routes!(subjects::get, subjects::put, subjects::patch, subjects::delete))
        .routes(routes!(unknown::enrol))
        .routes(routes!(faces::list, faces::enrol))
        .routes(routes!(faces::get, faces::delete, regroupings::move_face))
        .routes(routes!(faces::crop))
        .routes(routes!(regroupings::merge))
        .routes(routes!(regroupings::split))
        .routes(routes!(regroupings::list))
        .routes(routes!(regroupings::get))
        .routes(routes!(regroupings::undo))
        .routes(routes!(pairs::list))
        .routes(routes!(pairs::put, pairs::delete))
        .routes(routes!(reviews::list, reviews::create))
        .routes(routes!(reviews::get))
        .routes(routes!(calibration::get, calibration::calibrate))
        .routes(routes!(duplicates::get, duplicates::find))
        .routes(routes!(clusters::get, clusters::find))
        .routes(routes!(leave_one_out::get, leave_one_out::run))
        .routes(routes!(search::gallery))
        .routes(routes!(search::several))
        .routes(routes!(verify::subject))
        .routes(routes!(verify::pair))
        .routes(routes!(migrations::list, migrations::start))
        .routes(routes!(migrations::get))
        .routes(routes!(migrations::cut_over))
        .routes(routes!(migrations::roll_back))
        .routes(routes!(migrations::end))
        .routes(routes!(detect::detect))
        .routes(routes!(embed::embed))
        .routes(routes!(models::list))
        .routes(routes!(models::get))
        .routes(routes!(changes::list))
        .routes(routes!(templates::create))
        .routes(routes!(templates::get, templates::delete))
        .routes(routes!(tracks::list, tracks::create))
        .routes(routes!(tracks::get, tracks::delete))
        .routes(routes!(tracks::list_frames, tracks::add_frames))
        .routes(routes!(tracks::delete_frame))
        // Longer than other bodies, and bounded by the handler.
        .merge(OpenApiRouter::new().routes(routes!(probes::video)).layer(DefaultBodyLimit::disable()))
        .routes(routes!(probes::crop))
        .routes(routes!(watches::list, watches::create))
        .routes(routes!(watches::get, watches::patch, watches::delete))
        .routes(routes!(watches::hits))
        .routes(routes!(watches::stream))
        .routes(routes!(jobs::list))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::cancel))
        .routes(routes!(metrics::collect))
}

/// The documented routes for supervisors, which need no key.
fn supervision() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(health::live)).routes(routes!(health::ready))
}

/// The OpenAPI document as the handlers describe themselves.
pub(crate) fn described() -> utoipa::openapi::OpenApi {
    OpenApiRouter::with_openapi(Document::openapi()).merge(resources()).merge(supervision()).into_openapi()
}

/// The service: routes, and what happens around each request.
pub fn router(app: App) -> Router {
    let (resources, _) = resources()
        .layer(from_fn_with_state(app.clone(), idempotency::replay))
        .layer(from_fn_with_state(app.clone(), auth::require_key))
        .split_for_parts();
    let (supervision, _) = supervision().split_for_parts();
    let docs = SwaggerUi::new("/docs").config(Config::from("/openapi.json"));
    Router::new()
        .merge(resources)
        .merge(supervision)
        .route("/openapi.json", get(crate::openapi::serve))
        .merge(docs)
        .fallback(fallback::not_found)
        .method_not_allowed_fallback(fallback::method_not_allowed)
        .layer(DefaultBodyLimit::max(app.config.limits.max_body_bytes))
        .layer(from_fn_with_state(app.clone(), fallback::time_limit))
        .layer(CatchPanicLayer::custom(fallback::panicked))
        .layer(map_response(fallback::plain_errors))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(TraceLayer::new_for_http().make_span_with(span))
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
        .with_state(app)
}

/// The log context of a request: no query, no body, no key.
fn span<B>(request: &Request<B>) -> tracing::Span {
    let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).unwrap_or("");
    let trace = request.headers().get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or("");
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()).unwrap_or("");
    tracing::info_span!(
        "request",
        method = %request.method(),
        path = request.uri().path(),
        id = id.get(..64).unwrap_or(id),
        traceparent = trace.get(..64).unwrap_or(trace),
        length
    )
}
