//! The format by bytes written down here, and by files that are cut, changed and made up.

use std::path::Path;

use proptest::prelude::*;

use super::frame::{self, MAGIC};
use super::*;

/// Record 0 of a set with the keys 1 to 12 for images and 13 to 16 for identities, as MXNet 1.9.1 writes it.
const FIRST_RECORD: [u8; 40] = [
    0x0a, 0x23, 0xd7, 0xce, 0x20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0x50, 0x41, 0, 0, 0x88, 0x41,
];

fn written(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let length = frame::write(&mut bytes, payload).unwrap();
    assert_eq!(length, bytes.len() as u64);
    bytes
}

fn magic() -> [u8; 4] {
    MAGIC.to_le_bytes()
}

#[test]
fn the_first_record_of_a_set_is_that_of_the_reference() {
    let header = Header { labels: Labels::Array(vec![13.0, 17.0]), id: 0, id2: 0 };
    let mut writer = RecordWriter::new(Vec::new(), Vec::new());
    writer.write(0, &header, &[]).unwrap();
    let (records, index) = writer.finish().unwrap();
    assert_eq!((records.as_slice(), index.as_slice()), (&FIRST_RECORD[..], &b"0\t0\n"[..]));
    let payload = frame::read(&FIRST_RECORD[..], 0, usize::MAX).unwrap();
    assert_eq!(Header::read(&payload).unwrap(), (header, 32));
}

#[test]
fn records_are_split_where_the_magic_would_stand() {
    // At 0 and at 8 of the payload; at 13 it is at no multiple of 4 and stays.
    let payload = [&magic()[..], b"abcd", &magic(), b"x", &magic()].concat();
    let expected = [
        &magic()[..],
        &[0, 0, 0, 0x20],
        &magic(),
        &[4, 0, 0, 0x40],
        b"abcd",
        &magic(),
        &[5, 0, 0, 0x60],
        b"x",
        &magic(),
        &[0, 0, 0],
    ];
    assert_eq!(written(&payload), expected.concat());
    assert_eq!(frame::read(&expected.concat()[..], 0, usize::MAX).unwrap(), payload);
    // A payload that is the magic alone, and none at all.
    assert_eq!(written(&magic()), [&magic()[..], &[0, 0, 0, 0x20], &magic(), &[0, 0, 0, 0x60]].concat());
    assert_eq!(written(&[]), [&magic()[..], &[0; 4]].concat());
}

#[test]
fn what_is_damaged_is_named() {
    let whole = written(b"abcdefg");
    let fault = |bytes: &[u8], offset| frame::read(bytes, offset, usize::MAX).unwrap_err();
    assert!(matches!(fault(&whole, 4), Fault::NoMagic { found: 7 }));
    assert!(matches!(fault(&whole, 9), Fault::Truncated));
    assert!(matches!(fault(&whole, u64::MAX), Fault::Truncated));
    assert!(matches!(fault(&whole[..7], 0), Fault::Truncated));
    assert!(matches!(fault(&whole[..15], 0), Fault::TooLong { length: 7, left: 7 }));
    let mut absurd = whole.clone();
    absurd[4..8].copy_from_slice(&0x1fff_ffff_u32.to_le_bytes());
    assert!(matches!(fault(&absurd, 0), Fault::TooLong { length: 0x1fff_ffff, left: 8 }));
    for kind in 2..8u8 {
        absurd[4..8].copy_from_slice(&[7, 0, 0, kind << 5]);
        let message = fault(&absurd, 0).to_string();
        assert_eq!(message, format!("a part of kind {kind} where the beginning of a record has to stand"));
    }
    let split = written(&[&b"abcd"[..], &magic(), b"efgh"].concat());
    assert!(matches!(fault(&split[..12], 0), Fault::Truncated));
    assert!(matches!(fault(&[&split[..12], &whole].concat(), 0), Fault::OutOfOrder { kind: 0, .. }));
    // Of a payload that is wanted in part, only that is read.
    assert_eq!(frame::read(&split[..], 0, 3).unwrap(), b"abc");
    assert_eq!(frame::read(&split[..], 0, 10).unwrap(), [&b"abcd"[..], &magic(), b"ef"].concat());
}

#[test]
fn headers_are_as_long_as_they_say() {
    let mut bytes = Vec::new();
    Header { labels: Labels::Array(vec![3.0, 1.0, 2.0]), id: 7, id2: 1 << 40 }.write(&mut bytes);
    assert_eq!(bytes.len(), 36);
    assert!(matches!(Header::read(&bytes[..35]), Err(Fault::ShortHeader { expected: 36, actual: 35 })));
    assert!(matches!(Header::read(&bytes[..23]), Err(Fault::ShortHeader { expected: 24, actual: 23 })));
    bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Header::read(&bytes), Err(Fault::ShortHeader { expected: 17_179_869_204, actual: 36 })));
}

#[test]
fn an_index_that_is_none_is_refused_by_line() {
    let read = |text: &str| RecordIndex::read(text.as_bytes(), Path::new("train.idx"));
    let index = read("2\t80\n0\t0\r\n1\t40").unwrap();
    assert_eq!(index.keys().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(index.offset(2).unwrap(), 80);
    assert_eq!(index.offset(3).unwrap_err().to_string(), "train.idx has no record 3");
    for (text, line) in [("0\t0\nx\t1\n", 2), ("0 0\n", 1), ("0\t0\n\n", 2), ("0\t-1\n", 1), ("\u{0}\t\u{0}", 1)] {
        let message = read(text).unwrap_err().to_string();
        assert_eq!(message, format!("train.idx, line {line}: no key, tab and offset"), "{text:?}");
    }
    assert!(read(&"9".repeat(1 << 20)).is_err());
    assert_eq!(read("0\t0\n1\t4\n1\t8\n").unwrap_err().to_string(), "train.idx, line 3: a key that stands there twice");
}

#[test]
fn a_file_is_read_by_many_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.rec");
    let mut writer = RecordWriter::new(Vec::new(), Vec::new());
    let header = |key: u64| match key % 3 {
        0 => Header { labels: Labels::Scalar(key as f32), id: key, id2: 0 },
        // Longer than what is read of a record for its header alone.
        1 => Header { labels: Labels::Array(vec![key as f32; 20]), id: key, id2: 0 },
        _ => Header {
            labels: Labels::Array(vec![key as f32, 1.0]),
            id: u64::from(MAGIC) << 32 | u64::from(MAGIC),
            id2: 1,
        },
    };
    let body = |key: u64| [&vec![key as u8; key as usize][..], &magic(), &magic()].concat();
    (0..200).for_each(|key| writer.write(key, &header(key), &body(key)).unwrap());
    let (records, index) = writer.finish().unwrap();
    std::fs::write(&path, &records).unwrap();
    let index = RecordIndex::read(&index[..], Path::new("train.idx")).unwrap();
    let reader = RecordReader::open(&path).unwrap();
    std::thread::scope(|scope| {
        for first in 0..4 {
            let (index, reader) = (&index, &reader);
            scope.spawn(move || {
                for key in (first..200).step_by(3) {
                    let offset = index.offset(key).unwrap();
                    assert_eq!(reader.read(offset).unwrap(), Record { header: header(key), body: body(key) });
                    assert_eq!(reader.header(offset).unwrap(), header(key));
                }
            });
        }
    });
    let message = reader.read(4).unwrap_err().to_string();
    assert!(message.contains("train.rec, at byte 4: no record starts here"), "{message}");
    assert!(RecordReader::open(&folder.path().join("none")).unwrap_err().to_string().starts_with("cannot read"));
}

/// Payloads in which the magic is likely, at multiples of 4 and elsewhere.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(magic().to_vec()),
        prop::collection::vec(any::<u8>(), 0..9),
        prop::collection::vec(Just(0x0a), 1..4)
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_written_is_read(payloads in prop::collection::vec(payload(), 1..6)) {
        let mut file = Vec::new();
        let offsets: Vec<u64> = payloads.iter().map(|payload| {
            let offset = file.len() as u64;
            frame::write(&mut file, payload).unwrap();
            offset
        }).collect();
        for (payload, offset) in payloads.iter().zip(offsets) {
            prop_assert_eq!(&frame::read(&file[..], offset, usize::MAX).unwrap(), payload);
            let part = payload.len() / 2;
            prop_assert_eq!(&frame::read(&file[..], offset, part).unwrap(), &payload[..part]);
        }
        // Between magics at multiples of 4 there is none: whoever searches finds beginnings of parts alone.
        let mut at = 0;
        while at < file.len() {
            prop_assert_eq!(&file[at..at + 4], &magic()[..]);
            let length = u32::from_le_bytes(file[at + 4..at + 8].try_into().unwrap()) as usize & 0x1fff_ffff;
            let end = at + 8 + length.next_multiple_of(4);
            prop_assert!(file[at + 8..end].chunks(4).all(|word| word != magic()));
            at = end;
        }
    }

    #[test]
    fn nothing_that_is_cut_or_changed_panics(payload in payload(), cut in any::<prop::sample::Index>(),
                                             place in any::<prop::sample::Index>(), bits in 1u8..) {
        let file = written(&payload);
        prop_assert!(frame::read(&file[..cut.index(file.len())], 0, usize::MAX).is_err());
        let mut changed = file.clone();
        let place = place.index(file.len());
        changed[place] ^= bits;
        if let Ok(read) = frame::read(&changed[..], 0, usize::MAX) {
            prop_assert!(read.len() <= file.len());
            let _ = Header::read(&read);
        }
    }

    #[test]
    fn made_up_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), offset in 0u64..80) {
        let _ = frame::read(&bytes[..], offset, usize::MAX);
        let _ = Header::read(&bytes);
        let _ = RecordIndex::read(&bytes[..], Path::new("train.idx"));
    }
}
