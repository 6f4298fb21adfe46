//! Writes a safetensors file of f32 tensors as their values come, hashing on the way.
//!
//! A file appears under its name only when it is complete and on the disk: it is written beside under another name,
//! synced, and then renamed. Given up, it leaves nothing.

use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::ImportError;

/// What names of files that are being written start with.
const PREFIX: &str = ".import-";

/// A file being written.
#[derive(Debug)]
pub(super) struct Weights {
    file: BufWriter<NamedTempFile>,
    hash: Sha256,
    bytes: u64,
}

impl Weights {
    /// Begins a file in a folder for tensors whose values will be given in this order.
    pub(super) fn create(folder: &Path, tensors: &[(String, Vec<usize>)]) -> Result<Self, ImportError> {
        remove_leftovers(folder).map_err(ImportError::io(folder))?;
        let file = NamedTempFile::with_prefix_in(PREFIX, folder).map_err(ImportError::io(folder))?;
        file.as_file().lock().map_err(ImportError::io(folder))?;
        let mut header = Map::new();
        let mut at = 0u64;
        for (name, shape) in tensors {
            let end = at + 4 * shape.iter().product::<usize>() as u64;
            header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [at, end] }));
            at = end;
        }
        let mut text = Value::from(header).to_string().into_bytes();
        // Values begin at a multiple of eight.
        text.resize(text.len().next_multiple_of(8), b' ');
        let mut weights = Self { file: BufWriter::new(file), hash: Sha256::new(), bytes: 0 };
        weights.put(&(text.len() as u64).to_le_bytes())?;
        weights.put(&text)?;
        Ok(weights)
    }

    /// The next values.
    pub(super) fn values(&mut self, values: &[f32]) -> Result<(), ImportError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.put(&bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        let path = self.file.get_ref().path().to_path_buf();
        self.file.write_all(bytes).map_err(ImportError::io(path))
    }

    /// Brings everything to the disk. Gives the file, still under its temporary name, and its SHA-256 in hex.
    pub(super) fn finish(self) -> Result<(NamedTempFile, String), ImportError> {
        let path = self.file.get_ref().path().to_path_buf();
        let file = self.file.into_inner().map_err(|error| error.into_error()).map_err(ImportError::io(&path))?;
        file.as_file().sync_all().map_err(ImportError::io(&path))?;
        Ok((file, hex(&self.hash.finalize())))
    }
}

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Gives a complete file its name, readable for others as files are.
pub(super) fn publish(file: NamedTempFile, path: &Path) -> Result<(), ImportError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let readable = std::fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(readable).map_err(ImportError::io(path))?;
    }
    file.persist(path).map_err(|error| ImportError::Io { path: path.to_path_buf(), source: error.error })?;
    sync_folder(path)
}

/// Writes a small file at once.
pub(super) fn write_text(path: &Path, text: &str) -> Result<(), ImportError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = NamedTempFile::with_prefix_in(PREFIX, folder).map_err(ImportError::io(folder))?;
    file.as_file().lock().map_err(ImportError::io(folder))?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(ImportError::io(path))?;
    publish(file, path)
}

/// Removes files of imports that were killed. Those of imports at work are locked.
fn remove_leftovers(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        if ours && std::fs::File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Holds the folder's lock until it is dropped, so that two imports under one name do not both find it free.
pub(super) fn lock(folder: &Path) -> Result<std::fs::File, ImportError> {
    let locked = std::fs::File::open(folder).and_then(|file| file.lock().map(|()| file));
    locked.map_err(ImportError::io(folder))
}

/// A rename is on the disk when its folder is.
fn sync_folder(path: &Path) -> Result<(), ImportError> {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(ImportError::io(folder))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_safetensors_with_the_hash_told() {
        let folder = tempfile::tempdir().unwrap();
        let tensors = [("b".to_owned(), vec![2, 1]), ("a".to_owned(), vec![])];
        let mut weights = Weights::create(folder.path(), &tensors).unwrap();
        weights.values(&[1.0, 2.0]).unwrap();
        weights.values(&[3.0]).unwrap();
        let (file, hash) = weights.finish().unwrap();
        let path = folder.path().join("x.safetensors");
        publish(file, &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(hash, hex(&Sha256::digest(&bytes)));
        let found = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(found.tensor("b").unwrap().data(), [0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]);
        assert_eq!(found.tensor("a").unwrap().shape(), [0usize; 0]);
        drop(Weights::create(folder.path(), &tensors).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
