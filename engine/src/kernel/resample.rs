//! Halving and doubling maps.

use candle_core::Result;

use super::crew::in_parallel;
use super::isa::Isa;
use super::lanes::{Lanes, Work, on};
use super::map::{Map, Rows, RowsMut};

/// Largest of each 2x2 square: (N, H, W, C) -> (N, H/2, W/2, C). An odd last row or column is ignored.
pub(crate) fn max_pool(isa: Isa, x: &Map<f32>, to: &mut Map<f32>) -> Result<()> {
    let [images, height, width, channels] = x.shape();
    if to.shape() != [images, height / 2, width / 2, channels] {
        candle_core::bail!("{:?} does not halve to {:?}", x.shape(), to.shape())
    }
    let (from, to) = (x.by_row(), to.by_row_mut());
    in_parallel(images * (height / 2), |first, end| on(isa, Pool { from, to, height, first, end }));
    Ok(())
}

/// fine (N, H, W, C) + coarse (N, H/2, W/2, C), each coarse pixel repeated in a 2x2 square, into `to`.
pub(crate) fn add_doubled(isa: Isa, fine: &Map<f32>, coarse: &Map<f32>, to: &mut Map<f32>) -> Result<()> {
    let [images, height, width, channels] = fine.shape();
    let halves = [images, height / 2, width / 2, channels];
    if coarse.shape() != halves || height % 2 + width % 2 != 0 || to.shape() != fine.shape() {
        candle_core::bail!("{:?} is not twice {:?}", fine.shape(), coarse.shape())
    }
    let (fine, coarse, to) = (fine.by_row(), coarse.by_row(), to.by_row_mut());
    in_parallel(images * height, |first, end| on(isa, Doubled { fine, coarse, to, height, first, end }));
    Ok(())
}

/// Some rows of a halved map, counted through all images.
struct Pool<'a> {
    from: Rows<'a>,
    to: RowsMut<'a>,
    height: usize,
    first: usize,
    end: usize,
}

impl Work for Pool<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let channels = self.from.channels;
        let rows = self.height / 2;
        for index in self.first..self.end {
            let (image, row) = (index / rows, index % rows);
            let lines = [0, 1].map(|offset| self.from.row(image * self.height + row * 2 + offset));
            // SAFETY: rows are divided among the jobs.
            let to = unsafe { self.to.row(index) };
            for (column, to) in to.chunks_exact_mut(channels).enumerate() {
                let squares = lines.map(|line| &line[column * 2 * channels..][..2 * channels]);
                let mut channel = 0;
                // SAFETY: registers end at or before the last channel of each pixel.
                unsafe {
                    while channel + L::WIDTH <= channels {
                        let [above, below] = squares.map(
                            #[inline(always)]
                            |pair| {
                                let left = L::load(pair.as_ptr().add(channel));
                                L::max(left, L::load(pair.as_ptr().add(channels + channel)))
                            },
                        );
                        L::store(to.as_mut_ptr().add(channel), L::max(above, below));
                        channel += L::WIDTH;
                    }
                }
                for channel in channel..channels {
                    let larger = |a: f32, b: f32| if a > b { a } else { b };
                    let [above, below] = squares.map(|pair| larger(pair[channel], pair[channels + channel]));
                    to[channel] = larger(above, below);
                }
            }
        }
    }
}

/// Some rows of a sum, counted through all images.
struct Doubled<'a> {
    fine: Rows<'a>,
    coarse: Rows<'a>,
    to: RowsMut<'a>,
    height: usize,
    first: usize,
    end: usize,
}

impl Work for Doubled<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let channels = self.fine.channels;
        for index in self.first..self.end {
            let (image, row) = (index / self.height, index % self.height);
            let coarse = self.coarse.row(image * (self.height / 2) + row / 2);
            // SAFETY: rows are divided among the jobs.
            let to = unsafe { self.to.row(index) };
            let pixels = to.chunks_exact_mut(channels).zip(self.fine.row(index).chunks_exact(channels));
            for (column, (to, fine)) in pixels.enumerate() {
                let coarse = &coarse[column / 2 * channels..][..channels];
                to.iter_mut().zip(fine).zip(coarse).for_each(|((to, fine), coarse)| *to = fine + coarse);
            }
        }
    }
}
