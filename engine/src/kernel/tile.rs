//! The inner loop of all convolutions: up to fourteen pixels by thirty-two outputs, summed in registers.

use super::lanes::Lanes;
use super::map::{Bf16, Value};

/// Outputs whose weights lie side by side.
pub(crate) const PANEL: usize = 32;
/// Pixels of a tile. With two registers of sixteen outputs each that is 28 of the 32 registers of AVX-512.
pub(crate) const TILE: usize = 14;

/// How far ahead of their use weights are asked for, in words.
const AHEAD: usize = 1024;

/// Sums of a tile: [`PANEL`] values for each pixel.
#[repr(C, align(64))]
pub(crate) struct Sums(pub(crate) [f32; TILE * PANEL]);

/// How the values of a map are multiplied.
pub(crate) trait Factor: Value {
    /// A word of the map in all places of a register.
    ///
    /// # Safety
    ///
    /// As for [`Lanes`].
    unsafe fn spread<L: Lanes>(from: *const u32) -> L::F;

    /// Adds products of words.
    ///
    /// # Safety
    ///
    /// As for [`Lanes`].
    unsafe fn multiply<L: Lanes>(weight: L::F, value: L::F, sum: L::F) -> L::F;
}

impl Factor for f32 {
    #[inline(always)]
    unsafe fn spread<L: Lanes>(from: *const u32) -> L::F {
        // SAFETY: passed on to the caller.
        unsafe { L::splat(from.cast::<f32>().read()) }
    }

    #[inline(always)]
    unsafe fn multiply<L: Lanes>(weight: L::F, value: L::F, sum: L::F) -> L::F {
        // SAFETY: passed on to the caller.
        unsafe { L::fma(weight, value, sum) }
    }
}

impl Factor for Bf16 {
    #[inline(always)]
    unsafe fn spread<L: Lanes>(from: *const u32) -> L::F {
        // SAFETY: passed on to the caller.
        unsafe { L::splat_pair(from) }
    }

    #[inline(always)]
    unsafe fn multiply<L: Lanes>(weight: L::F, value: L::F, sum: L::F) -> L::F {
        // SAFETY: passed on to the caller.
        unsafe { L::dot_pairs(sum, weight, value) }
    }
}

/// What a tile reads: `rows` stretches of `depth` words, `pitch` words apart, from each pixel's place on.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    pub(crate) rows: usize,
    pub(crate) pitch: usize,
    pub(crate) depth: usize,
}

/// Sums the first pixels (1 to [`TILE`]) by the first outputs (1 to [`PANEL`]) of a panel of weights, `rows * depth` rows of
/// [`PANEL`] words, into `sums`. All of `pixels` must be readable: sums of more of them may be made, and of more outputs, and
/// are of no meaning.
///
/// # Safety
///
/// As for [`Lanes`]; every pixel's window and the panel are readable.
#[inline(always)]
pub(crate) unsafe fn tile<L: Lanes, V: Factor>(
    pixels: &[*const u32; TILE],
    [count, outputs]: [usize; 2],
    window: Window,
    weight: *const u32,
    sums: &mut Sums,
) {
    let sums = sums.0.as_mut_ptr();
    // SAFETY: the caller's promise; `sums` has room for all pixels.
    unsafe {
        if L::WIDE {
            let pixels = pixels.as_ptr();
            // The first register alone where the second would be for no output.
            if outputs <= L::WIDTH {
                match count {
                    1 => block::<L, V, 1, 1, 2>(pixels, window, weight, sums),
                    2..=4 => block::<L, V, 4, 1, 2>(pixels, window, weight, sums),
                    _ => block::<L, V, TILE, 1, 2>(pixels, window, weight, sums),
                };
                return;
            }
            match count {
                1 => block::<L, V, 1, 2, 2>(pixels, window, weight, sums),
                2 => block::<L, V, 2, 2, 2>(pixels, window, weight, sums),
                3 | 4 => block::<L, V, 4, 2, 2>(pixels, window, weight, sums),
                5..=8 => block::<L, V, 8, 2, 2>(pixels, window, weight, sums),
                _ => block::<L, V, TILE, 2, 2>(pixels, window, weight, sums),
            };
            return;
        }
        for part in (0..outputs).step_by(2 * L::WIDTH) {
            let mut first = 0;
            while first < count {
                let (pixels, weight) = (pixels.as_ptr().add(first), weight.add(part));
                let sums = sums.add(first * PANEL + part);
                // Ten sums keep both multipliers busy and leave registers for weights. What the first block has read, the
                // others find in the first cache.
                first += match count - first {
                    1 => block::<L, V, 1, 2, 0>(pixels, window, weight, sums),
                    2 => block::<L, V, 2, 2, 0>(pixels, window, weight, sums),
                    3 | 6 => block::<L, V, 3, 2, 0>(pixels, window, weight, sums),
                    4 | 7 | 8 => block::<L, V, 4, 2, 0>(pixels, window, weight, sums),
                    _ if first == 0 => block::<L, V, 5, 2, 1>(pixels, window, weight, sums),
                    _ => block::<L, V, 5, 2, 0>(pixels, window, weight, sums),
                };
            }
        }
    }
}

/// `P` pixels by `R` registers of outputs. Asks ahead for `A` cache lines of each row of weights. Gives `P`.
///
/// # Safety
///
/// As for [`tile`].
#[inline(always)]
unsafe fn block<L: Lanes, V: Factor, const P: usize, const R: usize, const A: usize>(
    pixels: *const *const u32,
    window: Window,
    mut weight: *const u32,
    sums: *mut f32,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[L::splat(0.0); R]; P];
        let mut weights = [L::splat(0.0); R];
        let pixels: [*const u32; P] = pixels.cast::<[*const u32; P]>().read();
        for row in 0..window.rows {
            let from = row * window.pitch;
            for at in from..from + window.depth {
                for r in 0..R {
                    weights[r] = L::load(weight.add(r * L::WIDTH).cast());
                }
                // The machine's own guesses end at a page, and large weights come from memory.
                for line in 0..A {
                    L::ask_for(weight.wrapping_add(AHEAD + line * 16));
                }
                weight = weight.add(PANEL);
                for p in 0..P {
                    let value = V::spread::<L>(pixels[p].add(at));
                    for r in 0..R {
                        acc[p][r] = V::multiply::<L>(weights[r], value, acc[p][r]);
                    }
                }
            }
        }
        for p in 0..P {
            for r in 0..R {
                L::store(sums.add(p * PANEL + r * L::WIDTH), acc[p][r]);
            }
        }
    }
    P
}
