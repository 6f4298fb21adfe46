//! Configuration: built-in defaults ← `vultus.toml` ← `VULTUS_SECTION__KEY` ← flags, the later winning.
//!
//! Every setting is a member of [`Settings`]; an unknown name in a file or variable is an error that names it.

mod jobs;
mod load;
mod models;
mod video;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use jobs::{JobSettings, ProbeSettings};
pub use load::{ConfigError, Loaded, Override, load};
pub use models::{MODELS_DIR_VARIABLE, ModelsSettings};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
pub use video::{FPS_RANGE, VideoSettings};
use vultus_engine::detect::{DetectOptions, DetectorKind};
use vultus_engine::image::DecodeLimits;
use vultus_engine::model::{Form, Precision};
pub use watch::WatchSettings;

/// All settings of the server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address, data directory and times.
    pub server: ServerSettings,
    /// Who may ask.
    pub auth: AuthSettings,
    /// The networks.
    pub model: ModelSettings,
    /// Who looks for faces.
    pub detect: DetectSettings,
    /// Where models are kept.
    pub models: ModelsSettings,
    /// What a request may cost.
    pub limits: LimitSettings,
    /// Search and decisions.
    pub search: SearchSettings,
    /// Work that goes on when its request has been answered.
    pub jobs: JobSettings,
    /// Probe templates and tracks.
    pub probes: ProbeSettings,
    /// Videos as probes.
    pub video: VideoSettings,
    /// Standing searches.
    pub watch: WatchSettings,
    /// Log output.
    pub log: LogSettings,
}

/// Address, data directory and times.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Address and port; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Start without keys although the address is not loopback.
    pub insecure: bool,
    /// Connections held at a time; more wait to be accepted.
    pub max_connections: usize,
    /// A connection on which no whole request head comes for this long is closed.
    pub header_timeout_ms: u64,
    /// A request is given up after this long.
    pub request_timeout_ms: u64,
    /// At the end, requests in work get this long to finish.
    pub shutdown_timeout_ms: u64,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data_dir: PathBuf::from("vultus-data"),
            insecure: false,
            max_connections: 1024,
            header_timeout_ms: 30_000,
            request_timeout_ms: 30_000,
            shutdown_timeout_ms: 20_000,
        }
    }
}

/// Who may ask.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// The key that requests carry as `Authorization: Bearer KEY`. Empty: none is needed.
    #[serde(serialize_with = "hide")]
    pub key: SecretString,
}

fn hide<S: serde::Serializer>(key: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    use secrecy::ExposeSecret;
    serializer.serialize_str(if key.expose_secret().is_empty() { "" } else { "***" })
}

/// The networks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// Name or id of an installed model, `mobilefacenet` for the embedded one, or a safetensors file with its manifest
    /// beside it.
    pub name: String,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Add the raw features of a face and its mirror image.
    pub flip: bool,
    /// Precision of the backbone: `f32`, or `bf16` for networks of the improved residual family.
    pub dtype: Precision,
    /// Faces below this detector score (0 to 1) are not seen.
    pub min_detection_score: f32,
    /// Faces narrower than this many pixels are not seen.
    pub min_face_px: f32,
    /// Faces embedded as one batch.
    pub embed_batch: usize,
    /// Megapixels of photos detected as one batch, each photo counted as at least one.
    pub detect_batch: usize,
    /// Threads that compute, for the detector and all backbones together; 0 takes as many as there are cores, at most 1,024.
    pub threads: usize,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            name: "mobilefacenet".to_owned(),
            device: "auto".to_owned(),
            flip: false,
            dtype: Precision::F32,
            min_detection_score: 0.6,
            min_face_px: 12.0,
            embed_batch: 32,
            detect_batch: 8,
            threads: 0,
        }
    }
}

impl ModelSettings {
    /// How the backbone is used.
    pub fn form(&self) -> Form {
        Form { flip: self.flip, precision: self.dtype }
    }
}

/// Who looks for faces. What counts as one is among the [`ModelSettings`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectSettings {
    /// `yunet`, `mtcnn` or `mtcnn_compat`, where a request does not say.
    pub detector: DetectorKind,
}

/// What a request may cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Bytes of a request body.
    pub max_body_bytes: usize,
    /// Bytes of one encoded image.
    pub max_image_bytes: usize,
    /// Width times height of one image.
    pub max_image_pixels: u64,
    /// Images and embeddings of one request.
    pub max_images_per_request: usize,
    /// Faces taken from one photo, best first.
    pub max_faces_per_image: usize,
    /// Images in work at a time; more are refused with `queue_full`.
    pub max_queued_images: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            max_body_bytes: 64 << 20,
            max_image_bytes: 20 << 20,
            max_image_pixels: 50_000_000,
            max_images_per_request: 64,
            max_faces_per_image: 200,
            max_queued_images: 256,
        }
    }
}

/// Search and decisions.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SearchSettings {
    /// Score from which a candidate is a match, where neither request nor gallery says. Unset: the model's own.
    pub threshold: Option<f32>,
    /// Score from which a person should look at a candidate, where neither request nor gallery says. Unset: none.
    pub review_threshold: Option<f32>,
    /// Galleries with more rows than this are searched approximately when the request leaves the choice open and the recall
    /// measured on the gallery is no more than 0.1 below `recall_target`.
    pub ann_above_rows: usize,
    /// The share of the exact ten best that approximate searches are prepared to find, 0.5 to 1: less is faster.
    pub recall_target: f32,
    /// Vectors of all galleries that may be in memory, in MB; those beyond it are in files without name in `index/` of the data
    /// directory. What searches look at first, about a quarter of the size, is always in memory.
    pub vectors_in_memory_mb: usize,
    /// All that the indexes of all galleries keep in memory, in MB; unset, there is no limit. Where it would be passed, vectors
    /// go to files, then no graph is built, a graph is dropped, no cascade is prepared, a cascade is dropped. What an exact
    /// search reads first stays in memory in any case, and enrolment is never refused for the limit.
    pub memory_limit_mb: Option<usize>,
}

impl Default for SearchSettings {
    fn default() -> Self {
        Self {
            threshold: None,
            review_threshold: None,
            ann_above_rows: 200_000,
            recall_target: 0.95,
            vectors_in_memory_mb: 2_048,
            memory_limit_mb: None,
        }
    }
}

/// Log output.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A filter such as `info` or `vultus=debug,warn`.
    pub filter: String,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

impl Settings {
    /// How large an image may be.
    pub fn decode_limits(&self) -> DecodeLimits {
        DecodeLimits {
            max_bytes: self.limits.max_image_bytes,
            max_pixels: self.limits.max_image_pixels,
            ..DecodeLimits::default()
        }
    }

    /// What counts as a face.
    pub fn detect_options(&self) -> DetectOptions {
        DetectOptions {
            detector: self.detect.detector,
            min_score: self.model.min_detection_score,
            min_size_px: self.model.min_face_px,
            max_faces: Some(self.limits.max_faces_per_image),
            ..DetectOptions::default()
        }
    }

    /// Refuses values that cannot work, naming the first.
    pub fn check(&self) -> Result<(), String> {
        let (limits, model) = (&self.limits, &self.model);
        let positive = [
            ("server.request_timeout_ms", self.server.request_timeout_ms as usize),
            ("server.max_connections", self.server.max_connections),
            ("limits.max_body_bytes", limits.max_body_bytes),
            ("limits.max_image_bytes", limits.max_image_bytes),
            ("limits.max_image_pixels", limits.max_image_pixels as usize),
            ("limits.max_images_per_request", limits.max_images_per_request),
            ("limits.max_faces_per_image", limits.max_faces_per_image),
            ("limits.max_queued_images", limits.max_queued_images),
            ("jobs.max_running", self.jobs.max_running),
            ("probes.ttl_s", self.probes.ttl_s as usize),
            ("probes.max_ttl_s", self.probes.max_ttl_s as usize),
            ("model.embed_batch", model.embed_batch),
            ("model.detect_batch", model.detect_batch),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{name} is at least 1"));
        }
        let bounded = [
            ("model.threads", model.threads),
            ("model.embed_batch", model.embed_batch),
            ("model.detect_batch", model.detect_batch),
        ];
        if let Some((name, _)) = bounded.iter().find(|(_, value)| *value > MOST_AT_ONCE) {
            return Err(format!("{name} is at most {MOST_AT_ONCE}"));
        }
        self.video.check()?;
        self.watch.check()?;
        if !(0.1..=1.0).contains(&model.min_detection_score) {
            return Err("model.min_detection_score is a number from 0.1 to 1".to_owned());
        }
        if !(0.0..=10_000.0).contains(&model.min_face_px) {
            return Err("model.min_face_px is a number from 0 to 10000".to_owned());
        }
        if !(0.5..=1.0).contains(&self.search.recall_target) {
            return Err("search.recall_target is a number from 0.5 to 1".to_owned());
        }
        let scores = [("threshold", self.search.threshold), ("review_threshold", self.search.review_threshold)];
        for (name, score) in scores {
            if score.is_some_and(|score| !(-1.0..=1.0).contains(&score)) {
                return Err(format!("search.{name} is a number from -1 to 1"));
            }
        }
        if let (Some(of_match), Some(of_review)) = (self.search.threshold, self.search.review_threshold)
            && of_review > of_match
        {
            return Err("search.review_threshold is at most search.threshold".to_owned());
        }
        let key = secrecy::ExposeSecret::expose_secret(&self.auth.key);
        if !key.is_empty() && (key.len() < MIN_KEY_BYTES || !key.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(format!("auth.key has at least {MIN_KEY_BYTES} visible ASCII characters"));
        }
        Ok(())
    }
}

/// Shortest key that is not guessed.
const MIN_KEY_BYTES: usize = 8;
/// Most threads, and most of a batch, that can be asked for.
const MOST_AT_ONCE: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_cannot_work_are_named() {
        assert_eq!(Settings::default().check(), Ok(()));
        let wrong = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check().unwrap_err()
        };
        assert!(wrong(|s| s.model.threads = usize::MAX).contains("model.threads"));
        assert!(wrong(|s| s.model.embed_batch = 100_000).contains("model.embed_batch"));
        assert!(wrong(|s| s.limits.max_queued_images = 0).contains("max_queued_images"));
        assert!(wrong(|s| s.search.threshold = Some(9.0)).contains("threshold"));
        assert!(wrong(|s| s.search.recall_target = 0.4).contains("recall_target"));
        assert!(wrong(|s| s.search.recall_target = f32::NAN).contains("recall_target"));
        let review_above = |s: &mut Settings| (s.search.threshold, s.search.review_threshold) = (Some(0.3), Some(0.4));
        assert!(wrong(review_above).contains("review_threshold"));
        assert!(wrong(|s| s.model.min_detection_score = f32::NAN).contains("min_detection_score"));
        assert!(wrong(|s| s.auth.key = SecretString::from(" ")).contains("key"));
    }
}
