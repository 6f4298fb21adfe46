//! Reading records.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::frame::{self, FileSource};
use super::header::Header;
use super::{Fault, RecordError};

/// Bytes of a record that hold the header of a face image.
const HEADER_BYTES: usize = 32;

/// One indexed record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Labels and identifiers.
    pub header: Header,
    /// An encoded image, or nothing.
    pub body: Vec<u8>,
}

/// An open record file. It keeps nothing of the file in memory and has no position, so any number of threads read from
/// one.
#[derive(Debug)]
pub struct RecordReader {
    path: PathBuf,
    source: FileSource,
}

impl RecordReader {
    /// Opens a record file.
    ///
    /// # Errors
    /// [`RecordError::Read`].
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let source = File::open(path).and_then(FileSource::new);
        let source = source.map_err(|source| RecordError::Read { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), source })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The record that starts at `offset`.
    ///
    /// # Errors
    /// [`RecordError::Damaged`].
    pub fn read(&self, offset: u64) -> Result<Record, RecordError> {
        let read = || {
            let mut body = frame::read(&self.source, offset, usize::MAX)?;
            let (header, length) = Header::read(&body)?;
            body.drain(..length);
            Ok(Record { header, body })
        };
        read().map_err(|fault| self.damaged(offset, fault))
    }

    /// The header of the record that starts at `offset`, without reading its image.
    ///
    /// # Errors
    /// [`RecordError::Damaged`].
    pub fn header(&self, offset: u64) -> Result<Header, RecordError> {
        let start = frame::read(&self.source, offset, HEADER_BYTES);
        match start.and_then(|start| Header::read(&start)) {
            Ok((header, _)) => Ok(header),
            // More labels than usual, or none of a record.
            Err(Fault::ShortHeader { actual: HEADER_BYTES, .. }) => self.read(offset).map(|record| record.header),
            Err(fault) => Err(self.damaged(offset, fault)),
        }
    }

    pub(in super::super) fn damaged(&self, offset: u64, fault: Fault) -> RecordError {
        RecordError::Damaged { path: self.path.clone(), offset, fault }
    }
}
