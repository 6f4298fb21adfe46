//! A run's folder, which one process at a time trains in.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::TrainError;
use super::checkpoints::Checkpoints;
use super::whole::remove_unfinished;

const CONFIG: &str = "config.toml";
const CHECKPOINTS: &str = "checkpoints";
/// Locked as long as a process trains. The file stays: removing it could take away another's lock.
const LOCK: &str = "lock";

/// The folder of a run, locked until this is dropped.
#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// A folder for a new run, which is made if it is not there.
    ///
    /// # Errors
    /// [`TrainError::Exists`], [`TrainError::Leftover`], [`TrainError::Locked`].
    pub(super) fn begin(path: &Path) -> Result<Self, TrainError> {
        vacant(path)?;
        std::fs::create_dir_all(path).map_err(TrainError::io(path))?;
        let folder = Self::lock(path)?;
        // Another process may have begun a run, and ended, since.
        vacant(path)?;
        Ok(folder)
    }

    /// The folder of a run that is there.
    ///
    /// # Errors
    /// [`TrainError::NoRun`], [`TrainError::Locked`].
    pub(super) fn take_up(path: &Path) -> Result<Self, TrainError> {
        if !path.join(CONFIG).exists() {
            return Err(TrainError::NoRun(path.to_owned()));
        }
        Self::lock(path)
    }

    fn lock(path: &Path) -> Result<Self, TrainError> {
        let name = path.join(LOCK);
        let file = File::options().create(true).truncate(false).write(true).open(&name);
        let file = file.map_err(TrainError::io(&name))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(TrainError::Locked(path.to_owned())),
            // Some file systems have no locks; there it is up to who starts trainings.
            Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(TrainError::io(&name)(error)),
        }
        remove_unfinished(path)?;
        Ok(Self { path: path.to_owned(), _lock: file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn config(&self) -> PathBuf {
        config_of(&self.path)
    }

    pub(super) fn checkpoints(&self) -> PathBuf {
        checkpoints_of(&self.path)
    }
}

/// The configuration of the run in a folder.
pub(super) fn config_of(run: &Path) -> PathBuf {
    run.join(CONFIG)
}

/// The checkpoints of the run in a folder.
pub(super) fn checkpoints_of(run: &Path) -> PathBuf {
    run.join(CHECKPOINTS)
}

/// Refuses a folder with a run, or with checkpoints of one whose configuration is gone: new ones would mix with them.
fn vacant(path: &Path) -> Result<(), TrainError> {
    if config_of(path).exists() {
        return Err(TrainError::Exists(path.to_owned()));
    }
    let left = Checkpoints::at(checkpoints_of(path));
    if left.best().exists() || !left.list()?.is_empty() { Err(TrainError::Leftover(path.to_owned())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_trains_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        assert!(matches!(RunFolder::take_up(&run), Err(TrainError::NoRun(_))));
        assert!(!run.exists());
        let first = RunFolder::begin(&run).unwrap();
        let second = RunFolder::begin(&run).unwrap_err();
        assert!(matches!(second, TrainError::Locked(_)), "{second}");
        std::fs::write(first.config(), "").unwrap();
        assert!(matches!(RunFolder::begin(&run), Err(TrainError::Exists(_))));
        assert!(matches!(RunFolder::take_up(&run), Err(TrainError::Locked(_))));
        std::fs::write(run.join(".writing-x"), "").unwrap();
        drop(first);
        let again = RunFolder::take_up(&run).unwrap();
        assert_eq!(again.path(), run);
        assert!(!run.join(".writing-x").exists());
    }

    #[test]
    fn no_run_begins_over_checkpoints_of_another() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["best.ckpt", "step-0000000004.ckpt"] {
            let run = folder.path().join(name);
            std::fs::create_dir_all(checkpoints_of(&run)).unwrap();
            std::fs::write(checkpoints_of(&run).join(name), "").unwrap();
            assert!(matches!(RunFolder::begin(&run), Err(TrainError::Leftover(_))), "{name}");
        }
    }
}
