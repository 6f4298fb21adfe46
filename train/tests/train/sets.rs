//! Verification sets as validation.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use super::{config, drawn, identities};
use vultus_train::trainer::{Event, TrainError, Trainer};

/// A set as Python 3 pickles it.
fn write_bin(path: &Path, images: &[Vec<u8>], same: &[bool]) {
    let mut bytes = b"\x80\x03](".to_vec();
    for image in images {
        bytes.push(b'B');
        bytes.extend((image.len() as u32).to_le_bytes());
        bytes.extend(image);
    }
    bytes.extend(b"e](");
    bytes.extend(same.iter().map(|same| if *same { 0x88 } else { 0x89 }));
    bytes.extend(b"e\x86.");
    std::fs::write(path, bytes).unwrap();
}

/// Pairs of one identity and of two, some with the wrong label, so that the accuracy is not all or nothing.
fn pairs(path: &Path, count: u32) {
    let png = |identity: u32, number: u32| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        drawn(identity, number).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    let images: Vec<Vec<u8>> =
        (0..count).flat_map(|pair| [png(pair % 6, pair), png((pair + pair % 2) % 6, pair + 100)]).collect();
    let same: Vec<bool> = (0..count).map(|pair| (pair % 2 == 0) != (pair % 7 == 0)).collect();
    write_bin(path, &images, &same);
}

/// What a run says of a set is what `eval verify` says of the model, and the mean over sets chooses.
#[test]
fn a_set_is_judged_as_by_the_evaluation() {
    let folder = identities(4, 4);
    let [large, small] = ["large.bin", "small.bin"].map(|name| folder.path().join(name));
    pairs(&large, 40);
    pairs(&small, 14);
    let mut config = config(folder.path());
    config.network.architecture = None;
    config.network.dim = None;
    config.network.start = Some("embedded".into());
    // So small a step that the network stays what it is.
    config.optimiser.rate = 1e-12;
    config.run.epochs = 1;
    config.run.batch = 16;
    config.validation.sets = vec![large.clone(), small.clone()];
    config.validation.patience = Some(2);
    let mut found = Vec::new();
    let mut trainer = Trainer::start(config.clone(), &folder.path().join("run")).unwrap();
    trainer
        .run(&AtomicBool::new(false), &mut |event| {
            if let Event::Validation { record, best } = event {
                assert!(best && record.validation_crops == 0 && record.validation_norm.is_none());
                found.push(record.clone());
            }
        })
        .unwrap();
    let [record] = found.as_slice() else { panic!("{found:?}") };
    let output = Command::new(assert_cmd::cargo::cargo_bin!("vultus-train"))
        .args(["eval", "verify", "--json", "--device", "cpu"])
        .args([&large, &small])
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (set, json) in record.validation_sets.iter().zip(json["sets"].as_array().unwrap()) {
        let expected = &json["verification"];
        println!("{}: {} at {}", set.set, set.accuracy, set.threshold);
        assert_eq!(json["set"], set.set.as_str());
        assert!((set.accuracy - expected["accuracy"].as_f64().unwrap()).abs() < 1e-9, "{set:?} {expected}");
        assert!(set.accuracy > 0.6 && set.accuracy < 1.0);
    }
    let mean = (record.validation_sets[0].accuracy + record.validation_sets[1].accuracy) / 2.0;
    assert_eq!((record.validation_accuracy, trainer.state().best), (mean, Some(mean)));

    // What is no set, or too small a one, is told before the first step.
    pairs(&small, 9);
    let refused = Trainer::start(config.clone(), &folder.path().join("few")).unwrap_err();
    assert!(matches!(&refused, TrainError::Eval(_)) && refused.to_string().contains("9 pairs"), "{refused}");
    std::fs::remove_file(&large).unwrap();
    let refused = Trainer::start(config, &folder.path().join("none")).unwrap_err().to_string();
    assert!(refused.contains("large.bin is not there"), "{refused}");
}
