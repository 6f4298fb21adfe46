//! The folded networks in candle's operations, arranged for a GPU, in f32 or bf16.
//!
//! A unit's first normalisation is part of the convolution behind it ([`crate::kernel::gpu`]). The biases of what is summed
//! at the end of a unit are not added at all: they only shift the channels of the next map, so the shift is carried along
//! at loading and met where the map is used, in that same normalisation, in the next shortcut, at last in the linear layer.
//!
//! In bf16 convolutions take and give bf16, except for the first, and cuDNN sums in f32. The sums of the units are f32, as
//! their rounding would add up over the network, and so are the linear layer and the feature. In deep networks bias and PReLU
//! are f32 as well.

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::{Linear, VarBuilder};

use super::fold::{self, HEAD, Table};
use super::table::LAST_SIDE;
use super::unfolded::Squeeze;
use super::{Tap, Wanted};
use crate::kernel::convolution::Given;
use crate::kernel::gpu::{GpuConv, Types};
use crate::kernel::network::Tensors;
use crate::model::Precision;

/// Side of the input.
const SIDE: usize = 112;
/// Channels of the first map.
const STEM: usize = 64;
/// Units of the deepest network whose embeddings stay within a cosine of 0.9999 in bf16 when bias and activation are bf16, too.
const DEEP: usize = 24;

/// The units with their weights.
#[derive(Debug)]
pub(super) struct Network {
    /// What the convolutions of the units compute in.
    dtype: DType,
    input: GpuConv,
    body: Vec<Unit>,
    head: Linear,
}

#[derive(Debug)]
struct Unit {
    name: String,
    stride: usize,
    shortcut: Option<GpuConv>,
    residual: Vec<GpuConv>,
    squeeze: Option<Squeeze>,
    /// What its output lacks, (1, C, 1, 1).
    lacking: Tensor,
}

impl Network {
    /// Arranges folded tensors, best given on the CPU, and puts them on a device.
    pub(super) fn load(table: &Table, vb: &VarBuilder, device: &Device, precision: Precision) -> Result<Self> {
        let dtype = match precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        };
        let input = Tensors::load(&table.input, vb)?;
        let input = GpuConv::new(&input.given(&table.input, None), [SIDE; 2], device, DType::F32)?;
        let finish = if table.body.len() > DEEP { DType::F32 } else { dtype };
        let types = Types { products: dtype, finish };
        let mut loader = Loader { vb, device, types, side: SIDE, lacking: vec![0.0; STEM] };
        let body = table.body.iter().map(|unit| loader.unit(unit)).collect::<Result<_>>()?;
        let head = loader.head(table)?;
        Ok(Self { dtype, input, body, head })
    }

    /// (N, 3, 112, 112) -> (N, dim), f32; `tap` sees (N, C, H, W) of the layers that `wanted` names.
    pub(super) fn forward(&self, pixels: &Tensor, wanted: &Wanted, tap: Tap) -> Result<Tensor> {
        let mut x = self.input.forward(pixels)?;
        if wanted("input_layer") {
            tap("input_layer", &x)?;
        }
        for unit in &self.body {
            x = unit.forward(&x, self.dtype)?;
            if wanted(&unit.name) {
                tap(&unit.name, &x.broadcast_add(&unit.lacking)?)?;
            }
        }
        self.head.forward(&x.flatten_from(1)?)
    }
}

impl Unit {
    /// From and to f32.
    fn forward(&self, x: &Tensor, dtype: DType) -> Result<Tensor> {
        let operand = x.to_dtype(dtype)?;
        let shortcut = match &self.shortcut {
            Some(convolution) => convolution.forward(&operand)?.to_dtype(DType::F32)?,
            None if self.stride == 1 => x.clone(),
            None => x.max_pool2d_with_stride(1, self.stride)?,
        };
        let mut y = operand;
        for convolution in &self.residual {
            y = convolution.forward(&y)?;
        }
        let mut y = y.to_dtype(DType::F32)?;
        if let Some(squeeze) = &self.squeeze {
            let (images, channels, ..) = y.dims4()?;
            let factors = squeeze.factors(&y.flatten_from(2)?.mean(D::Minus1)?)?;
            y = y.broadcast_mul(&factors.reshape((images, channels, 1, 1))?)?;
        }
        y + shortcut
    }
}

/// What units are loaded with, one after the other.
struct Loader<'a> {
    vb: &'a VarBuilder<'a>,
    device: &'a Device,
    types: Types,
    /// Side of the map that comes in.
    side: usize,
    /// What is to be added to each channel of that map.
    lacking: Vec<f64>,
}

impl Loader<'_> {
    fn unit(&mut self, unit: &fold::Unit) -> Result<Unit> {
        let Self { vb, device, types, .. } = *self;
        let lead = self.lead(unit)?;
        let convolution = |given: &Given, side: usize| {
            // What is only multiplied has nothing to finish.
            let finish = if given.slopes.is_some() { types.finish } else { types.products };
            GpuConv::new(given, [side; 2], device, Types { finish, ..types })
        };
        let mut lacking = self.lacking.clone();
        let mut shortcut = None;
        if let Some(spec) = &unit.shortcut {
            let tensors = Tensors::load(spec, vb)?;
            let given = tensors.given(spec, None);
            // One pixel to one pixel, so the shift of the input is one of the output.
            lacking = given.weight.chunks_exact(given.input).map(|row| products(row, &self.lacking)).collect();
            lacking.iter_mut().zip(given.bias).for_each(|(sum, bias)| *sum += f64::from(*bias));
            shortcut = Some(convolution(&Given { bias: &vec![0.0; given.output], ..given }, self.side)?);
        }
        let mut residual = Vec::with_capacity(unit.residual.len());
        for (index, spec) in unit.residual.iter().enumerate() {
            let lead = lead.as_ref().filter(|_| index == 0);
            let tensors = Tensors::load(spec, vb)?;
            let given = tensors.given(spec, lead.map(|[scale, shift]| [&scale[..], &shift[..]]));
            let last = index + 1 == unit.residual.len();
            // What squeeze and excitation scales has to have its bias, and so does the input of a shifted convolution.
            if last && unit.squeeze.is_none() && lead.is_none() {
                lacking.iter_mut().zip(given.bias).for_each(|(sum, bias)| *sum += f64::from(*bias));
                residual.push(convolution(&Given { bias: &vec![0.0; given.output], ..given }, self.side)?);
            } else {
                residual.push(convolution(&given, self.side)?);
            }
            self.side /= spec.stride;
        }
        let squeeze = match &unit.squeeze {
            Some((name, channels)) => {
                let squeeze = Squeeze::load(*channels, &vb.pp(name))?;
                Some(squeeze.map(|tensor| tensor.to_device(device))?)
            }
            None => None,
        };
        self.lacking = lacking;
        let lacking: Vec<f32> = self.lacking.iter().map(|value| *value as f32).collect();
        let lacking = Tensor::from_slice(&lacking, (1, lacking.len(), 1, 1), device)?;
        Ok(Unit { name: unit.name.clone(), stride: unit.stride, shortcut, residual, squeeze, lacking })
    }

    /// Scale and shift of the first convolution's input, with what the input lacks.
    fn lead(&self, unit: &fold::Unit) -> Result<Option<[Vec<f32>; 2]>> {
        let [scale, shift] = match &unit.lead {
            Some((name, channels)) => {
                let get = |part| self.vb.get(*channels, &format!("{name}.{part}"))?.to_vec1::<f32>();
                [get("scale")?, get("shift")?]
            }
            None if self.lacking.iter().all(|value| *value == 0.0) => return Ok(None),
            None => [vec![1.0; self.lacking.len()], vec![0.0; self.lacking.len()]],
        };
        let whole =
            |((scale, shift), lacking): ((&f32, &f32), &f64)| (f64::from(*shift) + f64::from(*scale) * lacking) as f32;
        let shift = scale.iter().zip(&shift).zip(&self.lacking).map(whole).collect();
        Ok(Some([scale, shift]))
    }

    /// The linear layer, with what the last map lacks.
    fn head(&self, Table { last, dim, .. }: &Table) -> Result<Linear> {
        let places = LAST_SIDE * LAST_SIDE;
        let vb = self.vb.pp(HEAD);
        let weight = vb.get((*dim, last * places), "weight")?;
        let lacking = Tensor::from_slice(&self.lacking, (*last, 1), vb.device())?;
        let sums = weight.to_dtype(DType::F64)?.reshape((*dim, *last, places))?.sum(2)?;
        let bias = (vb.get(*dim, "bias")?.to_dtype(DType::F64)? + sums.matmul(&lacking)?.flatten_all()?)?;
        let bias = bias.to_dtype(DType::F32)?.to_device(self.device)?;
        Ok(Linear::new(weight.to_device(self.device)?, Some(bias)))
    }
}

fn products(a: &[f32], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum()
}
