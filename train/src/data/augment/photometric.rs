//! Brightness, contrast and saturation as Pillow's `ImageEnhance` changes them: mixed with black, with the mean grey and
//! with the pixel's own grey, in 8 bits after each.

use crate::data::crop::Crop;

/// Black at 0, as it is at 1.
pub fn brightness(crop: &mut Crop, factor: f32) {
    crop.pixels_mut().iter_mut().for_each(|value| *value = blend(0, *value, factor));
}

/// Its mean grey at 0, as it is at 1.
pub fn contrast(crop: &mut Crop, factor: f32) {
    let pixels = crop.pixels().as_chunks::<3>().0;
    let sum: u64 = pixels.iter().map(|pixel| u64::from(grey(*pixel))).sum();
    let mean = (sum as f64 / pixels.len() as f64 + 0.5) as u8;
    crop.pixels_mut().iter_mut().for_each(|value| *value = blend(mean, *value, factor));
}

/// Grey at 0, as it is at 1.
pub fn saturation(crop: &mut Crop, factor: f32) {
    for pixel in crop.pixels_mut().as_chunks_mut::<3>().0 {
        let grey = grey(*pixel);
        pixel.iter_mut().for_each(|value| *value = blend(grey, *value, factor));
    }
}

/// ITU-R 601-2 luma in 16-bit fixed point, of the colours in the order that they stand in.
fn grey([first, second, third]: [u8; 3]) -> u8 {
    ((u32::from(first) * 19595 + u32::from(second) * 38470 + u32::from(third) * 7471 + 0x8000) >> 16) as u8
}

/// From `away` at factor 0 to `value` at 1 and beyond, cut off to whole numbers.
fn blend(away: u8, value: u8, factor: f32) -> u8 {
    // The cast cuts off, and what is outside of 8 bits becomes the nearest there.
    (f32::from(away) + factor * (f32::from(value) - f32::from(away))) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::reference::{digest, noise};

    /// `ImageEnhance.Brightness`, `Contrast` and `Color` of Pillow 13.0.0 on the same noise, taken for red, green, blue:
    /// the first pixel and a digest of all.
    #[test]
    #[rustfmt::skip]
    fn factors_do_what_they_do_in_pillow() {
        type Expected = ([u8; 3], u64);
        let expected: [(f32, [Expected; 3]); 5] = [
        (0.5, [([108, 45, 9], 0xc521_bfd1_42d2_dffb), ([172, 109, 73], 0xf0ca_6c07_170b_75fb), ([168, 105, 69], 0xc93f_3fd0_8c8f_8142)]),
        (0.77, [([166, 69, 14], 0x3200_1782_2829_9383), ([195, 98, 44], 0x2f82_10b8_94c9_eca2), ([193, 96, 42], 0x5bf8_8953_a0bb_bc5c)]),
        (1.0, [([216, 90, 19], 0x564d_cf73_1cca_2471), ([216, 90, 19], 0x564d_cf73_1cca_2471), ([216, 90, 19], 0x564d_cf73_1cca_2471)]),
        (1.234, [([255, 111, 23], 0xf628_d359_5862_84f1), ([236, 81, 0], 0x184f_eebe_3163_bb1b), ([238, 82, 0], 0xcc3a_dba0_edae_8357)]),
        (1.5, [([255, 135, 28], 0x5acc_6a33_d23d_75a6), ([255, 71, 0], 0x93a9_88fe_c552_10cd), ([255, 75, 0], 0xb7e7_36b8_914b_1148)]),
        ];
        for (factor, results) in expected {
            for (number, (step, (first, all))) in [brightness, contrast, saturation].into_iter().zip(results).enumerate() {
                let mut crop = Crop::from_bgr(noise(Crop::BYTES));
                step(&mut crop, factor);
                assert_eq!((&crop.pixels()[..3], digest(crop.pixels())), (&first[..], all), "step {number} by {factor}");
            }
        }
    }

    #[test]
    fn the_first_colour_weighs_as_red_does() {
        assert_eq!([grey([255, 0, 0]), grey([0, 255, 0]), grey([0, 0, 255]), grey([255; 3])], [76, 150, 29, 255]);
    }
}
