//! Settings of jobs and of probes that are held.

use serde::{Deserialize, Serialize};

/// Work that goes on when its request has been answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JobSettings {
    /// Jobs that run at a time.
    pub max_running: usize,
    /// Jobs that wait for their turn; more are refused with `jobs_full`.
    pub max_queued: usize,
    /// Jobs that have ended and are still kept, over restarts too.
    pub keep: usize,
    /// How long they are kept.
    pub keep_s: u64,
    /// Bytes of results and attachments kept in the store; beyond, the oldest go.
    pub keep_bytes: usize,
}

impl Default for JobSettings {
    fn default() -> Self {
        Self { max_running: 2, max_queued: 32, keep: 256, keep_s: 24 * 3600, keep_bytes: 256 << 20 }
    }
}

/// Probe templates and tracks, which are kept in memory for a while.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeSettings {
    /// Bytes that all of them may take; more are refused with `probes_full`.
    pub max_bytes: usize,
    /// Tracks and templates held at a time; more are refused with `probes_full`.
    pub max_tracks: usize,
    /// Frames of one track; more are refused with `track_full`.
    pub max_frames_per_track: usize,
    /// How long one is kept after its last use, where the request does not say.
    pub ttl_s: u64,
    /// The longest time a request can ask for.
    pub max_ttl_s: u64,
}

impl Default for ProbeSettings {
    fn default() -> Self {
        Self {
            max_bytes: 256 << 20,
            max_tracks: 10_000,
            max_frames_per_track: 10_000,
            ttl_s: 3600,
            max_ttl_s: 24 * 3600,
        }
    }
}
