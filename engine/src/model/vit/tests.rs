//! The transformers with weights from a rule against reference values, and against each other.

use std::collections::HashMap;
use std::path::Path;

use candle_core::safetensors::load;
use candle_core::{DType, Device};

use super::*;
use crate::align::{REFERENCE, SIZE};
use crate::model::fill;

/// Values that come with the repository.
fn committed() -> HashMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/vit_base_kprpe.safetensors");
    load(path, &Device::Cpu).unwrap()
}

/// All reference values, where they are.
fn golden() -> Option<HashMap<String, Tensor>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden/kprpe.safetensors");
    if !path.exists() {
        eprintln!("skipped: {} is missing", path.display());
        return None;
    }
    Some(load(path, &Device::Cpu).unwrap())
}

fn network(keypoints: bool, tensors: &HashMap<String, Tensor>) -> Vit {
    Vit::new(keypoints, 512, &VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu)).unwrap()
}

fn distance(found: &Tensor, expected: &Tensor) -> f32 {
    (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

/// Largest relative error of a row.
fn relative(found: &Tensor, expected: &Tensor) -> f32 {
    let length = |x: &Tensor| x.sqr().unwrap().sum(1).unwrap().sqrt().unwrap();
    let error = (length(&(found - expected).unwrap()) / length(expected)).unwrap();
    error.max_all().unwrap().to_scalar().unwrap()
}

#[test]
fn distances_are_told_apart_in_seven_steps() {
    let steps: Vec<i64> = (0..6).map(|row| i64::from(buckets_of_first_column(row) / 7) - 3).collect();
    assert_eq!(steps, [0, 1, 2, 2, 3, 3]);
    let buckets = position::buckets();
    // A token sees itself in the middle, and the last token as far above and left of itself as the first.
    assert_eq!((buckets[0], buckets[195 * 196 + 195], buckets[195], buckets[195 * 196]), (24, 24, 0, 48));
    let Some(golden) = golden() else { return };
    let expected = golden["bucket_ids"].to_dtype(DType::U32).unwrap().flatten_all().unwrap();
    assert_eq!(buckets, expected.to_vec1::<u32>().unwrap());
}

/// The first token as seen from the token `row` rows below it.
fn buckets_of_first_column(row: usize) -> u32 {
    position::buckets()[row * 14 * 196]
}

#[test]
fn differences_agree_with_the_published_code() {
    let Some(golden) = golden() else { return };
    assert!(distance(&position::differences(&golden["keypoints"]).unwrap(), &golden["rel_keypoints"]) < 1e-6);
    for (name, tensor) in committed() {
        assert!(distance(&tensor, &golden[&name]) == 0.0, "{name}");
    }
}

#[test]
fn features_agree_with_the_published_code() {
    let golden = committed();
    let vit = network(true, &fill::weights(&tensors(true, 512)));
    let pixels = fill::pictures();
    let first = vit.tokens(&pixels).unwrap().narrow(1, 0, 2).unwrap().narrow(2, 0, 8).unwrap();
    assert!(distance(&first, &golden["tokens_first"]) < 1e-5);
    let keypoints = &golden["keypoints"];
    let exchanged = keypoints.index_select(&Tensor::new(&[1u32, 0], &Device::Cpu).unwrap(), 0).unwrap();
    for (landmarks, name) in [(keypoints, "raw"), (&exchanged, "raw_swapped_keypoints")] {
        let batch = Batch { pixels: pixels.clone(), landmarks: Some((landmarks * f64::from(SIZE)).unwrap()) };
        let error = relative(&vit.forward(&batch).unwrap(), &golden[name]);
        println!("{name}: {error:.1e}");
        assert!(error < 1e-4);
    }
    // The first set of landmarks is that of an aligned crop, which is what a batch without landmarks stands for.
    let plain = vit.forward(&Batch { pixels, landmarks: None }).unwrap().narrow(0, 0, 1).unwrap();
    assert!(relative(&plain, &golden["raw"].narrow(0, 0, 1).unwrap()) < 1e-4);
}

#[test]
fn without_biases_landmarks_do_not_matter() {
    let mut weights = fill::weights(&tensors(true, 512));
    for (name, tensor) in &mut weights {
        if name.starts_with("keypoint_linear") {
            *tensor = tensor.zeros_like().unwrap();
        }
    }
    let with = network(true, &weights);
    let without = network(false, &weights);
    let pixels = fill::pictures().narrow(0, 0, 1).unwrap();
    let landmarks = Tensor::new(&REFERENCE, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let batch = Batch { pixels, landmarks: Some((landmarks * 0.9).unwrap()) };
    let (with, without) = (with.forward(&batch).unwrap(), without.forward(&batch).unwrap());
    assert!(relative(&with, &without) < 1e-6);
    let again = network(false, &weights).forward(&Batch { landmarks: None, ..batch }).unwrap();
    assert!(distance(&again, &without) == 0.0);
}

#[test]
fn landmarks_of_another_number_of_crops_are_refused() {
    let landmarks = Tensor::zeros((3, 5, 2), DType::F32, &Device::Cpu).unwrap();
    assert!(position::landmarks(Some(&landmarks), 2, &Device::Cpu).is_err());
    let reference = position::landmarks(None, 2, &Device::Cpu).unwrap();
    assert_eq!(reference.dims(), [2, 5, 2]);
    assert!((reference.to_vec3::<f32>().unwrap()[1][4][1] - REFERENCE[4][1] / SIZE as f32).abs() < 1e-6);
}
