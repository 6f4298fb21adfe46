//! Does an installed model still work?

use candle_core::Device;
use serde::Serialize;

use super::trial::{self, ColorCheck};
use super::{ImportError, samples};
use crate::ids::ModelId;
use crate::model::Installed;

/// What was verified of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verified {
    /// The model's id.
    pub model_id: ModelId,
    /// The SHA-256 of the weights, which is that of the manifest.
    pub sha256: String,
    /// Tensors of the right names and shapes, all of finite values.
    pub tensors: usize,
    /// Drawn faces that gave a finite feature.
    pub crops: usize,
    /// The mean norm of those.
    pub mean_norm: f64,
    /// What norms say of the colour order.
    pub color_check: ColorCheck,
}

/// Reads the weights, compares checksum, names, shapes and values with manifest and network, and runs the model on
/// drawn faces.
pub fn verify(installed: &Installed, device: &Device) -> Result<Verified, ImportError> {
    let model = installed.load(false, device)?;
    let crops = samples::drawn();
    let color_check = trial::run(&model, &crops, false, None)?.color;
    let norms = trial::norms(&model, &crops)?;
    let manifest = model.manifest();
    Ok(Verified {
        model_id: model.id().clone(),
        sha256: manifest.sha256.clone(),
        tensors: manifest.architecture.tensors(manifest.dim).len(),
        crops: crops.len(),
        mean_norm: norms.iter().sum::<f64>() / crops.len() as f64,
        color_check,
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::model::Registry;

    #[test]
    fn the_embedded_model_is_verified() {
        let installed = Registry::new(PathBuf::from("/nowhere")).find("mobilefacenet").unwrap();
        let verified = verify(&installed, &Device::Cpu).unwrap();
        assert_eq!((verified.tensors, verified.crops), (137, samples::COUNT));
        assert!(verified.mean_norm > 50.0);
    }
}
