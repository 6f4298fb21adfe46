//! From a score to a decision.
//!
//! A gallery has two thresholds: from the upper one on a candidate is a match, from the lower one on a person should look
//! at it. Each is a score, or the false positive identification rate (FPIR) that is to be kept, which the gallery's
//! calibration turns into a score. The nearest place that names one wins: request, watch, gallery, server.
//!
//! Each is resolved by itself, so the lower one can come out above the upper one: a rate beside a score, or settings of
//! two places. What reaches the upper one is a match all the same, and the band between them is then empty.

use serde::{Deserialize, Serialize};

use super::GalleryError;
use super::calibrate::Rates;
use crate::store::{ThresholdSetting, Thresholds};

/// What is said of a candidate, and of a whole search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The score reaches neither threshold.
    None,
    /// A person should look at it.
    Review,
    /// The score reaches the threshold of a match.
    Match,
}

/// Where a threshold came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdSource {
    /// The request.
    Request,
    /// The watch.
    Watch,
    /// The gallery's settings.
    Gallery,
    /// The server's configuration, or the model's own where that is silent.
    Server,
}

/// A threshold in force.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// Cosine, −1 to 1.
    pub score: f32,
    /// The false positive identification rate: the one asked for, or what the score stands for on this gallery. `None`
    /// where the gallery is not calibrated.
    pub fpir: Option<f64>,
    /// Whether the rate lies beyond what the calibration's data carry.
    pub extrapolated: bool,
    /// Who set it.
    pub source: ThresholdSource,
}

/// What the server falls back on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServerScores {
    /// From here on a candidate is a match.
    pub matching: f32,
    /// From here on a person should look at it, where that is configured.
    pub review: Option<f32>,
}

/// The thresholds in force for one answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decider {
    /// From here on a candidate is a match.
    pub matching: Threshold,
    /// From here on, and below a match, it is for a person to look at. `None`: there is no such band.
    pub review: Option<Threshold>,
}

impl Decider {
    /// Resolves what `asked` names, the nearest place first; `server` says what to fall back on.
    ///
    /// # Errors
    /// [`GalleryError::CalibrationMissing`] where a rate is asked for and nothing says what it means.
    pub(super) fn resolve(
        asked: &[(ThresholdSource, Thresholds)],
        server: ServerScores,
        rates: &Rates<'_>,
    ) -> Result<Self, GalleryError> {
        let nearest = |pick: fn(&Thresholds) -> Option<ThresholdSetting>| {
            asked.iter().find_map(|(source, thresholds)| Some((*source, pick(thresholds)?)))
        };
        let matching = nearest(|thresholds| thresholds.matching);
        let matching = matching.unwrap_or((ThresholdSource::Server, ThresholdSetting::Score(server.matching)));
        let of_server = server.review.map(|score| (ThresholdSource::Server, ThresholdSetting::Score(score)));
        let review = nearest(|thresholds| thresholds.review).or(of_server);
        Ok(Self {
            matching: threshold(matching, rates)?,
            review: review.map(|review| threshold(review, rates)).transpose()?,
        })
    }

    /// Scores of the request, else the server's, where no gallery is searched.
    pub fn of_scores(matching: Option<f32>, review: Option<f32>, server: ServerScores) -> Self {
        let plain = |source, score| Threshold { score, fpir: None, extrapolated: false, source };
        let matching = matching.map(|score| plain(ThresholdSource::Request, score));
        Self {
            matching: matching.unwrap_or(plain(ThresholdSource::Server, server.matching)),
            review: review
                .map(|score| plain(ThresholdSource::Request, score))
                .or(server.review.map(|score| plain(ThresholdSource::Server, score))),
        }
    }

    /// From each threshold upwards.
    pub fn decide(&self, score: f32) -> Decision {
        if score >= self.matching.score {
            Decision::Match
        } else if self.review.is_some_and(|review| score >= review.score) {
            Decision::Review
        } else {
            Decision::None
        }
    }
}

fn threshold(
    (source, setting): (ThresholdSource, ThresholdSetting),
    rates: &Rates<'_>,
) -> Result<Threshold, GalleryError> {
    match setting {
        ThresholdSetting::Score(score) => {
            let estimate = rates.fpir_at(score);
            let extrapolated = estimate.is_some_and(|estimate| estimate.extrapolated);
            Ok(Threshold { score, fpir: estimate.map(|estimate| estimate.fpir), extrapolated, source })
        }
        ThresholdSetting::Fpir(fpir) => {
            let (score, kept) = rates.score_at(fpir)?;
            Ok(Threshold { score, fpir: Some(kept.fpir), extrapolated: kept.extrapolated, source })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::GalleryId;

    fn score(matching: f32, review: Option<f32>) -> Thresholds {
        Thresholds { matching: Some(ThresholdSetting::Score(matching)), review: review.map(ThresholdSetting::Score) }
    }

    #[test]
    fn the_nearest_setting_wins() {
        let gallery = GalleryId::try_from("g").unwrap();
        let rates = Rates::none(&gallery);
        let server = ServerScores { matching: 0.3, review: None };
        let resolve = |asked: &[(ThresholdSource, Thresholds)]| Decider::resolve(asked, server, &rates).unwrap();
        let open = Thresholds::default();
        let of = |source, score| Threshold { score, fpir: None, extrapolated: false, source };
        use ThresholdSource::{Gallery, Request, Server, Watch};
        assert_eq!(resolve(&[(Request, score(0.5, None)), (Gallery, score(0.4, None))]).matching, of(Request, 0.5));
        assert_eq!(resolve(&[(Request, open), (Watch, score(0.45, None))]).matching, of(Watch, 0.45));
        assert_eq!(resolve(&[(Request, open), (Gallery, score(0.4, None))]).matching, of(Gallery, 0.4));
        let by_server = resolve(&[(Request, open), (Gallery, open)]);
        assert_eq!(by_server, Decider { matching: of(Server, 0.3), review: None });
        assert_eq!((by_server.decide(0.3), by_server.decide(0.299_99)), (Decision::Match, Decision::None));

        // Each of the two is resolved by itself.
        let both = resolve(&[(Request, score(0.5, None)), (Gallery, score(0.4, Some(0.35)))]);
        assert_eq!((both.matching, both.review), (of(Request, 0.5), Some(of(Gallery, 0.35))));
        let decisions = [0.5, 0.49, 0.35, 0.34].map(|score| both.decide(score));
        assert_eq!(decisions, [Decision::Match, Decision::Review, Decision::Review, Decision::None]);
        let looking = ServerScores { review: Some(0.2), ..server };
        let resolved = Decider::resolve(&[(Request, score(0.5, None))], looking, &rates).unwrap();
        assert_eq!(resolved.review, Some(of(Server, 0.2)));
    }

    /// Whatever is asked for a review never takes a match away.
    #[test]
    fn a_review_threshold_above_that_of_a_match_leaves_no_band() {
        let gallery = GalleryId::try_from("g").unwrap();
        let asked = [(ThresholdSource::Request, score(0.4, None)), (ThresholdSource::Gallery, score(0.3, Some(0.5)))];
        let server = ServerScores { matching: 0.3, review: None };
        let resolved = Decider::resolve(&asked, server, &Rates::none(&gallery)).unwrap();
        assert_eq!((resolved.matching.score, resolved.review.map(|review| review.score)), (0.4, Some(0.5)));
        let decisions = [0.55, 0.45, 0.4, 0.39].map(|score| resolved.decide(score));
        assert_eq!(decisions, [Decision::Match, Decision::Match, Decision::Match, Decision::None]);
    }

    #[test]
    fn a_rate_needs_a_calibration() {
        let gallery = GalleryId::try_from("g").unwrap();
        let rate = Thresholds { matching: Some(ThresholdSetting::Fpir(0.01)), review: None };
        let resolved = Decider::resolve(
            &[(ThresholdSource::Request, rate)],
            ServerScores { matching: 0.3, review: None },
            &Rates::none(&gallery),
        );
        assert!(matches!(resolved, Err(GalleryError::CalibrationMissing(of)) if of == gallery));
    }
}
