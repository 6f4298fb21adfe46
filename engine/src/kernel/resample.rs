//! Halving and doubling channels-last feature maps.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape};
use pulp::Simd;
use rayon::prelude::*;

use super::{Task, contiguous, dispatch};

/// Largest of each 2x2 square: (N, H, W, C) -> (N, H/2, W/2, C). An odd last row or column is ignored.
#[derive(Debug, Clone, Copy)]
pub struct MaxPool2;

impl CustomOp1 for MaxPool2 {
    fn name(&self) -> &'static str {
        "max-pool-2"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let input = contiguous(self.name(), storage, layout)?;
        let (images, height, width, channels) = layout.shape().dims4()?;
        let (rows, columns) = (height / 2, width / 2);
        let mut output = vec![0f32; images * rows * columns * channels];
        output.par_chunks_mut((columns * channels).max(1)).enumerate().for_each(|(index, out)| {
            let first = (index / rows * height + index % rows * 2) * width * channels;
            let upper = &input[first..][..width * channels];
            let lower = &input[first + width * channels..][..width * channels];
            dispatch(PoolRow { upper, lower, channels, out });
        });
        Ok((CpuStorage::F32(output), Shape::from((images, rows, columns, channels))))
    }
}

/// fine (N, H, W, C) + coarse (N, H/2, W/2, C) with each coarse pixel repeated in a 2x2 square.
#[derive(Debug, Clone, Copy)]
pub struct AddDoubled;

impl CustomOp2 for AddDoubled {
    fn name(&self) -> &'static str {
        "add-doubled"
    }

    fn cpu_fwd(
        &self,
        fine: &CpuStorage,
        fine_layout: &Layout,
        coarse: &CpuStorage,
        coarse_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let fine = contiguous(self.name(), fine, fine_layout)?;
        let coarse = contiguous(self.name(), coarse, coarse_layout)?;
        let (images, height, width, channels) = fine_layout.shape().dims4()?;
        if coarse_layout.shape().dims4()? != (images, height / 2, width / 2, channels) || height % 2 + width % 2 != 0 {
            candle_core::bail!("add-doubled: {:?} and {:?}", fine_layout.shape(), coarse_layout.shape())
        }
        let line = width * channels;
        let mut output = fine.to_vec();
        output.par_chunks_mut(line.max(1)).enumerate().for_each(|(index, out)| {
            let row = index / height * (height / 2) + index % height / 2;
            let coarse = &coarse[row * line / 2..][..line / 2];
            dispatch(DoubledRow { coarse, channels, out });
        });
        Ok((CpuStorage::F32(output), fine_layout.shape().clone()))
    }
}

/// One output row of [`MaxPool2`].
struct PoolRow<'a> {
    upper: &'a [f32],
    lower: &'a [f32],
    channels: usize,
    out: &'a mut [f32],
}

impl Task for PoolRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let channels = self.channels;
        for (column, pixel) in self.out.chunks_exact_mut(channels).enumerate() {
            let at = column * 2 * channels;
            let (a, b) = self.upper[at..at + 2 * channels].split_at(channels);
            let (c, d) = self.lower[at..at + 2 * channels].split_at(channels);
            for channel in 0..channels {
                let above = if a[channel] > b[channel] { a[channel] } else { b[channel] };
                let below = if c[channel] > d[channel] { c[channel] } else { d[channel] };
                pixel[channel] = if above > below { above } else { below };
            }
        }
    }
}

/// One output row of [`AddDoubled`].
struct DoubledRow<'a> {
    coarse: &'a [f32],
    channels: usize,
    out: &'a mut [f32],
}

impl Task for DoubledRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let channels = self.channels;
        for (pair, add) in self.out.chunks_exact_mut(2 * channels).zip(self.coarse.chunks_exact(channels)) {
            let (left, right) = pair.split_at_mut(channels);
            for ((left, right), add) in left.iter_mut().zip(right).zip(add) {
                *left += add;
                *right += add;
            }
        }
    }
}
