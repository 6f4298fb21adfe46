//! What a margin does to the cosine of an embedding to its own class, apart from where the classes are kept: a
//! [`Head`] has all of them, a [`PartialFc`](super::PartialFc) a shard of them and of that a sample.

use std::collections::HashMap;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::target::{Targets, turned_cosine};
use super::{ClassKernel, HeadError, MarginHead, check_shape};

/// How the loss's gradient goes through a margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarginGradient {
    /// The derivative of the margin, as in the authors' code of AdaFace: s·sin θ′ / sin θ for a turned angle θ′, 0
    /// where a limit of angle or cosine binds.
    #[default]
    Exact,
    /// Straight through, as in CVLFace: the cosine's own class passes the gradient on as if there were no margin, by a
    /// factor of s. Angles have no limit and cosines are kept within −1 and 1 only.
    StraightThrough,
}

/// A margin that depends on nothing but an embedding's own cosine and norm.
pub trait Margin: Clone {
    /// Name for logs and checkpoints.
    fn name(&self) -> &'static str;

    /// The scale s of the logits.
    fn scale(&self) -> f64;

    /// How far cosines are kept from −1 and 1, and turned angles from 0 and π.
    fn guard(&self) -> f64;

    /// How the gradient goes through the margin.
    fn gradient(&self) -> MarginGradient {
        MarginGradient::Exact
    }

    /// The margins of one training step's embeddings by their norms (batch, 1), updating the state if there is one. The
    /// batch is that of all ranks.
    ///
    /// # Errors
    /// [`HeadError`] on a batch too small or bad norms; the state may have changed then, so callers work on a clone.
    fn at(&mut self, norms: &Tensor) -> Result<Margins, HeadError>;

    /// See [`MarginHead::margin_scalers`].
    ///
    /// # Errors
    /// [`HeadError::BadNorm`].
    fn margin_scalers(&self, _norms: &Tensor) -> Result<Option<Vec<f64>>, HeadError> {
        Ok(None)
    }

    /// What is added to the cross entropy: the mean over the norms (batch, 1) of a function of each. A scalar.
    ///
    /// # Errors
    /// [`HeadError::Tensor`].
    fn regulariser(&self, _norms: &Tensor) -> Result<Option<Tensor>, HeadError> {
        Ok(None)
    }

    /// See [`MarginHead::buffers`].
    ///
    /// # Errors
    /// [`HeadError::Tensor`].
    fn buffers(&self) -> Result<HashMap<&'static str, Tensor>, HeadError> {
        Ok(HashMap::new())
    }

    /// See [`MarginHead::load_buffers`].
    ///
    /// # Errors
    /// [`HeadError::BadBuffer`].
    fn load_buffers(&mut self, _buffers: &HashMap<String, Tensor>) -> Result<(), HeadError> {
        Ok(())
    }
}

/// The margins of a batch: the own cosine cos θ becomes cos(θ + turn) − less.
#[derive(Debug, Clone, Default)]
pub struct Margins {
    /// Radians (batch, 1), none for 0. A gradient may go through it.
    pub turn: Option<Tensor>,
    /// In cosine (batch, 1), none for 0.
    pub less: Option<Tensor>,
    /// Whether embeddings at 90° and more from their class are spared the turn.
    pub easy: bool,
}

impl Margins {
    /// What the margins add to the cosines (batch, 1) of embeddings to their own classes, (batch, 1).
    pub(super) fn change(&self, own: &Tensor, guard: f64, gradient: MarginGradient) -> Result<Tensor, HeadError> {
        let like_own = |margin: &Tensor| margin.to_dtype(own.dtype())?.to_device(own.device());
        let less = self.less.as_ref().map(like_own).transpose()?;
        let Some(turn) = self.turn.as_ref().map(like_own).transpose()? else {
            return Ok(match less {
                Some(less) => less.neg()?,
                None => own.zeros_like()?.detach(),
            });
        };
        let mut turned = match gradient {
            MarginGradient::Exact => turned_cosine(own, &turn, Some(guard))?,
            MarginGradient::StraightThrough => turned_cosine(&own.detach(), &turn, None)?,
        };
        if self.easy {
            turned = own.detach().gt(0.0)?.where_cond(&turned, own)?;
        }
        if let Some(less) = less {
            turned = (turned - less)?;
        }
        let change = (turned - own)?;
        Ok(match gradient {
            MarginGradient::Exact => change,
            MarginGradient::StraightThrough => change.detach(),
        })
    }
}

/// A margin over all classes: logits of all of them for each embedding.
#[derive(Debug, Clone)]
pub struct Head<M> {
    pub(super) margin: M,
    kernel: ClassKernel,
}

impl<M: Margin> Head<M> {
    /// A head of `margin` over `kernel`.
    pub fn with_margin(margin: M, kernel: ClassKernel) -> Self {
        Self { margin, kernel }
    }

    /// The margin, with its state.
    pub fn margin(&self) -> &M {
        &self.margin
    }
}

impl<M: Margin> MarginHead for Head<M> {
    fn name(&self) -> &'static str {
        self.margin.name()
    }

    fn kernel(&self) -> &ClassKernel {
        &self.kernel
    }

    fn forward(&mut self, unit: &Tensor, norms: &Tensor, labels: &Tensor) -> Result<Tensor, HeadError> {
        let mut margin = self.margin.clone();
        let cosines = self.kernel.cosines(unit, margin.guard())?;
        let targets = Targets::new(labels, &cosines)?;
        check_shape("the norms", norms, &[cosines.dims()[0], 1])?;
        let change = margin.at(norms)?.change(&targets.of(&cosines)?, margin.guard(), margin.gradient())?;
        let logits = (targets.add(&cosines, &change)? * margin.scale())?;
        self.margin = margin;
        Ok(logits)
    }

    fn margin_scalers(&self, norms: &Tensor) -> Result<Option<Vec<f64>>, HeadError> {
        self.margin.margin_scalers(norms)
    }

    fn regulariser(&self, norms: &Tensor) -> Result<Option<Tensor>, HeadError> {
        self.margin.regulariser(norms)
    }

    fn buffers(&self) -> Result<HashMap<&'static str, Tensor>, HeadError> {
        self.margin.buffers()
    }

    fn load_buffers(&mut self, buffers: &HashMap<String, Tensor>) -> Result<(), HeadError> {
        self.margin.load_buffers(buffers)
    }
}

/// Norms (batch, 1) as numbers. They leave the graph here.
///
/// # Errors
/// [`HeadError::BadNorm`]: one NaN would stay in running statistics for the rest of the training.
pub(super) fn checked_norms(norms: &Tensor) -> Result<Vec<f64>, HeadError> {
    let norms = norms.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    match norms.iter().enumerate().find(|(_, norm)| !(norm.is_finite() && **norm >= 0.0)) {
        Some((row, &value)) => Err(HeadError::BadNorm { row, value }),
        None => Ok(norms),
    }
}

/// One finite number of a checkpoint's buffers.
pub(super) fn number(buffers: &HashMap<String, Tensor>, name: &'static str) -> Result<f64, HeadError> {
    let buffer = buffers.get(name).filter(|buffer| buffer.elem_count() == 1).ok_or(HeadError::BadBuffer(name))?;
    let value = buffer.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?[0];
    if value.is_finite() { Ok(value) } else { Err(HeadError::BadBuffer(name)) }
}
