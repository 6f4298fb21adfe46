//! Drawn photos with one face each, for measuring where no photos are at hand: soft ellipses that detectors take for a face,
//! and noise, so that the files are as large as those of photos.

use anyhow::Context;
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use vultus_engine::random::Random;

/// Side of a photo in pixels, that of the photos of LFW.
const SIDE: u32 = 250;
const QUALITY: u8 = 92;

type Colour = [f64; 3];

/// A soft ellipse, in pixels of an upright face of usual size.
struct Ellipse {
    at: [f64; 2],
    radii: [f64; 2],
    colour: Colour,
    /// Share of the squared radius over which the edge fades.
    soft: f64,
    opacity: f64,
}

/// A photo of its own for each seed, as a JPEG file.
pub(super) fn photo(seed: u64) -> anyhow::Result<Vec<u8>> {
    let picture = picture(seed);
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, QUALITY).encode_image(&picture).context("a photo cannot be drawn")?;
    Ok(file)
}

fn picture(seed: u64) -> RgbImage {
    let mut random = Random::named(seed, "drawn face");
    let middle = f64::from(SIDE) / 2.0;
    let centre = [0; 2].map(|_: i32| middle + random.uniform(-12.0, 12.0));
    let scale = random.uniform(0.85, 1.15);
    let tone = random.uniform(0.75, 1.1);
    let ellipses = face([205.0, 160.0, 135.0].map(|value| value * tone));
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let (x, y) = (f64::from(x), f64::from(y));
        let side = f64::from(SIDE);
        let mut pixel = [90.0 + 40.0 * x / side, 110.0 + 30.0 * y / side, 140.0 - 20.0 * x / side];
        for ellipse in &ellipses {
            let [dx, dy] = [0, 1].map(|axis| {
                let offset = [x, y][axis] - centre[axis] - ellipse.at[axis] * scale;
                (offset / (ellipse.radii[axis] * scale)).powi(2)
            });
            let cover = ((1.0 - dx - dy) / ellipse.soft + 0.5).clamp(0.0, 1.0) * ellipse.opacity;
            for (value, colour) in pixel.iter_mut().zip(ellipse.colour) {
                *value += cover * (colour - *value);
            }
        }
        Rgb(pixel.map(|value| (value + 5.0 * random.normal()).clamp(0.0, 255.0) as u8))
    })
}

/// Hair, shoulders, neck, head and what is in it, each over the ones before.
fn face(skin: Colour) -> Vec<Ellipse> {
    let shade = |factor: f64| skin.map(|value| value * factor);
    let ellipse = |x, y, radii, colour, soft, opacity| Ellipse { at: [x, y], radii, colour, soft, opacity };
    let solid = |x, y, radii, colour| ellipse(x, y, radii, colour, 0.25, 1.0);
    let hair = [50.0, 38.0, 30.0];
    let mut all = vec![
        solid(0.0, -10.0, [52.0, 66.0], hair),
        solid(0.0, 95.0, [70.0, 45.0], [60.0, 70.0, 110.0]),
        solid(0.0, 55.0, [20.0, 30.0], shade(0.72)),
        solid(0.0, 5.0, [43.0, 57.0], skin),
    ];
    for side in [-1.0, 1.0] {
        all.extend([
            ellipse(18.0 * side, -12.0, [11.0, 8.0], shade(0.72), 0.6, 0.6),
            solid(18.0 * side, -10.0, [8.0, 4.5], [240.0; 3]),
            solid(18.0 * side, -10.0, [4.0, 4.0], [40.0, 30.0, 25.0]),
            ellipse(18.0 * side, -21.0, [11.0, 2.5], hair, 0.5, 1.0),
            ellipse(4.0 * side, 16.0, [3.0, 2.2], shade(0.5), 0.6, 1.0),
        ]);
    }
    all.extend([
        ellipse(0.0, 4.0, [5.0, 16.0], shade(1.08), 1.0, 0.6),
        ellipse(0.0, 14.0, [8.0, 5.0], shade(0.9), 0.9, 0.6),
        ellipse(0.0, 31.0, [16.0, 5.0], [165.0, 80.0, 80.0], 0.5, 1.0),
        ellipse(0.0, 31.0, [13.0, 1.2], [90.0, 40.0, 40.0], 0.5, 1.0),
    ]);
    all
}

#[cfg(test)]
mod tests {
    use vultus_engine::detect::{DetectOptions, Detector, Detectors};
    use vultus_engine::image::{DecodeLimits, decode};

    use super::*;

    #[test]
    fn drawn_photos_have_one_face_each() {
        let detectors = Detectors::embedded(&vultus_engine::model::Device::Cpu).unwrap();
        for seed in 0..4 {
            let photo = decode(&photo(seed).unwrap(), &DecodeLimits::default()).unwrap();
            let faces = detectors.detect(&[&photo], &DetectOptions::default()).unwrap();
            assert_eq!(faces[0].len(), 1, "seed {seed}");
        }
        assert_eq!(photo(3).unwrap(), photo(3).unwrap());
        assert_ne!(photo(3).unwrap(), photo(4).unwrap());
    }
}
