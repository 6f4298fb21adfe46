//! The `vultus-train` program. Results go to stdout, progress and errors to stderr.

mod cli;

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
    Eval(cli::eval::EvalArgs),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Eval(args) => cli::eval::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, whatever the causes say.
            let text = format!("{error:#}");
            eprintln!("vultus-train: {}", text.split_whitespace().collect::<Vec<_>>().join(" "));
            ExitCode::FAILURE
        }
    }
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
