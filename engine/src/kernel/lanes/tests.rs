//! Each instruction set against plain arithmetic.

use half::bf16;

use super::*;

/// Values with everything that is special about floats.
fn values() -> Vec<f32> {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f32::NAN,
        -f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MIN_POSITIVE,
        1e-40,
        -1e-42,
        f32::MAX,
        f32::MIN,
        1.003_906_3,
        1.011_718_8,
        3.389_531_4e38,
    ];
    let spread = (0u32..240).map(|i| f32::from_bits(i.wrapping_mul(0x9e37_79b1)));
    special.into_iter().chain(spread).collect()
}

/// Applies an operation of two registers to all values.
struct Each<'a> {
    a: &'a [f32],
    b: &'a [f32],
    to: &'a mut [f32],
    operation: usize,
}

impl Work for Each<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for at in (0..self.a.len()).step_by(L::WIDTH) {
            // SAFETY: the slices are of one length, a multiple of sixteen.
            unsafe {
                let (a, b) = (L::load(self.a.as_ptr().add(at)), L::load(self.b.as_ptr().add(at)));
                let value = match self.operation {
                    0 => L::add(a, b),
                    1 => L::sub(a, b),
                    2 => L::mul(a, b),
                    3 => L::fma(a, b, a),
                    4 => L::fnma(a, b, a),
                    5 => L::activate(a, b),
                    6 => L::max(a, b),
                    _ => {
                        let mut rounded = [0u16; 16];
                        L::store_bf16(rounded.as_mut_ptr(), a);
                        L::load_bf16(rounded.as_ptr())
                    }
                };
                L::store(self.to.as_mut_ptr().add(at), value);
            }
        }
    }
}

fn expected(operation: usize, a: f32, b: f32) -> f32 {
    match operation {
        0 => a + b,
        1 => a - b,
        2 => a * b,
        3 => a * b + a,
        4 => a - a * b,
        5 => crate::kernel::activate(a, b),
        6 => {
            if a > b {
                a
            } else {
                b
            }
        }
        _ => bf16::from_f32(a).to_f32(),
    }
}

#[test]
fn every_register_computes_alike() {
    let a = values();
    let b: Vec<f32> = a.iter().rev().copied().collect();
    assert!(a.len().is_multiple_of(16));
    for isa in Isa::available() {
        for operation in 0..8 {
            let mut found = vec![0f32; a.len()];
            on(*isa, Each { a: &a, b: &b, to: &mut found, operation });
            for ((found, a), b) in found.iter().zip(&a).zip(&b) {
                let expected = expected(operation, *a, *b);
                // A fused product is rounded once, and may overflow or cancel where two steps do not.
                let fused = (3..5).contains(&operation);
                let tiny = f32::from_bits(0x0080_0000);
                let close = (found - expected).abs() <= expected.abs() * 1e-6 + if operation == 7 { tiny } else { 0.0 };
                let exact =
                    f64::from(*a).mul_add(if operation == 4 { -f64::from(*b) } else { f64::from(*b) }, f64::from(*a));
                let alike = found.to_bits() == expected.to_bits()
                    || close
                    || (found.is_nan() && expected.is_nan())
                    || (fused && (f64::from(*found) - exact).abs() <= exact.abs() * 1e-6)
                    || (fused && !expected.is_finite());
                assert!(alike, "{} {operation}: {a:e} {b:e} gives {found:e}, not {expected:e}", isa.name());
            }
        }
    }
}

/// One pair of bf16 values in a register of pairs, times others.
struct Dot<'a> {
    pair: u32,
    others: &'a [u32; 16],
    to: &'a mut [f32; 16],
}

impl Work for Dot<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for at in (0..16).step_by(L::WIDTH) {
            // SAFETY: both arrays have sixteen values.
            unsafe {
                let others = L::load(self.others.as_ptr().add(at).cast());
                let sum = L::dot_pairs(L::splat(0.5), others, L::splat_pair(&raw const self.pair));
                L::store(self.to.as_mut_ptr().add(at), sum);
            }
        }
    }
}

#[test]
fn pairs_are_multiplied_and_added() {
    let half = |value: f32| u32::from(bf16::from_f32(value).to_bits());
    let pair = |low, high| half(low) | half(high) << 16;
    let others: [u32; 16] = std::array::from_fn(|i| pair(i as f32 - 8.0, 0.25 * i as f32));
    for isa in Isa::available() {
        let mut to = [0f32; 16];
        on(*isa, Dot { pair: pair(3.0, -2.0), others: &others, to: &mut to });
        let expected: [f32; 16] = std::array::from_fn(|i| 0.5 + 3.0 * (i as f32 - 8.0) - 0.5 * i as f32);
        assert_eq!(to, expected, "{}", isa.name());
    }
}
