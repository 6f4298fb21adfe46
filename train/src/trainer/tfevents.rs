//! Event files for TensorBoard.
//!
//! A file is a sequence of records: length u64, masked CRC-32C of the length, data, masked CRC-32C of the data, all
//! little-endian (TensorFlow's record format). The data is an `Event` of TensorFlow's `event.proto`, of which only a few
//! fields are needed, so it is encoded here.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// CRC-32C (Castagnoli), reflected, by bytes.
const TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// As the format has it, so that a checksum of data with checksums in it stays one.
fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// What names of event files begin with.
const NAME: &str = "events.out.tfevents.";

/// Wire types of protocol buffers.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

fn key(field: u8, wire: u8) -> u8 {
    field << 3 | wire
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(key(field, BYTES));
    varint(out, value.len() as u64);
    out.extend(value);
}

/// An event file that is being written.
#[derive(Debug)]
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Begins a file in a folder. `from` is the last step that is done: where there are files already, TensorBoard is told
    /// to forget what they have behind it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(folder: &Path, from: u64) -> io::Result<Self> {
        let now = seconds();
        let mut goes_on = false;
        for entry in std::fs::read_dir(folder)? {
            goes_on |= entry?.file_name().to_string_lossy().starts_with(NAME);
        }
        let path = (0u32..)
            .map(|number| folder.join(format!("{NAME}{:010}.{from}.{number}.vultus", now as u64)))
            .find(|path| !path.exists())
            .unwrap_or_else(|| folder.join(format!("{NAME}vultus")));
        let file = File::options().write(true).create_new(true).open(&path)?;
        let mut events = Self { file, path };
        let mut version = Vec::new();
        bytes(&mut version, 3, b"brain.Event:2");
        events.event(now, 0, &version)?;
        if goes_on {
            // The start of a session: events of its step and later ones are dropped.
            let mut session = Vec::new();
            bytes(&mut session, 7, &[key(1, VARINT), 1]);
            events.event(now, from + 1, &session)?;
        }
        Ok(events)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Brings what was written onto the disk.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Numbers at a step, by name.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn scalars<'a>(&mut self, step: u64, scalars: impl IntoIterator<Item = (&'a str, f64)>) -> io::Result<()> {
        let mut summary = Vec::new();
        for (name, value) in scalars {
            let mut one = Vec::new();
            bytes(&mut one, 1, name.as_bytes());
            one.push(key(2, FIXED32));
            one.extend((value as f32).to_le_bytes());
            bytes(&mut summary, 1, &one);
        }
        let mut event = Vec::new();
        bytes(&mut event, 5, &summary);
        self.event(seconds(), step, &event)
    }

    fn event(&mut self, time: f64, step: u64, what: &[u8]) -> io::Result<()> {
        let mut event = vec![key(1, FIXED64)];
        event.extend(time.to_le_bytes());
        if step > 0 {
            event.push(key(2, VARINT));
            varint(&mut event, step);
        }
        event.extend(what);
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked(&length).to_le_bytes());
        record.extend(&event);
        record.extend(masked(&event).to_le_bytes());
        self.file.write_all(&record)
    }
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field's number, wire type and bytes (varints and fixed numbers as eight little-endian bytes).
    fn fields(mut data: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
        fn varint(data: &mut &[u8]) -> u64 {
            let mut value = 0u64;
            for shift in (0..).step_by(7) {
                let (first, rest) = data.split_first().unwrap();
                *data = rest;
                value |= u64::from(first & 0x7f) << shift;
                if first & 0x80 == 0 {
                    break;
                }
            }
            value
        }
        let mut found = Vec::new();
        while let Some((tag, rest)) = data.split_first() {
            data = rest;
            let (field, wire) = (tag >> 3, tag & 7);
            let value = match wire {
                VARINT => varint(&mut data).to_le_bytes().to_vec(),
                _ => {
                    let length = match wire {
                        FIXED64 => 8,
                        FIXED32 => 4,
                        _ => varint(&mut data) as usize,
                    };
                    let (value, rest) = data.split_at(length);
                    data = rest;
                    value.to_vec()
                }
            };
            found.push((field, wire, value));
        }
        found
    }

    fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !file.is_empty() {
            let (length, rest) = file.split_at(8);
            let (checksum, rest) = rest.split_at(4);
            assert_eq!(checksum, masked(length).to_le_bytes());
            let (data, rest) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
            let (checksum, rest) = rest.split_at(4);
            assert_eq!(checksum, masked(data).to_le_bytes());
            found.push(data.to_vec());
            file = rest;
        }
        found
    }

    /// Values of RFC 3720, appendix B.4.
    #[test]
    fn the_checksum_is_crc32c() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(folder.path(), 300).unwrap();
        events.scalars(301, [("loss", 0.5), ("rate", 0.1)]).unwrap();
        let records = records(&std::fs::read(events.path()).unwrap());
        assert_eq!(records.len(), 2);
        let version = fields(&records[0]);
        assert_eq!((version[1].0, version[1].2.as_slice()), (3, &b"brain.Event:2"[..]));
        let event = fields(&records[1]);
        assert!(f64::from_le_bytes(event[0].2.clone().try_into().unwrap()) > 1.7e9);
        assert_eq!(event[1].2, 301u64.to_le_bytes());
        let values: Vec<(String, f32)> = fields(&event[2].2)
            .into_iter()
            .map(|(_, _, value)| {
                let value = fields(&value);
                let number = f32::from_le_bytes(value[1].2.clone().try_into().unwrap());
                (String::from_utf8(value[0].2.clone()).unwrap(), number)
            })
            .collect();
        assert_eq!(values, [("loss".to_owned(), 0.5), ("rate".to_owned(), 0.1)]);
    }

    /// Of events of earlier files, those of steps that come again are dropped, and those of steps that are done are not:
    /// TensorBoard drops what is at the step of a session's start or behind it.
    #[test]
    fn a_run_that_goes_on_starts_a_session_behind_what_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let first = EventFile::create(folder.path(), 0).unwrap();
        assert_eq!(records(&std::fs::read(first.path()).unwrap()).len(), 1);
        // From the beginning too, where a process was killed ahead of its first checkpoint.
        for from in [0, 300] {
            let other = EventFile::create(folder.path(), from).unwrap();
            assert_ne!(other.path(), first.path());
            let records = records(&std::fs::read(other.path()).unwrap());
            assert_eq!(records.len(), 2);
            let session = fields(&records[1]);
            assert_eq!((session[1].0, session[1].2.as_slice()), (2, &(from + 1).to_le_bytes()[..]));
            assert_eq!((session[2].0, session[2].2.as_slice()), (7, &[key(1, VARINT), 1][..]));
        }
    }
}
