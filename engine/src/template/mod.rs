//! Templates: many faces of one person fused into one unit vector.
//!
//! A face i has the unit embedding e_i and the norm n_i. The rule gives it a weight w_i. Faces of the same photo or
//! video repeat each other, so they are averaged first and each media counts once:
//!
//! ```text
//! T = Σ over media m of (1 / k_m) · Σ over faces i in m of w_i · e_i        k_m: faces in m
//! ```
//!
//! T is normalised once, at the end; the score of two templates is their dot product. With `norm` as the rule this is
//! the template of the IJB protocols (Maze et al. 2018), since w_i · e_i is then the raw feature.
//!
//! The same faces give the same bytes, in whatever order they come: faces are sorted by content and summed in f64.

mod explain;
pub mod rule;

pub use explain::{FaceScore, scores};
pub use rule::{Fusion, FusionRule, UnknownRule};

use std::collections::HashMap;

use crate::quality::NormStats;

/// One face that goes into a template.
#[derive(Debug, Clone, Copy)]
pub struct TemplateFace<'a> {
    /// Unit embedding.
    pub embedding: &'a [f32],
    /// Length of the raw feature.
    pub norm: f32,
    /// The photo or video it came from.
    pub media: &'a str,
}

/// Faces fused into one unit vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// Unit vector.
    pub vector: Vec<f32>,
    /// The rule that was used.
    pub fusion: Fusion,
    /// What each face contributed, in the order the faces were given; sums to 1.
    pub weights: Vec<f32>,
    /// ‖Σ x_i‖ / Σ n_i over raw features x_i = n_i · e_i, 0 to 1. Low: outliers, or two people in one template.
    pub coherence: f32,
}

/// Why faces could not be fused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// There was no face.
    #[error("a template needs at least one face")]
    Empty,
    /// The faces have embeddings of different lengths.
    #[error("the embeddings have different lengths")]
    MixedDimensions,
    /// A norm that is not a positive number.
    #[error("a norm is a positive number")]
    BadNorm,
    /// τ outside [`rule::TAU_RANGE`].
    #[error("tau is a number from 0.05 to 100")]
    BadTau,
    /// The rule is `caface`, and no such network is loaded or the faces lack what it looks at.
    #[error("the rule caface needs the CAFace network and faces that came in as images")]
    NoCaface,
    /// The faces cancel each other out.
    #[error("the faces cancel each other out: their weighted sum is zero")]
    Degenerate,
}

/// Fuses faces by a rule. `stats` are those of the model that made the embeddings.
pub fn fuse(faces: &[TemplateFace<'_>], fusion: Fusion, stats: NormStats) -> Result<Template, TemplateError> {
    let dim = faces.first().ok_or(TemplateError::Empty)?.embedding.len();
    if faces.iter().any(|f| f.embedding.len() != dim) {
        return Err(TemplateError::MixedDimensions);
    }
    if faces.iter().any(|f| !f.norm.is_finite() || f.norm <= 0.0) {
        return Err(TemplateError::BadNorm);
    }
    if !fusion.is_valid() {
        return Err(TemplateError::BadTau);
    }
    if fusion.rule == FusionRule::Caface {
        return Err(TemplateError::NoCaface);
    }

    let order = canonical_order(faces);
    let norms: Vec<f32> = order.iter().map(|&i| faces[i].norm).collect();
    let mut per_media: HashMap<&str, f64> = HashMap::new();
    for face in faces {
        *per_media.entry(face.media).or_default() += 1.0;
    }
    let weights: Vec<f64> = fusion
        .weights(&norms, stats)
        .into_iter()
        .zip(&order)
        .map(|(weight, &i)| weight / per_media[faces[i].media])
        .collect();

    let mut fused = vec![0f64; dim];
    let mut raw = vec![0f64; dim];
    for (&i, weight) in order.iter().zip(&weights) {
        let face = &faces[i];
        for ((sum, raw_sum), value) in fused.iter_mut().zip(&mut raw).zip(face.embedding) {
            *sum += weight * f64::from(*value);
            *raw_sum += f64::from(face.norm) * f64::from(*value);
        }
    }
    let length = norm(&fused);
    if !length.is_finite() || length < 1e-9 {
        return Err(TemplateError::Degenerate);
    }

    let total: f64 = weights.iter().sum();
    let mut shares = vec![0f32; faces.len()];
    for (&i, weight) in order.iter().zip(&weights) {
        shares[i] = (weight / total) as f32;
    }
    let norm_sum: f64 = norms.iter().map(|n| f64::from(*n)).sum();
    Ok(Template {
        vector: fused.iter().map(|v| (v / length) as f32).collect(),
        fusion,
        weights: shares,
        coherence: (norm(&raw) / norm_sum).min(1.0) as f32,
    })
}

/// The faces' indices sorted by content, so that sums do not depend on the order of arrival.
fn canonical_order(faces: &[TemplateFace<'_>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..faces.len()).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (&faces[a], &faces[b]);
        let bits = |v: &f32| v.to_bits();
        a.media
            .cmp(b.media)
            .then_with(|| a.norm.to_bits().cmp(&b.norm.to_bits()))
            .then_with(|| a.embedding.iter().map(bits).cmp(b.embedding.iter().map(bits)))
    });
    order
}

fn norm(vector: &[f64]) -> f64 {
    vector.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Cosine of two unit vectors of the same length, −1 to 1.
pub fn score(a: &[f32], b: &[f32]) -> f32 {
    debug_assert_eq!(a.len(), b.len());
    let dot: f64 = a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
    dot.clamp(-1.0, 1.0) as f32
}

#[cfg(test)]
mod tests;
