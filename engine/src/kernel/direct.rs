//! Small convolutions without padding over channels-last activations, with bias and activation in the same pass.
//!
//! For networks with few channels an image-to-column copy costs more than the arithmetic. Here an output row is made in
//! tiles of a few pixels by 16 channels whose sums stay in registers while the taps go by: each tap is two loads of
//! weights and one broadcast for each pixel.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use pulp::Simd;
use rayon::prelude::*;

use super::{Task, activate_all, contiguous, dispatch, registers, write};

/// Output channels of a tile.
const BLOCK: usize = 16;
/// Output pixels of a tile.
const TILE: usize = 6;

/// A square convolution with stride 1: (N, H, W, C) -> (N, H - k + 1, W - k + 1, O).
#[derive(Debug, Clone)]
pub struct Direct {
    kernel: usize,
    input: usize,
    output: usize,
    /// Blocks of 16 outputs, each k * k * C taps (top to bottom, left to right, channel) of 16 values.
    weight: Vec<f32>,
    /// O values, then zeros up to a multiple of 16.
    bias: Vec<f32>,
    /// The same for the slopes of the negative side.
    slopes: Vec<f32>,
}

impl Direct {
    /// Takes `weight` in the order output, input, row, column, and as many values of `bias` and `slopes` (1 is no
    /// activation, 0 is ReLU) as outputs.
    pub fn new(kernel: usize, weight: &[f32], bias: &[f32], slopes: &[f32]) -> Result<Self> {
        let output = bias.len();
        let area = kernel * kernel;
        let input = weight.len() / (output * area).max(1);
        if output == 0 || input == 0 || weight.len() != output * input * area || slopes.len() != output {
            candle_core::bail!("direct: {} weights, {output} biases, {} slopes", weight.len(), slopes.len())
        }
        let (padded, taps) = (output.next_multiple_of(BLOCK), area * input);
        let mut blocks = vec![0f32; padded * taps];
        for (at, value) in weight.iter().enumerate() {
            let (of, channel, cell) = (at / taps, at % taps / area, at % area);
            blocks[(of / BLOCK * taps + cell * input + channel) * BLOCK + of % BLOCK] = *value;
        }
        let padded_to_block = |values: &[f32]| {
            let mut values = values.to_vec();
            values.resize(padded, 0.0);
            values
        };
        let (bias, slopes) = (padded_to_block(bias), padded_to_block(slopes));
        Ok(Self { kernel, input, output, weight: blocks, bias, slopes })
    }
}

/// One output row: `lines` are k input rows of `line` values each, `out` is (W', O).
struct Row<'a> {
    conv: &'a Direct,
    lines: &'a [f32],
    line: usize,
    out: &'a mut [f32],
}

impl Row<'_> {
    /// Sums `G` registers of outputs, from `from` within a block on, for `P` pixels from `at` on.
    #[inline(always)]
    fn sums<S: Simd, const G: usize, const P: usize>(
        &self,
        simd: S,
        at: usize,
        [block, from]: [usize; 2],
    ) -> [[S::f32s; G]; P] {
        let Direct { kernel, input, weight, bias, .. } = self.conv;
        let span = kernel * input;
        let mut sums = [registers::<S, G>(&bias[block * BLOCK + from..]); P];
        for row in 0..*kernel {
            let line = &self.lines[row * self.line + at * input..][..(P - 1) * input + span];
            let weights = &weight[(block * kernel + row) * span * BLOCK..][..span * BLOCK];
            let pixels: [&[f32]; P] = std::array::from_fn(
                #[inline(always)]
                |pixel| &line[pixel * input..][..span],
            );
            for (tap, weights) in weights.chunks_exact(BLOCK).enumerate() {
                let weights = registers::<S, G>(&weights[from..]);
                for pixel in 0..P {
                    let value = simd.splat_f32s(pixels[pixel][tap]);
                    for register in 0..G {
                        sums[pixel][register] = simd.mul_add_f32s(value, weights[register], sums[pixel][register]);
                    }
                }
            }
        }
        sums
    }

    /// `P` pixels from `at` on, the outputs of a block.
    #[inline(always)]
    fn tile<S: Simd, const G: usize, const P: usize>(&mut self, simd: S, at: usize, block: usize) {
        let mut values = [[0f32; BLOCK]; P];
        let mut from = 0;
        while from < BLOCK {
            let sums = self.sums::<S, G, P>(simd, at, [block, from]);
            for (values, sums) in values.iter_mut().zip(sums) {
                write::<S, G>(sums, &mut values[from..]);
            }
            from += G * S::F32_LANES;
        }
        let (outputs, first) = (self.conv.output, block * BLOCK);
        let wanted = (outputs - first).min(BLOCK);
        for (pixel, values) in values.iter_mut().enumerate() {
            activate_all(values, &self.conv.slopes[first..first + BLOCK]);
            self.out[(at + pixel) * outputs + first..][..wanted].copy_from_slice(&values[..wanted]);
        }
    }

    /// The whole row in tiles of `P` pixels.
    #[inline(always)]
    fn all<S: Simd, const G: usize, const P: usize>(mut self, simd: S) {
        let columns = self.out.len() / self.conv.output;
        for block in 0..self.conv.bias.len() / BLOCK {
            let mut at = 0;
            while at + P <= columns {
                self.tile::<S, G, P>(simd, at, block);
                at += P;
            }
            if at < columns && columns >= P {
                // The last tile may overlap the one before: the same pixels get the same values again.
                self.tile::<S, G, P>(simd, columns - P, block);
                at = columns;
            }
            while at < columns {
                self.tile::<S, G, 1>(simd, at, block);
                at += 1;
            }
        }
    }
}

impl Task for Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if S::F32_LANES >= BLOCK {
            self.all::<S, 1, { 2 * TILE }>(simd);
        } else {
            self.all::<S, 2, TILE>(simd);
        }
    }
}

impl CustomOp1 for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let input = contiguous(self.name(), storage, layout)?;
        let (images, height, width, channels) = layout.shape().dims4()?;
        if channels != self.input || height < self.kernel || width < self.kernel {
            candle_core::bail!("direct: ({height}, {width}, {channels}) does not fit the weights")
        }
        let (rows, columns) = (height - self.kernel + 1, width - self.kernel + 1);
        let line = width * channels;
        let mut output = vec![0f32; images * rows * columns * self.output];
        output.par_chunks_mut(columns * self.output).enumerate().for_each(|(index, out)| {
            let first = (index / rows * height + index % rows) * line;
            dispatch(Row { conv: self, lines: &input[first..first + self.kernel * line], line, out });
        });
        Ok((CpuStorage::F32(output), Shape::from((images, rows, columns, self.output))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    /// Seeded values in -1 to 1.
    fn values(count: usize, seed: u32) -> Vec<f32> {
        let hash = |i: u32| i.wrapping_add(seed).wrapping_mul(0x9e37_79b1).rotate_left(13).wrapping_mul(0x85eb_ca6b);
        (0..count as u32).map(|i| f64::from(hash(i) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    #[test]
    fn equals_candles_convolution() {
        let cpu = &Device::Cpu;
        for (channels, outputs, kernel, height, width) in
            [(3, 10, 3, 9, 31), (10, 16, 3, 5, 4), (48, 64, 2, 4, 9), (5, 28, 1, 3, 7), (2, 33, 3, 3, 3)]
        {
            let weight = values(outputs * channels * kernel * kernel, 1);
            let (bias, slopes) = (values(outputs, 2), values(outputs, 3));
            let input = Tensor::from_vec(values(2 * channels * height * width, 4), (2, channels, height, width), cpu);
            let input = input.unwrap();
            let direct = Direct::new(kernel, &weight, &bias, &slopes).unwrap();
            let found = input.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().apply_op1_no_bwd(&direct).unwrap();
            let found = found.permute((0, 3, 1, 2)).unwrap();
            let weight = Tensor::from_vec(weight, (outputs, channels, kernel, kernel), cpu).unwrap();
            let per_channel = |values| Tensor::from_vec(values, (1, outputs, 1, 1), cpu).unwrap();
            let expected = input.conv2d(&weight, 0, 1, 1, 1).unwrap().broadcast_add(&per_channel(bias)).unwrap();
            let negative = expected.minimum(0f32).unwrap().broadcast_mul(&per_channel(slopes)).unwrap();
            let expected = (expected.relu().unwrap() + negative).unwrap();
            assert_eq!(found.dims(), expected.dims());
            let worst = (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(worst < 1e-5, "{channels} {outputs} {kernel}: {worst}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Direct::new(3, &[0.0; 17], &[0.0; 2], &[0.0; 2]).is_err());
        let direct = Direct::new(3, &[0.0; 18], &[0.0; 2], &[0.0; 2]).unwrap();
        for shape in [(1, 2, 5, 1), (1, 5, 5, 2)] {
            let input = Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
            assert!(input.apply_op1_no_bwd(&direct).is_err());
        }
    }
}
