//! `vultus models info`.

use std::io::Write;

use clap::Args;
use vultus_engine::model::manifest::Manifest;
use vultus_engine::model::{Installed, Registry};

use super::color_name;

/// Prints what the manifest of a model says.
#[derive(Debug, Args)]
pub(super) struct Info {
    /// Print the manifest as it is
    #[arg(long)]
    json: bool,
    /// Name or id of the model
    model: String,
}

impl Info {
    pub(super) fn run(self, registry: &Registry) -> anyhow::Result<()> {
        let model = registry.find(&self.model)?;
        let text = if self.json { serde_json::to_string_pretty(&model.manifest)? + "\n" } else { describe(&model) };
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(())
    }
}

fn describe(model: &Installed) -> String {
    let Manifest { architecture, dim, input, norm, fusion, impostor_scores, source, licence, sha256, .. } =
        &model.manifest;
    // The names that stand in the manifest.
    let origin = |value: Option<serde_json::Value>| match value {
        Some(serde_json::Value::String(text)) => format!(" ({text})"),
        _ => String::new(),
    };
    let color_source = origin(input.color_source.and_then(|source| serde_json::to_value(source).ok()));
    let norm_source = origin(norm.source.and_then(|source| serde_json::to_value(source).ok()));
    let flip = match norm.flip {
        Some(flip) => format!("{} ± {}", flip.mean, flip.std),
        None => "not measured; the model cannot be used with flip fusion".to_owned(),
    };
    let threshold = match (impostor_scores.len(), model.manifest.threshold) {
        (0, Some(score)) => format!("{score}, an assumption until scores are measured"),
        (0, None) => "none".to_owned(),
        _ => format!("score at a false match rate of {}", model.manifest.threshold_fmr),
    };
    let caface = model.aggregator.as_ref().map_or("none".to_owned(), |path| path.display().to_string());
    let path = model.path.as_ref().map_or("embedded".to_owned(), |path| path.display().to_string());
    format!(
        "name          {}\nmodel id      {}\narchitecture  {architecture}, {dim} dimensions\n\
         colour order  {}{color_source}\nnorm          {} ± {}{norm_source}\nnorm, flip    {flip}\n\
         fusion        {}\nthreshold     {threshold}\nsource        {source}\nlicence       {licence}\n\
         weights       {path}, {} bytes\nsha-256       {sha256}\ncaface        {caface}\n",
        model.name,
        model.model_id,
        color_name(input.color),
        norm.plain.mean,
        norm.plain.std,
        fusion.rule,
        model.bytes,
    )
}
