//! Convolutions without bias on maps (N, C, H, W), and their gradients.
//!
//! - **Full.** Forward is a convolution of candle, cuDNN's on a GPU. The gradient of the input is one too: of the output's
//!   gradient, with zeros between its pixels where the stride is above 1, with turned weights whose inputs and outputs
//!   have changed places. The gradient of the weights is a product of matrices for each tap, over all pixels.
//! - **Channelwise.** candle runs one convolution a channel. Here each tap is a product with the map, and there are few taps.
//! - **Over the whole map,** as the linear layer: one product of matrices, or a product and a sum.
//!
//! Sums are f32 in bf16 too: cuDNN and cuBLAS round once, at the end, and channelwise ones are summed in f32 here.

use candle_core::conv::CudnnFwdAlgo;
use candle_core::{DType, Result, Tensor, bail};
use vultus_engine::kernel::training::Geometry;

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Full,
    Channelwise,
    Whole,
    WholeChannelwise,
}

impl Form {
    fn of(geometry: &Geometry, side: [usize; 2]) -> Self {
        let whole = geometry.padding == [0, 0] && side == [geometry.kernel; 2];
        match (whole, geometry.channelwise) {
            (false, false) => Self::Full,
            (false, true) => Self::Channelwise,
            (true, false) => Self::Whole,
            (true, true) => Self::WholeChannelwise,
        }
    }
}

/// The type that sums are made in.
fn sums(dtype: DType) -> DType {
    if dtype == DType::BF16 { DType::F32 } else { dtype }
}

/// The output (N, O, H', W') for an input and weights (O, C or 1, k, k) of one type, in that type.
pub(super) fn forward(geometry: &Geometry, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (images, channels, height, width) = x.dims4()?;
    let [_, rows, columns, output] = geometry.output_shape([images, height, width, channels])?;
    let [before, after] = geometry.padding;
    match Form::of(geometry, [height, width]) {
        Form::Whole => {
            let weight = weight.reshape((output, ()))?.t()?;
            product(&x.reshape((images, ()))?, &weight)?.reshape((images, output, 1, 1))
        }
        Form::WholeChannelwise => {
            let (dtype, sums) = (x.dtype(), sums(x.dtype()));
            let weight = weight.to_dtype(sums)?.transpose(0, 1)?;
            x.to_dtype(sums)?.broadcast_mul(&weight)?.sum_keepdim((2, 3))?.to_dtype(dtype)
        }
        Form::Channelwise => {
            let dtype = x.dtype();
            let x = x.to_dtype(sums(dtype))?;
            let taps = Taps::new(&x, geometry.kernel, geometry.stride, before as isize, [rows, columns])?;
            taps.weighted(&weight.to_dtype(sums(dtype))?)?.to_dtype(dtype)
        }
        Form::Full if before == after => convolve(x, weight, before, geometry.stride),
        Form::Full => {
            let x = x.pad_with_zeros(2, before, after)?.pad_with_zeros(3, before, after)?;
            convolve(&x, weight, 0, geometry.stride)
        }
    }
}

/// The gradient of the input (N, C, H, W), given its side, from that of the output and the weights, in their type.
pub(super) fn input_gradient(
    geometry: &Geometry,
    gradient: &Tensor,
    weight: &Tensor,
    side: [usize; 2],
) -> Result<Tensor> {
    let (images, output, ..) = gradient.dims4()?;
    let Geometry { kernel, stride, input, padding: [before, _], .. } = *geometry;
    let dtype = gradient.dtype();
    // What a turned kernel needs ahead of the first pixel.
    let ahead = kernel as isize - 1 - before as isize;
    match Form::of(geometry, side) {
        Form::Whole => {
            let of_input = product(&gradient.reshape((images, output))?, &weight.reshape((output, ()))?)?;
            of_input.reshape((images, input, side[0], side[1]))
        }
        Form::WholeChannelwise => gradient.broadcast_mul(&weight.transpose(0, 1)?),
        Form::Channelwise => {
            let gradient = spread(&gradient.to_dtype(sums(dtype))?, stride)?;
            let turned = weight.to_dtype(sums(dtype))?.flip(&[2, 3])?;
            Taps::new(&gradient, kernel, 1, ahead, side)?.weighted(&turned)?.to_dtype(dtype)
        }
        // Pixels that were not read have no gradient, so the zeros come last.
        Form::Full if kernel == 1 => {
            let of_read = convolve(gradient, &weight.transpose(0, 1)?, 0, 1)?;
            let of_input = spread(&of_read, stride)?;
            fit(&fit(&of_input, 2, 0, side[0])?, 3, 0, side[1])
        }
        Form::Full => {
            let turned = weight.flip(&[2, 3])?.transpose(0, 1)?;
            let gradient = spread(gradient, stride)?;
            let wanted = side.map(|side| side + kernel - 1);
            let (_, _, height, width) = gradient.dims4()?;
            let even = |side: usize, wanted: usize| ahead >= 0 && side + 2 * ahead.unsigned_abs() == wanted;
            if even(height, wanted[0]) && even(width, wanted[1]) {
                return convolve(&gradient, &turned, ahead.unsigned_abs(), 1);
            }
            let gradient = fit(&fit(&gradient, 2, ahead, wanted[0])?, 3, ahead, wanted[1])?;
            convolve(&gradient, &turned, 0, 1)
        }
    }
}

/// The gradient of the weights (O, C or 1, k, k) from the input and the output's gradient, in the type of sums.
pub(super) fn weight_gradient(geometry: &Geometry, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    let (images, output, rows, columns) = gradient.dims4()?;
    let (_, _, height, width) = x.dims4()?;
    let Geometry { kernel, stride, input, padding: [before, _], .. } = *geometry;
    let sums = sums(x.dtype());
    match Form::of(geometry, [height, width]) {
        Form::Whole => {
            let of_weight = product(&gradient.reshape((images, output))?.t()?, &x.reshape((images, ()))?)?;
            of_weight.to_dtype(sums)?.reshape((output, input, kernel, kernel))
        }
        Form::WholeChannelwise => {
            let of_weight = x.to_dtype(sums)?.broadcast_mul(&gradient.to_dtype(sums)?)?.sum(0)?;
            of_weight.unsqueeze(1)
        }
        Form::Channelwise => {
            let (x, gradient) = (x.to_dtype(sums)?, gradient.to_dtype(sums)?);
            let taps = Taps::new(&x, kernel, stride, before as isize, [rows, columns])?;
            let of_taps = taps.each(|tap| channel_sums(&(tap * &gradient)?))?;
            Tensor::stack(&of_taps, 1)?.reshape((output, 1, kernel, kernel))
        }
        Form::Full => {
            let taps = Taps::new(x, kernel, stride, before as isize, [rows, columns])?;
            let pixels = rows * columns;
            // Small maps of many channels are one product over the pixels of all images, others one a image: a GPU is
            // kept busy by many sums, and a long one has to be divided.
            let of_taps = if pixels < output.min(input) {
                let gradient = gradient.transpose(0, 1)?.reshape((output, images * pixels))?;
                taps.each(|tap| {
                    product(&gradient, &tap.transpose(0, 1)?.reshape((input, images * pixels))?.t()?)?.to_dtype(sums)
                })?
            } else {
                let gradient = gradient.reshape((images, output, pixels))?;
                taps.each(|tap| {
                    let tap = tap.reshape((images, input, pixels))?.transpose(1, 2)?;
                    product(&gradient, &tap)?.to_dtype(sums)?.sum(0)
                })?
            };
            Tensor::stack(&of_taps, 2)?.reshape((output, input, kernel, kernel))
        }
    }
}

/// The sum over all pixels of each channel of a map, (C). In two steps, so that the first one reads what lies together.
pub(super) fn channel_sums(x: &Tensor) -> Result<Tensor> {
    let (images, channels, height, width) = x.dims4()?;
    x.reshape((images, channels, height * width))?.sum(2)?.sum(0)
}

/// Every `stride`-th row and column of a map.
pub(super) fn every(x: &Tensor, stride: usize) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    if stride == 1 {
        return Ok(x.clone());
    }
    Taps::new(x, 1, stride, 0, [height.div_ceil(stride), width.div_ceil(stride)])?.at(0, 0)
}

/// The gradient of a map (…, H, W) from that of every `stride`-th row and column of it.
pub(super) fn every_back(gradient: &Tensor, stride: usize, [height, width]: [usize; 2]) -> Result<Tensor> {
    if stride == 1 {
        return Ok(gradient.clone());
    }
    fit(&fit(&spread(gradient, stride)?, 2, 0, height)?, 3, 0, width)
}

/// A map with `stride` − 1 rows and columns of zeros behind each of its own.
fn spread(x: &Tensor, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return Ok(x.clone());
    }
    let (images, channels, height, width) = x.dims4()?;
    let x = x.reshape((images, channels, height, 1, width, 1))?;
    let x = x.pad_with_zeros(3, 0, stride - 1)?.pad_with_zeros(5, 0, stride - 1)?;
    x.reshape((images, channels, height * stride, width * stride))
}

/// A map that begins with so many zeros along a dimension, or without so many of its values where negative, and is `total`
/// long.
fn fit(x: &Tensor, dim: usize, ahead: isize, total: usize) -> Result<Tensor> {
    let cut = (-ahead).max(0).unsigned_abs();
    let zeros = ahead.max(0).unsigned_abs();
    let length = x.dim(dim)?.saturating_sub(cut);
    let Some(room) = total.checked_sub(zeros) else { bail!("{zeros} zeros ahead of {total} values") };
    let kept = length.min(room);
    if cut == 0 && kept == x.dim(dim)? && kept == total {
        return Ok(x.clone());
    }
    x.narrow(dim, cut, kept)?.contiguous()?.pad_with_zeros(dim, zeros, room - kept)
}

/// The pixels that each tap of a kernel meets.
struct Taps {
    /// (N, C, H / stride, stride, W / stride, stride), zeros included.
    x: Tensor,
    kernel: usize,
    stride: usize,
    size: [usize; 2],
}

impl Taps {
    /// Of a map with so many zeros ahead, for an output of some rows and columns.
    fn new(x: &Tensor, kernel: usize, stride: usize, ahead: isize, size: [usize; 2]) -> Result<Self> {
        let (images, channels, ..) = x.dims4()?;
        let [height, width] = size.map(|outputs| (kernel - 1) / stride + outputs);
        let x = fit(&fit(x, 2, ahead, height * stride)?, 3, ahead, width * stride)?;
        let x = x.contiguous()?.reshape((images, channels, height, stride, width, stride))?;
        Ok(Self { x, kernel, stride, size })
    }

    /// (N, C, H', W') of one tap.
    fn at(&self, row: usize, column: usize) -> Result<Tensor> {
        let (stride, [rows, columns]) = (self.stride, self.size);
        let x = self.x.narrow(3, row % stride, 1)?.narrow(5, column % stride, 1)?;
        let x = x.narrow(2, row / stride, rows)?.narrow(4, column / stride, columns)?;
        x.squeeze(5)?.squeeze(3)?.contiguous()
    }

    /// Something of every tap, row by row.
    fn each(&self, work: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Vec<Tensor>> {
        (0..self.kernel * self.kernel).map(|tap| work(&self.at(tap / self.kernel, tap % self.kernel)?)).collect()
    }

    /// The sum of all taps, each times its weight (C, 1, k, k).
    fn weighted(&self, weight: &Tensor) -> Result<Tensor> {
        let mut sum: Option<Tensor> = None;
        for row in 0..self.kernel {
            for column in 0..self.kernel {
                let weight = weight.narrow(2, row, 1)?.narrow(3, column, 1)?.transpose(0, 1)?;
                let product = self.at(row, column)?.broadcast_mul(&weight)?;
                sum = Some(match sum {
                    Some(sum) => (sum + product)?,
                    None => product,
                });
            }
        }
        sum.map_or_else(|| bail!("a kernel without taps"), Ok)
    }
}

/// candle multiplies no bf16 on the CPU. There, as on a GPU, sums are f32 and rounded once.
fn is_imitated(x: &Tensor) -> bool {
    x.dtype() == DType::BF16 && x.device().is_cpu()
}

/// A product of matrices, or of as many as there are images.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if is_imitated(a) {
        return a.to_dtype(DType::F32)?.matmul(&b.to_dtype(DType::F32)?)?.to_dtype(DType::BF16);
    }
    a.matmul(b)
}

/// A convolution. cuDNN's algorithm is named: implicit GEMM does not round f32 to TF32, which the mode that candle leaves
/// cuDNN in allows others to, and looking for one costs a call each time. bf16 takes the one with precomputed indices
/// where cuDNN has it for the shape.
fn convolve(x: &Tensor, weight: &Tensor, padding: usize, stride: usize) -> Result<Tensor> {
    if is_imitated(x) {
        let (x, weight) = (x.to_dtype(DType::F32)?, weight.to_dtype(DType::F32)?);
        return convolve(&x, &weight, padding, stride)?.to_dtype(DType::BF16);
    }
    // Only with weights that lie together does candle call cuDNN.
    let weight = weight.contiguous()?;
    let with = |algorithm| x.conv2d_with_algo(&weight, padding, stride, 1, 1, algorithm);
    if x.dtype() == DType::BF16 {
        return with(Some(CudnnFwdAlgo::ImplicitPrecompGemm)).or_else(|_| with(None));
    }
    with(Some(CudnnFwdAlgo::ImplicitGemm))
}
