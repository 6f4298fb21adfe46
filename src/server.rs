//! The server's life: open, load, listen, drain, close.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use axum::body::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vultus_engine::detect::Detectors;
use vultus_engine::gallery::{Database, DatabaseConfig, SnapshotConfig};
use vultus_engine::index::{IndexConfig, VectorPool};
use vultus_engine::infer::{EmbedConfig, Embedder, Models, Pipeline, PipelineConfig, Threads};
use vultus_engine::model::{Model, Registry, select_device};
use vultus_engine::store::Store;
use vultus_engine::store::sled::SledStore;

use crate::app::{App, Parts};
use crate::config::Settings;
use crate::jobs::Jobs;
use crate::middleware::auth::KeyHash;
use crate::service::probes::Probes;
use crate::watches::Watches;

/// Folder of the store within the data directory.
const STORE_FOLDER: &str = "store";

/// Fails unless the folder is a data directory already, so that a mistyped one is not made.
pub fn require_data_dir(data_dir: &Path) -> anyhow::Result<()> {
    let there = data_dir.join(STORE_FOLDER).is_dir();
    anyhow::ensure!(there, "{} is not a data directory of Vultus", data_dir.display());
    Ok(())
}

/// Opens the data directory's store.
pub fn open_store(data_dir: &Path) -> anyhow::Result<SledStore> {
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
    let store = SledStore::open(&data_dir.join(STORE_FOLDER));
    store.with_context(|| format!("cannot open the data directory {}", data_dir.display()))
}

/// Loads the configured model onto its device: an installed one by name or id, or a file by its path.
pub fn load_model(settings: &Settings) -> anyhow::Result<Model> {
    let (name, form) = (&settings.model.name, settings.model.form());
    let device = select_device(&settings.model.device)?;
    let path = Path::new(name);
    let is_path = path.is_file() || path.extension().is_some() || path.components().nth(1).is_some();
    if is_path {
        return Model::from_file(path, form, &device).with_context(|| format!("cannot load the model {name}"));
    }
    Ok(Registry::new(settings.models_dir(false)).load(name, form, &device)?)
}

/// The inference pipeline with the configured model.
pub fn start_pipeline(settings: &Settings) -> anyhow::Result<Pipeline> {
    pipeline_with(load_model(settings)?, settings)
}

/// The inference pipeline with this model.
pub fn pipeline_with(model: Model, settings: &Settings) -> anyhow::Result<Pipeline> {
    let device = select_device(&settings.model.device)?;
    let registry = Registry::new(settings.models_dir(false));
    let threads = Threads::start(settings.model.threads)?;
    let embed = EmbedConfig { batch: settings.model.embed_batch, threads: threads.clone() };
    let own = Embedder::start(model, settings.search.threshold, embed.clone())?;
    let models = Models::new(own, registry, device.clone(), embed);
    let detector = Box::new(Detectors::embedded(&device)?);
    let config = PipelineConfig {
        max_queued_images: settings.limits.max_queued_images,
        detect_batch: settings.model.detect_batch,
    };
    Ok(Pipeline::new(detector, Arc::new(models), threads, config))
}

/// Everything the handlers share, over an open store.
pub fn build(settings: Settings, store: Arc<dyn Store>) -> anyhow::Result<App> {
    let pipeline = Arc::new(start_pipeline(&settings)?);
    assemble(settings, store, pipeline)
}

/// As [`build`], with a pipeline that runs already.
pub fn assemble(settings: Settings, store: Arc<dyn Store>, pipeline: Arc<Pipeline>) -> anyhow::Result<App> {
    let models = Arc::clone(pipeline.models());
    let model = Arc::clone(models.default_model().served());
    let bytes = |mb: usize| mb.saturating_mul(1 << 20);
    let vectors = VectorPool::with_memory_limit(
        &settings.server.data_dir.join("index"),
        bytes(settings.search.vectors_in_memory_mb),
        settings.search.memory_limit_mb.map(bytes),
    );
    let index = IndexConfig {
        ann_above_rows: settings.search.ann_above_rows,
        vectors: Some(vectors),
        ..IndexConfig::default()
    }
    .aiming_at(settings.search.recall_target);
    let snapshots = SnapshotConfig::new(settings.server.data_dir.join("index").join("snapshots"));
    let watches = Watches::open(Arc::clone(&store), &settings)?;
    let background = TaskTracker::new();
    let jobs = Jobs::open(Arc::clone(&store), settings.jobs.clone(), background.clone())?;
    let database = Database::open(
        store,
        models,
        DatabaseConfig { model, review: settings.search.review_threshold, index, snapshots: Some(snapshots) },
    )?;
    // One photo decoding and one waiting for each core, and a batch for the detector.
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let photos = 2 * cores + settings.model.detect_batch;
    // One thread is left to small photos.
    let large_photos = (pipeline.threads() - 1).max(1);
    crate::video::clear(&settings.server.data_dir);
    Ok(App::new(Parts {
        key: KeyHash::of(&settings.auth.key),
        upload_slots: Arc::new(Semaphore::new(settings.video.max_uploads)),
        probes: Probes::new(settings.probes.clone()),
        jobs,
        watches,
        config: settings,
        database,
        pipeline,
        openapi: Bytes::from(crate::openapi::text()),
        in_progress: Default::default(),
        photo_slots: Arc::new(Semaphore::new(photos)),
        large_photo_slots: Arc::new(Semaphore::new(large_photos)),
        decode_slots: Arc::new(Semaphore::new(2 * cores)),
        background,
        stopping: AtomicBool::new(false),
    }))
}

/// A server that listens.
pub struct Server {
    app: App,
    listener: TcpListener,
    /// The address it listens on, with the port that was picked.
    pub address: SocketAddr,
}

impl Server {
    /// Takes the address. Requests wait until [`run`](Self::run).
    pub async fn bind(app: App) -> anyhow::Result<Self> {
        let wanted = app.config.server.listen;
        let listener = TcpListener::bind(wanted).await.with_context(|| format!("cannot listen on {wanted}"))?;
        let address = listener.local_addr()?;
        Ok(Self { app, listener, address })
    }

    /// Serves until `stop`, then lets the requests in work finish, within the configured time.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Self { app, listener, .. } = self;
        let deadline = Duration::from_millis(app.config.server.shutdown_timeout_ms);
        let connections = GracefulShutdown::new();
        let sweeper = tokio::spawn(crate::service::probes::sweep(app.clone(), stop.clone()));
        accept(&app, listener, &connections, &stop).await;

        app.stopping.store(true, Ordering::Release);
        // Streams have to end before their connections can; jobs that wait are written, couriers may be in a write.
        let closing = app.clone();
        let close = move || {
            closing.jobs.close();
            closing.watches.close();
        };
        let _ = tokio::task::spawn_blocking(close).await;
        tracing::info!("stopping: no new requests; those in work are finished");
        let background = async {
            connections.shutdown().await;
            let _ = sweeper.await;
            app.background.close();
            app.background.wait().await;
        };
        if tokio::time::timeout(deadline, background).await.is_err() {
            tracing::warn!("some requests were not finished in time");
        }
        Ok(())
    }
}

/// Takes connections until `stop`. Their number is bounded, and one that never completes a request head is closed.
async fn accept(app: &App, listener: TcpListener, connections: &GracefulShutdown, stop: &CancellationToken) {
    let service = TowerToHyperService::new(crate::router::router(app.clone()));
    let places = Arc::new(Semaphore::new(app.config.server.max_connections));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(Duration::from_millis(app.config.server.header_timeout_ms));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, mostly: others close theirs in the meantime.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small and complete; waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            // How a connection ends is its client's business.
            let _ = connection.await;
            drop(place);
        });
    }
}

/// How long to wait when connections cannot be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
