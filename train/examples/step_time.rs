//! Time and memory of a training step of IR-18 with an AdaFace head of 10,000 classes: forward, backward and an SGD step.
//!
//! ```text
//! cargo run --release -p vultus-train --example step_time -- [batch ...]
//! cargo run --release -p vultus-train --example step_time -- serve BATCH
//! ```
//! `RAYON_NUM_THREADS` says on how many threads. Without arguments, batches of 8 and 32. `serve` waits to be asked, so that
//! `train/benches/peers` can let others have their turn: for each number on stdin it does as many steps and prints their
//! milliseconds and the last loss as one line of JSON.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor, Var};
use rayon::prelude::*;
use vultus_engine::model::Architecture;
use vultus_train::head::{AdaFace, AdaFaceConfig, ClassKernel, MarginHead, loss, split_norm};
use vultus_train::network::{Gradients, Network};

const CLASSES: usize = 10_000;
const STEPS: usize = 6;

/// Resident memory of this process now and at most so far, in MB, where the system tells.
fn memory() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Some((kilobytes("VmRSS:")? / 1024, kilobytes("VmHWM:")? / 1024))
}

/// SGD with momentum 0.9 and weight decay 5e-4.
fn update(values: &mut [f32], gradient: &[f32], momentum: &mut [f32], decay: f32, rate: f32) {
    const PIECE: usize = 1 << 16;
    let pieces = values.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE)).zip(momentum.par_chunks_mut(PIECE));
    pieces.for_each(|((values, gradient), momentum)| {
        for ((value, gradient), momentum) in values.iter_mut().zip(gradient).zip(momentum) {
            *momentum = 0.9 * *momentum + gradient + decay * *value;
            *value -= rate * *momentum;
        }
    });
}

/// A network, its head and what SGD keeps of them.
struct Training {
    network: Network,
    gradients: Gradients,
    momenta: Vec<Vec<f32>>,
    head: AdaFace,
    kernel: Vec<f32>,
    kernel_momentum: Vec<f32>,
    pixels: Tensor,
    labels: Tensor,
    steps: u64,
}

/// How long forward, head, backward and SGD took, and the loss.
struct Step {
    parts: [Duration; 4],
    loss: f32,
}

impl Training {
    fn new(batch: usize) -> anyhow::Result<Self> {
        let network = Network::new(Architecture::Ir18, 512, 1)?;
        let gradients = Gradients::zeros(network.parameters());
        let momenta = gradients.iter().map(|gradient| vec![0f32; gradient.len()]).collect();
        let head =
            AdaFace::new(AdaFaceConfig::default(), ClassKernel::seeded(512, CLASSES, 2, DType::F32, &Device::Cpu)?)?;
        let kernel: Vec<f32> = head.kernel().var().flatten_all()?.to_vec1()?;
        let kernel_momentum = vec![0f32; kernel.len()];
        let count = batch * 3 * 112 * 112;
        let pixels: Vec<f32> =
            (0..count as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect();
        let pixels = Tensor::from_vec(pixels, (batch, 3, 112, 112), &Device::Cpu)?;
        let labels = Tensor::from_vec((0..batch as u32).collect::<Vec<_>>(), batch, &Device::Cpu)?;
        Ok(Self { network, gradients, momenta, head, kernel, kernel_momentum, pixels, labels, steps: 0 })
    }

    /// Values that are trained, those of the head included.
    fn parameters(&self) -> usize {
        let trained = self.network.parameters().iter().filter(|parameter| parameter.is_trained());
        trained.map(|parameter| parameter.values.len()).sum::<usize>() + self.kernel.len()
    }

    fn step(&mut self) -> anyhow::Result<Step> {
        let start = Instant::now();
        let (raw, tape) = self.network.forward(&self.pixels, self.steps)?;
        let forward = start.elapsed();
        let raw = Var::from_tensor(&raw)?;
        let (unit, norms) = split_norm(&raw)?;
        let value = loss(&self.head.forward(&unit, &norms, &self.labels)?, &self.labels)?;
        let of_head = value.backward()?;
        let head_time = start.elapsed();
        let of_raw = of_head.get(&raw).ok_or_else(|| anyhow::anyhow!("the loss does not depend on the embeddings"))?;
        self.gradients.clear();
        self.network.backward(tape, of_raw, &mut self.gradients)?;
        let backward = start.elapsed();
        for ((parameter, gradient), momentum) in
            self.network.parameters_mut().iter_mut().zip(self.gradients.iter()).zip(&mut self.momenta)
        {
            let decay = if parameter.decays() { 5e-4 } else { 0.0 };
            update(&mut parameter.values, gradient, momentum, decay, 0.1);
        }
        if let Some(gradient) = of_head.get(self.head.kernel().var()) {
            let gradient: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
            update(&mut self.kernel, &gradient, &mut self.kernel_momentum, 5e-4, 0.1);
            self.head.kernel().var().set(&Tensor::from_slice(&self.kernel, (512, CLASSES), &Device::Cpu)?)?;
        }
        let all = start.elapsed();
        self.steps += 1;
        let parts = [forward, head_time - forward, backward - head_time, all - backward];
        Ok(Step { parts, loss: value.to_scalar::<f32>()? })
    }
}

fn measure(batch: usize) -> anyhow::Result<()> {
    let mut training = Training::new(batch)?;
    let mut parts: Vec<[Duration; 4]> = Vec::new();
    for step in 0..STEPS {
        let done = training.step()?;
        let all = done.parts.iter().sum::<Duration>().as_secs_f64() * 1e3;
        println!("batch {batch} step {step}: {all:7.1} ms, loss {:.4}", done.loss);
        parts.push(done.parts);
    }
    // The first step gets its memory from the system.
    parts.remove(0);
    parts.sort_by_key(|parts| parts.iter().sum::<Duration>());
    let median = parts[parts.len() / 2];
    let ms = |part: usize| median[part].as_secs_f64() * 1e3;
    println!(
        "batch {batch}: median {:.0} ms a step (forward {:.0}, head {:.0}, backward {:.0}, SGD {:.0})",
        median.iter().sum::<Duration>().as_secs_f64() * 1e3,
        ms(0),
        ms(1),
        ms(2),
        ms(3)
    );
    if let Some((now, most)) = memory() {
        println!("batch {batch}: {now} MB resident, {most} MB at most");
    }
    Ok(())
}

fn serve(batch: usize) -> anyhow::Result<()> {
    let mut training = Training::new(batch)?;
    let mut out = std::io::stdout();
    let (version, parameters) = (env!("CARGO_PKG_VERSION"), training.parameters());
    writeln!(out, "{{\"version\":\"{version}\",\"parameters\":{parameters}}}")?;
    for line in std::io::stdin().lock().lines() {
        let (mut times, mut loss) = (Vec::new(), 0.0);
        for _ in 0..line?.trim().parse()? {
            let step = training.step()?;
            times.push((step.parts.iter().sum::<Duration>().as_secs_f64() * 1e3).to_string());
            loss = step.loss;
        }
        writeln!(out, "{{\"ms\":[{}],\"loss\":{loss}}}", times.join(","))?;
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let serves = arguments.first().is_some_and(|first| first == "serve");
    let asked: Vec<usize> =
        arguments.drain(usize::from(serves)..).map(|batch| batch.parse()).collect::<Result<_, _>>()?;
    if serves {
        let [batch] = asked.as_slice() else { anyhow::bail!("serve takes one batch size") };
        return serve(*batch);
    }
    println!("{} threads", rayon::current_num_threads());
    for batch in if asked.is_empty() { vec![8, 32] } else { asked } {
        measure(batch)?;
    }
    Ok(())
}
