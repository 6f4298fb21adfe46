//! CurricularFace and MagFace, of which no reference values of their authors' code lie at hand: against PyTorch's
//! automatic differentiation (torch CPU, f64) on made-up numbers, and against the formulas written out plainly, with
//! gradients by central differences, on many others.

mod pytorch;

use std::f64::consts::PI;

use candle_core::{DType, Device, Tensor, Var};
use vultus_engine::random::Random;
use vultus_train::head::{
    ClassKernel, CurricularFace, CurricularFaceConfig, HeadError, MagFace, MagFaceConfig, MarginHead, split_norm,
};

use pytorch::{CURRICULARFACE, CURRICULARFACE_T, MAGFACE, MAGFACE_EASY, Reference};

const BATCH: usize = 4;
const DIM: usize = 5;
const CLASSES: usize = 6;
const LABELS: [u32; BATCH] = [2, 0, 5, 2];

/// Embeddings (4, 5) with norms 6, 30, 101 and 118, the last close to the opposite of its class, and a kernel (5, 6).
fn inputs() -> (Vec<f64>, Vec<f64>) {
    let wave = |i: usize, step: f64, start: f64| (step * i as f64 + start).sin();
    let kernel: Vec<f64> = (0..DIM * CLASSES).map(|i| wave(i, 2.3, 0.9)).collect();
    let lengths = [4.0, 20.0, 60.0, 150.0];
    let mut raw: Vec<f64> = (0..BATCH * DIM).map(|i| lengths[i / DIM] * wave(i, 1.7, 0.3)).collect();
    for d in 0..DIM {
        raw[3 * DIM + d] = -70.0 * kernel[d * CLASSES + 2] + 0.05 * raw[3 * DIM + d];
    }
    (raw, kernel)
}

fn class_kernel(kernel: &[f64], dtype: DType) -> ClassKernel {
    let kernel = Tensor::from_slice(kernel, (DIM, CLASSES), &Device::Cpu).unwrap();
    ClassKernel::new(&kernel.to_dtype(dtype).unwrap()).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

struct Step {
    loss: f64,
    logits: Vec<f64>,
    grad_raw: Vec<f64>,
    grad_kernel: Vec<f64>,
}

fn step(head: &mut dyn MarginHead, raw: &[f64], labels: &[u32], dtype: DType) -> Step {
    let raw = Tensor::from_slice(raw, (labels.len(), DIM), &Device::Cpu).unwrap();
    let raw = Var::from_tensor(&raw.to_dtype(dtype).unwrap()).unwrap();
    let labels = Tensor::new(labels, &Device::Cpu).unwrap();
    let (unit, norms) = split_norm(&raw).unwrap();
    let logits = head.forward(&unit, &norms, &labels).unwrap();
    let loss = head.loss(&logits, &norms, &labels).unwrap();
    let grads = loss.backward().unwrap();
    Step {
        loss: numbers(&loss)[0],
        logits: numbers(&logits),
        grad_raw: numbers(grads.get(&raw).unwrap()),
        grad_kernel: numbers(grads.get(head.kernel().var()).unwrap()),
    }
}

/// Largest difference against the largest reference value.
fn error(actual: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let scale = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    let worst = actual.iter().zip(expected).map(|(a, b)| (a - b).abs());
    worst.fold(0.0, |a: f64, b| if b > a || b.is_nan() { b } else { a }) / scale
}

fn check(name: &str, step: &Step, reference: &Reference, dtype: DType) {
    let limit = if dtype == DType::F64 { 1e-12 } else { 1e-5 };
    for (what, actual, expected) in [
        ("loss", &[step.loss][..], &[reference.loss][..]),
        ("logits", &step.logits, reference.logits),
        ("grad_raw", &step.grad_raw, reference.grad_raw),
        ("grad_kernel", &step.grad_kernel, reference.grad_kernel),
    ] {
        let error = error(actual, expected);
        println!("{name} {dtype:?} {what}: {error:e}");
        assert!(error < limit, "{name} {dtype:?} {what}: {error:e}");
    }
}

#[test]
fn equal_pytorch() {
    let (raw, kernel) = inputs();
    for dtype in [DType::F64, DType::F32] {
        let mut head = CurricularFace::new(CurricularFaceConfig::default(), class_kernel(&kernel, dtype)).unwrap();
        step(&mut head, &raw, &LABELS, dtype);
        let second = step(&mut head, &raw, &LABELS, dtype);
        check("curricularface", &second, &CURRICULARFACE, dtype);
        assert!((head.t() - CURRICULARFACE_T).abs() < if dtype == DType::F64 { 1e-14 } else { 1e-7 });
        for (easy_margin, reference) in [(false, &MAGFACE), (true, &MAGFACE_EASY)] {
            let config = MagFaceConfig { easy_margin, ..MagFaceConfig::default() };
            let mut head = MagFace::new(config, class_kernel(&kernel, dtype)).unwrap();
            check("magface", &step(&mut head, &raw, &LABELS, dtype), reference, dtype);
        }
    }
}

/// Cosines and norms of plain numbers.
fn plain_cosines(raw: &[f64], kernel: &[f64], batch: usize) -> (Vec<Vec<f64>>, Vec<f64>) {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let norms: Vec<f64> = (0..batch).map(|b| norm(&mut raw[b * DIM..(b + 1) * DIM].iter().copied())).collect();
    let lengths: Vec<f64> = (0..CLASSES).map(|c| norm(&mut (0..DIM).map(|d| kernel[d * CLASSES + c]))).collect();
    let cosine = |b: usize, c: usize| {
        (0..DIM).map(|d| raw[b * DIM + d] * kernel[d * CLASSES + c]).sum::<f64>() / norms[b] / lengths[c]
    };
    ((0..batch).map(|b| (0..CLASSES).map(|c| cosine(b, c)).collect()).collect(), norms)
}

fn plain_cross_entropy(logits: &[Vec<f64>], labels: &[u32]) -> f64 {
    let row = |(logits, label): (&Vec<f64>, &u32)| {
        let largest = logits.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = logits.iter().map(|logit| (logit - largest).exp()).sum();
        sum.ln() + largest - logits[*label as usize]
    };
    logits.iter().zip(labels).map(row).sum::<f64>() / labels.len() as f64
}

/// The mean cosine to the own classes.
fn plain_mean(raw: &[f64], kernel: &[f64], labels: &[u32]) -> f64 {
    let (cosines, _) = plain_cosines(raw, kernel, labels.len());
    cosines.iter().zip(labels).map(|(row, label)| row[*label as usize]).sum::<f64>() / labels.len() as f64
}

/// The loss of CurricularFace for a given t.
fn plain_curricularface(raw: &[f64], kernel: &[f64], labels: &[u32], t: f64) -> f64 {
    let (m, s) = (0.5f64, 64.0);
    let (mut cosines, _) = plain_cosines(raw, kernel, labels.len());
    for (row, label) in cosines.iter_mut().zip(labels) {
        let own = row[*label as usize];
        let turned = (own.acos() + m).cos();
        for (class, cosine) in row.iter_mut().enumerate() {
            if class == *label as usize {
                *cosine = if own.acos() + m < PI { turned } else { own - m * m.sin() };
            } else if *cosine > turned {
                *cosine *= t + *cosine;
            }
            *cosine *= s;
        }
    }
    plain_cross_entropy(&cosines, labels)
}

/// The loss of MagFace.
fn plain_magface(raw: &[f64], kernel: &[f64], labels: &[u32], easy: bool) -> f64 {
    let (mut cosines, norms) = plain_cosines(raw, kernel, labels.len());
    let mut added = 0.0;
    for ((row, label), norm) in cosines.iter_mut().zip(labels).zip(norms) {
        let a = norm.clamp(10.0, 110.0);
        let angle = row[*label as usize].acos();
        if !easy || angle < PI / 2.0 {
            row[*label as usize] = (angle + 0.45 + 0.35 * (a - 10.0) / 100.0).min(PI - 1e-4).cos();
        }
        row.iter_mut().for_each(|cosine| *cosine *= 64.0);
        added += 35.0 * (1.0 / a + a / (110.0 * 110.0)) / labels.len() as f64;
    }
    plain_cross_entropy(&cosines, labels) + added
}

/// The gradient of a function by central differences.
fn differences(at: &[f64], function: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut at = at.to_vec();
    (0..at.len())
        .map(|i| {
            let (value, width) = (at[i], 1e-6 * at[i].abs().max(0.1));
            at[i] = value + width;
            let above = function(&at);
            at[i] = value - width;
            let below = function(&at);
            at[i] = value;
            (above - below) / (2.0 * width)
        })
        .collect()
}

/// Embeddings of norms 2 to 200 about as close to their classes as in training, a kernel, and labels.
fn drawn(seed: u64) -> (Vec<f64>, Vec<f64>, Vec<u32>) {
    let mut random = Random::new(seed);
    let kernel: Vec<f64> = (0..DIM * CLASSES).map(|_| random.normal()).collect();
    let mut raw = Vec::new();
    let mut labels = Vec::new();
    for _ in 0..8 {
        let label = random.below(CLASSES);
        let near = random.uniform(-1.0, 2.0);
        let row: Vec<f64> = (0..DIM).map(|d| random.normal() + near * kernel[d * CLASSES + label]).collect();
        let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        let wanted = 10f64.powf(random.uniform(0.3, 2.3));
        raw.extend(row.iter().map(|value| value / norm * wanted));
        labels.push(label as u32);
    }
    (raw, kernel, labels)
}

#[test]
fn equal_their_formulas() {
    let (mut values, mut slopes) = (0.0f64, 0.0f64);
    for seed in 0..30 {
        let (raw, kernel, labels) = drawn(seed);
        let mut compare = |head: &mut dyn MarginHead, plain: &dyn Fn(&[f64], &[f64]) -> f64| {
            let step = step(head, &raw, &labels, DType::F64);
            values = values.max(error(&[step.loss], &[plain(&raw, &kernel)]));
            slopes = slopes.max(error(&step.grad_raw, &differences(&raw, |raw| plain(raw, &kernel))));
            slopes = slopes.max(error(&step.grad_kernel, &differences(&kernel, |kernel| plain(&raw, kernel))));
        };
        let own = || class_kernel(&kernel, DType::F64);
        // A mean that moves fast, so that t is well away from 0 after three steps.
        let config = CurricularFaceConfig { t_alpha: 0.3, ..CurricularFaceConfig::default() };
        let mut head = CurricularFace::new(config, own()).unwrap();
        let mut t = 0.0;
        for _ in 0..3 {
            t = 0.3 * plain_mean(&raw, &kernel, &labels) + 0.7 * t;
            compare(&mut head, &|raw, kernel| plain_curricularface(raw, kernel, &labels, t));
            assert!((head.t() - t).abs() < 1e-12);
        }
        for easy_margin in [false, true] {
            let config = MagFaceConfig { easy_margin, ..MagFaceConfig::default() };
            compare(&mut MagFace::new(config, own()).unwrap(), &|raw, kernel| {
                plain_magface(raw, kernel, &labels, easy_margin)
            });
        }
    }
    println!("values {values:e}, gradients {slopes:e}");
    assert!(values < 1e-12, "{values:e}");
    assert!(slopes < 1e-6, "{slopes:e}");
}

#[test]
fn the_norm_has_a_gradient_with_magface_alone() {
    let (raw, kernel) = inputs();
    let norms_gradient = |head: &mut dyn MarginHead| {
        let raw = Tensor::from_slice(&raw, (BATCH, DIM), &Device::Cpu).unwrap();
        let (unit, norms) = split_norm(&raw).unwrap();
        let norms = Var::from_tensor(&norms).unwrap();
        let unit = Var::from_tensor(&unit).unwrap();
        let labels = Tensor::new(&LABELS, &Device::Cpu).unwrap();
        let logits = head.forward(&unit, &norms, &labels).unwrap();
        let grads = head.loss(&logits, &norms, &labels).unwrap().backward().unwrap();
        grads.get(&norms).map(numbers)
    };
    let own = || class_kernel(&kernel, DType::F64);
    let magface = norms_gradient(&mut MagFace::new(MagFaceConfig::default(), own()).unwrap()).unwrap();
    // Norms of 6 and 118 are out of the range that margins are for.
    assert_eq!((magface[0], magface[3]), (0.0, 0.0));
    assert!(magface[1] != 0.0 && magface[2] != 0.0);
    let curricularface = norms_gradient(&mut CurricularFace::new(CurricularFaceConfig::default(), own()).unwrap());
    assert!(curricularface.is_none_or(|gradient| gradient.iter().all(|value| *value == 0.0)));
}

#[test]
fn t_goes_through_a_checkpoint_to_the_bit() {
    let (raw, kernel) = inputs();
    let new = || CurricularFace::new(CurricularFaceConfig::default(), class_kernel(&kernel, DType::F64)).unwrap();
    let mut head = new();
    step(&mut head, &raw, &LABELS, DType::F64);
    let buffers = head.buffers().unwrap().into_iter().map(|(name, buffer)| (name.to_owned(), buffer)).collect();
    let mut resumed = new();
    resumed.load_buffers(&buffers).unwrap();
    assert_eq!(resumed.t().to_bits(), head.t().to_bits());
    assert_ne!(head.t(), 0.0);
    assert!(matches!(resumed.load_buffers(&Default::default()), Err(HeadError::BadBuffer("t"))));
}

#[test]
fn embeddings_that_are_nan_leave_t_alone() {
    let (mut raw, kernel) = inputs();
    raw[7] = f64::NAN;
    let mut head = CurricularFace::new(CurricularFaceConfig::default(), class_kernel(&kernel, DType::F64)).unwrap();
    let unit = Tensor::from_slice(&raw, (BATCH, DIM), &Device::Cpu).unwrap();
    let norms = Tensor::ones((BATCH, 1), DType::F64, &Device::Cpu).unwrap();
    let labels = Tensor::new(&LABELS, &Device::Cpu).unwrap();
    assert!(matches!(head.forward(&unit, &norms, &labels), Err(HeadError::BadMean(_))));
    assert_eq!(head.t(), 0.0);
}
