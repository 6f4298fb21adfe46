//! Networks in training against the published code (PyTorch on the CPU) and against the engine's own forward passes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::VarBuilder;
use vultus_engine::kernel::conv::Arithmetic;
use vultus_engine::model::mobilefacenet::{MobileFaceNet, Variant};
use vultus_engine::model::{Architecture, Backbone, Batch};
use vultus_train::head::{AdaFace, AdaFaceConfig, ClassKernel, MarginHead, loss, split_norm};
use vultus_train::network::{Gradients, Network, NetworkError, Parameters};

/// Element `index` of stream `stream` of the reference values' rule: 0 to 1.
fn uniform(stream: u32, index: u32) -> f64 {
    let mut x = stream.wrapping_add(1).wrapping_mul(0x9E37_79B9).wrapping_add(index);
    x ^= x >> 16;
    x = x.wrapping_mul(0x85EB_CA6B);
    x ^= x >> 13;
    x = x.wrapping_mul(0xC2B2_AE35);
    x ^= x >> 16;
    f64::from(x) / 4_294_967_296.0
}

/// Fills parameters by that rule.
fn fill(parameters: &mut Parameters) {
    let names: Vec<String> = parameters.iter().map(|parameter| parameter.name().to_owned()).collect();
    for (stream, parameter) in parameters.iter_mut().enumerate() {
        let name = parameter.name();
        let biased = names.contains(&name.replace(".weight", ".bias"));
        let (base, scale) = match name.rsplit('.').next() {
            Some("running_var") => (1.25, 0.25),
            Some("weight") if parameter.shape().len() > 1 => {
                (0.0, (3.0 / parameter.shape()[1..].iter().product::<usize>() as f64).sqrt())
            }
            Some("weight") if biased => (1.0, 0.2),
            Some("weight") => (0.25, 0.1),
            _ => (0.0, 0.1),
        };
        for (index, value) in parameter.values.iter_mut().enumerate() {
            *value = (base + (2.0 * uniform(stream as u32, index as u32) - 1.0) * scale) as f32;
        }
    }
}

fn filled(architecture: Architecture) -> Network {
    let mut network = Network::new(architecture, architecture.default_dim(), 0).unwrap();
    fill(network.parameters_mut());
    network
}

/// Two pictures (2, 3, 112, 112), a ramp and noise.
fn pictures() -> Tensor {
    let ramp =
        (0..3u32).flat_map(|c| (0..112).flat_map(move |y| (0..112).map(move |x| (3 * x + 5 * y + 40 * c) % 256)));
    let noise = (0..3 * 112 * 112).map(|index| (256.0 * uniform(10_000, index)).floor() as u32);
    let values = ramp.chain(noise).map(|byte| ((f64::from(byte) / 255.0 - 0.5) / 0.5) as f32);
    Tensor::from_vec(values.collect::<Vec<_>>(), (2, 3, 112, 112), &Device::Cpu).unwrap()
}

/// As the reference step has them: both pictures, the first mirrored, and one less the second.
fn batch() -> Tensor {
    let both = pictures();
    let columns = Tensor::from_vec((0..112u32).rev().collect(), 112, &Device::Cpu).unwrap();
    let mirrored = both.narrow(0, 0, 1).unwrap().index_select(&columns, 3).unwrap();
    let inverted = both.narrow(0, 1, 1).unwrap().affine(-1.0, 1.0).unwrap();
    Tensor::cat(&[&both, &mirrored, &inverted], 0).unwrap()
}

fn kernel() -> ClassKernel {
    let values: Vec<f64> = (0..5120).map(|index| 2.0 * uniform(500, index) - 1.0).collect();
    let kernel = Tensor::from_vec(values, (512, 10), &Device::Cpu).unwrap();
    let norms = kernel.sqr().unwrap().sum_keepdim(0).unwrap().sqrt().unwrap();
    ClassKernel::new(&kernel.broadcast_div(&norms).unwrap().to_dtype(DType::F32).unwrap()).unwrap()
}

/// A step of training with an AdaFace head: raw embeddings, logits, loss, and the gradient of the head's kernel.
fn step(network: &mut Network, pixels: &Tensor, labels: &[u32], gradients: &mut Gradients) -> [Tensor; 4] {
    let labels = Tensor::new(labels, &Device::Cpu).unwrap();
    let mut head = AdaFace::new(AdaFaceConfig::default(), kernel()).unwrap();
    let (raw, tape) = network.forward(pixels, 1).unwrap();
    let raw = Var::from_tensor(&raw).unwrap();
    let (unit, norms) = split_norm(&raw).unwrap();
    let logits = head.forward(&unit, &norms, &labels).unwrap();
    let loss = loss(&logits, &labels).unwrap();
    let of_head = loss.backward().unwrap();
    network.backward(tape, of_head.get(&raw).unwrap(), gradients).unwrap();
    let of_kernel = of_head.get(head.kernel().var()).unwrap().clone();
    [raw.as_tensor().clone(), logits, loss, of_kernel]
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference as a share of the largest value.
fn share(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(0f64, |most, value| most.max(value.abs()));
    let error = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs()).fold(0.0, f64::max);
    error / size
}

/// Loss, logits, embeddings, the gradient of the head and all running statistics after one step. The gradients of the
/// network are compared where double precision is at hand, in `network/tensors/full.rs`.
#[test]
fn a_step_of_ir_18_equals_the_published_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ir_18_step.safetensors");
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let mut network = filled(Architecture::Ir18);
    network.set_dropout(false);
    let mut gradients = Gradients::zeros(network.parameters());
    let [raw, logits, loss, of_kernel] = step(&mut network, &batch(), &[1, 4, 1, 7], &mut gradients);

    let (unit, norms) = split_norm(&raw).unwrap();
    let mut worst = (0f64, String::new());
    let mut note = |error: f64, what: &str, limit: f64| {
        assert!(error <= limit, "{what}: {error:e}");
        if error > worst.0 {
            worst = (error, what.to_owned());
        }
    };
    for (what, found, limit) in [
        ("loss", &loss, 1e-5),
        ("norm", &norms, 1e-4),
        ("embedding", &unit, 1e-4),
        ("logits", &logits, 1e-4),
        ("grad_kernel", &of_kernel, 1e-4),
    ] {
        note(share(&values(found), &values(&golden[what])), what, limit);
    }
    let mut running = 0;
    for parameter in network.parameters().iter() {
        let name = parameter.name();
        if let Some(expected) = golden.get(&format!("buffer_after/{name}")) {
            let found: Vec<f64> = parameter.values.iter().map(|value| f64::from(*value)).collect();
            note(share(&found, &values(expected)), name, 1e-4);
            running += 1;
        } else {
            assert!(golden.contains_key(&format!("grad/{name}")), "{name}");
        }
    }
    assert_eq!(golden.len(), network.parameters().iter().count() + 5);
    println!("{running} running statistics; the largest error is {worst:?}");
}

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

#[test]
fn parameters_are_called_as_published_and_in_that_order() {
    let Some(folder) = shared("golden") else { return };
    for architecture in
        [Architecture::Ir18, Architecture::Ir34, Architecture::Ir50, Architecture::Ir101, Architecture::Ir152]
    {
        let keys = std::fs::read_to_string(folder.join(format!("keys_{architecture}.json"))).unwrap();
        let mut keys: Vec<(String, Vec<usize>)> = serde_json::from_str(&keys).unwrap();
        keys.retain(|(name, _)| !name.ends_with("num_batches_tracked"));
        let network = Network::new(architecture, 512, 0).unwrap();
        let found = network.parameters().iter().map(|one| (one.name().to_owned(), one.shape().to_vec()));
        assert_eq!(found.collect::<Vec<_>>(), keys, "{architecture}");
    }
}

#[test]
fn trained_networks_give_the_published_embeddings() {
    let Some(path) = shared("golden/nets.safetensors") else { return };
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    for architecture in [Architecture::Ir18, Architecture::Ir50, Architecture::Ir101] {
        let mut network = filled(architecture);
        let raw = network.embed(&pictures()).unwrap();
        let (unit, norms) = split_norm(&raw).unwrap();
        let get = |what: &str| values(&golden[&format!("{architecture}/f32/{what}")]);
        let differ = |(a, b): (&f64, &f64)| (a - b).abs();
        let worst = values(&unit).iter().zip(&get("embedding")).map(differ).fold(0.0, f64::max);
        let norm = share(&values(&norms), &get("norm"));
        println!("{architecture}: embeddings {worst:.1e}, norms {norm:.1e}");
        assert!(worst < 1e-5 && norm < 1e-4, "{architecture}: {worst} {norm}");
    }
}

/// What is exported runs in the engine, folded, and gives what the network gives; loaded again, it does too.
#[test]
fn mobilefacenets_are_folded_and_unfolded() {
    for (architecture, variant) in
        [(Architecture::Mobilefacenet, Variant::Tf), (Architecture::MobilefacenetY1, Variant::Y1)]
    {
        let mut network = filled(architecture);
        let expected = values(&network.embed(&pictures()).unwrap());
        let exported = network.export().unwrap();
        let names: HashMap<String, Vec<usize>> = architecture.tensors(network.dim()).into_iter().collect();
        let found = exported.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec()));
        assert_eq!(found.collect::<HashMap<_, _>>(), names);
        let vb = VarBuilder::from_tensors(exported.clone(), DType::F32, &Device::Cpu);
        let engine = MobileFaceNet::new(variant, network.dim(), &vb, &Device::Cpu, Arithmetic::Kernels).unwrap();
        let batch = Batch { pixels: pictures(), landmarks: None };
        let error = share(&values(&engine.forward(&batch).unwrap()), &expected);
        let mut again = Network::new(architecture, network.dim(), 3).unwrap();
        again.load(&exported).unwrap();
        let loaded = share(&values(&again.embed(&pictures()).unwrap()), &expected);
        again.set_constant_statistics(true);
        let trained = share(&values(&again.forward(&pictures(), 0).unwrap().0), &expected);
        println!("{architecture}: folded {error:.1e}, loaded {loaded:.1e}, in training {trained:.1e}");
        assert!(error.max(loaded).max(trained) < 1e-4, "{architecture}: {error} {loaded} {trained}");
        let whole = network.parameters().tensors().unwrap();
        again.load(&whole).unwrap();
        assert_eq!(values(&again.embed(&pictures()).unwrap()), expected);
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_whatever_the_number_of_threads() {
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut network = Network::new(Architecture::Ir18, 512, 5).unwrap();
            let mut gradients = Gradients::zeros(network.parameters());
            let [raw, ..] = step(&mut network, &pictures(), &[1, 4], &mut gradients);
            let running: Vec<Vec<f32>> = network.parameters().iter().map(|one| one.values.clone()).collect();
            (values(&raw), running, gradients.iter().map(<[f32]>::to_vec).collect::<Vec<_>>())
        })
    };
    let one = run(1);
    assert!(run(2) == one && run(3) == one);
    assert!(one.2.iter().flatten().all(|value| value.is_finite()));
}

/// Dropout depends on the seed of the step, and frozen units on nothing.
#[test]
fn units_are_frozen_and_values_dropped() {
    let mut network = Network::new(Architecture::Ir18, 512, 5).unwrap();
    let drawn = |network: &mut Network, seed| values(&network.forward(&pictures(), seed).unwrap().0);
    assert_ne!(drawn(&mut network, 1), drawn(&mut network, 2));
    let units = network.units();
    network.freeze(units - 2);
    let before: Vec<Vec<f32>> = network.parameters().iter().map(|one| one.values.clone()).collect();
    let mut gradients = Gradients::zeros(network.parameters());
    step(&mut network, &pictures(), &[1, 4], &mut gradients);
    for (parameter, before) in network.parameters().iter().zip(before) {
        let is_trained = parameter.name().starts_with("body.7") || parameter.name().starts_with("output_layer");
        let is_running = parameter.name().contains("running");
        assert_eq!(parameter.is_trained(), is_trained && !is_running, "{}", parameter.name());
        assert_eq!(parameter.values != before, is_trained && is_running, "{}", parameter.name());
        let moves = gradients.get(parameter.name()).is_some_and(|of| of.iter().any(|value| *value != 0.0));
        assert_eq!(moves, parameter.is_trained() && parameter.name() != "output_layer.3.bias", "{}", parameter.name());
    }
}

#[test]
fn what_cannot_be_is_said() {
    assert!(matches!(Network::new(Architecture::VitBase, 512, 0), Err(NetworkError::Unsupported(_))));
    assert!(matches!(Network::new(Architecture::IrSe50, 512, 0), Err(NetworkError::Unsupported(_))));
    let mut network = Network::new(Architecture::Ir18, 512, 0).unwrap();
    assert!(matches!(network.forward(&pictures().narrow(0, 0, 1).unwrap(), 0), Err(NetworkError::BatchTooSmall)));
    assert!(matches!(network.embed(&pictures().narrow(2, 0, 64).unwrap()), Err(NetworkError::WrongShape { .. })));
    let mut tensors = network.parameters().tensors().unwrap();
    let missing = tensors.remove("input_layer.2.weight").unwrap();
    assert!(matches!(network.load(&tensors), Err(NetworkError::Missing(name)) if name == "input_layer.2.weight"));
    tensors.insert("input_layer.2.weight".into(), missing.narrow(0, 0, 3).unwrap());
    assert!(matches!(network.load(&tensors), Err(NetworkError::WrongShape { .. })));
    tensors.insert("input_layer.2.weight".into(), Tensor::full(f32::NAN, 64, &Device::Cpu).unwrap());
    assert!(matches!(network.load(&tensors), Err(NetworkError::NotFinite(_))));
}
