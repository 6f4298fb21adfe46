//! What can be set of a watch.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use vultus_engine::gallery::{Decision, Secret, Watch, WatchSettings, WatchSources, WatchedSearches, Webhook};
use vultus_engine::ids::GalleryId;

use crate::api::decision::{ThresholdRequest, thresholds};
use crate::extract::object;
use crate::problem::{Code, Problem};
use crate::watches::Watches;

/// Most characters of a label.
const MAX_LABEL: usize = 1000;
/// Most galleries whose enrolments are looked at.
const MAX_ENROLMENTS: usize = 64;
/// Characters of a secret.
const SECRET_CHARS: std::ops::RangeInclusive<usize> = 16..=256;
/// Random bytes of a secret that is made here.
const SECRET_BYTES: usize = 32;

/// Which searches a watch looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = WatchedSearches)]
pub enum SearchesName {
    /// All of its gallery.
    #[default]
    All,
    /// Those whose request names the watch.
    Named,
    /// None.
    None,
}

/// Which probes a watch looks at.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = WatchSources, example = json!({"searches": "all", "tracks": true, "video": true, "enrolments": ["door"]}))]
pub struct SourcesSpec {
    /// Searches of its gallery.
    pub searches: SearchesName,
    /// Tracks of the gallery's model: each time frames are added, and one hit for each subject, or two where a review
    /// becomes a match.
    pub tracks: bool,
    /// Tracks of videos of the gallery's model.
    pub video: bool,
    /// Faces enrolled into these galleries, such as the events of a camera; of the same model.
    #[schema(value_type = Vec<String>, max_items = 64)]
    pub enrolments: Vec<GalleryId>,
}

impl Default for SourcesSpec {
    fn default() -> Self {
        Self { searches: SearchesName::All, tracks: true, video: true, enrolments: Vec::new() }
    }
}

impl From<&WatchSources> for SourcesSpec {
    fn from(sources: &WatchSources) -> Self {
        Self {
            searches: match sources.searches {
                WatchedSearches::All => SearchesName::All,
                WatchedSearches::Named => SearchesName::Named,
                WatchedSearches::None => SearchesName::None,
            },
            tracks: sources.tracks,
            video: sources.video,
            enrolments: sources.enrolments.clone(),
        }
    }
}

impl SourcesSpec {
    fn checked(mut self) -> Result<WatchSources, Problem> {
        self.enrolments.sort();
        self.enrolments.dedup();
        if self.enrolments.len() > MAX_ENROLMENTS {
            let detail = format!("enrolments names at most {MAX_ENROLMENTS} galleries");
            return Err(Problem::with(Code::InvalidRequest, detail));
        }
        Ok(WatchSources {
            searches: match self.searches {
                SearchesName::All => WatchedSearches::All,
                SearchesName::Named => WatchedSearches::Named,
                SearchesName::None => WatchedSearches::None,
            },
            tracks: self.tracks,
            video: self.video,
            enrolments: self.enrolments,
        })
    }
}

/// The least decision that is a hit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = HitDecision)]
pub enum LeastName {
    /// The score reaches the threshold.
    #[default]
    Match,
    /// It reaches the review threshold at least.
    Review,
}

impl LeastName {
    pub(super) fn of(decision: Decision) -> Self {
        if decision == Decision::Match { Self::Match } else { Self::Review }
    }
}

/// Where hits are posted to.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookSettings, example = json!({"url": "https://alerts.example.com/vultus"}))]
pub struct WebhookBody {
    /// An address of http or https, without credentials.
    #[schema(max_length = 2000)]
    pub url: String,
    /// What deliveries are signed with, 16 to 256 characters. Left out, the one that is there stays; where there is none,
    /// one is made and shown in this answer alone.
    #[serde(default, skip_serializing)]
    #[schema(value_type = Option<String>, min_length = 16, max_length = 256, write_only, nullable = false)]
    pub secret: Option<SecretString>,
}

/// A new watch.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewWatch, example = json!({
    "gallery": "wanted", "threshold": {"fpir": 0.001}, "webhook": {"url": "https://alerts.example.com/vultus"}
}))]
pub struct CreateWatch {
    /// The watchlist: whoever is enrolled there and seen is a hit.
    #[schema(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$")]
    pub gallery: GalleryId,
    /// From where on a candidate is a match; null follows the gallery.
    #[serde(default, deserialize_with = "object::optional")]
    pub threshold: Option<ThresholdRequest>,
    /// From where on a person should look at a candidate; null follows the gallery.
    #[serde(default, deserialize_with = "object::optional")]
    pub review_threshold: Option<ThresholdRequest>,
    /// Which probes it looks at.
    #[serde(default)]
    #[schema(required = false)]
    pub sources: SourcesSpec,
    /// The least decision that is a hit.
    #[serde(default)]
    #[schema(required = false)]
    pub min_decision: LeastName,
    /// Where hits are posted to; null: nowhere.
    #[serde(default, deserialize_with = "object::optional")]
    pub webhook: Option<WebhookBody>,
    /// Whether it looks and delivers at all.
    #[serde(default = "yes")]
    #[schema(required = false)]
    pub enabled: bool,
    /// Free text for people, at most 1,000 characters.
    #[serde(default)]
    #[schema(max_length = 1000)]
    pub label: Option<String>,
}

fn yes() -> bool {
    true
}

/// A JSON merge patch (RFC 7396) of a watch: what is left out stays, null resets. A threshold is replaced as a whole.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WatchPatch)]
#[allow(dead_code, reason = "documents what a patch can hold; it is merged as JSON")]
pub struct PatchWatch {
    /// The watchlist.
    #[schema(pattern = "^[A-Za-z0-9_.:-]{1,128}$", nullable = false)]
    gallery: Option<String>,
    /// From where on a candidate is a match.
    threshold: Option<ThresholdRequest>,
    /// From where on a person should look at a candidate.
    review_threshold: Option<ThresholdRequest>,
    /// Which probes it looks at.
    sources: Option<SourcesSpec>,
    /// The least decision that is a hit.
    min_decision: Option<LeastName>,
    /// Where hits are posted to.
    webhook: Option<WebhookPatch>,
    /// Whether it looks and delivers at all.
    enabled: Option<bool>,
    /// Free text for people, at most 1,000 characters.
    #[schema(max_length = 1000)]
    label: Option<String>,
}

/// A JSON merge patch of a webhook.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "documents what a patch can hold; it is merged as JSON")]
pub struct WebhookPatch {
    /// An address of http or https. Needed where there is no webhook yet.
    #[schema(max_length = 2000, nullable = false)]
    url: Option<String>,
    /// What deliveries are signed with, 16 to 256 characters.
    #[schema(min_length = 16, max_length = 256, write_only, nullable = false)]
    secret: Option<String>,
}

/// Settings that were checked, and the secret if it was made here.
pub(super) type Checked = (WatchSettings, Option<Secret>);

impl CreateWatch {
    pub(super) fn checked(self, watches: &Watches, there: Option<&Watch>) -> Result<Checked, Problem> {
        let bad = |detail: &str| Problem::with(Code::InvalidRequest, detail);
        if self.label.as_ref().is_some_and(|label| label.chars().count() > MAX_LABEL) {
            return Err(bad("label has at most 1000 characters"));
        }
        let mut made = None;
        let own = there.and_then(|watch| watch.settings.webhook.as_ref());
        let webhook = match self.webhook {
            None => None,
            Some(WebhookBody { url, secret }) => {
                // One that is there stays as it is, whatever the server's settings say by now.
                if own.is_none_or(|own| own.url != url) {
                    watches.check_url(&url)?;
                }
                let secret = match (secret, own) {
                    (Some(secret), _) => given(&secret)
                        .ok_or_else(|| bad("a secret has 16 to 256 characters, none of them control characters"))?,
                    (None, Some(own)) => own.secret.clone(),
                    (None, None) => made.insert(generate()?).clone(),
                };
                Some(Webhook { url, secret })
            }
        };
        let settings = WatchSettings {
            gallery: self.gallery,
            thresholds: thresholds(self.threshold, self.review_threshold)?,
            sources: self.sources.checked()?,
            min_decision: match self.min_decision {
                LeastName::Match => Decision::Match,
                LeastName::Review => Decision::Review,
            },
            webhook,
            enabled: self.enabled,
            label: self.label,
        };
        Ok((settings, made))
    }

    /// What is set of a watch, but for its secret and for what a patch replaces as a whole.
    pub(super) fn before_patch(watch: &Watch, patch: &Map<String, Value>) -> Self {
        let WatchSettings { gallery, thresholds, sources, min_decision, webhook, enabled, label } =
            watch.settings.clone();
        let kept =
            |name: &str, setting: Option<_>| setting.filter(|_| !patch.contains_key(name)).map(ThresholdRequest::from);
        Self {
            gallery,
            threshold: kept("threshold", thresholds.matching),
            review_threshold: kept("review_threshold", thresholds.review),
            sources: (&sources).into(),
            min_decision: LeastName::of(min_decision),
            webhook: webhook.map(|webhook| WebhookBody { url: webhook.url, secret: None }),
            enabled,
            label,
        }
    }
}

fn given(secret: &SecretString) -> Option<Secret> {
    let text = secret.expose_secret();
    let valid = SECRET_CHARS.contains(&text.chars().count()) && !text.chars().any(char::is_control);
    valid.then(|| Secret::new(text.to_owned()))
}

/// A secret of the operating system's random numbers.
fn generate() -> Result<Secret, Problem> {
    use base64::Engine;
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(Problem::internal)?;
    Ok(Secret::new(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)))
}
