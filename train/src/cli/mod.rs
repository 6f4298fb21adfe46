//! The command line of `vultus-train`. Results go to stdout, progress bars to stderr.
//!
//! Exit status: 0 done; 1 it could not be done (one line on stderr says why); 2 wrong usage; 3 a training was asked to stop
//! before its end and can be taken up again.

pub(crate) mod eval;
mod export;
mod interrupt;
mod plot;
mod prepare;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Adaptive-margin training, and the field's evaluation protocols.
#[derive(Debug, Parser)]
#[command(name = "vultus-train", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Evaluate a model or its features by a published protocol
    Eval(eval::EvalArgs),
    /// Pack a folder of aligned crops, one folder an identity, into train.rec
    Prepare(prepare::Prepare),
    /// Train a network, or go on with a run
    Train(train::Train),
    /// Write a trained network as a model that the server takes
    Export(export::Export),
    /// Draw what runs and evaluations wrote
    Plot(plot::Plot),
}

/// Runs the command of the process's arguments.
pub fn main() -> ExitCode {
    let success = |()| ExitCode::SUCCESS;
    let done = match Arguments::parse().command {
        Command::Eval(arguments) => eval::run(arguments).map(success),
        Command::Prepare(command) => command.run().map(success),
        Command::Train(command) => command.run(),
        Command::Export(command) => command.run().map(success),
        Command::Plot(command) => command.run().map(success),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vultus-train: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes on one line, with nothing in it that a terminal acts on.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Many errors end with their cause already.
        if !text.ends_with(&cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += &cause;
        }
    }
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
