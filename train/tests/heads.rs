//! The heads against the authors' published code: logits, loss, gradients and running statistics over three steps.
//!
//! The small set is in `tests/golden` (its README says how it was made) and always runs. The larger one, with embeddings
//! of 512 values, is too big for the repository and runs where it is found.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use vultus_train::head::{
    AdaFace, AdaFaceConfig, ArcFace, ArcFaceConfig, ClassKernel, CosFace, CosFaceConfig, MarginHead, loss, split_norm,
};

const STEPS: usize = 3;
const HEADS: [&str; 4] = ["adaface", "adaface_talpha1", "arcface", "cosface"];

type Values = HashMap<String, Tensor>;

fn head(name: &str, kernel: ClassKernel) -> Box<dyn MarginHead> {
    let ada = AdaFaceConfig::default();
    match name {
        "adaface" => Box::new(AdaFace::new(ada, kernel).unwrap()),
        "adaface_talpha1" => Box::new(AdaFace::new(AdaFaceConfig { t_alpha: 1.0, ..ada }, kernel).unwrap()),
        "arcface" => Box::new(ArcFace::new(ArcFaceConfig::default(), kernel).unwrap()),
        // The published code keeps this margin in f32 even where it computes in f64.
        "cosface" => Box::new(CosFace::new(CosFaceConfig { m: f64::from(0.4f32), s: 64.0 }, kernel).unwrap()),
        other => panic!("no head {other}"),
    }
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest errors seen, for the report.
#[derive(Debug, Default)]
struct Worst {
    logits: f64,
    loss: f64,
    gradient: f64,
    other: f64,
}

/// Largest difference, absolute and against the largest reference value.
fn errors(actual: &Tensor, expected: &Tensor) -> (f64, f64) {
    assert_eq!(actual.elem_count(), expected.elem_count());
    let (actual, expected) = (numbers(actual), numbers(expected));
    let largest =
        |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, |a: f64, b| if b > a || b.is_nan() { b } else { a });
    let difference = largest(&mut actual.iter().zip(&expected).map(|(a, b)| (a - b).abs()));
    let scale = largest(&mut expected.iter().map(|value| value.abs()));
    (difference, difference / scale)
}

fn compare(values: &Values, set: &str, name: &str, dtype: DType) -> Worst {
    let device = Device::Cpu;
    let get = |key: String| values.get(&key).unwrap_or_else(|| panic!("no {key}"));
    let kernel = get(format!("{set}/kernel")).to_dtype(dtype).unwrap();
    let mut head = head(name, ClassKernel::new(&kernel).unwrap());
    let mut twin = self::head(name, ClassKernel::new(&kernel).unwrap());
    let double = dtype == DType::F64;
    let mut worst = Worst::default();
    for step in 0..STEPS {
        let expected =
            |what: &str| get(format!("{set}/{name}/{}/step{step}/{what}", if double { "f64" } else { "f32" }));
        let raw = Var::from_tensor(&get(format!("{set}/raw_{step}")).to_dtype(dtype).unwrap()).unwrap();
        let labels = get(format!("{set}/labels_{step}")).to_device(&device).unwrap();

        let (unit, norms) = split_norm(&raw).unwrap();
        let logits = head.forward(&unit, &norms, &labels).unwrap();
        let mean_loss = loss(&logits, &labels).unwrap();
        let grads = mean_loss.backward().unwrap();
        // The gradient of the embeddings is taken with the embeddings as the variable.
        let unit_var = Var::from_tensor(&unit.detach()).unwrap();
        let twin_logits = twin.forward(&unit_var, &norms, &labels).unwrap();
        let unit_grads = loss(&twin_logits, &labels).unwrap().backward().unwrap();

        let (logit_error, logit_share) = errors(&logits, expected("logits"));
        worst.logits = worst.logits.max(if double { logit_share } else { logit_error });
        worst.loss = worst.loss.max(errors(&mean_loss, expected("loss")).1);
        let expected_norms = expected("norm");
        for (grad, what) in [
            (grads.get(&raw), "grad_raw"),
            (grads.get(head.kernel().var()), "grad_kernel"),
            (unit_grads.get(&unit_var), "grad_emb"),
        ] {
            let (grad, expected) = (grad.unwrap(), expected(what));
            worst.gradient = worst.gradient.max(errors(grad, expected).1);
            if what == "grad_raw" {
                // The gradient of a row goes with 1 / norm, so the shortest row would hide the errors of all others.
                let weighted = |grad: &Tensor| grad.broadcast_mul(expected_norms).unwrap();
                worst.gradient = worst.gradient.max(errors(&weighted(grad), &weighted(expected)).1);
            }
        }
        worst.other = worst.other.max(errors(&unit, expected("emb")).1).max(errors(&norms, expected("norm")).1);
        for (buffer, value) in head.buffers().unwrap() {
            worst.other = worst.other.max(errors(&value, expected(buffer)).1);
        }
    }
    assert_eq!(head.buffers().unwrap().len(), if name.starts_with("adaface") { 2 } else { 0 });
    worst
}

fn check(values: &Values, set: &str) {
    for name in HEADS {
        for (dtype, logits, loss, gradient, other) in
            [(DType::F64, 1e-9, 1e-9, 1e-9, 1e-9), (DType::F32, 2e-4, 1e-5, 1e-4, 1e-5)]
        {
            let worst = compare(values, set, name, dtype);
            println!("{set} {name} {dtype:?}: {worst:?}");
            for (what, seen, limit) in [
                ("logits", worst.logits, logits),
                ("loss", worst.loss, loss),
                ("gradient", worst.gradient, gradient),
                ("other", worst.other, other),
            ] {
                assert!(seen <= limit, "{set} {name} {dtype:?} {what}: {seen:e} is above {limit:e}");
            }
        }
    }
}

fn load(path: &Path) -> Values {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

#[test]
fn equal_the_published_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/heads_small.safetensors");
    check(&load(&path), "small");
}

#[test]
fn equal_the_published_code_at_full_width() {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden/heads.safetensors");
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return;
    }
    let values = load(&path);
    check(&values, "small");
    check(&values, "d512");
}
