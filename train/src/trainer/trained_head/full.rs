//! A head over all classes.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};

use super::Classes;
use crate::head::{HeadError, MarginHead};
use crate::trainer::TrainError;
use crate::trainer::descent::{Descent, Stride};
use crate::trainer::means::Directions;

/// The name of the class kernel in checkpoints.
const KERNEL: &str = "kernel";

/// The head, and the gradient of its kernel (dim, classes).
pub(super) struct Full<H> {
    head: H,
    gradient: Option<Tensor>,
}

impl<H: MarginHead> Full<H> {
    pub(super) fn new(head: H) -> Self {
        Self { head, gradient: None }
    }
}

impl<H: MarginHead> Classes for Full<H> {
    fn name(&self) -> &'static str {
        self.head.name()
    }

    fn classes(&self) -> usize {
        self.head.kernel().classes()
    }

    fn loss(&mut self, unit: &Tensor, norms: &Tensor, labels: &Tensor) -> Result<Tensor, HeadError> {
        let logits = self.head.forward(unit, norms, labels)?;
        self.head.loss(&logits, norms, labels)
    }

    fn margin_scalers(&self, norms: &Tensor) -> Result<Option<Vec<f64>>, HeadError> {
        self.head.margin_scalers(norms)
    }

    fn collect(&mut self, found: &GradStore, _factor: f64) -> Result<(), HeadError> {
        if let Some(found) = found.get(self.head.kernel().var()) {
            self.gradient = Some(match self.gradient.take() {
                Some(sum) => (sum + found)?,
                None => found.clone(),
            });
        }
        Ok(())
    }

    fn gradient(&self) -> Option<&Tensor> {
        self.gradient.as_ref()
    }

    fn step(&mut self, descent: &mut Descent, stride: Stride) -> Result<(), TrainError> {
        match self.gradient.take() {
            Some(gradient) => descent.step_kernel(self.head.kernel(), &gradient, stride),
            None => Ok(()),
        }
    }

    fn turn(&mut self, directions: &Directions) -> Result<(), TrainError> {
        let var = self.head.kernel().var();
        let classes = self.classes();
        let mut values = var.flatten_all()?.to_vec1::<f32>()?;
        for (class, direction) in directions {
            direction.iter().enumerate().for_each(|(row, value)| values[row * classes + *class as usize] = *value);
        }
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?.to_device(var.device())?)?;
        Ok(())
    }

    fn tensors(&self) -> Result<HashMap<&'static str, Tensor>, HeadError> {
        let mut tensors = self.head.buffers()?;
        // A copy: the kernel itself is changed in place.
        tensors.insert(KERNEL, self.head.kernel().var().copy()?.to_device(&Device::Cpu)?);
        Ok(tensors)
    }

    fn load(&mut self, tensors: &HashMap<String, Tensor>) -> Result<(), TrainError> {
        let var = self.head.kernel().var();
        let kernel = tensors.get(KERNEL).filter(|kernel| kernel.shape() == var.shape());
        let kernel = kernel.ok_or(HeadError::BadBuffer(KERNEL))?;
        var.set(&kernel.to_device(var.device())?)?;
        Ok(self.head.load_buffers(tensors)?)
    }
}
