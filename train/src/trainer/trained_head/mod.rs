//! A head as a learner trains it: over all classes, or over a sample of them.
//!
//! Both give a loss that gradients of embeddings go through, keep what parts of a step have said of classes, and move
//! classes by it. What differs is whose gradient that is: that of the whole class kernel, by the graph, or that of the rows
//! which the parts have sampled.

mod full;
mod partial;

use std::collections::HashMap;

use candle_core::Tensor;
use candle_core::backprop::GradStore;

use super::TrainError;
use super::descent::{Descent, Stride};
use super::means::Directions;
use crate::head::{Alone, HeadError, Margin, MarginHead, PartialFc};

/// A head that a [`Learner`](super::Learner) trains together with a network.
pub struct TrainedHead(pub(super) Box<dyn Classes>);

impl TrainedHead {
    /// A head that looks at all classes in every step.
    pub fn full(head: impl MarginHead + 'static) -> Self {
        Self(Box::new(full::Full::new(head)))
    }

    /// A head that looks at a sample of classes in every step, or in every part of one.
    pub fn partial<M: Margin + 'static>(head: PartialFc<M, Alone>) -> Self {
        Self(Box::new(partial::Partial::new(head)))
    }

    /// Name for logs; see [`MarginHead::name`].
    pub fn name(&self) -> &'static str {
        self.0.name()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.0.classes()
    }
}

impl std::fmt::Debug for TrainedHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrainedHead").field("name", &self.name()).field("classes", &self.classes()).finish()
    }
}

/// What a learner asks of a head. Steps are of one part or several: [`loss`](Self::loss) and [`collect`](Self::collect) for
/// each, then [`step`](Self::step).
pub(super) trait Classes {
    /// See [`MarginHead::name`].
    fn name(&self) -> &'static str;

    /// Number of classes.
    fn classes(&self) -> usize;

    /// The loss of a part, a scalar: of unit embeddings (n, dim), their norms (n, 1) and labels (n). Gradients reach the
    /// embeddings, and the norms with MagFace.
    fn loss(&mut self, unit: &Tensor, norms: &Tensor, labels: &Tensor) -> Result<Tensor, HeadError>;

    /// See [`MarginHead::margin_scalers`].
    fn margin_scalers(&self, norms: &Tensor) -> Result<Option<Vec<f64>>, HeadError>;

    /// Adds what the last loss says of classes to what other parts of the step have said. `found` are the gradients of that
    /// loss times `factor`.
    fn collect(&mut self, found: &GradStore, factor: f64) -> Result<(), HeadError>;

    /// The gradient that parts have added up to, where there is one: what counts for the length of all gradients.
    fn gradient(&self) -> Option<&Tensor>;

    /// Moves classes by it, and begins anew.
    fn step(&mut self, descent: &mut Descent, stride: Stride) -> Result<(), TrainError>;

    /// Gives classes other directions to begin with.
    fn turn(&mut self, directions: &Directions) -> Result<(), TrainError>;

    /// What a checkpoint keeps, by name, on the host; momenta that a [`Descent`] keeps are not among it.
    fn tensors(&self) -> Result<HashMap<&'static str, Tensor>, HeadError>;

    /// Takes over what a checkpoint kept.
    fn load(&mut self, tensors: &HashMap<String, Tensor>) -> Result<(), TrainError>;
}

#[cfg(test)]
mod tests;
