//! `vultus bench`: the product's own benchmarks, as a table and as JSON.

mod chart;
mod embed;
mod figures;
mod identify;
mod photos;
mod report;
mod resident;
mod search;

use clap::{Args, Subcommand};

/// Measures what this installation is worth.
#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure how fast faces are embedded on this machine
    Embed(embed::Embed),
    /// Measure identification and fusion on your own photos
    Identify(identify::Identify),
    /// Measure how fast and how rightly a gallery of drawn vectors is searched
    Search(search::Search),
}

impl Bench {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Embed(command) => command.run(),
            Command::Identify(command) => command.run(),
            Command::Search(command) => command.run(),
        }
    }
}
