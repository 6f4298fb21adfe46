//! From a checkpoint to a model that the server takes.
//!
//! Weights and the norms that the head has seen go through the engine's own import, which writes both files of a model
//! whole or not at all, runs it on crops, and measures what flip fusion does to norms.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use vultus_engine::align::AlignedCrop;
use vultus_engine::model::import::{Options, import};
use vultus_engine::model::{Installed, Registry};
use vultus_engine::random::Random;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::checkpoints::Checkpoints;
use super::data::Data;
use super::folder::{checkpoints_of, config_of};
use super::{TrainConfig, TrainError};
use crate::data::{Crop, Damaged, Readable};
use crate::head::AdaFaceState;
use crate::network::Network;

/// Crops of the training data that norms are measured on.
const SAMPLES: usize = 64;

/// What to export, and as what.
#[derive(Debug, Clone)]
pub struct ExportConfig {
    /// The run's folder.
    pub run: PathBuf,
    /// The checkpoint; where none is given, the best one, or the last where nothing was validated.
    pub checkpoint: Option<PathBuf>,
    /// Name of the model.
    pub name: String,
    /// The folder of models it goes to.
    pub models: PathBuf,
    /// Score from which two crops count as one person's, until scores are measured.
    pub threshold: Option<f32>,
    /// Licence of the weights (SPDX).
    pub licence: Option<String>,
    /// Replace a model of the same name.
    pub replace: bool,
}

/// An exported model.
#[derive(Debug)]
pub struct Exported {
    /// The model.
    pub installed: Installed,
    /// Steps that it was trained.
    pub step: u64,
    /// What the operator should know, a sentence each.
    pub warnings: Vec<String>,
}

/// Exports a checkpoint of a run.
///
/// # Errors
/// [`TrainError::NoRun`] where there is no usable checkpoint, [`TrainError::Import`] where the engine refuses the model.
pub fn export(config: &ExportConfig) -> Result<Exported, TrainError> {
    let run = TrainConfig::open(&config_of(&config.run))?;
    let mut warnings = Vec::new();
    let checkpoint = match &config.checkpoint {
        Some(path) => Checkpoint::open(path)?,
        None => choose(&config.run, &mut warnings)?,
    };
    let state = &checkpoint.state;
    let mut network = Network::new(state.architecture, state.dim, 0)?;
    network.load(&checkpoint.part("network."))?;
    let mut tensors = network.export()?;
    let batches = state.step * run.run.accumulate as u64;
    if let Some(seen) = running(&checkpoint)?.and_then(|running| run.head.seen_norms(running, batches)) {
        for (name, value) in [("head.batch_mean", seen.mean), ("head.batch_std", seen.std)] {
            tensors.insert(name.to_owned(), Tensor::new(&[value as f32], &Device::Cpu)?);
        }
    }
    let samples = match samples(&run) {
        Ok((samples, damaged)) => {
            warnings.extend(damaged);
            samples
        }
        Err(error) => {
            warnings.push(format!("norms are measured on drawn faces, as the training data cannot be read: {error}"));
            Vec::new()
        }
    };
    let folder = tempfile::tempdir().map_err(TrainError::io(&config.models))?;
    let file = folder.path().join(format!("{}.safetensors", config.name));
    candle_core::safetensors::save(&tensors, &file)?;
    let options = Options {
        architecture: Some(state.architecture),
        color: Some(state.input.color),
        threshold: config.threshold,
        source: Some(format!("trained by vultus-train {}, {} steps", env!("CARGO_PKG_VERSION"), state.step)),
        licence: config.licence.clone(),
        samples,
        replace: config.replace,
        ..Options::new(&config.name)
    };
    let imported = import(&file, &Registry::new(config.models.clone()), &options, &Device::Cpu)?;
    // Import guesses by norms whether colours are in the right order. Here it is known, as the network was trained in it.
    warnings.extend(imported.warnings.into_iter().filter(|warning| !warning.starts_with("the colour order")));
    Ok(Exported { installed: imported.installed, step: state.step, warnings })
}

/// The best checkpoint, or the last where nothing was validated.
fn choose(run: &Path, warnings: &mut Vec<String>) -> Result<Checkpoint, TrainError> {
    let checkpoints = Checkpoints::at(checkpoints_of(run));
    if checkpoints.best().exists() {
        match Checkpoint::open(&checkpoints.best()) {
            Ok(best) => return Ok(best),
            Err(error @ CheckpointError::Damaged { .. }) => warnings.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    let (last, refused) = checkpoints.last()?;
    warnings.extend(refused.iter().map(ToString::to_string));
    last.ok_or_else(|| TrainError::NoRun(run.to_owned()))
}

/// The running norms of an AdaFace head.
fn running(checkpoint: &Checkpoint) -> Result<Option<AdaFaceState>, TrainError> {
    let head: HashMap<String, Tensor> = checkpoint.part("head.");
    let number = |name: &str| -> Result<Option<f64>, TrainError> {
        let Some(tensor) = head.get(name).filter(|tensor| tensor.elem_count() == 1) else { return Ok(None) };
        Ok(Some(tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?[0]))
    };
    Ok(number("batch_mean")?.zip(number("batch_std")?).map(|(mean, std)| AdaFaceState { mean, std }))
}

/// Crops of the part that was trained on, drawn from the seed, as they are; and what is to be told of damaged ones.
fn samples(run: &TrainConfig) -> Result<(Vec<AlignedCrop>, Option<String>), TrainError> {
    let dataset = Data::open(run)?.train;
    let order = Random::named(run.seed, "samples for norms").order(dataset.len());
    let found = Readable::read(dataset.as_ref(), order, SAMPLES, Damaged::Skip)?;
    let crop = |crop: &Crop| AlignedCrop::new(crop.to_rgb()).map_err(|error| TrainError::Other(error.to_string()));
    let warning = found.warning("crops to measure norms on");
    Ok((found.crops.iter().map(crop).collect::<Result<_, _>>()?, warning))
}

#[cfg(test)]
mod tests {
    use image::RgbImage;
    use vultus_engine::image::encode_png;

    use super::*;

    /// A damaged crop costs itself alone, and nobody who is held out is measured.
    #[test]
    fn norms_are_measured_on_what_was_trained_on() {
        let root = tempfile::tempdir().unwrap();
        for identity in 0..6u8 {
            let folder = root.path().join(format!("faces/{identity}"));
            std::fs::create_dir_all(&folder).unwrap();
            for crop in 0..3u8 {
                let picture = RgbImage::from_pixel(112, 112, image::Rgb([40 * identity + crop; 3]));
                std::fs::write(folder.join(format!("{crop}.png")), encode_png(&picture).unwrap()).unwrap();
            }
        }
        let mut run = TrainConfig::default();
        run.data.path = root.path().join("faces");
        run.data.hold_out = 2;
        let (crops, warning) = samples(&run).unwrap();
        assert_eq!((crops.len(), warning), (12, None));
        let train = Data::open(&run).unwrap().train;
        std::fs::write(train.name(0), "no image").unwrap();
        let (crops, warning) = samples(&run).unwrap();
        assert_eq!(crops.len(), 11);
        assert!(warning.unwrap().starts_with("1 crops to measure norms on left out as damaged"));
    }
}
