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
            let mut units: Vec<&str> = names.iter().map(|name| unit_of(name)).collect();
            units.dedup();
            let known = units.join(", ");
            return Err(NetworkError::Frozen(format!("no parameter is called {prefix}; units are {known}")));
        }
        let mut frozen = 0;
        for (index, unit) in self.units.iter().enumerate() {
            let of_unit = unit.places();
            let found =
                of_unit.iter().filter(|place| prefixes.iter().any(|prefix| begins(names[**place], prefix))).count();
            let first = of_unit.first().map_or("", |place| unit_of(names[*place]));
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

/// What a parameter's unit is called: the first part of the name, with a number that follows (`body.3`); layers are whole.
fn unit_of(name: &str) -> &str {
    let mut points = name.match_indices('.').map(|(at, _)| at).chain([name.len()]);
    let first = points.next().unwrap_or(name.len());
    match points.next() {
        Some(second) if !name[..first].ends_with("_layer") && name[first + 1..second].parse::<u32>().is_ok() => {
            &name[..second]
        }
        _ => &name[..first],
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

    #[test]
    fn units_are_named_by_what_their_parameters_begin_with() {
        for (name, unit) in [
            ("dw1.norm.running_mean", "dw1"),
            ("body.12.res_layer.0.weight", "body.12"),
            ("input_layer.0.weight", "input_layer"),
            ("fc2.weight", "fc2"),
            ("gdc", "gdc"),
        ] {
            assert_eq!(unit_of(name), unit);
        }
        let mut network = Network::new(Architecture::Mobilefacenet, 16, 0).unwrap();
        let told = network.freeze_named(&["dw2"]).unwrap_err().to_string();
        assert!(told.contains("no parameter is called dw2; units are conv1, dw1, pw1, stage2.0, stage2.1, "), "{told}");
        let told = network.freeze_named(&["dw1"]).unwrap_err().to_string();
        assert!(told.contains("the unit of dw1 is frozen only in part, or behind one that is trained"), "{told}");
        network.freeze_named(&["conv1", "dw1"]).unwrap();
    }
}
