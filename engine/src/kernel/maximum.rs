//! Maximum over squares that overlap or are cut by the edge of a map.
//!
//! Maps whose channels do not fill registers are slow to write for whoever fills them. A convolution may therefore make more
//! channels than there are, with zeros for weights, and the pooling after it, which has a quarter of the pixels, leaves them
//! out: the output has the first channels of the input.

use candle_core::Result;

use super::crew::in_parallel;
use super::isa::Isa;
use super::lanes::{Lanes, Work, on};
use super::map::{Map, RowsMut};

/// Distance of neighbouring squares.
const STRIDE: usize = 2;

/// Largest of each square of `side` by `side` pixels, one square every 2 pixels: (N, H, W, C) -> (N, H', W', C') with
/// C' <= C. Squares that the lower or right edge cuts count too, as if the map went on with minus infinity:
/// H' = ceil((H - side) / 2) + 1. A NaN is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Maximum {
    /// Side of the square, 2 or more.
    pub(crate) side: usize,
}

impl Maximum {
    /// Output pixels along an axis of `input` pixels.
    pub(crate) fn output_size(self, input: usize) -> usize {
        if input == 0 { 0 } else { input.saturating_sub(self.side).div_ceil(STRIDE) + 1 }
    }

    /// Shape of the output for a map, of which the first `channels` are wanted.
    pub(crate) fn shape(self, [images, height, width, _]: [usize; 4], channels: usize) -> [usize; 4] {
        [images, self.output_size(height), self.output_size(width), channels]
    }

    /// Pools a map into one of [`Maximum::shape`].
    pub(crate) fn forward(self, isa: Isa, x: &Map<f32>, to: &mut Map<f32>) -> Result<()> {
        let channels = to.channels;
        if to.shape() != self.shape(x.shape(), channels) || channels == 0 || channels > x.channels || self.side < STRIDE
        {
            candle_core::bail!("{:?} is not what squares of {} make of {:?}", to.shape(), self.side, x.shape())
        }
        let ([images, rows, columns, _], to) = (to.shape(), to.by_row_mut());
        let squares = Squares { side: self.side, x, to, rows, columns, channels };
        in_parallel(images * rows, |first, end| on(isa, Jobs { squares, first, end }));
        Ok(())
    }
}

/// A map and its output.
#[derive(Clone, Copy)]
struct Squares<'a> {
    side: usize,
    x: &'a Map<f32>,
    to: RowsMut<'a>,
    /// Of the output.
    rows: usize,
    columns: usize,
    channels: usize,
}

/// Some output rows, counted through all images.
struct Jobs<'a> {
    squares: Squares<'a>,
    first: usize,
    end: usize,
}

impl Work for Jobs<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Squares { side, x, to, rows, columns, channels } = self.squares;
        for index in self.first..self.end {
            let (image, top) = (index / rows, index % rows * STRIDE);
            let down = side.min(x.height - top);
            // SAFETY: rows are divided among the jobs.
            let to = unsafe { to.row(index) };
            for column in 0..columns {
                let left = column * STRIDE;
                let across = side.min(x.width - left);
                let from = x.start().wrapping_add(x.at(image, top + x.frame, left + x.frame));
                let first = column * channels;
                let mut channel = 0;
                // SAFETY: `down` by `across` pixels from here on lie in the map, and a register that begins in one of
                // them ends within the spare line behind the map's values. A register is written whole only if it ends
                // within the row; what it puts into the following pixels is overwritten when their turn comes.
                unsafe {
                    while channel < channels {
                        let largest = match (down, across) {
                            (2, 2) => largest::<L>(from.add(channel), x, [2, 2]),
                            (3, 3) => largest::<L>(from.add(channel), x, [3, 3]),
                            _ => largest::<L>(from.add(channel), x, [down, across]),
                        };
                        let at = first + channel;
                        if at + L::WIDTH <= to.len() {
                            L::store(to.as_mut_ptr().add(at), largest);
                        } else {
                            let mut own = [0f32; 16];
                            L::store(own.as_mut_ptr(), largest);
                            let rest = channels - channel;
                            to[at..at + rest].copy_from_slice(&own[..rest]);
                        }
                        channel += L::WIDTH;
                    }
                }
            }
        }
    }
}

/// The largest of `down` by `across` pixels in each channel of a register.
///
/// # Safety
///
/// As for [`Lanes`]; the pixels lie in the map from `from` on.
#[inline(always)]
unsafe fn largest<L: Lanes>(from: *const f32, x: &Map<f32>, [down, across]: [usize; 2]) -> L::F {
    let (pitch, pixel) = (x.pitch(), x.channels);
    // SAFETY: the caller's promise.
    unsafe {
        let mut largest = L::splat(f32::NEG_INFINITY);
        for row in 0..down {
            for column in 0..across {
                // The second is what stays where the first is NaN.
                largest = L::max(L::load(from.add(row * pitch + column * pixel)), largest);
            }
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::kernel::map::Pool;
    use crate::model::fill;

    /// A map with a frame, its pixels made of numbers from -1 to 1, and those pixels.
    fn filled(pool: &Arc<Pool>, shape: [usize; 4], frame: usize) -> (Map<f32>, Vec<f32>) {
        let [images, height, width, channels] = shape;
        let count = shape.iter().product::<usize>() as u32;
        let pixels: Vec<f32> = (0..count).map(|index| 2.0 * fill::uniform(7, index) as f32 - 1.0).collect();
        let mut map = pool.map::<f32>(shape, frame);
        for row in 0..images * height {
            let at = map.at(row / height, row % height + frame, frame);
            let line = width * channels;
            map.values_mut()[at..at + line].copy_from_slice(&pixels[row * line..][..line]);
        }
        (map, pixels)
    }

    /// The same without registers, (N, H', W', C').
    fn plain(side: usize, [images, height, width, channels]: [usize; 4], pixels: &[f32], wanted: usize) -> Vec<f32> {
        let size = |input: usize| Maximum { side }.output_size(input);
        let mut outputs = vec![];
        for (image, row) in (0..images).flat_map(|image| (0..size(height)).map(move |row| (image, row))) {
            for (column, channel) in (0..size(width)).flat_map(|at| (0..wanted).map(move |channel| (at, channel))) {
                let mut largest = f32::NEG_INFINITY;
                for y in (row * 2..row * 2 + side).filter(|y| *y < height) {
                    for x in (column * 2..column * 2 + side).filter(|x| *x < width) {
                        largest = largest.max(pixels[((image * height + y) * width + x) * channels + channel]);
                    }
                }
                outputs.push(largest);
            }
        }
        outputs
    }

    fn pooled(isa: Isa, pool: &Arc<Pool>, side: usize, x: &Map<f32>, channels: usize, frame: usize) -> Vec<f32> {
        let shape = Maximum { side }.shape(x.shape(), channels);
        // What an earlier map has left behind must not matter.
        pool.map::<f32>(shape, frame + 1).values_mut().fill(f32::NAN);
        let mut to = pool.map::<f32>(shape, frame);
        Maximum { side }.forward(isa, x, &mut to).unwrap();
        let inner: Vec<f32> = (0..to.images).flat_map(|image| to.lines(image).flatten().copied()).collect();
        let used = |values: &[f32]| values.iter().filter(|value| **value != 0.0).count();
        assert_eq!(used(to.values()), used(&inner), "something in the frame");
        inner
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

        #[test]
        fn equals_plain_maxima(
            images in 1usize..4,
            height in 1usize..12,
            width in 1usize..12,
            channels in prop::sample::select(vec![1usize, 2, 3, 8, 10, 16, 31, 32, 48]),
            fewer in 0usize..7,
            side in 2usize..5,
            frames in 0usize..4,
            threads in 1usize..4,
        ) {
            let pool = Arc::new(Pool::default());
            let shape = [images, height, width, channels];
            let (x, pixels) = filled(&pool, shape, frames % 2);
            let wanted = channels.saturating_sub(fewer).max(1);
            let expected = plain(side, shape, &pixels, wanted);
            let threads = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for isa in Isa::available() {
                let found = threads.install(|| pooled(*isa, &pool, side, &x, wanted, frames / 2));
                prop_assert_eq!(&found, &expected, "{}", isa.name());
            }
        }
    }

    #[test]
    fn cut_squares_count() {
        let pool = Arc::new(Pool::default());
        for isa in Isa::available() {
            let falling = |side, height: usize, width: usize| {
                let mut x = pool.map::<f32>([1, height, width, 1], 0);
                x.values_mut().iter_mut().enumerate().for_each(|(at, value)| *value = -1.0 - at as f32);
                pooled(*isa, &pool, side, &x, 1, 0)
            };
            assert_eq!(falling(2, 3, 3), [-1.0, -3.0, -7.0, -9.0]);
            assert_eq!(falling(2, 2, 4), [-1.0, -3.0]);
            assert_eq!(falling(3, 4, 5), [-1.0, -3.0, -11.0, -13.0]);
        }
        assert_eq!([22, 9, 46, 21, 8, 0].map(|size| Maximum { side: 3 }.output_size(size)), [11, 4, 23, 10, 4, 0]);
    }

    #[test]
    fn nan_is_passed_over_and_denormal_values_stay() {
        let pool = Arc::new(Pool::default());
        for isa in Isa::available() {
            let mut x = pool.map::<f32>([1, 2, 4, 3], 0);
            x.values_mut().fill(1e-41);
            x.values_mut()[..3].copy_from_slice(&[f32::NAN, f32::INFINITY, -1e-42]);
            x.values_mut()[3..6].copy_from_slice(&[-3.0, f32::NAN, 1e-42]);
            assert_eq!(pooled(*isa, &pool, 2, &x, 3, 0), [1e-41, f32::INFINITY, 1e-41, 1e-41, 1e-41, 1e-41]);
            x.values_mut().fill(f32::NAN);
            assert_eq!(pooled(*isa, &pool, 2, &x, 3, 0), [f32::NEG_INFINITY; 6], "{}", isa.name());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let pool = Arc::new(Pool::default());
        let forward = |side, x: [usize; 4], to: [usize; 4]| {
            Maximum { side }.forward(Isa::current(), &pool.map(x, 0), &mut pool.map(to, 0))
        };
        assert!(forward(2, [1, 5, 5, 4], [1, 3, 3, 4]).is_ok());
        assert!(forward(2, [1, 5, 5, 4], [1, 3, 3, 3]).is_ok());
        for to in [[1, 2, 3, 4], [1, 3, 3, 5], [1, 3, 3, 0], [2, 3, 3, 4]] {
            assert!(forward(2, [1, 5, 5, 4], to).is_err(), "{to:?}");
        }
        assert!(forward(1, [1, 5, 5, 4], [1, 3, 3, 4]).is_err());
    }
}
