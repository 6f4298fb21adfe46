//! Vectors as signed bytes, a quarter of their size, and how wrong a product of them can be.
//!
//! A value is its byte times the vector's scale, within a rest. By Cauchy and Schwarz the product of two vectors differs from
//! that of their bytes by at most the rest of one times the length of the other, and the other way round; so the bytes tell
//! how high a score can be, and a row whose score cannot reach the list need not be looked at in full. What is left out is
//! left out rightly: the scan is exact.

use super::vector::UNIT_TOLERANCE;
use crate::kernel::bytes::{STEP, products};
use crate::kernel::isa::Isa;

/// Length that no checked vector exceeds, with what rounding may add to it.
const LONGEST: f32 = 1.0 + UNIT_TOLERANCE + 1e-5;
/// What rounding may add between a score, which is summed in single precision, and its bound.
const ROUNDING: f32 = 1e-5;

/// Bytes of a vector of `dim` values, padding included.
fn coded_len(dim: usize) -> usize {
    dim.next_multiple_of(STEP)
}

/// What stands beside the bytes of a vector.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// Value of a byte.
    scale: f32,
    /// At least the length of what the bytes leave out.
    rest: f32,
}

/// Rows as bytes, in the order they came.
#[derive(Default)]
pub(super) struct CodedRows {
    /// [`coded_len`] a row.
    codes: Vec<i8>,
    scales: Vec<f32>,
    rests: Vec<f32>,
}

impl CodedRows {
    /// Memory that a row of `dim` values takes, in bytes.
    pub(super) fn row_bytes(dim: usize) -> usize {
        coded_len(dim) + size_of::<Scale>()
    }

    /// Appends a checked vector.
    pub(super) fn push(&mut self, vector: &[f32]) {
        let Scale { scale, rest } = encode(vector, &mut self.codes);
        self.scales.push(scale);
        self.rests.push(rest);
    }

    /// A copy with room for so many rows.
    pub(super) fn with_room(&self, rows: usize) -> Self {
        let mut copy = Self {
            codes: Vec::with_capacity(self.codes.len() / self.scales.len().max(1) * rows),
            scales: Vec::with_capacity(rows),
            rests: Vec::with_capacity(rows),
        };
        copy.codes.extend_from_slice(&self.codes);
        copy.scales.extend_from_slice(&self.scales);
        copy.rests.extend_from_slice(&self.rests);
        copy
    }

    /// Gives back room that is not used.
    pub(super) fn shrink_to_fit(&mut self) {
        self.codes.shrink_to_fit();
        self.scales.shrink_to_fit();
        self.rests.shrink_to_fit();
    }
}

/// Appends the bytes of a checked vector.
fn encode(vector: &[f32], into: &mut Vec<i8>) -> Scale {
    let largest = vector.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    // A vector of length 1 has a value above 0.
    let scale = largest / 127.0;
    let start = into.len();
    into.extend(vector.iter().map(|value| (value / scale).round().clamp(-127.0, 127.0) as i8));
    let rest = vector.iter().zip(&into[start..]).map(|(value, byte)| {
        let rest = f64::from(*value) - f64::from(scale) * f64::from(*byte);
        rest * rest
    });
    // Rounded up.
    let rest = rest.sum::<f64>().sqrt() as f32 * (1.0 + 1e-6);
    into.resize(start + coded_len(vector.len()), 0);
    Scale { scale, rest }
}

/// A probe as bytes.
pub(super) struct CodedProbe {
    isa: Isa,
    codes: Vec<i8>,
    scale: f32,
    /// By what the rest of a row is multiplied in its bound.
    per_rest: f32,
    /// What the bound of every row allows for.
    slack: f32,
}

impl CodedProbe {
    pub(super) fn new(probe: &[f32]) -> Self {
        let mut codes = Vec::with_capacity(coded_len(probe.len()));
        let Scale { scale, rest } = encode(probe, &mut codes);
        Self { isa: Isa::current(), codes, scale, per_rest: LONGEST + rest, slack: rest * LONGEST + ROUNDING }
    }

    /// For each row, a score that its own does not exceed. `sums` and `bounds` are as long as there are rows.
    pub(super) fn bounds(&self, rows: &CodedRows, sums: &mut [i32], bounds: &mut [f32]) {
        products(self.isa, &self.codes, &rows.codes, sums);
        for (((bound, sum), scale), rest) in bounds.iter_mut().zip(sums).zip(&rows.scales).zip(&rows.rests) {
            let product = *sum as f32 * (self.scale * scale);
            // Scores are kept within −1 to 1, which raises those below.
            *bound = (product + rest * self.per_rest + self.slack).max(-1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Rng;
    use super::super::vector::{check_unit, cosine};
    use super::*;

    /// The bound of one row, and its score.
    fn bound_and_score(probe: &[f32], row: &[f32]) -> (f32, f32) {
        let mut rows = CodedRows::default();
        rows.push(row);
        let (mut sums, mut bounds) = ([0], [0.0]);
        CodedProbe::new(probe).bounds(&rows, &mut sums, &mut bounds);
        (bounds[0], cosine(probe, row))
    }

    /// Vectors that are hard to put into bytes.
    fn hard(dim: usize, rng: &mut Rng) -> Vec<Vec<f32>> {
        let mut one = vec![0f32; dim];
        one[dim / 2] = -1.0;
        // One large value: all others are below half a byte.
        let mut spike = rng.unit(dim);
        spike[0] = 300.0;
        let mut tiny = vec![f32::from_bits(1); dim];
        tiny[dim - 1] = 1.0;
        let even = vec![1.0 / (dim as f32).sqrt(); dim];
        let length = spike.iter().map(|value| value * value).sum::<f32>().sqrt();
        spike.iter_mut().for_each(|value| *value /= length);
        let long = rng.unit(dim).iter().map(|value| value * (1.0 + UNIT_TOLERANCE * 0.99)).collect();
        let mut all = vec![one, spike, tiny, even, long, rng.unit(dim), rng.unit(dim)];
        for at in 0..all.len() {
            all.push(all[at].iter().map(|value| -value).collect());
        }
        all
    }

    #[test]
    fn no_score_exceeds_its_bound_and_bounds_are_close() {
        let mut rng = Rng::new(12);
        for dim in (1..=70).chain([128, 192, 512, 513, 2048]) {
            let vectors = hard(dim, &mut rng);
            for probe in &vectors {
                assert_eq!(check_unit(probe, dim), Ok(()));
                for row in &vectors {
                    let (bound, score) = bound_and_score(probe, row);
                    assert!(bound >= score, "dim {dim}: {bound} {score}");
                }
            }
            let (bound, score) = bound_and_score(&rng.unit(dim), &rng.unit(dim));
            assert!(bound - score < 0.06, "dim {dim}: {bound} {score}");
        }
    }
}
