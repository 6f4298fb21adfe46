//! `Idempotency-Key` on POST: the same key and request give the same answer, without doing the work again.
//!
//! The answer is stored durably before it is sent, for 24 hours. Another request under the same key is refused with
//! `idempotency_key_reused`, one that comes while the first is still served with `idempotency_in_progress`. Answers
//! that say "try again" (429, 408, 5xx) are not kept.
//!
//! The first request runs to its end even when its client goes away, so that the retry finds the answer.

use std::collections::HashSet;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response as HttpResponse, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use vultus_engine::store::StoredAnswer;

use crate::api::probes::VIDEO_PATH;
use crate::app::App;
use crate::extract::{media_type, read_body};
use crate::problem::{Code, Problem};

/// The request header.
pub const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is a stored one.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Longest key in bytes.
const MAX_KEY_BYTES: usize = 255;
/// Largest answer kept.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Keys whose first request is still being served.
pub type InProgress = HashSet<[u8; 32]>;

/// Marks a key as being served, until dropped.
struct Claim {
    app: App,
    key: [u8; 32],
}

impl Claim {
    fn new(app: &App, key: [u8; 32]) -> Option<Self> {
        app.in_progress.lock().insert(key).then(|| Self { app: app.clone(), key })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.app.in_progress.lock().remove(&self.key);
    }
}

/// Answers a repeated POST from what the first was answered.
pub async fn replay(State(app): State<App>, request: Request, next: Next) -> Response {
    // A video is too large to be read here; its handler does the same by itself.
    if request.method() != Method::POST || request.uri().path() == VIDEO_PATH {
        return next.run(request).await;
    }
    match claim(&app, request.headers(), request.uri().path()) {
        Ok(None) => next.run(request).await,
        Ok(Some(once)) => serve(once, request, next).await.unwrap_or_else(Problem::into_response),
        Err(problem) => problem.into_response(),
    }
}

/// A request under an idempotency key, which is this one's until it is answered.
pub(crate) struct Once {
    claim: Claim,
}

/// Takes the key of a request, when it has one.
pub(crate) fn claim(app: &App, headers: &HeaderMap, path: &str) -> Result<Option<Once>, Problem> {
    let Some(value) = headers.get(&HEADER) else { return Ok(None) };
    let given = value.to_str().unwrap_or_default();
    if !(1..=MAX_KEY_BYTES).contains(&given.len()) || !given.bytes().all(|byte| byte.is_ascii_graphic()) {
        let detail = "Idempotency-Key has 1 to 255 visible ASCII characters";
        return Err(Problem::with(Code::InvalidParameter, detail));
    }
    let claim = Claim::new(app, scoped_key(path, given));
    claim.map(|claim| Some(Once { claim })).ok_or_else(|| Problem::new(Code::IdempotencyInProgress))
}

impl Once {
    /// The stored answer to a request that is the same by its hash; else does the work, and stores what it answers.
    pub(crate) async fn answer(
        self,
        request_hash: [u8; 32],
        work: impl Future<Output = Result<Response, Problem>> + Send + 'static,
    ) -> Result<Response, Problem> {
        let Claim { app, key } = &self.claim;
        let (app, key) = (app.clone(), *key);
        if let Some(stored) = app.blocking(move |app| Ok(app.database.answer(&key)?)).await? {
            return if stored.request_hash == request_hash {
                restore(stored)
            } else {
                Err(Problem::new(Code::IdempotencyKeyReused))
            };
        }
        let tracker = app.background.clone();
        let first = async move {
            let response = work.await.unwrap_or_else(Problem::into_response);
            let kept = keep(&app, key, request_hash, response).await;
            drop(self);
            kept
        };
        tracker.spawn(first).await.unwrap_or_else(|error| Err(Problem::internal(error)))
    }
}

/// The key within its operation and caller: the same text elsewhere is another key.
fn scoped_key(path: &str, given: &str) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    for part in [path, given] {
        hash.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    *hash.finalize().as_bytes()
}

async fn serve(once: Once, request: Request, next: Next) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let body = read_body(Request::from_parts(parts.clone(), body), &once.claim.app).await?;
    let request_hash = request_hash(&parts.headers, parts.uri.query(), &body);
    let request = Request::from_parts(parts, Body::from(body));
    once.answer(request_hash, async move { Ok(next.run(request).await) }).await
}

/// Hash of what makes two requests the same: media type, query and body.
fn request_hash(headers: &HeaderMap, query: Option<&str>, body: &[u8]) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    let media = media_type(headers).unwrap_or_default();
    for part in [media.as_bytes(), query.unwrap_or_default().as_bytes()] {
        hash.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    // Clients draw a new boundary for every form, a retry included, so it must not count.
    let boundary = form_boundary(headers).unwrap_or_default();
    if boundary.is_empty() {
        hash.update(body);
        return *hash.finalize().as_bytes();
    }
    let mut start = 0;
    for at in memchr::memmem::find_iter(body, boundary.as_bytes()) {
        hash.update(&((at - start) as u64).to_le_bytes()).update(&body[start..at]);
        start = at + boundary.len();
    }
    hash.update(&body[start..]);
    *hash.finalize().as_bytes()
}

fn form_boundary(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let (_, boundary) = value
        .split(';')
        .skip(1)
        .filter_map(|p| p.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("boundary"))?;
    Some(boundary.trim_matches('"').to_owned())
}

/// Stores an answer, then gives it on.
async fn keep(app: &App, key: [u8; 32], request_hash: [u8; 32], response: Response) -> Result<Response, Problem> {
    let status = response.status();
    let again = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT];
    if status.is_server_error() || again.contains(&status) {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, MAX_ANSWER_BYTES).await.map_err(Problem::internal)?;
    let text = |name| parts.headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok()).map(str::to_owned);
    let answer = StoredAnswer {
        request_hash,
        status: status.as_u16(),
        content_type: text(header::CONTENT_TYPE).unwrap_or_default(),
        location: text(header::LOCATION),
        etag: text(header::ETAG),
        body: body.to_vec(),
        created_s: jiff::Timestamp::now().as_second(),
    };
    app.blocking(move |app| Ok(app.database.store().put_answer(&key, &answer)?)).await?;
    Ok(HttpResponse::from_parts(parts, Body::from(body)))
}

fn restore(answer: StoredAnswer) -> Result<Response, Problem> {
    let mut response = HttpResponse::builder().status(answer.status).header(REPLAYED, "true");
    let fields = [
        (header::CONTENT_TYPE, Some(answer.content_type).filter(|media| !media.is_empty())),
        (header::LOCATION, answer.location),
        (header::ETAG, answer.etag),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            response = response.header(name, value);
        }
    }
    response.body(Body::from(answer.body)).map_err(Problem::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(content_type: &str, body: &str) -> [u8; 32] {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, content_type.parse().unwrap())]);
        request_hash(&headers, None, body.as_bytes())
    }

    #[test]
    fn a_form_is_the_same_under_another_boundary() {
        let form = |boundary: &str, text: &str| {
            let kind = format!("multipart/form-data; boundary={boundary}");
            hash(&kind, &format!("--{boundary}\r\n\r\n{text}\r\n--{boundary}--"))
        };
        assert_eq!(form("aaaa", "x"), form("bbbbbb", "x"));
        assert_ne!(form("aaaa", "x"), form("aaaa", "y"));
        assert_ne!(hash("application/json", "{}"), hash("text/plain", "{}"));
    }
}
