//! Convolutions with one filter for each channel and their gradients, on maps with or without a frame.
//!
//! There is one product for each value that is read, so memory sets the pace; the loops over channels are left to the
//! compiler.

use rayon::prelude::*;

use super::Geometry;
use crate::kernel::isa::Isa;
use crate::kernel::map::{Map, Rows};
use crate::kernel::plain::{Plain, plainly};

/// A weight (C, 1, k, k) as k² rows of C values.
fn by_tap(geometry: &Geometry, weight: &[f32]) -> Vec<f32> {
    let (area, channels) = (geometry.kernel * geometry.kernel, geometry.output);
    let mut rows = vec![0f32; weight.len()];
    for (channel, taps) in weight.chunks_exact(area).enumerate() {
        taps.iter().enumerate().for_each(|(tap, value)| rows[tap * channels + channel] = *value);
    }
    rows
}

/// a * b added to sums, value by value.
#[inline(always)]
fn add_products(sums: &mut [f32], a: &[f32], b: &[f32]) {
    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
        *sum += a * b;
    }
}

/// Output rows of the forward pass, or input rows of the gradient: `to` is one row, number `row` of all images.
struct Row<'a> {
    geometry: &'a Geometry,
    from: Rows<'a>,
    /// Height and width of the map that is read.
    side: [usize; 2],
    weight: &'a [f32],
    image: usize,
    row: usize,
    to: &'a mut [f32],
    backwards: bool,
}

impl Plain for Row<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { geometry, from, side: [height, width], weight, image, row, to, backwards } = self;
        let Geometry { kernel, stride, padding: [before, _], output: channels, .. } = *geometry;
        to.fill(0.0);
        // Where a tap of a pixel reads, along one axis.
        let read = |at: usize, tap: usize, side: usize| {
            let read = if backwards {
                let far = (at + before).checked_sub(tap)?;
                if !far.is_multiple_of(stride) {
                    return None;
                }
                far / stride
            } else {
                (at * stride + tap).checked_sub(before)?
            };
            (read < side).then_some(read)
        };
        for ky in 0..kernel {
            let Some(y) = read(row, ky, height) else { continue };
            let line = from.row(image * height + y);
            for (column, to) in to.chunks_exact_mut(channels).enumerate() {
                for kx in 0..kernel {
                    if let Some(x) = read(column, kx, width) {
                        let taps = &weight[(ky * kernel + kx) * channels..][..channels];
                        add_products(to, &line[x * channels..][..channels], taps);
                    }
                }
            }
        }
    }
}

fn each_row(isa: Isa, geometry: &Geometry, from: &Map<f32>, weight: &[f32], to: &mut Map<f32>, backwards: bool) {
    let weight = by_tap(geometry, weight);
    let (height, pitch) = (to.height, to.pitch());
    let (rows, side) = (from.by_row(), [from.height, from.width]);
    to.values_mut().par_chunks_exact_mut(pitch).enumerate().for_each(|(index, to)| {
        let (image, row) = (index / height, index % height);
        plainly(isa, Row { geometry, from: rows, side, weight: &weight, image, row, to, backwards });
    });
}

/// The forward pass into a map without a frame.
pub(super) fn convolve(isa: Isa, geometry: &Geometry, x: &Map<f32>, weight: &[f32], to: &mut Map<f32>) {
    each_row(isa, geometry, x, weight, to, false);
}

/// The gradient of the input into a map without a frame.
pub(super) fn input_gradient(isa: Isa, geometry: &Geometry, gradient: &Map<f32>, weight: &[f32], to: &mut Map<f32>) {
    each_row(isa, geometry, gradient, weight, to, true);
}

/// The gradient of the weight over one image, k² rows of C values.
struct Image<'a> {
    geometry: &'a Geometry,
    x: Rows<'a>,
    side: [usize; 2],
    gradient: Rows<'a>,
    outputs: [usize; 2],
    image: usize,
    sums: &'a mut [f64],
}

impl Plain for Image<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { geometry, x, side: [height, width], gradient, outputs: [rows, columns], image, sums } = self;
        let Geometry { kernel, stride, padding: [before, _], output: channels, .. } = *geometry;
        let mut of_row = vec![0f32; kernel * channels];
        for row in 0..rows {
            let gradient = gradient.row(image * rows + row);
            for ky in 0..kernel {
                let Some(y) = (row * stride + ky).checked_sub(before).filter(|y| *y < height) else { continue };
                let line = x.row(image * height + y);
                of_row.fill(0.0);
                for column in 0..columns {
                    for kx in 0..kernel {
                        let at = (column * stride + kx).checked_sub(before).filter(|x| *x < width);
                        if let Some(at) = at {
                            let gradient = &gradient[column * channels..][..channels];
                            let sums = &mut of_row[kx * channels..][..channels];
                            add_products(sums, gradient, &line[at * channels..][..channels]);
                        }
                    }
                }
                let sums = &mut sums[ky * kernel * channels..][..kernel * channels];
                sums.iter_mut().zip(&of_row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
        }
    }
}

/// Adds the gradient of the weight to `sums` (C, 1, k, k).
pub(super) fn weight_gradient(isa: Isa, geometry: &Geometry, x: &Map<f32>, gradient: &Map<f32>, sums: &mut [f32]) {
    let (side, outputs) = ([x.height, x.width], [gradient.height, gradient.width]);
    let (rows, gradients) = (x.by_row(), gradient.by_row());
    let mut images = vec![0f64; gradient.images * sums.len()];
    images.par_chunks_exact_mut(sums.len()).enumerate().for_each(|(image, sums)| {
        plainly(isa, Image { geometry, x: rows, side, gradient: gradients, outputs, image, sums });
    });
    let (area, channels) = (geometry.kernel * geometry.kernel, geometry.output);
    for tap in 0..area {
        for channel in 0..channels {
            let at = tap * channels + channel;
            let total: f64 = images.chunks_exact(area * channels).map(|image| image[at]).sum();
            sums[channel * area + tap] += total as f32;
        }
    }
}
