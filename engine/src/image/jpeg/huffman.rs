//! Huffman tables of JPEG files, for reading.

use super::DecodeError;

/// Codes up to this length are found at once.
const SHORT: u32 = 9;

/// A code of up to 16 bits for up to 256 symbols (ITU-T T.81, annex C).
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// By the next bits: symbol and, above it, length of the code that they start with; length 0 where there is none
    /// or a longer one.
    short: Box<[u16; 1 << SHORT]>,
    /// By length less one: the first code that is longer, with zeros behind it up to 16 bits.
    limit: [u32; 16],
    /// By length less one: what is added to a code to find its symbol.
    offset: [i32; 16],
    symbols: Vec<u8>,
}

impl Table {
    /// Makes a table of the number of codes of each length and of the symbols in the order of their codes. `None` when
    /// there are more codes than bits can tell apart, or fewer symbols than codes.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let total = counts.iter().map(|count| usize::from(*count)).sum::<usize>();
        let symbols = symbols.get(..total).filter(|symbols| symbols.len() <= 256)?.to_vec();
        let mut short = Box::new([0; 1 << SHORT]);
        let (mut limit, mut offset) = ([0; 16], [0; 16]);
        let (mut code, mut next) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            let slot = length as usize - 1;
            offset[slot] = next as i32 - code as i32;
            for _ in 0..count {
                if code >> length != 0 {
                    return None;
                }
                if length <= SHORT {
                    let from = (code << (SHORT - length)) as usize;
                    let entry = (length as u16) << 8 | u16::from(symbols[next]);
                    short[from..from + (1 << (SHORT - length))].fill(entry);
                }
                code += 1;
                next += 1;
            }
            limit[slot] = code << (16 - length);
            code <<= 1;
        }
        Some(Self { short, limit, offset, symbols })
    }

    /// The symbol of the code that these bits start with, and its length.
    #[inline(always)]
    pub(super) fn find(&self, bits: u16) -> Option<(u8, u32)> {
        let entry = self.short[usize::from(bits >> (16 - SHORT))];
        if entry != 0 {
            return Some((entry as u8, u32::from(entry >> 8)));
        }
        self.find_long(bits)
    }

    #[inline(never)]
    fn find_long(&self, bits: u16) -> Option<(u8, u32)> {
        let length = (SHORT + 1..=16).find(|length| u32::from(bits) < self.limit[*length as usize - 1])?;
        let code = i32::from(bits >> (16 - length));
        let symbol = usize::try_from(code + self.offset[length as usize - 1]).ok()?;
        Some((*self.symbols.get(symbol)?, length))
    }
}

/// The tables that are in force at some place of a file.
#[derive(Debug, Clone, Default)]
pub(super) struct Tables {
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
}

impl Tables {
    /// Takes over the tables of a segment.
    pub(super) fn define(&mut self, mut segment: &[u8]) -> Result<(), DecodeError> {
        let broken = || DecodeError::corrupt("a Huffman table of the JPEG file is broken");
        while let Some((&place, rest)) = segment.split_first() {
            let (counts, symbols) = rest.split_first_chunk::<16>().ok_or_else(broken)?;
            let table = Table::new(counts, symbols).ok_or_else(broken)?;
            segment = &symbols[table.symbols.len()..];
            let class = match place >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return Err(broken()),
            };
            *class.get_mut(usize::from(place & 15)).ok_or_else(broken)? = Some(table);
        }
        Ok(())
    }

    /// Fills places without a table with the tables that frames of AVI files rely on.
    pub(super) fn add_standard(&mut self) {
        let classes = [(&mut self.dc, &STANDARD_DC), (&mut self.ac, &STANDARD_AC)];
        for (class, standard) in classes {
            for (place, (counts, symbols)) in class.iter_mut().zip(standard) {
                if place.is_none() {
                    *place = Table::new(counts, symbols);
                }
            }
        }
    }

    /// The table for DC at a place.
    pub(super) fn dc(&self, place: u8) -> Result<&Table, DecodeError> {
        find(&self.dc, place)
    }

    /// The table for AC at a place.
    pub(super) fn ac(&self, place: u8) -> Result<&Table, DecodeError> {
        find(&self.ac, place)
    }
}

fn find(class: &[Option<Table>; 4], place: u8) -> Result<&Table, DecodeError> {
    let table = class.get(usize::from(place)).and_then(Option::as_ref);
    table.ok_or_else(|| DecodeError::corrupt("a scan of the JPEG file lacks its Huffman table"))
}

/// Counts of codes by length, and symbols in the order of their codes.
type Standard = ([u8; 16], &'static [u8]);

/// The example tables of ITU-T T.81, annex K.3, for DC: luminance, chrominance.
#[rustfmt::skip]
static STANDARD_DC: [Standard; 2] = [
    (
        [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        &[
            0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b,
        ],
    ),
    (
        [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        &[
            0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b,
        ],
    ),
];

/// The example tables of ITU-T T.81, annex K.3, for AC: luminance, chrominance.
#[rustfmt::skip]
static STANDARD_AC: [Standard; 2] = [
    (
        [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125],
        &[
            0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22,
            0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0, 0x24, 0x33,
            0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x34,
            0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55,
            0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76,
            0x77, 0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96,
            0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5,
            0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4,
            0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1,
            0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
        ],
    ),
    (
        [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119],
        &[
            0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71, 0x13,
            0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0, 0x15, 0x62,
            0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26, 0x27, 0x28, 0x29,
            0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54,
            0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75,
            0x76, 0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94,
            0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3,
            0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2,
            0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea,
            0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
        ],
    ),
];
