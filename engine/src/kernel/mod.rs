//! CPU kernels for convolutional networks.
//!
//! Stock candle copies every layer's input into columns and spends most of its time there. Here a network is one custom
//! operation of candle: tensors go in and come out, and in between activations stay in channels-last `map`s with a frame
//! of zeros, from a pool.
//!
//! | file | what |
//! |---|---|
//! | [`isa`] | which instruction set: AVX-512 with bf16, AVX-512, AVX2, portable; `VULTUS_KERNELS` picks one |
//! | `lanes` | a register as a trait, once for each instruction set and once portable |
//! | `tile` | the inner loop: fourteen pixels by thirty-two outputs |
//! | `convolution`, `winograd`, `channelwise` | convolutions: direct, by minimal filtering, one filter per channel |
//! | `given`, `places` | what a convolution is given as; where its outputs go |
//! | `finish`, `scale`, `resample` | what follows and what stands between them |
//! | `network` | what networks are put together from |
//! | [`conv`] | convolutions by name, and in stock candle: the reference |
//! | [`gpu`] | convolutions in candle's operations, arranged for GPUs |
//! | [`direct`], [`epilogue`], [`pool`] | the small networks of MTCNN, on [`pulp`]'s registers |
//!
//! Every loop is written once and compiled for each instruction set; tests compare each with plain sums in double
//! precision. Machines with and without a fused multiply-add differ in the last bits. This is the only place with `unsafe`
//! beside the mapped file: pointers into maps whose bounds are checked once for each layer.

#![allow(clippy::needless_range_loop, reason = "loops over registers are unrolled only when they count")]

pub(crate) mod channelwise;
pub mod conv;
pub(crate) mod convolution;
pub mod direct;
pub mod epilogue;
pub(crate) mod finish;
pub(crate) mod given;
pub mod gpu;
pub mod isa;
pub(crate) mod lanes;
pub(crate) mod map;
pub(crate) mod network;
pub(crate) mod places;
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

/// Runs a task on the widest instruction set of the machine that [`isa::VARIABLE`] allows.
pub(crate) fn dispatch(task: impl Task) {
    match isa::Isa::preferred() {
        #[cfg(target_arch = "x86_64")]
        Some(isa::Isa::Avx2) => match pulp::x86::V3::try_new() {
            Some(simd) => Simd::vectorize(simd, Widest(task)),
            None => Simd::vectorize(pulp::Scalar::new(), Widest(task)),
        },
        Some(isa::Isa::Portable) => Simd::vectorize(pulp::Scalar::new(), Widest(task)),
        _ => pulp::Arch::new().dispatch(Widest(task)),
    }
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
