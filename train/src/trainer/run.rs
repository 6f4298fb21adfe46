//! A run: its folder, its loop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Tensor};
use vultus_engine::random::Random;

use super::checkpoint::{Checkpoint, Checkpoints, State, write_whole};
use super::distil::Teacher;
use super::head::{HeadKind, KernelStart};
use super::learner::{Learner, Measured, Part};
use super::means::class_means;
use super::metrics::{Metrics, StepRecord, ValidationRecord};
use super::sets::EvaluationSet;
use super::start::{self, Started};
use super::validate::validate;
use super::{TrainConfig, TrainError, input};
use crate::data::{
    Batch, Dataset, FolderDataset, Loader, RecordDataset, SIDE, Sampler, SamplerConfig, SamplerState, hold_out,
};
use crate::network::Network;
use crate::optimise::{Schedule, SgdConfig};

const CONFIG: &str = "config.toml";
const CHECKPOINTS: &str = "checkpoints";
/// Crops that give a network its statistics where it has none.
const CALIBRATION: usize = 64;

/// What happens in a run.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A step was done.
    Step {
        /// What it was like.
        record: &'a StepRecord,
        /// Steps of the whole run.
        steps: u64,
    },
    /// Faces that are not trained on were looked at.
    Validation {
        /// The outcome.
        record: &'a ValidationRecord,
        /// Whether it is the best so far.
        best: bool,
    },
    /// A checkpoint was written.
    Checkpoint(&'a Path),
    /// Something that who runs it should know.
    Warning(&'a str),
}

/// How [`Trainer::run`] came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// Validation has not become better for too long.
    NoBetter,
    /// It was asked to stop; the run can be taken up again.
    Stopped,
}

/// A run that can go on.
pub struct Trainer {
    config: TrainConfig,
    folder: PathBuf,
    checkpoints: Checkpoints,
    train: Arc<dyn Dataset>,
    held_out: Option<Arc<dyn Dataset>>,
    sets: Vec<EvaluationSet>,
    learner: Learner,
    teacher: Option<Teacher>,
    schedule: Schedule,
    steps: u64,
    state: State,
    warnings: Vec<String>,
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer").field("folder", &self.folder).field("state", &self.state).finish_non_exhaustive()
    }
}

/// Opens a record file, a folder with a `train.rec`, or a folder of identities.
///
/// # Errors
/// [`TrainError::Data`].
pub fn open_dataset(path: &Path) -> Result<Arc<dyn Dataset>, TrainError> {
    let records = path.join("train.rec");
    Ok(if records.is_file() {
        Arc::new(RecordDataset::open(&records)?)
    } else if path.is_dir() {
        Arc::new(FolderDataset::open(path)?)
    } else {
        Arc::new(RecordDataset::open(path)?)
    })
}

/// What is trained on and what is held out.
type Data = (Arc<dyn Dataset>, Option<Arc<dyn Dataset>>);

/// Those of a configuration.
fn datasets(config: &TrainConfig) -> Result<Data, TrainError> {
    let whole = open_dataset(&config.data.path)?;
    Ok(match config.data.hold_out {
        0 => (whole, None),
        count => {
            let (rest, held_out) = hold_out(&whole, count, config.seed)?;
            (Arc::new(rest), Some(Arc::new(held_out)))
        }
    })
}

fn sampler_config(config: &TrainConfig) -> SamplerConfig {
    SamplerConfig { batch: config.run.batch / config.run.accumulate, ..SamplerConfig::default() }
}

impl Trainer {
    /// Begins a run in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`TrainError::Exists`] where there is a run already; all that can be wrong with a configuration.
    pub fn start(mut config: TrainConfig, folder: &Path) -> Result<Self, TrainError> {
        if folder.join(CONFIG).exists() {
            return Err(TrainError::Exists(folder.to_owned()));
        }
        let wrong = |problem| TrainError::Config { path: "configuration".into(), problem };
        config.check().map_err(wrong)?;
        config.head.m = (config.head.kind != HeadKind::MagFace).then(|| config.head.margin());
        let data = datasets(&config)?;
        let trainer = Self::fresh(config, folder, data)?;
        write_whole(&folder.join(CONFIG), trainer.config.to_toml()?.as_bytes())?;
        Ok(trainer)
    }

    /// Takes up the run of a folder after the last checkpoint that can be used, or from its beginning where there is
    /// none. Why later checkpoints cannot be used is told as [`Event::Warning`].
    ///
    /// # Errors
    /// [`TrainError::NoRun`], [`TrainError::OtherData`], and those of [`Self::start`].
    pub fn resume(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(CONFIG);
        if !path.exists() {
            return Err(TrainError::NoRun(folder.to_owned()));
        }
        let config = TrainConfig::open(&path)?;
        let checkpoints = Checkpoints::open(folder.join(CHECKPOINTS), config.checkpoints.keep)?;
        let (last, refused) = checkpoints.last()?;
        let data = datasets(&config)?;
        let mut trainer = match last {
            Some(Checkpoint { state, tensors }) => {
                let told = |samples, classes| format!("{samples} images of {classes} identities");
                let (began, found) =
                    (told(state.samples, state.classes), told(data.0.len() as u64, data.0.classes() as u64));
                if began != found {
                    return Err(TrainError::OtherData { began, found });
                }
                let mut network = Network::new(state.architecture, state.dim, config.seed)?;
                start::apply(&mut network, &config.network)?;
                let mut trainer = Self::assemble(config, folder, data, network, state)?;
                trainer.learner.load(&tensors)?;
                trainer
            }
            None => Self::fresh(config, folder, data)?,
        };
        trainer.warnings.extend(refused.iter().map(ToString::to_string));
        Ok(trainer)
    }

    /// A run at its beginning.
    fn fresh(mut config: TrainConfig, folder: &Path, data: Data) -> Result<Self, TrainError> {
        let Started { mut network, input, calibrate } = start::network(&mut config.network, config.seed)?;
        let train = data.0.as_ref();
        if calibrate {
            let order = Random::named(config.seed, "crops for statistics").order(train.len());
            let mut pixels = Vec::new();
            let crops = order.len().min(CALIBRATION);
            for index in &order[..crops] {
                input::of_crop(&train.image(*index)?, &input, &mut pixels);
            }
            network.calibrate(&Tensor::from_vec(pixels, (crops, 3, SIDE, SIDE), &Device::Cpu)?)?;
        }
        let state = State {
            step: 0,
            sampler: SamplerState { seed: config.seed, epoch: 0, position: 0 },
            samples: train.len() as u64,
            classes: train.classes() as u64,
            architecture: network.architecture(),
            dim: network.dim(),
            input,
            best: None,
            stale: 0,
            ended_early: false,
        };
        let mut trainer = Self::assemble(config, folder, data, network, state)?;
        if trainer.config.head.start == KernelStart::Means {
            let (seed, train) = (trainer.config.seed, trainer.train.clone());
            trainer.learner.turn_classes(|network| class_means(network, &input, train.as_ref(), seed))?;
        }
        Ok(trainer)
    }

    fn assemble(
        config: TrainConfig,
        folder: &Path,
        (train, held_out): Data,
        mut network: Network,
        state: State,
    ) -> Result<Self, TrainError> {
        let dim = network.dim();
        config.run.place(&mut network)?;
        let sampler = Sampler::new(config.seed, sampler_config(&config), train.as_ref())?;
        let parts_of_epoch = sampler.steps_per_epoch();
        let accumulate = config.run.accumulate as u64;
        let of_epochs = (parts_of_epoch.saturating_mul(config.run.epochs) / accumulate).max(1);
        let steps = config.run.steps.unwrap_or(of_epochs);
        let steps_of_epoch = parts_of_epoch as f64 / accumulate as f64;
        let schedule = Schedule::new(config.optimiser.rate, &config.schedule, steps_of_epoch, steps)?;
        let kernel_seed = Random::named(config.seed, "class kernel").next();
        let head = config.head.build(dim, train.classes(), kernel_seed, network.device())?;
        let sgd = SgdConfig { momentum: config.optimiser.momentum, weight_decay: config.optimiser.weight_decay };
        let learner = Learner::new(network, head, config.head.weight, sgd, config.optimiser.clip)?;
        let teacher = config.distillation.as_ref().map(|of| Teacher::load(of, dim)).transpose()?;
        config.augment.check()?;
        let sets = config.validation.sets.iter().map(|path| EvaluationSet::open(path)).collect::<Result<_, _>>()?;
        let checkpoints = Checkpoints::open(folder.join(CHECKPOINTS), config.checkpoints.keep)?;
        Ok(Self {
            config,
            folder: folder.to_owned(),
            checkpoints,
            train,
            held_out,
            sets,
            learner,
            teacher,
            schedule,
            steps,
            state,
            warnings: Vec::new(),
        })
    }

    /// The configuration as it holds.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Where the run stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Steps of the whole run.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The checkpoints of the run.
    pub fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// The network as it is now.
    pub fn network_mut(&mut self) -> &mut Network {
        &mut self.learner.network
    }

    /// Trains until the run is over or `stop` becomes true, which is looked at after each step. In either case a
    /// checkpoint is written last.
    ///
    /// # Errors
    /// [`TrainError::Step`] for what goes wrong in a step, others for files and data.
    pub fn run(&mut self, stop: &AtomicBool, watch: &mut dyn FnMut(Event<'_>)) -> Result<Outcome, TrainError> {
        for warning in std::mem::take(&mut self.warnings) {
            watch(Event::Warning(&warning));
        }
        if self.state.ended_early {
            return Ok(Outcome::NoBetter);
        }
        if self.state.step >= self.steps {
            return Ok(Outcome::Finished);
        }
        let mut metrics = Metrics::open(&self.folder, self.state.step).map_err(TrainError::io(&self.folder))?;
        let sampler = Sampler::resume(self.state.sampler, sampler_config(&self.config), self.train.as_ref())?;
        let mut loader = Loader::new(self.train.clone(), sampler, self.config.augment, self.config.loader)?;
        let start = Instant::now();
        while self.state.step < self.steps {
            let begun = Instant::now();
            let lr = self.schedule.rate(self.state.step);
            let step = self.state.step + 1;
            let (measured, epoch, ends_epoch) = self
                .step(&mut loader, lr, watch)
                .map_err(|source| TrainError::Step { step, source: Box::new(source) })?;
            self.state.step = step;
            let mut record = StepRecord::new(step, epoch, lr, &measured);
            record.seconds = start.elapsed().as_secs_f64();
            record.images_per_s = measured.norms.len() as f64 / begun.elapsed().as_secs_f64().max(1e-9);
            metrics.step(&record).map_err(TrainError::io(&self.folder))?;
            watch(Event::Step { record: &record, steps: self.steps });

            let best = ends_epoch && self.validate(epoch, &mut metrics, watch)?;
            let patience = self.config.validation.patience;
            let no_better = patience.is_some_and(|patience| self.state.stale >= patience);
            let done = step == self.steps || no_better;
            self.state.ended_early = no_better && step < self.steps;
            let stopped = stop.load(Ordering::Relaxed);
            let due = self.config.checkpoints.every_steps.is_some_and(|every| step.is_multiple_of(every));
            if done || stopped || ends_epoch || due {
                let checkpoint = Checkpoint { state: self.state.clone(), tensors: self.learner.tensors()? };
                watch(Event::Checkpoint(&self.checkpoints.write(&checkpoint, best)?));
            }
            if self.state.ended_early {
                return Ok(Outcome::NoBetter);
            }
            if stopped && !done {
                return Ok(Outcome::Stopped);
            }
        }
        Ok(Outcome::Finished)
    }

    /// One step: what was measured, the epoch, and whether one has ended.
    fn step(
        &mut self,
        loader: &mut Loader,
        lr: f64,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<(Measured, u64, bool), TrainError> {
        let parts = self.config.run.accumulate as u64;
        let (mut epoch, mut ends_epoch, mut after) = (0, false, self.state.sampler);
        for part in 0..parts {
            let Some(batch) = loader.next() else {
                return Err(TrainError::Other("the data came to an end".into()));
            };
            let batch = batch?;
            batch.skipped.iter().for_each(|skipped| watch(Event::Warning(skipped)));
            epoch = batch.epoch;
            ends_epoch |= batch.ends_epoch;
            after = batch.after;
            // Mixed as augmentations are, so that no two parts share a seed by design.
            let drawn = Random::named(self.config.seed, "dropout").next();
            let seed = Random::new(drawn ^ (self.state.step * parts + part)).next();
            let part = self.part(batch, seed)?;
            self.learner.add(&part, self.teacher.as_ref(), 1.0 / parts as f64)?;
        }
        let measured = self.learner.apply(lr)?;
        self.state.sampler = after;
        Ok((measured, epoch, ends_epoch))
    }

    fn part(&self, mut batch: Batch, seed: u64) -> Result<Part, TrainError> {
        let lesson = self.teacher.as_ref().map(|teacher| teacher.look(&batch.images)).transpose()?;
        input::enter(&mut batch.images, &self.state.input);
        let count = batch.labels.len();
        let images = Tensor::from_vec(batch.images, (count, 3, SIDE, SIDE), &Device::Cpu)?;
        let labels = Tensor::from_vec(batch.labels, count, &Device::Cpu)?;
        Ok(Part { images, labels, lesson, seed })
    }

    /// Looks at held-out identities and verification sets where it is time to. Whether it is the best look so far.
    fn validate(
        &mut self,
        epoch: u64,
        metrics: &mut Metrics,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool, TrainError> {
        if !(epoch + 1).is_multiple_of(self.config.validation.every_epochs) {
            return Ok(false);
        }
        let (network, input) = (&mut self.learner.network, &self.state.input);
        let sides = &self.config.validation.sides;
        let held_out =
            self.held_out.as_ref().map(|held_out| validate(network, input, held_out.as_ref(), sides)).transpose()?;
        let sets = self.sets.iter().map(|set| set.look(network, input)).collect::<Result<_, _>>()?;
        let Some(record) = ValidationRecord::new(self.state.step, epoch, held_out, sets) else { return Ok(false) };
        let accuracy = record.validation_accuracy;
        let best = self.state.best.is_none_or(|best| accuracy > best);
        if best {
            self.state.best = Some(accuracy);
            self.state.stale = 0;
        } else {
            self.state.stale += 1;
        }
        metrics.validation(&record).map_err(TrainError::io(&self.folder))?;
        watch(Event::Validation { record: &record, best });
        Ok(best)
    }
}
