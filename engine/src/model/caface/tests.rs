//! The network with weights from a rule against reference values.

use std::path::Path;

use candle_core::safetensors::{load, save};

use super::*;
use crate::model::fill;

/// Values that come with the repository: features of eleven faces, styles of two, results.
fn committed() -> HashMap<String, Tensor> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/caface.safetensors");
    load(path, &Device::Cpu).unwrap()
}

/// All reference values, where they are.
fn golden() -> Option<HashMap<String, Tensor>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden/caface.safetensors");
    if !path.exists() {
        eprintln!("skipped: {} is missing", path.display());
        return None;
    }
    Some(load(path, &Device::Cpu).unwrap())
}

/// Row n, column 2i holds sin(n / 10000^(2i / 64)), column 2i + 1 the cosine.
fn sinusoids() -> Tensor {
    let value = |row: usize, column: usize| {
        let angle = row as f64 * (-10_000f64.ln() * (column - column % 2) as f64 / 64.0).exp();
        (if column.is_multiple_of(2) { angle.sin() } else { angle.cos() }) as f32
    };
    let values: Vec<f32> = (0..61).flat_map(|row| (0..64).map(move |column| value(row, column))).collect();
    Tensor::from_vec(values, (61, 64), &Device::Cpu).unwrap()
}

/// The state dictionary of a configuration, both names of the shared tensor included.
fn state(sizes: Sizes, cfc: Tensor) -> HashMap<String, Tensor> {
    let mut names = sizes.tensors();
    names.insert(1, (StyleCompressor::OTHER_NAME.into(), vec![STYLE, 2]));
    let mut tensors = fill::weights(&names);
    let one = |value: f32| Tensor::new(&[value], &Device::Cpu).unwrap();
    tensors.insert(StyleCompressor::WEIGHTS.into(), cfc.clone());
    tensors.insert(StyleCompressor::OTHER_NAME.into(), cfc);
    tensors.insert("norm_emb.pe".into(), sinusoids());
    tensors.insert("norm_emb.norm_bn.running_mean".into(), one(22.0));
    tensors.insert("norm_emb.norm_bn.running_var".into(), one(16.0));
    tensors
}

fn file(tensors: &HashMap<String, Tensor>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("caface.safetensors");
    save(tensors, &path).unwrap();
    std::fs::read(path).unwrap()
}

const SMALL: Sizes = Sizes { blocks: 2, clusters: 4, confidence: 512 };

fn small() -> Aggregator {
    Aggregator::load(&file(&state(SMALL, committed()["cfc"].clone())), &Device::Cpu).unwrap()
}

fn distance(found: &Tensor, expected: &Tensor) -> f32 {
    let expected = expected.flatten_all().unwrap();
    (found.flatten_all().unwrap() - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

fn vector(values: Option<Vec<f32>>) -> Tensor {
    Tensor::new(values.unwrap(), &Device::Cpu).unwrap()
}

#[test]
fn fusion_agrees_with_the_published_code() {
    let golden = committed();
    let aggregator = small();
    let compressed = aggregator.compress(&golden["style"]).unwrap();
    assert!(distance(&compressed, &golden["compressed_style"].narrow(0, 0, 2).unwrap()) < 1e-5);
    let (features, styles) = (&golden["features"], &golden["compressed_style"]);
    let fused = vector(aggregator.fuse(features, styles).unwrap());
    let single = distance(&fused, &golden["single/aggregated"]);
    let mut aggregation = aggregator.begin();
    for (at, size) in [(0, 4), (4, 4), (8, 3)] {
        aggregation.push(&features.narrow(0, at, size).unwrap(), &styles.narrow(0, at, size).unwrap()).unwrap();
    }
    let sequential = distance(&vector(aggregation.finish().unwrap()), &golden["seq2/aggregated"]);
    println!("single {single:.1e}, sequential {sequential:.1e}");
    assert!(single < 1e-5 && sequential < 1e-5);
}

#[test]
fn every_part_agrees_with_the_published_code() {
    let Some(golden) = golden() else { return };
    for (name, tensor) in committed() {
        let expected = golden[&name].narrow(0, 0, tensor.dim(0).unwrap()).unwrap();
        assert!(distance(&tensor, &expected) == 0.0, "{name}");
    }
    let text = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden/keys_caface_aggregator.json"),
    );
    let mut keys: Vec<(String, Vec<usize>)> = serde_json::from_str(&text.unwrap()).unwrap();
    keys.retain(|(name, _)| !name.ends_with("num_batches_tracked") && name != StyleCompressor::OTHER_NAME);
    assert_eq!(SMALL.tensors(), keys);
    assert!(distance(&sinusoids(), &golden["pe"]) < 1e-5);
    let aggregator = small();
    assert!(distance(&aggregator.compress(&golden["style"]).unwrap(), &golden["compressed_style"]) < 1e-5);
    let close = |found: &Tensor, name: String| {
        let error = distance(found, &golden[&name]);
        println!("{name}: {error:.1e}");
        assert!(error < 1e-5, "{name}");
    };
    let (features, styles) = (&golden["features"], &golden["compressed_style"]);
    let mut single = aggregator.begin();
    single.push(features, styles).unwrap();
    let means = single.means.as_ref().unwrap();
    let norms = features.sqr().unwrap().sum_keepdim(1).unwrap().sqrt().unwrap();
    let inputs = Tensor::cat(&[styles, &aggregator.norm.forward(&norms).unwrap()], 1).unwrap();
    close(&aggregator.clusters.forward(&inputs).unwrap().0, "single/assignment".into());
    close(&means.directions, "single/cluster_feature".into());
    close(&means.styles, "single/cluster_style".into());
    close(&aggregator.weights(means).unwrap(), "single/confidence_weight".into());
    close(&vector(single.finish().unwrap()), "single/aggregated".into());
    let mut aggregation = aggregator.begin();
    for (step, (at, size)) in [(0, 4), (4, 4), (8, 3)].into_iter().enumerate() {
        aggregation.push(&features.narrow(0, at, size).unwrap(), &styles.narrow(0, at, size).unwrap()).unwrap();
        let means = aggregation.means.clone().unwrap();
        close(&means.shares, format!("seq{step}/memory_attn"));
        close(&means.directions, format!("seq{step}/cluster_feature"));
        let so_far = Aggregation { aggregator: &aggregator, faces: 2, first: None, means: Some(means) };
        close(&vector(so_far.finish().unwrap()), format!("seq{step}/aggregated"));
    }
}

#[test]
fn one_face_stays_as_it_is_and_none_is_nothing() {
    let golden = committed();
    let aggregator = small();
    let feature = golden["features"].narrow(0, 3, 1).unwrap();
    let styles = golden["compressed_style"].narrow(0, 3, 1).unwrap();
    let fused = vector(aggregator.fuse(&feature, &styles).unwrap());
    let length = feature.sqr().unwrap().sum_all().unwrap().sqrt().unwrap();
    assert!(distance(&fused, &feature.broadcast_div(&length).unwrap()) < 1e-5);
    assert_eq!(aggregator.begin().finish().unwrap(), None);
    let none = |width| Tensor::zeros((0, width), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(aggregator.fuse(&none(512), &none(64)).unwrap(), None);
    assert!(aggregator.fuse(&feature, &golden["compressed_style"]).is_err());
    assert!(aggregator.fuse(&styles, &styles).is_err());
}

#[test]
fn order_within_a_batch_does_not_matter_and_many_faces_are_split_evenly() {
    let golden = committed();
    let aggregator = small();
    let rows: Vec<u32> = (0..1027).map(|row| row * 7 % 11).collect();
    let take =
        |rows: &[u32], name: &str| golden[name].index_select(&Tensor::new(rows, &Device::Cpu).unwrap(), 0).unwrap();
    let fuse =
        |rows: &[u32]| vector(aggregator.fuse(&take(rows, "features"), &take(rows, "compressed_style")).unwrap());
    let reversed: Vec<u32> = rows[..400].iter().rev().copied().collect();
    assert!(distance(&fuse(&rows[..400]), &fuse(&reversed)) < 1e-5);
    let mut aggregation = aggregator.begin();
    for batch in [&rows[..343], &rows[343..685], &rows[685..]] {
        aggregation.push(&take(batch, "features"), &take(batch, "compressed_style")).unwrap();
    }
    assert!(distance(&fuse(&rows), &vector(aggregation.finish().unwrap())) == 0.0);
}

#[test]
fn the_configuration_is_taken_from_the_file() {
    let golden = committed();
    for sizes in
        [Sizes { blocks: 3, ..SMALL }, Sizes { blocks: 1, clusters: 2, confidence: 1 }, Sizes { clusters: 16, ..SMALL }]
    {
        let mut tensors = state(sizes, golden["cfc"].clone());
        tensors.remove(if sizes.blocks == 3 { StyleCompressor::WEIGHTS } else { StyleCompressor::OTHER_NAME });
        let counter = Tensor::zeros((), DType::I64, &Device::Cpu).unwrap();
        tensors.insert("style_maker.bn.num_batches_tracked".into(), counter);
        let aggregator = Aggregator::load(&file(&tensors), &Device::Cpu).unwrap();
        let fused = aggregator.fuse(&golden["features"], &golden["compressed_style"]).unwrap().unwrap();
        let length = fused.iter().map(|value| value * value).sum::<f32>();
        assert!(fused.len() == 512 && length > 0.0 && length < 1.1, "{sizes:?}: {length}");
    }
}

#[test]
fn wrong_files_are_named() {
    let load = |tensors: &HashMap<String, Tensor>| Aggregator::load(&file(tensors), &Device::Cpu).unwrap_err();
    let good = state(SMALL, committed()["cfc"].clone());
    assert!(matches!(Aggregator::load(b"nonsense", &Device::Cpu), Err(WeightsError::Unreadable(_))));
    assert!(matches!(load(&HashMap::new()), WeightsError::Missing(_)));
    for (name, missing) in [("fusion_net.conf_mlp.2.fc1.bias", "fusion_net.conf_mlp.2.fc1.bias"), (cluster::TOKENS, "")]
    {
        let mut tensors = good.clone();
        tensors.remove(name);
        let error = load(&tensors).to_string();
        assert!(error.contains("lack") && error.contains(missing), "{error}");
    }
    let mut tensors = good.clone();
    tensors.insert(
        "fusion_net.clustering_layer.blocks.999999.norm1.weight".into(),
        Tensor::new(1f32, &Device::Cpu).unwrap(),
    );
    assert!(matches!(load(&tensors), WeightsError::Unexpected(_)));
    for shape in [[1, 1000, 128], [1, 0, 128], [4, 1, 128]] {
        let mut tensors = good.clone();
        tensors.insert(cluster::TOKENS.into(), Tensor::zeros(&shape, DType::F32, &Device::Cpu).unwrap());
        assert!(matches!(load(&tensors), WeightsError::Misshaped { name, .. } if name == cluster::TOKENS));
    }
    let mut tensors = good;
    tensors.insert("norm_emb.scale".into(), Tensor::new(f32::NAN, &Device::Cpu).unwrap());
    assert!(matches!(load(&tensors), WeightsError::NotFinite(name) if name == "norm_emb.scale"));
}
