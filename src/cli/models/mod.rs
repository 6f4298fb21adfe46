//! `vultus models`: the models at hand, and how more get there.

mod import;
mod info;
mod list;
mod pull;
mod samples;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use vultus_engine::model::{Color, Registry};

use crate::config::{Settings, load};

/// Lists, describes, fetches, imports and verifies models.
#[derive(Debug, Args)]
pub(super) struct Models {
    /// Where models are kept [default: `models` beside the data directory, or in the user's data folder]
    #[arg(long, value_name = "DIR", env = crate::config::MODELS_DIR_VARIABLE, global = true)]
    models_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the embedded model and the installed ones
    List(list::List),
    /// Print what the manifest of a model says
    Info(info::Info),
    /// Install a published model from the Hugging Face hub
    Pull(pull::Pull),
    /// Install a model from a checkpoint file
    Import(import::Import),
    /// Check that a model is undamaged and runs
    Verify(verify::Verify),
}

impl Models {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let writes = matches!(self.command, Command::Import(_) | Command::Pull(_));
        let registry = Registry::new(match self.models_dir {
            Some(folder) => folder,
            None => settings()?.models_dir(writes),
        });
        match self.command {
            Command::List(command) => command.run(&registry),
            Command::Info(command) => command.run(&registry),
            Command::Pull(command) => command.run(&registry),
            Command::Import(command) => command.run(&registry),
            Command::Verify(command) => command.run(&registry),
        }
    }
}

/// The server's settings, so that its models are also those of this command.
fn settings() -> anyhow::Result<Settings> {
    Ok(load(None, std::env::vars().collect(), &[]).map_err(|error| super::serve::Usage(error.to_string()))?.settings)
}

/// The name of a colour order.
fn color_name(color: Color) -> &'static str {
    match color {
        Color::Rgb => "rgb",
        Color::Bgr => "bgr",
    }
}

/// A warning, on a line of stderr of its own.
fn warn(text: &str) {
    eprintln!("vultus: warning: {}", super::printable(text));
}
