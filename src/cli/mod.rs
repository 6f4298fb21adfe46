//! The command line. Results go to stdout, logs and progress bars to stderr.
//!
//! Exit status: 0 done; 1 the request could not be served (one line on stderr says why and what to do); 2 wrong usage;
//! 3 the data directory is damaged or from a newer version.

mod bench;
mod check;
mod client;
mod detect;
mod embed;
mod enrol;
mod folder;
mod local;
mod models;
mod openapi;
mod parallel;
mod search;
mod serve;
mod target;
mod verify;
mod video;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vultus_engine::gallery::GalleryError;
use vultus_engine::kernel::isa::Isa;
use vultus_engine::store::StoreError;

/// Face identification database server.
#[derive(Debug, Parser)]
#[command(name = "vultus", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(serve::Serve),
    /// Find the faces of images, as NDJSON
    Detect(detect::Detect),
    /// Embed the faces of images, as NDJSON
    Embed(embed::Embed),
    /// Compare the faces of two images
    Verify(verify::Verify),
    /// Enrol a folder of photos, one folder a subject
    Enrol(enrol::Enrol),
    /// Search a gallery with images
    Search(search::Search),
    /// List, describe, fetch, import and verify models
    Models(models::Models),
    /// Read all of the data directory and compare
    Check(check::Check),
    /// Measure what this installation is worth
    Bench(bench::Bench),
    /// Print the OpenAPI document
    Openapi,
}

/// Some items failed; each was reported on stderr already.
#[derive(Debug, thiserror::Error)]
#[error("{failed} of {total} could not be served")]
struct SomeFailed {
    failed: usize,
    total: usize,
}

/// Runs the command of the process's arguments.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(reason) = Isa::check_variable() {
        eprintln!("vultus: {reason}");
        return ExitCode::from(2);
    }
    let done = match arguments.command {
        Command::Serve(command) => command.run(),
        Command::Detect(command) => command.run(),
        Command::Embed(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Enrol(command) => command.run(),
        Command::Search(command) => command.run(),
        Command::Models(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Openapi => openapi::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has what they wanted.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vultus: {}", one_line(&error));
            exit_code(&error)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.into_iter().any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Longest message in characters.
const MAX_MESSAGE: usize = 2_000;

fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Many errors end with their cause already.
        if !text.ends_with(&cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += &cause;
        }
    }
    printable(&text)
}

/// Text from files and arguments as one line of bounded length, with nothing in it that a terminal acts on.
fn printable(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut safe: String =
        line.chars().take(MAX_MESSAGE).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if line.chars().nth(MAX_MESSAGE).is_some() {
        safe.push('…');
    }
    safe
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    let store = error.chain().find_map(|cause| {
        cause.downcast_ref::<StoreError>().or_else(|| match cause.downcast_ref::<GalleryError>() {
            Some(GalleryError::Store(store)) => Some(store),
            _ => None,
        })
    });
    match store {
        Some(StoreError::Damaged(_) | StoreError::Newer { .. }) => ExitCode::from(3),
        _ if error.is::<serve::Usage>() => ExitCode::from(2),
        _ => ExitCode::FAILURE,
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
