//! 3x3 convolutions with stride 1 by Winograd's minimal filtering: F(4x4, 3x3) in f32 needs a quarter of the
//! multiplications, F(2x2, 3x3) in bf16 four ninths.
//!
//! Tiles of the input are transformed, multiplied point by point with transformed weights (36 or 16 matrix products over
//! the channels, with the same inner loop as the direct convolution) and transformed back. Weights take four times (16/9
//! times) their usual memory.

mod transform;

use std::cell::RefCell;
use std::marker::PhantomData;

use candle_core::Result;
use rayon::prelude::*;

use super::convolution::{Border, Given, Other, Pack, Places, Target, in_parallel};
use super::isa::Isa;
use super::lanes::{Lanes, Work, on};
use super::map::{Bf16, Lines, Map};
use super::tile::{PANEL, Sums, TILE, Window, tile};
use transform::{MOST, of_input, of_kernel, to_output};

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
        let convolution = Tiled { winograd: self, x, places, across, tiles };
        let (threads, panels) = (rayon::current_num_threads(), self.output / PANEL);
        // Wide layers have little to keep in the cache beside the weights; the others take more tiles at a time.
        let block = TILE * if self.input <= 64 { GROUPS } else { 2 };
        let blocks = tiles.div_ceil(block);
        if threads == 1 || blocks >= 2 * threads {
            in_parallel(blocks, |first, end| on(isa, Blocks { convolution: &convolution, block, first, end }));
            return Ok(());
        }
        // Too few tiles for all threads: they share the transformed input and divide the panels.
        let step = convolution.step(tiles);
        let mut transformed = Lines::words(Self::POINTS * step);
        let into = Transformed { words: Shared(transformed.as_mut_ptr()), step };
        let chunk = tiles.div_ceil(threads * 2).max(4);
        (0..tiles.div_ceil(chunk)).into_par_iter().with_max_len(1).for_each(|part| {
            let (first, end) = (part * chunk, tiles.min((part + 1) * chunk));
            on(isa, Inputs { convolution: &convolution, into, first, end });
        });
        (0..panels * blocks).into_par_iter().with_max_len(1).for_each(|job| {
            let (panel, first) = (job / blocks, job % blocks * block);
            let count = block.min(tiles - first);
            on(isa, Products { convolution: &convolution, from: into, offset: first, first, count, panel });
        });
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

/// One map under way.
struct Tiled<'a, V: Points> {
    winograd: &'a Winograd<V>,
    x: &'a Map<V>,
    places: Places<'a>,
    across: [usize; 2],
    tiles: usize,
}

impl<V: Points> Tiled<'_, V> {
    /// Words of one point of some transformed tiles. Tiles that fill up the last group are read, though never written.
    fn step(&self, tiles: usize) -> usize {
        (tiles + TILE) * self.winograd.input / V::PER_WORD
    }

    /// Image, first row and first column of a tile.
    #[inline(always)]
    fn corner(&self, tile: usize) -> [usize; 3] {
        let [down, right] = self.across;
        [tile / (down * right), tile / right % down * V::SIDE, tile % right * V::SIDE]
    }
}

/// A pointer that threads write disjoint parts through.
#[derive(Clone, Copy)]
struct Shared(*mut u32);

// SAFETY: every job writes tiles of its own, and they are read after all have been written.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Transformed tiles: for each point, tiles of input channels.
#[derive(Clone, Copy)]
struct Transformed {
    words: Shared,
    /// Words from one point to the next.
    step: usize,
}

thread_local! {
    /// Transformed tiles of one job.
    static SCRATCH: RefCell<Lines> = RefCell::default();
    /// Products of one job.
    static PRODUCTS: RefCell<Lines> = RefCell::default();
}

/// Some blocks of tiles from beginning to end.
struct Blocks<'a, V: Points> {
    convolution: &'a Tiled<'a, V>,
    block: usize,
    first: usize,
    end: usize,
}

impl<V: Points> Work for Blocks<'_, V> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { convolution, block, first, end } = self;
        let step = convolution.step(block);
        let mut scratch = SCRATCH.take();
        scratch.reserve(Winograd::<V>::POINTS * step);
        let into = Transformed { words: Shared(scratch.as_mut_ptr()), step };
        for index in first..end {
            let from = index * block;
            let count = block.min(convolution.tiles - from);
            for tile in 0..count {
                // SAFETY: the scratch holds a block, and this thread alone uses it.
                unsafe { transform::<L, V>(convolution, from + tile, into, tile) };
            }
            for panel in 0..convolution.winograd.output / PANEL {
                let products = Products { convolution, from: into, offset: 0, first: from, count, panel };
                // SAFETY: those tiles have just been transformed.
                unsafe { products.run::<L>() };
            }
        }
        SCRATCH.set(scratch);
    }
}

/// The transform of some tiles' inputs.
struct Inputs<'a, V: Points> {
    convolution: &'a Tiled<'a, V>,
    into: Transformed,
    first: usize,
    end: usize,
}

impl<V: Points> Work for Inputs<'_, V> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        for tile in self.first..self.end {
            // SAFETY: `into` holds all tiles, and no other job has these.
            unsafe { transform::<L, V>(self.convolution, tile, self.into, tile) };
        }
    }
}

/// Transforms the input of a tile into place `slot`.
///
/// # Safety
///
/// As for [`Lanes`]; `into` has the place, and nobody else uses it.
#[inline(always)]
unsafe fn transform<L: Lanes, V: Points>(convolution: &Tiled<V>, tile: usize, into: Transformed, slot: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if V::SIDE == 2 {
            transform_side::<L, V, 2>(convolution, tile, into, slot);
        } else {
            transform_side::<L, V, 4>(convolution, tile, into, slot);
        }
    }
}

/// As [`transform`], for tiles of `M` by `M` outputs.
///
/// # Safety
///
/// As for [`transform`].
#[inline(always)]
unsafe fn transform_side<L: Lanes, V: Points, const M: usize>(
    convolution: &Tiled<V>,
    tile: usize,
    into: Transformed,
    slot: usize,
) {
    let x = convolution.x;
    let [image, row, column] = convolution.corner(tile);
    // In the frame, so the tile's own corner is the corner of what its kernels see.
    let corner = x.values().as_ptr().wrapping_add(x.at(image, row, column));
    let (rows, columns) = ((x.height + 2 - row).min(M + 2), (x.width + 2 - column).min(M + 2));
    let (pitch, channels) = (x.pitch(), x.channels);
    let to = into.words.0.cast::<V>().wrapping_add(slot * channels);
    let step = into.step * V::PER_WORD;
    // SAFETY: rows and columns lie in the map with its frame, channels come in whole registers, and the place is the
    // caller's promise.
    unsafe {
        let zero = L::splat(0.0);
        let mut channel = 0;
        while channel < channels {
            let mut half = [[zero; MOST]; MOST];
            for right in 0..M + 2 {
                let mut line = [zero; MOST];
                if right < columns {
                    for down in 0..M + 2 {
                        if down < rows {
                            line[down] = V::load::<L>(corner.add(down * pitch + right * channels + channel));
                        }
                    }
                }
                let line = of_input::<L, M>(line);
                for down in 0..M + 2 {
                    half[down][right] = line[down];
                }
            }
            for down in 0..M + 2 {
                let line = of_input::<L, M>(half[down]);
                for right in 0..M + 2 {
                    V::store::<L>(to.add((down * (M + 2) + right) * step + channel), line[right]);
                }
            }
            channel += L::WIDTH;
        }
    }
}

/// The products of some tiles with a panel, and their way back to the map.
struct Products<'a, V: Points> {
    convolution: &'a Tiled<'a, V>,
    from: Transformed,
    /// Where the first tile lies in `from`.
    offset: usize,
    /// The first tile.
    first: usize,
    count: usize,
    panel: usize,
}

impl<V: Points> Work for Products<'_, V> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let groups = self.convolution.winograd.input / V::PER_WORD;
        let size = Winograd::<V>::POINTS * groups * PANEL;
        let weight = self.convolution.winograd.panels.as_ptr().wrapping_add(self.panel * size);
        let window = Window { rows: 1, pitch: 0, depth: groups };
        // Groups of nearly one size: what fills registers badly costs as much as what fills them.
        let parts = self.count.div_ceil(TILE);
        let part = self.count.div_ceil(parts);
        let mut products = PRODUCTS.take();
        products.reserve(parts * Winograd::<V>::POINTS * TILE * PANEL);
        let sums = products.as_mut_ptr().cast::<Sums>();
        // Point by point, so that the weights of a point are read once for all groups.
        for point in 0..Winograd::<V>::POINTS {
            let weight = weight.wrapping_add(point * groups * PANEL);
            for index in 0..parts {
                let count = part.min(self.count - index * part);
                let from = point * self.from.step + (self.offset + index * part) * groups;
                let first = self.from.words.0.wrapping_add(from).cast_const();
                let pixels = std::array::from_fn(
                    #[inline(always)]
                    |pixel| first.wrapping_add(pixel * groups),
                );
                // SAFETY: `step` leaves room for a whole group beyond the last tile; `products` holds the sums of
                // every group and point, a whole number of cache lines each.
                unsafe {
                    let sums = &mut *sums.add(index * Winograd::<V>::POINTS + point);
                    tile::<L, V>(&pixels, [count, PANEL], window, weight, sums);
                }
            }
        }
        for pixel in 0..self.count {
            let at = self.convolution.corner(self.first + pixel);
            // SAFETY: the caller runs inside of `on`; the sums of this tile have just been made.
            unsafe {
                let sums = sums.add(pixel / part * Winograd::<V>::POINTS).cast_const();
                if V::SIDE == 2 {
                    back::<L, V, 2>(self.convolution, at, self.panel, sums, pixel % part);
                } else {
                    back::<L, V, 4>(self.convolution, at, self.panel, sums, pixel % part);
                }
            }
        }
        PRODUCTS.set(products);
    }
}

/// Transforms the products of one tile and panel back and finishes them.
///
/// # Safety
///
/// As for [`Lanes`]; `sums` holds the products at every point.
#[inline(always)]
unsafe fn back<L: Lanes, V: Points, const M: usize>(
    convolution: &Tiled<V>,
    [image, row, column]: [usize; 3],
    panel: usize,
    sums: *const Sums,
    pixel: usize,
) {
    let Winograd { output, biases, slopes, .. } = convolution.winograd;
    let size = [convolution.x.height, convolution.x.width];
    let with_lead = biases.len() > *output;
    for part in (0..PANEL).step_by(L::WIDTH) {
        // SAFETY: registers of `sums` and outputs are within a panel; pixels outside of the map are left out, and this
        // job alone has this tile and panel.
        unsafe {
            let zero = L::splat(0.0);
            let mut half = [[zero; MOST]; 4];
            for right in 0..M + 2 {
                let mut line = [zero; MOST];
                for down in 0..M + 2 {
                    line[down] = L::load(sums.add(down * (M + 2) + right).cast::<f32>().add(pixel * PANEL + part));
                }
                let line = to_output::<L, M>(line);
                for down in 0..M {
                    half[down][right] = line[down];
                }
            }
            let from = panel * PANEL + part;
            let slopes = slopes.as_ref().map_or(std::ptr::null(), |slopes| slopes.as_ptr().wrapping_add(from));
            for down in 0..M {
                let line = to_output::<L, M>(half[down]);
                for right in 0..M {
                    let [y, x] = [row + down, column + right];
                    if y < size[0] && x < size[1] {
                        let border = if with_lead { Border::of([y, x], 3, 1, size).0 } else { 0 };
                        let bias = biases.as_ptr().wrapping_add(border * output + from);
                        convolution
                            .places
                            .finish(convolution.places.of([image, y, x]), from, bias, slopes)
                            .register::<L>(line[right]);
                    }
                }
            }
        }
    }
}
