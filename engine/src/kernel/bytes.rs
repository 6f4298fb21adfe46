//! Products of rows of signed bytes: how an index looks at its rows first.

use super::isa::Isa;

/// Rows are padded with zeros to a multiple of this many bytes.
pub(crate) const STEP: usize = 64;

/// The product of `probe` with each row of `rows`, which lie one after the other and are as long as the probe: a multiple of
/// [`STEP`], at most 131,072. Bytes are −127 to 127, so that no sum on the way is too large.
pub(crate) fn products(isa: Isa, probe: &[i8], rows: &[i8], into: &mut [i32]) {
    assert!(!probe.is_empty() && probe.len().is_multiple_of(STEP) && rows.len() == probe.len() * into.len());
    debug_assert!(!probe.contains(&i8::MIN));
    match isa {
        // SAFETY: `Isa` values other than `Portable` come from `Isa::available` only, which asks the processor; machines
        // with AVX-512 have AVX2. The lengths were compared above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 | Isa::Avx2 => unsafe { avx2::products(probe, rows, into) },
        _ => portable(probe, rows, into),
    }
}

fn portable(probe: &[i8], rows: &[i8], into: &mut [i32]) {
    for (row, product) in rows.chunks_exact(probe.len()).zip(into) {
        *product = probe.iter().zip(row).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    /// Rows that are multiplied at a time, each value of the probe being loaded once for all of them.
    const ROWS: usize = 4;
    /// Bytes of a register.
    const WIDTH: usize = 32;

    /// As [`super::products`].
    ///
    /// # Safety
    ///
    /// The machine has AVX2; `rows` holds a row as long as the probe, a multiple of [`WIDTH`], for each place of `into`.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn products(probe: &[i8], rows: &[i8], into: &mut [i32]) {
        let length = probe.len();
        let mut done = 0;
        while done + ROWS <= into.len() {
            // SAFETY: four more rows begin here.
            let sums = unsafe { block::<ROWS>(probe, rows.as_ptr().add(done * length)) };
            into[done..done + ROWS].copy_from_slice(&sums);
            done += ROWS;
        }
        while done < into.len() {
            // SAFETY: another row begins here.
            let [sum] = unsafe { block::<1>(probe, rows.as_ptr().add(done * length)) };
            into[done] = sum;
            done += 1;
        }
    }

    /// The products of the first `R` rows from `rows` on.
    ///
    /// # Safety
    ///
    /// As for [`products`].
    #[target_feature(enable = "avx2")]
    unsafe fn block<const R: usize>(probe: &[i8], rows: *const i8) -> [i32; R] {
        let length = probe.len();
        let ones = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); R];
        for at in (0..length).step_by(WIDTH) {
            // SAFETY: the caller's promise.
            unsafe {
                let factor = _mm256_loadu_si256(probe.as_ptr().add(at).cast());
                for r in 0..R {
                    let row = _mm256_loadu_si256(rows.add(r * length + at).cast());
                    // One side of the product has to be without sign, which goes over to the other. Two products of at most
                    // 127 x 127 are below 32,768.
                    let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(row), _mm256_sign_epi8(factor, row));
                    sums[r] = _mm256_add_epi32(sums[r], _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        sums.map(|sum| {
            let halves = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let pairs = _mm_add_epi32(halves, _mm_shuffle_epi32::<0b01_00_11_10>(halves));
            _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32::<0b10_11_00_01>(pairs)))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_path_gives_the_plain_sums(
            steps in 1usize..10,
            count in 0usize..11,
            extreme in any::<bool>(),
            seed in proptest::collection::vec(-127i8..=127, 640 * 11),
        ) {
            let length = steps * STEP;
            let of = |at: usize| if extreme { if seed[at] < 0 { -127 } else { 127 } } else { seed[at] };
            let probe: Vec<i8> = (0..length).map(of).collect();
            let rows: Vec<i8> = (0..length * count).map(|at| of(at * 7 % seed.len())).collect();
            let exact: Vec<i64> = rows
                .chunks_exact(length)
                .map(|row| row.iter().zip(&probe).map(|(a, b)| i64::from(*a) * i64::from(*b)).sum())
                .collect();
            for isa in Isa::available() {
                let mut found = vec![0i32; count];
                products(*isa, &probe, &rows, &mut found);
                prop_assert_eq!(found.iter().map(|sum| i64::from(*sum)).collect::<Vec<_>>(), exact.clone());
            }
        }
    }

    #[test]
    fn the_longest_rows_do_not_overflow() {
        let row = vec![127i8; 1 << 17];
        for isa in Isa::available() {
            let mut found = [0i32];
            products(*isa, &row, &row, &mut found);
            assert_eq!(i64::from(found[0]), (127 * 127) << 17);
        }
    }
}
