//! Convolutions in candle's operations, arranged for a GPU.
//!
//! A GPU multiplies faster than it reads maps, and every operation reads and writes its map and costs a launch. So a
//! convolution here is one call of cuDNN, one sum and at most one product and one maximum:
//!
//! - What scales and shifts the input ahead of the zeros is folded: the scale into the weights, exactly, as zeros stay
//!   zeros, the shift into the biases. They differ where a kernel reaches over the border, so they become a map, which is
//!   added as any bias is.
//! - candle runs a depthwise convolution as one convolution for each channel. Here it is one full convolution whose other
//!   weights are zero, which adds products and no launches; one that covers the whole map is a product and a sum.
//! - Zeros on two sides only are zeros on all sides and a kernel that begins or ends with zeros.
//! - PReLU is the larger of x and slope * x where the slope is at most 1, and the smaller where it is above.
//!
//! The algorithm of cuDNN is named rather than looked for on each call. candle leaves cuDNN's mode of computation at its
//! default, which lets algorithms of tensor cores round f32 to TF32, 10 bits. Implicit GEMM, by cuDNN's documentation,
//! is not one of them and knows every shape, so it is what f32 takes. bf16 takes the one with precomputed
//! indices, which is, where cuDNN has it for a shape, and cuDNN's choice otherwise.
//!
//! Nothing here is for GPUs only: tests run it on the CPU.

use candle_core::conv::CudnnFwdAlgo;
use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::conv::{CandleConv, ConvSpec, Kind};
use super::convolution::Given;
use super::given::Border;
use super::network::Tensors;

/// A convolution with bias and activation, (N, C, H, W) -> (N, O, H', W').
#[derive(Debug, Clone)]
pub struct GpuConv {
    products: Products,
    /// (1, O, 1, 1), or (1, O, H', W') where the input's shift is in it; none where all are zero.
    bias: Option<Tensor>,
    activation: Finish,
    types: Types,
}

/// What a convolution computes in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Types {
    /// Maps and weights.
    pub(crate) products: DType,
    /// Bias and activation, rounded to the type of the maps once.
    pub(crate) finish: DType,
}

/// One type for everything.
impl From<DType> for Types {
    fn from(dtype: DType) -> Self {
        Self { products: dtype, finish: dtype }
    }
}

#[derive(Debug, Clone)]
enum Products {
    /// (O, C, k, k).
    Full { weight: Tensor, stride: usize, padding: usize, algorithm: Option<CudnnFwdAlgo> },
    /// One filter for each channel that covers the whole map: (1, C, H, W).
    Whole(Tensor),
}

#[derive(Debug, Clone)]
enum Finish {
    None,
    Relu,
    /// No slope (1, O, 1, 1) is above 1.
    Larger(Tensor),
    /// Slopes, and -1 where they are above 1, else 1: (1, O, 1, 1).
    Either(Tensor, Tensor),
}

impl Finish {
    fn new(slopes: Option<&[f32]>, device: &Device, dtype: DType) -> Result<Self> {
        let Some(slopes) = slopes else { return Ok(Self::None) };
        if slopes.iter().all(|slope| *slope == 0.0) {
            return Ok(Self::Relu);
        }
        let tensor = across(slopes, device, dtype)?;
        if slopes.iter().all(|slope| *slope <= 1.0) {
            return Ok(Self::Larger(tensor));
        }
        let signs: Vec<f32> = slopes.iter().map(|slope| if *slope > 1.0 { -1.0 } else { 1.0 }).collect();
        Ok(Self::Either(tensor, across(&signs, device, dtype)?))
    }

    fn apply(&self, x: Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(x),
            Self::Relu => x.relu(),
            Self::Larger(slopes) => x.maximum(&x.broadcast_mul(slopes)?),
            Self::Either(slopes, signs) => {
                let x = x.broadcast_mul(signs)?;
                x.maximum(&x.broadcast_mul(slopes)?)?.broadcast_mul(signs)
            }
        }
    }
}

/// One value a channel, as (1, C, 1, 1).
fn across(values: &[f32], device: &Device, dtype: DType) -> Result<Tensor> {
    Tensor::from_slice(values, (1, values.len(), 1, 1), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

impl GpuConv {
    /// From numbers, onto a device in f32 or bf16. `sides` are height and width of the input.
    pub(crate) fn new(given: &Given, sides: [usize; 2], device: &Device, types: impl Into<Types>) -> Result<Self> {
        let types @ Types { products: dtype, finish } = types.into();
        let Given { kernel, stride, padding: [before, after], input, output, .. } = *given;
        let bias = match given.lead {
            None if given.bias.iter().all(|bias| *bias == 0.0) => None,
            None => Some(across(given.bias, device, finish)?),
            Some(_) => Some(bias_map(given, sides)?.to_dtype(finish)?.to_device(device)?),
        };
        // Zeros ahead of the kernel push it down and right, zeros behind it reach further: either way `most` on all sides
        // gives the same sums and as many.
        let most = before.max(after);
        let wide = kernel + before.abs_diff(after);
        let skip = most - before;
        let mut weight = vec![0f32; output * input * wide * wide];
        for (plane, weight) in weight.chunks_exact_mut(wide * wide).enumerate() {
            for row in 0..kernel {
                for column in 0..kernel {
                    let value = given.tap(plane / input, plane % input, row, column);
                    weight[(row + skip) * wide + column + skip] = value;
                }
            }
        }
        let weight = Tensor::from_vec(weight, (output, input, wide, wide), &Device::Cpu)?;
        let weight = weight.to_dtype(dtype)?.to_device(device)?;
        let algorithm = algorithm(&weight, sides, stride, most)?;
        let products = Products::Full { weight, stride, padding: most, algorithm };
        Ok(Self { products, bias, activation: Finish::new(given.slopes, device, finish)?, types })
    }
}

/// Bias and what the shift of the input adds, for each output pixel: (1, O, H', W').
fn bias_map(given: &Given, [height, width]: [usize; 2]) -> Result<Tensor> {
    let Given { kernel, stride, padding: [before, after], output, .. } = *given;
    let size = |side: usize| (side + before + after - kernel) / stride + 1;
    let (rows, columns) = (size(height), size(width));
    let biases = given.biases();
    let padded = biases.len() / Border::COUNT;
    let mut map = Vec::with_capacity(output * rows * columns);
    for output in 0..output {
        for row in 0..rows {
            for column in 0..columns {
                let place = [row * stride, column * stride];
                let Border(border) = Border::of(place, kernel, before, [height, width]);
                map.push(biases[border * padded + output]);
            }
        }
    }
    Tensor::from_vec(map, (1, output, rows, columns), &Device::Cpu)
}

/// See the module.
fn algorithm(weight: &Tensor, sides: [usize; 2], stride: usize, padding: usize) -> Result<Option<CudnnFwdAlgo>> {
    let (device, dtype) = (weight.device(), weight.dtype());
    if dtype == DType::F32 || device.is_cpu() {
        return Ok(Some(CudnnFwdAlgo::ImplicitGemm));
    }
    let fast = Some(CudnnFwdAlgo::ImplicitPrecompGemm);
    let trial = Tensor::zeros((1, weight.dim(1)?, sides[0], sides[1]), dtype, device)?;
    let runs = trial.conv2d_with_algo(weight, padding, stride, 1, 1, fast).is_ok();
    Ok(if runs { fast } else { None })
}

/// Whether a convolution and a product of matrices by one give each value back as it was. With f32 they do unless
/// products are rounded to TF32, as not every value has 10 bits. Calls every library that networks need.
pub fn keeps_values(device: &Device, dtype: DType) -> Result<bool> {
    const CHANNELS: usize = 64;
    let sides = [14, 14];
    let mut ones = vec![0f32; CHANNELS * CHANNELS * 9];
    ones.iter_mut().skip(4).step_by((CHANNELS + 1) * 9).for_each(|centre| *centre = 1.0);
    let given = Given {
        kernel: 3,
        stride: 1,
        padding: [1, 1],
        input: CHANNELS,
        output: CHANNELS,
        weight: &ones,
        bias: &[0.0; CHANNELS],
        slopes: None,
        lead: None,
    };
    let count = CHANNELS * sides[0] * sides[1];
    // Between 1 and 2, in steps of a third of the last of 14 bits.
    let values: Vec<f32> = (0..count).map(|index| 1.0 + index as f32 / 49_152.0).collect();
    let x = Tensor::from_vec(values, (1, CHANNELS, sides[0], sides[1]), &Device::Cpu)?.to_dtype(dtype)?;
    let expected = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let x = x.to_device(device)?;
    let convolved = GpuConv::new(&given, sides, device, dtype)?.forward(&x)?;
    let flat = x.to_dtype(DType::F32)?.reshape((CHANNELS, sides[0] * sides[1]))?;
    let multiplied = Tensor::eye(CHANNELS, DType::F32, device)?.matmul(&flat)?;
    let same =
        |y: Tensor| Ok::<_, candle_core::Error>(y.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()? == expected);
    Ok(same(convolved)? && same(multiplied)?)
}

impl CandleConv for GpuConv {
    fn load(spec: &ConvSpec, vb: &VarBuilder) -> Result<Self> {
        let (device, dtype) = (vb.device(), DType::F32);
        let tensors = Tensors::load(spec, vb)?;
        let given = tensors.given(spec, None);
        if spec.kind != Kind::Depthwise {
            // Without a lead and in f32, nothing depends on the sides.
            return Self::new(&given, [spec.kernel; 2], device, dtype);
        }
        let area = spec.kernel * spec.kernel;
        if spec.kernel > 3 && spec.padding == [0, 0] {
            let shape = (1, spec.input, spec.kernel, spec.kernel);
            let weight = Tensor::from_slice(given.weight, shape, &Device::Cpu)?.to_device(device)?;
            let bias = Some(across(given.bias, device, dtype)?);
            let activation = Finish::new(given.slopes, device, dtype)?;
            return Ok(Self { products: Products::Whole(weight), bias, activation, types: dtype.into() });
        }
        let mut full = vec![0f32; spec.input * spec.input * area];
        for (channel, filter) in given.weight.chunks_exact(area).enumerate() {
            full[(channel * spec.input + channel) * area..][..area].copy_from_slice(filter);
        }
        Self::new(&Given { weight: &full, ..given }, [spec.kernel; 2], device, dtype)
    }
}

impl Module for GpuConv {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let sums = match &self.products {
            Products::Full { weight, stride, padding, algorithm } => {
                let convolve = |x: &Tensor, weight| x.conv2d_with_algo(weight, *padding, *stride, 1, 1, *algorithm);
                // candle does not multiply bf16 on the CPU. As on a GPU, sums are f32 and rounded once.
                if x.device().is_cpu() && x.dtype() == DType::BF16 {
                    convolve(&x.to_dtype(DType::F32)?, &weight.to_dtype(DType::F32)?)?.to_dtype(DType::BF16)?
                } else {
                    convolve(x, weight)?
                }
            }
            Products::Whole(weight) => {
                if x.dims()[2..] != weight.dims()[2..] {
                    candle_core::bail!("a filter over the whole map of {:?} met {:?}", weight.shape(), x.shape())
                }
                x.broadcast_mul(weight)?.sum_keepdim((2, 3))?
            }
        };
        let sums = sums.to_dtype(self.types.finish)?;
        let sums = match &self.bias {
            Some(bias) => sums.broadcast_add(bias)?,
            None => sums,
        };
        self.activation.apply(sums)?.to_dtype(self.types.products)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::conv::{Activation, StockConv};
    use crate::model::fill::uniform;

    fn values(stream: u32, count: usize) -> Vec<f32> {
        (0..count as u32).map(|index| (2.0 * uniform(stream, index) - 1.0) as f32).collect()
    }

    /// Plain sums in double precision: scale and shift, zeros, products, bias, slope.
    fn plain(given: &Given, x: &[f32], [height, width]: [usize; 2]) -> Vec<f32> {
        let Given { kernel, stride, padding: [before, after], input, output, .. } = *given;
        let size = |side: usize| (side + before + after - kernel) / stride + 1;
        let mut result = Vec::new();
        for output in 0..output {
            for row in 0..size(height) {
                for column in 0..size(width) {
                    let mut sum = f64::from(given.bias[output]);
                    for input_channel in 0..input {
                        for (ky, kx) in (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (ky, kx))) {
                            let (y, x_at) = (row * stride + ky, column * stride + kx);
                            let inside =
                                (before..height + before).contains(&y) && (before..width + before).contains(&x_at);
                            if !inside {
                                continue;
                            }
                            let value = x[(input_channel * height + y - before) * width + x_at - before];
                            let [scale, shift] = given.lead.map_or([1.0, 0.0], |lead| lead.map(|of| of[input_channel]));
                            let at = ((output * input + input_channel) * kernel + ky) * kernel + kx;
                            let value = f64::from(value) * f64::from(scale) + f64::from(shift);
                            sum += f64::from(given.weight[at]) * value;
                        }
                    }
                    let slope = given.slopes.map_or(1.0, |slopes| f64::from(slopes[output]));
                    result.push(if sum > 0.0 { sum } else { slope * sum } as f32);
                }
            }
        }
        result
    }

    fn worst(found: &Tensor, expected: &[f32]) -> f32 {
        let found = found.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(found.len(), expected.len());
        found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn convolutions_are_plain_sums(
            (input, output) in (1usize..6, 1usize..6),
            kernel in 1usize..4,
            stride in 1usize..3,
            padding in prop::array::uniform2(0usize..2),
            sides in prop::array::uniform2(3usize..9),
            (scaled, slopes) in (any::<bool>(), 0usize..4),
        ) {
            let padding = padding.map(|zeros| zeros.min(kernel - 1));
            let weight = values(1, output * input * kernel * kernel);
            let (bias, scale, shift) = (values(2, output), values(3, input), values(4, input));
            // None, those of ReLU, usual ones, and some above 1.
            let slope = |at: usize, value: f32| match slopes {
                1 => 0.0,
                2 => value,
                _ if at == 0 => 1.5,
                _ => value,
            };
            let slope: Vec<f32> = values(5, output).into_iter().enumerate().map(|(at, v)| slope(at, v)).collect();
            let given = Given {
                kernel, stride, padding, input, output,
                weight: &weight,
                bias: &bias,
                slopes: (slopes > 0).then_some(&slope[..]),
                lead: scaled.then_some([&scale[..], &shift[..]]),
            };
            let x = values(6, 2 * input * sides[0] * sides[1]);
            let shape = (2, input, sides[0], sides[1]);
            let tensor = Tensor::from_slice(&x, shape, &Device::Cpu).unwrap();
            let conv = GpuConv::new(&given, sides, &Device::Cpu, DType::F32).unwrap();
            let found = conv.forward(&tensor).unwrap();
            let expected: Vec<f32> =
                x.chunks_exact(x.len() / 2).flat_map(|image| plain(&given, image, sides)).collect();
            prop_assert!(worst(&found, &expected) < 1e-5);
            let short = GpuConv::new(&given, sides, &Device::Cpu, DType::BF16).unwrap();
            let found = short.forward(&tensor.to_dtype(DType::BF16).unwrap()).unwrap();
            prop_assert_eq!(found.dtype(), DType::BF16);
            prop_assert!(worst(&found, &expected) < 0.03 * (kernel * kernel * input) as f32);
        }
    }

    #[test]
    fn one_filter_a_channel_is_one_convolution() {
        for (kernel, padding, stride, side) in
            [(3, [1, 1], 1, 6), (3, [1, 1], 2, 6), (3, [0, 1], 2, 6), (7, [0, 0], 1, 7), (3, [1, 1], 1, 5)]
        {
            let spec = ConvSpec { kernel, padding, stride, ..ConvSpec::depthwise("dw".into(), 5, Activation::PRelu) };
            let tensor = |(stream, (name, shape)): (usize, (String, Vec<usize>))| {
                let values = values(stream as u32, shape.iter().product());
                (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
            };
            let tensors = spec.tensors().into_iter().enumerate().map(tensor).collect();
            let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
            let x = Tensor::from_vec(values(9, 2 * 5 * side * side), (2, 5, side, side), &Device::Cpu).unwrap();
            let expected = StockConv::load(&spec, &vb).unwrap().forward(&x).unwrap();
            let found = GpuConv::load(&spec, &vb).unwrap().forward(&x).unwrap();
            assert_eq!(found.dims(), expected.dims());
            assert!(worst(&found, &expected.flatten_all().unwrap().to_vec1::<f32>().unwrap()) < 1e-5);
        }
    }

    #[test]
    fn a_cpu_keeps_values() {
        assert!(keeps_values(&Device::Cpu, DType::F32).unwrap());
        assert!(keeps_values(&Device::Cpu, DType::BF16).unwrap());
    }

    #[test]
    fn a_nan_stays_one() {
        for slopes in [[0.25], [1.5]] {
            let x = Tensor::new(&[[[[f32::NAN, -1.0]]]], &Device::Cpu).unwrap();
            let finish = Finish::new(Some(&slopes), &Device::Cpu, DType::F32).unwrap();
            let found = finish.apply(x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(found[0].is_nan() && found[1] == -slopes[0], "{found:?}");
        }
    }
}
