//! The class directions of a head.

use candle_core::{DType, Device, Tensor, Var};
use vultus_engine::random::Random;

use super::{HeadError, check_shape};

/// One direction per class: a parameter (dim, classes) whose columns are normalised when they are used, so that only
/// their directions count and the gradient of a column is at right angles to it.
#[derive(Debug, Clone)]
pub struct ClassKernel(Var);

impl ClassKernel {
    /// A kernel over the tensor (dim, classes) of a checkpoint.
    ///
    /// # Errors
    /// [`HeadError::WrongShape`] where it is not a matrix, [`HeadError::Tensor`].
    pub fn new(kernel: &Tensor) -> Result<Self, HeadError> {
        if kernel.rank() != 2 {
            let actual = kernel.dims().to_vec();
            return Err(HeadError::WrongShape { what: "the class kernel", expected: vec![0, 0], actual });
        }
        Ok(Self(Var::from_tensor(kernel)?))
    }

    /// A kernel to start training with: values uniform in −1 to 1, columns brought to length 1. The same seed gives the
    /// same kernel on every device.
    ///
    /// # Errors
    /// [`HeadError::Tensor`].
    pub fn seeded(dim: usize, classes: usize, seed: u64, dtype: DType, device: &Device) -> Result<Self, HeadError> {
        // The devices' own generators cannot all be seeded.
        let mut random = Random::new(seed);
        let values: Vec<f64> = (0..dim * classes).map(|_| random.uniform(-1.0, 1.0)).collect();
        let kernel = normalise_columns(&Tensor::from_vec(values, (dim, classes), &Device::Cpu)?)?;
        Self::new(&kernel.to_dtype(dtype)?.to_device(device)?)
    }

    /// The parameter (dim, classes), for an optimiser or a checkpoint.
    pub fn var(&self) -> &Var {
        &self.0
    }

    /// Values in an embedding.
    pub fn dim(&self) -> usize {
        self.0.dims()[0]
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.0.dims()[1]
    }

    /// Cosines (batch, classes) of unit embeddings (batch, dim), kept `margin` away from −1 and 1, where an angle has no
    /// derivative.
    pub(super) fn cosines(&self, unit: &Tensor, margin: f64) -> Result<Tensor, HeadError> {
        check_shape("the embeddings", unit, &[unit.dims().first().copied().unwrap_or(0), self.dim()])?;
        Ok(keep_from_ends(&unit.matmul(&normalise_columns(&self.0)?)?, margin)?)
    }
}

/// Cosines kept `margin` away from −1 and 1, without a gradient where that binds. With a margin of 0 it binds by rounding
/// alone, and the gradient goes on; candle's clamp would halve it at the ends themselves.
pub(super) fn keep_from_ends(cosines: &Tensor, margin: f64) -> candle_core::Result<Tensor> {
    let kept = cosines.clamp(margin - 1.0, 1.0 - margin)?;
    if margin > 0.0 { Ok(kept) } else { cosines + (kept - cosines)?.detach() }
}

fn normalise_columns(kernel: &Tensor) -> candle_core::Result<Tensor> {
    kernel.broadcast_div(&kernel.sqr()?.sum_keepdim(0)?.sqrt()?)
}
