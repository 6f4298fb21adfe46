//! Folding batch normalisation into the convolutions around it.

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;

use super::table::{Design, LAST_SIDE, Layer, LayerKind};
use super::{IrError, WeightsError};
use crate::kernel::conv::{Activation, ConvSpec, Kind};

const EPS: f64 = 1e-5;

/// The folded layer table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) input: ConvSpec,
    pub(super) body: Vec<Unit>,
    /// Channels of the last map.
    pub(super) last: usize,
    /// Length of the feature.
    pub(super) dim: usize,
}

/// A unit with its normalisations folded.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) stride: usize,
    pub(super) shortcut: Option<ConvSpec>,
    /// Prefix and channels of `scale` and `shift` ahead of the first convolution, where they cannot be folded.
    pub(super) lead: Option<(String, usize)>,
    pub(super) residual: Vec<ConvSpec>,
    /// Prefix and channels of squeeze and excitation.
    pub(super) squeeze: Option<(String, usize)>,
}

/// Name of the folded linear layer at the end: `<HEAD>.weight` (dim, C * 49), `<HEAD>.bias`.
pub(super) const HEAD: &str = "output_layer";

/// Table and tensors, f32 on the device of the weights.
#[derive(Debug)]
pub(super) struct Folded {
    pub(super) table: Table,
    pub(super) tensors: HashMap<String, Tensor>,
}

/// Folds a network's tensors. Everything is computed in double precision, so that only the result is rounded.
pub(super) fn fold(design: Design, dim: usize, vb: &VarBuilder) -> std::result::Result<Folded, IrError> {
    let mut folder = Folder { vb, tensors: HashMap::new() };
    let (_, mut input, _) = folder.sequence(&design.input())?;
    let mut body = Vec::new();
    for unit in design.body() {
        let shortcut = folder.sequence(&unit.shortcut)?.1.pop();
        let (lead, residual, squeeze) = folder.sequence(&unit.residual)?;
        body.push(Unit { name: unit.name, stride: unit.stride, shortcut, lead, residual, squeeze });
    }
    folder.head(design.last(), dim)?;
    let Some(input) = input.pop() else {
        return Err(candle_core::Error::Msg("the table begins without a convolution".into()).into());
    };
    Ok(Folded { table: Table { input, body, last: design.last(), dim }, tensors: folder.tensors })
}

type Sequence = (Option<(String, usize)>, Vec<ConvSpec>, Option<(String, usize)>);

struct Folder<'a> {
    vb: &'a VarBuilder<'a>,
    tensors: HashMap<String, Tensor>,
}

/// x -> scale x + shift, per channel.
struct Affine {
    scale: Tensor,
    shift: Tensor,
}

impl Folder<'_> {
    fn get(&self, shape: &[usize], name: &str) -> Result<Tensor> {
        self.vb.get(shape, name)?.to_dtype(DType::F64)
    }

    fn put(&mut self, name: String, value: &Tensor) -> std::result::Result<(), IrError> {
        let value = value.to_dtype(DType::F32)?;
        let finite = value.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| value.is_finite());
        if !finite {
            return Err(WeightsError::NotFinite(name).into());
        }
        self.tensors.insert(name, value);
        Ok(())
    }

    /// What a normalisation does with its running statistics.
    fn norm(&self, name: &str, channels: usize, affine: bool) -> Result<Affine> {
        let part = |part: &str| self.get(&[channels], &format!("{name}.{part}"));
        let mut scale = (part("running_var")? + EPS)?.sqrt()?.recip()?;
        if affine {
            scale = (scale * part("weight")?)?;
        }
        let mut shift = (part("running_mean")? * &scale)?.neg()?;
        if affine {
            shift = (shift + part("bias")?)?;
        }
        Ok(Affine { scale, shift })
    }

    fn sequence(&mut self, layers: &[Layer]) -> std::result::Result<Sequence, IrError> {
        let (mut lead, mut convolutions, mut squeeze) = (None, Vec::new(), None);
        let mut rest = layers;
        while let Some((layer, behind)) = rest.split_first() {
            rest = behind;
            match layer.kind {
                // A normalisation behind a convolution is taken along with it below, so this is a first one.
                LayerKind::Norm { channels } => lead = Some((layer.name.clone(), channels)),
                LayerKind::Conv { .. } => {
                    let first = if convolutions.is_empty() { lead.as_ref() } else { None };
                    let (spec, used, folded) = self.convolution(layer, behind, first)?;
                    if folded {
                        lead = None;
                    }
                    convolutions.push(spec);
                    rest = behind.get(used..).unwrap_or_default();
                }
                LayerKind::PRelu { .. } => {
                    return Err(candle_core::Error::Msg(format!("{} follows no convolution", layer.name)).into());
                }
                LayerKind::Squeeze { channels } => {
                    for part in ["fc1.weight", "fc2.weight"] {
                        let name = format!("{}.{part}", layer.name);
                        self.tensors.insert(name.clone(), self.vb.get_unchecked(&name)?);
                    }
                    squeeze = Some((layer.name.clone(), channels));
                }
            }
        }
        if let Some((name, channels)) = &lead {
            let Affine { scale, shift } = self.norm(name, *channels, true)?;
            self.put(format!("{name}.scale"), &scale)?;
            self.put(format!("{name}.shift"), &shift)?;
        }
        Ok((lead, convolutions, squeeze))
    }

    /// Folds what follows a convolution into it, and `lead` too unless zeros are padded in between. Gives how many of
    /// the layers `behind` it are in it now and whether `lead` is.
    fn convolution(
        &mut self,
        layer: &Layer,
        behind: &[Layer],
        lead: Option<&(String, usize)>,
    ) -> std::result::Result<(ConvSpec, usize, bool), IrError> {
        let LayerKind::Conv { input, output, kernel, stride } = layer.kind else {
            return Err(candle_core::Error::Msg(format!("{} is no convolution", layer.name)).into());
        };
        let mut weight = self.get(&[output, input, kernel, kernel], &format!("{}.weight", layer.name))?;
        let mut bias = Tensor::zeros(output, DType::F64, weight.device())?;
        let folds = kernel == 1;
        if let (true, Some((name, channels))) = (folds, lead) {
            let Affine { scale, shift } = self.norm(name, *channels, true)?;
            bias = weight.reshape((output, input))?.matmul(&shift.reshape((input, 1))?)?.reshape(output)?;
            weight = weight.broadcast_mul(&scale.reshape((1, input, 1, 1))?)?;
        }
        let mut used = 0;
        if let Some(Layer { name, kind: LayerKind::Norm { channels } }) = behind.first() {
            let Affine { scale, shift } = self.norm(name, *channels, true)?;
            weight = weight.broadcast_mul(&scale.reshape((output, 1, 1, 1))?)?;
            bias = ((bias * scale)? + shift)?;
            used = 1;
        }
        let mut activation = Activation::None;
        if let Some(Layer { name, kind: LayerKind::PRelu { channels } }) = behind.get(used) {
            let slopes = self.get(&[*channels], &format!("{name}.weight"))?;
            self.put(format!("{}.prelu.weight", layer.name), &slopes)?;
            activation = Activation::PRelu;
            used += 1;
        }
        self.put(format!("{}.weight", layer.name), &weight)?;
        self.put(format!("{}.bias", layer.name), &bias)?;
        let kind = if kernel == 1 { Kind::Pointwise } else { Kind::Full };
        let padding = [kernel / 2; 2];
        let spec = ConvSpec { name: layer.name.clone(), kind, input, output, kernel, stride, padding, activation };
        Ok((spec, used, folds && lead.is_some()))
    }

    /// The linear layer with the normalisation of the map before it and that of the feature after it.
    fn head(&mut self, channels: usize, dim: usize) -> std::result::Result<(), IrError> {
        let places = LAST_SIDE * LAST_SIDE;
        let before = self.norm("output_layer.0", channels, true)?;
        let after = self.norm("output_layer.4", dim, false)?;
        let weight = self.get(&[dim, channels * places], "output_layer.3.weight")?;
        let weight = weight.broadcast_mul(&after.scale.reshape((dim, 1))?)?.reshape((dim, channels, places))?;
        let shifted = weight.sum(2)?.matmul(&before.shift.reshape((channels, 1))?)?.reshape(dim)?;
        let bias = ((self.get(&[dim], "output_layer.3.bias")? * &after.scale)? + shifted)?;
        let bias = (bias + after.shift)?;
        let weight = weight.broadcast_mul(&before.scale.reshape((1, channels, 1))?)?;
        self.put(format!("{HEAD}.weight"), &weight.reshape((dim, channels * places))?)?;
        self.put(format!("{HEAD}.bias"), &bias)
    }
}
