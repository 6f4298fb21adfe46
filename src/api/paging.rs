//! Lists in pages, with opaque cursors.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::problem::{Code, Problem};

/// Items of a page where the request does not say.
const DEFAULT_LIMIT: u32 = 100;
/// Most items of a page.
const MAX_LIMIT: u32 = 1000;

/// Which page of a list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageParams {
    /// Most items wanted.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    pub limit: Option<u32>,
    /// Where to go on: `next` of the page before.
    #[param(max_length = 400, nullable = false)]
    pub cursor: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items, in a stable order.
    pub items: Vec<T>,
    /// Give this as `cursor` for the next page; null on the last one.
    #[schema(required = true)]
    pub next: Option<String>,
}

impl PageParams {
    /// The page size, checked.
    pub fn limit(&self) -> Result<usize, Problem> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT);
        if (1..=MAX_LIMIT).contains(&limit) {
            Ok(limit as usize)
        } else {
            Err(Problem::with(Code::InvalidParameter, format!("limit is a number from 1 to {MAX_LIMIT}")))
        }
    }

    /// What the cursor stands for.
    pub fn after(&self) -> Result<Option<String>, Problem> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        URL_SAFE_NO_PAD
            .decode(cursor)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .map(Some)
            .ok_or_else(|| Problem::with(Code::InvalidParameter, "cursor is not one that a page gave"))
    }
}

impl<T> Page<T> {
    /// A page of `limit` out of `items`, which holds one more when there is a next page. `key` is what the next
    /// page's cursor stands for.
    pub fn cut(mut items: Vec<T>, limit: usize, key: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| URL_SAFE_NO_PAD.encode(key(last)));
        Self { items, next }
    }
}
