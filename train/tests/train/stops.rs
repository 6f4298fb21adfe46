//! Runs that are stopped or killed, and go on.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{config, identities, last, records, train};
use vultus_train::trainer::{Event, Outcome, StepRecord, TrainError, Trainer};

/// Stopped after some step and taken up again, by a checkpoint that is not the last of an epoch; compared with a run
/// that went through: all bytes of the final checkpoint, weights, momenta, running norms and positions.
#[test]
fn a_run_that_was_stopped_ends_with_the_same_bits() {
    let folder = identities(5, 8);
    let mut config = config(folder.path());
    config.data.hold_out = 1;
    config.run.accumulate = 2;
    let whole = folder.path().join("whole");
    let (outcome, through) = records(&mut Trainer::start(config.clone(), &whole).unwrap());
    assert_eq!((outcome, through.len()), (Outcome::Finished, 8));
    for stop_after in [1, 3, 6] {
        let parts = folder.path().join(format!("parts-{stop_after}"));
        let stop = AtomicBool::new(false);
        let mut first = Trainer::start(config.clone(), &parts).unwrap();
        let outcome = first.run(&stop, &mut |event| {
            if let Event::Step { record, .. } = event {
                stop.store(record.step == stop_after, Ordering::Relaxed);
            }
        });
        assert_eq!(outcome.unwrap(), Outcome::Stopped);
        assert!(matches!(Trainer::start(config.clone(), &parts), Err(TrainError::Exists(_))));
        let mut second = Trainer::resume(&parts).unwrap();
        assert_eq!(second.state().step, stop_after);
        let (outcome, rest) = records(&mut second);
        assert_eq!((outcome, rest.len() as u64), (Outcome::Finished, 8 - stop_after));
        assert!(rest.iter().zip(&through[stop_after as usize..]).all(|(a, b)| a.loss.to_bits() == b.loss.to_bits()));
        assert!(last(&parts) == last(&whole), "stopped after {stop_after}");
        let best = |run: &Path| std::fs::read(run.join("checkpoints/best.ckpt")).unwrap();
        assert!(best(&parts) == best(&whole));
    }
    // A finished run has nothing to go on with.
    assert_eq!(records(&mut Trainer::resume(&whole).unwrap()), (Outcome::Finished, vec![]));
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
    assert!(process.wait().unwrap().success());
    let mut told = String::new();
    process.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.starts_with("stopped; --resume goes on: step "), "{told}");
    let step: u64 = told.split_whitespace().nth(5).unwrap().parse().unwrap();
    assert_eq!(Trainer::resume(&run).unwrap().state().step, step);
}
