//! `vultus models list`.

use std::io::Write;

use clap::Args;
use serde_json::json;
use vultus_engine::model::{Installed, Registry};

use super::{color_name, warn};

/// Lists the embedded model and the installed ones. What cannot be used is told on stderr.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Print a JSON line for each
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) fn run(self, registry: &Registry) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        for model in registry.list()? {
            match model {
                Ok(model) if self.json => writeln!(out, "{}", line(&model))?,
                Ok(model) => {
                    let manifest = &model.manifest;
                    let path = model.path.as_ref().map_or("embedded".to_owned(), |path| path.display().to_string());
                    writeln!(
                        out,
                        "{:<24} {:<42} {:<16} {:>4}-d  {}  {:>7.1} MB  {path}",
                        model.name,
                        model.model_id,
                        manifest.architecture.name(),
                        manifest.dim,
                        color_name(manifest.input.color),
                        model.bytes as f64 / 1e6,
                    )?;
                }
                Err(error) => warn(&error.to_string()),
            }
        }
        Ok(())
    }
}

/// What is said of a model in a list.
pub(super) fn line(model: &Installed) -> serde_json::Value {
    let manifest = &model.manifest;
    json!({
        "name": model.name, "model_id": model.model_id, "architecture": manifest.architecture, "dim": manifest.dim,
        "color": manifest.input.color, "embedded": model.path.is_none(), "path": model.path, "bytes": model.bytes,
        "licence": manifest.licence, "source": manifest.source, "caface": model.aggregator.is_some(),
    })
}
