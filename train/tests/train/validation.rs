//! Looks at faces that are not trained on: when, and what follows from them.

use std::sync::atomic::AtomicBool;

use super::{config, identities, last};
use vultus_train::data::Damaged;
use vultus_train::trainer::{Checkpoint, Event, Outcome, TrainConfig, Trainer, ValidationRecord};

/// The validations and warnings of a run.
fn looks(trainer: &mut Trainer) -> (Outcome, Vec<ValidationRecord>, Vec<String>) {
    let (mut records, mut warnings) = (Vec::new(), Vec::new());
    let outcome = trainer.run(&AtomicBool::new(false), &mut |event| match event {
        Event::Validation { record, .. } => records.push(record.clone()),
        Event::Warning(warning) => warnings.push(warning.to_owned()),
        _ => {}
    });
    (outcome.unwrap(), records, warnings)
}

/// A run that gets no better ends early, and the best checkpoint stays.
#[test]
fn validation_ends_a_run_that_gets_no_better() {
    let folder = identities(6, 4);
    let mut config = config(folder.path());
    config.data.hold_out = 2;
    config.run.epochs = 50;
    config.validation.patience = Some(2);
    config.validation.sides = vec![20];
    let run = folder.path().join("run");
    let mut trainer = Trainer::start(config, &run).unwrap();
    let mut seen = Vec::new();
    let outcome = trainer.run(&AtomicBool::new(false), &mut |event| {
        if let Event::Validation { record, best } = event {
            assert_eq!(record.validation_crops, 8);
            let sides: Vec<(usize, f64)> = record.validation_sides.iter().map(|one| (one.side, one.accuracy)).collect();
            let &[(112, whole), (20, small)] = sides.as_slice() else { panic!("{sides:?}") };
            assert!((record.validation_accuracy - (whole + small) / 2.0).abs() < 1e-12);
            seen.push((record.step, record.validation_accuracy, best));
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::NoBetter);
    let best = seen.iter().rev().find(|(_, _, best)| *best).unwrap();
    assert_eq!(seen.len(), seen.iter().position(|one| one == best).unwrap() + 3);
    let kept = Checkpoint::open(&run.join("checkpoints/best.ckpt")).unwrap();
    assert_eq!((kept.state.step, kept.state.best), (best.0, Some(best.1)));

    // With more patience, it goes on.
    let ended = trainer.state().step;
    drop(trainer);
    assert_eq!(looks(&mut Trainer::resume(&run).unwrap()).0, Outcome::NoBetter);
    let mut patient = TrainConfig::open(&run.join("config.toml")).unwrap();
    patient.validation.patience = Some(100);
    patient.run.steps = Some(ended + 1);
    std::fs::write(run.join("config.toml"), patient.to_toml().unwrap()).unwrap();
    let mut trainer = Trainer::resume(&run).unwrap();
    assert_eq!((looks(&mut trainer).0, trainer.state().step), (Outcome::Finished, ended + 1));
}

/// Three identities of six crops, in parts of two: nine parts an epoch, so that the fifth of the steps of two parts is of
/// both epochs.
#[test]
fn an_epoch_that_ends_within_a_step_is_looked_at_as_itself() {
    let folder = identities(5, 6);
    let mut config = config(folder.path());
    config.data.hold_out = 2;
    (config.run.batch, config.run.accumulate) = (4, 2);
    let mut trainer = Trainer::start(config, &folder.path().join("run")).unwrap();
    let (_, records, _) = looks(&mut trainer);
    let when: Vec<(u64, u64)> = records.iter().map(|record| (record.step, record.epoch)).collect();
    assert_eq!(when, [(5, 0), (9, 1)]);
}

/// Steps that end within an epoch: the weights of the last one may be the best, so they are looked at.
#[test]
fn the_end_of_a_run_is_looked_at() {
    let folder = identities(5, 4);
    let mut config = config(folder.path());
    config.data.hold_out = 2;
    config.run.batch = 4;
    config.run.steps = Some(2);
    let run = folder.path().join("run");
    let (outcome, records, _) = looks(&mut Trainer::start(config, &run).unwrap());
    assert_eq!((outcome, records.len(), records[0].step), (Outcome::Finished, 1, 2));
    assert_eq!(Checkpoint::open(&run.join("checkpoints/best.ckpt")).unwrap().state.step, 2);
}

/// With `loader.damaged = "skip"` neither held-out crops nor training crops that are damaged end a run, a batch that has one
/// image left is passed over, and a run that was stopped goes on as if it had not been.
#[test]
fn damaged_images_do_not_end_a_run_that_leaves_them_out() {
    let folder = identities(5, 4);
    let mut config = config(folder.path());
    config.data.hold_out = 2;
    config.run.batch = 2;
    config.run.epochs = 2;
    config.loader.damaged = Damaged::Skip;
    config.checkpoints.every_steps = Some(1);
    // One image of everybody: whoever is held out has one, and so have batches of two.
    (0..5).for_each(|identity| {
        std::fs::write(folder.path().join(format!("faces/{identity}/0.png")), "no image").unwrap()
    });
    let run = folder.path().join("run");
    let mut trainer = Trainer::start(config.clone(), &run).unwrap();
    let (outcome, records, warnings) = looks(&mut trainer);
    assert_eq!((outcome, records.last().unwrap().validation_crops), (Outcome::Finished, 6));
    let told = |what: &str| warnings.iter().filter(|warning| warning.contains(what)).count();
    assert!(told("2 held-out images left out as damaged") >= 1, "{warnings:?}");
    assert!(told("one image is left of a batch") >= 1, "{warnings:?}");
    // Training crops come in both epochs, and are told of once.
    let of_crops: Vec<&String> = warnings.iter().filter(|warning| warning.contains("/0.png: ")).collect();
    let of_training = of_crops.iter().filter(|warning| !warning.contains("left out")).count();
    assert_eq!(of_training, 3, "{warnings:?}");

    let parts = folder.path().join("parts");
    let stop = AtomicBool::new(true);
    for _ in 0..trainer.steps() {
        let mut part =
            if parts.exists() { Trainer::resume(&parts) } else { Trainer::start(config.clone(), &parts) }.unwrap();
        part.run(&stop, &mut |_| {}).unwrap();
    }
    assert!(last(&parts) == last(&run));
}
