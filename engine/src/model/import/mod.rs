//! Import: from a checkpoint as somebody trained or published it to an installed model.
//!
//! Read are files of `torch.save` (zip form and the older one, as Lightning and plain programs write them) and
//! safetensors (our own, CVLFace's). The result is a safetensors file of f32 with exactly the tensors of a known
//! network, and a manifest. The steps:
//!
//! 1. `checkpoint` opens the file and lists its tensors. Pickles are read by a machine that executes nothing.
//! 2. `layout` recognises the network by names and shapes, and names every difference.
//! 3. The colour order is decided: by the operator, by a file that came with the weights, by the kind of checkpoint; a
//!    guess is told as one, and where even that would be careless the import is refused.
//! 4. `write` copies the values, one tensor at a time, refusing any that is not finite. Checksums that the file carries
//!    are verified, also of parts that are not needed.
//! 5. `trial` runs the model on sample crops: does it work, which colour order does it like, what norms does it give.
//! 6. Weights and manifest get their names. Before that, a failure at any step leaves nothing behind.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use vultus_engine::model::{Registry, import::{Options, import}};
//! let registry = Registry::new("models".into());
//! let done = import("adaface.ckpt".as_ref(), &registry, &Options::new("adaface"), &candle_core::Device::Cpu)?;
//! println!("{} {:?}", done.installed.model_id, done.warnings);
//! # Ok(())
//! # }
//! ```

mod aggregator;
mod archive;
mod checkpoint;
mod color;
mod describe;
mod error;
mod layout;
mod legacy;
mod pickle;
mod safetensors;
mod samples;
mod state;
mod tensor;
mod trial;
mod verify;
mod write;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};

use checkpoint::{Checkpoint, Writer};
use layout::{Form, Layout};

pub use aggregator::{ImportedAggregator, import_aggregator};
pub use error::{Differences, ImportError, Misshaped};
pub use pickle::PickleError;
pub use trial::{ColorCheck, Verdict};
pub use verify::{Verified, verify};

use super::manifest::Norms;
use super::mobilefacenet::y1;
use super::registry::{MANIFEST_EXTENSION, aggregator_path, is_name};
use super::{Architecture, Arithmetic, Color, Installed, Manifest, Model, ModelError, Registry, WeightsError};
use crate::align::AlignedCrop;
use crate::quality::NormStats;
use crate::template::FusionRule;

/// The threshold of an imported model unless another is given: near the score at which the published networks of the
/// AdaFace family tell people apart. An assumption.
pub const ASSUMED_THRESHOLD: f32 = 0.3;
/// The licence of weights that nobody stated one for (SPDX).
pub const NO_LICENCE: &str = "NOASSERTION";
/// The false match rate of the threshold once impostor scores are measured.
const THRESHOLD_FMR: f64 = 1e-4;
/// Where AdaFace's head keeps mean and deviation of the norms it has seen.
const HEAD_STATS: [&str; 2] = ["head.batch_mean", "head.batch_std"];

/// Means and deviations of norms that a trained head can have.
const USUAL_NORMS: std::ops::RangeInclusive<f32> = 1e-3..=1e4;

/// What to import as.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the model.
    pub name: String,
    /// The network; recognised by its tensors where none is given.
    pub architecture: Option<Architecture>,
    /// The colour order; decided as the module documentation says where none is given.
    pub color: Option<Color>,
    /// The threshold until scores are measured; [`ASSUMED_THRESHOLD`] where none is given.
    pub threshold: Option<f32>,
    /// Where the weights come from, for people; the file's name where nothing is given.
    pub source: Option<String>,
    /// Their licence (SPDX).
    pub licence: Option<String>,
    /// Crops of photos to measure norms with and to check the colour order. Drawn faces are used where there are none.
    pub samples: Vec<AlignedCrop>,
    /// Replace a model of the same name.
    pub replace: bool,
}

impl Options {
    /// Everything left open but the name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            architecture: None,
            color: None,
            threshold: None,
            source: None,
            licence: None,
            samples: Vec::new(),
            replace: false,
        }
    }
}

/// A finished import.
#[derive(Debug)]
pub struct Imported {
    /// The model.
    pub installed: Installed,
    /// What the operator should know, a sentence each.
    pub warnings: Vec<String>,
    /// Tensors of the file that belong to a loss and were left out.
    pub left_out: Vec<String>,
    /// What norms say of the colour order.
    pub color_check: ColorCheck,
}

/// Imports a checkpoint into the registry's folder, which is made if it is not there.
pub fn import(file: &Path, registry: &Registry, options: &Options, device: &Device) -> Result<Imported, ImportError> {
    let path = free_path(registry, options)?;
    let mut checkpoint = Checkpoint::open(file)?;
    let layout = layout::recognise(&checkpoint.tensors, options.architecture)?;
    let mut warnings = Vec::new();
    let own = own_manifest(file, &checkpoint)?;
    let input = color::input(file, &checkpoint, &layout, own.as_ref(), options, &mut warnings)?;
    let head = head_stats(&mut checkpoint, &mut warnings);

    let folder = registry.directory();
    std::fs::create_dir_all(folder).map_err(ImportError::io(folder))?;
    let (weights, sha256) = copy(&mut checkpoint, &layout, folder)?;
    checkpoint.finish()?;

    let provisional = head.unwrap_or(NormStats { mean: 1.0, std: 1.0 });
    let threshold = options.threshold.or(own.as_ref().and_then(|own| own.threshold));
    let file_name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut manifest = Manifest {
        name: options.name.clone(),
        architecture: layout.architecture,
        dim: layout.dim,
        input,
        norm: Norms { plain: provisional, flip: None, source: None },
        fusion: own.as_ref().map_or(FusionRule::Norm.into(), |own| own.fusion),
        impostor_scores: own.as_ref().map(|own| own.impostor_scores.clone()).unwrap_or_default(),
        threshold_fmr: own.as_ref().map_or(THRESHOLD_FMR, |own| own.threshold_fmr),
        threshold,
        source: own.as_ref().map_or_else(|| format!("imported from {file_name}"), |own| own.source.clone()),
        licence: own.as_ref().map_or_else(|| NO_LICENCE.to_owned(), |own| own.licence.clone()),
        sha256,
    };
    if let Some(source) = &options.source {
        manifest.source.clone_from(source);
    }
    if let Some(licence) = &options.licence {
        manifest.licence.clone_from(licence);
    }
    if manifest.impostor_scores.is_empty() && threshold.is_none() {
        manifest.threshold = Some(ASSUMED_THRESHOLD);
        warnings.push(format!(
            "the threshold {ASSUMED_THRESHOLD} is an assumption until scores are measured; set --threshold, or one for \
             the server or gallery"
        ));
    }

    let bytes = std::fs::read(weights.path()).map_err(ImportError::io(weights.path()))?;
    let model = Model::from_parts(&bytes, &json(&manifest), false, device, Arithmetic::for_device(device))?;
    drop(bytes);
    let (color_check, norms) = try_out(&model, options, head, own.is_some(), &mut warnings)?;
    drop(model);
    manifest.norm = match own {
        Some(own) => own.norm,
        None => norms,
    };
    manifest.check().map_err(ModelError::ManifestValue)?;

    let lock = write::lock(folder)?;
    // Another import may have taken the name in the meantime.
    free_path(registry, options)?;
    remove_aggregator(&path, &manifest.sha256, &mut warnings)?;
    write::publish(weights, &path)?;
    write::write_text(&path.with_extension(MANIFEST_EXTENSION), &json(&manifest))?;
    drop(lock);
    let installed = registry.find(&options.name)?;
    Ok(Imported { installed, warnings, left_out: layout.left_out, color_check })
}

/// Fails where a model cannot be imported under the wanted name, before anything is fetched or read for it.
pub fn check_name(registry: &Registry, options: &Options) -> Result<(), ImportError> {
    free_path(registry, options).map(drop)
}

/// The weights' path, if the name may be used.
fn free_path(registry: &Registry, options: &Options) -> Result<PathBuf, ImportError> {
    if !is_name(&options.name) {
        return Err(ImportError::Name(options.name.clone()));
    }
    let path = registry.weights_path(&options.name);
    let embedded = registry.list()?.into_iter().flatten().any(|m| m.path.is_none() && m.name == options.name);
    let there = path.exists() || path.with_extension(MANIFEST_EXTENSION).exists();
    if embedded || (there && !options.replace) { Err(ImportError::Exists(options.name.clone())) } else { Ok(path) }
}

/// Removes the network for set fusion of the model that is about to be replaced by another one.
fn remove_aggregator(weights: &Path, sha256: &str, warnings: &mut Vec<String>) -> Result<(), ImportError> {
    let aggregator = aggregator_path(weights);
    let replaced = std::fs::read_to_string(weights.with_extension(MANIFEST_EXTENSION)).ok();
    let same = replaced.and_then(|text| Manifest::parse(&text).ok()).is_some_and(|old| old.sha256 == sha256);
    if aggregator.exists() && !same {
        std::fs::remove_file(&aggregator).map_err(ImportError::io(&aggregator))?;
        warnings.push("the CAFace network of the model that was replaced is removed; it fits no other".into());
    }
    Ok(())
}

fn json(manifest: &Manifest) -> String {
    let mut text = serde_json::to_string_pretty(manifest).unwrap_or_default();
    text.push('\n');
    text
}

/// The manifest beside a safetensors file of our own. Refused if it is of other weights.
fn own_manifest(file: &Path, checkpoint: &Checkpoint) -> Result<Option<Manifest>, ImportError> {
    let path = file.with_extension(MANIFEST_EXTENSION);
    if checkpoint.writer != Writer::Safetensors || !path.is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(ImportError::io(&path))?;
    // Many programs put JSON files beside weights; only one of ours is meant.
    let Ok(manifest) = Manifest::parse(&text) else { return Ok(None) };
    let mut hash = Sha256::new();
    let copied = File::open(file).and_then(|mut weights| std::io::copy(&mut weights, &mut hash));
    copied.map_err(ImportError::io(file))?;
    if write::hex(&hash.finalize()) != manifest.sha256 {
        let problem = "the SHA-256 in it is not that of the weights".to_owned();
        return Err(ImportError::Config { path, problem });
    }
    Ok(Some(manifest))
}

/// Mean and deviation of norms as the head has kept them. What cannot be used is told and left out.
fn head_stats(checkpoint: &mut Checkpoint, warnings: &mut Vec<String>) -> Option<NormStats> {
    if !HEAD_STATS.iter().all(|name| checkpoint.tensors.contains_key(*name)) {
        return None;
    }
    let stats = HEAD_STATS.map(|name| match checkpoint.values_of(name).as_deref() {
        Ok([value]) => Some(*value),
        _ => None,
    });
    match stats {
        [Some(mean), Some(std)] if USUAL_NORMS.contains(&mean) && USUAL_NORMS.contains(&std) => {
            Some(NormStats { mean, std })
        }
        _ => {
            warnings.push("the loss head's norms cannot be used (head.batch_mean, head.batch_std)".into());
            None
        }
    }
}

/// Writes the tensors. Gives the file under its temporary name, and its SHA-256.
fn copy(
    checkpoint: &mut Checkpoint,
    layout: &Layout,
    folder: &Path,
) -> Result<(tempfile::NamedTempFile, String), ImportError> {
    let full = |name: &str| format!("{}{name}", layout.prefix);
    let names: Vec<String> = layout.tensors.iter().map(|(name, _)| full(name)).collect();
    checkpoint.plan(&names)?;
    if layout.form == Form::PublishedY1 {
        return copy_folded(checkpoint, layout, folder);
    }
    let mut weights = write::Weights::create(folder, &layout.tensors)?;
    for name in &names {
        checkpoint.each(name, |values| weights.values(values))?;
    }
    weights.finish()
}

/// As [`copy`], for a network of few values that is folded first.
fn copy_folded(
    checkpoint: &mut Checkpoint,
    layout: &Layout,
    folder: &Path,
) -> Result<(tempfile::NamedTempFile, String), ImportError> {
    let unreadable = |error| ImportError::Weights(WeightsError::Unreadable(error));
    let mut published = HashMap::new();
    for (name, shape) in &layout.tensors {
        let values = checkpoint.values(&format!("{}{name}", layout.prefix))?;
        let tensor = Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).map_err(unreadable)?;
        published.insert(name.clone(), tensor);
    }
    let folded = y1::fold(published)?;
    let tensors = layout.architecture.tensors(layout.dim);
    let mut weights = write::Weights::create(folder, &tensors)?;
    for (name, _) in &tensors {
        let tensor = folded.get(name).ok_or_else(|| WeightsError::Missing(vec![name.clone()]))?;
        let values = tensor.flatten_all().and_then(|tensor| tensor.to_vec1::<f32>()).map_err(unreadable)?;
        if !values.iter().all(|value| value.is_finite()) {
            return Err(ImportError::NotFinite(name.clone()));
        }
        weights.values(&values)?;
    }
    weights.finish()
}

/// Whether norms of sample crops can be of the network that a head has seen norms of. Poor photos have half of what good ones
/// have, and drawn faces more.
fn of_one_network(kept: f64, measured: f64) -> bool {
    (kept / 5.0..=kept * 5.0).contains(&measured)
}

/// Runs the model on samples, and tells what they say against it.
fn try_out(
    model: &Model,
    options: &Options,
    head: Option<NormStats>,
    known: bool,
    warnings: &mut Vec<String>,
) -> Result<(ColorCheck, Norms), ImportError> {
    let photos = options.samples.len() >= trial::FEWEST_PHOTOS;
    if !photos && !options.samples.is_empty() {
        let (given, fewest) = (options.samples.len(), trial::FEWEST_PHOTOS);
        warnings
            .push(format!("{given} samples are too few to measure norms ({fewest} are needed); drawn faces are used"));
    }
    let drawn = if photos { Vec::new() } else { samples::drawn() };
    let crops = if photos { &options.samples } else { &drawn };
    let trial = trial::run(model, crops, photos, head)?;
    if !photos && head.is_none() && !known {
        warnings.push(
            "the model's norms are a guess from drawn faces, and so is quality; import with --samples FOLDER of \
             portraits to measure them"
                .into(),
        );
    }
    if let Some(head) = head.filter(|head| !of_one_network(f64::from(head.mean), trial.measured)) {
        warnings.push(format!(
            "norms of {} sample crops have a mean of {:.1}, the loss head has kept {:.1} ± {:.1}: the network is not as it was when \
             the head saw these, as after few steps from random weights, and quality will say nothing",
            trial.color.crops, trial.measured, head.mean, head.std
        ));
    }
    if trial.color.verdict == Verdict::OtherIsBetter {
        let (wanted, other) = match trial.color.color {
            Color::Rgb => ("rgb", "bgr"),
            Color::Bgr => ("bgr", "rgb"),
        };
        let percent = -100.0 * trial.color.mean;
        warnings.push(format!(
            "the colour order {wanted} is probably wrong: norms of {} sample crops are {percent:.1} % larger in {other}; \
             import again with --color {other} unless you know better",
            trial.color.crops
        ));
    }
    Ok((trial.color, trial.norms))
}

#[cfg(test)]
mod tests;
