//! Unit vectors: the check every vector passes before an index keeps or compares it, and their product.
//!
//! The product is the score of the whole system, so it has to be the same number wherever a pair of vectors meets. It
//! is one function of the two slices with a fixed order of additions: scanning alone, in parallel, out of a graph or
//! after compaction gives the same bits. The order is written as independent lanes, so the compiler can use whatever
//! vector registers it may assume; it may not fuse multiply and add, so the bits do not depend on the processor either.

use super::IndexError;

/// How far a vector's length may be from 1. Half-precision vectors that were normalised before rounding still pass.
pub const UNIT_TOLERANCE: f32 = 1e-3;

/// Sums kept apart while two vectors are multiplied.
const LANES: usize = 32;

/// Checks that `vector` has `dim` finite values and length 1 within [`UNIT_TOLERANCE`].
///
/// # Errors
/// [`IndexError::WrongDimension`] or [`IndexError::NotUnit`].
pub fn check_unit(vector: &[f32], dim: usize) -> Result<(), IndexError> {
    if vector.len() != dim {
        return Err(IndexError::WrongDimension { expected: dim, actual: vector.len() });
    }
    // One NaN or infinite value makes the sum of squares NaN or infinite, and no comparison with it is true.
    if (dot(vector, vector).sqrt() - 1.0).abs() <= UNIT_TOLERANCE { Ok(()) } else { Err(IndexError::NotUnit) }
}

/// The product of two vectors of the same length. Error against exact arithmetic for unit vectors: below 1e-6.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_inlined(a, b)
}

/// As [`dot`], for loops that are compiled for each instruction set.
#[inline(always)]
pub(super) fn dot_inlined(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    for (lane, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += x * y;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// The cosine of two unit vectors: their product, kept within −1 to 1 against rounding.
pub(super) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    dot(a, b).clamp(-1.0, 1.0)
}

/// The mean of vectors of `dim` values; zeros of none.
pub(super) fn mean_of(vectors: &[&[f32]], dim: usize) -> Vec<f32> {
    let mut mean = vec![0f32; dim];
    for vector in vectors {
        mean.iter_mut().zip(*vector).for_each(|(mean, value)| *mean += value / vectors.len() as f32);
    }
    mean
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Rng;
    use super::*;

    #[test]
    fn the_product_is_close_to_exact_at_every_length() {
        let mut rng = Rng::new(1);
        for dim in (1..=130).chain([512, 513]) {
            let (a, b) = (rng.unit(dim), rng.unit(dim));
            let exact: f64 = a.iter().zip(&b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            assert!((f64::from(dot(&a, &b)) - exact).abs() < 1e-6, "dim {dim}");
            assert_eq!(dot(&a, &b).to_bits(), dot(&b, &a).to_bits());
        }
    }

    #[test]
    fn the_mean_is_that_of_each_value() {
        let mean = mean_of(&[&[1.0, 2.0], &[3.0, -2.0], &[5.0, 3.0]], 2);
        assert!((mean[0] - 3.0).abs() < 1e-6 && (mean[1] - 1.0).abs() < 1e-6, "{mean:?}");
        assert_eq!(mean_of(&[], 3), [0.0; 3]);
    }

    #[test]
    fn vectors_are_checked() {
        let unit = Rng::new(2).unit(40);
        assert_eq!(check_unit(&unit, 40), Ok(()));
        assert_eq!(check_unit(&unit, 41), Err(IndexError::WrongDimension { expected: 41, actual: 40 }));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1.0] {
            let mut vector = unit.clone();
            vector[39] = bad;
            assert_eq!(check_unit(&vector, 40), Err(IndexError::NotUnit), "{bad}");
        }
        assert_eq!(check_unit(&[0.0; 40], 40), Err(IndexError::NotUnit));
        assert_eq!(check_unit(&[], 0), Err(IndexError::NotUnit));
        let scaled = |factor: f32| unit.iter().map(|x| x * factor).collect::<Vec<_>>();
        assert_eq!(check_unit(&scaled(1.0009), 40), Ok(()));
        assert_eq!(check_unit(&scaled(1.0012), 40), Err(IndexError::NotUnit));
        assert_eq!(check_unit(&scaled(0.9988), 40), Err(IndexError::NotUnit));
    }
}
