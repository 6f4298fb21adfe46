//! Training runs: from a configuration to weights, and on from where one stopped.
//!
//! ```text
//! config ─► data ─► Loader ─► parts of a step ─► network ─► head, teacher ─► loss ─► gradients ─► Sgd ─► next step
//!                                                                     └ each epoch: validation, checkpoint ┘
//! ```
//!
//! A run is a folder:
//!
//! | file | what |
//! |---|---|
//! | `config.toml` | the configuration as it holds, defaults included |
//! | `lock` | locked by the process that trains |
//! | `metrics.ndjson` | a line for each step and each validation |
//! | `events.out.tfevents.*` | the same for TensorBoard |
//! | `checkpoints/step-*.ckpt` | the last few checkpoints; `.damaged` behind the name of one that could not be used |
//! | `checkpoints/best.ckpt` | that of the best validation |
//!
//! A process that is killed leaves a folder that another goes on with; two at a time are refused.
//!
//! What is random is drawn from the seed and the number of the step, epoch or sample; nothing is drawn from a generator
//! that runs along. So a checkpoint needs no more than weights, momenta, the head's running norms and a few positions,
//! and a run that was killed and taken up again ends with the bits of one that was not, for the same number of threads.
//!
//! # Use
//! ```no_run
//! use std::path::Path;
//! use std::sync::atomic::AtomicBool;
//! use vultus_train::trainer::{TrainConfig, Trainer};
//!
//! # fn main() -> Result<(), vultus_train::trainer::TrainError> {
//! let config = TrainConfig::open(Path::new("run.toml"))?;
//! let mut trainer = Trainer::start(config, Path::new("runs/first"))?;
//! let outcome = trainer.run(&AtomicBool::new(false), &mut |event| println!("{event:?}"))?;
//! println!("{outcome:?}");
//! # Ok(())
//! # }
//! ```

mod check;
mod checkpoint;
mod checkpoints;
mod config;
mod data;
mod descent;
mod distil;
mod export;
mod fixed;
mod folder;
mod head;
mod input;
mod learner;
mod means;
mod metrics;
mod place;
mod run;
mod sets;
mod start;
mod tfevents;
mod trained_head;
mod validate;
mod whole;

use std::io;
use std::path::{Path, PathBuf};

use vultus_engine::model::import::ImportError;
use vultus_engine::model::{DeviceError, ModelError, RegistryError};

pub use checkpoint::{Checkpoint, CheckpointError, State};
pub use checkpoints::Checkpoints;
pub use config::{
    CheckpointConfig, DataConfig, DistillationConfig, NetworkConfig, OptimiserConfig, RunConfig, TrainConfig,
    ValidationConfig,
};
pub use data::open_dataset;
pub use distil::{Lesson, Teacher, loss as distillation_loss};
pub use export::{ExportConfig, Exported, export};
pub use fixed::Fixed;
pub use head::{HeadConfig, HeadKind, KernelStart};
pub use learner::{Learner, Measured, Part};
pub use metrics::{METRICS, StepRecord, ValidationRecord};
pub use place::Backend;
pub use run::{Event, Outcome, Trainer};
pub use sets::OfSet;
pub use tfevents::EventFile;
pub use trained_head::TrainedHead;
pub use validate::{OfSide, Validation, validate};
pub use whole::write_whole;

use crate::data::DataError;
use crate::eval::EvalError;
use crate::head::HeadError;
use crate::network::NetworkError;
use crate::optimise::OptimiseError;

/// Why a run did not begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// No data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The head.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The optimiser.
    #[error(transparent)]
    Optimise(#[from] OptimiseError),
    /// A verification set.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A device that this build or this machine does not have.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A model of the engine: a teacher, or weights to start from.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A folder of models.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Weights that cannot be imported, to start from or as a finished model.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// An operation on tensors failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A configuration that cannot be used.
    #[error("{}: {problem}", path.display())]
    Config {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file to start from that cannot be imported.
    #[error("{}: {source}", path.display())]
    Weights {
        /// Which.
        path: PathBuf,
        /// Why.
        source: ImportError,
    },
    /// Weights to start from that are of another network.
    #[error("the weights to start from are of {found}, not of {wanted}")]
    Start {
        /// What was found.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// Weights to start from that want pixels of another scale than their architecture has.
    #[error("the weights to start from want pixels as {found}, their architecture is trained and run with {wanted}")]
    Scale {
        /// What was found.
        found: String,
        /// That of the architecture.
        wanted: String,
    },
    /// Weights to start from that do not say which colours they want to see.
    #[error(
        "nothing says which colour order the network of {} wants: {why}; set network.color to rgb or bgr",
        path.display()
    )]
    UnknownColor {
        /// Their file.
        path: PathBuf,
        /// Where it should be looked for.
        why: &'static str,
    },
    /// A teacher with embeddings of another length.
    #[error(
        "the teacher's embeddings have {teacher} values, the network's {student}: set network.dim to the teacher's"
    )]
    Teacher {
        /// The teacher's.
        teacher: usize,
        /// The network's.
        student: usize,
    },
    /// A folder that has a run already.
    #[error("{} has a run already; it is taken up with --resume", .0.display())]
    Exists(PathBuf),
    /// A folder with checkpoints and no configuration.
    #[error("{} has checkpoints of another run; remove them, or choose another folder", .0.display())]
    Leftover(PathBuf),
    /// A folder that another process trains in.
    #[error("{} is being trained in by another process", .0.display())]
    Locked(PathBuf),
    /// A folder without a run.
    #[error("{} has no run", .0.display())]
    NoRun(PathBuf),
    /// The data are not those that the run began with.
    #[error("the run began with {began} and is to go on with {found}")]
    OtherData {
        /// What they were.
        began: String,
        /// What they are.
        found: String,
    },
    /// A setting is not the one that the run began with.
    #[error("{setting} was {began} when the run began and is {now}: put it back, or begin another run")]
    OtherSetting {
        /// Its name.
        setting: String,
        /// What it was.
        began: String,
        /// What it is.
        now: String,
    },
    /// Faces that cannot be trained or validated on.
    #[error("{}: {problem}", path.display())]
    Set {
        /// Where they are.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The loss, a gradient or a weight is infinite or no number.
    #[error("the loss, a gradient or a weight is not finite: the rate may be too high")]
    NotFinite,
    /// Training came apart.
    #[error("step {step}: {source}")]
    Step {
        /// The step, from 1.
        step: u64,
        /// What happened.
        source: Box<TrainError>,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl TrainError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Io { path: path.to_owned(), source }
    }
}
