//! The first convolution of a network: few input channels in planes, many output channels last.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use rayon::prelude::*;

use super::depthwise::taps;
use super::{LANES, activate, contiguous};

/// A square convolution (N, C, H, W) -> (N, H', W', O) with bias and activation.
#[derive(Debug, Clone)]
pub struct Stem {
    /// Side of the kernel.
    pub kernel: usize,
    /// Step in both directions.
    pub stride: usize,
    /// Zeros above and left, then below and right.
    pub padding: [usize; 2],
    /// Number of input channels C.
    pub input: usize,
    /// C * kernel² rows (channel, top to bottom, left to right) of O values.
    pub weight: Vec<f32>,
    /// O values.
    pub bias: Vec<f32>,
    /// O slopes of the negative side: 1 is no activation, 0 is ReLU.
    pub slopes: Vec<f32>,
}

impl Stem {
    /// One output row: `image` is (C, H, W), `out` is (W', O), `patch` holds C * kernel² values.
    #[inline(always)]
    fn row(&self, image: &[f32], [height, width]: [usize; 2], row: usize, patch: &mut [f32], out: &mut [f32]) {
        let outputs = self.bias.len();
        let (kernel, before) = (self.kernel, self.padding[0]);
        let top = row * self.stride;
        let rows = taps(top, before, kernel, height);
        for (column, pixel) in out.chunks_exact_mut(outputs).enumerate() {
            let left = column * self.stride;
            let columns = taps(left, before, kernel, width);
            patch.fill(0.0);
            for channel in 0..self.input {
                for ky in rows.clone() {
                    let line = &image[(channel * height + top + ky - before) * width..][..width];
                    for kx in columns.clone() {
                        patch[(channel * kernel + ky) * kernel + kx] = line[left + kx - before];
                    }
                }
            }
            let mut output = 0;
            while output + LANES <= outputs {
                let mut sums = [0f32; LANES];
                sums.copy_from_slice(&self.bias[output..output + LANES]);
                for (tap, value) in patch.iter().enumerate() {
                    let weights = &self.weight[tap * outputs + output..][..LANES];
                    for lane in 0..LANES {
                        sums[lane] += value * weights[lane];
                    }
                }
                let slopes = &self.slopes[output..output + LANES];
                let target = &mut pixel[output..output + LANES];
                for lane in 0..LANES {
                    target[lane] = activate(sums[lane], slopes[lane]);
                }
                output += LANES;
            }
            for (output, target) in pixel.iter_mut().enumerate().skip(output) {
                let mut sum = self.bias[output];
                for (tap, value) in patch.iter().enumerate() {
                    sum += value * self.weight[tap * outputs + output];
                }
                *target = activate(sum, self.slopes[output]);
            }
        }
    }
}

impl CustomOp1 for Stem {
    fn name(&self) -> &'static str {
        "stem"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let input = contiguous(self.name(), storage, layout)?;
        let (images, channels, height, width) = layout.shape().dims4()?;
        let padding = self.padding[0] + self.padding[1];
        if channels != self.input || height + padding < self.kernel || width + padding < self.kernel {
            candle_core::bail!("stem: ({channels}, {height}, {width}) does not fit the weights")
        }
        let rows = (height + padding - self.kernel) / self.stride + 1;
        let columns = (width + padding - self.kernel) / self.stride + 1;
        let outputs = self.bias.len();
        let mut output = vec![0f32; images * rows * columns * outputs];
        let arch = pulp::Arch::new();
        let patch = || vec![0f32; self.input * self.kernel * self.kernel];
        output.par_chunks_mut((columns * outputs).max(1)).enumerate().for_each_init(patch, |patch, (index, out)| {
            let image = &input[index / rows * channels * height * width..][..channels * height * width];
            arch.dispatch(
                #[inline(always)]
                || self.row(image, [height, width], index % rows, patch, out),
            );
        });
        Ok((CpuStorage::F32(output), Shape::from((images, rows, columns, outputs))))
    }
}
