//! Reading weights: the tensors of a file must be exactly those of the network.
//!
//! A loader that ignores what it does not know turns a file of another network into one that runs and answers
//! nonsense, so both directions are checked, and values too.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

/// Why a weights file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// Not a safetensors file.
    #[error("the weights cannot be read: {0}")]
    Unreadable(#[source] candle_core::Error),
    /// Tensors that the network has and the file lacks.
    #[error("the weights lack {}", .0.join(", "))]
    Missing(Vec<String>),
    /// Tensors that the file has and the network lacks.
    #[error("the weights hold tensors unknown to the network: {}", .0.join(", "))]
    Unexpected(Vec<String>),
    /// A tensor of another shape.
    #[error("tensor {name} has the shape {found:?} instead of {expected:?}")]
    Misshaped {
        /// Which.
        name: String,
        /// Shape in the network.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A tensor with a NaN or an infinity.
    #[error("tensor {0} holds values that are not finite")]
    NotFinite(String),
}

/// Loads a safetensors file whose tensors are exactly `expected` (name and shape), as f32 on `device`.
pub fn load<'a>(
    bytes: &[u8],
    expected: &[(String, Vec<usize>)],
    device: &Device,
) -> Result<VarBuilder<'a>, WeightsError> {
    let found = candle_core::safetensors::load_buffer(bytes, &Device::Cpu).map_err(WeightsError::Unreadable)?;
    Ok(VarBuilder::from_tensors(check(found, expected, device)?, DType::F32, device))
}

/// The tensors as f32 on `device`, if they are exactly `expected` (name and shape) and finite.
pub fn check(
    mut found: HashMap<String, Tensor>,
    expected: &[(String, Vec<usize>)],
    device: &Device,
) -> Result<HashMap<String, Tensor>, WeightsError> {
    let missing: Vec<String> =
        expected.iter().filter(|(name, _)| !found.contains_key(name)).map(|(name, _)| name.clone()).collect();
    if !missing.is_empty() {
        return Err(WeightsError::Missing(missing));
    }
    let mut tensors = HashMap::with_capacity(expected.len());
    for (name, shape) in expected {
        let Some(tensor) = found.remove(name) else { return Err(WeightsError::Missing(vec![name.clone()])) };
        if tensor.dims() != shape {
            let found = tensor.dims().to_vec();
            return Err(WeightsError::Misshaped { name: name.clone(), expected: shape.clone(), found });
        }
        let tensor = tensor.to_dtype(DType::F32).map_err(WeightsError::Unreadable)?;
        if !is_finite(&tensor).map_err(WeightsError::Unreadable)? {
            return Err(WeightsError::NotFinite(name.clone()));
        }
        tensors.insert(name.clone(), tensor.to_device(device).map_err(WeightsError::Unreadable)?);
    }
    if !found.is_empty() {
        let mut names: Vec<String> = found.into_keys().collect();
        names.sort_unstable();
        return Err(WeightsError::Unexpected(names));
    }
    Ok(tensors)
}

fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?.iter().all(|value| value.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tensors: &[(&str, Vec<f32>)]) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("weights.safetensors");
        let tensors = tensors
            .iter()
            .map(|(name, values)| ((*name).to_owned(), Tensor::new(values.as_slice(), &Device::Cpu).unwrap()));
        candle_core::safetensors::save(&tensors.collect(), &path).unwrap();
        std::fs::read(path).unwrap()
    }

    fn error(bytes: &[u8]) -> String {
        let expected = [("a".to_owned(), vec![2]), ("b".to_owned(), vec![3])];
        load(bytes, &expected, &Device::Cpu).err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn every_difference_is_named() {
        let (a, b) = (("a", vec![1.0, 2.0]), ("b", vec![1.0, 2.0, 3.0]));
        assert_eq!(error(&file(&[a.clone(), b.clone()])), "");
        assert_eq!(error(&file(std::slice::from_ref(&a))), "the weights lack b");
        let extra = file(&[a.clone(), b.clone(), ("c", vec![0.0])]);
        assert_eq!(error(&extra), "the weights hold tensors unknown to the network: c");
        let misshaped = file(&[a.clone(), ("b", vec![1.0])]);
        assert_eq!(error(&misshaped), "tensor b has the shape [1] instead of [3]");
        let broken = file(&[a, ("b", vec![1.0, f32::NAN, 0.0])]);
        assert_eq!(error(&broken), "tensor b holds values that are not finite");
        assert!(error(b"nonsense").starts_with("the weights cannot be read"));
    }
}
