//! `vultus models import`.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::json;
use vultus_engine::model::import::{Imported, Options, Verdict, import, import_aggregator};
use vultus_engine::model::{Architecture, Color, Registry, select_device};

use super::{color_name, samples, warn};

/// Installs a model from a checkpoint: AdaFace `.ckpt`, `.pt` and `.pth` of PyTorch, CVLFace `model.safetensors` or
/// `model.pt` with `model.yaml` beside it, safetensors of our own. Nothing in a pickle is executed.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The network, such as ir_50; recognised by its tensors where it is not given
    #[arg(long, value_name = "ARCHITECTURE", value_parser = architecture)]
    arch: Option<Architecture>,
    /// Name of the model: 1 to 64 characters out of a-z 0-9 _ -
    #[arg(long, required_unless_present = "caface_of")]
    name: Option<String>,
    /// The file is the CAFace network of this installed model, for the fusion rule caface
    #[arg(long, value_name = "MODEL",
        conflicts_with_all = ["name", "arch", "source", "licence", "color", "threshold", "samples"])]
    caface_of: Option<String>,
    #[command(flatten)]
    how: How,
    /// Where the weights come from, for people
    #[arg(long, value_name = "TEXT")]
    source: Option<String>,
    /// Licence of the weights (SPDX)
    #[arg(long, value_name = "SPDX")]
    licence: Option<String>,
    /// The checkpoint
    file: PathBuf,
}

/// What `import` and `pull` have in common.
#[derive(Debug, Args)]
pub(super) struct How {
    /// The colour order the network wants, where the file does not tell or tells wrongly
    #[arg(long, value_enum)]
    color: Option<ColorName>,
    /// Score from which a candidate is a match, until scores are measured [default: 0.3]
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, value_parser = score)]
    threshold: Option<f32>,
    /// Photos of ordinary portraits, or 112×112 crops, to measure norms with and to check the colour order
    #[arg(long, value_name = "FOLDER")]
    samples: Option<PathBuf>,
    /// What the samples are
    #[arg(long, value_enum, default_value = "auto")]
    samples_are: samples::Kind,
    /// Replace a model of the same name
    #[arg(long)]
    force: bool,
    /// `auto`, `cpu`, `cuda` or `cuda:N`: where the model is tried
    #[arg(long, default_value = "auto")]
    device: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A colour order by name.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ColorName {
    /// Blue first, as AdaFace trains.
    Bgr,
    /// Red first, as InsightFace trains.
    Rgb,
}

pub(super) fn architecture(text: &str) -> Result<Architecture, String> {
    let known: Vec<&str> = Architecture::ALL.iter().map(|architecture| architecture.name()).collect();
    text.parse().map_err(|_| format!("one of {}", known.join(", ")))
}

fn score(text: &str) -> Result<f32, String> {
    let score = text.parse().ok().filter(|score| (-1.0..=1.0).contains(score));
    score.ok_or_else(|| "a number from -1 to 1".to_owned())
}

impl Import {
    pub(super) fn run(self, registry: &Registry) -> anyhow::Result<()> {
        if let Some(model) = &self.caface_of {
            return self.caface(registry, model);
        }
        let mut options = self.how.options(self.name.unwrap_or_default())?;
        (options.architecture, options.source, options.licence) = (self.arch, self.source, self.licence);
        let done = import(&self.file, registry, &options, &select_device(self.how.device())?)?;
        self.how.report(&done)
    }

    fn caface(&self, registry: &Registry, model: &str) -> anyhow::Result<()> {
        let done = import_aggregator(&self.file, registry, model, self.how.force)?;
        let mut out = std::io::stdout().lock();
        if self.how.json {
            writeln!(out, "{}", super::list::line(&done.model))?;
        } else {
            writeln!(out, "{}: fusion rule caface; written to {}", done.model.model_id, done.path.display())?;
        }
        Ok(())
    }
}

impl How {
    /// Options for a model of this name. Reads the samples.
    pub(super) fn options(&self, name: String) -> anyhow::Result<Options> {
        let samples = match &self.samples {
            Some(folder) => samples::read(folder, self.samples_are)?,
            None => Vec::new(),
        };
        let color = self.color.map(|color| match color {
            ColorName::Bgr => Color::Bgr,
            ColorName::Rgb => Color::Rgb,
        });
        Ok(Options { color, threshold: self.threshold, samples, replace: self.force, ..Options::new(name) })
    }

    /// Where the model is tried.
    pub(super) fn device(&self) -> &str {
        &self.device
    }

    /// Tells what was imported.
    pub(super) fn report(&self, done: &Imported) -> anyhow::Result<()> {
        done.warnings.iter().for_each(|warning| warn(warning));
        let (model, check) = (&done.installed, done.color_check);
        let mut out = std::io::stdout().lock();
        if self.json {
            let mut line = super::list::line(model);
            line["warnings"] = json!(done.warnings);
            line["left_out"] = json!(done.left_out);
            line["color_check"] = json!(check);
            writeln!(out, "{line}")?;
            return Ok(());
        }
        let manifest = &model.manifest;
        let color = color_name(manifest.input.color);
        let norms = match check.verdict {
            Verdict::Agrees => "norms agree",
            Verdict::Unclear => "norms do not tell",
            Verdict::OtherIsBetter => "norms disagree",
        };
        writeln!(
            out,
            "{}: {}, {} dimensions, colour order {color} ({norms}), norm {:.2} ± {:.2}",
            model.model_id, manifest.architecture, manifest.dim, manifest.norm.plain.mean, manifest.norm.plain.std
        )?;
        if !done.left_out.is_empty() {
            writeln!(out, "left out, since a loss needs them and a network does not: {}", done.left_out.join(", "))?;
        }
        if let Some(path) = &model.path {
            writeln!(out, "written to {}", path.display())?;
        }
        Ok(())
    }
}
