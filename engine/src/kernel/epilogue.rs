//! What follows a matrix product, in place and in one pass: bias, activation, residual.

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result};
use rayon::prelude::*;

use super::{activate, contiguous};

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
        let arch = pulp::Arch::new();
        target.par_chunks_mut(channels * PIXELS).for_each(|pixels| {
            arch.dispatch(
                #[inline(always)]
                || {
                    for pixel in pixels.chunks_exact_mut(channels) {
                        for ((value, bias), slope) in pixel.iter_mut().zip(&self.bias).zip(&self.slopes) {
                            *value = activate(*value + bias, *slope);
                        }
                    }
                },
            );
        });
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
        let arch = pulp::Arch::new();
        let chunk = channels * PIXELS;
        target.par_chunks_mut(chunk).zip(other.par_chunks(chunk)).for_each(|(pixels, others)| {
            arch.dispatch(
                #[inline(always)]
                || {
                    for (pixel, other) in pixels.chunks_exact_mut(channels).zip(others.chunks_exact(channels)) {
                        for ((value, bias), other) in pixel.iter_mut().zip(&self.bias).zip(other) {
                            *value = *value + bias + other;
                        }
                    }
                },
            );
        });
        Ok(())
    }
}
