//! 3x3 convolutions with stride 1 by Winograd's minimal filtering: F(4x4, 3x3) in f32 needs a quarter of the
//! multiplications, F(2x2, 3x3) in bf16 four ninths.
//!
//! Tiles of the input are transformed, multiplied point by point with transformed weights (36 or 16 matrix products over
//! the channels, with the same inner loop as the direct convolution) and transformed back. Weights take four times (16/9
//! times) their usual memory.

mod tiled;
mod transform;

use std::marker::PhantomData;

use candle_core::Result;
use rayon::prelude::*;

use super::convolution::{Given, Other, Pack, Places, Target};
use super::crew::{each, threads};
use super::isa::Isa;
use super::lanes::{Lanes, on};
use super::map::{Bf16, Lines, Map};
use super::tile::{PANEL, TILE};
use tiled::{Block, Inputs, Products, SCRATCH, Shared, Tiled, Transformed};
use transform::{MOST, of_kernel};

/// Groups of [`TILE`] tiles that one job transforms, at most; the products of all of them are kept at a time.
const GROUPS: usize = 4;

/// Values that Winograd's products are made of.
pub(crate) trait Points: Pack {
    /// Rows and columns of outputs of a tile.
    const SIDE: usize;

    /// Loads a register of a map.
    ///
    /// # Safety
    ///
    /// As for [`Lanes`].
    unsafe fn load<L: Lanes>(from: *const Self) -> L::F;

    /// Stores a register.
    ///
    /// # Safety
    ///
    /// As for [`Lanes`].
    unsafe fn store<L: Lanes>(to: *mut Self, value: L::F);
}

impl Points for f32 {
    const SIDE: usize = 4;

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L::F {
        // SAFETY: passed on to the caller.
        unsafe { L::load(from) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(to: *mut Self, value: L::F) {
        // SAFETY: passed on to the caller.
        unsafe { L::store(to, value) }
    }
}

// Larger tiles would need more digits than bf16 has.
impl Points for Bf16 {
    const SIDE: usize = 2;

    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self) -> L::F {
        // SAFETY: passed on to the caller.
        unsafe { L::load_bf16(from.cast()) }
    }

    #[inline(always)]
    unsafe fn store<L: Lanes>(to: *mut Self, value: L::F) {
        // SAFETY: passed on to the caller.
        unsafe { L::store_bf16(to.cast(), value) }
    }
}

/// A 3x3 convolution with stride 1 and one zero around, on maps of `V`.
#[derive(Debug)]
pub(crate) struct Winograd<V: Points> {
    input: usize,
    output: usize,
    /// For each panel of outputs, for each point, for each word of the input channels, [`PANEL`] words.
    panels: Lines,
    biases: Vec<f32>,
    slopes: Option<Vec<f32>>,
    value: PhantomData<V>,
}

impl<V: Points> Winograd<V> {
    const ACROSS: usize = V::SIDE + 2;
    const POINTS: usize = Self::ACROSS * Self::ACROSS;

    /// Whether a convolution can be done this way: channels in whole registers and panels.
    pub(crate) fn fits(given: &Given) -> bool {
        let Given { kernel, stride, padding, input, output, .. } = *given;
        (kernel, stride, padding) == (3, 1, [1, 1]) && input.is_multiple_of(16) && output.is_multiple_of(PANEL)
    }

    /// Transforms and packs the weights, in double precision up to the last rounding.
    pub(crate) fn new(given: &Given) -> Result<Self> {
        let Given { input, output, .. } = *given;
        if !Self::fits(given) || given.weight.len() != input * output * 9 || given.bias.len() != output {
            candle_core::bail!("a convolution of {input} to {output} channels does not fit")
        }
        let groups = input / V::PER_WORD;
        let size = Self::POINTS * groups * PANEL;
        let mut panels = Lines::words(output * Self::POINTS * groups);
        panels.as_mut_slice().par_chunks_exact_mut(size).enumerate().for_each(|(panel, words)| {
            for of in 0..PANEL {
                for group in 0..groups {
                    let mut points = [[0f32; 2]; MOST * MOST];
                    for offset in 0..V::PER_WORD {
                        let channel = group * V::PER_WORD + offset;
                        let tap = |row, column| f64::from(given.tap(panel * PANEL + of, channel, row, column));
                        for (point, value) in transformed::<V>(tap).into_iter().enumerate() {
                            points[point][offset] = value;
                        }
                    }
                    for (point, values) in points[..Self::POINTS].iter().enumerate() {
                        words[(point * groups + group) * PANEL + of] = V::pack(values);
                    }
                }
            }
        });
        Ok(Self { input, output, panels, biases: given.biases(), slopes: given.padded_slopes(), value: PhantomData })
    }

    /// Convolves a map with a frame.
    pub(crate) fn forward(&self, isa: Isa, x: &Map<V>, other: Option<Other>, to: Target) -> Result<()> {
        let [images, height, width, channels] = x.shape();
        if channels != self.input || x.frame != 1 {
            candle_core::bail!("({height}, {width}, {channels}) in a frame of {} does not fit", x.frame)
        }
        let places = Places::new([images, height, width, self.output], other, to)?;
        let across = [height.div_ceil(V::SIDE), width.div_ceil(V::SIDE)];
        let tiles = images * across[0] * across[1];
        let convolution = Tiled { winograd: self, x, places, across };
        let (threads, panels) = (threads(), self.output / PANEL);
        // Wide layers have little to keep in the cache beside the weights; the others take more tiles at a time.
        let block = TILE * if self.input <= 64 { GROUPS } else { 2 };
        let blocks = tiles.div_ceil(block);
        if threads == 1 || blocks >= 2 * threads {
            // As many for each thread, of whole groups.
            let (blocks, groups) = (blocks.next_multiple_of(threads), tiles.div_ceil(TILE));
            let start = |index: usize| (index * groups / blocks * TILE).min(tiles);
            each(blocks, |index| {
                let (first, end) = (start(index), start(index + 1));
                on(isa, Block { convolution: &convolution, first, count: end - first });
            });
            return Ok(());
        }
        // Too few tiles for all threads: they share the transformed input and divide the panels.
        let step = convolution.step(tiles);
        let mut transformed = SCRATCH.take();
        transformed.reserve(Self::POINTS * step);
        let into = Transformed { words: Shared(transformed.as_mut_ptr()), step };
        let chunk = tiles.div_ceil(threads * 2).max(4);
        each(tiles.div_ceil(chunk), |part| {
            let (first, end) = (part * chunk, tiles.min((part + 1) * chunk));
            on(isa, Inputs { convolution: &convolution, into, first, end });
        });
        each(panels * blocks, |job| {
            let (panel, first) = (job / blocks, job % blocks * block);
            let count = block.min(tiles - first);
            on(isa, Products { convolution: &convolution, from: into, offset: first, first, count, panel });
        });
        SCRATCH.set(transformed);
        Ok(())
    }
}

/// A kernel at all points, row by row.
fn transformed<V: Points>(tap: impl Fn(usize, usize) -> f64) -> Vec<f32> {
    let along = |taps| if V::SIDE == 2 { of_kernel::<2>(taps) } else { of_kernel::<4>(taps) };
    let across = V::SIDE + 2;
    // Columns first, then rows.
    let columns = [0, 1, 2].map(|column| along([tap(0, column), tap(1, column), tap(2, column)]));
    let rows = (0..across).map(|row| along([columns[0][row], columns[1][row], columns[2][row]]));
    rows.flat_map(|row| row.into_iter().take(across)).map(|value| value as f32).collect()
}
