//! The general convolution, computed directly: every output from every input channel.
//!
//! A kernel row of a pixel is one stretch of memory in a channels-last map, so a convolution of side k is k such stretches
//! for each pixel, whatever the number of channels. Pixels are taken in the order of the output, fourteen at a time, across
//! the ends of rows and images.

use std::marker::PhantomData;

use candle_core::Result;
use half::bf16;

use super::crew::in_parallel;
use super::finish::Alike;
pub(crate) use super::given::{Border, Given};
use super::isa::Isa;
use super::lanes::{Lanes, Work, on};
use super::map::{Bf16, Lines, Map};
pub(crate) use super::places::{Other, Place, Places, Target};
use super::tile::{Factor, PANEL, Sums, TILE, Window, tile};

/// Weights of a panel beyond which all pixels pass by one panel before the next is read: more would not stay in the
/// second cache.
const LARGE_WEIGHTS: usize = 600 << 10;

/// A convolution on maps of `V`.
#[derive(Debug)]
pub(crate) struct Convolution<V: Factor> {
    kernel: usize,
    stride: usize,
    padding: [usize; 2],
    input: usize,
    output: usize,
    /// For each panel of outputs, for each kernel row, for each word of its stretch, [`PANEL`] words.
    panels: Lines,
    biases: Vec<f32>,
    slopes: Option<Vec<f32>>,
    value: PhantomData<V>,
}

/// Packs weights as words.
pub(crate) trait Pack: Factor {
    /// The word of `PER_WORD` consecutive input channels.
    fn pack(weights: &[f32]) -> u32;
}

impl Pack for f32 {
    fn pack(weights: &[f32]) -> u32 {
        weights[0].to_bits()
    }
}

impl Pack for Bf16 {
    fn pack(weights: &[f32]) -> u32 {
        let half = |at: usize| u32::from(bf16::from_f32(weights[at]).to_bits());
        half(0) | half(1) << 16
    }
}

impl<V: Pack> Convolution<V> {
    /// Packs a convolution. In bf16 the number of input channels must be even.
    pub(crate) fn new(given: &Given) -> Result<Self> {
        given.check()?;
        let Given { kernel, stride, padding, input, output, .. } = *given;
        if !input.is_multiple_of(V::PER_WORD) {
            candle_core::bail!("{input} channels cannot be taken in groups of {}", V::PER_WORD)
        }
        let groups = input / V::PER_WORD;
        let mut panels = Lines::words(output.next_multiple_of(PANEL) * kernel * kernel * groups);
        let words = panels.as_mut_slice();
        let mut at = 0;
        for panel in 0..output.div_ceil(PANEL) {
            for (row, column) in (0..kernel).flat_map(|row| (0..kernel).map(move |column| (row, column))) {
                for group in 0..groups {
                    for of in panel * PANEL..(panel + 1) * PANEL {
                        if of < output {
                            let mut weights = [0f32; 2];
                            for (offset, weight) in weights[..V::PER_WORD].iter_mut().enumerate() {
                                *weight = given.tap(of, group * V::PER_WORD + offset, row, column);
                            }
                            words[at] = V::pack(&weights);
                        }
                        at += 1;
                    }
                }
            }
        }
        let (biases, slopes) = (given.biases(), given.padded_slopes());
        Ok(Self { kernel, stride, padding, input, output, panels, biases, slopes, value: PhantomData })
    }

    /// Shape of the output for a map.
    pub(crate) fn shape(&self, [images, height, width, channels]: [usize; 4]) -> Result<[usize; 4]> {
        let padded = |side: usize| (side + self.padding[0] + self.padding[1]).checked_sub(self.kernel);
        match (padded(height), padded(width)) {
            (Some(height), Some(width)) if channels == self.input => {
                Ok([images, height / self.stride + 1, width / self.stride + 1, self.output])
            }
            _ => candle_core::bail!("({height}, {width}, {channels}) does not fit a convolution of {}", self.input),
        }
    }

    /// Zeros that it needs around a map.
    pub(crate) fn frame(&self) -> usize {
        self.padding[0].max(self.padding[1])
    }

    /// Convolves a map whose frame is as wide as the padding. `other` has the shape of the output, or larger with a
    /// stride.
    pub(crate) fn forward(&self, isa: Isa, x: &Map<V>, other: Option<Other>, to: Target) -> Result<()> {
        let shape = self.shape(x.shape())?;
        let places = Places::new(shape, other, to)?;
        if x.frame < self.frame() {
            candle_core::bail!("a frame of {} around a padding of {:?}", x.frame, self.padding)
        }
        let [images, rows, columns, _] = shape;
        let tiles = (images * rows * columns).div_ceil(TILE);
        let panels = self.output.div_ceil(PANEL);
        let jobs = tiles * panels;
        let by_panel = self.panels.len() * 4 > LARGE_WEIGHTS;
        let direct = Direct { convolution: self, x, shape, places, tiles, by_panel };
        in_parallel(jobs, |first, end| on(isa, Jobs { direct: &direct, first, end }));
        Ok(())
    }
}

/// A convolution of one map.
struct Direct<'a, V: Factor> {
    convolution: &'a Convolution<V>,
    x: &'a Map<V>,
    shape: [usize; 4],
    places: Places<'a>,
    tiles: usize,
    /// Whether all tiles pass by a panel before the next panel, or all panels by a tile.
    by_panel: bool,
}

/// Some of its jobs: a job is one tile of pixels by one panel of outputs.
struct Jobs<'a, V: Factor> {
    direct: &'a Direct<'a, V>,
    first: usize,
    end: usize,
}

/// The pixels of a tile.
struct Pixels<V> {
    /// Where the window of each begins.
    windows: [*const u32; TILE],
    /// Where each goes.
    places: [Place; TILE],
    borders: [usize; TILE],
    count: usize,
    value: PhantomData<V>,
}

impl<V: Factor> Direct<'_, V> {
    /// Whether biases differ where a kernel reaches over the border.
    #[inline(always)]
    fn has_borders(&self) -> bool {
        self.convolution.biases.len() > self.convolution.output.next_multiple_of(PANEL)
    }

    #[inline(always)]
    fn pixels(&self, tile: usize) -> Pixels<V> {
        let Convolution { kernel, stride, padding: [before, _], .. } = *self.convolution;
        let [images, rows, columns, _] = self.shape;
        let total = images * rows * columns;
        let first = tile * TILE;
        let count = TILE.min(total - first);
        let mut at = [first / columns / rows, first / columns % rows, first % columns];
        let mut pixels = Pixels {
            windows: [std::ptr::null(); TILE],
            places: [Place::default(); TILE],
            borders: [0; TILE],
            count,
            value: PhantomData,
        };
        let with_lead = self.has_borders();
        let (values, inset) = (self.x.values().as_ptr().cast::<u32>(), self.x.frame - before);
        let across = stride * self.x.channels / V::PER_WORD;
        let start = |[image, row, column]: [usize; 3]| {
            let start = self.x.at(image, row * stride + inset, column * stride + inset);
            (values.wrapping_add(start / V::PER_WORD), self.places.of([image, row, column]))
        };
        let (mut window, mut place) = start(at);
        for index in 0..count {
            pixels.windows[index] = window;
            pixels.places[index] = place;
            if with_lead {
                let corner = [at[1] * stride, at[2] * stride];
                pixels.borders[index] = Border::of(corner, kernel, before, [self.x.height, self.x.width]).0;
            }
            at[2] += 1;
            if at[2] < columns {
                window = window.wrapping_add(across);
                place = self.places.right(place, 1);
            } else if index + 1 < count {
                at = if at[1] + 1 < rows { [at[0], at[1] + 1, 0] } else { [at[0] + 1, 0, 0] };
                (window, place) = start(at);
            }
        }
        // The last pixel stands in for those that are missing.
        let last = pixels.windows[count - 1];
        pixels.windows[count..].fill(last);
        pixels
    }
}

impl<V: Factor> Work for Jobs<'_, V> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { direct, first, end } = self;
        let Convolution { kernel, input, output, panels, biases, slopes, .. } = direct.convolution;
        let depth = kernel * input / V::PER_WORD;
        let window = Window { rows: *kernel, pitch: direct.x.pitch() / V::PER_WORD, depth };
        let (count, padded) = (output.div_ceil(PANEL), output.next_multiple_of(PANEL));
        let mut sums = Sums([0.0; TILE * PANEL]);
        let mut pixels = None;
        let (exact, with_lead) = (direct.places.exact(), direct.has_borders());
        for job in first..end {
            let (panel, tile_at) =
                if direct.by_panel { (job / direct.tiles, job % direct.tiles) } else { (job % count, job / count) };
            let pixels = match &mut pixels {
                Some((at, pixels)) if *at == tile_at => pixels,
                other => &mut other.insert((tile_at, direct.pixels(tile_at))).1,
            };
            let weight = panels.as_ptr().wrapping_add(panel * kernel * depth * PANEL);
            let from = panel * PANEL;
            let outputs = PANEL.min(output - from);
            // SAFETY: windows lie in the map, whose frame covers the padding (checked in `forward`) and whose buffer
            // ends with a spare line; the panel has `kernel * depth` rows.
            unsafe { tile::<L, V>(&pixels.windows, [pixels.count, outputs], window, weight, &mut sums) };
            let slopes = slopes.as_ref().map_or(std::ptr::null(), |slopes| slopes.as_ptr().wrapping_add(from));
            // SAFETY: as below.
            unsafe {
                if let (Some(maps), false, true) = (exact, with_lead, outputs.is_multiple_of(L::WIDTH)) {
                    let alike = Alike { bias: biases.as_ptr().wrapping_add(from), slopes, from, maps };
                    alike.tile::<L>(sums.0.as_ptr(), &pixels.places[..pixels.count], outputs);
                    continue;
                }
            }
            for index in 0..pixels.count {
                let bias = biases.as_ptr().wrapping_add(pixels.borders[index] * padded + from);
                let finish = direct.places.finish(pixels.places[index], from, bias, slopes);
                // SAFETY: the maps have the shape of the output (checked in `Places::new`), this job alone writes these
                // outputs of these pixels, and biases and slopes are padded to whole panels.
                unsafe { finish.panel::<L>(sums.0.as_ptr().wrapping_add(index * PANEL), outputs) };
            }
        }
    }
}
