//! MTCNN's networks on this crate's CPU kernels.
//!
//! A pass runs on the thread that asks for it as far as possible: bands and crops are many and small, so callers spread
//! them, and maps of a few hundred kilobytes stay in a core's cache from layer to layer.

use std::sync::Arc;

use candle_core::Result;
use candle_nn::VarBuilder;

use super::{Answers, Conv, Layer, Plan};
use crate::kernel::convolution::{Convolution, Given};
use crate::kernel::isa::Isa;
use crate::kernel::map::{Map, Pool};
use crate::kernel::maximum::Maximum;
use crate::kernel::network::Step;
use crate::kernel::plain::{Plain, plainly};

/// Outputs that fill whole registers of every instruction set.
const WHOLE: usize = 16;

/// A convolution with its activation, and the pooling after it.
#[derive(Debug)]
struct Stage {
    convolution: Step,
    /// The pooling, and the channels that it keeps.
    pool: Option<(Maximum, usize)>,
}

impl Stage {
    fn new(layer: &Layer, conv: &Conv) -> Result<Self> {
        let pool = layer.pool.map(|side| (Maximum { side }, layer.output));
        // The pooling drops outputs that were added to fill registers; a convolution would multiply them.
        let outputs = if pool.is_some() { layer.output.next_multiple_of(WHOLE) } else { layer.output };
        Ok(Self { convolution: step(layer.kernel, conv, outputs)?, pool })
    }

    fn forward(&self, isa: Isa, pool: &Arc<Pool>, x: &Map<f32>) -> Result<Map<f32>> {
        let y = self.convolution.forward(isa, pool, x, None, 0)?;
        let Some((maximum, channels)) = self.pool else { return Ok(y) };
        let mut pooled = pool.map(maximum.shape(y.shape(), channels), 0);
        maximum.forward(isa, &y, &mut pooled)?;
        Ok(pooled)
    }
}

/// A convolution without padding, with zeros for further outputs.
fn step(kernel: usize, conv: &Conv, outputs: usize) -> Result<Step> {
    let (output, input, ..) = conv.weight.dims4()?;
    let mut weight = conv.weight.flatten_all()?.to_vec1::<f32>()?;
    weight.resize(outputs.max(output) * input * kernel * kernel, 0.0);
    let extended = |values: &[f32], with: f32| {
        let mut values = values.to_vec();
        values.resize(outputs.max(output), with);
        values
    };
    let (bias, slopes) = (extended(&conv.bias, 0.0), extended(&conv.slopes, 1.0));
    let given = Given {
        kernel,
        stride: 1,
        padding: [0, 0],
        input,
        output: bias.len(),
        weight: &weight,
        bias: &bias,
        slopes: slopes.iter().any(|slope| *slope != 1.0).then_some(&slopes[..]),
        lead: None,
    };
    Ok(Step::Full(Convolution::new(&given)?))
}

/// One network.
#[derive(Debug)]
pub(super) struct Network {
    isa: Isa,
    stages: Vec<Stage>,
    heads: Step,
    pool: Arc<Pool>,
}

impl Network {
    pub(super) fn load(plan: &Plan, isa: Isa, pool: &Arc<Pool>, vb: &VarBuilder) -> Result<Self> {
        // The dense layer reads all that is left of a crop, which a convolution of that size does too.
        let stage = |layer: &Layer| Stage::new(layer, &Conv::layer(plan, layer, vb)?);
        let stages = plan.layers.iter().chain(&plan.dense).map(stage).collect::<Result<_>>()?;
        let heads = step(1, &Conv::heads(plan, vb)?, WHOLE)?;
        Ok(Self { isa, stages, heads, pool: Arc::clone(pool) })
    }

    /// (N, H, W, 3) in bytes -> `N` values for each cell.
    pub(super) fn forward<const N: usize>(&self, pixels: &[u8], shape: [usize; 3]) -> Result<Answers<N>> {
        let [images, height, width] = shape;
        let mut x = self.pool.map::<f32>([images, height, width, 3], 0);
        if x.values().len() != pixels.len() {
            candle_core::bail!("{} bytes for pixels of {shape:?}", pixels.len())
        }
        plainly(self.isa, Levels { pixels, to: x.values_mut() });
        for stage in &self.stages {
            x = stage.forward(self.isa, &self.pool, &x)?;
        }
        let cells = self.heads.forward(self.isa, &self.pool, &x, None, 0)?;
        let first = |cell: &[f32]| std::array::from_fn(|value| cell[value]);
        Ok(Answers { values: cells.values().chunks_exact(cells.channels).map(first).collect(), columns: cells.width })
    }
}

/// What the networks make of bytes.
struct Levels<'a> {
    pixels: &'a [u8],
    to: &'a mut [f32],
}

impl Plain for Levels<'_> {
    #[inline(always)]
    fn run(self) {
        self.to.iter_mut().zip(self.pixels).for_each(|(to, byte)| *to = super::level(*byte));
    }
}
