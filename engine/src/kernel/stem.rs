//! The first convolution of a network: few input channels in planes, many output channels last.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use pulp::Simd;
use rayon::prelude::*;

use super::depthwise::taps;
use super::{Task, activate_all, contiguous, dispatch, registers, write};

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
    /// Copies what the kernel sees from (`top`, `left`) on, padding included, into `patch`.
    #[inline(always)]
    fn gather(&self, image: &[f32], [height, width]: [usize; 2], [top, left]: [usize; 2], patch: &mut [f32]) {
        let (kernel, before) = (self.kernel, self.padding[0]);
        let (rows, columns) = (taps(top, before, kernel, height), taps(left, before, kernel, width));
        if rows.len() < kernel || columns.len() < kernel {
            patch.fill(0.0);
        }
        for channel in 0..self.input {
            for ky in rows.clone() {
                let from = (channel * height + top + ky - before) * width + left + columns.start - before;
                let to = (channel * kernel + ky) * kernel + columns.start;
                for (to, from) in patch[to..].iter_mut().zip(&image[from..from + columns.len()]) {
                    *to = *from;
                }
            }
        }
    }

    /// Sums `G` registers of outputs from `output` on.
    #[inline(always)]
    fn sum<S: Simd, const G: usize>(&self, simd: S, patch: &[f32], output: usize, pixel: &mut [f32]) {
        let outputs = self.bias.len();
        let mut sums = registers::<S, G>(&self.bias[output..]);
        for (value, weights) in patch.iter().zip(self.weight.chunks_exact(outputs)) {
            let value = simd.splat_f32s(*value);
            let weights = registers::<S, G>(&weights[output..]);
            for register in 0..G {
                sums[register] = simd.mul_add_f32s(value, weights[register], sums[register]);
            }
        }
        write::<S, G>(sums, &mut pixel[output..]);
    }
}

/// One output row: `image` is (C, H, W), `size` its height and width, `out` is (W', O), `patch` holds C * kernel².
struct Row<'a> {
    stem: &'a Stem,
    image: &'a [f32],
    size: [usize; 2],
    row: usize,
    patch: &'a mut [f32],
    out: &'a mut [f32],
}

impl Task for Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Stem { stride, weight, bias, slopes, .. } = self.stem;
        let outputs = bias.len();
        for (column, pixel) in self.out.chunks_exact_mut(outputs).enumerate() {
            self.stem.gather(self.image, self.size, [self.row * stride, column * stride], self.patch);
            let mut output = 0;
            while output + 2 * S::F32_LANES <= outputs {
                self.stem.sum::<S, 2>(simd, self.patch, output, pixel);
                output += 2 * S::F32_LANES;
            }
            for (output, target) in pixel.iter_mut().enumerate().skip(output) {
                let weights = weight.chunks_exact(outputs).map(|weights| weights[output]);
                *target =
                    bias[output] + self.patch.iter().zip(weights).map(|(value, weight)| value * weight).sum::<f32>();
            }
            activate_all(pixel, slopes);
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
        let patch = || vec![0f32; self.input * self.kernel * self.kernel];
        output.par_chunks_mut((columns * outputs).max(1)).enumerate().for_each_init(patch, |patch, (index, out)| {
            let image = &input[index / rows * channels * height * width..][..channels * height * width];
            dispatch(Row { stem: self, image, size: [height, width], row: index % rows, patch, out });
        });
        Ok((CpuStorage::F32(output), Shape::from((images, rows, columns, outputs))))
    }
}
