//! Probes that are held for a while: templates and tracks, in memory only.
//!
//! They are not enrolled data: nothing of them is stored, and a restart forgets them. Each goes when it has not been
//! used for its time to live. What they take together is bounded; a probe or frame beyond the bound is refused, and
//! none that lives is ever dropped to make room.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vultus_engine::ids::{GalleryId, TrackId};
use vultus_engine::infer::Embedder;
use vultus_engine::template::{Fusion, FusionRule, TemplateError};
use vultus_engine::track::{Frame, Track};

use crate::app::App;
use crate::config::ProbeSettings;
use crate::problem::{Code, Problem};
use crate::watches::look::Sightings;

/// How often probes past their time are looked for when nobody asks for any.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// What a probe is made with.
pub struct NewProbe {
    /// The backbone its features are of.
    pub model: Arc<Embedder>,
    /// The gallery whose model that was, where one was named.
    pub gallery: Option<GalleryId>,
    /// How its frames are fused.
    pub fusion: Fusion,
    /// Seconds it is kept after its last use; the server's choice where left out.
    pub ttl_s: Option<u64>,
    /// The camera.
    pub camera: Option<String>,
    /// Free text.
    pub label: Option<String>,
}

/// A template or track that is held.
pub struct Held {
    /// The backbone its features are of.
    pub model: Arc<Embedder>,
    /// The gallery whose model that was, where one was named.
    pub gallery: Option<GalleryId>,
    /// The camera.
    pub camera: Option<String>,
    /// Free text.
    pub label: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Seconds it is kept after its last use.
    pub ttl_s: u64,
    /// Milliseconds since 1970.
    expires_ms: AtomicI64,
    track: Mutex<Track>,
    share: Share,
    /// What watches have told of it.
    pub(crate) sightings: Sightings,
}

impl Held {
    fn new(new: NewProbe, ttl_s: u64, share: Share) -> Self {
        let NewProbe { model, gallery, fusion, camera, label, .. } = new;
        let track = Mutex::new(Track::new(Arc::clone(model.served()), fusion));
        let created_at = crate::jobs::now();
        let held = Self {
            model,
            gallery,
            camera,
            label,
            created_at,
            ttl_s,
            expires_ms: AtomicI64::new(0),
            track,
            share,
            sightings: Sightings::default(),
        };
        held.touch();
        held
    }

    /// When it goes, unless it is used before.
    pub fn expires_at(&self) -> Timestamp {
        Timestamp::from_millisecond(self.expires_ms.load(Ordering::Relaxed)).unwrap_or(Timestamp::MAX)
    }

    /// Its frames. Held for the time of a template at most; not to be called on an async thread.
    pub fn track(&self) -> MutexGuard<'_, Track> {
        self.track.lock()
    }

    fn touch(&self) {
        let ttl_ms = i64::try_from(self.ttl_s).unwrap_or(i64::MAX).saturating_mul(1000);
        let expires = Timestamp::now().as_millisecond().saturating_add(ttl_ms);
        self.expires_ms.store(expires, Ordering::Relaxed);
    }

    fn has_expired(&self, now: Timestamp) -> bool {
        self.expires_ms.load(Ordering::Relaxed) <= now.as_millisecond()
    }
}

/// The bytes of one probe within the bound of all; given back on drop.
struct Share {
    pool: Arc<Pool>,
    bytes: AtomicUsize,
}

struct Pool {
    used: AtomicUsize,
    max: usize,
}

impl Share {
    /// Nothing yet.
    fn of(pool: &Arc<Pool>) -> Self {
        Self { pool: Arc::clone(pool), bytes: AtomicUsize::new(0) }
    }

    /// Takes bytes if there is room for them.
    fn take(&self, bytes: usize) -> Result<(), Problem> {
        let Pool { used, max } = &*self.pool;
        let room = |used: usize| used.checked_add(bytes).filter(|sum| sum <= max);
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .map_err(|_| Problem { required: Some(*max as f64), ..Problem::new(Code::ProbesFull) })?;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Sets what was taken to what is used.
    fn settle(&self, bytes: usize) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        // One after the other, so that the sum never falls below what is used.
        self.pool.used.fetch_add(bytes, Ordering::Relaxed);
        self.pool.used.fetch_sub(before, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pool.used.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

/// Bytes of a probe beside its track.
const PROBE_OVERHEAD_BYTES: usize = size_of::<Held>() + 512;

/// All templates and tracks.
pub struct Probes {
    settings: ProbeSettings,
    pool: Arc<Pool>,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    tracks: BTreeMap<TrackId, Arc<Held>>,
    templates: BTreeMap<Uuid, Arc<Held>>,
}

impl Live {
    fn sweep(&mut self) {
        let now = Timestamp::now();
        self.tracks.retain(|_, held| !held.has_expired(now));
        self.templates.retain(|_, held| !held.has_expired(now));
    }

    /// Seconds until the next probe goes if none is used, at least 1.
    fn next_expiry_s(&self) -> Option<u64> {
        let held = self.tracks.values().chain(self.templates.values());
        let next = held.map(|held| held.expires_ms.load(Ordering::Relaxed)).min()?;
        let wait_ms = next.saturating_sub(Timestamp::now().as_millisecond());
        Some(u64::try_from(wait_ms).unwrap_or(0).div_ceil(1000).max(1))
    }
}

impl Probes {
    /// None yet.
    pub fn new(settings: ProbeSettings) -> Self {
        let pool = Arc::new(Pool { used: AtomicUsize::new(0), max: settings.max_bytes });
        Self { settings, pool, live: Mutex::default() }
    }

    /// Bytes that all of them take.
    pub fn bytes(&self) -> usize {
        self.pool.used.load(Ordering::Relaxed)
    }

    /// An empty track under an id that is free.
    pub fn add_track(&self, id: TrackId, new: NewProbe) -> Result<Arc<Held>, Problem> {
        let held = self.make(new)?;
        let mut live = self.room()?;
        if live.tracks.contains_key(&id) {
            return Err(Problem::with(Code::TrackExists, format!("there is a track {id} already")));
        }
        live.tracks.insert(id, Arc::clone(&held));
        Ok(held)
    }

    /// A template of faces, which stays as it is.
    pub fn add_template(&self, new: NewProbe, frames: Vec<Frame>) -> Result<(Uuid, Arc<Held>), Problem> {
        let held = self.make(new)?;
        self.add_frames(&held, frames)?;
        let id = Uuid::now_v7();
        self.room()?.templates.insert(id, Arc::clone(&held));
        Ok((id, held))
    }

    fn make(&self, new: NewProbe) -> Result<Arc<Held>, Problem> {
        let ttl_s = new.ttl_s.unwrap_or(self.settings.ttl_s.min(self.settings.max_ttl_s));
        if !(1..=self.settings.max_ttl_s).contains(&ttl_s) {
            let detail = format!("ttl_s is a number from 1 to {}", self.settings.max_ttl_s);
            return Err(Problem::with(Code::InvalidRequest, detail));
        }
        if new.fusion.rule == FusionRule::Caface && new.model.served().network.is_none() {
            return Err(TemplateError::NoCaface.into());
        }
        let share = Share::of(&self.pool);
        let held = Held::new(new, ttl_s, share);
        let bytes = PROBE_OVERHEAD_BYTES + held.track().bytes();
        self.take(&held.share, bytes)?;
        Ok(Arc::new(held))
    }

    /// Takes bytes for a probe, if need be those of probes past their time.
    fn take(&self, share: &Share, bytes: usize) -> Result<(), Problem> {
        share.take(bytes).or_else(|_| {
            let mut live = self.live.lock();
            live.sweep();
            share.take(bytes).map_err(|problem| Problem { retry_after_s: live.next_expiry_s(), ..problem })
        })
    }

    /// What is live, when there is a place for one more.
    fn room(&self) -> Result<MutexGuard<'_, Live>, Problem> {
        let mut live = self.live.lock();
        live.sweep();
        if live.tracks.len() + live.templates.len() >= self.settings.max_tracks {
            return Err(Problem {
                retry_after_s: live.next_expiry_s(),
                required: Some(self.settings.max_tracks as f64),
                ..Problem::with(Code::ProbesFull, "there are as many probe templates and tracks as may be")
            });
        }
        Ok(live)
    }

    /// A track, which is thereby used.
    pub fn track(&self, id: &TrackId) -> Result<Arc<Held>, Problem> {
        let mut live = self.live.lock();
        live.sweep();
        let held = live.tracks.get(id).cloned();
        let held = held.ok_or_else(|| Problem::with(Code::TrackNotFound, format!("there is no track {id}")))?;
        held.touch();
        Ok(held)
    }

    /// A template, which is thereby used.
    pub fn template(&self, id: Uuid) -> Result<Arc<Held>, Problem> {
        let mut live = self.live.lock();
        live.sweep();
        let held = live.templates.get(&id).cloned();
        let held = held.ok_or_else(|| Problem::with(Code::TemplateNotFound, format!("there is no template {id}")))?;
        held.touch();
        Ok(held)
    }

    /// Up to `limit` tracks by id, after one. This is no use of them.
    pub fn tracks(&self, after: Option<&TrackId>, limit: usize) -> Vec<(TrackId, Arc<Held>)> {
        let mut live = self.live.lock();
        live.sweep();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = live.tracks.range::<TrackId, _>((from, Bound::Unbounded));
        range.take(limit).map(|(id, held)| (id.clone(), Arc::clone(held))).collect()
    }

    /// Lets a track go.
    pub fn remove_track(&self, id: &TrackId) -> Result<(), Problem> {
        self.track(id)?;
        self.live.lock().tracks.remove(id);
        Ok(())
    }

    /// Lets a template go.
    pub fn remove_template(&self, id: Uuid) -> Result<(), Problem> {
        self.template(id)?;
        self.live.lock().templates.remove(&id);
        Ok(())
    }

    /// Adds frames, all or none, and gives their numbers.
    pub fn add_frames(&self, held: &Held, frames: Vec<Frame>) -> Result<Vec<u64>, Problem> {
        let mut track = held.track();
        let (there, most) = (track.len(), self.settings.max_frames_per_track);
        if there + frames.len() > most {
            return Err(Problem {
                required: Some(most as f64),
                ..Problem::with(
                    Code::TrackFull,
                    format!("the track has {there} frames; {} more are beyond {most}", frames.len()),
                )
            });
        }
        let per_frame = |frame: &Frame| Track::bytes_per_frame(track.model(), frame.media.as_str().len());
        self.take(&held.share, frames.iter().map(per_frame).sum())?;
        let numbers: Result<Vec<u64>, _> = frames.into_iter().map(|frame| track.add(frame)).collect();
        held.share.settle(PROBE_OVERHEAD_BYTES + track.bytes());
        Ok(numbers?)
    }

    /// Takes a frame out, as if it had never come.
    pub fn remove_frame(&self, held: &Held, number: u64) -> Result<(), Problem> {
        let mut track = held.track();
        let gone = track.remove(number);
        held.share.settle(PROBE_OVERHEAD_BYTES + track.bytes());
        gone.map(drop).ok_or_else(|| Problem::with(Code::FrameNotFound, format!("there is no frame {number}")))
    }
}

/// Lets go of probes and jobs past their time, until `stop`.
pub(crate) async fn sweep(app: App, stop: CancellationToken) {
    while tokio::time::timeout(SWEEP_EVERY, stop.cancelled()).await.is_err() {
        app.probes.live.lock().sweep();
        let jobs = |app: &App| {
            app.jobs.sweep();
            Ok(())
        };
        if app.blocking(jobs).await.is_err() {
            return;
        }
    }
}
