//! Decoding of good, odd, damaged and hostile files. All are made here.

use ::image::codecs::jpeg::JpegEncoder;
use ::image::codecs::webp::WebPEncoder;
use ::image::{GrayImage, ImageBuffer, Luma, LumaA, Rgb, Rgba};
use proptest::prelude::*;

use super::*;

const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 1 << 20, max_pixels: 1_000_000, max_side: 4_000 };

/// A picture in which no two regions look alike.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, ((x * 7 + y * 13) % 64) as u8])
    })
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![]);
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn jpeg_bytes(image: &RgbImage) -> Vec<u8> {
    let mut bytes = vec![];
    JpegEncoder::new_with_quality(&mut bytes, 95).encode_image(image).unwrap();
    bytes
}

/// A JPEG file with an EXIF block that holds nothing but an orientation.
fn oriented(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let mut bytes = vec![0xff, 0xd8, 0xff, 0xe1];
    bytes.extend(((exif.len() + 2) as u16).to_be_bytes());
    bytes.extend(exif);
    bytes.extend(&jpeg[2..]);
    bytes
}

fn error(bytes: &[u8]) -> DecodeError {
    decode(bytes, &LIMITS).expect_err("the file must be refused")
}

fn mean_difference(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions());
    let sum: u64 = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    sum as f64 / a.as_raw().len() as f64
}

#[test]
fn the_three_formats_are_read() {
    let original = picture(37, 29);
    let image = DynamicImage::from(original.clone());
    assert_eq!(decode(&encoded(&image, ImageFormat::Png), &LIMITS).unwrap(), original);
    assert_eq!(decode(&encoded(&image, ImageFormat::WebP), &LIMITS).unwrap(), original);
    assert!(mean_difference(&decode(&jpeg_bytes(&original), &LIMITS).unwrap(), &original) < 6.0);
    assert_eq!(decode(&encode_png(&original).unwrap(), &LIMITS).unwrap(), original);
    assert!(encode_png(&RgbImage::new(0, 0)).is_err());
}

#[test]
fn all_eight_orientations_are_applied() {
    let upright = picture(40, 24);
    let bytes = jpeg_bytes(&upright);
    let plain = decode(&bytes, &LIMITS).unwrap();
    use ::image::imageops::{flip_horizontal, flip_vertical, rotate90, rotate180, rotate270};
    let expected = [
        plain.clone(),
        flip_horizontal(&plain),
        rotate180(&plain),
        flip_vertical(&plain),
        flip_horizontal(&rotate90(&plain)),
        rotate90(&plain),
        flip_horizontal(&rotate270(&plain)),
        rotate270(&plain),
    ];
    for (index, expected) in expected.iter().enumerate() {
        let decoded = decode(&oriented(&bytes, index as u8 + 1), &LIMITS).unwrap();
        assert!(decoded == *expected, "orientation {}", index + 1);
    }
    assert_eq!(decode(&oriented(&bytes, 99), &LIMITS).unwrap(), plain, "an unknown orientation is none");
}

#[test]
fn every_sample_layout_becomes_rgb() {
    let png = |image: DynamicImage| decode(&encoded(&image, ImageFormat::Png), &LIMITS).unwrap();
    let grey = png(GrayImage::from_pixel(2, 2, Luma([77])).into());
    assert_eq!(grey.get_pixel(1, 1).0, [77; 3]);
    let sixteen: ImageBuffer<Rgb<u16>, _> = ImageBuffer::from_pixel(2, 2, Rgb([0, 257 * 100, 65535]));
    assert_eq!(png(DynamicImage::ImageRgb16(sixteen)).get_pixel(0, 0).0, [0, 100, 255]);
    let grey16: ImageBuffer<Luma<u16>, _> = ImageBuffer::from_pixel(2, 2, Luma([257 * 9]));
    assert_eq!(png(DynamicImage::ImageLuma16(grey16)).get_pixel(0, 0).0, [9; 3]);
    let translucent = ImageBuffer::from_pixel(2, 2, Rgba([200u8, 100, 0, 128]));
    assert_eq!(png(DynamicImage::ImageRgba8(translucent)).get_pixel(0, 0).0, [100, 50, 0]);
    let clear: ImageBuffer<LumaA<u8>, _> = ImageBuffer::from_pixel(2, 2, LumaA([200, 0]));
    assert_eq!(png(DynamicImage::ImageLumaA8(clear)).get_pixel(0, 0).0, [0; 3]);
    let mut grey_jpeg = vec![];
    JpegEncoder::new(&mut grey_jpeg).encode_image(&GrayImage::from_pixel(9, 9, Luma([77]))).unwrap();
    assert_eq!(decode(&grey_jpeg, &LIMITS).unwrap().get_pixel(4, 4).0, [77; 3]);
}

/// RIFF chunk with its padding.
fn chunk(name: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut bytes = name.to_vec();
    bytes.extend((content.len() as u32).to_le_bytes());
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes
}

#[test]
fn the_first_frame_of_an_animation_is_taken() {
    let frames = [[200u8, 0, 0], [0, 200, 0]].map(|colour| RgbImage::from_pixel(8, 8, Rgb(colour)));
    // Canvas sizes are stored less one, three bytes each.
    let mut body = chunk(b"VP8X", &[0b10, 0, 0, 0, 7, 0, 0, 7, 0, 0]);
    body.extend(chunk(b"ANIM", &[0; 6]));
    for frame in &frames {
        let mut still = vec![];
        WebPEncoder::new_lossless(&mut still).encode(frame, 8, 8, ExtendedColorType::Rgb8).unwrap();
        let mut content = vec![0, 0, 0, 0, 0, 0, 7, 0, 0, 7, 0, 0, 100, 0, 0, 0];
        content.extend(&still[12..]);
        body.extend(chunk(b"ANMF", &content));
    }
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((body.len() as u32 + 4).to_le_bytes());
    bytes.extend(b"WEBP");
    bytes.extend(body);
    // The frame is blended onto the canvas, which may round by one.
    assert!(mean_difference(&decode(&bytes, &LIMITS).unwrap(), &frames[0]) < 1.0);
}

#[test]
fn limits_hold() {
    assert_eq!(error(b""), DecodeError::Empty);
    let large = vec![0; LIMITS.max_bytes + 1];
    assert_eq!(error(&large), DecodeError::TooManyBytes { bytes: large.len(), limit: LIMITS.max_bytes });
    let image = DynamicImage::from(RgbImage::new(1200, 1000));
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Jpeg] {
        let expected = DecodeError::TooManyPixels { width: 1200, height: 1000, limit: 1_000_000 };
        assert_eq!(error(&encoded(&image, format)), expected, "{format:?}");
    }
    let long = encoded(&RgbImage::new(4001, 3).into(), ImageFormat::Png);
    assert_eq!(error(&long), DecodeError::TooLong { width: 4001, height: 3, limit: 4000 });
}

#[test]
fn a_huge_header_is_refused_before_anything_is_allocated() {
    // Nothing but headers: were the pixels looked for, the answer would be another one.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    png.extend(50_000u32.to_be_bytes());
    png.extend(50_000u32.to_be_bytes());
    png.extend([8, 2, 0, 0, 0]);
    let mut jpeg = vec![0xff, 0xd8, 0xff, 0xc0, 0, 17, 8];
    jpeg.extend(50_000u16.to_be_bytes());
    jpeg.extend(50_000u16.to_be_bytes());
    jpeg.extend([3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]);
    for bytes in [png, jpeg] {
        let limits = DecodeLimits::default();
        let expected = DecodeError::TooManyPixels { width: 50_000, height: 50_000, limit: limits.max_pixels };
        assert_eq!(decode(&bytes, &limits), Err(expected));
    }
}

#[test]
fn other_formats_are_named() {
    assert_eq!(error(b"GIF89a\x01\0\x01\0"), DecodeError::unsupported("Gif"));
    assert_eq!(error(b"hello"), DecodeError::NotAnImage);
    let jpeg = jpeg_bytes(&picture(16, 16));
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    for (offset, value) in [(9, 4), (4, 12), (1, 0xc3), (1, 0xc9)] {
        let mut changed = jpeg.clone();
        changed[frame + offset] = value;
        assert!(matches!(error(&changed), DecodeError::Unsupported { .. }), "{offset} {value}");
    }
}

#[test]
fn a_file_that_is_cut_off_is_truncated() {
    // Noise, so that pixel data fill most of each file.
    let mut state = 1u32;
    let mut noise = RgbImage::new(64, 64);
    for value in noise.iter_mut() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *value = (state >> 24) as u8;
    }
    let image = DynamicImage::from(noise.clone());
    let with_thumbnail = {
        let thumbnail = jpeg_bytes(&picture(8, 8));
        let jpeg = jpeg_bytes(&noise);
        let mut bytes = vec![0xff, 0xd8, 0xff, 0xe1];
        bytes.extend(((thumbnail.len() + 2) as u16).to_be_bytes());
        bytes.extend(thumbnail);
        bytes.extend(&jpeg[2..]);
        bytes
    };
    let files =
        [jpeg_bytes(&noise), with_thumbnail, encoded(&image, ImageFormat::Png), encoded(&image, ImageFormat::WebP)];
    for (index, bytes) in files.iter().enumerate() {
        decode(bytes, &LIMITS).unwrap();
        for percent in [10, 30, 50, 70, 90, 97] {
            let cut = &bytes[..bytes.len() * percent / 100];
            assert!(matches!(error(cut), DecodeError::Truncated { .. }), "file {index} at {percent} %");
        }
    }
    assert!(matches!(error(&files[0][..files[0].len() - 2]), DecodeError::Truncated { .. }), "no end marker");
}

fn samples() -> Vec<Vec<u8>> {
    let image = picture(24, 17);
    let dynamic = DynamicImage::from(image.clone());
    vec![
        oriented(&jpeg_bytes(&image), 6),
        encoded(&dynamic, ImageFormat::Png),
        encoded(&dynamic, ImageFormat::WebP),
        b"RIFF\x24\0\0\0WEBPVP8 ".to_vec(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_never_panic(
        sample in 0..4usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        keep in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = samples().swap_remove(sample);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(keep) = keep {
            bytes.truncate(keep.index(bytes.len()));
        }
        // A picture, or an error; a picture within the limits.
        if let Ok(image) = decode(&bytes, &LIMITS) {
            prop_assert!(u64::from(image.width()) * u64::from(image.height()) <= LIMITS.max_pixels);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, &LIMITS);
        let _ = jpeg::Header::read(&bytes);
    }
}

#[test]
fn pixels_are_told_from_the_header_alone() {
    let image = picture(70, 31);
    let dynamic = DynamicImage::from(image.clone());
    for bytes in [
        jpeg_bytes(&image),
        encoded(&dynamic, ImageFormat::Png),
        encoded(&dynamic, ImageFormat::WebP),
        oriented(&jpeg_bytes(&image), 6),
    ] {
        assert_eq!(stated_pixels(&bytes), Some(70 * 31));
        for cut in 0..bytes.len().min(600) {
            // Nothing but the picture's size or no answer, whatever is left of it.
            assert!(stated_pixels(&bytes[..cut]).is_none_or(|pixels| pixels == 70 * 31), "{cut} bytes");
        }
    }
    assert_eq!(stated_pixels(b""), None);
    assert_eq!(stated_pixels(b"GIF89a"), None);
}
