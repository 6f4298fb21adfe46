//! Wire types that several resources share.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vultus_engine::detect::DetectorKind;
use vultus_engine::face::DetectedFace;
use vultus_engine::gallery::{Decision, Threshold, ThresholdSource};
use vultus_engine::store::FaceSource;
use vultus_engine::template::{Fusion, FusionRule, rule};

use crate::problem::{Code, Problem};
use crate::service::examine::Sample;
use crate::service::select::corners;

/// Who looks for faces, and how they are aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Detector)]
pub enum DetectorName {
    /// YuNet: fast, faces of any size.
    Yunet,
    /// MTCNN, its first network as it was trained; faces from 20 pixels.
    Mtcnn,
    /// MTCNN and its alignment as the AdaFace repository publishes them, defects included: finds fewer faces of a group,
    /// and mirrors profiles.
    MtcnnCompat,
}

impl From<DetectorName> for DetectorKind {
    fn from(name: DetectorName) -> Self {
        match name {
            DetectorName::Yunet => Self::Yunet,
            DetectorName::Mtcnn => Self::Mtcnn,
            DetectorName::MtcnnCompat => Self::MtcnnCompat,
        }
    }
}

/// What a caller may give as a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ThresholdRequest)]
pub struct ThresholdRequest {
    /// Cosine from which a candidate is a match, −1 to 1.
    #[schema(minimum = -1.0, maximum = 1.0, example = 0.4)]
    pub score: f32,
}

/// A JSON merge patch of a threshold.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "documents what a patch can hold; it is merged as JSON")]
pub struct ThresholdPatch {
    /// Cosine from which a candidate is a match, −1 to 1.
    #[schema(minimum = -1.0, maximum = 1.0)]
    score: Option<f32>,
}

impl ThresholdRequest {
    /// The score, checked.
    pub fn checked(self) -> Result<f32, Problem> {
        checked_score(self.score)
    }
}

/// A threshold score, checked.
pub(crate) fn checked_score(score: f32) -> Result<f32, Problem> {
    if (-1.0..=1.0).contains(&score) {
        Ok(score)
    } else {
        Err(Problem::with(Code::InvalidRequest, "a threshold score is a number from -1 to 1"))
    }
}

/// The threshold in force, and who set it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Threshold)]
pub struct ThresholdInForce {
    /// Cosine from which a candidate is a match.
    pub score: f32,
    /// The false positive identification rate the score stands for on this gallery; null while it is not calibrated.
    #[schema(required = true)]
    pub fpir: Option<f64>,
    /// Who set it: the request, the gallery or the server.
    pub source: Source,
}

/// Who set a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The request.
    Request,
    /// The gallery's settings.
    Gallery,
    /// The server's configuration or the model's own threshold.
    Server,
}

impl From<Threshold> for ThresholdInForce {
    fn from(threshold: Threshold) -> Self {
        let source = match threshold.source {
            ThresholdSource::Request => Source::Request,
            ThresholdSource::Gallery => Source::Gallery,
            ThresholdSource::Server => Source::Server,
        };
        Self { score: threshold.score, fpir: None, source }
    }
}

/// Match or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Decision)]
pub enum DecisionName {
    /// The score reaches the threshold.
    Match,
    /// It does not, or there is no candidate.
    None,
}

impl From<Decision> for DecisionName {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Match => Self::Match,
            Decision::None => Self::None,
        }
    }
}

/// How the faces of a template are weighted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = FusionRule)]
pub enum RuleName {
    /// w = norm.
    Norm,
    /// w = exp(z / tau), z the standardised norm.
    SoftmaxQuality,
    /// w = 1.
    Mean,
    /// The face with the highest norm alone.
    Best,
    /// The CAFace network weighs the faces; available where the model has its weights.
    Caface,
}

/// A fusion rule with its parameter.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Fusion, example = json!({"rule": "softmax_quality", "tau": 1.0}))]
pub struct FusionSpec {
    /// The rule.
    pub rule: RuleName,
    /// τ of `softmax_quality`: standard deviations of the norm over which the weight grows e-fold.
    #[serde(default = "rule::default_tau")]
    #[schema(minimum = 0.05, maximum = 100.0, default = 1.0)]
    pub tau: f32,
}

/// A JSON merge patch of a fusion rule.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "documents what a patch can hold; it is merged as JSON")]
pub struct FusionPatch {
    /// The rule.
    rule: Option<RuleName>,
    /// τ of `softmax_quality`.
    #[schema(minimum = 0.05, maximum = 100.0)]
    tau: Option<f32>,
}

impl FusionSpec {
    /// The engine's form, checked.
    pub fn checked(self) -> Result<Fusion, Problem> {
        let rule = match self.rule {
            RuleName::Norm => FusionRule::Norm,
            RuleName::SoftmaxQuality => FusionRule::SoftmaxQuality,
            RuleName::Mean => FusionRule::Mean,
            RuleName::Best => FusionRule::Best,
            RuleName::Caface => FusionRule::Caface,
        };
        let fusion = Fusion::new(rule, self.tau);
        if fusion.is_valid() {
            Ok(fusion)
        } else {
            Err(Problem::with(Code::InvalidRequest, "tau is a number from 0.05 to 100"))
        }
    }
}

impl From<Fusion> for FusionSpec {
    fn from(fusion: Fusion) -> Self {
        let rule = match fusion.rule {
            FusionRule::Norm => RuleName::Norm,
            FusionRule::SoftmaxQuality => RuleName::SoftmaxQuality,
            FusionRule::Mean => RuleName::Mean,
            FusionRule::Best => RuleName::Best,
            FusionRule::Caface => RuleName::Caface,
        };
        Self { rule, tau: fusion.tau }
    }
}

/// A rule and a τ as query parameters give them.
pub(crate) fn fusion_params(rule: Option<RuleName>, tau: Option<f32>) -> Result<Option<FusionSpec>, Problem> {
    match (rule, tau) {
        (Some(rule), tau) => Ok(Some(FusionSpec { rule, tau: tau.unwrap_or_else(rule::default_tau) })),
        (None, Some(_)) => Err(Problem::with(Code::InvalidParameter, "tau goes with fusion=softmax_quality")),
        (None, None) => Ok(None),
    }
}

/// How a face came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = FaceSource)]
pub enum SourceName {
    /// Detected in a photo.
    Photo,
    /// An aligned 112×112 crop.
    Crop,
    /// A ready embedding.
    Embedding,
}

impl From<FaceSource> for SourceName {
    fn from(source: FaceSource) -> Self {
        match source {
            FaceSource::Photo => Self::Photo,
            FaceSource::Crop => Self::Crop,
            FaceSource::Embedding => Self::Embedding,
        }
    }
}

/// A face found in a photo.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = DetectedFace)]
pub struct FaceFound {
    /// Left, top, right, bottom in pixels of the upright photo; it may reach beyond it.
    #[serde(rename = "box")]
    #[schema(min_items = 4, max_items = 4, example = json!([71.2, 68.9, 177.4, 206.0]))]
    pub bbox: [f32; 4],
    /// Two eyes, nose tip, two mouth corners as [x, y]; of each pair the one on the left of the picture first.
    #[schema(value_type = Vec<Vec<f32>>, min_items = 5, max_items = 5,
        example = json!([[98.1, 116.0], [146.3, 114.2], [123.5, 143.9], [104.0, 169.1], [145.2, 167.4]]))]
    pub landmarks: [[f32; 2]; 5],
    /// The detector's score, 0 to 1.
    pub score: f32,
}

impl From<&DetectedFace> for FaceFound {
    fn from(face: &DetectedFace) -> Self {
        Self { bbox: corners(face), landmarks: face.landmarks.0, score: face.score }
    }
}

/// Where a face was found; nothing for crops and ready embeddings.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = FaceLocation)]
pub struct Location {
    /// Left, top, right, bottom in pixels of the upright photo. Absent for crops and embeddings, as are the next two.
    #[serde(rename = "box", skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 4, max_items = 4, nullable = false)]
    pub bbox: Option<[f32; 4]>,
    /// Two eyes, nose tip, two mouth corners as [x, y].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Vec<f32>>>, min_items = 5, max_items = 5, nullable = false)]
    pub landmarks: Option<[[f32; 2]; 5]>,
    /// The detector's score, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub score: Option<f32>,
}

impl From<Option<&DetectedFace>> for Location {
    fn from(face: Option<&DetectedFace>) -> Self {
        let found = face.map(FaceFound::from);
        Self {
            bbox: found.as_ref().map(|face| face.bbox),
            landmarks: found.as_ref().map(|face| face.landmarks),
            score: found.map(|face| face.score),
        }
    }
}

/// A face of the probe.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = ProbeFace)]
pub struct ProbeFace {
    /// Which image of the request, from 0; embeddings count on after the images.
    pub image: usize,
    /// Where it was.
    #[serde(flatten)]
    pub location: Location,
    /// Length of the raw feature.
    pub norm: f32,
    /// CDF of the standardised norm, 0 to 1.
    pub quality: f32,
    /// Share of the probe template; the shares sum to 1.
    pub weight: f32,
}

impl ProbeFace {
    /// A sample with its weight in the template.
    pub fn new(sample: &Sample, weight: f32) -> Self {
        Self {
            image: sample.image,
            location: sample.detection.as_ref().into(),
            norm: sample.feature.norm,
            quality: sample.quality,
            weight,
        }
    }
}
