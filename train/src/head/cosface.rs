//! CosFace (Wang et al. 2018): the margin is taken off the cosine.

use candle_core::Tensor;

use super::target::Targets;
use super::{ClassKernel, HeadError, MarginHead, check_setting};

/// How far cosines are kept from −1 and 1. With it the values equal those of the published code of AdaFace.
const COSINE_MARGIN: f64 = 1e-4;

/// Settings of [`CosFace`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CosFaceConfig {
    /// The margin m, in cosine, 0 to 1.
    pub m: f64,
    /// The scale s of the logits, above 0.
    pub s: f64,
}

impl Default for CosFaceConfig {
    fn default() -> Self {
        Self { m: 0.4, s: 64.0 }
    }
}

/// The head of CosFace: s·(cos θ − m) at an embedding's own class, s·cos θ elsewhere.
#[derive(Debug)]
pub struct CosFace {
    config: CosFaceConfig,
    kernel: ClassKernel,
}

impl CosFace {
    /// A head over `kernel`.
    ///
    /// # Errors
    /// [`HeadError::BadSetting`].
    pub fn new(config: CosFaceConfig, kernel: ClassKernel) -> Result<Self, HeadError> {
        check_setting("m", config.m, "from 0 to 1", (0.0..=1.0).contains(&config.m))?;
        check_setting("s", config.s, "above 0", config.s > 0.0)?;
        Ok(Self { config, kernel })
    }
}

impl MarginHead for CosFace {
    fn name(&self) -> &'static str {
        "cosface"
    }

    fn kernel(&self) -> &ClassKernel {
        &self.kernel
    }

    fn forward(&mut self, unit: &Tensor, _norms: &Tensor, labels: &Tensor) -> Result<Tensor, HeadError> {
        let cosines = self.kernel.cosines(unit, COSINE_MARGIN)?;
        let targets = Targets::new(labels, &cosines)?;
        let change = Tensor::full(-self.config.m, (cosines.dims()[0], 1), cosines.device())?;
        Ok((targets.add(&cosines, &change.to_dtype(cosines.dtype())?)? * self.config.s)?)
    }
}
