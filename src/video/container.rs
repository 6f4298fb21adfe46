//! Which format a video file is of, by its first bytes.

/// A container format that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// MP4, QuickTime and their kin.
    Mov,
    /// Matroska and WebM.
    Matroska,
    /// AVI.
    Avi,
    /// MPEG transport stream.
    MpegTs,
    /// MPEG program stream.
    MpegPs,
    /// Flash video.
    Flv,
    /// Ogg.
    Ogg,
    /// ASF, as WMV files are.
    Asf,
}

/// Bytes of a transport stream packet.
const TS_PACKET: usize = 188;
/// First byte of each.
const TS_SYNC: u8 = 0x47;

impl Container {
    /// Bytes that tell the formats apart.
    pub const HEAD_BYTES: usize = 2 * TS_PACKET + 1;

    /// The format of a file that begins with these bytes.
    pub fn of(head: &[u8]) -> Option<Self> {
        let at = |offset: usize, bytes: &[u8]| head.get(offset..offset + bytes.len()) == Some(bytes);
        let is_atom = |name: &&[u8; 4]| at(4, *name);
        let packets = head.iter().step_by(TS_PACKET).take(3);
        if [b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"].iter().any(is_atom) {
            Some(Self::Mov)
        } else if at(0, &[0x1a, 0x45, 0xdf, 0xa3]) {
            Some(Self::Matroska)
        } else if at(0, b"RIFF") && at(8, b"AVI ") {
            Some(Self::Avi)
        } else if at(0, &[0, 0, 1, 0xba]) {
            Some(Self::MpegPs)
        } else if at(0, b"FLV\x01") {
            Some(Self::Flv)
        } else if at(0, b"OggS") {
            Some(Self::Ogg)
        } else if at(0, &[0x30, 0x26, 0xb2, 0x75, 0x8e, 0x66, 0xcf, 0x11]) {
            Some(Self::Asf)
        } else if head.len() > TS_PACKET && packets.clone().all(|byte| *byte == TS_SYNC) {
            Some(Self::MpegTs)
        } else {
            None
        }
    }

    /// ffmpeg's name of it.
    pub(super) fn demuxer(self) -> &'static str {
        match self {
            Self::Mov => "mov",
            Self::Matroska => "matroska",
            Self::Avi => "avi",
            Self::MpegTs => "mpegts",
            Self::MpegPs => "mpeg",
            Self::Flv => "flv",
            Self::Ogg => "ogg",
            Self::Asf => "asf",
        }
    }
}
