//! ArcFace (Deng et al. 2019): the margin is added to the angle.

use std::f64::consts::FRAC_PI_2;

use candle_core::{Device, Tensor};

use super::{ClassKernel, Head, HeadError, Margin, MarginGradient, Margins, check_setting};

/// How far cosines are kept from −1 and 1, and angles from 0 and π. With it the values equal those of the published
/// code of AdaFace.
const GUARD: f64 = 1e-4;

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

/// The margin of ArcFace: s·cos(θ + m) at an embedding's own class.
#[derive(Debug, Clone)]
pub struct ArcFaceMargin {
    config: ArcFaceConfig,
    gradient: MarginGradient,
}

impl ArcFaceMargin {
    /// The margin.
    ///
    /// # Errors
    /// [`HeadError::BadSetting`].
    pub fn new(config: ArcFaceConfig, gradient: MarginGradient) -> Result<Self, HeadError> {
        check_setting("m", config.m, "from 0 to π/2", (0.0..=FRAC_PI_2).contains(&config.m))?;
        check_setting("s", config.s, "above 0", config.s > 0.0)?;
        Ok(Self { config, gradient })
    }
}

impl Margin for ArcFaceMargin {
    fn name(&self) -> &'static str {
        "arcface"
    }

    fn scale(&self) -> f64 {
        self.config.s
    }

    fn guard(&self) -> f64 {
        match self.gradient {
            MarginGradient::Exact => GUARD,
            MarginGradient::StraightThrough => 0.0,
        }
    }

    fn gradient(&self) -> MarginGradient {
        self.gradient
    }

    fn at(&mut self, norms: &Tensor) -> Result<Margins, HeadError> {
        let turn = Tensor::full(self.config.m, norms.shape(), &Device::Cpu)?;
        Ok(Margins { turn: Some(turn), ..Margins::default() })
    }
}

/// The head of ArcFace: s·cos(θ + m) at an embedding's own class, s·cos θ elsewhere. The angle stops short of π; there
/// is no easier margin for embeddings far from their class.
pub type ArcFace = Head<ArcFaceMargin>;

impl ArcFace {
    /// A head over `kernel`, with the exact gradient.
    ///
    /// # Errors
    /// [`HeadError::BadSetting`].
    pub fn new(config: ArcFaceConfig, kernel: ClassKernel) -> Result<Self, HeadError> {
        Ok(Self::with_margin(ArcFaceMargin::new(config, MarginGradient::Exact)?, kernel))
    }
}
