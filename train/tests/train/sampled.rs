//! Runs whose steps look at a sample of classes.

use std::collections::HashMap;

use super::{config, crops, exported, identities, images, last, records, stop_after};
use candle_core::{DType, Device, Tensor};
use vultus_engine::model::Architecture;
use vultus_train::data::{AugmentConfig, Dataset};
use vultus_train::network::Network;
use vultus_train::optimise::{SgdConfig, clip, length};
use vultus_train::trainer::{
    Checkpoint, DistillationConfig, HeadConfig, HeadKind, Learner, Measured, Outcome, Part, Trainer,
};

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Ten identities, of which a step looks at four: those of its images, or some of the others beside.
#[test]
fn sampled_classes_are_learnt() {
    let folder = identities(10, 2);
    let mut config = config(folder.path());
    config.run.batch = 4;
    config.run.steps = Some(100);
    config.augment = AugmentConfig::none();
    config.network.dropout = false;
    config.optimiser.rate = 0.05;
    config.optimiser.clip = Some(5.0);
    config.head.rate = 0.4;
    let run = folder.path().join("run");
    let (_, records) = records(&mut Trainer::start(config, &run).unwrap());
    let mean = |from: usize| records[from..from + 20].iter().map(|record| record.loss).sum::<f64>() / 20.0;
    let (first, end) = (mean(0), mean(80));
    println!("loss {first:.2} at first, {end:.2} in the end");
    assert!(end < 0.5 * first, "{first} {end}");
    assert!(records.iter().all(|record| record.margin_scaler.is_some()));
}

/// Stopped and taken up again, runs end with the bytes of those that went through: rows, their momentum, the running norms,
/// and which classes are sampled next. AdaFace beside a teacher; MagFace, which has a loss of its own.
#[test]
fn runs_with_sampled_classes_stop_and_go_on_and_are_exported() {
    let folder = identities(6, 6);
    for (kind, name) in [(HeadKind::AdaFace, "adaface"), (HeadKind::MagFace, "magface")] {
        let mut config = config(folder.path());
        config.run.batch = 12;
        config.run.accumulate = 2;
        config.optimiser.clip = Some(5.0);
        config.head.kind = kind;
        config.head.rate = 0.5;
        if kind == HeadKind::AdaFace {
            config.network.dim = Some(192);
            config.distillation =
                Some(DistillationConfig { teacher: "embedded".into(), weight: 1.0, norm_weight: 0.0 });
        }
        let dim = config.network.dim.unwrap();
        let whole = folder.path().join(format!("whole-{name}"));
        let (outcome, through) = records(&mut Trainer::start(config.clone(), &whole).unwrap());
        assert_eq!((outcome, through.len()), (Outcome::Finished, 6));
        assert!(through.iter().all(|record| record.loss.is_finite() && record.gradient_norm > 0.0));
        let parts = folder.path().join(format!("parts-{name}"));
        stop_after(&mut Trainer::start(config, &parts).unwrap(), 4);
        let kept = Checkpoint::open(&parts.join("checkpoints/step-0000000004.ckpt")).unwrap();
        assert!(!kept.tensors.contains_key("head.kernel"));
        assert_eq!(kept.tensors["head.weight"].dims(), [6, dim]);
        assert_eq!(kept.tensors["head.momentum"].dims(), [6, dim]);
        assert_eq!(numbers(&kept.tensors["head.steps"]), [8.0]);
        let (_, rest) = records(&mut Trainer::resume(&parts).unwrap());
        assert_eq!(rest.len(), 2);
        assert!(last(&parts) == last(&whole), "{name}");

        let norm = exported(&whole, name).installed.manifest.norm.plain;
        assert!(norm.mean > 0.0 && norm.std > 0.0, "{norm:?}");
        if kind == HeadKind::AdaFace {
            // Those of the checkpoint, and not of crops: the mean over steps, the later ones weighing a little more.
            let expected = through.iter().map(|record| record.norm_mean).sum::<f64>() / through.len() as f64;
            assert!((f64::from(norm.mean) / expected - 1.0).abs() < 0.1, "{norm:?} {expected}");
        }
    }
}

/// All that was learnt, by name.
type Learnt = HashMap<String, Tensor>;

/// Two steps of two parts of four images, their classes among twelve: what was learnt at first and after each, the length of
/// the network's gradients and what was measured.
fn learn(clip: Option<f64>) -> (Vec<Learnt>, Vec<(f64, Measured)>) {
    let folder = identities(4, 4);
    let (dataset, crops) = crops(folder.path());
    let mut network = Network::new(Architecture::Mobilefacenet, 16, 3).unwrap();
    network.set_dropout(false);
    let head = HeadConfig { kind: HeadKind::ArcFace, rate: 0.5, ..HeadConfig::default() };
    let head = head.build(16, 12, 1, &Device::Cpu).unwrap();
    let sgd = SgdConfig { momentum: 0.9, weight_decay: 0.0 };
    let mut learner = Learner::new(network, head, 2.0, sgd, clip).unwrap();
    let (mut tensors, mut measured) = (vec![learner.tensors().unwrap()], Vec::new());
    for step in 0..2 {
        for part in 0..2 {
            let first = 8 * step + 4 * part;
            let images = images(&crops[first..first + 4]);
            let labels: Vec<u32> = (first..first + 4).map(|index| dataset.label(index)).collect();
            let labels = Tensor::new(labels, &Device::Cpu).unwrap();
            learner.add(&Part { images, labels, lesson: None, seed: 0 }, None, 0.5).unwrap();
        }
        let of_network = length(learner.gradients().iter());
        measured.push((of_network, learner.apply(0.1).unwrap()));
        tensors.push(learner.tensors().unwrap());
    }
    (tensors, measured)
}

/// Rows of classes that no part has sampled stay; the others count for the length of all gradients and are shortened with
/// them.
#[test]
fn a_step_moves_sampled_classes_and_clips_them() {
    let (tensors, measured) = learn(None);
    let rows = |tensors: &Learnt, name: &str| tensors[name].to_vec2::<f32>().unwrap();
    let mut stayed_with_momentum = 0;
    for (before, after) in tensors.iter().zip(&tensors[1..]) {
        let [weights, momenta] = ["head.weight", "head.momentum"].map(|name| (rows(before, name), rows(after, name)));
        for row in 0..12 {
            let stays = weights.0[row] == weights.1[row];
            assert!(!stays || momenta.0[row] == momenta.1[row], "row {row}");
            stayed_with_momentum += usize::from(stays && momenta.0[row].iter().any(|value| *value != 0.0));
        }
    }
    assert!(stayed_with_momentum > 0);
    // The first momentum is the gradient.
    let (of_network, Measured { gradient, .. }) = &measured[0];
    let momentum = |tensors: &[Learnt]| numbers(&tensors[1]["head.momentum"]);
    let of_rows = momentum(&tensors).iter().map(|value| value * value).sum::<f64>().sqrt();
    assert!(of_rows > 0.0 && (gradient / of_network.hypot(of_rows) - 1.0).abs() < 1e-6);
    let most = 0.1 * gradient;
    let (clipped, again) = learn(Some(most));
    assert_eq!(again[0].1.gradient, *gradient);
    let scale = clip(*gradient, most);
    for (clipped, whole) in momentum(&clipped).iter().zip(momentum(&tensors)) {
        assert!((clipped - scale * whole).abs() < 1e-6 * of_rows, "{clipped} {whole}");
    }
}
