//! Where weights come from at a run's beginning.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use vultus_engine::model::import::{ImportError, Options, import};
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
    /// Whether they were trained by statistics that stayed as they were.
    constant_statistics: bool,
    /// What who runs the training should know.
    warnings: Vec<String>,
}

impl Weights {
    /// Reads what a configuration names: the model that is built in, a checkpoint of a run, or whatever the engine
    /// imports.
    fn open(name: &str, config: &NetworkConfig) -> Result<Self, TrainError> {
        if name == EMBEDDED {
            let (weights, manifest) = embedded_parts();
            return Self::of_model(weights, &Manifest::parse(manifest)?);
        }
        let path = Path::new(name);
        if Checkpoint::is_at(path)? {
            let checkpoint = Checkpoint::open(path)?;
            let tensors = checkpoint.part("network.");
            let state = checkpoint.state;
            return Ok(Self {
                architecture: state.architecture,
                dim: state.dim,
                input: state.input,
                tensors,
                constant_statistics: state.fixed.constant_statistics(),
                warnings: Vec::new(),
            });
        }
        // Through the engine's import, which knows published layouts, their colours and their prefixes.
        let folder = tempfile::tempdir().map_err(TrainError::io(path))?;
        let registry = Registry::new(folder.path().to_owned());
        let options = Options { architecture: config.architecture, color: config.color, ..Options::new("start") };
        let imported = import(path, &registry, &options, &Device::Cpu).map_err(|error| match error {
            ImportError::UnknownColor(why) => TrainError::UnknownColor { path: path.to_owned(), why },
            // Not all of them say which file they are about.
            error if !error.to_string().contains(name) => TrainError::Weights { path: path.to_owned(), source: error },
            error => error.into(),
        })?;
        let weights = registry.weights_path("start");
        let bytes = std::fs::read(&weights).map_err(TrainError::io(&weights))?;
        // What it says of thresholds and norms is about a model that is served.
        let of_colors = imported.warnings.iter().filter(|warning| warning.contains("colour order"));
        let warnings = of_colors.map(|warning| format!("{}: {}", path.display(), of_trainer(warning))).collect();
        Ok(Self { warnings, ..Self::of_model(&bytes, &imported.installed.manifest)? })
    }

    fn of_model(weights: &[u8], manifest: &Manifest) -> Result<Self, TrainError> {
        let tensors = candle_core::safetensors::load_buffer(weights, &Device::Cpu)?;
        let architecture = manifest.architecture;
        // Where batch normalisation is folded into the convolutions, the statistics put back are constants.
        let folded = architecture.ir().is_none() && !tensors.keys().any(|name| name.ends_with(".norm.weight"));
        let (dim, input, warnings) = (manifest.dim, manifest.input, Vec::new());
        Ok(Self { architecture, dim, input, tensors, constant_statistics: folded, warnings })
    }
}

/// What the engine's import says, with the key of a configuration in the place of its option.
fn of_trainer(warning: &str) -> String {
    ["rgb", "bgr"].iter().fold(warning.to_owned(), |text, color| {
        text.replace(&format!("--color {color}"), &format!("network.color = \"{color}\""))
    })
}

/// A network at a run's beginning.
pub(super) struct Started {
    pub(super) network: Network,
    /// What it wants to see.
    pub(super) input: Input,
    /// Whether it needs statistics from the data before it is trained by those of its batches.
    pub(super) calibrate: bool,
    /// What who runs the training should know.
    pub(super) warnings: Vec<String>,
}

/// The network of a configuration with the weights it starts from. What the configuration leaves open is filled in.
pub(super) fn network(config: &mut NetworkConfig, seed: u64) -> Result<Started, TrainError> {
    let weights = config.start.as_deref().map(|name| Weights::open(name, config)).transpose()?;
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
        // The engine runs a network with pixels of its architecture's scale, so with others it could not be exported.
        if (weights.input.mean, weights.input.scale) != (input.mean, input.scale) {
            let told = |input: &Input| format!("(byte - {}) * {}", input.mean, input.scale);
            return Err(TrainError::Scale { found: told(&weights.input), wanted: told(&input) });
        }
        input = Input { color_source: None, ..weights.input };
    }
    input.color = config.color.unwrap_or(input.color);
    let was_constant = weights.as_ref().is_some_and(|weights| weights.constant_statistics);
    let constant = config.constant_statistics.unwrap_or(was_constant);
    config.architecture = Some(architecture);
    config.dim = Some(dim);
    config.color = Some(input.color);
    config.constant_statistics = Some(constant);
    apply(&mut network, config)?;
    // Those of other networks are of crops already, or they would not have any.
    let calibrate = was_constant && !constant && architecture.ir().is_none();
    Ok(Started { network, input, calibrate, warnings: weights.map_or_else(Vec::new, |weights| weights.warnings) })
}

/// Sets what of a configuration holds during the whole run.
pub(super) fn apply(network: &mut Network, config: &NetworkConfig) -> Result<(), TrainError> {
    network.set_dropout(config.dropout);
    network.set_constant_statistics(config.constant_statistics.unwrap_or(false));
    let prefixes: Vec<&str> = config.frozen.iter().map(String::as_str).collect();
    network.freeze_named(&prefixes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use vultus_engine::model::Color;

    use super::super::TrainConfig;
    use super::super::checkpoint::{State, tests::checkpoint};
    use super::super::fixed::Fixed;
    use super::*;

    fn start(path: &Path) -> NetworkConfig {
        NetworkConfig { start: Some(path.to_str().unwrap().to_owned()), ..NetworkConfig::default() }
    }

    /// A checkpoint of a run from folded weights: its statistics are the constants that were put back.
    #[test]
    fn a_checkpoint_by_constant_statistics_is_taken_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("step-0000000001.ckpt");
        let mut config = TrainConfig::default();
        config.network.start = Some(EMBEDDED.into());
        let Started { network, input, .. } = network(&mut config.network, 1).unwrap();
        assert_eq!(config.network.constant_statistics, Some(true));
        let named = |(name, tensor)| (format!("network.{name}"), tensor);
        let mut kept = checkpoint(1);
        kept.tensors = network.parameters().tensors().unwrap().into_iter().map(named).collect();
        let (architecture, dim, fixed) = (network.architecture(), network.dim(), Fixed::of(&config));
        kept.state = State { architecture, dim, input, fixed, ..kept.state };
        std::fs::write(&path, kept.to_bytes().unwrap()).unwrap();

        let mut again = start(&path);
        assert!(!super::network(&mut again, 1).unwrap().calibrate);
        assert_eq!(again.constant_statistics, Some(true));
        let mut by_batch = NetworkConfig { constant_statistics: Some(false), ..start(&path) };
        assert!(super::network(&mut by_batch, 1).unwrap().calibrate);

        // Damaged, it is told so, and not as a file of an unknown kind.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.pop();
        std::fs::write(&path, bytes).unwrap();
        let refused = super::network(&mut start(&path), 1).err().unwrap().to_string();
        assert!(refused.contains("cannot be used: it is cut short"), "{refused}");
    }

    #[test]
    fn pixels_of_another_scale_are_refused_before_training() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.ckpt");
        let mut kept = checkpoint(1);
        let network = Network::new(Architecture::Mobilefacenet, 16, 1).unwrap();
        let named = |(name, tensor)| (format!("network.{name}"), tensor);
        kept.tensors = network.parameters().tensors().unwrap().into_iter().map(named).collect();
        let input = Input { mean: 0.0, ..Architecture::Mobilefacenet.default_input() };
        kept.state = State { architecture: Architecture::Mobilefacenet, dim: 16, input, ..kept.state };
        std::fs::write(&path, kept.to_bytes().unwrap()).unwrap();
        let refused = super::network(&mut start(&path), 1).err().unwrap();
        assert!(matches!(refused, TrainError::Scale { .. }), "{refused}");
    }

    /// An IR-18 under names that AdaFace and CVLFace both use, and under plain ones.
    #[test]
    fn colours_that_no_file_names_are_asked_for_or_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let tensors = Network::new(Architecture::Ir18, 512, 1).unwrap().export().unwrap();
        let write = |name: &str, prefix: &str| {
            let path = folder.path().join(name);
            let named = tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone()));
            candle_core::safetensors::save(&named.collect::<HashMap<_, _>>(), &path).unwrap();
            path
        };
        let path = write("either.safetensors", "model.");
        let refused = network(&mut start(&path), 1).err().unwrap().to_string();
        assert!(refused.contains("network.color") && refused.contains("either.safetensors"), "{refused}");
        let mut rgb = NetworkConfig { color: Some(Color::Rgb), ..start(&path) };
        assert_eq!(network(&mut rgb, 1).unwrap().input.color, Color::Rgb);

        let mut assumed = start(&write("plain.safetensors", ""));
        let started = network(&mut assumed, 1).unwrap();
        let told = started.warnings.iter().find(|warning| warning.contains("bgr is assumed")).unwrap();
        assert!(told.contains("network.color = \"rgb\"") && !told.contains("--color"), "{told}");
        assert_eq!((started.input.color, assumed.color), (Color::Bgr, Some(Color::Bgr)));
        assert!(started.warnings.iter().all(|warning| !warning.contains("threshold")), "{:?}", started.warnings);
    }
}
