//! From the bytes of an upload to an upright RGB picture, and back to bytes for kept crops.
//!
//! Uploads are not trusted. The format is found by content (JPEG, PNG, WebP), never by name. Sizes are read from the
//! header and checked before anything is allocated for pixels. A picture that is not whole is refused: half a photo
//! would silently lack the faces of the other half. A panic inside of a decoder becomes [`DecodeError::Corrupt`].
//!
//! What comes out is upright (EXIF orientation applied), 8 bits, RGB. Grey becomes three equal channels, 16 bits are
//! rounded, transparency is laid over black, as everything outside of a photo counts as black in alignment. Of an
//! animation the first frame is taken. Colour profiles are ignored. JPEG with four components (CMYK, YCCK) is refused,
//! because such files do not say reliably whether their values are inverted.

pub mod jpeg;

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ::image::codecs::jpeg::JpegDecoder;
use ::image::codecs::png::{CompressionType, FilterType, PngDecoder, PngEncoder};
use ::image::codecs::webp::WebPDecoder;
use ::image::error::{ImageError, ImageFormatHint};
use ::image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageFormat, Limits, RgbImage};

/// The largest picture that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Most bytes of a file.
    pub max_bytes: usize,
    /// Most pixels, width times height.
    pub max_pixels: u64,
    /// Longest side in pixels.
    pub max_side: u32,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { max_bytes: 32 << 20, max_pixels: 50_000_000, max_side: 20_000 }
    }
}

/// Why there is no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No bytes.
    #[error("the image is empty")]
    Empty,
    /// Too large a file.
    #[error("the image has {bytes} bytes, the limit is {limit}")]
    TooManyBytes {
        /// Of the file.
        bytes: usize,
        /// Allowed.
        limit: usize,
    },
    /// Too large a picture.
    #[error("the image has {width}x{height} pixels, the limit is {limit} in all")]
    TooManyPixels {
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// Allowed pixels.
        limit: u64,
    },
    /// Too long a side.
    #[error("the image has {width}x{height} pixels, the limit is {limit} a side")]
    TooLong {
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// Allowed pixels a side.
        limit: u32,
    },
    /// Something that is an image perhaps, but none that is read here.
    #[error("unsupported image: {what}")]
    Unsupported {
        /// What it is.
        what: String,
    },
    /// No image at all.
    #[error("the bytes are neither JPEG nor PNG nor WebP nor another image")]
    NotAnImage,
    /// Cut off before its end.
    #[error("the image is cut short: {detail}")]
    Truncated {
        /// What is missing.
        detail: String,
    },
    /// Damaged.
    #[error("the image is damaged: {detail}")]
    Corrupt {
        /// What was found.
        detail: String,
    },
}

impl DecodeError {
    pub(crate) fn corrupt(detail: impl Into<String>) -> Self {
        Self::Corrupt { detail: detail.into() }
    }

    pub(crate) fn truncated(detail: impl Into<String>) -> Self {
        Self::Truncated { detail: detail.into() }
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }
}

/// Decodes an upload into an upright picture.
pub fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    if bytes.is_empty() {
        return Err(DecodeError::Empty);
    }
    if bytes.len() > limits.max_bytes {
        return Err(DecodeError::TooManyBytes { bytes: bytes.len(), limit: limits.max_bytes });
    }
    // The decoders only read and are dropped with the panic, so no broken state survives it.
    catch_unwind(AssertUnwindSafe(|| decode_bounded(bytes, limits)))
        .unwrap_or_else(|_| Err(DecodeError::corrupt("the decoder gave up")))
}

/// Pixels of a picture as its header states them, which costs nothing; `None` where there is no telling.
pub fn stated_pixels(bytes: &[u8]) -> Option<u64> {
    let read = || {
        let (width, height) = match ::image::guess_format(bytes).ok()? {
            ImageFormat::Jpeg => jpeg::Header::read(bytes).ok().map(|header| (header.width, header.height))?,
            ImageFormat::Png => png_size(bytes)?,
            ImageFormat::WebP => WebPDecoder::new(Cursor::new(bytes)).ok()?.dimensions(),
            _ => return None,
        };
        Some(u64::from(width) * u64::from(height))
    };
    // As in `decode`.
    catch_unwind(AssertUnwindSafe(read)).ok().flatten()
}

/// Width and height of a PNG picture, which stand at a fixed place.
fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let side = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    Some((side(16)?, side(20)?))
}

fn decode_bounded(bytes: &[u8], limits: &DecodeLimits) -> Result<RgbImage, DecodeError> {
    // Decoders count every allocation against this: pixels of up to 8 bytes and what they need to work.
    let max_alloc = limits.max_pixels.saturating_mul(8).saturating_add(64 << 20);
    let mut memory = Limits::no_limits();
    memory.max_alloc = Some(max_alloc);
    match ::image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => {
            let header = jpeg::Header::read(bytes)?;
            check_size(header.width, header.height, limits)?;
            header.check(bytes)?;
            jpeg::check_scans(bytes)?;
            read(JpegDecoder::new(Cursor::new(bytes)), memory, limits)
        }
        Ok(ImageFormat::Png) => {
            // The decoder would first unpack text and profiles.
            if let Some((width, height)) = png_size(bytes) {
                check_size(width, height, limits)?;
            }
            let picture = read(PngDecoder::with_limits(Cursor::new(bytes), memory.clone()), memory, limits);
            // A PNG file ends with a chunk of its own; one without it was cut, whatever the decoder stumbled over.
            let whole = bytes.windows(4).rev().any(|window| window == b"IEND");
            picture.map_err(|error| match error {
                DecodeError::Corrupt { detail } if !whole => DecodeError::Truncated { detail },
                error => error,
            })
        }
        Ok(ImageFormat::WebP) => {
            // The container states its length, apart from its first eight bytes.
            let stated = bytes.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
            if stated.is_none_or(|stated| bytes.len() < stated as usize + 8) {
                return Err(DecodeError::truncated("the WebP file is shorter than it says"));
            }
            read(WebPDecoder::new(Cursor::new(bytes)), memory, limits)
        }
        Ok(format) => Err(DecodeError::unsupported(format!("{format:?}"))),
        Err(_) => Err(DecodeError::NotAnImage),
    }
}

fn check_size(width: u32, height: u32, limits: &DecodeLimits) -> Result<(), DecodeError> {
    if width == 0 || height == 0 {
        Err(DecodeError::corrupt("a side of no pixels"))
    } else if u64::from(width) * u64::from(height) > limits.max_pixels {
        Err(DecodeError::TooManyPixels { width, height, limit: limits.max_pixels })
    } else if width.max(height) > limits.max_side {
        Err(DecodeError::TooLong { width, height, limit: limits.max_side })
    } else {
        Ok(())
    }
}

fn read<D: ImageDecoder>(
    decoder: Result<D, ImageError>,
    memory: Limits,
    limits: &DecodeLimits,
) -> Result<RgbImage, DecodeError> {
    let mut decoder = decoder.map_err(convert)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, limits)?;
    decoder.set_limits(memory).map_err(convert)?;
    // A broken EXIF block is no reason to refuse a photo that is whole.
    let orientation = decoder.orientation().ok();
    let mut image = DynamicImage::from_decoder(decoder).map_err(convert)?;
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    Ok(opaque(image))
}

/// 8-bit RGB, transparency over black.
fn opaque(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    let over_black = |value: u8, alpha: u8| ((u32::from(value) * u32::from(alpha) + 127) / 255) as u8;
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [red, green, blue, alpha] = rgba.get_pixel(x, y).0;
        ::image::Rgb([red, green, blue].map(|value| over_black(value, alpha)))
    })
}

fn convert(error: ImageError) -> DecodeError {
    match error {
        ImageError::Unsupported(error) => {
            let format = match error.format_hint() {
                ImageFormatHint::Exact(format) => format!("{format:?}: "),
                _ => String::new(),
            };
            DecodeError::unsupported(format!("{format}{error}"))
        }
        error if ends_early(&error) => DecodeError::truncated(error.to_string()),
        error => DecodeError::corrupt(error.to_string()),
    }
}

/// Whether a decoder wanted more bytes than there are.
fn ends_early(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::UnexpectedEof) || error.source().is_some_and(ends_early)
}

/// Why a picture cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("the picture cannot be written as PNG: {0}")]
pub struct EncodeError(#[from] ImageError);

/// Encodes a picture without loss, for crops that are kept. Fails only for pictures without pixels.
pub fn encode_png(image: &RgbImage) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = vec![];
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive).write_image(
        image.as_raw(),
        image.width(),
        image.height(),
        ExtendedColorType::Rgb8,
    )?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
