//! [`Sgd`](super::Sgd) on tensors, for parameters that are kept on a device: the same formula, the momenta beside them.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::sgd::check_config;
use super::{OptimiseError, SgdConfig, Update};

/// The optimiser: v ← momentum·v + (scale·g + decay·w), w ← w − rate·v, with v = 0 at first.
#[derive(Debug, Clone)]
pub struct TensorSgd {
    config: SgdConfig,
    device: Device,
    momenta: BTreeMap<String, Tensor>,
}

impl TensorSgd {
    /// An optimiser at rest, on a device.
    ///
    /// # Errors
    /// [`OptimiseError::BadSetting`].
    pub fn new(config: SgdConfig, device: &Device) -> Result<Self, OptimiseError> {
        check_config(config)?;
        Ok(Self { config, device: device.clone(), momenta: BTreeMap::new() })
    }

    /// Its settings.
    pub fn config(&self) -> SgdConfig {
        self.config
    }

    /// The new value of a parameter, of the shape and type of its value and gradient.
    ///
    /// # Errors
    /// [`OptimiseError::WrongLength`], [`OptimiseError::Tensor`]; nothing has changed then.
    pub fn update(
        &mut self,
        name: &str,
        value: &Tensor,
        gradient: &Tensor,
        update: Update,
    ) -> Result<Tensor, OptimiseError> {
        let wrong = |actual| OptimiseError::WrongLength { name: name.to_owned(), expected: value.elem_count(), actual };
        if gradient.dims() != value.dims() {
            return Err(wrong(gradient.elem_count()));
        }
        // What candle knows of how it came about would be kept with the momentum for ever.
        let mut change = gradient.detach().affine(update.scale, 0.0)?;
        if update.decays {
            change = (change + value.affine(self.config.weight_decay, 0.0)?)?;
        }
        let velocity = match self.momenta.get(name) {
            // Of a checkpoint, which knows no shapes and one type.
            Some(velocity) if velocity.elem_count() == value.elem_count() => {
                let velocity = velocity.reshape(value.shape())?.to_dtype(value.dtype())?;
                (velocity.affine(self.config.momentum, 0.0)? + change)?
            }
            Some(velocity) => return Err(wrong(velocity.elem_count())),
            None => change,
        };
        let value = (value - velocity.affine(update.rate, 0.0)?)?;
        self.momenta.insert(name.to_owned(), velocity);
        Ok(value)
    }

    /// The momentum of every parameter that has been changed, by name, for a checkpoint.
    ///
    /// # Errors
    /// [`OptimiseError::Tensor`].
    pub fn momenta(&self) -> Result<BTreeMap<String, Vec<f32>>, OptimiseError> {
        let host = |(name, momentum): (&String, &Tensor)| {
            Ok((name.clone(), momentum.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?))
        };
        self.momenta.iter().map(host).collect()
    }

    /// Takes over the momenta of a checkpoint.
    ///
    /// # Errors
    /// [`OptimiseError::Tensor`].
    pub fn set_momenta(&mut self, momenta: BTreeMap<String, Vec<f32>>) -> Result<(), OptimiseError> {
        let tensor = |(name, momentum): (String, Vec<f32>)| {
            let length = momentum.len();
            Ok::<_, OptimiseError>((name, Tensor::from_vec(momentum, length, &Device::Cpu)?.to_device(&self.device)?))
        };
        self.momenta = momenta.into_iter().map(tensor).collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// The Euclidean length of several gradients taken together. Their squares are summed where they are, in the type they
/// have; the host is asked once.
///
/// # Errors
/// [`OptimiseError::Tensor`].
pub fn tensor_length<'a>(gradients: impl IntoIterator<Item = &'a Tensor>) -> Result<f64, OptimiseError> {
    let square = |gradient: &Tensor| gradient.sqr()?.sum_all()?.to_dtype(DType::F64);
    let squares = gradients.into_iter().map(square).collect::<Result<Vec<_>, _>>()?;
    if squares.is_empty() {
        return Ok(0.0);
    }
    Ok(Tensor::stack(&squares, 0)?.to_vec1::<f64>()?.into_iter().sum::<f64>().sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimise::{Sgd, length};

    /// Steps of both optimisers, with momenta going through a checkpoint on the way.
    #[test]
    fn it_takes_the_steps_of_the_one_on_the_host() {
        let numbers = |seed: u64| -> Vec<f32> {
            let mut random = vultus_engine::random::Random::new(seed);
            (0..24).map(|_| random.normal() as f32).collect()
        };
        let tensor = |values: &[f32]| Tensor::from_slice(values, (2, 3, 4), &Device::Cpu).unwrap();
        let config = SgdConfig { momentum: 0.9, weight_decay: 0.01 };
        let (mut sgd, mut twin) = (Sgd::new(config).unwrap(), TensorSgd::new(config, &Device::Cpu).unwrap());
        let mut values = [numbers(1), numbers(2)];
        let mut of_twin = [tensor(&values[0]), tensor(&values[1])];
        for step in 0..6 {
            for (at, name) in ["weight", "norm"].into_iter().enumerate() {
                let gradient = numbers(10 + 2 * step + at as u64);
                let update = Update { rate: 0.1, decays: at == 0, scale: 0.7 };
                sgd.update(name, &mut values[at], &gradient, update).unwrap();
                of_twin[at] = twin.update(name, &of_twin[at], &tensor(&gradient), update).unwrap();
                let found = of_twin[at].flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (found, expected) in found.iter().zip(&values[at]) {
                    assert!((found - expected).abs() < 1e-6, "step {step}: {found} {expected}");
                }
            }
            if step == 2 {
                let momenta = twin.momenta().unwrap();
                twin = TensorSgd::new(config, &Device::Cpu).unwrap();
                twin.set_momenta(momenta).unwrap();
            }
        }
        let whole = tensor_length(&of_twin).unwrap();
        assert!((whole / length(values.iter().map(Vec::as_slice)) - 1.0).abs() < 1e-6);
        assert_eq!(tensor_length([]).unwrap(), 0.0);
    }

    #[test]
    fn lengths_and_settings_are_checked() {
        assert!(TensorSgd::new(SgdConfig { momentum: 1.0, weight_decay: 0.0 }, &Device::Cpu).is_err());
        let mut sgd = TensorSgd::new(SgdConfig::default(), &Device::Cpu).unwrap();
        let zeros = |count: usize| Tensor::zeros(count, DType::F32, &Device::Cpu).unwrap();
        let update = Update { rate: 0.1, decays: true, scale: 1.0 };
        sgd.update("w", &zeros(2), &zeros(2), update).unwrap();
        assert!(sgd.update("w", &zeros(2), &zeros(1), update).is_err());
        let message = sgd.update("w", &zeros(1), &zeros(1), update).unwrap_err().to_string();
        assert_eq!(message, "w has 1 values, but a gradient or momentum of 2");
    }
}
