//! `vultus bench search`: how fast and how rightly a gallery is searched on this machine.
//!
//! Rows and probes are images of drawn people ([`Faces`]), or come out of files or of a stored gallery ([`stored`]). What is
//! found is compared with the people who were looked for and, on a sample of the probes, with sums of every row in double
//! precision.

mod stored;
mod trial;
mod vectors;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use vultus_engine::drawn::Faces;
use vultus_engine::ids::GalleryId;
use vultus_engine::index::{
    GalleryIndex, GraphCodes, GraphConfig, IndexConfig, Maintenance, SearchMode, SearchOutcome, VectorPool,
};

use super::super::local::progress;
use super::resident::rss_mb;
use trial::{Row, measure};
use vectors::{LIMIT, Probe, Source, VectorFile, key, row_of};

/// Probes whose lists are compared with sums in double precision.
const SAMPLE: usize = 50;
/// Probes that say what approximate searches find.
const COMPARED: usize = 2_000;

/// Measures how fast and how rightly a gallery of drawn, face-like vectors is searched: a row for each size, mode, number of
/// threads and number of probes that wait together.
#[derive(Debug, Args)]
pub(in crate::cli) struct Search {
    /// Rows of the gallery; with --vectors those of the file
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
    #[arg(
        long,
        alias = "mode",
        value_enum,
        value_delimiter = ',',
        default_value = "exact,cascade",
        value_name = "M,…"
    )]
    modes: Vec<Mode>,
    /// What of a row the graph walks over: a byte for each value, or its sign alone
    #[arg(long, value_enum, default_value_t = Codes::Bytes, value_name = "C")]
    graph_codes: Codes,
    /// The share of the exact ten best that cascade and graph are prepared to find; cascades find nearly all first places in any
    /// case, which can take more
    #[arg(long, default_value_t = 0.95, value_parser = share, value_name = "R")]
    recall_target: f32,
    /// Threads that share the searches
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_name = "N,…",
        value_parser = clap::value_parser!(u16).range(1..=1_024))]
    threads: Vec<u16>,
    /// Probes that wait together
    #[arg(long, value_delimiter = ',', default_values_t = [1], value_name = "N,…",
        value_parser = clap::value_parser!(u16).range(1..=1_024))]
    concurrency: Vec<u16>,
    /// Rows out of a file of raw little-endian f32, each a subject of its own
    #[arg(long, value_name = "FILE", requires = "queries", conflicts_with_all = ["rows", "images", "probes", "seed"])]
    vectors: Option<PathBuf>,
    /// Probes out of such a file
    #[arg(long, value_name = "FILE", requires = "vectors")]
    queries: Option<PathBuf>,
    /// Rows of a stored gallery, which is only read; probes are its rows, each disturbed by another as a new image of the person
    /// would be. The server must be stopped
    #[arg(long, value_name = "GALLERY",
        conflicts_with_all = ["rows", "dim", "images", "seed", "vectors", "queries", "results"])]
    gallery: Option<GalleryId>,
    /// The data directory of that gallery
    #[arg(long, value_name = "DIR", default_value = "vultus-data")]
    data_dir: PathBuf,
    /// Write the rows that were found for each probe, by mode, and their scores
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// MB of vectors that may be in memory; others go to files without name in the folder for temporary files
    #[arg(long, value_name = "MB")]
    in_memory_mb: Option<usize>,
    /// MB that all of the index may take in memory: vectors go to files, then no graph is built, then no cascade is prepared
    #[arg(long, value_name = "MB")]
    memory_limit_mb: Option<usize>,
    /// Write the prepared gallery to a file, read it again, and search what was read; the file goes to the folder for temporary
    /// files
    #[arg(long)]
    load: bool,
    /// Add a line to each row: bytes in memory and in files, by part
    #[arg(long)]
    memory: bool,
    /// Draws other vectors
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Print a JSON line for each row
    #[arg(long)]
    json: bool,
}

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// As the index chooses
    Auto,
    /// Every row is compared
    Exact,
    /// Sketches of every row, then what looks nearest
    Cascade,
    /// The graph is walked
    Ann,
}

impl From<Mode> for SearchMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Exact => Self::Exact,
            Mode::Cascade => Self::Cascade,
            Mode::Ann => Self::Ann,
        }
    }
}

/// What of a row a graph walks over.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Codes {
    Bytes,
    Bits,
}

impl From<Codes> for GraphCodes {
    fn from(codes: Codes) -> Self {
        match codes {
            Codes::Bytes => Self::Bytes,
            Codes::Bits => Self::Bits,
        }
    }
}

/// What was found in a mode, a list for each probe.
#[derive(Debug, Default, Serialize)]
struct Found {
    ids: Vec<Vec<u128>>,
    scores: Vec<Vec<f32>>,
}

impl Found {
    fn of(answers: &[SearchOutcome]) -> Self {
        let hits = || answers.iter().map(|answer| &answer.hits);
        Self {
            ids: hits().map(|hits| hits.iter().filter_map(|hit| row_of(hit.face)).collect()).collect(),
            scores: hits().map(|hits| hits.iter().map(|hit| hit.score).collect()).collect(),
        }
    }
}

impl Search {
    pub(super) fn run(self) -> anyhow::Result<()> {
        // The parser passes over this where --probes, which excludes --vectors, is given.
        ensure!(self.queries.is_none() || self.vectors.is_some(), "--queries goes with --vectors");
        // Whether it can be written is known before hours of searches; what is there stays until then.
        let open = |path: &PathBuf| OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let open = |path: &PathBuf| open(path).with_context(|| format!("{} cannot be written", path.display()));
        let results = self.results.as_ref().map(open).transpose()?;
        let mut any = false;
        let mut found = BTreeMap::new();
        if let Some(gallery) = &self.gallery {
            let stored = stored::Stored::read(&self.data_dir, gallery)?;
            let (rows, dim) = (stored.rows(), stored.dim());
            let probes = stored.probes(self.probes as usize, SAMPLE)?;
            self.one_size((rows, dim), stored.into_source()?, probes, &mut any, &mut found)?;
        } else if let (Some(vectors), Some(queries)) = (&self.vectors, &self.queries) {
            let dim = self.dim as usize;
            let (file, mut of_probes) = (VectorFile::open(vectors, dim)?, VectorFile::open(queries, dim)?);
            let mut probes = Vec::with_capacity(of_probes.count);
            while let Some(vector) = of_probes.next()? {
                probes.push(Probe::new(vector, None, probes.len() < SAMPLE));
            }
            self.one_size((file.count, dim), Source::File(file), probes, &mut any, &mut found)?;
        } else {
            ensure!(
                self.results.is_none() || self.rows.len() == 1,
                "--results takes one number of rows: the lists of several sizes would stand under the same mode"
            );
            for rows in self.rows.iter().map(|rows| *rows as usize) {
                let (source, probes) = self.drawn(rows);
                self.one_size((rows, self.dim as usize), source, probes, &mut any, &mut found)?;
            }
        }
        if let (Some(path), Some(mut file)) = (&self.results, results) {
            let named: BTreeMap<String, Found> = found
                .into_iter()
                .map(|(mode, found): (Mode, Found)| (format!("{mode:?}").to_lowercase(), found))
                .collect();
            let text = serde_json::to_vec(&named)?;
            file.set_len(0)
                .and_then(|()| file.write_all(&text))
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(())
    }

    /// Images of drawn people, and other images of people who are enrolled, as far apart in the list as can be.
    fn drawn(&self, rows: usize) -> (Source, Vec<Probe>) {
        let images = usize::from(self.images);
        let mut faces = Faces::new(self.dim as usize, self.seed);
        let people: Vec<Vec<f32>> = (0..rows.div_ceil(images)).map(|_| faces.person()).collect();
        let count = self.probes as usize;
        let one = |at: usize| {
            let person = at * people.len() / count;
            Probe::new(faces.image(&people[person]), Some(person), at < SAMPLE)
        };
        let probes = (0..count).map(one).collect();
        (Source::Drawn { faces, people: people.into_iter(), images, left: rows }, probes)
    }

    fn one_size(
        &self,
        (rows, dim): (usize, usize),
        mut source: Source,
        mut probes: Vec<Probe>,
        any: &mut bool,
        found: &mut BTreeMap<Mode, Found>,
    ) -> anyhow::Result<()> {
        let graph = GraphConfig { codes: self.graph_codes.into(), ..GraphConfig::default() };
        let config = IndexConfig { vectors: self.pool(), graph, ..IndexConfig::default() };
        let config = config.aiming_at(self.recall_target);
        let mut index = GalleryIndex::new(dim, config.clone());
        let before = rss_mb();
        let bar = progress(rows, "rows");
        let mut filling = Duration::ZERO;
        let (mut person, mut row) = (0, 0);
        let mut batch = Vec::new();
        loop {
            let next = source.next()?;
            if let Some(vectors) = &next {
                for probe in probes.iter_mut().filter(|probe| probe.best.is_some()) {
                    probe.meet(person, vectors);
                }
            }
            let last = next.is_none();
            for vector in next.into_iter().flatten() {
                batch.push((key(person, row)?, vector));
                row += 1;
            }
            person += 1;
            if last || batch.len() >= 4_096 {
                bar.inc(batch.len() as u64);
                let started = Instant::now();
                index.extend(std::mem::take(&mut batch)).context("a vector cannot be enrolled")?;
                filling += started.elapsed();
            }
            if last {
                break;
            }
        }
        bar.finish_and_clear();
        for mode in &self.modes {
            let started = Instant::now();
            let unprepared = rss_mb();
            if *mode != Mode::Exact {
                vectors::complete(&mut probes, COMPARED, &index)?;
                index.search(&probes[0].vector, LIMIT, (*mode).into())?;
            }
            let done = index.maintain();
            let prepared = done.is_due();
            // Where a cascade was prepared or vectors went to files as well, the difference says nothing.
            let only_graph = Maintenance { build_graph: true, ..Maintenance::default() };
            let of_graph = rss_mb().zip(unprepared).filter(|_| done == only_graph);
            let building = started.elapsed().as_secs_f64();
            let mut loading = None;
            if self.load {
                let (loaded, seconds) = written_and_read(&index, config.clone())?;
                (index, loading) = (loaded, Some(seconds));
            }
            let grown = rss_mb().zip(before).map(|(now, before)| now - before);
            for threads in &self.threads {
                for concurrency in &self.concurrency {
                    let (measured, answers) = measure(&index, &probes, *mode, *threads, *concurrency)?;
                    let mut row = Row {
                        build_s: prepared.then_some(building),
                        load_s: loading,
                        recall_target: (*mode != Mode::Exact).then_some(self.recall_target),
                        fill_s: filling.as_secs_f64(),
                        rss_growth_mb: grown,
                        ..measured
                    };
                    row.bytes_per_row_by_part.graph_measured =
                        of_graph.map(|(after, before)| (after - before) * 1e6 / row.rows as f64);
                    self.print(&row, any)?;
                    found.insert(*mode, Found::of(&answers));
                }
            }
        }
        Ok(())
    }

    /// Where vectors go, where anything says.
    fn pool(&self) -> Option<Arc<VectorPool>> {
        let bytes = |mb: usize| mb.saturating_mul(1 << 20);
        (self.in_memory_mb.is_some() || self.memory_limit_mb.is_some()).then(|| {
            let vectors = self.in_memory_mb.map_or(usize::MAX, bytes);
            VectorPool::with_memory_limit(&std::env::temp_dir(), vectors, self.memory_limit_mb.map(bytes))
        })
    }

    fn print(&self, row: &Row, any: &mut bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            return Ok(writeln!(out, "{}", serde_json::to_string(row)?)?);
        }
        if !std::mem::replace(any, true) {
            writeln!(
                out,
                "{:>9} {:>5} {:<8} {:<8} {:>7} {:>7} {:>8} {:>8} {:>9} {:>7} {:>9} {:>7} {:>9} {:>8} {:>7} {:>8} {:>7}",
                "rows",
                "dim",
                "mode",
                "kind",
                "threads",
                "waiting",
                "p50 ms",
                "p99 ms",
                "qps",
                "rank-1",
                "recall@10",
                "stated",
                "bytes/row",
                "RSS +MB",
                "fill s",
                "build s",
                "load s"
            )?;
        }
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        writeln!(
            out,
            "{:>9} {:>5} {:<8} {:<8} {:>7} {:>7} {:>8.3} {:>8.3} {:>9.1} {:>7.4} {:>9.4} {:>7} {:>9.0} {:>8} {:>7.1} {:>8} {:>7}",
            row.rows,
            row.dim,
            format!("{:?}", row.mode).to_lowercase(),
            format!("{:?}", row.kind).to_lowercase(),
            row.threads,
            row.concurrency,
            row.p50_ms,
            row.p99_ms,
            row.qps,
            row.rank1,
            row.recall_at_10,
            row.stated_recall.map_or("-".to_owned(), |recall| format!("{recall:.4}")),
            row.bytes_per_row,
            number(row.rss_growth_mb),
            row.fill_s,
            number(row.build_s),
            number(row.load_s)
        )?;
        if self.memory {
            writeln!(out, "{:>9} {}", "", row.bytes_per_row_by_part)?;
        }
        if !row.withheld.is_empty() {
            writeln!(out, "{:>9} for the memory limit there is no {}", "", row.withheld.join(" and no "))?;
        }
        Ok(())
    }
}

fn share(text: &str) -> Result<f32, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "a number from 0 to 1".to_owned())
}

/// What an index becomes when it is written to a file and read again, and the seconds that reading took.
fn written_and_read(index: &GalleryIndex, config: IndexConfig) -> anyhow::Result<(GalleryIndex, f64)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("snapshot");
    index.freeze().save(&path, b"").context("the gallery cannot be written to a file")?;
    let started = Instant::now();
    let loaded = GalleryIndex::load(index.dim(), config, &path).context("the gallery cannot be read again")?.index;
    Ok((loaded, started.elapsed().as_secs_f64()))
}
