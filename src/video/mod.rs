//! Videos: an upload to a file, a file to sampled frames.
//!
//! Frames are decoded by an installed `ffmpeg`, a process of its own that is given a file and nothing else: the
//! container is recognised here by its first bytes and named to it, so that none of its formats that refer to other
//! files or addresses (playlists, scripts of files) can be reached, and its protocols are limited to files and pipes. No
//! shell is involved, no option comes from a request as text. The process is killed when nobody waits for frames any
//! more.

mod container;
mod ffmpeg;
mod frames;
#[cfg(test)]
mod tests;
mod upload;

pub use container::Container;
pub use ffmpeg::{Ffmpeg, Sampling};
pub use frames::{Frames, VideoFrame};
pub use upload::{Upload, clear};

/// Why there are no frames.
#[derive(Debug, thiserror::Error)]
pub enum VideoError {
    /// ffmpeg is not installed.
    #[error("ffmpeg is not to be found; install the package ffmpeg (Debian, Ubuntu: apt-get install ffmpeg)")]
    NoFfmpeg,
    /// The bytes are no video of a format that is read.
    #[error("the file is no video that is read (MP4/MOV, Matroska/WebM, AVI, MPEG, FLV, Ogg, ASF)")]
    Unsupported,
    /// ffmpeg made nothing of it; the text is ffmpeg's.
    #[error("the video cannot be decoded: {0}")]
    Undecodable(String),
    /// Nothing came for a long time.
    #[error("decoding came to a halt")]
    Stalled,
    /// ffmpeg could not be run.
    #[error("ffmpeg cannot be run")]
    Io(#[from] std::io::Error),
}
