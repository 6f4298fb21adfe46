//! CurricularFace (Huang et al. 2020): easy classes first, hard ones later.
//!
//! A class that is not the embedding's own and yet is closer than the margin allows, cos θ_j > cos(θ + m), is hard: its
//! cosine c becomes c·(t + c). t is the running mean of the cosines to the own classes. It starts at 0, where hard
//! classes count for less, and grows as training goes on, until they count for more. t belongs in the checkpoint.

use std::collections::HashMap;
use std::f64::consts::{FRAC_PI_2, PI};

use candle_core::{DType, Device, Tensor};

use super::margin::number;
use super::target::{Targets, turned_cosine};
use super::{ClassKernel, HeadError, MarginHead, check_setting, check_shape};

/// How far cosines are kept from −1 and 1. The published code keeps them within −1 and 1 only, where an angle has no
/// derivative at the ends.
const GUARD: f64 = 1e-4;
/// The name of the running mean in a checkpoint.
const T: &str = "t";

/// Settings of [`CurricularFace`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CurricularFaceConfig {
    /// The margin m, in radians, 0 to π/2.
    pub m: f64,
    /// The scale s of the logits, above 0.
    pub s: f64,
    /// The weight of a new batch in the running mean, above 0 to 1.
    pub t_alpha: f64,
}

impl Default for CurricularFaceConfig {
    fn default() -> Self {
        Self { m: 0.5, s: 64.0, t_alpha: 0.01 }
    }
}

/// The head of CurricularFace: s·cos(θ + m) at an embedding's own class, s·(cos θ − m·sin m) where θ + m is π or more;
/// elsewhere s·c·(t + c) for hard classes and s·c for others, c the cosine.
#[derive(Debug, Clone)]
pub struct CurricularFace {
    config: CurricularFaceConfig,
    kernel: ClassKernel,
    t: f64,
}

impl CurricularFace {
    /// A head over `kernel`, with t at 0.
    ///
    /// # Errors
    /// [`HeadError::BadSetting`].
    pub fn new(config: CurricularFaceConfig, kernel: ClassKernel) -> Result<Self, HeadError> {
        check_setting("m", config.m, "from 0 to π/2", (0.0..=FRAC_PI_2).contains(&config.m))?;
        check_setting("s", config.s, "above 0", config.s > 0.0)?;
        check_setting("t_alpha", config.t_alpha, "above 0, 1 at most", config.t_alpha > 0.0 && config.t_alpha <= 1.0)?;
        Ok(Self { config, kernel, t: 0.0 })
    }

    /// The running mean t of the cosines to the own classes.
    pub fn t(&self) -> f64 {
        self.t
    }
}

impl MarginHead for CurricularFace {
    fn name(&self) -> &'static str {
        "curricularface"
    }

    fn kernel(&self) -> &ClassKernel {
        &self.kernel
    }

    fn forward(&mut self, unit: &Tensor, norms: &Tensor, labels: &Tensor) -> Result<Tensor, HeadError> {
        let CurricularFaceConfig { m, s, t_alpha } = self.config;
        let cosines = self.kernel.cosines(unit, GUARD)?;
        let targets = Targets::new(labels, &cosines)?;
        check_shape("the norms", norms, &[cosines.dims()[0], 1])?;
        let own = targets.of(&cosines)?;
        let mean = own.detach().to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>()?;
        // A NaN would stay in t for the rest of the training.
        if !mean.is_finite() {
            return Err(HeadError::BadMean(mean));
        }
        let t = t_alpha * mean + (1.0 - t_alpha) * self.t;

        let turn = Tensor::full(m, own.shape(), own.device())?.to_dtype(own.dtype())?;
        let turned = turned_cosine(&own, &turn, None)?;
        let own_logit = own.detach().gt((PI - m).cos())?.where_cond(&turned, &own.affine(1.0, -m * m.sin())?)?;
        let hard = cosines.detach().broadcast_gt(&turned.detach())?.to_dtype(cosines.dtype())?;
        let hard = (hard * (1.0 - targets.mask())?)?.detach();
        // c·(t + c) is c + c·(c + t − 1).
        let grown = (&cosines + (hard * (&cosines * cosines.affine(1.0, t - 1.0)?)?)?)?;
        let logits = (targets.add(&grown, &(own_logit - &own)?)? * s)?;
        self.t = t;
        Ok(logits)
    }

    /// `t`, one f64, so that a run that is taken up again goes on to the bit.
    fn buffers(&self) -> Result<HashMap<&'static str, Tensor>, HeadError> {
        Ok(HashMap::from([(T, Tensor::new(&[self.t], &Device::Cpu)?)]))
    }

    fn load_buffers(&mut self, buffers: &HashMap<String, Tensor>) -> Result<(), HeadError> {
        self.t = number(buffers, T)?;
        Ok(())
    }
}
