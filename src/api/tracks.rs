//! `/v1/tracks`: the frames of one face in one camera, searchable at any time while they come.
//!
//! Tracks are probes, not enrolled data: they are kept in memory only and go when they have not been used for their
//! time to live. No crops are kept, so a track cannot follow a gallery to another model.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vultus_engine::ids::{GalleryId, TrackId};
use vultus_engine::quality::quality;
use vultus_engine::track::{Frame, Track};

use super::faces::ImageForm;
use super::paging::{Page, PageParams};
use super::params::TrackPath;
use super::wire::{DetectorName, FusionSpec, Location, SourceName};
use crate::app::App;
use crate::extract::submission::{Body, EmbeddingItem, ImageItem, ImageParams, Submission};
use crate::extract::{Json, Path, Query, object};
use crate::problem::{Code, Problem};
use crate::service::probes::{Held, NewProbe};
use crate::service::select::Select;
use crate::service::timing::{TimingsMs, since};
use crate::service::tracks::{bind, frame, summary, take};
use crate::watches::look;

/// Most embeddings of a request.
const MAX_EMBEDDINGS: usize = 1000;
/// The media of frames that name none.
const MEDIA: &str = "track";
/// Longest camera and label in characters.
const MAX_TEXT_CHARS: usize = 1000;

/// A frame in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct FramePath {
    /// Track id.
    #[param(value_type = String, pattern = "^[A-Za-z0-9_.:-]{1,128}$", example = "door-17")]
    pub track: TrackId,
    /// Number of the frame.
    pub frame: u64,
}

/// A new track.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = NewTrack, example = json!({"id": "door-17", "camera": "door"}))]
pub struct CreateTrack {
    /// Chosen by you: 1 to 128 characters out of A-Z a-z 0-9 _ . : -; a UUIDv7 where left out.
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9_.:-]{1,128}$", nullable = false)]
    pub id: Option<TrackId>,
    /// The gallery to be searched, whose model is used.
    #[schema(value_type = Option<String>, pattern = "^[A-Za-z0-9_.:-]{1,128}$", nullable = false)]
    pub gallery: Option<GalleryId>,
    /// Name or id of a model, in place of a gallery; the server's own where both are left out.
    #[schema(max_length = 128, nullable = false)]
    pub model: Option<String>,
    /// How frames are fused; the model's rule where left out.
    #[serde(deserialize_with = "object::optional")]
    #[schema(nullable = false)]
    pub fusion: Option<FusionSpec>,
    /// Seconds it is kept after its last use; the server's choice where left out.
    #[schema(minimum = 1, nullable = false)]
    pub ttl_s: Option<u64>,
    /// The camera, at most 1,000 characters.
    #[schema(max_length = 1000, nullable = false)]
    pub camera: Option<String>,
    /// Free text for people, at most 1,000 characters.
    #[schema(max_length = 1000, nullable = false)]
    pub label: Option<String>,
}

/// A track.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Track)]
pub struct TrackView {
    /// Its id, to be given to a search as `track`.
    pub id: String,
    /// The model its frames are embedded with.
    pub model_id: String,
    /// The gallery it was made for; null for none.
    #[schema(required = true)]
    pub gallery: Option<String>,
    /// How frames are fused.
    pub fusion: FusionSpec,
    /// The camera.
    #[schema(required = true)]
    pub camera: Option<String>,
    /// Free text.
    #[schema(required = true)]
    pub label: Option<String>,
    /// Frames in it.
    pub frames: u64,
    /// ‖Σx‖ / Σnorm of its frames: low means that it is of several people. Null while it has no frames that add up.
    #[schema(required = true)]
    pub coherence: Option<f32>,
    /// Seconds it is kept after its last use.
    pub ttl_s: u64,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// When it goes, unless it is used before. Frames and searches are uses; lists are none.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: jiff::Timestamp,
}

impl TrackView {
    fn new(id: &TrackId, held: &Held) -> Result<Self, Problem> {
        let mut track = held.track();
        Ok(Self {
            id: id.to_string(),
            model_id: track.model().id.to_string(),
            gallery: held.gallery.as_ref().map(ToString::to_string),
            fusion: track.fusion().into(),
            camera: held.camera.clone(),
            label: held.label.clone(),
            frames: track.len() as u64,
            coherence: summary(&mut track)?.map(|summary| summary.coherence),
            ttl_s: held.ttl_s,
            created_at: held.created_at,
            expires_at: held.expires_at(),
        })
    }
}

/// Options of frames as query parameters or form parts.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FrameParams {
    /// Which face of each photo; `main` where left out.
    #[param(nullable = false)]
    pub select: Option<Select>,
    /// Who looks for faces; the server's choice where left out.
    #[param(nullable = false)]
    pub detector: Option<DetectorName>,
    /// The photo or video the images come from: 1 to 256 bytes. Left out, they are of the track's own.
    #[param(min_length = 1, max_length = 256, nullable = false)]
    pub media: Option<String>,
    /// The images are 112×112 crops that were aligned already.
    #[param(nullable = false)]
    pub aligned: Option<bool>,
}

/// Frames: images or ready embeddings. Those that name no media are all of one, the track's own.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = NewFrames, example = json!({"images": [{"data": "/9j/4AAQSkZJRg=="}]}))]
pub struct FramesBody {
    /// Photos or aligned crops.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 64)]
    pub images: Vec<ImageItem>,
    /// Ready embeddings.
    #[serde(deserialize_with = "object::list")]
    #[schema(max_items = 1000)]
    pub embeddings: Vec<EmbeddingItem>,
    /// Which face of each photo; `main` where left out.
    #[schema(nullable = false)]
    pub select: Option<Select>,
    /// Who looks for faces; the server's choice where left out.
    #[schema(nullable = false)]
    pub detector: Option<DetectorName>,
}

impl Body for FramesBody {
    type Params = FrameParams;

    const MAX_EMBEDDINGS: Option<usize> = Some(MAX_EMBEDDINGS);

    fn take(&mut self) -> (Vec<ImageItem>, Vec<EmbeddingItem>) {
        let (mut images, mut embeddings) = (std::mem::take(&mut self.images), std::mem::take(&mut self.embeddings));
        let media = images.iter_mut().map(|one| &mut one.media).chain(embeddings.iter_mut().map(|one| &mut one.media));
        media.filter(|media| media.is_none()).for_each(|media| *media = Some(MEDIA.to_owned()));
        (images, embeddings)
    }

    fn fill(&mut self, params: FrameParams) -> Result<(), Problem> {
        self.select = self.select.or(params.select);
        self.detector = self.detector.or(params.detector);
        Ok(())
    }

    fn image_params(params: &FrameParams) -> ImageParams {
        let media = params.media.clone().unwrap_or_else(|| MEDIA.to_owned());
        ImageParams { media: Some(media), aligned: params.aligned.unwrap_or(false) }
    }
}

/// A frame of a track.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Frame)]
pub struct FrameView {
    /// Its number in the track, from 0 in the order they came. A number is never used again.
    pub frame: u64,
    /// The photo or video it is of; `track` where none was named.
    pub media: String,
    /// How it came in.
    pub source: SourceName,
    /// Length of the raw feature.
    pub norm: f32,
    /// CDF of the standardised norm, 0 to 1.
    pub quality: f32,
}

impl FrameView {
    fn new(track: &Track, number: u64, frame: &Frame) -> Self {
        Self {
            frame: number,
            media: frame.media.to_string(),
            source: frame.source.into(),
            norm: frame.feature.norm,
            quality: quality(frame.feature.norm, track.model().norm_stats),
        }
    }
}

/// A frame that was added, with the image it came from.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = AddedFrame)]
pub struct AddedFrame {
    /// Which image of the request, from 0; embeddings count on after the images.
    pub image: usize,
    /// Where the face was.
    #[serde(flatten)]
    pub location: Location,
    /// The frame.
    #[serde(flatten)]
    pub frame: FrameView,
}

/// Frames that were added.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = AddedFrames)]
pub struct AddedFrames {
    /// The track with them.
    pub track: TrackView,
    /// The frames.
    pub frames: Vec<AddedFrame>,
    /// Images that gave no face, each with its problem.
    pub rejected: Vec<Problem>,
    /// Milliseconds by stage.
    pub timings_ms: TimingsMs,
}

fn checked_text(name: &str, text: Option<String>) -> Result<Option<String>, Problem> {
    if text.as_ref().is_some_and(|text| text.chars().count() > MAX_TEXT_CHARS) {
        return Err(Problem::with(Code::InvalidRequest, format!("{name} has at most {MAX_TEXT_CHARS} characters")));
    }
    Ok(text)
}

/// Lists tracks by id.
#[utoipa::path(get, path = "/v1/tracks", operation_id = "list_tracks", tag = "probes",
    params(PageParams),
    responses((status = 200, description = "A page of tracks.", body = Page<TrackView>)))]
pub async fn list(State(app): State<App>, Query(page): Query<PageParams>) -> Result<impl IntoResponse, Problem> {
    let limit = page.limit()?;
    let bad_cursor = |_| Problem::with(Code::InvalidParameter, "cursor is not one that a page gave");
    let after = page.after()?.map(TrackId::try_from).transpose().map_err(bad_cursor)?;
    app.blocking(move |app| {
        let tracks = app.probes.tracks(after.as_ref(), limit + 1);
        let views = tracks.iter().map(|(id, held)| TrackView::new(id, held)).collect::<Result<Vec<_>, _>>()?;
        Ok(axum::Json(Page::cut(views, limit, |track| track.id.clone())))
    })
    .await
}

/// Begins a track: an empty probe that grows by frames. It is kept in memory only, until it has not been used for its
/// time to live.
#[utoipa::path(post, path = "/v1/tracks", operation_id = "create_track", tag = "probes",
    request_body = CreateTrack,
    responses((status = 201, description = "The track.", body = TrackView,
        headers(("Location" = String, description = "Where it is.")))),
    extensions(("x-problems" = json!(["track_exists", "gallery_not_found", "unknown_model", "model_mismatch",
        "probes_full"]))))]
pub async fn create(State(app): State<App>, Json(body): Json<CreateTrack>) -> Result<impl IntoResponse, Problem> {
    let fusion = body.fusion.map(FusionSpec::checked).transpose()?;
    let (camera, label) = (checked_text("camera", body.camera)?, checked_text("label", body.label)?);
    let model = bind(&app, body.gallery.as_ref(), body.model).await?;
    let id = body.id.unwrap_or_else(TrackId::generate);
    let own = model.served().fusion;
    let fusion = fusion.map_or(own, |fusion| fusion.resolve(own));
    let new = NewProbe { model, gallery: body.gallery, fusion, ttl_s: body.ttl_s, camera, label };
    let held = app.probes.add_track(id.clone(), new)?;
    let mut headers = HeaderMap::new();
    if let Ok(location) = format!("/v1/tracks/{id}").try_into() {
        headers.insert(header::LOCATION, location);
    }
    Ok((StatusCode::CREATED, headers, axum::Json(TrackView::new(&id, &held)?)))
}

/// Gives one track, which is thereby used.
#[utoipa::path(get, path = "/v1/tracks/{track}", operation_id = "get_track", tag = "probes",
    params(TrackPath),
    responses((status = 200, description = "The track.", body = TrackView)),
    extensions(("x-problems" = json!(["track_not_found"]))))]
pub async fn get(
    State(app): State<App>,
    Path(TrackPath { track: id }): Path<TrackPath>,
) -> Result<impl IntoResponse, Problem> {
    app.blocking(move |app| {
        let held = app.probes.track(&id)?;
        Ok(axum::Json(TrackView::new(&id, &held)?))
    })
    .await
}

/// Lets a track go before its time.
#[utoipa::path(delete, path = "/v1/tracks/{track}", operation_id = "delete_track", tag = "probes",
    params(TrackPath),
    responses((status = 204, description = "Gone.")),
    extensions(("x-problems" = json!(["track_not_found"]))))]
pub async fn delete(
    State(app): State<App>,
    Path(TrackPath { track: id }): Path<TrackPath>,
) -> Result<StatusCode, Problem> {
    app.probes.remove_track(&id)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Adds frames to a track: of each image one face, and up to 1,000 ready embeddings. All that give a face are added, or
/// none; images that give none are listed under `rejected` as long as another gives one.
///
/// Send an `Idempotency-Key` to repeat a request without adding its frames twice.
#[utoipa::path(post, path = "/v1/tracks/{track}/frames", operation_id = "add_frames", tag = "probes",
    params(TrackPath, FrameParams),
    request_body(content((FramesBody = "application/json"), (ImageForm = "multipart/form-data"),
        (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"))),
    responses((status = 201, description = "Added.", body = AddedFrames,
        headers(("Location" = String, description = "The track's frames.")))),
    extensions(("x-problems" = json!(["track_not_found", "several_faces", "track_full", "probes_full"])),
        ("x-images" = json!(true))))]
pub async fn add_frames(
    State(app): State<App>,
    Path(TrackPath { track: id }): Path<TrackPath>,
    submission: Submission<FramesBody>,
) -> Result<impl IntoResponse, Problem> {
    let started = std::time::Instant::now();
    let Submission { items, options } = submission;
    let held = app.probes.track(&id)?;
    let select = options.select.unwrap_or_default();
    let taken = take(&app, items, &held.model, select, options.detector.map(Into::into)).await?;
    let (samples, rejected, timings) = (taken.samples, taken.rejected, taken.timings);
    let mut headers = HeaderMap::new();
    if let Ok(location) = format!("/v1/tracks/{id}/frames").try_into() {
        headers.insert(header::LOCATION, location);
    }
    let added = app
        .blocking(move |app| {
            let origins: Vec<(usize, Location)> =
                samples.iter().map(|sample| (sample.image, sample.detection.as_ref().into())).collect();
            let numbers = app.probes.add_frames(&held, samples.into_iter().map(frame).collect())?;
            let track = held.track();
            let frames = numbers.into_iter().zip(origins).filter_map(|(number, (image, location))| {
                // Another request may have taken it out again already.
                let frame = FrameView::new(&track, number, track.frame(number)?);
                Some(AddedFrame { image, location, frame })
            });
            let frames = frames.collect();
            drop(track);
            look::frames(app, &id, &held)?;
            Ok(AddedFrames { track: TrackView::new(&id, &held)?, frames, rejected, timings_ms: timings })
        })
        .await?;
    let timings_ms = TimingsMs { total: since(started), ..timings };
    Ok((StatusCode::CREATED, headers, axum::Json(AddedFrames { timings_ms, ..added })))
}

/// Lists a track's frames in the order they came. Embeddings are not given.
#[utoipa::path(get, path = "/v1/tracks/{track}/frames", operation_id = "list_frames", tag = "probes",
    params(TrackPath, PageParams),
    responses((status = 200, description = "A page of frames.", body = Page<FrameView>)),
    extensions(("x-problems" = json!(["track_not_found"]))))]
pub async fn list_frames(
    State(app): State<App>,
    Path(TrackPath { track: id }): Path<TrackPath>,
    Query(page): Query<PageParams>,
) -> Result<impl IntoResponse, Problem> {
    let limit = page.limit()?;
    let bad_cursor = |_| Problem::with(Code::InvalidParameter, "cursor is not one that a page gave");
    let after = page.after()?.map(|text| text.parse::<u64>()).transpose().map_err(bad_cursor)?;
    app.blocking(move |app| {
        let held = app.probes.track(&id)?;
        let track = held.track();
        let frames = track.frames(after.map_or(0, |after| after.saturating_add(1))).take(limit + 1);
        let views = frames.map(|(number, frame)| FrameView::new(&track, number, frame)).collect();
        Ok(axum::Json(Page::cut(views, limit, |frame| frame.frame.to_string())))
    })
    .await
}

/// Takes a frame out of a track, as if it had never come.
#[utoipa::path(delete, path = "/v1/tracks/{track}/frames/{frame}", operation_id = "delete_frame", tag = "probes",
    params(FramePath),
    responses((status = 204, description = "Taken out.")),
    extensions(("x-problems" = json!(["track_not_found", "frame_not_found"]))))]
pub async fn delete_frame(
    State(app): State<App>,
    Path(FramePath { track, frame }): Path<FramePath>,
) -> Result<StatusCode, Problem> {
    app.blocking(move |app| {
        let held = app.probes.track(&track)?;
        app.probes.remove_frame(&held, frame)?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
