//! CPU kernels for small convolutional networks.
//!
//! The general convolution of candle turns every layer into an image-to-column copy, which costs far more than the
//! arithmetic for depthwise and 1x1 convolutions. Here activations are kept channels-last (N, H, W, C) on the CPU, so
//! that a 1x1 convolution is a plain matrix product (candle's own), and the other layers are candle custom operations
//! whose inner loops run over contiguous channels.
//!
//! The code is portable and safe: loops over channels are written with [`pulp`]'s registers or so that the compiler
//! vectorises them, and each is compiled for the widest instruction set that the machine may have. Machines with and
//! without a fused multiply-add differ in the last bits. [`conv`] holds the twin in stock candle operations, which
//! tests compare with and which other devices use.

pub(crate) mod channelwise;
pub mod conv;
pub(crate) mod convolution;
pub mod direct;
pub mod epilogue;
pub(crate) mod finish;
pub mod isa;
pub(crate) mod lanes;
pub(crate) mod map;
pub(crate) mod network;
pub mod pool;
pub(crate) mod resample;
pub(crate) mod scale;
pub(crate) mod tile;
#[cfg(test)]
mod twins;
pub(crate) mod winograd;

use candle_core::{CpuStorage, Layout, Result};
use pulp::{Simd, WithSimd};

/// A piece of work whose loops are worth compiling for wide registers. `run` must be `#[inline(always)]`, and what it
/// calls too: a call that is not inlined runs as compiled for the oldest machine.
///
/// A closure would be shorter, but the shim through which it is called is not always inlined.
pub(crate) trait Task {
    /// Does the work.
    fn run<S: Simd>(self, simd: S);
}

struct Widest<T>(T);

impl<T: Task> WithSimd for Widest<T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.run(simd);
    }
}

/// Runs a task on the widest instruction set of the machine.
pub(crate) fn dispatch(task: impl Task) {
    pulp::Arch::new().dispatch(Widest(task));
}

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

/// Activates a pixel in place.
#[inline(always)]
pub(crate) fn activate_all(pixel: &mut [f32], slopes: &[f32]) {
    for (value, slope) in pixel.iter_mut().zip(slopes) {
        *value = activate(*value, *slope);
    }
}

/// The first `G` registers of a slice.
#[inline(always)]
pub(crate) fn registers<S: Simd, const G: usize>(values: &[f32]) -> [S::f32s; G] {
    let registers = S::as_simd_f32s(&values[..G * S::F32_LANES]).0;
    std::array::from_fn(
        #[inline(always)]
        |index| registers[index],
    )
}

/// Writes to the first `G` registers of a slice.
#[inline(always)]
pub(crate) fn write<S: Simd, const G: usize>(values: [S::f32s; G], to: &mut [f32]) {
    S::as_mut_simd_f32s(&mut to[..G * S::F32_LANES]).0.copy_from_slice(&values);
}
