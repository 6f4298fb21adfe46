//! `vultus-train eval`: a model, or features made elsewhere, by the field's protocols.
//!
//! One subcommand a protocol. Each prints the table that papers print, or with `--json` one document, and draws its curves
//! where `--svg` says. `docs/EVALUATION.md` describes files and figures.

mod identify;
mod ijb;
mod ijbs;
mod lfw;
mod lfw_side;
mod network;
mod output;
mod tinyface;
mod verify;

use std::path::Path;

use clap::{Args, Subcommand};

use crate::eval::EvalError;
use crate::eval::features::Features;

/// What to evaluate, and how.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    protocol: Protocol,
}

#[derive(Debug, Subcommand)]
enum Protocol {
    /// LFW, CFP-FP, CPLFW, CALFW and AgeDB from their .bin files: accuracy in ten folds
    Verify(verify::Verify),
    /// LFW from photos and pairs.txt, with our own detector and aligner
    Lfw(lfw::Lfw),
    /// IJB-B or IJB-C: verification and identification of templates
    Ijb(ijb::Ijb),
    /// IJB-S: five protocols, closed and open set
    Ijbs(ijbs::Ijbs),
    /// TinyFace: identification among distractors
    Tinyface(tinyface::Tinyface),
    /// FNIR over FPIR of any labelled features, as NIST reports
    Identify(identify::Identify),
}

/// Runs the command.
///
/// # Errors
/// Why it cannot be done, in one line.
pub(crate) fn run(args: EvalArgs) -> anyhow::Result<()> {
    match args.protocol {
        Protocol::Verify(command) => command.run(),
        Protocol::Lfw(command) => command.run(),
        Protocol::Ijb(command) => command.run(),
        Protocol::Ijbs(command) => command.run(),
        Protocol::Tinyface(command) => command.run(),
        Protocol::Identify(command) => command.run(),
    }
}

/// Reads a file of features and tells what is odd about them.
fn read_features(path: &Path) -> Result<Features, EvalError> {
    let features = Features::read(path)?;
    for oddity in features.oddities() {
        eprintln!("warning: {}: {oddity}; they are taken as they are", path.display());
    }
    Ok(features)
}
