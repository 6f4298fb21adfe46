//! Products of nibbles with AVX2.

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
        *product = total(unsafe { sums_of(probe, row) });
        row = row.wrapping_add(bytes);
    }
}

/// As [`super::listed_products`].
///
/// # Safety
///
/// As for [`products`], of the rows that are listed.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn listed_products(probe: &[i8], rows: &[u8], listed: &[u16], into: &mut [i32]) {
    for (row, product) in listed.iter().zip(into) {
        // SAFETY: the caller's promise.
        *product = total(unsafe { sums_of(probe, rows.as_ptr().add(usize::from(*row) * probe.len() / 2)) });
    }
}

/// All eight together.
#[inline]
#[target_feature(enable = "avx2")]
fn total(sums: __m256i) -> i32 {
    let halves = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let pairs = _mm_add_epi32(halves, _mm_shuffle_epi32::<0b01_00_11_10>(halves));
    _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32::<0b10_11_00_01>(pairs)))
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
    let mut values = vec![0; ROWS * length];
    for (rows, into) in rows.chunks(ROWS * length / 2).zip(into.chunks_mut(ROWS)) {
        let each = rows.chunks_exact(length / 2).zip(values.chunks_exact_mut(length));
        each.for_each(|(row, values)| super::unpack(row, values));
        // SAFETY: the caller's promise; as many rows as there are places were unpacked.
        unsafe {
            if into.len() == ROWS {
                block::<ROWS>(codes, &values, length, into);
            } else {
                let each = values.chunks_exact(length).zip(into.chunks_mut(1));
                each.for_each(|(values, into)| block::<1>(codes, values, length, into));
            }
        }
    }
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
                        pairs[r][half] = _mm256_add_epi16(pairs[r][half], _mm256_maddubs_epi16(group, probes[half]));
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
