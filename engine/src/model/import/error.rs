//! Why a checkpoint cannot be imported.

use std::fmt;
use std::path::PathBuf;

use super::pickle::PickleError;
use crate::model::{Architecture, ModelError, RegistryError, WeightsError};

/// How many tensors an error names; of the others it gives the number.
const NAMED: usize = 12;

/// Why a checkpoint cannot be imported. Nothing is left behind then.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Neither a zip file, nor a pickle, nor safetensors.
    #[error("the file is no checkpoint of PyTorch and no safetensors file")]
    Unknown,
    /// The file is damaged, cut short or made to mislead.
    #[error("the file is damaged: {0}")]
    Damaged(String),
    /// A form that is not read.
    #[error("{0}")]
    Unsupported(String),
    /// The pickle in the file is not read.
    #[error("the pickle in the file is refused: {0}")]
    Pickle(#[from] PickleError),
    /// The file holds no tensors.
    #[error("the file holds no state dictionary, that is, no tensors by name")]
    NoTensors,
    /// The tensors are of no network that is known.
    #[error("the tensors are not those of a known network; the nearest is {nearest}, where {difference}")]
    UnknownNetwork {
        /// The most similar.
        nearest: Architecture,
        /// What is different.
        difference: Differences,
    },
    /// The tensors are not those of the network.
    #[error("the file does not fit {architecture}: {difference}")]
    Tensors {
        /// The network.
        architecture: Architecture,
        /// What is different.
        difference: Differences,
    },
    /// A tensor whose values cannot be had.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// Which.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A tensor with a NaN or an infinity, or with a value that is one as f32.
    #[error("tensor {0} holds values that are not finite")]
    NotFinite(String),
    /// Folding failed.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// Nothing says which colour order the network wants.
    #[error("nothing says which colour order the network wants: {0}; say --color rgb or --color bgr")]
    UnknownColor(&'static str),
    /// What came with the weights cannot be read.
    #[error("{}: {problem}", path.display())]
    Config {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A name that cannot be a model's.
    #[error("a model's name has 1 to 64 characters out of a-z 0-9 _ -, not {0:?}")]
    Name(String),
    /// A model of this name is there.
    #[error("there is a model {0} already; choose another name, or replace it with --force")]
    Exists(String),
    /// A network for set fusion for a model that has no use for it.
    #[error("a CAFace network goes with an installed ir_101 of 512 dimensions; the model is of {0}")]
    NoStyle(Architecture),
    /// The model has a network for set fusion.
    #[error("the model {0} has a CAFace network already; replace it with --force")]
    AggregatorExists(String),
    /// The file holds no network for set fusion.
    #[error("the file holds no CAFace network: there is no style_maker.cfc")]
    NoAggregator,
    /// The tensors are not those of a network for set fusion.
    #[error("the file does not fit a CAFace network: {0}")]
    AggregatorTensors(Differences),
    /// What was written does not work.
    #[error("the imported model does not work: {0}")]
    Model(#[from] ModelError),
    /// The imported model cannot be found again.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl ImportError {
    /// For `map_err` on reading or writing a file.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// A tensor of another shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshaped {
    /// Which.
    pub name: String,
    /// Shape in the network.
    pub expected: Vec<usize>,
    /// Shape in the file.
    pub found: Vec<usize>,
}

/// In what the tensors of a file differ from those of a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Tensors that the network has and the file lacks.
    pub missing: Vec<String>,
    /// Tensors that the file has and the network lacks.
    pub extra: Vec<String>,
    /// Tensors of another shape.
    pub misshaped: Vec<Misshaped>,
}

impl Differences {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// How many tensors differ.
    pub fn count(&self) -> usize {
        self.missing.len() + self.extra.len() + self.misshaped.len()
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let misshaped = self
            .misshaped
            .iter()
            .map(|Misshaped { name, expected, found }| format!("{name} ({found:?} instead of {expected:?})"));
        let mut between = "";
        for (what, names) in [
            ("missing", self.missing.clone()),
            ("wrongly shaped", misshaped.collect()),
            ("unknown to the network", self.extra.clone()),
        ] {
            if names.is_empty() {
                continue;
            }
            write!(f, "{between}{what}: {}", names[..names.len().min(NAMED)].join(", "))?;
            if names.len() > NAMED {
                write!(f, " and {} more", names.len() - NAMED)?;
            }
            between = "; ";
        }
        Ok(())
    }
}
