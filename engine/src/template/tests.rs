//! The template formula against its direct evaluation, and what must hold whatever the faces are.

use super::*;
use proptest::prelude::*;

const STATS: NormStats = NormStats { mean: 68.8, std: 8.2 };

fn unit(values: &[f32]) -> Vec<f32> {
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    values.iter().map(|v| v / length).collect()
}

fn face<'a>(embedding: &'a [f32], norm: f32, media: &'a str) -> TemplateFace<'a> {
    TemplateFace { embedding, norm, media, style: None }
}

#[test]
fn norm_rule_is_the_sum_of_raw_features() {
    let (a, b) = (unit(&[1.0, 2.0, 3.0]), unit(&[-1.0, 0.5, 2.0]));
    let fused = fuse(&[face(&a, 60.0, "1"), face(&b, 30.0, "2")], FusionRule::Norm.into(), STATS, None).unwrap();
    let sum: Vec<f32> = a.iter().zip(&b).map(|(x, y)| 60.0 * x + 30.0 * y).collect();
    for (got, want) in fused.vector.iter().zip(unit(&sum)) {
        approx::assert_abs_diff_eq!(*got, want, epsilon = 1e-6);
    }
    approx::assert_abs_diff_eq!(fused.weights[0], 2.0 / 3.0, epsilon = 1e-6);
}

#[test]
fn a_media_counts_once_however_many_frames_it_has() {
    let (a, b) = (unit(&[1.0, 0.0]), unit(&[0.0, 1.0]));
    let mut faces = vec![face(&a, 70.0, "photo")];
    faces.extend((0..9).map(|_| face(&b, 70.0, "video")));
    let fused = fuse(&faces, FusionRule::Mean.into(), STATS, None).unwrap();
    approx::assert_abs_diff_eq!(fused.vector[0], fused.vector[1], epsilon = 1e-6);
    approx::assert_abs_diff_eq!(fused.weights[0], 0.5, epsilon = 1e-6);
}

#[test]
fn softmax_quality_grows_e_fold_in_tau_deviations() {
    let a = unit(&[1.0, 0.0]);
    let fusion = Fusion::new(FusionRule::SoftmaxQuality, 2.0);
    let faces = [face(&a, STATS.mean, "1"), face(&a, STATS.mean + 2.0 * STATS.std, "2")];
    let fused = fuse(&faces, fusion, STATS, None).unwrap();
    approx::assert_abs_diff_eq!(fused.weights[1] / fused.weights[0], std::f32::consts::E, epsilon = 1e-4);
    // Far from the mean the exponent must not overflow.
    let extreme = [face(&a, 1e6, "1"), face(&a, 1e-3, "2")];
    assert!(fuse(&extreme, Fusion { tau: 0.05, ..fusion }, STATS, None).unwrap().vector.iter().all(|v| v.is_finite()));
}

#[test]
fn best_takes_the_highest_norm_alone() {
    let (a, b) = (unit(&[1.0, 0.0]), unit(&[0.0, 1.0]));
    let fused = fuse(&[face(&a, 50.0, "1"), face(&b, 60.0, "2")], FusionRule::Best.into(), STATS, None).unwrap();
    assert_eq!(fused.vector, b);
    assert_eq!(fused.weights, [0.0, 1.0]);
}

#[test]
fn what_cannot_be_fused_is_refused() {
    let (a, b) = (unit(&[1.0, 0.0]), unit(&[-1.0, 0.0]));
    let mean = FusionRule::Mean.into();
    assert_eq!(fuse(&[], mean, STATS, None), Err(TemplateError::Empty));
    assert_eq!(fuse(&[face(&a, 1.0, "1"), face(&b, 1.0, "2")], mean, STATS, None), Err(TemplateError::Degenerate));
    assert_eq!(fuse(&[face(&a, f32::NAN, "1")], mean, STATS, None), Err(TemplateError::BadNorm));
    assert_eq!(
        fuse(&[face(&a, 1.0, "1"), face(&a[..1], 1.0, "2")], mean, STATS, None),
        Err(TemplateError::MixedDimensions)
    );
    let tau = Fusion::new(FusionRule::SoftmaxQuality, 0.0);
    assert_eq!(fuse(&[face(&a, 1.0, "1")], tau, STATS, None), Err(TemplateError::BadTau));
    let cap = Fusion { cap: Some(f32::NAN), ..mean };
    assert_eq!(fuse(&[face(&a, 1.0, "1")], cap, STATS, None), Err(TemplateError::BadTau));
}

#[test]
fn above_the_cap_all_faces_weigh_alike() {
    let a = unit(&[1.0, 0.0]);
    let fusion = Fusion { cap: Some(-1.0), ..Fusion::new(FusionRule::SoftmaxQuality, 0.5) };
    let at = |z: f32| STATS.mean + z * STATS.std;
    let faces = [face(&a, at(-1.0), "1"), face(&a, at(2.0), "2"), face(&a, at(-2.0), "3")];
    let fused = fuse(&faces, fusion, STATS, None).unwrap();
    approx::assert_abs_diff_eq!(fused.weights[0], fused.weights[1], epsilon = 1e-6);
    approx::assert_abs_diff_eq!(fused.weights[2] / fused.weights[0], (-2f32).exp(), epsilon = 1e-5);
}

#[test]
fn a_rule_by_name_takes_the_parameters_of_the_model() {
    let own = Fusion { cap: Some(-1.0), ..Fusion::new(FusionRule::SoftmaxQuality, 0.5) };
    let asked = FusionRequest::from(FusionRule::SoftmaxQuality);
    assert_eq!(asked.resolve(own), own);
    assert_eq!(FusionRequest { robust: true, ..asked }.resolve(own), Fusion { robust: true, ..own });
    let plain = FusionRequest { tau: Some(1.0), ..asked }.resolve(own);
    assert_eq!(plain, Fusion::new(FusionRule::SoftmaxQuality, 1.0));
    assert_eq!(FusionRequest::from(FusionRule::Mean).resolve(own), FusionRule::Mean.into());
    assert_eq!(FusionRequest::from(own).resolve(FusionRule::Mean.into()), own);
}

#[test]
fn json_without_cap_and_robust_stays_as_it_was() {
    let old = r#"{"rule":"softmax_quality","tau":2.0}"#;
    let fusion: Fusion = serde_json::from_str(old).unwrap();
    assert_eq!(fusion, Fusion::new(FusionRule::SoftmaxQuality, 2.0));
    assert_eq!(serde_json::to_string(&fusion).unwrap(), old);
    let new = r#"{"rule":"mean","tau":1.0,"cap":-1.0,"robust":true}"#;
    assert_eq!(serde_json::to_string(&serde_json::from_str::<Fusion>(new).unwrap()).unwrap(), new);
}

/// Five faces near (1, 0, 0) and a stranger near (0, 1, 0), all of one norm but the stranger's.
fn with_a_stranger() -> Vec<Vec<f32>> {
    let near = [[0.3, 0.1], [-0.2, 0.3], [0.1, -0.3], [0.2, 0.2], [-0.3, -0.1]];
    let mut embeddings: Vec<Vec<f32>> = near.iter().map(|[y, z]| unit(&[1.0, *y, *z])).collect();
    embeddings.push(unit(&[0.0, 1.0, 0.1]));
    embeddings
}

const MEDIA: [&str; 6] = ["1", "2", "3", "4", "5", "6"];

#[test]
fn a_face_that_disagrees_is_damped() {
    let embeddings = with_a_stranger();
    let norms = [68.0, 68.0, 68.0, 68.0, 68.0, 90.0];
    let faces: Vec<_> = (0..6).map(|i| face(&embeddings[i], norms[i], MEDIA[i])).collect();
    let plain = Fusion::new(FusionRule::SoftmaxQuality, 1.0);
    let robust = Fusion { robust: true, ..plain };
    let (led_astray, kept) = (fuse(&faces, plain, STATS, None).unwrap(), fuse(&faces, robust, STATS, None).unwrap());
    assert!(led_astray.weights[5] > 0.7, "{:?}", led_astray.weights);
    assert!(kept.weights[5] < 0.15, "{:?}", kept.weights);
    // The others keep their ratios to each other.
    let genuine: Vec<f32> = kept.weights[..5].to_vec();
    assert!(genuine.iter().all(|w| (w / genuine[0] - 1.0).abs() < 0.05), "{genuine:?}");
    // Where nobody disagrees nothing is damped.
    let own = &faces[..5];
    let (plain, robust) = (fuse(own, plain, STATS, None).unwrap(), fuse(own, robust, STATS, None).unwrap());
    assert!(score(&plain.vector, &robust.vector) > 0.999_9);
}

#[test]
fn the_only_good_face_is_not_outvoted_by_poor_ones() {
    // One good face, and poor ones that agree with each other more than with it.
    let good = unit(&[1.0, 0.0, 0.0]);
    let poor: Vec<Vec<f32>> = (0..5).map(|i| unit(&[0.25, 1.0, 0.1 * i as f32 - 0.2])).collect();
    let mut faces = vec![face(&good, 70.0, "good")];
    faces.extend(poor.iter().zip(MEDIA).map(|(embedding, media)| face(embedding, 43.0, media)));
    let share = |faces: &[TemplateFace<'_>]| {
        let fusion = Fusion { robust: true, ..FusionRule::Mean.into() };
        fuse(faces, fusion, STATS, None).unwrap().weights[0]
    };
    let among_poor = share(&faces);
    // The same faces, were the others good as well.
    for face in &mut faces[1..] {
        face.norm = 70.0;
    }
    let among_good = share(&faces);
    assert!(among_poor > 0.15 && among_good < 0.08, "{among_poor} {among_good}");
}

#[test]
fn one_face_or_two_are_left_alone() {
    let (a, b) = (unit(&[1.0, 0.2]), unit(&[0.2, 1.0]));
    let robust = Fusion { robust: true, ..FusionRule::Mean.into() };
    let one = fuse(&[face(&a, 60.0, "1")], robust, STATS, None).unwrap();
    for (got, want) in one.vector.iter().zip(&a) {
        approx::assert_abs_diff_eq!(got, want, epsilon = 1e-6);
    }
    let two = fuse(&[face(&a, 60.0, "1"), face(&b, 60.0, "2")], robust, STATS, None).unwrap();
    approx::assert_abs_diff_eq!(two.weights[0], 0.5, epsilon = 1e-6);
}

#[test]
fn without_the_only_face_that_counts_the_next_one_does() {
    let (a, b) = (unit(&[1.0, 0.0]), unit(&[0.0, 1.0]));
    let other = unit(&[0.6, 0.8]);
    // The weights lie e^200 apart.
    let sharp = Fusion::new(FusionRule::SoftmaxQuality, 0.05);
    let faces = [face(&a, STATS.mean, "1"), face(&b, STATS.mean - 10.0 * STATS.std + 20.0, "2")];
    for fusion in [sharp, FusionRule::Best.into()] {
        let parts = scores(&fuse(&faces, fusion, STATS, None).unwrap(), &faces, &other);
        approx::assert_abs_diff_eq!(parts[0].score_without.unwrap(), 0.8, epsilon = 1e-6);
        approx::assert_abs_diff_eq!(parts[1].score_without.unwrap(), 0.6, epsilon = 1e-6);
    }
    let one = fuse(&faces[..1], sharp, STATS, None).unwrap();
    assert_eq!(scores(&one, &faces[..1], &other)[0].score_without, None);
}

proptest! {
    #[test]
    fn order_does_not_change_a_bit(
        values in prop::collection::vec((prop::collection::vec(-1f32..1.0, 8), 20f32..100.0, 0u8..4), 1..12),
        shift in 0usize..12,
        rule in prop::sample::select(FusionRule::ALL[..4].to_vec()),
        robust in any::<bool>(),
        cap in prop::option::of(-2f32..1.0),
    ) {
        let fusion = Fusion { robust, cap, ..rule.into() };
        let embeddings: Vec<Vec<f32>> = values.iter().map(|(v, _, _)| unit(v)).collect();
        prop_assume!(embeddings.iter().flatten().all(|v| v.is_finite()));
        let media: Vec<String> = values.iter().map(|(_, _, m)| m.to_string()).collect();
        let faces: Vec<TemplateFace<'_>> =
            (0..values.len()).map(|i| face(&embeddings[i], values[i].1, &media[i])).collect();
        let mut turned = faces.clone();
        turned.rotate_left(shift % faces.len());
        turned.reverse();
        let (one, two) = (fuse(&faces, fusion, STATS, None), fuse(&turned, fusion, STATS, None));
        match (one, two) {
            (Ok(one), Ok(two)) => {
                prop_assert_eq!(&one.vector, &two.vector);
                prop_assert_eq!(one.coherence.to_bits(), two.coherence.to_bits());
                let length: f32 = one.vector.iter().map(|v| v * v).sum();
                prop_assert!((length - 1.0).abs() < 1e-5);
                prop_assert!((one.weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                prop_assert!((0.0..=1.0).contains(&one.coherence));
            }
            (one, two) => prop_assert_eq!(one, two),
        }
    }

    #[test]
    fn without_a_face_is_as_if_it_had_never_been(
        values in prop::collection::vec((prop::collection::vec(-1f32..1.0, 8), 20f32..100.0, 0u8..4), 2..12),
        other in prop::collection::vec(-1f32..1.0, 8),
        drop in 0usize..12,
        rule in prop::sample::select(FusionRule::ALL[..4].to_vec()),
        tau in 0.05f32..3.0,
        cap in prop::option::of(-2f32..1.0),
    ) {
        let fusion = Fusion { cap, ..Fusion::new(rule, tau) };
        let (embeddings, other): (Vec<Vec<f32>>, _) = (values.iter().map(|(v, _, _)| unit(v)).collect(), unit(&other));
        prop_assume!(embeddings.iter().flatten().chain(&other).all(|v| v.is_finite()));
        let media: Vec<String> = values.iter().map(|(_, _, m)| m.to_string()).collect();
        let faces: Vec<TemplateFace<'_>> =
            (0..values.len()).map(|i| face(&embeddings[i], values[i].1, &media[i])).collect();
        let drop = drop % faces.len();
        let never: Vec<TemplateFace<'_>> =
            faces.iter().enumerate().filter(|(i, _)| *i != drop).map(|(_, face)| *face).collect();
        let mut removed: Vec<TemplateFace<'_>> = faces.iter().rev().copied().collect();
        removed.remove(faces.len() - 1 - drop);
        let (never, removed) = (fuse(&never, fusion, STATS, None), fuse(&removed, fusion, STATS, None));
        prop_assert_eq!(never.as_ref().map(|t| &t.vector), removed.as_ref().map(|t| &t.vector));
        if let (Ok(all), Ok(never)) = (fuse(&faces, fusion, STATS, None), never) {
            // Where the others nearly cancel out, their direction is not determined to this accuracy.
            prop_assume!(never.coherence > 1e-2);
            let without = scores(&all, &faces, &other)[drop].score_without;
            prop_assert!((without.unwrap() - score(&never.vector, &other)).abs() < 1e-4, "{:?}", without);
        }
    }
}
