//! `vultus-train export`: a model for the server.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::trainer::{ExportConfig, export};

#[derive(Debug, Args)]
pub(super) struct Export {
    /// The run's folder
    run: PathBuf,
    /// Name of the model: a-z 0-9 _ -
    #[arg(long)]
    name: String,
    /// The folder of models; a server's is `models`, or what VULTUS_MODELS_DIR says
    #[arg(long, value_name = "DIR")]
    models: PathBuf,
    /// The checkpoint; otherwise the best one, or the last where nothing was validated
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Score from which two crops count as one person's, until scores are measured
    #[arg(long)]
    threshold: Option<f32>,
    /// Licence of the weights (SPDX)
    #[arg(long)]
    licence: Option<String>,
    /// Replace a model of the same name
    #[arg(long, visible_alias = "force")]
    replace: bool,
}

impl Export {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self { run, name, models, checkpoint, threshold, licence, replace } = self;
        let exported = export(&ExportConfig { run, checkpoint, name, models, threshold, licence, replace })?;
        exported.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        let path = exported.installed.path.unwrap_or_default();
        writeln!(
            std::io::stdout(),
            "{} after {} steps: {}",
            exported.installed.model_id.0,
            exported.step,
            path.display()
        )?;
        Ok(())
    }
}
