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
//! Removing a face is making the template again from the others, so what is left carries no trace of it.
//!
//! The rule `caface` is a network ([`SetFusion`]) that weighs value by value instead of face by face. It knows nothing of
//! media, so every face counts there, and it looks at more of a face than embedding and norm, so it is to be had only
//! where a model brings the network and for faces that have a style of it.
//!
//! Any other rule but `best` can be made robust ([`Fusion::robust`]): one pass damps faces that disagree with the rest.

mod explain;
mod network;
mod robust;
pub mod rule;
mod sums;

pub use explain::{FaceScore, scores};
pub use network::{Fused, NetworkError, SetFace, SetFusion};
pub use robust::STRANGER_FMR;
pub use rule::{Fusion, FusionRequest, FusionRule, UnknownRule};

use crate::face::Style;
use crate::quality::NormStats;
use sums::Sums;

/// One face that goes into a template.
#[derive(Debug, Clone, Copy)]
pub struct TemplateFace<'a> {
    /// Unit embedding.
    pub embedding: &'a [f32],
    /// Length of the raw feature.
    pub norm: f32,
    /// The photo or video it came from.
    pub media: &'a str,
    /// What the rule `caface` looks at beside.
    pub style: Option<&'a Style>,
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
    /// Logarithms of the weights, media left out of account, in the order the faces were given; empty under `caface`.
    log_weights: Vec<f64>,
}

impl Template {
    /// A template whose faces are not listed: it has no weights, and no explanation.
    pub fn unlisted(vector: Vec<f32>, fusion: Fusion, coherence: f32) -> Self {
        Self { vector, fusion, weights: Vec::new(), coherence, log_weights: Vec::new() }
    }
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
    /// τ outside [`rule::TAU_RANGE`] or a cap outside [`rule::CAP_RANGE`].
    #[error("tau is a number from 0.05 to 100, cap one from -10 to 10")]
    BadTau,
    /// The rule is `caface`, and the model has no such network or a face has no style of it.
    #[error(
        "the rule caface needs a CAFace network beside the model, no flip fusion, and faces that came in as images"
    )]
    NoCaface,
    /// The network of the rule `caface` failed.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The faces cancel each other out.
    #[error("the faces cancel each other out: their weighted sum is zero")]
    Degenerate,
}

/// Fuses faces by a rule. `stats` are those of the model that made the embeddings, `network` is the one it brings for the
/// rule `caface`. Where the fusion is robust, what strangers score is assumed; [`Fuser`] takes what was measured.
pub fn fuse(
    faces: &[TemplateFace<'_>],
    fusion: Fusion,
    stats: NormStats,
    network: Option<&dyn SetFusion>,
) -> Result<Template, TemplateError> {
    Fuser { stats, network, strangers: None }.fuse(faces, fusion)
}

/// What fusion needs to know of the model that made the embeddings.
#[derive(Debug, Clone, Copy)]
pub struct Fuser<'a> {
    /// Norms of ordinary portraits.
    pub stats: NormStats,
    /// The network of the rule `caface`, where the model has one.
    pub network: Option<&'a dyn SetFusion>,
    /// The score that a share of [`STRANGER_FMR`] of the comparisons of different people reach, where that was measured.
    /// Robust fusion judges by it who disagrees.
    pub strangers: Option<f32>,
}

impl Fuser<'_> {
    /// Fuses faces by a rule.
    pub fn fuse(&self, faces: &[TemplateFace<'_>], fusion: Fusion) -> Result<Template, TemplateError> {
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
        let order = canonical_order(faces);
        let (fused, weights, log_weights) = match fusion.rule {
            FusionRule::Caface => {
                let (fused, parts) = by_network(faces, &order, self.network.ok_or(TemplateError::NoCaface)?)?;
                (fused, parts, Vec::new())
            }
            _ => {
                let logs = self.log_weights(faces, &order, fusion);
                let sums = Sums::new(faces, &order, &logs);
                (sums.total(), sums.weights().to_vec(), logs)
            }
        };
        let length = norm(&fused);
        if !length.is_finite() || length < 1e-9 {
            return Err(TemplateError::Degenerate);
        }
        // In the canonical order, as every sum here.
        let total: f64 = order.iter().map(|&i| weights[i]).sum();
        if !total.is_finite() || total <= 0.0 {
            return Err(TemplateError::Degenerate);
        }
        Ok(Template {
            vector: fused.iter().map(|v| (v / length) as f32).collect(),
            fusion,
            weights: weights.iter().map(|weight| (weight / total) as f32).collect(),
            coherence: coherence(faces, &order),
            log_weights,
        })
    }

    /// What the rule and the robust pass make of each face, in the order of the faces.
    fn log_weights(&self, faces: &[TemplateFace<'_>], order: &[usize], fusion: Fusion) -> Vec<f64> {
        let norms: Vec<f32> = order.iter().map(|&i| faces[i].norm).collect();
        let mut logs = vec![0f64; faces.len()];
        for (&i, log) in order.iter().zip(fusion.log_weights(&norms, self.stats)) {
            logs[i] = log;
        }
        if fusion.robust && fusion.rule != FusionRule::Best {
            let damping = robust::log_damping(faces, order, self.stats, self.strangers);
            logs.iter_mut().zip(damping).for_each(|(log, damping)| *log += damping);
        }
        logs
    }
}

/// What the network makes of the faces, and each face's part in it, in the order of the faces.
fn by_network(
    faces: &[TemplateFace<'_>],
    order: &[usize],
    network: &dyn SetFusion,
) -> Result<(Vec<f64>, Vec<f64>), TemplateError> {
    let set_face = |&i: &usize| {
        let TemplateFace { embedding, norm, style, .. } = faces[i];
        let style = style.filter(|style| style.network == network.id()).ok_or(TemplateError::NoCaface)?;
        Ok(SetFace { embedding, norm, style: &style.values })
    };
    let set = order.iter().map(set_face).collect::<Result<Vec<_>, TemplateError>>()?;
    let Fused { vector, parts } = network.fuse(&set)?;
    if vector.len() != faces[0].embedding.len() || parts.len() != faces.len() {
        return Err(NetworkError("its output has the wrong length".to_owned()).into());
    }
    let mut weights = vec![0f64; faces.len()];
    for (&i, part) in order.iter().zip(parts) {
        weights[i] = f64::from(part);
    }
    Ok((vector.into_iter().map(f64::from).collect(), weights))
}

fn coherence(faces: &[TemplateFace<'_>], order: &[usize]) -> f32 {
    let mut sum = vec![0f64; faces.first().map_or(0, |face| face.embedding.len())];
    let mut lengths = 0f64;
    for &i in order {
        let length = f64::from(faces[i].norm);
        add(&mut sum, length, faces[i].embedding);
        lengths += length;
    }
    (norm(&sum) / lengths).min(1.0) as f32
}

/// sum += weight · vector.
fn add(sum: &mut [f64], weight: f64, vector: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(vector) {
        *sum += weight * f64::from(*value);
    }
}

/// The faces' indices sorted by content, so that sums do not depend on the order of arrival.
fn canonical_order(faces: &[TemplateFace<'_>]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..faces.len()).collect();
    let bits = |v: &f32| v.to_bits();
    order.sort_by(|&a, &b| {
        let (a, b) = (&faces[a], &faces[b]);
        let style = |face: &TemplateFace<'_>| face.style.map(|s| s.values.iter().map(bits).collect::<Vec<_>>());
        a.media
            .cmp(b.media)
            .then_with(|| a.norm.to_bits().cmp(&b.norm.to_bits()))
            .then_with(|| a.embedding.iter().map(bits).cmp(b.embedding.iter().map(bits)))
            .then_with(|| style(a).cmp(&style(b)))
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
