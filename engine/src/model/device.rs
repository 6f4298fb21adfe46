//! Where a network runs.

use candle_core::Device;

/// A device that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Not a device's name.
    #[error("there is no device {0:?}; the devices are auto, cpu, cuda and cuda:N")]
    Unknown(String),
    /// The program was built without it, or the machine does not have it.
    #[error("device {name} cannot be used: {cause}")]
    Unavailable {
        /// As it was asked for.
        name: String,
        /// Why not.
        cause: candle_core::Error,
    },
}

/// The device of a name: `auto` takes the first GPU that works and the CPU otherwise.
pub fn select_device(name: &str) -> Result<Device, DeviceError> {
    let cuda =
        |ordinal| Device::new_cuda(ordinal).map_err(|cause| DeviceError::Unavailable { name: name.to_owned(), cause });
    match name {
        "auto" => Ok(Device::cuda_if_available(0).unwrap_or(Device::Cpu)),
        "cpu" => Ok(Device::Cpu),
        "cuda" => cuda(0),
        _ => match name.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()) {
            Some(ordinal) => cuda(ordinal),
            None => Err(DeviceError::Unknown(name.to_owned())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_go_by_name() {
        assert!(matches!(select_device("cpu"), Ok(Device::Cpu)));
        assert!(select_device("auto").is_ok());
        for name in ["gpu", "cuda:x", ""] {
            assert!(matches!(select_device(name), Err(DeviceError::Unknown(_))));
        }
    }
}
