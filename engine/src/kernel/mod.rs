//! CPU kernels for small convolutional networks.
//!
//! The general convolution of candle turns every layer into an image-to-column copy, which costs far more than the
//! arithmetic for depthwise and 1x1 convolutions. Here activations are kept channels-last (N, H, W, C) on the CPU, so
//! that a 1x1 convolution is a plain matrix product (candle's own), and the other layers are candle custom operations
//! whose inner loops run over contiguous channels.
//!
//! The code is portable and safe: the loops are written so that the compiler vectorises them, and [`pulp`] compiles
//! each a second time for the widest instruction set of the machine. Products and sums are separate instructions
//! everywhere, so all instruction sets give the same values. [`conv`] holds the twin in stock candle operations, which
//! tests compare with and which other devices use.

pub mod conv;
pub mod depthwise;
pub mod epilogue;
pub mod resample;
pub mod stem;

use candle_core::{CpuStorage, Layout, Result};

/// Channels handled at once: one 512-bit register, two of 256 bits or four of 128.
pub(crate) const LANES: usize = 16;

/// The elements of a contiguous f32 tensor.
pub(crate) fn contiguous<'a>(name: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let data = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => candle_core::bail!("{name} needs a contiguous tensor"),
    }
}

/// One element after bias and activation. Slope 1 is no activation, slope 0 is ReLU, anything else PReLU. A NaN stays
/// one, unlike with `max` and `min`.
#[inline(always)]
pub(crate) fn activate(value: f32, slope: f32) -> f32 {
    if value > 0.0 { value } else { slope * value }
}

/// `sums[i] += values[i] * weights[i]` over one group of lanes.
#[inline(always)]
pub(crate) fn multiply_add(sums: &mut [f32; LANES], values: &[f32], weights: &[f32]) {
    let (values, weights) = (&values[..LANES], &weights[..LANES]);
    for lane in 0..LANES {
        sums[lane] += values[lane] * weights[lane];
    }
}
