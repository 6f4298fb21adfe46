//! From a score to a decision.

use serde::Serialize;

/// What is said of a candidate, and of a whole search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The score reaches the threshold.
    Match,
    /// It does not.
    None,
}

/// Where a threshold came from: the first of these that names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdSource {
    /// The request.
    Request,
    /// The gallery's settings.
    Gallery,
    /// The server's configuration, or the model's own where that is silent.
    Server,
}

/// The score from which a candidate is a match.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Threshold {
    /// Cosine, −1 to 1.
    pub score: f32,
    /// Who set it.
    pub source: ThresholdSource,
}

impl Threshold {
    /// Resolves request → gallery → server.
    pub fn resolve(request: Option<f32>, gallery: Option<f32>, server: f32) -> Self {
        let (score, source) = match (request, gallery) {
            (Some(score), _) => (score, ThresholdSource::Request),
            (None, Some(score)) => (score, ThresholdSource::Gallery),
            (None, None) => (server, ThresholdSource::Server),
        };
        Self { score, source }
    }

    /// Match from the threshold upwards.
    pub fn decide(&self, score: f32) -> Decision {
        if score >= self.score { Decision::Match } else { Decision::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_setting_wins() {
        let resolved = |r, g| Threshold::resolve(r, g, 0.3);
        assert_eq!(resolved(Some(0.5), Some(0.4)), Threshold { score: 0.5, source: ThresholdSource::Request });
        assert_eq!(resolved(None, Some(0.4)), Threshold { score: 0.4, source: ThresholdSource::Gallery });
        assert_eq!(resolved(None, None), Threshold { score: 0.3, source: ThresholdSource::Server });
        assert_eq!(resolved(None, None).decide(0.3), Decision::Match);
        assert_eq!(resolved(None, None).decide(0.299_99), Decision::None);
    }
}
