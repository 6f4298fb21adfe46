//! Products of signed bytes with rows of nibbles: how an index looks at its rows first.
//!
//! A row is values of 0 to 15, two to a byte. 128 values take a block of 64 bytes: byte i holds value i in its lower half and
//! value i + 64 in its upper one. 64 values that are left over take 32 bytes in the same way.

use super::isa::Isa;

/// Rows have a multiple of this many values.
pub(crate) const STEP: usize = 64;
/// Probes that a tile multiplies at a time.
pub(crate) const PROBES: usize = 16;

/// Values of a whole block.
const BLOCK: usize = 2 * STEP;
/// Values of a probe that lie together in a tile.
const GROUP: usize = 4;

/// Appends a row of values of 0 to 15, a multiple of [`STEP`].
pub(crate) fn pack(values: &[u8], into: &mut Vec<u8>) {
    debug_assert!(values.len().is_multiple_of(STEP) && values.iter().all(|value| *value < 16));
    for block in values.chunks(BLOCK) {
        let (lower, upper) = block.split_at(block.len() / 2);
        into.extend(lower.iter().zip(upper).map(|(lower, upper)| lower | upper << 4));
    }
}

/// The values of a row, in order.
#[inline(always)]
fn unpack(row: &[u8], into: &mut [u8]) {
    join_with(row, row, into, |packed, _| packed & 15, |packed, _| packed >> 4);
}

/// Whole values, 0 to 255, of a row whose upper halves and lower halves are packed apart.
#[inline(always)]
fn join(upper_halves: &[u8], lower_halves: &[u8], into: &mut [u8]) {
    join_with(upper_halves, lower_halves, into, |u, l| u << 4 | l & 15, |u, l| u & 0xf0 | l >> 4);
}

/// Makes the first and the second half of each block out of two rows, block by block of a length that the compiler knows.
#[inline(always)]
fn join_with(a: &[u8], b: &[u8], into: &mut [u8], first: impl Fn(u8, u8) -> u8, second: impl Fn(u8, u8) -> u8) {
    let (a_blocks, a_rest) = a.as_chunks::<{ BLOCK / 2 }>();
    let (b_blocks, b_rest) = b.as_chunks::<{ BLOCK / 2 }>();
    let (into_blocks, into_rest) = into.as_chunks_mut::<BLOCK>();
    for ((a, b), into) in a_blocks.iter().zip(b_blocks).zip(into_blocks) {
        for at in 0..BLOCK / 2 {
            (into[at], into[at + BLOCK / 2]) = (first(a[at], b[at]), second(a[at], b[at]));
        }
    }
    let (lower, upper) = into_rest.split_at_mut(into_rest.len() / 2);
    for (((a, b), lower), upper) in a_rest.iter().zip(b_rest).zip(lower).zip(upper) {
        (*lower, *upper) = (first(*a, *b), second(*a, *b));
    }
}

/// Has values of rows written with `unpack`, `ROWS` rows at a time and the last ones each alone, and hands them over with their
/// places.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn in_blocks<const ROWS: usize>(
    length: usize,
    into: &mut [[i32; PROBES]],
    unpack: impl Fn(usize, &mut [u8]),
    mut multiply: impl FnMut(&[u8], &mut [[i32; PROBES]]),
) {
    let mut values = vec![0; ROWS * length];
    for (block, into) in into.chunks_mut(ROWS).enumerate() {
        for (at, values) in values.chunks_exact_mut(length).take(into.len()).enumerate() {
            unpack(block * ROWS + at, values);
        }
        let together = if into.len() == ROWS { ROWS } else { 1 };
        values.chunks_exact(together * length).zip(into.chunks_mut(together)).for_each(|(v, i)| multiply(v, i));
    }
}

/// The product of `probe` with each row of `rows`, which lie one after the other. The probe is a multiple of [`STEP`] long,
/// 131,072 values at most, and its bytes are −127 to 127, so that no sum on the way is too large.
pub(crate) fn products(isa: Isa, probe: &[i8], rows: &[u8], into: &mut [i32]) {
    assert!(!probe.is_empty() && probe.len().is_multiple_of(STEP) && 2 * rows.len() == probe.len() * into.len());
    debug_assert!(!probe.contains(&i8::MIN));
    match isa {
        // SAFETY: `Isa` values other than `Portable` come from `Isa::available` only, which asks the processor; machines
        // with AVX-512 have AVX2. The lengths were compared above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 if has_vnni() => unsafe { vnni::products(probe, rows, into) },
        // SAFETY: the same.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => unsafe { avx2::products(probe, rows, into) },
        _ => portable(probe, rows, into),
    }
}

/// Whether the machine multiplies bytes and adds them up in one instruction, which not all with AVX-512 do.
#[cfg(target_arch = "x86_64")]
fn has_vnni() -> bool {
    is_x86_feature_detected!("avx512vnni")
}

fn portable(probe: &[i8], rows: &[u8], into: &mut [i32]) {
    for (row, product) in rows.chunks_exact(probe.len() / 2).zip(into) {
        let mut sum = 0;
        for (packed, probe) in row.chunks(BLOCK / 2).zip(probe.chunks(BLOCK)) {
            let (lower, upper) = probe.split_at(packed.len());
            for ((packed, lower), upper) in packed.iter().zip(lower).zip(upper) {
                sum += i32::from(packed & 15) * i32::from(*lower) + i32::from(packed >> 4) * i32::from(*upper);
            }
        }
        *product = sum;
    }
}

/// Probes that meet each row together.
pub(crate) struct Tile {
    /// Four values of the first probe, of the second, and so on, then the next four of each. Absent probes are 0.
    codes: Vec<i8>,
    /// Values of a probe.
    length: usize,
}

impl Tile {
    /// Of at most [`PROBES`] probes of the same length, each as [`products`] wants it.
    pub(crate) fn new(probes: &[&[i8]]) -> Self {
        let length = probes.first().map_or(0, |probe| probe.len());
        assert!(length > 0 && length.is_multiple_of(STEP) && probes.len() <= PROBES);
        assert!(probes.iter().all(|probe| probe.len() == length));
        let mut codes = vec![0; length * PROBES];
        for (number, probe) in probes.iter().enumerate() {
            for (at, group) in probe.chunks_exact(GROUP).enumerate() {
                let start = (at * PROBES + number) * GROUP;
                codes[start..start + GROUP].copy_from_slice(group);
            }
        }
        Self { codes, length }
    }

    /// The product of each probe with each row.
    pub(crate) fn products(&self, isa: Isa, rows: &[u8], into: &mut [[i32; PROBES]]) {
        assert!(2 * rows.len() == self.length * into.len());
        match isa {
            // SAFETY: as in `products`; the codes are as many as the length says, times the probes.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 if has_vnni() => unsafe { vnni::tile(&self.codes, self.length, rows, into) },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => unsafe { avx2::tile(&self.codes, self.length, rows, into) },
            _ => self.portable(rows, into),
        }
    }

    /// Whether [`Tile::whole_products`] takes no longer than [`Tile::products`].
    pub(crate) fn multiplies_whole(isa: Isa) -> bool {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Avx512 => has_vnni(),
            _ => false,
        }
    }

    /// The product of each probe, at most 65,536 values long, with each row of values of 0 to 255, whose upper halves are packed
    /// in one place and whose lower halves in another.
    pub(crate) fn whole_products(
        &self,
        isa: Isa,
        upper_halves: &[u8],
        lower_halves: &[u8],
        into: &mut [[i32; PROBES]],
    ) {
        assert!(2 * upper_halves.len() == self.length * into.len() && lower_halves.len() == upper_halves.len());
        debug_assert!(self.length <= 1 << 16);
        #[cfg(target_arch = "x86_64")]
        if Self::multiplies_whole(isa) {
            // SAFETY: it says so only where the machine has the instructions; the lengths were compared above.
            return unsafe { vnni::whole_tile(&self.codes, self.length, upper_halves, lower_halves, into) };
        }
        self.products(isa, upper_halves, into);
        let mut lower = vec![[0; PROBES]; into.len()];
        self.products(isa, lower_halves, &mut lower);
        for (sum, lower) in into.as_flattened_mut().iter_mut().zip(lower.as_flattened()) {
            *sum = 16 * *sum + lower;
        }
    }

    fn portable(&self, rows: &[u8], into: &mut [[i32; PROBES]]) {
        let mut values = vec![0u8; self.length];
        for (row, products) in rows.chunks_exact(self.length / 2).zip(into) {
            unpack(row, &mut values);
            let mut sums = [0i32; PROBES];
            for (values, probes) in values.chunks_exact(GROUP).zip(self.codes.chunks_exact(GROUP * PROBES)) {
                for (sum, probe) in sums.iter_mut().zip(probes.chunks_exact(GROUP)) {
                    *sum += values.iter().zip(probe).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum::<i32>();
                }
            }
            *products = sums;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{GROUP, PROBES};

    /// Bytes of a register.
    const WIDTH: usize = 32;
    /// So far ahead rows are asked for, in bytes.
    const AHEAD: usize = 2048;
    /// Rows of a tile that are multiplied at a time: their sums fit into the registers.
    const ROWS: usize = 2;

    /// As [`super::products`].
    ///
    /// # Safety
    ///
    /// The machine has AVX2; `rows` holds half as many bytes as the probe has values, a multiple of 64, for each place of
    /// `into`.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn products(probe: &[i8], rows: &[u8], into: &mut [i32]) {
        let bytes = probe.len() / 2;
        let mut row = rows.as_ptr();
        let (fours, rest) = into.as_chunks_mut::<4>();
        for four in fours {
            let mut sums = [_mm256_setzero_si256(); 4];
            for sum in &mut sums {
                // SAFETY: another row begins here.
                *sum = unsafe { sums_of(probe, row) };
                row = row.wrapping_add(bytes);
            }
            let pairs = [_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3])];
            let halves = _mm256_hadd_epi32(pairs[0], pairs[1]);
            let four_sums = _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            // SAFETY: there are four places.
            unsafe { _mm_storeu_si128(four.as_mut_ptr().cast(), four_sums) };
        }
        for product in rest {
            // SAFETY: another row begins here.
            let sum = unsafe { sums_of(probe, row) };
            row = row.wrapping_add(bytes);
            let halves = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let pairs = _mm_add_epi32(halves, _mm_shuffle_epi32::<0b01_00_11_10>(halves));
            *product = _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32::<0b10_11_00_01>(pairs)));
        }
    }

    /// Eight sums whose sum is the product of a probe and a row.
    ///
    /// # Safety
    ///
    /// The row has half as many bytes as the probe has values, a multiple of 64.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn sums_of(probe: &[i8], row: *const u8) -> __m256i {
        let (ones, lower_half) = (_mm256_set1_epi16(1), _mm256_set1_epi8(15));
        let bytes = probe.len() / 2;
        let whole = bytes / (2 * WIDTH) * (2 * WIDTH);
        let mut sum = _mm256_setzero_si256();
        // SAFETY: the caller's promise; what is asked for ahead need not be there. Four sums of two products are at most
        // 8 x 15 x 127, below 32,768.
        unsafe {
            for at in (0..whole).step_by(2 * WIDTH) {
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(at + AHEAD).cast());
                let first = _mm256_loadu_si256(row.add(at).cast());
                let second = _mm256_loadu_si256(row.add(at + WIDTH).cast());
                let probe = probe.as_ptr().add(2 * at);
                let lower = _mm256_add_epi16(
                    _mm256_maddubs_epi16(_mm256_and_si256(first, lower_half), load(probe)),
                    _mm256_maddubs_epi16(_mm256_and_si256(second, lower_half), load(probe.add(WIDTH))),
                );
                let (first, second) = (upper(first, lower_half), upper(second, lower_half));
                let upper = _mm256_add_epi16(
                    _mm256_maddubs_epi16(first, load(probe.add(2 * WIDTH))),
                    _mm256_maddubs_epi16(second, load(probe.add(3 * WIDTH))),
                );
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(lower, upper), ones));
            }
            if whole < bytes {
                let packed = _mm256_loadu_si256(row.add(whole).cast());
                let probe = probe.as_ptr().add(2 * whole);
                let both = _mm256_add_epi16(
                    _mm256_maddubs_epi16(_mm256_and_si256(packed, lower_half), load(probe)),
                    _mm256_maddubs_epi16(upper(packed, lower_half), load(probe.add(WIDTH))),
                );
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(both, ones));
            }
        }
        sum
    }

    /// # Safety
    ///
    /// 32 bytes can be read.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(from: *const i8) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    /// The upper halves of all bytes.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn upper(packed: __m256i, lower_half: __m256i) -> __m256i {
        _mm256_and_si256(_mm256_srli_epi16::<4>(packed), lower_half)
    }

    /// As [`super::Tile::products`].
    ///
    /// # Safety
    ///
    /// The machine has AVX2; `codes` holds `length` values, a multiple of 64, of each probe, and `rows` half as many bytes for
    /// each place of `into`.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn tile(codes: &[i8], length: usize, rows: &[u8], into: &mut [[i32; PROBES]]) {
        let row = |at: usize| &rows[at * length / 2..(at + 1) * length / 2];
        let unpack = |at: usize, values: &mut [u8]| super::unpack(row(at), values);
        super::in_blocks::<ROWS>(length, into, unpack, |values, into| {
            // SAFETY: the caller's promise; as many rows as there are places were unpacked.
            unsafe {
                match into.len() {
                    ROWS => block::<ROWS>(codes, values, length, into),
                    _ => block::<1>(codes, values, length, into),
                }
            }
        });
    }

    /// The products of the first `R` rows of `values`.
    ///
    /// # Safety
    ///
    /// As for [`tile`]; `values` holds `R` rows of `length` values of 0 to 15, and `into` as many places.
    #[target_feature(enable = "avx2")]
    unsafe fn block<const R: usize>(codes: &[i8], values: &[u8], length: usize, into: &mut [[i32; PROBES]]) {
        /// Groups whose products fit into 16 bits together: 8 x 2 x 15 x 127 is below 32,768.
        const GROUPS: usize = 8;
        let ones = _mm256_set1_epi16(1);
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        for start in (0..length).step_by(GROUPS * GROUP) {
            let mut pairs = [[_mm256_setzero_si256(); 2]; R];
            for at in (start..start + GROUPS * GROUP).step_by(GROUP) {
                // SAFETY: the caller's promise.
                unsafe {
                    let probes = codes.as_ptr().add(at * PROBES);
                    let probes = [load(probes), load(probes.add(WIDTH))];
                    for r in 0..R {
                        let group = values.as_ptr().add(r * length + at).cast::<i32>().read_unaligned();
                        let group = _mm256_set1_epi32(group);
                        for half in 0..2 {
                            pairs[r][half] =
                                _mm256_add_epi16(pairs[r][half], _mm256_maddubs_epi16(group, probes[half]));
                        }
                    }
                }
            }
            for r in 0..R {
                for half in 0..2 {
                    sums[r][half] = _mm256_add_epi32(sums[r][half], _mm256_madd_epi16(pairs[r][half], ones));
                }
            }
        }
        for r in 0..R {
            let to = into[r].as_mut_ptr();
            // SAFETY: a place holds 16 values.
            unsafe {
                _mm256_storeu_si256(to.cast(), sums[r][0]);
                _mm256_storeu_si256(to.add(PROBES / 2).cast(), sums[r][1]);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    use std::arch::x86_64::*;

    use super::{GROUP, PROBES};

    /// Bytes of a register.
    const WIDTH: usize = 64;
    /// So far ahead rows are asked for, in bytes.
    const AHEAD: usize = 2048;
    /// Rows of a tile that are multiplied at a time.
    const ROWS: usize = 8;
    /// So many rows ahead both halves of a row are asked for.
    const ROWS_AHEAD: usize = 8;

    /// As [`super::products`].
    ///
    /// # Safety
    ///
    /// The machine has AVX-512 F, BW, VL and VNNI; `rows` holds half as many bytes as the probe has values, a multiple of 64,
    /// for each place of `into`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn products(probe: &[i8], rows: &[u8], into: &mut [i32]) {
        let lower_half = _mm512_set1_epi8(15);
        let bytes = probe.len() / 2;
        let whole = bytes / WIDTH * WIDTH;
        let mut row = rows.as_ptr();
        for product in into {
            let (mut lower, mut upper) = (_mm512_setzero_si512(), _mm512_setzero_si512());
            // SAFETY: the caller's promise; what is asked for ahead need not be there.
            unsafe {
                for at in (0..whole).step_by(WIDTH) {
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(at + AHEAD).cast());
                    let packed = _mm512_loadu_si512(row.add(at).cast());
                    let probe = probe.as_ptr().add(2 * at);
                    let first = _mm512_loadu_si512(probe.cast());
                    let second = _mm512_loadu_si512(probe.add(WIDTH).cast());
                    lower = _mm512_dpbusd_epi32(lower, _mm512_and_si512(packed, lower_half), first);
                    let high = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), lower_half);
                    upper = _mm512_dpbusd_epi32(upper, high, second);
                }
                if whole < bytes {
                    // Half a block, as one register: its lower halves, then its upper ones.
                    let packed = _mm256_loadu_si256(row.add(whole).cast());
                    let high = _mm256_srli_epi16::<4>(packed);
                    let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(packed), high);
                    let probe = _mm512_loadu_si512(probe.as_ptr().add(2 * whole).cast());
                    lower = _mm512_dpbusd_epi32(lower, _mm512_and_si512(both, lower_half), probe);
                }
                row = row.add(bytes);
            }
            *product = _mm512_reduce_add_epi32(_mm512_add_epi32(lower, upper));
        }
    }

    /// As [`super::Tile::products`].
    ///
    /// # Safety
    ///
    /// The machine has AVX-512 F, BW, VL and VNNI; `codes` holds `length` values, a multiple of 64, of each probe, and `rows`
    /// half as many bytes for each place of `into`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn tile(codes: &[i8], length: usize, rows: &[u8], into: &mut [[i32; PROBES]]) {
        let row = |at: usize| &rows[at * length / 2..(at + 1) * length / 2];
        let unpack = |at: usize, values: &mut [u8]| super::unpack(row(at), values);
        super::in_blocks::<ROWS>(length, into, unpack, |values, into| {
            // SAFETY: the caller's promise; as many rows as there are places were unpacked.
            unsafe {
                match into.len() {
                    ROWS => block::<ROWS>(codes, values, length, into),
                    _ => block::<1>(codes, values, length, into),
                }
            }
        });
    }

    /// As [`super::Tile::whole_products`].
    ///
    /// # Safety
    ///
    /// As for [`tile`], of both halves.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn whole_tile(
        codes: &[i8],
        length: usize,
        upper_halves: &[u8],
        lower_halves: &[u8],
        into: &mut [[i32; PROBES]],
    ) {
        let place = |at: usize| at * length / 2..(at + 1) * length / 2;
        let join = |at: usize, values: &mut [u8]| {
            super::super::ask_for(upper_halves.get(place(at + ROWS_AHEAD)).unwrap_or_default());
            super::super::ask_for(lower_halves.get(place(at + ROWS_AHEAD)).unwrap_or_default());
            super::join(&upper_halves[place(at)], &lower_halves[place(at)], values);
        };
        super::in_blocks::<ROWS>(length, into, join, |values, into| {
            // SAFETY: the caller's promise; as many rows as there are places were joined.
            unsafe {
                match into.len() {
                    ROWS => block::<ROWS>(codes, values, length, into),
                    _ => block::<1>(codes, values, length, into),
                }
            }
        });
    }

    /// The products of the first `R` rows of `values`.
    ///
    /// # Safety
    ///
    /// As for [`tile`]; `values` holds `R` rows of `length` values of 0 to 255, and `into` as many places.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn block<const R: usize>(codes: &[i8], values: &[u8], length: usize, into: &mut [[i32; PROBES]]) {
        let mut sums = [_mm512_setzero_si512(); R];
        for at in (0..length).step_by(GROUP) {
            // SAFETY: the caller's promise.
            unsafe {
                let probes = _mm512_loadu_si512(codes.as_ptr().add(at * PROBES).cast());
                for r in 0..R {
                    let group = values.as_ptr().add(r * length + at).cast::<i32>().read_unaligned();
                    sums[r] = _mm512_dpbusd_epi32(sums[r], _mm512_set1_epi32(group), probes);
                }
            }
        }
        for r in 0..R {
            // SAFETY: a place holds 16 values.
            unsafe { _mm512_storeu_si512(into[r].as_mut_ptr().cast(), sums[r]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the definition has it.
    fn exact(probe: &[i8], row: &[u8]) -> i32 {
        probe.iter().zip(row).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
    }

    fn packed(rows: &[Vec<u8>]) -> Vec<u8> {
        let mut all = Vec::new();
        rows.iter().for_each(|row| pack(row, &mut all));
        all
    }

    proptest! {
        #[test]
        fn every_path_gives_the_plain_sums(
            steps in 1usize..10,
            count in 0usize..21,
            probes in 1usize..=PROBES,
            extreme in any::<bool>(),
            seed in proptest::collection::vec(any::<u8>(), 997),
        ) {
            let length = steps * STEP;
            let drawn = |at: usize| seed[at * 7 % seed.len()];
            let byte = |at| match drawn(at) {
                value if extreme => if value < 128 { -127 } else { 127 },
                value => (value as i8).max(-127),
            };
            let nibble = |at| if extreme && drawn(at) > 40 { 15 } else { drawn(at) >> 4 };
            let probes: Vec<Vec<i8>> =
                (0..probes).map(|number| (0..length).map(|at| byte(at + 31 * number)).collect()).collect();
            let rows: Vec<Vec<u8>> =
                (0..count).map(|row| (0..length).map(|at| nibble(at + length * row)).collect()).collect();
            let lower_rows: Vec<Vec<u8>> =
                (0..count).map(|row| (0..length).map(|at| nibble(at * 3 + 5 * length * row)).collect()).collect();
            let (plane, lower_plane) = (packed(&rows), packed(&lower_rows));
            prop_assert_eq!(plane.len(), count * length / 2);
            let mut values = vec![0; length];
            for (row, packed) in rows.iter().zip(plane.chunks(length / 2)) {
                unpack(packed, &mut values);
                prop_assert_eq!(row, &values);
            }
            let parts: Vec<&[i8]> = probes.iter().map(Vec::as_slice).collect();
            let tile = Tile::new(&parts);
            for isa in Isa::available() {
                let mut found = vec![0i32; count];
                products(*isa, &probes[0], &plane, &mut found);
                let expected: Vec<i32> = rows.iter().map(|row| exact(&probes[0], row)).collect();
                prop_assert_eq!(found, expected, "{:?}", isa);
                let mut found = vec![[-1i32; PROBES]; count];
                tile.products(*isa, &plane, &mut found);
                for (row, found) in rows.iter().zip(found) {
                    for (number, found) in found.into_iter().enumerate() {
                        let expected = probes.get(number).map_or(0, |probe| exact(probe, row));
                        prop_assert_eq!(found, expected, "{:?}, probe {}", isa, number);
                    }
                }
                let mut found = vec![[-1i32; PROBES]; count];
                tile.whole_products(*isa, &plane, &lower_plane, &mut found);
                for ((upper, lower), found) in rows.iter().zip(&lower_rows).zip(found) {
                    for (number, found) in found.into_iter().enumerate() {
                        let whole = |probe: &Vec<i8>| 16 * exact(probe, upper) + exact(probe, lower);
                        prop_assert_eq!(found, probes.get(number).map_or(0, whole), "{:?}, probe {}", isa, number);
                    }
                }
            }
        }
    }

    #[test]
    fn the_longest_rows_do_not_overflow() {
        let (probe, row) = (vec![-127i8; 1 << 17], vec![15u8; 1 << 17]);
        let plane = packed(std::slice::from_ref(&row));
        for isa in Isa::available() {
            let mut found = [0i32];
            products(*isa, &probe, &plane, &mut found);
            assert_eq!(found[0], -((127 * 15) << 17));
        }
    }
}
