//! Network, head and optimiser together: what one step does.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};

use super::TrainError;
use super::descent::{Descent, Stride};
use super::distil::{Lesson, Teacher};
use super::means::Directions;
use super::trained_head::TrainedHead;
use crate::head::split_norm;
use crate::network::{Gradients, Network};
use crate::optimise::{SgdConfig, clip};

/// What names in checkpoints begin with.
pub(super) const NETWORK: &str = "network.";
const MOMENTUM: &str = "momentum.";
const HEAD: &str = "head.";

/// What is measured of one step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Measured {
    /// What is made small: margin loss and teacher's, as weighted.
    pub loss: f64,
    /// The teacher's part of it, as weighted.
    pub distillation: Option<f64>,
    /// Norm of every embedding.
    pub norms: Vec<f64>,
    /// ẑ of each, for AdaFace.
    pub scalers: Vec<f64>,
    /// Length of all gradients together, ahead of clipping.
    pub gradient: f64,
}

/// A part of a step's images, ready for the network.
#[derive(Debug)]
pub struct Part {
    /// (n, 3, 112, 112).
    pub images: Tensor,
    /// (n).
    pub labels: Tensor,
    /// What the teacher says of them.
    pub lesson: Option<Lesson>,
    /// What dropout is drawn from.
    pub seed: u64,
}

/// What learns.
pub struct Learner {
    /// The network.
    pub network: Network,
    head: Option<TrainedHead>,
    head_weight: f64,
    gradients: Gradients,
    descent: Descent,
    clip: Option<f64>,
    measured: Measured,
}

impl std::fmt::Debug for Learner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Learner").field("network", &self.network.architecture()).field("head", &self.head).finish()
    }
}

impl Learner {
    /// A learner at the beginning, which runs where the network does: the head's classes have to be there too. The
    /// network's frozen units stay so.
    ///
    /// # Errors
    /// [`TrainError::Optimise`].
    pub fn new(
        network: Network,
        head: Option<TrainedHead>,
        head_weight: f64,
        sgd: SgdConfig,
        clip: Option<f64>,
    ) -> Result<Self, TrainError> {
        let (gradients, descent) = (network.gradients(), Descent::new(&network, sgd)?);
        let measured = Measured::default();
        Ok(Self { network, head, head_weight, gradients, descent, clip, measured })
    }

    /// Has classes, where there is a head, begin at directions that the network says.
    ///
    /// # Errors
    /// Those of `directions`, [`TrainError::Head`], [`TrainError::Tensor`].
    pub(super) fn turn_classes(
        &mut self,
        directions: impl FnOnce(&mut Network) -> Result<Directions, TrainError>,
    ) -> Result<(), TrainError> {
        match &mut self.head {
            Some(head) => head.0.turn(&directions(&mut self.network)?),
            None => Ok(()),
        }
    }

    /// The gradients that parts have added up to. Those of a network on tensors are not fetched.
    pub fn gradients(&self) -> &Gradients {
        &self.gradients
    }

    /// Adds the gradients of a part whose share of the step is `share`.
    ///
    /// # Errors
    /// [`TrainError::Network`], [`TrainError::Head`], [`TrainError::NotFinite`] where the loss is no number.
    pub fn add(&mut self, part: &Part, teacher: Option<&Teacher>, share: f64) -> Result<(), TrainError> {
        let (raw, tape) = self.network.forward(&part.images, part.seed)?;
        let raw = Var::from_tensor(&raw)?;
        let (unit, norms) = split_norm(&raw)?;
        let mut whole: Option<Tensor> = None;
        if let Some(head) = &mut self.head {
            whole = Some((head.0.loss(&unit, &norms, &part.labels)? * self.head_weight)?);
            self.measured.scalers.extend(head.0.margin_scalers(&norms)?.unwrap_or_default());
        }
        if let (Some(teacher), Some(lesson)) = (teacher, &part.lesson) {
            let of_teacher = teacher.loss(&unit, &norms, &lesson.on(unit.device())?)?;
            *self.measured.distillation.get_or_insert(0.0) += share * number(&of_teacher)?;
            whole = Some(match whole {
                Some(whole) => (whole + of_teacher)?,
                None => of_teacher,
            });
        }
        let Some(whole) = whole else { return Err(TrainError::Other("there is nothing to learn from".into())) };
        let value = number(&whole)?;
        if !value.is_finite() {
            return Err(TrainError::NotFinite);
        }
        self.measured.loss += share * value;
        self.measured.norms.extend(norms.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f64::from));
        let found = (whole * share)?.backward()?;
        let of_raw = found.get(&raw).ok_or(TrainError::NotFinite)?;
        self.network.backward(tape, of_raw, &mut self.gradients)?;
        match &mut self.head {
            Some(head) => Ok(head.0.collect(&found, share * self.head_weight)?),
            None => Ok(()),
        }
    }

    /// Changes all weights by what parts have added up to, and begins anew.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] where a gradient is no number; nothing has changed then.
    pub fn apply(&mut self, rate: f64) -> Result<Measured, TrainError> {
        let mut measured = std::mem::take(&mut self.measured);
        let of_classes = self.head.as_ref().and_then(|head| head.0.gradient());
        measured.gradient = self.descent.length(&self.gradients, of_classes)?;
        if !measured.gradient.is_finite() {
            return Err(TrainError::NotFinite);
        }
        let stride = Stride { rate, scale: self.clip.map_or(1.0, |most| clip(measured.gradient, most)) };
        self.descent.step(&mut self.network, &self.gradients, stride)?;
        if let Some(head) = &mut self.head {
            head.0.step(&mut self.descent, stride)?;
        }
        self.gradients.clear();
        Ok(measured)
    }

    /// All that it has learnt, by name, on the host. Fetches the network's parameters.
    ///
    /// # Errors
    /// [`TrainError::Tensor`], [`TrainError::Head`].
    pub fn tensors(&mut self) -> Result<HashMap<String, Tensor>, TrainError> {
        self.network.fetch()?;
        let named = |(name, tensor): (String, Tensor)| (format!("{NETWORK}{name}"), tensor);
        let mut tensors: HashMap<String, Tensor> =
            self.network.parameters().tensors()?.into_iter().map(named).collect();
        if let Some(head) = &self.head {
            let of_head = head.0.tensors()?.into_iter();
            tensors.extend(of_head.map(|(name, tensor)| (format!("{HEAD}{name}"), tensor)));
        }
        for (name, momentum) in self.descent.momenta()? {
            let length = momentum.len();
            let momentum = Tensor::from_vec(momentum, length, &Device::Cpu)?;
            tensors.insert(format!("{MOMENTUM}{name}"), momentum);
        }
        Ok(tensors)
    }

    /// As [`Self::tensors`], of which all are finite.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`], and as there.
    pub fn finite_tensors(&mut self) -> Result<HashMap<String, Tensor>, TrainError> {
        let tensors = self.tensors()?;
        for tensor in tensors.values() {
            // A sum is finite only if all are: infinities and what is no number stay in it.
            let sum = tensor.to_dtype(DType::F64)?.abs()?.sum_all()?.to_scalar::<f64>()?;
            if !sum.is_finite() {
                return Err(TrainError::NotFinite);
            }
        }
        Ok(tensors)
    }

    /// Takes over what [`Self::tensors`] gave.
    ///
    /// # Errors
    /// [`TrainError::Network`], [`TrainError::Head`] where something is missing or of another shape.
    pub fn load(&mut self, tensors: &HashMap<String, Tensor>) -> Result<(), TrainError> {
        let part = |prefix: &str| -> HashMap<String, Tensor> {
            let strip =
                |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()));
            tensors.iter().filter_map(strip).collect()
        };
        self.network.load(&part(NETWORK))?;
        if let Some(head) = &mut self.head {
            head.0.load(&part(HEAD))?;
        }
        let mut momenta = std::collections::BTreeMap::new();
        for (name, momentum) in part(MOMENTUM) {
            momenta.insert(name, momentum.flatten_all()?.to_vec1::<f32>()?);
        }
        self.descent.set_momenta(momenta)
    }
}

fn number(scalar: &Tensor) -> candle_core::Result<f64> {
    Ok(f64::from(scalar.to_scalar::<f32>()?))
}
