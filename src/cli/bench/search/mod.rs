//! `vultus bench search`: how fast and how rightly a gallery of drawn vectors is searched on this machine.
//!
//! Rows and probes are images of drawn people ([`faces`]). What is found is compared with the people who were looked for and,
//! on a sample of the probes, with sums of every row in double precision. Searches run one at a time.

mod faces;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;
use vultus_engine::ids::{FaceId, SubjectId};
use vultus_engine::index::{GalleryIndex, IndexConfig, IndexKind, RowKey, SearchMode, SearchOutcome};

use super::super::local::progress;
use super::resident::rss_mb;
use crate::service::timing::ms;
use faces::Faces;

/// Subjects that a search asks for.
const LIMIT: usize = 10;
/// Probes whose lists are compared with sums in double precision.
const SAMPLE: usize = 50;
/// Searches before those that count.
const WARM_UP: usize = 5;

/// Measures how fast and how rightly a gallery of drawn, face-like vectors is searched: a row for each size, mode and number of
/// threads.
#[derive(Debug, Args)]
pub(in crate::cli) struct Search {
    /// Rows of the gallery
    #[arg(long, value_delimiter = ',', default_values_t = [100_000], value_name = "N,…",
        value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rows: Vec<u64>,
    /// Values of a vector
    #[arg(long, default_value_t = 192, value_name = "D", value_parser = clap::value_parser!(u32).range(2..=8_192))]
    dim: u32,
    /// Rows of each subject
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    images: u16,
    /// Searches, each for another image of a person who is enrolled
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    probes: u32,
    /// How to search; `ann` builds a graph first, which takes minutes for 100,000 rows
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Mode::Exact], value_name = "M,…")]
    mode: Vec<Mode>,
    /// Threads that share a search
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_name = "N,…",
        value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: Vec<u16>,
    /// Draws other vectors
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Print a JSON line for each row
    #[arg(long)]
    json: bool,
}

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// As the index chooses
    Auto,
    /// Every row is compared
    Exact,
    /// The graph is walked
    Ann,
}

impl From<Mode> for SearchMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Exact => Self::Exact,
            Mode::Ann => Self::Ann,
        }
    }
}

/// One measurement.
#[derive(Debug, Serialize)]
struct Row {
    rows: usize,
    dim: usize,
    mode: Mode,
    /// How it was searched.
    kind: IndexKind,
    threads: u16,
    ms_p50: f64,
    ms_p99: f64,
    searches_per_s: f64,
    /// Share of the probes whose person came first.
    rank_1: f64,
    /// Share of the ten best subjects, by sums in double precision, that were found.
    recall_at_10: f64,
    /// As the index states it.
    stated_recall: Option<f32>,
    /// As the index states them.
    bytes_per_row: f64,
    /// What the process grew by while the gallery was filled, and the graph built.
    rss_growth_mb: Option<f64>,
    fill_s: f64,
    graph_s: Option<f64>,
}

/// What is searched for.
struct Probe {
    person: usize,
    vector: Vec<f32>,
    /// For those of the sample: the best score of each person, summed in double precision.
    best: Vec<f64>,
}

impl Search {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut any = false;
        for rows in &self.rows {
            self.one_size(*rows as usize, &mut any)?;
        }
        Ok(())
    }

    fn one_size(&self, rows: usize, any: &mut bool) -> anyhow::Result<()> {
        let images = usize::from(self.images);
        let mut faces = Faces::new(self.dim as usize, self.seed);
        let people: Vec<Vec<f32>> = (0..rows.div_ceil(images)).map(|_| faces.person()).collect();
        let mut probes = self.probes(&mut faces, &people);
        let index = GalleryIndex::new(self.dim as usize, IndexConfig::default());
        let before = rss_mb();
        let bar = progress(rows, "rows");
        let mut filling = Duration::ZERO;
        for (person, centre) in people.iter().enumerate() {
            let of_person: Vec<_> = (person * images..rows.min((person + 1) * images))
                .map(|row| Ok((key(person, row)?, faces.image(centre))))
                .collect::<anyhow::Result<_>>()?;
            for probe in probes.iter_mut().take(SAMPLE) {
                let scores = of_person.iter().map(|(_, vector)| product(&probe.vector, vector));
                probe.best[person] = scores.fold(f64::MIN, f64::max);
            }
            bar.inc(of_person.len() as u64);
            let started = Instant::now();
            index.extend(of_person)?;
            filling += started.elapsed();
        }
        bar.finish_and_clear();
        for mode in &self.mode {
            if *mode != Mode::Exact {
                index.search(&probes[0].vector, LIMIT, (*mode).into())?;
                index.maintain();
            }
            let grown = rss_mb().zip(before).map(|(now, before)| now - before);
            for threads in &self.threads {
                let row = Row {
                    rss_growth_mb: grown,
                    fill_s: filling.as_secs_f64(),
                    ..measure(&index, &probes, *mode, *threads)?
                };
                self.print(&row, any)?;
            }
        }
        Ok(())
    }

    /// Images of people who are enrolled, as far apart in the list as can be.
    fn probes(&self, faces: &mut Faces, people: &[Vec<f32>]) -> Vec<Probe> {
        let count = self.probes as usize;
        let one = |at: usize| {
            let person = at * people.len() / count;
            let best = if at < SAMPLE { vec![f64::MIN; people.len()] } else { Vec::new() };
            Probe { person, vector: faces.image(&people[person]), best }
        };
        (0..count).map(one).collect()
    }

    fn print(&self, row: &Row, any: &mut bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            return Ok(writeln!(out, "{}", serde_json::to_string(row)?)?);
        }
        if !std::mem::replace(any, true) {
            writeln!(
                out,
                "{:>9} {:>5} {:<6} {:<6} {:>7} {:>8} {:>8} {:>11} {:>7} {:>9} {:>9} {:>8} {:>7} {:>8}",
                "rows",
                "dim",
                "mode",
                "kind",
                "threads",
                "p50 ms",
                "p99 ms",
                "searches/s",
                "rank-1",
                "recall@10",
                "bytes/row",
                "RSS +MB",
                "fill s",
                "graph s"
            )?;
        }
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        writeln!(
            out,
            "{:>9} {:>5} {:<6} {:<6} {:>7} {:>8.3} {:>8.3} {:>11.1} {:>7.4} {:>9.4} {:>9.0} {:>8} {:>7.1} {:>8}",
            row.rows,
            row.dim,
            format!("{:?}", row.mode).to_lowercase(),
            format!("{:?}", row.kind).to_lowercase(),
            row.threads,
            row.ms_p50,
            row.ms_p99,
            row.searches_per_s,
            row.rank_1,
            row.recall_at_10,
            row.bytes_per_row,
            number(row.rss_growth_mb),
            row.fill_s,
            number(row.graph_s)
        )?;
        Ok(())
    }
}

fn measure(index: &GalleryIndex, probes: &[Probe], mode: Mode, threads: u16) -> anyhow::Result<Row> {
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build().context("threads cannot be started")?;
    let search = |probe: &Probe| pool.install(|| index.search(&probe.vector, LIMIT, mode.into()));
    for probe in probes.iter().take(WARM_UP) {
        search(probe)?;
    }
    let mut times = Vec::with_capacity(probes.len());
    let mut answers: Vec<SearchOutcome> = Vec::with_capacity(probes.len());
    for probe in probes {
        let started = Instant::now();
        let answer = search(probe)?;
        times.push(started.elapsed());
        answers.push(answer);
    }
    let total: Duration = times.iter().sum();
    times.sort_unstable();
    let first = probes.iter().zip(&answers).filter(|(probe, answer)| is(answer, 0, probe.person)).count();
    let recalls: Vec<f64> =
        probes.iter().zip(&answers).take(SAMPLE).map(|(probe, answer)| recall(probe, answer)).collect();
    let stats = index.stats();
    Ok(Row {
        rows: stats.rows,
        dim: index.dim(),
        mode,
        kind: answers[0].kind,
        threads,
        ms_p50: ms(times[times.len() / 2]),
        ms_p99: ms(times[(times.len() * 99 / 100).min(times.len() - 1)]),
        searches_per_s: probes.len() as f64 / total.as_secs_f64(),
        rank_1: first as f64 / probes.len() as f64,
        recall_at_10: recalls.iter().sum::<f64>() / recalls.len() as f64,
        stated_recall: answers[0].recall,
        bytes_per_row: stats.bytes as f64 / stats.rows as f64,
        rss_growth_mb: None,
        fill_s: 0.0,
        graph_s: stats.graph.map(|graph| graph.build_ms as f64 / 1e3),
    })
}

/// Whether a place of the list is a person's.
fn is(answer: &SearchOutcome, place: usize, person: usize) -> bool {
    answer.hits.get(place).is_some_and(|hit| hit.subject.as_str() == name(person))
}

/// The share of the best people that were found.
fn recall(probe: &Probe, answer: &SearchOutcome) -> f64 {
    let mut order: Vec<usize> = (0..probe.best.len()).collect();
    order.sort_by(|a, b| probe.best[*b].total_cmp(&probe.best[*a]));
    order.truncate(LIMIT);
    let found = order.iter().filter(|person| (0..answer.hits.len()).any(|place| is(answer, place, **person))).count();
    found as f64 / order.len() as f64
}

fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn name(person: usize) -> String {
    format!("s{person:08}")
}

fn key(person: usize, row: usize) -> anyhow::Result<RowKey> {
    let subject = SubjectId::try_from(name(person))?;
    Ok(RowKey { subject, face: Some(FaceId(uuid::Uuid::from_u128(row as u128))) })
}
