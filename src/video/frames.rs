//! The sampled frames of a video, one after the other, from a running ffmpeg.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use image::RgbImage;
use parking_lot::Mutex;

use super::{Container, Ffmpeg, Sampling, VideoError};

/// Frames decoded ahead of the one that is looked at.
const AHEAD: usize = 2;
/// How often a waiting reader looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Longest line of ffmpeg's that is looked at, in bytes.
const MAX_LINE_BYTES: u64 = 4096;
/// Longest part of a message that is told, in characters.
const MAX_TOLD_CHARS: usize = 200;

/// A frame.
pub struct VideoFrame {
    /// Seconds from the start.
    pub at_s: f64,
    /// The picture, upright.
    pub picture: RgbImage,
}

/// What ffmpeg says beside the frames.
#[derive(Default)]
struct Said {
    /// Length of the video in milliseconds; 0 while not known.
    duration_ms: AtomicU64,
    error: Mutex<Option<String>>,
}

/// A video being decoded. Dropping it ends the process.
pub struct Frames {
    child: Child,
    pictures: Option<Receiver<Result<RgbImage, VideoError>>>,
    threads: Vec<JoinHandle<()>>,
    said: Arc<Said>,
    sampling: Sampling,
    stall: Duration,
    index: u64,
}

impl Frames {
    /// Starts decoding. Gives up when no frame comes for as long as `stall`.
    pub fn open(
        ffmpeg: &Ffmpeg,
        file: &Path,
        container: Container,
        sampling: Sampling,
        stall: Duration,
    ) -> Result<Self, VideoError> {
        let mut child = ffmpeg.command(file, container, sampling).spawn().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => VideoError::NoFfmpeg,
            _ => VideoError::Io(error),
        })?;
        let said = Arc::new(Said::default());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (sender, pictures) = sync_channel(AHEAD);
        let mut frames = Self { child, pictures: Some(pictures), threads: Vec::new(), said, sampling, stall, index: 0 };
        if let (Some(stdout), Some(stderr)) = (stdout, stderr) {
            let (said, side) = (Arc::clone(&frames.said), sampling.max_side_px);
            let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
            frames.threads.push(named("video-frames").spawn(move || read_pictures(stdout, side, &sender))?);
            frames.threads.push(named("video-messages").spawn(move || listen(stderr, &said))?);
        }
        Ok(frames)
    }

    /// How many frames there will be at most, once ffmpeg has said how long the video is.
    pub fn expected(&self) -> Option<u64> {
        let duration_ms = self.said.duration_ms.load(Ordering::Relaxed);
        let seconds = (duration_ms as f64 / 1e3).min(self.sampling.max_seconds);
        (duration_ms > 0).then_some((seconds * self.sampling.fps).ceil() as u64)
    }

    /// The next frame; `None` at the end of the video, or when `wanted` says no.
    pub fn next(&mut self, wanted: impl Fn() -> bool) -> Result<Option<VideoFrame>, VideoError> {
        let Some(pictures) = &self.pictures else { return Ok(None) };
        let since = Instant::now();
        let picture = loop {
            if !wanted() {
                return Ok(None);
            }
            match pictures.recv_timeout(LOOK_EVERY) {
                Ok(picture) => break picture?,
                Err(RecvTimeoutError::Timeout) if since.elapsed() < self.stall => {}
                Err(RecvTimeoutError::Timeout) => return Err(VideoError::Stalled),
                Err(RecvTimeoutError::Disconnected) => return self.ended(),
            }
        };
        let at_s = self.index as f64 / self.sampling.fps;
        self.index += 1;
        Ok(Some(VideoFrame { at_s, picture }))
    }

    /// At the end of the pictures: whether that is the end of the video. What was decoded before a video breaks off is
    /// kept; one of which nothing can be decoded is an error.
    fn ended(&mut self) -> Result<Option<VideoFrame>, VideoError> {
        self.stop();
        if self.index > 0 {
            return Ok(None);
        }
        let told = self.said.error.lock().take();
        Err(VideoError::Undecodable(told.unwrap_or_else(|| "it has no pictures".to_owned())))
    }

    fn stop(&mut self) {
        // The reader's sender fails from now on, and its pipe ends with the process.
        self.pictures = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read_pictures(stdout: ChildStdout, max_side_px: u32, sender: &SyncSender<Result<RgbImage, VideoError>>) {
    let mut stream = BufReader::with_capacity(1 << 16, stdout);
    loop {
        let picture = read_ppm(&mut stream, max_side_px);
        let end = !matches!(picture, Ok(Some(_)));
        let told = match picture {
            Ok(Some(picture)) => sender.send(Ok(picture)),
            Ok(None) => return,
            // The process was ended in the middle of a picture.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return,
            Err(error) => sender.send(Err(error.into())),
        };
        if end || told.is_err() {
            return;
        }
    }
}

/// One binary PPM picture; `None` at the end of the stream.
pub(super) fn read_ppm(stream: &mut impl BufRead, max_side_px: u32) -> std::io::Result<Option<RgbImage>> {
    if stream.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let bad = || std::io::Error::new(std::io::ErrorKind::InvalidData, "ffmpeg sent no picture");
    let mut fields = [0u32; 3];
    let mut magic = [0u8; 2];
    stream.read_exact(&mut magic)?;
    if magic != *b"P6" {
        return Err(bad());
    }
    let mut byte = [0u8; 1];
    stream.read_exact(&mut byte)?;
    for field in &mut fields {
        // Numbers are short, and one space or line end follows each.
        let mut text = String::new();
        loop {
            stream.read_exact(&mut byte)?;
            if byte[0].is_ascii_whitespace() {
                break;
            }
            text.push(char::from(byte[0]));
            if text.len() > 8 {
                return Err(bad());
            }
        }
        *field = text.parse().map_err(|_| bad())?;
    }
    let [width, height, depth] = fields;
    if !(1..=max_side_px).contains(&width) || !(1..=max_side_px).contains(&height) || depth != 255 {
        return Err(bad());
    }
    let mut pixels = vec![0u8; 3 * width as usize * height as usize];
    stream.read_exact(&mut pixels)?;
    RgbImage::from_raw(width, height, pixels).ok_or_else(bad).map(Some)
}

/// Reads to the end, keeps the length of the video and the first error.
fn listen(stderr: ChildStderr, said: &Said) {
    let mut stream = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match stream.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line);
        if let Some(duration_ms) = duration_ms(&line) {
            // The first is that of the input.
            let _ = said.duration_ms.compare_exchange(0, duration_ms, Ordering::Relaxed, Ordering::Relaxed);
        }
        if let Some(message) = error_text(&line) {
            said.error.lock().get_or_insert(message);
        }
    }
}

/// `  Duration: 00:01:02.50, start: …` in milliseconds.
pub(super) fn duration_ms(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("Duration: ")?;
    let mut parts = rest.split(',').next()?.split(':');
    let (hours, minutes, seconds) = (parts.next()?, parts.next()?, parts.next()?);
    let (hours, minutes): (f64, f64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let seconds: f64 = seconds.trim().parse().ok()?;
    let ms = (hours * 3600.0 + minutes * 60.0 + seconds) * 1e3;
    (ms.is_finite() && ms > 0.0).then_some(ms as u64)
}

/// The text of a line that tells an error, without the name of our file.
pub(super) fn error_text(line: &str) -> Option<String> {
    let marks = ["[error] ", "[fatal] "];
    let (_, text) = marks.iter().find_map(|mark| line.split_once(mark))?;
    let visible = |c: &char| c.is_ascii_graphic() || *c == ' ';
    let words = text.split(' ').filter(|word| !word.contains("file:"));
    let text: String = words.collect::<Vec<_>>().join(" ").chars().filter(visible).take(MAX_TOLD_CHARS).collect();
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
