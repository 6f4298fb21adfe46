//! Maximum over squares of a channels-last feature map, the edges included.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};
use pulp::Simd;
use rayon::prelude::*;

use super::{Task, contiguous, dispatch};

/// Largest of each square of `side` by `side` cells, one square every 2 cells: (N, H, W, C) -> (N, H', W', C). Squares
/// that the lower or right edge cuts count too, as if the map went on with minus infinity:
/// H' = ceil((H - side) / 2) + 1.
#[derive(Debug, Clone, Copy)]
pub struct MaxPoolCeil {
    /// Side of the square, 2 or more.
    pub side: usize,
}

/// Distance of neighbouring squares.
const STRIDE: usize = 2;

impl MaxPoolCeil {
    /// Output cells along an axis of `input` cells.
    pub fn output_size(&self, input: usize) -> usize {
        if input == 0 { 0 } else { input.saturating_sub(self.side).div_ceil(STRIDE) + 1 }
    }
}

impl CustomOp1 for MaxPoolCeil {
    fn name(&self) -> &'static str {
        "max-pool-ceil"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let input = contiguous(self.name(), storage, layout)?;
        let (images, height, width, channels) = layout.shape().dims4()?;
        if channels == 0 {
            candle_core::bail!("max-pool-ceil: no channels")
        }
        let (rows, columns) = (self.output_size(height), self.output_size(width));
        let mut output = vec![0f32; images * rows * columns * channels];
        output.par_chunks_mut((columns * channels).max(1)).enumerate().for_each(|(index, out)| {
            let top = index % rows * STRIDE;
            let first = (index / rows * height + top) * width * channels;
            let lines = self.side.min(height - top);
            let lines = &input[first..first + lines * width * channels];
            dispatch(Row { side: self.side, lines, width, channels, out });
        });
        Ok((CpuStorage::F32(output), Shape::from((images, rows, columns, channels))))
    }
}

/// One output row from the input rows that its squares cover.
struct Row<'a> {
    side: usize,
    lines: &'a [f32],
    width: usize,
    channels: usize,
    out: &'a mut [f32],
}

impl Task for Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let channels = self.channels;
        for (column, pixel) in self.out.chunks_exact_mut(channels).enumerate() {
            let left = column * STRIDE;
            let right = (left + self.side).min(self.width);
            pixel.fill(f32::NEG_INFINITY);
            for line in self.lines.chunks_exact(self.width * channels) {
                for cell in line[left * channels..right * channels].chunks_exact(channels) {
                    for (largest, value) in pixel.iter_mut().zip(cell) {
                        *largest = if *value > *largest { *value } else { *largest };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn cut_squares_count() {
        let pooled = |side, height, width| {
            let values: Vec<f32> = (0..height * width).map(|i| -1.0 - i as f32).collect();
            let input = Tensor::from_vec(values, (1, height, width, 1), &Device::Cpu).unwrap();
            let output = input.apply_op1_no_bwd(&MaxPoolCeil { side }).unwrap();
            output.squeeze(3).unwrap().squeeze(0).unwrap().to_vec2::<f32>().unwrap()
        };
        assert_eq!(pooled(2, 3, 3), [[-1.0, -3.0], [-7.0, -9.0]]);
        assert_eq!(pooled(2, 2, 4), [[-1.0, -3.0]]);
        assert_eq!(pooled(3, 4, 5), [[-1.0, -3.0], [-11.0, -13.0]]);
        assert_eq!([22, 9, 46, 21, 8].map(|size| MaxPoolCeil { side: 3 }.output_size(size)), [11, 4, 23, 10, 4]);
    }
}
