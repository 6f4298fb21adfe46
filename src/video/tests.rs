//! Formats by their first bytes, pictures from a stream, messages, and a real ffmpeg where there is one.

use std::io::Cursor;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::frames::{duration_ms, error_text, read_ppm};
use super::*;

#[test]
fn formats_are_told_by_their_first_bytes() {
    let mut ts = vec![0u8; 400];
    (0..3).for_each(|packet| ts[188 * packet] = 0x47);
    let cases: [(&[u8], Option<Container>); 11] = [
        (b"\0\0\0\x20ftypisom", Some(Container::Mov)),
        (&[0x1a, 0x45, 0xdf, 0xa3, 1], Some(Container::Matroska)),
        (b"RIFF\0\0\0\0AVI LIST", Some(Container::Avi)),
        (&[0, 0, 1, 0xba, 0x44], Some(Container::MpegPs)),
        (b"FLV\x01\x05", Some(Container::Flv)),
        (b"OggS\0\x02", Some(Container::Ogg)),
        (&ts, Some(Container::MpegTs)),
        // Playlists and lists of files refer to others.
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\nhttp://127.0.0.1/x.ts\n", None),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", None),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"", None),
    ];
    for (head, expected) in cases {
        assert_eq!(Container::of(head), expected, "{:?}", String::from_utf8_lossy(head));
    }
}

#[test]
fn pictures_are_read_within_their_bound() {
    let two = [b"P6\n2 1\n255\n".as_slice(), &[1, 2, 3, 4, 5, 6], b"P6\n1 1\n255\n", &[7, 8, 9]].concat();
    let mut stream = Cursor::new(two);
    assert_eq!(read_ppm(&mut stream, 4).unwrap().unwrap().into_raw(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(read_ppm(&mut stream, 4).unwrap().unwrap().into_raw(), [7, 8, 9]);
    assert!(read_ppm(&mut stream, 4).unwrap().is_none());
    let bad: [&[u8]; 6] = [
        b"P5\n1 1\n255\n000",
        b"P6\n5 1\n255\n0",
        b"P6\n0 1\n255\n",
        b"P6\n1 1\n65535\n",
        b"P6\n999999999999",
        b"P6\n1 1\n255\n0",
    ];
    for bad in bad {
        assert!(read_ppm(&mut Cursor::new(bad), 4).is_err(), "{:?}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn messages_are_read_and_cleaned() {
    assert_eq!(duration_ms("[info]   Duration: 00:01:02.50, start: 0.000000, bitrate: 23 kb/s"), Some(62_500));
    assert_eq!(duration_ms("  Duration: N/A, start: 0"), None);
    let line = "[mov @ 0x5] [error] file:/data/videos/video-x: moov atom not found\x1b[0m\n";
    assert_eq!(error_text(line).unwrap(), "moov atom not found[0m");
    assert_eq!(error_text("[info] fine"), None);
}

/// A video of two seconds made by ffmpeg itself.
fn sample(folder: &std::path::Path, name: &str, arguments: &[&str]) -> Option<(Ffmpeg, PathBuf)> {
    let Ok(ffmpeg) = Ffmpeg::find(None) else {
        eprintln!("skipped: ffmpeg is not installed");
        return None;
    };
    let file = folder.join(name);
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=320x240:rate=10:duration=2"]);
    let made = command.args(arguments).arg(&file).status();
    assert!(made.is_ok_and(|status| status.success()));
    Some((ffmpeg, file))
}

fn container(file: &std::path::Path) -> Container {
    Container::of(&std::fs::read(file).unwrap()).unwrap()
}

const SAMPLING: Sampling = Sampling { fps: 5.0, max_seconds: 60.0, max_side_px: 160 };
const STALL: Duration = Duration::from_secs(30);

#[test]
fn frames_come_in_order_at_their_times_and_size() {
    let folder = tempfile::tempdir().unwrap();
    for (name, codec) in [("a.mkv", "mpeg4"), ("a.mp4", "mpeg4"), ("a.avi", "mjpeg"), ("a.ts", "mpeg2video")] {
        let Some((ffmpeg, file)) = sample(folder.path(), name, &["-c:v", codec]) else { return };
        let mut frames = Frames::open(&ffmpeg, &file, container(&file), SAMPLING, STALL).unwrap();
        let mut times = Vec::new();
        while let Some(frame) = frames.next(|| true).unwrap() {
            assert_eq!(frame.picture.dimensions(), (160, 120));
            times.push(frame.at_s);
        }
        assert!((9..=11).contains(&times.len()), "{name}: {times:?}");
        assert!(times.windows(2).all(|pair| (pair[1] - pair[0] - 0.2).abs() < 1e-9));
        assert!(frames.expected().is_some_and(|expected| expected >= 9), "{name}");
    }
}

#[test]
fn decoding_ends_at_the_limit_and_when_nobody_waits() {
    let folder = tempfile::tempdir().unwrap();
    let Some((ffmpeg, file)) = sample(folder.path(), "a.mkv", &["-c:v", "mpeg4"]) else { return };
    let short = Sampling { max_seconds: 1.0, ..SAMPLING };
    let mut frames = Frames::open(&ffmpeg, &file, container(&file), short, STALL).unwrap();
    let mut count = 0;
    while frames.next(|| true).unwrap().is_some() {
        count += 1;
    }
    assert!((4..=6).contains(&count), "{count}");
    assert_eq!(frames.expected(), Some(5));
    let mut frames = Frames::open(&ffmpeg, &file, container(&file), SAMPLING, STALL).unwrap();
    assert!(frames.next(|| true).unwrap().is_some());
    assert!(frames.next(|| false).unwrap().is_none());
    // Ends the process, and this test does not wait for it.
    drop(frames);
}

#[test]
fn what_cannot_be_decoded_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let Some((ffmpeg, whole)) = sample(folder.path(), "a.mp4", &["-c:v", "mpeg4"]) else { return };
    let bytes = std::fs::read(&whole).unwrap();
    let cut = folder.path().join("cut.mp4");
    std::fs::write(&cut, &bytes[..200]).unwrap();
    let mut frames = Frames::open(&ffmpeg, &cut, Container::Mov, SAMPLING, STALL).unwrap();
    let error = frames.next(|| true).err().unwrap();
    assert!(matches!(&error, VideoError::Undecodable(text) if !text.contains("cut.mp4")), "{error}");
    // The container is what the first bytes say, so a list of files is never followed.
    let list = folder.path().join("list.txt");
    std::fs::write(&list, format!("ffconcat version 1.0\nfile {}\n", whole.display())).unwrap();
    let mut frames = Frames::open(&ffmpeg, &list, Container::Mov, SAMPLING, STALL).unwrap();
    assert!(matches!(frames.next(|| true), Err(VideoError::Undecodable(_))));
    assert!(matches!(Ffmpeg::find(Some(std::path::Path::new("/nowhere/ffmpeg"))), Err(VideoError::NoFfmpeg)));
}
