//! Resizing as OpenCV does it, to the bit, since networks are compared that were trained on its results.
//!
//! Only [`Interpolation::Area`] takes a mean where a picture becomes smaller. The others look at 1, 4, 16 or 64 pixels
//! around a place whatever the reduction, which leaves aliases; that is part of the augmentation.
//!
//! The arithmetic is that of OpenCV 4 for 8 bits (`modules/imgproc/src/resize.cpp`): weights of 11 bits, sums in whole
//! numbers, one rounding at the end; area in `f32`. One oddity is kept: for cubic interpolation its vector code rounds
//! an `f32` to the nearest even number, eight values at a time, and the rest of a row in fixed point.

mod area;
mod taps;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

/// How values between pixels are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The nearest pixel to the upper left.
    Nearest,
    /// Linearly between 2×2 pixels.
    Linear,
    /// The mean over the area of the new pixel; where the picture grows, a linear interpolation with sharper steps.
    Area,
    /// Cubic convolution of 4×4 pixels, a = −0.75 (Keys 1981).
    Cubic,
    /// Windowed sinc of 8×8 pixels (Lanczos).
    Lanczos4,
}

impl Interpolation {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Nearest, Self::Linear, Self::Area, Self::Cubic, Self::Lanczos4];
}

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Size {
    /// As wide as high.
    pub fn square(side: usize) -> Self {
        Self { width: side, height: side }
    }

    fn bytes(self) -> usize {
        self.width * self.height * CHANNELS
    }
}

/// Values of a pixel.
const CHANNELS: usize = 3;

/// One side before and after.
#[derive(Debug, Clone, Copy)]
struct Side {
    from: usize,
    to: usize,
    /// New pixels for each old one.
    inverse: f64,
    /// Old pixels for each new one.
    scale: f64,
}

impl Side {
    fn new(from: usize, to: usize) -> Self {
        let inverse = to as f64 / from as f64;
        Self { from, to, inverse, scale: 1.0 / inverse }
    }

    /// The scale where it is a whole number.
    fn whole(self) -> Option<usize> {
        let whole = self.scale.round_ties_even();
        ((self.scale - whole).abs() < f64::EPSILON).then_some(whole as usize)
    }
}

/// Resizes a picture of three 8-bit channels, row by row and pixel by pixel.
///
/// # Panics
/// If `pixels` are not as many as `from` says, or a side is 0.
pub fn resize(pixels: &[u8], from: Size, to: Size, interpolation: Interpolation) -> Vec<u8> {
    assert_eq!(pixels.len(), from.bytes(), "bytes of the picture");
    assert!(from.bytes() > 0 && to.bytes() > 0, "sides of the picture");
    if from == to {
        return pixels.to_vec();
    }
    let (x, y) = (Side::new(from.width, to.width), Side::new(from.height, to.height));
    let shrinks = x.scale >= 1.0 && y.scale >= 1.0;
    let whole = x.whole().zip(y.whole()).filter(|_| shrinks);
    match (interpolation, whole) {
        (Interpolation::Nearest, _) => nearest(pixels, x, y),
        // Halving by four pixels around each place is the mean of four, and OpenCV takes that.
        (Interpolation::Linear, Some((2, 2))) => area::whole(pixels, x, y, (2, 2)),
        (Interpolation::Area, Some(scales)) => area::whole(pixels, x, y, scales),
        (Interpolation::Area, None) if shrinks => area::parts(pixels, x, y),
        _ => taps::resize(pixels, x, y, interpolation),
    }
}

fn nearest(pixels: &[u8], x: Side, y: Side) -> Vec<u8> {
    let place = |side: Side, to: usize| ((to as f64 * side.scale).floor() as usize).min(side.from - 1);
    let columns: Vec<usize> = (0..x.to).map(|to| CHANNELS * place(x, to)).collect();
    let mut out = Vec::with_capacity(x.to * y.to * CHANNELS);
    for to in 0..y.to {
        let row = &pixels[place(y, to) * x.from * CHANNELS..];
        columns.iter().for_each(|at| out.extend_from_slice(&row[*at..at + CHANNELS]));
    }
    out
}
