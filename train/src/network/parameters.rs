//! What a network is made of, by name, and the gradients of it.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use vultus_engine::random::Random;

use super::NetworkError;

/// What becomes of a parameter in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Follows its gradient and decays: weights, biases and slopes.
    Weight,
    /// Follows its gradient and does not decay: weight and bias of a batch normalisation.
    Norm,
    /// A running mean or variance, which forward passes move.
    Running,
}

/// One tensor of a network.
#[derive(Debug, Clone)]
pub struct Parameter {
    name: String,
    shape: Vec<usize>,
    role: Role,
    pub(super) frozen: bool,
    /// Its values, in the order of PyTorch's tensor.
    pub values: Vec<f32>,
}

impl Parameter {
    /// As the published state dictionaries call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// What becomes of it.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether an optimiser changes it: it has a gradient, and its unit is not frozen.
    pub fn is_trained(&self) -> bool {
        self.role != Role::Running && !self.frozen
    }

    /// Whether weight decay applies. As AdaFace trains: to all but batch normalisation, slopes and bias included.
    pub fn decays(&self) -> bool {
        self.role == Role::Weight
    }
}

/// How a new parameter is filled.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    /// The same value throughout.
    Value(f32),
    /// Normally distributed around 0 (He et al. 2015, over the outputs that a value reaches).
    Normal { fan_out: usize },
}

/// All parameters of a network, in the order in which PyTorch registers them.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    all: Vec<Parameter>,
    starts: Vec<Start>,
    by_name: HashMap<String, usize>,
}

impl Parameters {
    /// Adds a parameter, without values as yet. Gives its place.
    pub(super) fn add(&mut self, name: String, shape: &[usize], role: Role, start: Start) -> usize {
        let place = self.all.len();
        self.by_name.insert(name.clone(), place);
        self.all.push(Parameter { name, shape: shape.to_vec(), role, frozen: false, values: Vec::new() });
        self.starts.push(start);
        place
    }

    /// Fills all of them as a training starts. Every tensor has random numbers of its own.
    pub(super) fn start(&mut self, seed: u64) {
        self.all.par_iter_mut().zip(&self.starts).for_each(|(parameter, start)| {
            let count = parameter.shape.iter().product();
            parameter.values = match *start {
                Start::Value(value) => vec![value; count],
                Start::Normal { fan_out } => {
                    let mut random = Random::named(seed, &parameter.name);
                    let deviation = (2.0 / fan_out as f64).sqrt();
                    (0..count).map(|_| (random.normal() * deviation) as f32).collect()
                }
            };
        });
    }

    /// In the order of registration.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.all.iter()
    }

    /// In the order of registration, for an optimiser.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        self.all.iter_mut()
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.by_name.get(name).map(|place| &self.all[*place])
    }

    /// One of them.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Parameter> {
        self.by_name.get(name).map(|place| &mut self.all[*place])
    }

    pub(super) fn values(&self, place: usize) -> &[f32] {
        &self.all[place].values
    }

    pub(super) fn at_mut(&mut self, place: usize) -> &mut Parameter {
        &mut self.all[place]
    }

    /// All of them as tensors, for a checkpoint.
    ///
    /// # Errors
    /// [`NetworkError::Tensor`].
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>, NetworkError> {
        let tensor = |parameter: &Parameter| {
            let tensor = Tensor::from_slice(&parameter.values, parameter.shape.as_slice(), &Device::Cpu)?;
            Ok((parameter.name.clone(), tensor))
        };
        self.all.iter().map(tensor).collect()
    }

    /// Takes over the values of a checkpoint. Names that the network does not have are left alone, such as
    /// `num_batches_tracked`. After an error nothing has changed.
    ///
    /// # Errors
    /// [`NetworkError::Missing`], [`NetworkError::WrongShape`], [`NetworkError::NotFinite`].
    pub fn load(&mut self, tensors: &HashMap<String, Tensor>) -> Result<(), NetworkError> {
        let values = self.all.iter().map(|parameter| read(tensors, &parameter.name, &parameter.shape));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        for (parameter, values) in self.all.iter_mut().zip(values) {
            parameter.values = values;
        }
        Ok(())
    }
}

/// The values of a tensor by name, checked.
pub(super) fn read(tensors: &HashMap<String, Tensor>, name: &str, shape: &[usize]) -> Result<Vec<f32>, NetworkError> {
    let tensor = tensors.get(name).ok_or_else(|| NetworkError::Missing(name.to_owned()))?;
    if tensor.dims() != shape {
        let (expected, actual) = (shape.to_vec(), tensor.dims().to_vec());
        return Err(NetworkError::WrongShape { name: name.to_owned(), expected, actual });
    }
    let values = tensor.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err(NetworkError::NotFinite(name.to_owned()))
    }
}

/// The gradients of a network's parameters. Backward passes add to them.
#[derive(Debug, Clone)]
pub struct Gradients {
    /// Beside the parameters; empty for what has none, and for what has not been fetched.
    pub(super) all: Vec<Vec<f32>>,
    /// Those of a network on tensors, which stay where it is.
    tensors: Option<Vec<Option<Tensor>>>,
    by_name: HashMap<String, usize>,
}

impl Gradients {
    /// Zeros for all parameters that are trained, of a network on the kernels. [`super::Network::gradients`] gives what any
    /// network adds to.
    pub fn zeros(parameters: &Parameters) -> Self {
        let zeros = |parameter: &Parameter| {
            if parameter.is_trained() { vec![0f32; parameter.values.len()] } else { Vec::new() }
        };
        let all = parameters.all.iter().map(zeros).collect();
        Self { all, tensors: None, by_name: parameters.by_name.clone() }
    }

    /// Nothing yet, of a network on tensors.
    pub(super) fn on_tensors(parameters: &Parameters) -> Self {
        let count = parameters.all.len();
        Self { all: vec![Vec::new(); count], tensors: Some(vec![None; count]), by_name: parameters.by_name.clone() }
    }

    /// Sets all of them to zero, for the next step.
    pub fn clear(&mut self) {
        match &mut self.tensors {
            Some(tensors) => {
                tensors.fill(None);
                self.all.iter_mut().for_each(Vec::clear);
            }
            None => self.all.par_iter_mut().for_each(|values| values.fill(0.0)),
        }
    }

    /// Brings those of a network on tensors to where [`Self::get`] and [`Self::iter`] find them.
    ///
    /// # Errors
    /// [`NetworkError::Tensor`].
    pub fn fetch(&mut self) -> Result<(), NetworkError> {
        for (values, tensor) in self.all.iter_mut().zip(self.tensors.iter().flatten()) {
            *values = tensor.as_ref().map_or(Ok(Vec::new()), super::tensors::host)?;
        }
        Ok(())
    }

    /// The gradient of a parameter, in the order of its values; `None` where it has none.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.by_name.get(name).map(|place| &self.all[*place][..]).filter(|values| !values.is_empty())
    }

    /// The gradient of a parameter of a network on tensors, in the type of its sums; `None` where it has none.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.as_ref()?[*self.by_name.get(name)?].as_ref()
    }

    /// In the order of [`Parameters::iter`], empty for parameters without one.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.all.iter().map(Vec::as_slice)
    }

    /// Those of a network on tensors, in the order of [`Parameters::iter`].
    pub(crate) fn tensors(&self) -> &[Option<Tensor>] {
        self.tensors.as_deref().unwrap_or_default()
    }

    /// Adds a layer's gradient.
    pub(super) fn add(&mut self, place: usize, sums: &[f64]) {
        self.all[place].iter_mut().zip(sums).for_each(|(value, sum)| *value += *sum as f32);
    }

    /// Adds a layer's gradient, of the parameter's shape.
    pub(super) fn add_tensor(&mut self, place: usize, gradient: &Tensor) -> candle_core::Result<()> {
        let Some(tensors) = &mut self.tensors else {
            candle_core::bail!("these are the gradients of a network on the kernels")
        };
        tensors[place] = Some(match tensors[place].take() {
            Some(sum) => (sum + gradient)?,
            None => gradient.clone(),
        });
        Ok(())
    }
}
