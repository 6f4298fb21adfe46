//! Why a template scored as it did: each face with its weight and its own score.

use super::{Template, TemplateFace, score};

/// One face's part in a template's score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaceScore {
    /// Share of the template, 0 to 1; the shares of a template sum to 1.
    pub weight: f32,
    /// Cosine of this face alone with the other side.
    pub score: f32,
}

/// What each face of `template` scores alone against `other`, in the order the faces were fused.
pub fn scores(template: &Template, faces: &[TemplateFace<'_>], other: &[f32]) -> Vec<FaceScore> {
    template
        .weights
        .iter()
        .zip(faces)
        .map(|(weight, face)| FaceScore { weight: *weight, score: score(face.embedding, other) })
        .collect()
}
