//! A head over a sample of classes: PartialFC on one rank, with steps of its own that move sampled rows only.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};

use super::Classes;
use crate::head::{Alone, HeadError, Margin, PartialFc, RowGradient};
use crate::trainer::TrainError;
use crate::trainer::descent::{Descent, Stride};
use crate::trainer::means::Directions;

/// The head, the gradient that its last loss has, and the sum of those of a step's parts before it.
pub(super) struct Partial<M> {
    head: PartialFc<M, Alone>,
    last: Option<RowGradient>,
    sum: Option<RowGradient>,
}

impl<M: Margin> Partial<M> {
    pub(super) fn new(head: PartialFc<M, Alone>) -> Self {
        Self { head, last: None, sum: None }
    }
}

impl<M: Margin> Classes for Partial<M> {
    fn name(&self) -> &'static str {
        self.head.margin().name()
    }

    fn classes(&self) -> usize {
        self.head.kernel().shard().classes()
    }

    fn loss(&mut self, unit: &Tensor, norms: &Tensor, labels: &Tensor) -> Result<Tensor, HeadError> {
        let step = self.head.forward(unit, norms, labels)?;
        self.last = Some(step.gradient);
        // The value of the one and the gradient of the other.
        Ok((&step.carrier - step.carrier.detach())?.affine(1.0, step.loss)?)
    }

    fn margin_scalers(&self, norms: &Tensor) -> Result<Option<Vec<f64>>, HeadError> {
        self.head.margin().margin_scalers(norms)
    }

    fn collect(&mut self, _found: &GradStore, factor: f64) -> Result<(), HeadError> {
        if let Some(RowGradient { rows, values }) = self.last.take() {
            let part = RowGradient { rows, values: values.affine(factor, 0.0)? };
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum.plus(&part)?,
                None => part,
            });
        }
        Ok(())
    }

    fn gradient(&self) -> Option<&Tensor> {
        self.sum.as_ref().map(|sum| &sum.values)
    }

    fn step(&mut self, descent: &mut Descent, stride: Stride) -> Result<(), TrainError> {
        if let Some(RowGradient { rows, values }) = self.sum.take() {
            let values = values.affine(stride.scale, 0.0)?;
            self.head.update(&RowGradient { rows, values }, descent.of_rows(stride))?;
        }
        Ok(())
    }

    fn turn(&mut self, directions: &Directions) -> Result<(), TrainError> {
        let rows: Vec<u32> = directions.keys().copied().collect();
        let values: Vec<f32> = directions.values().flatten().copied().collect();
        let values = Tensor::from_vec(values, (rows.len(), self.head.kernel().dim()), &Device::Cpu)?;
        Ok(self.head.set_rows(&rows, &values)?)
    }

    fn tensors(&self) -> Result<HashMap<&'static str, Tensor>, HeadError> {
        let host = |(name, tensor): (&'static str, Tensor)| Ok((name, tensor.to_device(&Device::Cpu)?));
        self.head.buffers()?.into_iter().map(host).collect()
    }

    fn load(&mut self, tensors: &HashMap<String, Tensor>) -> Result<(), TrainError> {
        Ok(self.head.load_buffers(tensors)?)
    }
}
