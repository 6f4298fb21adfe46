//! The networks layer by layer, as published: the reference for the folded form.

use candle_core::{D, Module, ModuleT, Result, Tensor};
use candle_nn::{BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Linear, PReLU, VarBuilder};

use super::table::{LAST_SIDE, Layer, LayerKind};
use super::{IrError, Tap};
use crate::model::{Architecture, Backbone, Batch};

/// A network on candle's own operations, nothing folded. Any device.
#[derive(Debug)]
pub struct Unfolded {
    dim: usize,
    input: Vec<Operation>,
    body: Vec<Unit>,
    map_norm: BatchNorm,
    linear: Linear,
    feature_norm: BatchNorm,
}

#[derive(Debug)]
struct Unit {
    name: String,
    stride: usize,
    shortcut: Vec<Operation>,
    residual: Vec<Operation>,
}

#[derive(Debug)]
enum Operation {
    Norm(BatchNorm),
    Conv(Conv2d),
    PRelu(PReLU),
    Squeeze(Squeeze),
}

/// Squeeze and excitation (Hu et al., 2018), without biases.
#[derive(Debug)]
pub(super) struct Squeeze {
    down: Linear,
    up: Linear,
}

impl Squeeze {
    pub(super) fn load(channels: usize, vb: &VarBuilder) -> Result<Self> {
        let load = |name: &str, input: usize, output: usize| {
            let weight = vb.get((output, input, 1, 1), &format!("{name}.weight"))?;
            Ok::<_, candle_core::Error>(Linear::new(weight.reshape((output, input))?, None))
        };
        Ok(Self { down: load("fc1", channels, channels / 16)?, up: load("fc2", channels / 16, channels)? })
    }

    /// With its weights put through a function.
    pub(super) fn map(&self, put: impl Fn(Tensor) -> Result<Tensor>) -> Result<Self> {
        let layer = |layer: &Linear| Ok::<_, candle_core::Error>(Linear::new(put(layer.weight().clone())?, None));
        Ok(Self { down: layer(&self.down)?, up: layer(&self.up)? })
    }

    /// The factor of each channel (N, C) from the mean of each channel (N, C).
    pub(super) fn factors(&self, means: &Tensor) -> Result<Tensor> {
        candle_nn::ops::sigmoid(&self.up.forward(&self.down.forward(means)?.relu()?)?)
    }

    /// A map (N, C, H, W) times the factors of its channels.
    pub(super) fn apply(&self, map: &Tensor) -> Result<Tensor> {
        let (images, channels, ..) = map.dims4()?;
        let factors = self.factors(&map.flatten_from(2)?.mean(D::Minus1)?)?;
        map.broadcast_mul(&factors.reshape((images, channels, 1, 1))?)
    }
}

impl Operation {
    fn load(layer: &Layer, vb: &VarBuilder) -> Result<Self> {
        let vb = vb.pp(&layer.name);
        Ok(match layer.kind {
            LayerKind::Norm { channels } => {
                Self::Norm(candle_nn::batch_norm(channels, BatchNormConfig::default(), vb)?)
            }
            LayerKind::Conv { input, output, kernel, stride } => {
                let config = Conv2dConfig { padding: kernel / 2, stride, ..Default::default() };
                Self::Conv(candle_nn::conv2d_no_bias(input, output, kernel, config, vb)?)
            }
            LayerKind::PRelu { channels } => Self::PRelu(candle_nn::prelu(Some(channels), vb)?),
            LayerKind::Squeeze { channels } => Self::Squeeze(Squeeze::load(channels, &vb)?),
        })
    }

    fn load_all(layers: &[Layer], vb: &VarBuilder) -> Result<Vec<Self>> {
        layers.iter().map(|layer| Self::load(layer, vb)).collect()
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Norm(norm) => norm.forward_t(x, false),
            Self::Conv(conv) => conv.forward(x),
            Self::PRelu(prelu) => prelu.forward(x),
            Self::Squeeze(squeeze) => squeeze.apply(x),
        }
    }

    fn forward_all(operations: &[Self], x: &Tensor) -> Result<Tensor> {
        operations.iter().try_fold(x.clone(), |x, operation| operation.forward(&x))
    }
}

impl Unfolded {
    /// Builds the network from tensors that have been checked against [`Architecture::tensors`].
    pub fn new(architecture: Architecture, dim: usize, vb: &VarBuilder) -> std::result::Result<Self, IrError> {
        let design = architecture.ir().ok_or(IrError::Architecture(architecture))?;
        let unit = |unit: super::table::Unit| {
            let shortcut = Operation::load_all(&unit.shortcut, vb)?;
            let residual = Operation::load_all(&unit.residual, vb)?;
            Ok(Unit { name: unit.name, stride: unit.stride, shortcut, residual })
        };
        let output = vb.pp("output_layer");
        let plain = BatchNormConfig { affine: false, ..Default::default() };
        Ok(Self {
            dim,
            input: Operation::load_all(&design.input(), vb)?,
            body: design.body().into_iter().map(unit).collect::<Result<_>>()?,
            map_norm: candle_nn::batch_norm(design.last(), BatchNormConfig::default(), output.pp("0"))?,
            linear: candle_nn::linear(design.last() * LAST_SIDE * LAST_SIDE, dim, output.pp("3"))?,
            feature_norm: candle_nn::batch_norm(dim, plain, output.pp("4"))?,
        })
    }

    /// The forward pass, with each unit's output given to `tap`.
    pub(crate) fn forward_tapped(&self, pixels: &Tensor, tap: Tap) -> Result<Tensor> {
        let mut x = Operation::forward_all(&self.input, pixels)?;
        tap("input_layer", &x)?;
        for unit in &self.body {
            let shortcut = shortcut(&x, unit.stride, &unit.shortcut)?;
            x = (Operation::forward_all(&unit.residual, &x)? + shortcut)?;
            tap(&unit.name, &x)?;
        }
        let x = self.map_norm.forward_t(&x, false)?.flatten_from(1)?;
        self.feature_norm.forward_t(&self.linear.forward(&x)?, false)
    }
}

fn shortcut(x: &Tensor, stride: usize, operations: &[Operation]) -> Result<Tensor> {
    match (operations, stride) {
        ([], 1) => Ok(x.clone()),
        ([], stride) => x.max_pool2d_with_stride(1, stride),
        (operations, _) => Operation::forward_all(operations, x),
    }
}

impl Backbone for Unfolded {
    fn forward(&self, batch: &Batch) -> Result<Tensor> {
        self.forward_tapped(&batch.pixels, &mut |_, _| Ok(()))
    }

    fn dim(&self) -> usize {
        self.dim
    }
}
