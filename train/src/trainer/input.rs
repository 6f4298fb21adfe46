//! From the loader's batches to what a network wants to see.

use vultus_engine::model::Color;
use vultus_engine::model::manifest::Input;

use crate::data::{Crop, SIDE};

/// Pixels of one colour of a crop.
const PLANE: usize = SIDE * SIDE;
/// Half of the range of a byte: loaders give (byte − this) / this.
const HALF: f32 = 127.5;

/// The bytes of a loader's values, which are exact.
fn byte(value: f32) -> f32 {
    (value * HALF + HALF).round()
}

/// Turns images (n, 3, 112, 112) of a loader, which are blue, green, red in −1 to 1, into those of a network.
pub(super) fn enter(images: &mut [f32], input: &Input) {
    if input.color == Color::Rgb {
        for image in images.chunks_exact_mut(3 * PLANE) {
            let (blue, rest) = image.split_at_mut(PLANE);
            blue.swap_with_slice(&mut rest[PLANE..]);
        }
    }
    if (input.mean, input.scale) != (HALF, 1.0 / HALF) {
        images.iter_mut().for_each(|value| *value = (byte(*value) - input.mean) * input.scale);
    }
}

/// A crop as a network wants it, (3, 112, 112).
pub(super) fn of_crop(crop: &Crop, input: &Input, out: &mut Vec<f32>) {
    let start = out.len();
    crop.normalise_into(out);
    enter(&mut out[start..], input);
}

/// The crops that images (n, 3, 112, 112) of a loader were made from, after augmentation.
pub(super) fn crops(images: &[f32]) -> Vec<Crop> {
    let crop = |image: &[f32]| {
        let pixel = |at: usize| [0, 1, 2].map(|colour| byte(image[colour * PLANE + at]) as u8);
        Crop::from_bgr((0..PLANE).flat_map(pixel).collect())
    };
    images.chunks_exact(3 * PLANE).map(crop).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vultus_engine::model::Architecture;

    #[test]
    fn bytes_come_back_and_colours_change_places() {
        let pixels: Vec<u8> = (0..Crop::BYTES).map(|at| (at * 7 + at / 336) as u8).collect();
        let crop = Crop::from_bgr(pixels);
        let mut loaded = Vec::new();
        crop.normalise_into(&mut loaded);
        assert_eq!(crops(&loaded), std::slice::from_ref(&crop));
        let mut same = loaded.clone();
        enter(&mut same, &Architecture::Ir18.default_input());
        assert_eq!(same, loaded);
        let mut other = Vec::new();
        of_crop(&crop, &Architecture::Mobilefacenet.default_input(), &mut other);
        for at in [0, 1, 5000, PLANE - 1] {
            for colour in 0..3 {
                let byte = f32::from(crop.pixels()[3 * at + 2 - colour]);
                assert_eq!(other[colour * PLANE + at], (byte - 127.5) / 128.0);
            }
        }
    }
}
