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
use vultus_engine::kernel::isa::Isa;

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

/// The variable that says on how many threads networks run, which is a part of what makes a run reproducible.
const THREADS: &str = "RAYON_NUM_THREADS";
/// The most threads that it may ask for.
const MOST_THREADS: u16 = 1_024;

/// Runs the command of the process's arguments.
pub fn main() -> ExitCode {
    let success = |()| ExitCode::SUCCESS;
    let command = Arguments::parse().command;
    let done = check_environment().and_then(|()| match command {
        Command::Eval(arguments) => eval::run(arguments).map(success),
        Command::Prepare(command) => command.run().map(success),
        Command::Train(command) => command.run(),
        Command::Export(command) => command.run().map(success),
        Command::Plot(command) => command.run().map(success),
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vultus-train: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Refuses variables that would be passed over, or taken at a word that nobody can mean.
fn check_environment() -> anyhow::Result<()> {
    Isa::check_variable().map_err(anyhow::Error::msg)?;
    let threads = std::env::var_os(THREADS).filter(|threads| !threads.is_empty());
    threads.map_or(Ok(()), |threads| check_threads(&threads.to_string_lossy()))
}

fn check_threads(threads: &str) -> anyhow::Result<()> {
    let valid = threads.parse().is_ok_and(|threads: u16| (1..=MOST_THREADS).contains(&threads));
    anyhow::ensure!(valid, "{THREADS} is a whole number from 1 to {MOST_THREADS}, not {threads:?}");
    Ok(())
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

    #[test]
    fn numbers_of_threads_that_nobody_can_mean_are_refused() {
        for threads in ["1", "2", "1024"] {
            check_threads(threads).unwrap();
        }
        for threads in ["0", "-1", "abc", "2 ", "1025", "100000", "99999999999999999999"] {
            let message = check_threads(threads).unwrap_err().to_string();
            assert_eq!(message, format!("RAYON_NUM_THREADS is a whole number from 1 to 1024, not {threads:?}"));
        }
    }
}
