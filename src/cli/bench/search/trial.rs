//! One measurement: all probes in one mode, so many at a time, on so many threads.

use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use vultus_engine::index::{GalleryIndex, IndexKind, IndexStats, MemoryParts, SearchOutcome};

use super::Mode;
use super::vectors::{LIMIT, Probe, person_of};
use crate::service::timing::ms;

/// Scores that differ by less are as good as one another: single precision tells no more.
const TIE: f64 = 1e-6;
/// Searches before those that count: threads that have slept, and memory nobody has read, take that long to come to speed.
const WARM_UP: Duration = Duration::from_millis(300);
/// All probes are searched for again until the searches have taken so long: a second is little for a machine that wavers.
const MEASURED: Duration = Duration::from_secs(1);

/// What was measured.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) mode: Mode,
    pub(super) rows: usize,
    pub(super) dim: usize,
    pub(super) threads: u16,
    /// Probes that wait together.
    pub(super) concurrency: u16,
    pub(super) qps: f64,
    /// Of a probe, or of the probes that wait together.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// Share of the probes whose person came first; out of files, share of the sample whose best row did.
    pub(super) rank1: f64,
    /// Share of the ten best subjects that were found: by sums in double precision, of a sample, and for approximate searches
    /// of more probes by exact ones.
    pub(super) recall_at_10: f64,
    /// In memory, as the index states them.
    pub(super) bytes_per_row: f64,
    /// The same by part, and what is in files.
    pub(super) bytes_per_row_by_part: ByPart,
    /// What the memory limit does not let be made.
    pub(super) withheld: Vec<&'static str>,
    /// Preparing the cascade or the graph.
    pub(super) build_s: Option<f64>,
    /// Loading the index from disk.
    pub(super) load_s: Option<f64>,
    /// How it was searched.
    pub(super) kind: IndexKind,
    /// What cascade and graph were to find.
    pub(super) recall_target: Option<f32>,
    /// As the index states it.
    pub(super) stated_recall: Option<f32>,
    /// Filling the gallery.
    pub(super) fill_s: f64,
    /// What the process grew by while the gallery was filled and prepared.
    pub(super) rss_growth_mb: Option<f64>,
}

/// Bytes a row, by part.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct ByPart {
    /// Vectors in memory.
    vectors: f64,
    /// Vectors in files, which are no memory.
    filed: f64,
    digits: f64,
    /// Names, and the table of where rows are.
    keys: f64,
    sketches: f64,
    /// The graph as the index states it: from the structures that hnsw_rs keeps.
    graph: f64,
    /// What the process grew by while the graph was built and measured, where it was built in this run.
    pub(super) graph_measured: Option<f64>,
}

impl ByPart {
    fn of(stats: &IndexStats) -> Self {
        let each = |bytes: usize| bytes as f64 / stats.rows.max(1) as f64;
        let MemoryParts { vectors, digits, keys, sketches, graph } = stats.memory;
        Self {
            vectors: each(vectors),
            filed: each(stats.filed_bytes),
            digits: each(digits),
            keys: each(keys),
            sketches: each(sketches),
            graph: each(graph),
            graph_measured: None,
        }
    }
}

impl std::fmt::Display for ByPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { vectors, filed, digits, keys, sketches, graph, graph_measured } = self;
        write!(
            f,
            "bytes/row: {digits:.0} digits, {sketches:.0} sketches, {vectors:.0} vectors, {keys:.0} keys and table, "
        )?;
        write!(f, "{graph:.0} graph")?;
        if let Some(measured) = graph_measured {
            write!(f, " (measured {measured:.0})")?;
        }
        write!(f, "; {filed:.0} vectors in files")
    }
}

/// Searches for all probes, more than once where that takes no time; gives what was measured and found.
pub(super) fn measure(
    index: &GalleryIndex,
    probes: &[Probe],
    mode: Mode,
    threads: u16,
    concurrency: u16,
) -> anyhow::Result<(Row, Vec<SearchOutcome>)> {
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build().context("threads cannot be started")?;
    let search = |probes: &[Probe]| -> anyhow::Result<Vec<SearchOutcome>> {
        Ok(match probes {
            [probe] => vec![index.search(&probe.vector, LIMIT, mode.into())?],
            probes => {
                let queries: Vec<(&[f32], usize)> = probes.iter().map(|probe| (&probe.vector[..], LIMIT)).collect();
                index.search_many(&queries, mode.into())?
            }
        })
    };
    let together = usize::from(concurrency);
    let mut times = Vec::new();
    let mut answers: Vec<SearchOutcome> = Vec::with_capacity(probes.len());
    // Whoever asks is one of the threads that search: one more, which falls asleep when they wake, would stand in the way of one.
    let mut total = Duration::ZERO;
    pool.install(|| -> anyhow::Result<()> {
        let warming = Instant::now();
        for probes in probes.chunks(together).cycle() {
            search(probes)?;
            if warming.elapsed() >= WARM_UP {
                break;
            }
        }
        while total < MEASURED {
            let is_first_turn = answers.is_empty();
            for probes in probes.chunks(together) {
                let started = Instant::now();
                let found = search(probes)?;
                let taken = started.elapsed();
                times.push(taken);
                total += taken;
                if is_first_turn {
                    answers.extend(found);
                }
            }
        }
        Ok(())
    })?;
    let turns = times.len() / probes.len().div_ceil(together);
    times.sort_unstable();
    let stats = index.stats();
    let row = Row {
        mode,
        rows: stats.rows,
        dim: index.dim(),
        threads,
        concurrency,
        qps: (turns * probes.len()) as f64 / total.as_secs_f64(),
        p50_ms: ms(times[times.len() / 2]),
        p99_ms: ms(times[(times.len() * 99 / 100).min(times.len() - 1)]),
        rank1: rank_1(probes, &answers),
        recall_at_10: mean(probes.iter().zip(&answers).filter_map(|(probe, answer)| recall(probe, answer))),
        bytes_per_row: stats.bytes as f64 / stats.rows as f64,
        bytes_per_row_by_part: ByPart::of(&stats),
        withheld: [("cascade", stats.withheld.cascade), ("graph", stats.withheld.graph)]
            .into_iter()
            .filter_map(|(part, bytes)| bytes.map(|_| part))
            .collect(),
        build_s: None,
        load_s: None,
        kind: answers[0].kind,
        recall_target: None,
        stated_recall: answers[0].recall,
        fill_s: 0.0,
        rss_growth_mb: None,
    };
    Ok((row, answers))
}

fn rank_1(probes: &[Probe], answers: &[SearchOutcome]) -> f64 {
    let right = |(probe, answer): (&Probe, &SearchOutcome)| {
        let first = answer.hits.first();
        let is_right = match probe.person {
            Some(wanted) => first.and_then(|hit| person_of(&hit.subject)) == Some(wanted),
            None => {
                let best = probe.best.as_ref()?.first()?.0;
                first.is_some_and(|hit| f64::from(hit.score) >= best - TIE)
            }
        };
        Some(if is_right { 1.0 } else { 0.0 })
    };
    mean(probes.iter().zip(answers).filter_map(right))
}

/// The share of the best people that were found; `None` for a probe that is not of the sample.
fn recall(probe: &Probe, answer: &SearchOutcome) -> Option<f64> {
    let best = probe.best.as_ref()?;
    let last = best.last()?.0;
    let found = answer.hits.iter().filter(|hit| f64::from(hit.score) >= last - TIE).count();
    Some(found as f64 / best.len() as f64)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0usize, 0.0), |(count, sum), value| (count + 1, sum + value));
    if count == 0 { f64::NAN } else { sum / count as f64 }
}
