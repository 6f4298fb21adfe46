//! An orthogonal basis in which the first values of a vector, its **head**, hold most of what there is of it.
//!
//! Vectors of faces vary much more along some directions than along others. Turned so that the former come first, two vectors'
//! product is nearly that of their heads: what the rest of both, their **tails**, can add is at most the length of one times that of
//! the other (Cauchy and Schwarz), which is little. So a scan reads heads, and tails of few rows; nothing is missed.
//!
//! Within head and tail the directions are turned at random, so that no value is much larger than others and digits suit all.

use serde::{Deserialize, Serialize};

use super::flat::FlatRows;
use super::principal::{combine, drawn, orthonormalise, principal, product, sample, variation};
use super::vector::dot;
use crate::kernel::isa::Isa;
use crate::kernel::nibbles::STEP;
use crate::kernel::turn::{BLOCK, STRIP, products};
use crate::random::Random;

/// A head is the shortest that leaves at most this share of the squared length of vectors to tails.
pub(super) const TAIL: f32 = 0.05;
/// A basis that changes products by more than this is not used.
const MOST_ERROR: f32 = 1e-3;

/// Such a basis for the vectors of a gallery.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Basis {
    dim: usize,
    /// Values of a head, a multiple of [`STEP`].
    head: usize,
    /// `dim` directions of as many values, those of the head first, in strips of [`STRIP`] directions: for each value of a vector
    /// what it counts in each of them. Zeros fill the last strip.
    strips: Vec<f32>,
    /// At least what turning both changes the product of two vectors by, for each of their lengths.
    error: f32,
    /// Live rows of the gallery that it was learnt from.
    rows: usize,
}

impl Basis {
    /// For rows of which there are some thousands; `None` where heads would be hardly shorter than vectors. Always the same for the
    /// same rows.
    pub(super) fn learn(rows: &FlatRows) -> Option<Self> {
        let dim = rows.dim();
        let most = dim / 4 * 3 / STEP * STEP;
        if most == 0 {
            return None;
        }
        // Around the origin and not the mean, since products are.
        let variation = variation(&sample(rows), &vec![0.0; dim]);
        let all: f32 = variation.iter().step_by(dim + 1).sum();
        let mut random = Random::new(0x7a15);
        let directions = principal(&variation, dim, most, &mut random);
        let drawn_out = product(&directions, &variation, dim);
        let along = directions.chunks_exact(dim).zip(drawn_out.chunks_exact(dim)).map(|(a, b)| dot(a, b));
        let mut ordered: Vec<(f32, &[f32])> = along.zip(directions.chunks_exact(dim)).collect();
        ordered.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let held = |head: usize| ordered[..head].iter().map(|(along, _)| along).sum::<f32>();
        let head = (STEP..=most).step_by(STEP).find(|head| held(*head) >= (1.0 - TAIL) * all)?;
        let first: Vec<f32> = ordered[..head].iter().flat_map(|(_, direction)| *direction).copied().collect();
        let mut turn = drawn(head, head, &mut random);
        orthonormalise(&mut turn, head);
        let mut directions = combine(&turn, &first, head, dim);
        directions.extend(drawn(dim - head, dim, &mut random));
        orthonormalise(&mut directions, dim);
        let error = error_of(&directions, dim);
        (error <= MOST_ERROR).then(|| Self { dim, head, strips: strips_of(&directions, dim), error, rows: rows.rows() })
    }

    /// Values of a vector.
    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Values of a head.
    pub(super) fn head(&self) -> usize {
        self.head
    }

    /// At least what turning both changes the product of two vectors by, for each of their lengths.
    pub(super) fn error(&self) -> f32 {
        self.error
    }

    /// Live rows of the gallery that it was learnt from.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether it is one for vectors of so many values.
    pub(super) fn is_for(&self, dim: usize) -> bool {
        let is_head = (STEP..dim).contains(&self.head) && self.head.is_multiple_of(STEP);
        let values = dim * dim.next_multiple_of(STRIP);
        self.dim == dim && is_head && self.strips.len() == values && (0.0..=MOST_ERROR).contains(&self.error)
    }

    /// Vectors, one after the other, in this basis.
    pub(super) fn turn(&self, vectors: &[f32]) -> Vec<f32> {
        let mut turned = vec![0.0; vectors.len()];
        products(Isa::current(), &self.strips, self.dim, vectors, &mut turned);
        turned
    }

    /// Memory taken in bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.strips[..])
    }
}

/// Directions, one after the other, as [`Basis`] has them.
fn strips_of(directions: &[f32], dim: usize) -> Vec<f32> {
    let mut strips = vec![0.0; dim * dim.next_multiple_of(STRIP)];
    for (number, direction) in directions.chunks_exact(dim).enumerate() {
        let strip = &mut strips[number / STRIP * STRIP * dim..][..STRIP * dim];
        strip[number % STRIP..].iter_mut().step_by(STRIP).zip(direction).for_each(|(to, value)| *to = *value);
    }
    strips
}

/// At least what turning changes a product by: how far the directions are from upright and of length 1, and rounding.
fn error_of(directions: &[f32], dim: usize) -> f32 {
    /// What one addition or multiplication rounds by.
    const ROUNDING: f64 = f32::EPSILON as f64 / 2.0;
    let mut squares = 0f64;
    for (at, one) in directions.chunks_exact(dim).enumerate() {
        for (other_at, other) in directions.chunks_exact(dim).enumerate().take(at + 1) {
            let product: f64 = one.iter().zip(other).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let (expected, times) = if at == other_at { (1.0, 1.0) } else { (0.0, 2.0) };
            squares += times * (product - expected).powi(2);
        }
    }
    // Each value of both vectors is off by at most this, and all values of one together by the root of their number times it.
    let of_value = ROUNDING * (BLOCK + dim.div_ceil(BLOCK) + 2) as f64;
    (squares.sqrt() + 2.0 * (dim as f64).sqrt() * of_value) as f32 * 1.01
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fixture::{Faces, Rng, key};
    use super::super::flat::FlatEdit;
    use super::*;

    /// Rows that lie as those of faces do.
    pub(in crate::index) fn rows(dim: usize, people: usize) -> FlatRows {
        let mut faces = Faces::new(dim, 61);
        let mut edit = FlatEdit::new(&FlatRows::new(dim));
        for (number, person) in faces.people(people).iter().enumerate() {
            edit.push(key(number as u64, None), &faces.image(person));
        }
        edit.finish()
    }

    #[test]
    fn products_stay_and_heads_hold_most() {
        for (dim, head) in [(192, 128), (256, 192), (512, 320)] {
            let rows = rows(dim, 3_000);
            let basis = Basis::learn(&rows).unwrap();
            assert_eq!((basis.head(), basis.rows(), basis.is_for(dim)), (head, 3_000, true));
            assert!(!basis.is_for(dim + 64) && basis.error() < 2e-4, "{}", basis.error());
            let of_slot = |slot: usize| rows.row(slot).unwrap().vector;
            let several: Vec<f32> = (0..19).flat_map(of_slot).copied().collect();
            let alone: Vec<f32> = (0..19).flat_map(|slot| basis.turn(of_slot(slot))).collect();
            assert_eq!(basis.turn(&several), alone);
            let mut of_tails = 0.0;
            for slot in (0..2_000).step_by(7) {
                let (a, b) = (of_slot(slot), of_slot(slot + 900));
                let (turned, other) = (basis.turn(a), basis.turn(b));
                let exact =
                    |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
                assert!((exact(a, b) - exact(&turned, &other)).abs() < f64::from(basis.error()));
                of_tails += dot(&turned[head..], &turned[head..]);
            }
            assert!(of_tails / 286.0 < 1.1 * TAIL, "{of_tails}");
        }
    }

    #[test]
    fn vectors_that_vary_alike_everywhere_have_none() {
        let mut rng = Rng::new(62);
        let mut edit = FlatEdit::new(&FlatRows::new(128));
        (0..3_000).for_each(|number| {
            edit.push(key(number, None), &rng.unit(128));
        });
        assert!(Basis::learn(&edit.finish()).is_none());
        // Nor do those that all lie along one direction, nor those that are short.
        let mut one = vec![0.0; 128];
        one[5] = 1.0;
        let mut edit = FlatEdit::new(&FlatRows::new(128));
        (0..600).for_each(|number| {
            edit.push(key(number, None), &one);
        });
        assert!(Basis::learn(&edit.finish()).is_none());
        assert!(Basis::learn(&rows(64, 900)).is_none());
    }
}
