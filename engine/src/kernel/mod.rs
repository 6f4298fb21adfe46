//! CPU kernels: convolutional networks, and the products of an index.
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
//! | `crew` | how a layer's work is divided among threads |
//! | `given`, `places` | what a convolution is given as; where its outputs go |
//! | `finish`, `scale`, `resample`, `maximum` | what follows and what stands between them |
//! | `network` | what networks are put together from |
//! | [`conv`] | convolutions by name, and in stock candle: the reference |
//! | [`gpu`] | convolutions in candle's operations, arranged for GPUs |
//! | [`training`] | convolutions and normalisations with their gradients |
//! | `nibbles`, `bytes`, `levels` | products of rows of half bytes, of bytes, and of two bits a value |
//! | `bits` | in how many places rows of bits differ |
//! | `turn` | vectors in another basis |
//! | `reach` | which rows a score can be reached by, out of such products |
//! | `plain` | loops over whole numbers, which the compiler makes wide by itself |
//!
//! Every loop is written once and compiled for each instruction set; tests compare each with plain sums in double
//! precision. Machines with and without a fused multiply-add differ in the last bits. This is the only place with `unsafe`
//! beside `index/mapped.rs`: pointers into maps whose bounds are checked once for each layer.

#![allow(clippy::needless_range_loop, reason = "loops over registers are unrolled only when they count")]

pub(crate) mod bits;
pub(crate) mod bytes;
pub(crate) mod channelwise;
pub mod conv;
pub(crate) mod convolution;
pub(crate) mod crew;
pub(crate) mod finish;
pub(crate) mod given;
pub mod gpu;
pub mod isa;
pub(crate) mod lanes;
pub(crate) mod levels;
pub(crate) mod map;
pub(crate) mod maximum;
pub(crate) mod network;
pub(crate) mod nibbles;
pub(crate) mod places;
pub(crate) mod plain;
pub(crate) mod reach;
pub(crate) mod resample;
pub(crate) mod scale;
pub(crate) mod tile;
pub mod training;
pub(crate) mod turn;
#[cfg(test)]
mod twins;
pub(crate) mod winograd;

use candle_core::{CpuStorage, Layout, Result};

/// The elements of a contiguous f32 tensor.
pub(crate) fn contiguous<'a>(name: &str, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let data = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => candle_core::bail!("{name} needs a contiguous tensor"),
    }
}

/// Asks for memory that will be read soon.
#[inline(always)]
pub(crate) fn ask_for(bytes: &[u8]) {
    /// Bytes that come together.
    const LINE: usize = 64;
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 machine has the instruction, which reads nothing that could be seen.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, LINE);
}

/// Asks for a value that will be read soon.
#[inline(always)]
pub(crate) fn ask_for_value<T>(value: &T) {
    /// Bytes that come together.
    const LINE: usize = 64;
    #[cfg(target_arch = "x86_64")]
    for at in (0..size_of::<T>()).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 machine has the instruction, which reads nothing that could be seen.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast::<i8>().wrapping_add(at)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, LINE);
}

/// One element after bias and activation. Slope 1 is no activation, slope 0 is ReLU, anything else PReLU. A NaN stays
/// one, unlike with `max` and `min`.
#[inline(always)]
pub(crate) fn activate(value: f32, slope: f32) -> f32 {
    if value > 0.0 { value } else { slope * value }
}
