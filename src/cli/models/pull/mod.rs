//! `vultus models pull`: a published model from the Hugging Face hub, installed.
//!
//! First the small file that says which colour order the model wants, then the weights, then the same import as from a
//! file. What was downloaded is kept until the import is done, so a second attempt goes on where the first ended.

mod download;
mod error;
mod hub;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use hf_hub::Cache;
use vultus_engine::model::import::import;
use vultus_engine::model::{Architecture, Registry, select_device};

use super::import::{How, architecture};
use download::Hub;
use error::PullError;

/// Weights on the hub.
const WEIGHTS: &str = "model.safetensors";
/// Files that may say which colour order a model wants. The importer looks for the same beside the weights.
const DESCRIPTIONS: &[&str] = &["pretrained_model/model.yaml", "model.yaml", "config.json"];
/// Most bytes of a description.
const MAX_DESCRIPTION: u64 = 1 << 20;
/// Most bytes of weights.
const MAX_WEIGHTS: u64 = 8 << 30;
/// Where unfinished downloads lie in the folder of models.
const FOLDER: &str = ".pull";

/// Downloads a model from the Hugging Face hub and installs it. An interrupted download is resumed.
#[derive(Debug, Args)]
#[command(after_help = hub::help())]
pub(super) struct Pull {
    /// Name of the installed model [default: that of the published one]
    #[arg(long)]
    name: Option<String>,
    /// The network; known for the published names, recognised by the tensors of others
    #[arg(long, value_name = "ARCHITECTURE", value_parser = architecture)]
    arch: Option<Architecture>,
    /// The hub's address
    #[arg(long, value_name = "URL", env = "HF_ENDPOINT", default_value = hub::ENDPOINT)]
    endpoint: String,
    #[command(flatten)]
    how: How,
    /// A published name such as adaface_ir50_ms1mv2, or the id of a repository of the hub such as OWNER/NAME
    model: String,
}

impl Pull {
    pub(super) fn run(self, registry: &Registry) -> anyhow::Result<()> {
        let published = hub::find(&self.model)?;
        let name = self.name.unwrap_or_else(|| published.name());
        let mut options = self.how.options(name)?;
        options.architecture = self.arch.or(published.architecture);
        // Told now, rather than after a long download.
        vultus_engine::model::import::check_name(registry, &options)?;

        let folder = registry.directory().join(FOLDER).join(published.id.replace('/', "--"));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let hub = Hub::new(&self.endpoint, &published.id)?;
        let fetched = fetch(&hub, &folder, options.color.is_some())?;
        options.source = Some(format!("{} of the Hugging Face hub, revision {}", published.id, fetched.revision));
        let done = import(&folder.join(WEIGHTS), registry, &options, &select_device(self.how.device())?)?;
        // Only a convenience is lost if this fails.
        let _ = std::fs::remove_dir_all(&folder);
        let _ = std::fs::remove_dir(registry.directory().join(FOLDER));
        self.how.report(&done)
    }
}

/// What was fetched.
struct Fetched {
    revision: String,
}

/// Brings description and weights into the folder.
fn fetch(hub: &Hub, folder: &Path, color_is_given: bool) -> Result<Fetched, PullError> {
    let mut described = false;
    for file in DESCRIPTIONS {
        match hub.small(file, MAX_DESCRIPTION) {
            Ok(text) => {
                let path = folder.join(file);
                let parent = path.parent().unwrap_or(folder);
                let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, &text));
                written.map_err(|source| PullError::Io { path: path.clone(), source })?;
                if String::from_utf8_lossy(&text).contains("color_space") {
                    described = true;
                    break;
                }
            }
            Err(PullError::NoFile { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    if !described && !color_is_given {
        return Err(PullError::NoColor { address: hub.address("") });
    }
    let path = folder.join(WEIGHTS);
    if let Some((cached, revision)) = cached(hub.id()) {
        std::fs::copy(&cached, &path).map_err(|source| PullError::Io { path: cached, source })?;
        return Ok(Fetched { revision });
    }
    let revision = hub.large(WEIGHTS, &path, MAX_WEIGHTS)?;
    Ok(Fetched { revision: revision.unwrap_or_else(|| "main".to_owned()) })
}

/// The weights in the cache that the hub's own programs keep, and their revision, if they are there and undamaged. A
/// cached file's target is named by its SHA-256.
fn cached(id: &str) -> Option<(PathBuf, String)> {
    let path = cache()?.model(id.to_owned()).get(WEIGHTS)?;
    let revision = path.parent()?.file_name()?.to_string_lossy().into_owned();
    let target = std::fs::canonicalize(&path).ok()?;
    let sha256 = target.file_name()?.to_str()?.to_owned();
    let matches = download::is_sha256(&sha256) && download::sha256_of(&target).ok()? == sha256;
    matches.then_some((target, revision))
}

/// The cache that the hub's own programs keep. It needs a home.
fn cache() -> Option<Cache> {
    (std::env::var_os("HF_HOME").is_some() || std::env::home_dir().is_some()).then(Cache::from_env)
}
