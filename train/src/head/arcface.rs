//! ArcFace (Deng et al. 2019): the margin is added to the angle.

use std::f64::consts::FRAC_PI_2;

use candle_core::Tensor;

use super::target::{Targets, turned_cosine};
use super::{ClassKernel, HeadError, MarginHead, check_setting};

/// How far cosines are kept from −1 and 1, and angles from 0 and π. With it the values equal those of the published
/// code of AdaFace.
const MARGIN: f64 = 1e-4;

/// Settings of [`ArcFace`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ArcFaceConfig {
    /// The margin m, in radians, 0 to π/2.
    pub m: f64,
    /// The scale s of the logits, above 0.
    pub s: f64,
}

impl Default for ArcFaceConfig {
    fn default() -> Self {
        Self { m: 0.5, s: 64.0 }
    }
}

/// The head of ArcFace: s·cos(θ + m) at an embedding's own class, s·cos θ elsewhere. The angle stops short of π; there
/// is no easier margin for embeddings far from their class.
#[derive(Debug)]
pub struct ArcFace {
    config: ArcFaceConfig,
    kernel: ClassKernel,
}

impl ArcFace {
    /// A head over `kernel`.
    ///
    /// # Errors
    /// [`HeadError::BadSetting`].
    pub fn new(config: ArcFaceConfig, kernel: ClassKernel) -> Result<Self, HeadError> {
        check_setting("m", config.m, "from 0 to π/2", (0.0..=FRAC_PI_2).contains(&config.m))?;
        check_setting("s", config.s, "above 0", config.s > 0.0)?;
        Ok(Self { config, kernel })
    }
}

impl MarginHead for ArcFace {
    fn name(&self) -> &'static str {
        "arcface"
    }

    fn kernel(&self) -> &ClassKernel {
        &self.kernel
    }

    fn forward(&mut self, unit: &Tensor, _norms: &Tensor, labels: &Tensor) -> Result<Tensor, HeadError> {
        let cosines = self.kernel.cosines(unit, MARGIN)?;
        let targets = Targets::new(labels, &cosines)?;
        let own = targets.of(&cosines)?;
        let turn = Tensor::full(self.config.m, own.shape(), own.device())?.to_dtype(own.dtype())?;
        let change = (turned_cosine(&own, &turn, MARGIN)? - &own)?;
        Ok((targets.add(&cosines, &change)? * self.config.s)?)
    }
}
