//! What a score is worth: how often two different people reach it.

use super::ImpostorScore;

/// Scores of comparisons of different people, measured on a development set, as a function of the false match rate.
///
/// Between two measured rates the score is interpolated over the logarithm of the rate, in which the tail of such
/// distributions is nearly a straight line. Outside of the measured rates the nearest one stands for all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImpostorScores {
    /// (log10 of the rate, score), the rate falling and the score not falling.
    points: Vec<(f64, f64)>,
}

impl FromIterator<ImpostorScore> for ImpostorScores {
    fn from_iter<I: IntoIterator<Item = ImpostorScore>>(scores: I) -> Self {
        let mut points: Vec<_> = scores.into_iter().map(|s| (s.fmr.log10(), f64::from(s.score))).collect();
        points.sort_by(|a, b| b.0.total_cmp(&a.0));
        Self { points }
    }
}

impl ImpostorScores {
    /// The score that different people reach at this rate. `None` when nothing was measured.
    pub fn score_at(&self, fmr: f64) -> Option<f32> {
        interpolate(self.points.iter().map(|&(rate, score)| (-rate, score)), -fmr.log10()).map(|score| score as f32)
    }

    /// As [`ImpostorScores::score_at`], but below the lowest rate measured, the line through the two lowest goes on. Tails
    /// of such distributions bend down, so that the score errs on the high side. At most 1.
    pub fn score_beyond(&self, fmr: f64) -> Option<f32> {
        let [.., (rate0, score0), (rate1, score1)] = self.points[..] else { return self.score_at(fmr) };
        let rate = fmr.log10();
        if rate >= rate1 || rate0 <= rate1 {
            return self.score_at(fmr);
        }
        Some((score1 + (score1 - score0) * (rate1 - rate) / (rate0 - rate1)).min(1.0) as f32)
    }

    /// The rate at which different people reach this score: the lowest false match rate at which two faces of this
    /// score would be called the same person. `None` when nothing was measured.
    pub fn fmr_at(&self, score: f32) -> Option<f64> {
        let rate = interpolate(self.points.iter().map(|&(rate, score)| (score, rate)), f64::from(score))?;
        Some(10f64.powf(rate))
    }
}

/// Linear between points of rising x, constant outside.
fn interpolate(points: impl Iterator<Item = (f64, f64)>, x: f64) -> Option<f64> {
    let mut before: Option<(f64, f64)> = None;
    for (x1, y1) in points {
        if x <= x1 {
            return Some(match before {
                Some((x0, y0)) if x1 > x0 => y0 + (y1 - y0) * (x - x0) / (x1 - x0),
                _ => y1,
            });
        }
        before = Some((x1, y1));
    }
    before.map(|(_, y)| y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_scores_answer_each_other() {
        let table = [(0.1, 0.2), (0.01, 0.3), (0.0001, 0.5)];
        let scores: ImpostorScores =
            table.iter().map(|&(fmr, score)| ImpostorScore { fmr, score, flip: false }).collect();
        for (fmr, score) in table {
            approx::assert_relative_eq!(scores.score_at(fmr).unwrap(), score, epsilon = 1e-6);
            approx::assert_relative_eq!(scores.fmr_at(score).unwrap(), fmr, max_relative = 1e-5);
        }
        approx::assert_relative_eq!(scores.score_at(0.001).unwrap(), 0.4, epsilon = 1e-6);
        assert_eq!(scores.score_at(0.5), Some(0.2));
        assert_eq!(scores.score_at(1e-9), Some(0.5));
        approx::assert_relative_eq!(scores.fmr_at(-0.3).unwrap(), 0.1, max_relative = 1e-9);
        approx::assert_relative_eq!(scores.fmr_at(0.99).unwrap(), 0.0001, max_relative = 1e-9);
        assert_eq!(ImpostorScores::default().fmr_at(0.5), None);
        approx::assert_relative_eq!(scores.score_beyond(1e-6).unwrap(), 0.7, epsilon = 1e-6);
        approx::assert_relative_eq!(scores.score_beyond(0.001).unwrap(), 0.4, epsilon = 1e-6);
        assert_eq!(scores.score_beyond(1e-60), Some(1.0));
    }
}
