//! `vultus-train plot`: what runs and evaluations wrote, as pictures.

mod norms;
mod runs;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use vultus_engine::evaluate::chart::{Panel, svg};

/// What to draw.
#[derive(Debug, Args)]
pub(super) struct Plot {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Loss, learning rate, norms and validation of runs over their steps
    Runs {
        /// Folders of runs
        #[arg(required = true, value_name = "RUN")]
        runs: Vec<PathBuf>,
        /// The picture
        #[arg(long, value_name = "FILE")]
        svg: PathBuf,
    },
    /// Norms, identification and separation by the size of faces
    Norms {
        /// What `eval lfw --side … --json` printed, each in a file named as its model is to be called
        #[arg(required = true, value_name = "FILE")]
        evaluations: Vec<PathBuf>,
        /// The picture
        #[arg(long, value_name = "FILE")]
        svg: PathBuf,
    },
}

impl Plot {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::Runs { runs, svg } => {
                let runs = runs.iter().map(|run| runs::Curves::read(run)).collect::<anyhow::Result<Vec<_>>>()?;
                write(&svg, &runs::panels(&runs))
            }
            What::Norms { evaluations, svg } => {
                let read = evaluations.iter().map(|file| norms::Evaluation::read(file));
                let evaluations = read.collect::<anyhow::Result<Vec<_>>>()?;
                write(&svg, &norms::panels(&evaluations))
            }
        }
    }
}

fn write(path: &Path, panels: &[Panel<'_>]) -> anyhow::Result<()> {
    std::fs::write(path, svg(panels, true)).with_context(|| format!("{} cannot be written", path.display()))
}
