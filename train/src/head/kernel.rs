//! The class directions of a head.

use candle_core::{DType, Device, Tensor, Var};

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
        // SplitMix64 (Steele, Lea and Flood 2014): the devices' own generators cannot all be seeded.
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        let values: Vec<f64> = (0..dim * classes).map(|_| uniform()).collect();
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
        Ok(unit.matmul(&normalise_columns(&self.0)?)?.clamp(margin - 1.0, 1.0 - margin)?)
    }
}

fn normalise_columns(kernel: &Tensor) -> candle_core::Result<Tensor> {
    kernel.broadcast_div(&kernel.sqr()?.sum_keepdim(0)?.sqrt()?)
}
