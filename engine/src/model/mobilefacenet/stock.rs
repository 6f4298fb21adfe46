//! MobileFaceNet on candle's own operations: any device, and the reference for the kernels.

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::Step;
use crate::kernel::conv::StockConv;

/// The steps with their weights.
#[derive(Debug)]
pub(super) struct Network(Vec<(String, Vec<StockConv>, bool)>);

impl Network {
    pub(super) fn load(steps: &[Step], vb: &VarBuilder) -> Result<Self> {
        let load = |step: &Step| {
            let convolutions: Result<_> = step.convolutions.iter().map(|spec| StockConv::load(spec, vb)).collect();
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
