//! How long each stage of a request took.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Milliseconds by stage. For several images, the slowest of each stage; waiting in the queue is part of its stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Timings)]
pub struct TimingsMs {
    /// Reading the image files.
    pub decode: f64,
    /// Finding faces.
    pub detect: f64,
    /// Aligning and embedding them.
    pub embed: f64,
    /// Searching galleries.
    pub search: f64,
    /// All of it.
    pub total: f64,
}

impl TimingsMs {
    /// Keeps the larger of each stage.
    pub fn worst(self, other: Self) -> Self {
        Self {
            decode: self.decode.max(other.decode),
            detect: self.detect.max(other.detect),
            embed: self.embed.max(other.embed),
            search: self.search.max(other.search),
            total: self.total.max(other.total),
        }
    }
}

/// Milliseconds, to the microsecond.
pub(crate) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Milliseconds since `start`.
pub(crate) fn since(start: Instant) -> f64 {
    ms(start.elapsed())
}
