//! Whether the coded data of a JPEG file are whole, without computing pixels.
//!
//! Decoders for viewing make the best of damaged data: they fill what is missing with grey and report success. Here
//! every code of every scan is walked. A file passes only when all codes are valid, runs of coefficients stay inside
//! of their blocks, each scan and restart interval holds exactly as many blocks as the frame says, restart markers come
//! in order, the brightness of blocks (and, in sequential frames, their contrast) stays within what 8-bit pixels can
//! have, and each component is covered. Huffman codes have no checksum, so damage that leaves all of this intact goes
//! unseen: mostly a few odd blocks, rarely a shift of colours from there on. Of 1000 photos with 64 random bytes
//! somewhere in their data 99 % were refused, with 8 random bytes 82 %. Of 16,671 photos and 528 re-encodings only one
//! was refused, which was really cut.
//!
//! Baseline, extended sequential and progressive Huffman coding are walked (ITU-T T.81, annexes F and G). The work is
//! linear in the file's bytes plus blocks times scans, and scans are limited. Memory is 8 bytes a block, for progressive
//! files only; the caller has checked the picture's size before.

use std::ops::{Range, RangeInclusive};

use super::bits::{BitReader, Fault};
use super::frame::{Frame, Part, Quantisation, Scan, Steps};
use super::huffman::{Table, Tables};
use super::{DecodeError, END_OF_IMAGE, START_OF_SCAN, next_marker, split_segment};

/// DC coefficients that 8-bit pixels can have: 8 times the block's mean, which lies between -128 and 127.
const DC_RANGE: RangeInclusive<i32> = -1024..=1016;
/// What inexact transforms may add, one grey level.
const DC_SLACK: i32 = 8;
/// Largest length of the vector of a block's coefficients. The transform keeps lengths, so 64 pixels give at most 8
/// times 128. A quarter more is for encoders that write pixels beyond black and white on purpose, for decoders to clip.
const MAX_LENGTH: f32 = 1280.0;

/// Walks all scans of a file. Fails with `Truncated` where data end early, otherwise with `Corrupt`.
pub(super) fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    let mut tables = Tables::default();
    let mut quantisation = Quantisation::default();
    let mut frame: Option<Frame> = None;
    let mut restart_interval = 0;
    let mut scanned = false;
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        // Before the first scan decoders find their way through stray bytes; later ones are lost picture data.
        if scanned && rest.first().is_some_and(|byte| *byte != 0xff) {
            return Err(DecodeError::corrupt("the JPEG file has stray bytes between its scans"));
        }
        let (marker, after) = next_marker(rest).ok_or_else(ends_early)?;
        rest = after;
        if marker == END_OF_IMAGE {
            break;
        }
        if matches!(marker, 0x01 | 0xd0..=0xd8) {
            continue;
        }
        let (segment, after) = split_segment(rest).ok_or_else(ends_early)?;
        rest = after;
        match marker {
            0xc4 => tables.define(segment)?,
            0xc0..=0xc2 if frame.is_none() => frame = Some(Frame::read(marker, segment)?),
            0xc0..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf => {
                return Err(DecodeError::corrupt("the JPEG file has a second frame"));
            }
            0xdb => quantisation.define(segment)?,
            0xdd => match *segment {
                [high, low] => restart_interval = usize::from(u16::from_be_bytes([high, low])),
                _ => return Err(DecodeError::corrupt("the restart interval of the JPEG file is broken")),
            },
            // Frames of AVI files leave out the Huffman tables.
            0xe0 if segment.starts_with(b"AVI1\0") => tables.add_standard(),
            START_OF_SCAN => {
                let frame = frame.as_mut().ok_or_else(|| DecodeError::corrupt("a scan before the frame"))?;
                let scan = frame.scan(segment)?;
                let mut walk = Walk::new(frame, &scan, &tables, &quantisation)?;
                rest = check_scan(&mut walk, frame.units(&scan), restart_interval, rest)?;
                if let Walk::AcFirst { known, .. } | Walk::AcRefine { known, .. } = walk {
                    frame.components[scan.parts[0].component].known = known;
                }
                scanned = true;
            }
            _ => {}
        }
    }
    match frame {
        Some(frame) if frame.is_covered() => Ok(()),
        _ => Err(DecodeError::corrupt("the JPEG file lacks a scan")),
    }
}

fn ends_early() -> DecodeError {
    DecodeError::truncated("the JPEG file ends before the picture does")
}

/// Walks one scan and gives what follows it, from a marker's FF on.
fn check_scan<'a>(
    walk: &mut Walk<'_>,
    units: usize,
    restart_interval: usize,
    bytes: &'a [u8],
) -> Result<&'a [u8], DecodeError> {
    let mut reader = BitReader::new(bytes);
    let step = if restart_interval == 0 { units } else { restart_interval };
    let mut done = 0;
    for restart in (0..8u8).cycle() {
        let next = units.min(done + step);
        walk.interval(&mut reader, done..next)?;
        done = next;
        let marker = reader.finish()?;
        if done == units {
            break;
        }
        match marker {
            marker if marker == 0xd0 + restart => reader.resume(),
            END_OF_IMAGE => return Err(Fault::Ended.into()),
            _ => return Err(DecodeError::corrupt("a restart marker of the JPEG file is missing")),
        }
    }
    Ok(reader.rest())
}

/// How far the coefficients of a block of a sequential frame may be from zero, all in all. In progressive frames, where
/// they come in parts, the same test found nothing that others had not.
struct Contrast {
    /// What a coefficient's coded value is worth, in the order of coding.
    steps: [f32; 64],
    /// Largest sum of squares.
    max_square: f32,
}

impl Contrast {
    fn new(steps: &Steps) -> Self {
        // Rounding moves each coefficient by half a step at most.
        let steps = steps.map(f32::from);
        let rounding = steps.iter().map(|step| step.powi(2)).sum::<f32>().sqrt() / 2.0;
        Self { steps, max_square: (MAX_LENGTH + rounding).powi(2) }
    }
}

/// A component of a scan that brings DC.
struct DcPart<'a> {
    /// In one unit.
    blocks: usize,
    dc: &'a Table,
    /// Only in sequential frames, where AC comes along.
    ac: Option<&'a Table>,
    /// What one step of the coded differences is worth.
    step: i32,
    contrast: Contrast,
    /// The last block's DC, in steps.
    last: i32,
}

/// The kinds of scans, with what is needed to walk them.
enum Walk<'a> {
    /// DC for the first time; in sequential frames all of the block.
    First { parts: Vec<DcPart<'a>> },
    /// One more bit of DC.
    DcRefine { blocks: u32 },
    /// A band of AC for the first time.
    AcFirst { table: &'a Table, start: u32, end: u32, known: Vec<u64> },
    /// One more bit of a band of AC.
    AcRefine { table: &'a Table, start: u32, end: u32, known: Vec<u64> },
}

impl<'a> Walk<'a> {
    /// Takes what is known of a component's coefficients out of the frame; to be put back after the scan.
    fn new(
        frame: &mut Frame,
        scan: &Scan,
        tables: &'a Tables,
        quantisation: &Quantisation,
    ) -> Result<Self, DecodeError> {
        let units = frame.units(scan);
        match *scan.parts {
            [part] if scan.start > 0 => {
                let table = tables.ac(part.ac)?;
                let mut known = std::mem::take(&mut frame.components[part.component].known);
                known.resize(units, 0);
                let (start, end) = (scan.start.into(), scan.end.into());
                Ok(if scan.refines {
                    Self::AcRefine { table, start, end, known }
                } else {
                    Self::AcFirst { table, start, end, known }
                })
            }
            _ if scan.refines => {
                let blocks = scan.parts.iter().map(|part| frame.blocks(scan, part) as u32).sum();
                Ok(Self::DcRefine { blocks })
            }
            _ => {
                let part = |part: &Part| {
                    let steps = quantisation.steps(&frame.components[part.component])?;
                    Ok(DcPart {
                        blocks: frame.blocks(scan, part),
                        dc: tables.dc(part.dc)?,
                        ac: if frame.progressive { None } else { Some(tables.ac(part.ac)?) },
                        step: i32::from(steps[0]) << scan.low,
                        contrast: Contrast::new(steps),
                        last: 0,
                    })
                };
                Ok(Self::First { parts: scan.parts.iter().map(part).collect::<Result<_, DecodeError>>()? })
            }
        }
    }

    /// Walks a restart interval: these units of the scan.
    fn interval(&mut self, reader: &mut BitReader<'_>, units: Range<usize>) -> Result<(), Fault> {
        match self {
            Self::First { parts } => {
                for part in &mut *parts {
                    part.last = 0;
                }
                for _ in units {
                    for part in &mut *parts {
                        for _ in 0..part.blocks {
                            dc_first(reader, part)?;
                            if let Some(table) = part.ac {
                                ac_sequential(reader, table, part.last, &part.contrast)?;
                            }
                        }
                    }
                }
                Ok(())
            }
            Self::DcRefine { blocks } => units.into_iter().try_for_each(|_| reader.skip(*blocks)),
            Self::AcFirst { table, start, end, known } => ac_first(reader, table, *start..*end + 1, &mut known[units]),
            Self::AcRefine { table, start, end, known } => {
                ac_refine(reader, table, *start..*end + 1, &mut known[units])
            }
        }
    }
}

#[inline(always)]
fn dc_first(reader: &mut BitReader<'_>, part: &mut DcPart<'_>) -> Result<(), Fault> {
    // Wraps only where a step is zero, which no encoder writes.
    part.last = part.last.wrapping_add(reader.difference(part.dc)?);
    let dc = part.last.saturating_mul(part.step);
    // Rounding to steps moves it by half a step, cutting off low bits by one.
    let slack = DC_SLACK + part.step;
    if dc < DC_RANGE.start() - slack || dc > DC_RANGE.end() + slack {
        return Err(Fault::Brightness);
    }
    Ok(())
}

/// All AC coefficients of a block.
#[inline(always)]
fn ac_sequential(reader: &mut BitReader<'_>, table: &Table, dc: i32, contrast: &Contrast) -> Result<(), Fault> {
    let mut square = (dc as f32 * contrast.steps[0]).powi(2);
    let mut next = 1;
    while next < 64 {
        let (symbol, magnitude) = reader.symbol_and_magnitude(table)?;
        let run = usize::from(symbol >> 4);
        match (run, symbol & 15) {
            (0, 0) => break,
            (1..15, 0) => return Err(Fault::BadCode),
            (_, 0) => next += 16,
            _ => {
                next += run;
                let step = contrast.steps.get(next).ok_or(Fault::LongRun)?;
                square += (magnitude as f32 * step).powi(2);
                next += 1;
            }
        }
    }
    if next > 64 {
        Err(Fault::LongRun)
    } else if square > contrast.max_square {
        Err(Fault::Contrast)
    } else {
        Ok(())
    }
}

/// The first bits of a band of AC coefficients, in one restart interval.
fn ac_first(reader: &mut BitReader<'_>, table: &Table, band: Range<u32>, blocks: &mut [u64]) -> Result<(), Fault> {
    let mut index = 0;
    while let Some(known) = blocks.get_mut(index) {
        index += 1;
        let mut next = band.start;
        while next < band.end {
            let (symbol, _) = reader.symbol_and_magnitude(table)?;
            let run = u32::from(symbol >> 4);
            match (run, symbol & 15) {
                // The band is over, and so it is in the blocks of a run.
                (0..15, 0) => {
                    index += (1 << run) + reader.number(run)? as usize - 1;
                    break;
                }
                (_, 0) => next += 16,
                _ => {
                    next += run;
                    if next >= band.end {
                        return Err(Fault::LongRun);
                    }
                    *known |= 1 << next;
                    next += 1;
                }
            }
        }
        if next > band.end {
            return Err(Fault::LongRun);
        }
    }
    if index > blocks.len() { Err(Fault::LongBlockRun) } else { Ok(()) }
}

/// One more bit of a band of AC coefficients, in one restart interval. Each coefficient that is not zero has a bit of
/// its own behind the code that passes it; runs count the others.
fn ac_refine(reader: &mut BitReader<'_>, table: &Table, band: Range<u32>, blocks: &mut [u64]) -> Result<(), Fault> {
    // Bits of coefficients from one on, as far as the band goes.
    let from = |start: u32| if start < band.end { u64::MAX << start & u64::MAX >> (64 - band.end) } else { 0 };
    let mut empty_blocks = 0;
    for known in blocks {
        let mut next = band.start;
        while empty_blocks == 0 && next < band.end {
            let symbol = reader.symbol(table)?;
            let run = u32::from(symbol >> 4);
            match (run, symbol & 15) {
                (0..15, 0) => {
                    empty_blocks = (1 << run) + reader.number(run)?;
                    break;
                }
                (_, 0 | 1) => {}
                _ => return Err(Fault::BadCode),
            }
            let fresh = symbol & 15 == 1;
            if fresh {
                // Its sign.
                reader.skip(1)?;
            }
            let mut zeros = !*known & from(next);
            for _ in 0..run {
                zeros &= zeros.wrapping_sub(1);
            }
            if zeros == 0 {
                return Err(Fault::LongRun);
            }
            let at = zeros.trailing_zeros();
            reader.skip((*known & from(next) & !from(at)).count_ones())?;
            if fresh {
                *known |= 1 << at;
            }
            next = at + 1;
        }
        if empty_blocks > 0 {
            reader.skip((*known & from(next)).count_ones())?;
            empty_blocks -= 1;
        }
    }
    if empty_blocks > 0 { Err(Fault::LongBlockRun) } else { Ok(()) }
}
