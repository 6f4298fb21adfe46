//! What a graph walks over: vectors as bytes or as bits, whose distances are a good guess of those of vectors.

use hnsw_rs::anndists::dist::distances::Distance;
use serde::{Deserialize, Serialize};

use crate::kernel::isa::Isa;
use crate::kernel::{bits, bytes};

/// Standard deviations of a value that a byte reaches. A larger value is cut, which costs a search a candidate at worst.
const REACH: f32 = 5.5;

/// What of a row a graph keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GraphCodes {
    /// A byte for each value.
    #[default]
    Bytes,
    /// The sign of each value: an eighth of the memory, and a coarser guess, so that more candidates have to be looked at.
    Bits,
}

impl GraphCodes {
    /// Bytes that a vector of `dim` values takes.
    pub(super) fn width(self, dim: usize) -> usize {
        match self {
            Self::Bytes => dim.next_multiple_of(bytes::STEP),
            Self::Bits => dim.div_ceil(8).next_multiple_of(bits::STEP),
        }
    }

    /// A unit vector in this form. `hnsw_rs` keeps bits as bytes, too: of each eight the first is the lowest.
    pub(super) fn of(self, vector: &[f32]) -> Vec<i8> {
        let mut codes: Vec<i8> = match self {
            Self::Bytes => {
                // All vectors of a length on the same scale.
                let scale = 127.0 * (vector.len() as f32).sqrt() / REACH;
                vector.iter().map(|value| (value * scale).round().clamp(-127.0, 127.0) as i8).collect()
            }
            Self::Bits => {
                let byte =
                    |values: &[f32]| values.iter().rev().fold(0u8, |byte, value| byte << 1 | u8::from(*value > 0.0));
                vector.chunks(8).map(|values| byte(values).cast_signed()).collect()
            }
        };
        codes.resize(self.width(vector.len()), 0);
        codes
    }
}

/// How far apart vectors of `dim` values are by such codes, never below 0: 1 − cosine by bytes, and by bits the share of values whose
/// signs differ, which grows with the angle.
#[derive(Clone, Copy)]
pub(super) struct CodeDistance {
    codes: GraphCodes,
    isa: Isa,
    /// What a product of bytes or a bit counts.
    scale: f32,
}

impl CodeDistance {
    pub(super) fn new(codes: GraphCodes, dim: usize) -> Self {
        let scale = match codes {
            GraphCodes::Bytes => (REACH / 127.0).powi(2) / dim as f32,
            GraphCodes::Bits => 1.0 / dim as f32,
        };
        Self { codes, isa: Isa::current(), scale }
    }
}

impl Distance<i8> for CodeDistance {
    fn eval(&self, a: &[i8], b: &[i8]) -> f32 {
        match self.codes {
            GraphCodes::Bytes => {
                let mut product = [0];
                bytes::products(self.isa, a, b, &mut product);
                (1.0 - product[0] as f32 * self.scale).max(0.0)
            }
            GraphCodes::Bits => {
                bits::differing(self.isa, bytemuck::cast_slice(a), bytemuck::cast_slice(b)) as f32 * self.scale
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Rng;
    use super::super::vector::cosine;
    use super::*;

    /// Half a step in each value of both vectors, all in the worst direction.
    const ROUNDING: f32 = 2.0 * REACH / 254.0 + 0.001;

    #[test]
    fn distances_are_those_of_vectors_as_far_as_codes_tell() {
        let mut rng = Rng::new(19);
        for dim in [2usize, 20, 64, 192, 500, 512] {
            for _ in 0..20 {
                let (a, b) = (rng.unit(dim), rng.unit(dim));
                for codes in [GraphCodes::Bytes, GraphCodes::Bits] {
                    let (of_a, of_b) = (codes.of(&a), codes.of(&b));
                    assert_eq!(of_a.len(), codes.width(dim));
                    let found = CodeDistance::new(codes, dim).eval(&of_a, &of_b);
                    let (expected, within) = match codes {
                        GraphCodes::Bytes => ((1.0 - cosine(&a, &b)).max(0.0), ROUNDING),
                        GraphCodes::Bits => {
                            let differ = a.iter().zip(&b).filter(|(a, b)| (**a > 0.0) != (**b > 0.0)).count();
                            (differ as f32 / dim as f32, 1e-6)
                        }
                    };
                    assert!((found - expected).abs() <= within, "{codes:?}, dim {dim}: {found} {expected}");
                    assert!(CodeDistance::new(codes, dim).eval(&of_a, &of_a) <= ROUNDING);
                }
            }
        }
    }
}
