//! `/v1/probes/video`: who is in this video?
//!
//! The video is looked at by a job. Each face that is followed through it becomes a track with one template, which is
//! searched like any other probe. Nothing of the video is kept but what the result holds.

use axum::extract::multipart::MultipartError;
use axum::extract::{FromRequest, FromRequestParts, Multipart, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;
use vultus_engine::template::Template;

use super::decision::{DecisionName, ThresholdInForce};
use super::jobs::accepted;
use super::search::{CandidateView, GallerySearched, ModeName, SearchBody, SearchParams, answer_view};
use super::wire::{DetectorName, FaceFound, FusionSpec, RuleName};
use crate::app::App;
use crate::config::FPS_RANGE;
use crate::extract::submission::Body as _;
use crate::extract::{Path, Query, media_type};
use crate::jobs::{About, JobView, Run};
use crate::middleware::idempotency::claim;
use crate::problem::{Code, Problem};
use crate::service::search::{Probe, Searched, common_model};
use crate::service::timing::TimingsMs;
use crate::service::tracks::bind;
use crate::service::video::{FoundTrack, FoundVideo, Video, VideoOptions, examine, ffmpeg};
use crate::video::{Container, Upload};

/// Where videos are sent to.
pub const VIDEO_PATH: &str = "/v1/probes/video";
/// Name of the jobs.
const KIND: &str = "video";
/// Most galleries of a search.
const MAX_GALLERIES: usize = 16;
/// Fewest frames of a track where the request does not say.
const MIN_FRAMES: u32 = 3;
/// Most crops of a track.
const MAX_CROPS: u32 = 10;
/// Most bytes of all text parts of a form.
const MAX_TEXT_BYTES: usize = 16 << 10;

/// Options of a video as query parameters or form parts.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct VideoParams {
    /// The galleries that each track is searched in, separated by commas; none where left out.
    #[param(max_length = 2100, nullable = false)]
    pub galleries: Option<String>,
    /// Without galleries: name or id of a model; the server's own where left out.
    #[param(max_length = 128, nullable = false)]
    pub model: Option<String>,
    /// Frames a second that are looked at; 5 where left out.
    #[param(minimum = 0.1, maximum = 60.0, nullable = false)]
    pub fps: Option<f64>,
    /// Nothing after this is looked at, in seconds.
    #[param(exclusive_minimum = 0.0, nullable = false)]
    pub max_seconds: Option<f64>,
    /// Tracks with fewer frames are left out; 3 where left out.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    pub min_frames: Option<u32>,
    /// Crops kept of each track, best first; none where left out.
    #[param(minimum = 0, maximum = 10, nullable = false)]
    pub keep_crops: Option<u32>,
    /// Most candidates of a track; 10 where left out.
    #[param(minimum = 1, maximum = 1000, nullable = false)]
    pub limit: Option<u32>,
    /// Score (−1 to 1) from which a candidate is a match; the gallery's, else the server's where left out.
    #[param(minimum = -1.0, maximum = 1.0, nullable = false)]
    pub threshold: Option<f32>,
    /// The rate of false positives to keep, in place of `threshold`.
    #[param(exclusive_minimum = 0.0, exclusive_maximum = 1.0, nullable = false)]
    pub fpir: Option<f64>,
    /// Score from which a person should look at a candidate; the gallery's where left out.
    #[param(minimum = -1.0, maximum = 1.0, nullable = false)]
    pub review_threshold: Option<f32>,
    /// The rate that stands for the review threshold, in its place.
    #[param(exclusive_minimum = 0.0, exclusive_maximum = 1.0, nullable = false)]
    pub review_fpir: Option<f64>,
    /// Fusion rule of each track; the model's where left out.
    #[param(nullable = false)]
    pub fusion: Option<RuleName>,
    /// τ of `softmax_quality`.
    #[param(minimum = 0.05, maximum = 100.0, nullable = false)]
    pub tau: Option<f32>,
    /// Damp faces that disagree with the rest.
    #[param(nullable = false)]
    pub robust: Option<bool>,
    /// `auto` where left out.
    #[param(nullable = false)]
    pub mode: Option<ModeName>,
    /// Who looks for faces; the server's choice where left out.
    #[param(nullable = false)]
    pub detector: Option<DetectorName>,
}

/// A video in a form; the options of the query can be text parts.
#[derive(ToSchema)]
#[allow(dead_code, reason = "documents the form that is read")]
pub struct VideoForm {
    /// The file (MP4/MOV, Matroska/WebM, AVI, MPEG, FLV, Ogg or ASF).
    #[schema(value_type = String, format = Binary)]
    video: Vec<u8>,
}

/// The best frame of a track.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BestFrame {
    /// When it was, in seconds.
    pub at_s: f64,
    /// Where the face was.
    #[serde(flatten)]
    pub face: FaceFound,
}

/// A person seen in a video.
#[derive(Serialize, Deserialize)]
pub struct VideoTrack {
    /// Its number in the video, from 0, in the order the tracks began.
    pub track: usize,
    /// When the first frame with the face was, in seconds.
    pub first_s: f64,
    /// When the last one was.
    pub last_s: f64,
    /// Frames with the face.
    pub frames: usize,
    /// ‖Σx‖ / Σnorm of its frames: low means that they are of several people.
    pub coherence: f32,
    /// Quality of the best frame, 0 to 1.
    pub quality: f32,
    /// The best frame.
    pub best: BestFrame,
    /// The decision on the best candidate; null where no gallery was searched.
    pub decision: Option<DecisionName>,
    /// The threshold in force; null when the galleries have different ones, or there is none.
    pub threshold: Option<ThresholdInForce>,
    /// The review threshold in force; null when nothing sets one, or the galleries have different ones.
    pub review_threshold: Option<ThresholdInForce>,
    /// Best first.
    pub candidates: Vec<CandidateView>,
    /// The galleries searched.
    pub galleries: Vec<GallerySearched>,
    /// Where the best crops are to be had, best first.
    pub crops: Vec<String>,
    /// How long its searches took, in milliseconds.
    pub search_ms: f64,
}

/// What a job found in a video.
#[derive(Serialize, Deserialize)]
pub struct VideoResult {
    /// The model of the templates.
    pub model_id: String,
    /// How frames were fused.
    pub fusion: FusionSpec,
    /// Frames a second that were looked at.
    pub fps: f64,
    /// Frames that were looked at.
    pub frames: u64,
    /// Faces in them.
    pub faces: u64,
    /// When the last of them was, in seconds.
    pub seconds: f64,
    /// The people seen.
    pub tracks: Vec<VideoTrack>,
    /// Tracks with too few frames, or beyond the number that is kept.
    pub left_out: usize,
    /// Milliseconds by stage, summed over the frames.
    pub timings_ms: TimingsMs,
}

/// A crop in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct CropPath {
    /// Job id.
    pub job: Uuid,
    /// Number of the track.
    pub track: u32,
    /// Number of the crop, from 0, best first.
    pub crop: u32,
}

impl VideoParams {
    /// The options of the search, read as those of a search are.
    fn search(&self) -> Result<SearchBody, Problem> {
        let mut search = SearchBody::default();
        search.fill(SearchParams {
            limit: self.limit,
            threshold: self.threshold,
            fusion: self.fusion,
            tau: self.tau,
            robust: self.robust,
            fpir: self.fpir,
            review_threshold: self.review_threshold,
            review_fpir: self.review_fpir,
            mode: self.mode,
            detector: self.detector,
            galleries: self.galleries.clone(),
            ..SearchParams::default()
        })?;
        Ok(search)
    }

    fn options(&self, app: &App) -> Result<VideoOptions, Problem> {
        let bad = |text: String| Err(Problem::with(Code::InvalidRequest, text));
        let (search, settings) = (self.search()?, &app.config.video);
        let mut galleries = search.galleries.clone().unwrap_or_default();
        galleries.sort();
        galleries.dedup();
        if galleries.len() > MAX_GALLERIES {
            return bad(format!("galleries names at most {MAX_GALLERIES} galleries"));
        }
        let fps = self.fps.unwrap_or(settings.fps);
        if !FPS_RANGE.contains(&fps) {
            return bad("fps is a number from 0.1 to 60".to_owned());
        }
        let max_seconds = self.max_seconds.unwrap_or(settings.max_seconds);
        if !(max_seconds.is_finite() && max_seconds > 0.0) {
            return bad("max_seconds is a positive number".to_owned());
        }
        let (min_frames, keep_crops) = (self.min_frames.unwrap_or(MIN_FRAMES), self.keep_crops.unwrap_or(0));
        if !(1..=1000).contains(&min_frames) {
            return bad("min_frames is a number from 1 to 1000".to_owned());
        }
        if keep_crops > MAX_CROPS {
            return bad(format!("keep_crops is a number from 0 to {MAX_CROPS}"));
        }
        Ok(VideoOptions {
            fps,
            // A request can ask for less than the server allows, never for more.
            max_seconds: max_seconds.min(settings.max_seconds),
            galleries,
            query: search.query()?,
            fusion: search.fusion.map(FusionSpec::checked).transpose()?,
            detector: search.detector.map(Into::into),
            min_frames: min_frames as usize,
            keep_crops: keep_crops as usize,
        })
    }
}

/// A video as it came in.
struct Received {
    file: NamedTempFile,
    container: Container,
    params: VideoParams,
    /// What makes two requests the same.
    hash: [u8; 32],
}

/// Looks for the people in a video, and searches galleries for each of them.
///
/// The answer comes at once, the result with the job: `model_id`, `fps`, `frames`, `faces`, `seconds`, `left_out` and
/// `tracks`, each with its times, number of frames, coherence, quality, best frame, decision, threshold, candidates and
/// the addresses of the crops that were asked for. A job that fails with `unreadable_video` had a video that cannot be
/// decoded; one whose gallery moves to another model meanwhile fails with `model_mismatch`.
///
/// Frames are decoded by an installed ffmpeg, a few a second; faces are followed by overlap and by how they look.
#[utoipa::path(post, path = "/v1/probes/video", operation_id = "search_video", tag = "probes",
    params(VideoParams),
    request_body(content((VideoForm = "multipart/form-data"), (Vec<u8> = "video/mp4"), (Vec<u8> = "video/webm"),
        (Vec<u8> = "video/x-matroska"))),
    responses((status = 202, description = "The job.", body = JobView,
        headers(("Location" = String, description = "Where it can be watched.")))),
    extensions(("x-problems" = json!(["gallery_not_found", "unknown_model", "model_mismatch", "unsupported_video",
        "unreadable_video", "ffmpeg_missing", "jobs_full", "not_ready"]))))]
pub async fn video(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    // What cannot be served is said before the video is sent.
    let ffmpeg = ffmpeg(&app)?;
    let slots = std::sync::Arc::clone(&app.upload_slots);
    let slot = slots.try_acquire_owned().map_err(|_| Problem::with(Code::JobsFull, "too many videos are sent"))?;
    let once = claim(&app, request.headers(), VIDEO_PATH)?;
    let Received { file, container, params, hash } = receive(&app, request).await?;
    drop(slot);
    let answer = {
        let app = app.clone();
        async move {
            let options = params.options(&app)?;
            let model = match options.galleries.is_empty() {
                true => bind(&app, None, params.model).await?,
                false if params.model.is_some() => {
                    return Err(Problem::with(Code::InvalidRequest, "give galleries or a model, not both"));
                }
                false => common_model(&app, &options.galleries).await?,
            };
            let only = options.galleries.first().filter(|_| options.galleries.len() == 1).cloned();
            let video = Video { file, container, ffmpeg, model, options };
            // Of several galleries it is on none, and names subjects of all.
            let about = About::new(KIND, only).naming(video.options.galleries.iter().cloned());
            let look = move |app: &App, run: &Run| {
                let found = examine(app, run, &video)?;
                let mut result = view(&video, found, run.id());
                for (track, crops) in &mut result.crops {
                    for (crop, png) in std::mem::take(crops).into_iter().enumerate() {
                        run.attach(crop_name(*track, crop), "image/png", png);
                    }
                }
                Ok(result.result)
            };
            let job = app.blocking(move |app| app.start_job(about, look)).await?;
            Ok(accepted(job).into_response())
        }
    };
    match once {
        Some(once) => once.answer(hash, answer).await,
        None => answer.await,
    }
}

/// Gives a crop that a job on a video has kept, as PNG.
#[utoipa::path(get, path = "/v1/jobs/{job}/tracks/{track}/crops/{crop}", operation_id = "get_track_crop",
    tag = "probes", params(CropPath),
    responses((status = 200, description = "112 by 112 pixels.", body = Vec<u8>, content_type = "image/png")),
    extensions(("x-problems" = json!(["job_not_found", "crop_not_found"]))))]
pub async fn crop(
    State(app): State<App>,
    Path(CropPath { job, track, crop }): Path<CropPath>,
) -> Result<impl IntoResponse, Problem> {
    let name = crop_name(track as usize, crop as usize);
    let attached = app.blocking(move |app| app.jobs.attachment(job, &name)).await?;
    let (media_type, bytes) = attached.ok_or_else(|| Problem::new(Code::CropNotFound))?;
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, media_type)], bytes))
}

fn crop_name(track: usize, crop: usize) -> String {
    format!("tracks/{track}/crops/{crop}")
}

/// A result and the crops to be kept beside it, by track.
struct Viewed {
    result: VideoResult,
    crops: Vec<(usize, Vec<Vec<u8>>)>,
}

fn view(video: &Video, found: FoundVideo, job: Uuid) -> Viewed {
    let served = video.model.served();
    let (mut tracks, mut crops) = (Vec::new(), Vec::new());
    for (number, mut track) in found.tracks.into_iter().enumerate() {
        crops.push((number, std::mem::take(&mut track.crops)));
        let count = crops.last().map_or(0, |(_, crops)| crops.len());
        let names = (0..count).map(|crop| format!("/v1/jobs/{job}/{}", crop_name(number, crop))).collect();
        tracks.push(track_view(video, number, track, names));
    }
    let result = VideoResult {
        model_id: served.id.to_string(),
        fusion: video.options.fusion.map_or(served.fusion, |fusion| fusion.resolve(served.fusion)).into(),
        fps: video.options.fps,
        frames: found.frames,
        faces: found.faces,
        seconds: found.seconds,
        tracks,
        left_out: found.left_out,
        timings_ms: found.timings,
    };
    Viewed { result, crops }
}

fn track_view(video: &Video, number: usize, track: FoundTrack, crops: Vec<String>) -> VideoTrack {
    let summary = track.summary;
    let template = Template::unlisted(Vec::new(), summary.fusion, summary.coherence);
    let searched =
        Searched { id: Uuid::now_v7(), probe: Probe { samples: Vec::new(), template }, results: track.results };
    let is_searched = !searched.results.is_empty();
    let (model, limit) = (&video.model.served().id, video.options.query.limit);
    let answer = answer_view(model, searched, limit, TimingsMs::default());
    VideoTrack {
        track: number,
        first_s: track.first_s,
        last_s: track.last_s,
        frames: track.frames,
        coherence: summary.coherence,
        quality: track.quality,
        best: BestFrame { at_s: track.best_s, face: (&track.best).into() },
        decision: is_searched.then_some(answer.decision),
        threshold: answer.threshold,
        review_threshold: answer.review_threshold,
        candidates: answer.candidates,
        galleries: answer.galleries,
        crops,
        search_ms: track.search_ms,
    }
}

async fn receive(app: &App, request: Request) -> Result<Received, Problem> {
    let (mut parts, body) = request.into_parts();
    let media = media_type(&parts.headers).unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let mut upload = Upload::new(&app.config.server.data_dir, app.config.video.max_bytes).await?;
    let (params, text) = if media == "multipart/form-data" {
        let text = receive_form(app, Request::from_parts(parts, body), &mut upload, query).await?;
        let params = serde_urlencoded::from_str(&text);
        (params.map_err(|error| Problem::with(Code::InvalidRequest, error.to_string()))?, text)
    } else if media.starts_with("video/") || media == "application/octet-stream" {
        let Query(params) = Query::<VideoParams>::from_request_parts(&mut parts, app).await?;
        let mut stream = body.into_data_stream();
        let broken = |_| Problem::with(Code::MalformedBody, "the request body ended early");
        while let Some(bytes) = stream.try_next().await.map_err(broken)? {
            upload.write(&bytes).await?;
        }
        (params, query)
    } else {
        let detail = "this operation takes video/*, application/octet-stream or multipart/form-data";
        return Err(Problem::with(Code::UnsupportedMediaType, detail));
    };
    let (file, container, bytes) = upload.finish().await?;
    let mut hash = blake3::Hasher::new();
    hash.update(bytes.as_bytes()).update(text.as_bytes());
    Ok(Received { file, container, params, hash: *hash.finalize().as_bytes() })
}

/// Reads a form: the part `video` to the upload, the others as more of the query.
async fn receive_form(app: &App, request: Request, upload: &mut Upload, query: String) -> Result<String, Problem> {
    let broken = |error: MultipartError| Problem::with(Code::MalformedBody, error.body_text());
    let form = Multipart::from_request(request, app).await;
    let mut form = form.map_err(|rejection| Problem::with(Code::MalformedBody, rejection.body_text()))?;
    let (mut pairs, mut videos) = (query, 0);
    while let Some(mut field) = form.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "video" {
            videos += 1;
            if videos > 1 {
                return Err(Problem::with(Code::InvalidRequest, "one video is taken"));
            }
            while let Some(bytes) = field.chunk().await.map_err(broken)? {
                upload.write(&bytes).await?;
            }
            continue;
        }
        let mut text = Vec::new();
        while let Some(bytes) = field.chunk().await.map_err(broken)? {
            text.extend_from_slice(&bytes);
            if pairs.len() + text.len() > MAX_TEXT_BYTES {
                return Err(Problem::with(Code::InvalidRequest, "the form has too much text"));
            }
        }
        let not_text = |_| Problem::with(Code::InvalidRequest, format!("part {name:.100?} is not text"));
        let text = String::from_utf8(text).map_err(not_text)?;
        let pair = serde_urlencoded::to_string([(&name, text)]).unwrap_or_default();
        pairs = if pairs.is_empty() { pair } else { format!("{pairs}&{pair}") };
    }
    Ok(pairs)
}
