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
mod tests;
