//! The configuration of a run: one TOML file.
//!
//! Every table and every key can be left out; unknown ones are refused. What a run really uses, defaults and what is
//! taken from weights to start with included, is written to `config.toml` in its folder, which is itself such a file.
//! `docs/TRAINING.md` lists all keys.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vultus_engine::model::{Architecture, Color, Precision};

use super::TrainError;
use super::check;
use super::head::{HeadConfig, KernelStart};
use super::place::{Backend, CPU};
use crate::data::{AugmentConfig, LoaderConfig, SIDE};
use crate::optimise::ScheduleConfig;

/// Everything about a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// What everything random is drawn from: first weights, order of samples, augmentations, dropout, held-out identities.
    pub seed: u64,
    /// What is trained on.
    pub data: DataConfig,
    /// What is trained.
    pub network: NetworkConfig,
    /// What it is trained with.
    pub head: HeadConfig,
    /// A teacher, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distillation: Option<DistillationConfig>,
    /// How long, and in which steps.
    pub run: RunConfig,
    /// How weights follow gradients.
    pub optimiser: OptimiserConfig,
    /// The learning rate over the run.
    pub schedule: ScheduleConfig,
    /// What is done to images.
    pub augment: AugmentConfig,
    /// Threads that make batches.
    pub loader: LoaderConfig,
    /// Looks at identities that are not trained on.
    pub validation: ValidationConfig,
    /// What is kept of a run on the way.
    pub checkpoints: CheckpointConfig,
}

/// What is trained on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// A `train.rec`, or a folder with a folder of aligned crops for each identity.
    pub path: PathBuf,
    /// So many identities, drawn from the seed, are left out of training, for validation.
    pub hold_out: usize,
}

/// What is trained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Its architecture; where none is given, that of `start`, or `ir_18`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// Values of an embedding; where nothing is given, those of `start`, or the architecture's usual ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// Weights to start from: `embedded` for the model that is built in, or a file: a model of ours, a published
    /// checkpoint, or a checkpoint of a run (`.ckpt`). Without it, training starts from random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The order of colours that it sees; where none is given, that of `start`, or the architecture's usual one. Needed for
    /// files that do not say which one their network wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color: Option<Color>,
    /// Beginnings of the names of parameters that are not trained, such as `input_layer` or `body.0`; these units have
    /// to be the network's first.
    pub frozen: Vec<String>,
    /// Whether training normalises by the running statistics and leaves them as they are. Where nothing is said: only
    /// where `start` is a network with its batch normalisation folded, or a checkpoint of a run that was trained so. Set to
    /// false there, normalisations are put back with statistics measured on training crops, and trained by those of
    /// batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub constant_statistics: Option<bool>,
    /// Whether values ahead of the linear layer are dropped, as published.
    pub dropout: bool,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            architecture: None,
            dim: None,
            start: None,
            color: None,
            frozen: Vec::new(),
            constant_statistics: None,
            dropout: true,
        }
    }
}

/// A teacher whose embeddings are learnt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillationConfig {
    /// `embedded`, or the weights of a model of ours with its manifest beside.
    pub teacher: String,
    /// What its loss is multiplied by before it is added to that of the head.
    #[serde(default = "one")]
    pub weight: f64,
    /// What the squared difference of the logarithms of norms is multiplied by; 0 leaves norms free.
    #[serde(default)]
    pub norm_weight: f64,
}

fn one() -> f64 {
    1.0
}

/// How long, in which steps, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Epochs.
    pub epochs: u64,
    /// Steps, in place of what the epochs come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Images of a step.
    pub batch: usize,
    /// Parts in which a step's images go through the network, which needs memory for one part only. Batch statistics
    /// are those of a part, and each part moves the head's running norms.
    pub accumulate: usize,
    /// Where network and head run: `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// What convolutions and the linear layer take and give; everything else is f32. bf16 needs a GPU.
    pub precision: Precision,
    /// What the network runs on; where nothing is said, the kernels on the CPU and tensors on a GPU. Tensors on the CPU are
    /// slow and are there to check them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
}

impl Default for RunConfig {
    fn default() -> Self {
        let (device, precision) = (CPU.to_owned(), Precision::F32);
        Self { epochs: 26, steps: None, batch: 128, accumulate: 1, device, precision, backend: None }
    }
}

/// How weights follow gradients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimiserConfig {
    /// The highest learning rate.
    pub rate: f64,
    /// The share of the last change that is made again.
    pub momentum: f64,
    /// Weight decay of everything but batch normalisation.
    pub weight_decay: f64,
    /// The greatest length of all gradients together; longer ones are shortened to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        Self { rate: 0.1, momentum: 0.9, weight_decay: 5e-4, clip: None }
    }
}

/// Looks at faces that are not trained on, at the end of epochs and of the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationConfig {
    /// Epochs from one look to the next.
    pub every_epochs: u64,
    /// After so many looks in a row that were no better than the best, the run ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// Crops are looked at shrunk to each of these sides, too, in pixels.
    pub sides: Vec<usize>,
    /// Verification sets (`.bin`). Where there are some, the mean of their accuracies says which checkpoint is best.
    pub sets: Vec<PathBuf>,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        Self { every_epochs: 1, patience: None, sides: Vec::new(), sets: Vec::new() }
    }
}

/// What is kept of a run on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// Steps from one checkpoint to the next, beside that at the end of each epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_steps: Option<u64>,
    /// How many are kept; the best one is kept beside them.
    pub keep: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every_steps: None, keep: 3 }
    }
}

impl TrainConfig {
    /// Reads a configuration. Relative paths in it are taken from the file's folder.
    ///
    /// # Errors
    /// [`TrainError::Io`], [`TrainError::Config`].
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
        let wrong = |problem: String| TrainError::Config { path: path.to_owned(), problem };
        let mut config: Self = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let folder = std::path::absolute(path).map_err(TrainError::io(path))?;
        let folder = folder.parent().unwrap_or(Path::new("."));
        // Joined with nothing, the folder itself would be taken for the data.
        if !config.data.path.as_os_str().is_empty() {
            config.data.path = folder.join(&config.data.path);
        }
        config.validation.sets.iter_mut().for_each(|set| *set = folder.join(&*set));
        let teacher = config.distillation.as_mut().map(|distillation| &mut distillation.teacher);
        for name in config.network.start.as_mut().into_iter().chain(teacher).filter(|name| *name != EMBEDDED) {
            *name = folder.join(&*name).to_string_lossy().into_owned();
        }
        config.check().map_err(wrong)?;
        Ok(config)
    }

    /// Checks what the parts do not check themselves, naming the first that does not work.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        let Self { run, validation, checkpoints, optimiser, .. } = self;
        run.check()?;
        if self.seed > i64::MAX as u64 {
            Err(format!("seed is {}, more than {}", self.seed, i64::MAX))
        } else if validation.every_epochs == 0 || checkpoints.keep == 0 || checkpoints.every_steps == Some(0) {
            Err("validation.every_epochs, checkpoints.keep and checkpoints.every_steps are at least 1".into())
        } else if validation.patience.is_some() && self.data.hold_out == 0 && validation.sets.is_empty() {
            Err("validation.patience needs data.hold_out or validation.sets".into())
        } else if !validation.sides.iter().all(|side| (1..SIDE).contains(side)) {
            Err(format!("validation.sides are from 1 to {}", SIDE - 1))
        } else if !validation.sides.is_empty() && self.data.hold_out == 0 {
            Err("validation.sides needs data.hold_out".into())
        } else if optimiser.clip.is_some_and(|clip| !(clip.is_finite() && clip > 0.0)) {
            Err("optimiser.clip is above 0".into())
        } else if self
            .distillation
            .as_ref()
            .is_some_and(|of| !positive(of.weight) || of.norm_weight.is_nan() || of.norm_weight < 0.0)
        {
            Err("distillation.weight is above 0, distillation.norm_weight 0 or above".into())
        } else if let Err(problem) = self.head.check() {
            Err(problem)
        } else if self.head.start == KernelStart::Means && self.network.start.is_none() {
            Err("head.start is means, which needs network.start: a network that knows nothing has no means".into())
        } else if self.head.weight == 0.0 && self.distillation.is_none() {
            Err("head.weight is 0 and there is no teacher: nothing to learn from".into())
        } else {
            check::before_it_begins(self)
        }
    }

    /// As the text of a file.
    ///
    /// # Errors
    /// [`TrainError::Config`] for what TOML cannot hold.
    pub fn to_toml(&self) -> Result<String, TrainError> {
        let wrong =
            |error: toml::ser::Error| TrainError::Config { path: "config.toml".into(), problem: error.to_string() };
        toml::to_string_pretty(self).map_err(wrong)
    }
}

/// What stands for the model that is built in.
pub(super) const EMBEDDED: &str = "embedded";

fn positive(value: f64) -> bool {
    value.is_finite() && value > 0.0
}

#[cfg(test)]
mod tests {
    use super::super::HeadKind;
    use super::*;

    fn open(text: &str) -> Result<TrainConfig, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        TrainConfig::open(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut config = open("[data]\npath = \"/faces\"\n[distillation]\nteacher = \"embedded\"").unwrap();
        assert_eq!(config.run, RunConfig::default());
        config.optimiser.clip = Some(5.0);
        config.network.architecture = Some(Architecture::Ir50);
        config.head.kind = HeadKind::MagFace;
        config.head.lambda = 20.0;
        config.head.rate = 0.1;
        assert_eq!(open(&config.to_toml().unwrap()).unwrap(), config);
    }

    #[test]
    fn relative_paths_are_those_of_the_file() {
        let text = "[data]\npath = \"faces\"\n[network]\nstart = \"embedded\"\n[validation]\nsets = [\"lfw.bin\"]";
        let config = open(text).unwrap();
        assert!(config.validation.sets[0].is_absolute() && config.validation.sets[0].ends_with("lfw.bin"));
        assert!(config.data.path.is_absolute() && config.data.path.ends_with("faces"));
        assert_eq!(config.network.start.as_deref(), Some("embedded"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("[data]\npaht = \"/faces\"", "paht"),
            ("[run]\nbatch = 10\naccumulate = 3", "no equal parts"),
            ("[validation]\npatience = 2", "hold_out"),
            ("[validation]\nsides = [14]", "hold_out"),
            ("[data]\nhold_out = 2\n[validation]\nsides = [112]", "validation.sides"),
            ("[head]\nkind = \"softface\"", "softface"),
            ("[head]\nkind = \"magface\"\nm = 0.5", "head.least_margin"),
            ("[head]\nstart = \"means\"", "network.start"),
            ("[head]\nweight = -1.0", "head.weight"),
            ("[head]\nrate = 0", "head.rate is above 0"),
            ("[head]\nrate = 1.5", "head.rate is above 0"),
            ("[head]\nrate = nan", "head.rate is above 0"),
            ("[head]\nkind = \"curricularface\"\nrate = 0.5", "it looks at all classes"),
            ("[head]\nkind = \"curricularface\"\ngradient = \"straight_through\"", "head.gradient"),
            ("[head]\nkind = \"magface\"\ngradient = \"straight_through\"", "head.gradient"),
            ("[head]\ngradient = \"published\"", "published"),
            ("[head]\nweight = 0.0", "nothing to learn"),
            ("[optimiser]\nclip = 0.0", "optimiser.clip"),
            ("seed = -1", "seed"),
            ("seed = 1", "data.path is missing"),
            ("[run]\ndevice = \"gpu\"", "the devices are cpu, cuda and cuda:N"),
            ("[run]\ndevice = \"cuda:0\"\nbackend = \"kernels\"", "run.backend"),
            ("[run]\nprecision = \"bf16\"", "needs a GPU"),
            ("[run]\nprecision = \"f16\"", "f16"),
        ] {
            let message = open(text).unwrap_err();
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}
