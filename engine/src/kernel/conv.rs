//! A convolution with bias and activation, described once and built twice: with the kernels of this module over
//! channels-last activations, and with stock candle operations over (N, C, H, W).

use super::isa::Isa;
use candle_core::{Module, Result, Tensor};
use candle_nn::{Conv2dConfig, PReLU, VarBuilder};
use candle_transformers::models::with_tracing::{Conv2d, conv2d};

/// Which of the implementations of a network runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// The kernels of this crate. CPU only.
    Kernels,
    /// candle's own convolutions. Any device; the reference on the CPU.
    Stock,
    /// candle's operations arranged for a GPU ([`super::gpu`]). Any device.
    Gpu,
}

impl Arithmetic {
    /// The fastest that runs on the device. Processors without AVX2 take candle's own operations as they are.
    pub fn for_device(device: &candle_core::Device) -> Self {
        match device {
            candle_core::Device::Cpu if Isa::preferred().is_some() => Self::Kernels,
            candle_core::Device::Cpu => Self::Stock,
            _ => Self::Gpu,
        }
    }
}

/// The kinds of convolution with a kernel of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every output from every input channel; takes planes (N, C, H, W) in both implementations.
    Full,
    /// One filter per channel.
    Depthwise,
    /// 1x1.
    Pointwise,
}

/// What follows a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// max(x, 0).
    Relu,
    /// x where positive, else x times a slope per channel, the tensor `<name>.prelu.weight`.
    PRelu,
}

/// A convolution by name and shape.
#[derive(Debug, Clone)]
pub struct ConvSpec {
    /// Prefix of its tensors: `<name>.weight` (output, input or 1, kernel, kernel) and `<name>.bias`.
    pub name: String,
    /// Kind.
    pub kind: Kind,
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Step.
    pub stride: usize,
    /// Zeros above and left, then below and right.
    pub padding: [usize; 2],
    /// What follows.
    pub activation: Activation,
}

impl ConvSpec {
    /// A 1x1 convolution.
    pub fn pointwise(name: String, input: usize, output: usize, activation: Activation) -> Self {
        Self { name, kind: Kind::Pointwise, input, output, kernel: 1, stride: 1, padding: [0, 0], activation }
    }

    /// A 3x3 depthwise convolution with stride 1 and padding 1.
    pub fn depthwise(name: String, channels: usize, activation: Activation) -> Self {
        let kind = Kind::Depthwise;
        Self { name, kind, input: channels, output: channels, kernel: 3, stride: 1, padding: [1, 1], activation }
    }

    /// Names and shapes of its tensors.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = vec![
            (format!("{}.weight", self.name), self.weight_shape().to_vec()),
            (format!("{}.bias", self.name), vec![self.output]),
        ];
        if self.activation == Activation::PRelu {
            tensors.push((format!("{}.prelu.weight", self.name), vec![self.output]));
        }
        tensors
    }

    /// Shape of its weight.
    pub fn weight_shape(&self) -> [usize; 4] {
        let input = if self.kind == Kind::Depthwise { 1 } else { self.input };
        [self.output, input, self.kernel, self.kernel]
    }

    /// Slopes of the negative side, from the tensors at `vb`.
    pub(super) fn slopes(&self, vb: &VarBuilder) -> Result<Vec<f32>> {
        match self.activation {
            Activation::None => Ok(vec![1.0; self.output]),
            Activation::Relu => Ok(vec![0.0; self.output]),
            Activation::PRelu => vb.get(self.output, "prelu.weight")?.to_vec1(),
        }
    }
}

/// A convolution made of candle's operations, (N, C, H, W) -> (N, O, H', W').
pub trait CandleConv: Module + Sized {
    /// Loads one convolution onto the device of its tensors, in f32.
    fn load(spec: &ConvSpec, vb: &VarBuilder) -> Result<Self>;
}

/// A convolution on candle's own operations, (N, C, H, W) -> (N, O, H', W').
#[derive(Debug, Clone)]
pub struct StockConv {
    conv: Conv2d,
    /// Padding that the convolution itself cannot express: above and left unlike below and right.
    uneven: Option<[usize; 2]>,
    activation: Activation,
    prelu: Option<PReLU>,
}

impl CandleConv for StockConv {
    fn load(spec: &ConvSpec, vb: &VarBuilder) -> Result<Self> {
        let vb = vb.pp(&spec.name);
        let uneven = (spec.padding[0] != spec.padding[1]).then_some(spec.padding);
        let padding = if uneven.is_some() { 0 } else { spec.padding[0] };
        let groups = if spec.kind == Kind::Depthwise { spec.input } else { 1 };
        let config = Conv2dConfig { padding, stride: spec.stride, groups, ..Default::default() };
        let prelu = match spec.activation {
            Activation::PRelu => Some(candle_nn::prelu(Some(spec.output), vb.pp("prelu"))?),
            _ => None,
        };
        let conv = conv2d(spec.input, spec.output, spec.kernel, config, vb)?;
        Ok(Self { conv, uneven, activation: spec.activation, prelu })
    }
}

impl Module for StockConv {
    fn forward(&self, input: &Tensor) -> Result<Tensor> {
        let output = match self.uneven {
            Some([before, after]) => {
                let padded = input.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
                self.conv.forward(&padded)?
            }
            None => self.conv.forward(input)?,
        };
        match (self.activation, &self.prelu) {
            (_, Some(prelu)) => prelu.forward(&output),
            (Activation::Relu, None) => output.relu(),
            _ => Ok(output),
        }
    }
}
