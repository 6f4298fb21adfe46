//! The gradient of a convolution's weights: a sum of outer products over all pixels, of the gradient of the outputs and of
//! the stretch of input that each kernel row sees.
//!
//! Of a panel of outputs and a kernel row, fourteen values of the stretch at a time are summed in registers over a piece of
//! pixels. The gradients of the piece lie side by side, copied once for all stretches. Pieces are added one after the other,
//! by whichever thread has the panel, so that sums do not depend on who made them.

use rayon::prelude::*;

use super::PIECE;
use crate::kernel::isa::Isa;
use crate::kernel::lanes::{Lanes, Work, on};
use crate::kernel::map::Map;
use crate::kernel::tile::PANEL;

/// Values of a stretch that are summed at once on machines with many registers, and on others.
const WIDE: usize = 14;
const NARROW: usize = 5;

/// Gradients of a piece: [`PANEL`] outputs for each pixel.
#[repr(C, align(64))]
struct Piece([f32; PIECE * PANEL]);

/// A convolution's input and the gradient of its output.
#[derive(Clone, Copy)]
pub(super) struct Outer<'a> {
    pub(super) x: &'a Map<f32>,
    pub(super) gradient: &'a Map<f32>,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    /// Where the first window begins, from the corner of the input's frame.
    pub(super) inset: usize,
}

/// The sums of some kernel rows and one panel: for each row, for each value of its stretch, [`PANEL`] words.
pub(super) struct Part {
    pub(super) panel: usize,
    pub(super) rows: std::ops::Range<usize>,
    pub(super) sums: Vec<f32>,
    /// Values of a stretch, filled up.
    pub(super) step: usize,
}

impl Outer<'_> {
    /// All sums, panel by panel, the kernel rows of a panel in one part or one for each.
    pub(super) fn parts(&self, isa: Isa, threads: usize) -> Vec<Part> {
        let panels = self.gradient.channels.div_ceil(PANEL);
        // Input is read once for each part: as few as keep all threads at work.
        let apart = panels < 4 * threads && !panels.is_multiple_of(threads);
        let parts = if apart { self.kernel } else { 1 };
        let step = self.kernel * self.x.channels + WIDE;
        (0..panels * parts)
            .into_par_iter()
            .with_max_len(1)
            .map(|part| {
                let (panel, part) = (part / parts, part % parts);
                let rows = part * self.kernel / parts..(part + 1) * self.kernel / parts;
                let mut sums = vec![0f32; rows.len() * step * PANEL];
                on(isa, Share { outer: self, panel, rows: rows.clone(), step, sums: &mut sums });
                Part { panel, rows, sums, step }
            })
            .collect()
    }
}

/// One part of the work.
struct Share<'a> {
    outer: &'a Outer<'a>,
    panel: usize,
    rows: std::ops::Range<usize>,
    step: usize,
    sums: &'a mut [f32],
}

impl Work for Share<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { outer: Outer { x, gradient, kernel, stride, inset }, panel, rows, step, sums } = self;
        let stretch = kernel * x.channels;
        let [images, height, width, outputs] = gradient.shape();
        let (from, lanes) = (panel * PANEL, PANEL.min(outputs - panel * PANEL));
        let mut piece = Piece([0.0; PIECE * PANEL]);
        let mut places = [0; PIECE];
        let pixels = images * height * width;
        let at_once = if L::WIDE { WIDE } else { NARROW };
        for first in (0..pixels).step_by(PIECE) {
            let count = PIECE.min(pixels - first);
            let mut at = [first / width / height, first / width % height, first % width];
            for index in 0..count {
                let [image, row, column] = at;
                let read = gradient.at(image, row + gradient.frame, column + gradient.frame) + from;
                piece.0[index * PANEL..][..lanes].copy_from_slice(&gradient.values()[read..read + lanes]);
                places[index] = x.at(image, row * stride + inset, column * stride + inset);
                at[2] += 1;
                if at[2] == width {
                    at = if row + 1 < height { [image, row + 1, 0] } else { [image + 1, 0, 0] };
                }
            }
            for (index, row) in rows.clone().enumerate() {
                let x = x.start().wrapping_add(row * x.pitch());
                for group in (0..stretch).step_by(at_once) {
                    let sums = &mut sums[(index * step + group) * PANEL..][..at_once * PANEL];
                    // SAFETY: the windows lie in the map (checked by the caller of `parts`), and behind the last one
                    // there is a register's worth of memory for what a group reads beyond its stretch; `sums` and the
                    // piece hold what is read and written.
                    unsafe {
                        let (x, sums) = (x.wrapping_add(group), sums.as_mut_ptr());
                        if L::WIDE {
                            block::<L, WIDE>(x, &places[..count], piece.0.as_ptr(), sums);
                        } else {
                            for part in (0..PANEL).step_by(2 * L::WIDTH) {
                                block::<L, NARROW>(x, &places[..count], piece.0.as_ptr().add(part), sums.add(part));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Adds the products of `P` values of the input by two registers of gradients, over some pixels.
///
/// # Safety
///
/// As for [`Lanes`]; all places are readable from `x` on, `gradient` has a row of [`PANEL`] for each, and `sums` one for
/// each of the `P` values.
#[inline(always)]
unsafe fn block<L: Lanes, const P: usize>(x: *const f32, places: &[usize], gradient: *const f32, sums: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut products = [[L::splat(0.0); 2]; P];
        for (index, place) in places.iter().enumerate() {
            let gradient = gradient.add(index * PANEL);
            let gradients = [L::load(gradient), L::load(gradient.add(L::WIDTH))];
            let x = x.add(*place);
            for p in 0..P {
                let value = L::splat(x.add(p).read());
                for r in 0..2 {
                    products[p][r] = L::fma(gradients[r], value, products[p][r]);
                }
            }
        }
        for p in 0..P {
            for r in 0..2 {
                let sum = sums.add(p * PANEL + r * L::WIDTH);
                L::store(sum, L::add(L::load(sum), products[p][r]));
            }
        }
    }
}
