//! The head that a configuration asks for.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::head::{
    AdaFace, AdaFaceConfig, AdaFaceState, ArcFace, ArcFaceConfig, ClassKernel, CosFace, CosFaceConfig, HeadError,
    MarginHead,
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
}

/// Settings of the head. What a head does not know is left alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadConfig {
    /// Which head.
    pub kind: HeadKind,
    /// What its loss is multiplied by; with 0 there is no head, and all is learnt from a teacher.
    pub weight: f64,
    /// The margin m; where none is given, the published one of the head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub m: Option<f64>,
    /// How strongly norms act, for AdaFace.
    pub h: f64,
    /// The scale of the logits.
    pub s: f64,
    /// The weight of a new batch in the running norms, for AdaFace.
    pub t_alpha: f64,
    /// The mean norm that AdaFace starts with. The published 20 suits random weights; for others, their own lets margins
    /// differ from the first step on.
    pub norm_mean: f64,
    /// The deviation of norms that AdaFace starts with; published: 100.
    pub norm_std: f64,
}

impl Default for HeadConfig {
    fn default() -> Self {
        let (ada, start) = (AdaFaceConfig::default(), AdaFaceState::default());
        Self {
            kind: HeadKind::AdaFace,
            weight: 1.0,
            m: None,
            h: ada.h,
            s: ada.s,
            t_alpha: ada.t_alpha,
            norm_mean: start.mean,
            norm_std: start.std,
        }
    }
}

impl HeadConfig {
    /// The margin, given or published.
    pub fn margin(&self) -> f64 {
        self.m.unwrap_or(match self.kind {
            HeadKind::AdaFace => AdaFaceConfig::default().m,
            HeadKind::ArcFace => ArcFaceConfig::default().m,
            HeadKind::CosFace => CosFaceConfig::default().m,
        })
    }

    /// A head for embeddings of `dim` values, its kernel drawn from the seed; none where its weight is 0.
    ///
    /// # Errors
    /// [`HeadError`] for settings outside of what makes sense.
    pub fn build(&self, dim: usize, classes: usize, seed: u64) -> Result<Option<Box<dyn MarginHead>>, HeadError> {
        if self.weight == 0.0 {
            return Ok(None);
        }
        let kernel = ClassKernel::seeded(dim, classes, seed, DType::F32, &Device::Cpu)?;
        let Self { h, s, t_alpha, .. } = *self;
        let m = self.margin();
        Ok(Some(match self.kind {
            HeadKind::AdaFace => {
                let mut head = AdaFace::new(AdaFaceConfig { m, h, s, t_alpha }, kernel)?;
                head.set_state(AdaFaceState { mean: self.norm_mean, std: self.norm_std })?;
                Box::new(head)
            }
            HeadKind::ArcFace => Box::new(ArcFace::new(ArcFaceConfig { m, s }, kernel)?),
            HeadKind::CosFace => Box::new(CosFace::new(CosFaceConfig { m, s }, kernel)?),
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
        ] {
            let config = HeadConfig { kind, ..HeadConfig::default() };
            let head = config.build(16, 5, 1).unwrap().unwrap();
            assert_eq!((head.name(), head.kernel().classes(), config.margin()), (name, 5, margin));
            assert!(HeadConfig { m: Some(4.0), ..config.clone() }.build(16, 5, 1).is_err());
            assert!(HeadConfig { weight: 0.0, ..config }.build(16, 5, 1).unwrap().is_none());
        }
    }
}
