//! What a run tells of itself: `metrics.ndjson`, one JSON object a line, and TensorBoard's event files.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::learner::Measured;
use super::sets::{OfSet, mean_accuracy};
use super::tfevents::EventFile;
use super::validate::{OfSide, Validation};
use super::whole::write_whole;

/// The file of all metrics.
pub const METRICS: &str = "metrics.ndjson";

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Steps done, this one included.
    pub step: u64,
    /// The epoch, from 0.
    pub epoch: u64,
    /// What is made small.
    pub loss: f64,
    /// The teacher's part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distillation: Option<f64>,
    /// The learning rate.
    pub lr: f64,
    /// Mean norm of the step's embeddings.
    pub norm_mean: f64,
    /// Standard deviation of them.
    pub norm_std: f64,
    /// Mean of AdaFace's ẑ, from −1 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin_scaler: Option<f64>,
    /// Length of all gradients together, ahead of clipping.
    pub gradient_norm: f64,
    /// Images in a second, waiting for data included.
    pub images_per_s: f64,
    /// Seconds since the process took the run up.
    pub seconds: f64,
}

/// One look at faces that are not trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// Steps done.
    pub step: u64,
    /// The epoch that has ended, from 0; at the end of a run the one it is in.
    pub epoch: u64,
    /// What says which checkpoint is best: the mean over verification sets, where there are some, or else that of
    /// [`Validation`].
    pub validation_accuracy: f64,
    /// Crops of held-out identities that were compared.
    pub validation_crops: usize,
    /// Mean norm of their embeddings; none without held-out identities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_norm: Option<f64>,
    /// Whole crops and each side looked at, where `validation.sides` names some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validation_sides: Vec<OfSide>,
    /// Verification sets, where `validation.sets` names some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validation_sets: Vec<OfSet>,
}

impl StepRecord {
    /// From what a step has measured; rates and times are yet to be filled in.
    pub(super) fn new(step: u64, epoch: u64, lr: f64, measured: &Measured) -> Self {
        let (norm_mean, norm_std) = mean_and_deviation(&measured.norms);
        Self {
            step,
            epoch,
            loss: measured.loss,
            distillation: measured.distillation,
            lr,
            norm_mean,
            norm_std,
            margin_scaler: (!measured.scalers.is_empty()).then(|| mean_and_deviation(&measured.scalers).0),
            gradient_norm: measured.gradient,
            images_per_s: 0.0,
            seconds: 0.0,
        }
    }
}

impl ValidationRecord {
    /// `None` where nothing was looked at.
    pub(super) fn new(step: u64, epoch: u64, held_out: Option<Validation>, sets: Vec<OfSet>) -> Option<Self> {
        let accuracy = mean_accuracy(&sets).or(held_out.as_ref().map(|found| found.accuracy))?;
        let (crops, sides) = held_out.map_or((0, Vec::new()), |found| (found.crops, found.sides));
        Some(Self {
            step,
            epoch,
            validation_accuracy: accuracy,
            validation_crops: crops,
            validation_norm: sides.first().map(|whole| whole.norm_mean),
            validation_sides: if sides.len() > 1 { sides } else { Vec::new() },
            validation_sets: sets,
        })
    }
}

/// Tells a run that comes apart by the norms of its embeddings: losses see directions alone, so that a rate that is too high
/// lets norms run away while the loss looks fine.
#[derive(Debug, Default)]
pub(super) struct NormWatch {
    first: Option<f64>,
    last: Option<f64>,
    told: bool,
    told_of_validation: bool,
}

impl NormWatch {
    /// How many times the first mean a mean is that no sound training comes to.
    const FACTOR: f64 = 10.0;

    /// What to warn of after a step, once in a process.
    pub(super) fn look(&mut self, record: &StepRecord) -> Option<String> {
        self.last = Some(record.norm_mean);
        let first = *self.first.get_or_insert(record.norm_mean);
        if self.told || record.norm_mean <= Self::FACTOR * first {
            return None;
        }
        self.told = true;
        Some(format!(
            "norms of embeddings have a mean of {:.0} at step {}, after {first:.1} at first: the network comes apart, \
             which a lower optimiser.rate or an optimiser.clip can keep it from",
            record.norm_mean, record.step
        ))
    }

    /// The same after validation, where the network runs as it will be served: by its own statistics and not by those of a batch.
    pub(super) fn look_at_validation(&mut self, record: &ValidationRecord) -> Option<String> {
        let (validation, trained) = record.validation_norm.zip(self.last)?;
        let settled = validation < Self::FACTOR * trained && trained < Self::FACTOR * validation;
        if self.told_of_validation || settled {
            return None;
        }
        self.told_of_validation = true;
        Some(format!(
            "norms of held-out crops have a mean of {validation:.1} after step {}, those of training {trained:.1}: the network's \
             statistics of batches have not settled yet, as after few steps from random weights, and until then norms say nothing of \
             quality",
            record.step
        ))
    }
}

/// Mean and unbiased standard deviation.
fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count.max(1.0);
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    (mean, variance.sqrt())
}

/// Both files.
#[derive(Debug)]
pub(super) struct Metrics {
    lines: File,
    events: EventFile,
}

impl Metrics {
    /// Goes on after a step: what an earlier process wrote beyond it is taken out, since those steps come again.
    pub(super) fn open(folder: &Path, step: u64) -> io::Result<Self> {
        let path = folder.join(METRICS);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{METRICS}: {error}"));
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(named(error)),
        };
        // Lines that are damaged are no records, whatever they were.
        let before = String::from_utf8_lossy(&bytes);
        #[derive(Deserialize)]
        struct Numbered {
            step: u64,
        }
        let is_before = |line: &&str| serde_json::from_str::<Numbered>(line).is_ok_and(|line| line.step <= step);
        let kept: String = before.lines().filter(is_before).flat_map(|line| [line, "\n"]).collect();
        if kept.as_bytes() != bytes || !path.exists() {
            write_whole(&path, kept.as_bytes()).map_err(io::Error::other)?;
        }
        let lines = File::options().append(true).open(&path).map_err(named)?;
        Ok(Self { lines, events: EventFile::create(folder, step)? })
    }

    /// Brings what was written onto the disk, so that no checkpoint is ahead of it.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.lines.sync_data()?;
        self.events.sync()
    }

    fn line(&mut self, record: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_string(record)?;
        line.push('\n');
        self.lines.write_all(line.as_bytes())
    }

    pub(super) fn step(&mut self, record: &StepRecord) -> io::Result<()> {
        self.line(record)?;
        let always = [
            ("train/loss", record.loss),
            ("train/lr", record.lr),
            ("train/norm_mean", record.norm_mean),
            ("train/norm_std", record.norm_std),
            ("train/gradient_norm", record.gradient_norm),
            ("train/images_per_s", record.images_per_s),
        ];
        let scaler = record.margin_scaler.map(|value| ("train/margin_scaler", value));
        let distillation = record.distillation.map(|value| ("train/distillation", value));
        self.events.scalars(record.step, always.into_iter().chain(scaler).chain(distillation))
    }

    pub(super) fn validation(&mut self, record: &ValidationRecord) -> io::Result<()> {
        self.line(record)?;
        let mut scalars = vec![("validation/accuracy".to_owned(), record.validation_accuracy)];
        scalars.extend(record.validation_norm.map(|norm| ("validation/norm".to_owned(), norm)));
        scalars.extend(record.validation_sides.iter().flat_map(|side| {
            let name = |what: &str| format!("validation/{} px/{what}", side.side);
            [(name("accuracy"), side.accuracy), (name("norm"), side.norm_mean)]
        }));
        scalars.extend(record.validation_sets.iter().map(|set| (format!("validation/{}", set.set), set.accuracy)));
        self.events.scalars(record.step, scalars.iter().map(|(name, value)| (name.as_str(), *value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_choose_where_there_are_some() {
        let held_out = || Some(Validation { accuracy: 0.5, crops: 7, sides: Vec::new(), skipped: Vec::new() });
        let set = |accuracy| OfSet { set: "lfw".into(), accuracy, threshold: 1.4 };
        let accuracy = |held_out, sets| ValidationRecord::new(1, 0, held_out, sets).map(|one| one.validation_accuracy);
        assert_eq!(accuracy(None, vec![]), None);
        assert_eq!(accuracy(held_out(), vec![]), Some(0.5));
        assert_eq!(accuracy(held_out(), vec![set(0.75), set(1.0)]), Some(0.875));
        assert_eq!(accuracy(None, vec![set(0.75)]), Some(0.75));
    }

    #[test]
    fn norms_that_run_away_are_told_once() {
        let mut watch = NormWatch::default();
        let mut look = |step, mean: f64| {
            let measured = Measured { norms: vec![mean; 2], ..Measured::default() };
            watch.look(&StepRecord::new(step, 0, 0.1, &measured))
        };
        assert_eq!([look(8, 70.0), look(9, 700.0), look(10, 20.0)], [None, None, None]);
        let told = look(11, 701.0).unwrap();
        assert!(told.starts_with("norms of embeddings have a mean of 701 at step 11, after 70.0 at first"), "{told}");
        assert_eq!(look(12, 1e6), None);
    }

    #[test]
    fn statistics_that_have_not_settled_are_told_once() {
        let mut watch = NormWatch::default();
        let validation = |norm| ValidationRecord {
            step: 4,
            epoch: 0,
            validation_accuracy: 0.5,
            validation_crops: 2,
            validation_norm: norm,
            validation_sides: Vec::new(),
            validation_sets: Vec::new(),
        };
        assert_eq!(watch.look_at_validation(&validation(Some(1e6))), None, "nothing to compare with");
        let measured = Measured { norms: vec![20.0; 2], ..Measured::default() };
        watch.look(&StepRecord::new(4, 0, 0.1, &measured));
        assert_eq!(
            [None, Some(30.0), Some(199.0)].map(|norm| watch.look_at_validation(&validation(norm))),
            [None, None, None]
        );
        let told = watch.look_at_validation(&validation(Some(200.0))).unwrap();
        assert!(
            told.starts_with("norms of held-out crops have a mean of 200.0 after step 4, those of training 20.0"),
            "{told}"
        );
        assert_eq!(watch.look_at_validation(&validation(Some(1.0))), None);
    }

    #[test]
    fn steps_that_come_again_are_taken_out() {
        let folder = tempfile::tempdir().unwrap();
        let measured = Measured { loss: 2.0, norms: vec![1.0, 3.0], scalers: vec![0.5, -0.25], ..Measured::default() };
        let steps = |from: u64, to: u64| {
            let mut metrics = Metrics::open(folder.path(), from).unwrap();
            for step in from + 1..=to {
                metrics.step(&StepRecord::new(step, 0, 0.1, &measured)).unwrap();
            }
        };
        steps(0, 5);
        let path = folder.path().join(METRICS);
        let damaged = [&std::fs::read(&path).unwrap()[..], b"\xff\xfe\n\0\0{\"step\":6,\"lo"].concat();
        std::fs::write(&path, damaged).unwrap();
        steps(3, 7);
        let text = std::fs::read_to_string(&path).unwrap();
        let records: Vec<StepRecord> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.iter().map(|record| record.step).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
        let StepRecord { norm_mean, norm_std, margin_scaler, .. } = records[0];
        assert_eq!((norm_mean, norm_std, margin_scaler), (2.0, 2f64.sqrt(), Some(0.125)));
    }
}
