//! What is kept of a run so that it can go on to the bit: one file.
//!
//! ```text
//! "VULTUS-CKPT" 0 | version u32 | length u64 | SHA-256 of what follows | safetensors with the state as JSON in its metadata
//! ```
//! Numbers are little-endian. A file is written beside under another name, synced and renamed, so that under its name it
//! is whole or not there; what has been damaged since is found by the hash and refused. Nothing in it depends on when it
//! was written: the same training gives the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vultus_engine::model::Architecture;
use vultus_engine::model::manifest::Input;

use super::fixed::Fixed;
use crate::data::SamplerState;

const MAGIC: [u8; 12] = *b"VULTUS-CKPT\0";
const VERSION: u32 = 2;
/// Bytes ahead of the safetensors part.
const FRONT: usize = MAGIC.len() + 4 + 8 + 32;
/// Where the state is in the metadata.
const STATE: &str = "state";

/// Why a checkpoint cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file or folder that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is no checkpoint, or not as it was written.
    #[error("{} cannot be used: {problem}", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A checkpoint of another version of this program.
    #[error("{} is a checkpoint of version {found}, this vultus-train has version {}", path.display(), VERSION)]
    Version {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// There are checkpoints, and all of them are damaged.
    #[error("none of {count} checkpoints can be used, the last: {last}")]
    NoneUsable {
        /// How many there are.
        count: usize,
        /// Why the last cannot be used.
        last: Box<CheckpointError>,
    },
    /// A tensor that cannot be kept.
    #[error("{name} cannot be kept: {problem}")]
    Tensor {
        /// Its name.
        name: String,
        /// Why.
        problem: String,
    },
}

impl CheckpointError {
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Where a run stands, beside its tensors. Everything random is drawn from the configuration's seed and these numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done.
    pub step: u64,
    /// From where the sampler goes on.
    pub sampler: SamplerState,
    /// Samples and classes of what is trained on, to tell of another set.
    pub samples: u64,
    /// See `samples`.
    pub classes: u64,
    /// SHA-256 over labels and names of what is trained on, to notice another set of the same size.
    pub set: String,
    /// The settings that may not change on the way.
    pub fixed: Fixed,
    /// The network.
    pub architecture: Architecture,
    /// Values of its embeddings.
    pub dim: usize,
    /// What it wants to see.
    pub input: Input,
    /// The best validation so far, from 0 to 1.
    pub best: Option<f64>,
    /// Validations in a row that were no better.
    pub stale: u64,
}

/// A run, kept.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Where it stands.
    pub state: State,
    /// `network.NAME`, `head.kernel`, `head.BUFFER`, and `momentum.NAME` of each of them that has one; where classes are
    /// sampled, `head.weight` and `head.momentum` in the kernel's place. f32 or f64.
    pub tensors: HashMap<String, Tensor>,
}

impl Checkpoint {
    /// The bytes of a file.
    ///
    /// # Errors
    /// [`CheckpointError::Tensor`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        let wrong = |name: &str, problem: String| CheckpointError::Tensor { name: name.to_owned(), problem };
        let mut values = BTreeMap::new();
        for (name, tensor) in &self.tensors {
            values.insert(name, bytes(tensor).map_err(|error| wrong(name, error.to_string()))?);
        }
        let mut views = Vec::with_capacity(values.len());
        for (name, (dtype, shape, bytes)) in &values {
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            views.push((name.as_str(), view.map_err(|error| wrong(name, error.to_string()))?));
        }
        let state = serde_json::to_string(&self.state).map_err(|error| wrong(STATE, error.to_string()))?;
        let metadata = HashMap::from([(STATE.to_owned(), state)]);
        let payload = serialize(views, Some(metadata)).map_err(|error| wrong(STATE, error.to_string()))?;
        let mut file = Vec::with_capacity(FRONT + payload.len());
        file.extend(MAGIC);
        file.extend(VERSION.to_le_bytes());
        file.extend((payload.len() as u64).to_le_bytes());
        file.extend(Sha256::digest(&payload));
        file.extend(payload);
        Ok(file)
    }

    /// Whether a file says that it is a checkpoint of a run, whole or damaged.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn is_at(path: &Path) -> Result<bool, CheckpointError> {
        let mut magic = Vec::new();
        let file = File::open(path).map_err(CheckpointError::io(path))?;
        file.take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(CheckpointError::io(path))?;
        Ok(magic == MAGIC)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`CheckpointError::Io`], [`CheckpointError::Version`], [`CheckpointError::Damaged`].
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let file = std::fs::read(path).map_err(CheckpointError::io(path))?;
        match version(&file) {
            Some(found) if found != VERSION => Err(CheckpointError::Version { path: path.to_owned(), found }),
            _ => Self::from_bytes(&file).map_err(|problem| CheckpointError::Damaged { path: path.to_owned(), problem }),
        }
    }

    fn from_bytes(file: &[u8]) -> Result<Self, String> {
        let (front, payload) = file.split_at_checked(FRONT).ok_or("it is too short for a checkpoint")?;
        let (magic, front) = front.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err("it is no checkpoint".into());
        }
        let (version, front) = front.split_at(4);
        if version != VERSION.to_le_bytes() {
            return Err("it is of another version of vultus-train".into());
        }
        let (length, hash) = front.split_at(8);
        if length != (payload.len() as u64).to_le_bytes() {
            return Err("it is cut short, or longer than it should be".into());
        }
        if Sha256::digest(payload).as_slice() != hash {
            return Err("it is damaged (SHA-256)".into());
        }
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let (_, metadata) = SafeTensors::read_metadata(payload).map_err(|error| text(&error))?;
        let state = metadata.metadata().as_ref().and_then(|metadata| metadata.get(STATE)).ok_or("it has no state")?;
        let state = serde_json::from_str(state).map_err(|error| text(&error))?;
        let tensors = candle_core::safetensors::load_buffer(payload, &Device::Cpu).map_err(|error| text(&error))?;
        Ok(Self { state, tensors })
    }

    /// The tensors whose names begin so, without that beginning.
    pub fn part(&self, prefix: &str) -> HashMap<String, Tensor> {
        let strip = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor.clone()));
        self.tensors.iter().filter_map(strip).collect()
    }
}

/// The version of what begins as a checkpoint.
fn version(file: &[u8]) -> Option<u32> {
    file.strip_prefix(&MAGIC)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Type, shape and little-endian values of a tensor.
fn bytes(tensor: &Tensor) -> candle_core::Result<(Dtype, Vec<usize>, Vec<u8>)> {
    let flat = tensor.flatten_all()?;
    let (dtype, bytes) = match tensor.dtype() {
        DType::F64 => (Dtype::F64, flat.to_vec1::<f64>()?.iter().flat_map(|value| value.to_le_bytes()).collect()),
        _ => (Dtype::F32, flat.to_vec1::<f32>()?.iter().flat_map(|value| value.to_le_bytes()).collect()),
    };
    Ok((dtype, tensor.dims().to_vec(), bytes))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::TrainConfig;
    use super::*;
    use proptest::prelude::*;

    /// A checkpoint of a run that has trained nothing.
    pub(in super::super) fn checkpoint(step: u64) -> Checkpoint {
        let tensors = HashMap::from([
            ("network.a".to_owned(), Tensor::new(&[[1.5f32, -0.0], [f32::MIN_POSITIVE, 3.0]], &Device::Cpu).unwrap()),
            ("head.batch_mean".to_owned(), Tensor::new(&[0.1f64 + 0.2], &Device::Cpu).unwrap()),
        ]);
        let state = State {
            step,
            sampler: SamplerState { seed: 3, epoch: 1, position: 64 },
            samples: 100,
            classes: 4,
            set: "ab".into(),
            fixed: Fixed::of(&TrainConfig::default()),
            architecture: Architecture::Ir18,
            dim: 512,
            input: Architecture::Ir18.default_input(),
            best: Some(0.1 + 0.2),
            stale: 2,
        };
        Checkpoint { state, tensors }
    }

    #[test]
    fn what_is_written_is_read_to_the_bit() {
        let bytes = checkpoint(7).to_bytes().unwrap();
        let read = Checkpoint::from_bytes(&bytes).unwrap();
        assert_eq!(read.state, checkpoint(7).state);
        assert_eq!(read.to_bytes().unwrap(), bytes);
        assert_eq!(read.tensors["head.batch_mean"].dtype(), DType::F64);
        assert_eq!(read.part("network.").keys().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn another_version_is_told_from_damage() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.ckpt");
        let mut bytes = checkpoint(7).to_bytes().unwrap();
        bytes[MAGIC.len()] += 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(Checkpoint::open(&path), Err(CheckpointError::Version { found: 3, .. })));
        assert!(Checkpoint::is_at(&path).unwrap());
        std::fs::write(&path, &bytes[..5]).unwrap();
        assert!(!Checkpoint::is_at(&path).unwrap());
        assert!(matches!(Checkpoint::is_at(folder.path().join("none").as_path()), Err(CheckpointError::Io { .. })));
    }

    proptest! {
        #[test]
        fn no_damage_goes_unnoticed(at in 0usize..4096, flip in 1u8..=255, cut in 0usize..4096) {
            let bytes = checkpoint(7).to_bytes().unwrap();
            let mut changed = bytes.clone();
            let at = at % changed.len();
            changed[at] ^= flip;
            prop_assert!(Checkpoint::from_bytes(&changed).is_err());
            prop_assert!(Checkpoint::from_bytes(&bytes[..cut % bytes.len()]).is_err());
        }
    }
}
