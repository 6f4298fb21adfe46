//! The convolution against its stock twin, and at each width of register.

use std::collections::HashMap;

use candle_core::{DType, Device, Module};
use proptest::prelude::*;

use super::*;
use crate::kernel::Widest;
use crate::kernel::conv::{Activation, Kind, StockConv};
use crate::model::fill;

fn values(stream: u32, shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>() as u32;
    let values: Vec<f32> = (0..count).map(|index| 2.0 * fill::uniform(stream, index) as f32 - 1.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

    #[test]
    fn equal_to_its_twin(
        images in 1usize..3,
        height in 3usize..16,
        width in 3usize..16,
        input in prop::sample::select(vec![1usize, 3, 64, 65, 128]),
        panels in 1usize..3,
        kernel in prop::sample::select(vec![1usize, 3]),
        stride in 1usize..3,
        with_lead: bool,
        with_other: bool,
        prelu: bool,
        seed in 0u32..1000,
    ) {
        let output = panels * PANEL;
        let activation = if prelu { Activation::PRelu } else { Activation::None };
        let padding = [kernel / 2; 2];
        let spec =
            ConvSpec { name: "c".into(), kind: Kind::Full, input, output, kernel, stride, padding, activation };
        let tensors: HashMap<String, Tensor> =
            spec.tensors().into_iter().zip(seed..).map(|((name, shape), seed)| (name, values(seed, &shape))).collect();
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        let x = values(seed + 7, &[images, height, width, input]);
        let lead = with_lead.then(|| [values(seed + 8, &[input]), values(seed + 9, &[input])]);
        let mut planes = x.clone();
        if let Some([scale, shift]) = &lead {
            planes = planes.broadcast_mul(scale).unwrap().broadcast_add(shift).unwrap();
        }
        let planes = planes.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
        let expected = StockConv::load(&spec, &vb).unwrap().forward(&planes).unwrap();
        let mut expected = expected.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        let other = with_other.then(|| values(seed + 10, expected.dims()));
        if let Some(other) = &other {
            expected = (expected + other).unwrap();
        }
        let lead = lead.map(|lead| lead.map(|values| values.to_vec1().unwrap()));
        let square = Square::load(&spec, lead, &vb).unwrap();
        let found = square.forward(&x, other.as_ref()).unwrap();
        prop_assert_eq!(found.dims(), expected.dims());
        let error = (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        prop_assert!(error < 2e-4, "{}", error);
    }
}

/// Machines with narrower registers sum in another pattern.
#[test]
fn every_width_gives_the_same() {
    let (input, output, pixels) = (70, 2 * PANEL, 23);
    let spec = ConvSpec::pointwise("c".into(), input, output, Activation::PRelu);
    let tensors = spec.tensors().into_iter().zip(1..).map(|((name, shape), seed)| (name, values(seed, &shape)));
    let vb = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
    let square = Square::load(&spec, None, &vb).unwrap();
    let x = values(9, &[1, 1, pixels, input]);
    let expected = square.forward(&x, None).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let framed = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let places: Vec<usize> = (0..pixels).map(|pixel| pixel * input).collect();
    let mut runs = 0;
    let mut compare = |run: &dyn Fn(Pixels<'_>)| {
        let mut out = vec![f32::NAN; pixels * output];
        let line = pixels * input;
        run(Pixels { square: &square, framed: &framed, line, places: &places, other: None, out: &mut out });
        assert!(out.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-4));
        runs += 1;
    };
    compare(&|task| Simd::vectorize(pulp::Scalar::new(), Widest(task)));
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        compare(&|task| Simd::vectorize(simd, Widest(task)));
    }
    assert!(runs > 0);
}

#[test]
fn what_does_not_fit_is_refused() {
    let spec = |output| ConvSpec {
        name: "c".into(),
        kind: Kind::Full,
        input: 2,
        output,
        kernel: 3,
        stride: 1,
        padding: [0, 0],
        activation: Activation::None,
    };
    let tensors = spec(64).tensors().into_iter().map(|(name, shape)| (name, values(1, &shape))).collect();
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    assert!(Square::load(&spec(63), None, &vb).is_err());
    assert!(Square::load(&spec(64), Some([vec![1.0], vec![1.0]]), &vb).is_err());
    let square = Square::load(&spec(64), None, &vb).unwrap();
    assert!(square.forward(&values(1, &[1, 2, 9, 2]), None).is_err());
    assert!(square.forward(&values(1, &[1, 4, 4, 3]), None).is_err());
    let other = values(1, &[1, 4, 4, 64]);
    assert!(square.forward(&values(1, &[1, 4, 4, 2]), Some(&other)).is_err());
    assert_eq!(square.forward(&values(1, &[0, 4, 4, 2]), None).unwrap().dims(), [0, 2, 2, 64]);
}
