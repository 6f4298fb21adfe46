//! Products of signed bytes with rows of values of two bits: how a cascade looks at all rows.
//!
//! Values are 0 to 3. Rows lie in blocks of sixteen, so that a register holds as much of each: four bytes of the first row, of the
//! second, and so on with the first sixteen values of each, then four bytes of each with the next sixteen. Of sixteen values, byte
//! `i` holds those numbered `i`, `i + 4`, `i + 8` and `i + 12`, the first in its lowest bits.

use super::isa::Isa;

/// Rows of a block.
pub(crate) const BLOCK: usize = 16;
/// Rows have a multiple of this many values.
pub(crate) const STEP: usize = 64;
/// Probes that are looked at together.
pub(crate) const PROBES: usize = 8;

/// Values of a row that lie together.
const WORD: usize = 16;
/// Bytes that they take, and values of a word that are multiplied at a time.
const GROUP: usize = 4;

/// Bytes of a block of rows of so many values.
pub(crate) fn block_bytes(length: usize) -> usize {
    BLOCK * length / GROUP
}

/// Lays the values of a row, 0 to 3 each, into a block whose bytes of that row are 0.
pub(crate) fn put(values: &[u8], row: usize, block: &mut [u8]) {
    assert!(values.len().is_multiple_of(STEP) && row < BLOCK && block.len() == block_bytes(values.len()));
    debug_assert!(values.iter().all(|value| *value < 4));
    for (values, word) in values.chunks_exact(WORD).zip(block.chunks_exact_mut(BLOCK * GROUP)) {
        let bytes = &mut word[row * GROUP..(row + 1) * GROUP];
        for (field, values) in values.chunks_exact(GROUP).enumerate() {
            bytes.iter_mut().zip(values).for_each(|(byte, value)| *byte |= value << (2 * field));
        }
    }
}

/// Which rows of some blocks have a product of at least so much, for each of at most [`PROBES`] probes: a bit for each row of a
/// block, the first row in the lowest, for all blocks of the first probe, then of the second, and so on. Probes are of the same
/// length, a multiple of [`STEP`] and at most 65,536 values, and their bytes are −127 to 127.
pub(crate) fn reaching(isa: Isa, probes: &[(&[i8], i32)], blocks: &[u8], into: &mut [u16]) {
    assert!((1..=PROBES).contains(&probes.len()) && into.len().is_multiple_of(probes.len()));
    probes.iter().for_each(|(probe, _)| check(probe, blocks, into.len() / probes.len()));
    match isa {
        // SAFETY: `Isa` values other than `Portable` come from `Isa::available` only, which asks the processor; machines
        // with AVX-512 have AVX2. The lengths were compared above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 if has_vnni() => unsafe { vnni::reaching(probes, blocks, into) },
        // SAFETY: the same.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => unsafe { avx2::reaching(probes, blocks, into) },
        _ => {
            let count = into.len() / probes.len();
            for ((probe, least), into) in probes.iter().zip(into.chunks_exact_mut(count.max(1))) {
                for (block, into) in blocks.chunks_exact(block_bytes(probe.len())).zip(into) {
                    let products = portable(probe, block).into_iter().enumerate();
                    *into = products.map(|(row, product)| u16::from(product >= *least) << row).sum();
                }
            }
        }
    }
}

fn check(probe: &[i8], blocks: &[u8], count: usize) {
    assert!((STEP..=1 << 16).contains(&probe.len()) && probe.len().is_multiple_of(STEP));
    assert!(blocks.len() == count * block_bytes(probe.len()));
    debug_assert!(!probe.contains(&i8::MIN));
}

/// Whether the machine multiplies bytes and adds them up in one instruction, which not all with AVX-512 do.
#[cfg(target_arch = "x86_64")]
fn has_vnni() -> bool {
    is_x86_feature_detected!("avx512vnni")
}

/// The product of a probe with each row of a block.
pub(crate) fn portable(probe: &[i8], block: &[u8]) -> [i32; BLOCK] {
    let mut sums = [0; BLOCK];
    for (probe, word) in probe.chunks_exact(WORD).zip(block.chunks_exact(BLOCK * GROUP)) {
        for (sum, bytes) in sums.iter_mut().zip(word.chunks_exact(GROUP)) {
            for (field, probe) in probe.chunks_exact(GROUP).enumerate() {
                let each = bytes.iter().zip(probe);
                *sum += each.map(|(byte, probe)| i32::from(byte >> (2 * field) & 3) * i32::from(*probe)).sum::<i32>();
            }
        }
    }
    sums
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::{BLOCK, GROUP, WORD, block_bytes};

    /// Bytes of a register, which holds eight rows.
    const WIDTH: usize = 32;
    /// Words whose sums fit into 16 bits: each adds at most 4 × 2 × 127 × 3.
    const WORDS: usize = 8;

    /// As [`super::reaching`].
    ///
    /// # Safety
    ///
    /// The machine has AVX2; `blocks` holds a block of rows as long as each probe, a multiple of 16, for one place of `into` of each
    /// of them.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn reaching(probes: &[(&[i8], i32)], blocks: &[u8], into: &mut [u16]) {
        let count = into.len() / probes.len();
        for (at, block) in blocks.chunks_exact(block_bytes(probes[0].0.len())).enumerate() {
            for ((probe, least), into) in probes.iter().zip(into.iter_mut().skip(at).step_by(count)) {
                let least = _mm256_set1_epi32(*least);
                *into = 0;
                for half in 0..2 {
                    // SAFETY: the block is as long as the probe asks for.
                    let below = unsafe { _mm256_cmpgt_epi32(least, sums(probe, block, half)) };
                    let below = _mm256_movemask_ps(_mm256_castsi256_ps(below)) as u16;
                    *into |= (!below & 0xff) << (half * BLOCK / 2);
                }
            }
        }
    }

    /// The products of the first or the second eight rows of a block.
    ///
    /// # Safety
    ///
    /// The machine has AVX2; the block is one of rows as long as the probe.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn sums(probe: &[i8], block: &[u8], half: usize) -> __m256i {
        let (two_bits, ones) = (_mm256_set1_epi8(3), _mm256_set1_epi16(1));
        let mut sums = _mm256_setzero_si256();
        let mut word = block.as_ptr().wrapping_add(half * WIDTH);
        for probe in probe.chunks(WORD * WORDS) {
            let mut short = _mm256_setzero_si256();
            for probe in probe.chunks_exact(WORD) {
                // SAFETY: the caller's promise.
                let packed = unsafe { _mm256_loadu_si256(word.cast()) };
                let fields = [
                    packed,
                    _mm256_srli_epi16::<2>(packed),
                    _mm256_srli_epi16::<4>(packed),
                    _mm256_srli_epi16::<6>(packed),
                ];
                for (field, probe) in fields.into_iter().zip(probe.as_chunks::<GROUP>().0) {
                    let probe = _mm256_set1_epi32(i32::from_ne_bytes(probe.map(i8::cast_unsigned)));
                    let values = _mm256_and_si256(field, two_bits);
                    short = _mm256_add_epi16(short, _mm256_maddubs_epi16(values, probe));
                }
                word = word.wrapping_add(BLOCK * GROUP);
            }
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(short, ones));
        }
        sums
    }
}

#[cfg(target_arch = "x86_64")]
mod vnni {
    use std::arch::x86_64::*;

    use super::{BLOCK, GROUP, PROBES, WORD, block_bytes};

    /// So far ahead blocks are asked for, in bytes: the machine's own prefetching ends at each page.
    const AHEAD: usize = 4096;

    /// As [`super::reaching`].
    ///
    /// # Safety
    ///
    /// The machine has AVX-512 F, BW, VL and VNNI; `blocks` holds a block of rows as long as each probe, a multiple of 16, for one
    /// place of `into` of each of them.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    pub(super) unsafe fn reaching(probes: &[(&[i8], i32)], blocks: &[u8], into: &mut [u16]) {
        macro_rules! of_probes {
            ($($count:literal)*) => {
                match probes.len() {
                    // SAFETY: the caller's promise.
                    $($count => unsafe { reaching_of::<$count>(std::array::from_fn(|at| probes[at]), blocks, into) },)*
                    count => unreachable!("{count} probes"),
                }
            };
        }
        const { assert!(PROBES == 8) };
        of_probes!(1 2 3 4 5 6 7 8)
    }

    /// # Safety
    ///
    /// As for [`reaching`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn reaching_of<const P: usize>(probes: [(&[i8], i32); P], blocks: &[u8], into: &mut [u16]) {
        let least = probes.map(|(_, least)| _mm512_set1_epi32(least));
        let probes = probes.map(|(probe, _)| probe);
        let count = into.len() / P;
        for (number, block) in blocks.chunks_exact(block_bytes(probes[0].len())).enumerate() {
            // SAFETY: the block is as long as the probes ask for.
            let sums = unsafe { sums(probes, block.as_ptr()) };
            for at in 0..P {
                into[at * count + number] = _mm512_cmpge_epi32_mask(sums[at], least[at]);
            }
        }
    }

    /// The products of the rows of a block with each probe.
    ///
    /// # Safety
    ///
    /// The machine has AVX-512 F, BW, VL and VNNI; the probes are of the same length, and the block is one of rows as long.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn sums<const P: usize>(probes: [&[i8]; P], block: *const u8) -> [__m512i; P] {
        let two_bits = _mm512_set1_epi8(3);
        // A sum waits for itself, so there are sixteen in all, or as many of each probe as a byte has fields.
        let each = (2 * PROBES / P).clamp(1, GROUP);
        let mut sums = [[_mm512_setzero_si512(); GROUP]; P];
        for at in (0..probes[0].len()).step_by(WORD) {
            // SAFETY: the caller's promise; what is asked for ahead need not be there.
            let packed = unsafe {
                let word = block.add(at / WORD * BLOCK * GROUP);
                _mm_prefetch::<_MM_HINT_T0>(word.wrapping_add(AHEAD).cast());
                _mm512_loadu_si512(word.cast())
            };
            let fields = [
                packed,
                _mm512_srli_epi16::<2>(packed),
                _mm512_srli_epi16::<4>(packed),
                _mm512_srli_epi16::<6>(packed),
            ];
            for field in 0..GROUP {
                let values = _mm512_and_si512(fields[field], two_bits);
                for (probe, sums) in probes.iter().zip(&mut sums) {
                    // SAFETY: the probe has sixteen values from here on.
                    let four = unsafe { probe.as_ptr().add(at + field * GROUP).cast::<i32>().read_unaligned() };
                    let sum = &mut sums[field % each];
                    *sum = _mm512_dpbusd_epi32(*sum, values, _mm512_set1_epi32(four));
                }
            }
        }
        sums.map(|[a, b, c, d]| _mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_path_gives_the_plain_sums(
            steps in 1usize..=9,
            blocks in 0usize..5,
            probes in 1usize..=PROBES,
            extreme in any::<bool>(),
            least in -3_000i32..3_000,
            seed in proptest::collection::vec(any::<u8>(), 997),
        ) {
            let length = steps * STEP;
            let drawn = |at: usize| seed[at * 7 % seed.len()];
            let byte = |at| match drawn(at) {
                value if extreme => if value < 40 { -127 } else { 127 },
                value => value.cast_signed().max(-127),
            };
            let value = |at| if extreme && drawn(at) > 40 { 3 } else { drawn(at) >> 6 };
            let probes: Vec<(Vec<i8>, i32)> = (0..probes)
                .map(|number| ((0..length).map(|at| byte(at + 31 * number)).collect(), least + number as i32))
                .collect();
            let rows: Vec<Vec<u8>> =
                (0..blocks * BLOCK).map(|row| (0..length).map(|at| value(at + length * row)).collect()).collect();
            let mut packed = vec![0; blocks * block_bytes(length)];
            for (block, rows) in packed.chunks_mut(block_bytes(length)).zip(rows.chunks(BLOCK)) {
                rows.iter().enumerate().for_each(|(row, values)| put(values, row, block));
            }
            let exact = |probe: &[i8], row: &[u8]| -> i32 {
                probe.iter().zip(row).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
            };
            let each: Vec<(&[i8], i32)> = probes.iter().map(|(probe, least)| (&probe[..], *least)).collect();
            for isa in Isa::available() {
                let mut found = vec![u16::MAX; blocks * probes.len()];
                reaching(*isa, &each, &packed, &mut found);
                for (number, (probe, least)) in probes.iter().enumerate() {
                    for (row, values) in rows.iter().enumerate() {
                        let reaches = found[number * blocks + row / BLOCK] >> (row % BLOCK) & 1 == 1;
                        prop_assert_eq!(reaches, exact(probe, values) >= *least, "{:?}, row {}", isa, row);
                    }
                }
            }
        }
    }

    #[test]
    fn the_longest_rows_do_not_overflow() {
        let length = 1 << 16;
        let mut block = vec![0; block_bytes(length)];
        (0..BLOCK).for_each(|row| put(&vec![3; length], row, &mut block));
        for isa in Isa::available() {
            let product = -127 * 3 * length as i32;
            let (probe, mut found) = (vec![-127; length], [0; 2]);
            reaching(*isa, &[(&probe, product), (&probe, product + 1)], &block, &mut found);
            assert_eq!(found, [u16::MAX, 0]);
        }
    }
}
