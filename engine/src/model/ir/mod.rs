//! The improved residual networks of ArcFace and AdaFace (IR and IR-SE): 112x112 to 512 dimensions.
//!
//! Deng et al., "ArcFace", 2019, section 3.1 (the improved residual unit) and Kim et al., "AdaFace", 2022. A unit is
//! normalised before its first convolution, its stride sits on the last one, and nothing follows the sum of residual
//! and shortcut. The output is the raw feature: its direction is the embedding, its length tells the quality.
//!
//! `table` is the layer table. [`Unfolded`] follows it step by step and is the reference. [`Ir`] is what models run:
//! every batch normalisation is folded into the convolution before or after it, except a unit's first where zeros are
//! padded behind it: what lies outside of the map is zero, not the image of zero.

mod fold;
mod gpu;
mod kernels;
mod stock;
pub mod table;
mod unfolded;

use candle_core::{D, Device, Result, Tensor};
use candle_nn::VarBuilder;

pub use table::Design;
pub(crate) use table::tensors;
pub use unfolded::Unfolded;

use super::weights::WeightsError;
use super::{Architecture, Backbone, Batch, Precision};
use crate::kernel::conv::Arithmetic;
use crate::kernel::isa::Isa;
use crate::kernel::map::Bf16;

/// Sees the output (N, C, H, W) of the first layers, `input_layer`, and of each unit, `body.K`.
pub(crate) type Tap<'a> = &'a mut dyn FnMut(&str, &Tensor) -> Result<()>;
/// Says by name which outputs a [`Tap`] sees.
pub(crate) type Wanted<'a> = dyn Fn(&str) -> bool + Sync + 'a;

/// Why a network cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum IrError {
    /// Not a network of this family.
    #[error("{0} is not an improved residual network")]
    Architecture(Architecture),
    /// Weights that cannot be folded.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Loading failed.
    #[error(transparent)]
    Compute(#[from] candle_core::Error),
}

/// A network with batch normalisation folded.
#[derive(Debug)]
pub struct Ir {
    dim: usize,
    /// Units whose maps give the style, if the network is one that has a style.
    style: Option<[String; 2]>,
    network: Network,
}

#[derive(Debug)]
enum Network {
    Kernels(Box<kernels::Network<f32>>),
    KernelsBf16(Box<kernels::Network<Bf16>>),
    Stock(stock::Network),
    Gpu(Box<gpu::Network>),
}

impl Ir {
    /// Folds tensors that have been checked against [`Architecture::tensors`] and builds the network.
    pub fn new(
        architecture: Architecture,
        dim: usize,
        vb: &VarBuilder,
        device: &Device,
        arithmetic: Arithmetic,
        precision: Precision,
    ) -> std::result::Result<Self, IrError> {
        let design = architecture.ir().ok_or(IrError::Architecture(architecture))?;
        let folded = fold::fold(design, dim, vb)?;
        // What is arranged further is so on the CPU.
        let place = if arithmetic == Arithmetic::Gpu { &Device::Cpu } else { device };
        let vb = VarBuilder::from_tensors(folded.tensors, candle_core::DType::F32, place);
        let table = &folded.table;
        let network = match (arithmetic, precision) {
            (Arithmetic::Kernels, _) if !device.is_cpu() => {
                return Err(candle_core::Error::Msg("the kernels run on the CPU only".into()).into());
            }
            (Arithmetic::Kernels, Precision::F32) => {
                Network::Kernels(Box::new(kernels::Network::load(table, &vb, Isa::current())?))
            }
            (Arithmetic::Kernels, Precision::Bf16) => {
                Network::KernelsBf16(Box::new(kernels::Network::load(table, &vb, Isa::current())?))
            }
            (Arithmetic::Gpu, _) => Network::Gpu(Box::new(gpu::Network::load(table, &vb, device, precision)?)),
            (Arithmetic::Stock, Precision::F32) => Network::Stock(stock::Network::load(table, &vb)?),
            (Arithmetic::Stock, Precision::Bf16) => {
                return Err(candle_core::Error::Msg(
                    "bf16 is for the kernels and for GPUs, not for stock operations".into(),
                )
                .into());
            }
        };
        Ok(Self { dim, style: design.style_units(), network })
    }

    /// The forward pass, with the output of the first layers and of each unit that `wanted` names given to `tap`.
    pub(crate) fn forward_tapped(&self, pixels: &Tensor, wanted: &Wanted, tap: Tap) -> Result<Tensor> {
        match &self.network {
            Network::Kernels(network) => {
                network.forward(pixels, wanted, &mut |name, x| tap(name, &x.permute((0, 3, 1, 2))?))
            }
            Network::KernelsBf16(network) => {
                network.forward(pixels, wanted, &mut |name, x| tap(name, &x.permute((0, 3, 1, 2))?))
            }
            Network::Stock(network) => {
                network.forward(pixels, &mut |name, x| if wanted(name) { tap(name, x) } else { Ok(()) })
            }
            Network::Gpu(network) => network.forward(pixels, wanted, tap),
        }
    }
}

impl Backbone for Ir {
    fn forward(&self, batch: &Batch) -> Result<Tensor> {
        self.forward_tapped(&batch.pixels, &|_| false, &mut |_, _| Ok(()))
    }

    fn forward_with_style(&self, batch: &Batch) -> Result<(Tensor, Option<Tensor>)> {
        let Some(units) = &self.style else { return Ok((self.forward(batch)?, None)) };
        let mut styles = Vec::new();
        let mut tap = |_: &str, map: &Tensor| {
            styles.push(style(map)?);
            Ok(())
        };
        let features = self.forward_tapped(&batch.pixels, &|name| units.iter().any(|unit| unit == name), &mut tap)?;
        Ok((features, Some(Tensor::cat(&styles, 1)?)))
    }

    fn dim(&self) -> usize {
        self.dim
    }
}

/// Mean and unbiased standard deviation over the places of a map: (N, C, H, W) -> (N, C, 2).
fn style(map: &Tensor) -> Result<Tensor> {
    let map = map.flatten_from(2)?.contiguous()?;
    let deviation = map.var_keepdim(D::Minus1)?.sqrt()?;
    Tensor::cat(&[map.mean_keepdim(D::Minus1)?, deviation], D::Minus1)
}

#[cfg(test)]
mod tests;
