//! Checkpoints as PyTorch writes them since version 1.6: a zip file with a pickle and a member for each storage.
//!
//! Every member carries a CRC-32. All of them are verified before an import is done, also of members that are not
//! needed, such as the classes of a loss head: a file with a flipped bit is a damaged file. Members are read from start
//! to end in pieces, so none but the wanted ranges is ever in memory.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use zip::ZipArchive;

use super::checkpoint::Storages;
use super::{ImportError, pickle};

/// Most bytes of a zip file's directory, read before anything is known of its members.
const MAX_MEMBERS: usize = 200_000;
/// Most bytes of a small text member.
const MAX_TEXT: u64 = 64;

/// An open zip file.
#[derive(Debug)]
pub(super) struct Archive {
    zip: ZipArchive<BufReader<File>>,
    /// The folder that all members lie in, with its slash.
    prefix: String,
    /// Members whose checksum was compared.
    verified: HashSet<usize>,
}

fn damaged(error: impl std::fmt::Display) -> ImportError {
    ImportError::Damaged(error.to_string())
}

/// A CRC that does not match is what people will meet most.
fn reading(member: &str, error: std::io::Error) -> ImportError {
    let what = match error.kind() {
        std::io::ErrorKind::InvalidData if error.to_string().contains("hecksum") => {
            "its checksum does not match: bytes of it have changed (or it was written with checksums switched off)"
                .into()
        }
        std::io::ErrorKind::UnexpectedEof => "it is cut short".into(),
        _ => error.to_string(),
    };
    ImportError::Damaged(format!("{member}: {what}"))
}

impl Archive {
    /// Opens the file and reads its pickle.
    pub(super) fn open(path: &Path) -> Result<(Self, pickle::Values), ImportError> {
        let file = File::open(path).map_err(ImportError::io(path))?;
        let zip = ZipArchive::new(BufReader::new(file)).map_err(damaged)?;
        if zip.len() > MAX_MEMBERS {
            return Err(damaged("it has more members than a checkpoint"));
        }
        // Which of two members of one name is meant differs from program to program.
        let listed = count_members(path, zip.central_directory_start()).map_err(ImportError::io(path))?;
        if listed != zip.len() {
            return Err(damaged("it has several members of one name"));
        }
        let names = zip.file_names().map(|name| name.map(Cow::into_owned));
        let names = names.collect::<Result<Vec<_>, _>>().map_err(damaged)?;
        if names.iter().any(|name| name.ends_with("constants.pkl")) {
            return Err(ImportError::Unsupported(
                "this is a TorchScript program; save its state_dict() instead".into(),
            ));
        }
        let pickles: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix("data.pkl")).collect();
        let prefix = match pickles[..] {
            [prefix] if prefix.is_empty() || prefix.ends_with('/') => prefix.to_owned(),
            [] => return Err(damaged("it is a zip file without data.pkl, so not of PyTorch")),
            _ => return Err(damaged("it has several data.pkl")),
        };
        let mut archive = Self { zip, prefix, verified: HashSet::new() };
        if let Some(order) = archive.small("byteorder")?
            && order.trim_ascii() != b"little"
        {
            return Err(ImportError::Unsupported("the file was written by a big-endian machine".into()));
        }
        let bytes = archive.whole("data.pkl", pickle::MAX_BYTES as u64)?;
        let (values, length) = pickle::read(&bytes)?;
        if length != bytes.len() {
            return Err(damaged("data.pkl goes on after its end"));
        }
        Ok((archive, values))
    }

    fn index(&self, member: &str) -> Option<usize> {
        self.zip.index_for_name(&format!("{}{member}", self.prefix))
    }

    fn small(&mut self, member: &str) -> Result<Option<Vec<u8>>, ImportError> {
        if self.index(member).is_some() { self.whole(member, MAX_TEXT).map(Some) } else { Ok(None) }
    }

    /// A member of at most `limit` bytes.
    fn whole(&mut self, member: &str, limit: u64) -> Result<Vec<u8>, ImportError> {
        let index = self.index(member).ok_or_else(|| damaged(format!("{member} is missing")))?;
        let size = self.zip.by_index(index).map_err(damaged)?.size();
        if size > limit {
            return Err(damaged(format!("{member} has {size} bytes, which is too large for what it is")));
        }
        self.range(index, member, 0..size)
    }

    /// Bytes of a member. Reads it to its end, which verifies its checksum.
    fn range(&mut self, index: usize, member: &str, range: Range<u64>) -> Result<Vec<u8>, ImportError> {
        let mut file = self.zip.by_index(index).map_err(damaged)?;
        if file.encrypted() {
            return Err(damaged(format!("{member} is encrypted")));
        }
        // A packed member can claim any size, but not give more than it claims.
        let size = file.size();
        let error = |error| reading(member, error);
        let skipped = std::io::copy(&mut (&mut file).take(range.start), &mut std::io::sink()).map_err(error)?;
        let mut bytes = Vec::new();
        let wanted = range.end.saturating_sub(range.start);
        (&mut file).take(wanted).read_to_end(&mut bytes).map_err(error)?;
        let rest = std::io::copy(&mut file, &mut std::io::sink()).map_err(error)?;
        if skipped + bytes.len() as u64 + rest != size || bytes.len() as u64 != wanted {
            return Err(damaged(format!("{member} is cut short")));
        }
        self.verified.insert(index);
        Ok(bytes)
    }
}

/// Members in the directory of a zip file, those of equal names counted each.
fn count_members(path: &Path, directory: u64) -> std::io::Result<usize> {
    let mut file = BufReader::new(File::open(path)?);
    file.seek(SeekFrom::Start(directory))?;
    let mut header = [0u8; 46];
    for count in 0..=MAX_MEMBERS {
        // Each header ends with three texts whose lengths stand at 28, 30 and 32.
        let read = file.read_exact(&mut header);
        if read.is_err() || !header.starts_with(b"PK\x01\x02") {
            return Ok(count);
        }
        let length = |at: usize| i64::from(u16::from_le_bytes([header[at], header[at + 1]]));
        file.seek_relative(length(28) + length(30) + length(32))?;
    }
    Ok(MAX_MEMBERS + 1)
}

impl Storages for Archive {
    fn bytes(&mut self, storage: &str) -> Result<u64, ImportError> {
        let member = format!("data/{storage}");
        let index = self.index(&member).ok_or_else(|| damaged(format!("{member} is missing")))?;
        Ok(self.zip.by_index(index).map_err(damaged)?.size())
    }

    fn read(&mut self, storage: &str, range: Range<u64>) -> Result<Vec<u8>, ImportError> {
        let member = format!("data/{storage}");
        let index = self.index(&member).ok_or_else(|| damaged(format!("{member} is missing")))?;
        self.range(index, &member, range)
    }

    fn finish(&mut self) -> Result<(), ImportError> {
        for index in 0..self.zip.len() {
            if !self.verified.contains(&index) {
                let name = self.zip.name_for_index(index).and_then(Result::ok).map(Cow::into_owned);
                self.range(index, &name.unwrap_or_default(), 0..0)?;
            }
        }
        Ok(())
    }
}
