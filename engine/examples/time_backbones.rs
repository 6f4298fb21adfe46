//! Times the forward pass of backbones with made-up weights.
//!
//! ```text
//! cargo run --release -p vultus-engine --example time_backbones -- ir_18 ir_50 ir_101
//! ```
//!
//! Prints, for each network, implementation and batch size, the shortest of several passes in milliseconds a crop.
//! Threads as rayon finds them, or `RAYON_NUM_THREADS`.

use std::collections::HashMap;
use std::error::Error;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use vultus_engine::kernel::conv::Arithmetic;
use vultus_engine::model::ir::Ir;
use vultus_engine::model::vit::Vit;
use vultus_engine::model::{Architecture, Backbone, Batch, Precision};

/// Values of the size that keeps activations in range; which ones does not change the time.
fn weights(architecture: Architecture) -> Result<HashMap<String, Tensor>, Box<dyn Error>> {
    let mut tensors = HashMap::new();
    for (name, shape) in architecture.tensors(512) {
        let inputs: usize = shape.iter().skip(1).product();
        let scale = if name.ends_with("running_var") { 1.0 } else { (1.0 / inputs as f32).sqrt() };
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            scale * if name.ends_with("running_var") { 1.0 } else { (state >> 8) as f32 / 8_388_608.0 - 1.0 }
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
        tensors.insert(name.clone(), Tensor::from_vec(values, shape, &Device::Cpu)?);
    }
    Ok(tensors)
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::Cpu;
    for name in std::env::args().skip(1) {
        let architecture: Architecture = name.parse()?;
        let vb = VarBuilder::from_tensors(weights(architecture)?, DType::F32, &device);
        let forms = [
            (Arithmetic::Kernels, Precision::F32),
            (Arithmetic::Kernels, Precision::Bf16),
            (Arithmetic::Stock, Precision::F32),
        ];
        for (arithmetic, precision) in forms {
            let network: Box<dyn Backbone> = match architecture {
                Architecture::Mobilefacenet | Architecture::MobilefacenetY1 => {
                    return Err("the bench `inference` times this one".into());
                }
                Architecture::VitBase | Architecture::VitBaseKprpe => {
                    Box::new(Vit::new(architecture.needs_landmarks(), 512, &vb)?)
                }
                _ => Box::new(Ir::new(architecture, 512, &vb, &device, arithmetic, precision)?),
            };
            for crops in [1, 8] {
                let pixels = Tensor::full(0.1f32, (crops, 3, 112, 112), &device)?;
                let batch = Batch { pixels, landmarks: None };
                let mut best = f64::INFINITY;
                for _ in 0..5 {
                    let start = Instant::now();
                    network.forward(&batch)?;
                    best = best.min(start.elapsed().as_secs_f64());
                }
                println!(
                    "{architecture} {arithmetic:?} {precision} batch {crops}: {:.1} ms a crop",
                    best * 1e3 / crops as f64
                );
            }
        }
    }
    Ok(())
}
