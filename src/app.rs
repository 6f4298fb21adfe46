//! What every request handler shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use vultus_engine::gallery::Database;
use vultus_engine::ids::GalleryId;
use vultus_engine::image::stated_pixels;
use vultus_engine::infer::{Embedder, Pipeline};

use crate::config::Settings;
use crate::jobs::{About, JobView, Jobs, Run};
use crate::middleware::auth::KeyHash;
use crate::middleware::idempotency::InProgress;
use crate::problem::{Code, Problem};
use crate::service::probes::Probes;
use crate::watches::Watches;

/// Pixels beyond which a photo is large: it takes a second or so on a slow core.
const LARGE_PHOTO_PX: u64 = 4 << 20;

/// The right to hold a decoded photo. Returned on drop.
pub struct PhotoSlot {
    _photo: OwnedSemaphorePermit,
    _large: Option<OwnedSemaphorePermit>,
}

/// Shared state, cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// What [`App`] shares.
pub struct Parts {
    /// The settings the server was started with.
    pub config: Settings,
    /// The galleries.
    pub database: Arc<Database>,
    /// The networks.
    pub pipeline: Arc<Pipeline>,
    /// Hash of the key that requests must carry, when one is set.
    pub key: Option<KeyHash>,
    /// The OpenAPI document.
    pub openapi: axum::body::Bytes,
    /// Idempotency keys whose first request is still being served.
    pub in_progress: Mutex<InProgress>,
    /// Bounds the decoded photos held at a time.
    pub photo_slots: Arc<Semaphore>,
    /// Bounds the large ones among them, so that not all threads look through such at once.
    pub large_photo_slots: Arc<Semaphore>,
    /// Bounds the threads that decode at a time: many would leave the networks, which have few, a small share of the cores.
    pub decode_slots: Arc<Semaphore>,
    /// Bounds the videos that are sent at a time.
    pub upload_slots: Arc<Semaphore>,
    /// Probe templates and tracks.
    pub probes: Probes,
    /// Work that is watched apart from its request.
    pub jobs: Jobs,
    /// Standing searches.
    pub watches: Watches,
    /// Work that goes on when its request has gone.
    pub background: TaskTracker,
    /// Set when the server is stopping.
    pub stopping: AtomicBool,
}

impl App {
    /// Shares the parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Runs work that blocks on the disk or computes for long, off the async threads.
    ///
    /// The work is finished even if the request is given up, so a write is never torn from its index update.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&App) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let app = self.clone();
        self.background.spawn_blocking(move || work(&app)).await.unwrap_or_else(|error| Err(Problem::internal(error)))
    }

    /// Starts a job: work that is watched apart from its request. Blocks until it is durable. See [`crate::jobs`].
    pub fn start_job<R: serde::Serialize>(
        &self,
        about: About,
        work: impl FnOnce(&App, &Run) -> Result<R, Problem> + Send + 'static,
    ) -> Result<JobView, Problem> {
        let app = self.clone();
        self.jobs.start(about, move |run| work(&app, run))
    }

    /// The server's own backbone.
    pub fn default_model(&self) -> Arc<Embedder> {
        Arc::clone(self.pipeline.models().default_model())
    }

    /// The backbone of the model a gallery is of.
    pub async fn model_of(&self, gallery: &GalleryId) -> Result<Arc<Embedder>, Problem> {
        let gallery = gallery.clone();
        self.blocking(move |app| app.model_in_use(&gallery)).await
    }

    /// As [`model_of`](Self::model_of), on this thread, which may have to load it.
    pub fn model_in_use(&self, gallery: &GalleryId) -> Result<Arc<Embedder>, Problem> {
        let model = self.database.model_of(gallery)?;
        Ok(self.pipeline.models().get(&model.id)?)
    }

    /// Waits until this photo may be decoded and held. Looking through a large one takes seconds: some thread is always left
    /// to small ones, which pass by the large ones that wait.
    pub async fn photo_slot(&self, file: &[u8]) -> Result<PhotoSlot, Problem> {
        // One that will be refused for its size need not wait among those that will be looked through.
        let looked_through = LARGE_PHOTO_PX + 1..=self.config.limits.max_image_pixels;
        let large = stated_pixels(file).is_some_and(|pixels| looked_through.contains(&pixels));
        let slot = |slots: &Arc<Semaphore>| Arc::clone(slots).acquire_owned();
        let large = if large { Some(slot(&self.large_photo_slots).await.map_err(Problem::internal)?) } else { None };
        let photo = slot(&self.photo_slots).await.map_err(Problem::internal)?;
        Ok(PhotoSlot { _photo: photo, _large: large })
    }

    /// Whether requests should be sent here.
    pub fn readiness(&self) -> Result<(), Problem> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(Problem::with(Code::NotReady, "the server is stopping"));
        }
        // After a failed write the store answers nothing until it is opened again.
        if self.database.store().last_seq().is_err() {
            return Err(Problem::with(Code::NotReady, "the store has failed; see the log, then restart"));
        }
        Ok(())
    }
}

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use vultus_engine::image::encode_png;
    use vultus_engine::store::memory::MemoryStore;

    use super::*;

    #[tokio::test]
    async fn small_photos_pass_by_large_ones_that_wait() {
        let mut settings = Settings::default();
        settings.model.threads = 2;
        let folder = tempfile::tempdir().unwrap();
        settings.server.data_dir = folder.path().to_path_buf();
        let app = crate::server::build(settings, Arc::new(MemoryStore::new())).unwrap();
        let photo = |side| encode_png(&image::RgbImage::new(side, side)).unwrap();
        let (small, large) = (photo(64), photo(2_100));
        let first = app.photo_slot(&large).await.unwrap();
        let mut second = Box::pin(app.photo_slot(&large));
        assert!(second.as_mut().now_or_never().is_none(), "one thread is left to small photos");
        assert!(app.photo_slot(&small).now_or_never().is_some());
        drop(first);
        assert!(second.now_or_never().is_some());
    }
}
