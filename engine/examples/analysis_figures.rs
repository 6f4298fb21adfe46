//! Measures duplicates, clusters, guards and the leave-one-out report on labelled photos: the figures of
//! `docs/ANALYSIS.md`.
//!
//! ```text
//! vultus embed FOLDER/*/* > faces.ndjson          # a folder a person
//! cargo run --release -p vultus-engine --example analysis_figures -- clusters faces.ndjson FACES SEED [LEFT_OUT]
//! cargo run --release -p vultus-engine --example analysis_figures -- poison faces.ndjson LEAST_PHOTOS SHARE SEED
//! ```
//!
//! `clusters`: FACES photos drawn at random (0: all) are put into a gallery of events, each under a subject of its own.
//! People whose names stand in the file LEFT_OUT, one a line, are not used. `poison`: of people with LEAST_PHOTOS photos
//! or more, a SHARE of the faces is exchanged between people. First all are enrolled whatever the guards say, and the
//! leave-one-out report is asked for the exchanged ones; then person by person with guards, at their defaults. Of
//! several faces of a photo the widest is used.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::error::Error;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use serde_json::Value;
use vultus_engine::align::AlignedCrop;
use vultus_engine::face::Feature;
use vultus_engine::gallery::{
    ClusterOptions, Clusters, Database, DatabaseConfig, DuplicateOptions, GallerySettings, LeaveOneOutOptions, NewFace,
};
use vultus_engine::ids::{FaceId, GalleryId, MediaId, ModelId, SubjectId};
use vultus_engine::index::IndexConfig;
use vultus_engine::infer::{EmbedConfig, Embedder, Threads};
use vultus_engine::model::{Model, ModelSource, ModelUnavailable, ServedModel};
use vultus_engine::random::Random;
use vultus_engine::store::memory::MemoryStore;
use vultus_engine::store::{Check, FaceSource, GalleryKind, ThresholdSetting};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Sample {
    person: String,
    path: String,
    feature: Feature,
}

struct Source(Arc<ServedModel>);

impl ModelSource for Source {
    fn model(&self, _: &ModelId) -> std::result::Result<Arc<ServedModel>, ModelUnavailable> {
        Ok(Arc::clone(&self.0))
    }

    fn embed(&self, _: &ModelId, _: Vec<AlignedCrop>) -> std::result::Result<Vec<Option<Feature>>, ModelUnavailable> {
        Err(ModelUnavailable("nothing is embedded here".to_owned()))
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["clusters", faces, count, seed] => clusters(load(faces)?, count.parse()?, seed.parse()?),
        ["clusters", faces, count, seed, left_out] => {
            let left_out = fs::read_to_string(left_out)?;
            let left_out: HashSet<&str> = left_out.lines().collect();
            let mut samples = load(faces)?;
            samples.retain(|sample| !left_out.contains(sample.person.as_str()));
            clusters(samples, count.parse()?, seed.parse()?)
        }
        ["poison", faces, least, share, seed] => poison(load(faces)?, least.parse()?, share.parse()?, seed.parse()?),
        _ => Err("give: clusters FACES COUNT SEED [LEFT_OUT], or: poison FACES LEAST_PHOTOS SHARE SEED".into()),
    }
}

/// The output of `vultus embed`, in order of path.
fn load(path: &str) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for line in fs::read_to_string(path)?.lines() {
        let line: Value = serde_json::from_str(line)?;
        let (Some(path), Some(faces)) = (line["path"].as_str(), line["faces"].as_array()) else { continue };
        let width = |face: &Value| Some(face["box"][2].as_f64()? - face["box"][0].as_f64()?);
        let largest = |a: &&Value, b: &&Value| width(a).unwrap_or(0.0).total_cmp(&width(b).unwrap_or(0.0));
        let Some(face) = faces.iter().max_by(largest) else { continue };
        let person = Path::new(path).parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let embedding: Vec<f32> = serde_json::from_value(face["embedding"].clone())?;
        let norm = face["norm"].as_f64().ok_or("a face has no norm")? as f32;
        let feature = Feature { embedding, norm, style: None };
        samples.push(Sample {
            person: person.ok_or("a path has no folder")?.to_owned(),
            path: path.to_owned(),
            feature,
        });
    }
    samples.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(samples)
}

fn database(kind: GalleryKind) -> Result<(Arc<Database>, GalleryId, ModelId)> {
    let served = Arc::clone(
        Embedder::start(
            Model::embedded(false, &Device::Cpu)?,
            None,
            EmbedConfig { batch: 1, threads: Threads::start(1)? },
        )?
        .served(),
    );
    let config =
        DatabaseConfig { model: Arc::clone(&served), review: None, index: IndexConfig::default(), snapshots: None };
    let database = Database::open(Arc::new(MemoryStore::new()), Arc::new(Source(Arc::clone(&served))), config)?;
    let gallery = GalleryId::try_from("g")?;
    database.create_gallery(gallery.clone(), kind, None, GallerySettings::default())?;
    Ok((database, gallery, served.id.clone()))
}

fn new_face(sample: &Sample) -> Result<NewFace> {
    Ok(NewFace {
        feature: sample.feature.clone(),
        media: MediaId::try_from(sample.path.clone())?,
        source: FaceSource::Embedding,
        bbox: None,
        landmarks: None,
        detection_score: None,
        picture: None,
        overrides: Vec::new(),
        crop: None,
    })
}

fn go_on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn clusters(mut samples: Vec<Sample>, count: usize, seed: u64) -> Result<()> {
    if count > 0 {
        Random::new(seed).shuffle(&mut samples);
        samples.truncate(count);
    }
    let people: BTreeSet<&str> = samples.iter().map(|sample| sample.person.as_str()).collect();
    let (database, gallery, model) = database(GalleryKind::Events)?;
    let mut truth: HashMap<FaceId, &str> = HashMap::new();
    for (number, sample) in samples.iter().enumerate() {
        let subject = SubjectId::try_from(format!("s{number}"))?;
        let enrolled = database.enrol(&gallery, &subject, &model, vec![new_face(sample)?])?;
        truth.extend(enrolled.faces.iter().map(|face| (face.id, sample.person.as_str())));
    }
    let impostors = &database.model_of(&gallery)?.impostors;
    println!("{} faces of {} people", samples.len(), people.len());
    for fmr in [None, Some(0.01), Some(0.005), Some(0.002), Some(0.001), Some(0.0005), Some(0.0002)] {
        let score = fmr.and_then(|fmr| impostors.score_at(fmr));
        let options = ClusterOptions { threshold: score.map(ThresholdSetting::Score), min_faces: 1, limit: usize::MAX };
        let found = database.clusters(&gallery, &options, &mut go_on)?;
        let fmr = fmr.map_or("default".to_owned(), |fmr| fmr.to_string());
        println!("{fmr:>8} {}", describe(&found, &truth));
    }
    Ok(())
}

/// How well clusters agree with the truth: pairs of faces that are together and should be, and the share of faces that
/// are of their cluster's most frequent person.
fn describe(found: &Clusters, truth: &HashMap<FaceId, &str>) -> String {
    fn counts<'a>(names: impl Iterator<Item = &'a str>) -> Vec<u64> {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        names.for_each(|name| *counts.entry(name).or_default() += 1);
        counts.into_values().collect()
    }
    let pairs = |counts: &[u64]| counts.iter().map(|n| n * (n - 1) / 2).sum::<u64>() as f64;
    let (mut together, mut right, mut pure, mut alone) = (0.0, 0.0, 0, 0);
    for cluster in &found.clusters {
        let of = counts(cluster.faces.iter().map(|face| truth[&face.face]));
        together += pairs(&[of.iter().sum()]);
        right += pairs(&of);
        pure += of.iter().max().copied().unwrap_or_default();
        alone += u64::from(cluster.faces.len() == 1);
    }
    let (precision, recall) = (right / together, right / pairs(&counts(truth.values().copied())));
    format!(
        "{:.4}: {} clusters of two or more, {alone} faces alone; pairs: precision {precision:.4}, recall {recall:.4}, F \
         {:.4}; purity {:.4}",
        found.threshold.score,
        found.total - alone,
        2.0 * precision * recall / (precision + recall),
        pure as f64 / found.faces as f64
    )
}

fn poison(mut samples: Vec<Sample>, least: usize, share: f64, seed: u64) -> Result<()> {
    let mut photos: HashMap<String, usize> = HashMap::new();
    samples.iter().for_each(|sample| *photos.entry(sample.person.clone()).or_default() += 1);
    samples.retain(|sample| photos[&sample.person] >= least);
    let random = &mut Random::new(seed);
    let names = exchanged(&samples, share, random);
    let wrong = |at: usize| names[at] != samples[at].person;
    let total_wrong = (0..samples.len()).filter(|&at| wrong(at)).count();
    let mut folders: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    names.iter().enumerate().for_each(|(at, name)| folders.entry(name).or_default().push(at));
    println!("{} faces of {} people, {total_wrong} under a wrong name", samples.len(), folders.len());

    let (all, gallery, model) = database(GalleryKind::Consolidated)?;
    let mut of_face: HashMap<FaceId, usize> = HashMap::new();
    for (name, faces) in &folders {
        let new = faces.iter().map(|&at| new_face(&samples[at])).collect::<Result<Vec<_>>>()?;
        let enrolled = all.enrol(&gallery, &SubjectId::try_from(*name)?, &model, new)?;
        of_face.extend(enrolled.faces.iter().map(|face| face.id).zip(faces.iter().copied()));
    }
    let report = all.leave_one_out(&gallery, &LeaveOneOutOptions { limit: samples.len() }, &mut go_on)?;
    println!(
        "leave one out: {} measured, rank 1 {:.4}, {} suspects, {} confused pairs",
        report.measured,
        report.rank1.unwrap_or_default(),
        report.suspects_total,
        report.confusions_total
    );
    for (text, first) in [
        ("half as many", total_wrong / 2),
        ("as many", total_wrong),
        ("twice as many", 2 * total_wrong),
        ("all", report.suspects.len()),
    ] {
        let first = first.min(report.suspects.len());
        let hits = report.suspects[..first].iter().filter(|suspect| wrong(of_face[&suspect.face])).count();
        let (precision, recall) = (hits as f64 / first.max(1) as f64, hits as f64 / total_wrong.max(1) as f64);
        println!("  first {first} ({text}): precision {precision:.4}, recall {recall:.4}");
    }
    let options = DuplicateOptions { threshold: None, limit: 1000 };
    let duplicates = all.duplicates(&gallery, &options, &mut go_on)?;
    println!(
        "duplicates at {:.4}: {} pairs of {} people",
        duplicates.threshold.score,
        duplicates.pairs.len(),
        folders.len()
    );
    for pair in duplicates.pairs.iter().take(10) {
        println!("  {} {} {:.4}", pair.subject, pair.other, pair.score);
    }

    let (guarded, gallery, model) = database(GalleryKind::Consolidated)?;
    let mut order: Vec<(&str, Vec<usize>)> = folders.into_iter().collect();
    random.shuffle(&mut order);
    let mut refused: BTreeMap<(bool, &str), u64> = BTreeMap::new();
    for (name, faces) in order {
        let subject = SubjectId::try_from(name)?;
        let new = faces.iter().map(|&at| new_face(&samples[at])).collect::<Result<Vec<_>>>()?;
        let findings = guarded.inspect(&gallery, &subject, &model, &new)?.findings;
        let mut passed = Vec::new();
        for ((face, findings), at) in new.into_iter().zip(findings).zip(faces) {
            let has = |check| findings.iter().any(|finding| finding.check == check);
            for (check, text) in [(Check::WrongPerson, "wrong_person"), (Check::DuplicateSubject, "duplicate_subject")]
            {
                *refused.entry((wrong(at), text)).or_default() += u64::from(has(check));
            }
            *refused.entry((wrong(at), "either")).or_default() += u64::from(!findings.is_empty());
            if findings.is_empty() {
                passed.push(face);
            }
        }
        if !passed.is_empty() {
            guarded.enrol(&gallery, &subject, &model, passed)?;
        }
    }
    println!("guards, person by person:");
    for ((wrong, check), count) in refused {
        let of = if wrong { total_wrong } else { samples.len() - total_wrong };
        let kind = if wrong { "wrong" } else { "right" };
        println!("  {check}: {count} of {of} {kind} faces refused ({:.2} %)", 100.0 * count as f64 / of.max(1) as f64);
    }
    Ok(())
}

/// The name each face is put under: a share of them are drawn and handed on in a ring, in a drawn order, past those
/// that would get their own name back.
fn exchanged(samples: &[Sample], share: f64, random: &mut Random) -> Vec<String> {
    let mut names: Vec<String> = samples.iter().map(|sample| sample.person.clone()).collect();
    let count = (share * samples.len() as f64).round() as usize;
    let drawn: Vec<usize> = random.order(samples.len()).into_iter().take(count).collect();
    for (step, &at) in drawn.iter().enumerate() {
        let others = (1..count).map(|ahead| drawn[(step + ahead) % count]);
        if let Some(to) = others.map(|to| &samples[to].person).find(|person| **person != samples[at].person) {
            names[at] = to.clone();
        }
    }
    names
}
