//! The `ffmpeg` program: where it is, and how it is called.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Container, VideoError};

/// The program's name.
const NAME: &str = "ffmpeg";
/// Largest single allocation it may make, in bytes.
const MAX_ALLOC: &str = "536870912";
/// Largest picture it decodes, in pixels.
const MAX_PIXELS: &str = "67108864";

/// An installed ffmpeg.
#[derive(Debug, Clone)]
pub struct Ffmpeg(PathBuf);

/// Which frames of a video are wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Frames a second.
    pub fps: f64,
    /// Nothing after this is looked at, in seconds.
    pub max_seconds: f64,
    /// Longest side of a frame in pixels; larger ones are scaled down.
    pub max_side_px: u32,
}

impl Ffmpeg {
    /// The one configured, else the first on `PATH`.
    pub fn find(configured: Option<&Path>) -> Result<Self, VideoError> {
        if let Some(path) = configured {
            return if path.is_file() { Ok(Self(path.to_owned())) } else { Err(VideoError::NoFfmpeg) };
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        // An empty entry of PATH means the working directory, from which nothing is to be run.
        let folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
        let found = folders.map(|folder| folder.join(NAME)).find(|file| file.is_file());
        found.map(Self).ok_or(VideoError::NoFfmpeg)
    }

    /// The call that writes sampled frames of a file to its standard output, as one PPM picture (8-bit RGB with its
    /// size in front) after the other.
    pub(super) fn command(&self, file: &Path, container: Container, sampling: Sampling) -> Command {
        let Sampling { fps, max_seconds, max_side_px: side } = sampling;
        // Pixels that are not square are made so first. Frames are sampled before they are scaled.
        let filter = format!(
            "fps={fps:.4},scale=w=trunc(iw*sar):h=ih,setsar=1,scale=w='min(iw,{side})':h='min(ih,{side})':\
             force_original_aspect_ratio=decrease:flags=area"
        );
        // A name with this prefix is a file, whatever it looks like.
        let mut input = std::ffi::OsString::from("file:");
        input.push(file);
        let mut command = Command::new(&self.0);
        command
            .args(["-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info", "-max_alloc", MAX_ALLOC])
            .args(["-protocol_whitelist", "file,pipe", "-max_pixels", MAX_PIXELS, "-f", container.demuxer(), "-t"])
            .arg(format!("{max_seconds:.3}"))
            .arg("-i")
            .arg(input)
            .args(["-map", "0:v:0", "-an", "-sn", "-dn", "-vf"])
            .arg(filter)
            .args(["-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "pipe:1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_clear();
        // What a program needs to start, and nothing that changes what this one does or that it should not know.
        for name in ["PATH", "HOME", "LD_LIBRARY_PATH", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }
}
