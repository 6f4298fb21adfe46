//! The transforms of F(4, 3) and F(2, 3) along one axis, over registers.
//!
//! Interpolation points 0, 1, -1, 2, -2 and infinity (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks",
//! 2016); F(2, 3) uses the first three and infinity.

use crate::kernel::lanes::Lanes;

/// Values along one axis of a transformed tile, at most.
pub(super) const MOST: usize = 6;

/// A kernel of three taps at the points: `M + 2` values.
pub(super) fn of_kernel<const M: usize>(taps: [f64; 3]) -> [f64; MOST] {
    let [a, b, c] = taps;
    if M == 2 {
        return [a, (a + b + c) / 2.0, (a - b + c) / 2.0, c, 0.0, 0.0];
    }
    let (sum, difference) = ((a + c) / 6.0, b / 6.0);
    let (far, near) = (a / 24.0 + c / 6.0, b / 12.0);
    [a / 4.0, -sum - difference, difference - sum, far + near, far - near, c]
}

/// `M + 2` input values at the points.
///
/// # Safety
///
/// As for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn of_input<L: Lanes, const M: usize>(d: [L::F; MOST]) -> [L::F; MOST] {
    // SAFETY: passed on to the caller.
    unsafe {
        if M == 2 {
            let [zero, ..] = d;
            return [L::sub(d[0], d[2]), L::add(d[1], d[2]), L::sub(d[2], d[1]), L::sub(d[1], d[3]), zero, zero];
        }
        let (two, four, five) = (L::splat(2.0), L::splat(4.0), L::splat(5.0));
        let (even, odd) = (L::fnma(four, d[2], d[4]), L::fnma(four, d[1], d[3]));
        let (far, step) = (L::sub(d[4], d[2]), L::mul(two, L::sub(d[3], d[1])));
        [
            L::fma(four, d[0], L::fnma(five, d[2], d[4])),
            L::add(even, odd),
            L::sub(even, odd),
            L::add(far, step),
            L::sub(far, step),
            L::fma(four, d[1], L::fnma(five, d[3], d[5])),
        ]
    }
}

/// `M` outputs from products at the points.
///
/// # Safety
///
/// As for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn to_output<L: Lanes, const M: usize>(m: [L::F; MOST]) -> [L::F; 4] {
    // SAFETY: passed on to the caller.
    unsafe {
        let (sum, difference) = (L::add(m[1], m[2]), L::sub(m[1], m[2]));
        if M == 2 {
            let [zero, ..] = m;
            return [L::add(m[0], sum), L::sub(difference, m[3]), zero, zero];
        }
        let (far, step) = (L::add(m[3], m[4]), L::sub(m[3], m[4]));
        let (two, four, eight) = (L::splat(2.0), L::splat(4.0), L::splat(8.0));
        [
            L::add(m[0], L::add(sum, far)),
            L::fma(two, step, difference),
            L::fma(four, far, sum),
            L::add(L::fma(eight, step, difference), m[5]),
        ]
    }
}
