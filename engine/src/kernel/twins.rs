//! The convolutions of each instruction set against plain sums in double precision.

use std::sync::Arc;

use proptest::prelude::*;

use super::convolution::{Convolution, Given, Other, Target};
use super::isa::Isa;
use super::map::{Bf16, Map, Pool};
use super::network::{Operand, leave};
use super::winograd::Winograd;
use crate::model::fill;

fn values(stream: u32, count: usize) -> Vec<f32> {
    (0..count as u32).map(|index| 2.0 * fill::uniform(stream, index) as f32 - 1.0).collect()
}

/// A map with the given pixels (N, H, W, C).
fn map(pool: &Arc<Pool>, shape: [usize; 4], frame: usize, pixels: &[f32]) -> Map<f32> {
    let mut map = pool.map::<f32>(shape, frame);
    // What an earlier map has left behind must not matter.
    let [images, height, width, channels] = shape;
    for image in 0..images {
        for row in 0..height {
            let at = map.at(image, row + frame, frame);
            let from = (image * height + row) * width * channels;
            map.values_mut()[at..at + width * channels].copy_from_slice(&pixels[from..from + width * channels]);
        }
    }
    map
}

fn rounded(pool: &Arc<Pool>, map: &Map<f32>) -> Map<Bf16> {
    let mut to = pool.map::<Bf16>(map.shape(), map.frame);
    to.values_mut()
        .iter_mut()
        .zip(map.values())
        .for_each(|(to, value)| *to = Bf16(half::bf16::from_f32(*value).to_bits()));
    to
}

/// What a convolution is, with the size of the sums' terms: (value, sum of magnitudes) of each output (N, H', W', O).
fn plain(
    given: &Given,
    [images, height, width, _]: [usize; 4],
    pixels: &[f32],
    other: Option<&[f32]>,
) -> Vec<[f64; 2]> {
    let Given { kernel, stride, padding: [before, after], input, output, .. } = *given;
    let side = |size: usize| (size + before + after - kernel) / stride + 1;
    let mut outputs = Vec::new();
    for image in 0..images {
        for (y, x) in (0..side(height)).flat_map(|y| (0..side(width)).map(move |x| (y, x))) {
            for of in 0..output {
                let (mut sum, mut size) = (f64::from(given.bias[of]), 1.0);
                for (ky, kx) in (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (ky, kx))) {
                    let (Some(row), Some(column)) =
                        ((y * stride + ky).checked_sub(before), (x * stride + kx).checked_sub(before))
                    else {
                        continue;
                    };
                    if row >= height || column >= width {
                        continue;
                    }
                    for channel in 0..input {
                        let mut value = f64::from(pixels[((image * height + row) * width + column) * input + channel]);
                        if let Some([scale, shift]) = given.lead {
                            value = value * f64::from(scale[channel]) + f64::from(shift[channel]);
                        }
                        let weight = given.weight[((of * input + channel) * kernel + ky) * kernel + kx];
                        sum += value * f64::from(weight);
                        size += (value * f64::from(weight)).abs();
                    }
                }
                if let Some(slopes) = given.slopes.filter(|_| sum <= 0.0) {
                    sum *= f64::from(slopes[of]);
                }
                if let Some(other) = other {
                    sum += f64::from(other[outputs.len()]);
                }
                outputs.push([sum, size]);
            }
        }
    }
    outputs
}

/// Checks every form and instruction set; `tolerance` is of the terms' magnitudes, in f32 and in bf16.
fn check(given: &Given, shape: [usize; 4], other: bool) -> Result<(), TestCaseError> {
    let pool = Arc::new(Pool::default());
    let pixels = values(11, shape.iter().product());
    let frame = given.padding[0].max(given.padding[1]);
    // Filled with something, so that a kernel that reads beyond a map is noticed.
    pool.map::<f32>([1, 64, 64, 64], 0).values_mut().fill(f32::NAN);
    let x = map(&pool, shape, frame, &pixels);
    let direct = Convolution::<f32>::new(given).unwrap();
    let to_shape = direct.shape(shape).unwrap();
    let others = values(12, to_shape.iter().product());
    let others = other.then_some(&others[..]);
    let other_map = others.map(|others| map(&pool, to_shape, 1, others));
    let expected = plain(given, shape, &pixels, others);
    for isa in Isa::available().iter().copied() {
        let compare = |name: &str, tolerance: f64, run: &dyn Fn(Target, Option<Other>) -> candle_core::Result<()>| {
            let (mut exact, mut short) = (pool.map::<f32>(to_shape, 2), pool.map::<Bf16>(to_shape, 1));
            let other = other_map.as_ref().map(|map| Other { map, stride: 1 });
            run(Target { f32: Some(&mut exact), bf16: Some(&mut short) }, other).unwrap();
            let found = leave(&exact).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (found, [expected, size]) in found.iter().zip(&expected) {
                let off = (f64::from(*found) - expected).abs() / size;
                prop_assert!(off <= tolerance, "{name} {}: {found} instead of {expected}", isa.name());
            }
            // The rounded output is the other one, rounded; the frames of both are still zero.
            for image in 0..to_shape[0] {
                for (exact, short) in exact.lines(image).zip(short.lines(image)) {
                    for (exact, short) in exact.iter().zip(short) {
                        let expected = half::bf16::from_f32(*exact);
                        let denormal = expected.to_f32().abs() < f32::MIN_POSITIVE;
                        prop_assert!(denormal || short.0 == expected.to_bits(), "{name} {}", isa.name());
                    }
                }
            }
            let inner: f64 = found.iter().map(|value| f64::from(value.abs())).sum();
            let all: f64 = exact.values().iter().map(|value| f64::from(value.abs())).sum();
            prop_assert!((inner - all).abs() <= 1e-9 * inner, "{name} {}: something in the frame", isa.name());
            Ok(())
        };
        compare("direct", 2e-6, &|to, other| direct.forward(isa, &x, other, to))?;
        if Winograd::<f32>::fits(given) {
            let winograd = Winograd::<f32>::new(given).unwrap();
            compare("winograd", 1e-5, &|to, other| winograd.forward(isa, &x, other, to))?;
        }
        if given.input.is_multiple_of(2) {
            let short = rounded(&pool, &x);
            let direct = Convolution::<Bf16>::new(given).unwrap();
            compare("direct bf16", 1e-2, &|to, other| direct.forward(isa, &short, other, to))?;
            if Winograd::<Bf16>::fits(given) {
                let winograd = Winograd::<Bf16>::new(given).unwrap();
                compare("winograd bf16", 2e-2, &|to, other| winograd.forward(isa, &short, other, to))?;
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..Default::default() })]

    #[test]
    fn convolutions_equal_plain_sums(
        images in 1usize..4,
        height in 3usize..12,
        width in 3usize..12,
        input in prop::sample::select(vec![1usize, 3, 10, 16, 32, 48, 65]),
        output in prop::sample::select(vec![1usize, 10, 16, 31, 32, 64, 100]),
        kernel in prop::sample::select(vec![1usize, 2, 3, 3, 3]),
        stride in 1usize..3,
        zeros in 0usize..3,
        with_lead: bool,
        with_other: bool,
        prelu: bool,
    ) {
        let padding = match kernel {
            3 => [[0, 0], [0, 1], [1, 1]][zeros],
            _ => [0, 0],
        };
        let weight = values(1, output * input * kernel * kernel);
        let (bias, slopes) = (values(2, output), values(3, output));
        let lead = [values(4, input), values(5, input)];
        let given = Given {
            kernel, stride, padding, input, output, weight: &weight, bias: &bias,
            slopes: prelu.then_some(&slopes[..]),
            lead: with_lead.then_some([&lead[0][..], &lead[1][..]]),
        };
        check(&given, [images, height, width, input], with_other)?;
    }

    /// What the large networks consist of; odd sizes leave parts of tiles over.
    #[test]
    fn minimal_filtering_equals_plain_sums(
        images in 1usize..3,
        height in 2usize..11,
        width in 2usize..11,
        input in prop::sample::select(vec![16usize, 48, 80]),
        panels in 1usize..3,
        with_lead: bool,
        with_other: bool,
        prelu: bool,
    ) {
        let output = 32 * panels;
        let weight = values(1, output * input * 9);
        let (bias, slopes) = (values(2, output), values(3, output));
        let lead = [values(4, input), values(5, input)];
        let given = Given {
            kernel: 3, stride: 1, padding: [1, 1], input, output, weight: &weight, bias: &bias,
            slopes: prelu.then_some(&slopes[..]),
            lead: with_lead.then_some([&lead[0][..], &lead[1][..]]),
        };
        check(&given, [images, height, width, input], with_other)?;
    }
}

/// What a convolution without padding makes of a map, filtering makes of it with its outermost pixels for a frame.
#[test]
fn framed_maps_are_filtered_without_padding() {
    let pool = Arc::new(Pool::default());
    let (input, output) = (16, 32);
    let weight = values(1, output * input * 9);
    let (bias, slopes) = (values(2, output), values(3, output));
    let given = |padding| Given {
        kernel: 3,
        stride: 1,
        padding,
        input,
        output,
        weight: &weight,
        bias: &bias,
        slopes: Some(&slopes),
        lead: None,
    };
    let winograd = Winograd::<f32>::new(&given([1, 1])).unwrap();
    for (images, height, width) in [(1, 3, 3), (3, 5, 4), (2, 23, 23), (1, 16, 41)] {
        let shape = [images, height, width, input];
        let pixels = values(4, shape.iter().product());
        let expected = plain(&given([0, 0]), shape, &pixels, None);
        for (isa, threads) in Isa::available().iter().flat_map(|isa| [(*isa, 1), (*isa, 3)]) {
            let x = map(&pool, shape, 0, &pixels).framed().unwrap();
            let mut to = pool.map::<f32>([images, height - 2, width - 2, output], 0);
            let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            threads.install(|| winograd.forward(isa, &x, None, Target { f32: Some(&mut to), bf16: None }).unwrap());
            for (found, [expected, size]) in to.values().iter().zip(&expected) {
                let off = (f64::from(*found) - expected).abs() / size;
                assert!(off <= 1e-5, "{} {height}x{width}: {found} instead of {expected}", isa.name());
            }
        }
    }
    for (height, width, frame) in [(2, 9, 0), (9, 2, 0), (9, 9, 1)] {
        assert!(pool.map::<f32>([1, height, width, 1], frame).framed().is_err());
    }
}

/// A NaN in the input reaches what depends on it and nothing else; denormal numbers do not slow down or disturb.
#[test]
fn nan_and_denormal_values() {
    let (input, output) = (16, 32);
    let weight = values(1, output * input * 9);
    let (bias, slopes) = (vec![0.0; output], vec![0.25; output]);
    let given = Given {
        kernel: 3,
        stride: 1,
        padding: [1, 1],
        input,
        output,
        weight: &weight,
        bias: &bias,
        slopes: Some(&slopes),
        lead: None,
    };
    let shape = [1, 9, 9, input];
    let pool = Arc::new(Pool::default());
    let mut pixels = vec![1e-41f32; 81 * input];
    pixels[0] = f32::NAN;
    let x = map(&pool, shape, 1, &pixels);
    let short = rounded(&pool, &x);
    for isa in Isa::available().iter().copied() {
        // Winograd spreads a NaN over its own tile of four by four (two by two in bf16).
        let check = |reach: usize, run: &dyn Fn(Target)| {
            let mut to = pool.map::<f32>([1, 9, 9, output], 0);
            run(Target { f32: Some(&mut to), bf16: None });
            for (index, pixel) in to.values().chunks_exact(output).enumerate() {
                let (row, column) = (index / 9, index % 9);
                if row < 2 && column < 2 {
                    assert!(pixel.iter().all(|value| value.is_nan()), "{}", isa.name());
                } else if row >= reach || column >= reach {
                    assert!(pixel.iter().all(|value| value.abs() < 1e-37), "{} {row} {column}", isa.name());
                }
            }
        };
        let direct = Convolution::<f32>::new(&given).unwrap();
        check(2, &|to| direct.forward(isa, &x, None, to).unwrap());
        let winograd = Winograd::<f32>::new(&given).unwrap();
        check(4, &|to| winograd.forward(isa, &x, None, to).unwrap());
        let direct = Convolution::<Bf16>::new(&given).unwrap();
        check(2, &|to| direct.forward(isa, &short, None, to).unwrap());
        let winograd = Winograd::<Bf16>::new(&given).unwrap();
        check(4, &|to| winograd.forward(isa, &short, None, to).unwrap());
    }
}

/// Many tiles for one thread and few for several take different ways through Winograd's steps.
#[test]
fn the_number_of_threads_changes_nothing() {
    let (input, output) = (64, 64);
    let weight = values(1, output * input * 9);
    let bias = values(2, output);
    let given = Given {
        kernel: 3,
        stride: 1,
        padding: [1, 1],
        input,
        output,
        weight: &weight,
        bias: &bias,
        slopes: None,
        lead: None,
    };
    let pool = Arc::new(Pool::default());
    let shape = [2, 15, 13, input];
    let x = map(&pool, shape, 1, &values(3, shape.iter().product()));
    let short = rounded(&pool, &x);
    let run = |threads: usize| {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let found = |forward: &(dyn Fn(Target) + Sync)| {
            let mut to = pool.map::<f32>([2, 15, 13, output], 0);
            threads.install(|| forward(Target { f32: Some(&mut to), bf16: None }));
            to.values().to_vec()
        };
        let isa = Isa::current();
        let exact = Winograd::<f32>::new(&given).unwrap();
        let rounded = Winograd::<Bf16>::new(&given).unwrap();
        let direct = Convolution::<f32>::new(&given).unwrap();
        [
            found(&|to| exact.forward(isa, &x, None, to).unwrap()),
            found(&|to| rounded.forward(isa, &short, None, to).unwrap()),
            found(&|to| direct.forward(isa, &x, None, to).unwrap()),
        ]
    };
    let alone = run(1);
    for threads in [2, 5] {
        assert_eq!(run(threads), alone);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (weight, bias) = (vec![0.0; 2 * 3 * 9], vec![0.0; 2]);
    let given = Given {
        kernel: 3,
        stride: 1,
        padding: [1, 1],
        input: 3,
        output: 2,
        weight: &weight,
        bias: &bias,
        slopes: None,
        lead: None,
    };
    assert!(Convolution::<f32>::new(&Given { weight: &weight[1..], ..given }).is_err());
    assert!(Convolution::<f32>::new(&Given { slopes: Some(&[0.0]), ..given }).is_err());
    assert!(Convolution::<f32>::new(&Given { padding: [3, 3], ..given }).is_err());
    assert!(Convolution::<Bf16>::new(&given).is_err(), "an odd number of channels");
    assert!(Winograd::<f32>::new(&given).is_err());
    let pool = Arc::new(Pool::default());
    let convolution = Convolution::<f32>::new(&given).unwrap();
    let forward = |x: [usize; 4], frame, to: [usize; 4]| {
        let mut to = pool.map::<f32>(to, 0);
        convolution.forward(Isa::current(), &pool.map(x, frame), None, Target { f32: Some(&mut to), bf16: None })
    };
    assert!(forward([1, 4, 4, 3], 1, [1, 4, 4, 2]).is_ok());
    assert!(forward([1, 4, 4, 3], 0, [1, 4, 4, 2]).is_err(), "no room for the padding");
    assert!(forward([1, 4, 4, 2], 1, [1, 4, 4, 2]).is_err());
    assert!(forward([1, 4, 4, 3], 1, [1, 4, 3, 2]).is_err());
    let prepared = f32::prepare(&pool, [1, 2, 2, 2], 0, false);
    assert!(Bf16::of(&prepared).is_err());
}
