//! Products of nibbles, and of the bytes they make together, with AVX-512 VNNI.

use std::arch::x86_64::*;

use super::PROBES;

/// Bytes of a register, of a lane of it, and how many lanes there are.
const WIDTH: usize = 64;
const LANE: usize = 16;
const LANES: usize = WIDTH / LANE;
/// So far ahead rows are asked for, in bytes.
const AHEAD: usize = 8192;
/// Rows of a tile that are multiplied at a time.
const ROWS: usize = 2;
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
/// The machine has AVX-512 F, BW, VL and VNNI; `codes` holds `length` values, a multiple of 64, of each probe in the order of
/// [`place`], and `rows` half as many bytes for each place of `into`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) unsafe fn tile(codes: &[i8], length: usize, rows: &[u8], into: &mut [[i32; PROBES]]) {
    // SAFETY: the caller's promise; the rows stand in for lower halves, which nothing is made of.
    unsafe { blocks::<false>(codes, length, rows.as_ptr(), rows.as_ptr(), into) };
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
    // SAFETY: the caller's promise.
    unsafe { blocks::<true>(codes, length, upper_halves.as_ptr(), lower_halves.as_ptr(), into) };
}

/// Where a value of a probe of a tile is: 16 values of a probe fill a lane, and a register those of four probes.
///
/// A lane of a row then meets a lane of each probe, so that a row is spread over a register once for 16 values. Sums are added up
/// over the values of a lane in the end, and lie in the order of the probes, as the probes of a register are four apart.
pub(super) fn place(probe: usize, value: usize) -> usize {
    let register = value / LANE * LANES + probe % LANES;
    register * WIDTH + probe / LANES * LANE + value % LANE
}

/// Takes [`ROWS`] rows at a time, and the last ones each alone.
///
/// # Safety
///
/// As for [`tile`], of both halves where `WHOLE` ones are wanted.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn blocks<const WHOLE: bool>(
    codes: &[i8],
    length: usize,
    upper: *const u8,
    lower: *const u8,
    into: &mut [[i32; PROBES]],
) {
    let (together, rest) = into.as_chunks_mut::<ROWS>();
    let alone = together.len() * ROWS;
    // SAFETY: the caller's promise.
    unsafe {
        let at = |row: usize| (upper.add(row * length / 2), lower.add(row * length / 2));
        for (number, into) in together.iter_mut().enumerate() {
            block::<ROWS, WHOLE>(codes, length, at(number * ROWS), into);
        }
        for (number, into) in rest.iter_mut().enumerate() {
            block::<1, WHOLE>(codes, length, at(alone + number), std::array::from_mut(into));
        }
    }
}

/// The products of `R` rows, which begin at these places.
///
/// # Safety
///
/// As for [`blocks`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn block<const R: usize, const WHOLE: bool>(
    codes: &[i8],
    length: usize,
    (upper, lower): (*const u8, *const u8),
    into: &mut [[i32; PROBES]; R],
) {
    let mut sums = [[_mm512_setzero_si512(); LANES]; R];
    let bytes = length / 2;
    let whole = bytes / WIDTH * WIDTH;
    // SAFETY: the caller's promise; what is asked for may lie behind the rows, and need not be there.
    unsafe {
        for at in (0..whole).step_by(WIDTH) {
            let mut values = [[_mm512_setzero_si512(); R]; 2];
            for r in 0..R {
                let place = r * bytes + at;
                for halves in [upper, lower] {
                    _mm_prefetch::<_MM_HINT_T0>(halves.wrapping_add(place + ROWS_AHEAD * bytes).cast());
                }
                let [upper, lower] = [upper, lower].map(|halves| _mm512_loadu_si512(halves.add(place).cast()));
                [values[0][r], values[1][r]] = unpacked::<WHOLE>(upper, lower);
            }
            add_products(&mut sums, values[0], codes.as_ptr().add(2 * at * PROBES));
            add_products(&mut sums, values[1], codes.as_ptr().add((2 * at + WIDTH) * PROBES));
        }
        if whole < bytes {
            // Half a block, as one register: its first values, then its second ones.
            let mut values = [_mm512_setzero_si512(); R];
            for (r, values) in values.iter_mut().enumerate() {
                let twice = |from: *const u8| _mm512_broadcast_i64x4(_mm256_loadu_si256(from.cast()));
                let [upper, lower] = [upper, lower].map(|halves| twice(halves.add(r * bytes + whole)));
                let [first, second] = unpacked::<WHOLE>(upper, lower);
                *values = _mm512_mask_blend_epi64(0xf0, first, second);
            }
            add_products(&mut sums, values, codes.as_ptr().add(2 * whole * PROBES));
        }
        for (sums, into) in sums.into_iter().zip(into) {
            _mm512_storeu_si512(into.as_mut_ptr().cast(), summed(sums));
        }
    }
}

/// The first and the second values of a block: whole ones, or the packed halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn unpacked<const WHOLE: bool>(upper: __m512i, lower: __m512i) -> [__m512i; 2] {
    /// Bits of the first where it is set, otherwise of the second.
    const EITHER: i32 = 0xca;
    let above = _mm512_set1_epi8(0xf0_u8.cast_signed());
    if WHOLE {
        [
            _mm512_ternarylogic_epi32::<EITHER>(above, _mm512_slli_epi16::<4>(upper), lower),
            _mm512_ternarylogic_epi32::<EITHER>(above, upper, _mm512_srli_epi16::<4>(lower)),
        ]
    } else {
        [_mm512_andnot_si512(above, upper), _mm512_andnot_si512(above, _mm512_srli_epi16::<4>(upper))]
    }
}

/// Adds the products of a register of values of each row with those of the probes, which begin at `codes`.
///
/// # Safety
///
/// [`WIDTH`] values of each of [`PROBES`] probes can be read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn add_products<const R: usize>(sums: &mut [[__m512i; LANES]; R], values: [__m512i; R], codes: *const i8) {
    let probes = |lane: usize| -> [__m512i; LANES] {
        // SAFETY: the caller's promise.
        std::array::from_fn(|at| unsafe { _mm512_loadu_si512(codes.add((lane * LANES + at) * WIDTH).cast()) })
    };
    let mut add = |lane: usize, spread: [__m512i; R]| {
        let probes = probes(lane);
        for (sums, values) in sums.iter_mut().zip(spread) {
            for (sum, probes) in sums.iter_mut().zip(probes) {
                *sum = _mm512_dpbusd_epi32(*sum, values, probes);
            }
        }
    };
    add(0, values.map(|values| _mm512_shuffle_i32x4::<0x00>(values, values)));
    add(1, values.map(|values| _mm512_shuffle_i32x4::<0x55>(values, values)));
    add(2, values.map(|values| _mm512_shuffle_i32x4::<0xaa>(values, values)));
    add(3, values.map(|values| _mm512_shuffle_i32x4::<0xff>(values, values)));
}

/// The sums of the lanes of four registers, in the order of the probes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn summed([a, b, c, d]: [__m512i; LANES]) -> __m512i {
    let of_two = |x, y| _mm512_add_epi32(_mm512_unpacklo_epi32(x, y), _mm512_unpackhi_epi32(x, y));
    let (ab, cd) = (of_two(a, b), of_two(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}
