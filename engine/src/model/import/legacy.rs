//! Checkpoints as PyTorch wrote them before version 1.6: pickles one after the other, then the bytes of each storage.
//!
//! The order is: a magic number, the version of the protocol, the machine's type sizes, what was saved, the keys of the
//! storages; then for each key the number of values (eight bytes) and the values. There are no checksums.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use super::checkpoint::Storages;
use super::pickle::{self, Value, Values};
use super::{ImportError, state};

/// How the pickle of the magic number goes on after the protocol: a long of ten bytes.
const MAGIC: &[u8] = &[0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.'];
const PROTOCOL: i64 = 1001;

/// Whether a file that begins so has this form.
pub(super) fn is_legacy(start: &[u8]) -> bool {
    matches!(start, [0x80, 0..=5, rest @ ..] if rest.starts_with(MAGIC))
}

/// An open file of this form.
#[derive(Debug)]
pub(super) struct Legacy {
    file: File,
    /// Where the bytes of a storage begin, and how many there are.
    places: HashMap<String, (u64, u64)>,
}

impl Legacy {
    /// Opens the file and reads its pickles.
    pub(super) fn open(path: &Path) -> Result<(Self, Values), ImportError> {
        let io = |source| ImportError::Io { path: path.to_path_buf(), source };
        let damaged = |what: &str| ImportError::Damaged(what.to_owned());
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut head = Vec::new();
        (&mut file).take(pickle::MAX_BYTES as u64).read_to_end(&mut head).map_err(io)?;
        let mut at = 0;
        let mut next = || {
            let (values, length) = pickle::read(&head[at..])?;
            at += length;
            Ok::<_, ImportError>(values)
        };
        next()?;
        let version = next()?;
        if version.int(version.root()) != Some(PROTOCOL) {
            return Err(damaged("the version of its protocol is unknown"));
        }
        let machine = next()?;
        let little = machine.item(machine.root(), "little_endian").map(|at| machine.get(at).clone());
        if little == Some(Value::Bool(false)) {
            return Err(ImportError::Unsupported("the file was written by a big-endian machine".into()));
        }
        let saved = next()?;
        let keys = next()?;
        let types = state::storage_types(&saved);
        let mut place = at as u64;
        let mut places = HashMap::new();
        for key in keys.members(keys.root()).ok_or_else(|| damaged("the list of its storages is missing"))? {
            let key = keys.text(*key).ok_or_else(|| damaged("the list of its storages is damaged"))?;
            let dtype = types.get(key).copied().flatten();
            let dtype = dtype.ok_or_else(|| damaged("a storage is of unknown type"))?;
            let mut count = [0; 8];
            file.seek(SeekFrom::Start(place))
                .and_then(|_| file.read_exact(&mut count))
                .map_err(|_| damaged("it is cut short"))?;
            let bytes = u64::from_le_bytes(count).checked_mul(dtype.bytes());
            let end = bytes.and_then(|bytes| place.checked_add(8)?.checked_add(bytes)).filter(|end| *end <= length);
            let (Some(bytes), Some(end)) = (bytes, end) else { return Err(damaged("it is cut short")) };
            places.insert(key.to_owned(), (place + 8, bytes));
            place = end;
        }
        if place != length {
            return Err(damaged("it goes on after its end"));
        }
        Ok((Self { file, places }, saved))
    }

    fn place(&self, storage: &str) -> Result<(u64, u64), ImportError> {
        let place = self.places.get(storage).copied();
        place.ok_or_else(|| ImportError::Damaged(format!("storage {storage} is missing")))
    }
}

impl Storages for Legacy {
    fn bytes(&mut self, storage: &str) -> Result<u64, ImportError> {
        Ok(self.place(storage)?.1)
    }

    fn read(&mut self, storage: &str, range: Range<u64>) -> Result<Vec<u8>, ImportError> {
        let (start, length) = self.place(storage)?;
        read_range(&mut self.file, start, length, range)
            .map_err(|error| ImportError::Damaged(format!("storage {storage}: {error}")))
    }

    fn finish(&mut self) -> Result<(), ImportError> {
        Ok(())
    }
}

/// Bytes of a part of a file that begins at `start` and has `length` bytes.
pub(super) fn read_range(file: &mut File, start: u64, length: u64, range: Range<u64>) -> std::io::Result<Vec<u8>> {
    let wanted = range.end.saturating_sub(range.start);
    let eof = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
    if range.end > length {
        return Err(eof());
    }
    file.seek(SeekFrom::Start(start + range.start))?;
    let mut bytes = Vec::new();
    file.take(wanted).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == wanted { Ok(bytes) } else { Err(eof()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_magic_number_is_known() {
        let magic = 0x1950_a86a_20f9_469c_fc6cu128.to_le_bytes();
        assert_eq!(MAGIC[2..12], magic[..10]);
        assert!(is_legacy(&[&[0x80, 2][..], MAGIC, b"rest"].concat()));
        assert!(!is_legacy(b"PK\x03\x04") && !is_legacy(&[0x80, 2]));
    }
}
