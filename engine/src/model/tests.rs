//! The embedded model against reference features, its twin, and its own settings.

use std::path::PathBuf;

use candle_core::safetensors::load;
use image::{Rgb, RgbImage};
use serde::{Deserialize, Serialize};

use super::*;

fn reference() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden/models/mobilefacenet_tf");
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is missing", path.display());
    None
}

fn embedded(flip: bool, arithmetic: Arithmetic) -> Model {
    Model::embedded_with(flip, &Device::Cpu, arithmetic).unwrap()
}

/// A crop made of numbers: waves of several lengths with some noise, different for each seed.
fn synthetic(seed: u32) -> AlignedCrop {
    let image = RgbImage::from_fn(SIZE, SIZE, |x, y| {
        let value = |channel: u32| {
            let wave = (x * (seed % 5 + 1) + y * (channel + 1) + seed * 17) % 96;
            let mut noise = (x ^ (y << 8) ^ (channel << 16) ^ (seed << 20)).wrapping_mul(0x9e37_79b1);
            noise ^= noise >> 15;
            (64 + wave + noise % 64) as u8
        };
        Rgb([value(0), value(1), value(2)])
    });
    AlignedCrop::new(image).unwrap()
}

fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    difference / square(&mut expected.iter().map(|v| f64::from(*v)))
}

#[test]
fn features_agree_with_the_published_network() {
    let Some(folder) = reference() else { return };
    let golden = load(folder.join("golden.safetensors"), &Device::Cpu).unwrap();
    let rows = |name: &str| golden[name].to_vec2::<f32>().unwrap();
    let norms = golden["norm"].to_vec1::<f32>().unwrap();
    let pixels = golden["images_u8_nhwc"].flatten_from(1).unwrap().to_vec2::<u8>().unwrap();
    let crops: Vec<AlignedCrop> = pixels
        .into_iter()
        .map(|pixels| AlignedCrop::new(RgbImage::from_raw(SIZE, SIZE, pixels).unwrap()).unwrap())
        .collect();
    let (plain, mirrored) = (rows("embedding_raw"), rows("embedding_raw_flipped"));
    for arithmetic in [Arithmetic::Kernels, Arithmetic::Stock, Arithmetic::Gpu] {
        // The stock twin takes a second for each crop.
        let count = if arithmetic == Arithmetic::Kernels { crops.len() } else { 3 };
        let crops = &crops[..count];
        let model = embedded(false, arithmetic);
        let raw = model.raw_features(crops).unwrap();
        let features = model.extract(crops).unwrap();
        let summed = embedded(true, arithmetic).raw_features(crops).unwrap();
        let (mut worst, mut worst_norm) = (0f64, 0f32);
        for index in 0..count {
            worst = worst.max(relative_error(&raw[index], &plain[index]));
            let sum: Vec<f32> = plain[index].iter().zip(&mirrored[index]).map(|(a, b)| a + b).collect();
            worst = worst.max(relative_error(&summed[index], &sum));
            worst_norm = worst_norm.max((features[index].norm - norms[index]).abs());
        }
        println!("{arithmetic:?}: relative error {worst:.2e}, norm {worst_norm:.2e} over {count} crops");
        assert!(worst < 1e-4 && worst_norm < 1e-3);
    }
}

#[derive(Deserialize)]
struct LayerFile {
    blocks: Vec<LayerStatistics>,
}

#[derive(Deserialize)]
struct LayerStatistics {
    layer: String,
    shape_nchw: Vec<usize>,
    mean: f32,
    std: f32,
    first5: Vec<f32>,
    last5: Vec<f32>,
}

#[test]
fn every_layer_agrees_with_the_published_network() {
    let Some(folder) = reference() else { return };
    let file = std::fs::read_to_string(folder.join("layers_img1.json")).unwrap();
    let expected: LayerFile = serde_json::from_str(&file).unwrap();
    let crop = AlignedCrop::new(image::open(folder.join("png/img1_aligned112.png")).unwrap().to_rgb8()).unwrap();
    let vb = weights::load(EMBEDDED_WEIGHTS, &Architecture::Mobilefacenet.tensors(192), &Device::Cpu).unwrap();
    let batch = embedded(false, Arithmetic::Kernels).batch(&[(&crop, false)]).unwrap();
    for arithmetic in [Arithmetic::Kernels, Arithmetic::Stock, Arithmetic::Gpu] {
        let network = MobileFaceNet::new(Variant::Tf, 192, &vb, &Device::Cpu, arithmetic).unwrap();
        let mut outputs = std::collections::HashMap::new();
        let mut tap = |name: &str, x: &Tensor| {
            outputs.insert(name.to_owned(), (x.dims().to_vec(), x.flatten_all()?.to_vec1::<f32>()?));
            Ok(())
        };
        network.forward_tapped(&batch.pixels, &mut tap).unwrap();
        for layer in &expected.blocks {
            let (shape, values) = &outputs[&layer.layer];
            let count = values.len() as f64;
            let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
            let std = (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / count).sqrt();
            let mut worst = (mean as f32 - layer.mean).abs().max((std as f32 - layer.std).abs());
            let (first, last) = (&values[..5], &values[values.len() - 5..]);
            for (found, expected) in first.iter().zip(&layer.first5).chain(last.iter().zip(&layer.last5)) {
                worst = worst.max((found - expected).abs());
            }
            if layer.layer != "fc2" {
                assert_eq!(shape, &layer.shape_nchw, "{}", layer.layer);
            }
            assert!(worst < 1e-3, "{arithmetic:?} {}: {worst}", layer.layer);
        }
        assert!(expected.blocks.len() > 18);
    }
}

/// Features of synthetic crops, so that this much is checked wherever the tests run.
#[derive(Serialize, Deserialize)]
struct Stored {
    note: String,
    weights_sha256: String,
    features: Vec<StoredFeature>,
}

#[derive(Serialize, Deserialize)]
struct StoredFeature {
    seed: u32,
    norm: f32,
    norm_with_flip: f32,
    raw: Vec<f32>,
}

fn stored_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mobilefacenet.json")
}

const SEEDS: [u32; 3] = [1, 2, 3];

/// Writes the stored features when asked to, from the stock twin:
/// `VULTUS_WRITE_GOLDEN=1 cargo test -p vultus-engine stored_features`.
#[test]
fn stored_features_are_found_again() {
    if std::env::var_os("VULTUS_WRITE_GOLDEN").is_some() {
        let crops = SEEDS.map(synthetic);
        let raw = embedded(false, Arithmetic::Stock).raw_features(&crops).unwrap();
        let plain = embedded(false, Arithmetic::Stock).extract(&crops).unwrap();
        let flipped = embedded(true, Arithmetic::Stock).extract(&crops).unwrap();
        let feature = |index: usize| StoredFeature {
            seed: SEEDS[index],
            norm: plain[index].norm,
            norm_with_flip: flipped[index].norm,
            raw: raw[index].clone(),
        };
        let stored = Stored {
            note: "Raw features of the synthetic crops of engine/src/model/tests.rs, written by this project's own \
                   network on stock candle operations after that had been compared with the published network \
                   (features_agree_with_the_published_network). They guard against changes; they are not an \
                   independent reference."
                .into(),
            weights_sha256: embedded(false, Arithmetic::Stock).manifest().sha256.clone(),
            features: (0..SEEDS.len()).map(feature).collect(),
        };
        std::fs::create_dir_all(stored_path().parent().unwrap()).unwrap();
        std::fs::write(stored_path(), serde_json::to_string_pretty(&stored).unwrap() + "\n").unwrap();
    }
    let stored: Stored = serde_json::from_str(&std::fs::read_to_string(stored_path()).unwrap()).unwrap();
    let crops: Vec<AlignedCrop> = stored.features.iter().map(|feature| synthetic(feature.seed)).collect();
    let model = embedded(false, Arithmetic::Kernels);
    assert_eq!(model.manifest().sha256, stored.weights_sha256);
    let raw = model.raw_features(&crops).unwrap();
    let plain = model.extract(&crops).unwrap();
    let flipped = embedded(true, Arithmetic::Kernels).extract(&crops).unwrap();
    for (index, expected) in stored.features.iter().enumerate() {
        assert!(relative_error(&raw[index], &expected.raw) < 1e-4);
        assert!((plain[index].norm - expected.norm).abs() < 1e-3);
        assert!((flipped[index].norm - expected.norm_with_flip).abs() < 2e-3);
    }
}

#[test]
fn a_batch_gives_what_single_crops_give() {
    let model = embedded(true, Arithmetic::Kernels);
    let crops: Vec<AlignedCrop> = (0..MAX_BATCH as u32 + 3).map(synthetic).collect();
    let together = model.raw_features(&crops).unwrap();
    assert_eq!(together.len(), crops.len());
    for index in [0, 1, MAX_BATCH / 2, MAX_BATCH, MAX_BATCH + 2] {
        let alone = model.raw_features(&crops[index..=index]).unwrap();
        assert!(relative_error(&together[index], &alone[0]) < 1e-5, "{index}");
    }
    assert!(model.extract(&[]).unwrap().is_empty());
}

#[test]
fn flip_fusion_does_not_see_which_way_a_face_looks() {
    let model = embedded(true, Arithmetic::Kernels);
    let crop = synthetic(5);
    let mirrored = AlignedCrop::new(image::imageops::flip_horizontal(crop.image())).unwrap();
    let raw = model.raw_features(&[crop, mirrored]).unwrap();
    assert!(relative_error(&raw[0], &raw[1]) < 1e-6);
}

#[test]
fn the_id_names_weights_and_flip() {
    let (plain, flip) = (embedded(false, Arithmetic::Kernels), embedded(true, Arithmetic::Kernels));
    assert_eq!(plain.id().0, "mobilefacenet-17d5763f9ac4054b");
    assert_eq!(flip.id().0, "mobilefacenet-17d5763f9ac4054b+flip");
    assert_eq!((plain.dim(), flip.dim()), (192, 192));
    assert!(flip.norm_stats().mean > 1.9 * plain.norm_stats().mean);
}

struct Broken(f32);

impl Backbone for Broken {
    fn forward(&self, batch: &Batch) -> candle_core::Result<Tensor> {
        // Like a network that overflows for the second crop only.
        let rows = batch.pixels.dim(0)?;
        let values: Vec<f32> = (0..rows * 2).map(|at| if at / 2 == 1 { self.0 } else { 1.0 }).collect();
        Tensor::from_vec(values, (rows, 2), &Device::Cpu)
    }

    fn dim(&self) -> usize {
        2
    }
}

#[test]
fn a_feature_that_cannot_be_used_is_an_error() {
    for value in [0.0, f32::NAN, f32::INFINITY] {
        let mut model = embedded(false, Arithmetic::Kernels);
        model.backbone = Box::new(Broken(value));
        let crops = [1, 2, 3].map(synthetic);
        assert!(matches!(model.extract(&crops), Err(ModelError::UnusableFeature { index: 1 })));
    }
}

#[test]
fn colour_order_and_scale_come_from_the_manifest() {
    let mut model = embedded(false, Arithmetic::Kernels);
    let mut image = RgbImage::from_pixel(SIZE, SIZE, Rgb([0, 128, 255]));
    image.put_pixel(0, 0, Rgb([255, 255, 255]));
    let crop = AlignedCrop::new(image).unwrap();
    let values = |model: &Model, mirrored| {
        let batch = model.batch(&[(&crop, mirrored)]).unwrap();
        batch.pixels.flatten_from(2).unwrap().to_vec3::<f32>().unwrap().swap_remove(0)
    };
    let last = (SIZE * SIZE - 1) as usize;
    let rgb = values(&model, false);
    assert_eq!([rgb[0][last], rgb[1][last], rgb[2][last]], [-127.5 / 128.0, 0.5 / 128.0, 127.5 / 128.0]);
    assert_eq!(rgb[0][0], 127.5 / 128.0);
    assert_eq!(values(&model, true)[0][SIZE as usize - 1], 127.5 / 128.0);
    model.manifest.input.color = Color::Bgr;
    let bgr = values(&model, false);
    assert_eq!((&bgr[0], &bgr[2]), (&rgb[2], &rgb[0]));
}

#[test]
fn a_gpu_makes_the_same_values_of_bytes() {
    let crops = [synthetic(1), synthetic(2)];
    let images = [(&crops[0], false), (&crops[1], false), (&crops[0], true)];
    for (color, mean, scale) in
        [(Color::Rgb, 127.5, 1.0 / 128.0), (Color::Bgr, 127.5, 1.0 / 127.5), (Color::Bgr, 3.1, 0.3)]
    {
        let manifest = embedded(false, Arithmetic::Kernels).manifest;
        let input = manifest::Input { color, mean, scale, ..manifest.input };
        let manifest = serde_json::to_string(&Manifest { input, ..manifest }).unwrap();
        let [cpu, gpu] = [Arithmetic::Kernels, Arithmetic::Gpu].map(|arithmetic| {
            let model = Model::from_parts(EMBEDDED_WEIGHTS, &manifest, false, &Device::Cpu, arithmetic).unwrap();
            model.batch(&images).unwrap().pixels.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        });
        assert_eq!(cpu, gpu, "{color:?}");
    }
}

#[test]
fn landmarks_reach_the_networks_that_look_at_them() {
    let mut model = embedded(true, Arithmetic::Kernels);
    let landmarks = Landmarks([[30.0, 50.0], [80.0, 51.0], [55.0, 70.0], [40.0, 90.0], [70.0, 91.0]]);
    let crops = [synthetic(1), synthetic(2).with_landmarks(landmarks)];
    let images = [(&crops[0], false), (&crops[1], false), (&crops[1], true)];
    assert!(model.batch(&images).unwrap().landmarks.is_none());
    model.manifest.architecture = Architecture::VitBaseKprpe;
    let batch = model.batch(&images).unwrap();
    let found = batch.landmarks.unwrap().to_vec3::<f32>().unwrap();
    assert_eq!(found[0], REFERENCE.map(|point| point.to_vec()));
    assert_eq!(found[1], landmarks.0.map(|point| point.to_vec()));
    assert_eq!(found[2][0], [111.0 - 80.0, 51.0]);
    assert_eq!(found[2][3], [111.0 - 70.0, 91.0]);
}

#[test]
fn wrong_files_are_named() {
    let load = |weights: &[u8], manifest: &str| {
        Model::from_parts(weights, manifest, true, &Device::Cpu, Arithmetic::Kernels).err()
    };
    let mut damaged = EMBEDDED_WEIGHTS.to_vec();
    damaged[100_000] ^= 1;
    assert!(matches!(load(&damaged, EMBEDDED_MANIFEST), Some(ModelError::Checksum { .. })));
    let changed = |from: &str, to: &str| {
        assert!(EMBEDDED_MANIFEST.contains(from));
        load(EMBEDDED_WEIGHTS, &EMBEDDED_MANIFEST.replace(from, to))
    };
    assert!(matches!(
        changed("\"dim\": 192", "\"dim\": 512"),
        Some(ModelError::Weights(WeightsError::Misshaped { name, .. })) if name == "fc2.weight"
    ));
    for (from, to) in [
        ("\"std\": 8.191", "\"std\": 0.0"),
        ("\"scale\": 0.0078125", "\"scale\": 0"),
        ("\"tau\": 0.6", "\"tau\": -1"),
        ("\"cap\": -1.5", "\"cap\": -11"),
        ("\"size\": 112", "\"size\": 160"),
        ("17d5763f", "17D5763F"),
        ("\"name\": \"mobilefacenet\"", "\"name\": \"Mobile Face\""),
    ] {
        assert!(matches!(changed(from, to), Some(ModelError::ManifestValue(_))), "{to}");
    }
    assert!(matches!(changed("\"architecture\": \"mob", "\"architecture\": \"x"), Some(ModelError::ManifestSyntax(_))));
    let without_flip = changed("\"flip\": { \"mean\": 136.66, \"std\": 16.40 }", "\"flip\": null");
    assert!(matches!(without_flip, Some(ModelError::NoFlip(_))));
}

#[test]
fn a_model_is_read_from_files() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("mine.safetensors");
    assert!(matches!(
        Model::from_file(&weights, false, &Device::Cpu),
        Err(ModelError::Io { path, .. }) if path.ends_with("mine.json")
    ));
    std::fs::write(&weights, EMBEDDED_WEIGHTS).unwrap();
    std::fs::write(weights.with_extension("json"), EMBEDDED_MANIFEST).unwrap();
    let model = Model::from_file(&weights, false, &Device::Cpu).unwrap();
    assert_eq!(model.id(), embedded(false, Arithmetic::Kernels).id());
}

/// Gives each picture's mean of the first plane as a feature, and a style made of it.
struct Tinted;

impl Backbone for Tinted {
    fn forward(&self, batch: &Batch) -> candle_core::Result<Tensor> {
        batch.pixels.get_on_dim(1, 0)?.flatten_from(1)?.mean_keepdim(1)?.abs()?.broadcast_add(&Tensor::ones(
            1,
            candle_core::DType::F32,
            &Device::Cpu,
        )?)
    }

    fn forward_with_style(&self, batch: &Batch) -> candle_core::Result<(Tensor, Option<Tensor>)> {
        let feature = self.forward(batch)?;
        let style = feature.unsqueeze(2)?.broadcast_as((feature.dim(0)?, 384, 2))?.contiguous()?;
        Ok((feature, Some(style)))
    }

    fn dim(&self) -> usize {
        1
    }
}

#[test]
fn features_have_a_style_where_there_is_a_network_for_it() {
    let aggregator = Aggregator::load(&caface::tests::small_file(), &Device::Cpu).unwrap();
    let crops: Vec<AlignedCrop> = (0..40).map(synthetic).collect();
    let mut model = Model { backbone: Box::new(Tinted), ..embedded(false, Arithmetic::Kernels) };
    assert!(model.set_fusion().is_none());
    assert!(model.extract(&crops).unwrap().iter().all(|feature| feature.style.is_none()));
    let id = aggregator.id();
    model.aggregator = Some(Arc::new(aggregator));
    assert_eq!(model.set_fusion().unwrap().id(), id);
    let features = model.extract(&crops).unwrap();
    for index in [0, 7, 39] {
        let alone = model.extract(&crops[index..=index]).unwrap().remove(0);
        let style = features[index].style.as_ref().unwrap();
        assert_eq!((style.network, style.values.len()), (id, 64));
        for (found, expected) in style.values.iter().zip(&alone.style.unwrap().values) {
            approx::assert_abs_diff_eq!(found, expected, epsilon = 1e-5);
        }
    }
    assert!(features[0].style != features[7].style);
}

#[test]
fn a_network_beside_a_model_that_has_no_style_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("mine.safetensors");
    std::fs::write(&weights, EMBEDDED_WEIGHTS).unwrap();
    std::fs::write(weights.with_extension("json"), EMBEDDED_MANIFEST).unwrap();
    std::fs::write(folder.path().join("mine.caface.safetensors"), "anything").unwrap();
    assert!(matches!(
        Model::from_file(&weights, false, &Device::Cpu),
        Err(ModelError::NoStyle { path, architecture: Architecture::Mobilefacenet }) if path.ends_with("mine.caface.safetensors")
    ));
    assert!(Model::from_file(&weights, true, &Device::Cpu).unwrap().set_fusion().is_none());
}
