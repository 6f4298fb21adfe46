//! The three networks of MTCNN (Zhang, Zhang, Li and Qiao, "Joint Face Detection and Alignment using Multi-task Cascaded
//! Convolutional Networks", 2016).
//!
//! All are chains of convolutions without padding, each followed by a PReLU and, in places, by a pooling that takes cut
//! squares into account. P-Net is fully convolutional: a cell for each 12x12 square of its input, one every 2 pixels.
//! R-Net takes 24x24 crops and O-Net 48x48; what is left of a crop is 3x3 cells, which two dense layers read in the
//! order channel, column, row.
//!
//! Pixels are RGB and go in as (p - 127.5) / 128. Of what comes out, the first two values are the logits of "no face"
//! and "face", the next four offsets of the box's corners, and O-Net's last ten five x and five y of the landmarks.

mod kernels;
mod stock;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;

use super::DetectError;
use crate::kernel::conv::Arithmetic;
use crate::kernel::crew::{alone, together};
use crate::kernel::isa::Isa;
use crate::kernel::map::Pool;

/// A convolution with PReLU, and the pooling after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer {
    /// Number in the names of its tensors: `features.conv<n>` and `features.prelu<n>`.
    pub(crate) number: usize,
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) kernel: usize,
    /// Side of the squares that are pooled.
    pub(crate) pool: Option<usize>,
}

const fn layer(number: usize, input: usize, output: usize, kernel: usize, pool: Option<usize>) -> Layer {
    Layer { number, input, output, kernel, pool }
}

/// The shape of one network.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) layers: &'static [Layer],
    /// A dense layer over 3x3 cells, as a convolution of kernel 3, and the number in its name.
    pub(crate) dense: Option<Layer>,
    /// What comes out: names and numbers of values.
    pub(crate) heads: &'static [(&'static str, usize)],
    /// Whether the heads are stored as 1x1 convolutions.
    pub(crate) heads_are_convolutions: bool,
}

impl Plan {
    /// Channels in front of the heads.
    pub(crate) fn width(&self) -> usize {
        self.dense.or(self.layers.last().copied()).map_or(0, |layer| layer.output)
    }

    fn head_shape(&self, output: usize) -> Vec<usize> {
        let kernel: &[usize] = if self.heads_are_convolutions { &[1, 1] } else { &[] };
        [&[output, self.width()], kernel].concat()
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = vec![];
        for layer in self.layers.iter().chain(&self.dense) {
            let Layer { number, input, output, kernel, .. } = *layer;
            let dense = self.dense.is_some_and(|dense| dense.number == number);
            let shape = if dense { vec![output, input * kernel * kernel] } else { vec![output, input, kernel, kernel] };
            tensors.push((format!("{}.features.conv{number}.weight", self.name), shape));
            tensors.push((format!("{}.features.conv{number}.bias", self.name), vec![output]));
            tensors.push((format!("{}.features.prelu{number}.weight", self.name), vec![output]));
        }
        for (head, output) in self.heads {
            tensors.push((format!("{}.{head}.weight", self.name), self.head_shape(*output)));
            tensors.push((format!("{}.{head}.bias", self.name), vec![*output]));
        }
        tensors
    }
}

pub(crate) const PNET: Plan = Plan {
    name: "pnet",
    layers: &[layer(1, 3, 10, 3, Some(2)), layer(2, 10, 16, 3, None), layer(3, 16, 32, 3, None)],
    dense: None,
    heads: &[("conv4_1", 2), ("conv4_2", 4)],
    heads_are_convolutions: true,
};
pub(crate) const RNET: Plan = Plan {
    name: "rnet",
    layers: &[layer(1, 3, 28, 3, Some(3)), layer(2, 28, 48, 3, Some(3)), layer(3, 48, 64, 2, None)],
    dense: Some(layer(4, 64, 128, 3, None)),
    heads: &[("conv5_1", 2), ("conv5_2", 4)],
    heads_are_convolutions: false,
};
pub(crate) const ONET: Plan = Plan {
    name: "onet",
    layers: &[
        layer(1, 3, 32, 3, Some(3)),
        layer(2, 32, 64, 3, Some(3)),
        layer(3, 64, 64, 3, Some(2)),
        layer(4, 64, 128, 2, None),
    ],
    dense: Some(layer(5, 128, 256, 3, None)),
    heads: &[("conv6_1", 2), ("conv6_2", 4), ("conv6_3", 10)],
    heads_are_convolutions: false,
};

/// Names and shapes of all tensors.
pub(crate) fn tensors() -> Vec<(String, Vec<usize>)> {
    [PNET, RNET, ONET].iter().flat_map(Plan::tensors).collect()
}

/// A convolution as tensors: weight (O, C, k, k), bias and slopes (O); slopes of 1 are no activation.
pub(crate) struct Conv {
    pub(crate) weight: Tensor,
    pub(crate) bias: Vec<f32>,
    pub(crate) slopes: Vec<f32>,
}

impl Conv {
    /// One layer of a network.
    pub(crate) fn layer(plan: &Plan, layer: &Layer, vb: &VarBuilder) -> Result<Self> {
        let Layer { number, input, output, kernel, .. } = *layer;
        let vb = vb.pp(plan.name).pp("features");
        let conv = vb.pp(format!("conv{number}"));
        let weight = if plan.dense.is_some_and(|dense| dense.number == number) {
            // Channel, column, row: the other way round than a convolution's.
            let weight = conv.get((output, input * kernel * kernel), "weight")?;
            weight.reshape((output, input, kernel, kernel))?.transpose(2, 3)?.contiguous()?
        } else {
            conv.get((output, input, kernel, kernel), "weight")?
        };
        let slopes = vb.pp(format!("prelu{number}")).get(output, "weight")?.to_vec1()?;
        Ok(Self { weight, bias: conv.get(output, "bias")?.to_vec1()?, slopes })
    }

    /// All heads as one 1x1 convolution.
    pub(crate) fn heads(plan: &Plan, vb: &VarBuilder) -> Result<Self> {
        let (mut weights, mut bias) = (vec![], vec![]);
        for (head, output) in plan.heads {
            let vb = vb.pp(plan.name).pp(head);
            weights.push(vb.get(plan.head_shape(*output), "weight")?.reshape((*output, plan.width(), 1, 1))?);
            bias.extend(vb.get(*output, "bias")?.to_vec1::<f32>()?);
        }
        let slopes = vec![1.0; bias.len()];
        Ok(Self { weight: Tensor::cat(&weights, 0)?, bias, slopes })
    }
}

/// How much a pass takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portion {
    /// Pixels that P-Net sees at a time.
    pub(crate) band_px: usize,
    /// Crops for R-Net and for O-Net.
    pub(crate) crops: [usize; 2],
}

/// The networks with their weights.
#[derive(Debug)]
pub(crate) struct Networks {
    device: Device,
    networks: [Network; 3],
}

/// What goes in for a byte. Both steps are exact.
#[inline(always)]
fn level(byte: u8) -> f32 {
    (f32::from(byte) - 127.5) * 0.007_812_5
}

#[derive(Debug)]
enum Network {
    Kernels(kernels::Network),
    Stock(stock::Network),
}

/// What a network says: rows of values, see the module.
#[derive(Debug)]
pub(crate) struct Answers<const N: usize> {
    pub(crate) values: Vec<[f32; N]>,
    /// Cells in a row, for P-Net.
    pub(crate) columns: usize,
}

impl Networks {
    /// Builds the networks from tensors that have been checked against [`tensors`].
    pub(crate) fn new(vb: &VarBuilder, device: &Device, arithmetic: Arithmetic) -> Result<Self> {
        let pool = Arc::<Pool>::default();
        let network = |plan: &Plan| match arithmetic {
            Arithmetic::Kernels if !device.is_cpu() => candle_core::bail!("the kernels run on the CPU only"),
            Arithmetic::Kernels => Ok(Network::Kernels(kernels::Network::load(plan, Isa::current(), &pool, vb)?)),
            Arithmetic::Stock | Arithmetic::Gpu => Ok(Network::Stock(stock::Network::load(plan, vb)?)),
        };
        Ok(Self { device: device.clone(), networks: [network(&PNET)?, network(&RNET)?, network(&ONET)?] })
    }

    /// How much one pass should take: of the kernels what stays in a core's cache, for there is a pass on each core; of
    /// candle's operations as much as memory allows, for they spread themselves, or run on another device.
    pub(crate) fn portion(&self) -> Portion {
        match self.networks {
            [Network::Kernels(_), ..] => Portion { band_px: 1 << 15, crops: [16, 8] },
            [Network::Stock(_), ..] => Portion { band_px: 1 << 17, crops: [256, 64] },
        }
    }

    /// Does each piece of work that ends in passes: side by side on the kernels, one after the other otherwise. Gives the
    /// results in the order of the pieces.
    pub(crate) fn each<T: Sync, R: Send>(
        &self,
        pieces: &[T],
        work: impl Fn(&T) -> std::result::Result<R, DetectError> + Send + Sync,
    ) -> std::result::Result<Vec<R>, DetectError> {
        match self.networks {
            [Network::Kernels(_), ..] => match pieces {
                [piece] => together(|| Ok(vec![work(piece)?])),
                _ => pieces.par_iter().with_max_len(1).map(|piece| alone(|| work(piece))).collect(),
            },
            [Network::Stock(_), ..] => pieces.iter().map(work).collect(),
        }
    }

    /// P-Net over a picture, or a band of rows of one, (height, width, 3): at least 12 by 12 pixels.
    pub(crate) fn propose(&self, pixels: &[u8], width: usize) -> Result<Answers<6>> {
        self.forward(0, pixels, [1, pixels.len() / (3 * width).max(1), width])
    }

    /// R-Net over crops (N, 24, 24, 3).
    pub(crate) fn refine(&self, pixels: &[u8]) -> Result<Answers<6>> {
        self.forward(1, pixels, [pixels.len() / (24 * 24 * 3), 24, 24])
    }

    /// O-Net over crops (N, 48, 48, 3).
    pub(crate) fn output(&self, pixels: &[u8]) -> Result<Answers<16>> {
        self.forward(2, pixels, [pixels.len() / (48 * 48 * 3), 48, 48])
    }

    fn forward<const N: usize>(
        &self,
        network: usize,
        pixels: &[u8],
        [images, height, width]: [usize; 3],
    ) -> Result<Answers<N>> {
        let network = match &self.networks[network] {
            Network::Kernels(network) => return network.forward(pixels, [images, height, width]),
            Network::Stock(network) => network,
        };
        let values: Vec<f32> = pixels.iter().map(|byte| level(*byte)).collect();
        let output = network.forward(&Tensor::from_vec(values, (images, height, width, 3), &self.device)?)?;
        let (_, _, columns, _) = output.dims4()?;
        let values = output.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let (values, rest) = values.as_chunks::<N>();
        if rest.is_empty() {
            Ok(Answers { values: values.to_vec(), columns })
        } else {
            candle_core::bail!("{N} values")
        }
    }
}
