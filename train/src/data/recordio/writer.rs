//! Writing records.

use std::io::Write;

use super::header::Header;
use super::{RecordError, frame};

/// Writes records one after the other and where each starts.
#[derive(Debug)]
pub struct RecordWriter<W: Write> {
    records: W,
    index: W,
    offset: u64,
    payload: Vec<u8>,
}

impl<W: Write> RecordWriter<W> {
    /// Writes records and their index to these. Both are best buffered.
    pub fn new(records: W, index: W) -> Self {
        Self { records, index, offset: 0, payload: Vec::new() }
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`RecordError::Overlong`] before anything is written, [`RecordError::Write`].
    pub fn write(&mut self, key: u64, header: &Header, body: &[u8]) -> Result<(), RecordError> {
        self.payload.clear();
        header.write(&mut self.payload);
        self.payload.extend(body);
        let length = frame::write(&mut self.records, &self.payload)?;
        writeln!(self.index, "{key}\t{}", self.offset)?;
        self.offset += length;
        Ok(())
    }

    /// Flushes and gives back records and index.
    ///
    /// # Errors
    /// [`RecordError::Write`].
    pub fn finish(mut self) -> Result<(W, W), RecordError> {
        self.records.flush()?;
        self.index.flush()?;
        Ok((self.records, self.index))
    }
}
