//! Checks training on a device and times it: what `tests/gpu.sh` runs on a machine with a GPU. It runs on the CPU, too.
//!
//! ```text
//! train_check device cuda                                     is it there? 0, or 77 with the reason
//! train_check steps cuda NET...                               two steps against the kernels: 0, or 1 where they differ
//! train_check images cuda [--batches 64,256] [--classes N] NET...  images a second, a line of JSON each
//! ```
//!
//! `steps` compares losses, all that two steps change and running statistics with the kernels on the CPU in f32: f32 to
//! 1e-3 of the loss and 2e-2 of the length of the change, bf16 to 5e-2 and 0.6. Rounding to 8 bits puts a few values in a
//! thousand on the other side of a PReLU's kink and changes what is left of their gradients by up to a percent a layer,
//! and parts of four images have statistics of little more than themselves. `images` counts whole steps with an AdaFace head,
//! from pixels on the host to changed weights; the seconds are the median of several steps.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use candle_core::{DType, Device, Tensor};
use serde_json::json;
use vultus_engine::model::{Architecture, DeviceError, select_device};
use vultus_train::network::Network;
use vultus_train::optimise::SgdConfig;
use vultus_train::trainer::{HeadConfig, Learner, Part};

#[path = "../tests/steps/mod.rs"]
mod steps;

const USAGE: &str =
    "train_check device DEVICE | steps DEVICE NET... | images DEVICE [--batches N,...] [--classes N] NET...";
/// There is no such device: the status by which test harnesses know a skipped test.
const SKIPPED: u8 = 77;
/// Products, and how far loss and changes may be from those of the kernels.
const PRECISIONS: [(DType, f64, f64); 2] = [(DType::F32, 1e-3, 2e-2), (DType::BF16, 5e-2, 0.6)];
/// Steps that are timed, behind two that get memory and look around.
const TIMED: usize = 7;

/// Whether all networks are close in both precisions.
fn compare(device: &Device, networks: &[Architecture]) -> anyhow::Result<bool> {
    let mut right = true;
    for architecture in networks.iter().copied() {
        let begin = steps::learn(architecture, None, 0)?;
        let kernels = steps::learn(architecture, None, 2)?;
        for (dtype, loss, change) in PRECISIONS {
            let found = steps::learn(architecture, Some((device, dtype)), 2)?;
            let far = found.distance(&kernels, &begin)?;
            let close = far.losses < loss && far.changes < change;
            right &= close;
            println!(
                "{} {architecture} {}: losses {:.5?} for {:.5?}, off by {:.1e}; changes off by {:.1e}, running statistics {:.1e}",
                if close { "ok" } else { "FAILED" },
                dtype.as_str(),
                found.losses,
                kernels.losses,
                far.losses,
                far.changes,
                far.running
            );
        }
    }
    Ok(right)
}

/// Seconds of a step, the median.
fn seconds(
    device: &Device,
    dtype: DType,
    architecture: Architecture,
    batch: usize,
    classes: usize,
) -> anyhow::Result<f64> {
    let mut network = Network::new(architecture, architecture.default_dim(), 1)?;
    network.use_tensors(device, dtype)?;
    let head = HeadConfig::default().build(network.dim(), classes, 2, device)?;
    let mut learner = Learner::new(network, head, 1.0, SgdConfig::default(), Some(5.0))?;
    let images = steps::crops(batch)?;
    let labels: Vec<u32> = (0..batch as u32).map(|at| at % classes as u32).collect();
    let labels = Tensor::from_vec(labels, batch, &Device::Cpu)?;
    let mut times = Vec::new();
    for step in 0..TIMED + 2 {
        let part = Part { images: images.clone(), labels: labels.clone(), lesson: None, seed: step as u64 };
        device.synchronize()?;
        let start = Instant::now();
        learner.add(&part, None, 1.0)?;
        learner.apply(1e-3)?;
        device.synchronize()?;
        times.push(start.elapsed().as_secs_f64());
    }
    let times = &mut times[2..];
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn run() -> anyhow::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let (task, name) = (arguments.next().context(USAGE)?, arguments.next().context(USAGE)?);
    let (mut batches, mut classes, mut networks) = (vec![64usize, 256], 10_000usize, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--batches" => {
                let list = arguments.next().context(USAGE)?;
                batches = list.split(',').map(str::parse).collect::<Result<_, _>>().context(USAGE)?;
            }
            "--classes" => classes = arguments.next().context(USAGE)?.parse().context(USAGE)?,
            network => networks.push(network.parse::<Architecture>()?),
        }
    }
    let device = match select_device(&name) {
        Ok(device) => device,
        Err(error @ DeviceError::Unknown(_)) => return Err(error.into()),
        Err(error) => {
            println!("{error}");
            return Ok(ExitCode::from(SKIPPED));
        }
    };
    match task.as_str() {
        "device" => {}
        "steps" => return Ok(if compare(&device, &networks)? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        "images" => {
            for architecture in networks {
                for dtype in [DType::F32, DType::BF16] {
                    for batch in batches.iter().copied() {
                        let seconds = seconds(&device, dtype, architecture, batch, classes)?;
                        let row = json!({
                            "network": architecture.to_string(), "precision": dtype.as_str(), "batch": batch,
                            "classes": classes, "seconds": seconds, "images_per_s": batch as f64 / seconds,
                        });
                        println!("{row}");
                    }
                }
            }
        }
        _ => bail!(USAGE),
    }
    Ok(ExitCode::SUCCESS)
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("train_check: {error:#}");
        ExitCode::FAILURE
    })
}
