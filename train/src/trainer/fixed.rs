//! The settings that may not change while a run goes on.
//!
//! What a checkpoint holds has a meaning with these alone: positions count parts of one size in an order drawn from one
//! seed, momenta and norms belong to one head and one kind of normalisation. Others, such as the rate, the device or how
//! long it goes on, may be changed in `config.toml` between two parts of a run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use vultus_engine::model::{Architecture, Color};

use super::{HeadConfig, HeadKind, TrainConfig, TrainError};

/// See the module. Kept in checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fixed {
    seed: u64,
    #[serde(rename = "run.batch")]
    batch: usize,
    #[serde(rename = "run.accumulate")]
    accumulate: usize,
    #[serde(rename = "network.architecture")]
    architecture: Option<Architecture>,
    #[serde(rename = "network.dim")]
    dim: Option<usize>,
    #[serde(rename = "network.color")]
    color: Option<Color>,
    #[serde(rename = "network.constant_statistics")]
    constant_statistics: Option<bool>,
    head: HeadConfig,
}

impl Fixed {
    /// Those of a configuration in which nothing is left open.
    pub(super) fn of(config: &TrainConfig) -> Self {
        let network = &config.network;
        let mut head = config.head.clone();
        head.m = (head.kind != HeadKind::MagFace).then(|| head.margin());
        Self {
            seed: config.seed,
            batch: config.run.batch,
            accumulate: config.run.accumulate,
            architecture: network.architecture,
            dim: network.dim,
            color: network.color,
            constant_statistics: network.constant_statistics,
            head,
        }
    }

    /// Whether the run's network is normalised by statistics that stay as they are.
    pub(super) fn constant_statistics(&self) -> bool {
        self.constant_statistics.unwrap_or(false)
    }

    /// Fills in what a configuration leaves open of the network, and refuses it where it says anything else than these.
    ///
    /// # Errors
    /// [`TrainError::OtherSetting`] for the first that differs.
    pub(super) fn hold(&self, config: &mut TrainConfig) -> Result<(), TrainError> {
        let network = &mut config.network;
        network.architecture = network.architecture.or(self.architecture);
        network.dim = network.dim.or(self.dim);
        network.color = network.color.or(self.color);
        network.constant_statistics = network.constant_statistics.or(self.constant_statistics);
        let (began, now) = (self.by_name()?, Self::of(config).by_name()?);
        let names: std::collections::BTreeSet<&String> = began.keys().chain(now.keys()).collect();
        for name in names {
            let told = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            let (began, now) = (told(began.get(name)), told(now.get(name)));
            if began != now {
                return Err(TrainError::OtherSetting { setting: name.clone(), began, now });
            }
        }
        Ok(())
    }

    /// As `config.toml` names them.
    fn by_name(&self) -> Result<BTreeMap<String, Value>, TrainError> {
        let value = serde_json::to_value(self).map_err(|error| TrainError::Other(error.to_string()))?;
        let mut named = BTreeMap::new();
        for (name, value) in value.as_object().into_iter().flatten() {
            match value.as_object() {
                Some(table) => named.extend(table.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone()))),
                None => drop(named.insert(name.clone(), value.clone())),
            }
        }
        Ok(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TrainConfig {
        let mut config = TrainConfig { seed: 3, ..TrainConfig::default() };
        config.network.architecture = Some(Architecture::Ir18);
        config.network.dim = Some(512);
        config.network.color = Some(Color::Bgr);
        config.network.constant_statistics = Some(true);
        config
    }

    #[test]
    fn what_gives_a_checkpoint_its_meaning_may_not_change() {
        let fixed = Fixed::of(&config());
        let change = |change: fn(&mut TrainConfig)| {
            let mut config = config();
            change(&mut config);
            fixed.hold(&mut config).map_err(|error| error.to_string())
        };
        let refused = [
            change(|config| config.seed = 4),
            change(|config| config.run.batch = 64),
            change(|config| config.run.accumulate = 2),
            change(|config| config.network.constant_statistics = Some(false)),
            change(|config| config.head.kind = HeadKind::ArcFace),
            change(|config| config.head.m = Some(0.3)),
        ];
        for (refused, setting) in refused.into_iter().zip([
            "seed was 3",
            "run.batch was 128",
            "run.accumulate was 1",
            "network.constant_statistics was true",
            "head.kind was \"adaface\"",
            "head.m was 0.4",
        ]) {
            assert!(refused.as_ref().is_err_and(|told| told.starts_with(setting)), "{setting}: {refused:?}");
        }
        assert_eq!(change(|config| config.optimiser.rate = 0.01), Ok(()));
        assert_eq!(change(|config| config.run.epochs = 40), Ok(()));
        assert_eq!(change(|config| config.run.device = "cuda".into()), Ok(()));
    }

    #[test]
    fn what_is_left_open_stays() {
        let mut open = TrainConfig { seed: 3, ..TrainConfig::default() };
        Fixed::of(&config()).hold(&mut open).unwrap();
        assert_eq!(open, config());
        let kept = serde_json::to_string(&Fixed::of(&open)).unwrap();
        assert_eq!(serde_json::from_str::<Fixed>(&kept).unwrap(), Fixed::of(&open));
    }
}
