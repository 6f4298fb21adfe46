//! A unit on tensors, forward and back. What is kept of a forward pass is what the kernels keep: the unit's input and the
//! output of each convolution.

use candle_core::{Result, Tensor};
use vultus_engine::kernel::training::dropout_factors;

use super::super::parameters::Gradients;
use super::super::unit::{BatchNorm, Fused, MOMENTUM, Pass, Shortcut, Unit};
use super::super::{DROPOUT, NetworkError};
use super::norm::{Moments, Norm, mask, moved};
use super::{Tensors, conv};

/// A convolution's output and its normalisation.
#[derive(Debug, Clone)]
pub(super) struct Output {
    pub(super) y: Tensor,
    pub(super) norm: Norm,
}

/// What a unit keeps of a forward pass.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    x: Tensor,
    lead: Option<Norm>,
    pub(super) outputs: Vec<Output>,
    shortcut: Option<Output>,
    /// What dropout multiplied by.
    dropped: Option<Tensor>,
}

impl BatchNorm {
    /// The normalisation of a map, to which `bias` is yet to be added.
    fn norm_tensors(
        &self,
        tensors: &mut Tensors,
        x: &Tensor,
        bias: Option<usize>,
        of_batch: bool,
    ) -> std::result::Result<Norm, NetworkError> {
        let [mean, variance] = self.running;
        let affine = match self.affine {
            Some([weight, bias]) => Some([tensors.channels(weight)?, tensors.channels(bias)?]),
            None => None,
        };
        if !of_batch {
            let shifted = match bias {
                Some(bias) => (tensors.value(mean) - tensors.value(bias))?,
                None => tensors.value(mean).clone(),
            };
            return Ok(Norm::new(&shifted, tensors.value(variance), affine, None)?);
        }
        let moments = Moments::of(&x.to_dtype(tensors.types.sums)?)?;
        let count = moments.count;
        if count < 2 {
            return Err(NetworkError::BatchTooSmall);
        }
        let with_bias = match bias {
            Some(bias) => (&moments.mean + tensors.value(bias))?,
            None => moments.mean.clone(),
        };
        let unbiased = moments.variance.affine(count as f64 / (count as f64 - 1.0), 0.0)?;
        let mean_after = moved(tensors.value(mean), &with_bias, MOMENTUM)?;
        let variance_after = moved(tensors.value(variance), &unbiased, MOMENTUM)?;
        tensors.set(mean, mean_after);
        tensors.set(variance, variance_after);
        Ok(Norm::new(&moments.mean, &moments.variance, affine, Some(count))?)
    }

    fn add_tensors(&self, tensors: &Tensors, gradients: &mut Gradients, weight: &Tensor, bias: &Tensor) -> Result<()> {
        let Some([to_weight, to_bias]) = self.affine else { return Ok(()) };
        tensors.add(gradients, to_weight, weight)?;
        tensors.add(gradients, to_bias, bias)
    }
}

impl Fused {
    /// Its weights (O, C or 1, k, k) in the type of maps.
    fn weight_tensor(&self, tensors: &Tensors) -> Result<Tensor> {
        tensors.value(self.weight).reshape(self.geometry.weight_shape().as_slice())?.to_dtype(tensors.types.maps)
    }

    fn slope_tensor(&self, tensors: &Tensors) -> Result<Option<Tensor>> {
        self.slopes.map(|place| tensors.channels(place)).transpose()
    }

    fn forward_tensors(
        &self,
        tensors: &mut Tensors,
        x: &Tensor,
        of_batch: bool,
    ) -> std::result::Result<Output, NetworkError> {
        let y = conv::forward(&self.geometry, x, &self.weight_tensor(tensors)?)?;
        let norm = self.norm.norm_tensors(tensors, &y, self.bias, of_batch)?;
        Ok(Output { y, norm })
    }

    /// The gradient of the convolution's output from that of what came out in the end. Adds those of normalisation,
    /// slopes and bias.
    fn back_tensors(
        &self,
        tensors: &Tensors,
        output: &Output,
        gradient: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        let Output { y, norm } = output;
        let slopes = self.slope_tensor(tensors)?;
        let (of_y, sums) = norm.back(y, slopes.as_ref(), gradient)?;
        self.norm.add_tensors(tensors, gradients, &sums.weight, &sums.bias)?;
        if let Some((place, of_slopes)) = self.slopes.zip(sums.slopes) {
            tensors.add(gradients, place, &of_slopes)?;
        }
        if let Some(place) = self.bias.filter(|_| !norm.is_of_batch()) {
            // A batch's own mean takes the bias away again, and its gradient with it.
            tensors.add(gradients, place, &(sums.bias * norm.scale()?)?)?;
        }
        of_y.to_dtype(tensors.types.maps)
    }

    /// Adds the gradient of the weights; gives that of the input where it is asked for, in the type of sums.
    fn through(
        &self,
        tensors: &Tensors,
        x: &Tensor,
        of_output: &Tensor,
        gradients: &mut Gradients,
        of_input: bool,
    ) -> Result<Option<Tensor>> {
        tensors.add(gradients, self.weight, &conv::weight_gradient(&self.geometry, x, of_output)?)?;
        if !of_input {
            return Ok(None);
        }
        let (_, _, height, width) = x.dims4()?;
        let weight = self.weight_tensor(tensors)?;
        let found = conv::input_gradient(&self.geometry, of_output, &weight, [height, width])?;
        Ok(Some(found.to_dtype(tensors.types.sums)?))
    }
}

impl Unit {
    /// What a convolution is given.
    fn input_tensor(&self, tensors: &Tensors, kept: &Kept, index: usize) -> Result<Tensor> {
        let input = match (index.checked_sub(1), &kept.lead) {
            (Some(before), _) => {
                let Output { y, norm } = &kept.outputs[before];
                norm.activate(y, self.convolutions[before].slope_tensor(tensors)?.as_ref())?
            }
            (None, Some(lead)) => {
                let input = lead.apply(&kept.x)?;
                match &kept.dropped {
                    Some(factors) => (input * factors)?,
                    None => input,
                }
            }
            (None, None) => return Ok(kept.x.clone()),
        };
        input.to_dtype(tensors.types.maps)
    }

    /// Runs it. The output is in the type of sums.
    pub(super) fn forward_tensors(
        &self,
        tensors: &mut Tensors,
        x: Tensor,
        pass: Pass,
    ) -> std::result::Result<(Tensor, Kept), NetworkError> {
        let of_batch = pass.of_batch;
        let lead = self.lead.map(|lead| lead.norm_tensors(tensors, &x, None, of_batch)).transpose()?;
        let dropped = match (pass.seed.filter(|_| self.dropout), &lead) {
            (Some(seed), Some(_)) => {
                let (images, channels, height, width) = x.dims4()?;
                let factors = dropout_factors(DROPOUT, seed, images * height, width * channels);
                Some(mask(factors, [images, channels, height, width], &x)?)
            }
            _ => None,
        };
        let mut kept = Kept { x, lead, outputs: Vec::with_capacity(self.convolutions.len()), shortcut: None, dropped };
        for (index, fused) in self.convolutions.iter().enumerate() {
            let input = self.input_tensor(tensors, &kept, index)?;
            kept.outputs.push(fused.forward_tensors(tensors, &input, of_batch)?);
        }
        let (Some(last), Some(Output { y, norm })) = (self.convolutions.last(), kept.outputs.last()) else {
            return Err(NetworkError::Tensor(candle_core::Error::Msg("a unit without convolutions".into())));
        };
        let inner = norm.activate(y, last.slope_tensor(tensors)?.as_ref())?;
        let output = match &self.shortcut {
            Shortcut::None => inner,
            Shortcut::Skip { stride } => (inner + conv::every(&kept.x, *stride)?.to_dtype(tensors.types.sums)?)?,
            Shortcut::Projected(projected) => {
                let output = projected.forward_tensors(tensors, &kept.x, of_batch)?;
                let sum = (inner + output.norm.apply(&output.y)?)?;
                kept.shortcut = Some(output);
                sum
            }
        };
        Ok((output, kept))
    }

    /// Adds the gradients of its parameters, from that of its output in the type of sums; gives that of its input where it
    /// is asked for.
    pub(super) fn backward_tensors(
        &self,
        tensors: &Tensors,
        mut kept: Kept,
        gradient: Tensor,
        gradients: &mut Gradients,
        of_input: bool,
    ) -> Result<Option<Tensor>> {
        let mut inner: Option<Tensor> = None;
        for (index, fused) in self.convolutions.iter().enumerate().rev() {
            let Some(output) = kept.outputs.pop() else { break };
            let outer = inner.take();
            let of_output = fused.back_tensors(tensors, &output, outer.as_ref().unwrap_or(&gradient), gradients)?;
            // No longer needed, and large.
            drop((output, outer));
            let x = self.input_tensor(tensors, &kept, index)?;
            let goes_on = index > 0 || of_input || self.lead.is_some();
            inner = fused.through(tensors, &x, &of_output, gradients, goes_on)?;
        }
        let Kept { x, lead, shortcut, dropped, .. } = kept;
        let (_, _, height, width) = x.dims4()?;
        let other = match (&self.shortcut, shortcut) {
            (Shortcut::Projected(projected), Some(output)) => {
                let of_output = projected.back_tensors(tensors, &output, &gradient, gradients)?;
                projected.through(tensors, &x, &of_output, gradients, of_input)?
            }
            (Shortcut::Skip { stride }, _) if of_input => Some(conv::every_back(&gradient, *stride, [height, width])?),
            _ => None,
        };
        let Some(mut inner) = inner else { return Ok(None) };
        if let (Some(norm), Some(lead)) = (&self.lead, &lead) {
            if let Some(factors) = &dropped {
                inner = (inner * factors)?;
            }
            let (of_x, sums) = lead.back(&x, None, &inner)?;
            norm.add_tensors(tensors, gradients, &sums.weight, &sums.bias)?;
            inner = of_x;
        }
        if !of_input {
            return Ok(None);
        }
        Ok(Some(match other {
            Some(other) => (inner + other)?,
            None => inner,
        }))
    }
}
