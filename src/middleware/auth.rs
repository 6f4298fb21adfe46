//! Keys: `Authorization: Bearer KEY` on every request under `/v1` and for `/metrics`, when a key is set.

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use crate::app::App;
use crate::problem::{Code, Problem};

/// Hash of the key. The key itself is not kept, and comparing hashes takes the same time however much of them agrees.
#[derive(Clone)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a configured key; `None` when none is set.
    pub fn of(key: &SecretString) -> Option<Self> {
        let key = key.expose_secret();
        (!key.is_empty()).then(|| Self(*blake3::hash(key.as_bytes()).as_bytes()))
    }

    fn accepts(&self, given: &str) -> bool {
        blake3::hash(given.as_bytes()).as_bytes().ct_eq(&self.0).into()
    }
}

/// Lets a request through when no key is set or it carries the right one.
pub async fn require_key(State(app): State<App>, request: Request, next: Next) -> Response {
    let allowed = app.key.as_ref().is_none_or(|key| {
        let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = header.and_then(|value| value.split_once(' '));
        given.is_some_and(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && key.accepts(token.trim()))
    });
    if allowed { next.run(request).await } else { Problem::new(Code::Unauthorized).into_response() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_is_accepted() {
        let key = KeyHash::of(&SecretString::from("s3cret")).unwrap();
        assert!(key.accepts("s3cret"));
        assert!(!key.accepts("s3cre") && !key.accepts("s3cret ") && !key.accepts(""));
        assert!(KeyHash::of(&SecretString::from("")).is_none());
    }
}
