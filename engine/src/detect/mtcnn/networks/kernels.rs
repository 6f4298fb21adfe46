//! MTCNN's networks on this crate's CPU kernels, channels last.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::{Conv, Layer, Plan};
use crate::kernel::direct::Direct;
use crate::kernel::epilogue::Epilogue;
use crate::kernel::pool::MaxPoolCeil;

/// One network.
#[derive(Debug)]
pub(super) struct Network {
    layers: Vec<(Direct, Option<MaxPoolCeil>)>,
    dense: Option<Product>,
    heads: Heads,
}

/// P-Net's heads see many cells of one picture, the others' one cell of many crops.
#[derive(Debug)]
enum Heads {
    Cells(Direct),
    Crops(Product),
}

/// A matrix product over all that is left of a crop, with bias and activation.
#[derive(Debug)]
struct Product {
    weight: Tensor,
    epilogue: Epilogue,
}

impl Product {
    fn new(conv: Conv) -> Result<Self> {
        // Inputs come with the channels last.
        let weight = conv.weight.permute((0, 2, 3, 1))?.flatten_from(1)?.t()?.contiguous()?;
        Ok(Self { weight, epilogue: Epilogue { bias: conv.bias, slopes: conv.slopes } })
    }

    /// (N, H, W, C) -> (N, 1, 1, O).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let output = x.flatten_from(1)?.matmul(&self.weight)?;
        output.inplace_op1(&self.epilogue)?;
        output.unsqueeze(1)?.unsqueeze(1)
    }
}

fn direct(conv: &Conv, kernel: usize) -> Result<Direct> {
    Direct::new(kernel, &conv.weight.flatten_all()?.to_vec1::<f32>()?, &conv.bias, &conv.slopes)
}

impl Network {
    pub(super) fn load(plan: &Plan, vb: &VarBuilder) -> Result<Self> {
        let layer = |layer: &Layer| {
            let conv = direct(&Conv::layer(plan, layer, vb)?, layer.kernel)?;
            Ok((conv, layer.pool.map(|side| MaxPoolCeil { side })))
        };
        let dense = plan.dense.map(|dense| Product::new(Conv::layer(plan, &dense, vb)?)).transpose()?;
        let heads = Conv::heads(plan, vb)?;
        let heads = if dense.is_some() { Heads::Crops(Product::new(heads)?) } else { Heads::Cells(direct(&heads, 1)?) };
        Ok(Self { layers: plan.layers.iter().map(layer).collect::<Result<_>>()?, dense, heads })
    }

    /// (N, H, W, 3) -> (N, H', W', values).
    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let mut x = input.clone();
        for (conv, pool) in &self.layers {
            x = x.apply_op1_no_bwd(conv)?;
            if let Some(pool) = pool {
                x = x.apply_op1_no_bwd(pool)?;
            }
        }
        if let Some(dense) = &self.dense {
            x = dense.forward(&x)?;
        }
        match &self.heads {
            Heads::Cells(conv) => x.apply_op1_no_bwd(conv),
            Heads::Crops(product) => product.forward(&x),
        }
    }
}
