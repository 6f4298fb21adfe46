//! Why a template scored as it did: each face with its weight, its own score, and what would be without it.

use super::rule::highest;
use super::sums::Sums;
use super::{FusionRule, Template, TemplateFace, canonical_order, norm, score};

/// One face's part in a template's score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaceScore {
    /// Share of the template, 0 to 1; the shares of a template sum to 1.
    pub weight: f32,
    /// Cosine of this face alone with the other side.
    pub score: f32,
    /// What the template would score if this face were dropped: the face raised the score where this is lower. `None`
    /// where it is the only face, where the others cancel each other out, and under `caface`, whose network would
    /// have to run again for every face. A robust template's faces keep the damping they have.
    pub score_without: Option<f32>,
}

/// What each face of `template` scores alone against `other`, and what the template would without it, in the order the
/// faces were fused. Takes time in proportion to faces times dimension.
pub fn scores(template: &Template, faces: &[TemplateFace<'_>], other: &[f32]) -> Vec<FaceScore> {
    let without = match template.fusion.rule {
        FusionRule::Caface => vec![None; faces.len()],
        FusionRule::Best => without_best(faces, other),
        _ => without_each(template, faces, other),
    };
    let own = template.weights.iter().zip(faces);
    own.zip(without)
        .map(|((weight, face), score_without)| FaceScore {
            weight: *weight,
            score: score(face.embedding, other),
            score_without,
        })
        .collect()
}

/// Only where the best face is dropped does another one take its place.
fn without_best(faces: &[TemplateFace<'_>], other: &[f32]) -> Vec<Option<f32>> {
    let order = canonical_order(faces);
    let best_of = |order: &[usize]| highest(order.iter().map(|&i| faces[i].norm)).map(|position| order[position]);
    let best = best_of(&order);
    let others: Vec<usize> = order.iter().copied().filter(|&i| Some(i) != best).collect();
    let score = |face: Option<usize>| face.map(|i| score(faces[i].embedding, other));
    let (first, second) = (score(best), score(best_of(&others)));
    (0..faces.len()).map(|i| if Some(i) == best { second } else { first }).collect()
}

fn without_each(template: &Template, faces: &[TemplateFace<'_>], other: &[f32]) -> Vec<Option<f32>> {
    let order = canonical_order(faces);
    let mut scores = vec![None; faces.len()];
    // A template of other faces than these has nothing to say of them.
    if template.log_weights.len() != faces.len() {
        return scores;
    }
    Sums::new(faces, &order, &template.log_weights).each_without(|i, rest| {
        let length = norm(rest);
        if length > 1e-9 {
            let dot: f64 = rest.iter().zip(other).map(|(a, b)| a * f64::from(*b)).sum();
            scores[i] = Some((dot / length).clamp(-1.0, 1.0) as f32);
        }
    });
    scores
}
