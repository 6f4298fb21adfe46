//! MTCNN's networks on this crate's CPU kernels.
//!
//! A pass runs on the thread that asks for it as far as possible: bands and crops are many and small, so callers spread
//! them, and maps of a few hundred kilobytes stay in a core's cache from layer to layer.

use std::sync::Arc;

use candle_core::Result;
use candle_nn::VarBuilder;

use super::{Answers, Conv, Layer, Plan};
use crate::kernel::convolution::{Convolution, Given, Target};
use crate::kernel::isa::Isa;
use crate::kernel::map::{Map, Pool};
use crate::kernel::maximum::Maximum;
use crate::kernel::network::Step;
use crate::kernel::plain::{Plain, plainly};
use crate::kernel::winograd::Winograd;

/// Outputs that fill whole registers of every instruction set.
const WHOLE: usize = 16;

/// A convolution without padding.
#[derive(Debug)]
enum Form {
    Direct(Step),
    /// By minimal filtering, which pads: see [`Map::framed`].
    Filtered(Winograd<f32>, usize),
}

/// A convolution with its activation, and the pooling after it.
#[derive(Debug)]
struct Stage {
    convolution: Form,
    /// The pooling, and the channels that it keeps.
    pool: Option<(Maximum, usize)>,
}

impl Stage {
    fn new(layer: &Layer, conv: &Conv, dense: bool) -> Result<Self> {
        let pool = layer.pool.map(|side| (Maximum { side }, layer.output));
        // The pooling drops outputs that were added to fill registers; a convolution would multiply them.
        let outputs = if pool.is_some() { layer.output.next_multiple_of(WHOLE) } else { layer.output };
        let weights = Weights::new(conv, outputs)?;
        // Of a map of one pixel, filtering would compute sixteen.
        let padded = weights.given(layer.kernel, [1, 1]);
        let convolution = if !dense && Winograd::<f32>::fits(&padded) {
            Form::Filtered(Winograd::new(&padded)?, outputs)
        } else {
            Form::Direct(weights.step(layer.kernel)?)
        };
        Ok(Self { convolution, pool })
    }

    fn forward(&self, isa: Isa, pool: &Arc<Pool>, x: Map<f32>) -> Result<Map<f32>> {
        let y = match &self.convolution {
            Form::Direct(step) => step.forward(isa, pool, &x, None, 0)?,
            Form::Filtered(winograd, outputs) => {
                let x = x.framed()?;
                let mut to = pool.map([x.images, x.height, x.width, *outputs], 0);
                winograd.forward(isa, &x, None, Target { f32: Some(&mut to), bf16: None })?;
                to
            }
        };
        let Some((maximum, channels)) = self.pool else { return Ok(y) };
        let mut pooled = pool.map(maximum.shape(y.shape(), channels), 0);
        maximum.forward(isa, &y, &mut pooled)?;
        Ok(pooled)
    }
}

/// A convolution's weights, with zeros for further outputs.
struct Weights {
    input: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
    slopes: Vec<f32>,
}

impl Weights {
    fn new(conv: &Conv, outputs: usize) -> Result<Self> {
        let (output, input, rows, columns) = conv.weight.dims4()?;
        let outputs = outputs.max(output);
        let extended = |values: &[f32], count: usize, with: f32| {
            let mut values = values.to_vec();
            values.resize(count, with);
            values
        };
        let weight = conv.weight.flatten_all()?.to_vec1::<f32>()?;
        Ok(Self {
            input,
            weight: extended(&weight, outputs * input * rows * columns, 0.0),
            bias: extended(&conv.bias, outputs, 0.0),
            slopes: extended(&conv.slopes, outputs, 1.0),
        })
    }

    fn given(&self, kernel: usize, padding: [usize; 2]) -> Given<'_> {
        Given {
            kernel,
            stride: 1,
            padding,
            input: self.input,
            output: self.bias.len(),
            weight: &self.weight,
            bias: &self.bias,
            slopes: self.slopes.iter().any(|slope| *slope != 1.0).then_some(&self.slopes[..]),
            lead: None,
        }
    }

    fn step(&self, kernel: usize) -> Result<Step> {
        Ok(Step::Full(Convolution::new(&self.given(kernel, [0, 0]))?))
    }
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
        let stage = |layer: &Layer| {
            let dense = plan.dense.is_some_and(|dense| dense.number == layer.number);
            Stage::new(layer, &Conv::layer(plan, layer, vb)?, dense)
        };
        let stages = plan.layers.iter().chain(&plan.dense).map(stage).collect::<Result<_>>()?;
        let heads = Weights::new(&Conv::heads(plan, vb)?, WHOLE)?.step(1)?;
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
            x = stage.forward(self.isa, &self.pool, x)?;
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
