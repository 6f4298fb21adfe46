//! Windows of a map times packed weights: what the forward pass and the gradient of an input have in common.
//!
//! The same inner loop as the networks that only run, but windows may have different heights and widths, and outputs may
//! go to every other pixel: a convolution with a stride has as many kinds of input pixels as its stride squared, each with
//! taps of its own.

use std::sync::Arc;

use candle_core::Result;
use rayon::prelude::*;

use crate::kernel::crew::in_parallel;
use crate::kernel::isa::Isa;
use crate::kernel::lanes::{Lanes, Work, on};
use crate::kernel::map::{Map, Pool};
use crate::kernel::tile::{PANEL, Sums, TILE, Window, tile};

/// Weights of a panel, in words, beyond which all pixels pass by one panel before the next is read.
const LARGE: usize = 150 << 10;
/// Input channels whose weights are packed together, so that what is written stays in the first cache.
const TOGETHER: usize = 8;

/// Weights of a window: for each panel of outputs, for each row, column and input, [`PANEL`] words.
pub(super) struct Panels {
    words: Map<f32>,
    rows: usize,
    columns: usize,
    input: usize,
    output: usize,
}

impl Panels {
    /// Packs what `tap` gives for an output, an input, a row and a column.
    pub(super) fn pack(
        pool: &Arc<Pool>,
        [rows, columns, input, output]: [usize; 4],
        tap: impl Fn(usize, usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        let size = rows * columns * input * PANEL;
        let mut words = pool.map::<f32>([1, 1, 1, output.div_ceil(PANEL) * size], 0);
        words.values_mut().par_chunks_exact_mut(size).enumerate().for_each(|(panel, words)| {
            let lanes = PANEL.min(output - panel * PANEL);
            if lanes < PANEL {
                words.fill(0.0);
            }
            for first in (0..input).step_by(TOGETHER) {
                for lane in 0..lanes {
                    for of in first..input.min(first + TOGETHER) {
                        for row in 0..rows {
                            for column in 0..columns {
                                words[((row * columns + column) * input + of) * PANEL + lane] =
                                    tap(panel * PANEL + lane, of, row, column);
                            }
                        }
                    }
                }
            }
        });
        Self { words, rows, columns, input, output }
    }
}

/// Windows of `x` that begin at `corner`, counted from the corner of its frame, and then every `stride` pixels.
#[derive(Clone, Copy)]
pub(super) struct Windows<'a> {
    pub(super) x: &'a Map<f32>,
    pub(super) corner: [usize; 2],
    pub(super) stride: usize,
    /// Rows and columns of windows in an image.
    pub(super) grid: [usize; 2],
}

/// Which pixels of a map the sums go to: `first` and then every `stride`-th in both directions.
#[derive(Clone, Copy)]
pub(super) struct Goal {
    pub(super) first: [usize; 2],
    pub(super) stride: usize,
}

/// Where a map without a frame is written by several threads.
#[derive(Clone, Copy)]
struct Shared {
    start: *mut f32,
    image: usize,
    row: usize,
    pixel: usize,
}

// SAFETY: every job writes pixels and outputs of its own, and nobody reads before all are done.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Writes the sums of all windows to a map.
pub(super) fn multiply(isa: Isa, windows: Windows, panels: &Panels, goal: Goal, to: &mut Map<f32>) -> Result<()> {
    let Windows { x, corner, stride, grid } = windows;
    if grid.contains(&0) || x.images == 0 {
        return Ok(());
    }
    let reach = |axis: usize, taps: usize| corner[axis] + (grid[axis] - 1) * stride + taps;
    let [images, height, width, outputs] = to.shape();
    let last = |axis: usize| goal.first[axis] + (grid[axis] - 1) * goal.stride;
    let fits = reach(0, panels.rows) <= x.rows()
        && reach(1, panels.columns) <= x.width + 2 * x.frame
        && (x.channels, x.images) == (panels.input, images)
        && last(0) < height
        && last(1) < width
        && outputs == panels.output
        && to.frame == 0;
    if !fits {
        candle_core::bail!("windows of {:?} do not fit an output of {:?}", x.shape(), to.shape())
    }
    let pitch = to.pitch();
    let first = to.at(0, goal.first[0], goal.first[1]);
    let to = Shared {
        start: to.values_mut().as_mut_ptr().wrapping_add(first),
        image: height * pitch,
        row: goal.stride * pitch,
        pixel: goal.stride * outputs,
    };
    let tiles = (images * grid[0] * grid[1]).div_ceil(TILE);
    let by_panel = panels.rows * panels.columns * panels.input * PANEL > LARGE;
    let all = All { windows, panels, to, tiles, by_panel };
    in_parallel(tiles * outputs.div_ceil(PANEL), |first, end| on(isa, Jobs { all: &all, first, end }));
    Ok(())
}

/// All windows.
struct All<'a> {
    windows: Windows<'a>,
    panels: &'a Panels,
    to: Shared,
    tiles: usize,
    by_panel: bool,
}

/// Some of the work: a job is one tile of windows by one panel of outputs.
struct Jobs<'a> {
    all: &'a All<'a>,
    first: usize,
    end: usize,
}

/// Where the windows of a tile begin and where their sums go.
struct Pixels {
    from: [*const u32; TILE],
    to: [*mut f32; TILE],
    count: usize,
}

impl All<'_> {
    #[inline(always)]
    fn pixels(&self, tile: usize) -> Pixels {
        let Windows { x, corner, stride, grid: [rows, columns] } = self.windows;
        let first = tile * TILE;
        let count = TILE.min(x.images * rows * columns - first);
        let mut at = [first / columns / rows, first / columns % rows, first % columns];
        let mut pixels = Pixels { from: [std::ptr::null(); TILE], to: [std::ptr::null_mut(); TILE], count };
        for index in 0..count {
            let [image, row, column] = at;
            let from = x.at(image, corner[0] + row * stride, corner[1] + column * stride);
            pixels.from[index] = x.start().wrapping_add(from).cast();
            let to = image * self.to.image + row * self.to.row + column * self.to.pixel;
            pixels.to[index] = self.to.start.wrapping_add(to);
            at[2] += 1;
            if at[2] == columns {
                at = if row + 1 < rows { [image, row + 1, 0] } else { [image + 1, 0, 0] };
            }
        }
        // The last one stands in for those that are missing.
        let last = pixels.from[count - 1];
        pixels.from[count..].fill(last);
        pixels
    }
}

impl Work for Jobs<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { all, first, end } = self;
        let Panels { words, rows, columns, input, output } = all.panels;
        let depth = columns * input;
        let window = Window { rows: *rows, pitch: all.windows.x.pitch(), depth };
        let count = output.div_ceil(PANEL);
        let mut sums = Sums([0.0; TILE * PANEL]);
        let mut pixels = None;
        for job in first..end {
            let (panel, tile_at) =
                if all.by_panel { (job / all.tiles, job % all.tiles) } else { (job % count, job / count) };
            let pixels = match &mut pixels {
                Some((at, pixels)) if *at == tile_at => pixels,
                other => &mut other.insert((tile_at, all.pixels(tile_at))).1,
            };
            let weight = words.start().cast::<u32>().wrapping_add(panel * rows * depth * PANEL);
            let outputs = PANEL.min(output - panel * PANEL);
            // SAFETY: `multiply` has checked that windows and outputs lie in their maps; the panel has `rows * depth`
            // rows of words; this job alone writes these outputs of these pixels.
            unsafe {
                tile::<L, f32>(&pixels.from, [pixels.count, outputs], window, weight, &mut sums);
                for (index, to) in pixels.to[..pixels.count].iter().enumerate() {
                    let (from, to) = (sums.0.as_ptr().add(index * PANEL), to.add(panel * PANEL));
                    let mut done = 0;
                    while done + L::WIDTH <= outputs {
                        L::store(to.add(done), L::load(from.add(done)));
                        done += L::WIDTH;
                    }
                    std::ptr::copy_nonoverlapping(from.add(done), to.add(done), outputs - done);
                }
            }
        }
    }
}
