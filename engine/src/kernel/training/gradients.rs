//! The gradients of batch normalisation and PReLU.
//!
//! With x̂ the normalised and z = x̂ · weight + bias, the gradient of z is that of the activation where z is positive, and
//! times the slope elsewhere. Mean and variance depend on every pixel, so two sums over all of them are needed before the
//! gradient of any is known: one pass makes the sums, a second the gradients; both make z again.

use candle_core::Result;
use rayon::prelude::*;

use super::normalize::{slopes_or_ones, write_rows};
use super::{Features, Norm, Workspace, rows_of_piece, same};
use crate::kernel::map::Rows;
use crate::kernel::plain::{Plain, plainly};

/// Sums over all pixels, for each channel: the gradients of a normalisation's parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Sums {
    /// Of x̂ times the gradient of z: the gradient of the weight.
    pub weight: Vec<f64>,
    /// Of the gradient of z: the gradient of the bias.
    pub bias: Vec<f64>,
    /// Of z times the gradient of the activation, where z is not positive: the gradient of the slopes.
    pub slopes: Vec<f64>,
}

/// Sums of one piece, one after the other.
struct Piece<'a> {
    x: Rows<'a>,
    gradient: Rows<'a>,
    norm: &'a Norm,
    slopes: &'a [f32],
    rows: std::ops::Range<usize>,
    sums: &'a mut [f32],
}

impl Plain for Piece<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { x, gradient, norm, slopes, rows, sums } = self;
        let channels = slopes.len();
        let (weight, rest) = sums.split_at_mut(channels);
        let (bias, slope) = rest.split_at_mut(channels);
        let slope = &mut slope[..channels];
        let (scale, shift) = (&norm.scale[..channels], &norm.shift[..channels]);
        let (mean, inverse) = (&norm.mean[..channels], &norm.inverse[..channels]);
        for row in rows {
            let pixels = x.row(row).chunks_exact(channels).zip(gradient.row(row).chunks_exact(channels));
            for (x, gradient) in pixels {
                for at in 0..channels {
                    let z = x[at] * scale[at] + shift[at];
                    let (of_z, below) =
                        if z > 0.0 { (gradient[at], 0.0) } else { (gradient[at] * slopes[at], gradient[at] * z) };
                    weight[at] += of_z * ((x[at] - mean[at]) * inverse[at]);
                    bias[at] += of_z;
                    slope[at] += below;
                }
            }
        }
    }
}

/// What the gradient of z is taken with: times `of_z`, plus the distance from the mean times `of_x`, plus `constant`.
struct Factors {
    of_x: Vec<f32>,
    constant: Vec<f32>,
}

/// One row of gradients.
struct Row<'a> {
    x: &'a [f32],
    gradient: &'a [f32],
    norm: &'a Norm,
    slopes: &'a [f32],
    factors: &'a Factors,
    other: Option<(&'a [f32], usize)>,
    to: &'a mut [f32],
}

impl Plain for Row<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { x, gradient, norm, slopes, factors, other, to } = self;
        let channels = slopes.len();
        let (scale, shift, mean) = (&norm.scale[..channels], &norm.shift[..channels], &norm.mean[..channels]);
        let (of_x, constant) = (&factors.of_x[..channels], &factors.constant[..channels]);
        let pixels = x.chunks_exact(channels).zip(gradient.chunks_exact(channels));
        for (to, (x, gradient)) in to.chunks_exact_mut(channels).zip(pixels) {
            for at in 0..channels {
                let z = x[at] * scale[at] + shift[at];
                let of_z = if z > 0.0 { gradient[at] } else { gradient[at] * slopes[at] };
                to[at] = of_z * scale[at] + ((x[at] - mean[at]) * of_x[at] + constant[at]);
            }
        }
        if let Some((other, stride)) = other {
            let to = to.chunks_exact_mut(channels).step_by(stride);
            for (to, other) in to.zip(other.chunks_exact(channels)) {
                to.iter_mut().zip(other).for_each(|(to, other)| *to += other);
            }
        }
    }
}

impl Workspace {
    /// The gradients of a normalisation's weight and bias and of the slopes after it, from the gradient of what
    /// [`Workspace::activate`] made of `x`.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn sums(&self, gradient: &Features, x: &Features, norm: &Norm, slopes: Option<&[f32]>) -> Result<Sums> {
        let shape = x.shape();
        norm.check(shape, slopes)?;
        same("a gradient", gradient.shape(), shape)?;
        let [images, height, width, channels] = shape;
        let slopes = slopes_or_ones(slopes, channels);
        let (rows, of_piece) = (images * height, rows_of_piece(width));
        let mut pieces = vec![0f32; rows.div_ceil(of_piece) * 3 * channels];
        let (x, gradient) = (x.0.by_row(), gradient.0.by_row());
        pieces.par_chunks_exact_mut(3 * channels).enumerate().for_each(|(piece, sums)| {
            let rows = piece * of_piece..rows.min((piece + 1) * of_piece);
            plainly(self.isa, Piece { x, gradient, norm, slopes: &slopes, rows, sums });
        });
        let mut sums = vec![0f64; 3 * channels];
        for piece in pieces.chunks_exact(3 * channels) {
            sums.iter_mut().zip(piece).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let of = |part: usize| sums[part * channels..(part + 1) * channels].to_vec();
        Ok(Sums { weight: of(0), bias: of(1), slopes: of(2) })
    }

    /// The gradient of `x`, from that of what [`Workspace::activate`] made of it and the [`Sums`] of both. `other`, with
    /// every `stride`-th row and column of the result, is added. The result has a frame of so many zeros.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn spread(
        &self,
        gradient: &Features,
        x: &Features,
        (norm, slopes): (&Norm, Option<&[f32]>),
        sums: &Sums,
        other: Option<(&Features, usize)>,
        frame: usize,
    ) -> Result<Features> {
        let shape = x.shape();
        norm.check(shape, slopes)?;
        same("a gradient", gradient.shape(), shape)?;
        let [images, height, width, channels] = shape;
        if let Some((other, stride)) = other {
            let expected = [images, height.div_ceil(stride), width.div_ceil(stride), channels];
            same("a shortcut's gradient", other.shape(), expected)?;
        }
        let slopes = slopes_or_ones(slopes, channels);
        let share = norm.count.map_or(0.0, |count| 1.0 / count as f64);
        let of = |at: usize, sum: f64| -f64::from(norm.scale[at]) * share * sum;
        let factors = Factors {
            of_x: (0..channels).map(|at| (of(at, sums.weight[at]) * f64::from(norm.inverse[at])) as f32).collect(),
            constant: (0..channels).map(|at| of(at, sums.bias[at]) as f32).collect(),
        };
        let mut to = self.map(shape, frame);
        let (x, gradient) = (x.0.by_row(), gradient.0.by_row());
        write_rows(&mut to, |index, to| {
            let other = other.and_then(|(other, stride)| {
                let (image, row) = (index / height, index % height);
                let at = image * other.0.height + row / stride;
                row.is_multiple_of(stride).then(|| (other.0.by_row().row(at), stride))
            });
            let (x, gradient) = (x.row(index), gradient.row(index));
            plainly(self.isa, Row { x, gradient, norm, slopes: &slopes, factors: &factors, other, to });
        });
        Ok(Features(to))
    }

    /// Adds `other` to every `stride`-th row and column of a gradient.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn add(&self, gradient: &mut Features, other: &Features, stride: usize) -> Result<()> {
        let [images, height, width, channels] = gradient.shape();
        let expected = [images, height.div_ceil(stride), width.div_ceil(stride), channels];
        same("a shortcut's gradient", other.shape(), expected)?;
        let (from, rows) = (other.0.by_row(), other.0.height);
        write_rows(&mut gradient.0, |index, to| {
            let (image, row) = (index / height, index % height);
            if row.is_multiple_of(stride) {
                let from = from.row(image * rows + row / stride);
                let pixels = to.chunks_exact_mut(channels).step_by(stride).zip(from.chunks_exact(channels));
                pixels.for_each(|(to, from)| to.iter_mut().zip(from).for_each(|(to, from)| *to += from));
            }
        });
        Ok(())
    }
}
