//! Stochastic gradient descent with momentum and weight decay, with PyTorch's arithmetic.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::{OptimiseError, check_setting};

/// Values that a thread updates at a time.
const PIECE: usize = 1 << 16;

/// Settings of [`Sgd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdConfig {
    /// The share of the last change that is made again, from 0 to below 1.
    pub momentum: f64,
    /// What is added to the gradient for each unit of a parameter's value, where it decays; 0 or above.
    pub weight_decay: f64,
}

impl Default for SgdConfig {
    /// As the published networks are trained.
    fn default() -> Self {
        Self { momentum: 0.9, weight_decay: 5e-4 }
    }
}

/// How one parameter is changed in one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// The learning rate.
    pub rate: f64,
    /// Whether weight decay applies.
    pub decays: bool,
    /// What the gradient is multiplied by first: what [`super::clip`] gave.
    pub scale: f64,
}

/// The optimiser: v ← momentum·v + (scale·g + decay·w), w ← w − rate·v, with v = 0 at first.
#[derive(Debug, Clone)]
pub struct Sgd {
    config: SgdConfig,
    momenta: BTreeMap<String, Vec<f32>>,
}

impl Sgd {
    /// An optimiser at rest.
    ///
    /// # Errors
    /// [`OptimiseError::BadSetting`].
    pub fn new(config: SgdConfig) -> Result<Self, OptimiseError> {
        check_config(config)?;
        Ok(Self { config, momenta: BTreeMap::new() })
    }

    /// Its settings.
    pub fn config(&self) -> SgdConfig {
        self.config
    }

    /// Changes the values of a parameter.
    ///
    /// # Errors
    /// [`OptimiseError::WrongLength`]; nothing has changed then.
    pub fn update(
        &mut self,
        name: &str,
        values: &mut [f32],
        gradient: &[f32],
        update: Update,
    ) -> Result<(), OptimiseError> {
        let wrong = |actual| OptimiseError::WrongLength { name: name.to_owned(), expected: values.len(), actual };
        if gradient.len() != values.len() {
            return Err(wrong(gradient.len()));
        }
        if !self.momenta.contains_key(name) {
            self.momenta.insert(name.to_owned(), vec![0.0; values.len()]);
        }
        let Some(velocity) = self.momenta.get_mut(name).filter(|velocity| velocity.len() == values.len()) else {
            return Err(wrong(self.momenta[name].len()));
        };
        let (momentum, rate, scale) = (self.config.momentum as f32, update.rate as f32, update.scale as f32);
        let decay = if update.decays { self.config.weight_decay as f32 } else { 0.0 };
        let pieces = values.par_chunks_mut(PIECE).zip(gradient.par_chunks(PIECE)).zip(velocity.par_chunks_mut(PIECE));
        pieces.for_each(|((values, gradient), velocity)| {
            for ((value, gradient), velocity) in values.iter_mut().zip(gradient).zip(velocity) {
                *velocity = momentum * *velocity + (scale * gradient + decay * *value);
                *value -= rate * *velocity;
            }
        });
        Ok(())
    }

    /// The momentum of every parameter that has been changed, by name, for a checkpoint.
    pub fn momenta(&self) -> &BTreeMap<String, Vec<f32>> {
        &self.momenta
    }

    /// Takes over the momenta of a checkpoint.
    pub fn set_momenta(&mut self, momenta: BTreeMap<String, Vec<f32>>) {
        self.momenta = momenta;
    }
}

/// Checks settings.
pub(super) fn check_config(config: SgdConfig) -> Result<(), OptimiseError> {
    check_setting("optimiser.momentum", config.momentum, "from 0 to below 1", (0.0..1.0).contains(&config.momentum))?;
    check_setting("optimiser.weight_decay", config.weight_decay, "0 or above", config.weight_decay >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_and_settings_are_checked() {
        for (momentum, weight_decay) in [(1.0, 0.0), (-0.1, 0.0), (f64::NAN, 0.0), (0.9, -1.0), (0.9, f64::INFINITY)] {
            assert!(Sgd::new(SgdConfig { momentum, weight_decay }).is_err());
        }
        let mut sgd = Sgd::new(SgdConfig::default()).unwrap();
        let update = Update { rate: 0.1, decays: true, scale: 1.0 };
        sgd.update("w", &mut [1.0, 2.0], &[0.0, 0.0], update).unwrap();
        assert!(sgd.update("w", &mut [1.0, 2.0], &[0.0], update).is_err());
        let message = sgd.update("w", &mut [1.0], &[0.0], update).unwrap_err().to_string();
        assert_eq!(message, "w has 1 values, but a gradient or momentum of 2");
    }

    proptest! {
        /// Five steps against the same sums in double precision, two parameters taking turns.
        #[test]
        fn equals_the_formula_in_double_precision(
            start in proptest::collection::vec(-2.0f32..2.0, 7),
            gradients in proptest::collection::vec(proptest::collection::vec(-3.0f32..3.0, 7), 5),
            momentum in 0.0f64..0.99,
            weight_decay in 0.0f64..0.1,
        ) {
            let mut sgd = Sgd::new(SgdConfig { momentum, weight_decay }).unwrap();
            for (name, decays) in [("weight", true), ("norm", false)] {
                let mut values = start.clone();
                let mut twin: Vec<[f64; 2]> = start.iter().map(|value| [f64::from(*value), 0.0]).collect();
                for (step, gradient) in gradients.iter().enumerate() {
                    let (rate, scale) = (0.1 / (step + 1) as f64, 0.5);
                    sgd.update(name, &mut values, gradient, Update { rate, decays, scale }).unwrap();
                    for ([value, velocity], gradient) in twin.iter_mut().zip(gradient) {
                        let decay = if decays { weight_decay } else { 0.0 };
                        *velocity = momentum * *velocity + scale * f64::from(*gradient) + decay * *value;
                        *value -= rate * *velocity;
                    }
                }
                for (value, [twin, _]) in values.iter().zip(&twin) {
                    prop_assert!((f64::from(*value) - twin).abs() < 1e-5, "{} {}", value, twin);
                }
            }
        }
    }
}
