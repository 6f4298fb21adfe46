//! What can be set of a gallery.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use vultus_engine::gallery::GallerySettings;
use vultus_engine::ids::GalleryId;
use vultus_engine::store::{Gallery, GalleryKind, Guard, Guards};

use crate::api::decision::{ThresholdRequest, thresholds};
use crate::api::wire::{FusionPatch, FusionSpec, RuleName};
use crate::extract::object;
use crate::problem::{Code, Problem};

/// What a row of a gallery's index is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = GalleryKind)]
pub enum KindName {
    /// One template a subject, fused from all of the subject's faces.
    #[default]
    Consolidated,
    /// One row a face.
    Events,
}

impl From<KindName> for GalleryKind {
    fn from(kind: KindName) -> Self {
        match kind {
            KindName::Consolidated => Self::Consolidated,
            KindName::Events => Self::Events,
        }
    }
}

/// A check that faces pass before they are enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = Guard, example = json!({"score": 0.3}))]
pub struct GuardSpec {
    /// Whether the check is made.
    pub enabled: bool,
    /// The cosine it compares with, −1 to 1; null: one that follows from the model and the size of the gallery.
    #[schema(minimum = -1.0, maximum = 1.0)]
    pub score: Option<f32>,
}

impl Default for GuardSpec {
    fn default() -> Self {
        Self { enabled: true, score: None }
    }
}

impl GuardSpec {
    fn checked(self) -> Result<Guard, Problem> {
        if self.score.is_some_and(|score| !(-1.0..=1.0).contains(&score)) {
            return Err(Problem::with(Code::InvalidRequest, "the score of a guard is a number from -1 to 1"));
        }
        Ok(match self {
            Self { enabled: false, .. } => Guard::Off,
            Self { score: None, .. } => Guard::Auto,
            Self { score: Some(score), .. } => Guard::Score(score),
        })
    }
}

impl From<Guard> for GuardSpec {
    fn from(guard: Guard) -> Self {
        match guard {
            Guard::Auto => Self::default(),
            Guard::Off => Self { enabled: false, score: None },
            Guard::Score(score) => Self { enabled: true, score: Some(score) },
        }
    }
}

/// The checks that keep a gallery from being poisoned, beside `min_quality`. Each can be overridden in a request, which
/// is recorded with the face.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = Guards)]
pub struct GuardsSpec {
    /// A face that is less like its subject's other faces than this is refused (`wrong_person`).
    pub wrong_person: GuardSpec,
    /// A face that is at least as like another subject as this is refused (`duplicate_subject`).
    pub duplicate_subject: GuardSpec,
}

impl GuardsSpec {
    fn checked(self) -> Result<Guards, Problem> {
        Ok(Guards { wrong_person: self.wrong_person.checked()?, duplicate_subject: self.duplicate_subject.checked()? })
    }
}

impl From<Guards> for GuardsSpec {
    fn from(guards: Guards) -> Self {
        Self { wrong_person: guards.wrong_person.into(), duplicate_subject: guards.duplicate_subject.into() }
    }
}

/// Settings of a gallery that can be changed.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SettingsBody {
    #[serde(deserialize_with = "object::optional")]
    fusion: Option<FusionSpec>,
    #[serde(deserialize_with = "object::optional")]
    threshold: Option<ThresholdRequest>,
    #[serde(deserialize_with = "object::optional")]
    review_threshold: Option<ThresholdRequest>,
    guards: GuardsSpec,
    min_quality: Option<f32>,
    keep_crops: bool,
    label: Option<String>,
}

/// A JSON merge patch (RFC 7396) of a gallery's settings: what is left out stays, null resets. A threshold is replaced
/// as a whole, so that a rate can take the place of a score, and another fusion rule comes without the parameters of the
/// one before.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GalleryPatch)]
#[allow(dead_code, reason = "documents what a patch can hold; it is merged as JSON")]
pub struct PatchGallery {
    /// How templates are fused.
    fusion: Option<FusionPatch>,
    /// From where on a candidate is a match.
    threshold: Option<ThresholdRequest>,
    /// From where on a person should look at a candidate.
    review_threshold: Option<ThresholdRequest>,
    /// What enrolments are compared with.
    guards: Option<GuardsSpec>,
    /// Faces below this quality (0 to 1) are refused at enrolment.
    #[schema(minimum = 0.0, maximum = 1.0)]
    min_quality: Option<f32>,
    /// Keep aligned crops.
    keep_crops: Option<bool>,
    /// Free text for people, at most 1,000 characters.
    #[schema(max_length = 1000)]
    label: Option<String>,
}

/// A new gallery.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewGallery, example = json!({"id": "staff", "min_quality": 0.05}))]
pub struct CreateGallery {
    /// Chosen by you: 1 to 128 characters out of A-Z a-z 0-9 _ . : -
    #[schema(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$")]
    pub id: GalleryId,
    /// What is searched. Cannot be changed later.
    #[serde(default)]
    pub kind: KindName,
    /// Name or id of an installed model; the server's own where left out. Changed later by a migration.
    #[serde(default)]
    #[schema(max_length = 128, nullable = false)]
    pub model: Option<String>,
    /// How templates are fused; null follows the model.
    #[serde(default, deserialize_with = "object::optional")]
    pub fusion: Option<FusionSpec>,
    /// From where on a candidate is a match; null follows the server.
    #[serde(default, deserialize_with = "object::optional")]
    pub threshold: Option<ThresholdRequest>,
    /// From where on a person should look at a candidate; null follows the server.
    #[serde(default, deserialize_with = "object::optional")]
    pub review_threshold: Option<ThresholdRequest>,
    /// What enrolments are compared with.
    #[serde(default)]
    #[schema(required = false)]
    pub guards: GuardsSpec,
    /// Faces below this quality (0 to 1) are refused at enrolment; null accepts all.
    #[serde(default)]
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub min_quality: Option<f32>,
    /// Keep aligned crops, which a later change of model needs.
    #[serde(default)]
    pub keep_crops: bool,
    /// Free text for people, at most 1,000 characters.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub label: Option<String>,
}

/// A new gallery under the id of the path, or new settings of the one there.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = PutGallery)]
pub struct PutGallery {
    /// What is searched. Cannot be changed later; left out, as it is.
    #[schema(nullable = false)]
    pub kind: Option<KindName>,
    /// How templates are fused; null follows the model.
    #[serde(deserialize_with = "object::optional")]
    pub fusion: Option<FusionSpec>,
    /// From where on a candidate is a match; null follows the server.
    #[serde(deserialize_with = "object::optional")]
    pub threshold: Option<ThresholdRequest>,
    /// From where on a person should look at a candidate; null follows the server.
    #[serde(deserialize_with = "object::optional")]
    pub review_threshold: Option<ThresholdRequest>,
    /// What enrolments are compared with.
    pub guards: GuardsSpec,
    /// Faces below this quality (0 to 1) are refused at enrolment; null accepts all.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub min_quality: Option<f32>,
    /// Keep aligned crops, which a later change of model needs.
    pub keep_crops: bool,
    /// Free text for people, at most 1,000 characters.
    #[schema(max_length = 1000)]
    pub label: Option<String>,
}

impl SettingsBody {
    pub(super) fn checked(self) -> Result<GallerySettings, Problem> {
        if self.min_quality.is_some_and(|q| !(0.0..=1.0).contains(&q)) {
            return Err(Problem::with(Code::InvalidRequest, "min_quality is a number from 0 to 1"));
        }
        if self.label.as_ref().is_some_and(|label| label.chars().count() > 1000) {
            return Err(Problem::with(Code::InvalidRequest, "label has at most 1000 characters"));
        }
        Ok(GallerySettings {
            fusion: self.fusion.map(FusionSpec::checked).transpose()?,
            thresholds: thresholds(self.threshold, self.review_threshold)?,
            guards: self.guards.checked()?,
            min_quality: self.min_quality,
            keep_crops: self.keep_crops,
            label: self.label,
        })
    }

    pub(super) fn of(gallery: &Gallery) -> Self {
        Self {
            fusion: gallery.fusion.map(FusionSpec::from),
            threshold: gallery.thresholds.matching.map(ThresholdRequest::from),
            review_threshold: gallery.thresholds.review.map(ThresholdRequest::from),
            guards: gallery.guards.into(),
            min_quality: gallery.min_quality,
            keep_crops: gallery.keep_crops,
            label: gallery.label.clone(),
        }
    }

    /// Without what a patch replaces as a whole.
    pub(super) fn before_patch(mut self, patch: &Map<String, Value>) -> Self {
        for (name, threshold) in [("threshold", &mut self.threshold), ("review_threshold", &mut self.review_threshold)]
        {
            if patch.contains_key(name) {
                *threshold = None;
            }
        }
        let rule = patch.get("fusion").and_then(|fusion| fusion.get("rule"));
        if let (Some(fusion), Some(rule)) = (&mut self.fusion, rule)
            && serde_json::to_value(fusion.rule).ok().as_ref() != Some(rule)
        {
            (fusion.tau, fusion.cap) = (None, None);
            let rule = serde_json::from_value::<RuleName>(rule.clone());
            fusion.robust &= !matches!(rule, Ok(RuleName::Best | RuleName::Caface));
        }
        self
    }
}

impl CreateGallery {
    /// Id, kind, model and settings.
    pub(super) fn parts(self) -> (GalleryId, KindName, Option<String>, SettingsBody) {
        let Self { id, kind, model, fusion, threshold, review_threshold, guards, min_quality, keep_crops, label } =
            self;
        let settings = SettingsBody { fusion, threshold, review_threshold, guards, min_quality, keep_crops, label };
        (id, kind, model, settings)
    }
}

impl From<PutGallery> for (Option<KindName>, SettingsBody) {
    fn from(body: PutGallery) -> Self {
        let PutGallery { kind, fusion, threshold, review_threshold, guards, min_quality, keep_crops, label } = body;
        (kind, SettingsBody { fusion, threshold, review_threshold, guards, min_quality, keep_crops, label })
    }
}
