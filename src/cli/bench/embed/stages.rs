//! The stages before the backbone, one by one, and the chain of all of them.
//!
//! The chain runs the server's own code for requests of one photo, over a store in memory that nothing is written to: what is
//! missing is HTTP and enrolment. The second chain starts from decoded photos.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use image::RgbImage;
use serde::Serialize;
use vultus_engine::ids::MediaId;
use vultus_engine::image::{decode, stated_pixels};
use vultus_engine::infer::Pipeline;
use vultus_engine::store::memory::MemoryStore;

use super::photos::Photos;
use super::rows::rate;
use super::{Setup, median, median_ms};
use crate::app::App;
use crate::cli::serve::runtime;
use crate::config::Settings;
use crate::extract::submission::Item;
use crate::server::assemble;
use crate::service::examine::{Embedding, Wanted, embed_all};
use crate::service::select::Select;

/// Most times that a chain runs over all photos.
const MOST_PASSES: usize = 5;
/// Most photos whose stages are measured one by one.
const ONE_BY_ONE: usize = 200;
/// About the most bytes of photos that are held decoded.
const DECODED_BYTES: u64 = 256 << 20;

/// Medians in milliseconds a photo, one photo at a time, and faces a second of all together.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Stages {
    /// Reading the file, on one thread.
    pub(super) decode: f64,
    /// Finding its faces, on the detector's threads.
    pub(super) detect: f64,
    /// Cutting out the crop of the main face, on one thread.
    pub(super) align: f64,
    /// Files to features: decode, detect, align, embed, as the server runs them.
    pub(super) chain_faces_per_s: f64,
    /// Decoded photos to features: detect, align, embed.
    pub(super) chain_decoded_faces_per_s: f64,
}

pub(super) fn measure(
    setup: &Setup<'_>,
    pipeline: &Arc<Pipeline>,
    photos: &Photos,
    rounds: usize,
    jobs: usize,
) -> anyhow::Result<Stages> {
    let passes = rounds.min(MOST_PASSES);
    let [decode, detect, align] = one_by_one(setup, pipeline, photos)?;
    let mut decoded_rates = decoded_chain(setup, pipeline, photos, passes, jobs)?;
    let mut rates = chain(setup, pipeline, photos, passes, jobs)?;
    Ok(Stages {
        decode,
        detect,
        align,
        chain_faces_per_s: median(&mut rates),
        chain_decoded_faces_per_s: median(&mut decoded_rates),
    })
}

/// Medians of decode, detect and align.
fn one_by_one(setup: &Setup<'_>, pipeline: &Pipeline, photos: &Photos) -> anyhow::Result<[f64; 3]> {
    let options = setup.settings.detect_options();
    let limits = setup.settings.decode_limits();
    let mut times: [Vec<Duration>; 3] = Default::default();
    for file in photos.files.iter().take(ONE_BY_ONE) {
        let started = Instant::now();
        let Ok(photo) = decode(file, &limits) else { continue };
        times[0].push(started.elapsed());
        let photo = Arc::new(photo);
        let permit = pipeline.admit(1)?;
        let done = pipeline.detect(&permit, Arc::clone(&photo), options).wait()?;
        times[1].push(done.timing.ran);
        let Ok(face) = Select::Main.pick(&done.output, photo.width(), photo.height()) else { continue };
        let started = Instant::now();
        if options.detector.align(&photo, &face.landmarks).is_ok() {
            times[2].push(started.elapsed());
        }
    }
    Ok(times.map(|times| median_ms(&times)))
}

/// Faces a second from decoded photos, a figure for each pass.
fn decoded_chain(
    setup: &Setup<'_>,
    pipeline: &Pipeline,
    photos: &Photos,
    passes: usize,
    jobs: usize,
) -> anyhow::Result<Vec<f64>> {
    // Where they are too many, every so manyth of them, so that they are of the same kind as those of the whole chain.
    let bytes: u64 = photos.files.iter().filter_map(|file| stated_pixels(file)).map(|pixels| 3 * pixels).sum();
    let step = (bytes.div_ceil(DECODED_BYTES) as usize).max(1);
    let limits = setup.settings.decode_limits();
    let files = photos.files.iter().step_by(step);
    let decoded: Vec<Arc<RgbImage>> = files.filter_map(|file| decode(file, &limits).ok().map(Arc::new)).collect();
    anyhow::ensure!(!decoded.is_empty(), "none of the photos can be decoded");
    let options = setup.settings.detect_options();
    let one = |photo: &Arc<RgbImage>| -> anyhow::Result<usize> {
        let permit = pipeline.admit(1)?;
        let faces = pipeline.detect(&permit, Arc::clone(photo), options).wait()?.output;
        let Ok(face) = Select::Main.pick(&faces, photo.width(), photo.height()) else { return Ok(0) };
        let Ok(crop) = options.detector.align(photo, &face.landmarks) else { return Ok(0) };
        let features = pipeline.embed(&permit, pipeline.models().default_model(), vec![crop]).wait()?;
        Ok(features.output.len())
    };
    let count = photos.files.len();
    let pass = |_| {
        let (next, faces) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let started = Instant::now();
        std::thread::scope(|scope| {
            let work = || -> anyhow::Result<()> {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return Ok(());
                    }
                    faces.fetch_add(one(&decoded[index % decoded.len()])?, Ordering::Relaxed);
                }
            };
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
            let joined = |worker: std::thread::ScopedJoinHandle<'_, anyhow::Result<()>>| {
                worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the chain panicked")))
            };
            workers.into_iter().try_for_each(joined)
        })?;
        Ok(rate(faces.into_inner(), started.elapsed().as_secs_f64()))
    };
    let rates: anyhow::Result<Vec<f64>> = (0..=passes).map(pass).collect();
    Ok(rates?.split_off(1))
}

/// Faces a second from files, a figure for each pass.
fn chain(
    setup: &Setup<'_>,
    pipeline: &Arc<Pipeline>,
    photos: &Photos,
    passes: usize,
    jobs: usize,
) -> anyhow::Result<Vec<f64>> {
    // The server clears leftovers in its data directory, which must be nobody else's.
    let folder = tempfile::tempdir().context("no temporary folder can be made")?;
    let mut settings: Settings = setup.settings.clone();
    settings.server.data_dir = folder.path().to_path_buf();
    let app = assemble(settings, Arc::new(MemoryStore::new()), Arc::clone(pipeline))?;
    let runtime = runtime()?;
    let pass = |_| {
        let next = Arc::new(AtomicUsize::new(0));
        let files: Arc<Vec<Vec<u8>>> = Arc::new(photos.files.clone());
        let started = Instant::now();
        let workers: Vec<_> = (0..jobs)
            .map(|_| {
                let (app, next, files) = (app.clone(), Arc::clone(&next), Arc::clone(&files));
                runtime.spawn(async move {
                    let mut faces = 0;
                    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        faces += embedded(&app, file.clone()).await;
                    }
                    faces
                })
            })
            .collect();
        let mut faces = 0;
        for worker in workers {
            faces += runtime.block_on(worker).context("a task of the chain panicked")?;
        }
        Ok(rate(faces, started.elapsed().as_secs_f64()))
    };
    let rates: anyhow::Result<Vec<f64>> = (0..=passes).map(pass).collect();
    let rates = rates?.split_off(1);
    app.jobs.close();
    app.watches.close();
    Ok(rates)
}

/// Faces of a photo that the server would enrol: one, or none where it has none.
async fn embedded(app: &App, bytes: Vec<u8>) -> usize {
    let model = app.default_model();
    let how = Embedding { model: &model, wanted: Wanted::One(Select::Main), detector: None };
    let items = vec![Item::Image { bytes, media: MediaId::generate(), aligned: false }];
    let examined = embed_all(app, items, how).await;
    examined.map_or(0, |examined| examined.images.iter().flatten().map(Vec::len).sum())
}
