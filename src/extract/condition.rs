//! `ETag` and `If-Match`: a change applies only to the revision the client has seen.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};

use crate::problem::{Code, Problem};

/// What `If-Match` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMatch {
    /// The header is not there: nothing.
    Absent,
    /// `*`: that there is a resource, whatever its revision.
    Any,
    /// That the resource is at this revision.
    Revision(u64),
}

impl IfMatch {
    /// The revision asked for.
    pub fn revision(self) -> Option<u64> {
        match self {
            Self::Revision(revision) => Some(revision),
            Self::Absent | Self::Any => None,
        }
    }
}

/// How often a change without a condition is tried again when another came in between.
const MAX_ATTEMPTS: usize = 100;

/// Runs a read-and-write that another request can come in between of, until none does. What lost such a race says so by
/// one of `races`; with a condition the client asked to be told, so it is run once.
pub(crate) fn until_settled<T>(
    condition: IfMatch,
    races: &[Code],
    mut attempt: impl FnMut() -> Result<T, Problem>,
) -> Result<T, Problem> {
    let mut outcome = attempt();
    for _ in 1..MAX_ATTEMPTS {
        match &outcome {
            Err(problem) if condition == IfMatch::Absent && races.contains(&problem.code) => outcome = attempt(),
            _ => break,
        }
    }
    outcome
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else { return Ok(Self::Absent) };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self::Any);
        }
        let revision = text
            .strip_prefix('"')
            .and_then(|t| t.strip_suffix('"'))
            .filter(|t| t.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|t| t.parse().ok());
        revision.map(Self::Revision).ok_or_else(|| {
            Problem::with(Code::InvalidParameter, "If-Match holds an ETag as the server gave it, such as \"17\"")
        })
    }
}

/// The `ETag` of a revision.
pub(crate) fn etag(revision: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"0\""))
}
