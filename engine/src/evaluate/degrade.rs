//! Aligned crops made worse, as distance, motion, poor light, masks and compression make them.
//!
//! A degradation is a list of steps, each with a range; where in the range a crop falls is drawn from the generator given.
//! The crop stays 112×112 pixels and aligned: what is measured is the loss of detail, not that of detection.

use std::io::Cursor;

use image::codecs::jpeg::{JpegDecoder, JpegEncoder};
use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageError, Rgb, RgbImage};

use crate::align::{AlignedCrop, SIZE};
use crate::random::Random;

/// How a crop is made small and large again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resampling {
    /// Down by the mean over the area of each pixel, as a sensor sums light; up bilinearly.
    Area,
    /// Down and up by Catmull-Rom, as photo software resizes.
    Bicubic,
}

/// One thing that is done to a crop. Ranges include both ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// Shrinks the crop to a side in pixels and enlarges it again.
    Shrink {
        /// Least side, at least 1.
        least: u32,
        /// Largest side, at most 112.
        most: u32,
        /// How.
        by: Resampling,
    },
    /// Gaussian blur; standard deviation in pixels of the crop.
    Blur {
        /// Least.
        least: f64,
        /// Largest.
        most: f64,
    },
    /// Gaussian noise, independent for each pixel and channel; standard deviation in grey levels.
    Noise {
        /// Least.
        least: f64,
        /// Largest.
        most: f64,
    },
    /// A rectangle of one random grey at a random place.
    Cover {
        /// Least share of the crop's area.
        least: f64,
        /// Largest share, below 1.
        most: f64,
    },
    /// JPEG and back.
    Jpeg {
        /// Least quality, 1 to 100.
        least: u8,
        /// Highest quality.
        most: u8,
    },
}

/// A named list of steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Degradation {
    /// Its name in commands and answers.
    pub name: &'static str,
    /// What it does, for people.
    pub about: &'static str,
    /// In the order they are done.
    pub steps: &'static [Step],
}

/// The degradations that have a name.
pub const PRESETS: [Degradation; 9] = [
    Degradation {
        name: "small",
        about: "14 to 28 px, area averaged",
        steps: &[Step::Shrink { least: 14, most: 28, by: Resampling::Area }],
    },
    Degradation {
        name: "small_bicubic",
        about: "14 to 28 px, bicubic",
        steps: &[Step::Shrink { least: 14, most: 28, by: Resampling::Bicubic }],
    },
    Degradation {
        name: "tiny",
        about: "14 px, area averaged",
        steps: &[Step::Shrink { least: 14, most: 14, by: Resampling::Area }],
    },
    Degradation {
        name: "mixed",
        about: "14 to 112 px, area averaged",
        steps: &[Step::Shrink { least: 14, most: SIZE, by: Resampling::Area }],
    },
    Degradation { name: "blur", about: "blur of 1 to 4 px", steps: &[Step::Blur { least: 1.0, most: 4.0 }] },
    Degradation { name: "noise", about: "noise of 10 to 50 levels", steps: &[Step::Noise { least: 10.0, most: 50.0 }] },
    Degradation { name: "cover", about: "15 to 40 % covered", steps: &[Step::Cover { least: 0.15, most: 0.4 }] },
    Degradation { name: "jpeg", about: "JPEG of quality 3 to 15", steps: &[Step::Jpeg { least: 3, most: 15 }] },
    Degradation {
        name: "camera",
        about: "blur to 2.5 px, 14 to 28 px, noise to 8 levels, JPEG of quality 15 to 60",
        steps: &[
            Step::Blur { least: 0.0, most: 2.5 },
            Step::Shrink { least: 14, most: 28, by: Resampling::Area },
            Step::Noise { least: 0.0, most: 8.0 },
            Step::Jpeg { least: 15, most: 60 },
        ],
    },
];

/// A crop that could not go through JPEG.
#[derive(Debug, thiserror::Error)]
#[error("the crop could not be compressed: {0}")]
pub struct DegradeError(#[from] ImageError);

impl Degradation {
    /// The preset of a name.
    pub fn named(name: &str) -> Option<Self> {
        PRESETS.into_iter().find(|preset| preset.name == name)
    }

    /// The crop made worse. The same generator gives the same pixels.
    pub fn apply(&self, crop: &AlignedCrop, random: &mut Random) -> Result<AlignedCrop, DegradeError> {
        let mut picture = crop.image().clone();
        for step in self.steps {
            picture = step.apply(picture, random)?;
        }
        Ok(crop.edited(|pixels| *pixels = picture))
    }
}

impl Step {
    fn apply(&self, mut picture: RgbImage, random: &mut Random) -> Result<RgbImage, DegradeError> {
        match *self {
            Self::Shrink { least, most, by } => {
                let side = least + random.below((most.saturating_sub(least) + 1) as usize) as u32;
                return Ok(shrink(&picture, side.clamp(1, SIZE), by));
            }
            Self::Blur { least, most } => {
                let sigma = random.uniform(least, most) as f32;
                // Below a tenth of a pixel nothing would change, and zero is refused.
                return Ok(if sigma < 0.1 { picture } else { imageops::blur(&picture, sigma) });
            }
            Self::Noise { least, most } => {
                let sigma = random.uniform(least, most);
                for value in picture.iter_mut() {
                    *value = (f64::from(*value) + sigma * random.normal()).round().clamp(0.0, 255.0) as u8;
                }
            }
            Self::Cover { least, most } => cover(&mut picture, random.uniform(least, most), random),
            Self::Jpeg { least, most } => {
                let quality = least + random.below(usize::from(most.saturating_sub(least)) + 1) as u8;
                let mut bytes = Vec::new();
                JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(&picture)?;
                return Ok(DynamicImage::from_decoder(JpegDecoder::new(Cursor::new(bytes))?)?.into_rgb8());
            }
        }
        Ok(picture)
    }
}

fn shrink(picture: &RgbImage, side: u32, by: Resampling) -> RgbImage {
    match by {
        Resampling::Area => imageops::resize(&area(picture, side), SIZE, SIZE, FilterType::Triangle),
        Resampling::Bicubic => {
            let small = imageops::resize(picture, side, side, FilterType::CatmullRom);
            imageops::resize(&small, SIZE, SIZE, FilterType::CatmullRom)
        }
    }
}

/// Each pixel of the small picture is the mean over the area it covers, with parts of pixels.
fn area(picture: &RgbImage, side: u32) -> RgbImage {
    let scale = f64::from(SIZE) / f64::from(side);
    // First pixel and the covered part of each pixel from there on.
    let spans: Vec<(u32, Vec<f64>)> = (0..side)
        .map(|i| {
            let (from, to) = (f64::from(i) * scale, (f64::from(i + 1) * scale).min(f64::from(SIZE)));
            let first = from as u32;
            let last = (to.ceil() as u32).min(SIZE);
            let part = |p: u32| (to.min(f64::from(p + 1)) - from.max(f64::from(p))).max(0.0);
            (first, (first..last).map(part).collect())
        })
        .collect();
    RgbImage::from_fn(side, side, |x, y| {
        let ((left, across), (top, down)) = (&spans[x as usize], &spans[y as usize]);
        let mut sum = [0f64; 3];
        for (row, height) in (*top..).zip(down) {
            for (column, width) in (*left..).zip(across) {
                let pixel = picture.get_pixel(column, row).0;
                for (sum, value) in sum.iter_mut().zip(pixel) {
                    *sum += height * width * f64::from(value);
                }
            }
        }
        Rgb(sum.map(|value| (value / (scale * scale)).round().clamp(0.0, 255.0) as u8))
    })
}

fn cover(picture: &mut RgbImage, share: f64, random: &mut Random) {
    let whole = f64::from(SIZE);
    // Between twice as wide as high and twice as high as wide, and never larger than the crop.
    let stretch = random.uniform(-0.5, 0.5).exp2();
    let width = (whole * share.sqrt() * stretch).round().clamp(1.0, whole) as u32;
    let height = (whole * share.sqrt() / stretch).round().clamp(1.0, whole) as u32;
    let (left, top) = (random.below((SIZE - width + 1) as usize), random.below((SIZE - height + 1) as usize));
    let grey = random.below(256) as u8;
    for y in top as u32..top as u32 + height {
        for x in left as u32..left as u32 + width {
            picture.put_pixel(x, y, Rgb([grey; 3]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> AlignedCrop {
        let pixel = |x: u32, y: u32| Rgb([(2 * x) as u8, (2 * y) as u8, ((x * y) % 251) as u8]);
        AlignedCrop::new(RgbImage::from_fn(SIZE, SIZE, pixel)).unwrap()
    }

    fn contrast(crop: &AlignedCrop) -> f64 {
        let rows = crop.image();
        let step = |x: u32, y: u32| f64::from(rows.get_pixel(x, y).0[2].abs_diff(rows.get_pixel(x + 1, y).0[2]));
        (0..SIZE).flat_map(|y| (0..SIZE - 1).map(move |x| (x, y))).map(|(x, y)| step(x, y)).sum::<f64>() / 12_432.0
    }

    #[test]
    fn every_degradation_is_the_same_for_a_seed_and_changes_something() {
        let crop = ramp();
        for preset in PRESETS {
            let apply = |seed| preset.apply(&crop, &mut Random::new(seed)).unwrap();
            assert!(apply(3) == apply(3), "{}", preset.name);
            assert!(apply(3) != crop, "{}", preset.name);
            assert_eq!(Degradation::named(preset.name), Some(preset));
        }
        assert_eq!(Degradation::named("rain"), None);
    }

    #[test]
    fn small_crops_lose_detail_and_keep_their_mean() {
        let crop = ramp();
        let tiny = Degradation::named("tiny").unwrap().apply(&crop, &mut Random::new(0)).unwrap();
        assert!(contrast(&tiny) < contrast(&crop) / 4.0, "{} {}", contrast(&tiny), contrast(&crop));
        let mean = |crop: &AlignedCrop| crop.image().iter().map(|v| f64::from(*v)).sum::<f64>() / 37_632.0;
        assert!((mean(&tiny) - mean(&crop)).abs() < 1.0);
    }

    #[test]
    fn area_is_the_mean_over_each_pixels_area() {
        let columns = RgbImage::from_fn(SIZE, SIZE, |x, _| Rgb([if x % 8 < 2 { 200 } else { 0 }; 3]));
        // 14 px: eight columns each, two of them lit. 64 px: 1.75 columns each; the second one holds a quarter of the
        // second lit column.
        assert!(area(&columns, 14).pixels().all(|pixel| pixel.0 == [50; 3]));
        let row: Vec<u8> = (0..3).map(|x| area(&columns, 64).get_pixel(x, 0).0[0]).collect();
        assert_eq!(row, [200, 29, 0]);
    }

    #[test]
    fn a_cover_has_its_share_of_the_area() {
        let mut picture = RgbImage::new(SIZE, SIZE);
        let white = RgbImage::from_pixel(SIZE, SIZE, Rgb([1, 2, 3]));
        picture.clone_from(&white);
        cover(&mut picture, 0.25, &mut Random::new(5));
        let covered = picture.pixels().zip(white.pixels()).filter(|(a, b)| a != b).count();
        assert!((2_900..3_400).contains(&covered), "{covered}");
    }
}
