//! Answers that no handler gives, as problems: unknown routes, wrong methods, panics, time-outs.

use std::any::Any;

use axum::extract::{OriginalUri, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::problem::{Code, PROBLEM_JSON, Problem};

/// For a path that is no route.
pub async fn not_found(OriginalUri(uri): OriginalUri) -> Problem {
    Problem::with(Code::RouteNotFound, format!("there is nothing at {:.200}", uri.path()))
}

/// For a route without the method. axum adds the `Allow` header.
pub async fn method_not_allowed(method: Method) -> Problem {
    Problem::with(Code::MethodNotAllowed, format!("{method} is not a method of this resource"))
}

/// For a panic in a handler, which is a defect of ours.
pub fn panicked(_cause: Box<dyn Any + Send + 'static>) -> Response {
    Problem::internal("a request handler panicked").into_response()
}

/// Turns refusals of parts that are not ours, such as the viewer's missing files, into problems.
pub async fn plain_errors(response: Response) -> Response {
    let status = response.status();
    let headers = response.headers();
    let ours = headers.get(header::CONTENT_TYPE).is_some_and(|media| media.as_bytes() == PROBLEM_JSON.as_bytes());
    match status {
        _ if ours => response,
        StatusCode::NOT_FOUND => Problem::new(Code::RouteNotFound).into_response(),
        _ if status.is_server_error() => Problem::internal(status).into_response(),
        _ => response,
    }
}

/// Gives a request up after the configured time. Its queued inference is withdrawn; a write that has begun completes.
pub async fn time_limit(State(app): State<App>, request: Request, next: Next) -> Response {
    let is_video = request.uri().path() == crate::api::probes::VIDEO_PATH;
    let video_ms = app.config.video.upload_timeout_ms;
    let limit_ms = if is_video { video_ms } else { app.config.server.request_timeout_ms };
    let limit = std::time::Duration::from_millis(limit_ms);
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("the request was not done within {} ms", limit.as_millis());
            Problem::with(Code::RequestTimeout, detail).into_response()
        }
    }
}
