//! MTCNN's networks on candle's own operations: any device, and the reference for the kernels.

use candle_core::{Module, Result, Tensor};
use candle_nn::{Conv2d, PReLU, VarBuilder};

use super::{Conv, Layer, Plan};
use crate::kernel::maximum::Maximum;

/// One network.
#[derive(Debug)]
pub(super) struct Network {
    layers: Vec<(Conv2d, PReLU, Option<usize>)>,
    heads: Conv2d,
}

fn conv2d(conv: &Conv) -> Result<Conv2d> {
    let bias = Tensor::new(conv.bias.as_slice(), conv.weight.device())?;
    Ok(Conv2d::new(conv.weight.clone(), Some(bias), candle_nn::Conv2dConfig::default()))
}

impl Network {
    pub(super) fn load(plan: &Plan, vb: &VarBuilder) -> Result<Self> {
        let layer = |layer: &Layer| {
            let conv = Conv::layer(plan, layer, vb)?;
            let slopes = Tensor::new(conv.slopes.as_slice(), conv.weight.device())?;
            Ok((conv2d(&conv)?, PReLU::new(slopes, false), layer.pool))
        };
        let layers = plan.layers.iter().chain(&plan.dense).map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, heads: conv2d(&Conv::heads(plan, vb)?)? })
    }

    /// (N, H, W, 3) -> (N, H', W', values).
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let mut x = input.permute((0, 3, 1, 2))?.contiguous()?;
        for (conv, prelu, pool) in &self.layers {
            x = prelu.forward(&conv.forward(&x)?)?;
            if let Some(side) = pool {
                x = pooled(&x, *side)?;
            }
        }
        self.heads.forward(&x)?.permute((0, 2, 3, 1))?.contiguous()
    }
}

/// The largest of squares, of cut ones too: the map is extended with minus infinity.
fn pooled(x: &Tensor, side: usize) -> Result<Tensor> {
    let mut x = x.clone();
    for axis in [2, 3] {
        let size = x.dim(axis)?;
        let missing = ((Maximum { side }.output_size(size) - 1) * 2 + side).saturating_sub(size);
        if missing > 0 {
            let mut shape = x.dims().to_vec();
            shape[axis] = missing;
            let edge = Tensor::full(f32::NEG_INFINITY, shape, x.device())?;
            x = Tensor::cat(&[&x, &edge], axis)?;
        }
    }
    x.contiguous()?.max_pool2d_with_stride(side, 2)
}
