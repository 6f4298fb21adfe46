//! Parts and how records are split into them.

use std::fs::File;
use std::io::{self, Write};

use super::{Fault, RecordError};

/// The first four bytes of every part.
pub(super) const MAGIC: u32 = 0xced7_230a;
/// Bytes of magic and length.
const PREFIX: u64 = 8;
/// Bits of the length; the kind has the three above them.
const LENGTH_BITS: u32 = 29;

const WHOLE: u32 = 0;
const FIRST: u32 = 1;
const MIDDLE: u32 = 2;
const LAST: u32 = 3;

/// Bytes that can be read from any place by many threads at once.
pub(super) trait Source {
    /// How many there are.
    fn length(&self) -> u64;
    /// Fills `buffer` from `offset`; the caller has compared with the length.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Source for [u8] {
    fn length(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)?.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A file and its length when it was opened.
#[derive(Debug)]
pub(super) struct FileSource {
    file: File,
    length: u64,
}

impl FileSource {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        Ok(Self { file, length })
    }
}

impl Source for FileSource {
    fn length(&self) -> u64 {
        self.length
    }

    #[cfg(unix)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match std::os::windows::fs::FileExt::seek_read(&self.file, buffer, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
            }
        }
        Ok(())
    }
}

fn padded(length: u64) -> u64 {
    length.next_multiple_of(4)
}

/// The payload of the record at `offset`, or its first `most` bytes.
pub(super) fn read<S: Source + ?Sized>(source: &S, offset: u64, most: usize) -> Result<Vec<u8>, Fault> {
    let mut payload = Vec::new();
    let mut at = offset;
    loop {
        let first = at == offset;
        let left = source.length().checked_sub(at).and_then(|left| left.checked_sub(PREFIX)).ok_or(Fault::Truncated)?;
        let mut prefix = [0; PREFIX as usize];
        source.read_at(&mut prefix, at)?;
        let word =
            |from: usize| u32::from_le_bytes([prefix[from], prefix[from + 1], prefix[from + 2], prefix[from + 3]]);
        if word(0) != MAGIC {
            return Err(Fault::NoMagic { found: word(0) });
        }
        let (kind, length) = (word(4) >> LENGTH_BITS, word(4) & ((1 << LENGTH_BITS) - 1));
        match (first, kind) {
            (true, WHOLE | FIRST) | (false, MIDDLE | LAST) => {}
            (true, _) => return Err(Fault::OutOfOrder { kind, expected: "the beginning of a record" }),
            (false, _) => return Err(Fault::OutOfOrder { kind, expected: "the rest of a record" }),
        }
        // The padding belongs to the part: a file without it was cut.
        if padded(u64::from(length)) > left {
            return Err(Fault::TooLong { length, left });
        }
        if !first {
            payload.extend(MAGIC.to_le_bytes());
        }
        let wanted = (length as usize).min(most.saturating_sub(payload.len()));
        let start = payload.len();
        payload.resize(start + wanted, 0);
        source.read_at(&mut payload[start..], at + PREFIX)?;
        if matches!(kind, WHOLE | LAST) || payload.len() >= most {
            payload.truncate(most);
            return Ok(payload);
        }
        at += PREFIX + padded(u64::from(length));
    }
}

/// Writes a payload as one record and says how many bytes it takes.
pub(super) fn write(out: &mut impl Write, payload: &[u8]) -> Result<u64, RecordError> {
    if payload.len() >> LENGTH_BITS != 0 {
        return Err(RecordError::Overlong(payload.len()));
    }
    let mut written = 0;
    let mut part = |kind: u32, bytes: &[u8]| -> Result<(), RecordError> {
        out.write_all(&MAGIC.to_le_bytes())?;
        out.write_all(&(kind << LENGTH_BITS | bytes.len() as u32).to_le_bytes())?;
        out.write_all(bytes)?;
        out.write_all(&[0; 3][..padded(bytes.len() as u64) as usize - bytes.len()])?;
        written += PREFIX + padded(bytes.len() as u64);
        Ok(())
    };
    let mut from = 0;
    for (word, bytes) in payload.chunks_exact(4).enumerate() {
        if *bytes == MAGIC.to_le_bytes() {
            part(if from == 0 { FIRST } else { MIDDLE }, &payload[from..word * 4])?;
            from = word * 4 + 4;
        }
    }
    part(if from == 0 { WHOLE } else { LAST }, &payload[from..])?;
    Ok(written)
}
