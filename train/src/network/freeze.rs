//! Freezing by name.

use super::{Network, NetworkError};

impl Network {
    /// As [`Network::freeze`], for the units whose parameters' names begin with one of the prefixes: the whole name, or
    /// up to a point in it (`body.1` is not `body.10`).
    ///
    /// # Errors
    /// [`NetworkError::Frozen`] where a prefix names nothing, a part of a unit, or a unit behind one that is trained:
    /// gradients would have to pass through it for those before.
    pub fn freeze_named(&mut self, prefixes: &[&str]) -> Result<(), NetworkError> {
        let begins = |name: &str, prefix: &str| {
            name.strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.') || prefix.ends_with('.'))
        };
        let names: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name()).collect();
        if let Some(prefix) = prefixes.iter().find(|prefix| !names.iter().any(|name| begins(name, prefix))) {
            return Err(NetworkError::Frozen(format!("no parameter is called {prefix}")));
        }
        let mut frozen = 0;
        for (index, unit) in self.units.iter().enumerate() {
            let of_unit = unit.places();
            let found =
                of_unit.iter().filter(|place| prefixes.iter().any(|prefix| begins(names[**place], prefix))).count();
            let first = of_unit.first().map_or("", |place| names[*place]);
            if found != 0 && (found != of_unit.len() || frozen != index) {
                let problem = format!("the unit of {first} is frozen only in part, or behind one that is trained");
                return Err(NetworkError::Frozen(problem));
            }
            frozen += usize::from(found != 0);
        }
        self.freeze(frozen);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Tensor};
    use vultus_engine::model::Architecture;

    /// The output layer has dropout, which is for what is trained.
    #[test]
    fn frozen_units_run_as_after_training() {
        let mut network = Network::new(Architecture::Ir18, 16, 0).unwrap();
        network.freeze(network.units());
        let values: Vec<f32> = (0..3 * 112 * 112).map(|at| (at as f32 / 700.0).sin()).collect();
        let pixels = Tensor::from_vec(values, (1, 3, 112, 112), &Device::Cpu).unwrap();
        for tensors in [false, true] {
            if tensors {
                network.use_tensors(&Device::Cpu, DType::F32).unwrap();
            }
            let trained = network.embed(&pixels).unwrap().to_vec2::<f32>().unwrap();
            let (found, _) = network.forward(&pixels, 7).unwrap();
            assert_eq!(found.to_vec2::<f32>().unwrap(), trained);
        }
    }

    #[test]
    fn the_first_units_are_frozen_by_name() {
        let mut network = Network::new(Architecture::Ir18, 64, 0).unwrap();
        network.freeze_named(&["input_layer", "body.0", "body.1"]).unwrap();
        for parameter in network.parameters().iter() {
            let frozen =
                ["input_layer.", "body.0.", "body.1."].iter().any(|prefix| parameter.name().starts_with(prefix));
            assert!(!(frozen && parameter.is_trained()), "{}", parameter.name());
            assert!(frozen || parameter.is_trained() || parameter.name().contains("running"), "{}", parameter.name());
        }
        for wrong in [&["body.0"][..], &["input_layer", "body.1"], &["input_layer.0"], &["bodyguard"]] {
            assert!(matches!(network.freeze_named(wrong), Err(NetworkError::Frozen(_))), "{wrong:?}");
        }
        network.freeze_named(&[]).unwrap();
        assert!(network.parameters().get("input_layer.0.weight").unwrap().is_trained());
    }
}
