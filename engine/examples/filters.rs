//! How long a search takes of which a filter lets a part of the subjects through, and whether it finds all of them.
//!
//! ```text
//! cargo run --release -p vultus-engine --example filters -- ROWS DIM
//! ```
//!
//! A gallery of so many subjects with metadata in a store in memory, searched on one thread. Prints a JSON line for all subjects and
//! for filters that let 50 %, 10 % and 1 % through: the median and 99 % of 300 exact searches with filters of which none came before
//! (`first_ms`), and with the same ones again (`again_ms`); the share of the ten best by sums in double precision that were found;
//! and with the first line what the first filtered search took, which reads all subjects' records.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use vultus_engine as engine;
use vultus_engine::align::AlignedCrop;
use vultus_engine::face::Feature;
use vultus_engine::gallery::{
    Comparison, Database, DatabaseConfig, Field, Filter, GallerySettings, NewFace, SearchQuery, SearchResult,
    SubjectSettings,
};
use vultus_engine::ids::{GalleryId, MediaId, ModelId, SubjectId};
use vultus_engine::index::{IndexConfig, SearchMode};
use vultus_engine::model::{ImpostorScores, ModelSource, ModelUnavailable, ServedModel};
use vultus_engine::quality::NormStats;
use vultus_engine::store::memory::MemoryStore;
use vultus_engine::store::{FaceSource, GalleryKind, Guard, Guards};
use vultus_engine::template::FusionRule;

#[path = "../benches/fixture/mod.rs"]
mod fixture;

use fixture::Faces;

const LIMIT: usize = 10;
const SEARCHES: usize = 300;
/// Searches that are compared with sums in double precision.
const COMPARED: usize = 30;
/// Subjects enrolled at a time.
const AT_ONCE: usize = 1_000;
/// Values of the field that filters are about.
const VALUES: usize = 1_000;

struct Source(Arc<ServedModel>);

impl ModelSource for Source {
    fn model(&self, _: &ModelId) -> Result<Arc<ServedModel>, ModelUnavailable> {
        Ok(Arc::clone(&self.0))
    }

    fn embed(&self, _: &ModelId, crops: Vec<AlignedCrop>) -> Result<Vec<Option<Feature>>, ModelUnavailable> {
        Ok(crops.iter().map(|_| None).collect())
    }
}

/// Which of the values a subject has: spread over the gallery, as its neighbours have others.
fn value_of(number: usize) -> usize {
    number * 7_919 % VALUES
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rows, dim] = &arguments[..] else { return Err("filters ROWS DIM".into()) };
    let (rows, dim): (usize, usize) = (rows.parse()?, dim.parse()?);
    let model = Arc::new(ServedModel {
        id: ModelId("made-up".to_owned()),
        dim,
        norm_stats: NormStats { mean: 20.0, std: 2.0 },
        fusion: FusionRule::Mean.into(),
        threshold: 0.5,
        impostors: ImpostorScores::default(),
        network: None,
    });
    let config =
        DatabaseConfig { model: Arc::clone(&model), review: None, index: IndexConfig::default(), snapshots: None };
    let database = Database::open(Arc::new(MemoryStore::new()), Arc::new(Source(Arc::clone(&model))), config)?;
    let gallery = GalleryId::try_from("g")?;
    let guards = Guards { wrong_person: Guard::Off, duplicate_subject: Guard::Off };
    let settings = GallerySettings { guards, ..GallerySettings::default() };
    database.create_gallery(gallery.clone(), GalleryKind::Consolidated, None, settings)?;

    let mut faces = Faces::new(dim, 3);
    let mut all = Vec::with_capacity(rows);
    while all.len() < rows {
        let mut batch = Vec::with_capacity(AT_ONCE);
        for number in all.len()..rows.min(all.len() + AT_ONCE) {
            let person = faces.person();
            let embedding = faces.image(&person);
            let id = SubjectId::try_from(format!("subject-{number}"))?;
            let metadata =
                json!({ "value": value_of(number), "site": format!("site {}", number % 40), "case": number });
            let settings = SubjectSettings { metadata: metadata.to_string(), ..SubjectSettings::default() };
            database.create_subject(&gallery, id.clone(), settings)?;
            all.push(embedding.clone());
            let face = NewFace {
                feature: Feature { embedding, norm: 20.0, style: None },
                media: MediaId::try_from(format!("photo {number}"))?,
                source: FaceSource::Embedding,
                bbox: None,
                landmarks: None,
                detection_score: None,
                picture: None,
                overrides: Vec::new(),
                crop: None,
            };
            batch.push((id, face));
        }
        database.enrol_each(&gallery, &model.id, batch)?;
    }
    let people: Vec<Vec<f32>> = all.iter().step_by((rows / SEARCHES).max(1)).take(SEARCHES).cloned().collect();
    let probes: Vec<Vec<f32>> = people.iter().map(|person| faces.image(person)).collect();
    let one_thread = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let search = |probe: &[f32], filter: Option<Filter>| {
        let query = SearchQuery { filter, mode: SearchMode::Exact, ..SearchQuery::plain(LIMIT) };
        one_thread.install(|| database.search(&gallery, &model.id, probe, &query))
    };
    let field = Field::parse("metadata.value").ok_or("a field")?;
    let since = Instant::now();
    search(&probes[0], Some(Filter::Field(field.clone(), Comparison::Eq(json!(0)))))?;
    let load_ms = since.elapsed().as_secs_f64() * 1e3;

    for share in [1.0, 0.5, 0.1, 0.01] {
        let width = (share * VALUES as f64) as usize;
        // Another filter for each search.
        let from = |number: usize| number * (VALUES - width) / SEARCHES;
        let filter = |number: usize| {
            let bound = |at: usize, within| Some((json!(at), within));
            let range = Comparison::Range { from: bound(from(number), true), to: bound(from(number) + width, false) };
            (share < 1.0).then(|| Filter::Field(field.clone(), range))
        };
        let time = |filter: &dyn Fn(usize) -> Option<Filter>| -> Result<_, Box<dyn std::error::Error>> {
            let (mut times, mut answers) = (Vec::new(), Vec::new());
            for (number, probe) in probes.iter().enumerate() {
                let filter = filter(number);
                let since = Instant::now();
                answers.push(search(probe, filter)?);
                times.push(since.elapsed().as_secs_f64() * 1e3);
            }
            times.sort_by(f64::total_cmp);
            Ok(([times[times.len() / 2], times[times.len() * 99 / 100]], answers))
        };
        let (first, answers) = time(&filter)?;
        let again = if share < 1.0 {
            // Twice the same one after the other, of which the second counts.
            let mut times = Vec::new();
            for (number, probe) in probes.iter().enumerate() {
                search(probe, filter(number))?;
                let since = Instant::now();
                search(probe, filter(number))?;
                times.push(since.elapsed().as_secs_f64() * 1e3);
            }
            times.sort_by(f64::total_cmp);
            [times[times.len() / 2], times[times.len() * 99 / 100]]
        } else {
            first
        };
        let is_in = |number: usize, subject: usize| {
            let (value, from) = (value_of(subject), from(number));
            share == 1.0 || from <= value && value < from + width
        };
        let mut found = 0;
        for (number, (probe, answer)) in probes.iter().zip(&answers).enumerate().take(COMPARED) {
            found += found_of_ten(&all, probe, answer, &|subject| is_in(number, subject))?;
        }
        let recall = found as f64 / (COMPARED * LIMIT) as f64;
        let line = json!({
            "rows": rows, "dim": dim, "passing": share, "first_ms": first, "again_ms": again, "recall_at_10": recall,
            "load_ms": if share == 1.0 { Some(load_ms) } else { None },
        });
        println!("{line}");
    }
    Ok(())
}

/// How many of the ten best that pass are in an answer, which has no others.
fn found_of_ten(
    all: &[Vec<f32>],
    probe: &[f32],
    answer: &SearchResult,
    passes: &dyn Fn(usize) -> bool,
) -> Result<usize, Box<dyn std::error::Error>> {
    let dot = |row: &[f32]| row.iter().zip(probe).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let mut scores: Vec<f64> =
        all.iter().enumerate().filter(|(subject, _)| passes(*subject)).map(|(_, row)| dot(row)).collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    let last = scores[LIMIT - 1] - 2e-6;
    let mut found = 0;
    for candidate in &answer.candidates {
        let number: usize = candidate.subject.as_str().trim_start_matches("subject-").parse()?;
        if !passes(number) {
            return Err(format!("{number} does not pass").into());
        }
        found += usize::from(f64::from(candidate.score) >= last);
    }
    Ok(found)
}
