//! Models with made-up weights: for the time and the memory that an architecture takes, before its weights are at hand.

use candle_core::Device;
use safetensors::tensor::{Dtype, TensorView, serialize};
use sha2::{Digest, Sha256};

use super::manifest::Norms;
use super::{Architecture, Form, Manifest, Model, ModelError, arithmetic};
use crate::quality::NormStats;
use crate::template::FusionRule;

impl Model {
    /// A model of an architecture whose weights are made up from a rule, the same each time. Its features are of no use, and
    /// its manifest says so; it takes as long and as much memory as one that is trained.
    pub fn made_up(architecture: Architecture, form: impl Into<Form>, device: &Device) -> Result<Self, ModelError> {
        let form = form.into();
        let (weights, manifest) = made_up(architecture)?;
        Self::from_parts(&weights, &manifest, form, device, arithmetic(form, device))
    }
}

/// A weights file and its manifest.
fn made_up(architecture: Architecture) -> Result<(Vec<u8>, String), ModelError> {
    let tensors = architecture.tensors(architecture.default_dim());
    let data: Vec<(&str, &[usize], Vec<u8>)> =
        tensors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice(), values(name, shape))).collect();
    let views =
        data.iter().map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)));
    let failed = |error| candle_core::Error::Msg(format!("weights cannot be made up: {error}"));
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>().map_err(failed)?;
    let weights = serialize(views, None).map_err(failed)?;
    let stats = NormStats { mean: 20.0, std: 5.0 };
    let manifest = Manifest {
        name: architecture.to_string(),
        architecture,
        dim: architecture.default_dim(),
        input: architecture.default_input(),
        norm: Norms { plain: stats, flip: Some(stats), source: None },
        fusion: FusionRule::Mean.into(),
        impostor_scores: Vec::new(),
        threshold_fmr: 1e-4,
        threshold: None,
        source: "made up, for measuring".to_owned(),
        licence: "CC0-1.0".to_owned(),
        sha256: Sha256::digest(&weights).iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    Ok((weights, serde_json::to_string(&manifest)?))
}

/// Values that keep activations in range, as little-endian bytes.
fn values(name: &str, shape: &[usize]) -> Vec<u8> {
    let count: usize = shape.iter().product();
    if name.ends_with("running_var") {
        return 1f32.to_le_bytes().repeat(count);
    }
    let inputs = shape.iter().skip(1).product::<usize>().max(1);
    let scale = (1.0 / inputs as f32).sqrt();
    let mut state = 1u32;
    let mut bytes = Vec::with_capacity(4 * count);
    for _ in 0..count {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend((scale * ((state >> 8) as f32 / 8_388_608.0 - 1.0)).to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;
    use crate::align::{AlignedCrop, SIZE};

    #[test]
    fn made_up_models_run_and_are_the_same_each_time() {
        let crop = AlignedCrop::new(RgbImage::from_fn(SIZE, SIZE, |x, y| image::Rgb([x as u8, y as u8, 9]))).unwrap();
        let model = || Model::made_up(Architecture::Ir18, true, &Device::Cpu).unwrap();
        let (one, other) = (model(), model());
        assert_eq!(one.id(), other.id());
        let features = one.extract(std::slice::from_ref(&crop)).unwrap();
        assert_eq!(features, other.extract(&[crop]).unwrap());
        assert_eq!(features[0].embedding.len(), 512);
    }
}
