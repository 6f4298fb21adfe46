//! How high a score can be, by digits.
//!
//! By Cauchy and Schwarz the product of two vectors differs from that of their digits by at most the rest of one times the
//! length of the other, and the other way round; so digits tell how high a score can be, and a row whose score cannot reach
//! the list need not be looked at further. What is left out is left out rightly: the scan is exact. Where digits are of heads, a bound
//! allows for tails in the same way.

use std::sync::Arc;

use super::basis::{Basis, TAIL};
use super::codes::{COARSE, Coded, CodedRows, LIFT, coded_len, encode_largest, length_of};
use super::vector::UNIT_TOLERANCE;
use crate::kernel::bytes;
use crate::kernel::isa::Isa;
use crate::kernel::nibbles::{PROBES, Tile, listed_products, products};
use crate::kernel::reach::{self, Line, Lines, Numbers};

/// Length that no checked vector exceeds, with what rounding may add to it.
const LONGEST: f32 = 1.0 + UNIT_TOLERANCE + 1e-5;
/// What rounding may add between a score, which is summed in single precision, and its bound.
const ROUNDING: f32 = 1e-5;

/// Standard deviations that a score is within of what coarse digits say, in all likelihood.
const LIKELY: f32 = 3.0;

/// Which digits of a row's head a product is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Digits {
    /// The coarse ones.
    Coarse,
    /// Coarse and fine ones.
    Both,
}

/// Between what a score lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range {
    /// It is not below this one.
    pub(super) least: f32,
    /// It does not exceed this one.
    pub(super) most: f32,
}

/// A probe as codes in one basis.
struct Turned {
    basis: Option<Arc<Basis>>,
    head: Vec<i8>,
    tail: Vec<i8>,
    /// For products of coarse digits.
    coarse: Line,
    /// For products of both.
    both: Line,
    /// The standard deviation of what tails add to a score.
    likely_tail: f32,
}

impl Turned {
    /// Of a probe that was turned into the basis.
    fn new(probe: &[f32], basis: Option<&Arc<Basis>>) -> Self {
        let head_len = basis.map_or(probe.len(), |basis| basis.head());
        let Coded { codes, scale, rest } = encode_largest(probe);
        let (head, tail) = codes.split_at(coded_len(head_len));
        // What turning may change a product by, and the length of either part of it.
        let error = 3.0 * basis.map_or(0.0, |basis| basis.error());
        let lifted = LIFT * head.iter().map(|code| i32::from(*code)).sum::<i32>();
        let coarse = Line {
            lifted,
            scale: COARSE as f32 * scale,
            per_rest: LONGEST + rest,
            per_tail: length_of(&probe[head_len..]),
            slack: rest * LONGEST + ROUNDING + error,
        };
        let both = Line { lifted: (COARSE + 1) * lifted, scale, ..coarse };
        // Tails of rows have at most so much of their squared lengths, on average, in as many directions as there are.
        let of_rows = (TAIL / (probe.len() - head_len).max(1) as f32).sqrt();
        let likely_tail = if basis.is_some() { coarse.per_tail * of_rows } else { 0.0 };
        Self { basis: basis.cloned(), head: head.to_vec(), tail: tail.to_vec(), coarse, both, likely_tail }
    }

    fn is_for(&self, rows: &CodedRows) -> bool {
        self.basis.as_ref().map(Arc::as_ptr) == rows.basis.as_ref().map(Arc::as_ptr)
    }
}

/// A probe as codes, in each basis that rows are coded in.
pub(super) struct CodedProbe {
    isa: Isa,
    /// As it came, then in each basis.
    all: Vec<Turned>,
}

impl CodedProbe {
    /// For rows as they came, and such as are coded in these.
    pub(super) fn new(probe: &[f32], bases: &[Arc<Basis>]) -> Self {
        Self::several(std::iter::once(probe), bases).swap_remove(0)
    }

    /// The same of several probes of the same length: a basis is read once for all of them.
    pub(super) fn several<'a>(probes: impl Iterator<Item = &'a [f32]> + Clone, bases: &[Arc<Basis>]) -> Vec<Self> {
        let isa = Isa::current();
        let mut coded: Vec<Self> =
            probes.clone().map(|probe| Self { isa, all: vec![Turned::new(probe, None)] }).collect();
        let together: Vec<f32> = probes.flatten().copied().collect();
        for basis in bases {
            let turned = basis.turn(&together);
            let each = turned.chunks_exact(basis.dim()).zip(&mut coded);
            each.for_each(|(turned, coded)| coded.all.push(Turned::new(turned, Some(basis))));
        }
        coded
    }

    /// As rows are coded.
    fn as_in(&self, rows: &CodedRows) -> &Turned {
        self.all.iter().rev().find(|turned| turned.is_for(rows)).expect("a probe is coded in every basis of the rows")
    }

    /// For each row the product of its coarse digits, and whether a score that its own does not exceed is at least `floor`: a bit
    /// of a word for each, the first row in the lowest. There are as many products as rows, and words for all of them.
    pub(super) fn reaching(&self, rows: &CodedRows, floor: f32, into: &mut [i32], words: &mut [u64]) {
        let turned = self.as_in(rows);
        products(self.isa, &turned.head, &rows.coarse, into);
        let numbers = Numbers { scales: &rows.scales, rests: &rows.coarse_rests, tails: &rows.tail_lengths };
        reach::rows(self.isa, &turned.coarse, into, numbers, floor, words);
    }

    /// Of one row the product of its coarse digits, and a score that its own does not exceed.
    pub(super) fn coarse_bound(&self, rows: &CodedRows, row: usize) -> (i32, f32) {
        let Turned { head, coarse, .. } = self.as_in(rows);
        let (mut product, width) = ([0], head.len() / 2);
        products(self.isa, head, &rows.coarse[row * width..(row + 1) * width], &mut product);
        (product[0], coarse.bound(product[0], rows.scales[row], rows.coarse_rests[row], rows.tail_length(row)))
    }

    /// As [`CodedProbe::fine_bound`], of the rows that are listed, one after the other: hands over each row with its product and its
    /// bound. `fine` is room for products.
    pub(super) fn fine_bounds(
        &self,
        rows: &CodedRows,
        listed: &[u16],
        coarse: &[i32],
        fine: &mut Vec<i32>,
        mut meet: impl FnMut(usize, i32, f32),
    ) {
        let Turned { head, both, .. } = self.as_in(rows);
        fine.resize(listed.len(), 0);
        listed_products(self.isa, head, &rows.fine, listed, fine);
        for ((row, coarse), fine) in listed.iter().map(|row| usize::from(*row)).zip(coarse).zip(&*fine) {
            let product = COARSE * coarse + fine;
            meet(row, product, both.bound(product, rows.scales[row], rows.head_rest(row), rows.tail_length(row)));
        }
    }

    /// Of one row the product of both digits, given that of its coarse ones, and a closer bound.
    pub(super) fn fine_bound(&self, rows: &CodedRows, row: usize, coarse: i32) -> (i32, f32) {
        let Turned { head, both, .. } = self.as_in(rows);
        let (mut fine, width) = ([0], head.len() / 2);
        products(self.isa, head, &rows.fine[row * width..(row + 1) * width], &mut fine);
        let product = COARSE * coarse + fine[0];
        (product, both.bound(product, rows.scales[row], rows.head_rest(row), rows.tail_length(row)))
    }

    /// Between what one row's score lies in all likelihood, by its coarse digits.
    ///
    /// What is left out of a value is as likely to be anything up to half a step, and stands in no relation to the probe, nor does the
    /// tail of a row to that of a probe. So errors add up as their squares do, and not as Cauchy and Schwarz have to fear.
    pub(super) fn likely_range(&self, rows: &CodedRows, row: usize) -> Range {
        let Turned { head, coarse, likely_tail, .. } = self.as_in(rows);
        let (mut product, width) = ([0], head.len() / 2);
        products(self.isa, head, &rows.coarse[row * width..(row + 1) * width], &mut product);
        let scale = rows.scales[row];
        let score = (product[0] - coarse.lifted) as f32 * coarse.scale * scale;
        // A step's deviation is its width times the root of a twelfth.
        let of_digits = COARSE as f32 * scale * 0.289;
        let error = LIKELY * (of_digits * of_digits + likely_tail * likely_tail).sqrt();
        Range { least: score - error, most: score + error }
    }

    /// The closest bounds of one row's score, given the product of both digits.
    pub(super) fn range(&self, rows: &CodedRows, row: usize, product: i32) -> Range {
        let Turned { tail, both, .. } = self.as_in(rows);
        let mut of_tail = [0];
        if !tail.is_empty() {
            let of_row = &rows.tails[row * tail.len()..(row + 1) * tail.len()];
            bytes::products(self.isa, tail, bytemuck::cast_slice(of_row), &mut of_tail);
        }
        let (product, scale, rest) = (product + of_tail[0], rows.scales[row], rows.rests[row]);
        Range { least: both.least(product, scale, rest, 0.0), most: both.bound(product, scale, rest, 0.0) }
    }
}

/// Several probes as codes, which meet each row together.
pub(super) struct CodedProbes {
    probes: Vec<CodedProbe>,
    /// For each basis.
    tiles: Vec<Together>,
}

/// Probes in one basis.
struct Together {
    tile: Tile,
    coarse: Lines,
    both: Lines,
}

impl CodedProbes {
    /// Probes that can be together.
    pub(super) const MOST: usize = PROBES;

    /// Of one to [`CodedProbes::MOST`] probes of the same length.
    pub(super) fn new<'a>(probes: impl Iterator<Item = &'a [f32]> + Clone, bases: &[Arc<Basis>]) -> Self {
        let probes = CodedProbe::several(probes, bases);
        let isa = Isa::current();
        let together = |number: usize| {
            let all = || probes.iter().map(|probe| &probe.all[number]);
            Together {
                tile: Tile::new(isa, &all().map(|turned| &turned.head[..]).collect::<Vec<_>>()),
                coarse: Lines::new(all().map(|turned| turned.coarse)),
                both: Lines::new(all().map(|turned| turned.both)),
            }
        };
        let tiles = (0..=bases.len()).map(together).collect();
        Self { probes, tiles }
    }

    /// One of them.
    pub(super) fn probe(&self, number: usize) -> &CodedProbe {
        &self.probes[number]
    }

    /// For each row from `start` on, as many as there are places: its products, and which of the probes have a bound of at least
    /// their floor, the first probe in the lowest bit. Absent probes have a floor of infinity. Gives what the products are of:
    /// where the machine multiplies bytes as fast as half bytes, or rows are coded in a basis, both digits are read at once, as
    /// somebody's coarse bound reaches the list for every other row.
    pub(super) fn reaching(
        &self,
        rows: &CodedRows,
        start: usize,
        floors: &[f32; PROBES],
        into: &mut [[i32; PROBES]],
        reaching: &mut [u16],
    ) -> Digits {
        let first = &self.probes[0];
        let isa = first.isa;
        let number = first.all.iter().position(|turned| turned.is_for(rows)).expect("probes are coded as rows are");
        let Together { tile, coarse, both } = &self.tiles[number];
        let (end, width) = (start + into.len(), first.all[number].head.len() / 2);
        let (upper, lower) = (&rows.coarse[start * width..end * width], &rows.fine[start * width..end * width]);
        let in_basis = rows.basis.is_some();
        let (digits, lines, rests) = if in_basis || Tile::multiplies_whole(isa) {
            tile.whole_products(upper, lower, into);
            (Digits::Both, both, if in_basis { &rows.head_rests } else { &rows.rests })
        } else {
            tile.products(upper, into);
            (Digits::Coarse, coarse, &rows.coarse_rests)
        };
        let tails = rows.tail_lengths.get(start..end).unwrap_or_default();
        let numbers = Numbers { scales: &rows.scales[start..end], rests: &rests[start..end], tails };
        lines.probes(isa, into, numbers, floors, reaching);
        digits
    }
}

#[cfg(test)]
mod tests {
    use super::super::basis::tests::rows as of_faces;
    use super::super::fixture::Rng;
    use super::super::vector::{check_unit, cosine};
    use super::*;

    /// Vectors as rows, as they come or in a basis.
    fn coded<'a>(vectors: impl IntoIterator<Item = &'a Vec<f32>>, basis: Option<&Arc<Basis>>) -> CodedRows {
        let mut rows = CodedRows::default();
        match basis {
            Some(basis) => {
                let all: Vec<Vec<f32>> = vectors.into_iter().cloned().collect();
                rows = CodedRows::turned(&all.concat(), all[0].len(), basis);
            }
            None => vectors.into_iter().for_each(|vector| rows.push(vector)),
        }
        rows
    }

    /// The coarse, the fine and the closest bound of one row, whose score is at least what it says.
    fn bounds(probe: &[f32], row: &Vec<f32>, basis: Option<&Arc<Basis>>) -> [f32; 3] {
        let rows = coded([row], basis);
        let coded = CodedProbe::new(probe, &basis.cloned().into_iter().collect::<Vec<_>>());
        let (product, bound) = coded.coarse_bound(&rows, 0);
        for (floor, reaches) in [(bound, 1), (bound.next_up(), 0)] {
            let (mut products, mut words) = ([0], [7]);
            coded.reaching(&rows, floor, &mut products, &mut words);
            assert_eq!((products[0], words[0]), (product, reaches));
        }
        let (both, fine) = coded.fine_bound(&rows, 0, product);
        let mut listed = Vec::new();
        coded.fine_bounds(&rows, &[0], &[product], &mut Vec::new(), |row, product, bound| {
            listed.push((row, product, bound));
        });
        assert_eq!(listed, [(0, both, fine)]);
        let Range { least, most } = coded.range(&rows, 0, both);
        let score = cosine(probe, row);
        assert!(least <= score, "{least} {score} {most}");
        [bound, fine, most]
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
                    let (bounds, score) = (bounds(probe, row, None), cosine(probe, row));
                    assert!(bounds.iter().all(|bound| *bound >= score), "dim {dim}: {bounds:?} {score}");
                }
            }
            let (probe, row) = (rng.unit(dim), rng.unit(dim));
            let ([coarse, fine, whole], score) = (bounds(&probe, &row, None), cosine(&probe, &row));
            assert!(coarse - score < 0.3 && fine - score < 0.06, "dim {dim}: {coarse} {fine} {score}");
            assert_eq!(whole, fine);
        }
    }

    #[test]
    fn no_score_exceeds_its_bound_in_a_basis_either() {
        let mut rng = Rng::new(14);
        for dim in [192, 512] {
            let gallery = of_faces(dim, 1_500);
            let basis = Arc::new(Basis::learn(&gallery).unwrap());
            let mut vectors = hard(dim, &mut rng);
            vectors.extend((0..12).map(|slot| gallery.row(slot).unwrap().vector.to_vec()));
            for probe in &vectors {
                for row in &vectors {
                    let (bounds, score) = (bounds(probe, row, Some(&basis)), cosine(probe, row));
                    assert!(bounds.iter().all(|bound| *bound >= score), "dim {dim}: {bounds:?} {score}");
                }
            }
            // Of rows such as it was learnt from, most is known by their heads.
            let row = |slot: usize| gallery.row(slot).unwrap().vector.to_vec();
            let each = (0..200).map(|slot| {
                let (probe, row) = (row(slot), row(slot + 700));
                bounds(&probe, &row, Some(&basis)).map(|bound| bound - cosine(&probe, &row))
            });
            let sums = each.fold([0.0; 3], |sums, each| std::array::from_fn(|at| sums[at] + each[at]));
            let [coarse, fine, whole] = sums.map(|sum| sum / 200.0);
            assert!(coarse < 0.4 && fine < 0.2 && whole < 0.05, "dim {dim}: {coarse} {fine} {whole}");
        }
    }

    #[test]
    fn scores_are_likely_to_be_where_coarse_digits_say() {
        for (dim, turned) in [(192, false), (512, false), (192, true), (512, true)] {
            let gallery = of_faces(dim, 1_500);
            let basis = turned.then(|| Arc::new(Basis::learn(&gallery).unwrap()));
            let vectors: Vec<Vec<f32>> = (0..600).map(|slot| gallery.row(slot).unwrap().vector.to_vec()).collect();
            let rows = coded(&vectors, basis.as_ref());
            let bases: Vec<Arc<Basis>> = basis.into_iter().collect();
            let (mut within, mut width, mut all) = (0, 0.0, 0.0);
            for probe in (600..640).map(|slot| gallery.row(slot).unwrap().vector) {
                let coded = CodedProbe::new(probe, &bases);
                for (row, vector) in vectors.iter().enumerate() {
                    let Range { least, most } = coded.likely_range(&rows, row);
                    within += usize::from((least..=most).contains(&cosine(probe, vector)));
                    width += most - least;
                    all += 1.0;
                }
            }
            // Three standard deviations of a normal distribution have 0.9973 of it.
            let (share, width) = (within as f32 / all, width / all);
            assert!(share > 0.99 && width < 0.12, "dim {dim}, turned {turned}: {share}, {width}");
        }
    }

    #[test]
    fn probes_together_reach_what_each_reaches_alone() {
        let mut rng = Rng::new(13);
        for (dim, turned) in [(40, false), (64, false), (192, false), (512, false), (192, true), (512, true)] {
            let basis = turned.then(|| Arc::new(Basis::learn(&of_faces(dim, 1_500)).unwrap()));
            let vectors: Vec<Vec<f32>> = (0..53).map(|_| rng.unit(dim)).collect();
            let rows = coded(&vectors, basis.as_ref());
            let bases: Vec<Arc<Basis>> = basis.into_iter().collect();
            for count in [1, 5, CodedProbes::MOST] {
                let probes: Vec<Vec<f32>> = (0..count).map(|_| rng.unit(dim)).collect();
                let together = CodedProbes::new(probes.iter().map(Vec::as_slice), &bases);
                let mut floors = [f32::INFINITY; CodedProbes::MOST];
                floors[..count].iter_mut().for_each(|floor| *floor = 0.15 + rng.uniform() * 0.4);
                floors[0] = f32::NEG_INFINITY;
                let (mut products, mut reaching) = (vec![[0; CodedProbes::MOST]; 53], vec![0; 53]);
                let digits = together.reaching(&rows, 0, &floors, &mut products, &mut reaching);
                for row in 0..53 {
                    for (number, floor) in floors.iter().enumerate() {
                        let product = products[row][number];
                        let bound = probes.get(number).map_or(0.0, |_| {
                            let alone = together.probe(number);
                            let (coarse, bound) = alone.coarse_bound(&rows, row);
                            let (both, fine) = alone.fine_bound(&rows, row, coarse);
                            match digits {
                                Digits::Coarse => {
                                    assert_eq!(product, coarse);
                                    bound
                                }
                                Digits::Both => {
                                    assert_eq!(product, both);
                                    fine
                                }
                            }
                        });
                        assert_eq!(reaching[row] >> number & 1 == 1, bound >= *floor, "row {row}, probe {number}");
                    }
                }
            }
        }
    }
}
