//! Weighted sums of faces, media first, from which any one face can be left out.
//!
//! Leaving out a face changes the weight of its media's other faces as well, since k_m falls by one:
//!
//! ```text
//! T without i = T − S_m / k_m + (S_m − w_i e_i) / (k_m − 1)        S_m = Σ over faces j in m of w_j e_j
//! ```
//!
//! So one pass over the faces gives the sum without each of them in O(dim) apiece. Subtracting is exact enough unless one
//! face outweighs all others together by six orders of magnitude; what is left is then summed anew, which at most
//! one face of a set can ask for.

use std::collections::HashMap;

use super::{TemplateFace, add};

/// Share of the weights without a face below which the rest is summed anew.
const NEGLIGIBLE: f64 = 1e-6;

/// Faces with their weights, and the sums of their embeddings.
pub(super) struct Sums<'a> {
    faces: &'a [TemplateFace<'a>],
    order: &'a [usize],
    logs: &'a [f64],
    /// Number of the media of each face.
    media: Vec<usize>,
    /// Weight of each face before media, the largest 1.
    raw: Vec<f64>,
    /// Weight of each face in the sum: that before media over the faces of the media.
    weights: Vec<f64>,
    /// Faces of each media.
    counts: Vec<usize>,
    /// Σ over the faces of a media of raw · e; empty where it has only one face.
    by_media: Vec<Vec<f64>>,
    total: Vec<f64>,
}

impl<'a> Sums<'a> {
    /// Sums faces with the given logarithms of weights. `order` says in which order.
    pub(super) fn new(faces: &'a [TemplateFace<'a>], order: &'a [usize], logs: &'a [f64]) -> Self {
        let dim = faces.first().map_or(0, |face| face.embedding.len());
        let mut numbers: HashMap<&str, usize> = HashMap::new();
        let mut media = vec![0; faces.len()];
        let mut counts: Vec<usize> = Vec::new();
        for &i in order {
            let number = *numbers.entry(faces[i].media).or_insert(counts.len());
            if number == counts.len() {
                counts.push(0);
            }
            counts[number] += 1;
            media[i] = number;
        }
        let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let raw: Vec<f64> = logs.iter().map(|log| (log - top).exp()).collect();
        let weights: Vec<f64> = raw.iter().zip(&media).map(|(raw, &m)| raw / counts[m] as f64).collect();
        let mut by_media: Vec<Vec<f64>> = counts.iter().map(|&k| vec![0.0; if k > 1 { dim } else { 0 }]).collect();
        let mut total = vec![0f64; dim];
        for &i in order {
            add(&mut total, weights[i], faces[i].embedding);
            add(&mut by_media[media[i]], raw[i], faces[i].embedding);
        }
        Self { faces, order, logs, media, raw, weights, counts, by_media, total }
    }

    /// The sum over all faces.
    pub(super) fn total(&self) -> Vec<f64> {
        self.total.clone()
    }

    /// Weight of each face in the sum, in the order of the faces.
    pub(super) fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Calls `take` for each face, in the order of the faces, with the sum over the others, in units of any size. Zero
    /// where there are no others.
    pub(super) fn each_without(&self, mut take: impl FnMut(usize, &[f64])) {
        let all: f64 = self.order.iter().map(|&i| self.weights[i]).sum();
        let mut rest = vec![0f64; self.total.len()];
        for i in 0..self.faces.len() {
            if self.faces.len() == 1 {
                rest.fill(0.0);
            } else if all - self.weights[i] < NEGLIGIBLE * all {
                self.sum_without(i, &mut rest);
            } else {
                self.subtract(i, &mut rest);
            }
            take(i, &rest);
        }
    }

    /// The sum without a face, by the formula above.
    fn subtract(&self, i: usize, rest: &mut [f64]) {
        let (m, embedding) = (self.media[i], self.faces[i].embedding);
        rest.copy_from_slice(&self.total);
        let count = self.counts[m] as f64;
        if self.counts[m] == 1 {
            add(rest, -self.raw[i], embedding);
            return;
        }
        // S_m / (k_m − 1) − S_m / k_m
        let more = 1.0 / (count - 1.0) - 1.0 / count;
        for (rest, sum) in rest.iter_mut().zip(&self.by_media[m]) {
            *rest += more * sum;
        }
        add(rest, -self.raw[i] / (count - 1.0), embedding);
    }

    /// The sum without a face, summed anew, the largest of the other weights being 1.
    fn sum_without(&self, without: usize, rest: &mut [f64]) {
        let others = || self.order.iter().copied().filter(|&i| i != without);
        let top = others().map(|i| self.logs[i]).fold(f64::NEG_INFINITY, f64::max);
        rest.fill(0.0);
        if top == f64::NEG_INFINITY {
            return;
        }
        for i in others() {
            let m = self.media[i];
            let count = self.counts[m] - usize::from(m == self.media[without]);
            add(rest, (self.logs[i] - top).exp() / count as f64, self.faces[i].embedding);
        }
    }
}
