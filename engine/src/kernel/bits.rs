//! In how many places rows of bits differ (Hamming's distance): how a graph over bits looks at its rows.

use super::isa::Isa;

/// Rows are padded to a multiple of this many bytes.
pub(crate) const STEP: usize = 8;

/// The number of bits in which two rows of the same length differ. Rows are a multiple of [`STEP`] bytes, fewer than 2²⁹.
pub(crate) fn differing(isa: Isa, a: &[u8], b: &[u8]) -> u32 {
    assert!(a.len() == b.len() && a.len().is_multiple_of(STEP) && a.len() < 1 << 29);
    match isa {
        // SAFETY: `Isa` values other than `Portable` come from `Isa::available` only, which asks the processor; the lengths were
        // compared above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 if has_vpopcntdq() => unsafe { avx512::differing(a, b) },
        // SAFETY: the same; machines with AVX-512 have AVX2.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => unsafe { avx2::differing(a, b) },
        _ => portable(a, b),
    }
}

/// Whether the machine counts bits in all lanes at once, which not all with AVX-512 do.
#[cfg(target_arch = "x86_64")]
fn has_vpopcntdq() -> bool {
    is_x86_feature_detected!("avx512vpopcntdq")
}

fn portable(a: &[u8], b: &[u8]) -> u32 {
    let words = a.as_chunks::<STEP>().0.iter().zip(b.as_chunks::<STEP>().0);
    words.map(|(a, b)| (u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b)).count_ones()).sum()
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::STEP;

    /// Bytes of a register.
    const WIDTH: usize = 64;

    /// As [`super::differing`].
    ///
    /// # Safety
    ///
    /// The machine has AVX-512 F, BW, VL and VPOPCNTDQ; both rows are of the same length, a multiple of eight bytes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
    pub(super) unsafe fn differing(a: &[u8], b: &[u8]) -> u32 {
        let mut sums = _mm512_setzero_si512();
        for at in (0..a.len()).step_by(WIDTH) {
            let words = (a.len() - at).min(WIDTH) / STEP;
            let mask = (0xffu16 >> (WIDTH / STEP - words)) as u8;
            // SAFETY: words beyond the end are masked out; the others are the caller's promise.
            let differing = unsafe {
                _mm512_xor_si512(
                    _mm512_maskz_loadu_epi64(mask, a.as_ptr().add(at).cast()),
                    _mm512_maskz_loadu_epi64(mask, b.as_ptr().add(at).cast()),
                )
            };
            sums = _mm512_add_epi64(sums, _mm512_popcnt_epi64(differing));
        }
        _mm512_reduce_add_epi64(sums) as u32
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    /// Bytes of a register.
    const WIDTH: usize = 32;

    /// As [`super::differing`].
    ///
    /// # Safety
    ///
    /// The machine has AVX2; both rows are of the same length, a multiple of eight bytes.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn differing(a: &[u8], b: &[u8]) -> u32 {
        let of_half = _mm256_setr_epi8(
            0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
        );
        let (half, zero) = (_mm256_set1_epi8(15), _mm256_setzero_si256());
        let whole = a.len() / WIDTH * WIDTH;
        let mut sums = zero;
        for at in (0..whole).step_by(WIDTH) {
            // SAFETY: a register of each row begins here.
            let differing = unsafe {
                _mm256_xor_si256(
                    _mm256_loadu_si256(a.as_ptr().add(at).cast()),
                    _mm256_loadu_si256(b.as_ptr().add(at).cast()),
                )
            };
            let lower = _mm256_shuffle_epi8(of_half, _mm256_and_si256(differing, half));
            let upper = _mm256_shuffle_epi8(of_half, _mm256_and_si256(_mm256_srli_epi16::<4>(differing), half));
            sums = _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_add_epi8(lower, upper), zero));
        }
        let mut four = [0u64; 4];
        // SAFETY: four words are written.
        unsafe { _mm256_storeu_si256(four.as_mut_ptr().cast(), sums) };
        four.iter().sum::<u64>() as u32 + super::portable(&a[whole..], &b[whole..])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_path_counts_the_same(
            words in 0usize..40,
            alike in any::<bool>(),
            seed in proptest::collection::vec(any::<u8>(), 2 * 320),
        ) {
            let (a, b) = seed.split_at(320);
            let (a, b) = (&a[..words * STEP], if alike { &a[..words * STEP] } else { &b[..words * STEP] });
            let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (at % 8) & 1;
            let expected = (0..8 * a.len()).filter(|at| bit(a, *at) != bit(b, *at)).count();
            let inverse: Vec<u8> = a.iter().map(|byte| !byte).collect();
            for isa in Isa::available() {
                prop_assert_eq!(differing(*isa, a, b) as usize, expected, "{:?}", isa);
                prop_assert_eq!(differing(*isa, a, &inverse) as usize, 8 * a.len(), "{:?}", isa);
            }
        }
    }
}
