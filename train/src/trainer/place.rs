//! Where a run computes: the device, the precision, and what the network runs on.

use candle_core::DType;
use serde::{Deserialize, Serialize};
use vultus_engine::model::{Precision, select_device};

use super::{RunConfig, TrainError};
use crate::network::Network;

/// The device that is always there.
pub(super) const CPU: &str = "cpu";

/// What a network runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The engine's kernels, on the CPU and in f32: bit-reproducible.
    Kernels,
    /// candle's tensors, on any device.
    Tensors,
}

impl RunConfig {
    /// What the network runs on.
    pub fn backend(&self) -> Backend {
        self.backend.unwrap_or(if self.device == CPU { Backend::Kernels } else { Backend::Tensors })
    }

    /// Checks what does not go together.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { device, precision, .. } = self;
        let is_gpu = device == "cuda" || device.strip_prefix("cuda:").is_some_and(|rest| rest.parse::<usize>().is_ok());
        if self.accumulate == 0 || self.batch == 0 || !self.batch.is_multiple_of(self.accumulate) {
            Err(format!("run.batch is {} and run.accumulate {}: no equal parts", self.batch, self.accumulate))
        } else if self.epochs == 0 || self.steps == Some(0) {
            Err("run.epochs and run.steps are at least 1".into())
        } else if device != CPU && !is_gpu {
            Err(format!("run.device is {device:?}; the devices are cpu, cuda and cuda:N"))
        } else if is_gpu && self.backend == Some(Backend::Kernels) {
            Err(format!("run.backend is kernels, which are for the CPU, and run.device is {device}"))
        } else if *precision == Precision::Bf16 && self.backend() == Backend::Kernels {
            Err("run.precision is bf16, which needs a GPU (run.device)".into())
        } else {
            Ok(())
        }
    }

    /// Has a network run as it says.
    ///
    /// # Errors
    /// [`TrainError::Device`] where this build or machine does not have the device.
    pub(super) fn place(&self, network: &mut Network) -> Result<(), TrainError> {
        let dtype = match self.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        };
        let device = select_device(&self.device)?;
        if self.backend() == Backend::Tensors {
            network.use_tensors(&device, dtype)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vultus_engine::model::Architecture;

    fn run(device: &str, precision: Precision, backend: Option<Backend>) -> RunConfig {
        RunConfig { device: device.to_owned(), precision, backend, ..RunConfig::default() }
    }

    #[test]
    fn networks_run_on_kernels_unless_there_is_a_reason() {
        assert_eq!(RunConfig::default().backend(), Backend::Kernels);
        assert_eq!(run("cuda:1", Precision::Bf16, None).backend(), Backend::Tensors);
        let checked = run("cpu", Precision::Bf16, Some(Backend::Tensors));
        assert_eq!((checked.backend(), checked.check()), (Backend::Tensors, Ok(())));
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        for (config, word) in [
            (run("gpu", Precision::F32, None), "the devices are cpu, cuda and cuda:N"),
            (run("auto", Precision::F32, None), "the devices are"),
            (run("cuda:x", Precision::F32, None), "the devices are"),
            (run("cuda:0", Precision::F32, Some(Backend::Kernels)), "run.backend"),
            (run("cpu", Precision::Bf16, None), "needs a GPU"),
            (run("cpu", Precision::Bf16, Some(Backend::Kernels)), "needs a GPU"),
        ] {
            let message = config.check().unwrap_err();
            assert!(message.contains(word), "{config:?}: {message}");
        }
    }

    /// On any machine and in any build, as no machine has so many GPUs.
    #[test]
    fn a_device_that_is_not_there_is_one_line() {
        let mut network = Network::new(Architecture::Mobilefacenet, 16, 0).unwrap();
        let config = run("cuda:999", Precision::F32, None);
        assert_eq!(config.check(), Ok(()));
        let message = config.place(&mut network).unwrap_err().to_string();
        assert!(message.starts_with("device cuda:999 cannot be used: ") && !message.contains('\n'), "{message}");
        assert!(!network.is_on_tensors());
    }
}
