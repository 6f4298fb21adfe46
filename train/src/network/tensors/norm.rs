//! Batch normalisation and PReLU on tensors, and their gradients: the formulas of the kernels, in the type of sums.

use candle_core::{DType, Result, Tensor};

use super::conv::channel_sums;

/// What is added to a variance before its root is taken.
const EPSILON: f64 = 1e-5;

/// Mean and variance of each channel over all pixels, (C), and how many pixels there are.
pub(super) struct Moments {
    pub(super) mean: Tensor,
    /// Divided by `count`.
    pub(super) variance: Tensor,
    pub(super) count: usize,
}

impl Moments {
    /// In two passes, as the square of a mean that is far from 0 would take the variance's bits.
    pub(super) fn of(x: &Tensor) -> Result<Self> {
        let (images, _, height, width) = x.dims4()?;
        let count = images * height * width;
        let share = 1.0 / count as f64;
        let mean = channel_sums(x)?.affine(share, 0.0)?;
        let away = x.broadcast_sub(&mean.reshape((1, (), 1, 1))?)?;
        let variance = channel_sums(&away.sqr()?)?.affine(share, 0.0)?;
        Ok(Self { mean, variance, count })
    }
}

/// A normalisation as it is applied; every tensor is (1, C, 1, 1).
#[derive(Debug, Clone)]
pub(super) struct Norm {
    mean: Tensor,
    /// 1 / √(variance + ε).
    inverse: Tensor,
    scale: Tensor,
    shift: Tensor,
    /// Pixels that mean and variance were taken of; `None` where they are constants.
    count: Option<usize>,
}

/// Sums over all pixels, (C): the gradients of a normalisation's parameters and of the slopes behind it.
pub(super) struct Sums {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) slopes: Option<Tensor>,
}

impl Norm {
    /// From mean and variance (C), of a batch where `count` says of how many pixels. No `weight` is 1, no `bias` is 0.
    pub(super) fn new(
        mean: &Tensor,
        variance: &Tensor,
        affine: Option<[Tensor; 2]>,
        count: Option<usize>,
    ) -> Result<Self> {
        let mean = mean.reshape((1, (), 1, 1))?;
        let inverse = variance.reshape((1, (), 1, 1))?.affine(1.0, EPSILON)?.sqrt()?.recip()?;
        let (scale, shift) = match affine {
            Some([weight, bias]) => {
                let scale = (&inverse * weight)?;
                let shift = (bias - (&mean * &scale)?)?;
                (scale, shift)
            }
            None => (inverse.clone(), (&mean * &inverse)?.neg()?),
        };
        Ok(Self { mean, inverse, scale, shift, count })
    }

    pub(super) fn is_of_batch(&self) -> bool {
        self.count.is_some()
    }

    /// What each channel is multiplied by, (C).
    pub(super) fn scale(&self) -> Result<Tensor> {
        self.scale.flatten_all()
    }

    /// The normalised map, in the type of sums.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        x.to_dtype(self.scale.dtype())?.broadcast_mul(&self.scale)?.broadcast_add(&self.shift)
    }

    /// The normalised and, where there are slopes (1, C, 1, 1), activated map, in the type of sums.
    pub(super) fn activate(&self, x: &Tensor, slopes: Option<&Tensor>) -> Result<Tensor> {
        let z = self.apply(x)?;
        let Some(slopes) = slopes else { return Ok(z) };
        let above = z.relu()?;
        let below = (z - &above)?;
        above + below.broadcast_mul(slopes)?
    }

    /// The gradient of `x` from that of the activated map, both in the type of sums, and the gradients of parameters.
    pub(super) fn back(&self, x: &Tensor, slopes: Option<&Tensor>, gradient: &Tensor) -> Result<(Tensor, Sums)> {
        let x = x.to_dtype(self.scale.dtype())?;
        let (of_z, of_slopes) = match slopes {
            None => (gradient.clone(), None),
            Some(slopes) => {
                let z = self.apply(&x)?;
                let above = z.relu()?;
                // 1 where z is above 0, and 0 elsewhere, at 0 too.
                let is_above = above.sign()?;
                let below = (z - above)?;
                let of_slopes = channel_sums(&(below * gradient)?)?;
                let passed = gradient.broadcast_mul(slopes)?;
                let of_z = (&passed + ((gradient - &passed)? * is_above)?)?;
                (of_z, Some(of_slopes))
            }
        };
        let hat = x.broadcast_sub(&self.mean)?.broadcast_mul(&self.inverse)?;
        let sums = Sums { weight: channel_sums(&(&hat * &of_z)?)?, bias: channel_sums(&of_z)?, slopes: of_slopes };
        let Some(count) = self.count else {
            return Ok((of_z.broadcast_mul(&self.scale)?, sums));
        };
        // Mean and variance depend on every pixel, so each takes its share of what the sums come to.
        let share = |sum: &Tensor| sum.affine(1.0 / count as f64, 0.0)?.reshape((1, (), 1, 1));
        let of_hat = hat.broadcast_mul(&share(&sums.weight)?)?;
        let of_x = (of_z.broadcast_sub(&share(&sums.bias)?)? - of_hat)?.broadcast_mul(&self.scale)?;
        Ok((of_x, sums))
    }
}

/// The running statistic after a batch: moved by a share of the way to the batch's own.
pub(super) fn moved(running: &Tensor, of_batch: &Tensor, share: f64) -> Result<Tensor> {
    running.affine(1.0 - share, 0.0)? + of_batch.to_dtype(running.dtype())?.affine(share, 0.0)?
}

/// Factors of dropout as a tensor, from (N, H, W, C).
pub(super) fn mask(factors: Vec<f32>, [images, channels, height, width]: [usize; 4], like: &Tensor) -> Result<Tensor> {
    let factors = Tensor::from_vec(factors, (images, height, width, channels), &candle_core::Device::Cpu)?;
    let factors = factors.permute((0, 3, 1, 2))?.contiguous()?;
    // Zeros and ones of a type are exact in every other; what makes up for the dropped values is rounded once.
    factors.to_dtype(if like.dtype() == DType::F64 { DType::F64 } else { DType::F32 })?.to_device(like.device())
}
