//! From gradients to changed weights: stochastic gradient descent as the published networks are trained.
//!
//! | what | as in the published code |
//! |---|---|
//! | [`Sgd`] | momentum 0.9, weight decay 5e-4 on everything but batch normalisation, the class kernel included |
//! | [`TensorSgd`] | the same, for parameters on a device |
//! | [`Schedule`] | the rate over the steps: constant, divided at milestones, or along a cosine; with warm-up |
//! | [`clip`] | all gradients together brought to a length (Pascanu et al. 2013); AdaFace trains without |
//!
//! Momentum is kept by the name of its parameter, so that it is found again when a run is taken up. All of it is
//! arithmetic in a fixed order: the same gradients give the same bits on any number of threads.
//!
//! # Use
//! ```
//! use vultus_train::optimise::{Sgd, SgdConfig, Update};
//!
//! # fn main() -> Result<(), vultus_train::optimise::OptimiseError> {
//! let mut sgd = Sgd::new(SgdConfig::default())?;
//! let mut values = [1.0f32];
//! sgd.update("layer.weight", &mut values, &[0.5], Update { rate: 0.1, decays: false, scale: 1.0 })?;
//! assert_eq!(values, [0.95]);
//! # Ok(())
//! # }
//! ```

mod clip;
mod schedule;
mod sgd;
mod tensors;

pub use clip::{clip, length};
pub use schedule::{Schedule, ScheduleConfig, ScheduleKind};
pub use sgd::{Sgd, SgdConfig, Update};
pub use tensors::{TensorSgd, tensor_length};

/// Why an optimiser did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum OptimiseError {
    /// An operation on tensors failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A setting outside of what makes sense.
    #[error("{setting} is {value}, it has to be {range}")]
    BadSetting {
        /// Which setting.
        setting: &'static str,
        /// Its value.
        value: f64,
        /// What it has to be.
        range: &'static str,
    },
    /// Values and gradient, or values and momentum, of different lengths.
    #[error("{name} has {expected} values, but a gradient or momentum of {actual}")]
    WrongLength {
        /// Which parameter.
        name: String,
        /// Its values.
        expected: usize,
        /// What it was given.
        actual: usize,
    },
}

/// Checks one setting.
fn check_setting(setting: &'static str, value: f64, range: &'static str, valid: bool) -> Result<(), OptimiseError> {
    if value.is_finite() && valid { Ok(()) } else { Err(OptimiseError::BadSetting { setting, value, range }) }
}
