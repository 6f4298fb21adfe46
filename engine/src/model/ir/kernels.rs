//! The folded networks on this crate's CPU kernels: channels-last activations.

use candle_core::{Result, Tensor};
use candle_nn::{Linear, Module, VarBuilder};

use super::Tap;
use super::fold::{HEAD, Table};
use super::table::LAST_SIDE;
use super::unfolded::Squeeze;
use crate::kernel::conv::{ConvSpec, KernelConv, Kind};
use crate::kernel::square::Square;

/// The units with their weights.
#[derive(Debug)]
pub(super) struct Network {
    input: KernelConv,
    body: Vec<Unit>,
    head: Linear,
}

#[derive(Debug)]
struct Unit {
    name: String,
    stride: usize,
    shortcut: Option<Convolution>,
    residual: Vec<Convolution>,
    squeeze: Option<Squeeze>,
}

#[derive(Debug)]
enum Convolution {
    /// 1x1: every `stride`-th pixel, then a matrix product.
    Pointwise {
        stride: usize,
        product: KernelConv,
    },
    Square(Square),
}

impl Convolution {
    fn load(spec: &ConvSpec, lead: Option<[Vec<f32>; 2]>, vb: &VarBuilder) -> Result<Self> {
        Ok(match spec.kind {
            Kind::Pointwise => Self::Pointwise { stride: spec.stride, product: KernelConv::load(spec, vb)? },
            _ => Self::Square(Square::load(spec, lead, vb)?),
        })
    }

    fn forward(&self, x: &Tensor, other: Option<&Tensor>) -> Result<Tensor> {
        match (self, other) {
            (Self::Square(square), other) => square.forward(x, other),
            (Self::Pointwise { stride, product }, Some(other)) => product.forward_add(&every(x, *stride)?, other),
            (Self::Pointwise { stride, product }, None) => product.forward(&every(x, *stride)?),
        }
    }
}

/// Every `stride`-th row and column: (N, H, W, C) -> (N, H / stride, W / stride, C). The maps' sides are multiples.
fn every(x: &Tensor, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return Ok(x.clone());
    }
    let (images, height, width, channels) = x.dims4()?;
    let rows = x.reshape((images * height / stride, stride, width * channels))?.narrow(1, 0, 1)?;
    let pixels = rows.reshape((images * height / stride * width / stride, stride, channels))?.narrow(1, 0, 1)?;
    pixels.contiguous()?.reshape((images, height / stride, width / stride, channels))
}

impl Network {
    pub(super) fn load(table: &Table, vb: &VarBuilder) -> Result<Self> {
        let unit = |unit: &super::fold::Unit| {
            let mut lead = match &unit.lead {
                Some((name, channels)) => {
                    let get = |part| vb.get(*channels, &format!("{name}.{part}"))?.to_vec1::<f32>();
                    Some([get("scale")?, get("shift")?])
                }
                None => None,
            };
            let squeeze = unit.squeeze.as_ref().map(|(name, channels)| Squeeze::load(*channels, &vb.pp(name)));
            Ok(Unit {
                name: unit.name.clone(),
                stride: unit.stride,
                shortcut: unit.shortcut.as_ref().map(|spec| Convolution::load(spec, None, vb)).transpose()?,
                // The first takes it along.
                residual: unit
                    .residual
                    .iter()
                    .map(|spec| Convolution::load(spec, lead.take(), vb))
                    .collect::<Result<_>>()?,
                squeeze: squeeze.transpose()?,
            })
        };
        // (dim, C, places) -> (dim, places, C).
        let (places, head) = (LAST_SIDE * LAST_SIDE, vb.pp(HEAD));
        let weight = head.get((table.dim, table.last * places), "weight")?;
        let weight = weight.reshape((table.dim, table.last, places))?.transpose(1, 2)?.contiguous()?;
        let weight = weight.reshape((table.dim, places * table.last))?;
        Ok(Self {
            input: KernelConv::load(&table.input, vb)?,
            body: table.body.iter().map(unit).collect::<Result<_>>()?,
            head: Linear::new(weight, Some(head.get(table.dim, "bias")?)),
        })
    }

    /// (N, 3, 112, 112) -> (N, dim); `tap` sees (N, H, W, C).
    pub(super) fn forward(&self, pixels: &Tensor, tap: Tap) -> Result<Tensor> {
        let mut x = self.input.forward(&pixels.contiguous()?)?;
        tap("input_layer", &x)?;
        for unit in &self.body {
            let shortcut = match &unit.shortcut {
                Some(convolution) => convolution.forward(&x, None)?,
                None => every(&x, unit.stride)?,
            };
            let Some((last, before)) = unit.residual.split_last() else { continue };
            for convolution in before {
                x = convolution.forward(&x, None)?;
            }
            x = match &unit.squeeze {
                Some(squeeze) => (weighed(&last.forward(&x, None)?, squeeze)? + shortcut)?,
                None => last.forward(&x, Some(&shortcut))?,
            };
            tap(&unit.name, &x)?;
        }
        self.head.forward(&x.flatten_from(1)?)
    }
}

/// A map (N, H, W, C) times the factors of its channels.
fn weighed(map: &Tensor, squeeze: &Squeeze) -> Result<Tensor> {
    let (images, _, _, channels) = map.dims4()?;
    let factors = squeeze.factors(&map.flatten(1, 2)?.mean(1)?)?;
    map.broadcast_mul(&factors.reshape((images, 1, 1, channels))?)
}
