//! Sixteen values: AVX-512, with or without products of bf16 pairs.

use std::arch::x86_64::*;

use super::{Lanes, Work};

/// `BF16`: whether the machine multiplies pairs of bf16 by itself.
#[derive(Clone, Copy)]
pub(super) struct Avx512<const BF16: bool>;

/// Does work with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) unsafe fn run<W: Work>(work: W) {
    // SAFETY: the caller has made sure of the instructions, and this function enables them.
    unsafe { work.run::<Avx512<false>>() }
}

/// Does work with AVX-512 and bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn run_bf16<W: Work>(work: W) {
    // SAFETY: as in `run`.
    unsafe { work.run::<Avx512<true>>() }
}

// SAFETY (for every block): the trait's callers run inside of `run` or `run_bf16` and pass valid pointers.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all of them, above")]
impl<const BF16: bool> Lanes for Avx512<BF16> {
    const WIDTH: usize = 16;
    const WIDE: bool = true;
    type F = __m512;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m512) {
        unsafe { _mm512_storeu_ps(to, value) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn activate(value: __m512, slope: __m512) -> __m512 {
        unsafe {
            let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(value, _mm512_setzero_ps());
            _mm512_mask_mov_ps(_mm512_mul_ps(value, slope), positive, value)
        }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn splat_pair(from: *const u32) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_set1_epi32(from.read().cast_signed())) }
    }

    #[inline(always)]
    unsafe fn dot_pairs(sum: __m512, a: __m512, b: __m512) -> __m512 {
        unsafe {
            if BF16 {
                return _mm512_dpbf16_ps(
                    sum,
                    std::mem::transmute::<__m512, __m512bh>(a),
                    std::mem::transmute::<__m512, __m512bh>(b),
                );
            }
            let (a, b, high) = (_mm512_castps_si512(a), _mm512_castps_si512(b), _mm512_set1_epi32(!0xffff));
            let first = |pairs| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
            let second = |pairs| _mm512_castsi512_ps(_mm512_and_si512(pairs, high));
            _mm512_fmadd_ps(second(a), second(b), _mm512_fmadd_ps(first(a), first(b), sum))
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, value: __m512) {
        unsafe {
            let rounded = if BF16 {
                std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(value))
            } else {
                // To the nearest, halves to even; NaN keeps its upper bits and becomes a quiet one.
                let bits = _mm512_castps_si512(value);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
                let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
                _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(_mm512_mask_mov_epi32(up, nan, quiet)))
            };
            _mm256_storeu_si256(to.cast(), rounded);
        }
    }

    #[inline(always)]
    unsafe fn ask_for(from: *const u32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())))) }
    }
}
