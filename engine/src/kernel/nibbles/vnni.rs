//! Products of nibbles, and of the bytes they make together, with AVX-512 VNNI.

use std::arch::x86_64::*;

use super::{GROUP, PROBES};

/// Bytes of a register.
const WIDTH: usize = 64;
/// So far ahead rows are asked for, in bytes.
const AHEAD: usize = 8192;
/// Rows of a tile that are multiplied at a time.
const ROWS: usize = 8;
/// So many rows ahead both halves of a row are asked for.
const ROWS_AHEAD: usize = 16;

/// As [`super::products`].
///
/// # Safety
///
/// The machine has AVX-512 F, BW, VL and VNNI; `rows` holds half as many bytes as the probe has values, a multiple of 64,
/// for each place of `into`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn products(probe: &[i8], rows: &[u8], into: &mut [i32]) {
    let mut row = rows.as_ptr();
    for product in into {
        // SAFETY: another row begins here.
        *product = unsafe { product_of::<AHEAD>(probe, row) };
        row = row.wrapping_add(probe.len() / 2);
    }
}

/// As [`super::listed_products`].
///
/// # Safety
///
/// As for [`products`], of the rows that are listed.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn listed_products(probe: &[i8], rows: &[u8], listed: &[u16], into: &mut [i32]) {
    for (row, product) in listed.iter().zip(into) {
        // SAFETY: the caller's promise.
        *product = unsafe { product_of::<0>(probe, rows.as_ptr().add(usize::from(*row) * probe.len() / 2)) };
    }
}

/// The product of a probe and a row; what lies so many bytes ahead is asked for, unless 0.
///
/// # Safety
///
/// As for [`products`]; the row has half as many bytes as the probe has values.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn product_of<const AHEAD: usize>(probe: &[i8], row: *const u8) -> i32 {
    let lower_half = _mm512_set1_epi8(15);
    let bytes = probe.len() / 2;
    let whole = bytes / WIDTH * WIDTH;
    let (mut lower, mut upper) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    // SAFETY: the caller's promise; what is asked for ahead need not be there.
    unsafe {
        for at in (0..whole).step_by(WIDTH) {
            if AHEAD > 0 {
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(at + AHEAD).cast());
            }
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
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(lower, upper))
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
    // What is asked for may lie behind these rows, where the next ones usually do, and need not be there.
    let ask_for = |halves: &[u8], at: usize| {
        for line in place(at).step_by(WIDTH) {
            _mm_prefetch::<_MM_HINT_T0>(halves.as_ptr().wrapping_add(line).cast());
        }
    };
    let join = |at: usize, values: &mut [u8]| {
        ask_for(upper_halves, at + ROWS_AHEAD);
        ask_for(lower_halves, at + ROWS_AHEAD);
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
