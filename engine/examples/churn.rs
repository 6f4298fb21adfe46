//! A gallery whose rows are replaced while it is searched: is every answer right, how long do searches and writes take, and does memory
//! stay where it is?
//!
//! ```text
//! cargo run --release -p vultus-engine --example churn -- ROWS DIM SECONDS SHARE [SEARCHES_PER_SECOND]
//! ```
//!
//! SHARE of the rows is replaced in SECONDS, evenly: half of the writes give a subject another vector, half remove a subject and
//! enrol a new one. Meanwhile one thread searches so many times a second (100), exactly and by the cascade in turn, one keeps the index,
//! and one compares answers with sums over all rows as they should be, a fifth of the time, as that takes a processor. Prints a JSON
//! line every ten seconds and one at the end: medians, 99 % and the longest of searches, of writes (a row is in every search that
//! begins later) and of writes with the exact search that finds the row. Exits with 1 where an answer was wrong.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use serde_json::json;
use vultus_engine as engine;
use vultus_engine::index::{GalleryIndex, IndexConfig, IndexKind, RowKey, SearchMode};

#[path = "../benches/fixture/mod.rs"]
mod fixture;

use fixture::{Faces, Rng, key};

/// How long the list is.
const LIMIT: usize = 10;
/// Scores may differ by this from sums in double precision.
const TOLERANCE: f64 = 2e-6;

/// The rows as they should be, by the number of their subject.
type Rows = HashMap<u64, Vec<f32>>;

/// What was measured, in milliseconds.
#[derive(Default)]
struct Times(Mutex<Vec<f64>>);

impl Times {
    fn note(&self, since: Instant) {
        self.0.lock().unwrap().push(since.elapsed().as_secs_f64() * 1e3);
    }

    /// Median, 99 % and the most, all so far.
    fn summary(&self) -> [f64; 3] {
        let mut times = self.0.lock().unwrap().clone();
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times.get((times.len() as f64 * share) as usize).or(times.last()).copied().unwrap_or(0.0);
        [at(0.5), at(0.99), at(1.0)].map(|ms| (ms * 1e3).round() / 1e3)
    }
}

#[derive(Default)]
struct Counts {
    compared: AtomicU64,
    wrong: AtomicU64,
    wanted: AtomicU64,
    found: AtomicU64,
    late: AtomicU64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "churn ROWS DIM SECONDS SHARE [SEARCHES_PER_SECOND]";
    let [rows, dim, seconds, share, rest @ ..] = &arguments[..] else { return Err(usage.into()) };
    let (rows, dim, seconds): (u64, usize, u64) = (rows.parse()?, dim.parse()?, seconds.parse()?);
    let (share, per_second): (f64, u32) = (share.parse()?, rest.first().map_or(Ok(100), |rate| rate.parse())?);

    let mut faces = Faces::new(dim, 3);
    let config = IndexConfig { ann_above_rows: 20_000, ..IndexConfig::default() };
    let index = Arc::new(GalleryIndex::new(dim, config));
    let mut all = Rows::new();
    for number in 0..rows {
        let person = faces.person();
        let image = faces.image(&person);
        index.upsert(key(number, None), &image)?;
        all.insert(number, image);
    }
    index.maintain();
    println!("{}", json!({ "filled": rows, "rss_mb": resident_mb() }));
    let (all, counts, done) = (RwLock::new(all), Counts::default(), AtomicBool::new(false));
    let (searches, writes) = ([Times::default(), Times::default()], [Times::default(), Times::default()]);
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                index.maintain();
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        // All of them are faces of the gallery's kind: planes learnt from some say little about those of another.
        let (newcomers, seen, compared) = (faces.others(13), faces.others(5), faces.others(11));
        scope.spawn(|| write(&index, &all, newcomers, share / seconds as f64, &done, (&writes, &counts)));
        scope.spawn(|| {
            let mut faces = seen;
            let mut next = Instant::now();
            for number in 0u64.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let (probe, which) = (faces.person(), (number % 2) as usize);
                let mode = [SearchMode::Exact, SearchMode::Cascade][which];
                let since = Instant::now();
                index.search(&probe, LIMIT, mode).expect("a unit probe");
                searches[which].note(since);
                next += Duration::from_secs(1) / per_second;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        scope.spawn(|| {
            let mut rng = Rng::new(9);
            let mut faces = compared;
            while !done.load(Ordering::Relaxed) {
                let since = Instant::now();
                compare(&index, &all, &mut faces, &mut rng, &counts);
                std::thread::sleep((since.elapsed() * 4).clamp(Duration::from_millis(200), Duration::from_secs(5)));
            }
        });
        for tenth in 1..=seconds.div_ceil(10) {
            let until = Duration::from_secs((tenth * 10).min(seconds));
            std::thread::sleep(until.saturating_sub(started.elapsed()));
            report(&index, started, &counts, &searches, &writes);
        }
        done.store(true, Ordering::Relaxed);
    });
    let wrong = counts.wrong.load(Ordering::Relaxed) + counts.late.load(Ordering::Relaxed);
    std::process::exit(i32::from(wrong > 0));
}

/// Replaces rows, `rate` of them a second.
fn write(
    index: &GalleryIndex,
    all: &RwLock<Rows>,
    mut faces: Faces,
    rate: f64,
    done: &AtomicBool,
    ([written, found], counts): (&[Times; 2], &Counts),
) {
    let mut rng = Rng::new(7);
    let rows = all.read().unwrap().len() as u64;
    let mut people: Vec<u64> = (0..rows).collect();
    let (mut newest, mut next) = (rows, Instant::now());
    let pause = Duration::from_secs_f64(1.0 / (rate * rows as f64));
    while !done.load(Ordering::Relaxed) {
        let at = rng.below(rows) as usize;
        let person = faces.person();
        let image = faces.image(&person);
        {
            let mut all = all.write().unwrap();
            if rng.below(2) == 0 {
                index.remove_subject(&key(people[at], None).subject);
                all.remove(&people[at]);
                people[at] = newest;
                newest += 1;
            }
            all.insert(people[at], image.clone());
            let since = Instant::now();
            index.upsert(key(people[at], None), &image).expect("a unit vector");
            written.note(since);
            // What a write has returned is in every later search.
            let hits = index.search(&image, 1, SearchMode::Exact).expect("a unit probe").hits;
            found.note(since);
            let is_first = hits.first().is_some_and(|hit| hit.subject == key(people[at], None).subject);
            counts.late.fetch_add(u64::from(!is_first), Ordering::Relaxed);
        }
        next += pause;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Compares an exact search and one by the cascade with sums over all rows, while nobody writes.
fn compare(index: &GalleryIndex, all: &RwLock<Rows>, faces: &mut Faces, rng: &mut Rng, counts: &Counts) {
    let all = all.read().unwrap();
    let numbers: Vec<u64> = all.keys().copied().collect();
    let person = &all[&numbers[rng.below(numbers.len() as u64) as usize]];
    let probe = faces.image(person);
    let dot = |row: &[f32]| row.iter().zip(&probe).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let mut expected: Vec<(f64, RowKey)> =
        numbers.iter().map(|number| (dot(&all[number]), key(*number, None))).collect();
    expected.sort_by(|a, b| b.0.total_cmp(&a.0));
    let last = expected[LIMIT.min(expected.len()) - 1].0;
    let score_of = |subject: &_| expected.iter().find(|(_, key)| key.subject == *subject).map(|(score, _)| *score);
    for mode in [SearchMode::Exact, SearchMode::Cascade] {
        let answer = index.search(&probe, LIMIT, mode).expect("a unit probe");
        counts.compared.fetch_add(1, Ordering::Relaxed);
        // Nobody is dead, nobody has a wrong score, and an exact list is the list.
        let mut right = answer
            .hits
            .iter()
            .all(|hit| score_of(&hit.subject).is_some_and(|score| (score - f64::from(hit.score)).abs() < TOLERANCE));
        let among = answer.hits.iter().filter(|hit| f64::from(hit.score) >= last - TOLERANCE).count();
        if answer.kind == IndexKind::Exact {
            right &= among == LIMIT.min(expected.len());
        } else {
            counts.wanted.fetch_add(LIMIT as u64, Ordering::Relaxed);
            counts.found.fetch_add(among as u64, Ordering::Relaxed);
        }
        counts.wrong.fetch_add(u64::from(!right), Ordering::Relaxed);
    }
}

fn report(index: &GalleryIndex, started: Instant, counts: &Counts, searches: &[Times; 2], writes: &[Times; 2]) {
    let stats = index.stats();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let recall = count(&counts.found) as f64 / count(&counts.wanted).max(1) as f64;
    let line = json!({
        "seconds": started.elapsed().as_secs(),
        "rss_mb": resident_mb(),
        "rows": stats.rows,
        "tombstones": stats.tombstones,
        "written": index.changes().0,
        "compared": count(&counts.compared),
        "wrong": count(&counts.wrong),
        "late": count(&counts.late),
        "cascade_recall_at_10": recall,
        "stated": stats.cascade.map(|cascade| cascade.recall_at_10),
        "exact_ms": searches[0].summary(),
        "cascade_ms": searches[1].summary(),
        "write_ms": writes[0].summary(),
        "write_and_find_ms": writes[1].summary(),
    });
    println!("{line}");
}

/// Memory of the process that no file stands behind.
fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
