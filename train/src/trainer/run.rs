//! A run: its folder, its loop.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Tensor};
use vultus_engine::random::Random;

use super::checkpoint::{Checkpoint, State};
use super::checkpoints::Checkpoints;
use super::data::{Data, sampler_config};
use super::distil::Teacher;
use super::fixed::Fixed;
use super::folder::RunFolder;
use super::head::{HeadKind, KernelStart};
use super::learner::{Learner, Measured, Part};
use super::means::class_means;
use super::metrics::{Metrics, NormWatch, StepRecord, ValidationRecord};
use super::sets::EvaluationSet;
use super::start::{self, Started};
use super::validate::validate;
use super::whole::write_whole;
use super::{TrainConfig, TrainError, input};
use crate::data::{Batch, DataError, Loader, Readable, SIDE, Sampler, SamplerState, warning};
use crate::network::Network;
use crate::optimise::{Schedule, SgdConfig};

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
    folder: RunFolder,
    checkpoints: Checkpoints,
    data: Data,
    sets: Vec<EvaluationSet>,
    learner: Learner,
    teacher: Option<Teacher>,
    schedule: Schedule,
    steps: u64,
    state: State,
    warnings: Vec<String>,
    /// What was told of damaged images: they come again in every epoch.
    damaged: BTreeSet<String>,
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer")
            .field("folder", &self.folder.path())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Trainer {
    /// Begins a run in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`TrainError::Exists`] where there is a run already, [`TrainError::Leftover`] where checkpoints of one are,
    /// [`TrainError::Locked`]; all that can be wrong with a configuration.
    pub fn start(mut config: TrainConfig, folder: &Path) -> Result<Self, TrainError> {
        let folder = RunFolder::begin(folder)?;
        let wrong = |problem| TrainError::Config { path: "configuration".into(), problem };
        config.check().map_err(wrong)?;
        config.head.m = (config.head.kind != HeadKind::MagFace).then(|| config.head.margin());
        let data = Data::open(&config)?;
        let trainer = Self::fresh(config, folder, data)?;
        write_whole(&trainer.folder.config(), trainer.config.to_toml()?.as_bytes())?;
        Ok(trainer)
    }

    /// Takes up the run of a folder after the last checkpoint that can be used, or from its beginning where there is
    /// none at all. Damaged ones behind it get another name, which is told as [`Event::Warning`].
    ///
    /// # Errors
    /// [`TrainError::NoRun`], [`TrainError::Locked`], [`TrainError::Checkpoint`] where there are checkpoints and none can
    /// be used, [`TrainError::OtherData`], [`TrainError::OtherSetting`], and those of [`Self::start`].
    pub fn resume(folder: &Path) -> Result<Self, TrainError> {
        let folder = RunFolder::take_up(folder)?;
        let mut config = TrainConfig::open(&folder.config())?;
        let checkpoints = Checkpoints::open(folder.checkpoints())?;
        let (last, refused) = checkpoints.last()?;
        let data = Data::open(&config)?;
        let mut trainer = match last {
            Some(Checkpoint { state, tensors }) => {
                state.fixed.hold(&mut config)?;
                data.check_same(&state)?;
                let mut network = Network::new(state.architecture, state.dim, config.seed)?;
                start::apply(&mut network, &config.network)?;
                let mut trainer = Self::assemble(config, folder, data, network, state)?;
                trainer.learner.load(&tensors)?;
                trainer
            }
            None => Self::fresh(config, folder, data)?,
        };
        trainer.warnings.extend(checkpoints.set_aside(&refused)?);
        Ok(trainer)
    }

    /// A run at its beginning.
    fn fresh(mut config: TrainConfig, folder: RunFolder, data: Data) -> Result<Self, TrainError> {
        let Started { mut network, input, calibrate, mut warnings } = start::network(&mut config.network, config.seed)?;
        let train = data.train.as_ref();
        if calibrate {
            let order = Random::named(config.seed, "crops for statistics").order(train.len());
            let found = Readable::read(train, order, CALIBRATION, config.loader.damaged)?;
            if let (true, Some(first)) = (found.crops.is_empty(), found.skipped.first()) {
                return Err(DataError::AllDamaged(found.skipped.len(), first.clone()).into());
            }
            warnings.extend(found.warning("crops for statistics"));
            let mut pixels = Vec::new();
            found.crops.iter().for_each(|crop| input::of_crop(crop, &input, &mut pixels));
            network.calibrate(&Tensor::from_vec(pixels, (found.crops.len(), 3, SIDE, SIDE), &Device::Cpu)?)?;
        }
        let state = State {
            step: 0,
            sampler: SamplerState { seed: config.seed, epoch: 0, position: 0 },
            samples: train.len() as u64,
            classes: train.classes() as u64,
            set: data.digest(),
            fixed: Fixed::of(&config),
            architecture: network.architecture(),
            dim: network.dim(),
            input,
            best: None,
            stale: 0,
        };
        let mut trainer = Self::assemble(config, folder, data, network, state)?;
        trainer.warnings = warnings;
        if trainer.config.head.start == KernelStart::Means {
            let (seed, train) = (trainer.config.seed, trainer.data.train.clone());
            trainer.learner.turn_classes(|network| class_means(network, &input, train.as_ref(), seed))?;
        }
        Ok(trainer)
    }

    fn assemble(
        config: TrainConfig,
        folder: RunFolder,
        data: Data,
        mut network: Network,
        state: State,
    ) -> Result<Self, TrainError> {
        let dim = network.dim();
        config.run.place(&mut network)?;
        let train = data.train.as_ref();
        let sampler = Sampler::new(config.seed, sampler_config(&config), train)?;
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
        let checkpoints = Checkpoints::open(folder.checkpoints())?;
        Ok(Self {
            config,
            folder,
            checkpoints,
            data,
            sets,
            learner,
            teacher,
            schedule,
            steps,
            state,
            warnings: Vec::new(),
            damaged: BTreeSet::new(),
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
        if self.state.step >= self.steps {
            return Ok(Outcome::Finished);
        }
        // A run that ended early goes on where there is more patience now than there was.
        if self.is_out_of_patience() {
            return Ok(Outcome::NoBetter);
        }
        let folder = self.folder.path().to_owned();
        let train = &self.data.train;
        let mut metrics = Metrics::open(&folder, self.state.step).map_err(TrainError::io(&folder))?;
        let sampler = Sampler::resume(self.state.sampler, sampler_config(&self.config), train.as_ref())?;
        let mut loader = Loader::new(train.clone(), sampler, self.config.augment, self.config.loader)?;
        let mut norms = NormWatch::default();
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
            metrics.step(&record).map_err(TrainError::io(&folder))?;
            watch(Event::Step { record: &record, steps: self.steps });
            if let Some(warning) = norms.look(&record) {
                watch(Event::Warning(&warning));
            }

            let stopped = stop.load(Ordering::Relaxed);
            let is_last = step == self.steps;
            let due = self.config.checkpoints.every_steps.is_some_and(|every| step.is_multiple_of(every));
            // Whatever a run is ended by, it is with one of these: patience is lost at the end of an epoch.
            let kept = if is_last || stopped || ends_epoch || due {
                let kept = self.learner.finite_tensors();
                Some(kept.map_err(|source| TrainError::Step { step, source: Box::new(source) })?)
            } else {
                None
            };
            // The weights that a run ends with are looked at in any case, so that the best are known among all.
            let look = ends_epoch && (epoch + 1).is_multiple_of(self.config.validation.every_epochs);
            let best = (look || is_last) && self.validate(epoch, &mut metrics, &mut norms, watch)?;
            if let Some(tensors) = kept {
                metrics.sync().map_err(TrainError::io(&folder))?;
                let checkpoint = Checkpoint { state: self.state.clone(), tensors };
                let keep = self.config.checkpoints.keep;
                watch(Event::Checkpoint(&self.checkpoints.write(&checkpoint, best, keep)?));
            }
            if is_last {
                break;
            }
            if self.is_out_of_patience() {
                return Ok(Outcome::NoBetter);
            }
            if stopped {
                return Ok(Outcome::Stopped);
            }
        }
        Ok(Outcome::Finished)
    }

    /// Whether validation has not become better for too long.
    fn is_out_of_patience(&self) -> bool {
        self.config.validation.patience.is_some_and(|patience| self.state.stale >= patience)
    }

    /// One step: what was measured, the epoch, and whether it has ended. Of a step whose parts are of several epochs, that
    /// is the last that has ended.
    fn step(
        &mut self,
        loader: &mut Loader,
        lr: f64,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<(Measured, u64, bool), TrainError> {
        let parts = self.config.run.accumulate as u64;
        let (mut epoch, mut ended, mut after) = (0, None, self.state.sampler);
        for part in 0..parts {
            let batch = self.next_part(loader, &mut ended, watch)?;
            (epoch, after) = (batch.epoch, batch.after);
            // Mixed as augmentations are, so that no two parts share a seed by design.
            let drawn = Random::named(self.config.seed, "dropout").next();
            let seed = Random::new(drawn ^ (self.state.step * parts + part)).next();
            let part = self.part(batch, seed)?;
            self.learner.add(&part, self.teacher.as_ref(), 1.0 / parts as f64)?;
        }
        let measured = self.learner.apply(lr)?;
        self.state.sampler = after;
        Ok((measured, ended.unwrap_or(epoch), ended.is_some()))
    }

    /// The next batch that can be trained on, and the last epoch that has `ended` with it or with one passed over: where all
    /// but one of its images are damaged, one is left, which has no statistics.
    fn next_part(
        &mut self,
        loader: &mut Loader,
        ended: &mut Option<u64>,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<Batch, TrainError> {
        // As many as an epoch has at most: then no batch is any better.
        for _ in 0..self.data.train.len() {
            let Some(batch) = loader.next() else {
                return Err(TrainError::Other("the data came to an end".into()));
            };
            let batch = batch?;
            for skipped in batch.skipped.iter().filter(|skipped| self.damaged.insert((*skipped).clone())) {
                watch(Event::Warning(skipped));
            }
            if batch.ends_epoch {
                *ended = Some(batch.epoch);
            }
            if batch.labels.len() > 1 || batch.skipped.is_empty() {
                return Ok(batch);
            }
            watch(Event::Warning("one image is left of a batch, which is passed over"));
        }
        Err(TrainError::Other("so many images are damaged that no batch has two".into()))
    }

    fn part(&self, mut batch: Batch, seed: u64) -> Result<Part, TrainError> {
        let lesson = self.teacher.as_ref().map(|teacher| teacher.look(&batch.images)).transpose()?;
        input::enter(&mut batch.images, &self.state.input);
        let count = batch.labels.len();
        let images = Tensor::from_vec(batch.images, (count, 3, SIDE, SIDE), &Device::Cpu)?;
        let labels = Tensor::from_vec(batch.labels, count, &Device::Cpu)?;
        Ok(Part { images, labels, lesson, seed })
    }

    /// Looks at held-out identities and verification sets, where there are any. Whether it is the best look so far.
    fn validate(
        &mut self,
        epoch: u64,
        metrics: &mut Metrics,
        norms: &mut NormWatch,
        watch: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool, TrainError> {
        let (network, input) = (&mut self.learner.network, &self.state.input);
        let (sides, damaged) = (&self.config.validation.sides, self.config.loader.damaged);
        let held_out = match &self.data.held_out {
            Some(held_out) => Some(validate(network, input, held_out.as_ref(), sides, damaged)?),
            None => None,
        };
        if let Some(warning) = held_out.as_ref().and_then(|found| warning(&found.skipped, "held-out images")) {
            watch(Event::Warning(&warning));
        }
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
        metrics.validation(&record).map_err(TrainError::io(self.folder.path()))?;
        watch(Event::Validation { record: &record, best });
        if let Some(warning) = norms.look_at_validation(&record) {
            watch(Event::Warning(&warning));
        }
        Ok(best)
    }
}
