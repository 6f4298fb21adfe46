//! The network as the rule `caface` of templates.

use candle_core::{Device, Result, Tensor};

use super::{Aggregated, Aggregator, COMPRESSED, FEATURE};
use crate::template::{Fused, NetworkError, SetFace, SetFusion};

impl SetFusion for Aggregator {
    fn id(&self) -> [u8; 8] {
        self.id
    }

    fn fuse(&self, faces: &[SetFace<'_>]) -> std::result::Result<Fused, NetworkError> {
        let failed = |error: &dyn std::fmt::Display| NetworkError(error.to_string());
        let fused = self.fuse_set(faces).map_err(|error| failed(&error))?;
        let Aggregated { vector, parts } = fused.ok_or_else(|| failed(&"there are no faces"))?;
        Ok(Fused { vector, parts })
    }
}

impl Aggregator {
    fn fuse_set(&self, faces: &[SetFace<'_>]) -> Result<Option<Aggregated>> {
        let features: Vec<f32> =
            faces.iter().flat_map(|face| face.embedding.iter().map(move |value| face.norm * value)).collect();
        let styles: Vec<f32> = faces.iter().flat_map(|face| face.style).copied().collect();
        // Lengths are checked: the network takes 512 and 64 values a face.
        let features = Tensor::from_vec(features, (faces.len(), FEATURE), &Device::Cpu)?;
        self.fuse(&features, &Tensor::from_vec(styles, (faces.len(), COMPRESSED), &Device::Cpu)?)
    }
}
