//! Runs that are stopped or killed, and go on.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::{config, identities, last, records, stop_after, train};
use vultus_train::trainer::{Outcome, StepRecord, TrainError, Trainer};

/// Stopped after some step and taken up again, by a checkpoint that is not the last of an epoch; compared with a run
/// that went through: all bytes of the final checkpoint, weights, momenta, running norms and positions.
#[test]
fn a_run_that_was_stopped_ends_with_the_same_bits() {
    let folder = identities(6, 8);
    let mut config = config(folder.path());
    config.data.hold_out = 2;
    // What is small is hard to tell apart, so that one look differs from the next.
    config.validation.sides = vec![8];
    config.run.accumulate = 2;
    let whole = folder.path().join("whole");
    let (outcome, through) = records(&mut Trainer::start(config.clone(), &whole).unwrap());
    assert_eq!((outcome, through.len()), (Outcome::Finished, 8));
    for stop_after_step in [1, 3, 6] {
        let parts = folder.path().join(format!("parts-{stop_after_step}"));
        let mut first = Trainer::start(config.clone(), &parts).unwrap();
        stop_after(&mut first, stop_after_step);
        assert!(matches!(Trainer::start(config.clone(), &parts), Err(TrainError::Exists(_))));
        assert!(matches!(Trainer::resume(&parts), Err(TrainError::Locked(_))));
        drop(first);
        let mut second = Trainer::resume(&parts).unwrap();
        assert_eq!(second.state().step, stop_after_step);
        let (outcome, rest) = records(&mut second);
        assert_eq!((outcome, rest.len() as u64), (Outcome::Finished, 8 - stop_after_step));
        assert!(
            rest.iter().zip(&through[stop_after_step as usize..]).all(|(a, b)| a.loss.to_bits() == b.loss.to_bits())
        );
        assert!(last(&parts) == last(&whole), "stopped after {stop_after_step}");
        let best = |run: &Path| std::fs::read(run.join("checkpoints/best.ckpt")).unwrap();
        assert!(best(&parts) == best(&whole));
    }
    // A finished run has nothing to go on with.
    assert_eq!(records(&mut Trainer::resume(&whole).unwrap()), (Outcome::Finished, vec![]));
}

/// What a run has learnt is kept only as long as it is numbers.
#[test]
fn weights_that_are_no_numbers_are_not_kept() {
    let folder = identities(4, 8);
    let mut config = config(folder.path());
    config.checkpoints.every_steps = Some(1);
    config.optimiser.rate = 1e38;
    let run = folder.path().join("run");
    let mut trainer = Trainer::start(config, &run).unwrap();
    let message = trainer.run(&AtomicBool::new(false), &mut |_| {}).unwrap_err().to_string();
    assert_eq!(message, "step 1: the loss, a gradient or a weight is not finite: the rate may be too high");
    assert_eq!(std::fs::read_dir(run.join("checkpoints")).unwrap().count(), 0);
}

/// The process is killed while it trains, the last checkpoint is damaged, and a new process goes on from the one before.
#[test]
fn a_killed_process_is_taken_up_by_another() {
    let folder = identities(4, 8);
    let mut config = config(folder.path());
    config.checkpoints.every_steps = Some(1);
    let file = folder.path().join("run.toml");
    std::fs::write(&file, config.to_toml().unwrap()).unwrap();
    let out = Path::new("--out");
    let whole = folder.path().join("whole");
    let done = train(&[&file, out, &whole]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(String::from_utf8_lossy(&done.stdout), "done: step 8 of 8\n");

    let killed = folder.path().join("killed");
    let mut process = train(&[&file, out, &killed]).spawn().unwrap();
    let begun = Instant::now();
    let steps = || std::fs::read_to_string(killed.join("metrics.ndjson")).unwrap_or_default().lines().count();
    while steps() < 4 {
        assert!(begun.elapsed() < Duration::from_secs(120), "it does not get on");
        assert!(process.try_wait().unwrap().is_none(), "it ended before it could be killed");
        std::thread::sleep(Duration::from_millis(1));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    let mut checkpoints: Vec<PathBuf> =
        std::fs::read_dir(killed.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    checkpoints.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with("step-"));
    checkpoints.sort();
    assert!(checkpoints.len() >= 2, "{checkpoints:?}");
    let damaged = checkpoints.last().unwrap();
    let bytes = std::fs::read(damaged).unwrap();
    std::fs::write(damaged, &bytes[..bytes.len() - 1]).unwrap();

    let resumed = train(&[Path::new("--resume"), &killed]).output().unwrap();
    let told = String::from_utf8_lossy(&resumed.stderr).into_owned();
    assert!(resumed.status.success(), "{told}");
    assert!(told.contains("cannot be used: it is cut short") && told.lines().count() == 1, "{told}");
    assert!(last(&killed) == last(&whole));
    let lines = std::fs::read_to_string(killed.join("metrics.ndjson")).unwrap();
    let steps = lines.lines().map(|line| serde_json::from_str::<StepRecord>(line).unwrap().step);
    assert_eq!(steps.collect::<Vec<_>>(), (1..=8).collect::<Vec<_>>());
}

/// An interrupt writes a checkpoint; the run goes on from there.
#[cfg(unix)]
#[test]
fn an_interrupt_writes_a_checkpoint() {
    let folder = identities(4, 8);
    let mut config = config(folder.path());
    config.run.epochs = 1000;
    let file = folder.path().join("run.toml");
    std::fs::write(&file, config.to_toml().unwrap()).unwrap();
    let run = folder.path().join("run");
    let mut process = train(&[&file, Path::new("--out"), &run]).spawn().unwrap();
    let begun = Instant::now();
    while std::fs::read_to_string(run.join("metrics.ndjson")).unwrap_or_default().lines().count() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(120), "it does not get on");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap().success());
    assert_eq!(process.wait().unwrap().code(), Some(3));
    let mut told = String::new();
    process.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.starts_with("stopped; --resume goes on: step "), "{told}");
    let step: u64 = told.split_whitespace().nth(5).unwrap().parse().unwrap();
    assert_eq!(Trainer::resume(&run).unwrap().state().step, step);
}

/// Stopped after its first step, a run goes on with the same data and settings or not at all, and says what is different.
#[test]
fn a_run_goes_on_with_what_it_began_with() {
    let folder = identities(3, 4);
    let mut config = config(folder.path());
    config.run.batch = 4;
    let run = folder.path().join("run");
    let stop = AtomicBool::new(true);
    assert_eq!(Trainer::start(config.clone(), &run).unwrap().run(&stop, &mut |_| {}).unwrap(), Outcome::Stopped);
    let file = run.join("config.toml");
    let began = std::fs::read_to_string(&file).unwrap();
    for (setting, other) in [("seed = 5", "seed = 6"), ("batch = 4", "batch = 6"), ("\"adaface\"", "\"cosface\"")] {
        assert!(began.contains(setting), "{began}");
        std::fs::write(&file, began.replace(setting, other)).unwrap();
        let refused = Trainer::resume(&run).unwrap_err();
        assert!(matches!(refused, TrainError::OtherSetting { .. }), "{refused}");
    }
    std::fs::write(&file, &began).unwrap();
    let image = |name: &str| folder.path().join("faces/1").join(name);
    std::fs::rename(image("0.png"), image("other.png")).unwrap();
    let refused = Trainer::resume(&run).unwrap_err();
    assert!(matches!(refused, TrainError::OtherData { .. }), "{refused}");
    std::fs::rename(image("other.png"), image("0.png")).unwrap();
    assert_eq!(Trainer::resume(&run).unwrap().state().step, 1);

    // With nothing but damaged checkpoints it does not begin anew, and its metrics stay.
    let checkpoint = run.join("checkpoints/step-0000000001.ckpt");
    let bytes = std::fs::read(&checkpoint).unwrap();
    std::fs::write(&checkpoint, &bytes[1..]).unwrap();
    let refused = Trainer::resume(&run).unwrap_err();
    assert!(matches!(refused, TrainError::Checkpoint(_)), "{refused}");
    assert_eq!(std::fs::read_to_string(run.join("metrics.ndjson")).unwrap().lines().count(), 1);
    assert!(checkpoint.exists());
}

/// The script around both fine-tunings: if one training fails, the other is asked to stop, and nothing is exported.
#[cfg(unix)]
#[test]
fn one_failed_training_stops_the_other() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    ["faces", "lfw"].iter().for_each(|name| std::fs::create_dir(path(name)).unwrap());
    let trainer = path("trainer");
    let text = "#!/bin/sh
if [ \"$1 $2\" = \"train finetune-adaface.toml\" ]; then
    while [ ! -e waiting ]; do sleep 0.01; done
    exit 3
elif [ \"$1\" = train ]; then
    trap 'touch stopped; exit 3' TERM
    touch waiting
    for second in $(seq 600); do sleep 0.1; done
else
    touch \"called-$1\"
fi
";
    std::fs::write(&trainer, text).unwrap();
    std::fs::set_permissions(&trainer, std::fs::Permissions::from_mode(0o755)).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/finetune");
    let arguments = [path("faces"), path("lfw"), path("out")];
    let ended = Command::new(script).args(&arguments).env("VULTUS_TRAIN", &trainer).output().unwrap();
    assert_eq!(ended.status.code(), Some(3), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(path("out/stopped").exists() && !path("out/called-export").exists());
}
