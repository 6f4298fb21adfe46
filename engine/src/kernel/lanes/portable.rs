//! Eight values in an array: the twin that runs everywhere and that the others are tested against.

use half::bf16;

use super::Lanes;

/// Eight values.
#[derive(Clone, Copy)]
pub(super) struct Portable;

type Eight = [f32; 8];

#[inline(always)]
fn each(of: impl Fn(usize) -> f32) -> Eight {
    std::array::from_fn(of)
}

/// The two bf16 values in the bits of a register's value, the first in the lower half.
#[inline(always)]
fn pair(bits: f32) -> [f32; 2] {
    let bits = bits.to_bits();
    [f32::from_bits(bits << 16), f32::from_bits(bits & !0xffff)]
}

// SAFETY (for every block): the trait's callers pass valid pointers.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all of them, above")]
impl Lanes for Portable {
    const WIDTH: usize = 8;
    const WIDE: bool = false;
    type F = Eight;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Eight {
        [value; 8]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Eight {
        unsafe { from.cast::<Eight>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Eight) {
        unsafe { to.cast::<Eight>().write_unaligned(value) }
    }

    #[inline(always)]
    unsafe fn add(a: Eight, b: Eight) -> Eight {
        each(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sub(a: Eight, b: Eight) -> Eight {
        each(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: Eight, b: Eight) -> Eight {
        each(|i| a[i] * b[i])
    }

    // Two roundings: a fused one is a function call on machines without the instruction.
    #[inline(always)]
    unsafe fn fma(a: Eight, b: Eight, c: Eight) -> Eight {
        each(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn fnma(a: Eight, b: Eight, c: Eight) -> Eight {
        each(|i| c[i] - a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn activate(value: Eight, slope: Eight) -> Eight {
        each(|i| super::super::activate(value[i], slope[i]))
    }

    #[inline(always)]
    unsafe fn max(a: Eight, b: Eight) -> Eight {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    unsafe fn splat_pair(from: *const u32) -> Eight {
        [f32::from_bits(unsafe { from.read() }); 8]
    }

    #[inline(always)]
    unsafe fn dot_pairs(sum: Eight, a: Eight, b: Eight) -> Eight {
        each(|i| {
            let (a, b) = (pair(a[i]), pair(b[i]));
            a[1] * b[1] + (a[0] * b[0] + sum[i])
        })
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, value: Eight) {
        let rounded: [u16; 8] = std::array::from_fn(|i| bf16::from_f32(value[i]).to_bits());
        unsafe { to.cast::<[u16; 8]>().write_unaligned(rounded) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Eight {
        let stored = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        each(|i| bf16::from_bits(stored[i]).to_f32())
    }
}
