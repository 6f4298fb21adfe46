//! What stands before the image in an indexed record.

use super::Fault;

/// Bytes of a header without an array of labels.
const FIXED: usize = 24;

/// Labels of a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Labels {
    /// One label.
    Scalar(f32),
    /// Several, at least one. Face sets write `[class, 1]`.
    Array(Vec<f32>),
}

/// Header of an indexed record, 24 bytes and 4 more for each label of an array: `u32` number of labels in the array, or
/// 0; `f32` label where there is no array; `u64` identifier, `u64` second identifier; the array.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Its labels.
    pub labels: Labels,
    /// Identifier, in face sets the key of the record.
    pub id: u64,
    /// Second identifier, 0 in face sets.
    pub id2: u64,
}

impl Header {
    /// The label, or the first of them.
    pub fn label(&self) -> f32 {
        match &self.labels {
            Labels::Scalar(label) => *label,
            Labels::Array(labels) => labels.first().copied().unwrap_or(0.0),
        }
    }

    /// Appends the header to `out`. An array without labels is written as the label 0, since the format has no other
    /// form for it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (count, label, array) = match &self.labels {
            Labels::Scalar(label) => (0, *label, &[][..]),
            Labels::Array(labels) => (labels.len() as u32, 0.0, &labels[..]),
        };
        out.extend(count.to_le_bytes());
        out.extend(label.to_le_bytes());
        out.extend(self.id.to_le_bytes());
        out.extend(self.id2.to_le_bytes());
        array.iter().for_each(|label| out.extend(label.to_le_bytes()));
    }

    /// Reads the header at the start of a payload and says how many bytes it has.
    ///
    /// # Errors
    /// [`Fault::ShortHeader`].
    pub fn read(payload: &[u8]) -> Result<(Self, usize), Fault> {
        let short = |expected: u64| Fault::ShortHeader { expected, actual: payload.len() };
        let fixed: &[u8; FIXED] = payload.first_chunk().ok_or_else(|| short(FIXED as u64))?;
        let count = u32::from_le_bytes(fixed[..4].try_into().expect("four bytes"));
        let label = f32::from_le_bytes(fixed[4..8].try_into().expect("four bytes"));
        let id = u64::from_le_bytes(fixed[8..16].try_into().expect("eight bytes"));
        let id2 = u64::from_le_bytes(fixed[16..].try_into().expect("eight bytes"));
        if count == 0 {
            return Ok((Self { labels: Labels::Scalar(label), id, id2 }, FIXED));
        }
        let length = FIXED as u64 + 4 * u64::from(count);
        let array = usize::try_from(length).ok().and_then(|length| payload.get(FIXED..length));
        let array = array.ok_or_else(|| short(length))?;
        let labels = array.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")));
        Ok((Self { labels: Labels::Array(labels.collect()), id, id2 }, FIXED + array.len()))
    }
}
