//! CurricularFace and MagFace, of which no reference values of their authors' code lie at hand: against PyTorch's
//! automatic differentiation (torch CPU, f64) on made-up numbers, and against the formulas written out plainly, with
//! gradients by central differences, on many others.

use std::f64::consts::PI;

use candle_core::{DType, Device, Tensor, Var};
use vultus_engine::random::Random;
use vultus_train::head::{
    ClassKernel, CurricularFace, CurricularFaceConfig, HeadError, MagFace, MagFaceConfig, MarginHead, split_norm,
};

const BATCH: usize = 4;
const DIM: usize = 5;
const CLASSES: usize = 6;
const LABELS: [u32; BATCH] = [2, 0, 5, 2];

/// What PyTorch computes for the inputs of [`inputs`].
struct Reference {
    loss: f64,
    logits: &'static [f64],
    grad_raw: &'static [f64],
    grad_kernel: &'static [f64],
}

/// Two steps on the same batch, the second of them.
const CURRICULARFACE: Reference = Reference {
    loss: 81.35774806604664,
    logits: &[
        26.3538696639531,
        1.26148798497805,
        -53.6244184845311,
        36.920745457811,
        18.8920766006198,
        0.0822132558148756,
        -55.1825573613105,
        32.484805468138,
        12.7406258254968,
        1.22096296996632,
        23.5970649473773,
        30.6550442940714,
        -2.46791531801635,
        -40.5724695558107,
        51.2436397806593,
        -34.9717986063711,
        -10.1184580085394,
        22.7367426424547,
        1.37174539007986,
        24.6534713720693,
        -79.1803001532087,
        30.0320901850532,
        0.278872835162372,
        39.382226620768,
    ],
    grad_raw: &[
        2.51677044472493,
        -1.76359669965964,
        -1.59407925142087,
        -0.508641728638975,
        -0.518243744037025,
        -0.448938488985021,
        -0.206599477858026,
        -0.0739802689462969,
        0.000373004320222692,
        0.500982502964045,
        -0.0557684815908677,
        -0.0545301540707791,
        0.026336826658138,
        0.11458291182693,
        0.0318428747505257,
        -0.053843768442914,
        -0.0912209970388597,
        0.00572482918088088,
        0.081027111249077,
        0.0392524370821259,
    ],
    grad_kernel: &[
        -3.81878401883703,
        5.2043944391252,
        -3.37238496227559,
        -4.43915639938571,
        0.00091390484450607,
        0.905740824710126,
        1.89791902161257,
        -1.9759804468736,
        -8.2446290768924,
        6.34769543119934,
        -0.000336942840215002,
        1.7531100165883,
        1.85228924973022,
        0.233847028561291,
        0.317283082161548,
        0.197300503570022,
        -0.000349258272144751,
        1.03552716849047,
        -1.98435833025852,
        4.87764452389392,
        -3.65813520150569,
        -1.29826752254179,
        0.00042649301169088,
        5.40055768299181,
        0.395094663513998,
        -4.46011840291596,
        -2.01609785299937,
        6.11786386681323,
        -0.000238762020484709,
        0.0894147545827884,
    ],
};

/// t after them.
const CURRICULARFACE_T: f64 = -0.0060944159313308394;

/// A margin for all embeddings; the fourth is beyond π.
const MAGFACE: Reference = Reference {
    loss: 91.93953786998469,
    logits: &[
        41.2643004829787,
        -8.79237343783547,
        -51.8114028821258,
        48.8053673547669,
        -34.5775387879375,
        -2.10708244186221,
        -55.7835971065599,
        45.7917929419271,
        -28.3608552507772,
        -8.64690514256747,
        39.0569588572722,
        -44.0990061446054,
        -2.46791531801635,
        -40.5724695558107,
        57.4630837815981,
        -34.9717986063711,
        -10.1184580085394,
        6.02099914554295,
        9.56677345528681,
        39.9173097776604,
        -63.99999968,
        44.0366887638888,
        4.42419318638421,
        -50.0095655029621,
    ],
    grad_raw: &[
        1.90073503955849,
        -1.54126085557398,
        -1.36879864657222,
        -0.26852167665989,
        -0.127555609336298,
        -0.378410748453683,
        -0.177774364253823,
        -0.0258898588814906,
        0.043903254402329,
        0.371700383592154,
        -0.1039860903131,
        -0.0816319037056377,
        0.0419891435083848,
        0.0581940229717365,
        0.0176992143043199,
        0.0416474541870961,
        0.0505870969053779,
        -0.00439663479717749,
        -0.0578164646742951,
        -0.0365240238987322,
    ],
    grad_kernel: &[
        -3.69622648222685,
        4.31124114044313,
        -1.78513238436071,
        -2.70940745601181,
        0.00751075196229587,
        7.96818388845298,
        1.83798010769641,
        -1.58100436007756,
        -6.62501669067499,
        0.395224395932801,
        -0.00276874117662155,
        5.16203731879627,
        1.79126319803475,
        0.123975366681465,
        0.308311700282438,
        -2.98943039052128,
        -0.00287077981899981,
        -3.28421808533956,
        -1.9208864217662,
        3.90527890569895,
        -0.720991106384256,
        1.32727765184859,
        0.00350481295853483,
        0.800528246938458,
        0.385611732298914,
        -3.59918548714106,
        -1.74627753073821,
        8.87437499049067,
        -0.00196131567544246,
        0.448833806171345,
    ],
};

/// A margin for those nearer than 90° only.
const MAGFACE_EASY: Reference = Reference {
    loss: 80.79967994341119,
    logits: &[
        41.2643004829787,
        -8.79237343783547,
        -30.3113462504688,
        48.8053673547669,
        -34.5775387879375,
        -2.10708244186221,
        -32.8855387940486,
        45.7917929419271,
        -28.3608552507772,
        -8.64690514256747,
        39.0569588572722,
        -44.0990061446054,
        -2.46791531801635,
        -40.5724695558107,
        57.4630837815981,
        -34.9717986063711,
        -10.1184580085394,
        6.02099914554295,
        9.56677345528681,
        39.9173097776604,
        -63.8386829178742,
        44.0366887638888,
        4.42419318638421,
        -50.0095655029621,
    ],
    grad_raw: &[
        2.2155655340167,
        -2.03234115199844,
        -1.78126082345198,
        -0.182772782673247,
        0.1484857560619,
        -0.549340223032456,
        -0.213372484170934,
        0.041776162668173,
        0.0918114840147524,
        0.423807068449088,
        -0.1039860903131,
        -0.0816319037056377,
        0.0419891435083848,
        0.0581940229717365,
        0.0176992143043199,
        0.0411623571382914,
        0.0416545970545434,
        -0.00433228700455648,
        -0.0551139651998545,
        -0.0386732026097662,
    ],
    grad_kernel: &[
        -6.46840190149399,
        4.31124114044313,
        -1.77698613938851,
        -2.70940745601181,
        0.00751075196229587,
        7.96818388845298,
        3.21569245081145,
        -1.58100436007756,
        -9.77720482765298,
        0.395224395932801,
        -0.00276874117662155,
        5.16203731879627,
        3.13597425666406,
        0.123975366681465,
        0.504483472359633,
        -2.98943039052128,
        -0.00287077981899981,
        -3.28421808533956,
        -3.36138430063935,
        3.90527890569895,
        0.993145116747886,
        1.32727765184859,
        0.00350481295853483,
        0.800528246938458,
        0.672269508867165,
        -3.59918548714106,
        -2.69420886542848,
        8.87437499049067,
        -0.00196131567544246,
        0.448833806171345,
    ],
};

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
