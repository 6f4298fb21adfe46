//! One aligned crop as networks of the field see it.

use image::RgbImage;
use vultus_engine::align::SIZE;
use vultus_engine::image::{DecodeLimits, decode};

use super::DataError;

/// Side of a crop in pixels.
pub const SIDE: usize = SIZE as usize;

/// Files of crops are small; what is larger is none.
const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 32 << 20, max_pixels: 16_000_000, max_side: 4096 };

/// 112×112 pixels of 8 bits, row by row, each blue, green, red. Its debug form does not show the pixels.
#[derive(Clone, PartialEq, Eq)]
pub struct Crop(Vec<u8>);

impl std::fmt::Debug for Crop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Crop")
    }
}

impl Crop {
    /// Bytes of a crop.
    pub const BYTES: usize = SIDE * SIDE * 3;

    /// Takes pixels in the order of a crop.
    ///
    /// # Panics
    /// If there are not [`Self::BYTES`].
    pub fn from_bgr(pixels: Vec<u8>) -> Self {
        assert_eq!(pixels.len(), Self::BYTES, "bytes of a crop");
        Self(pixels)
    }

    /// Decodes a JPEG, PNG or WebP file of 112×112 pixels; `name` is for messages.
    ///
    /// # Errors
    /// [`DataError::Image`], [`DataError::WrongSize`].
    pub fn decode(bytes: &[u8], name: impl Fn() -> String) -> Result<Self, DataError> {
        let picture = decode_picture(bytes, &name)?;
        let (width, height) = picture.dimensions();
        if (width, height) != (SIZE, SIZE) {
            let wanted = "a crop has 112x112; `vultus-train prepare` resizes";
            return Err(DataError::WrongSize { name: name(), width, height, wanted });
        }
        Ok(Self(swapped(picture.into_raw())))
    }

    /// Its pixels.
    pub fn pixels(&self) -> &[u8] {
        &self.0
    }

    /// Its pixels, to be changed in place.
    pub fn pixels_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// The same as a picture with the usual order of colours.
    pub fn to_rgb(&self) -> RgbImage {
        RgbImage::from_raw(SIZE, SIZE, swapped(self.0.clone())).expect("bytes of a crop")
    }

    /// Appends the crop as a network's input, (3, 112, 112) in −1 to 1: (x / 255 − ½) / ½.
    pub fn normalise_into(&self, out: &mut Vec<f32>) {
        let table: [f32; 256] = std::array::from_fn(|value| (value as f32 / 255.0 - 0.5) / 0.5);
        out.reserve(Self::BYTES);
        for channel in 0..3 {
            out.extend(self.0.iter().skip(channel).step_by(3).map(|value| table[usize::from(*value)]));
        }
    }
}

/// Decodes a file of any size into a picture with the usual order of colours.
pub(super) fn decode_picture(bytes: &[u8], name: impl Fn() -> String) -> Result<RgbImage, DataError> {
    decode(bytes, &LIMITS).map_err(|source| DataError::Image { name: name(), source })
}

/// Turns the colours of each pixel round.
pub(super) fn swapped(mut pixels: Vec<u8>) -> Vec<u8> {
    pixels.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.reverse());
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;
    use vultus_engine::image::encode_png;

    #[test]
    fn blue_comes_first_and_values_are_from_minus_one_to_one() {
        let picture = RgbImage::from_fn(SIZE, SIZE, |x, y| Rgb([255, x as u8, y as u8]));
        let crop = Crop::decode(&encode_png(&picture).unwrap(), || "drawn".into()).unwrap();
        assert_eq!(crop.pixels()[..6], [0, 0, 255, 0, 1, 255]);
        assert_eq!(crop.to_rgb(), picture);
        let mut input = vec![];
        crop.normalise_into(&mut input);
        assert_eq!(input.len(), Crop::BYTES);
        let at = |channel: usize, y: usize, x: usize| input[(channel * SIDE + y) * SIDE + x];
        let expected = |value: f32| (value / 255.0 - 0.5) / 0.5;
        assert_eq!([at(0, 7, 9), at(1, 7, 9), at(2, 7, 9)], [expected(7.0), expected(9.0), 1.0]);
        assert_eq!(at(0, 0, 0), -1.0);
    }

    #[test]
    fn what_is_no_crop_is_refused_by_name() {
        let name = || "a/b.png".to_string();
        let small = encode_png(&RgbImage::new(111, 112)).unwrap();
        let message = Crop::decode(&small, name).unwrap_err().to_string();
        assert!(message.starts_with("a/b.png has 111x112 pixels"), "{message}");
        let message = Crop::decode(&small[..60], name).unwrap_err().to_string();
        assert!(message.starts_with("a/b.png: the image is cut short"), "{message}");
        assert!(Crop::decode(b"", name).unwrap_err().is_one_image());
    }
}
