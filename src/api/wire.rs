//! Wire types that several resources share.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vultus_engine::detect::DetectorKind;
use vultus_engine::face::DetectedFace;
use vultus_engine::store::FaceSource;
use vultus_engine::template::{Fusion, FusionRequest, FusionRule};

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
    /// τ of `softmax_quality`, which alone has one: standard deviations of the norm over which the weight grows e-fold.
    /// With neither τ nor cap the model's own parameters of the rule are taken.
    #[serde(default)]
    #[schema(minimum = 0.05, maximum = 100.0)]
    pub tau: Option<f32>,
    /// Cap of `softmax_quality`, which alone has one: the standardised norm above which all faces weigh alike; none where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = -10.0, maximum = 10.0, nullable = false)]
    pub cap: Option<f32>,
    /// Damp faces that disagree with the rest, such as those of somebody else.
    #[serde(default)]
    pub robust: bool,
}

/// A JSON merge patch of a fusion rule.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "documents what a patch can hold; it is merged as JSON")]
pub struct FusionPatch {
    /// The rule. Another one than before leaves the parameters of that one behind.
    rule: Option<RuleName>,
    /// τ of `softmax_quality`.
    #[schema(minimum = 0.05, maximum = 100.0)]
    tau: Option<f32>,
    /// Cap of `softmax_quality`.
    #[schema(minimum = -10.0, maximum = 10.0)]
    cap: Option<f32>,
    /// Damp faces that disagree with the rest.
    robust: Option<bool>,
}

impl FusionSpec {
    /// The engine's form, checked.
    pub fn checked(self) -> Result<FusionRequest, Problem> {
        let rule = match self.rule {
            RuleName::Norm => FusionRule::Norm,
            RuleName::SoftmaxQuality => FusionRule::SoftmaxQuality,
            RuleName::Mean => FusionRule::Mean,
            RuleName::Best => FusionRule::Best,
            RuleName::Caface => FusionRule::Caface,
        };
        let Self { tau, cap, robust, .. } = self;
        let given = [("tau", tau), ("cap", cap)].into_iter().find(|(_, value)| value.is_some());
        if let Some((name, _)) = given.filter(|_| rule != FusionRule::SoftmaxQuality) {
            let detail = format!("the rule {rule} has no {name}; only softmax_quality has");
            return Err(Problem::with(Code::InvalidRequest, detail));
        }
        if robust && !rule.has_robust() {
            let detail = format!("the rule {rule} has no robust form; norm, mean and softmax_quality have");
            return Err(Problem::with(Code::InvalidRequest, detail));
        }
        let asked = FusionRequest { rule, tau, cap, robust };
        if asked.resolve(rule.into()).is_valid() {
            Ok(asked)
        } else {
            Err(Problem::with(Code::InvalidRequest, "tau is a number from 0.05 to 100, cap one from -10 to 10"))
        }
    }
}

/// With the parameters that the rule has: what a client reads can be sent back, also where a gallery was made before others
/// were refused.
impl From<Fusion> for FusionSpec {
    fn from(fusion: Fusion) -> Self {
        let rule = match fusion.rule {
            FusionRule::Norm => RuleName::Norm,
            FusionRule::SoftmaxQuality => RuleName::SoftmaxQuality,
            FusionRule::Mean => RuleName::Mean,
            FusionRule::Best => RuleName::Best,
            FusionRule::Caface => RuleName::Caface,
        };
        let (tau, cap) = if rule == RuleName::SoftmaxQuality { (Some(fusion.tau), fusion.cap) } else { (None, None) };
        Self { rule, tau, cap, robust: fusion.robust && fusion.rule.has_robust() }
    }
}

/// A rule and its parameters as query parameters give them.
pub(crate) fn fusion_params(
    rule: Option<RuleName>,
    tau: Option<f32>,
    robust: Option<bool>,
) -> Result<Option<FusionSpec>, Problem> {
    match (rule, tau, robust) {
        (Some(rule), tau, robust) => Ok(Some(FusionSpec { rule, tau, cap: None, robust: robust.unwrap_or(false) })),
        (None, None, None) => Ok(None),
        _ => Err(Problem::with(Code::InvalidParameter, "tau and robust go with fusion")),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Galleries could once be given parameters that their rule does not have. They are still read, and what is shown of
    /// them can be sent back.
    #[test]
    fn parameters_that_a_rule_lacks_are_not_shown() {
        let stored = Fusion { rule: FusionRule::Mean, tau: 0.7, cap: Some(1.0), robust: true };
        let shown = FusionSpec::from(stored);
        assert_eq!(shown, FusionSpec { rule: RuleName::Mean, tau: None, cap: None, robust: true });
        assert!(shown.checked().is_ok());
        let stored = Fusion { rule: FusionRule::SoftmaxQuality, ..stored };
        assert_eq!((FusionSpec::from(stored).tau, FusionSpec::from(stored).cap), (Some(0.7), Some(1.0)));
        assert!(!FusionSpec::from(Fusion { rule: FusionRule::Best, ..stored }).robust);
        let best = FusionSpec { rule: RuleName::Best, ..shown };
        for refused in [FusionSpec { tau: Some(1.0), ..shown }, FusionSpec { cap: Some(1.0), ..shown }, best] {
            assert_eq!(refused.checked().unwrap_err().code, Code::InvalidRequest);
        }
    }
}
