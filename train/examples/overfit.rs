//! An IR-18 learns the identities of a small set by heart, with AdaFace's published margin and scale: a run that has to
//! end near a loss of 0 if network, head, gradients and optimiser are right.
//!
//! ```text
//! cargo run --release -p vultus-train --example overfit -- FOLDER [steps]
//! ```
//! FOLDER has a `train.rec`, or a folder of aligned crops for each identity; all of it is one batch, 64 images at most.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use vultus_engine::model::Architecture;
use vultus_train::data::AugmentConfig;
use vultus_train::optimise::ScheduleKind;
use vultus_train::trainer::{Event, TrainConfig, Trainer, open_dataset};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().context("which folder?")?);
    let steps = arguments.next().map_or(Ok(60), |steps| steps.parse())?;
    let mut config = TrainConfig::default();
    config.run.batch = open_dataset(&folder)?.len().min(64);
    config.run.steps = Some(steps);
    config.data.path = folder;
    config.network.architecture = Some(Architecture::Ir18);
    config.network.dropout = false;
    config.augment = AugmentConfig::none();
    config.optimiser.rate = 0.05;
    config.optimiser.clip = Some(5.0);
    config.schedule.kind = ScheduleKind::Cosine;
    config.schedule.warm_up_epochs = 5.0;
    let out = tempfile::tempdir()?;
    let mut loss = f64::INFINITY;
    Trainer::start(config, &out.path().join("run"))?.run(&AtomicBool::new(false), &mut |event| {
        if let Event::Step { record, .. } = event {
            println!("step {:3}: loss {:.5}, norm {:.1}", record.step, record.loss, record.norm_mean);
            loss = record.loss;
        }
    })?;
    anyhow::ensure!(loss < 0.05, "the loss is {loss}, not below 0.05");
    Ok(())
}
