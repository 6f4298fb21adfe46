//! Configuration: built-in defaults ← `vultus.toml` ← `VULTUS_SECTION__KEY` ← flags, the later winning.
//!
//! Every setting is a member of [`Settings`]; an unknown name in a file or variable is an error that names it.

mod load;

use std::net::SocketAddr;
use std::path::PathBuf;

pub use load::{ConfigError, Loaded, Override, load};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

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
    /// What a request may cost.
    pub limits: LimitSettings,
    /// Search and decisions.
    pub search: SearchSettings,
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
    /// `mobilefacenet` for the embedded one, or a safetensors file with its manifest beside it.
    pub name: String,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Add the raw features of a face and its mirror image.
    pub flip: bool,
    /// Faces below this detector score (0 to 1) are not seen.
    pub min_detection_score: f32,
    /// Faces narrower than this many pixels are not seen.
    pub min_face_px: f32,
    /// Faces embedded as one batch.
    pub embed_batch: usize,
    /// Megapixels of photos detected as one batch, each photo counted as at least one.
    pub detect_batch: usize,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            name: "mobilefacenet".to_owned(),
            device: "auto".to_owned(),
            flip: false,
            min_detection_score: 0.6,
            min_face_px: 12.0,
            embed_batch: 32,
            detect_batch: 8,
        }
    }
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
    /// Galleries with more rows than this are searched through a graph when the request leaves the choice open.
    pub ann_above_rows: usize,
}

impl Default for SearchSettings {
    fn default() -> Self {
        Self { threshold: None, ann_above_rows: 200_000 }
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
