//! Weights from a rule, so that whole networks can be compared with reference values without a weights file.
//!
//! Tensor number k of a network (in the order of its table) holds values made from a hash of k and the element's index.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

/// Element `index` of stream `stream`: 0 to 1.
pub(crate) fn uniform(stream: u32, index: u32) -> f64 {
    let mut x = stream.wrapping_add(1).wrapping_mul(0x9E37_79B9).wrapping_add(index);
    x ^= x >> 16;
    x = x.wrapping_mul(0x85EB_CA6B);
    x ^= x >> 13;
    x = x.wrapping_mul(0xC2B2_AE35);
    x ^= x >> 16;
    f64::from(x) / 4_294_967_296.0
}

/// All tensors of a table.
pub(crate) fn weights(tensors: &[(String, Vec<usize>)]) -> HashMap<String, Tensor> {
    let biased = |name: &str| {
        let bias = name.replace(".weight", ".bias");
        tensors.iter().any(|(other, _)| *other == bias)
    };
    let tensor = |(stream, (name, shape)): (usize, &(String, Vec<usize>))| {
        let (base, scale) = match name.rsplit('.').next() {
            Some("running_var") => (1.25, 0.25),
            Some("weight") if shape.len() > 1 => (0.0, (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt()),
            // One slope a channel has no bias, a normalisation has one.
            Some("weight") if biased(name) => (1.0, 0.2),
            Some("weight") => (0.25, 0.1),
            _ => (0.0, 0.1),
        };
        let value = |index: u32| (base + (2.0 * uniform(stream as u32, index) - 1.0) * scale) as f32;
        let values: Vec<f32> = (0..shape.iter().product::<usize>() as u32).map(value).collect();
        (name.clone(), Tensor::from_vec(values, shape.as_slice(), &Device::Cpu).unwrap())
    };
    tensors.iter().enumerate().map(tensor).collect()
}

/// Two pictures (2, 3, 112, 112) in -1..1: a ramp and noise.
pub(crate) fn pictures() -> Tensor {
    let ramp =
        (0..3u32).flat_map(|c| (0..112).flat_map(move |y| (0..112).map(move |x| (3 * x + 5 * y + 40 * c) % 256)));
    let noise = (0..3 * 112 * 112).map(|index| (256.0 * uniform(10_000, index)).floor() as u32);
    let values = ramp.chain(noise).map(|byte| ((f64::from(byte) / 255.0 - 0.5) / 0.5) as f32);
    Tensor::from_vec(values.collect::<Vec<_>>(), (2, 3, 112, 112), &Device::Cpu).unwrap()
}
