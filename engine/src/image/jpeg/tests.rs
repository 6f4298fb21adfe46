//! Whole files pass, damaged ones are refused, and nothing panics.

use std::path::{Path, PathBuf};

use ::image::codecs::jpeg::JpegEncoder;
use ::image::{ExtendedColorType, ImageFormat, RgbImage};
use proptest::prelude::*;

use super::*;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!("../../../tests/data/jpeg/", $name, ".jpg")).as_slice())),*]
    };
}

const FILES: [(&str, &[u8]); 9] = files![
    "baseline_420",
    "baseline_420_odd",
    "baseline_422_restart",
    "baseline_444",
    "baseline_grey_restart",
    "progressive_420",
    "progressive_422_restart",
    "progressive_444",
    "progressive_grey",
];

/// A stream of numbers that is the same at each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, limit: usize) -> usize {
        self.next() as usize % limit
    }
}

fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    Header::read(bytes)?.check(bytes)?;
    check_scans(bytes)
}

/// Where the first scan's data start.
fn scan_start(bytes: &[u8]) -> usize {
    let mut at = 2;
    loop {
        let length = usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]]));
        let is_scan = bytes[at + 1] == START_OF_SCAN;
        at += 2 + length;
        if is_scan {
            return at;
        }
    }
}

fn pixels(bytes: &[u8]) -> Option<RgbImage> {
    ::image::load_from_memory_with_format(bytes, ImageFormat::Jpeg).ok().map(|image| image.to_rgb8())
}

/// A change of each file's bytes; whether the decoder sees another picture, and whether the file is refused.
fn damage(count: usize, mut change: impl FnMut(&mut Vec<u8>, usize)) -> (usize, usize) {
    let (mut changed, mut refused) = (0, 0);
    for (_, bytes) in FILES {
        let (original, start) = (pixels(bytes), scan_start(bytes));
        for _ in 0..count {
            let mut damaged = bytes.to_vec();
            change(&mut damaged, start);
            let is_refused = check(&damaged).is_err();
            let is_changed = pixels(&damaged) != original;
            changed += usize::from(is_changed);
            refused += usize::from(is_changed && is_refused);
        }
    }
    (changed, refused)
}

#[test]
fn whole_files_pass() {
    for (name, bytes) in FILES {
        assert!(bytes.len() <= 3 << 10, "{name}");
        assert_eq!(check(bytes), Ok(()), "{name}");
        let followed = [bytes, b"more".as_slice()].concat();
        assert_eq!(check(&followed), Ok(()), "{name} with bytes behind it");
        assert!(pixels(bytes).is_some(), "{name}");
    }
}

#[test]
fn what_the_crate_encodes_passes() {
    let mut numbers = Numbers(3);
    for (width, height) in [(1, 1), (8, 8), (17, 9), (64, 33)] {
        let noise = RgbImage::from_fn(width, height, |_, _| ::image::Rgb([0; 3].map(|_: u8| numbers.next() as u8)));
        let black_and_white =
            RgbImage::from_fn(width, height, |x, y| ::image::Rgb([if (x ^ y) & 1 == 0 { 0 } else { 255 }; 3]));
        for image in [noise, black_and_white, RgbImage::from_pixel(width, height, ::image::Rgb([255; 3]))] {
            for quality in [1, 30, 75, 100] {
                let mut bytes = vec![];
                let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
                encoder.encode(&image, width, height, ExtendedColorType::Rgb8).unwrap();
                assert_eq!(check(&bytes), Ok(()), "{width}x{height} at {quality}");
            }
        }
    }
}

#[test]
fn every_cut_is_refused() {
    for (name, bytes) in FILES {
        for length in 0..bytes.len() {
            let cut = &bytes[..length];
            assert!(check(cut).is_err(), "{name} cut to {length}");
            // As tools do that repair files: the end marker is put back.
            let mended = [cut, &[0xff, END_OF_IMAGE]].concat();
            // Progressive files that end between scans are legal pictures with less detail, and a cut inside of the
            // end marker or a marker's first byte loses nothing: FF may be repeated.
            let is_boundary = |at: usize| {
                at + 2 >= bytes.len()
                    || [[0xff, 0xc4], [0xff, START_OF_SCAN]].iter().any(|m| bytes[at..].starts_with(m))
            };
            if !is_boundary(length) && !is_boundary(length.saturating_sub(1)) {
                assert!(check(&mended).is_err(), "{name} cut to {length} with an end marker");
            }
        }
    }
}

#[test]
fn holes_and_zeros_are_mostly_refused() {
    // Measured: 100 % and 95.2 %.
    let mut numbers = Numbers(5);
    let (changed, refused) = damage(200, |bytes, start| {
        let at = start + numbers.below(bytes.len() - start - 102);
        bytes.drain(at..at + 100);
    });
    assert!(refused * 100 >= changed * 99, "{refused} of {changed} holes");
    let (changed, refused) = damage(200, |bytes, start| {
        let at = start + numbers.below(bytes.len() - start - 66);
        bytes[at..at + 64].fill(0);
    });
    assert!(refused * 100 >= changed * 94, "{refused} of {changed} zeroed stretches");
}

#[test]
fn overwritten_bytes_are_mostly_refused() {
    let mut numbers = Numbers(1);
    // Measured: 98.4 % and 70.8 %. Eight bytes are few blocks, after which codes often fall into step again.
    for (length, floor) in [(64, 97), (8, 69)] {
        let (changed, refused) = damage(200, |bytes, start| {
            let at = start + numbers.below(bytes.len() - start - length - 2);
            bytes[at..at + length].fill_with(|| numbers.next() as u8);
        });
        assert!(refused * 100 >= changed * floor, "{refused} of {changed} overwrites of {length} bytes");
    }
}

#[test]
fn restart_markers_come_in_order() {
    for (name, bytes) in FILES.iter().filter(|(name, _)| name.ends_with("restart")) {
        let start = scan_start(bytes);
        let at = start + bytes[start..].windows(2).position(|pair| pair == [0xff, 0xd1]).unwrap();
        let mut swapped = bytes.to_vec();
        swapped[at + 1] = 0xd2;
        assert!(matches!(check(&swapped), Err(DecodeError::Corrupt { .. })), "{name}");
        let mut absent = bytes.to_vec();
        absent.drain(at..at + 2);
        assert!(check(&absent).is_err(), "{name}");
    }
}

#[test]
fn frames_of_avi_files_use_the_standard_tables() {
    let (_, whole) = FILES[0];
    // The file has the standard tables; they are taken out of it.
    let mut bytes = whole[..2].to_vec();
    let mut rest = &whole[2..];
    while let [0xff, marker, ..] = *rest {
        let length = 2 + usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        if marker == START_OF_SCAN {
            break;
        }
        if marker != 0xc4 {
            bytes.extend(&rest[..length]);
        }
        rest = &rest[length..];
    }
    bytes.extend(rest);
    assert!(check(&bytes).is_err(), "no tables");
    bytes.splice(2..2, *b"\xff\xe0\0\x10AVI1\0\0\0\0\0\0\0\0\0");
    assert_eq!(check(&bytes), Ok(()));
    assert_eq!(pixels(&bytes), pixels(whole));
}

#[test]
fn a_scan_that_is_missing_or_comes_twice_is_refused() {
    let (_, bytes) = FILES[7];
    let start = bytes.windows(2).position(|pair| pair == [0xff, START_OF_SCAN]).unwrap();
    let data = scan_start(bytes);
    let end = data + bytes[data..].windows(2).position(|pair| pair == [0xff, 0xc4]).unwrap();
    let without = [&bytes[..start], &bytes[end..]].concat();
    assert!(check(&without).is_err(), "AC before DC");
    let twice = [&bytes[..end], &bytes[start..]].concat();
    assert!(check(&twice).is_err(), "DC twice");
}

fn photos(folder: &str, most: usize) -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(folder)];
    let mut found = vec![];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "jpg") {
                found.push(path);
            }
        }
    }
    found.sort();
    found.truncate(most);
    found
}

#[test]
fn photos_pass() {
    let photos = [photos("lfw", 200), photos("photos", usize::MAX)].concat();
    if photos.is_empty() {
        eprintln!("skipped: no photos in ../shared/data");
    }
    for path in photos {
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(check(&bytes), Ok(()), "{}", path.display());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_never_panic(
        file in 0..FILES.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        keep in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = FILES[file].1.to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(bytes.len()));
        }
        // The size, which others check first, bounds the work.
        if Header::read(&bytes).is_ok_and(|header| header.width * header.height < 1 << 20) {
            let _ = check_scans(&bytes);
        }
    }
}
