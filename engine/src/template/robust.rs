//! Robust fusion: one pass that damps faces which disagree with the rest.
//!
//! A frame of another person, picked up by a tracker or enrolled by mistake, is often the best picture of the set, and a
//! rule that goes by quality follows it. What gives it away is its agreement a_i: the cosine of its embedding with the
//! plain mean of the others, media first. The mean gives each face one vote, so that a good stranger cannot outvote
//! several poor genuine frames. The weight of the face is multiplied by
//!
//! ```text
//! d_i = 1 / (1 + exp(−(a_i − c · v_i) / (c / 5)))        v_i = exp(min(0, z + 1)), z of the best other face
//! ```
//!
//! c is a score that strangers rarely reach. Poor frames of one person agree poorly, and the only good frame among poor
//! ones agrees little with any of them; v_i lowers the bar where no other face is good enough to judge by. The
//! constants were chosen on development identities with none, one and two wrong faces out of eight, see
//! `docs/TEMPLATES.md`. Damping is relative: where all faces disagree alike, nothing changes.

use super::rule::highest;
use super::sums::Sums;
use super::{TemplateFace, norm};
use crate::quality::{NormStats, z};

/// The share of comparisons of different people whose score marks disagreement.
pub const STRANGER_FMR: f64 = 0.02;
/// That score, where a model's scores were not measured: an assumption, near what embedding networks show.
const ASSUMED_SCORE: f32 = 0.3;
/// Smallest such score that is believed. A lower one would leave no room between strangers and poor frames.
const LEAST_SCORE: f32 = 0.05;
/// Standardised norm from which a face is good enough to judge others by.
const GOOD: f32 = -1.0;
/// Steepness of the damping: how many times its width the bar is.
const STEEPNESS: f64 = 5.0;

/// Logarithm of the damping of each face, at most 0, in the order of the faces.
pub(super) fn log_damping(
    faces: &[TemplateFace<'_>],
    order: &[usize],
    stats: NormStats,
    strangers: Option<f32>,
) -> Vec<f64> {
    if faces.len() < 2 {
        return vec![0.0; faces.len()];
    }
    let bar = f64::from(strangers.unwrap_or(ASSUMED_SCORE).max(LEAST_SCORE));
    let trust = trust(faces, stats);
    let votes = vec![0f64; faces.len()];
    let mut logs = vec![0f64; faces.len()];
    Sums::new(faces, order, &votes).each_without(|i, others| {
        let length = norm(others);
        // Others that cancel out say nothing of this face.
        let agreement = if length < 1e-9 { 0.0 } else { dot(faces[i].embedding, others) / length };
        // ln of the logistic function, without overflow far below the bar.
        let x = (agreement - bar * trust(i)) / (bar / STEEPNESS);
        logs[i] = if x > 0.0 { -(-x).exp().ln_1p() } else { x - x.exp().ln_1p() };
    });
    logs
}

/// How far the best of the other faces is to be trusted, 0 to 1, for each face.
fn trust(faces: &[TemplateFace<'_>], stats: NormStats) -> impl Fn(usize) -> f64 + use<> {
    let of = |norm: f32| f64::from((z(norm, stats) - GOOD).min(0.0)).exp();
    let best = highest(faces.iter().map(|face| face.norm));
    let rest = faces.iter().enumerate().filter(|(i, _)| Some(*i) != best).map(|(_, face)| face.norm);
    let (first, second) = (best.map_or(0.0, |i| of(faces[i].norm)), of(rest.fold(f32::MIN, f32::max)));
    move |i| if Some(i) == best { second } else { first }
}

fn dot(embedding: &[f32], sum: &[f64]) -> f64 {
    embedding.iter().zip(sum).map(|(a, b)| f64::from(*a) * b).sum()
}
