//! MagFace (Meng et al. 2021): the margin grows with the norm, and long embeddings are rewarded.
//!
//! The margin is an angle m(a) = l_m + (u_m − l_m)(a − l_a) / (u_a − l_a) of the norm a, taken within l_a and u_a. The
//! loss has λ·(1/a + a/u_a²) added, which falls as a grows up to u_a. An embedding close to its class can afford the
//! larger margin of a long one, one that is far cannot: so the norm becomes a quality by itself. For that, unlike with
//! all other heads, gradients reach the norm, by the margin and by what is added.

use std::f64::consts::FRAC_PI_2;

use candle_core::Tensor;

use super::margin::checked_norms;
use super::{ClassKernel, Head, HeadError, Margin, Margins, check_setting};

/// How far cosines are kept from −1 and 1, and angles from 0 and π. The published code keeps cosines within −1 and 1
/// only, where an angle has no derivative at the ends.
const GUARD: f64 = 1e-4;

/// Settings of [`MagFace`], with the paper's names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MagFaceConfig {
    /// The norm l_a of the least margin, above 0.
    pub least_norm: f64,
    /// The norm u_a of the most margin, above `least_norm`.
    pub most_norm: f64,
    /// The least margin l_m, in radians, 0 to π/2.
    pub least_margin: f64,
    /// The most margin u_m, in radians, `least_margin` to π/2.
    pub most_margin: f64,
    /// The weight λ_g of what is added to the loss, 0 or above.
    pub lambda: f64,
    /// The scale s of the logits, above 0.
    pub s: f64,
    /// Whether embeddings at 90° and more from their class have no margin. The formula of the paper has one for all
    /// and so does the default; the published code spares them.
    pub easy_margin: bool,
}

impl Default for MagFaceConfig {
    fn default() -> Self {
        Self {
            least_norm: 10.0,
            most_norm: 110.0,
            least_margin: 0.45,
            most_margin: 0.8,
            lambda: 35.0,
            s: 64.0,
            easy_margin: false,
        }
    }
}

/// The margin of MagFace: s·cos(θ + m(a)) at an embedding's own class.
#[derive(Debug, Clone)]
pub struct MagFaceMargin {
    config: MagFaceConfig,
}

impl MagFaceMargin {
    /// The margin.
    ///
    /// # Errors
    /// [`HeadError::BadSetting`].
    pub fn new(config: MagFaceConfig) -> Result<Self, HeadError> {
        let MagFaceConfig { least_norm, most_norm, least_margin, most_margin, lambda, s, .. } = config;
        check_setting("least_norm", least_norm, "above 0", least_norm > 0.0)?;
        check_setting("most_norm", most_norm, "above least_norm", most_norm > least_norm)?;
        check_setting("least_margin", least_margin, "from 0 to π/2", (0.0..=FRAC_PI_2).contains(&least_margin))?;
        let valid = (least_margin..=FRAC_PI_2).contains(&most_margin);
        check_setting("most_margin", most_margin, "from least_margin to π/2", valid)?;
        check_setting("lambda", lambda, "0 or above", lambda >= 0.0)?;
        check_setting("s", s, "above 0", s > 0.0)?;
        Ok(Self { config })
    }

    /// Norms within the range that margins are for. No gradient goes through one outside of it.
    fn within(&self, norms: &Tensor) -> Result<Tensor, HeadError> {
        Ok(norms.clamp(self.config.least_norm, self.config.most_norm)?)
    }
}

impl Margin for MagFaceMargin {
    fn name(&self) -> &'static str {
        "magface"
    }

    fn scale(&self) -> f64 {
        self.config.s
    }

    fn guard(&self) -> f64 {
        GUARD
    }

    fn at(&mut self, norms: &Tensor) -> Result<Margins, HeadError> {
        checked_norms(norms)?;
        let MagFaceConfig { least_norm, most_norm, least_margin, most_margin, easy_margin, .. } = self.config;
        let slope = (most_margin - least_margin) / (most_norm - least_norm);
        let turn = self.within(norms)?.affine(slope, least_margin - slope * least_norm)?;
        Ok(Margins { turn: Some(turn), less: None, easy: easy_margin })
    }

    fn regulariser(&self, norms: &Tensor) -> Result<Option<Tensor>, HeadError> {
        let norms = self.within(norms)?;
        let each = (norms.recip()? + norms.affine(self.config.most_norm.powi(-2), 0.0)?)?;
        Ok(Some(each.mean_all()?.affine(self.config.lambda, 0.0)?))
    }
}

/// The head of MagFace: s·cos(θ + m(a)) at an embedding's own class, s·cos θ elsewhere. Its loss is that of
/// [`MarginHead::loss`](super::MarginHead::loss).
pub type MagFace = Head<MagFaceMargin>;

impl MagFace {
    /// A head over `kernel`.
    ///
    /// # Errors
    /// [`HeadError::BadSetting`].
    pub fn new(config: MagFaceConfig, kernel: ClassKernel) -> Result<Self, HeadError> {
        Ok(Self::with_margin(MagFaceMargin::new(config)?, kernel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        let good = MagFaceConfig::default();
        assert!(MagFaceMargin::new(good).is_ok());
        for bad in [
            MagFaceConfig { least_norm: 0.0, ..good },
            MagFaceConfig { most_norm: 10.0, ..good },
            MagFaceConfig { least_margin: -0.1, ..good },
            MagFaceConfig { most_margin: 0.4, ..good },
            MagFaceConfig { lambda: f64::NAN, ..good },
            MagFaceConfig { s: 0.0, ..good },
        ] {
            assert!(matches!(MagFaceMargin::new(bad), Err(HeadError::BadSetting { .. })), "{bad:?}");
        }
    }
}
