//! Thresholds and decisions, as requests ask for them and answers state them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vultus_engine::gallery::{Decider, Decision, Threshold, ThresholdSource};
use vultus_engine::store::{ThresholdSetting, Thresholds};

use crate::problem::{Code, Problem};

/// What a caller may give as a threshold: a score, or the rate of false positives to keep. One of the two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = ThresholdRequest, example = json!({"fpir": 0.001}))]
pub struct ThresholdRequest {
    /// Cosine, −1 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -1.0, maximum = 1.0, nullable = false)]
    pub score: Option<f32>,
    /// False positive identification rate: the share of searches for people who are not enrolled that may reach the
    /// threshold. The gallery's calibration says which score keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0, nullable = false)]
    pub fpir: Option<f64>,
}

impl From<ThresholdSetting> for ThresholdRequest {
    fn from(setting: ThresholdSetting) -> Self {
        match setting {
            ThresholdSetting::Score(score) => Self { score: Some(score), fpir: None },
            ThresholdSetting::Fpir(fpir) => Self { score: None, fpir: Some(fpir) },
        }
    }
}

impl ThresholdRequest {
    /// One of the two query parameters that stand for a threshold.
    pub fn from_params(score: Option<f32>, fpir: Option<f64>) -> Option<Self> {
        (score.is_some() || fpir.is_some()).then_some(Self { score, fpir })
    }

    /// The engine's form, checked.
    pub fn checked(self) -> Result<ThresholdSetting, Problem> {
        match (self.score, self.fpir) {
            (Some(score), None) => checked_score(score).map(ThresholdSetting::Score),
            (None, Some(fpir)) if fpir > 0.0 && fpir < 1.0 => Ok(ThresholdSetting::Fpir(fpir)),
            (None, Some(_)) => {
                Err(Problem::with(Code::InvalidRequest, "a rate (fpir) is a number above 0 and below 1"))
            }
            _ => Err(Problem::with(Code::InvalidRequest, "a threshold is either a `score` or a rate (`fpir`)")),
        }
    }

    /// The score, where nothing can turn a rate into one.
    pub fn checked_score(self) -> Result<f32, Problem> {
        match self.checked()? {
            ThresholdSetting::Score(score) => Ok(score),
            ThresholdSetting::Fpir(_) => {
                Err(Problem::with(Code::InvalidRequest, "a rate (fpir) is of a gallery, and none is searched here"))
            }
        }
    }
}

/// Both thresholds, checked, also against each other where both are scores or both are rates.
pub(crate) fn thresholds(
    matching: Option<ThresholdRequest>,
    review: Option<ThresholdRequest>,
) -> Result<Thresholds, Problem> {
    let matching = matching.map(ThresholdRequest::checked).transpose()?;
    let review = review.map(ThresholdRequest::checked).transpose()?;
    let contradiction = match (matching, review) {
        (Some(ThresholdSetting::Score(of_match)), Some(ThresholdSetting::Score(of_review))) if of_review > of_match => {
            "the score of review_threshold is at most that of threshold, or nothing would be left to review"
        }
        (Some(ThresholdSetting::Fpir(of_match)), Some(ThresholdSetting::Fpir(of_review))) if of_review < of_match => {
            "the rate (fpir) of review_threshold is at least that of threshold, or nothing would be left to review"
        }
        _ => return Ok(Thresholds { matching, review }),
    };
    Err(Problem::with(Code::InvalidRequest, contradiction))
}

/// A threshold score, checked.
fn checked_score(score: f32) -> Result<f32, Problem> {
    if (-1.0..=1.0).contains(&score) {
        Ok(score)
    } else {
        Err(Problem::with(Code::InvalidRequest, "a threshold score is a number from -1 to 1"))
    }
}

/// A threshold in force, and who set it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Threshold)]
pub struct ThresholdInForce {
    /// Cosine from which on the decision is made.
    pub score: f32,
    /// The false positive identification rate: the one asked for, or what the score stands for on this gallery. Null
    /// while the gallery is not calibrated.
    #[schema(required = true)]
    pub fpir: Option<f64>,
    /// The rate lies beyond what the calibration's data carry: it follows from the shape of their tail.
    pub extrapolated: bool,
    /// Who set it.
    pub source: Source,
}

/// Who set a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ThresholdSource)]
pub enum Source {
    /// The request.
    Request,
    /// The watch.
    Watch,
    /// The gallery's settings.
    Gallery,
    /// The server's configuration or the model's own threshold.
    Server,
}

impl From<Threshold> for ThresholdInForce {
    fn from(threshold: Threshold) -> Self {
        let source = match threshold.source {
            ThresholdSource::Request => Source::Request,
            ThresholdSource::Watch => Source::Watch,
            ThresholdSource::Gallery => Source::Gallery,
            ThresholdSource::Server => Source::Server,
        };
        let Threshold { score, fpir, extrapolated, .. } = threshold;
        Self { score, fpir, extrapolated, source }
    }
}

/// The two thresholds in force.
pub(crate) fn in_force(decider: &Decider) -> (ThresholdInForce, Option<ThresholdInForce>) {
    (decider.matching.into(), decider.review.map(ThresholdInForce::from))
}

/// What is said of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Decision)]
pub enum DecisionName {
    /// The score reaches the threshold, wherever that of a review lies.
    Match,
    /// It reaches the review threshold only: a person should look at it. There is no such candidate where a score and a
    /// rate, or settings of different places, put the review threshold at or above that of a match.
    Review,
    /// It reaches neither, or there is no candidate.
    None,
}

impl From<Decision> for DecisionName {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Match => Self::Match,
            Decision::Review => Self::Review,
            Decision::None => Self::None,
        }
    }
}
