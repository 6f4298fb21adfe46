//! Settings of videos.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Videos as probes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VideoSettings {
    /// The ffmpeg program. Unset: the first on `PATH`.
    pub ffmpeg: Option<PathBuf>,
    /// Bytes of a video.
    pub max_bytes: u64,
    /// Uploads at a time; more are refused with `jobs_full`.
    pub max_uploads: usize,
    /// An upload is given up after this long.
    pub upload_timeout_ms: u64,
    /// The longest part of a video that is looked at, in seconds, and what is looked at where a request does not say.
    pub max_seconds: f64,
    /// Frames a second that are looked at where a request does not say.
    pub fps: f64,
    /// Longest side of a frame in pixels; larger ones are scaled down.
    pub max_side_px: u32,
    /// A video of which no frame comes for this long is given up.
    pub stall_timeout_ms: u64,
}

impl Default for VideoSettings {
    fn default() -> Self {
        Self {
            ffmpeg: None,
            max_bytes: 512 << 20,
            max_uploads: 4,
            upload_timeout_ms: 600_000,
            max_seconds: 3600.0,
            fps: 5.0,
            max_side_px: 1920,
            stall_timeout_ms: 60_000,
        }
    }
}

/// Frames a second that can be asked for.
pub const FPS_RANGE: std::ops::RangeInclusive<f64> = 0.1..=60.0;

impl VideoSettings {
    /// The first value that cannot work.
    pub(super) fn check(&self) -> Result<(), String> {
        if !FPS_RANGE.contains(&self.fps) {
            return Err("video.fps is a number from 0.1 to 60".to_owned());
        }
        if !(1.0..=86_400.0).contains(&self.max_seconds) {
            return Err("video.max_seconds is a number from 1 to 86400".to_owned());
        }
        if !(64..=8192).contains(&self.max_side_px) {
            return Err("video.max_side_px is a number from 64 to 8192".to_owned());
        }
        Ok(())
    }
}
