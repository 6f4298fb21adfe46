//! What follows a matrix product, in place and in one pass: bias, activation, residual.

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result};
use pulp::Simd;
use rayon::prelude::*;

use super::{Task, activate, contiguous, dispatch};

/// Pixels handled by one task.
const PIXELS: usize = 128;

/// Adds a bias per channel and applies the activation, or adds another tensor, to a contiguous (..., C).
///
/// As [`InplaceOp1`]: x = act(x + bias). As [`InplaceOp2`]: x = x + bias + other, without activation.
#[derive(Debug, Clone)]
pub struct Epilogue {
    /// C values.
    pub bias: Vec<f32>,
    /// C slopes of the negative side: 1 is no activation, 0 is ReLU.
    pub slopes: Vec<f32>,
}

impl Epilogue {
    fn target<'a>(&self, storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("epilogue needs a contiguous tensor")
        };
        match storage {
            CpuStorage::F32(data) if layout.dims().last() == Some(&self.bias.len()) => Ok(&mut data[start..end]),
            _ => candle_core::bail!("epilogue: {:?} is not f32 with {} channels", layout.shape(), self.bias.len()),
        }
    }
}

impl InplaceOp1 for Epilogue {
    fn name(&self) -> &'static str {
        "bias-activation"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let channels = self.bias.len();
        let target = self.target(storage, layout)?;
        target.par_chunks_mut(channels * PIXELS).for_each(|pixels| dispatch(Activate { pixels, epilogue: self }));
        Ok(())
    }
}

impl InplaceOp2 for Epilogue {
    fn name(&self) -> &'static str {
        "bias-residual"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout, other: &CpuStorage, theirs: &Layout) -> Result<()> {
        let other = contiguous("bias-residual", other, theirs)?;
        let channels = self.bias.len();
        let target = self.target(storage, layout)?;
        if target.len() != other.len() {
            candle_core::bail!("bias-residual: {:?} and {:?}", layout.shape(), theirs.shape())
        }
        let chunk = channels * PIXELS;
        target
            .par_chunks_mut(chunk)
            .zip(other.par_chunks(chunk))
            .for_each(|(pixels, others)| dispatch(Add { pixels, others, bias: &self.bias }));
        Ok(())
    }
}

/// x = act(x + bias).
struct Activate<'a> {
    pixels: &'a mut [f32],
    epilogue: &'a Epilogue,
}

impl Task for Activate<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Epilogue { bias, slopes } = self.epilogue;
        for pixel in self.pixels.chunks_exact_mut(bias.len()) {
            for ((value, bias), slope) in pixel.iter_mut().zip(bias).zip(slopes) {
                *value = activate(*value + bias, *slope);
            }
        }
    }
}

/// x = x + bias + other.
struct Add<'a> {
    pixels: &'a mut [f32],
    others: &'a [f32],
    bias: &'a [f32],
}

impl Task for Add<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let channels = self.bias.len();
        for (pixel, other) in self.pixels.chunks_exact_mut(channels).zip(self.others.chunks_exact(channels)) {
            for ((value, bias), other) in pixel.iter_mut().zip(self.bias).zip(other) {
                *value = *value + bias + other;
            }
        }
    }
}
