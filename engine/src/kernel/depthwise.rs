//! Depthwise convolution over channels-last activations, with bias and activation in the same pass.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use rayon::prelude::*;

use super::{LANES, activate, contiguous, multiply_add};

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
pub(super) fn taps(start: usize, before: usize, kernel: usize, size: usize) -> std::ops::Range<usize> {
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

    /// One output row: `image` is (H, W, C), `out` is (W', C).
    #[inline(always)]
    fn row(&self, image: &[f32], [height, width]: [usize; 2], row: usize, out: &mut [f32]) {
        let channels = self.bias.len();
        let before = self.padding[0];
        let top = row * self.stride;
        let rows = taps(top, before, self.kernel, height);
        for (column, pixel) in out.chunks_exact_mut(channels).enumerate() {
            let left = column * self.stride;
            let columns = taps(left, before, self.kernel, width);
            // Where the taps lie in the input does not depend on the channel.
            let offset = |ky: usize, kx: usize| ((top + ky - before) * width + left + kx - before) * channels;
            let mut channel = 0;
            while channel + LANES <= channels {
                let mut sums = [0f32; LANES];
                sums.copy_from_slice(&self.bias[channel..channel + LANES]);
                for ky in rows.clone() {
                    for kx in columns.clone() {
                        let values = &image[offset(ky, kx) + channel..];
                        let weights = &self.weight[(ky * self.kernel + kx) * channels + channel..];
                        multiply_add(&mut sums, values, weights);
                    }
                }
                let slopes = &self.slopes[channel..channel + LANES];
                let target = &mut pixel[channel..channel + LANES];
                for lane in 0..LANES {
                    target[lane] = activate(sums[lane], slopes[lane]);
                }
                channel += LANES;
            }
            for channel in channel..channels {
                let mut sum = self.bias[channel];
                for ky in rows.clone() {
                    for kx in columns.clone() {
                        let weight = self.weight[(ky * self.kernel + kx) * channels + channel];
                        sum += image[offset(ky, kx) + channel] * weight;
                    }
                }
                pixel[channel] = activate(sum, self.slopes[channel]);
            }
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
        let arch = pulp::Arch::new();
        output.par_chunks_mut((columns * channels).max(1)).enumerate().for_each(|(index, out)| {
            let image = &input[index / rows * height * width * channels..][..height * width * channels];
            arch.dispatch(
                #[inline(always)]
                || self.row(image, [height, width], index % rows, out),
            );
        });
        Ok((CpuStorage::F32(output), Shape::from((images, rows, columns, channels))))
    }
}
