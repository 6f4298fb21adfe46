//! A video as a probe: its faces become tracks, each with one template.
//!
//! Frame by frame: detect, align, embed, and ask the [`Associator`] which track each face goes on with. A track that has
//! ended keeps its template and its best crops; its frames are let go, so that memory follows the tracks that are open
//! and not the length of the video.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::RgbImage;
use tempfile::NamedTempFile;
use vultus_engine::align::AlignedCrop;
use vultus_engine::detect::{DetectOptions, DetectorKind};
use vultus_engine::face::{DetectedFace, Feature};
use vultus_engine::gallery::{SearchQuery, SearchResult};
use vultus_engine::ids::{GalleryId, MediaId};
use vultus_engine::image::encode_png;
use vultus_engine::infer::{Embedder, InferError, Permit};
use vultus_engine::quality::quality;
use vultus_engine::store::FaceSource;
use vultus_engine::template::{Fusion, FusionRequest, TemplateError};
use vultus_engine::track::associate::{AssociateOptions, Associator, Observation};
use vultus_engine::track::{Frame, Summary, Track};

use super::timing::{TimingsMs, ms, since};
use crate::app::App;
use crate::jobs::Run;
use crate::problem::{Code, Problem};
use crate::video::{Container, Ffmpeg, Frames, Sampling, VideoFrame};
use crate::watches::look;

/// How long to wait for a place in the inference queue before asking again.
const QUEUE_PAUSE: Duration = Duration::from_millis(20);
/// Most tracks of a video that are kept; of more, those that ended first.
const MAX_TRACKS: usize = 2000;
/// Bytes of crops kept of a video; beyond, no more are.
const MAX_CROP_BYTES: usize = 64 << 20;

/// What is wanted of a video.
#[derive(Debug, Clone)]
pub struct VideoOptions {
    /// Frames a second that are looked at.
    pub fps: f64,
    /// Nothing after this is looked at.
    pub max_seconds: f64,
    /// Galleries that each track is searched in; may be none.
    pub galleries: Vec<GalleryId>,
    /// How they are searched.
    pub query: SearchQuery,
    /// How a track's frames are fused; the model's rule where left out.
    pub fusion: Option<FusionRequest>,
    /// Who looks for faces; the server's choice where left out.
    pub detector: Option<DetectorKind>,
    /// Tracks with fewer frames are left out.
    pub min_frames: usize,
    /// Crops kept of each track, best first.
    pub keep_crops: usize,
}

/// A video to look at. The file goes when this is dropped.
pub struct Video {
    /// The file.
    pub file: NamedTempFile,
    /// Its format.
    pub container: Container,
    /// The program that decodes it.
    pub ffmpeg: Ffmpeg,
    /// The backbone.
    pub model: Arc<Embedder>,
    /// What is wanted of it.
    pub options: VideoOptions,
}

/// A person seen in a video.
pub struct FoundTrack {
    /// When the first frame was, in seconds.
    pub first_s: f64,
    /// When the last frame was.
    pub last_s: f64,
    /// Frames with a face.
    pub frames: usize,
    /// Quality of the best frame.
    pub quality: f32,
    /// When the best frame was.
    pub best_s: f64,
    /// Where the face was in it.
    pub best: DetectedFace,
    /// The template of all frames.
    pub summary: Arc<Summary>,
    /// PNG files of the best crops, best first.
    pub crops: Vec<Vec<u8>>,
    /// What each gallery answered, in their order.
    pub results: Vec<(GalleryId, SearchResult)>,
    /// How long the searches took, in milliseconds.
    pub search_ms: f64,
}

/// What was found in a video.
pub struct FoundVideo {
    /// Frames that were looked at.
    pub frames: u64,
    /// Faces in them.
    pub faces: u64,
    /// Seconds from the start to the last frame that was looked at.
    pub seconds: f64,
    /// Tracks in the order they began.
    pub tracks: Vec<FoundTrack>,
    /// Tracks with too few frames, or beyond the number that is kept.
    pub left_out: usize,
    /// Sums over the frames.
    pub timings: TimingsMs,
}

/// A track while it grows.
struct Growing {
    track: Track,
    first_s: f64,
    last_s: f64,
    best_s: f64,
    best: DetectedFace,
    best_norm: f32,
    /// By norm, best first.
    crops: Vec<(f32, AlignedCrop)>,
}

/// A face of a frame.
struct Face {
    detected: DetectedFace,
    crop: AlignedCrop,
    feature: Feature,
}

/// Looks at a video. Blocks; meant for a job.
pub fn examine(app: &App, run: &Run, video: &Video) -> Result<FoundVideo, Problem> {
    let started = Instant::now();
    let settings = &app.config.video;
    let Video { options, model, .. } = video;
    let sampling = Sampling { fps: options.fps, max_seconds: options.max_seconds, max_side_px: settings.max_side_px };
    let stall = Duration::from_millis(settings.stall_timeout_ms);
    let mut frames = Frames::open(&video.ffmpeg, video.file.path(), video.container, sampling, stall)?;
    let mut watch = Watch::new(app, video);
    loop {
        let decoding = Instant::now();
        let Some(frame) = frames.next(|| !run.is_cancelled())? else { break };
        watch.timings.decode += since(decoding);
        if let Some(expected) = frames.expected() {
            run.set_total(expected.max(watch.frames + 1));
        }
        watch.look(run, frame)?;
        run.advance(1);
    }
    drop(frames);
    run.check()?;
    run.set_total(watch.frames);
    let mut found = watch.finish()?;
    for (number, track) in found.tracks.iter_mut().enumerate() {
        run.check()?;
        let searching = Instant::now();
        let search = |gallery: &GalleryId| {
            let vector = &track.summary.vector;
            Ok((gallery.clone(), app.database.search(gallery, &model.served().id, vector, &options.query)?))
        };
        track.results = options.galleries.iter().map(search).collect::<Result<_, Problem>>()?;
        track.search_ms = since(searching);
        found.timings.search += track.search_ms;
        look::video(app, run.id(), &model.served().id, number, track)?;
    }
    found.timings.total = since(started);
    Ok(found)
}

impl Face {
    fn observe(&self) -> Observation<'_> {
        Observation { bbox: self.detected.bbox, embedding: &self.feature.embedding, norm: self.feature.norm }
    }
}

/// What has been seen so far.
struct Watch<'a> {
    app: &'a App,
    model: &'a Embedder,
    options: &'a VideoOptions,
    detect: DetectOptions,
    fusion: Fusion,
    media: MediaId,
    associator: Associator,
    growing: BTreeMap<usize, Growing>,
    /// By the order they began.
    found: BTreeMap<usize, FoundTrack>,
    left_out: usize,
    crop_bytes: usize,
    frames: u64,
    faces: u64,
    seconds: f64,
    timings: TimingsMs,
}

impl<'a> Watch<'a> {
    fn new(app: &'a App, video: &'a Video) -> Self {
        let (model, options) = (video.model.as_ref(), &video.options);
        let defaults = app.config.detect_options();
        Self {
            app,
            model,
            options,
            detect: DetectOptions { detector: options.detector.unwrap_or(defaults.detector), ..defaults },
            fusion: options.fusion.map_or(model.served().fusion, |fusion| fusion.resolve(model.served().fusion)),
            media: MediaId::generate(),
            associator: Associator::new(AssociateOptions::for_model(model.served())),
            growing: BTreeMap::new(),
            found: BTreeMap::new(),
            left_out: 0,
            crop_bytes: 0,
            frames: 0,
            faces: 0,
            seconds: 0.0,
            timings: TimingsMs::default(),
        }
    }

    fn look(&mut self, run: &Run, frame: VideoFrame) -> Result<(), Problem> {
        let at_s = frame.at_s;
        let permit = self.permit(run)?;
        let faces = self.faces(&permit, Arc::new(frame.picture))?;
        drop(permit);
        self.frames += 1;
        self.faces += faces.len() as u64;
        self.seconds = at_s;
        let associated = self.associator.frame(at_s, &faces.iter().map(Face::observe).collect::<Vec<_>>());
        associated.ended.into_iter().try_for_each(|id| self.end(id))?;
        for (id, face) in associated.tracks.into_iter().zip(faces) {
            self.grow(id, at_s, face)?;
        }
        Ok(())
    }

    /// A place in the inference queue. Requests of clients come first: a full queue is waited for.
    fn permit(&self, run: &Run) -> Result<Permit, Problem> {
        loop {
            run.check()?;
            match self.app.pipeline.admit(1) {
                Err(InferError::QueueFull) => std::thread::sleep(QUEUE_PAUSE),
                permit => return Ok(permit?),
            }
        }
    }

    fn faces(&mut self, permit: &Permit, picture: Arc<RgbImage>) -> Result<Vec<Face>, Problem> {
        let pipeline = &self.app.pipeline;
        let done = pipeline.detect(permit, Arc::clone(&picture), self.detect).wait()?;
        self.timings.detect += ms(done.timing.queued + done.timing.ran);
        let started = Instant::now();
        let align = |face: DetectedFace| Some((face, self.detect.detector.align(&picture, &face.landmarks).ok()?));
        let (detected, crops): (Vec<DetectedFace>, Vec<AlignedCrop>) =
            done.output.into_iter().filter_map(align).unzip();
        let features = self.embed(permit, &crops)?;
        self.timings.embed += since(started);
        let faces = detected.into_iter().zip(crops).zip(features);
        Ok(faces.filter_map(|((detected, crop), feature)| Some(Face { detected, crop, feature: feature? })).collect())
    }

    /// Features of crops; a crop that gives none is passed over.
    fn embed(&self, permit: &Permit, crops: &[AlignedCrop]) -> Result<Vec<Option<Feature>>, Problem> {
        if crops.is_empty() {
            return Ok(Vec::new());
        }
        let embed = |crops: Vec<AlignedCrop>| self.app.pipeline.embed(permit, self.model, crops).wait();
        match embed(crops.to_vec()) {
            Ok(done) => Ok(done.output.into_iter().map(Some).collect()),
            // One of them has no feature; each for itself then says which.
            Err(InferError::Unusable) => crops
                .iter()
                .map(|crop| match embed(vec![crop.clone()]) {
                    Ok(done) => Ok(done.output.into_iter().next()),
                    Err(InferError::Unusable) => Ok(None),
                    Err(error) => Err(error.into()),
                })
                .collect(),
            Err(error) => Err(error.into()),
        }
    }

    fn grow(&mut self, id: usize, at_s: f64, face: Face) -> Result<(), Problem> {
        let (served, fusion) = (self.model.served(), self.fusion);
        let Face { detected, crop, feature } = face;
        let norm = feature.norm;
        let growing = self.growing.entry(id).or_insert_with(|| Growing {
            track: Track::new(Arc::clone(served), fusion),
            first_s: at_s,
            last_s: at_s,
            best_s: at_s,
            best: detected,
            best_norm: norm,
            crops: Vec::new(),
        });
        growing.last_s = at_s;
        if norm > growing.best_norm {
            (growing.best_s, growing.best, growing.best_norm) = (at_s, detected, norm);
        }
        if self.options.keep_crops > 0 {
            let place = growing.crops.partition_point(|(other, _)| *other >= norm);
            if place < self.options.keep_crops {
                growing.crops.insert(place, (norm, crop));
                growing.crops.truncate(self.options.keep_crops);
            }
        }
        growing.track.add(Frame { feature, media: self.media.clone(), source: FaceSource::Photo })?;
        Ok(())
    }

    /// A track that no frame goes on with: what is wanted of it stays, the rest goes.
    fn end(&mut self, id: usize) -> Result<(), Problem> {
        let Some(mut growing) = self.growing.remove(&id) else { return Ok(()) };
        let too_short = growing.track.len() < self.options.min_frames;
        if too_short || self.found.len() >= MAX_TRACKS {
            self.left_out += 1;
            return Ok(());
        }
        let summary = match growing.track.template() {
            Ok(summary) => summary,
            Err(TemplateError::Degenerate) => {
                self.left_out += 1;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let mut crops = Vec::new();
        for (_, crop) in &growing.crops {
            let png = encode_png(crop.image()).map_err(Problem::internal)?;
            if self.crop_bytes + png.len() <= MAX_CROP_BYTES {
                self.crop_bytes += png.len();
                crops.push(png);
            }
        }
        let found = FoundTrack {
            first_s: growing.first_s,
            last_s: growing.last_s,
            frames: growing.track.len(),
            quality: quality(growing.best_norm, self.model.served().norm_stats),
            best_s: growing.best_s,
            best: growing.best,
            summary,
            crops,
            results: Vec::new(),
            search_ms: 0.0,
        };
        self.found.insert(id, found);
        Ok(())
    }

    fn finish(mut self) -> Result<FoundVideo, Problem> {
        let open: Vec<usize> = self.growing.keys().copied().collect();
        open.into_iter().try_for_each(|id| self.end(id))?;
        let Self { frames, faces, seconds, found, left_out, timings, .. } = self;
        Ok(FoundVideo { frames, faces, seconds, tracks: found.into_values().collect(), left_out, timings })
    }
}

/// The ffmpeg of this server.
pub fn ffmpeg(app: &App) -> Result<Ffmpeg, Problem> {
    Ffmpeg::find(app.config.video.ffmpeg.as_deref())
        .map_err(|error| Problem::with(Code::FfmpegMissing, error.to_string()))
}
