//! Why a model cannot be fetched.

use std::path::PathBuf;

use ureq::http::StatusCode;

/// Why a model cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum PullError {
    /// The hub cannot be reached, or hung up again and again.
    #[error(
        "{address} cannot be reached ({cause}); a download is resumed when you try again; without a network, fetch the \
         repository's model.safetensors and model.yaml elsewhere and run `vultus models import model.safetensors --name NAME`"
    )]
    Offline { address: String, cause: String },
    /// The hub has no such file.
    #[error("{address} does not exist")]
    NoFile { address: String },
    /// The hub wants an account.
    #[error("{address} needs a token; set HF_TOKEN")]
    Denied { address: String },
    /// Any other answer.
    #[error("{address} answered {status}")]
    Status { address: String, status: StatusCode },
    /// The bytes are not those that the hub states.
    #[error("{address}: the SHA-256 is {found} and not {expected}; the download was discarded, try again")]
    Checksum { address: String, expected: String, found: String },
    /// The file is larger than it should be.
    #[error("{address} is larger than {limit} bytes")]
    TooLarge { address: String, limit: u64 },
    /// Nothing says which colour order the model wants.
    #[error("no file of {address} says which colour order the model wants; say --color rgb or --color bgr")]
    NoColor { address: String },
    /// A file cannot be written.
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// The address is none.
    #[error("the hub's address cannot be used: {0}")]
    Endpoint(String),
}
