//! The bits of entropy-coded data, up to the next marker.
//!
//! In such data FF is followed by 00, which is dropped; any other byte after FF makes a marker and ends the data. Past
//! the end every read fails, so whoever reads in a loop comes to a stop.

use super::huffman::Table;

/// Why coded data cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The data end at a marker or with the file while more is to come.
    Ended,
    /// Bits that are no code of the table in use, or a code without a meaning at this place.
    BadCode,
    /// A run of coefficients that goes past the end of its block or band.
    LongRun,
    /// A run of empty blocks that goes past the end of its scan or restart interval.
    LongBlockRun,
    /// A block lighter or darker than pixels can be.
    Brightness,
    /// A block with more contrast than pixels can have.
    Contrast,
    /// Bytes that nothing accounts for, in front of a marker.
    Surplus,
}

/// Reads bits, the highest of a byte first.
#[derive(Debug)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// First byte that is not in `bits` yet.
    at: usize,
    /// Unread bits from the highest on; zeros below.
    bits: u64,
    /// How many of `bits` were read from bytes.
    count: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, bits: 0, count: 0 }
    }

    /// Sees to it that 32 bits are there, or all that are left.
    #[inline(always)]
    fn refill(&mut self) {
        if self.count >= 32 {
            return;
        }
        if let Some(chunk) = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<4>()) {
            let word = u32::from_be_bytes(*chunk);
            // Whether no byte is FF: subtracting one from each byte of the inverse borrows only where it is zero.
            if (!word).wrapping_sub(0x0101_0101) & word & 0x8080_8080 == 0 {
                self.bits |= u64::from(word) << (32 - self.count);
                self.count += 32;
                self.at += 4;
                return;
            }
        }
        self.refill_by_byte();
    }

    #[inline(never)]
    fn refill_by_byte(&mut self) {
        while self.count <= 56 {
            let Some(&byte) = self.bytes.get(self.at) else { break };
            if byte == 0xff {
                if self.bytes.get(self.at + 1) != Some(&0) {
                    break;
                }
                self.at += 1;
            }
            self.at += 1;
            self.bits |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// Drops bits that were looked at: at most 31, after `refill`.
    #[inline(always)]
    fn consume(&mut self, count: u32) -> Result<(), Fault> {
        if count > self.count {
            return Err(Fault::Ended);
        }
        self.bits <<= count;
        self.count -= count;
        Ok(())
    }

    /// The number that the next bits write, at most 16 of them.
    #[inline(always)]
    pub(super) fn number(&mut self, count: u32) -> Result<u32, Fault> {
        debug_assert!(count <= 16);
        self.refill();
        let value = (self.bits >> 32 >> (32 - count)) as u32;
        self.consume(count)?;
        Ok(value)
    }

    /// Steps over bits.
    #[inline(always)]
    pub(super) fn skip(&mut self, mut count: u32) -> Result<(), Fault> {
        while count > 0 {
            let step = count.min(16);
            self.refill();
            self.consume(step)?;
            count -= step;
        }
        Ok(())
    }

    /// Reads a code and gives its symbol.
    #[inline(always)]
    pub(super) fn symbol(&mut self, table: &Table) -> Result<u8, Fault> {
        self.refill();
        let (symbol, length) = self.peek(table)?;
        self.consume(length)?;
        Ok(symbol)
    }

    /// Reads a code and the value behind it, which has as many bits as the lower half of the code's symbol says. Gives
    /// the symbol and the value's magnitude: a value with a leading zero is minus its complement.
    #[inline(always)]
    pub(super) fn symbol_and_magnitude(&mut self, table: &Table) -> Result<(u8, u32), Fault> {
        self.refill();
        let (symbol, length) = self.peek(table)?;
        let size = u32::from(symbol & 15);
        // In two steps, as no value may be shifted by all of its bits at once.
        let value = (self.bits << length >> 1 >> (63 - size)) as u32;
        let ones = (1 << size) - 1;
        let magnitude = if value << 1 > ones { value } else { ones - value };
        self.consume(length + size)?;
        Ok((symbol, magnitude))
    }

    #[inline(always)]
    fn peek(&self, table: &Table) -> Result<(u8, u32), Fault> {
        let code = (self.bits >> 48) as u16;
        // Zeros stand for what is missing at the end, so a code that is none may only be cut.
        table.find(code).ok_or(if self.count < 16 { Fault::Ended } else { Fault::BadCode })
    }

    /// Reads a difference as it is coded for DC: a code for its number of bits, then the bits, of which a leading zero
    /// stands for minus.
    #[inline(always)]
    pub(super) fn difference(&mut self, table: &Table) -> Result<i32, Fault> {
        let size = u32::from(self.symbol(table)?);
        if size == 0 {
            return Ok(0);
        }
        if size > 15 {
            return Err(Fault::BadCode);
        }
        let value = self.number(size)? as i32;
        Ok(if value >> (size - 1) == 0 { value + 1 - (1 << size) } else { value })
    }

    /// Ends the data: the rest of a byte may be padding of any value, and a marker must follow, perhaps after fill
    /// bytes. Gives the marker's second byte; [`BitReader::rest`] then starts with it.
    pub(super) fn finish(&mut self) -> Result<u8, Fault> {
        self.refill_by_byte();
        if self.count >= 8 {
            return Err(Fault::Surplus);
        }
        (self.bits, self.count) = (0, 0);
        while self.bytes.get(self.at) == Some(&0xff) {
            self.at += 1;
        }
        match self.bytes.get(self.at) {
            None => Err(Fault::Ended),
            Some(0) => Err(Fault::Surplus),
            Some(marker) => Ok(*marker),
        }
    }

    /// Goes on behind the marker that `finish` found.
    pub(super) fn resume(&mut self) {
        self.at += 1;
    }

    /// What follows the data, from the FF of the marker that `finish` found.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at.saturating_sub(1)..).unwrap_or_default()
    }
}
