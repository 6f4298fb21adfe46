//! Vectors as small whole numbers, and how wrong a product of them can be.
//!
//! A value is its **code**, −119 to 119, times the vector's scale, within a rest. A code is 16 times a **coarse** digit, −7 to
//! 7, and a **fine** digit, −8 to 7. Digits are kept apart, each as a nibble, so that a scan reads the coarse half of all rows
//! and the fine half of few.
//!
//! By Cauchy and Schwarz the product of two vectors differs from that of their digits by at most the rest of one times the
//! length of the other, and the other way round; so digits tell how high a score can be, and a row whose score cannot reach
//! the list need not be looked at further. What is left out is left out rightly: the scan is exact.

use super::mapped::Plane;
use super::vector::UNIT_TOLERANCE;
use crate::kernel::ask_for;
use crate::kernel::isa::Isa;
use crate::kernel::nibbles::{PROBES, STEP, Tile, pack, products};
use crate::kernel::plain::{Plain, plainly};

/// Length that no checked vector exceeds, with what rounding may add to it.
const LONGEST: f32 = 1.0 + UNIT_TOLERANCE + 1e-5;
/// What rounding may add between a score, which is summed in single precision, and its bound.
const ROUNDING: f32 = 1e-5;
/// What a coarse digit counts.
const COARSE: i32 = 16;
/// What is added to both digits, to keep them as 0 to 15.
const LIFT: i32 = 8;
/// The largest code: its coarse digit is 7.
const LARGEST: f32 = 119.0;
/// The largest code of a probe, which is not cut into digits.
const LARGEST_OF_PROBE: f32 = 127.0;

/// Rows that a mask tells about.
pub(super) const MASK_ROWS: usize = 32;

/// Codes of a vector of `dim` values, padding included.
fn coded_len(dim: usize) -> usize {
    dim.next_multiple_of(STEP)
}

/// Rows as digits, in the order they came.
#[derive(Clone, Default)]
pub(super) struct CodedRows {
    /// Half as many bytes a row as codes.
    coarse: Plane,
    /// Likewise.
    fine: Vec<u8>,
    /// Value of a code, for each row.
    scales: Vec<f32>,
    /// At least the length of what the coarse digits leave out.
    coarse_rests: Vec<f32>,
    /// At least the length of what both digits leave out.
    rests: Vec<f32>,
}

impl CodedRows {
    /// Memory that a row of `dim` values takes, in bytes.
    pub(super) fn row_bytes(dim: usize) -> usize {
        coded_len(dim) + 3 * size_of::<f32>()
    }

    /// Bytes that the coarse digits of a row of `dim` values take, and the fine ones.
    pub(super) fn digits_bytes(dim: usize) -> usize {
        coded_len(dim) / 2
    }

    /// All there is of the rows, as bytes.
    pub(super) fn parts(&self) -> [&[u8]; 5] {
        let [scales, coarse_rests, rests] =
            [&self.scales, &self.coarse_rests, &self.rests].map(|values| bytemuck::cast_slice(values));
        [&self.coarse, &self.fine, scales, coarse_rests, rests]
    }

    /// The rows of which [`CodedRows::parts`] were these.
    pub(super) fn of_parts(coarse: Plane, fine: Vec<u8>, [scales, coarse_rests, rests]: [Vec<f32>; 3]) -> Self {
        Self { coarse, fine, scales, coarse_rests, rests }
    }

    /// Appends a checked vector.
    pub(super) fn push(&mut self, vector: &[f32]) {
        let Coded { codes, scale, rest } = encode(vector, LARGEST);
        let coarse: Vec<u8> = codes.iter().map(|code| lifted(coarse(*code))).collect();
        let fine: Vec<u8> = codes.iter().map(|code| lifted(i32::from(*code) - COARSE * self::coarse(*code))).collect();
        self.coarse.change(|plane| pack(&coarse, plane));
        pack(&fine, &mut self.fine);
        self.scales.push(scale);
        self.coarse_rests.push(rest_of(vector, scale, codes.iter().map(|code| COARSE * self::coarse(*code))));
        self.rests.push(rest);
    }

    /// A copy with room for so many rows.
    pub(super) fn with_room(&self, rows: usize) -> Self {
        let (now, row) = (self.scales.len(), self.coarse.len() / self.scales.len().max(1));
        debug_assert!(rows >= now);
        fn copy<T: Copy>(values: &[T], room: usize) -> Vec<T> {
            let mut copy = Vec::with_capacity(room);
            copy.extend_from_slice(values);
            copy
        }
        Self {
            coarse: Plane::from(copy(&self.coarse, row * rows)),
            fine: copy(&self.fine, row * rows),
            scales: copy(&self.scales, rows),
            coarse_rests: copy(&self.coarse_rests, rows),
            rests: copy(&self.rests, rows),
        }
    }

    /// Asks for what the coarse bound of a row is made of, which will be looked at soon.
    pub(super) fn ask_for_coarse(&self, row: usize) {
        let width = self.coarse.len() / self.scales.len();
        ask_for(&self.coarse[row * width..(row + 1) * width]);
        ask_for(bytemuck::bytes_of(&self.scales[row]));
        ask_for(bytemuck::bytes_of(&self.coarse_rests[row]));
    }

    /// Asks for what its fine bound is made of beside that.
    pub(super) fn ask_for_fine(&self, row: usize) {
        let width = self.fine.len() / self.scales.len();
        ask_for(&self.fine[row * width..(row + 1) * width]);
        ask_for(bytemuck::bytes_of(&self.rests[row]));
    }

    /// Gives back room that is not used, and lays what every search reads where it is read fast.
    pub(super) fn settle(&mut self) {
        self.coarse.settle();
        self.fine.shrink_to_fit();
        self.scales.shrink_to_fit();
        self.coarse_rests.shrink_to_fit();
        self.rests.shrink_to_fit();
    }
}

/// A vector as codes.
pub(super) struct Coded {
    /// As many as values, and zeros up to a multiple of [`STEP`].
    pub(super) codes: Vec<i8>,
    /// Value of a code.
    pub(super) scale: f32,
    /// At least the length of what the codes leave out.
    rest: f32,
}

/// The codes of a vector with a value other than 0, as large as bytes allow.
pub(super) fn encode_largest(vector: &[f32]) -> Coded {
    encode(vector, LARGEST_OF_PROBE)
}

/// The codes of a vector with a value other than 0, at most `largest`.
fn encode(vector: &[f32], largest: f32) -> Coded {
    let scale = vector.iter().fold(0f32, |largest, value| largest.max(value.abs())) / largest;
    let mut codes: Vec<i8> =
        vector.iter().map(|value| (value / scale).round().clamp(-largest, largest) as i8).collect();
    codes.resize(coded_len(vector.len()), 0);
    let rest = rest_of(vector, scale, codes.iter().map(|code| i32::from(*code)));
    Coded { codes, scale, rest }
}

/// At least the length of what is left of a vector without its codes.
fn rest_of(vector: &[f32], scale: f32, codes: impl Iterator<Item = i32>) -> f32 {
    let rest = vector.iter().zip(codes).map(|(value, code)| {
        let rest = f64::from(*value) - f64::from(scale) * f64::from(code);
        rest * rest
    });
    // Rounded up.
    rest.sum::<f64>().sqrt() as f32 * (1.0 + 1e-6)
}

/// The coarse digit of a code.
fn coarse(code: i8) -> i32 {
    (i32::from(code) + LIFT).div_euclid(COARSE)
}

/// A digit as it is kept.
fn lifted(digit: i32) -> u8 {
    (digit + LIFT) as u8
}

/// Which digits of a row a product is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Digits {
    /// The coarse ones.
    Coarse,
    /// Coarse and fine ones.
    Both,
}

/// What makes a bound of the product of one probe's codes and a row's digits.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    /// Value of a code of the probe.
    scale: f32,
    /// What lifting a digit adds to each product.
    lifted: i32,
    /// By what the rest of a row is multiplied.
    per_rest: f32,
    /// What the bound of every row allows for.
    slack: f32,
}

impl Line {
    fn of(probe: &Coded) -> Self {
        Self {
            scale: probe.scale,
            lifted: LIFT * probe.codes.iter().map(|code| i32::from(*code)).sum::<i32>(),
            per_rest: LONGEST + probe.rest,
            slack: probe.rest * LONGEST + ROUNDING,
        }
    }

    /// A bound out of the products of coarse digits.
    #[inline(always)]
    fn coarse(&self, product: i32, scale: f32, rest: f32) -> f32 {
        let product = (product - self.lifted) as f32 * (COARSE as f32 * self.scale * scale);
        // Scores are kept within −1 to 1, which raises those below.
        (product + rest * self.per_rest + self.slack).max(-1.0)
    }
}

/// A probe as codes.
pub(super) struct CodedProbe {
    isa: Isa,
    codes: Vec<i8>,
    line: Line,
}

impl CodedProbe {
    pub(super) fn new(probe: &[f32]) -> Self {
        let coded = encode_largest(probe);
        Self { isa: Isa::current(), line: Line::of(&coded), codes: coded.codes }
    }

    /// For each row the product of its coarse digits, and whether a score that its own does not exceed is at least `floor`: a bit
    /// of [`MASK_ROWS`] together, the first row in the lowest. There are as many products as rows, and masks for all of them.
    pub(super) fn reaching(&self, rows: &CodedRows, floor: f32, into: &mut [i32], masks: &mut [u32]) {
        products(self.isa, &self.codes, &rows.coarse, into);
        let (products, scales, rests) = (&*into, &rows.scales[..], &rows.coarse_rests[..]);
        plainly(self.isa, Reaching { line: self.line, floor, products, scales, rests, masks });
    }

    /// Of one row the product of its coarse digits, and a score that its own does not exceed.
    pub(super) fn coarse_bound(&self, rows: &CodedRows, row: usize) -> (i32, f32) {
        let (mut product, width) = ([0], self.codes.len() / 2);
        products(self.isa, &self.codes, &rows.coarse[row * width..(row + 1) * width], &mut product);
        (product[0], self.line.coarse(product[0], rows.scales[row], rows.coarse_rests[row]))
    }

    /// A closer bound of one row, given the product of its coarse digits.
    pub(super) fn fine_bound(&self, rows: &CodedRows, row: usize, coarse: i32) -> f32 {
        let (mut fine, width) = ([0], self.codes.len() / 2);
        products(self.isa, &self.codes, &rows.fine[row * width..(row + 1) * width], &mut fine);
        self.bound_of_both(rows, row, COARSE * coarse + fine[0])
    }

    /// The same, given the product of both digits.
    pub(super) fn bound_of_both(&self, rows: &CodedRows, row: usize, product: i32) -> f32 {
        let Line { scale, lifted, per_rest, slack } = self.line;
        let digits = (product - (COARSE + 1) * lifted) as f32;
        (digits * (scale * rows.scales[row]) + rows.rests[row] * per_rest + slack).max(-1.0)
    }
}

struct Reaching<'a> {
    line: Line,
    floor: f32,
    products: &'a [i32],
    scales: &'a [f32],
    rests: &'a [f32],
    masks: &'a mut [u32],
}

impl Plain for Reaching<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { line, floor, products, scales, rests, masks } = self;
        let parts = products.chunks(MASK_ROWS).zip(scales.chunks(MASK_ROWS)).zip(rests.chunks(MASK_ROWS));
        for (mask, ((products, scales), rests)) in masks.iter_mut().zip(parts) {
            let mut flags = [0u32; MASK_ROWS];
            let each = flags.iter_mut().zip(products).zip(scales).zip(rests).enumerate();
            for (at, (((flag, product), scale), rest)) in each {
                *flag = u32::from(line.coarse(*product, *scale, *rest) >= floor) << at;
            }
            *mask = flags.iter().fold(0, |all, flag| all | flag);
        }
    }
}

/// Several probes as codes, which meet each row together.
pub(super) struct CodedProbes {
    probes: Vec<CodedProbe>,
    tile: Tile,
    lines: [Line; PROBES],
}

impl CodedProbes {
    /// Probes that can be together.
    pub(super) const MOST: usize = PROBES;

    /// Of one to [`CodedProbes::MOST`] probes of the same length.
    pub(super) fn new<'a>(probes: impl IntoIterator<Item = &'a [f32]>) -> Self {
        let probes: Vec<CodedProbe> = probes.into_iter().map(CodedProbe::new).collect();
        let codes: Vec<&[i8]> = probes.iter().map(|probe| &probe.codes[..]).collect();
        let tile = Tile::new(&codes);
        let mut lines = [Line::default(); PROBES];
        probes.iter().zip(&mut lines).for_each(|(probe, line)| *line = probe.line);
        Self { probes, tile, lines }
    }

    /// One of them.
    pub(super) fn probe(&self, number: usize) -> &CodedProbe {
        &self.probes[number]
    }

    /// For each row from `start` on, as many as there are places: its products, and which of the probes have a bound of at least
    /// their floor, the first probe in the lowest bit. Absent probes have a floor of infinity. Gives what the products are of:
    /// where the machine multiplies bytes as fast as half bytes both digits are read at once, as somebody's bound reaches the
    /// list for every other row.
    pub(super) fn reaching(
        &self,
        rows: &CodedRows,
        start: usize,
        floors: &[f32; PROBES],
        into: &mut [[i32; PROBES]],
        reaching: &mut [u16],
    ) -> Digits {
        let isa = self.probes[0].isa;
        let (end, width) = (start + into.len(), self.probes[0].codes.len() / 2);
        let (coarse, fine) = (&rows.coarse[start * width..end * width], &rows.fine[start * width..end * width]);
        let (digits, rests) = if Tile::multiplies_whole(isa) {
            self.tile.whole_products(isa, coarse, fine, into);
            (Digits::Both, &rows.rests[start..end])
        } else {
            self.tile.products(isa, coarse, into);
            (Digits::Coarse, &rows.coarse_rests[start..end])
        };
        let (products, scales) = (&*into, &rows.scales[start..end]);
        plainly(isa, ReachingTogether { lines: &self.lines, digits, floors, products, scales, rests, reaching });
        digits
    }
}

struct ReachingTogether<'a> {
    lines: &'a [Line; PROBES],
    digits: Digits,
    floors: &'a [f32; PROBES],
    products: &'a [[i32; PROBES]],
    scales: &'a [f32],
    rests: &'a [f32],
    reaching: &'a mut [u16],
}

impl Plain for ReachingTogether<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { lines, digits, floors, products, scales, rests, reaching } = self;
        // Each part of all lines together, as registers want it.
        let (mut scale_of, mut lifted) = ([0f32; PROBES], [0i32; PROBES]);
        let (mut per_rest, mut slack) = ([0f32; PROBES], [0f32; PROBES]);
        for (at, line) in lines.iter().enumerate() {
            (scale_of[at], lifted[at]) = match digits {
                Digits::Coarse => (COARSE as f32 * line.scale, line.lifted),
                Digits::Both => (line.scale, (COARSE + 1) * line.lifted),
            };
            (per_rest[at], slack[at]) = (line.per_rest, line.slack);
        }
        for (((reaching, products), scale), rest) in reaching.iter_mut().zip(products).zip(scales).zip(rests) {
            let mut flags = [0u16; PROBES];
            for at in 0..PROBES {
                let product = (products[at] - lifted[at]) as f32 * (scale_of[at] * scale);
                let bound = (product + rest * per_rest[at] + slack[at]).max(-1.0);
                flags[at] = u16::from(bound >= floors[at]) << at;
            }
            *reaching = flags.iter().fold(0, |all, flag| all | flag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Rng;
    use super::super::vector::{check_unit, cosine};
    use super::*;

    /// The coarse and the fine bound of one row, and its score.
    fn bounds_and_score(probe: &[f32], row: &[f32]) -> (f32, f32, f32) {
        let mut rows = CodedRows::default();
        rows.push(row);
        let coded = CodedProbe::new(probe);
        let (product, bound) = coded.coarse_bound(&rows, 0);
        for (floor, reaches) in [(bound, 1), (bound.next_up(), 0)] {
            let (mut products, mut masks) = ([0], [7]);
            coded.reaching(&rows, floor, &mut products, &mut masks);
            assert_eq!((products[0], masks[0]), (product, reaches));
        }
        (bound, coded.fine_bound(&rows, 0, product), cosine(probe, row))
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
                    let (coarse, fine, score) = bounds_and_score(probe, row);
                    assert!(coarse >= score && fine >= score, "dim {dim}: {coarse} {fine} {score}");
                }
            }
            let (coarse, fine, score) = bounds_and_score(&rng.unit(dim), &rng.unit(dim));
            assert!(coarse - score < 0.3 && fine - score < 0.06, "dim {dim}: {coarse} {fine} {score}");
        }
    }

    #[test]
    fn probes_together_reach_what_each_reaches_alone() {
        let mut rng = Rng::new(13);
        for dim in [40, 64, 192, 512] {
            let mut rows = CodedRows::default();
            (0..53).for_each(|_| rows.push(&rng.unit(dim)));
            for count in [1, 5, CodedProbes::MOST] {
                let probes: Vec<Vec<f32>> = (0..count).map(|_| rng.unit(dim)).collect();
                let together = CodedProbes::new(probes.iter().map(Vec::as_slice));
                let mut floors = [f32::INFINITY; CodedProbes::MOST];
                floors[..count].iter_mut().for_each(|floor| *floor = 0.15 + rng.uniform() * 0.1);
                floors[0] = f32::NEG_INFINITY;
                let (mut products, mut reaching) = (vec![[0; CodedProbes::MOST]; 53], vec![0; 53]);
                let digits = together.reaching(&rows, 0, &floors, &mut products, &mut reaching);
                for row in 0..53 {
                    for (number, floor) in floors.iter().enumerate() {
                        let product = products[row][number];
                        let bound = probes.get(number).map_or(0.0, |_| {
                            let alone = together.probe(number);
                            let (coarse, bound) = alone.coarse_bound(&rows, row);
                            let fine = alone.fine_bound(&rows, row, coarse);
                            match digits {
                                Digits::Coarse => {
                                    assert_eq!(product, coarse);
                                    bound
                                }
                                Digits::Both => {
                                    assert_eq!(alone.bound_of_both(&rows, row, product), fine);
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
