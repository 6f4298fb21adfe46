//! The work on the tiles of a map: in, products, out.

use std::cell::RefCell;

use super::transform::{MOST, of_input, to_output};
use super::{Points, Winograd};
use crate::kernel::convolution::{Border, Places};
use crate::kernel::lanes::{Lanes, Work};
use crate::kernel::map::{Lines, Map};
use crate::kernel::tile::{PANEL, Sums, TILE, Window, tile};

/// One map under way.
pub(super) struct Tiled<'a, V: Points> {
    pub(super) winograd: &'a Winograd<V>,
    pub(super) x: &'a Map<V>,
    pub(super) places: Places<'a>,
    /// Tiles down and across an image.
    pub(super) across: [usize; 2],
}

impl<V: Points> Tiled<'_, V> {
    /// Words of one point of some transformed tiles. Tiles that fill up the last group are read, though never written.
    pub(super) fn step(&self, tiles: usize) -> usize {
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
pub(super) struct Shared(pub(super) *mut u32);

// SAFETY: every job writes tiles of its own, and they are read after all have been written.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Transformed tiles: for each point, tiles of input channels.
#[derive(Clone, Copy)]
pub(super) struct Transformed {
    pub(super) words: Shared,
    /// Words from one point to the next.
    pub(super) step: usize,
}

thread_local! {
    /// Transformed tiles of one job, or of a whole map on the thread that shares its work out.
    pub(super) static SCRATCH: RefCell<Lines> = RefCell::default();
    /// Products of one job.
    static PRODUCTS: RefCell<Lines> = RefCell::default();
}

/// Some tiles from beginning to end.
pub(super) struct Block<'a, V: Points> {
    pub(super) convolution: &'a Tiled<'a, V>,
    pub(super) first: usize,
    pub(super) count: usize,
}

impl<V: Points> Work for Block<'_, V> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { convolution, first, count } = self;
        let step = convolution.step(count);
        let mut scratch = SCRATCH.take();
        scratch.reserve(Winograd::<V>::POINTS * step);
        let into = Transformed { words: Shared(scratch.as_mut_ptr()), step };
        for tile in 0..count {
            // SAFETY: the scratch holds the block, and this thread alone uses it.
            unsafe { transform::<L, V>(convolution, first + tile, into, tile) };
        }
        for panel in 0..convolution.winograd.output / PANEL {
            let products = Products { convolution, from: into, offset: 0, first, count, panel };
            // SAFETY: those tiles have just been transformed.
            unsafe { products.run::<L>() };
        }
        SCRATCH.set(scratch);
    }
}

/// The transform of some tiles' inputs.
pub(super) struct Inputs<'a, V: Points> {
    pub(super) convolution: &'a Tiled<'a, V>,
    pub(super) into: Transformed,
    pub(super) first: usize,
    pub(super) end: usize,
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
pub(super) struct Products<'a, V: Points> {
    pub(super) convolution: &'a Tiled<'a, V>,
    pub(super) from: Transformed,
    /// Where the first tile lies in `from`.
    pub(super) offset: usize,
    /// The first tile.
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) panel: usize,
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
            let places = &convolution.places;
            for down in 0..M.min(size[0] - row) {
                let line = to_output::<L, M>(half[down]);
                let first = places.of([image, row + down, column]);
                for right in 0..M {
                    let [y, x] = [row + down, column + right];
                    if x < size[1] {
                        let border = if with_lead { Border::of([y, x], 3, 1, size).0 } else { 0 };
                        let bias = biases.as_ptr().wrapping_add(border * output + from);
                        places.finish(places.right(first, right), from, bias, slopes).register::<L>(line[right]);
                    }
                }
            }
        }
    }
}
