//! Where weights come from at a run's beginning.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use vultus_engine::model::import::{Options, import};
use vultus_engine::model::manifest::Input;
use vultus_engine::model::{Architecture, Manifest, Registry, embedded_parts};

use super::TrainError;
use super::checkpoint::Checkpoint;
use super::config::{EMBEDDED, NetworkConfig};
use crate::network::Network;

/// Weights to start from.
pub(super) struct Weights {
    architecture: Architecture,
    dim: usize,
    input: Input,
    tensors: HashMap<String, Tensor>,
}

impl Weights {
    /// Reads what a configuration names: the model that is built in, a checkpoint of a run, or whatever the engine
    /// imports.
    pub(super) fn open(name: &str, architecture: Option<Architecture>) -> Result<Self, TrainError> {
        if name == EMBEDDED {
            let (weights, manifest) = embedded_parts();
            return Self::of_model(weights, &Manifest::parse(manifest)?);
        }
        let path = Path::new(name);
        if path.extension().is_some_and(|extension| extension == "ckpt") && Checkpoint::open(path).is_ok() {
            let checkpoint = Checkpoint::open(path)?;
            let tensors = checkpoint.part("network.");
            let state = checkpoint.state;
            return Ok(Self { architecture: state.architecture, dim: state.dim, input: state.input, tensors });
        }
        // Through the engine's import, which knows published layouts, their colours and their prefixes.
        let folder = tempfile::tempdir().map_err(TrainError::io(path))?;
        let registry = Registry::new(folder.path().to_owned());
        let options = Options { architecture, ..Options::new("start") };
        let imported = import(path, &registry, &options, &Device::Cpu)?;
        let weights = registry.weights_path("start");
        let bytes = std::fs::read(&weights).map_err(TrainError::io(&weights))?;
        Self::of_model(&bytes, &imported.installed.manifest)
    }

    fn of_model(weights: &[u8], manifest: &Manifest) -> Result<Self, TrainError> {
        let tensors = candle_core::safetensors::load_buffer(weights, &Device::Cpu)?;
        Ok(Self { architecture: manifest.architecture, dim: manifest.dim, input: manifest.input, tensors })
    }

    /// Whether batch normalisation is folded into the convolutions.
    fn is_folded(&self) -> bool {
        self.architecture.ir().is_none() && !self.tensors.keys().any(|name| name.ends_with(".norm.weight"))
    }
}

/// A network at a run's beginning.
pub(super) struct Started {
    pub(super) network: Network,
    /// What it wants to see.
    pub(super) input: Input,
    /// Whether it needs statistics from the data before it is trained by those of its batches.
    pub(super) calibrate: bool,
}

/// The network of a configuration with the weights it starts from. What the configuration leaves open is filled in.
pub(super) fn network(config: &mut NetworkConfig, seed: u64) -> Result<Started, TrainError> {
    let weights = config.start.as_deref().map(|name| Weights::open(name, config.architecture)).transpose()?;
    let architecture =
        config.architecture.or(weights.as_ref().map(|weights| weights.architecture)).unwrap_or(Architecture::Ir18);
    let dim = config.dim.or(weights.as_ref().map(|weights| weights.dim)).unwrap_or(architecture.default_dim());
    let mut input = architecture.default_input();
    let mut network = Network::new(architecture, dim, seed)?;
    if let Some(weights) = &weights {
        if weights.architecture != architecture || weights.dim != dim {
            let found = format!("{} with {} values", weights.architecture, weights.dim);
            return Err(TrainError::Start { found, wanted: format!("{architecture} with {dim} values") });
        }
        network.load(&weights.tensors)?;
        input = Input { color_source: None, ..weights.input };
    }
    let is_folded = weights.as_ref().is_some_and(Weights::is_folded);
    let constant = config.constant_statistics.unwrap_or(is_folded);
    config.architecture = Some(architecture);
    config.dim = Some(dim);
    config.constant_statistics = Some(constant);
    apply(&mut network, config)?;
    Ok(Started { network, input, calibrate: is_folded && !constant })
}

/// Sets what of a configuration holds during the whole run.
pub(super) fn apply(network: &mut Network, config: &NetworkConfig) -> Result<(), TrainError> {
    network.set_dropout(config.dropout);
    network.set_constant_statistics(config.constant_statistics.unwrap_or(false));
    let prefixes: Vec<&str> = config.frozen.iter().map(String::as_str).collect();
    network.freeze_named(&prefixes)?;
    Ok(())
}
