//! What the rest of the engine needs of recognition models: their numbers, and now and then an embedding.

use std::sync::Arc;

use super::ImpostorScores;
use crate::align::AlignedCrop;
use crate::face::Feature;
use crate::ids::ModelId;
use crate::quality::NormStats;
use crate::template::{Fuser, Fusion, STRANGER_FMR, SetFusion, Template, TemplateError, TemplateFace};

/// A model whose embeddings are compared.
#[derive(Debug, Clone)]
pub struct ServedModel {
    /// Its embedding space.
    pub id: ModelId,
    /// Length of its embeddings.
    pub dim: usize,
    /// Mean and standard deviation of its norm.
    pub norm_stats: NormStats,
    /// How templates are fused where a gallery does not say.
    pub fusion: Fusion,
    /// Score from which a candidate is a match, where neither request nor gallery says.
    pub threshold: f32,
    /// What a score is worth.
    pub impostors: ImpostorScores,
    /// The network of the rule `caface`, where the model has one.
    pub network: Option<Arc<dyn SetFusion>>,
}

impl ServedModel {
    /// Fuses faces of this model by a rule.
    pub fn fuse(&self, faces: &[TemplateFace<'_>], fusion: Fusion) -> Result<Template, TemplateError> {
        let strangers = self.impostors.score_at(STRANGER_FMR);
        Fuser { stats: self.norm_stats, network: self.network.as_deref(), strangers }.fuse(faces, fusion)
    }
}

/// A model that is not to be had, or failed; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ModelUnavailable(pub String);

/// Where a database gets models from.
///
/// Both methods may load weights or wait for a network: call neither on an async runtime's own threads.
pub trait ModelSource: Send + Sync + 'static {
    /// The model of an id, loaded when it is not in use yet.
    fn model(&self, id: &ModelId) -> Result<Arc<ServedModel>, ModelUnavailable>;

    /// Embeds crops with a model; a crop without a usable feature gives `None`.
    fn embed(&self, id: &ModelId, crops: Vec<AlignedCrop>) -> Result<Vec<Option<Feature>>, ModelUnavailable>;
}
