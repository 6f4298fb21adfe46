//! Which rows can have a score that reaches a floor, by the products of their digits: what an index does after each product.
//!
//! A bound is the product without what lifting digits added, times what a digit counts, and what digits, tails and rounding leave
//! open. Every path does the same operations in the same order, so all give the same bits.

use super::isa::Isa;
use super::nibbles::PROBES;

/// Rows that a word tells about.
pub(crate) const WORD: usize = 64;

/// What one probe has in a bound.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Line {
    /// What lifting digits adds to each product.
    pub(crate) lifted: i32,
    /// What a product counts, for each unit of the row's scale.
    pub(crate) scale: f32,
    /// By what the rest of a row is multiplied.
    pub(crate) per_rest: f32,
    /// By what the length of a row's tail is multiplied.
    pub(crate) per_tail: f32,
    /// What the bound of every row allows for.
    pub(crate) slack: f32,
}

impl Line {
    /// The bound of a row.
    #[inline(always)]
    pub(crate) fn bound(&self, product: i32, scale: f32, rest: f32, tail: f32) -> f32 {
        let product = (product - self.lifted) as f32 * (self.scale * scale);
        // Scores are kept within −1 to 1, which raises those below.
        (product + rest * self.per_rest + tail * self.per_tail + self.slack).max(-1.0)
    }

    /// What the score of a row is at least.
    #[inline(always)]
    pub(crate) fn least(&self, product: i32, scale: f32, rest: f32, tail: f32) -> f32 {
        let product = (product - self.lifted) as f32 * (self.scale * scale);
        // Scores are kept within −1 to 1, which lowers those above.
        (product - rest * self.per_rest - tail * self.per_tail - self.slack).min(1.0)
    }
}

/// What rows have in a bound, each a number for each row.
#[derive(Clone, Copy)]
pub(crate) struct Numbers<'a> {
    pub(crate) scales: &'a [f32],
    pub(crate) rests: &'a [f32],
    /// None where rows have no tails.
    pub(crate) tails: &'a [f32],
}

impl Numbers<'_> {
    fn are(&self, rows: usize) -> bool {
        self.scales.len() == rows && self.rests.len() == rows && (self.tails.is_empty() || self.tails.len() == rows)
    }

    fn tail(&self, row: usize) -> f32 {
        self.tails.get(row).copied().unwrap_or_default()
    }
}

/// Which rows have a bound of at least `floor`: a bit for each, the first in the lowest of the first word.
pub(crate) fn rows(isa: Isa, line: &Line, products: &[i32], numbers: Numbers<'_>, floor: f32, into: &mut [u64]) {
    assert!(numbers.are(products.len()) && into.len() == products.len().div_ceil(WORD));
    into.fill(0);
    let done = match isa {
        // SAFETY: `Isa` values other than `Portable` come from `Isa::available` only, which asks the processor; machines
        // with AVX-512 have AVX2. The lengths were compared above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 => unsafe { avx512::rows(line, products, numbers, floor, into) },
        // SAFETY: the same.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2::rows(line, products, numbers, floor, into) },
        _ => 0,
    };
    for row in done..products.len() {
        let bound = line.bound(products[row], numbers.scales[row], numbers.rests[row], numbers.tail(row));
        into[row / WORD] |= u64::from(bound >= floor) << (row % WORD);
    }
}

/// What probes that meet rows together have in bounds.
#[derive(Clone)]
pub(crate) struct Lines {
    lifted: [i32; PROBES],
    scales: [f32; PROBES],
    per_rest: [f32; PROBES],
    per_tail: [f32; PROBES],
    slack: [f32; PROBES],
}

impl Lines {
    /// Of at most [`PROBES`] probes; absent ones have zeros.
    pub(crate) fn new(lines: impl IntoIterator<Item = Line>) -> Self {
        let mut all = [Line::default(); PROBES];
        all.iter_mut().zip(lines).for_each(|(to, line)| *to = line);
        Self {
            lifted: all.map(|line| line.lifted),
            scales: all.map(|line| line.scale),
            per_rest: all.map(|line| line.per_rest),
            per_tail: all.map(|line| line.per_tail),
            slack: all.map(|line| line.slack),
        }
    }

    /// That of one probe.
    fn line(&self, probe: usize) -> Line {
        Line {
            lifted: self.lifted[probe],
            scale: self.scales[probe],
            per_rest: self.per_rest[probe],
            per_tail: self.per_tail[probe],
            slack: self.slack[probe],
        }
    }

    /// Which probes each row has a bound of at least their floor with, the first probe in the lowest bit.
    pub(crate) fn probes(
        &self,
        isa: Isa,
        products: &[[i32; PROBES]],
        numbers: Numbers<'_>,
        floors: &[f32; PROBES],
        into: &mut [u16],
    ) {
        assert!(numbers.are(products.len()) && into.len() == products.len());
        match isa {
            // SAFETY: as in `rows`.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 => unsafe { avx512::probes(self, products, numbers, floors, into) },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::probes(self, products, numbers, floors, into) },
            _ => {
                for (row, (products, into)) in products.iter().zip(into).enumerate() {
                    let (scale, rest, tail) = (numbers.scales[row], numbers.rests[row], numbers.tail(row));
                    let reaches = |probe: usize| {
                        let bound = self.line(probe).bound(products[probe], scale, rest, tail);
                        u16::from(bound >= floors[probe]) << probe
                    };
                    *into = (0..PROBES).map(reaches).sum();
                }
            }
        }
    }
}

/// Both paths of a register's width, written once.
macro_rules! paths {
    ($isa:ident, $features:literal, $width:literal, $floats:ty, $ints:ty,
     [$set_float:ident $set_int:ident $load_float:ident $load_int:ident $sub:ident $convert:ident $mul:ident $add:ident $max:ident],
     $compare:expr) => {
        #[cfg(target_arch = "x86_64")]
        mod $isa {
            use std::arch::x86_64::*;

            use super::{Line, Lines, Numbers, PROBES, WORD};

            /// Values of a register.
            const WIDTH: usize = $width;

            /// Bounds out of products, and of what rows and probes have in them.
            #[inline]
            #[target_feature(enable = $features)]
            fn bounds(product: $ints, lifted: $ints, scales: [$floats; 2], open: [$floats; 5]) -> $floats {
                let [rest, per_rest, tail, per_tail, slack] = open;
                let product = $mul($convert($sub(product, lifted)), $mul(scales[0], scales[1]));
                let sum = $add($add(product, $mul(rest, per_rest)), $mul(tail, per_tail));
                $max($add(sum, slack), $set_float(-1.0))
            }

            /// As [`super::rows`], of as many rows as fill registers; gives how many.
            ///
            /// # Safety
            ///
            /// The machine has the features; numbers are as many as products, and words enough.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn rows(
                line: &Line,
                products: &[i32],
                numbers: Numbers<'_>,
                floor: f32,
                into: &mut [u64],
            ) -> usize {
                let (lifted, scale, floor) = ($set_int(line.lifted), $set_float(line.scale), $set_float(floor));
                let (per_rest, per_tail) = ($set_float(line.per_rest), $set_float(line.per_tail));
                let (slack, none) = ($set_float(line.slack), $set_float(0.0));
                let whole = products.len() / WIDTH * WIDTH;
                for at in (0..whole).step_by(WIDTH) {
                    // SAFETY: the caller's promise.
                    let (product, of_rows, rest, tail) = unsafe {
                        (
                            $load_int(products.as_ptr().add(at).cast()),
                            $load_float(numbers.scales.as_ptr().add(at)),
                            $load_float(numbers.rests.as_ptr().add(at)),
                            if numbers.tails.is_empty() { none } else { $load_float(numbers.tails.as_ptr().add(at)) },
                        )
                    };
                    let bounds = bounds(product, lifted, [scale, of_rows], [rest, per_rest, tail, per_tail, slack]);
                    into[at / WORD] |= u64::from($compare(bounds, floor)) << (at % WORD);
                }
                whole
            }

            /// As [`Lines::probes`].
            ///
            /// # Safety
            ///
            /// The machine has the features; numbers and places are as many as products.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn probes(
                lines: &Lines,
                products: &[[i32; PROBES]],
                numbers: Numbers<'_>,
                floors: &[f32; PROBES],
                into: &mut [u16],
            ) {
                into.fill(0);
                for first in (0..PROBES).step_by(WIDTH) {
                    // SAFETY: each holds as many values as there are probes, a multiple of a register's.
                    let (lifted, scales, per_rest, per_tail, slack, floors) = unsafe {
                        (
                            $load_int(lines.lifted.as_ptr().add(first).cast()),
                            $load_float(lines.scales.as_ptr().add(first)),
                            $load_float(lines.per_rest.as_ptr().add(first)),
                            $load_float(lines.per_tail.as_ptr().add(first)),
                            $load_float(lines.slack.as_ptr().add(first)),
                            $load_float(floors.as_ptr().add(first)),
                        )
                    };
                    for (row, (products, into)) in products.iter().zip(&mut *into).enumerate() {
                        // SAFETY: as above.
                        let product = unsafe { $load_int(products.as_ptr().add(first).cast()) };
                        let (scale, rest) = ($set_float(numbers.scales[row]), $set_float(numbers.rests[row]));
                        let tail = $set_float(numbers.tail(row));
                        let bounds = bounds(product, lifted, [scales, scale], [rest, per_rest, tail, per_tail, slack]);
                        *into |= u16::from($compare(bounds, floors)) << first;
                    }
                }
            }
        }
    };
}

paths!(
    avx512, "avx512f,avx512bw,avx512vl", 16, __m512, __m512i,
    [_mm512_set1_ps _mm512_set1_epi32 _mm512_loadu_ps _mm512_loadu_si512 _mm512_sub_epi32 _mm512_cvtepi32_ps
     _mm512_mul_ps _mm512_add_ps _mm512_max_ps],
    |bounds, floors| _mm512_cmp_ps_mask::<_CMP_GE_OQ>(bounds, floors)
);
paths!(
    avx2, "avx2", 8, __m256, __m256i,
    [_mm256_set1_ps _mm256_set1_epi32 _mm256_loadu_ps _mm256_loadu_si256 _mm256_sub_epi32 _mm256_cvtepi32_ps
     _mm256_mul_ps _mm256_add_ps _mm256_max_ps],
    |bounds, floors| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(bounds, floors)) as u8
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_path_gives_the_same_bits(
            count in 0usize..150,
            with_tails in any::<bool>(),
            floor in prop_oneof![Just(f32::NEG_INFINITY), Just(f32::INFINITY), -1.0f32..1.0],
            seed in proptest::collection::vec(-1.0f32..1.0, 211),
        ) {
            let drawn = |at: usize| seed[at * 13 % seed.len()];
            let line = |probe: usize| Line {
                lifted: (drawn(probe) * 1e5) as i32,
                scale: drawn(probe + 1).abs() * 1e-3,
                per_rest: 1.0 + drawn(probe + 2).abs() * 0.1,
                per_tail: drawn(probe + 3).abs(),
                slack: drawn(probe + 4).abs() * 0.01,
            };
            let lines = Lines::new((0..PROBES - 3).map(line));
            let products: Vec<[i32; PROBES]> = (0..count)
                .map(|row| std::array::from_fn(|probe| (drawn(row * 17 + probe) * 2e5) as i32))
                .collect();
            let of_rows = |start: usize| (0..count).map(|row| drawn(row + start).abs() * 0.3).collect::<Vec<f32>>();
            let (scales, rests, tails) = (of_rows(5), of_rows(71), of_rows(140));
            let tails = if with_tails { &tails[..] } else { &[] };
            let numbers = Numbers { scales: &scales, rests: &rests, tails };
            let floors: [f32; PROBES] =
                std::array::from_fn(|probe| if probe % 3 == 0 { floor } else { drawn(probe + 40) * 0.5 });
            for isa in Isa::available() {
                let mut reaching = vec![7u16; count];
                lines.probes(*isa, &products, numbers, &floors, &mut reaching);
                for probe in 0..PROBES {
                    let line = if probe < PROBES - 3 { line(probe) } else { Line::default() };
                    let own: Vec<i32> = products.iter().map(|products| products[probe]).collect();
                    let mut words = vec![!0u64; count.div_ceil(WORD)];
                    rows(*isa, &line, &own, numbers, floors[probe], &mut words);
                    for row in 0..count {
                        let bound = line.bound(own[row], scales[row], rests[row], numbers.tail(row));
                        let expected = bound >= floors[probe];
                        prop_assert_eq!(reaching[row] >> probe & 1 == 1, expected, "{:?}", isa);
                        prop_assert_eq!(words[row / WORD] >> (row % WORD) & 1 == 1, expected, "{:?}", isa);
                    }
                    prop_assert!(words.last().is_none_or(|word| count % WORD == 0 || word >> (count % WORD) == 0));
                }
            }
        }
    }
}
