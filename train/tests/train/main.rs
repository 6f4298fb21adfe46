//! Runs: optimiser against the published code's trajectory, checkpoints, resuming, export, fine-tuning, distillation.
//!
//! Identities are drawn here; what needs reference values that the repository does not ship runs where they are found.
//! Most runs train a MobileFaceNet, which takes a fraction of the time of an IR-18 and goes through the same code.

mod heads;
mod sampled;
mod sets;
mod stops;
mod validation;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Tensor};
use image::{Rgb, RgbImage};
use vultus_engine::align::AlignedCrop;
use vultus_engine::model::{Architecture, Model, Registry};
use vultus_train::data::{AugmentConfig, Crop, Dataset, FolderDataset};
use vultus_train::head::{AdaFace, AdaFaceConfig, ClassKernel, MarginHead, loss, split_norm};
use vultus_train::network::Network;
use vultus_train::optimise::{ScheduleConfig, ScheduleKind, Sgd, SgdConfig, Update};
use vultus_train::trainer::{
    DistillationConfig, Event, ExportConfig, Exported, HeadConfig, HeadKind, Learner, Outcome, Part, StepRecord,
    TrainConfig, Trainer, export,
};

/// Reference values, where they are found.
fn golden(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/golden").join(name);
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// A crop of an identity: waves of its own, and noise of the picture's.
fn drawn(identity: u32, number: u32) -> RgbImage {
    let mut random = vultus_engine::random::Random::new(u64::from(identity * 1000 + number));
    let (across, down) = (0.05 + 0.03 * f64::from(identity % 3), 0.04 + 0.05 * f64::from(identity / 3));
    RgbImage::from_fn(112, 112, |x, y| {
        let wave = (f64::from(x) * across).sin() * (f64::from(y) * down).cos() * 80.0;
        let mut value = |sign: f64| (128.0 + sign * wave + random.uniform(-25.0, 25.0)) as u8;
        Rgb([value(1.0), value(if identity.is_multiple_of(2) { 1.0 } else { -1.0 }), value(0.5)])
    })
}

/// A folder of drawn identities.
fn identities(count: u32, each: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for identity in 0..count {
        let of_identity = folder.path().join(format!("faces/{identity}"));
        std::fs::create_dir_all(&of_identity).unwrap();
        for number in 0..each {
            drawn(identity, number).save(of_identity.join(format!("{number}.png"))).unwrap();
        }
    }
    folder
}

/// A short run of a MobileFaceNet on the identities of a folder.
fn config(folder: &Path) -> TrainConfig {
    let mut config = TrainConfig { seed: 5, ..TrainConfig::default() };
    config.data.path = folder.join("faces");
    config.network.architecture = Some(Architecture::Mobilefacenet);
    config.network.dim = Some(64);
    config.run.epochs = 2;
    config.run.batch = 8;
    config.optimiser.rate = 0.02;
    config.schedule = ScheduleConfig { kind: ScheduleKind::Cosine, warm_up_epochs: 0.5, ..ScheduleConfig::default() };
    config
}

fn records(trainer: &mut Trainer) -> (Outcome, Vec<StepRecord>) {
    let mut records = Vec::new();
    let outcome = trainer.run(&AtomicBool::new(false), &mut |event| {
        if let Event::Step { record, .. } = event {
            records.push(record.clone());
        }
    });
    (outcome.unwrap(), records)
}

/// Lets a run stop after some step, as whoever interrupts it does.
fn stop_after(trainer: &mut Trainer, step: u64) {
    let stop = AtomicBool::new(false);
    let outcome = trainer.run(&stop, &mut |event| {
        if let Event::Step { record, .. } = event {
            stop.store(record.step == step, Ordering::Relaxed);
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Stopped);
}

/// The model of a run, in the folder of models beside it.
fn exported(run: &Path, name: &str) -> Exported {
    let config = ExportConfig {
        run: run.to_owned(),
        checkpoint: None,
        name: name.to_owned(),
        models: run.with_file_name("models"),
        threshold: None,
        licence: None,
        replace: false,
    };
    export(&config).unwrap()
}

/// Bytes of the last checkpoint.
fn last(folder: &Path) -> Vec<u8> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("step-"));
    paths.sort();
    std::fs::read(paths.last().unwrap()).unwrap()
}

/// Loss and kernel of three steps of SGD on the class kernel, as PyTorch's optimiser has them.
#[test]
fn the_optimiser_takes_the_published_steps() {
    let Some(path) = golden("heads.safetensors") else { return };
    let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let mut worst = [0f64; 2];
    for set in ["small", "d512"] {
        let kernel = ClassKernel::new(&golden[&format!("{set}/kernel")]).unwrap();
        let mut values = kernel.var().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut head = AdaFace::new(AdaFaceConfig::default(), kernel).unwrap();
        let mut sgd = Sgd::new(SgdConfig::default()).unwrap();
        for step in 0..3 {
            let (unit, norms) = split_norm(&golden[&format!("{set}/raw_{step}")]).unwrap();
            let labels = &golden[&format!("{set}/labels_{step}")];
            let found = loss(&head.forward(&unit, &norms, labels).unwrap(), labels).unwrap();
            let var = head.kernel().var();
            let gradient = found.backward().unwrap().get(var).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            sgd.update("kernel", &mut values, &gradient, Update { rate: 0.1, decays: true, scale: 1.0 }).unwrap();
            var.set(&Tensor::from_slice(&values, var.shape(), &Device::Cpu).unwrap()).unwrap();
            let expected = |what: &str| {
                let tensor = &golden[&format!("{set}/adaface_sgd/step{step}/{what}")];
                tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap()
            };
            let of_loss = expected("loss")[0];
            worst[0] = worst[0].max((f64::from(found.to_scalar::<f32>().unwrap()) / of_loss - 1.0).abs());
            for (value, expected) in values.iter().zip(expected("kernel_after")) {
                worst[1] = worst[1].max((f64::from(*value) - expected).abs());
            }
        }
    }
    println!("loss {:.1e} relative, kernel {:.1e}", worst[0], worst[1]);
    assert!(worst[0] < 1e-5 && worst[1] < 1e-4, "{worst:?}");
}

fn train(arguments: &[&Path]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("vultus-train"));
    command.arg("train").args(arguments).env("RAYON_NUM_THREADS", "2").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn mistakes_are_told_in_one_line() {
    let folder = identities(2, 2);
    let file = folder.path().join("run.toml");
    let told = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = train(&[&file, Path::new("--out"), &folder.path().join("run")]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(told.lines().count(), 1, "{told}");
        told
    };
    assert!(told("[data]\npath = \"nowhere\"").contains("nowhere"));
    assert!(told("[data]\npath = \"faces\"\n[run]\nbacth = 3").contains("bacth"));
    assert!(told("[data]\npath = \"faces\"\n[run]\nbatch = 64").contains("number of samples"));
    // Told before the run has a folder, so that the corrected file may begin it.
    for text in ["[loader]\nthreads = 0", "[run]\nbatch = 1", "[network]\ndim = 0", "[head]\nnorm_std = -1.0"] {
        told(&format!("[data]\npath = \"faces\"\n{text}"));
        assert!(!folder.path().join("run/config.toml").exists(), "{text}");
    }
    assert!(told("[data]\npath = \"faces\"\n[network]\nstart = \"none.safetensors\"").contains("none.safetensors"));
    let text = "[data]\npath = \"faces\"\n[run]\nbatch = 4\n[distillation]\nteacher = \"embedded\"";
    assert!(told(text).contains("have 192 values, the network's 512"));
    let missing = train(&[Path::new("--resume"), &folder.path().join("none")]).output().unwrap();
    assert!(String::from_utf8(missing.stderr).unwrap().contains("has no run"));
}

/// Four identities are learnt by heart: AdaFace with the published margin and scale, on drawn faces and, where they are
/// found, on those of the reference records. The network is a MobileFaceNet; the example `overfit` does it with IR-18.
#[test]
fn four_identities_are_learnt_by_heart() {
    let folder = identities(4, 3);
    let drawn = folder.path().join("faces");
    for (name, path) in [("drawn", Some(drawn)), ("records", golden("recordio"))] {
        let Some(path) = path else { continue };
        let mut config = config(folder.path());
        config.data.path = path;
        config.run.batch = 12;
        config.run.steps = Some(120);
        config.augment = AugmentConfig::none();
        config.network.dropout = false;
        config.optimiser.rate = 0.05;
        config.optimiser.clip = Some(5.0);
        config.schedule.warm_up_epochs = 5.0;
        let mut trainer = Trainer::start(config, &folder.path().join(name)).unwrap();
        let (_, records) = records(&mut trainer);
        let end = records.last().unwrap().loss;
        println!("{name}: loss {:.3} at first, {end:.6} in the end", records[0].loss);
        assert!(records[0].loss > 5.0 && end < 0.05, "{name}: {end}");
    }
}

fn crops(folder: &Path) -> (FolderDataset, Vec<Crop>) {
    let dataset = FolderDataset::open(&folder.join("faces")).unwrap();
    let crops = (0..dataset.len()).map(|index| dataset.image(index).unwrap()).collect();
    (dataset, crops)
}

/// Images (n, 3, 112, 112) as an IR network wants them.
fn images(crops: &[Crop]) -> Tensor {
    let mut pixels = Vec::new();
    crops.iter().for_each(|crop| crop.normalise_into(&mut pixels));
    Tensor::from_vec(pixels, (crops.len(), 3, 112, 112), &Device::Cpu).unwrap()
}

fn worst(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// 32 images in one part and in two: the same gradients and the same step, where statistics are constant and the head
/// looks at each image by itself.
#[test]
fn two_parts_of_16_equal_one_of_32() {
    let folder = identities(4, 8);
    let (dataset, crops) = crops(folder.path());
    let labels: Vec<u32> = (0..32).map(|index| dataset.label(index)).collect();
    let head = HeadConfig { kind: HeadKind::ArcFace, ..HeadConfig::default() };
    let learn = |parts: usize| {
        let mut network = Network::new(Architecture::Mobilefacenet, 64, 3).unwrap();
        network.set_constant_statistics(true);
        network.set_dropout(false);
        let head = head.build(64, 4, 1, &Device::Cpu).unwrap();
        let mut learner = Learner::new(network, head, 1.0, SgdConfig::default(), None).unwrap();
        let each = 32 / parts;
        for part in 0..parts {
            let images = images(&crops[part * each..][..each]);
            let labels = Tensor::from_slice(&labels[part * each..][..each], each, &Device::Cpu).unwrap();
            learner.add(&Part { images, labels, lesson: None, seed: 0 }, None, 1.0 / parts as f64).unwrap();
        }
        let gradients: Vec<Vec<f32>> = learner.gradients().iter().map(<[f32]>::to_vec).collect();
        let measured = learner.apply(0.1).unwrap();
        let values: Vec<f32> = learner.network.parameters().iter().flat_map(|one| one.values.clone()).collect();
        (gradients, measured, values)
    };
    let (one, two) = (learn(1), learn(2));
    for (one, two) in one.0.iter().zip(&two.0) {
        let size = one.iter().fold(0f32, |most, value| most.max(value.abs()));
        assert!(worst(one, two) <= 1e-4 * f64::from(size) + 1e-7, "{} of {size}", worst(one, two));
    }
    assert!((one.1.loss / two.1.loss - 1.0).abs() < 1e-6 && (one.1.gradient / two.1.gradient - 1.0).abs() < 1e-5);
    println!("loss {} and {}, weights differ by {:.1e}", one.1.loss, two.1.loss, worst(&one.2, &two.2));
    assert!(worst(&one.2, &two.2) < 1e-5);
}

/// Two steps, and the exported model gives the embeddings of the network that was trained, through the engine's loader.
#[test]
fn an_exported_model_is_the_trained_network() {
    let folder = identities(4, 4);
    for (architecture, dim) in [(Architecture::Ir18, 512), (Architecture::Mobilefacenet, 192)] {
        let mut config = config(folder.path());
        config.network.architecture = Some(architecture);
        config.network.dim = Some(dim);
        config.run.batch = 4;
        config.run.steps = Some(2);
        let run = folder.path().join(format!("run-{architecture}"));
        let again = config.clone();
        let mut trainer = Trainer::start(config, &run).unwrap();
        let (_, steps) = records(&mut trainer);
        let models = folder.path().join("models");
        let name = format!("trained-{architecture}");
        let exported = export(&ExportConfig {
            run: run.clone(),
            checkpoint: None,
            name: name.clone(),
            models: models.clone(),
            threshold: Some(0.4),
            licence: None,
            replace: false,
        })
        .unwrap();
        assert_eq!(exported.step, 2);
        let manifest = &exported.installed.manifest;
        assert_eq!((manifest.input.color, manifest.dim), (architecture.default_input().color, dim));
        // The mean that AdaFace has seen, of two batches of which the later weighs 1 and the earlier 0.99.
        let expected = (steps[1].norm_mean + 0.99 * steps[0].norm_mean) / 1.99;
        assert!((f64::from(manifest.norm.plain.mean) / expected - 1.0).abs() < 1e-4, "{:?} {expected}", manifest.norm);
        let crop = AlignedCrop::new(drawn(2, 1)).unwrap();
        let model = Registry::new(models).load(&name, false, &Device::Cpu).unwrap();
        let found = model.extract(&[crop]).unwrap().remove(0);
        let mut pixels = Vec::new();
        let input = trainer.state().input;
        for colour in if architecture == Architecture::Ir18 { [2, 1, 0] } else { [0, 1, 2] } {
            pixels.extend(drawn(2, 1).pixels().map(|pixel| (f32::from(pixel.0[colour]) - input.mean) * input.scale));
        }
        let pixels = Tensor::from_vec(pixels, (1, 3, 112, 112), &Device::Cpu).unwrap();
        let (unit, norm) = split_norm(&trainer.network_mut().embed(&pixels).unwrap()).unwrap();
        let error = worst(&unit.flatten_all().unwrap().to_vec1().unwrap(), &found.embedding);
        let norm = norm.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];
        println!("{architecture}: embeddings differ by {error:.1e}, norms {norm} and {}", found.norm);
        assert!(error < 1e-5 && (norm / found.norm - 1.0).abs() < 1e-4);
        // Other runs start from it: from its checkpoint, and from the model.
        for (kind, start) in [
            ("checkpoint", run.join("checkpoints/step-0000000002.ckpt")),
            ("model", exported.installed.path.clone().unwrap()),
        ] {
            let mut config = again.clone();
            config.network.architecture = None;
            config.network.dim = None;
            config.network.start = Some(start.to_str().unwrap().to_owned());
            let mut other = Trainer::start(config, &folder.path().join(format!("{kind}-{architecture}"))).unwrap();
            let folded = kind == "model" && architecture == Architecture::Mobilefacenet;
            assert_eq!(other.config().network.constant_statistics, Some(folded));
            assert_eq!(other.state().input.color, input.color);
            let (unit, _) = split_norm(&other.network_mut().embed(&pixels).unwrap()).unwrap();
            let error = worst(&unit.flatten_all().unwrap().to_vec1().unwrap(), &found.embedding);
            assert!(error < 1e-5, "{kind}: {error}");
        }
    }
}

/// From the built-in weights: before the first step the network is the model, afterwards it has learnt; frozen units and
/// running statistics are as they were.
#[test]
fn training_goes_on_from_the_built_in_weights() {
    let folder = identities(4, 4);
    let mut config = config(folder.path());
    config.network.architecture = None;
    config.network.dim = None;
    config.network.start = Some("embedded".into());
    config.network.frozen = vec![first_unit()];
    config.optimiser.rate = 0.01;
    config.optimiser.clip = Some(1.0);
    config.run.steps = Some(6);
    config.augment = AugmentConfig::none();
    let mut by_batch = config.clone();
    let mut trainer = Trainer::start(config, &folder.path().join("run")).unwrap();
    assert_eq!(trainer.config().network.constant_statistics, Some(true));
    let model = Model::embedded(false, &Device::Cpu).unwrap();
    let feature = model.extract(&[AlignedCrop::new(drawn(1, 1)).unwrap()]).unwrap().remove(0);
    let input = trainer.state().input;
    let mut pixels = Vec::new();
    for colour in 0..3 {
        pixels.extend(drawn(1, 1).pixels().map(|pixel| (f32::from(pixel.0[colour]) - input.mean) * input.scale));
    }
    let pixels = Tensor::from_vec(pixels, (1, 3, 112, 112), &Device::Cpu).unwrap();
    let unit = |trainer: &mut Trainer| {
        let (unit, _) = split_norm(&trainer.network_mut().embed(&pixels).unwrap()).unwrap();
        unit.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let before = worst(&unit(&mut trainer), &feature.embedding);
    let parameters = |trainer: &mut Trainer| trainer.network_mut().parameters().clone();
    let old = parameters(&mut trainer);
    let (_, records) = records(&mut trainer);
    let after = worst(&unit(&mut trainer), &feature.embedding);
    println!("differs by {before:.1e} before and {after:.1e} after; loss {} to {}", records[0].loss, records[5].loss);
    assert!(before < 1e-5 && after > 1e-4 && records[5].loss < records[0].loss);
    for parameter in parameters(&mut trainer).iter() {
        let same = old.get(parameter.name()).unwrap().values == parameter.values;
        let stays = parameter.name().contains("running") || parameter.name().starts_with(&format!("{}.", first_unit()));
        assert!(!stays || same, "{}", parameter.name());
    }

    // By the statistics of batches: the same network at the beginning, stable at a rate that is too high without.
    by_batch.network.constant_statistics = Some(false);
    by_batch.optimiser.rate = 0.02;
    by_batch.optimiser.clip = None;
    let mut trainer = Trainer::start(by_batch, &folder.path().join("by-batch")).unwrap();
    let before = worst(&unit(&mut trainer), &feature.embedding);
    let (_, records) = self::records(&mut trainer);
    println!("by batch: differs by {before:.1e}; loss {} to {}", records[0].loss, records[5].loss);
    assert!(before < 1e-4 && records[5].loss < records[0].loss);
}

/// The name of a MobileFaceNet's first layer.
fn first_unit() -> String {
    let network = Network::new(Architecture::Mobilefacenet, 192, 0).unwrap();
    network.parameters().iter().next().unwrap().name().split('.').next().unwrap().to_owned()
}

/// A model that is its own teacher has nothing to learn; one that starts from elsewhere comes nearer to its teacher.
#[test]
fn a_teacher_is_learnt() {
    let folder = identities(4, 4);
    let mut config = config(folder.path());
    config.network.start = Some("embedded".into());
    config.network.dim = None;
    config.head.weight = 0.0;
    config.distillation = Some(DistillationConfig { teacher: "embedded".into(), weight: 1.0, norm_weight: 0.1 });
    config.augment = AugmentConfig::none();
    config.run.steps = Some(1);
    let (_, same) = records(&mut Trainer::start(config.clone(), &folder.path().join("same")).unwrap());
    println!("its own teacher: {:.1e}", same[0].loss);
    assert!(same[0].loss.abs() < 1e-5);
    assert_eq!(same[0].distillation, Some(same[0].loss));

    config.network.start = None;
    config.distillation.as_mut().unwrap().norm_weight = 0.0;
    config.network.dim = Some(192);
    config.run.steps = Some(40);
    config.run.batch = 16;
    config.optimiser.rate = 1.0;
    config.network.dropout = false;
    let (_, records) = records(&mut Trainer::start(config, &folder.path().join("other")).unwrap());
    let (first, end) = (records[0].loss, records[39].loss);
    println!("a teacher learnt: {first:.3} to {end:.3}");
    assert!(end < 0.5 * first, "{first} {end}");
}
