//! Alignment as the AdaFace repository publishes it, for whoever must reproduce its crops exactly.
//!
//! Two things differ from [`super::align`]. The similarity is fitted from the reference to the photo and then inverted,
//! so that distances count in the photo's pixels. And it may mirror: the published code compares the ordinary fit with a
//! mirrored one, but by then it has negated the reference's x coordinates in place, so both are measured against the
//! mirrored reference. For faces from the front the ordinary fit still wins; profiles come out mirrored.
//!
//! The crop is sampled as OpenCV's `warpAffine` does: source positions in steps of 1/32 pixel, whole-number weights.

use image::RgbImage;

use super::{AlignError, AlignedCrop, REFERENCE, SIZE, Similarity};
use crate::face::Landmarks;

/// Bits after the point of a source position before it is rounded, and after.
const FINE_BITS: u32 = 10;
const COARSE_BITS: u32 = 5;

/// The published transform from photo to crop: (x, y) -> (m00 x + m01 y + m02, m10 x + m11 y + m12). Its determinant is
/// negative where the crop is mirrored.
pub fn compat_transform(landmarks: &Landmarks) -> Result<[[f64; 3]; 2], AlignError> {
    let mirrored = REFERENCE.map(|[x, y]| [-x, y]);
    let ordinary = matrix(Similarity::fit(&REFERENCE, &landmarks.0)?.inverse());
    // A mirrored fit that does not exist cannot be better.
    let Ok(other) = Similarity::fit(&mirrored, &landmarks.0) else { return Ok(ordinary) };
    let mut other = matrix(other.inverse());
    other[0] = other[0].map(|value| -value);
    let error = |matrix: &[[f64; 3]; 2]| {
        let squares = landmarks.0.iter().zip(&mirrored).map(|(point, target)| {
            let point = point.map(f64::from);
            let [x, y] = matrix.map(|row| row[0] * point[0] + row[1] * point[1] + row[2]);
            (x - f64::from(target[0])).powi(2) + (y - f64::from(target[1])).powi(2)
        });
        squares.sum::<f64>()
    };
    Ok(if error(&ordinary) <= error(&other) { ordinary } else { other })
}

fn matrix(Similarity { a, b, tx, ty }: Similarity) -> [[f64; 3]; 2] {
    [[a, -b, tx], [b, a, ty]]
}

/// Cuts the crop of the face with these landmarks out of a photo, as published.
pub fn align_compat(photo: &RgbImage, landmarks: &Landmarks) -> Result<AlignedCrop, AlignError> {
    let [[a, b, c], [d, e, f]] = compat_transform(landmarks)?;
    let scale = 1.0 / (a * e - b * d);
    let (a, b, d, e) = (e * scale, -b * scale, -d * scale, a * scale);
    let (c, f) = (-a * c - b * f, -d * c - e * f);
    let fine = |value: f64| (value * f64::from(1 << FINE_BITS)).round_ties_even() as i64;
    let half = 1 << (FINE_BITS - COARSE_BITS - 1);
    let crop = RgbImage::from_fn(SIZE, SIZE, |column, row| {
        let (column, row) = (f64::from(column), f64::from(row));
        let position = |along: f64, across: f64, shift: f64| {
            (fine(across * row + shift).saturating_add(half).saturating_add(fine(along * column)))
                >> (FINE_BITS - COARSE_BITS)
        };
        image::Rgb(sample(photo, position(a, b, c), position(d, e, f)))
    });
    AlignedCrop::new(crop)
}

/// The pixel at a position in 1/32 pixels, black outside of the photo.
fn sample(photo: &RgbImage, x: i64, y: i64) -> [u8; 3] {
    let one = 1i64 << COARSE_BITS;
    let (left, top) = (x >> COARSE_BITS, y >> COARSE_BITS);
    let (fx, fy) = (x & (one - 1), y & (one - 1));
    let mut sums = [1i64 << (2 * COARSE_BITS - 1); 3];
    for (dx, dy, weight) in
        [(0, 0, (one - fx) * (one - fy)), (1, 0, fx * (one - fy)), (0, 1, (one - fx) * fy), (1, 1, fx * fy)]
    {
        let (Ok(x), Ok(y)) = (u32::try_from(left + dx), u32::try_from(top + dy)) else { continue };
        if let Some(pixel) = photo.get_pixel_checked(x, y) {
            for (sum, value) in sums.iter_mut().zip(pixel.0) {
                *sum += weight * i64::from(value);
            }
        }
    }
    sums.map(|sum| (sum >> (2 * COARSE_BITS)) as u8)
}
