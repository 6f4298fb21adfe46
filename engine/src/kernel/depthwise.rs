//! Depthwise convolution over channels-last activations, with bias and activation in the same pass.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use pulp::Simd;
use rayon::prelude::*;

use super::{Task, activate_all, contiguous, dispatch, registers, write};

/// A square depthwise convolution (N, H, W, C) -> (N, H', W', C), H' = (H + before + after - kernel) / stride + 1.
#[derive(Debug, Clone)]
pub struct Depthwise {
    /// Side of the kernel.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Zeros above and left, then below and right.
    pub padding: [usize; 2],
    /// kernel² rows (top to bottom, left to right) of C values.
    pub weight: Vec<f32>,
    /// C values.
    pub bias: Vec<f32>,
    /// C slopes of the negative side: 1 is no activation, 0 is ReLU.
    pub slopes: Vec<f32>,
}

/// The positions of a kernel axis that fall inside of the input when it starts at `start - before`.
#[inline(always)]
pub(super) fn taps(start: usize, before: usize, kernel: usize, size: usize) -> Range<usize> {
    let first = before.saturating_sub(start).min(kernel);
    let end = (size + before).saturating_sub(start).min(kernel);
    first..end.max(first)
}

impl Depthwise {
    /// Side length of the output, or an error when the input is smaller than the kernel.
    fn output_size(&self, input: usize) -> Result<usize> {
        let padded = input + self.padding[0] + self.padding[1];
        if padded < self.kernel {
            candle_core::bail!("an input of {padded} is smaller than the kernel of {}", self.kernel)
        }
        Ok((padded - self.kernel) / self.stride + 1)
    }
}

/// The taps of one output pixel that fall inside of the input.
struct Taps<'a> {
    conv: &'a Depthwise,
    image: &'a [f32],
    rows: Range<usize>,
    columns: Range<usize>,
    /// Where the first tap, inside or not, would lie in the image, in pixels; and the pixels of a row.
    corner: isize,
    width: usize,
}

impl Taps<'_> {
    /// Sums `G` registers of channels from `channel` on.
    #[inline(always)]
    fn sum<S: Simd, const G: usize>(&self, simd: S, channel: usize, pixel: &mut [f32]) {
        let Depthwise { kernel, bias, weight, .. } = self.conv;
        let channels = bias.len();
        let mut sums = registers::<S, G>(&bias[channel..]);
        for ky in self.rows.clone() {
            let line = self.corner + (ky * self.width) as isize;
            for kx in self.columns.clone() {
                let at = (line + kx as isize) as usize * channels + channel;
                let values = registers::<S, G>(&self.image[at..]);
                let weights = registers::<S, G>(&weight[(ky * kernel + kx) * channels + channel..]);
                for register in 0..G {
                    sums[register] = simd.mul_add_f32s(values[register], weights[register], sums[register]);
                }
            }
        }
        write::<S, G>(sums, &mut pixel[channel..]);
    }

    /// Sums one channel.
    #[inline(always)]
    fn sum_one(&self, channel: usize) -> f32 {
        let channels = self.conv.bias.len();
        let mut sum = self.conv.bias[channel];
        for ky in self.rows.clone() {
            for kx in self.columns.clone() {
                let at = (self.corner + (ky * self.width + kx) as isize) as usize;
                let weight = self.conv.weight[(ky * self.conv.kernel + kx) * channels + channel];
                sum += self.image[at * channels + channel] * weight;
            }
        }
        sum
    }
}

/// One output row: `image` is (H, W, C), `size` its height and width, `out` is (W', C).
struct Row<'a> {
    conv: &'a Depthwise,
    image: &'a [f32],
    size: [usize; 2],
    row: usize,
    out: &'a mut [f32],
}

impl Task for Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Depthwise { kernel, stride, padding: [before, _], bias, slopes, .. } = self.conv;
        let [height, width] = self.size;
        let top = self.row * stride;
        let rows = taps(top, *before, *kernel, height);
        for (column, pixel) in self.out.chunks_exact_mut(bias.len()).enumerate() {
            let left = column * stride;
            let columns = taps(left, *before, *kernel, width);
            let corner = (top * width + left) as isize - (before * width + before) as isize;
            let taps = Taps { conv: self.conv, image: self.image, rows: rows.clone(), columns, corner, width };
            let mut channel = 0;
            while channel + 4 * S::F32_LANES <= bias.len() {
                taps.sum::<S, 4>(simd, channel, pixel);
                channel += 4 * S::F32_LANES;
            }
            while channel + S::F32_LANES <= bias.len() {
                taps.sum::<S, 1>(simd, channel, pixel);
                channel += S::F32_LANES;
            }
            for (channel, value) in pixel.iter_mut().enumerate().skip(channel) {
                *value = taps.sum_one(channel);
            }
            activate_all(pixel, slopes);
        }
    }
}

impl CustomOp1 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let input = contiguous(self.name(), storage, layout)?;
        let (images, height, width, channels) = layout.shape().dims4()?;
        if channels != self.bias.len() {
            candle_core::bail!("depthwise: {channels} channels where the weights have {}", self.bias.len())
        }
        let (rows, columns) = (self.output_size(height)?, self.output_size(width)?);
        let mut output = vec![0f32; images * rows * columns * channels];
        output.par_chunks_mut((columns * channels).max(1)).enumerate().for_each(|(index, out)| {
            let image = &input[index / rows * height * width * channels..][..height * width * channels];
            dispatch(Row { conv: self, image, size: [height, width], row: index % rows, out });
        });
        Ok((CpuStorage::F32(output), Shape::from((images, rows, columns, channels))))
    }
}
