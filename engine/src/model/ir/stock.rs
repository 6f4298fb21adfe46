//! The folded networks on candle's own operations: any device, and the reference for the kernels.

use candle_core::{Module, Result, Tensor};
use candle_nn::{Linear, VarBuilder};

use super::Tap;
use super::fold::{HEAD, Table};
use super::table::LAST_SIDE;
use super::unfolded::Squeeze;
use crate::kernel::conv::{CandleConv, StockConv};

/// The units with their weights.
#[derive(Debug)]
pub(super) struct Network {
    input: StockConv,
    body: Vec<Unit>,
    head: Linear,
}

#[derive(Debug)]
struct Unit {
    name: String,
    stride: usize,
    shortcut: Option<StockConv>,
    /// Scale and shift (1, C, 1, 1).
    lead: Option<[Tensor; 2]>,
    residual: Vec<StockConv>,
    squeeze: Option<Squeeze>,
}

impl Network {
    pub(super) fn load(table: &Table, vb: &VarBuilder) -> Result<Self> {
        let unit = |unit: &super::fold::Unit| {
            let lead = match &unit.lead {
                Some((name, channels)) => {
                    let get = |part| vb.get(*channels, &format!("{name}.{part}"))?.reshape((1, *channels, 1, 1));
                    Some([get("scale")?, get("shift")?])
                }
                None => None,
            };
            let squeeze = unit.squeeze.as_ref().map(|(name, channels)| Squeeze::load(*channels, &vb.pp(name)));
            Ok(Unit {
                name: unit.name.clone(),
                stride: unit.stride,
                shortcut: unit.shortcut.as_ref().map(|spec| StockConv::load(spec, vb)).transpose()?,
                lead,
                residual: unit.residual.iter().map(|spec| StockConv::load(spec, vb)).collect::<Result<_>>()?,
                squeeze: squeeze.transpose()?,
            })
        };
        Ok(Self {
            input: StockConv::load(&table.input, vb)?,
            body: table.body.iter().map(unit).collect::<Result<_>>()?,
            head: candle_nn::linear(table.last * LAST_SIDE * LAST_SIDE, table.dim, vb.pp(HEAD))?,
        })
    }

    /// (N, 3, 112, 112) -> (N, dim).
    pub(super) fn forward(&self, pixels: &Tensor, tap: Tap) -> Result<Tensor> {
        let mut x = self.input.forward(pixels)?;
        tap("input_layer", &x)?;
        for unit in &self.body {
            let shortcut = match &unit.shortcut {
                Some(convolution) => convolution.forward(&x)?,
                None if unit.stride == 1 => x.clone(),
                None => x.max_pool2d_with_stride(1, unit.stride)?,
            };
            if let Some([scale, shift]) = &unit.lead {
                x = x.broadcast_mul(scale)?.broadcast_add(shift)?;
            }
            for convolution in &unit.residual {
                x = convolution.forward(&x)?;
            }
            if let Some(squeeze) = &unit.squeeze {
                x = squeeze.apply(&x)?;
            }
            x = (x + shortcut)?;
            tap(&unit.name, &x)?;
        }
        self.head.forward(&x.flatten_from(1)?)
    }
}
