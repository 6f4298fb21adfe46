//! Set fusion: a network looks at all faces of a person at once and makes one vector of them.

/// A face as the network sees it.
#[derive(Debug, Clone, Copy)]
pub struct SetFace<'a> {
    /// Unit embedding.
    pub embedding: &'a [f32],
    /// Length of the raw feature.
    pub norm: f32,
    /// The values of its [`Style`](crate::face::Style).
    pub style: &'a [f32],
}

/// What a network made of some faces.
#[derive(Debug, Clone, PartialEq)]
pub struct Fused {
    /// As long as the embeddings; not normalised.
    pub vector: Vec<f32>,
    /// Each face's part in it, at least 0, in the order of the faces. Only the ratios matter.
    pub parts: Vec<f32>,
}

/// A network that failed; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the network of the rule caface failed: {0}")]
pub struct NetworkError(pub String);

/// A network for the rule `caface`. It belongs to one model.
pub trait SetFusion: std::fmt::Debug + Send + Sync {
    /// Names the network by its weights; a style of another one says nothing to it.
    fn id(&self) -> [u8; 8];

    /// Fuses at least one face. The same faces in the same order give the same bits.
    fn fuse(&self, faces: &[SetFace<'_>]) -> Result<Fused, NetworkError>;
}
