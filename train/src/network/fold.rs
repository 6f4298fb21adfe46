//! Batch normalisation folded into the convolution ahead of it, and put back.
//!
//! MobileFaceNets run, and are published, with weight and bias alone. Folding is done in double precision.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::NetworkError;
use super::parameters::{Parameters, read};

/// What the kernels add to a variance.
const EPSILON: f64 = 1e-5;
/// What a normalisation of a convolution is called.
const NORM: &str = ".norm.weight";

/// The layers that have a normalisation of their own.
fn layers(parameters: &Parameters) -> impl Iterator<Item = &str> {
    parameters.iter().filter_map(|parameter| parameter.name().strip_suffix(NORM))
}

/// The tensors of a network whose normalisations are called `<layer>.norm`, folded into `<layer>.weight` and `.bias`.
pub(super) fn folded(parameters: &Parameters) -> Result<HashMap<String, Tensor>, NetworkError> {
    let mut tensors = HashMap::new();
    for layer in layers(parameters) {
        let get = |part: &str| {
            let name = format!("{layer}.{part}");
            parameters.get(&name).ok_or(NetworkError::Missing(name))
        };
        let norm = |part: &str| get(&format!("norm.{part}"));
        let (weight, mean, variance) = (get("weight")?, norm("running_mean")?, norm("running_var")?);
        let (scale, shift) = (norm("weight")?, norm("bias")?);
        let outputs = scale.values.len();
        let scales: Vec<f64> = (0..outputs)
            .map(|at| f64::from(scale.values[at]) / (f64::from(variance.values[at]) + EPSILON).sqrt())
            .collect();
        let each = weight.values.len() / outputs.max(1);
        let folded = weight.values.iter().enumerate().map(|(at, value)| (f64::from(*value) * scales[at / each]) as f32);
        let folded = Tensor::from_vec(folded.collect::<Vec<_>>(), weight.shape(), &Device::Cpu)?;
        let bias = (0..outputs)
            .map(|at| (f64::from(shift.values[at]) - f64::from(mean.values[at]) * scales[at]) as f32)
            .collect::<Vec<_>>();
        tensors.insert(format!("{layer}.weight"), folded);
        tensors.insert(format!("{layer}.bias"), Tensor::from_vec(bias, outputs, &Device::Cpu)?);
        if let Some(slopes) = parameters.get(&format!("{layer}.prelu.weight")) {
            let tensor = Tensor::from_slice(&slopes.values, slopes.shape(), &Device::Cpu)?;
            tensors.insert(slopes.name().to_owned(), tensor);
        }
    }
    Ok(tensors)
}

/// Folded tensors with normalisations put back that scale by one and shift by the bias; `None` where the tensors are not
/// folded ones of this network.
pub(super) fn unfolded(
    parameters: &Parameters,
    tensors: &HashMap<String, Tensor>,
) -> Result<Option<HashMap<String, Tensor>>, NetworkError> {
    let is_folded = |layer: &str| {
        tensors.contains_key(&format!("{layer}.bias")) && !tensors.contains_key(&format!("{layer}{NORM}"))
    };
    if !layers(parameters).next().is_some_and(is_folded) {
        return Ok(None);
    }
    let mut unfolded = tensors.clone();
    for layer in layers(parameters) {
        let bias = format!("{layer}.bias");
        let channels = tensors.get(&bias).map_or(0, Tensor::elem_count);
        let values = read(tensors, &bias, &[channels])?;
        let full = |value: f64| Tensor::full(value as f32, channels, &Device::Cpu);
        unfolded.insert(format!("{layer}.norm.bias"), Tensor::from_vec(values, channels, &Device::Cpu)?);
        unfolded.insert(format!("{layer}{NORM}"), full(1.0)?);
        unfolded.insert(format!("{layer}.norm.running_mean"), full(0.0)?);
        unfolded.insert(format!("{layer}.norm.running_var"), full(1.0 - EPSILON)?);
    }
    Ok(Some(unfolded))
}
