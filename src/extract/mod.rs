//! Extractors whose every rejection is a problem.
//!
//! axum's own extractors reject with plain text; these wrap each of them once. Handlers use nothing else.

pub mod condition;
pub(crate) mod object;
pub mod submission;

use axum::RequestPartsExt;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::problem::{Code, Problem};

/// Path parameters.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send + 'static> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let axum::extract::Path(value) = parts
            .extract::<axum::extract::Path<T>>()
            .await
            .map_err(|rejection| Problem::with(Code::InvalidParameter, rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// Query parameters. Unknown names are refused where `T` denies unknown fields.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send + 'static> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let axum::extract::Query(value) = parts
            .extract::<axum::extract::Query<T>>()
            .await
            .map_err(|rejection| Problem::with(Code::InvalidParameter, rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// A JSON body.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + 'static> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::with(Code::UnsupportedMediaType, "this operation takes application/json"));
        }
        let body = read_body(request, state).await?;
        parse_json(&body).map(Self)
    }
}

/// The whole body, within the route's limit.
pub(crate) async fn read_body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    Bytes::from_request(request, state).await.map_err(|rejection| {
        if rejection_status_is_too_large(&rejection) {
            Problem::new(Code::BodyTooLarge)
        } else {
            Problem::with(Code::MalformedBody, "the request body ended early")
        }
    })
}

fn rejection_status_is_too_large(rejection: &BytesRejection) -> bool {
    rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE
}

/// The media type of the body, lower-cased and without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|media| media == "application/json" || media.ends_with("+json"))
}

/// The text of a JSON object to a value: syntax errors and wrong shapes are told apart, as 400 and 422. A number that no
/// float holds is no syntax error, though it is reported as one.
pub(crate) fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice::<object::Object<T>>(body).map(|object| object.0).map_err(|error| {
        let well_formed = error.is_data() || serde_json::from_slice::<IgnoredAny>(body).is_ok();
        let code = if well_formed { Code::InvalidRequest } else { Code::MalformedBody };
        Problem::with(code, error.to_string())
    })
}
