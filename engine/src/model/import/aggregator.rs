//! Import of a network for set fusion (CAFace): from a checkpoint to the file beside its backbone.
//!
//! What training keeps beside it, the backbone among it, is left out. The network's own tensors have to be there in
//! name and shape, and nothing else under their prefix.

use std::path::{Path, PathBuf};

use candle_core::Device;

use super::checkpoint::Checkpoint;
use super::error::{Differences, ImportError, Misshaped};
use super::layout::COUNTER;
use super::state::Tensors;
use super::write;
use crate::model::caface::{self, Aggregator};
use crate::model::registry::aggregator_path;
use crate::model::{Installed, Registry};

/// Prefixes of names: none, the module of a trainer, data-parallel training.
const PREFIXES: &[&str] = &["", "aggregator.", "model.aggregator.", "module.aggregator.", "model.", "module."];

/// A finished import of a network for set fusion.
#[derive(Debug)]
pub struct ImportedAggregator {
    /// The model it belongs to.
    pub model: Installed,
    /// Its file.
    pub path: PathBuf,
    /// Names its weights.
    pub id: [u8; 8],
}

/// Imports a network for set fusion from a checkpoint and puts it beside the model of a name or id.
pub fn import_aggregator(
    file: &Path,
    registry: &Registry,
    model: &str,
    replace: bool,
) -> Result<ImportedAggregator, ImportError> {
    let model = registry.find(model)?;
    let (architecture, dim) = (model.manifest.architecture, model.manifest.dim);
    let weights = model.path.as_deref().filter(|_| architecture.has_style() && dim == architecture.default_dim());
    let path = aggregator_path(weights.ok_or(ImportError::NoStyle(architecture))?);
    if path.exists() && !replace {
        return Err(ImportError::AggregatorExists(model.name));
    }
    let mut checkpoint = Checkpoint::open(file)?;
    let tensors = recognise(&checkpoint.tensors)?;
    let sources: Vec<String> = tensors.iter().map(|(source, _)| source.clone()).collect();
    checkpoint.plan(&sources)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut written =
        write::Weights::create(folder, &tensors.into_iter().map(|(_, tensor)| tensor).collect::<Vec<_>>())?;
    for source in &sources {
        checkpoint.each(source, |values| written.values(values))?;
    }
    checkpoint.finish()?;
    let (written, _) = written.finish()?;
    let bytes = std::fs::read(written.path()).map_err(ImportError::io(written.path()))?;
    let id = Aggregator::load(&bytes, &Device::Cpu)?.id();
    write::publish(written, &path)?;
    let model = registry.find(&model.name)?;
    Ok(ImportedAggregator { model, path, id })
}

/// A name in the file, and the tensor that it becomes.
type Source = (String, (String, Vec<usize>));

/// The network's tensors in the file.
fn recognise(tensors: &Tensors) -> Result<Vec<Source>, ImportError> {
    let shape = |name: &str| match tensors.get(name) {
        Some(Ok(view)) => Some(view.shape.clone()),
        _ => None,
    };
    let begins =
        |prefix: &&str| caface::FIRST_NAMES.iter().any(|name| tensors.contains_key(&format!("{prefix}{name}")));
    let prefix = PREFIXES.iter().copied().find(begins).ok_or(ImportError::NoAggregator)?;
    let mut difference = Differences::default();
    let mut sources: Vec<Source> = Vec::new();
    for (name, expected) in caface::tensors(&|name| shape(&format!("{prefix}{name}"))) {
        let [first, other] = caface::FIRST_NAMES;
        let absent = name == first && !tensors.contains_key(&format!("{prefix}{first}"));
        let source = format!("{prefix}{}", if absent { other } else { &name });
        match shape(&source) {
            None if !tensors.contains_key(&source) => difference.missing.push(source),
            Some(found) if found != expected => {
                difference.misshaped.push(Misshaped { name: source, expected, found });
            }
            // One whose values cannot be had is told when they are asked for.
            _ => sources.push((source, (name, expected))),
        }
    }
    for name in tensors.keys() {
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        let known = sources.iter().any(|(source, _)| source == name)
            || difference.misshaped.iter().any(|misshaped| misshaped.name == *name)
            || caface::FIRST_NAMES.contains(&rest)
            || rest.ends_with(&format!(".{COUNTER}"));
        if !known {
            difference.extra.push(name.clone());
        }
    }
    if difference.is_empty() { Ok(sources) } else { Err(ImportError::AggregatorTensors(difference)) }
}
