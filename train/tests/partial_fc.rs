//! Sharded, sampled classes against a head over all of them.
//!
//! The head is compared with the authors' code elsewhere; here ranks on threads have to come to the same loss, the same
//! gradients and, step after step, the same kernel, and sampling to touch what was sampled and nothing else.

use candle_core::{DType, Device, Tensor, Var};
use vultus_engine::random::Random;
use vultus_train::head::{
    AdaFaceConfig, AdaFaceMargin, Alone, ArcFaceConfig, ArcFaceMargin, ClassKernel, Collective, CosFaceConfig,
    CosFaceMargin, Head, HeadError, InProcess, MagFaceConfig, MagFaceMargin, Margin, MarginGradient, MarginHead,
    PartialConfig, PartialFc, RowSgd, Shard, ShardKernel, split_norm,
};

const DIM: usize = 8;
const CLASSES: usize = 10;
/// The batch of all ranks together: what 1, 2, 3 and 4 ranks can share.
const BATCH: usize = 12;
const STEPS: usize = 3;
const SGD: RowSgd = RowSgd { rate: 0.1, momentum: 0.9, weight_decay: 5e-4 };

fn kernel(dtype: DType) -> ClassKernel {
    ClassKernel::seeded(DIM, CLASSES, 5, dtype, &Device::Cpu).unwrap()
}

/// Embeddings (12, 8) of norms 5 to 120, half of them near their classes, and labels.
fn batch(step: usize, dtype: DType) -> (Tensor, Tensor) {
    let mut random = Random::new(100 + step as u64);
    let directions = numbers(&kernel(DType::F64).var().t().unwrap());
    let mut raw = Vec::new();
    let mut labels = Vec::new();
    for row in 0..BATCH {
        let label = random.below(CLASSES);
        let near = if row % 2 == 0 { 3.0 } else { 0.0 };
        let length = random.uniform(5.0, 40.0);
        raw.extend((0..DIM).map(|d| length * (random.normal() / 3.0 + near / 3.0 * directions[label * DIM + d])));
        labels.push(label as i64);
    }
    let raw = Tensor::from_vec(raw, (BATCH, DIM), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
    (raw, Tensor::new(labels, &Device::Cpu).unwrap())
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Largest difference against the largest value.
fn error(actual: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let scale = expected.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    let worst = actual.iter().zip(expected).map(|(a, b)| (a - b).abs());
    worst.fold(0.0, |a: f64, b| if b > a || b.is_nan() { b } else { a }) / scale
}

/// What a step of training comes to: loss, gradient of all embeddings, kernel (dim, classes) after it, and the margin's
/// running statistics.
struct Step {
    loss: f64,
    raw_gradient: Vec<f64>,
    kernel: Vec<f64>,
    statistics: Vec<f64>,
}

fn statistics(buffers: std::collections::HashMap<&'static str, Tensor>) -> Vec<f64> {
    let mut buffers: Vec<_> = buffers
        .into_iter()
        .filter(|(name, _)| name.starts_with("batch"))
        .map(|(name, b)| (name, numbers(&b)))
        .collect();
    buffers.sort_by_key(|(name, _)| *name);
    buffers.into_iter().flat_map(|(_, values)| values).collect()
}

/// Steps of a head over all classes.
fn whole<M: Margin>(margin: M, dtype: DType) -> Vec<Step> {
    let mut head = Head::with_margin(margin, kernel(dtype));
    let mut momentum = head.kernel().var().zeros_like().unwrap();
    (0..STEPS)
        .map(|step| {
            let (raw, labels) = batch(step, dtype);
            let raw = Var::from_tensor(&raw).unwrap();
            let (unit, norms) = split_norm(&raw).unwrap();
            let logits = head.forward(&unit, &norms, &labels).unwrap();
            let loss = head.loss(&logits, &norms, &labels).unwrap();
            let grads = loss.backward().unwrap();
            let kernel = head.kernel().var();
            let decayed = (grads.get(kernel).unwrap() + (kernel.as_tensor() * SGD.weight_decay).unwrap()).unwrap();
            momentum = ((&momentum * SGD.momentum).unwrap() + decayed).unwrap().detach();
            kernel.set(&(kernel.as_tensor() - (&momentum * SGD.rate).unwrap()).unwrap()).unwrap();
            Step {
                loss: numbers(&loss)[0],
                raw_gradient: numbers(grads.get(&raw).unwrap()),
                kernel: numbers(kernel),
                statistics: statistics(head.buffers().unwrap()),
            }
        })
        .collect()
}

/// One rank's view of a step.
struct RankStep {
    step: Step,
    rows: Vec<u32>,
    shard: Shard,
    /// (height, dim) before and after.
    weight: [Vec<f64>; 2],
    momentum: [Vec<f64>; 2],
    row_gradient: Vec<f64>,
}

/// Steps of one rank with its part of the batch.
fn rank_steps<M: Margin, C: Collective>(
    margin: M,
    collective: C,
    config: PartialConfig,
    dtype: DType,
    steps: usize,
) -> Vec<RankStep> {
    let (rank, ranks) = (collective.rank(), collective.ranks());
    let shard = Shard::new(CLASSES, rank, ranks).unwrap();
    let kernel = ShardKernel::of(shard, &kernel(dtype)).unwrap();
    let mut head = PartialFc::new(margin, kernel, collective, config).unwrap();
    (0..steps)
        .map(|step| {
            let (raw, labels) = batch(step, dtype);
            let share = BATCH / ranks;
            let raw = Var::from_tensor(&raw.narrow(0, rank * share, share).unwrap().copy().unwrap()).unwrap();
            let labels = labels.narrow(0, rank * share, share).unwrap();
            let (unit, norms) = split_norm(&raw).unwrap();
            let state = |head: &PartialFc<M, C>| {
                [head.kernel().weight(), head.kernel().momentum()].map(|tensor| numbers(&tensor.unwrap()))
            };
            let [weight, momentum] = state(&head);
            let taken = head.forward(&unit, &norms, &labels).unwrap();
            head.update(&taken.gradient, SGD).unwrap();
            let [weight_after, momentum_after] = state(&head);
            RankStep {
                step: Step {
                    loss: taken.loss,
                    raw_gradient: numbers(taken.carrier.backward().unwrap().get(&raw).unwrap()),
                    kernel: numbers(&head.whole_kernel().unwrap()),
                    statistics: statistics(head.buffers().unwrap()),
                },
                shard,
                weight: [weight, weight_after],
                momentum: [momentum, momentum_after],
                row_gradient: numbers(&taken.gradient.values),
                rows: taken.gradient.rows,
            }
        })
        .collect()
}

/// All ranks' steps, by rank.
fn on_ranks<M: Margin + Send>(margin: &M, ranks: usize, config: PartialConfig, dtype: DType) -> Vec<Vec<RankStep>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = InProcess::group(ranks)
            .into_iter()
            .map(|rank| {
                let margin = margin.clone();
                scope.spawn(move || rank_steps(margin, rank, config, dtype, STEPS))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn adaface(gradient: MarginGradient) -> AdaFaceMargin {
    // Statistics that move fast and margins that differ much.
    let config = AdaFaceConfig { t_alpha: 0.5, h: 3.0, ..AdaFaceConfig::default() };
    AdaFaceMargin::new(config, gradient).unwrap()
}

fn compare<M: Margin + Send>(margin: M, dtype: DType) {
    let limit = if dtype == DType::F64 { 1e-12 } else { 1e-6 };
    let name = margin.name();
    let expected = whole(margin.clone(), dtype);
    for ranks in 1..=4 {
        let actual = on_ranks(&margin, ranks, PartialConfig { rate: 1.0, seed: 1 }, dtype);
        for (step, expected) in expected.iter().enumerate() {
            let raw_gradient: Vec<f64> =
                actual.iter().flat_map(|rank| rank[step].step.raw_gradient.iter().copied()).collect();
            let gradient = error(&raw_gradient, &expected.raw_gradient);
            // Rounding in f32 grows with the logits, which are up to 64 times a cosine.
            let gradient_limit = if dtype == DType::F64 { limit } else { 2e-5 };
            assert!(gradient < gradient_limit, "{name} {dtype:?}, {ranks} ranks, step {step}: gradient {gradient:e}");
            for rank in &actual {
                let seen = &rank[step].step;
                let loss = error(&[seen.loss], &[expected.loss]);
                let kernel = error(&seen.kernel, &expected.kernel);
                println!("{name} {dtype:?} {ranks} {step}: loss {loss:e}, kernel {kernel:e}, gradient {gradient:e}");
                assert!(loss < limit, "{name} {dtype:?}, {ranks} ranks, step {step}: loss {loss:e}");
                assert!(kernel < gradient_limit, "{name} {dtype:?}, {ranks} ranks, step {step}: kernel {kernel:e}");
                assert_eq!(seen.statistics.len(), expected.statistics.len());
                for (seen, expected) in seen.statistics.iter().zip(&expected.statistics) {
                    assert!((seen / expected - 1.0).abs() < limit);
                }
                // The same on every rank, to the bit.
                assert_eq!(seen.loss.to_bits(), actual[0][step].step.loss.to_bits());
                assert_eq!(seen.statistics, actual[0][step].step.statistics);
            }
        }
    }
}

#[test]
fn all_classes_on_any_number_of_ranks_are_the_head() {
    for dtype in [DType::F64, DType::F32] {
        compare(adaface(MarginGradient::Exact), dtype);
        compare(adaface(MarginGradient::StraightThrough), dtype);
        compare(ArcFaceMargin::new(ArcFaceConfig::default(), MarginGradient::Exact).unwrap(), dtype);
        compare(CosFaceMargin::new(CosFaceConfig::default(), MarginGradient::Exact).unwrap(), dtype);
        compare(MagFaceMargin::new(MagFaceConfig::default()).unwrap(), dtype);
    }
}

#[test]
fn a_sample_is_the_head_over_the_classes_sampled() {
    let dtype = DType::F64;
    for ranks in 1..=4 {
        let margin = adaface(MarginGradient::Exact);
        let actual = on_ranks(&margin, ranks, PartialConfig { rate: 0.7, seed: 9 }, dtype);
        let mut head_margin = margin;
        for step in 0..STEPS {
            // The kernel of the sampled classes as it was before the step, and labels as its columns.
            let mut columns = Vec::new();
            let mut values = Vec::new();
            for rank in actual.iter().map(|rank| &rank[step]) {
                for row in &rank.rows {
                    columns.push(rank.shard.first() + *row as usize);
                    values.extend_from_slice(&rank.weight[0][*row as usize * DIM..][..DIM]);
                }
            }
            assert!(columns.len() < CLASSES, "all were sampled");
            let sampled = Tensor::from_vec(values, (columns.len(), DIM), &Device::Cpu).unwrap();
            let mut head = Head::with_margin(head_margin, ClassKernel::new(&sampled.t().unwrap()).unwrap());
            let (raw, labels) = batch(step, dtype);
            let labels: Vec<u32> = numbers(&labels)
                .into_iter()
                .map(|label| columns.iter().position(|column| *column == label as usize).unwrap() as u32)
                .collect();
            let labels = Tensor::new(labels, &Device::Cpu).unwrap();
            let raw = Var::from_tensor(&raw).unwrap();
            let (unit, norms) = split_norm(&raw).unwrap();
            let logits = head.forward(&unit, &norms, &labels).unwrap();
            let loss = head.loss(&logits, &norms, &labels).unwrap();
            let grads = loss.backward().unwrap();
            let of = |part: fn(&RankStep) -> &Vec<f64>| -> Vec<f64> {
                actual.iter().flat_map(|rank| part(&rank[step]).iter().copied()).collect()
            };
            let raw_gradient = of(|rank| &rank.step.raw_gradient);
            let row_gradient = of(|rank| &rank.row_gradient);
            let kernel_gradient = grads.get(head.kernel().var()).unwrap().t().unwrap();
            assert!(error(&[actual[0][step].step.loss], &[numbers(&loss)[0]]) < 1e-12);
            assert!(error(&raw_gradient, &numbers(grads.get(&raw).unwrap())) < 1e-12);
            assert!(error(&row_gradient, &numbers(&kernel_gradient)) < 1e-12);
            head_margin = head.margin().clone();
        }
    }
}

#[test]
fn a_step_touches_no_row_that_was_not_sampled() {
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for ranks in [1, 2, 4] {
        let config = PartialConfig { rate: 0.5, seed: 3 };
        let mut left_alone_with_momentum = 0;
        for rank in on_ranks(&adaface(MarginGradient::Exact), ranks, config, DType::F32) {
            for step in rank {
                for row in 0..step.shard.height() {
                    let part = |values: &[f64]| bits(&values[row * DIM..][..DIM]);
                    let sampled = step.rows.contains(&(row as u32));
                    let moved = |pair: &[Vec<f64>; 2]| part(&pair[0]) != part(&pair[1]);
                    assert_eq!(moved(&step.weight), sampled, "row {row} of {ranks} ranks");
                    assert_eq!(moved(&step.momentum), sampled, "row {row} of {ranks} ranks");
                    let has_momentum = step.momentum[0][row * DIM..][..DIM].iter().any(|value| *value != 0.0);
                    left_alone_with_momentum += usize::from(!sampled && has_momentum);
                }
            }
        }
        // A row that momentum would have moved, so that the test can fail. One rank has 12 embeddings of 10 classes and
        // a quota of 5; its positives exceed it.
        assert!(left_alone_with_momentum > 0, "{ranks} ranks");
    }
}

#[test]
fn samples_follow_the_seed_and_the_step() {
    let rows = |seed: u64| -> Vec<Vec<u32>> {
        rank_steps(adaface(MarginGradient::Exact), Alone, PartialConfig { rate: 0.9, seed }, DType::F32, 12)
            .into_iter()
            .map(|step| step.rows)
            .collect()
    };
    assert_eq!(rows(1), rows(1));
    assert_ne!(rows(1), rows(2));
    // The same batch again, and other classes beside its own.
    let (raw, labels) = batch(0, DType::F32);
    let labels = (labels.zeros_like().unwrap() + 4.0).unwrap();
    let (unit, norms) = split_norm(&raw).unwrap();
    let kernel = ShardKernel::of(Shard::new(CLASSES, 0, 1).unwrap(), &kernel(DType::F32)).unwrap();
    let config = PartialConfig { rate: 0.5, seed: 1 };
    let mut head = PartialFc::new(adaface(MarginGradient::Exact), kernel, Alone, config).unwrap();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..20 {
        let rows = head.forward(&unit, &norms, &labels).unwrap().gradient.rows;
        assert!(rows.len() == 5 && rows.contains(&4));
        seen.insert(rows);
    }
    assert!(seen.len() > 10);
}

#[test]
fn a_run_that_is_taken_up_again_goes_on_to_the_bit() {
    let new = || {
        let shard = Shard::new(CLASSES, 0, 1).unwrap();
        let kernel = ShardKernel::seeded(shard, DIM, 2, DType::F32, &Device::Cpu).unwrap();
        let config = PartialConfig { rate: 0.3, seed: 4 };
        PartialFc::new(adaface(MarginGradient::Exact), kernel, Alone, config).unwrap()
    };
    let advance = |head: &mut PartialFc<AdaFaceMargin, Alone>, step: usize| {
        let (raw, labels) = batch(step, DType::F32);
        // Few classes, so that there is something to sample.
        let labels = labels.clamp(0i64, 1i64).unwrap();
        let (unit, norms) = split_norm(&raw).unwrap();
        let taken = head.forward(&unit, &norms, &labels).unwrap();
        head.update(&taken.gradient, SGD).unwrap();
        (taken.loss.to_bits(), taken.gradient.rows)
    };
    let owned = |head: &PartialFc<AdaFaceMargin, Alone>| -> std::collections::HashMap<String, Tensor> {
        head.buffers().unwrap().into_iter().map(|(name, buffer)| (name.to_owned(), buffer)).collect()
    };
    let mut through = new();
    for step in 0..3 {
        advance(&mut through, step);
    }
    let kept = owned(&through);
    let mut resumed = new();
    resumed.load_buffers(&kept).unwrap();
    for step in 3..6 {
        assert_eq!(advance(&mut through, step), advance(&mut resumed, step));
    }
    let (through, resumed) = (owned(&through), owned(&resumed));
    assert_eq!(through.len(), 5);
    for (name, tensor) in &through {
        assert_eq!(numbers(tensor), numbers(&resumed[name]), "{name}");
    }
    // What was kept is a copy that later steps did not change.
    assert_ne!(numbers(&kept["weight"]), numbers(&through["weight"]));
    let mut bad = kept;
    bad.remove("momentum");
    assert!(matches!(new().load_buffers(&bad), Err(HeadError::BadBuffer("momentum"))));
}

#[test]
fn a_loss_beyond_what_a_probability_can_tell() {
    // Cosine −1 to the own class and 1 to another, at a scale of 64: a probability of e⁻¹²⁸.
    let unit = Tensor::new(&[[-1.0, 0.0], [0.0, 1.0]], &Device::Cpu).unwrap();
    let kernel = ClassKernel::new(&Tensor::new(&[[1.0, -1.0], [0.0, 0.0]], &Device::Cpu).unwrap()).unwrap();
    let norms = Tensor::new(&[[20.0], [20.0]], &Device::Cpu).unwrap();
    let labels = Tensor::new(&[0u32, 0], &Device::Cpu).unwrap();
    let margin = CosFaceMargin::new(CosFaceConfig { m: 0.0, s: 64.0 }, MarginGradient::Exact).unwrap();
    let shard = ShardKernel::of(Shard::new(2, 0, 1).unwrap(), &kernel).unwrap();
    let mut head = PartialFc::new(margin, shard, Alone, PartialConfig { rate: 1.0, seed: 1 }).unwrap();
    let loss = head.forward(&unit, &norms, &labels).unwrap().loss;
    let expected = (128.0 * (1.0 - 1e-4) + 2f64.ln()) / 2.0;
    assert!((loss - expected).abs() < 1e-9, "{loss}, {expected}");
}

#[test]
fn bad_batches_are_refused_on_every_rank_and_change_nothing() {
    let refused = |change: fn(usize, Tensor, Tensor, Tensor) -> (Tensor, Tensor, Tensor)| -> Vec<HeadError> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = InProcess::group(2)
                .into_iter()
                .map(|collective| {
                    scope.spawn(move || {
                        let rank = collective.rank();
                        let shard = Shard::new(CLASSES, rank, 2).unwrap();
                        let kernel = ShardKernel::of(shard, &kernel(DType::F64)).unwrap();
                        let config = PartialConfig { rate: 0.5, seed: 1 };
                        let mut head =
                            PartialFc::new(adaface(MarginGradient::Exact), kernel, collective, config).unwrap();
                        let (raw, labels) = batch(rank, DType::F64);
                        let (unit, norms) = split_norm(&raw).unwrap();
                        let before = head.margin().state();
                        let (unit, norms, labels) = change(rank, unit, norms, labels);
                        let error = head.forward(&unit, &norms, &labels).unwrap_err();
                        assert_eq!(head.margin().state(), before);
                        error
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    // One rank alone has what is wrong.
    let labels = refused(|rank, unit, norms, labels| (unit, norms, (labels + 9.0 * rank as f64).unwrap()));
    assert!(labels.iter().all(|error| matches!(error, HeadError::NoSuchClass { classes: CLASSES, .. })));
    let norms = refused(|rank, unit, norms, labels| (unit, (norms / (1.0 - rank as f64)).unwrap(), labels));
    assert!(norms.iter().all(|error| matches!(error, HeadError::BadNorm { row: BATCH, .. })));
    let counts = refused(|rank, unit, norms, labels| {
        let rows = BATCH - rank;
        (unit.narrow(0, 0, rows).unwrap(), norms.narrow(0, 0, rows).unwrap(), labels.narrow(0, 0, rows).unwrap())
    });
    assert!(counts.iter().all(|error| matches!(error, HeadError::Ranks(_))));
    // Found by one rank before the others hear of it: it goes, and the others do not wait.
    let shapes = refused(|rank, unit, norms, labels| (unit.narrow(1, 0, DIM - rank).unwrap(), norms, labels));
    assert!(matches!(shapes[0], HeadError::Ranks(_)) && matches!(shapes[1], HeadError::WrongShape { .. }));
}

#[test]
fn settings_are_checked() {
    let new = |rate: f64, rank: usize| {
        let kernel = ShardKernel::of(Shard::new(CLASSES, rank, 2).unwrap(), &kernel(DType::F32)).unwrap();
        let collective = InProcess::group(2).swap_remove(0);
        PartialFc::new(adaface(MarginGradient::Exact), kernel, collective, PartialConfig { rate, seed: 1 })
    };
    assert!(new(0.5, 0).is_ok());
    for (rate, rank) in [(0.0, 0), (1.1, 0), (f64::NAN, 0), (0.5, 1)] {
        assert!(matches!(new(rate, rank), Err(HeadError::BadSetting { .. })), "{rate} {rank}");
    }
}
