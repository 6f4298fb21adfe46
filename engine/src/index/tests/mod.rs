//! The index of a gallery against a model: a map of rows, searched in f64 by brute force.

mod churn;
mod exact;
mod graph;
mod graph_files;
mod memory;

use std::collections::HashMap;

use super::{Hit, RowKey};
use crate::ids::SubjectId;

/// What an index should hold.
#[derive(Default, Clone)]
struct Model(HashMap<RowKey, Vec<f32>>);

impl Model {
    fn remove_subject(&mut self, subject: &SubjectId) -> usize {
        let before = self.0.len();
        self.0.retain(|key, _| key.subject != *subject);
        before - self.0.len()
    }

    /// The best score of each subject, best first.
    fn ranking(&self, probe: &[f32]) -> Vec<(SubjectId, f64)> {
        let mut best: HashMap<&SubjectId, f64> = HashMap::new();
        for (key, vector) in &self.0 {
            let score = cosine_f64(probe, vector);
            let entry = best.entry(&key.subject).or_insert(score);
            *entry = entry.max(score);
        }
        let mut ranking: Vec<_> = best.into_iter().map(|(subject, score)| (subject.clone(), score)).collect();
        ranking.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        ranking
    }

    /// Checks hits as far as they go: real rows of the model with their right scores, in the right order.
    fn check_hits(&self, probe: &[f32], hits: &[Hit]) {
        for hit in hits {
            let key = RowKey { subject: hit.subject.clone(), face: hit.face };
            let vector = self.0.get(&key).unwrap_or_else(|| panic!("{key:?} is not in the gallery"));
            assert!((f64::from(hit.score) - cosine_f64(probe, vector)).abs() < 1e-6, "{key:?}");
        }
        for pair in hits.windows(2) {
            let order = pair[1].score.total_cmp(&pair[0].score).then(pair[0].subject.cmp(&pair[1].subject));
            assert!(order.is_lt(), "{pair:?}");
        }
    }

    /// Checks that `hits` is the whole exact answer.
    fn check_exact(&self, probe: &[f32], limit: usize, hits: &[Hit]) {
        self.check_hits(probe, hits);
        let ranking = self.ranking(probe);
        assert_eq!(hits.len(), limit.min(ranking.len()));
        let scores: HashMap<_, _> = ranking.iter().cloned().collect();
        for (hit, (_, expected)) in hits.iter().zip(&ranking) {
            // Subjects closer together than f32 can tell may change places, so the scores are compared, rank by rank.
            assert!((f64::from(hit.score) - expected).abs() < 1e-6);
            assert!((f64::from(hit.score) - scores[&hit.subject]).abs() < 1e-6, "not the subject's best row: {hit:?}");
        }
    }
}

fn cosine_f64(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}
