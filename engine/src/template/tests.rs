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
    let fusion = Fusion { rule: FusionRule::SoftmaxQuality, tau: 2.0, robust: false };
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
    let tau = Fusion { rule: FusionRule::SoftmaxQuality, tau: 0.0, robust: false };
    assert_eq!(fuse(&[face(&a, 1.0, "1")], tau, STATS, None), Err(TemplateError::BadTau));
}

proptest! {
    #[test]
    fn order_does_not_change_a_bit(
        values in prop::collection::vec((prop::collection::vec(-1f32..1.0, 8), 20f32..100.0, 0u8..4), 1..12),
        shift in 0usize..12,
        rule in prop::sample::select(FusionRule::ALL[..4].to_vec()),
    ) {
        let embeddings: Vec<Vec<f32>> = values.iter().map(|(v, _, _)| unit(v)).collect();
        prop_assume!(embeddings.iter().flatten().all(|v| v.is_finite()));
        let media: Vec<String> = values.iter().map(|(_, _, m)| m.to_string()).collect();
        let faces: Vec<TemplateFace<'_>> =
            (0..values.len()).map(|i| face(&embeddings[i], values[i].1, &media[i])).collect();
        let mut turned = faces.clone();
        turned.rotate_left(shift % faces.len());
        turned.reverse();
        let (one, two) = (fuse(&faces, rule.into(), STATS, None), fuse(&turned, rule.into(), STATS, None));
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
}
