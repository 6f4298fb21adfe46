//! RecordIO, the file format of training sets in the field: `train.rec` with the images, `train.idx` with where they lie.
//!
//! A record file is a list of records, each one or more parts of
//!
//! ```text
//! u32 0xCED7230A · u32 kind << 29 | length · payload · zeros up to a multiple of 4          (little endian)
//! ```
//!
//! Whoever reads from any place finds the next record by its first four bytes. So these never occur in a payload at a
//! multiple of 4: there the writer ends a part and leaves them out, and the reader puts them back between the parts.
//! Kind 0 is a whole record, 1 its first part, 2 one in the middle, 3 its last.
//!
//! The payload of an *indexed* record begins with a [`Header`] (labels and identifiers); an encoded image or nothing
//! follows. The index is text, `key⇥offset` a line. Formats: dmlc-core `recordio.h` and MXNet's `recordio.py`, whose
//! writer is matched byte for byte.
//!
//! Files are not trusted. A length is compared with what the file holds before memory is taken for it, and whatever is
//! wrong comes back as a [`RecordError`] that names file and place.

mod frame;
mod header;
mod index;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use header::{Header, Labels};
pub use index::RecordIndex;
pub use reader::{Record, RecordReader};
pub use writer::RecordWriter;

/// What is wrong with one record.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The system could not read.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// The record starts or goes on where the file has ended.
    #[error("the file ends within the record")]
    Truncated,
    /// No record starts there.
    #[error("no record starts here: the first four bytes are {found:#010x}")]
    NoMagic {
        /// The bytes.
        found: u32,
    },
    /// A part that is longer than what is left of the file.
    #[error("a part of {length} bytes, of which the file has {left}")]
    TooLong {
        /// As stated.
        length: u32,
        /// Left.
        left: u64,
    },
    /// Parts that do not make up one record.
    #[error("a part of kind {kind} where {expected} has to stand")]
    OutOfOrder {
        /// Kind of the part, 0 to 7.
        kind: u32,
        /// What was expected.
        expected: &'static str,
    },
    /// A payload too short for its header.
    #[error("{actual} bytes hold no header of {expected}")]
    ShortHeader {
        /// Bytes of the header.
        expected: u64,
        /// Bytes of the record.
        actual: usize,
    },
    /// A label that is no class.
    #[error("the label {0} is no class")]
    BadLabel(f32),
    /// A label that no identity can have.
    #[error("the label {0} is far beyond the number of identities")]
    FarLabel(f32),
    /// A record that two keys of the index name.
    #[error("two keys of the index name this record")]
    Twice,
    /// Ranges in record 0 that no set has.
    #[error("the first record says that images end before {0}")]
    BadRange(f32),
}

/// Why records cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file that cannot be opened or read at all.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A damaged record.
    #[error("{path}, at byte {offset}: {fault}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where the record starts.
        offset: u64,
        /// What is wrong.
        fault: Fault,
    },
    /// A line of the index that is no key and offset.
    #[error("{path}, line {line}: {reason}")]
    BadIndex {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// A record that the index does not list.
    #[error("{path} has no record {key}")]
    NoSuchKey {
        /// Which index.
        path: PathBuf,
        /// The record.
        key: u64,
    },
    /// A payload beyond what the length field can say.
    #[error("a record of {0} bytes is too long, the format allows 2^29 - 1")]
    Overlong(usize),
    /// The system could not write.
    #[error("cannot write records: {0}")]
    Write(#[from] io::Error),
}
