//! The network that is evaluated.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use vultus_engine::model::{Device, Form, Model, Precision, Registry, select_device};

/// Folder of installed models, as the server has it.
const MODELS_DIR_VARIABLE: &str = "VULTUS_MODELS_DIR";

/// Which network, and where it runs.
#[derive(Debug, Args)]
pub(super) struct Network {
    /// `mobilefacenet` for the embedded one, a safetensors file with its manifest beside it, or the name or id of a model in
    /// the folder that VULTUS_MODELS_DIR names
    #[arg(long, default_value = "mobilefacenet")]
    model: String,
    /// Precision of the network: f32 or bf16
    #[arg(long, default_value_t)]
    dtype: Precision,
    /// Where it runs: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
}

impl Network {
    /// The device.
    pub(super) fn device(&self) -> anyhow::Result<Device> {
        Ok(select_device(&self.device)?)
    }

    /// Loads the network, with or without flip fusion.
    pub(super) fn load(&self, flip: bool, device: &Device) -> anyhow::Result<Model> {
        let form = Form { flip, precision: self.dtype };
        let path = Path::new(&self.model);
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            return Model::from_file(path, form, device).with_context(|| format!("{} is no model", path.display()));
        }
        let folder = std::env::var_os(MODELS_DIR_VARIABLE).map_or_else(|| PathBuf::from("models"), PathBuf::from);
        Ok(Registry::new(folder).load(&self.model, form, device)?)
    }
}
