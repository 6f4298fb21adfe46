//! The convolution of a residual network: square, every output from every input channel, channels last.
//!
//! It is computed directly, without the columns of a general convolution. The input is copied once into a frame of
//! zeros, so that what a tap of the kernel sees of a pixel is a slice of channels at a fixed distance. Six pixels by
//! sixty-four output channels are summed in registers, over one tap and sixty-four input channels at a time, whose
//! weights then stay in the nearest cache while all pixels of a task pass by.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use pulp::Simd;
use rayon::prelude::*;

use super::conv::ConvSpec;
use super::{Task, activate_all, contiguous, dispatch, registers, write};

/// Output channels whose weights lie side by side; the number of outputs is a multiple.
pub const PANEL: usize = 64;
/// Input channels summed in one go.
const DEPTH: usize = 64;
/// Pixels summed in one go.
const GROUP: usize = 6;
/// Pixels of one task, at most.
const PIXELS: usize = 16 * GROUP;

/// A square convolution (N, H, W, C) -> (N, H', W', O) with bias and activation. With a second tensor of the output's
/// shape, that is added in the end.
#[derive(Debug, Clone)]
pub struct Square {
    kernel: usize,
    stride: usize,
    padding: [usize; 2],
    input: usize,
    output: usize,
    /// For each panel of outputs, for each tap (top to bottom, left to right), C rows of [`PANEL`] values.
    weight: Vec<f32>,
    bias: Vec<f32>,
    /// Slopes of the negative side; none is no activation.
    slopes: Option<Vec<f32>>,
    /// Scale and shift of each input channel, ahead of the zeros.
    lead: Option<[Vec<f32>; 2]>,
}

impl Square {
    /// Loads a convolution. `lead` scales and shifts its input channels before zeros are put around them.
    pub fn load(spec: &ConvSpec, lead: Option<[Vec<f32>; 2]>, vb: &VarBuilder) -> Result<Self> {
        let ConvSpec { kernel, stride, padding, input, output, .. } = *spec;
        if !output.is_multiple_of(PANEL) || lead.iter().flatten().any(|values| values.len() != input) {
            candle_core::bail!("{}: {output} outputs of {input} inputs do not fit the kernel", spec.name)
        }
        let vb = vb.pp(&spec.name);
        let weight = vb.get(&spec.weight_shape(), "weight")?;
        // (panels, PANEL, C, taps) -> (panels, taps, C, PANEL).
        let weight = weight.reshape((output / PANEL, PANEL, input, kernel * kernel))?.permute((0, 3, 2, 1))?;
        let slopes = spec.slopes(&vb)?;
        Ok(Self {
            kernel,
            stride,
            padding,
            input,
            output,
            weight: weight.contiguous()?.flatten_all()?.to_vec1()?,
            bias: vb.get(output, "bias")?.to_vec1()?,
            slopes: slopes.iter().any(|slope| *slope != 1.0).then_some(slopes),
            lead,
        })
    }

    /// (N, H, W, C) -> (N, H', W', O), plus `other` of that shape.
    pub fn forward(&self, input: &Tensor, other: Option<&Tensor>) -> Result<Tensor> {
        match other {
            Some(other) => input.apply_op2_no_bwd(other, self),
            None => input.apply_op1_no_bwd(self),
        }
    }

    /// The input scaled, shifted and framed: (N, H + padding, W + padding, C).
    fn framed(&self, input: &[f32], [images, height, width]: [usize; 3]) -> Vec<f32> {
        let [before, after] = self.padding;
        let (rows, line) = (height + before + after, (width + before + after) * self.input);
        let mut framed = vec![0f32; images * rows * line];
        framed.par_chunks_mut(line.max(1)).enumerate().for_each(|(index, to)| {
            let (image, row) = (index / rows, index % rows);
            if (before..before + height).contains(&row) {
                let from = &input[(image * height + row - before) * width * self.input..][..width * self.input];
                let to = &mut to[before * self.input..][..width * self.input];
                dispatch(Frame { from, to, lead: self.lead.as_ref() });
            }
        });
        framed
    }

    fn run(&self, input: &[f32], shape: &Shape, other: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let (images, height, width, channels) = shape.dims4()?;
        let padding = self.padding[0] + self.padding[1];
        if channels != self.input || height + padding < self.kernel || width + padding < self.kernel {
            candle_core::bail!("square: ({height}, {width}, {channels}) does not fit the weights")
        }
        let rows = (height + padding - self.kernel) / self.stride + 1;
        let columns = (width + padding - self.kernel) / self.stride + 1;
        let pixels = images * rows * columns;
        let mut output = vec![0f32; pixels * self.output];
        if other.is_some_and(|other| other.len() != output.len()) {
            candle_core::bail!("square: what is added has not the shape of the output")
        }
        let framed = self.framed(input, [images, height, width]);
        let line = (width + padding) * channels;
        let place = |pixel: usize| {
            let (image, row, column) = (pixel / columns / rows, pixel / columns % rows, pixel % columns);
            (image * (height + padding) + row * self.stride) * line + column * self.stride * channels
        };
        let places: Vec<usize> = (0..pixels).map(place).collect();
        // Few large tasks, but as many for each thread.
        let threads = rayon::current_num_threads();
        let tasks = threads * pixels.div_ceil(threads * PIXELS).max(1);
        let block = pixels.div_ceil(tasks).max(1);
        output.par_chunks_mut(block * self.output).enumerate().for_each(|(index, out)| {
            let first = index * block;
            let other = other.map(|other| &other[first * self.output..][..out.len()]);
            let places = &places[first..][..out.len() / self.output];
            dispatch(Pixels { square: self, framed: &framed, line, places, other, out });
        });
        Ok((CpuStorage::F32(output), Shape::from((images, rows, columns, self.output))))
    }
}

impl CustomOp1 for Square {
    fn name(&self) -> &'static str {
        "square"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run(contiguous("square", storage, layout)?, layout.shape(), None)
    }
}

impl CustomOp2 for Square {
    fn name(&self) -> &'static str {
        "square-add"
    }

    fn cpu_fwd(
        &self,
        storage: &CpuStorage,
        layout: &Layout,
        other: &CpuStorage,
        other_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let other = contiguous("square-add", other, other_layout)?;
        self.run(contiguous("square-add", storage, layout)?, layout.shape(), Some(other))
    }
}

/// One row of the framed input.
struct Frame<'a> {
    from: &'a [f32],
    to: &'a mut [f32],
    lead: Option<&'a [Vec<f32>; 2]>,
}

impl Task for Frame<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Some([scale, shift]) = self.lead else { return self.to.copy_from_slice(self.from) };
        let channels = scale.len();
        for (to, from) in self.to.chunks_exact_mut(channels).zip(self.from.chunks_exact(channels)) {
            for (((to, from), scale), shift) in to.iter_mut().zip(from).zip(scale).zip(shift) {
                *to = from * scale + shift;
            }
        }
    }
}

/// Some output pixels: `places` says where in `framed` the upper left corner of each begins, `out` is (pixels, O).
struct Pixels<'a> {
    square: &'a Square,
    framed: &'a [f32],
    /// Values of one row of `framed`.
    line: usize,
    places: &'a [usize],
    other: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl Task for Pixels<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { square, framed, line, places, other, out } = self;
        let Square { kernel, input, output, .. } = *square;
        for pixel in out.chunks_exact_mut(output) {
            pixel.copy_from_slice(&square.bias);
        }
        for (panel, weight) in square.weight.chunks_exact(kernel * kernel * input * PANEL).enumerate() {
            for (tap, weight) in weight.chunks_exact(input * PANEL).enumerate() {
                let offset = tap / kernel * line + tap % kernel * input;
                for (part, weight) in weight.chunks(DEPTH * PANEL).enumerate() {
                    let from = &framed[offset + part * DEPTH..];
                    add_block(simd, from, places, weight, &mut out[panel * PANEL..], output);
                }
            }
        }
        if let Some(slopes) = &square.slopes {
            for pixel in out.chunks_exact_mut(output) {
                activate_all(pixel, slopes);
            }
        }
        if let Some(other) = other {
            for (value, other) in out.iter_mut().zip(other) {
                *value += other;
            }
        }
    }
}

/// Adds to every pixel's panel, `stride` values apart in `out`, the product of its channels and a block of weights.
#[inline(always)]
fn add_block<S: Simd>(simd: S, from: &[f32], places: &[usize], weight: &[f32], out: &mut [f32], stride: usize) {
    let mut first = 0;
    while first + GROUP <= places.len() {
        add_pixels::<S, GROUP>(simd, from, &places[first..], weight, &mut out[first * stride..], stride);
        first += GROUP;
    }
    if first == places.len() {
        return;
    }
    let (places, out) = (&places[first..], &mut out[first * stride..]);
    match places.len() {
        1 => add_pixels::<S, 1>(simd, from, places, weight, out, stride),
        2 => add_pixels::<S, 2>(simd, from, places, weight, out, stride),
        3 => add_pixels::<S, 3>(simd, from, places, weight, out, stride),
        4 => add_pixels::<S, 4>(simd, from, places, weight, out, stride),
        5 => add_pixels::<S, 5>(simd, from, places, weight, out, stride),
        _ => {}
    }
}

/// As [`add_block`] for `P` pixels.
#[inline(always)]
fn add_pixels<S: Simd, const P: usize>(
    simd: S,
    from: &[f32],
    places: &[usize],
    weight: &[f32],
    out: &mut [f32],
    stride: usize,
) {
    let depth = weight.len() / PANEL;
    let mut pixels = [from; P];
    for (pixel, place) in pixels.iter_mut().zip(places) {
        *pixel = &from[*place..][..depth];
    }
    // As many sums as the registers hold: sixteen of eight lanes, otherwise thirty-two.
    if S::F32_LANES == 8 {
        for part in 0..PANEL / 16 {
            add_panel::<S, P, 2>(simd, pixels, &weight[part * 16..], &mut out[part * 16..], stride);
        }
    } else {
        let width = 4 * S::F32_LANES;
        for part in 0..PANEL / width {
            add_panel::<S, P, 4>(simd, pixels, &weight[part * width..], &mut out[part * width..], stride);
        }
    }
}

/// `P` pixels by `G` registers of outputs. `weight` holds rows of [`PANEL`] values, the last cut short.
#[inline(always)]
fn add_panel<S: Simd, const P: usize, const G: usize>(
    simd: S,
    pixels: [&[f32]; P],
    weight: &[f32],
    out: &mut [f32],
    stride: usize,
) {
    let mut sums = [[simd.splat_f32s(0.0); G]; P];
    for pixel in 0..P {
        sums[pixel] = registers::<S, G>(&out[pixel * stride..]);
    }
    for (channel, weight) in weight.chunks(PANEL).enumerate() {
        let weight = registers::<S, G>(weight);
        for pixel in 0..P {
            let value = simd.splat_f32s(pixels[pixel][channel]);
            for register in 0..G {
                sums[pixel][register] = simd.mul_add_f32s(value, weight[register], sums[pixel][register]);
            }
        }
    }
    for pixel in 0..P {
        write::<S, G>(sums[pixel], &mut out[pixel * stride..]);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device, Module};
    use proptest::prelude::*;

    use super::*;
    use crate::kernel::Widest;
    use crate::kernel::conv::{Activation, Kind, StockConv};
    use crate::model::fill;

    fn values(stream: u32, shape: &[usize]) -> Tensor {
        let count = shape.iter().product::<usize>() as u32;
        let values: Vec<f32> = (0..count).map(|index| 2.0 * fill::uniform(stream, index) as f32 - 1.0).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..Default::default() })]

        #[test]
        fn equal_to_its_twin(
            images in 1usize..3,
            height in 3usize..16,
            width in 3usize..16,
            input in prop::sample::select(vec![1usize, 3, 64, 65, 128]),
            panels in 1usize..3,
            kernel in prop::sample::select(vec![1usize, 3]),
            stride in 1usize..3,
            with_lead: bool,
            with_other: bool,
            prelu: bool,
            seed in 0u32..1000,
        ) {
            let output = panels * PANEL;
            let activation = if prelu { Activation::PRelu } else { Activation::None };
            let padding = [kernel / 2; 2];
            let spec =
                ConvSpec { name: "c".into(), kind: Kind::Full, input, output, kernel, stride, padding, activation };
            let tensors: HashMap<String, Tensor> =
                spec.tensors().into_iter().zip(seed..).map(|((name, shape), seed)| (name, values(seed, &shape))).collect();
            let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
            let x = values(seed + 7, &[images, height, width, input]);
            let lead = with_lead.then(|| [values(seed + 8, &[input]), values(seed + 9, &[input])]);
            let mut planes = x.clone();
            if let Some([scale, shift]) = &lead {
                planes = planes.broadcast_mul(scale).unwrap().broadcast_add(shift).unwrap();
            }
            let planes = planes.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap();
            let expected = StockConv::load(&spec, &vb).unwrap().forward(&planes).unwrap();
            let mut expected = expected.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
            let other = with_other.then(|| values(seed + 10, expected.dims()));
            if let Some(other) = &other {
                expected = (expected + other).unwrap();
            }
            let lead = lead.map(|lead| lead.map(|values| values.to_vec1().unwrap()));
            let square = Square::load(&spec, lead, &vb).unwrap();
            let found = square.forward(&x, other.as_ref()).unwrap();
            prop_assert_eq!(found.dims(), expected.dims());
            let error = (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            prop_assert!(error < 2e-4, "{}", error);
        }
    }

    /// Machines with narrower registers sum in another pattern.
    #[test]
    fn every_width_gives_the_same() {
        let (input, output, pixels) = (70, 2 * PANEL, 23);
        let spec = ConvSpec::pointwise("c".into(), input, output, Activation::PRelu);
        let tensors = spec.tensors().into_iter().zip(1..).map(|((name, shape), seed)| (name, values(seed, &shape)));
        let vb = VarBuilder::from_tensors(tensors.collect(), DType::F32, &Device::Cpu);
        let square = Square::load(&spec, None, &vb).unwrap();
        let x = values(9, &[1, 1, pixels, input]);
        let expected = square.forward(&x, None).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let framed = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let places: Vec<usize> = (0..pixels).map(|pixel| pixel * input).collect();
        let mut runs = 0;
        let mut compare = |run: &dyn Fn(Pixels<'_>)| {
            let mut out = vec![f32::NAN; pixels * output];
            let line = pixels * input;
            run(Pixels { square: &square, framed: &framed, line, places: &places, other: None, out: &mut out });
            assert!(out.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-4));
            runs += 1;
        };
        compare(&|task| Simd::vectorize(pulp::Scalar::new(), Widest(task)));
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            compare(&|task| Simd::vectorize(simd, Widest(task)));
        }
        assert!(runs > 0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let spec = |output| ConvSpec {
            name: "c".into(),
            kind: Kind::Full,
            input: 2,
            output,
            kernel: 3,
            stride: 1,
            padding: [0, 0],
            activation: Activation::None,
        };
        let tensors = spec(64).tensors().into_iter().map(|(name, shape)| (name, values(1, &shape))).collect();
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
        assert!(Square::load(&spec(63), None, &vb).is_err());
        assert!(Square::load(&spec(64), Some([vec![1.0], vec![1.0]]), &vb).is_err());
        let square = Square::load(&spec(64), None, &vb).unwrap();
        assert!(square.forward(&values(1, &[1, 2, 9, 2]), None).is_err());
        assert!(square.forward(&values(1, &[1, 4, 4, 3]), None).is_err());
        let other = values(1, &[1, 4, 4, 64]);
        assert!(square.forward(&values(1, &[1, 4, 4, 2]), Some(&other)).is_err());
        assert_eq!(square.forward(&values(1, &[0, 4, 4, 2]), None).unwrap().dims(), [0, 2, 2, 64]);
    }
}
