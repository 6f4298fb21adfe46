use candle_core::{DType, Device, Var};
use vultus_engine::random::Random;

use super::*;
use crate::head::{
    AdaFaceConfig, AdaFaceMargin, ClassKernel, Head, MagFaceConfig, MagFaceMargin, MarginGradient, PartialConfig,
    Shard, ShardKernel, split_norm,
};
use crate::optimise::{Sgd, SgdConfig, TensorSgd};

const DIM: usize = 8;
const CLASSES: usize = 12;
/// Images of a part.
const PART: usize = 4;
const SGD: SgdConfig = SgdConfig { momentum: 0.9, weight_decay: 5e-4 };

fn adaface() -> AdaFaceMargin {
    AdaFaceMargin::new(AdaFaceConfig { t_alpha: 0.5, ..AdaFaceConfig::default() }, MarginGradient::Exact).unwrap()
}

/// Both kinds of head over the same classes.
fn full<M: Margin + 'static>(margin: M) -> TrainedHead {
    TrainedHead::full(Head::with_margin(
        margin,
        ClassKernel::seeded(DIM, CLASSES, 5, DType::F32, &Device::Cpu).unwrap(),
    ))
}

fn partial<M: Margin + 'static>(margin: M, rate: f64) -> TrainedHead {
    let kernel = ClassKernel::seeded(DIM, CLASSES, 5, DType::F32, &Device::Cpu).unwrap();
    let kernel = ShardKernel::of(Shard::new(CLASSES, 0, 1).unwrap(), &kernel).unwrap();
    TrainedHead::partial(PartialFc::new(margin, kernel, Alone, PartialConfig { rate, seed: 3 }).unwrap())
}

/// Embeddings (4, 8) and labels: every other image of a step is of one of the first four classes.
fn part(number: u64) -> (Var, Tensor) {
    let mut random = Random::new(number);
    let raw: Vec<f32> = (0..PART * DIM).map(|_| (8.0 * random.normal()) as f32).collect();
    let labels: Vec<u32> = (0..PART).map(|_| random.below(4) as u32).collect();
    let raw = Tensor::from_vec(raw, (PART, DIM), &Device::Cpu).unwrap();
    (Var::from_tensor(&raw).unwrap(), Tensor::new(labels, &Device::Cpu).unwrap())
}

/// What a step of two parts came to: losses, gradients of the embeddings, the length of that of classes.
fn step(head: &mut TrainedHead, descent: &mut Descent, number: u64) -> (Vec<f32>, Vec<f32>, f64) {
    let (mut losses, mut gradients) = (Vec::new(), Vec::new());
    for number in [2 * number, 2 * number + 1] {
        let (raw, labels) = part(number);
        let (unit, norms) = split_norm(&raw).unwrap();
        let loss = head.0.loss(&unit, &norms, &labels).unwrap();
        // Half of a step, of a head with weight 3.
        let found = (&loss * 1.5).unwrap().backward().unwrap();
        head.0.collect(&found, 1.5).unwrap();
        losses.push(loss.to_scalar().unwrap());
        gradients.extend(numbers(found.get(&raw).unwrap()));
    }
    let length = numbers(head.0.gradient().unwrap()).iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    head.0.step(descent, Stride { rate: 0.1, scale: 0.25 }).unwrap();
    assert!(head.0.gradient().is_none());
    (losses, gradients, length)
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Directions of classes, row by row, and their momentum.
fn rows(head: &TrainedHead, name: &str) -> Vec<Vec<f32>> {
    let tensors = head.0.tensors().unwrap();
    match tensors.get(name) {
        Some(rows) => rows.to_vec2().unwrap(),
        None => tensors["kernel"].t().unwrap().to_vec2().unwrap(),
    }
}

fn assert_close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let most = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 3e-5 * most, "{found} {expected} of {most}");
    }
}

/// A sample of all classes is the head over all classes: parts, clipping, weight decay, momentum and what MagFace adds.
#[test]
fn at_a_rate_of_1_both_learn_the_same() {
    let magface = MagFaceMargin::new(MagFaceConfig::default()).unwrap();
    let heads = [(full(adaface()), partial(adaface(), 1.0)), (full(magface.clone()), partial(magface, 1.0))];
    for (mut full, mut partial) in heads {
        let mut of_full = Descent::Host(Sgd::new(SGD).unwrap());
        let mut of_partial = Descent::Tensors(TensorSgd::new(SGD, &Device::Cpu).unwrap());
        for number in 0..3 {
            let expected = step(&mut full, &mut of_full, number);
            let found = step(&mut partial, &mut of_partial, number);
            assert_close(&found.0, &expected.0);
            assert_close(&found.1, &expected.1);
            assert!((found.2 / expected.2 - 1.0).abs() < 3e-5, "{} {}", found.2, expected.2);
            assert_close(&rows(&partial, "weight").concat(), &rows(&full, "weight").concat());
        }
        let (_, norms) = split_norm(&part(9).0).unwrap();
        assert_eq!(partial.0.margin_scalers(&norms).unwrap(), full.0.margin_scalers(&norms).unwrap());
        assert_eq!((partial.name(), partial.classes()), (full.name(), full.classes()));
    }
}

/// Rows that no part of a step has sampled keep direction and momentum to the bit, also where they have one.
#[test]
fn a_step_moves_what_its_parts_have_sampled() {
    let mut head = partial(adaface(), 0.4);
    let mut descent = Descent::Host(Sgd::new(SGD).unwrap());
    let mut left_with_momentum = 0;
    for number in 0..4 {
        let before = (rows(&head, "weight"), rows(&head, "momentum"));
        step(&mut head, &mut descent, number);
        let after = (rows(&head, "weight"), rows(&head, "momentum"));
        let mut moved = 0;
        for row in 0..CLASSES {
            let has_moved = before.0[row] != after.0[row];
            assert_eq!(before.1[row] != after.1[row], has_moved, "row {row}");
            moved += usize::from(has_moved);
            left_with_momentum += usize::from(!has_moved && before.1[row].iter().any(|value| *value != 0.0));
        }
        // 4 classes a part, of which two parts may share some.
        assert!((4..=8).contains(&moved), "{moved}");
        for label in [2 * number, 2 * number + 1].map(|number| part(number).1.to_vec1::<u32>().unwrap()).concat() {
            assert_ne!(before.0[label as usize], after.0[label as usize]);
        }
    }
    assert!(left_with_momentum > 0);
}

#[test]
fn what_is_kept_goes_on_to_the_bit_and_other_heads_refuse_it() {
    let owned = |head: &TrainedHead| -> HashMap<String, Tensor> {
        head.0.tensors().unwrap().into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect()
    };
    let mut descent = Descent::Host(Sgd::new(SGD).unwrap());
    let mut through = partial(adaface(), 0.4);
    step(&mut through, &mut descent, 0);
    let kept = owned(&through);
    let mut resumed = partial(adaface(), 0.4);
    resumed.0.load(&kept).unwrap();
    assert_eq!(step(&mut through, &mut descent, 1), step(&mut resumed, &mut descent, 1));
    assert_eq!(rows(&through, "weight"), rows(&resumed, "weight"));
    assert_eq!(rows(&through, "momentum"), rows(&resumed, "momentum"));
    let refused = full(adaface()).0.load(&kept).unwrap_err().to_string();
    assert_eq!(refused, "the checkpoint has no usable kernel for the head");
    let refused = partial(adaface(), 0.4).0.load(&owned(&full(adaface()))).unwrap_err().to_string();
    assert_eq!(refused, "the checkpoint has no usable weight for the head");
}

#[test]
fn classes_are_turned_and_others_stay() {
    let directions = Directions::from([(3, vec![0.5; DIM]), (7, vec![-0.25; DIM])]);
    for mut head in [full(adaface()), partial(adaface(), 0.4)] {
        let mut expected = rows(&head, "weight");
        expected[3] = vec![0.5; DIM];
        expected[7] = vec![-0.25; DIM];
        head.0.turn(&directions).unwrap();
        assert_eq!(rows(&head, "weight"), expected);
    }
}
