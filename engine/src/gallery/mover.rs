//! The thread that fills standby sets: from kept crops to features of the other model, some faces at a time.
//!
//! It holds no state that matters: what is to be done follows from the store, so a process that was killed goes on
//! where the last committed batch ended. The model in use is searched meanwhile, and faces that come in are caught up
//! with, before a cut over and after it.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::GalleryError;
use super::agreement;
use super::database::{Database, now};
use super::open::{OpenGallery, Standby};
use crate::align::{AlignedCrop, REFERENCE, Similarity};
use crate::face::Landmarks;
use crate::ids::{GalleryId, MigrationId};
use crate::image::{DecodeLimits, decode};
use crate::model::ModelUnavailable;
use crate::quality::quality;
use crate::store::{Operation, Stage, StandbyFace, StandbyFeature, StoreError};

/// How often the thread looks for work that nobody woke it for.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a migration rests after its model failed.
const RETRY: Duration = Duration::from_secs(10);
/// Faces embedded before they are committed together.
const FACES_AT_ONCE: usize = 16;

/// Handle of the thread.
#[derive(Default)]
pub(super) struct Mover {
    signal: Arc<(Mutex<Signal>, Condvar)>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Signal {
    woken: bool,
    stopping: bool,
}

impl Mover {
    pub(super) fn start(&self, database: &Arc<Database>) -> std::io::Result<()> {
        let (weak, signal) = (Arc::downgrade(database), Arc::clone(&self.signal));
        let thread = std::thread::Builder::new().name("gallery-mover".to_owned()).spawn(move || run(&weak, &signal))?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Has the thread look for work at once.
    pub(super) fn wake(&self) {
        self.signal.0.lock().woken = true;
        self.signal.1.notify_all();
    }

    /// Ends the thread after the batch it is at.
    pub(super) fn stop(&self) {
        self.signal.0.lock().stopping = true;
        self.signal.1.notify_all();
        if let Some(thread) = self.thread.lock().take()
            // The thread itself may hold the last reference for a moment.
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }

    fn stopping(&self) -> bool {
        self.signal.0.lock().stopping
    }
}

/// What the thread remembers of a migration.
struct Rest {
    /// The gallery's revision when there was nothing more to embed.
    revision: u64,
    /// Not before this, after a failure.
    until: Option<Instant>,
}

fn run(database: &Weak<Database>, signal: &(Mutex<Signal>, Condvar)) {
    let mut resting: HashMap<MigrationId, Rest> = HashMap::new();
    loop {
        let Some(database) = database.upgrade() else { return };
        for open in database.open_galleries() {
            if database.mover.stopping() {
                return;
            }
            if let Err(error) = database.advance(&open, &mut resting) {
                tracing::warn!(gallery = %open.state().settings.id, %error, "a migration does not go on");
            }
        }
        drop(database);
        let mut state = signal.0.lock();
        if !state.woken && !state.stopping {
            signal.1.wait_for(&mut state, INTERVAL);
        }
        state.woken = false;
        if state.stopping {
            return;
        }
    }
}

impl Database {
    /// Does what is due for a gallery's migration.
    fn advance(&self, open: &OpenGallery, resting: &mut HashMap<MigrationId, Rest>) -> Result<(), GalleryError> {
        if open.stalled.load(Ordering::Acquire) {
            self.open_standby(open)?;
        }
        let state = open.state();
        let Some(Standby { migration: id, side, .. }) = &state.standby else { return Ok(()) };
        let gallery = &state.settings.id;
        let revision = self.store.counts(gallery)?.revision;
        if let Some(rest) = resting.get(id)
            && (rest.revision == revision || rest.until.is_some_and(|until| Instant::now() < until))
        {
            return Ok(());
        }
        let mut impossible = 0;
        let result = self.embed_lacking(open, &mut |_| impossible += 1);
        if self.mover.stopping() {
            return Ok(());
        }
        let note = |ready, failure, report| {
            let note = Operation::NoteMigration { gallery: gallery.clone(), migration: *id, ready, failure, report };
            self.store.commit(now(), &[note])
        };
        match result {
            // Ended, deleted or switched in the middle: the next round sees what there is now.
            Err(GalleryError::Store(
                StoreError::WrongStage { .. }
                | StoreError::NoGallery(_)
                | StoreError::NoMigration(..)
                | StoreError::Switched(_),
            )) => Ok(()),
            Err(GalleryError::ModelUnavailable { reason, .. }) => {
                resting.insert(*id, Rest { revision: u64::MAX, until: Some(Instant::now() + RETRY) });
                note(false, Some(reason.to_string()), None)?;
                Ok(())
            }
            Err(error) => Err(error),
            Ok(()) => {
                let migration = self.migration(gallery, *id)?;
                let report = if migration.stage == Stage::Embedding {
                    let report = agreement::measure(self, gallery, &state.in_use, side, state.settings.kind)?;
                    (report.faces > 0).then(|| serde_json::to_string(&report).unwrap_or_default())
                } else {
                    None
                };
                let failure = (impossible > 0).then(|| {
                    format!("faces without a kept crop that gives a feature of {}: {}", side.model.id, impossible)
                });
                if migration.stage == Stage::Embedding || failure != migration.failure {
                    note(true, failure, report)?;
                }
                // Of the state before the pass: what came since is looked at in the next round.
                resting.insert(*id, Rest { revision, until: None });
                Ok(())
            }
        }
    }

    /// Embeds every face that the standby set lacks and can have, and shows those it cannot have: they have no crop, or
    /// one that gives no feature. Whoever acts upon what is shown must have seen this return `Ok`.
    pub(super) fn embed_lacking(
        &self,
        open: &OpenGallery,
        impossible: &mut dyn FnMut(StandbyFace),
    ) -> Result<(), GalleryError> {
        let state = open.state();
        let Some(standby) = &state.standby else { return Ok(()) };
        let gallery = &state.settings.id;
        let mut pending = Vec::new();
        let mut outcome = Ok(());
        // The scan lets writers in between, those of this loop too.
        self.store.scan_standby(gallery, &mut |face| {
            if face.stored.is_none() {
                pending.push(face);
            }
            if pending.len() < FACES_AT_ONCE {
                return ControlFlow::Continue(());
            }
            outcome = self.embed_some(gallery, open, standby, std::mem::take(&mut pending), impossible);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome?;
        self.embed_some(gallery, open, standby, pending, impossible)
    }

    fn embed_some(
        &self,
        gallery: &GalleryId,
        open: &OpenGallery,
        standby: &Standby,
        faces: Vec<StandbyFace>,
        impossible: &mut dyn FnMut(StandbyFace),
    ) -> Result<(), GalleryError> {
        let model = &standby.side.model;
        if self.mover.stopping() {
            return Err(GalleryError::Stopping);
        }
        let (mut with_crop, mut crops) = (Vec::new(), Vec::new());
        for face in faces {
            match self.kept_crop(gallery, &face)? {
                Some(crop) => {
                    with_crop.push(face);
                    crops.push(crop);
                }
                None => impossible(face),
            }
        }
        let unavailable = |reason: ModelUnavailable| GalleryError::ModelUnavailable {
            gallery: gallery.clone(),
            model: model.id.clone(),
            reason,
        };
        let embedded = self.models.embed(&model.id, crops).map_err(unavailable)?;
        let mut features = Vec::new();
        for (face, feature) in with_crop.into_iter().zip(embedded) {
            match feature {
                Some(feature) => {
                    let quality = quality(feature.norm, model.norm_stats);
                    features.push(StandbyFeature { subject: face.subject, face: face.face, feature, quality });
                }
                None => impossible(face),
            }
        }
        if !features.is_empty() {
            let touched: Vec<_> = features.iter().map(|one| (one.subject.clone(), one.face)).collect();
            let (gallery, migration) = (gallery.clone(), standby.migration);
            self.store
                .commit(now(), &[Operation::PutStandby { gallery, migration, model: model.id.clone(), features }])?;
            for of_subject in touched.chunk_by(|a, b| a.0 == b.0) {
                let ids: Vec<_> = of_subject.iter().map(|(_, face)| *face).collect();
                open.refresh(self.store(), &[&of_subject[0].0], &ids)?;
            }
        }
        Ok(())
    }

    /// A face's kept crop with its landmarks. `None` when there is none or it does not read as one.
    fn kept_crop(&self, gallery: &GalleryId, face: &StandbyFace) -> Result<Option<AlignedCrop>, GalleryError> {
        let Some(bytes) = self.store.crop(gallery, face.face)? else { return Ok(None) };
        let Ok(crop) = decode(&bytes, &DecodeLimits::default()).map(AlignedCrop::new) else { return Ok(None) };
        let Ok(crop) = crop else { return Ok(None) };
        let landmarks = self.store.face(gallery, face.face)?.and_then(|stored| stored.face.landmarks);
        Ok(Some(match landmarks.and_then(in_crop) {
            Some(landmarks) => crop.with_landmarks(landmarks),
            None => crop,
        }))
    }
}

/// Where the landmarks of a photo lie in the aligned crop.
fn in_crop(landmarks: Landmarks) -> Option<Landmarks> {
    let similarity = Similarity::fit(&landmarks.0, &REFERENCE).ok()?;
    let moved = |point: [f32; 2]| similarity.apply(point.map(f64::from)).map(|value| value as f32);
    Some(Landmarks(landmarks.0.map(moved)))
}
