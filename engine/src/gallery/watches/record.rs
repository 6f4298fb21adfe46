//! What is kept of watches: their settings, their hits, how far delivery is.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::gallery::{Decision, Threshold};
use crate::ids::{FaceId, GalleryId, SubjectId, TrackId, WatchId};
use crate::store::Thresholds;

/// Which searches a watch looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchedSearches {
    /// All of its gallery.
    #[default]
    All,
    /// Those whose request names the watch.
    Named,
    /// None.
    None,
}

/// Which probes a watch looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchSources {
    /// Searches.
    pub searches: WatchedSearches,
    /// Tracks of the gallery's model, after each post of frames.
    pub tracks: bool,
    /// Tracks of videos of the gallery's model.
    pub video: bool,
    /// Faces enrolled into these galleries, when they are of the same model.
    pub enrolments: Vec<GalleryId>,
}

/// What deliveries are signed with. It does not print.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps a text as a secret.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for signing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// Where hits are delivered to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// An address of http or https.
    pub url: String,
    /// What deliveries are signed with.
    pub secret: Secret,
}

/// What can be set of a watch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WatchSettings {
    /// The watchlist.
    pub gallery: GalleryId,
    /// What the watch says of thresholds; what it leaves open follows gallery and server.
    #[serde(with = "thresholds")]
    pub thresholds: Thresholds,
    /// Which probes it looks at.
    pub sources: WatchSources,
    /// The least decision that is a hit: [`Decision::Review`] or [`Decision::Match`].
    pub min_decision: Decision,
    /// Where hits are delivered to, if anywhere.
    pub webhook: Option<Webhook>,
    /// Whether it looks and delivers at all.
    pub enabled: bool,
    /// Free text.
    pub label: Option<String>,
}

/// A standing search: whoever of its gallery is seen by one of its sources is a hit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// Assigned when it was made.
    pub id: WatchId,
    /// What was set.
    #[serde(flatten)]
    pub settings: WatchSettings,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its settings last changed.
    pub updated_at: Timestamp,
}

/// What a hit was found with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HitSource {
    /// A search.
    Search {
        /// Names it, as its answer does.
        search_id: Uuid,
    },
    /// A track that frames were added to.
    Track {
        /// Which.
        track: TrackId,
        /// Frames it had.
        frames: u64,
    },
    /// A track of a video.
    Video {
        /// The job that looked at the video.
        job: Uuid,
        /// Number of the track.
        video_track: u64,
        /// When its first frame was, in seconds.
        first_s: f64,
        /// When its last frame was.
        last_s: f64,
    },
    /// A face that was enrolled.
    Enrolment {
        /// Where.
        gallery: GalleryId,
        /// Whose.
        subject: SubjectId,
        /// Which.
        face: FaceId,
    },
}

/// A hit to keep.
#[derive(Debug, Clone, PartialEq)]
pub struct NewHit {
    /// What it was found with.
    pub source: HitSource,
    /// Where the subject is enrolled.
    pub gallery: GalleryId,
    /// Who was found.
    pub subject: SubjectId,
    /// In a gallery of events: the face that was found.
    pub face: Option<FaceId>,
    /// Cosine of probe and reference.
    pub score: f32,
    /// The rate the score stands for; `None` while nothing says.
    pub fpir: Option<f64>,
    /// What is said of it.
    pub decision: Decision,
    /// The threshold of a match in force.
    pub threshold: Threshold,
    /// The review threshold in force.
    pub review_threshold: Option<Threshold>,
    /// ‖Σx‖ / Σnorm of the probe, where it was fused of several faces.
    pub coherence: Option<f32>,
}

/// A hit that is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// The watch.
    pub watch: WatchId,
    /// Its number in the watch, from 1 and without a gap.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// See [`NewHit::source`].
    pub source: HitSource,
    /// See [`NewHit::gallery`].
    pub gallery: GalleryId,
    /// See [`NewHit::subject`].
    pub subject: SubjectId,
    /// See [`NewHit::face`].
    #[serde(default)]
    pub face: Option<FaceId>,
    /// See [`NewHit::score`].
    pub score: f32,
    /// See [`NewHit::fpir`].
    #[serde(default)]
    pub fpir: Option<f64>,
    /// See [`NewHit::decision`].
    pub decision: Decision,
    /// See [`NewHit::threshold`].
    pub threshold: Threshold,
    /// See [`NewHit::review_threshold`].
    #[serde(default)]
    pub review_threshold: Option<Threshold>,
    /// See [`NewHit::coherence`].
    #[serde(default)]
    pub coherence: Option<f32>,
}

impl NewHit {
    pub(super) fn numbered(self, watch: WatchId, number: u64, at: Timestamp) -> Hit {
        let Self { source, gallery, subject, face, score, fpir, decision, threshold, review_threshold, coherence } =
            self;
        Hit {
            watch,
            number,
            at,
            source,
            gallery,
            subject,
            face,
            score,
            fpir,
            decision,
            threshold,
            review_threshold,
            coherence,
        }
    }
}

/// Which hits of a watch are kept. Written with the hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    /// Number of the oldest hit that is kept; one above `last` when none is.
    pub(super) oldest: u64,
    /// Number of the last hit; 0 before the first.
    pub(super) last: u64,
    /// Hits that retention took before they were delivered.
    pub(super) dropped: u64,
}

impl Default for Head {
    fn default() -> Self {
        Self { oldest: 1, last: 0, dropped: 0 }
    }
}

/// How far delivery is. Written by whoever delivers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Delivered {
    /// Number of the last hit that was acknowledged.
    pub(super) up_to: u64,
}

/// Which hits of a watch are kept, and how far their delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Number of the oldest hit that is kept; one above `last` when none is.
    pub oldest: u64,
    /// Number of the last hit; 0 before the first.
    pub last: u64,
    /// Number of the last hit that was delivered, or that came before there was a webhook.
    pub delivered_up_to: u64,
    /// Hits that retention took before they were delivered.
    pub dropped: u64,
}

/// Thresholds as they are stored.
mod thresholds {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::store::{ThresholdSetting, Thresholds};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Setting {
        Score(f32),
        Fpir(f64),
    }

    #[derive(Serialize, Deserialize)]
    struct Pair {
        matching: Option<Setting>,
        review: Option<Setting>,
    }

    pub(super) fn serialize<S: Serializer>(of: &Thresholds, serializer: S) -> Result<S::Ok, S::Error> {
        let setting = |setting| match setting {
            ThresholdSetting::Score(score) => Setting::Score(score),
            ThresholdSetting::Fpir(fpir) => Setting::Fpir(fpir),
        };
        Pair { matching: of.matching.map(setting), review: of.review.map(setting) }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Thresholds, D::Error> {
        let setting = |setting| match setting {
            Setting::Score(score) => ThresholdSetting::Score(score),
            Setting::Fpir(fpir) => ThresholdSetting::Fpir(fpir),
        };
        let Pair { matching, review } = Pair::deserialize(deserializer)?;
        Ok(Thresholds { matching: matching.map(setting), review: review.map(setting) })
    }
}
