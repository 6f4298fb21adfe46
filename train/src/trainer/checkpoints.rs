//! The checkpoints of a run: which are kept, and which one it goes on from.

use std::path::PathBuf;

use super::checkpoint::{Checkpoint, CheckpointError};
use super::whole::{remove_unfinished, write_whole};

const EXTENSION: &str = "ckpt";
/// What names of checkpoints begin with; the step follows.
const PREFIX: &str = "step-";
/// What is put behind the name of one that cannot be used.
const DAMAGED: &str = "damaged";

/// The checkpoints of a folder.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// Those of a folder, which is neither made nor changed until something is written.
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Those of a run that is to be trained: the folder is made if it is not there, and what a killed process was writing
    /// is removed. Nobody else may be writing there.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn open(folder: PathBuf) -> Result<Self, CheckpointError> {
        std::fs::create_dir_all(&folder).map_err(CheckpointError::io(&folder))?;
        remove_unfinished(&folder)?;
        Ok(Self { folder })
    }

    /// Where the best one lies.
    pub fn best(&self) -> PathBuf {
        self.folder.join(format!("best.{EXTENSION}"))
    }

    /// Steps and paths, the last first; none where the folder is not there.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn list(&self) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(CheckpointError::io(&self.folder)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(CheckpointError::io(&self.folder))?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.strip_prefix(PREFIX));
            let step = stem.filter(|_| path.extension().is_some_and(|extension| extension == EXTENSION));
            found.extend(step.and_then(|step| step.parse().ok()).map(|step| (step, path)));
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found)
    }

    /// Writes one, and removes those before it beyond the last `keep`, this one included. `best` says that it is the best
    /// so far.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn write(&self, checkpoint: &Checkpoint, best: bool, keep: usize) -> Result<PathBuf, CheckpointError> {
        let bytes = checkpoint.to_bytes()?;
        let step = checkpoint.state.step;
        let path = self.folder.join(format!("{PREFIX}{step:010}.{EXTENSION}"));
        // The best one first: whoever goes on from the other takes its word for it that the best is kept.
        if best {
            write_whole(&self.best(), &bytes)?;
        }
        write_whole(&path, &bytes)?;
        let before = self.list()?.into_iter().filter(|(of, _)| *of < step);
        for (_, old) in before.skip(keep.saturating_sub(1)) {
            std::fs::remove_file(&old).map_err(CheckpointError::io(&old))?;
        }
        Ok(path)
    }

    /// The last one that is whole, and why later ones cannot be used: they are damaged.
    ///
    /// # Errors
    /// [`CheckpointError::NoneUsable`] where there are some and all are damaged; [`CheckpointError::Io`] and
    /// [`CheckpointError::Version`] for one that may be whole but cannot be read here.
    pub fn last(&self) -> Result<(Option<Checkpoint>, Vec<CheckpointError>), CheckpointError> {
        let mut refused = Vec::new();
        for (_, path) in self.list()? {
            match Checkpoint::open(&path) {
                Ok(checkpoint) => return Ok((Some(checkpoint), refused)),
                Err(error @ CheckpointError::Damaged { .. }) => refused.push(error),
                Err(error) => return Err(error),
            }
        }
        let count = refused.len();
        match refused.into_iter().next() {
            Some(last) => Err(CheckpointError::NoneUsable { count, last: Box::new(last) }),
            None => Ok((None, Vec::new())),
        }
    }

    /// Gives damaged checkpoints another name, so that they are neither read nor counted again. What is to be told of each.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn set_aside(&self, refused: &[CheckpointError]) -> Result<Vec<String>, CheckpointError> {
        let mut told = Vec::new();
        for error in refused {
            let CheckpointError::Damaged { path, .. } = error else { continue };
            let aside = path.with_extension(format!("{EXTENSION}.{DAMAGED}"));
            std::fs::rename(path, &aside).map_err(CheckpointError::io(path))?;
            let name = aside.file_name().unwrap_or_default().to_string_lossy();
            told.push(format!("{error}; it is now called {name}"));
        }
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::tests::checkpoint;
    use super::*;

    fn steps(all: &Checkpoints) -> Vec<u64> {
        all.list().unwrap().into_iter().map(|(step, _)| step).collect()
    }

    /// Flips a bit in the middle of a file.
    fn damage(path: &PathBuf) {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn the_last_are_kept_and_a_damaged_one_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let all = Checkpoints::open(folder.path().join("checkpoints")).unwrap();
        assert!(all.last().unwrap().0.is_none());
        for step in [9, 10, 110] {
            all.write(&checkpoint(step), step == 9, 2).unwrap();
        }
        assert_eq!(steps(&all), [110, 10]);
        assert_eq!(Checkpoint::open(&all.best()).unwrap().state.step, 9);
        damage(&all.list().unwrap()[0].1);
        let (last, refused) = all.last().unwrap();
        assert_eq!(last.unwrap().state.step, 10);
        let told = all.set_aside(&refused).unwrap();
        let [message] = told.as_slice() else { panic!("{told:?}") };
        assert!(message.contains("step-0000000110.ckpt cannot be used: it is damaged"), "{message}");
        assert!(message.ends_with("called step-0000000110.ckpt.damaged") && !message.contains('\n'), "{message}");
        assert_eq!(steps(&all), [10]);
    }

    #[test]
    fn a_new_one_is_not_removed_for_older_ones_of_later_steps() {
        let folder = tempfile::tempdir().unwrap();
        let all = Checkpoints::open(folder.path().to_owned()).unwrap();
        for step in [20, 30, 4, 5] {
            all.write(&checkpoint(step), false, 2).unwrap();
        }
        assert_eq!(steps(&all), [30, 20, 5, 4]);
    }

    #[test]
    fn where_none_can_be_used_nothing_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let all = Checkpoints::open(folder.path().to_owned()).unwrap();
        for step in [1, 2] {
            all.write(&checkpoint(step), false, 3).unwrap();
        }
        for (_, path) in all.list().unwrap() {
            damage(&path);
        }
        let error = all.last().unwrap_err();
        assert!(matches!(error, CheckpointError::NoneUsable { count: 2, .. }), "{error}");
        assert!(error.to_string().contains("step-0000000002.ckpt"), "{error}");
        // What cannot be read at all may be whole: here a folder of that name.
        std::fs::create_dir(folder.path().join("step-0000000003.ckpt")).unwrap();
        assert!(matches!(all.last(), Err(CheckpointError::Io { .. })));
    }

    /// Where the checkpoint itself cannot be written, as if the process had been killed there, the best is kept already.
    #[test]
    fn the_best_is_written_first() {
        let folder = tempfile::tempdir().unwrap();
        let all = Checkpoints::open(folder.path().to_owned()).unwrap();
        std::fs::create_dir(folder.path().join("step-0000000009.ckpt")).unwrap();
        assert!(all.write(&checkpoint(9), true, 2).is_err());
        assert_eq!(Checkpoint::open(&all.best()).unwrap().state.step, 9);
    }

    #[test]
    fn only_who_trains_changes_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoints");
        assert!(Checkpoints::at(path.clone()).last().unwrap().0.is_none());
        assert!(!path.exists());
        std::fs::create_dir(&path).unwrap();
        let unfinished = path.join(".writing-1");
        std::fs::write(&unfinished, "").unwrap();
        Checkpoints::at(path.clone()).list().unwrap();
        assert!(unfinished.exists());
        Checkpoints::open(path).unwrap();
        assert!(!unfinished.exists());
    }
}
