//! The head that a configuration asks for.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};
use vultus_engine::random::Random;

use super::trained_head::TrainedHead;
use crate::head::{
    AdaFaceConfig, AdaFaceMargin, AdaFaceState, Alone, ArcFaceConfig, ArcFaceMargin, ClassKernel, CosFaceConfig,
    CosFaceMargin, CurricularFace, CurricularFaceConfig, Head, HeadError, MagFaceConfig, MagFaceMargin, Margin,
    MarginGradient, PartialConfig, PartialFc, Shard, ShardKernel,
};

/// Which head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadKind {
    /// [`AdaFace`](crate::head::AdaFace).
    #[default]
    AdaFace,
    /// [`ArcFace`](crate::head::ArcFace).
    ArcFace,
    /// [`CosFace`](crate::head::CosFace).
    CosFace,
    /// [`CurricularFace`].
    CurricularFace,
    /// [`MagFace`](crate::head::MagFace).
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
    /// How the loss's gradient goes through the margin, for AdaFace, ArcFace and CosFace: `exact` as in the published code
    /// of AdaFace, or `straight_through` as in CVLFace's.
    pub gradient: MarginGradient,
    /// The share of classes that each part of a step looks at, above 0 to 1; those of its images are always among them.
    /// Below 1 the head is a [`PartialFc`], not to be had of CurricularFace, and steps move sampled classes only.
    pub rate: f64,
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
            gradient: MarginGradient::Exact,
            rate: 1.0,
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
        } else if !(self.rate > 0.0 && self.rate <= 1.0) {
            Err("head.rate is above 0, 1 at most".into())
        } else if self.rate < 1.0 && self.kind == HeadKind::CurricularFace {
            Err("head.rate is below 1, which is not for curricularface: it looks at all classes".into())
        } else if self.gradient != MarginGradient::Exact && !self.kind.has_both_gradients() {
            Err("head.gradient is straight_through, which is for adaface, arcface and cosface only".into())
        } else if !(self.norm_mean.is_finite() && self.norm_std.is_finite() && self.norm_std >= 0.0) {
            Err("head.norm_mean is a finite number, and head.norm_std one of 0 or above".into())
        } else if self.kind == HeadKind::MagFace && self.m.is_some() {
            Err("head.m is not for magface, which has head.least_margin and head.most_margin".into())
        } else {
            Ok(())
        }
    }

    /// A head for embeddings of `dim` values, its classes drawn from the seed, on a device; none where its weight is 0.
    ///
    /// # Errors
    /// [`HeadError`] for settings outside of what makes sense. A gradient or a rate that the head does not have is not
    /// noticed here but by [`Self::check`], and left alone.
    pub fn build(
        &self,
        dim: usize,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Option<TrainedHead>, HeadError> {
        if self.weight == 0.0 {
            return Ok(None);
        }
        let start = Start { dim, classes, seed, device };
        let Self { h, s, t_alpha, least_norm, most_norm, least_margin, most_margin, lambda, easy_margin, .. } = *self;
        let m = self.margin();
        Ok(Some(match self.kind {
            HeadKind::AdaFace => {
                let mut margin = AdaFaceMargin::new(AdaFaceConfig { m, h, s, t_alpha }, self.gradient)?;
                margin.set_state(AdaFaceState { mean: self.norm_mean, std: self.norm_std })?;
                start.head(margin, self.rate)?
            }
            HeadKind::ArcFace => start.head(ArcFaceMargin::new(ArcFaceConfig { m, s }, self.gradient)?, self.rate)?,
            HeadKind::CosFace => start.head(CosFaceMargin::new(CosFaceConfig { m, s }, self.gradient)?, self.rate)?,
            HeadKind::CurricularFace => {
                TrainedHead::full(CurricularFace::new(CurricularFaceConfig { m, s, t_alpha }, start.kernel()?)?)
            }
            HeadKind::MagFace => {
                let config = MagFaceConfig { least_norm, most_norm, least_margin, most_margin, lambda, s, easy_margin };
                start.head(MagFaceMargin::new(config)?, self.rate)?
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

impl HeadKind {
    /// Whether it can be trained straight through its margin.
    fn has_both_gradients(self) -> bool {
        matches!(self, Self::AdaFace | Self::ArcFace | Self::CosFace)
    }
}

/// The classes that a head begins with.
struct Start<'a> {
    dim: usize,
    classes: usize,
    seed: u64,
    device: &'a Device,
}

impl Start<'_> {
    /// All of them in one kernel.
    fn kernel(&self) -> Result<ClassKernel, HeadError> {
        ClassKernel::seeded(self.dim, self.classes, self.seed, DType::F32, self.device)
    }

    /// A head over all of them or, where the rate is below 1, over samples.
    fn head<M: Margin + 'static>(&self, margin: M, rate: f64) -> Result<TrainedHead, HeadError> {
        if rate == 1.0 {
            return Ok(TrainedHead::full(Head::with_margin(margin, self.kernel()?)));
        }
        let shard = Shard::new(self.classes, 0, 1)?;
        let kernel = ShardKernel::seeded(shard, self.dim, self.seed, DType::F32, self.device)?;
        let seed = Random::named(self.seed, "samples of classes").next();
        Ok(TrainedHead::partial(PartialFc::new(margin, kernel, Alone, PartialConfig { rate, seed })?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Tensor, Var};

    use super::*;
    use crate::head::split_norm;

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
            assert_eq!((head.name(), head.classes(), config.margin()), (name, 5, margin));
            let sampled = HeadConfig { rate: 0.5, ..config.clone() };
            assert_eq!(sampled.check().is_err(), kind == HeadKind::CurricularFace);
            let tensors = sampled.build(16, 5, 1, &Device::Cpu).unwrap().unwrap().0.tensors().unwrap();
            assert_eq!(tensors.contains_key("steps"), kind != HeadKind::CurricularFace);
            assert!(head.0.tensors().unwrap().contains_key("kernel"));
            let far = HeadConfig { m: Some(4.0), most_margin: 4.0, ..config.clone() };
            assert!(far.build(16, 5, 1, &Device::Cpu).is_err());
            assert_eq!(far.check().is_err(), kind == HeadKind::MagFace);
            assert!(HeadConfig { s: 0.0, ..config.clone() }.build(16, 5, 1, &Device::Cpu).is_err());
            assert!(HeadConfig { weight: 0.0, ..config }.build(16, 5, 1, &Device::Cpu).unwrap().is_none());
        }
    }
    /// Loss of a batch and its gradient to the embeddings.
    fn learn(mut head: TrainedHead) -> (f32, Vec<f32>) {
        let raw = Tensor::arange(0f32, 64.0, &Device::Cpu).unwrap().sin().unwrap();
        let raw = Var::from_tensor(&(raw.reshape((4, 16)).unwrap() * 9.0).unwrap()).unwrap();
        let (unit, norms) = split_norm(&raw).unwrap();
        let loss = head.0.loss(&unit, &norms, &Tensor::new(&[3u32, 1, 4, 1], &Device::Cpu).unwrap()).unwrap();
        let gradient = loss.backward().unwrap().get(&raw).unwrap().flatten_all().unwrap();
        (loss.to_scalar().unwrap(), gradient.to_vec1().unwrap())
    }

    #[test]
    fn gradients_go_through_margins_as_asked_for() {
        let kernel = || ClassKernel::seeded(16, 5, 1, DType::F32, &Device::Cpu).unwrap();
        let of_library = |kind: HeadKind, gradient: MarginGradient| match kind {
            HeadKind::AdaFace => {
                let margin = AdaFaceMargin::new(AdaFaceConfig::default(), gradient).unwrap();
                TrainedHead::full(Head::with_margin(margin, kernel()))
            }
            HeadKind::ArcFace => {
                let margin = ArcFaceMargin::new(ArcFaceConfig::default(), gradient).unwrap();
                TrainedHead::full(Head::with_margin(margin, kernel()))
            }
            _ => {
                let margin = CosFaceMargin::new(CosFaceConfig::default(), gradient).unwrap();
                TrainedHead::full(Head::with_margin(margin, kernel()))
            }
        };
        for kind in [HeadKind::AdaFace, HeadKind::ArcFace, HeadKind::CosFace] {
            let of = |gradient: MarginGradient, rate: f64| {
                let config = HeadConfig { kind, gradient, rate, ..HeadConfig::default() };
                assert_eq!(config.check(), Ok(()));
                learn(config.build(16, 5, 1, &Device::Cpu).unwrap().unwrap())
            };
            for rate in [1.0, 0.9] {
                let (exact, straight) = (of(MarginGradient::Exact, rate), of(MarginGradient::StraightThrough, rate));
                assert_eq!(exact.1 != straight.1, kind != HeadKind::CosFace, "{kind:?} {rate}");
                if rate == 1.0 {
                    assert_eq!(exact, learn(of_library(kind, MarginGradient::Exact)));
                    assert_eq!(straight, learn(of_library(kind, MarginGradient::StraightThrough)));
                }
            }
        }
    }
}
