//! Where the outputs of a layer go, and what is added to them.

use candle_core::Result;

use super::finish::Finish;
use super::map::{Bf16, Map};

/// Where outputs go: as f32, rounded to bf16, or both. The maps have the shape of the output.
#[derive(Default)]
pub(crate) struct Target<'a> {
    pub(crate) f32: Option<&'a mut Map<f32>>,
    pub(crate) bf16: Option<&'a mut Map<Bf16>>,
}

/// A map that is added in the end: every `stride`-th row and column of it.
#[derive(Clone, Copy)]
pub(crate) struct Other<'a> {
    pub(crate) map: &'a Map<f32>,
    pub(crate) stride: usize,
}

/// Where the outputs of each pixel come from and go to. The maps stay borrowed for as long as it is used.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a> {
    other: Option<Other<'a>>,
    to: Option<Grid<f32>>,
    to_bf16: Option<Grid<u16>>,
}

/// A map that several threads write, each to pixels and outputs of its own.
#[derive(Clone, Copy)]
struct Grid<T> {
    first: *mut T,
    image: usize,
    row: usize,
    pixel: usize,
}

// SAFETY: jobs write disjoint pixels or disjoint outputs of a pixel, and nobody reads before all are done.
unsafe impl<T> Send for Grid<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Grid<T> {}

impl<T> Grid<T> {
    #[inline(always)]
    fn at(&self, [image, row, column]: [usize; 3]) -> usize {
        image * self.image + row * self.row + column * self.pixel
    }
}

impl<'a> Places<'a> {
    /// Checks the maps against the shape of the output.
    pub(crate) fn new(shape: [usize; 4], other: Option<Other<'a>>, to: Target<'a>) -> Result<Self> {
        let [images, height, width, channels] = shape;
        if let Some(Other { map, stride }) = other {
            let fits = map.images == images
                && map.channels == channels
                && map.height.div_ceil(stride) == height
                && map.width.div_ceil(stride) == width;
            if !fits {
                candle_core::bail!("{:?} cannot be added to {shape:?}", map.shape())
            }
        }
        let wrong = |found: Option<[usize; 4]>| found.is_some_and(|found| found != shape);
        if wrong(to.f32.as_ref().map(|map| map.shape())) || wrong(to.bf16.as_ref().map(|map| map.shape())) {
            candle_core::bail!("an output of {shape:?} has a map of another shape")
        }
        let grid = |at: usize, rows: usize, pitch: usize| (at, rows * pitch, pitch);
        let to_f32 = to.f32.map(|map| {
            let (at, image, row) = grid(map.at(0, map.frame, map.frame), map.rows(), map.pitch());
            Grid { first: map.values_mut().as_mut_ptr().wrapping_add(at), image, row, pixel: channels }
        });
        let to_bf16 = to.bf16.map(|map| {
            let (at, image, row) = grid(map.at(0, map.frame, map.frame), map.rows(), map.pitch());
            Grid { first: map.values_mut().as_mut_ptr().cast::<u16>().wrapping_add(at), image, row, pixel: channels }
        });
        Ok(Self { other, to: to_f32, to_bf16 })
    }

    /// Where a pixel (image, row, column) lies in each map.
    #[inline(always)]
    pub(crate) fn of(&self, pixel: [usize; 3]) -> Place {
        let [image, row, column] = pixel;
        Place {
            other: self.other.map_or(0, |Other { map, stride }| {
                map.at(image, row * stride + map.frame, column * stride + map.frame)
            }),
            to: self.to.map_or(0, |grid| grid.at(pixel)),
            to_bf16: self.to_bf16.map_or(0, |grid| grid.at(pixel)),
        }
    }

    /// Where the pixel some pixels further in the same row lies.
    #[inline(always)]
    pub(crate) fn right(&self, place: Place, pixels: usize) -> Place {
        Place {
            other: place.other + self.other.map_or(0, |Other { map, stride }| pixels * stride * map.channels),
            to: place.to + self.to.map_or(0, |grid| pixels * grid.pixel),
            to_bf16: place.to_bf16 + self.to_bf16.map_or(0, |grid| pixels * grid.pixel),
        }
    }

    /// Where outputs come from and go to if they are wanted in f32 alone.
    #[inline(always)]
    pub(crate) fn exact(&self) -> Option<Exact> {
        let other = self.other.map_or(std::ptr::null(), |Other { map, .. }| map.values().as_ptr());
        match (self.to, self.to_bf16) {
            (Some(grid), None) => Some(Exact { other, to: grid.first }),
            _ => None,
        }
    }

    /// What finishes a pixel from an output on.
    #[inline(always)]
    pub(crate) fn finish(&self, place: Place, output: usize, bias: *const f32, slopes: *const f32) -> Finish {
        let other = self
            .other
            .map_or(std::ptr::null(), |Other { map, .. }| map.values().as_ptr().wrapping_add(place.other + output));
        Finish {
            bias,
            slopes,
            other,
            to: self.to.map_or(std::ptr::null_mut(), |grid| grid.first.wrapping_add(place.to + output)),
            to_bf16: self.to_bf16.map_or(std::ptr::null_mut(), |grid| grid.first.wrapping_add(place.to_bf16 + output)),
        }
    }
}

/// Where a pixel lies in the maps of [`Places`], in values.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place {
    pub(super) other: usize,
    pub(super) to: usize,
    to_bf16: usize,
}

/// The maps of [`Places`] for outputs in f32; `other` is null for nothing.
#[derive(Clone, Copy)]
pub(crate) struct Exact {
    pub(super) other: *const f32,
    pub(super) to: *mut f32,
}
