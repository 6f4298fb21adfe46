//! Training data: from files to batches.
//!
//! ```text
//! train.rec ─► RecordDataset ┐                         ┌ thread: decode, augment, normalise ┐
//!                            ├─► Subset? ─► Sampler ─► ┤ …                                  ├─► Loader: batches in order
//! folders ───► FolderDataset ┘                         └ thread                             ┘
//! ```
//!
//! Colours are blue, green, red throughout, as in the published code: it turns the pictures of both kinds of files round
//! before anything else is done to them, so that augmentations that weigh colours see blue where red is meant. Networks
//! trained there take the same order.
//!
//! Everything random is drawn from one seed. The order of an epoch depends on (seed, epoch), what is done to a sample on
//! (seed, epoch, index), so that neither the number of threads nor a pause changes a batch.
//!
//! # Use
//! ```no_run
//! use std::path::Path;
//! use std::sync::Arc;
//! use vultus_train::data::{AugmentConfig, Loader, LoaderConfig, RecordDataset, Sampler, SamplerConfig};
//!
//! # fn main() -> Result<(), vultus_train::data::DataError> {
//! let dataset = Arc::new(RecordDataset::open(Path::new("faces/train.rec"))?);
//! let sampler = Sampler::new(17, SamplerConfig { batch: 128, ..SamplerConfig::default() }, dataset.as_ref())?;
//! for batch in Loader::new(dataset, sampler, AugmentConfig::default(), LoaderConfig::default())? {
//!     let batch = batch?;
//!     println!("epoch {} step {}: {} images", batch.epoch, batch.step, batch.labels.len());
//! }
//! # Ok(())
//! # }
//! ```

mod augment;
mod crop;
mod folder;
mod loader;
mod pack;
mod readable;
pub mod recordio;
mod records;
#[cfg(test)]
mod reference;
mod resize;
mod sampler;
mod sheet;
mod subset;

use std::io;
use std::path::{Path, PathBuf};

use vultus_engine::image::DecodeError;

pub use augment::{AugmentConfig, Rectangle, augment, black_outside, brightness, contrast, flip, saturation, stream};
pub use crop::{Crop, SIDE};
pub use folder::FolderDataset;
pub use loader::{Batch, Damaged, Loader, LoaderConfig};
pub use pack::{LabelForm, PackConfig, Packed, pack};
pub use readable::{Readable, warning};
pub use records::RecordDataset;
pub use resize::{Interpolation, Size, resize};
pub use sampler::{Sampler, SamplerConfig, SamplerState, Step};
pub use sheet::contact_sheet;
pub use subset::{Subset, hold_out};

use recordio::RecordError;

/// Why there is no data.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file or folder that cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A record file that is damaged or cannot be written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// An image that is damaged.
    #[error("{name}: {source}")]
    Image {
        /// Which.
        name: String,
        /// What is wrong.
        source: DecodeError,
    },
    /// An image that is no aligned crop.
    #[error("{name} has {width}x{height} pixels, {wanted}")]
    WrongSize {
        /// Which.
        name: String,
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// What it should have.
        wanted: &'static str,
    },
    /// An image that cannot be encoded.
    #[error("{name} cannot be encoded: {reason}")]
    Encode {
        /// Which.
        name: String,
        /// Why.
        reason: String,
    },
    /// A folder or record file without what is needed.
    #[error("{path} has no {what}")]
    Nothing {
        /// Which.
        path: PathBuf,
        /// What it lacks.
        what: &'static str,
    },
    /// A file that would be overwritten.
    #[error("{0} is there already")]
    Exists(PathBuf),
    /// A setting outside of what makes sense.
    #[error("{setting} is {value}, it has to be {range}")]
    BadSetting {
        /// Which setting.
        setting: &'static str,
        /// Its value.
        value: f64,
        /// What it has to be.
        range: String,
    },
    /// Every image of a batch is damaged.
    #[error("all {0} images are damaged, the first: {1}")]
    AllDamaged(usize, String),
    /// Somebody asked for an end.
    #[error("it was stopped, and nothing was written")]
    Stopped,
    /// A loader thread came to an end that it should not have.
    #[error("a loader thread ended unexpectedly")]
    ThreadLost,
}

impl DataError {
    pub(crate) fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Read { path: path.to_owned(), source }
    }

    pub(crate) fn writing(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self::Write { path: path.to_owned(), source }
    }

    /// Whether the error is about one image alone, so that a run can go on without it.
    pub fn is_one_image(&self) -> bool {
        match self {
            Self::Image { .. } | Self::WrongSize { .. } => true,
            Self::Record(RecordError::Damaged { fault, .. }) => !matches!(fault, recordio::Fault::Io(_)),
            _ => false,
        }
    }
}

/// What is in a regular file. To open another kind can mean to wait for somebody who writes to it.
fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    let read = || match std::fs::metadata(path)?.is_file() {
        true => std::fs::read(path),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
    };
    read().map_err(DataError::reading(path))
}

/// Checks one setting.
fn check_setting(setting: &'static str, value: f64, range: impl Into<String>, valid: bool) -> Result<(), DataError> {
    if valid { Ok(()) } else { Err(DataError::BadSetting { setting, value, range: range.into() }) }
}

/// Aligned crops, each of one of several identities ("classes" where a network is trained to tell them apart).
///
/// Samples are numbered from 0, and so are classes. Threads share one dataset.
pub trait Dataset: Send + Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Number of classes: labels are below it.
    fn classes(&self) -> usize;

    /// Class of a sample.
    ///
    /// # Panics
    /// If there is no such sample, as all methods with an index.
    fn label(&self, index: usize) -> u32;

    /// What a message calls a sample.
    fn name(&self, index: usize) -> String;

    /// What a sample is called among those of its set, wherever the set lies. Nothing where samples have no names.
    fn own_name(&self, _index: usize) -> String {
        String::new()
    }

    /// The picture of a sample, read and decoded.
    ///
    /// # Errors
    /// [`DataError`] that names the sample.
    fn image(&self, index: usize) -> Result<Crop, DataError>;

    /// Whether there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
