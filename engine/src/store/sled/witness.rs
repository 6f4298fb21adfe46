//! A note beside the database of how far the change log has come.
//!
//! sled's log ends, for sled, at the first entry that does not check. After a crash that is right: what follows was
//! never acknowledged. But damage in the middle looks the same, and all writes after it would be gone without a word.
//! The file `durable` therefore holds the sequence number of the last change known to be on disk. It is written after
//! each sync and not synced itself: it may be behind, which is harmless, but never ahead.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use parking_lot::Mutex;

/// The file: the number, then its complement, both `u64` little-endian.
pub(super) struct Witness {
    file: File,
    seq: Mutex<Option<u64>>,
}

impl Witness {
    /// Opens the note, or makes an empty one.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = Vec::new();
        (&mut file).take(17).read_to_end(&mut bytes)?;
        let seq = match bytes.as_chunks::<8>() {
            ([number, complement], []) => {
                let number = u64::from_le_bytes(*number);
                (number == !u64::from_le_bytes(*complement)).then_some(number)
            }
            _ => None,
        };
        Ok(Self { file, seq: Mutex::new(seq) })
    }

    /// What the note says; `None` when it is empty or damaged.
    pub(super) fn seq(&self) -> Option<u64> {
        *self.seq.lock()
    }

    /// Notes that all changes up to a number are on disk.
    pub(super) fn note(&self, number: u64) -> io::Result<()> {
        let mut seq = self.seq.lock();
        if *seq != Some(number) {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            bytes[8..].copy_from_slice(&(!number).to_le_bytes());
            (&self.file).seek(SeekFrom::Start(0))?;
            (&self.file).write_all(&bytes)?;
            *seq = Some(number);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back_unless_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("durable");
        let read = || Witness::open(&path).unwrap().seq();
        assert_eq!(read(), None);
        for number in [7, 0, u64::MAX] {
            Witness::open(&path).unwrap().note(number).unwrap();
            assert_eq!(read(), Some(number));
        }
        for damage in [&[][..], &[0; 15], &[0; 16], &[0; 17]] {
            std::fs::write(&path, damage).unwrap();
            assert_eq!(read(), None);
        }
    }
}
