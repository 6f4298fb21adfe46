//! A hit as it is sent: in lists, event streams and to webhooks alike.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;
use vultus_engine::gallery::{Hit, HitSource};

use crate::api::decision::{DecisionName, ThresholdInForce};

/// What kind of probe a hit was found with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = HitKind)]
pub enum HitKind {
    /// A search.
    Search,
    /// A track that frames were added to.
    Track,
    /// A track of a video.
    Video,
    /// A face that was enrolled.
    Enrolment,
}

/// What a hit was found with. Members that do not go with the kind are left out.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = HitSource, example = json!({"kind": "track", "track": "door-17", "frames": 12}))]
pub struct HitSourceView {
    /// The kind of probe.
    pub kind: HitKind,
    /// Of a search: its id, as its answer has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub search_id: Option<Uuid>,
    /// Of a track: its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub track: Option<String>,
    /// Of a track: the frames it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub frames: Option<u64>,
    /// Of a video: the job that looked at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub job: Option<Uuid>,
    /// Of a video: the number of the track in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub video_track: Option<u64>,
    /// Of a video: when the track's first frame was, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub first_s: Option<f64>,
    /// Of a video: when the track's last frame was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last_s: Option<f64>,
    /// Of an enrolment: the gallery the face was enrolled into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub gallery: Option<String>,
    /// Of an enrolment: the subject it was enrolled of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub subject: Option<String>,
    /// Of an enrolment: the face.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub face: Option<Uuid>,
}

impl From<&HitSource> for HitSourceView {
    fn from(source: &HitSource) -> Self {
        let of = |kind| Self {
            kind,
            search_id: None,
            track: None,
            frames: None,
            job: None,
            video_track: None,
            first_s: None,
            last_s: None,
            gallery: None,
            subject: None,
            face: None,
        };
        match source {
            HitSource::Search { search_id } => Self { search_id: Some(*search_id), ..of(HitKind::Search) },
            HitSource::Track { track, frames } => {
                Self { track: Some(track.to_string()), frames: Some(*frames), ..of(HitKind::Track) }
            }
            HitSource::Video { job, video_track, first_s, last_s } => Self {
                job: Some(*job),
                video_track: Some(*video_track),
                first_s: Some(*first_s),
                last_s: Some(*last_s),
                ..of(HitKind::Video)
            },
            HitSource::Enrolment { gallery, subject, face } => Self {
                gallery: Some(gallery.to_string()),
                subject: Some(subject.to_string()),
                face: Some(face.0),
                ..of(HitKind::Enrolment)
            },
        }
    }
}

/// A hit of a watch.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Hit)]
pub struct HitView {
    /// The watch.
    pub watch: Uuid,
    /// Its number in the watch, from 1 and without a gap.
    pub number: u64,
    /// When it was found.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
    /// What it was found with.
    pub source: HitSourceView,
    /// Where the subject is enrolled: the watchlist.
    pub gallery: String,
    /// Who was found. The subject may be gone since.
    pub subject: String,
    /// In a gallery of events: the face that was found; null otherwise.
    #[schema(required = true)]
    pub face: Option<Uuid>,
    /// Cosine of probe and reference, −1 to 1.
    pub score: f32,
    /// The false positive identification rate the score stands for; null while the gallery is not calibrated.
    #[schema(required = true)]
    pub fpir: Option<f64>,
    /// What is said of it: `match` or `review`.
    pub decision: DecisionName,
    /// The threshold of a match that was in force.
    pub threshold: ThresholdInForce,
    /// The review threshold that was in force; null when nothing set one.
    #[schema(required = true)]
    pub review_threshold: Option<ThresholdInForce>,
    /// ‖Σx‖ / Σnorm of the probe's faces: low means that they are of several people. Null for an enrolled face.
    #[schema(required = true)]
    pub coherence: Option<f32>,
}

impl From<&Hit> for HitView {
    fn from(hit: &Hit) -> Self {
        Self {
            watch: hit.watch.0,
            number: hit.number,
            at: hit.at,
            source: (&hit.source).into(),
            gallery: hit.gallery.to_string(),
            subject: hit.subject.to_string(),
            face: hit.face.map(|face| face.0),
            score: hit.score,
            fpir: hit.fpir,
            decision: hit.decision.into(),
            threshold: hit.threshold.into(),
            review_threshold: hit.review_threshold.map(ThresholdInForce::from),
            coherence: hit.coherence,
        }
    }
}
