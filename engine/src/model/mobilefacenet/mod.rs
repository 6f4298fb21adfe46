//! MobileFaceNet (Chen et al., 2018), 112x112 RGB: the variant of the MobileFaceNet_TF repository, to 192 dimensions, and
//! y1, to 128.
//!
//! Batch normalisation is folded into weight and bias. PReLU slopes are per channel and may be negative or above 1.
//! Padding of the first is TensorFlow's `SAME`: a 3x3 convolution with stride 2 pads nothing above and left and one below
//! and right; y1 pads one on all sides. With the other's padding each runs but gives wrong values.
//!
//! `steps` is the layer table; both implementations, the list of tensors and the tests follow it.

mod kernels;
mod stock;
pub mod y1;

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;

use super::{Backbone, Batch};
use crate::kernel::conv::{Activation, Arithmetic, ConvSpec, Kind, StockConv};
use crate::kernel::gpu::GpuConv;
use crate::kernel::isa::Isa;

/// A part of the network: convolutions one after the other, the input added at the end if `residual`.
#[derive(Debug, Clone)]
pub struct Step {
    /// Name in the layer table.
    pub name: String,
    /// One convolution, or the three of a bottleneck: expand, depthwise, project.
    pub convolutions: Vec<ConvSpec>,
    /// Whether the input is added to the output.
    pub residual: bool,
}

/// The two published forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Of the MobileFaceNet_TF repository.
    Tf,
    /// y1: other padding, no 1x1 convolution at the start, one linear layer (`head`) instead of two at the end.
    Y1,
}

/// Stages of bottlenecks: name, input, output, expansion, stride of the first, how many.
const STAGES: [(&str, usize, usize, usize, usize, usize); 5] = [
    ("stage2", 64, 64, 2, 2, 5),
    ("stage3", 64, 128, 4, 2, 1),
    ("stage4", 128, 128, 2, 1, 6),
    ("stage5", 128, 128, 4, 2, 1),
    ("stage6", 128, 128, 2, 1, 2),
];

impl Variant {
    /// Zeros before and after for a 3x3 convolution over an even size.
    fn padding(self, stride: usize) -> [usize; 2] {
        if self == Self::Tf && stride == 2 { [0, 1] } else { [1, 1] }
    }
}

/// The layer table for an embedding of `dim` values.
pub fn steps(variant: Variant, dim: usize) -> Vec<Step> {
    let single = |spec: ConvSpec| Step { name: spec.name.clone(), convolutions: vec![spec], residual: false };
    let mut steps = vec![
        single(ConvSpec {
            name: "conv1".into(),
            kind: Kind::Full,
            input: 3,
            output: 64,
            kernel: 3,
            stride: 2,
            padding: variant.padding(2),
            activation: Activation::PRelu,
        }),
        single(ConvSpec::depthwise("dw1".into(), 64, Activation::PRelu)),
    ];
    if variant == Variant::Tf {
        steps.push(single(ConvSpec::pointwise("pw1".into(), 64, 64, Activation::None)));
    }
    for (stage, input, output, expansion, stride, blocks) in STAGES {
        for block in 0..blocks {
            let name = format!("{stage}.{block}");
            let input = if block == 0 { input } else { output };
            let stride = if block == 0 { stride } else { 1 };
            let middle = input * expansion;
            let mut depthwise = ConvSpec::depthwise(format!("{name}.dw"), middle, Activation::PRelu);
            depthwise.stride = stride;
            depthwise.padding = variant.padding(stride);
            let convolutions = vec![
                ConvSpec::pointwise(format!("{name}.expand"), input, middle, Activation::PRelu),
                depthwise,
                ConvSpec::pointwise(format!("{name}.project"), middle, output, Activation::None),
            ];
            steps.push(Step { name, convolutions, residual: stride == 1 });
        }
    }
    let mut global = ConvSpec::depthwise("gdc".into(), 512, Activation::None);
    global.kernel = 7;
    global.padding = [0, 0];
    steps.extend([single(ConvSpec::pointwise("conv7".into(), 128, 512, Activation::PRelu)), single(global)]);
    match variant {
        Variant::Tf => steps.extend([
            single(ConvSpec::pointwise("fc1".into(), 512, 512, Activation::None)),
            single(ConvSpec::pointwise("fc2".into(), 512, dim, Activation::None)),
        ]),
        Variant::Y1 => steps.push(single(ConvSpec::pointwise("head".into(), 512, dim, Activation::None))),
    }
    steps
}

/// Names and shapes of the tensors for an embedding of `dim` values.
pub(crate) fn tensors(variant: Variant, dim: usize) -> Vec<(String, Vec<usize>)> {
    steps(variant, dim).iter().flat_map(|step| &step.convolutions).flat_map(ConvSpec::tensors).collect()
}

/// The network with its weights.
#[derive(Debug)]
pub struct MobileFaceNet {
    dim: usize,
    network: Network,
}

#[derive(Debug)]
enum Network {
    Kernels(kernels::Network),
    Stock(stock::Network<StockConv>),
    Gpu(stock::Network<GpuConv>),
}

impl MobileFaceNet {
    /// Builds the network from tensors that have been checked against `tensors`.
    pub fn new(variant: Variant, dim: usize, vb: &VarBuilder, device: &Device, arithmetic: Arithmetic) -> Result<Self> {
        let steps = steps(variant, dim);
        let network = match arithmetic {
            Arithmetic::Kernels if !device.is_cpu() => candle_core::bail!("the kernels run on the CPU only"),
            Arithmetic::Kernels => Network::Kernels(kernels::Network::load(&steps, vb, Isa::current())?),
            Arithmetic::Stock => Network::Stock(stock::Network::load(&steps, vb)?),
            Arithmetic::Gpu => Network::Gpu(stock::Network::load(&steps, vb)?),
        };
        Ok(Self { dim, network })
    }

    /// The forward pass, with each step's output (N, C, H, W) given to `tap` by name.
    #[cfg(test)]
    pub(crate) fn forward_tapped(
        &self,
        pixels: &Tensor,
        tap: &mut dyn FnMut(&str, &Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        match &self.network {
            Network::Kernels(network) => {
                network.forward(pixels, Some(&mut |name, x| tap(name, &x.permute((0, 3, 1, 2))?)))
            }
            Network::Stock(network) => network.forward(pixels, tap)?.flatten_from(1),
            Network::Gpu(network) => network.forward(pixels, tap)?.flatten_from(1),
        }
    }
}

impl Backbone for MobileFaceNet {
    fn forward(&self, batch: &Batch) -> Result<Tensor> {
        match &self.network {
            Network::Kernels(network) => network.forward(&batch.pixels, None),
            Network::Stock(network) => network.forward(&batch.pixels, &mut |_, _| Ok(()))?.flatten_from(1),
            Network::Gpu(network) => network.forward(&batch.pixels, &mut |_, _| Ok(()))?.flatten_from(1),
        }
    }

    fn dim(&self) -> usize {
        self.dim
    }
}
