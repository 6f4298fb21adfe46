//! `vultus-train train`: a run, or the rest of one.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use super::interrupt::on_interrupt;
use crate::trainer::{Event, Outcome, TrainConfig, Trainer};

/// Exit status of a training that was asked to stop: whoever waits for its end has not got it.
const STOPPED: u8 = 3;

#[derive(Debug, Args)]
pub(super) struct Train {
    /// The configuration (TOML); docs/TRAINING.md lists its keys
    #[arg(required_unless_present = "resume", conflicts_with = "resume")]
    config: Option<PathBuf>,
    /// The folder of the new run
    #[arg(long, value_name = "DIR", required_unless_present = "resume", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// Take up the run of this folder after its last checkpoint
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
}

impl Train {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let preparing = spinner();
        let mut trainer = match (self.config, self.out, self.resume) {
            (_, _, Some(folder)) => Trainer::resume(&folder)?,
            (Some(config), Some(out), None) => Trainer::start(TrainConfig::open(&config)?, &out)?,
            _ => anyhow::bail!("a configuration and --out, or --resume"),
        };
        drop(preparing);
        let stop = on_interrupt()?;
        let bar = bar(trainer.steps(), trainer.state().step);
        let outcome = trainer.run(&stop, &mut |event| show(&bar, event));
        bar.finish_and_clear();
        let (told, code) = match outcome? {
            Outcome::Finished => ("done", ExitCode::SUCCESS),
            Outcome::NoBetter => ("ended early, as validation got no better", ExitCode::SUCCESS),
            Outcome::Stopped => ("stopped; --resume goes on", ExitCode::from(STOPPED)),
        };
        let state = trainer.state();
        if state.step > trainer.steps() {
            writeln!(
                std::io::stdout(),
                "done before: at step {}, and run.steps asks for {}",
                state.step,
                trainer.steps()
            )?;
            return Ok(code);
        }
        let best = state.best.map_or(String::new(), |best| format!(", best validation {:.2} %", 100.0 * best));
        writeln!(std::io::stdout(), "{told}: step {} of {}{best}", state.step, trainer.steps())?;
        Ok(code)
    }
}

fn show(bar: &ProgressBar, event: Event<'_>) {
    match event {
        Event::Step { record, .. } => {
            bar.set_position(record.step);
            bar.set_message(format!(
                "loss {:.4}, lr {:.1e}, norm {:.1} ± {:.1}, {:.1} images/s",
                record.loss, record.lr, record.norm_mean, record.norm_std, record.images_per_s
            ));
        }
        Event::Validation { record, best } => {
            let accuracy = 100.0 * record.validation_accuracy;
            let best = if best { ", the best so far" } else { "" };
            tell(bar, &format!("epoch {}: validation {accuracy:.2} %{best}", record.epoch + 1));
        }
        Event::Warning(warning) => tell(bar, &format!("warning: {warning}")),
        Event::Checkpoint(_) => {}
    }
}

/// A line of its own, also where there is no bar.
fn tell(bar: &ProgressBar, line: &str) {
    bar.suspend(|| eprintln!("{line}"));
}

/// Something that turns while data and weights are read and crops are measured, hidden where nobody looks at it.
fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner =
        ProgressBar::new_spinner().with_message("reading data and weights").with_finish(ProgressFinish::AndClear);
    spinner.enable_steady_tick(std::time::Duration::from_millis(120));
    spinner
}

/// A progress bar, hidden where nobody looks at it.
fn bar(steps: u64, done: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{pos}/{len} [{bar:20}] {msg}, {eta} left").expect("a fixed template");
    ProgressBar::new(steps).with_style(style).with_position(done)
}
