//! Batch normalisation (Ioffe and Szegedy 2015) and PReLU: statistics of a map, and what becomes of it.

use candle_core::Result;
use rayon::prelude::*;

use super::{Features, Workspace, rows_of_piece, same};
use crate::kernel::isa::Isa;
use crate::kernel::map::{Map, Rows};
use crate::kernel::plain::{Plain, plainly};

/// What is added to a variance before its root is taken.
const EPSILON: f64 = 1e-5;

/// Mean and variance of each channel over all pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Means.
    pub mean: Vec<f64>,
    /// Variances, divided by `count`.
    pub variance: Vec<f64>,
    /// Pixels.
    pub count: usize,
}

/// A normalisation as it is applied: (x − mean) · inverse · weight + bias for each channel, as x · scale + shift.
#[derive(Debug, Clone)]
pub struct Norm {
    pub(super) mean: Vec<f32>,
    /// 1 / √(variance + ε).
    pub(super) inverse: Vec<f32>,
    pub(super) scale: Vec<f32>,
    pub(super) shift: Vec<f32>,
    /// Pixels that mean and variance were taken of; `None` where they are constants.
    pub(super) count: Option<usize>,
}

impl Norm {
    /// The normalisation by a batch's own mean and variance, which gradients then go through; no `weight` is 1, no `bias`
    /// is 0.
    pub fn of_batch(moments: &Moments, weight: Option<&[f32]>, bias: Option<&[f32]>) -> Self {
        Self { count: Some(moments.count), ..Self::constant(&moments.mean, &moments.variance, weight, bias) }
    }

    /// The normalisation by given means and variances, which gradients leave alone.
    pub fn constant(mean: &[f64], variance: &[f64], weight: Option<&[f32]>, bias: Option<&[f32]>) -> Self {
        let inverse: Vec<f64> = variance.iter().map(|variance| 1.0 / (variance + EPSILON).sqrt()).collect();
        let scale = |at: usize| inverse[at] * weight.map_or(1.0, |weight| f64::from(weight[at]));
        let channels = 0..mean.len();
        Self {
            mean: mean.iter().map(|mean| *mean as f32).collect(),
            scale: channels.clone().map(|at| scale(at) as f32).collect(),
            shift: channels
                .map(|at| (bias.map_or(0.0, |bias| f64::from(bias[at])) - mean[at] * scale(at)) as f32)
                .collect(),
            inverse: inverse.into_iter().map(|inverse| inverse as f32).collect(),
            count: None,
        }
    }

    /// Whether mean and variance are those of a batch.
    pub fn is_of_batch(&self) -> bool {
        self.count.is_some()
    }

    /// What each channel is multiplied by.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    pub(super) fn check(&self, shape: [usize; 4], slopes: Option<&[f32]>) -> Result<()> {
        let channels = self.scale.len();
        if channels != shape[3] || slopes.is_some_and(|slopes| slopes.len() != channels) {
            candle_core::bail!("a normalisation of {channels} channels for a map of {shape:?}")
        }
        Ok(())
    }
}

/// What is added to a map after its activation: every `stride`-th row and column of another, normalised or as it is.
#[derive(Debug, Clone, Copy)]
pub struct Added<'a> {
    /// The other map.
    pub features: &'a Features,
    /// Which pixels of it.
    pub stride: usize,
    /// Its normalisation.
    pub norm: Option<&'a Norm>,
}

/// Slopes that leave everything as it is.
pub(super) fn slopes_or_ones(slopes: Option<&[f32]>, channels: usize) -> Vec<f32> {
    slopes.map_or_else(|| vec![1.0; channels], <[f32]>::to_vec)
}

/// Sums of one piece: means, then squared distances from them.
struct Piece<'a> {
    x: Rows<'a>,
    rows: std::ops::Range<usize>,
    sums: &'a mut [f32],
}

impl Plain for Piece<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { x, rows, sums } = self;
        let channels = x.channels;
        let (mean, squares) = sums.split_at_mut(channels);
        let mut count = 0;
        for row in rows.clone() {
            for pixel in x.row(row).chunks_exact(channels) {
                count += 1;
                mean.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
            }
        }
        let share = 1.0 / count as f32;
        mean.iter_mut().for_each(|sum| *sum *= share);
        for row in rows {
            for pixel in x.row(row).chunks_exact(channels) {
                for ((square, mean), value) in squares.iter_mut().zip(mean.iter()).zip(pixel) {
                    *square += (value - mean) * (value - mean);
                }
            }
        }
    }
}

/// One row on its way.
struct Row<'a> {
    x: &'a [f32],
    norm: &'a Norm,
    slopes: &'a [f32],
    added: Option<(&'a [f32], usize, Option<&'a Norm>)>,
    to: &'a mut [f32],
}

impl Plain for Row<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { x, norm, slopes, added, to } = self;
        let channels = slopes.len();
        let (scale, shift) = (&norm.scale[..channels], &norm.shift[..channels]);
        for (to, x) in to.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            for at in 0..channels {
                let value = x[at] * scale[at] + shift[at];
                to[at] = if value > 0.0 { value } else { value * slopes[at] };
            }
        }
        let Some((other, stride, norm)) = added else { return };
        for (to, other) in to.chunks_exact_mut(channels).zip(other.chunks_exact(channels).step_by(stride)) {
            match norm {
                None => to.iter_mut().zip(other).for_each(|(to, other)| *to += other),
                Some(norm) => {
                    let (scale, shift) = (&norm.scale[..channels], &norm.shift[..channels]);
                    for at in 0..channels {
                        to[at] += other[at] * scale[at] + shift[at];
                    }
                }
            }
        }
    }
}

/// Calls `work` with each row of a map, counted through all images, and its number.
pub(super) fn write_rows(to: &mut Map<f32>, work: impl Fn(usize, &mut [f32]) + Sync) {
    let (rows, pitch, frame, height) = (to.rows(), to.pitch(), to.frame, to.height);
    let (side, line) = (frame * to.channels, to.width * to.channels);
    to.values_mut().par_chunks_exact_mut(pitch).enumerate().for_each(|(index, values)| {
        let (image, row) = (index / rows, index % rows);
        if (frame..frame + height).contains(&row) {
            work(image * height + row - frame, &mut values[side..side + line]);
        }
    });
}

fn piece_moments(isa: Isa, x: &Map<f32>) -> Vec<f32> {
    let (rows, of_piece) = (x.images * x.height, rows_of_piece(x.width));
    let mut sums = vec![0f32; rows.div_ceil(of_piece) * 2 * x.channels];
    let from = x.by_row();
    sums.par_chunks_exact_mut(2 * x.channels).enumerate().for_each(|(piece, sums)| {
        let rows = piece * of_piece..rows.min((piece + 1) * of_piece);
        plainly(isa, Piece { x: from, rows, sums });
    });
    sums
}

impl Workspace {
    /// Mean and variance of each channel: of pieces in single precision, of all pieces in double precision.
    pub fn moments(&self, x: &Features) -> Moments {
        let x = &x.0;
        let (channels, of_piece) = (x.channels, rows_of_piece(x.width));
        let rows = x.images * x.height;
        let pieces = piece_moments(self.isa, x);
        let count = rows * x.width;
        let pixels = |piece: usize| ((rows - piece * of_piece).min(of_piece) * x.width) as f64;
        let (mut mean, mut variance) = (vec![0f64; channels], vec![0f64; channels]);
        for (piece, sums) in pieces.chunks_exact(2 * channels).enumerate() {
            let share = pixels(piece) / count as f64;
            mean.iter_mut().zip(sums).for_each(|(mean, of_piece)| *mean += share * f64::from(*of_piece));
        }
        for (piece, sums) in pieces.chunks_exact(2 * channels).enumerate() {
            let pixels = pixels(piece);
            for at in 0..channels {
                let away = f64::from(sums[at]) - mean[at];
                variance[at] += (f64::from(sums[channels + at]) + pixels * away * away) / count as f64;
            }
        }
        Moments { mean, variance, count }
    }

    /// Normalises, activates where there are slopes, and adds. The result has a frame of so many zeros.
    ///
    /// # Errors
    /// Where shapes do not fit.
    pub fn activate(
        &self,
        x: &Features,
        norm: &Norm,
        slopes: Option<&[f32]>,
        added: Option<Added>,
        frame: usize,
    ) -> Result<Features> {
        let shape = x.shape();
        norm.check(shape, slopes)?;
        if let Some(Added { features, stride, norm }) = added {
            let [images, height, width, channels] = features.shape();
            same("a shortcut", [images, height.div_ceil(stride), width.div_ceil(stride), channels], shape)?;
            norm.map_or(Ok(()), |norm| norm.check(shape, None))?;
        }
        let slopes = slopes_or_ones(slopes, shape[3]);
        let mut to = self.map(shape, frame);
        let (from, height) = (x.0.by_row(), shape[1]);
        write_rows(&mut to, |index, to| {
            let added = added.map(|Added { features, stride, norm }| {
                let row = index / height * features.0.height + index % height * stride;
                (features.0.by_row().row(row), stride, norm)
            });
            plainly(self.isa, Row { x: from.row(index), norm, slopes: &slopes, added, to });
        });
        Ok(Features(to))
    }

    /// Sets a share `rate` of values to zero and makes up for it in the others (Srivastava et al. 2014). Which ones
    /// follows from the seed and their place alone, so the gradient is put through the same.
    ///
    /// # Panics
    /// Unless `rate` is at least 0 and below 1.
    pub fn drop_out(&self, x: &mut Features, rate: f64, seed: u64) {
        assert!((0.0..1.0).contains(&rate), "a dropout of {rate}");
        if rate == 0.0 {
            return;
        }
        write_rows(&mut x.0, |index, row| {
            let mut factor = row_factors(rate, seed, index);
            for value in row {
                let factor = factor();
                *value = if factor == 0.0 { 0.0 } else { *value * factor };
            }
        });
    }
}

/// What dropout multiplies the values of a row by, one after the other: 0, or what makes up for the dropped ones.
fn row_factors(rate: f64, seed: u64, row: usize) -> impl FnMut() -> f32 {
    let (kept, limit) = ((1.0 / (1.0 - rate)) as f32, (rate * (1u64 << 53) as f64) as u64);
    let mut random = crate::random::Random::named(seed, &row.to_string());
    move || if random.next() >> 11 < limit { 0.0 } else { kept }
}

/// What [`Workspace::drop_out`] multiplies a map (N, H, W, C) by: `rows` = N · H rows of `line` = W · C values.
///
/// # Panics
/// Unless `rate` is at least 0 and below 1.
pub fn dropout_factors(rate: f64, seed: u64, rows: usize, line: usize) -> Vec<f32> {
    assert!((0.0..1.0).contains(&rate), "a dropout of {rate}");
    let mut factors = vec![1f32; rows * line];
    factors.par_chunks_exact_mut(line.max(1)).enumerate().for_each(|(row, factors)| {
        factors.fill_with(row_factors(rate, seed, row));
    });
    factors
}
