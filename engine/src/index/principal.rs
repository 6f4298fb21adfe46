//! Directions along which the rows of a gallery vary most.
//!
//! Found by orthogonal iteration: drawn directions are multiplied by how values vary together, which draws them towards those of
//! most variance, and set upright on one another again, a few times over.

use rayon::prelude::*;

use super::flat::FlatRows;
use super::vector::dot;
use crate::random::Random;

/// Rows that directions are learnt from.
const SAMPLE: usize = 4_096;
/// How often directions are drawn towards those of most variance.
const ROUNDS: usize = 8;

/// The vectors of some thousand live rows, always the same for the same rows.
pub(super) fn sample(rows: &FlatRows) -> Vec<&[f32]> {
    let step = (rows.slots() / SAMPLE).max(1);
    (0..rows.slots()).step_by(step).filter_map(|slot| Some(rows.row(slot)?.vector)).collect()
}

/// So many drawn vectors of `dim` values.
pub(super) fn drawn(count: usize, dim: usize, random: &mut Random) -> Vec<f32> {
    (0..count * dim).map(|_| random.normal() as f32).collect()
}

/// So many upright directions of length 1 along which values vary most, those of most variance first or nearly so.
pub(super) fn principal(variation: &[f32], dim: usize, count: usize, random: &mut Random) -> Vec<f32> {
    let mut directions = drawn(count, dim, random);
    for _ in 0..ROUNDS {
        directions = product(&directions, variation, dim);
        orthonormalise(&mut directions, dim);
    }
    directions
}

/// How values vary together around a middle, a row for each value.
pub(super) fn variation(sample: &[&[f32]], middle: &[f32]) -> Vec<f32> {
    let dim = middle.len();
    // Column by column of the sample, so that a value of the result is one product.
    let mut columns = vec![0f32; dim * sample.len()];
    for (number, vector) in sample.iter().enumerate() {
        for (at, (value, middle)) in vector.iter().zip(middle).enumerate() {
            columns[at * sample.len() + number] = value - middle;
        }
    }
    let column = |at: usize| &columns[at * sample.len()..(at + 1) * sample.len()];
    let mut all = vec![0f32; dim * dim];
    all.par_chunks_exact_mut(dim).enumerate().for_each(|(at, row)| {
        row.iter_mut().enumerate().for_each(|(other, value)| *value = dot(column(at), column(other)));
    });
    all
}

/// Each of `vectors` times a symmetric matrix.
pub(super) fn product(vectors: &[f32], symmetric: &[f32], dim: usize) -> Vec<f32> {
    let mut products = vec![0f32; vectors.len()];
    products.par_chunks_exact_mut(dim).zip(vectors.par_chunks_exact(dim)).for_each(|(product, vector)| {
        for (value, row) in product.iter_mut().zip(symmetric.chunks_exact(dim)) {
            *value = dot(vector, row);
        }
    });
    products
}

/// Sums of `vectors`, weighted by each row of `weights`.
pub(super) fn combine(weights: &[f32], vectors: &[f32], count: usize, dim: usize) -> Vec<f32> {
    let mut sums = vec![0f32; weights.len() / count * dim];
    sums.par_chunks_exact_mut(dim).zip(weights.par_chunks_exact(count)).for_each(|(sum, weights)| {
        for (weight, vector) in weights.iter().zip(vectors.chunks_exact(dim)) {
            sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += weight * value);
        }
    });
    sums
}

/// Makes vectors of length 1 that stand upright on those before them; what lies within those becomes 0.
pub(super) fn orthonormalise(vectors: &mut [f32], dim: usize) {
    for at in 0..vectors.len() / dim {
        let (before, from) = vectors.split_at_mut(at * dim);
        let vector = &mut from[..dim];
        let start = dot(vector, vector).sqrt();
        // Twice, since once leaves what rounding left.
        for _ in 0..2 {
            for other in before.chunks_exact(dim) {
                let share = dot(other, vector);
                vector.iter_mut().zip(other).for_each(|(value, other)| *value -= share * other);
            }
        }
        let length = dot(vector, vector).sqrt();
        let factor = if length > start * 1e-4 { 1.0 / length } else { 0.0 };
        vector.iter_mut().for_each(|value| *value *= factor);
    }
}
