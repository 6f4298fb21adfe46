//! `eval verify`: the verification sets of InsightFace.

use std::path::PathBuf;

use crate::eval::bin_set::{BinSet, FIVE_SETS};
use crate::eval::faces::{FaceError, features_of};
use crate::eval::folds::{Verification, ten_folds};
use crate::eval::roc::{Roc, TarAtFar};
use anyhow::Context;
use clap::Args;
use serde_json::json;
use vultus_engine::align::AlignedCrop;
use vultus_engine::face::Feature;
use vultus_engine::image::{DecodeLimits, decode};
use vultus_engine::model::Model;

use super::network::Network;
use super::output::{Output, percent, progress, roc_panel, table};

/// False accept rates that sets of some thousand pairs carry.
pub(super) const RATES: [f64; 3] = [1e-3, 1e-2, 1e-1];

/// Accuracy in ten folds on sets of pairs, with flip fusion.
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    output: Output,
    /// .bin files, or a folder with the five sets that papers report
    #[arg(required = true, value_name = "FILE|FOLDER")]
    sets: Vec<PathBuf>,
}

/// A set and what came of it.
struct Outcome {
    title: String,
    pairs: usize,
    without_feature: usize,
    verification: Verification,
    roc: Roc,
}

impl Verify {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let sets = sets(&self.sets)?;
        let device = self.network.device()?;
        let model = self.network.load(true, &device)?;
        let mut outcomes = Vec::new();
        for (title, path) in sets {
            let set = BinSet::read(&path)?;
            outcomes.push(evaluate(title, &set, &model).with_context(|| path.display().to_string())?);
        }
        let average = average(&outcomes);
        let mut header = vec![String::new()];
        let mut accuracies = vec![model.id().to_string()];
        for outcome in &outcomes {
            header.push(outcome.title.clone());
            accuracies.push(percent(Some(outcome.verification.accuracy())));
        }
        header.push("AVG".to_owned());
        accuracies.push(percent(average));
        let mut text = table(&[header, accuracies]);
        let mut details =
            vec![["set", "pairs", "accuracy", "std", "threshold", "TAR@FAR=1e-3"].map(str::to_owned).to_vec()];
        details.extend(outcomes.iter().map(|outcome| {
            let verification = &outcome.verification;
            vec![
                outcome.title.clone(),
                outcome.pairs.to_string(),
                percent(Some(verification.accuracy())),
                percent(Some(verification.deviation())),
                format!("{:.3}", verification.threshold()),
                percent(outcome.roc.tar_at(RATES[0]).map(|point| point.tar)),
            ]
        }));
        text += &format!("\n{}", table(&details));
        let document = json!({
            "protocol": "verify",
            "model_id": model.id().to_string(),
            "sets": outcomes.iter().map(|outcome| json!({
                "set": outcome.title,
                "pairs": outcome.pairs,
                "images_without_feature": outcome.without_feature,
                "verification": figures(&outcome.verification, &outcome.roc),
            })).collect::<Vec<_>>(),
            "average": average,
        });
        let curves: Vec<(&str, &Roc)> = outcomes.iter().map(|outcome| (outcome.title.as_str(), &outcome.roc)).collect();
        self.output.write(&text, &document, &[roc_panel("Verification: ROC".to_owned(), RATES[0], &curves)])
    }
}

/// Titles and files. Of a folder, the sets that are there; each that is missing is told on stderr.
fn sets(given: &[PathBuf]) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut sets = Vec::new();
    for path in given {
        if !path.is_dir() {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let known = FIVE_SETS.iter().find(|(name, _)| *name == stem);
            sets.push((known.map_or(stem, |(_, title)| (*title).to_owned()), path.clone()));
            continue;
        }
        for (name, title) in FIVE_SETS {
            let file = path.join(format!("{name}.bin"));
            if file.is_file() {
                sets.push((title.to_owned(), file));
            } else {
                eprintln!("{title} is left out: {} is not there", file.display());
            }
        }
    }
    anyhow::ensure!(!sets.is_empty(), "there is no verification set in {}", given[0].display());
    Ok(sets)
}

fn evaluate(title: String, set: &BinSet, model: &Model) -> anyhow::Result<Outcome> {
    let bar = progress(set.len(), "images");
    let images: Vec<usize> = (0..set.len()).collect();
    let crop = |&number: &usize| {
        let picture = decode(&set.image(number), &DecodeLimits::default())
            .map_err(|source| FaceError::Decode { number, source })?;
        Ok(Some(AlignedCrop::new(picture)?))
    };
    let features = features_of(model, &images, crop, |done| bar.inc(done as u64))?;
    bar.finish_and_clear();
    let pairs: Vec<[Option<&Feature>; 2]> =
        features.as_chunks().0.iter().map(|[a, b]| [a.as_ref(), b.as_ref()]).collect();
    let distances = distances(&pairs);
    Ok(Outcome {
        title,
        pairs: set.same().len(),
        without_feature: features.iter().filter(|feature| feature.is_none()).count(),
        verification: ten_folds(&distances, set.same())?,
        roc: roc(&distances, set.same())?,
    })
}

/// The mean of the five sets that papers average. `None` unless it is those five.
fn average(outcomes: &[Outcome]) -> Option<f64> {
    let accuracy = |title: &str| {
        let outcome = outcomes.iter().find(|outcome| outcome.title == title)?;
        Some(outcome.verification.accuracy())
    };
    let all: Option<Vec<f64>> = FIVE_SETS.iter().map(|(_, title)| accuracy(title)).collect();
    let all = all.filter(|_| outcomes.len() == FIVE_SETS.len())?;
    Some(all.iter().sum::<f64>() / all.len() as f64)
}

/// Squared distances of the embeddings of pairs; infinite where one is missing.
pub(super) fn distances(pairs: &[[Option<&Feature>; 2]]) -> Vec<f64> {
    let squared = |a: &Feature, b: &Feature| {
        a.embedding.iter().zip(&b.embedding).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum()
    };
    pairs
        .iter()
        .map(|pair| match pair {
            [Some(a), Some(b)] => squared(a, b),
            _ => f64::INFINITY,
        })
        .collect()
}

/// The ROC of the cosines of pairs. A pair with an infinite distance has a score below all cosines.
pub(super) fn roc(distances: &[f64], same: &[bool]) -> anyhow::Result<Roc> {
    let score = |distance: &f64| if distance.is_finite() { 1.0 - distance / 2.0 } else { -2.0 };
    Ok(Roc::new(&distances.iter().map(score).collect::<Vec<_>>(), same)?)
}

/// Figures of a set of pairs as JSON.
pub(super) fn figures(verification: &Verification, roc: &Roc) -> serde_json::Value {
    let rates: Vec<TarAtFar> = roc.table(&RATES);
    json!({
        "accuracy": verification.accuracy(),
        "deviation": verification.deviation(),
        "threshold_squared_distance": verification.threshold(),
        "folds": verification,
        "area_under_roc": roc.area(),
        "tar_at_far": rates,
    })
}
