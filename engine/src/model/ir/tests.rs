//! The networks with weights from a rule against reference values, and against each other.

use std::collections::HashMap;
use std::path::Path;

use candle_core::safetensors::load;
use candle_core::{DType, Device};
use sha2::{Digest, Sha256};

use super::*;
use crate::align::{AlignedCrop, SIZE};
use crate::model::{Manifest, Model, fill};

const NETS: [Architecture; 8] = [
    Architecture::Ir18,
    Architecture::Ir34,
    Architecture::Ir50,
    Architecture::Ir101,
    Architecture::Ir152,
    Architecture::Ir200,
    Architecture::IrSe50,
    Architecture::IrSe101,
];

fn weights(architecture: Architecture) -> VarBuilder<'static> {
    VarBuilder::from_tensors(fill::weights(&architecture.tensors(512)), DType::F32, &Device::Cpu)
}

/// A row of statistics: mean, unbiased standard deviation, largest absolute value, first five values.
fn statistics(x: &Tensor) -> Result<Vec<f64>> {
    let values = x.flatten_all()?.to_vec1::<f32>()?;
    let count = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let largest = values.iter().fold(0f64, |largest, v| largest.max(f64::from(v.abs())));
    let mut row = vec![mean, variance.sqrt(), largest];
    row.extend(values.iter().take(5).map(|v| f64::from(*v)));
    Ok(row)
}

/// Runs a network and compares embedding, norm and every unit with `golden`.
fn compare(
    name: &str,
    golden: &HashMap<String, Tensor>,
    prefix: &str,
    forward: &dyn Fn(&Tensor, Tap) -> Result<Tensor>,
) {
    let rows = golden[&format!("{prefix}layer_stats")].to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
    let mut row = 0;
    let mut first_wrong = None;
    let mut tap = |unit: &str, x: &Tensor| {
        let found = statistics(x)?;
        // A map's values are of the size of its standard deviation.
        let worst = found.iter().zip(&rows[row]).map(|(a, b)| (a - b).abs() / rows[row][1]).fold(0.0, f64::max);
        if worst > 1e-4 && first_wrong.is_none() {
            first_wrong = Some(format!("{unit} differs first: {found:.6?} instead of {:.6?}", rows[row]));
        }
        row += 1;
        Ok(())
    };
    let raw = forward(&fill::pictures(), &mut tap).unwrap().to_vec2::<f32>().unwrap();
    let embeddings = golden[&format!("{prefix}embedding")].to_vec2::<f32>().unwrap();
    let norms = golden[&format!("{prefix}norm")].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (mut worst, mut worst_norm) = (0f64, 0f64);
    for ((raw, embedding), expected) in raw.iter().zip(&embeddings).zip(&norms) {
        let norm = raw.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        worst_norm = worst_norm.max((norm / f64::from(*expected) - 1.0).abs());
        for (value, expected) in raw.iter().zip(embedding) {
            worst = worst.max((f64::from(*value) / norm - f64::from(*expected)).abs());
        }
    }
    println!("{name}: embedding {worst:.1e}, norm {worst_norm:.1e}, {row} maps");
    assert_eq!(row, rows.len(), "{name}");
    let place = first_wrong.unwrap_or_else(|| "every unit agrees".into());
    assert!(worst <= 1e-5 && worst_norm <= 1e-4, "{name}: embedding {worst:.1e}, norm {worst_norm:.1e}; {place}");
    assert_eq!(place, "every unit agrees", "{name}");
}

fn compare_forms(architecture: Architecture, golden: &HashMap<String, Tensor>, prefix: &str) {
    let vb = weights(architecture);
    let unfolded = Unfolded::new(architecture, 512, &vb).unwrap();
    compare(&format!("{architecture} unfolded"), golden, prefix, &|x, tap| unfolded.forward_tapped(x, tap));
    drop(unfolded);
    for arithmetic in [Arithmetic::Kernels, Arithmetic::Stock, Arithmetic::Gpu] {
        let ir = Ir::new(architecture, 512, &vb, &Device::Cpu, arithmetic, Precision::F32).unwrap();
        compare(&format!("{architecture} {arithmetic:?}"), golden, prefix, &|x, tap| {
            ir.forward_tapped(x, &|_| true, tap)
        });
    }
}

/// The reference values of IR-18 come with the repository.
#[test]
fn the_smallest_network_agrees_with_the_published_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ir_18.safetensors");
    compare_forms(Architecture::Ir18, &load(path, &Device::Cpu).unwrap(), "");
}

/// Basic units with squeeze and excitation, and bottlenecks, whose first normalisation is folded as well.
#[test]
fn folding_changes_nothing_but_rounding() {
    let pixels = fill::pictures().narrow(0, 1, 1).unwrap();
    for architecture in [Architecture::IrSe50, Architecture::Ir152] {
        let vb = weights(architecture);
        let batch = Batch { pixels: pixels.clone(), landmarks: None };
        let expected = Unfolded::new(architecture, 512, &vb).unwrap().forward(&batch).unwrap();
        let length = expected.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        for arithmetic in [Arithmetic::Kernels, Arithmetic::Stock, Arithmetic::Gpu] {
            let ir = Ir::new(architecture, 512, &vb, &Device::Cpu, arithmetic, Precision::F32).unwrap();
            let difference = (ir.forward(&batch).unwrap() - &expected).unwrap().abs().unwrap();
            let worst = difference.max_all().unwrap().to_scalar::<f32>().unwrap() / length;
            assert!(worst < 1e-5, "{architecture} {arithmetic:?}: {worst}");
        }
    }
}

#[test]
fn every_network_agrees_with_the_published_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden/nets.safetensors");
    if !path.exists() {
        return eprintln!("skipped: {} is missing", path.display());
    }
    let golden = load(path, &Device::Cpu).unwrap();
    let bytes = golden["input_u8"].to_dtype(DType::F32).unwrap();
    let difference = (bytes.affine(2.0 / 255.0, -1.0).unwrap() - fill::pictures()).unwrap().abs().unwrap();
    assert!(difference.max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-6);
    for architecture in NETS {
        compare_forms(architecture, &golden, &format!("{architecture}/f32/"));
    }
}

/// In bf16 an embedding points where it points in f32, on every instruction set, and norms keep three digits.
#[test]
fn bf16_is_close() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden/nets.safetensors");
    let golden = path.exists().then(|| load(path, &Device::Cpu).unwrap());
    let networks: &[Architecture] = match &golden {
        Some(_) => {
            &[Architecture::Ir18, Architecture::Ir50, Architecture::Ir101, Architecture::IrSe50, Architecture::Ir152]
        }
        None => &[Architecture::Ir18],
    };
    for architecture in networks.iter().copied() {
        let (pixels, vb) = (fill::pictures(), weights(architecture));
        let run = |arithmetic, precision| {
            let ir = Ir::new(architecture, 512, &vb, &Device::Cpu, arithmetic, precision).unwrap();
            let batch = Batch { pixels: pixels.clone(), landmarks: None };
            ir.forward(&batch).unwrap().to_vec2::<f32>().unwrap()
        };
        let exact = run(Arithmetic::Kernels, Precision::F32);
        let length = |of: &[f32]| of.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let forms = [Arithmetic::Kernels, Arithmetic::Gpu];
        let pairs = forms.map(|arithmetic| (arithmetic, run(arithmetic, Precision::Bf16)));
        for (arithmetic, exact, short) in
            pairs.iter().flat_map(|(arithmetic, short)| exact.iter().zip(short).map(move |(e, s)| (arithmetic, e, s)))
        {
            let dot: f64 = exact.iter().zip(short).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let cosine = dot / length(exact) / length(short);
            let norm = length(short) / length(exact) - 1.0;
            println!("{architecture} {arithmetic:?} bf16: 1 - cosine {:.1e}, norm {norm:.1e}", 1.0 - cosine);
            assert!(cosine >= 0.9999 && norm.abs() < 5e-3, "{architecture} {arithmetic:?}: {cosine} {norm}");
        }
    }
}

#[test]
fn style_is_mean_and_deviation_of_two_maps() {
    let vb = weights(Architecture::Ir101);
    let ir = Ir::new(Architecture::Ir101, 512, &vb, &Device::Cpu, Arithmetic::Kernels, Precision::F32).unwrap();
    let batch = Batch { pixels: fill::pictures(), landmarks: None };
    let (features, style) = ir.forward_with_style(&batch).unwrap();
    let style = style.unwrap().to_vec3::<f32>().unwrap();
    let mut at = 0;
    let mut tap = |unit: &str, map: &Tensor| {
        if unit == "body.15" || unit == "body.45" {
            let (_, channels, height, width) = map.dims4()?;
            assert_eq!((channels, height, width), if at == 0 { (128, 28, 28) } else { (256, 14, 14) });
            for channel in [0, channels - 1] {
                let expected = statistics(&map.narrow(0, 1, 1)?.narrow(1, channel, 1)?)?;
                let found = &style[1][at + channel];
                assert!((f64::from(found[0]) - expected[0]).abs() < 1e-5 * expected[1]);
                assert!((f64::from(found[1]) / expected[1] - 1.0).abs() < 1e-5);
            }
            at += channels;
        }
        Ok(())
    };
    let again = ir.forward_tapped(&batch.pixels, &|_| true, &mut tap).unwrap();
    assert_eq!((at, style.len(), style[0].len()), (384, 2, 384));
    assert_eq!(features.to_vec2::<f32>().unwrap(), again.to_vec2::<f32>().unwrap());
}

#[test]
fn only_one_network_has_a_style() {
    for architecture in NETS {
        let units = architecture.ir().unwrap().style_units();
        assert_eq!(units.is_some(), architecture == Architecture::Ir101);
    }
}

#[test]
fn weights_that_cannot_be_folded_are_named() {
    let mut tensors = fill::weights(&Architecture::Ir18.tensors(512));
    let broken = Tensor::full(-1f32, 64, &Device::Cpu).unwrap();
    tensors.insert("body.0.res_layer.2.running_var".into(), broken);
    let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let error = Ir::new(Architecture::Ir18, 512, &vb, &Device::Cpu, Arithmetic::Kernels, Precision::F32).unwrap_err();
    assert!(matches!(error, IrError::Weights(WeightsError::NotFinite(name)) if name == "body.0.res_layer.1.weight"));
    assert!(matches!(
        Ir::new(Architecture::VitBase, 512, &vb, &Device::Cpu, Arithmetic::Kernels, Precision::F32),
        Err(IrError::Architecture(Architecture::VitBase))
    ));
}

/// From files, with crops as they come in: the colour order reaches the network.
#[test]
fn the_smallest_network_is_read_from_files() {
    let architecture = Architecture::Ir18;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ir_18.safetensors");
    candle_core::safetensors::save(&fill::weights(&architecture.tensors(512)), &path).unwrap();
    let digest = Sha256::digest(std::fs::read(&path).unwrap());
    let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let embedded = Model::embedded(false, &Device::Cpu).unwrap();
    let input = architecture.default_input();
    let manifest = Manifest { architecture, dim: 512, input, sha256, ..embedded.manifest().clone() };
    std::fs::write(path.with_extension("json"), serde_json::to_string(&manifest).unwrap()).unwrap();
    let model = Model::from_file(&path, false, &Device::Cpu).unwrap();
    // The reference pictures are given in the network's order: blue first.
    let planes = fill::pictures().affine(127.5, 127.5).unwrap().round().unwrap().flatten_from(2).unwrap();
    let crop = |planes: Vec<Vec<f32>>| {
        let byte = |channel: usize, x: u32, y: u32| planes[channel][(y * SIZE + x) as usize] as u8;
        let pixel = |x, y| image::Rgb([byte(2, x, y), byte(1, x, y), byte(0, x, y)]);
        AlignedCrop::new(image::RgbImage::from_fn(SIZE, SIZE, pixel)).unwrap()
    };
    let crops: Vec<AlignedCrop> = planes.to_vec3::<f32>().unwrap().into_iter().map(crop).collect();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ir_18.safetensors");
    let golden = load(golden, &Device::Cpu).unwrap();
    let embeddings = golden["embedding"].to_vec2::<f32>().unwrap();
    let norms = golden["norm"].to_vec2::<f32>().unwrap();
    for (index, feature) in model.extract(&crops).unwrap().into_iter().enumerate() {
        let differ = |(a, b): (&f32, &f32)| (a - b).abs();
        let worst = feature.embedding.iter().zip(&embeddings[index]).map(differ).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{worst}");
        assert!((feature.norm / norms[index][0] - 1.0).abs() < 1e-4);
    }
}
