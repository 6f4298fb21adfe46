//! Runs one network on request: the measured side of `benches/peers`, which compares it with other engines.
//!
//! ```text
//! forward_times tensors ir_50
//! forward_times run ir_50 weights.safetensors [--arithmetic kernels|stock|gpu] [--dtype f32|bf16]
//! ```
//!
//! `tensors` prints names and shapes of the network's weights as JSON. `run` loads them, says so in one line of JSON and
//! then answers each line on the standard input with one line of JSON; between two requests it sleeps:
//!
//! - `input FILE`: takes the tensor `input` (N, 3, H, W) of a safetensors file for what follows;
//! - `batch N repeat R`: passes the first N images through the network R times: the milliseconds of each pass;
//! - `output N FILE`: passes them once and writes the tensor `output` (N, values), raw.
//!
//! Networks are the architectures of manifests except the vision transformers, and `yunet`, whose outputs are the heads at
//! strides 8, 16 and 32 (H / stride, W / stride, 16) one after the other. Threads as rayon finds them, or
//! `RAYON_NUM_THREADS`; `VULTUS_KERNELS` forces an instruction set.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde_json::{Value, json};
use vultus_engine::detect::yunet::YuNet;
use vultus_engine::kernel::isa::Isa;
use vultus_engine::model::ir::Ir;
use vultus_engine::model::mobilefacenet::{MobileFaceNet, Variant};
use vultus_engine::model::{Architecture, Arithmetic, Backbone, Batch, Precision, weights};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "forward_times tensors ARCHITECTURE | \
                     run NETWORK WEIGHTS [--arithmetic kernels|stock|gpu] [--dtype f32|bf16]";

/// Values of an embedding; those of the MobileFaceNets follow their weights.
const DIM: usize = 512;

/// A loaded network.
enum Network {
    Backbone(Box<dyn Backbone>),
    Detector(YuNet),
}

/// How a network computes, as the command line says it.
struct Options {
    arithmetic: Arithmetic,
    dtype: Precision,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { arithmetic: Arithmetic::Kernels, dtype: Precision::F32 };
        while let Some(name) = arguments.next() {
            match (name.as_str(), arguments.next().as_deref()) {
                ("--arithmetic", Some("kernels")) => options.arithmetic = Arithmetic::Kernels,
                ("--arithmetic", Some("stock")) => options.arithmetic = Arithmetic::Stock,
                ("--arithmetic", Some("gpu")) => options.arithmetic = Arithmetic::Gpu,
                // A type that a network computes in is added here and handed on in `Network::load`.
                ("--dtype", Some("f32")) => options.dtype = Precision::F32,
                ("--dtype", Some("bf16")) => options.dtype = Precision::Bf16,
                _ => return Err(USAGE.into()),
            }
        }
        Ok(options)
    }
}

impl Network {
    fn load(name: &str, path: &str, Options { arithmetic, dtype }: &Options) -> Result<Self> {
        let device = Device::Cpu;
        let tensors = candle_core::safetensors::load(path, &device)?;
        if name == "yunet" {
            let vb = VarBuilder::from_tensors(tensors, DType::F32, &device);
            return Ok(Self::Detector(YuNet::new(&vb, &device, *arithmetic)?));
        }
        let architecture: Architecture = name.parse()?;
        let (variant, last) = match architecture {
            Architecture::Mobilefacenet => (Some(Variant::Tf), "fc2.bias"),
            Architecture::MobilefacenetY1 => (Some(Variant::Y1), "head.bias"),
            _ => (None, ""),
        };
        let dim = tensors.get(last).map_or(Ok(DIM), |bias| bias.dim(0))?;
        let tensors = weights::check(tensors, &architecture.tensors(dim), &device)?;
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &device);
        Ok(Self::Backbone(match variant {
            Some(variant) => Box::new(MobileFaceNet::new(variant, dim, &vb, &device, *arithmetic)?),
            None => Box::new(Ir::new(architecture, dim, &vb, &device, *arithmetic, *dtype)?),
        }))
    }

    /// (N, 3, H, W) -> (N, values).
    fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        match self {
            Self::Backbone(backbone) => Ok(backbone.forward(&Batch { pixels: pixels.clone(), landmarks: None })?),
            Self::Detector(detector) => {
                let heads = detector.forward(pixels)?;
                let heads: Vec<Tensor> =
                    heads.iter().map(|head| head.flatten_from(1)).collect::<candle_core::Result<_>>()?;
                Ok(Tensor::cat(&heads, 1)?)
            }
        }
    }
}

/// Answers one request.
fn answer(network: &Network, input: &mut Option<Tensor>, request: &[&str]) -> Result<Value> {
    let first = |count: &str| -> Result<Tensor> {
        let input = input.as_ref().ok_or("no input has been named")?;
        Ok(input.narrow(0, 0, count.parse()?)?)
    };
    match request {
        ["input", file] => {
            let mut tensors = candle_core::safetensors::load(file, &Device::Cpu)?;
            *input = Some(tensors.remove("input").ok_or("the file has no tensor `input`")?);
            Ok(json!("ok"))
        }
        ["batch", count, "repeat", repeat] => {
            let pixels = first(count)?;
            let mut times = Vec::new();
            for _ in 0..repeat.parse::<usize>()? {
                let start = Instant::now();
                network.forward(&pixels)?;
                times.push(start.elapsed().as_secs_f64() * 1e3);
            }
            Ok(json!(times))
        }
        ["output", count, file] => {
            let output = network.forward(&first(count)?)?;
            candle_core::safetensors::save(&HashMap::from([("output", output)]), file)?;
            Ok(json!("ok"))
        }
        _ => Err("no such request".into()),
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next(), arguments.next()) {
        (Some("tensors"), Some(name), None) => {
            println!("{}", json!(name.parse::<Architecture>()?.tensors(DIM)));
            Ok(())
        }
        (Some("run"), Some(name), Some(path)) => {
            let options = Options::parse(arguments)?;
            let network = Network::load(&name, &path, &options)?;
            let kernels = match options.arithmetic {
                Arithmetic::Kernels => Isa::current().name(),
                Arithmetic::Stock => "stock candle",
                Arithmetic::Gpu => "candle, arranged for a GPU",
            };
            let mut out = std::io::stdout().lock();
            writeln!(out, "{}", json!({ "version": env!("CARGO_PKG_VERSION"), "kernels": kernels }))?;
            let mut input = None;
            for line in std::io::stdin().lock().lines() {
                let line = line?;
                let request: Vec<&str> = line.split_whitespace().collect();
                writeln!(out, "{}", answer(&network, &mut input, &request)?)?;
            }
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}
