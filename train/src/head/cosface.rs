//! CosFace (Wang et al. 2018): the margin is taken off the cosine.

use candle_core::{Device, Tensor};

use super::{ClassKernel, Head, HeadError, Margin, MarginGradient, Margins, check_setting};

/// How far cosines are kept from −1 and 1. With it the values equal those of the published code of AdaFace.
const GUARD: f64 = 1e-4;

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

/// The margin of CosFace: s·(cos θ − m) at an embedding's own class. Straight through, its gradient is the same but where
/// cosines are near −1 and 1.
#[derive(Debug, Clone)]
pub struct CosFaceMargin {
    config: CosFaceConfig,
    gradient: MarginGradient,
}

impl CosFaceMargin {
    /// The margin.
    ///
    /// # Errors
    /// [`HeadError::BadSetting`].
    pub fn new(config: CosFaceConfig, gradient: MarginGradient) -> Result<Self, HeadError> {
        check_setting("m", config.m, "from 0 to 1", (0.0..=1.0).contains(&config.m))?;
        check_setting("s", config.s, "above 0", config.s > 0.0)?;
        Ok(Self { config, gradient })
    }
}

impl Margin for CosFaceMargin {
    fn name(&self) -> &'static str {
        "cosface"
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
        let less = Tensor::full(self.config.m, norms.shape(), &Device::Cpu)?;
        Ok(Margins { less: Some(less), ..Margins::default() })
    }
}

/// The head of CosFace: s·(cos θ − m) at an embedding's own class, s·cos θ elsewhere.
pub type CosFace = Head<CosFaceMargin>;

impl CosFace {
    /// A head over `kernel`, with the exact gradient.
    ///
    /// # Errors
    /// [`HeadError::BadSetting`].
    pub fn new(config: CosFaceConfig, kernel: ClassKernel) -> Result<Self, HeadError> {
        Ok(Self::with_margin(CosFaceMargin::new(config, MarginGradient::Exact)?, kernel))
    }
}
