//! Where each record starts.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::RecordError;

/// Longest line of an index in bytes: two numbers of 20 digits, a tab, the line's end.
const MAX_LINE: u64 = 64;

/// An index, by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordIndex {
    path: PathBuf,
    /// Key and offset, ascending.
    entries: Vec<(u64, u64)>,
}

impl RecordIndex {
    /// Reads an index file.
    ///
    /// # Errors
    /// [`RecordError::Read`]; [`RecordError::BadIndex`] for a line that is not `key⇥offset` and for a key that comes
    /// twice.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let failed = |source| RecordError::Read { path: path.to_owned(), source };
        Self::read(BufReader::new(File::open(path).map_err(failed)?), path)
    }

    pub(super) fn read(mut lines: impl BufRead, path: &Path) -> Result<Self, RecordError> {
        let bad = |line, reason| RecordError::BadIndex { path: path.to_owned(), line, reason };
        let mut entries = Vec::new();
        let mut text = Vec::new();
        for line in 1.. {
            text.clear();
            let read = std::io::Read::take(&mut lines, MAX_LINE).read_until(b'\n', &mut text);
            if read.map_err(|source| RecordError::Read { path: path.to_owned(), source })? == 0 {
                break;
            }
            let entry = std::str::from_utf8(&text).ok().and_then(|text| {
                let (key, offset) = text.trim_end().split_once('\t')?;
                Some((key.parse().ok()?, offset.parse().ok()?))
            });
            entries.push(entry.ok_or_else(|| bad(line, "no key, tab and offset"))?);
        }
        // Writers count upwards, so this is nothing to do, and the place of a key tells its line.
        entries.sort_by_key(|(key, _)| *key);
        if let Some(twice) = entries.windows(2).position(|pair| pair[0].0 == pair[1].0) {
            return Err(bad(twice + 2, "a key that stands there twice"));
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// Keys in ascending order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = u64> {
        self.entries.iter().map(|(key, _)| *key)
    }

    /// Where the record of a key starts in the record file.
    ///
    /// # Errors
    /// [`RecordError::NoSuchKey`].
    pub fn offset(&self, key: u64) -> Result<u64, RecordError> {
        let place = self.entries.binary_search_by_key(&key, |(key, _)| *key);
        place.map(|place| self.entries[place].1).map_err(|_| RecordError::NoSuchKey { path: self.path.clone(), key })
    }
}
