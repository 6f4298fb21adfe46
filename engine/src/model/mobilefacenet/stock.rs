//! MobileFaceNet on candle's operations, as they are or arranged for a GPU: any device, and the reference for the kernels.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::Step;
use crate::kernel::conv::CandleConv;

/// The steps with their weights.
#[derive(Debug)]
pub(super) struct Network<C>(Vec<(String, Vec<C>, bool)>);

impl<C: CandleConv> Network<C> {
    pub(super) fn load(steps: &[Step], vb: &VarBuilder) -> Result<Self> {
        let load = |step: &Step| {
            let convolutions: Result<_> = step.convolutions.iter().map(|spec| C::load(spec, vb)).collect();
            Ok((step.name.clone(), convolutions?, step.residual))
        };
        steps.iter().map(load).collect::<Result<_>>().map(Self)
    }

    /// (N, 3, H, W) -> (N, dim, 1, 1); `tap` sees (N, C, H, W).
    pub(super) fn forward(&self, pixels: &Tensor, tap: &mut dyn FnMut(&str, &Tensor) -> Result<()>) -> Result<Tensor> {
        let mut x = pixels.clone();
        for (name, convolutions, residual) in &self.0 {
            let mut y = x.clone();
            for convolution in convolutions {
                y = convolution.forward(&y)?;
            }
            x = if *residual { (y + x)? } else { y };
            tap(name, &x)?;
        }
        Ok(x)
    }
}
