//! The structure of a JPEG file, without its pixels.
//!
//! The JPEG decoder fills what a cut-off or damaged file lacks with grey and reports success, so whether a file is whole
//! is found here, in two steps. First its segments are walked until the end-of-image marker; an embedded thumbnail,
//! which has such a marker of its own, lies inside of a segment and is stepped over. Then [`check_scans`] walks the coded
//! data between the segments.

mod bits;
mod entropy;
mod frame;
mod huffman;

use super::DecodeError;

/// What the segments of a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Colour components: 1 grey, 3 colour, 4 CMYK.
    pub components: u8,
    /// Bits of a sample.
    pub precision: u8,
    /// Second byte of the frame's marker: C0 baseline, C1 extended, C2 progressive.
    pub frame: u8,
    /// Whether pixel data and then the end-of-image marker were found.
    pub complete: bool,
}

const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;

impl Header {
    /// Walks the segments of a file. Fails when it holds no frame.
    pub fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut header = None;
        let mut scanned = false;
        let mut complete = false;
        let mut rest = bytes.get(2..).unwrap_or_default();
        while let Some((marker, after)) = next_marker(rest) {
            rest = after;
            if marker == END_OF_IMAGE {
                complete = scanned;
                break;
            }
            // Restart markers, a repeated start of image, and a marker for temporary use have no length.
            if matches!(marker, 0x01 | 0xd0..=0xd8) {
                continue;
            }
            let Some((segment, after)) = split_segment(rest) else { break };
            rest = after;
            // Frames are C0 to CF except three: Huffman tables, a reserved one, and arithmetic conditioning.
            if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) && header.is_none() {
                let [precision, h1, h0, w1, w0, components, ..] = *segment else { break };
                let (height, width) = (u16::from_be_bytes([h1, h0]).into(), u16::from_be_bytes([w1, w0]).into());
                header = Some(Self { width, height, components, precision, frame: marker, complete: false });
            }
            scanned |= marker == START_OF_SCAN;
        }
        let header = header.ok_or_else(|| DecodeError::corrupt("a JPEG file without a frame"))?;
        Ok(Self { complete, ..header })
    }

    /// Whether the file can be decoded and is whole.
    pub fn check(&self, bytes: &[u8]) -> Result<(), DecodeError> {
        if !matches!(self.frame, 0xc0..=0xc2) {
            Err(DecodeError::unsupported("a lossless, hierarchical or arithmetic-coded JPEG"))
        } else if self.precision != 8 {
            Err(DecodeError::unsupported(format!("a JPEG with {} bits a sample", self.precision)))
        } else if self.components == 4 {
            Err(DecodeError::unsupported("a CMYK JPEG"))
        } else if !matches!(self.components, 1 | 3) {
            Err(DecodeError::unsupported(format!("a JPEG with {} components", self.components)))
        } else if !self.complete {
            // A file that has its end was not cut: something in between is wrong.
            let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            Err(if bytes[..end].ends_with(&[0xff, END_OF_IMAGE]) {
                DecodeError::corrupt("a segment of the JPEG file is broken")
            } else {
                DecodeError::truncated("the JPEG file ends before the picture does")
            })
        } else {
            Ok(())
        }
    }
}

/// Whether the coded picture data of a file are whole: fails where they end early, are no valid codes, or are not
/// exactly as much as the frame says. To be called after [`Header::check`], and for pictures of which the size was
/// checked: it takes up to 8 bytes of memory for each 64 samples of a component.
pub fn check_scans(bytes: &[u8]) -> Result<(), DecodeError> {
    entropy::check(bytes)
}

/// The next marker's second byte and what follows it. Steps over pixel data, in which FF is followed by 00.
fn next_marker(mut bytes: &[u8]) -> Option<(u8, &[u8])> {
    loop {
        let at = bytes.iter().position(|byte| *byte == 0xff)?;
        bytes = &bytes[at + 1..];
        match bytes.first()? {
            0x00 => bytes = &bytes[1..],
            // A fill byte: this FF may start the marker.
            0xff => {}
            marker => return Some((*marker, &bytes[1..])),
        }
    }
}

/// The content of the segment that starts with its length, and what follows it.
fn split_segment(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length)).checked_sub(2)?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests;
