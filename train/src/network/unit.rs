//! A unit of a network: convolutions with batch normalisation and PReLU one after the other, and a shortcut around them.
//!
//! Of a forward pass a unit keeps its input and what each convolution gave; normalised and activated maps are made again
//! on the way back.

use vultus_engine::kernel::training::{Added, Features, Geometry, Moments, Norm, Sums, Workspace};

use super::parameters::{Gradients, Parameters};
use super::{DROPOUT, NetworkError};

/// The weight of a batch's statistics in the running ones.
pub(super) const MOMENTUM: f64 = 0.1;

/// The places of a batch normalisation's parameters: weight and bias, where it has them, then running mean and variance.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchNorm {
    pub(super) affine: Option<[usize; 2]>,
    pub(super) running: [usize; 2],
}

/// A convolution with what follows it; numbers are places of parameters.
#[derive(Debug, Clone)]
pub(super) struct Fused {
    pub(super) geometry: Geometry,
    pub(super) weight: usize,
    /// Added ahead of the normalisation, so that it moves nothing but the running mean.
    pub(super) bias: Option<usize>,
    pub(super) norm: BatchNorm,
    pub(super) slopes: Option<usize>,
}

/// What is added at the end of a unit.
#[derive(Debug, Clone)]
pub(super) enum Shortcut {
    /// Nothing.
    None,
    /// Every `stride`-th row and column of the input.
    Skip { stride: usize },
    /// The input through a convolution.
    Projected(Fused),
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    pub(super) lead: Option<BatchNorm>,
    /// Whether values are dropped behind the lead.
    pub(super) dropout: bool,
    pub(super) convolutions: Vec<Fused>,
    pub(super) shortcut: Shortcut,
}

/// Which statistics a forward pass normalises by, and what it drops.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    /// The batch's own, which move the running ones, or the running ones.
    pub(super) of_batch: bool,
    /// What dropout is drawn from; `None` for none.
    pub(super) seed: Option<u64>,
}

impl Pass {
    /// That of a trained network.
    pub(super) const TRAINED: Self = Self { of_batch: false, seed: None };
}

/// A convolution's output and its normalisation.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) y: Features,
    pub(super) norm: Norm,
}

/// What a unit keeps of a forward pass.
#[derive(Debug)]
pub(super) struct Kept {
    x: Features,
    lead: Option<Norm>,
    pub(super) outputs: Vec<Output>,
    shortcut: Option<Output>,
    seed: Option<u64>,
}

impl BatchNorm {
    /// The normalisation of a map, to which `bias` is yet to be added.
    fn norm(
        &self,
        workspace: &Workspace,
        parameters: &mut Parameters,
        x: &Features,
        bias: Option<usize>,
        of_batch: bool,
    ) -> Result<Norm, NetworkError> {
        let bias = bias.map(|place| parameters.values(place).to_vec());
        let bias = |at: usize| bias.as_ref().map_or(0.0, |bias| f64::from(bias[at]));
        if !of_batch {
            let [mean, variance] = self.running.map(|place| parameters.values(place));
            let mean: Vec<f64> = mean.iter().enumerate().map(|(at, mean)| f64::from(*mean) - bias(at)).collect();
            let variance: Vec<f64> = variance.iter().map(|variance| f64::from(*variance)).collect();
            let [weight, shift] = self.affine(parameters);
            return Ok(Norm::constant(&mean, &variance, weight, shift));
        }
        let Moments { mean, variance, count } = workspace.moments(x);
        if count < 2 {
            return Err(NetworkError::BatchTooSmall);
        }
        let unbiased = count as f64 / (count as f64 - 1.0);
        let [running_mean, running_variance] = self.running;
        let moved = |old: &mut f32, new: f64| *old = ((1.0 - MOMENTUM) * f64::from(*old) + MOMENTUM * new) as f32;
        for (at, (old, new)) in parameters.at_mut(running_mean).values.iter_mut().zip(&mean).enumerate() {
            moved(old, new + bias(at));
        }
        for (old, new) in parameters.at_mut(running_variance).values.iter_mut().zip(&variance) {
            moved(old, new * unbiased);
        }
        let [weight, shift] = self.affine(parameters);
        Ok(Norm::of_batch(&Moments { mean, variance, count }, weight, shift))
    }

    fn affine<'a>(&self, parameters: &'a Parameters) -> [Option<&'a [f32]>; 2] {
        self.affine.map_or([None; 2], |places| places.map(|place| Some(parameters.values(place))))
    }

    fn add(&self, gradients: &mut Gradients, sums: &Sums) {
        if let Some([weight, bias]) = self.affine {
            gradients.add(weight, &sums.weight);
            gradients.add(bias, &sums.bias);
        }
    }
}

impl Fused {
    fn slopes<'a>(&self, parameters: &'a Parameters) -> Option<&'a [f32]> {
        self.slopes.map(|place| parameters.values(place))
    }

    fn forward(
        &self,
        workspace: &Workspace,
        parameters: &mut Parameters,
        x: &Features,
        of_batch: bool,
    ) -> Result<Output, NetworkError> {
        let y = workspace.convolve(&self.geometry, x, parameters.values(self.weight))?;
        let norm = self.norm.norm(workspace, parameters, &y, self.bias, of_batch)?;
        Ok(Output { y, norm })
    }

    /// The gradient of the convolution's output, in the frame that the gradient of its input needs, from that of what
    /// came out in the end. Adds those of normalisation, slopes and bias.
    fn back(
        &self,
        workspace: &Workspace,
        parameters: &Parameters,
        output: Output,
        gradient: &Features,
        side: [usize; 2],
        gradients: &mut Gradients,
    ) -> Result<Features, NetworkError> {
        let Output { y, norm } = output;
        let slopes = self.slopes(parameters);
        let sums = workspace.sums(gradient, &y, &norm, slopes)?;
        self.norm.add(gradients, &sums);
        if let Some(place) = self.slopes {
            gradients.add(place, &sums.slopes);
        }
        if let Some(place) = self.bias.filter(|_| !norm.is_of_batch()) {
            // A batch's own mean takes the bias away again, and its gradient with it.
            let of_bias: Vec<f64> = sums.bias.iter().zip(norm.scale()).map(|(sum, by)| sum * f64::from(*by)).collect();
            gradients.add(place, &of_bias);
        }
        let frame = self.geometry.gradient_frame(side);
        Ok(workspace.spread(gradient, &y, (&norm, slopes), &sums, None, frame)?)
    }
}

/// Rows and columns of a map.
fn side(x: &Features) -> [usize; 2] {
    let [_, height, width, _] = x.shape();
    [height, width]
}

impl Unit {
    /// Zeros that it needs around its input.
    pub(super) fn frame(&self) -> usize {
        match (&self.lead, self.convolutions.first()) {
            (None, Some(first)) => first.geometry.frame(),
            _ => 0,
        }
    }

    /// All places of its parameters.
    pub(super) fn places(&self) -> Vec<usize> {
        let of_norm = |norm: &BatchNorm| norm.running.into_iter().chain(norm.affine.into_iter().flatten());
        let projected = match &self.shortcut {
            Shortcut::Projected(projected) => Some(projected),
            _ => None,
        };
        let mut places: Vec<usize> = self.lead.iter().flat_map(of_norm).collect();
        for fused in self.convolutions.iter().chain(projected) {
            places.extend(of_norm(&fused.norm).chain([fused.weight]).chain(fused.bias).chain(fused.slopes));
        }
        places
    }

    /// What a convolution is given: `None` for the unit's input as it is.
    fn input(
        &self,
        workspace: &Workspace,
        parameters: &Parameters,
        kept: &Kept,
        index: usize,
    ) -> Result<Option<Features>, NetworkError> {
        let frame = self.convolutions[index].geometry.frame();
        if let Some(before) = index.checked_sub(1) {
            let Output { y, norm } = &kept.outputs[before];
            let slopes = self.convolutions[before].slopes(parameters);
            return Ok(Some(workspace.activate(y, norm, slopes, None, frame)?));
        }
        let Some(lead) = &kept.lead else { return Ok(None) };
        let mut input = workspace.activate(&kept.x, lead, None, None, frame)?;
        if let Some(seed) = kept.seed {
            workspace.drop_out(&mut input, DROPOUT, seed);
        }
        Ok(Some(input))
    }

    /// Runs it. The output has a frame of so many zeros.
    pub(super) fn forward(
        &self,
        workspace: &Workspace,
        parameters: &mut Parameters,
        x: Features,
        pass: Pass,
        frame: usize,
    ) -> Result<(Features, Kept), NetworkError> {
        let of_batch = pass.of_batch;
        let lead = self.lead.map(|lead| lead.norm(workspace, parameters, &x, None, of_batch)).transpose()?;
        let seed = pass.seed.filter(|_| self.dropout);
        let mut kept = Kept { x, lead, outputs: Vec::with_capacity(self.convolutions.len()), shortcut: None, seed };
        for (index, fused) in self.convolutions.iter().enumerate() {
            let input = self.input(workspace, parameters, &kept, index)?;
            let output = fused.forward(workspace, parameters, input.as_ref().unwrap_or(&kept.x), of_batch)?;
            kept.outputs.push(output);
        }
        if let Shortcut::Projected(projected) = &self.shortcut {
            kept.shortcut = Some(projected.forward(workspace, parameters, &kept.x, of_batch)?);
        }
        let added = match (&self.shortcut, &kept.shortcut) {
            (Shortcut::Skip { stride }, _) => Some(Added { features: &kept.x, stride: *stride, norm: None }),
            (_, Some(Output { y, norm })) => Some(Added { features: y, stride: 1, norm: Some(norm) }),
            _ => None,
        };
        let (Some(last), Some(Output { y, norm })) = (self.convolutions.last(), kept.outputs.last()) else {
            return Err(NetworkError::Tensor(candle_core::Error::Msg("a unit without convolutions".into())));
        };
        let output = workspace.activate(y, norm, last.slopes(parameters), added, frame)?;
        Ok((output, kept))
    }

    /// Adds the gradients of its parameters, from that of its output; gives that of its input where it is asked for.
    pub(super) fn backward(
        &self,
        workspace: &Workspace,
        parameters: &Parameters,
        mut kept: Kept,
        gradient: Features,
        gradients: &mut Gradients,
        of_input: bool,
    ) -> Result<Option<Features>, NetworkError> {
        let mut inner = None;
        for (index, fused) in self.convolutions.iter().enumerate().rev() {
            let Some(output) = kept.outputs.pop() else { break };
            let input = self.input(workspace, parameters, &kept, index)?;
            let x = input.as_ref().unwrap_or(&kept.x);
            let side = side(x);
            let outer = inner.as_ref().unwrap_or(&gradient);
            let of_output = fused.back(workspace, parameters, output, outer, side, gradients)?;
            // No longer needed, and large.
            drop(inner.take());
            workspace.weight_gradient(&fused.geometry, x, &of_output, &mut gradients.all[fused.weight])?;
            drop(input);
            if index == 0 && !of_input && self.lead.is_none() {
                break;
            }
            let weight = parameters.values(fused.weight);
            inner = Some(workspace.input_gradient(&fused.geometry, &of_output, weight, side)?);
        }
        let Kept { x, lead, shortcut, seed, .. } = kept;
        let projected = match (&self.shortcut, shortcut) {
            (Shortcut::Projected(projected), Some(output)) => {
                let of_output = projected.back(workspace, parameters, output, &gradient, side(&x), gradients)?;
                let sums = &mut gradients.all[projected.weight];
                workspace.weight_gradient(&projected.geometry, &x, &of_output, sums)?;
                let weight = parameters.values(projected.weight);
                let input = || workspace.input_gradient(&projected.geometry, &of_output, weight, side(&x));
                of_input.then(input).transpose()?
            }
            _ => None,
        };
        let Some(mut inner) = inner else { return Ok(None) };
        let other = match (&self.shortcut, &projected) {
            (Shortcut::Skip { stride }, _) => Some((&gradient, *stride)),
            (_, Some(projected)) => Some((projected, 1)),
            _ => None,
        };
        if let (Some(norm), Some(lead)) = (&self.lead, &lead) {
            if let Some(seed) = seed {
                workspace.drop_out(&mut inner, DROPOUT, seed);
            }
            let sums = workspace.sums(&inner, &x, lead, None)?;
            norm.add(gradients, &sums);
            let spread = || workspace.spread(&inner, &x, (lead, None), &sums, other, 0);
            return Ok(of_input.then(spread).transpose()?);
        }
        if let Some((other, stride)) = other {
            workspace.add(&mut inner, other, stride)?;
        }
        Ok(Some(inner))
    }
}
