//! A video on its way in: written to a file as it comes, never held in memory.

use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

use super::Container;
use crate::problem::{Code, Problem};

/// Folder of the data directory for videos that wait or are looked at.
const FOLDER: &str = "videos";

/// Removes videos that a server which was killed has left.
pub fn clear(data_dir: &Path) {
    let folder = data_dir.join(FOLDER);
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        if let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(%error, "a video that was left behind could not be removed");
        }
    }
}

/// A video file of ours; removed on drop.
pub struct Upload {
    file: NamedTempFile,
    out: tokio::fs::File,
    head: Vec<u8>,
    hash: blake3::Hasher,
    bytes: u64,
    max_bytes: u64,
}

impl Upload {
    /// An empty file in the data directory. Takes at most `max_bytes`.
    pub async fn new(data_dir: &Path, max_bytes: u64) -> Result<Self, Problem> {
        let folder: PathBuf = data_dir.join(FOLDER);
        let open = move || {
            std::fs::create_dir_all(&folder)?;
            let file = tempfile::Builder::new().prefix("video-").tempfile_in(folder)?;
            let out = file.reopen()?;
            std::io::Result::Ok((file, out))
        };
        let opened = tokio::task::spawn_blocking(open).await.map_err(Problem::internal)?;
        let (file, out) = opened.map_err(failed)?;
        let (out, hash) = (tokio::fs::File::from_std(out), blake3::Hasher::new());
        Ok(Self { file, out, head: Vec::new(), hash, bytes: 0, max_bytes })
    }

    /// Takes the next bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.max_bytes {
            return Err(Problem {
                required: Some(self.max_bytes as f64),
                ..Problem::with(Code::BodyTooLarge, format!("a video has at most {} bytes", self.max_bytes))
            });
        }
        let missing = Container::HEAD_BYTES.saturating_sub(self.head.len());
        self.head.extend(bytes.iter().take(missing));
        self.hash.update(bytes);
        self.out.write_all(bytes).await.map_err(failed)
    }

    /// Ends the file. Gives it with its format and a hash of its bytes.
    pub async fn finish(mut self) -> Result<(NamedTempFile, Container, blake3::Hash), Problem> {
        self.out.flush().await.map_err(failed)?;
        if self.bytes == 0 {
            return Err(Problem::with(Code::UnreadableVideo, "the request brings no video"));
        }
        let container = Container::of(&self.head).ok_or(super::VideoError::Unsupported)?;
        Ok((self.file, container, self.hash.finalize()))
    }
}

fn failed(error: std::io::Error) -> Problem {
    tracing::error!(%error, "a video could not be written");
    Problem::new(Code::StorageUnavailable)
}
