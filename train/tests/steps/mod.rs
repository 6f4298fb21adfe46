//! Steps of training on tensors beside the same on the kernels: what `tests/tensors.rs` checks on the CPU and
//! `examples/train_check.rs` on a GPU.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use vultus_engine::model::Architecture;
use vultus_engine::random::Random;
use vultus_train::network::Network;
use vultus_train::optimise::SgdConfig;
use vultus_train::trainer::{HeadConfig, Learner, Part, TrainError};

/// Values of an embedding.
const DIM: usize = 32;
/// Images of one part of a step.
const PART: usize = 4;

/// What steps have come to: all that was learnt, by name, and the losses.
pub(crate) struct Learnt {
    tensors: HashMap<String, Tensor>,
    /// Of each step.
    pub(crate) losses: Vec<f64>,
}

/// How far steps are from others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Distance {
    /// The largest difference of a loss in terms of the largest loss.
    pub(crate) losses: f64,
    /// The length of the difference of all values in terms of the length of what the steps have changed.
    pub(crate) changes: f64,
    /// The largest difference of a running statistic in terms of the largest of its layer.
    pub(crate) running: f64,
}

/// Drawn crops (n, 3, 112, 112).
pub(crate) fn crops(count: usize) -> candle_core::Result<Tensor> {
    let mut random = Random::new(3);
    let wave = |at: usize| ((at / 112 % 112 + at % 112) as f64 / (20.0 + (at / 37_632 % 4) as f64 * 9.0)).sin();
    let pixels: Vec<f32> =
        (0..count * 3 * 112 * 112).map(|at| (0.6 * wave(at) + random.uniform(-0.4, 0.4)) as f32).collect();
    Tensor::from_vec(pixels, (count, 3, 112, 112), &Device::Cpu)
}

/// Steps of two parts each, with dropout, clipping and an AdaFace head: on the kernels, or on tensors on a device.
pub(crate) fn learn(
    architecture: Architecture,
    on: Option<(&Device, DType)>,
    steps: u64,
) -> Result<Learnt, TrainError> {
    let mut network = Network::new(architecture, DIM, 7)?;
    if let Some((device, dtype)) = on {
        network.use_tensors(device, dtype)?;
    }
    let head = HeadConfig::default().build(DIM, 4, 1, network.device())?;
    let mut learner = Learner::new(network, head, 1.0, SgdConfig::default(), Some(5.0))?;
    let crops = crops(2 * PART)?;
    let mut losses = Vec::new();
    for step in 0..steps {
        for part in 0..2u64 {
            let images = crops.narrow(0, PART * part as usize, PART)?;
            let labels = Tensor::new(&[0u32, 1, 2, 3], &Device::Cpu)?;
            learner.add(&Part { images, labels, lesson: None, seed: 2 * step + part }, None, 0.5)?;
        }
        losses.push(learner.apply(0.01)?.loss);
    }
    Ok(Learnt { tensors: learner.tensors()?, losses })
}

fn values(tensor: &Tensor) -> candle_core::Result<Vec<f64>> {
    tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1()
}

impl Learnt {
    /// From others after as many steps from the same beginning.
    pub(crate) fn distance(&self, other: &Self, begin: &Self) -> candle_core::Result<Distance> {
        let most = |values: &[f64]| values.iter().fold(0f64, |most, value| most.max(value.abs()));
        let far = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
        let mut running = 0f64;
        let (mut changed, mut different) = (0f64, 0f64);
        for (name, expected) in &other.tensors {
            let Some(found) = self.tensors.get(name) else { candle_core::bail!("there is no {name}") };
            let (found, expected) = (values(found)?, values(expected)?);
            if found.len() != expected.len() {
                candle_core::bail!("{name} has {} values, not {}", found.len(), expected.len())
            }
            // Momenta begin with nothing.
            let begin = begin.tensors.get(name).map_or(Ok(vec![0.0; expected.len()]), values)?;
            changed += square(&mut expected.iter().zip(begin).map(|(after, before)| after - before));
            different += square(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
            // A mean can be 0 but for rounding, behind other normalisations; it counts beside how far values spread.
            if let Some(of) = name.strip_suffix("running_mean") {
                let spread = other.tensors.get(&format!("{of}running_var")).map_or(Ok(vec![1.0]), values)?;
                running = running.max(far(&found, &expected) / most(&spread).sqrt());
            } else if name.ends_with("running_var") {
                running = running.max(far(&found, &expected) / most(&expected));
            }
        }
        if self.tensors.len() != other.tensors.len() {
            candle_core::bail!("{} tensors, not {}", self.tensors.len(), other.tensors.len())
        }
        let losses = far(&self.losses, &other.losses) / most(&other.losses);
        Ok(Distance { losses, changes: (different / changed).sqrt(), running })
    }
}
