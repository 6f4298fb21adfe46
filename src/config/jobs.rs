//! Settings of jobs, probes and videos.

use serde::{Deserialize, Serialize};

/// Work that goes on when its request has been answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobSettings {
    /// Jobs that run at a time.
    pub max_running: usize,
    /// Jobs that wait for their turn; more are refused with `jobs_full`.
    pub max_queued: usize,
    /// Jobs that have ended and are still shown.
    pub keep: usize,
    /// How long they are shown.
    pub keep_s: u64,
    /// Bytes of results kept; beyond, the oldest go.
    pub keep_bytes: usize,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self { max_running: 2, max_queued: 32, keep: 256, keep_s: 24 * 3600, keep_bytes: 256 << 20 }
    }
}
