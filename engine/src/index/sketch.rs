//! Rows as a few bits each: a first look at all of them that reads little memory.
//!
//! A bit says on which side of a plane a vector lies. Vectors of faces do not fill their space evenly, so the planes are laid
//! through the directions in which the gallery varies most: half as many bits as a vector has values keep most of what tells
//! people apart. Within those directions the planes are turned at random, since bits count equally and so should directions
//! (Gong and others 2013 turn them for the same reason).

use serde::{Deserialize, Serialize};

use super::codes::{Coded, encode_largest};
use super::flat::{CHUNK_ROWS, ChunkRows, FlatRows};
use super::principal::{combine, drawn, orthonormalise, principal, sample, variation};
use super::vector::dot;
use crate::kernel::bits::{Marked, WEIGHT_BITS, Weighed};
use crate::kernel::isa::Isa;
use crate::random::Random;

/// Bits of a word.
const WORD: usize = 64;
/// Where the planes of a gallery lie.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Planes {
    dim: usize,
    /// A normal for each bit as bytes, one after the other, each padded as rows of bytes are.
    normals: Vec<i8>,
    /// What a byte of each normal counts.
    scales: Vec<f32>,
    /// How far from the origin each plane is.
    offsets: Vec<f32>,
}

impl Planes {
    /// Bits for vectors of `dim` values, a whole number of words; none where vectors are too short to gain by them.
    pub(super) fn bits(dim: usize) -> usize {
        if dim < 2 * WORD { 0 } else { (dim / 2).next_multiple_of(WORD).min(8 * WORD) }
    }

    /// Lays the planes for rows of which there are some thousands. Always the same for the same rows.
    pub(super) fn learn(rows: &FlatRows) -> Self {
        let (dim, bits) = (rows.dim(), Self::bits(rows.dim()));
        let sample = sample(rows);
        let mut mean = vec![0f32; dim];
        for vector in &sample {
            mean.iter_mut().zip(*vector).for_each(|(mean, value)| *mean += value / sample.len() as f32);
        }
        let mut random = Random::new(0x91a2);
        let directions = principal(&variation(&sample, &mean), dim, bits, &mut random);
        // Rows of the turn are directions within the directions.
        let mut turn = drawn(bits, bits, &mut random);
        orthonormalise(&mut turn, bits);
        let normals = combine(&turn, &directions, bits, dim);
        let offsets = normals.chunks_exact(dim).map(|normal| dot(normal, &mean)).collect();
        let coded: Vec<Coded> = normals.chunks_exact(dim).map(encode_largest).collect();
        let scales = coded.iter().map(|coded| coded.scale).collect();
        Self { dim, normals: coded.into_iter().flat_map(|coded| coded.codes).collect(), scales, offsets }
    }

    /// Whether they are laid through vectors of so many values.
    pub(super) fn is_for(&self, dim: usize) -> bool {
        let bits = Self::bits(dim);
        let codes = bits * dim.next_multiple_of(crate::kernel::bytes::STEP);
        self.dim == dim
            && bits > 0
            && self.normals.len() == codes
            && self.scales.len() == bits
            && self.offsets.len() == bits
    }

    /// Words of a row.
    pub(super) fn words(&self) -> usize {
        self.offsets.len() / WORD
    }

    /// How far a vector is on which side of each plane, within a percent of what they are apart: all is done in bytes.
    pub(super) fn sides(&self, vector: &[f32]) -> Vec<f32> {
        let Coded { codes, scale, .. } = encode_largest(vector);
        let mut products = vec![0; self.offsets.len()];
        crate::kernel::bytes::products(Isa::current(), &codes, &self.normals, &mut products);
        let each = products.iter().zip(&self.scales).zip(&self.offsets);
        each.map(|((product, of_normal), offset)| *product as f32 * (scale * of_normal) - offset).collect()
    }

    /// The bits of a vector: set where it is above the plane.
    pub(super) fn sketch(&self, vector: &[f32]) -> Vec<u64> {
        bits_of(&self.sides(vector))
    }

    /// The bits of a full chunk, in blocks of eight rows.
    pub(super) fn sketch_chunk(&self, rows: &ChunkRows) -> Box<[u64]> {
        use crate::kernel::bits::BLOCK;
        let words = self.words();
        let mut blocks = vec![0; CHUNK_ROWS * words];
        for (row, vector) in rows.vectors.chunks_exact(self.dim).enumerate() {
            for (word, bits) in self.sketch(vector).into_iter().enumerate() {
                blocks[(row / BLOCK * words + word) * BLOCK + row % BLOCK] = bits;
            }
        }
        blocks.into()
    }

    /// Memory taken in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.normals.len() + (self.scales.len() + self.offsets.len()) * size_of::<f32>()
    }
}

/// A bit for each side, set where it is the upper one.
pub(super) fn bits_of(sides: &[f32]) -> Vec<u64> {
    let word = |sides: &[f32]| sides.iter().rev().fold(0, |word, side| word << 1 | u64::from(*side > 0.0));
    sides.chunks(WORD).map(word).collect()
}

/// The bits of a probe, of which those count that are so far from the plane that another image is likely on the same side.
pub(super) fn marked(sides: &[f32]) -> Marked {
    /// Root mean squares from the plane from which on a bit counts: about half of them do.
    const FAR: f32 = 0.6;
    let far = FAR * root_mean_square(sides);
    Marked::new(sides.iter().map(|side| (*side > 0.0, side.abs() >= far)))
}

/// The bits of a probe, which count the more the farther it is from the plane: what lies near one may as well be on its other
/// side.
pub(super) fn weighed(sides: &[f32]) -> Weighed {
    /// The largest weight.
    const MOST: f32 = ((1 << WEIGHT_BITS) - 1) as f32;
    /// Root mean squares from the plane on which all count the same.
    const FAR: f32 = 2.5;
    let step = (FAR * root_mean_square(sides) / MOST).max(f32::MIN_POSITIVE);
    Weighed::new(sides.iter().map(|side| (*side > 0.0, (side.abs() / step).round().min(MOST) as u8)))
}

fn root_mean_square(sides: &[f32]) -> f32 {
    (sides.iter().map(|side| side * side).sum::<f32>() / sides.len() as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Faces, key};
    use super::super::flat::FlatEdit;
    use super::*;

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
    fn planes_are_upright_and_cut_the_gallery_in_halves() {
        let rows = rows(128, 3 * CHUNK_ROWS as u64);
        let planes = Planes::learn(&rows);
        assert_eq!((planes.words(), Planes::bits(128)), (1, 64));
        let normals: Vec<Vec<f32>> = planes
            .normals
            .chunks_exact(128)
            .zip(&planes.scales)
            .map(|(codes, scale)| codes.iter().map(|code| f32::from(*code) * scale).collect())
            .collect();
        for (at, normal) in normals.iter().enumerate() {
            for (other_at, other) in normals.iter().enumerate() {
                let expected = if at == other_at { 1.0 } else { 0.0 };
                assert!((dot(normal, other) - expected).abs() < 0.01, "{at} {other_at}");
            }
        }
        let vector = rows.row(5).unwrap().vector;
        for (side, (normal, offset)) in planes.sides(vector).iter().zip(normals.iter().zip(&planes.offsets)) {
            assert!((side - (dot(normal, vector) - offset)).abs() < 0.01);
        }
        let mut set = [0; 64];
        for (_, row) in rows.live_rows(0..rows.slots()) {
            let bits = planes.sketch(row.vector)[0];
            (0..64).for_each(|bit| set[bit] += bits >> bit & 1);
        }
        let half = rows.rows() as u64 / 2;
        assert!(set.iter().all(|count| count.abs_diff(half) < half / 4), "{set:?}");
        // Most of what varies lies along half as many directions.
        let sample: Vec<&[f32]> = rows.live_rows(0..rows.slots()).map(|(_, row)| row.vector).collect();
        let kept: f32 =
            sample.iter().map(|row| normals.iter().map(|normal| dot(normal, row).powi(2)).sum::<f32>()).sum();
        assert!(kept / sample.len() as f32 > 0.85, "{}", kept / sample.len() as f32);
    }

    #[test]
    fn a_chunk_is_its_rows_in_blocks() {
        let rows = rows(192, CHUNK_ROWS as u64);
        let planes = Planes::learn(&rows);
        let blocks = planes.sketch_chunk(&rows.chunks[0].rows);
        for slot in [0, 1, 7, 8, 300, 511] {
            let bits = planes.sketch(rows.row(slot).unwrap().vector);
            let words: Vec<u64> = (0..2).map(|word| blocks[(slot / 8 * 2 + word) * 8 + slot % 8]).collect();
            assert_eq!(words, bits);
        }
    }

    #[test]
    fn bits_near_a_plane_count_less_or_not_at_all() {
        let sides: Vec<f32> = (0..64).map(|at| (at as f32 - 31.5) / 10.0).collect();
        let bits = bits_of(&sides)[0];
        assert_eq!(bits, !0 << 32);
        let weighed = weighed(&sides);
        let one_off = |bit: usize| weighed.distances(Isa::Portable, &[bits ^ 1 << bit; 8])[0];
        assert_eq!([one_off(0), one_off(63), one_off(31), one_off(32)], [5, 5, 0, 0]);
        assert!((32..63).all(|bit| one_off(bit) <= one_off(bit + 1)));
        let marked = marked(&sides);
        let counts: Vec<u16> = (0..64).map(|bit| marked.distance_to(&[bits ^ 1 << bit])).collect();
        // The root mean square is 1.85.
        assert!(counts.iter().zip(&sides).all(|(count, side)| *count == u16::from(side.abs() > 1.11)), "{counts:?}");
        assert_eq!(super::marked(&[0.0; 64]).distance_to(&[!0]), 64);
    }

    #[test]
    fn short_vectors_have_no_sketch_and_all_others_whole_words() {
        for (dim, bits) in [(2, 0), (64, 0), (128, 64), (130, 128), (192, 128), (256, 128), (512, 256), (4096, 512)] {
            assert_eq!(Planes::bits(dim), bits);
        }
    }
}
