//! A training set in a record file.

use std::path::Path;

use super::recordio::{Fault, Labels, RecordError, RecordIndex, RecordReader};
use super::{Crop, DataError, Dataset};

/// Whole numbers up to here are exact in the `f32` of labels.
const EXACT: f32 = (1u32 << 24) as f32;

/// A label may be this many times the number of identities, or of images where the set does not say how many there are:
/// numbers may have gaps, but a head has a direction for each, and one damaged label could ask for gigabytes.
const GAPS: f64 = 16.0;
/// Labels below this are taken whatever the number of identities.
const ALWAYS: f64 = 65_536.0;

/// A `train.rec` with its `train.idx`.
///
/// Where record 0 has an array of labels `[A, B]`, images have the keys 1 to A − 1, and A to B − 1 are records that say
/// which images an identity has; the latter are not needed. Where record 0 has one label it is an image, and so is every
/// other record. All headers are read when the set is opened, as in the published code; 12 bytes a sample stay in memory.
#[derive(Debug)]
pub struct RecordDataset {
    reader: RecordReader,
    /// Key of sample 0; the others follow.
    keys: Keys,
    offsets: Vec<u64>,
    labels: Vec<u32>,
    classes: usize,
}

#[derive(Debug)]
enum Keys {
    /// 1, 2, 3, …
    Counted,
    /// As the index lists them.
    Listed(Vec<u64>),
}

impl RecordDataset {
    /// Opens `NAME.rec` and `NAME.idx` beside it.
    ///
    /// # Errors
    /// [`DataError::Record`] for files that cannot be read or are damaged, a label far beyond the number of identities
    /// included; [`DataError::Nothing`] for a set without images.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let reader = RecordReader::open(path)?;
        let index = RecordIndex::open(&path.with_extension("idx"))?;
        let start = index.offset(0)?;
        let mut identities = None;
        let (keys, offsets) = match reader.header(start)?.labels {
            Labels::Array(labels) => {
                let end = labels.first().copied().unwrap_or(0.0);
                if !(end.fract() == 0.0 && (1.0..=EXACT).contains(&end)) {
                    return Err(reader.damaged(start, Fault::BadRange(end)).into());
                }
                identities = labels.get(1).map(|last| f64::from(last - end)).filter(|count| *count >= 1.0);
                let offsets: Result<Vec<u64>, RecordError> = (1..end as u64).map(|key| index.offset(key)).collect();
                (Keys::Counted, offsets?)
            }
            Labels::Scalar(_) => {
                let offsets: Result<Vec<u64>, RecordError> = index.keys().map(|key| index.offset(key)).collect();
                (Keys::Listed(index.keys().collect()), offsets?)
            }
        };
        if offsets.is_empty() {
            return Err(DataError::Nothing { path: path.to_owned(), what: "images" });
        }
        // An image that counts twice is one that never comes.
        let mut in_order = offsets.clone();
        in_order.sort_unstable();
        if let Some(pair) = in_order.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(reader.damaged(pair[0], Fault::Twice).into());
        }
        let most = (GAPS * identities.unwrap_or(offsets.len() as f64)).max(ALWAYS);
        let mut labels = Vec::with_capacity(offsets.len());
        for offset in &offsets {
            let label = reader.header(*offset)?.label();
            if !(label.fract() == 0.0 && (0.0..EXACT).contains(&label)) {
                return Err(reader.damaged(*offset, Fault::BadLabel(label)).into());
            }
            if f64::from(label) >= most {
                return Err(reader.damaged(*offset, Fault::FarLabel(label)).into());
            }
            labels.push(label as u32);
        }
        let classes = labels.iter().max().map_or(0, |most| *most as usize + 1);
        Ok(Self { reader, keys, offsets, labels, classes })
    }

    /// Key of a sample in the files.
    ///
    /// # Panics
    /// If there is no such sample.
    pub fn key(&self, index: usize) -> u64 {
        match &self.keys {
            Keys::Counted => index as u64 + 1,
            Keys::Listed(keys) => keys[index],
        }
    }

    /// The encoded image of a sample, as it lies in the file.
    ///
    /// # Errors
    /// [`DataError::Record`].
    ///
    /// # Panics
    /// If there is no such sample.
    pub fn encoded(&self, index: usize) -> Result<Vec<u8>, DataError> {
        Ok(self.reader.read(self.offsets[index])?.body)
    }
}

impl Dataset for RecordDataset {
    fn len(&self) -> usize {
        self.offsets.len()
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    fn name(&self, index: usize) -> String {
        format!("{}, record {}", self.reader.path().display(), self.key(index))
    }

    /// Where the record lies, which tells apart files of the same labels.
    fn own_name(&self, index: usize) -> String {
        format!("{} at {}", self.key(index), self.offsets[index])
    }

    fn image(&self, index: usize) -> Result<Crop, DataError> {
        Crop::decode(&self.encoded(index)?, || self.name(index))
    }
}
