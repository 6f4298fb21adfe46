//! MobileFaceNet on this crate's CPU kernels: channels-last activations.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::Step;
use crate::kernel::conv::KernelConv;

/// The steps with their weights.
#[derive(Debug)]
pub(super) struct Network(Vec<(String, Vec<KernelConv>, bool)>);

impl Network {
    pub(super) fn load(steps: &[Step], vb: &VarBuilder) -> Result<Self> {
        let load = |step: &Step| {
            let convolutions: Result<_> = step.convolutions.iter().map(|spec| KernelConv::load(spec, vb)).collect();
            Ok((step.name.clone(), convolutions?, step.residual))
        };
        steps.iter().map(load).collect::<Result<_>>().map(Self)
    }

    /// (N, 3, H, W) -> (N, 1, 1, dim); `tap` sees (N, H, W, C).
    pub(super) fn forward(&self, pixels: &Tensor, tap: &mut dyn FnMut(&str, &Tensor) -> Result<()>) -> Result<Tensor> {
        let mut x = pixels.contiguous()?;
        for (name, convolutions, residual) in &self.0 {
            let Some((last, before)) = convolutions.split_last() else { continue };
            let mut y = x.clone();
            for convolution in before {
                y = convolution.forward(&y)?;
            }
            x = if *residual { last.forward_add(&y, &x)? } else { last.forward(&y)? };
            tap(name, &x)?;
        }
        Ok(x)
    }
}
