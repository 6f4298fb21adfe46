//! Settings that their own parts would refuse only once a run has begun, when its folder has a configuration already.

use super::{HeadKind, TrainConfig};

/// Values of an embedding that a model can have at most.
const MOST_VALUES: usize = 4096;

/// Names the first setting that does not work.
///
/// # Errors
/// A sentence.
pub(super) fn before_it_begins(config: &TrainConfig) -> Result<(), String> {
    let TrainConfig { data, network, head, run, loader, validation, distillation, .. } = config;
    // One crop is normalised by constant statistics alone, and AdaFace takes a deviation of norms.
    let bears_one = network.constant_statistics == Some(true) && (head.weight == 0.0 || head.kind != HeadKind::AdaFace);
    if validation.patience == Some(0) {
        Err("validation.patience is at least 1".into())
    } else if data.hold_out == 1 {
        Err("data.hold_out is 0 or at least 2: crops are compared with those of other identities".into())
    } else if distillation.as_ref().is_some_and(|of| !of.norm_weight.is_finite()) {
        Err("distillation.norm_weight is a finite number".into())
    } else if network.dim.is_some_and(|dim| !(1..=MOST_VALUES).contains(&dim)) {
        Err(format!("network.dim is from 1 to {MOST_VALUES}"))
    } else if network.frozen.iter().any(String::is_empty) {
        Err("network.frozen has an empty name, which would be the beginning of all".into())
    } else if !(config.optimiser.rate.is_finite() && config.optimiser.rate > 0.0) {
        Err("optimiser.rate is a finite number above 0".into())
    } else if !(head.s.is_finite() && head.s > 0.0) {
        Err("head.s is a finite number above 0".into())
    } else if run.batch == run.accumulate && !bears_one {
        Err(format!(
            "run.batch is {} and run.accumulate {}: parts of one image have no statistics of their own; that needs \
             network.constant_statistics = true and another head than adaface",
            run.batch, run.accumulate
        ))
    } else if let Err(error) = loader.check() {
        Err(format!("loader: {error}"))
    } else if data.path.as_os_str().is_empty() {
        Err("data.path is missing: a train.rec, or a folder with a folder of crops for each identity".into())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TrainConfig {
        let mut config = TrainConfig::default();
        config.data.path = "/faces".into();
        config
    }

    #[test]
    fn mistakes_are_named_before_a_run_begins() {
        assert_eq!(config().check(), Ok(()));
        let refused = |change: fn(&mut TrainConfig), word: &str| {
            let mut config = config();
            change(&mut config);
            let told = config.check();
            assert!(told.as_ref().is_err_and(|told| told.contains(word)), "{word}: {told:?}");
        };
        refused(|config| config.data.path = "".into(), "data.path is missing");
        refused(|config| config.data.hold_out = 1, "data.hold_out");
        refused(|config| (config.data.hold_out, config.validation.patience) = (2, Some(0)), "validation.patience");
        refused(|config| config.network.dim = Some(0), "network.dim");
        refused(|config| config.network.dim = Some(4097), "network.dim");
        refused(|config| config.network.frozen = vec!["body.0".into(), String::new()], "network.frozen");
        refused(|config| config.optimiser.rate = 0.0, "optimiser.rate");
        refused(|config| config.optimiser.rate = f64::INFINITY, "optimiser.rate");
        refused(|config| config.head.s = -1.0, "head.s");
        refused(|config| config.loader.threads = 0, "loader threads");
        refused(|config| config.loader.ahead = 0, "batches ahead");
        refused(|config| config.run.batch = 1, "parts of one image");
        refused(|config| (config.run.batch, config.run.accumulate) = (4, 4), "parts of one image");
        refused(|config| config.head.norm_std = -1.0, "head.norm_std");
        refused(|config| config.head.norm_mean = f64::NAN, "head.norm_mean");
        let distillation =
            |norm_weight| super::super::DistillationConfig { teacher: "embedded".into(), weight: 1.0, norm_weight };
        let taught = TrainConfig { distillation: Some(distillation(f64::INFINITY)), ..config() };
        assert!(taught.check().is_err_and(|told| told.contains("distillation.norm_weight")));
        assert_eq!(TrainConfig { distillation: Some(distillation(0.5)), ..config() }.check(), Ok(()));
    }

    #[test]
    fn one_image_at_a_time_needs_what_bears_it() {
        let mut config = config();
        config.run.batch = 1;
        config.network.constant_statistics = Some(true);
        assert!(config.check().is_err());
        config.head.kind = HeadKind::ArcFace;
        assert_eq!(config.check(), Ok(()));
    }
}
