//! Face networks in training: forward passes that keep what gradients need, and the gradients.
//!
//! A network runs on the kernels of the engine ([`vultus_engine::kernel::training`]), on plain buffers with a tape of its
//! own; only what goes in and what comes out are tensors. The margin head behind it runs in candle: its gradient with
//! respect to the embeddings is what [`Network::backward`] starts from.
//!
//! Units, parameter names and their order are those of the published state dictionaries, so that checkpoints load; a
//! MobileFaceNet, which is published with its batch normalisation folded, has a `<layer>.norm` behind every convolution
//! here and is folded again by [`Network::export`].
//!
//! | what | as in the published code |
//! |---|---|
//! | batch normalisation | ε 1e-5; running statistics move by 0.1 a step, to the unbiased variance |
//! | dropout | 0.4, ahead of the linear layer |
//! | start | convolutions and the linear layer normal (He et al. 2015, outputs), slopes 0.25, the rest 0 or 1 |
//!
//! With the same seed, the same bits, whatever the number of threads. [`Network::use_tensors`] has the same network run on
//! candle's tensors instead, on a GPU or, to check it, on the CPU.
//!
//! # Use
//! ```no_run
//! use candle_core::{DType, Device, Tensor, Var};
//! use vultus_engine::model::Architecture;
//! use vultus_train::head::{AdaFace, AdaFaceConfig, ClassKernel, MarginHead, loss, split_norm};
//! use vultus_train::network::{Gradients, Network};
//!
//! # fn main() -> anyhow::Result<()> {
//! let mut network = Network::new(Architecture::Ir18, 512, 1)?;
//! let mut gradients = Gradients::zeros(network.parameters());
//! let mut head = AdaFace::new(AdaFaceConfig::default(), ClassKernel::seeded(512, 10, 1, DType::F32, &Device::Cpu)?)?;
//! let pixels = Tensor::zeros((4, 3, 112, 112), DType::F32, &Device::Cpu)?;
//! let labels = Tensor::new(&[3u32, 1, 4, 1], &Device::Cpu)?;
//!
//! let (raw, tape) = network.forward(&pixels, 0)?;
//! let raw = Var::from_tensor(&raw)?;
//! let (unit, norms) = split_norm(&raw)?;
//! let head_gradients = loss(&head.forward(&unit, &norms, &labels)?, &labels)?.backward()?;
//! network.backward(tape, head_gradients.get(&raw).expect("the loss depends on it"), &mut gradients)?;
//! # Ok(())
//! # }
//! ```

mod backend;
mod calibrate;
mod fold;
mod freeze;
mod layout;
mod parameters;
mod tensors;
#[cfg(test)]
mod twin;
mod unit;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use vultus_engine::kernel::training::{Features, Workspace};
use vultus_engine::model::Architecture;

pub use parameters::{Gradients, Parameter, Parameters, Role};
use tensors::Tensors;
use unit::{Kept, Pass, Unit};

/// The share of values that is dropped ahead of the linear layer.
const DROPOUT: f64 = 0.4;
/// Colours and side of a crop.
const CROP: [usize; 3] = [3, 112, 112];

/// Why a network did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// An operation on tensors or maps failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A network that cannot be trained here.
    #[error("{0} cannot be trained")]
    Unsupported(Architecture),
    /// A checkpoint lacks a tensor.
    #[error("the checkpoint has no {0}")]
    Missing(String),
    /// A tensor of another shape than the network's.
    #[error("{name} has shape {actual:?}, the network wants {expected:?}")]
    WrongShape {
        /// Its name.
        name: String,
        /// The network's.
        expected: Vec<usize>,
        /// What was found.
        actual: Vec<usize>,
    },
    /// A tensor with a value that is no number or infinite.
    #[error("{0} has a value that is not finite")]
    NotFinite(String),
    /// Units that cannot be frozen.
    #[error("cannot freeze: {0}")]
    Frozen(String),
    /// A type that no network is trained in.
    #[error("networks are trained in f32, bf16 and f64, not in {}", .0.as_str())]
    Precision(DType),
    /// One value has no variance.
    #[error("a batch of one crop cannot be normalised by its own statistics")]
    BatchTooSmall,
}

/// A network with its parameters.
#[derive(Debug)]
pub struct Network {
    architecture: Architecture,
    dim: usize,
    units: Vec<Unit>,
    parameters: Parameters,
    workspace: Workspace,
    /// What it runs on in place of the kernels.
    tensors: Option<Tensors>,
    settings: Settings,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    dropout: bool,
    /// Whether batches are normalised by the running statistics, which then stay as they are.
    constant_statistics: bool,
    /// How many units are not trained.
    frozen: usize,
}

/// What a forward pass has kept for the way back.
#[derive(Debug)]
pub struct Tape(Path);

#[derive(Debug)]
enum Path {
    Kernels { kept: Vec<Kept>, shape: [usize; 4] },
    Tensors { kept: Vec<tensors::Kept>, images: usize },
}

impl Network {
    /// A network to be trained from the start, for embeddings of `dim` values.
    ///
    /// # Errors
    /// [`NetworkError::Unsupported`] for transformers and networks with squeeze and excitation.
    pub fn new(architecture: Architecture, dim: usize, seed: u64) -> Result<Self, NetworkError> {
        let (units, mut parameters) = layout::layout(architecture, dim)?;
        parameters.start(seed);
        let settings = Settings { dropout: true, constant_statistics: false, frozen: 0 };
        let workspace = Workspace::default();
        Ok(Self { architecture, dim, units, parameters, workspace, tensors: None, settings })
    }

    /// Which network it is.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// Values of an embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Its parameters; on tensors, as of the last [`Self::fetch`].
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Its parameters, for an optimiser. On tensors they take the place of what is on the device, so [`Self::fetch`] comes
    /// first where only some are changed.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        if let Some(tensors) = &mut self.tensors {
            tensors.stale();
        }
        &mut self.parameters
    }

    /// Switches dropout, which is on from the start.
    pub fn set_dropout(&mut self, on: bool) {
        self.settings.dropout = on;
    }

    /// Lets training normalise by the running statistics and leave them as they are: for weights whose batch normalisation
    /// was folded, and for batches too small to have statistics of their own. Off from the start.
    pub fn set_constant_statistics(&mut self, on: bool) {
        self.settings.constant_statistics = on;
    }

    /// How many units there are: the input layer, the units of the body, the output layer.
    pub fn units(&self) -> usize {
        self.units.len()
    }

    /// Trains nothing of the first units: they run as they do after training, and no gradient is computed for them. What
    /// [`Gradients::zeros`] made before is no longer of use.
    pub fn freeze(&mut self, units: usize) {
        self.settings.frozen = units.min(self.units.len());
        for (index, unit) in self.units.iter().enumerate() {
            for place in unit.places() {
                self.parameters.at_mut(place).frozen = index < self.settings.frozen;
            }
        }
    }

    /// Embeddings (N, dim) of crops (N, 3, 112, 112) in the network's colour order, −1 to 1, by the batch's statistics,
    /// which move the running ones, and what [`Network::backward`] needs. Dropout is drawn from the seed: another one for
    /// each step.
    ///
    /// # Errors
    /// [`NetworkError::WrongShape`], [`NetworkError::BatchTooSmall`], [`NetworkError::Tensor`].
    pub fn forward(&mut self, pixels: &Tensor, seed: u64) -> Result<(Tensor, Tape), NetworkError> {
        let Settings { dropout, constant_statistics, frozen } = self.settings;
        let pass = Pass { of_batch: !constant_statistics, seed: dropout.then_some(seed) };
        check_crops(pixels)?;
        if let Some(tensors) = &mut self.tensors {
            tensors.upload(&self.parameters)?;
            let x = tensors.enter(pixels)?;
            let (output, kept) = tensors.run(&self.units, frozen, x, pass)?;
            let images = output.dim(0)?;
            return Ok((output.reshape((images, self.dim))?, Tape(Path::Tensors { kept, images })));
        }
        let x = self.enter(pixels)?;
        let (output, kept) = self.run(x, pass)?;
        let shape = output.shape();
        Ok((self.leave(&output)?, Tape(Path::Kernels { kept, shape })))
    }

    /// Embeddings (N, dim) as a trained network gives them, by the running statistics.
    ///
    /// # Errors
    /// [`NetworkError::WrongShape`], [`NetworkError::Tensor`].
    pub fn embed(&mut self, pixels: &Tensor) -> Result<Tensor, NetworkError> {
        check_crops(pixels)?;
        if let Some(tensors) = &mut self.tensors {
            tensors.upload(&self.parameters)?;
            let x = tensors.enter(pixels)?;
            let output = tensors.embed(&self.units, x)?;
            return Ok(output.reshape((output.dim(0)?, self.dim))?);
        }
        let mut x = self.enter(pixels)?;
        for index in 0..self.units.len() {
            x = self.step(index, x, Pass::TRAINED)?.0;
        }
        self.leave(&x)
    }

    /// Adds the gradients of all parameters, from that of the embeddings (N, dim).
    ///
    /// # Errors
    /// [`NetworkError::WrongShape`], [`NetworkError::Tensor`].
    pub fn backward(&self, tape: Tape, gradient: &Tensor, gradients: &mut Gradients) -> Result<(), NetworkError> {
        const WHAT: &str = "the gradient of the embeddings";
        match (tape.0, &self.tensors) {
            (Path::Tensors { kept, images }, Some(tensors)) => {
                check(WHAT, gradient, &[images, self.dim])?;
                let gradient = gradient.reshape((images, self.dim, 1, 1))?;
                tensors.run_back(&self.units, kept, &gradient, gradients)
            }
            (Path::Kernels { kept, shape }, None) => {
                check(WHAT, gradient, &[shape[0], shape[3]])?;
                let values = gradient.flatten_all()?.to_vec1::<f32>()?;
                let gradient = self.workspace.planes(&values, shape, 0)?;
                self.run_back(kept, gradient, gradients)
            }
            _ => Err(candle_core::Error::Msg("the tape is of another kind of network".into()).into()),
        }
    }

    /// One unit. What it keeps is dropped by who does not need it.
    fn step(&mut self, index: usize, x: Features, pass: Pass) -> Result<(Features, Kept), NetworkError> {
        let frame = self.units.get(index + 1).map_or(0, Unit::frame);
        self.units[index].forward(&self.workspace, &mut self.parameters, x, pass, frame)
    }

    /// All units; the frozen ones keep nothing.
    fn run(&mut self, mut x: Features, pass: Pass) -> Result<(Features, Vec<Kept>), NetworkError> {
        let mut kept = Vec::with_capacity(self.units.len());
        for index in 0..self.units.len() {
            let is_frozen = index < self.settings.frozen;
            let of_unit;
            (x, of_unit) = self.step(index, x, if is_frozen { Pass::TRAINED } else { pass })?;
            if !is_frozen {
                kept.push(of_unit);
            }
        }
        Ok((x, kept))
    }

    fn run_back(&self, kept: Vec<Kept>, mut gradient: Features, gradients: &mut Gradients) -> Result<(), NetworkError> {
        let first = self.units.len() - kept.len();
        for (index, kept) in kept.into_iter().enumerate().rev() {
            let unit = &self.units[first + index];
            let of_input = index > 0;
            let (workspace, parameters) = (&self.workspace, &self.parameters);
            match unit.backward(workspace, parameters, kept, gradient, gradients, of_input)? {
                Some(of_input) => gradient = of_input,
                None => break,
            }
        }
        Ok(())
    }

    fn enter(&self, pixels: &Tensor) -> Result<Features, NetworkError> {
        let [colours, height, width] = CROP;
        let images = pixels.dim(0)?;
        let planes = pixels.flatten_all()?.to_vec1::<f32>()?;
        let frame = self.units.first().map_or(0, Unit::frame);
        Ok(self.workspace.planes(&planes, [images, height, width, colours], frame)?)
    }

    fn leave(&self, output: &Features) -> Result<Tensor, NetworkError> {
        let [images, ..] = output.shape();
        Ok(Tensor::from_vec(output.to_vec(), (images, self.dim), &Device::Cpu)?)
    }

    /// Takes over the tensors of a checkpoint: a published one, one of a training, or, for a MobileFaceNet, one with its
    /// batch normalisation folded, which then gets normalisations that change nothing as long as
    /// [`Network::set_constant_statistics`] is on.
    ///
    /// # Errors
    /// As for [`Parameters::load`].
    pub fn load(&mut self, tensors: &HashMap<String, Tensor>) -> Result<(), NetworkError> {
        match fold::unfolded(&self.parameters, tensors)? {
            Some(unfolded) => self.parameters.load(&unfolded)?,
            None => self.parameters.load(tensors)?,
        }
        if let Some(tensors) = &mut self.tensors {
            tensors.stale();
        }
        Ok(())
    }

    /// The tensors of a model that the engine runs, as [`Architecture::tensors`] names them: those of a MobileFaceNet
    /// with batch normalisation folded. On tensors, as of the last [`Self::fetch`].
    ///
    /// # Errors
    /// [`NetworkError::Tensor`].
    pub fn export(&self) -> Result<HashMap<String, Tensor>, NetworkError> {
        match self.architecture.ir() {
            Some(_) => self.parameters.tensors(),
            None => fold::folded(&self.parameters),
        }
    }
}

/// Checks the shape of crops.
fn check_crops(pixels: &Tensor) -> Result<(), NetworkError> {
    let [colours, height, width] = CROP;
    let images = pixels.dims().first().copied().unwrap_or(0);
    check("the crops", pixels, &[images, colours, height, width])
}

/// Checks the shape of what a network is given.
fn check(name: &str, tensor: &Tensor, expected: &[usize]) -> Result<(), NetworkError> {
    if tensor.dims() == expected && !expected.contains(&0) {
        Ok(())
    } else {
        let (expected, actual) = (expected.to_vec(), tensor.dims().to_vec());
        Err(NetworkError::WrongShape { name: name.to_owned(), expected, actual })
    }
}
