//! Resident memory over many embeddings: flat once the networks are warm, or something grows.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;
use vultus_engine::align::AlignedCrop;
use vultus_engine::infer::Pipeline;
use vultus_engine::model::Precision;
use vultus_engine::random::Random;

use super::super::resident::rss_mb;
use super::{Output, Setup};

/// Threads that send batches.
const SENDERS: u64 = 4;
/// Crops of a request, at most.
const MOST: usize = 24;
/// How often the memory is told.
const POINTS: u64 = 10;

#[derive(Serialize)]
struct Point<'a> {
    model: &'a str,
    path: &'static str,
    dtype: Precision,
    threads: usize,
    /// Embeddings so far.
    done: u64,
    rss_mb: Option<f64>,
}

/// Makes `count` embeddings, in requests of 1 to 24 crops from four threads at a time, which are put together as they
/// come.
pub(super) fn run(
    setup: &Setup<'_>,
    path: &'static str,
    pipeline: &Pipeline,
    crops: &[AlignedCrop],
    count: u64,
    out: &mut Output,
) -> anyhow::Result<()> {
    let done = AtomicU64::new(0);
    for point in 1..=POINTS {
        let until = count * point / POINTS;
        let send = |sender: u64| -> anyhow::Result<()> {
            let mut random = Random::new(SENDERS * point + sender);
            loop {
                let size = (1 + random.below(MOST)) as u64;
                // Each takes what it will do, so that exactly so many are made.
                let taken = done.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |done| {
                    (done < until).then(|| until.min(done + size))
                });
                let Ok(before) = taken else { return Ok(()) };
                let size = (until - before).min(size) as usize;
                let crops = crops.iter().cycle().skip(random.below(crops.len())).take(size).cloned().collect();
                let permit = pipeline.admit(size)?;
                pipeline.embed(&permit, pipeline.models().default_model(), crops).wait()?;
            }
        };
        std::thread::scope(|scope| {
            let senders: Vec<_> = (0..SENDERS).map(|sender| scope.spawn(move || send(sender))).collect();
            let joined = |sender: std::thread::ScopedJoinHandle<'_, anyhow::Result<()>>| {
                sender.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a sender panicked")))
            };
            senders.into_iter().try_for_each(joined)
        })?;
        let (done, rss_mb) = (done.load(Ordering::Relaxed), rss_mb());
        let Setup { model, dtype, threads, .. } = *setup;
        let rss = rss_mb.map_or("-".to_owned(), |mb| format!("{mb:.1}"));
        out.line(
            &Point { model, path, dtype, threads, done, rss_mb },
            &format!("{:<20} {:<10} {:<5} {:>7} {:>10} {:>8}", "model", "path", "dtype", "threads", "done", "RSS MB"),
            &format!("{model:<20} {path:<10} {:<5} {threads:>7} {done:>10} {rss:>8}", dtype.name()),
        )?;
    }
    Ok(())
}
