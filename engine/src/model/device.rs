//! Where a network runs.
//!
//! A program built with the feature `cuda` starts on any machine: CUDA's libraries are opened when they are first called
//! (`engine/cuda/late.c`), and one that is missing answers every call with an error. So a GPU is tried out before it counts
//! as there: opened, each library called once, and its results compared.

use candle_core::Device;

/// A device that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Not a device's name.
    #[error("there is no device {0:?}; the devices are auto, cpu, cuda and cuda:N")]
    Unknown(String),
    /// The program was built without what it takes.
    #[error("device {0} cannot be used: this program was built without the feature `cuda` (docs/GPU.md)")]
    NotBuilt(String),
    /// The machine does not have it, or it does not work.
    #[error("device {name} cannot be used: {cause}")]
    Unavailable {
        /// As it was asked for.
        name: String,
        /// Why not, in words.
        cause: String,
    },
}

/// The device of a name: `auto` takes the first GPU that works and the CPU otherwise.
///
/// Each call opens a GPU anew, with a stream and handles of its own: networks on devices of different calls run side by
/// side, those on one device one after the other.
pub fn select_device(name: &str) -> Result<Device, DeviceError> {
    match name {
        "auto" => Ok(first_that_works()),
        "cpu" => Ok(Device::Cpu),
        "cuda" => gpu(name, 0),
        _ => match name.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()) {
            Some(ordinal) => gpu(name, ordinal),
            None => Err(DeviceError::Unknown(name.to_owned())),
        },
    }
}

#[cfg(not(feature = "cuda"))]
fn first_that_works() -> Device {
    Device::Cpu
}

#[cfg(not(feature = "cuda"))]
fn gpu(name: &str, _ordinal: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt(name.to_owned()))
}

#[cfg(feature = "cuda")]
fn first_that_works() -> Device {
    use std::sync::Once;

    // The detector and each backbone ask; the log is told once.
    static TOLD: Once = Once::new();
    open::open(0).unwrap_or_else(|cause| {
        TOLD.call_once(|| tracing::warn!("no GPU can be used, networks run on the CPU: {cause}"));
        Device::Cpu
    })
}

#[cfg(feature = "cuda")]
fn gpu(name: &str, ordinal: usize) -> Result<Device, DeviceError> {
    open::open(ordinal).map_err(|cause| DeviceError::Unavailable { name: name.to_owned(), cause })
}

#[cfg(feature = "cuda")]
mod open {
    use std::panic::catch_unwind;

    use candle_core::{DType, Device, Error, Result};

    use crate::kernel::gpu::keeps_values;

    /// Names in CUDA's errors and what they come down to. The first that fits counts.
    const CAUSES: [(&str, &str); 11] = [
        ("SHARED_OBJECT_INIT_FAILED", "the library of NVIDIA's driver, libcuda.so.1, is not there"),
        ("SHARED_OBJECT_SYMBOL_NOT_FOUND", "NVIDIA's driver is too old"),
        ("UNSUPPORTED_PTX_VERSION", "NVIDIA's driver is too old: it has to know CUDA 13.0, as those from 580 on do"),
        ("NO_BINARY_FOR_GPU", "the GPU is older than the kernels are compiled for"),
        ("INVALID_PTX", "the GPU is older than the kernels are compiled for"),
        ("DRIVER_MISMATCH", "the libraries of NVIDIA's driver do not fit the driver"),
        ("NO_DEVICE", "the driver finds no GPU"),
        ("INVALID_DEVICE", "there is no GPU of this number"),
        ("CUBLAS_STATUS_NOT_INITIALIZED", "libcublas.so.13 is not there or does not start"),
        ("CURAND_STATUS_INITIALIZATION_FAILED", "libcurand.so.10 is not there or does not start"),
        ("CUDNN_STATUS_NOT_INITIALIZED", "libcudnn.so.9 is not there or does not start"),
    ];

    fn explain(error: &Error) -> String {
        let text = error.to_string();
        match CAUSES.iter().find(|(name, _)| text.contains(name)) {
            Some((_, cause)) => (*cause).to_owned(),
            // What follows the first line is a backtrace.
            None => text.lines().next().unwrap_or("an unknown error of CUDA").to_owned(),
        }
    }

    /// Opens a GPU and tries it out.
    pub(super) fn open(ordinal: usize) -> std::result::Result<Device, String> {
        let tried = catch_unwind(|| -> Result<Device> {
            // A stream of its own: the default one is another for each thread, and networks are loaded by one thread and
            // run by another.
            let device = Device::new_cuda_with_stream(ordinal)?;
            keeps_values(&device, DType::BF16)?;
            if !keeps_values(&device, DType::F32)? {
                candle_core::bail!("it rounds f32 to TF32; the environment variable NVIDIA_TF32_OVERRIDE=0 prevents it")
            }
            Ok(device)
        });
        match tried {
            Ok(device) => device.map_err(|error| explain(&error)),
            Err(_) => Err("a library of CUDA failed".to_owned()),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn causes_are_told_in_words() {
            let missing = Error::Msg("DriverError(CUDA_ERROR_SHARED_OBJECT_INIT_FAILED, \"...\")".into());
            assert!(explain(&missing).contains("libcuda.so.1"));
            assert_eq!(explain(&Error::Msg("strange\n0: main".into())), "strange");
        }
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

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_gpus_says_so() {
        assert!(matches!(select_device("auto"), Ok(Device::Cpu)));
        for name in ["cuda", "cuda:1"] {
            let error = select_device(name).unwrap_err().to_string();
            assert!(error.contains(&format!("device {name} ")) && error.contains("feature `cuda`"), "{error}");
        }
    }

    /// Where there is no GPU, the reason is one line; where there is one, it works.
    #[cfg(feature = "cuda")]
    #[test]
    fn a_gpu_works_or_says_why_not() {
        for name in ["cuda", "cuda:999"] {
            match select_device(name) {
                Ok(device) => assert!(device.is_cuda()),
                Err(DeviceError::Unavailable { cause, .. }) => assert!(!cause.is_empty() && !cause.contains('\n')),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(select_device("cuda:999").is_err());
    }
}
