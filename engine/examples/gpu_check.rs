//! Checks networks on a device and times them: what `tests/gpu.sh` runs on a machine with a GPU. It runs on the CPU, too.
//!
//! ```text
//! gpu_check device cuda                                    is it there? 0, or 77 with the reason
//! gpu_check values cuda [--golden nets.safetensors] NET... against reference values: 0, or 1 where one differs
//! gpu_check faces cuda [--batches 1,8,64,256] NET...       faces a second, one line of JSON for each measurement
//! ```
//!
//! Weights and pictures come from a rule (`src/model/fill.rs`), so nothing has to be there. `values` compares with what
//! the published code makes of them where a file has it, as `tests/golden/ir_18.safetensors` does for IR-18, and with this
//! crate's kernels on the CPU in f32 otherwise: f32 to 1e-4 on the unit embedding and on the norm, bf16 to a cosine of
//! 0.9999. `faces` counts from pixels on the device to features on the host; the seconds are the median of several passes.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde_json::json;
use vultus_engine::model::ir::Ir;
use vultus_engine::model::{Architecture, Arithmetic, Backbone, Batch, Precision, select_device};

#[path = "../src/model/fill.rs"]
mod fill;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str =
    "gpu_check device DEVICE | values DEVICE [--golden FILE] NET... | faces DEVICE [--batches N,...] NET...";
/// There is no such device: the status by which test harnesses know a skipped test.
const SKIPPED: u8 = 77;
const DIM: usize = 512;
/// Largest difference in f32 of a value of the unit embedding, and of the norm in terms of it.
const CLOSE: f64 = 1e-4;
/// With products rounded to TF32 differences are above this, without they are some 1e-6.
const EXACT: f64 = 1e-5;
const COSINE: f64 = 0.9999;

/// Unit embeddings and norms.
struct Features(Vec<(Vec<f64>, f64)>);

impl Features {
    fn of(raw: &Tensor) -> Result<Self> {
        let split = |raw: Vec<f32>| {
            let norm = raw.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            (raw.iter().map(|value| f64::from(*value) / norm).collect(), norm)
        };
        Ok(Self(raw.to_vec2::<f32>()?.into_iter().map(split).collect()))
    }

    fn golden(tensors: &HashMap<String, Tensor>, prefix: &str) -> Result<Option<Self>> {
        let get = |name: &str| tensors.get(&format!("{prefix}{name}"));
        let (Some(embeddings), Some(norms)) = (get("embedding"), get("norm")) else { return Ok(None) };
        let embeddings = embeddings.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let norms = norms.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        Ok(Some(Self(embeddings.into_iter().zip(norms).collect())))
    }

    /// Largest difference of a value, of a norm in terms of the norm, and lowest cosine.
    fn compare(&self, expected: &Self) -> [f64; 3] {
        let mut worst = [0f64, 0f64, 1f64];
        for ((found, norm), (expected, expected_norm)) in self.0.iter().zip(&expected.0) {
            let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            worst[0] = differences.fold(worst[0], f64::max);
            worst[1] = worst[1].max((norm / expected_norm - 1.0).abs());
            worst[2] = worst[2].min(found.iter().zip(expected).map(|(a, b)| a * b).sum());
        }
        worst
    }
}

fn network(architecture: Architecture, device: &Device, arithmetic: Arithmetic, precision: Precision) -> Result<Ir> {
    let weights = fill::weights(&architecture.tensors(DIM));
    let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    Ok(Ir::new(architecture, DIM, &vb, device, arithmetic, precision)?)
}

/// On the CPU too, what would run on a GPU.
fn on(device: &Device, architecture: Architecture, precision: Precision) -> Result<Ir> {
    network(architecture, device, Arithmetic::Gpu, precision)
}

fn run(network: &Ir, pixels: &Tensor) -> Result<Tensor> {
    let features = network.forward(&Batch { pixels: pixels.clone(), landmarks: None })?;
    Ok(features.to_device(&Device::Cpu)?)
}

/// Compares every network in both precisions; whether all are close.
fn values(device: &Device, golden: Option<&str>, networks: &[Architecture]) -> Result<bool> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let load = |path: &Path| {
        if path.exists() { candle_core::safetensors::load(path, &Device::Cpu) } else { Ok(HashMap::new()) }
    };
    let own = load(&folder.join("tests/golden/ir_18.safetensors"))?;
    let all = match golden {
        Some(path) => candle_core::safetensors::load(path, &Device::Cpu)?,
        None => load(&folder.join("../../shared/golden/nets.safetensors"))?,
    };
    let pictures = fill::pictures();
    let mut right = true;
    for architecture in networks.iter().copied() {
        let mut expected = Features::golden(&all, &format!("{architecture}/f32/"))?;
        if expected.is_none() && architecture == Architecture::Ir18 {
            expected = Features::golden(&own, "")?;
        }
        let against = if expected.is_some() { "the published code" } else { "the kernels on the CPU" };
        let expected = match expected {
            Some(expected) => expected,
            None => {
                let arithmetic = Arithmetic::for_device(&Device::Cpu);
                Features::of(&run(&network(architecture, &Device::Cpu, arithmetic, Precision::F32)?, &pictures)?)?
            }
        };
        for precision in [Precision::F32, Precision::Bf16] {
            let found = Features::of(&run(&on(device, architecture, precision)?, &pictures.to_device(device)?)?)?;
            let [value, norm, cosine] = found.compare(&expected);
            let close = match precision {
                Precision::F32 => value <= CLOSE && norm <= CLOSE,
                Precision::Bf16 => cosine >= COSINE,
            };
            let verdict = match (close, precision) {
                (false, _) => "FAILED",
                (true, Precision::F32) if value > EXACT => "ok, but so far off that TF32 is likely",
                _ => "ok",
            };
            println!(
                "{architecture} {precision}, against {against}: value {value:.1e}, norm {norm:.1e}, 1 - cosine {:.1e}: {verdict}",
                1.0 - cosine
            );
            right &= close;
        }
    }
    Ok(right)
}

/// Times every network in both precisions.
fn faces(device: &Device, batches: &[usize], networks: &[Architecture]) -> Result<()> {
    for architecture in networks.iter().copied() {
        for precision in [Precision::F32, Precision::Bf16] {
            let network = on(device, architecture, precision)?;
            for batch in batches.iter().copied() {
                let pixels = fill::pictures().repeat((batch.div_ceil(2), 1, 1, 1))?.narrow(0, 0, batch)?;
                let pixels = pixels.contiguous()?.to_device(device)?;
                let pass = || {
                    let start = Instant::now();
                    run(&network, &pixels)?;
                    Ok::<_, Box<dyn Error>>(start.elapsed().as_secs_f64())
                };
                // Kernels are loaded and memory is taken in the first passes. Then for half a second, at least 5 passes.
                let warm = (pass()?, pass()?).1;
                let count = ((0.5 / warm) as usize).clamp(5, 200);
                let mut seconds = (0..count).map(|_| pass()).collect::<Result<Vec<f64>>>()?;
                seconds.sort_by(f64::total_cmp);
                let median = seconds[seconds.len() / 2];
                println!(
                    "{}",
                    json!({
                        "engine": "vultus", "network": architecture.to_string(), "precision": precision.name(),
                        "batch": batch, "ms": median * 1e3, "faces_per_s": batch as f64 / median,
                    })
                );
            }
        }
    }
    Ok(())
}

fn main() -> Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let (Some(verb), Some(name)) = (arguments.next(), arguments.next()) else { return Err(USAGE.into()) };
    let device = match select_device(&name) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("{error}");
            return Ok(ExitCode::from(SKIPPED));
        }
    };
    let (mut golden, mut batches, mut networks) = (None, vec![1, 8, 64, 256], Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--golden" => golden = Some(arguments.next().ok_or(USAGE)?),
            "--batches" => {
                let list = arguments.next().ok_or(USAGE)?;
                batches = list.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?;
            }
            _ => networks.push(argument.parse::<Architecture>()?),
        }
    }
    Ok(match verb.as_str() {
        "device" => {
            println!("{name} works");
            ExitCode::SUCCESS
        }
        "values" if values(&device, golden.as_deref(), &networks)? => ExitCode::SUCCESS,
        "values" => ExitCode::FAILURE,
        "faces" => {
            faces(&device, &batches, &networks)?;
            ExitCode::SUCCESS
        }
        _ => return Err(USAGE.into()),
    })
}
