//! What goes wrong, as `application/problem+json` (RFC 9457).
//!
//! [`Code`] is the whole list of problems the server can answer with. A code is stable: clients branch on it, the
//! OpenAPI document lists it at every operation that can give it. Internal causes are logged once where the problem is
//! made and never sent.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! codes {
    ($($name:ident $text:literal $status:ident $title:literal)*) => {
        /// Names a kind of problem.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as it stands in answers.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The status it is sent with.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// What it means, for people.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    MalformedBody "malformed_body" BAD_REQUEST "The request body cannot be read."
    InvalidParameter "invalid_parameter" BAD_REQUEST "A path, query or header parameter is not valid."
    Unauthorized "unauthorized" UNAUTHORIZED "The request carries no valid key."
    RouteNotFound "route_not_found" NOT_FOUND "There is no such resource."
    GalleryNotFound "gallery_not_found" NOT_FOUND "There is no such gallery."
    SubjectNotFound "subject_not_found" NOT_FOUND "There is no such subject in the gallery."
    FaceNotFound "face_not_found" NOT_FOUND "There is no such face of the subject."
    ModelNotFound "model_not_found" NOT_FOUND "There is no such model."
    CropNotFound "crop_not_found" NOT_FOUND "No crop is kept of this face."
    RegroupingNotFound "regrouping_not_found" NOT_FOUND "There is no such merge, split or move in the gallery."
    ReviewNotFound "review_not_found" NOT_FOUND "There is no such review of the gallery."
    MigrationNotFound "migration_not_found" NOT_FOUND "There is no such migration of the gallery."
    TemplateNotFound "template_not_found" NOT_FOUND "There is no such probe template, or it has expired."
    TrackNotFound "track_not_found" NOT_FOUND "There is no such track, or it has expired."
    FrameNotFound "frame_not_found" NOT_FOUND "There is no such frame of the track."
    JobNotFound "job_not_found" NOT_FOUND "There is no such job, or it ended long ago."
    WatchNotFound "watch_not_found" NOT_FOUND "There is no such watch."
    ReportNotFound "report_not_found" NOT_FOUND "No such report of the gallery was made, or it was made long ago."
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "The resource does not have this method."
    RequestTimeout "request_timeout" REQUEST_TIMEOUT "The request was not done in time."
    GalleryExists "gallery_exists" CONFLICT "A gallery of this id exists already."
    SubjectExists "subject_exists" CONFLICT "A subject of this id exists already."
    MigrationUnderWay "migration_under_way" CONFLICT "The gallery is in the middle of a migration."
    MigrationStage "migration_stage" CONFLICT "The migration is not at a stage at which this can be done."
    MigrationIncomplete "migration_incomplete" CONFLICT "Faces of the gallery have no feature of the other model."
    ModelMismatch "model_mismatch" CONFLICT "The embeddings are of different models and cannot be compared."
    ConsentMissing "consent_missing" CONFLICT "The subject may not be matched or enrolled."
    KeptApart "kept_apart" CONFLICT "The subjects are known to be two people."
    AlreadyUndone "already_undone" CONFLICT "It was undone already."
    CalibrationImpossible "calibration_impossible" CONFLICT "The gallery has too few subjects to be calibrated."
    CalibrationMissing "calibration_missing" CONFLICT "The gallery is not calibrated, so a rate cannot be turned into a score."
    TrackExists "track_exists" CONFLICT "A track of this id exists already."
    TrackFull "track_full" CONFLICT "The track cannot hold so many frames."
    JobEnded "job_ended" CONFLICT "The job has ended already."
    JobInterrupted "job_interrupted" SERVICE_UNAVAILABLE "The server stopped before the job had ended."
    ResultTooLarge "result_too_large" PAYLOAD_TOO_LARGE "The result takes more room than is kept for those of all jobs."
    IdempotencyInProgress "idempotency_in_progress" CONFLICT "A request with this Idempotency-Key is still being served."
    RevisionMismatch "revision_mismatch" PRECONDITION_FAILED "The resource has changed since it was read."
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE "The request body is too large."
    TooManyImages "too_many_images" PAYLOAD_TOO_LARGE "The request holds too many images."
    ImageTooLarge "image_too_large" PAYLOAD_TOO_LARGE "The image has too many bytes or pixels."
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE "The request body is of a media type this operation does not take."
    UnsupportedVideo "unsupported_video" UNSUPPORTED_MEDIA_TYPE "The file is no video that is read."
    UnsupportedImage "unsupported_image" UNSUPPORTED_MEDIA_TYPE "The image is of a format or kind that is not read."
    InvalidRequest "invalid_request" UNPROCESSABLE_ENTITY "The request is well-formed but asks for something that is not valid."
    UnknownModel "unknown_model" UNPROCESSABLE_ENTITY "No model of this name or id can be used."
    EmptyImage "empty_image" UNPROCESSABLE_ENTITY "The image has no bytes."
    NotAnImage "not_an_image" UNSUPPORTED_MEDIA_TYPE "The bytes are not an image."
    TruncatedImage "truncated_image" UNPROCESSABLE_ENTITY "The image is cut short."
    CorruptImage "corrupt_image" UNPROCESSABLE_ENTITY "The image is damaged."
    FfmpegMissing "ffmpeg_missing" UNPROCESSABLE_ENTITY "The server has no ffmpeg to decode videos with; install the package ffmpeg."
    UnreadableVideo "unreadable_video" UNPROCESSABLE_ENTITY "The video cannot be decoded."
    NoFace "no_face" UNPROCESSABLE_ENTITY "There is no face in the image."
    SeveralFaces "several_faces" UNPROCESSABLE_ENTITY "There are several faces in the image and none was chosen."
    QualityTooLow "quality_too_low" UNPROCESSABLE_ENTITY "The face's quality is below what is required."
    WebhookRefused "webhook_refused" UNPROCESSABLE_ENTITY "The server posts to no such address."
    WrongPerson "wrong_person" UNPROCESSABLE_ENTITY "The face is not like the subject's other faces."
    DuplicateSubject "duplicate_subject" UNPROCESSABLE_ENTITY "The face is like another subject."
    FaceUnusable "face_unusable" UNPROCESSABLE_ENTITY "The face cannot be aligned or embedded."
    SubjectHasNoFaces "subject_has_no_faces" UNPROCESSABLE_ENTITY "The subject has no faces to compare with."
    FacesContradict "faces_contradict" UNPROCESSABLE_ENTITY "The faces cancel each other out and give no template."
    IdempotencyKeyReused "idempotency_key_reused" UNPROCESSABLE_ENTITY "The Idempotency-Key was used with another request."
    QueueFull "queue_full" TOO_MANY_REQUESTS "The inference queue is full; try again shortly."
    ProbesFull "probes_full" TOO_MANY_REQUESTS "Probe templates and tracks take all the room they may; delete some or wait until some expire."
    JobsFull "jobs_full" TOO_MANY_REQUESTS "Too many jobs run and wait; try again later."
    WatchesFull "watches_full" TOO_MANY_REQUESTS "There are as many watches as may be; delete some."
    StreamsFull "streams_full" TOO_MANY_REQUESTS "Too many event streams are held; try again later."
    Internal "internal" INTERNAL_SERVER_ERROR "The server failed; the cause is in its log."
    StorageUnavailable "storage_unavailable" SERVICE_UNAVAILABLE "The data directory cannot be written or read."
    NotReady "not_ready" SERVICE_UNAVAILABLE "The server is starting, stopping or broken."
}

/// Seconds a client is asked to wait when there is no room and nothing says when there will be.
const RETRY_AFTER_S: u64 = 1;

/// The media type of problems.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// A face named in a problem.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ProblemFace {
    /// Left, top, right, bottom in pixels of the upright photo.
    #[serde(rename = "box")]
    #[schema(min_items = 4, max_items = 4)]
    pub bbox: [f32; 4],
    /// The detector's score, 0 to 1.
    pub score: f32,
}

/// A problem (RFC 9457). Members that say nothing are left out.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "urn:vultus:problem:no_face", "title": "There is no face in the image.", "status": 422,
    "code": "no_face", "detail": "no face was found in the image"
}))]
pub struct Problem {
    /// `urn:vultus:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the code means.
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// Names the kind of problem; stable.
    pub code: Code,
    /// What happened this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub detail: Option<String>,
    /// Which image of the request, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub image: Option<usize>,
    /// With `several_faces`: the faces found, best first. Where each face of a photo is enrolled by itself: the one that
    /// the problem is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faces: Vec<ProblemFace>,
    /// With `quality_too_low`, `wrong_person` and `duplicate_subject`: what the face has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub value: Option<f64>,
    /// With these: what is required. With limits: the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub required: Option<f64>,
    /// With `wrong_person` and `duplicate_subject`: the other subject that the face is like.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub subject: Option<String>,
    /// With `model_mismatch`: the model id that is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub expected_model_id: Option<String>,
    /// Seconds after which a refused request may find room, where that is known. Sent as a header.
    #[serde(skip)]
    #[schema(ignore)]
    pub retry_after_s: Option<u64>,
}

impl Problem {
    /// A problem of the given kind without detail.
    pub fn new(code: Code) -> Self {
        Self {
            kind: format!("urn:vultus:problem:{}", code.text()),
            title: code.title().to_owned(),
            status: code.status().as_u16(),
            code,
            detail: None,
            image: None,
            faces: Vec::new(),
            value: None,
            required: None,
            subject: None,
            expected_model_id: None,
            retry_after_s: None,
        }
    }

    /// A problem with a sentence about this occurrence.
    pub fn with(code: Code, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..Self::new(code) }
    }

    /// Logs the cause and hides it.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "internal failure");
        Self::new(Code::Internal)
    }

    /// Names the image of the request the problem is about.
    pub fn at_image(mut self, index: usize) -> Self {
        self.image = Some(index);
        self
    }
}

/// A number in single precision as its own digits say it, where a widened one would show those of its error.
pub(crate) fn as_written(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.detail {
            Some(detail) => write!(f, "{}: {detail}", self.code.text()),
            None => write!(f, "{}: {}", self.code.text(), self.title),
        }
    }
}

impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.code.status();
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        if status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = self.retry_after_s.unwrap_or(RETRY_AFTER_S);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == Code::Unauthorized {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_json_is_the_text() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.text());
            assert!(code.status().is_client_error() || code.status().is_server_error());
        }
    }

    #[test]
    fn single_precision_shows_its_own_digits() {
        for (value, text) in [(0.2589_f32, "0.2589"), (0.3, "0.3"), (-0.123_456_79, "-0.12345679"), (1e-7, "1e-7")] {
            assert_eq!(serde_json::to_string(&as_written(value)).unwrap(), text);
            assert_eq!(as_written(value) as f32, value);
        }
    }

    #[test]
    fn empty_members_are_left_out() {
        let json = serde_json::to_value(Problem::with(Code::NoFace, "none")).unwrap();
        let members: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["code", "detail", "status", "title", "type"]);
    }
}
