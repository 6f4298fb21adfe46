//! Safetensors files, read by range.
//!
//! The format has no checksum: a flipped bit in a value cannot be noticed. Everything else can: the tensors have to
//! cover the bytes after the header exactly, without gap or overlap, to the end of the file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;

use super::ImportError;
use super::checkpoint::Storages;
use super::legacy::read_range;
use super::state::Tensors;
use super::tensor::{Dtype, View};

/// Most bytes of a header. That of the largest network has a few hundred thousand.
const MAX_HEADER: u64 = 16 << 20;

/// One tensor in the header.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<i64>,
    data_offsets: (u64, u64),
}

/// An open file.
#[derive(Debug)]
pub(super) struct Safetensors {
    file: File,
    places: HashMap<String, (u64, u64)>,
}

impl Safetensors {
    /// Opens the file and reads its header.
    pub(super) fn open(path: &Path) -> Result<(Self, Tensors), ImportError> {
        let io = |source| ImportError::Io { path: path.to_path_buf(), source };
        let damaged = |what: &str| ImportError::Damaged(what.to_owned());
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut count = [0; 8];
        file.read_exact(&mut count).map_err(|_| damaged("it is cut short"))?;
        let header_bytes = u64::from_le_bytes(count);
        let start = header_bytes.checked_add(8).filter(|start| *start <= length);
        let Some(start) = start.filter(|_| header_bytes <= MAX_HEADER) else {
            return Err(damaged("its header is longer than the file or than a header is"));
        };
        let mut header = Vec::new();
        (&mut file).take(header_bytes).read_to_end(&mut header).map_err(io)?;
        let mut entries: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(&header).map_err(|error| damaged(&format!("its header cannot be read: {error}")))?;
        entries.remove("__metadata__");
        let (mut tensors, mut places) = (Tensors::new(), HashMap::new());
        let mut covered = Vec::with_capacity(entries.len());
        for (name, entry) in entries {
            let wrong = |problem: String| ImportError::Tensor { name: name.clone(), problem };
            let Entry { dtype, shape, data_offsets: (first, end) } =
                serde_json::from_value(entry).map_err(|error| wrong(error.to_string()))?;
            let bytes = end.checked_sub(first).ok_or_else(|| wrong("it ends before it begins".into()))?;
            covered.push((first, end));
            let view = match Dtype::of_safetensors(&dtype) {
                None => Err(format!("its values are of unknown type ({dtype:.32})")),
                Some(dtype) => View::whole(&name, dtype, &shape).and_then(|view| {
                    let expected = view.storage_values.checked_mul(dtype.bytes());
                    if expected == Some(bytes) { Ok(view) } else { Err("its shape does not fit its bytes".to_owned()) }
                }),
            };
            places.insert(name.clone(), (start.saturating_add(first), bytes));
            tensors.insert(name, view);
        }
        covered.sort_unstable();
        let mut at = 0;
        for (first, end) in covered {
            if first != at {
                return Err(damaged("its tensors overlap or leave gaps"));
            }
            at = end;
        }
        if start.checked_add(at) != Some(length) {
            return Err(damaged("its tensors do not end where the file does: it is cut short or has grown"));
        }
        if tensors.is_empty() {
            return Err(ImportError::NoTensors);
        }
        Ok((Self { file, places }, tensors))
    }
}

impl Storages for Safetensors {
    fn bytes(&mut self, storage: &str) -> Result<u64, ImportError> {
        let place = self.places.get(storage);
        place.map(|(_, bytes)| *bytes).ok_or_else(|| ImportError::Damaged(format!("{storage} is missing")))
    }

    fn read(&mut self, storage: &str, range: Range<u64>) -> Result<Vec<u8>, ImportError> {
        let length = self.bytes(storage)?;
        let start = self.places.get(storage).map_or(0, |(start, _)| *start);
        read_range(&mut self.file, start, length, range)
            .map_err(|error| ImportError::Damaged(format!("{storage}: {error}")))
    }

    fn finish(&mut self) -> Result<(), ImportError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn open(header: &str, data: usize) -> Result<Tensors, ImportError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
        file.write_all(header.as_bytes()).unwrap();
        file.write_all(&vec![0; data]).unwrap();
        Safetensors::open(file.path()).map(|(_, tensors)| tensors)
    }

    #[test]
    fn headers_are_read_and_their_lies_are_told() {
        let a = |first: u64, end: u64| format!(r#""a":{{"dtype":"F32","shape":[2],"data_offsets":[{first},{end}]}}"#);
        let good = open(&format!(r#"{{"__metadata__":{{"format":"pt"}},{}}}"#, a(0, 8)), 8).unwrap();
        assert_eq!(good["a"].as_ref().unwrap().shape, [2]);
        let text = |header: &str, data| match open(header, data) {
            Err(error) => error.to_string(),
            Ok(tensors) => tensors.into_values().find_map(Result::err).unwrap(),
        };
        assert!(text(&format!("{{{}}}", a(0, 8)), 7).contains("cut short"));
        assert!(text(&format!("{{{}}}", a(4, 12)), 12).contains("gaps"));
        assert!(text(&format!("{{{}}}", a(8, 0)), 8).contains("ends before"));
        assert!(text(&format!("{{{}}}", a(0, 12)), 12).contains("does not fit"));
        assert!(text(r#"{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}"#, 1).contains("unknown type"));
        let huge = r#"{"a":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,8]}}"#;
        assert!(text(huge, 8).contains("too large"));
        assert!(matches!(open("{}", 0), Err(ImportError::NoTensors)));
        assert!(text("{", 0).contains("header"));
        assert!(text(&"[".repeat(1000), 0).contains("header"));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&u64::MAX.to_le_bytes()).unwrap();
        assert!(Safetensors::open(file.path()).unwrap_err().to_string().contains("longer"));
    }
}
