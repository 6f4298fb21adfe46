//! The head that a configuration asks for.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::head::{
    AdaFace, AdaFaceConfig, AdaFaceState, ArcFace, ArcFaceConfig, ClassKernel, CosFace, CosFaceConfig, CurricularFace,
    CurricularFaceConfig, HeadError, MagFace, MagFaceConfig, MarginHead,
};

/// Which head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// [`AdaFace`].
    #[default]
    AdaFace,
    /// [`ArcFace`].
    ArcFace,
    /// [`CosFace`].
    CosFace,
    /// [`CurricularFace`].
    CurricularFace,
    /// [`MagFace`].
    MagFace,
}

/// Where the directions of classes begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelStart {
    /// Drawn from the seed, as published.
    #[default]
    Random,
    /// Where the network that training starts from has each class: the mean direction of some of its crops (Qi et al.
    /// 2018, "Low-Shot Learning with Imprinted Weights"). A network that knows faces is not first pulled apart by
    /// directions that mean nothing.
    Means,
}

/// Settings of the head. What a head does not know is left alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadConfig {
    /// Which head.
    pub kind: HeadKind,
    /// Where the directions of classes begin.
    pub start: KernelStart,
    /// What its loss is multiplied by; with 0 there is no head, and all is learnt from a teacher.
    pub weight: f64,
    /// The margin m; where none is given, the published one of the head. MagFace has its two margins in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub m: Option<f64>,
    /// How strongly norms act, for AdaFace.
    pub h: f64,
    /// The scale of the logits.
    pub s: f64,
    /// The weight of a new batch in the running norms of AdaFace, or in the running cosine of CurricularFace.
    pub t_alpha: f64,
    /// The mean norm that AdaFace starts with. The published 20 suits random weights; for others, their own lets margins
    /// differ from the first step on.
    pub norm_mean: f64,
    /// The deviation of norms that AdaFace starts with; published: 100.
    pub norm_std: f64,
    /// MagFace's norm of the least margin.
    pub least_norm: f64,
    /// MagFace's norm of the most margin.
    pub most_norm: f64,
    /// MagFace's least margin, in radians.
    pub least_margin: f64,
    /// MagFace's most margin, in radians.
    pub most_margin: f64,
    /// How strongly MagFace rewards long embeddings.
    pub lambda: f64,
    /// Whether MagFace spares embeddings at 90° and more from their class.
    pub easy_margin: bool,
}

impl Default for HeadConfig {
    fn default() -> Self {
        let (ada, start) = (AdaFaceConfig::default(), AdaFaceState::default());
        let mag = MagFaceConfig::default();
        Self {
            kind: HeadKind::AdaFace,
            start: KernelStart::Random,
            weight: 1.0,
            m: None,
            h: ada.h,
            s: ada.s,
            t_alpha: ada.t_alpha,
            norm_mean: start.mean,
            norm_std: start.std,
            least_norm: mag.least_norm,
            most_norm: mag.most_norm,
            least_margin: mag.least_margin,
            most_margin: mag.most_margin,
            lambda: mag.lambda,
            easy_margin: mag.easy_margin,
        }
    }
}

impl HeadConfig {
    /// The margin, given or published; of MagFace, whose margins are between two, the greater one.
    pub fn margin(&self) -> f64 {
        self.m.unwrap_or(match self.kind {
            HeadKind::AdaFace => AdaFaceConfig::default().m,
            HeadKind::ArcFace => ArcFaceConfig::default().m,
            HeadKind::CosFace => CosFaceConfig::default().m,
            HeadKind::CurricularFace => CurricularFaceConfig::default().m,
            HeadKind::MagFace => self.most_margin,
        })
    }

    /// Checks what [`Self::build`] does not.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        if !(self.weight.is_finite() && self.weight >= 0.0) {
            Err("head.weight is 0 or above".into())
        } else if !(self.norm_mean.is_finite() && self.norm_std.is_finite() && self.norm_std >= 0.0) {
            Err("head.norm_mean is a finite number, and head.norm_std one of 0 or above".into())
        } else if self.kind == HeadKind::MagFace && self.m.is_some() {
            Err("head.m is not for magface, which has head.least_margin and head.most_margin".into())
        } else {
            Ok(())
        }
    }

    /// A head for embeddings of `dim` values, its kernel drawn from the seed, on a device; none where its weight is 0.
    ///
    /// # Errors
    /// [`HeadError`] for settings outside of what makes sense.
    pub fn build(
        &self,
        dim: usize,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Option<Box<dyn MarginHead>>, HeadError> {
        if self.weight == 0.0 {
            return Ok(None);
        }
        let kernel = ClassKernel::seeded(dim, classes, seed, DType::F32, device)?;
        let Self { h, s, t_alpha, least_norm, most_norm, least_margin, most_margin, lambda, easy_margin, .. } = *self;
        let m = self.margin();
        Ok(Some(match self.kind {
            HeadKind::AdaFace => {
                let mut head = AdaFace::new(AdaFaceConfig { m, h, s, t_alpha }, kernel)?;
                head.set_state(AdaFaceState { mean: self.norm_mean, std: self.norm_std })?;
                Box::new(head)
            }
            HeadKind::ArcFace => Box::new(ArcFace::new(ArcFaceConfig { m, s }, kernel)?),
            HeadKind::CosFace => Box::new(CosFace::new(CosFaceConfig { m, s }, kernel)?),
            HeadKind::CurricularFace => Box::new(CurricularFace::new(CurricularFaceConfig { m, s, t_alpha }, kernel)?),
            HeadKind::MagFace => {
                let config = MagFaceConfig { least_norm, most_norm, least_margin, most_margin, lambda, s, easy_margin };
                Box::new(MagFace::new(config, kernel)?)
            }
        }))
    }

    /// Mean and deviation of the norms that AdaFace has seen, out of its running ones after so many batches: what is
    /// left in them of the values it started with is taken out (as Kingma and Ba 2015 do for Adam). None before the
    /// first batch.
    pub fn seen_norms(&self, running: AdaFaceState, batches: u64) -> Option<AdaFaceState> {
        let left = (1.0 - self.t_alpha).powf(batches as f64);
        let without = |value: f64, start: f64| (value - left * start) / (1.0 - left);
        let (mean, std) = (without(running.mean, self.norm_mean), without(running.std, self.norm_std));
        (batches > 0).then_some(AdaFaceState { mean, std: std.max(0.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_norms_started_with_is_taken_out() {
        let config = HeadConfig::default();
        let mut running = AdaFaceState { mean: config.norm_mean, std: config.norm_std };
        assert_eq!(config.seen_norms(running, 0), None);
        for batches in 1..=300 {
            running.mean = 0.99 * running.mean + 0.01 * 31.5;
            running.std = 0.99 * running.std + 0.01 * 2.25;
            let seen = config.seen_norms(running, batches).unwrap();
            assert!((seen.mean - 31.5).abs() < 1e-9 && (seen.std - 2.25).abs() < 1e-9, "{batches}: {seen:?}");
        }
    }

    #[test]
    fn heads_are_built_with_their_published_margins() {
        for (kind, name, margin) in [
            (HeadKind::AdaFace, "adaface", 0.4),
            (HeadKind::ArcFace, "arcface", 0.5),
            (HeadKind::CosFace, "cosface", 0.4),
            (HeadKind::CurricularFace, "curricularface", 0.5),
            (HeadKind::MagFace, "magface", 0.8),
        ] {
            let config = HeadConfig { kind, ..HeadConfig::default() };
            let head = config.build(16, 5, 1, &Device::Cpu).unwrap().unwrap();
            assert_eq!((head.name(), head.kernel().classes(), config.margin()), (name, 5, margin));
            let far = HeadConfig { m: Some(4.0), most_margin: 4.0, ..config.clone() };
            assert!(far.build(16, 5, 1, &Device::Cpu).is_err());
            assert_eq!(far.check().is_err(), kind == HeadKind::MagFace);
            assert!(HeadConfig { s: 0.0, ..config.clone() }.build(16, 5, 1, &Device::Cpu).is_err());
            assert!(HeadConfig { weight: 0.0, ..config }.build(16, 5, 1, &Device::Cpu).unwrap().is_none());
        }
    }
}
