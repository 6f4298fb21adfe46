//! The bilinear resizing of Pillow, bit for bit: the networks of MTCNN see pictures scaled by it, and where their
//! thresholds lie depends on it.
//!
//! It is an antialiasing filter: a triangle over all source pixels of a target pixel, twice as wide as the scale where
//! the picture shrinks and two pixels wide where it grows. Rows are done before columns, with 8-bit values in between.
//! Coefficients are whole numbers in units of 2^-22, rounded half away from zero after they were made to sum to 1. So no
//! sum overflows: it is at most 255 times one, and a little. The loops wrap all the same, for a check in each step would
//! keep them from being done in registers.

use std::ops::Range;

use image::RgbImage;
use rayon::prelude::*;

use super::abreast::Abreast;
use crate::kernel::isa::Isa;
use crate::kernel::plain::{Plain, plainly};

/// Bits after the point of a coefficient.
const PRECISION: u32 = 32 - 8 - 2;
/// One half, which every sum starts with.
pub(super) const HALF: i32 = 1 << (PRECISION - 1);
/// Values of a pixel.
pub(super) const CHANNELS: usize = 3;
/// Pixels whose products are summed side by side.
const ABREAST: usize = 8;

/// Which source pixels make each target pixel along one axis, and with which weights.
#[derive(Debug)]
pub(super) struct Axis {
    /// First source pixel, and where its weight and its followers' are, for each target pixel.
    pub(super) taps: Vec<(usize, Range<usize>)>,
    pub(super) weights: Vec<i32>,
}

impl Axis {
    fn new(source: usize, target: usize) -> Self {
        let scale = source as f64 / target as f64;
        let support = scale.max(1.0);
        let (mut taps, mut weights) = (Vec::with_capacity(target), Vec::new());
        for at in 0..target {
            let centre = (at as f64 + 0.5) * scale;
            // Both ends are cut off towards zero, after rounding.
            let first = ((centre - support + 0.5) as i64).max(0) as usize;
            let end = ((centre + support + 0.5) as usize).min(source);
            let triangle = |pixel: usize| {
                let distance = ((pixel as f64 - centre + 0.5) * (1.0 / support)).abs();
                if distance < 1.0 { 1.0 - distance } else { 0.0 }
            };
            let shares: Vec<f64> = (first..end).map(triangle).collect();
            let sum: f64 = shares.iter().sum();
            let start = weights.len();
            weights.extend(shares.iter().map(|share| {
                let share = if sum == 0.0 { *share } else { share / sum };
                (0.5 + share * f64::from(1 << PRECISION)) as i32
            }));
            taps.push((first, start..weights.len()));
        }
        Self { taps, weights }
    }

    /// The source pixels that a range of target pixels needs.
    fn sources(&self, targets: &Range<usize>) -> Range<usize> {
        let taps = &self.taps[targets.clone()];
        let first = taps.first().map_or(0, |(first, _)| *first);
        let end = taps.last().map_or(0, |(first, weights)| first + weights.len());
        first..end
    }
}

/// A rectangle in the coordinates of a photo. It may reach beyond it; there, everything is black.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// Left edge.
    pub(crate) left: i64,
    /// Top edge.
    pub(crate) top: i64,
    /// Pixels in a row, at least 1.
    pub(crate) width: usize,
    /// Rows, at least 1.
    pub(crate) height: usize,
}

/// A picture at another size.
#[derive(Debug)]
pub(crate) struct Scaled<'a> {
    source: Source<'a>,
    width: usize,
    columns: Axis,
    rows: Axis,
}

/// What is scaled.
#[derive(Debug, Clone, Copy)]
enum Source<'a> {
    Whole(&'a Abreast),
    Window(&'a RgbImage, Window),
}

impl<'a> Scaled<'a> {
    /// A whole photo at `width` by `height`.
    pub(crate) fn whole(photo: &'a Abreast, width: usize, height: usize) -> Self {
        let (columns, rows) = (Axis::new(photo.width(), width), Axis::new(photo.height(), height));
        Self { source: Source::Whole(photo), width, columns, rows }
    }

    /// A window of a photo at `width` by `height`.
    pub(crate) fn window(photo: &'a RgbImage, window: Window, width: usize, height: usize) -> Self {
        let (columns, rows) = (Axis::new(window.width, width), Axis::new(window.height, height));
        Self { source: Source::Window(photo, window), width, columns, rows }
    }

    /// The given rows of the result, (rows, width, 3).
    pub(crate) fn rows(&self, range: Range<usize>) -> Vec<u8> {
        let isa = Isa::current();
        let sources = self.rows.sources(&range);
        let line = self.width * CHANNELS;
        let (narrow, start) = match self.source {
            Source::Whole(photo) => photo.narrowed(&self.columns, &sources),
            Source::Window(photo, window) => {
                let mut narrow = vec![0u8; sources.len() * line];
                for (out, row) in narrow.chunks_mut(line.max(1)).zip(sources.clone()) {
                    if let Some((row, first)) = window.inside(photo, row) {
                        plainly(isa, Across { axis: &self.columns, row, first, out });
                    }
                }
                (narrow, sources.start)
            }
        };
        let mut output = vec![0u8; range.len() * line];
        output.par_chunks_mut(line.max(1)).zip(range).with_min_len(32).for_each_init(Vec::new, |sums, (out, row)| {
            let (first, weights) = &self.rows.taps[row];
            let lines = &narrow[(first - start) * line..][..weights.len() * line];
            plainly(isa, Down { weights: &self.rows.weights[weights.clone()], lines, sums, out });
        });
        output
    }
}

impl Window {
    /// The part of a row of the window that lies in the photo, and where in the window it begins.
    fn inside(self, photo: &RgbImage, row: usize) -> Option<(&[u8], usize)> {
        let Self { left, top, width, .. } = self;
        let row = usize::try_from(top + row as i64).ok().filter(|row| *row < photo.height() as usize)?;
        let across = photo.width() as usize;
        let start = usize::try_from(left.max(0)).ok()?.min(across);
        let end = usize::try_from((left + width as i64).max(0)).ok()?.min(across);
        let line = &photo.as_raw()[row * across * CHANNELS..][..across * CHANNELS];
        (start < end).then(|| (&line[start * CHANNELS..end * CHANNELS], (start as i64 - left) as usize))
    }
}

/// Sums to bytes.
#[inline(always)]
pub(super) fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// Scales one row. `row` holds the pixels from `first` on; the others are black.
struct Across<'a> {
    axis: &'a Axis,
    row: &'a [u8],
    first: usize,
    out: &'a mut [u8],
}

impl Plain for Across<'_> {
    #[inline(always)]
    fn run(self) {
        let pixels = self.row.len() / CHANNELS;
        for (out, (tap, weights)) in self.out.chunks_exact_mut(CHANNELS).zip(&self.axis.taps) {
            let weights = &self.axis.weights[weights.clone()];
            // The taps that fall onto the row.
            let start = self.first.saturating_sub(*tap).min(weights.len());
            let end = (self.first + pixels).saturating_sub(*tap).min(weights.len()).max(start);
            let weights = &weights[start..end];
            let from = (tap + start).saturating_sub(self.first).min(pixels);
            let row = &self.row[from * CHANNELS..(from + weights.len()) * CHANNELS];
            let mut sums = [HALF; CHANNELS];
            let whole = weights.len() / ABREAST * ABREAST;
            if whole > 0 {
                let mut abreast = [[0i32; ABREAST]; CHANNELS];
                let blocks = row[..whole * CHANNELS].chunks_exact(ABREAST * CHANNELS);
                for (pixels, weights) in blocks.zip(weights[..whole].chunks_exact(ABREAST)) {
                    for (lane, weight) in weights.iter().enumerate() {
                        for channel in 0..CHANNELS {
                            let product = i32::from(pixels[lane * CHANNELS + channel]).wrapping_mul(*weight);
                            abreast[channel][lane] = abreast[channel][lane].wrapping_add(product);
                        }
                    }
                }
                for (sum, abreast) in sums.iter_mut().zip(abreast) {
                    *sum += abreast.iter().sum::<i32>();
                }
            }
            for (pixel, weight) in row[whole * CHANNELS..].chunks_exact(CHANNELS).zip(&weights[whole..]) {
                for (sum, value) in sums.iter_mut().zip(pixel) {
                    *sum = sum.wrapping_add(i32::from(*value).wrapping_mul(*weight));
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = byte(sum);
            }
        }
    }
}

/// Sums rows with one weight each.
struct Down<'a> {
    weights: &'a [i32],
    lines: &'a [u8],
    sums: &'a mut Vec<i32>,
    out: &'a mut [u8],
}

impl Plain for Down<'_> {
    #[inline(always)]
    fn run(self) {
        self.sums.clear();
        self.sums.resize(self.out.len(), HALF);
        for (line, weight) in self.lines.chunks_exact(self.out.len()).zip(self.weights) {
            for (sum, value) in self.sums.iter_mut().zip(line) {
                *sum = sum.wrapping_add(i32::from(*value).wrapping_mul(*weight));
            }
        }
        for (out, sum) in self.out.iter_mut().zip(self.sums.iter()) {
            *out = byte(*sum);
        }
    }
}
