//! Rows as two bits a value, of some values: a first look at all of them that reads little memory.
//!
//! Vectors of faces do not fill their space evenly. Along the directions in which a gallery varies most, a quarter as many as a
//! vector has values, lies most of what tells people apart; how far a row is along each is kept as one of four **levels**. A
//! probe's bytes times the levels say about how high a score is. Within those directions the vectors are turned at random, so that
//! all have levels of the same width (Gong and others 2013 turn them for the same reason).
//!
//! Bits that say on which side of a plane a vector lies, twice as many in the same memory, let through two to three times as many
//! rows where the same subjects are to be found (docs/SEARCH.md).

use serde::{Deserialize, Serialize};

use super::codes::{Coded, encode_largest};
use super::flat::{CHUNK_ROWS, ChunkRows, FlatRows};
use super::principal::{combine, drawn, orthonormalise, principal, sample, variation};
use super::spread::{Moments, Spread};
use super::vector::{dot, mean_of};
use crate::kernel::isa::Isa;
use crate::kernel::levels::{BLOCK, STEP, block_bytes, put};
use crate::random::Random;

/// Width of a level in standard deviations: with it four levels leave out least of a normal distribution (Max 1960).
const WIDTH: f32 = 0.9957;
/// Most directions.
const MOST: usize = 8 * STEP;

/// The directions of a gallery.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Directions {
    dim: usize,
    /// Each direction as bytes, one after the other, padded as rows of bytes are.
    codes: Vec<i8>,
    /// What a byte of each direction counts.
    scales: Vec<f32>,
    /// How far the middle of the gallery is along each.
    middles: Vec<f32>,
    /// Width of a level.
    width: f32,
    /// How the levels of rows are spread along each.
    levels: Moments,
}

impl Directions {
    /// Directions for vectors of `dim` values, a multiple of [`STEP`]; none where vectors are too short to gain by them.
    pub(super) fn count(dim: usize) -> usize {
        if dim < 2 * STEP { 0 } else { (dim / 4).next_multiple_of(STEP).min(MOST) }
    }

    /// Those of rows of which there are some thousands. Always the same for the same rows.
    pub(super) fn learn(rows: &FlatRows) -> Self {
        let (dim, count) = (rows.dim(), Self::count(rows.dim()));
        let sample = sample(rows);
        let mean = mean_of(&sample, dim);
        let mut random = Random::new(0x91a2);
        let principal = principal(&variation(&sample, &mean), dim, count, &mut random);
        // Rows of the turn are directions within the directions.
        let mut turn = drawn(count, count, &mut random);
        orthonormalise(&mut turn, count);
        let directions = combine(&turn, &principal, count, dim);
        let middles = directions.chunks_exact(dim).map(|direction| dot(direction, &mean)).collect();
        let coded: Vec<Coded> = directions.chunks_exact(dim).map(encode_largest).collect();
        let scales = coded.iter().map(|coded| coded.scale).collect();
        let codes = coded.into_iter().flat_map(|coded| coded.codes).collect();
        let mut learnt = Self { dim, codes, scales, middles, width: 0.0, levels: Moments::default() };
        let squares = |vector: &&[f32]| learnt.past_middle(vector).iter().map(|value| value * value).sum::<f32>();
        let mean_square = sample.iter().map(squares).sum::<f32>() / (sample.len() * count).max(1) as f32;
        learnt.width = (WIDTH * mean_square.sqrt()).max(f32::MIN_POSITIVE);
        let levels = |vector: &&[f32]| learnt.levels(vector).into_iter().map(f32::from).collect();
        let levels: Vec<Vec<f32>> = sample.iter().map(levels).collect();
        learnt.levels = Moments::of(&levels, count);
        learnt
    }

    /// Whether they are those of vectors of so many values.
    pub(super) fn is_for(&self, dim: usize) -> bool {
        let count = Self::count(dim);
        let codes = count * dim.next_multiple_of(crate::kernel::bytes::STEP);
        let lengths = [self.codes.len(), self.scales.len(), self.middles.len()];
        self.dim == dim
            && count > 0
            && lengths == [codes, count, count]
            && self.width > 0.0
            && self.levels.are_of(count)
    }

    /// Bytes of a row.
    pub(super) fn row_bytes(&self) -> usize {
        block_bytes(self.scales.len()) / BLOCK
    }

    /// How far a vector is along each, within a percent of what rows are apart: all is done in bytes.
    fn along(&self, vector: &[f32]) -> Vec<f32> {
        let Coded { codes, scale, .. } = encode_largest(vector);
        let mut products = vec![0; self.scales.len()];
        crate::kernel::bytes::products(Isa::current(), &codes, &self.codes, &mut products);
        products.iter().zip(&self.scales).map(|(product, of_code)| *product as f32 * (scale * of_code)).collect()
    }

    fn past_middle(&self, vector: &[f32]) -> Vec<f32> {
        self.along(vector).iter().zip(&self.middles).map(|(along, middle)| along - middle).collect()
    }

    /// A probe as bytes, to be multiplied by levels. What the middle of the gallery adds to products is the same for all rows.
    pub(super) fn probe(&self, vector: &[f32]) -> Vec<i8> {
        encode_largest(&self.along(vector)).codes
    }

    /// How the products of a probe in bytes with the levels of rows are spread.
    pub(super) fn spread(&self, sight: &[i8]) -> Spread {
        self.levels.along(&sight.iter().map(|code| f32::from(*code)).collect::<Vec<_>>())
    }

    /// The levels of a vector, 0 to 3.
    pub(super) fn levels(&self, vector: &[f32]) -> Vec<u8> {
        let level = |from_middle: f32| ((from_middle / self.width).floor() + 2.0).clamp(0.0, 3.0) as u8;
        self.past_middle(vector).into_iter().map(level).collect()
    }

    /// The levels of a full chunk, in blocks of rows.
    pub(super) fn sketch_chunk(&self, rows: &ChunkRows) -> Vec<u8> {
        let width = block_bytes(self.scales.len());
        let mut blocks = vec![0; CHUNK_ROWS / BLOCK * width];
        for (row, vector) in rows.vectors.chunks_exact(self.dim).enumerate() {
            put(&self.levels(vector), row % BLOCK, &mut blocks[row / BLOCK * width..][..width]);
        }
        blocks
    }

    /// Memory taken in bytes.
    pub(super) fn bytes(&self) -> usize {
        Self::bytes_for(self.dim)
    }

    /// The same of those for vectors of `dim` values.
    pub(super) fn bytes_for(dim: usize) -> usize {
        let count = Self::count(dim);
        count * (dim.next_multiple_of(crate::kernel::bytes::STEP) + 2 * size_of::<f32>()) + Moments::bytes_for(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Faces, key};
    use super::super::flat::FlatEdit;
    use super::*;
    use crate::kernel::levels::portable;

    fn rows(dim: usize, count: u64) -> FlatRows {
        let mut faces = Faces::new(dim, 31);
        let mut edit = FlatEdit::new(&FlatRows::new(dim));
        for number in 0..count {
            let person = faces.person();
            edit.push(key(number, None), &faces.image(&person));
        }
        edit.finish()
    }

    #[test]
    fn directions_are_upright_and_levels_are_even() {
        let rows = rows(128, 3 * CHUNK_ROWS as u64);
        let directions = Directions::learn(&rows);
        assert_eq!((directions.row_bytes(), Directions::count(128)), (16, 64));
        let all: Vec<Vec<f32>> = directions
            .codes
            .chunks_exact(128)
            .zip(&directions.scales)
            .map(|(codes, scale)| codes.iter().map(|code| f32::from(*code) * scale).collect())
            .collect();
        for (at, direction) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                let expected = if at == other_at { 1.0 } else { 0.0 };
                assert!((dot(direction, other) - expected).abs() < 0.01, "{at} {other_at}");
            }
        }
        let vector = rows.row(5).unwrap().vector;
        let from_middle = directions.past_middle(vector);
        for (found, (direction, middle)) in from_middle.iter().zip(all.iter().zip(&directions.middles)) {
            assert!((found - (dot(direction, vector) - middle)).abs() < 0.01);
        }
        // A third of a normal distribution is in each of the middle levels, a sixth in each of the others.
        let mut counts = [[0usize; 4]; 64];
        for (_, row) in rows.live_rows(0..rows.slots()) {
            let levels = directions.levels(row.vector);
            levels.iter().zip(&mut counts).for_each(|(level, counts)| counts[usize::from(*level)] += 1);
        }
        for counts in counts {
            let share = |level: usize| counts[level] as f32 / rows.rows() as f32;
            assert!((0..4).all(|level| (share(level) - [0.16, 0.34, 0.34, 0.16][level]).abs() < 0.08), "{counts:?}");
        }
        // Most of what varies lies along half as many directions.
        let sample: Vec<&[f32]> = rows.live_rows(0..rows.slots()).map(|(_, row)| row.vector).collect();
        let kept: f32 = sample.iter().map(|row| all.iter().map(|one| dot(one, row).powi(2)).sum::<f32>()).sum();
        assert!(kept / sample.len() as f32 > 0.85, "{}", kept / sample.len() as f32);
    }

    #[test]
    fn a_chunk_is_its_rows_in_blocks_and_products_follow_scores() {
        let rows = rows(192, CHUNK_ROWS as u64);
        let directions = Directions::learn(&rows);
        let blocks = directions.sketch_chunk(&rows.chunks[0].rows);
        let mut faces = Faces::new(192, 31);
        let vector = |slot: usize| rows.row(slot).unwrap().vector;
        let probe = faces.person();
        let codes = directions.probe(&probe);
        let found: Vec<i32> =
            blocks.chunks(block_bytes(codes.len())).flat_map(|block| portable(&codes, block)).collect();
        for (slot, found) in found.iter().enumerate() {
            let each = codes.iter().zip(directions.levels(vector(slot)));
            assert_eq!(*found, each.map(|(code, level)| i32::from(*code) * i32::from(level)).sum::<i32>());
        }
        let scores: Vec<f32> = (0..CHUNK_ROWS).map(|slot| dot(&probe, vector(slot))).collect();
        let count = CHUNK_ROWS as f32;
        let (mean, of_scores) = (found.iter().sum::<i32>() as f32 / count, scores.iter().sum::<f32>() / count);
        let pairs = || found.iter().map(|one| *one as f32 - mean).zip(scores.iter().map(|one| one - of_scores));
        let together = pairs().map(|(a, b)| a * b).sum::<f32>();
        let alone = pairs().fold([0f32; 2], |[x, y], (a, b)| [x + a * a, y + b * b]);
        let correlation = together / (alone[0] * alone[1]).sqrt();
        assert!(correlation > 0.8, "{correlation}");
    }

    #[test]
    fn short_vectors_have_no_sketch() {
        for (dim, count) in [(2, 0), (64, 0), (128, 64), (130, 64), (192, 64), (256, 64), (512, 128), (4096, 512)] {
            assert_eq!(Directions::count(dim), count);
        }
    }
}
