//! What a run is trained and validated on.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::checkpoint::State;
use super::{TrainConfig, TrainError};
use crate::data::{Dataset, FolderDataset, RecordDataset, SamplerConfig, hold_out};

/// Opens a record file, a folder with a `train.rec`, or a folder of identities.
///
/// # Errors
/// [`TrainError::Data`].
pub fn open_dataset(path: &Path) -> Result<Arc<dyn Dataset>, TrainError> {
    let records = path.join("train.rec");
    Ok(if records.is_file() {
        Arc::new(RecordDataset::open(&records)?)
    } else if path.is_dir() {
        Arc::new(FolderDataset::open(path)?)
    } else {
        Arc::new(RecordDataset::open(path)?)
    })
}

/// The two parts of a configuration's set; nobody is in both.
pub(super) struct Data {
    pub(super) train: Arc<dyn Dataset>,
    pub(super) held_out: Option<Arc<dyn Dataset>>,
}

impl Data {
    /// Opens and splits the set of a configuration.
    ///
    /// # Errors
    /// [`TrainError::Data`]; [`TrainError::Set`] where nothing can be learnt from one part, or the other says nothing.
    pub(super) fn open(config: &TrainConfig) -> Result<Self, TrainError> {
        let whole = open_dataset(&config.data.path)?;
        let (train, held_out): (Arc<dyn Dataset>, Option<Arc<dyn Dataset>>) = match config.data.hold_out {
            0 => (whole, None),
            count => {
                // Two at least stay, as two at least are held out.
                let most = whole.classes().saturating_sub(2);
                if count > most {
                    let problem = format!("data.hold_out is {count} of {} identities, at most {most}", whole.classes());
                    return Err(TrainError::Set { path: config.data.path.clone(), problem });
                }
                let (rest, held_out) = hold_out(&whole, count, config.seed)?;
                (Arc::new(rest), Some(Arc::new(held_out)))
            }
        };
        let wrong = |problem: &str| TrainError::Set { path: config.data.path.clone(), problem: problem.to_owned() };
        if config.head.weight > 0.0 && crops_of(train.as_ref()).iter().filter(|crops| **crops > 0).count() < 2 {
            return Err(wrong("a head tells identities apart, and there is only one to train on"));
        }
        if let Some(held_out) = &held_out {
            let crops = crops_of(held_out.as_ref());
            if crops.len() < 2 || crops.iter().all(|crops| *crops < 2) {
                return Err(wrong(
                    "validation compares a crop with others of its identity and with those of another, and the \
                     identities held out (data.hold_out) have no such crops",
                ));
            }
        }
        Ok(Self { train, held_out })
    }

    /// What tells the training part from any other, wherever its files lie: SHA-256 over labels and names, in hexadecimal.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for index in 0..self.train.len() {
            hash.update(self.train.label(index).to_le_bytes());
            hash.update(self.train.own_name(index));
            hash.update([0]);
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Refuses another set than a run began with.
    ///
    /// # Errors
    /// [`TrainError::OtherData`].
    pub(super) fn check_same(&self, state: &State) -> Result<(), TrainError> {
        let told = |samples, classes| format!("{samples} images of {classes} identities");
        let began = told(state.samples, state.classes);
        let mut found = told(self.train.len() as u64, self.train.classes() as u64);
        if began == found {
            if self.digest() == state.set {
                return Ok(());
            }
            found = "as many others".to_owned();
        }
        Err(TrainError::OtherData { began, found })
    }
}

/// How many crops each class has.
fn crops_of(dataset: &dyn Dataset) -> Vec<usize> {
    let mut crops = vec![0; dataset.classes()];
    (0..dataset.len()).for_each(|index| crops[dataset.label(index) as usize] += 1);
    crops
}

/// In which parts a configuration's samples come.
pub(super) fn sampler_config(config: &TrainConfig) -> SamplerConfig {
    SamplerConfig { batch: config.run.batch / config.run.accumulate, ..SamplerConfig::default() }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A folder of empty files: nothing here looks into them.
    fn folder(crops: &[(&str, usize)]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let faces = root.path().join("faces");
        for (identity, count) in crops {
            std::fs::create_dir_all(faces.join(identity)).unwrap();
            (0..*count).for_each(|crop| std::fs::write(faces.join(identity).join(format!("{crop}.png")), "").unwrap());
        }
        (root, faces)
    }

    fn config(path: PathBuf, hold_out: usize) -> TrainConfig {
        let mut config = TrainConfig::default();
        config.data.path = path;
        config.data.hold_out = hold_out;
        config
    }

    #[test]
    fn one_identity_is_not_told_apart() {
        let (_root, faces) = folder(&[("a", 3)]);
        let mut config = config(faces, 0);
        let refused = Data::open(&config).err().unwrap().to_string();
        assert!(refused.contains("only one to train on"), "{refused}");
        // A teacher has something to say of one person, too.
        config.head.weight = 0.0;
        assert!(Data::open(&config).is_ok());
    }

    #[test]
    fn held_out_identities_have_crops_to_compare() {
        let (_root, faces) = folder(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
        let refused = Data::open(&config(faces, 2)).err().unwrap().to_string();
        assert!(refused.contains("data.hold_out"), "{refused}");
        let (_root, faces) = folder(&[("a", 2), ("b", 2), ("c", 2), ("d", 2)]);
        assert!(Data::open(&config(faces.clone(), 1)).is_err());
        let data = Data::open(&config(faces, 2)).unwrap();
        assert_eq!((data.train.len(), data.held_out.unwrap().len()), (4, 4));
    }

    #[test]
    fn a_set_is_known_wherever_it_lies() {
        let digest = |crops: &[(&str, usize)]| {
            let (_root, faces) = folder(crops);
            Data::open(&config(faces, 0)).unwrap().digest()
        };
        let one = digest(&[("a", 2), ("b", 3)]);
        assert_eq!(one, digest(&[("a", 2), ("b", 3)]));
        // As many images of as many identities, but others of them.
        assert_ne!(one, digest(&[("a", 3), ("b", 2)]));
        assert_ne!(one, digest(&[("a", 2), ("c", 3)]));
    }
}
