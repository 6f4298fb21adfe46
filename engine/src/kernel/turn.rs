//! Products of vectors with many directions: how an index turns vectors into another basis.
//!
//! Directions lie in strips of [`STRIP`]: for each value of a vector what it counts in each direction of the strip. So sums stand
//! side by side in registers and are never brought together.

use super::isa::Isa;
use super::lanes::{Lanes, Work, on};

/// Directions of a strip.
pub(crate) const STRIP: usize = 128;
/// Products that are summed up before they are added to the others, against rounding.
pub(crate) const BLOCK: usize = 32;

/// The products of vectors of `dim` values, one after the other, with the first `dim` directions of the strips. Whatever number of
/// vectors there are, each gets the same bits.
pub(crate) fn products(isa: Isa, strips: &[f32], dim: usize, vectors: &[f32], into: &mut [f32]) {
    assert!(dim > 0 && strips.len() == dim * dim.next_multiple_of(STRIP));
    assert!(vectors.len().is_multiple_of(dim) && into.len() == vectors.len());
    on(isa, Products { strips, dim, vectors, into });
}

struct Products<'a> {
    strips: &'a [f32],
    dim: usize,
    vectors: &'a [f32],
    into: &'a mut [f32],
}

impl Work for Products<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { strips, dim, vectors, into } = self;
        let mut sums = [0f32; STRIP];
        for (number, strip) in strips.chunks_exact(dim * STRIP).enumerate() {
            let start = number * STRIP;
            let count = STRIP.min(dim - start);
            let mut done = 0;
            // SAFETY: a strip has `STRIP` values for each of a vector's; vectors are as long as that.
            unsafe {
                if L::WIDE {
                    while done + 4 * dim <= vectors.len() {
                        let mut four = [[0f32; STRIP]; 4];
                        for part in (0..STRIP).step_by(4 * L::WIDTH) {
                            tile::<L, 4, 4>(strip, part, &vectors[done..], dim, four.as_flattened_mut());
                        }
                        for (at, sums) in four.iter().enumerate() {
                            into[done + at * dim + start..][..count].copy_from_slice(&sums[..count]);
                        }
                        done += 4 * dim;
                    }
                }
                while done < vectors.len() {
                    for part in (0..STRIP).step_by(8 * L::WIDTH) {
                        tile::<L, 1, 8>(strip, part, &vectors[done..], dim, &mut sums);
                    }
                    into[done + start..][..count].copy_from_slice(&sums[..count]);
                    done += dim;
                }
            }
        }
    }
}

/// The products of `V` vectors with `R` registers of directions, from `part` on.
///
/// # Safety
///
/// Runs inside of [`on`]. The strip has [`STRIP`] values for each of `dim`; there are `V` vectors of so many, and as many times
/// [`STRIP`] places; what is taken of the strip ends within it.
#[inline(always)]
unsafe fn tile<L: Lanes, const V: usize, const R: usize>(
    strip: &[f32],
    part: usize,
    vectors: &[f32],
    dim: usize,
    into: &mut [f32],
) {
    debug_assert!(part + R * L::WIDTH <= STRIP && vectors.len() >= V * dim && into.len() >= V * STRIP);
    // SAFETY: the caller's promise.
    unsafe {
        let mut totals = [[L::splat(0.0); R]; V];
        for block in (0..dim).step_by(BLOCK) {
            let mut sums = [[L::splat(0.0); R]; V];
            for at in block..(block + BLOCK).min(dim) {
                let counts: [L::F; R] =
                    std::array::from_fn(|r| L::load(strip.as_ptr().add(at * STRIP + part + r * L::WIDTH)));
                for v in 0..V {
                    let value = L::splat(*vectors.get_unchecked(v * dim + at));
                    for r in 0..R {
                        sums[v][r] = L::fma(value, counts[r], sums[v][r]);
                    }
                }
            }
            for v in 0..V {
                for r in 0..R {
                    totals[v][r] = L::add(totals[v][r], sums[v][r]);
                }
            }
        }
        for v in 0..V {
            for r in 0..R {
                L::store(into.as_mut_ptr().add(v * STRIP + part + r * L::WIDTH), totals[v][r]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn every_path_gives_the_plain_sums() {
        let mut random = Random::new(71);
        for dim in [1usize, 31, 64, 128, 200, 512] {
            let mut drawn = |count: usize| (0..count).map(|_| random.normal() as f32).collect::<Vec<f32>>();
            let strips = drawn(dim * dim.next_multiple_of(STRIP));
            for count in [0, 1, 4, 6] {
                let vectors = drawn(count * dim);
                for isa in Isa::available() {
                    let mut found = vec![f32::NAN; vectors.len()];
                    products(*isa, &strips, dim, &vectors, &mut found);
                    for (vector, found) in vectors.chunks_exact(dim).zip(found.chunks_exact(dim)) {
                        let mut alone = vec![0.0; dim];
                        products(*isa, &strips, dim, vector, &mut alone);
                        assert_eq!(alone, found, "{isa:?}, dim {dim}");
                        for (direction, found) in found.iter().enumerate() {
                            let strip = &strips[direction / STRIP * STRIP * dim..];
                            let each = (0..dim).map(|at| (strip[at * STRIP + direction % STRIP], vector[at]));
                            let exact: f64 = each.clone().map(|(a, b)| f64::from(a) * f64::from(b)).sum();
                            let size: f64 = each.map(|(a, b)| f64::from((a * b).abs())).sum();
                            assert!((f64::from(*found) - exact).abs() <= 3e-6 * size, "{isa:?}, dim {dim}");
                        }
                    }
                }
            }
        }
    }
}
