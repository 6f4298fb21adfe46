//! AdaFace (Kim et al. 2022): the margin follows the quality of the image.
//!
//! The norm of an embedding before normalisation goes with image quality. For an embedding whose norm is above the
//! running mean (ẑ > 0) the head stresses hard samples; for one below (ẑ < 0) it stresses easy ones, because a hard
//! sample of bad quality may be beyond recognition and teach nothing. ẑ = −1 is the margin of ArcFace, ẑ = 0 that of
//! CosFace.
//!
//! The running statistics start at mean 20 and deviation 100 and move by `t_alpha` a step, so margins are nearly
//! constant for the first few hundred steps. They belong in the checkpoint: a run that starts over with them trains
//! with other margins.

use std::collections::HashMap;
use std::f64::consts::FRAC_PI_2;

use candle_core::{Device, Tensor};

use super::margin::{checked_norms, number};
use super::{ClassKernel, Head, HeadError, Margin, MarginGradient, Margins, check_setting};

/// How far cosines are kept from −1 and 1, and angles from 0 and π.
const GUARD: f64 = 1e-3;
/// Added to the deviation that norms are divided by.
const STD_EPSILON: f64 = 1e-3;
/// Norms outside of this range count as its ends.
const NORM_RANGE: (f64, f64) = (0.001, 100.0);
/// The names of the running statistics in a checkpoint.
const MEAN: &str = "batch_mean";
const STD: &str = "batch_std";

/// Settings of [`AdaFace`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaFaceConfig {
    /// The margin m, both in radians and in cosine, 0 to π/2.
    pub m: f64,
    /// How strongly the norm acts: ẑ is h standard deviations at most. Not below 0; at 0 the head is CosFace.
    pub h: f64,
    /// The scale s of the logits, above 0.
    pub s: f64,
    /// The weight of a new batch in the running statistics, above 0 to 1.
    pub t_alpha: f64,
}

impl Default for AdaFaceConfig {
    fn default() -> Self {
        Self { m: 0.4, h: 0.333, s: 64.0, t_alpha: 0.01 }
    }
}

/// The running statistics of norms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaFaceState {
    /// Running mean.
    pub mean: f64,
    /// Running standard deviation, not below 0.
    pub std: f64,
}

impl Default for AdaFaceState {
    fn default() -> Self {
        Self { mean: 20.0, std: 100.0 }
    }
}

impl AdaFaceState {
    /// The statistics after a batch of norms: its mean and its unbiased standard deviation, weighted by `t_alpha`.
    fn after(self, norms: &[f64], t_alpha: f64) -> Self {
        let count = norms.len() as f64;
        let mean = norms.iter().sum::<f64>() / count;
        let variance = norms.iter().map(|norm| (norm - mean).powi(2)).sum::<f64>() / (count - 1.0);
        Self {
            mean: t_alpha * mean + (1.0 - t_alpha) * self.mean,
            std: t_alpha * variance.sqrt() + (1.0 - t_alpha) * self.std,
        }
    }
}

/// The margin of AdaFace: s·(cos(θ − m·ẑ) − (m + m·ẑ)) at an embedding's own class.
#[derive(Debug, Clone)]
pub struct AdaFaceMargin {
    config: AdaFaceConfig,
    gradient: MarginGradient,
    state: AdaFaceState,
}

impl AdaFaceMargin {
    /// The margin, with the statistics that training starts with.
    ///
    /// # Errors
    /// [`HeadError::BadSetting`].
    pub fn new(config: AdaFaceConfig, gradient: MarginGradient) -> Result<Self, HeadError> {
        check_setting("m", config.m, "from 0 to π/2", (0.0..=FRAC_PI_2).contains(&config.m))?;
        check_setting("h", config.h, "0 or above", config.h >= 0.0)?;
        check_setting("s", config.s, "above 0", config.s > 0.0)?;
        check_setting("t_alpha", config.t_alpha, "above 0, 1 at most", config.t_alpha > 0.0 && config.t_alpha <= 1.0)?;
        Ok(Self { config, gradient, state: AdaFaceState::default() })
    }

    /// The running statistics.
    pub fn state(&self) -> AdaFaceState {
        self.state
    }

    /// Sets the running statistics.
    ///
    /// # Errors
    /// [`HeadError::BadBuffer`] where one is not finite or the deviation is below 0.
    pub fn set_state(&mut self, state: AdaFaceState) -> Result<(), HeadError> {
        if !state.mean.is_finite() {
            return Err(HeadError::BadBuffer(MEAN));
        }
        if !(state.std.is_finite() && state.std >= 0.0) {
            return Err(HeadError::BadBuffer(STD));
        }
        self.state = state;
        Ok(())
    }

    /// ẑ of a norm, in −1 to 1.
    fn strength(&self, norm: f64) -> f64 {
        (self.config.h * (norm - self.state.mean) / (self.state.std + STD_EPSILON)).clamp(-1.0, 1.0)
    }
}

impl Margin for AdaFaceMargin {
    fn name(&self) -> &'static str {
        "adaface"
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
        let norms: Vec<f64> =
            checked_norms(norms)?.into_iter().map(|norm| norm.clamp(NORM_RANGE.0, NORM_RANGE.1)).collect();
        let batch = norms.len();
        if batch < 2 {
            return Err(HeadError::BatchTooSmall { least: 2, actual: batch });
        }
        self.state = self.state.after(&norms, self.config.t_alpha);
        let strengths = norms.into_iter().map(|norm| self.strength(norm)).collect();
        let strengths = Tensor::from_vec::<_, f64>(strengths, (batch, 1), &Device::Cpu)?;
        let m = self.config.m;
        Ok(Margins { turn: Some(strengths.affine(-m, 0.0)?), less: Some(strengths.affine(m, m)?), easy: false })
    }

    /// ẑ of each norm.
    fn margin_scalers(&self, norms: &Tensor) -> Result<Option<Vec<f64>>, HeadError> {
        let clamped = |norm: f64| norm.clamp(NORM_RANGE.0, NORM_RANGE.1);
        Ok(Some(checked_norms(norms)?.into_iter().map(|norm| self.strength(clamped(norm))).collect()))
    }

    /// `batch_mean` and `batch_std`, each one f64, so that a run that is taken up again goes on to the bit.
    fn buffers(&self) -> Result<HashMap<&'static str, Tensor>, HeadError> {
        let number = |value: f64| Tensor::new(&[value], &Device::Cpu);
        Ok(HashMap::from([(MEAN, number(self.state.mean)?), (STD, number(self.state.std)?)]))
    }

    fn load_buffers(&mut self, buffers: &HashMap<String, Tensor>) -> Result<(), HeadError> {
        self.set_state(AdaFaceState { mean: number(buffers, MEAN)?, std: number(buffers, STD)? })
    }
}

/// The head of AdaFace: s·(cos(θ − m·ẑ) − (m + m·ẑ)) at an embedding's own class, s·cos θ elsewhere.
pub type AdaFace = Head<AdaFaceMargin>;

impl AdaFace {
    /// A head over `kernel`, with the statistics that training starts with and the exact gradient.
    ///
    /// # Errors
    /// [`HeadError::BadSetting`].
    pub fn new(config: AdaFaceConfig, kernel: ClassKernel) -> Result<Self, HeadError> {
        Ok(Self::with_margin(AdaFaceMargin::new(config, MarginGradient::Exact)?, kernel))
    }

    /// The running statistics.
    pub fn state(&self) -> AdaFaceState {
        self.margin.state()
    }

    /// Sets the running statistics.
    ///
    /// # Errors
    /// [`HeadError::BadBuffer`] where one is not finite or the deviation is below 0.
    pub fn set_state(&mut self, state: AdaFaceState) -> Result<(), HeadError> {
        self.margin.set_state(state)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::head::{ArcFace, ArcFaceConfig, CosFace, CosFaceConfig, MarginHead, split_norm};

    fn kernel() -> ClassKernel {
        ClassKernel::seeded(16, 6, 7, DType::F64, &Device::Cpu).unwrap()
    }

    fn batch(rows: usize) -> (Tensor, Tensor, Tensor) {
        let raw = ClassKernel::seeded(rows, 16, 8, DType::F64, &Device::Cpu).unwrap();
        let (unit, norms) = split_norm(raw.var()).unwrap();
        let labels: Vec<u32> = (0..rows as u32).map(|row| row % 6).collect();
        (unit, norms, Tensor::new(labels, &Device::Cpu).unwrap())
    }

    fn assert_close(a: &Tensor, b: &Tensor) {
        let error = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(error < 1e-10, "{error}");
    }

    #[test]
    fn its_ends_are_cosface_and_arcface() {
        let (unit, norms, labels) = batch(8);
        let mut cos = CosFace::new(CosFaceConfig { m: 0.4, s: 64.0 }, kernel()).unwrap();
        let mut ada = AdaFace::new(AdaFaceConfig { h: 0.0, ..AdaFaceConfig::default() }, kernel()).unwrap();
        assert_close(&ada.forward(&unit, &norms, &labels).unwrap(), &cos.forward(&unit, &norms, &labels).unwrap());
        // Norms far below the mean.
        let mut arc = ArcFace::new(ArcFaceConfig { m: 0.4, s: 64.0 }, kernel()).unwrap();
        let mut ada = AdaFace::new(AdaFaceConfig { h: 1e6, ..AdaFaceConfig::default() }, kernel()).unwrap();
        assert_close(&ada.forward(&unit, &norms, &labels).unwrap(), &arc.forward(&unit, &norms, &labels).unwrap());
    }

    #[test]
    fn a_state_goes_through_a_checkpoint_to_the_bit() {
        let (unit, norms, labels) = batch(8);
        let mut head = AdaFace::new(AdaFaceConfig::default(), kernel()).unwrap();
        head.forward(&unit, &norms, &labels).unwrap();
        let buffers: HashMap<String, Tensor> =
            head.buffers().unwrap().into_iter().map(|(name, buffer)| (name.to_owned(), buffer)).collect();
        let mut resumed = AdaFace::new(AdaFaceConfig::default(), kernel()).unwrap();
        resumed.load_buffers(&buffers).unwrap();
        assert_eq!(resumed.state(), head.state());
        assert_ne!(resumed.state(), AdaFaceState::default());
        assert!(matches!(resumed.load_buffers(&HashMap::new()), Err(HeadError::BadBuffer("batch_mean"))));
        let bad = AdaFaceState { std: f64::NAN, ..AdaFaceState::default() };
        assert!(matches!(resumed.set_state(bad), Err(HeadError::BadBuffer("batch_std"))));
    }

    #[test]
    fn bad_batches_are_refused_and_leave_the_state_alone() {
        let mut head = AdaFace::new(AdaFaceConfig::default(), kernel()).unwrap();
        let (unit, norms, labels) = batch(1);
        let result = head.forward(&unit, &norms, &labels);
        assert!(matches!(result, Err(HeadError::BatchTooSmall { least: 2, actual: 1 })));
        let (unit, norms, labels) = batch(3);
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            let norms = Tensor::new(&[[1.0], [bad], [2.0]], &Device::Cpu).unwrap();
            assert!(matches!(head.forward(&unit, &norms, &labels), Err(HeadError::BadNorm { row: 1, .. })));
        }
        let narrow = unit.narrow(1, 0, 15).unwrap();
        assert!(matches!(head.forward(&narrow, &norms, &labels), Err(HeadError::WrongShape { .. })));
        assert!(matches!(head.forward(&unit, &norms.t().unwrap(), &labels), Err(HeadError::WrongShape { .. })));
        let strangers = Tensor::new(&[0u32, 1, 6], &Device::Cpu).unwrap();
        assert!(matches!(head.forward(&unit, &norms, &strangers), Err(HeadError::NoSuchClass { label: 6, .. })));
        assert_eq!(head.state(), AdaFaceState::default());
    }

    #[test]
    fn settings_are_checked() {
        let good = AdaFaceConfig::default();
        for bad in [
            AdaFaceConfig { m: -0.1, ..good },
            AdaFaceConfig { m: f64::NAN, ..good },
            AdaFaceConfig { h: -1.0, ..good },
            AdaFaceConfig { s: 0.0, ..good },
            AdaFaceConfig { t_alpha: 0.0, ..good },
            AdaFaceConfig { t_alpha: 1.1, ..good },
        ] {
            assert!(matches!(AdaFace::new(bad, kernel()), Err(HeadError::BadSetting { .. })), "{bad:?}");
        }
    }
}
