//! `eval lfw`: LFW from its photos.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::eval::faces::{FaceError, Finder, features_of, read_photo};
use crate::eval::folds::{Verification, verify};
use crate::eval::lfw::{PairList, PhotoId};
use crate::eval::roc::Roc;
use clap::Args;
use serde_json::json;
use vultus_engine::detect::DetectorKind;
use vultus_engine::evaluate::{Degradation, Resampling, Step};
use vultus_engine::face::Feature;
use vultus_engine::random::Random;

use super::network::Network;
use super::output::{Output, percent, progress, roc_panel, table};
use super::verify::{RATES, distances, figures, roc};

/// What `--side` can shrink crops to.
const SIDES: [(u32, Degradation); 3] = [
    (28, shrunk(&[Step::Shrink { least: 28, most: 28, by: Resampling::Area }])),
    (20, shrunk(&[Step::Shrink { least: 20, most: 20, by: Resampling::Area }])),
    (14, shrunk(&[Step::Shrink { least: 14, most: 14, by: Resampling::Area }])),
];

const fn shrunk(steps: &'static [Step]) -> Degradation {
    Degradation { name: "side", about: "shrunk and enlarged again", steps }
}

/// Accuracy in the ten folds of pairs.txt, with flip fusion. Photos in which no face is found, and damaged ones, are
/// counted, and their pairs are decided as of two persons.
#[derive(Debug, Args)]
pub(super) struct Lfw {
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    output: Output,
    /// The list of pairs [default: pairs.txt in the folder]
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// Who looks for faces: yunet, mtcnn or mtcnn_compat
    #[arg(long, default_value = "yunet", value_parser = detector)]
    detector: DetectorKind,
    /// Shrink aligned crops to a side of 28, 20 or 14 pixels and enlarge them again
    #[arg(long, value_name = "PIXELS", value_parser = side)]
    side: Option<u32>,
    /// Features without those of mirror images
    #[arg(long)]
    no_flip: bool,
    /// The folder with one folder a person
    folder: PathBuf,
}

fn detector(text: &str) -> Result<DetectorKind, String> {
    serde_json::from_value(text.into()).map_err(|_| "one of yunet, mtcnn, mtcnn_compat".to_owned())
}

fn side(text: &str) -> Result<u32, String> {
    let side = text.parse().ok().filter(|side| SIDES.iter().any(|(known, _)| known == side));
    side.ok_or_else(|| "28, 20 or 14".to_owned())
}

impl Lfw {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let list = PairList::read(&self.pairs.clone().unwrap_or_else(|| self.folder.join("pairs.txt")))?;
        let device = self.network.device()?;
        let model = self.network.load(!self.no_flip, &device)?;
        let finder = Finder::new(self.detector, &device)?;
        let photos = list.photos();
        let degradation = SIDES.iter().find(|(side, _)| Some(*side) == self.side).map(|(_, degradation)| degradation);
        let bar = progress(photos.len(), "photos");
        let damaged = Mutex::new(Vec::new());
        let crop = |photo: &PhotoId| -> Result<_, FaceError> {
            let picture = match read_photo(&photo.path(&self.folder)) {
                Err(error @ FaceError::Damaged { .. }) => {
                    bar.suspend(|| eprintln!("{error}"));
                    damaged.lock().unwrap_or_else(PoisonError::into_inner).push(name(photo));
                    return Ok(None);
                }
                picture => picture?,
            };
            let crop = finder.crop(&picture)?;
            Ok(match (crop, degradation) {
                // Shrinking draws nothing, and only compression can fail.
                (Some(crop), Some(degradation)) => Some(degradation.apply(&crop, &mut Random::new(0)).unwrap_or(crop)),
                (crop, _) => crop,
            })
        };
        let features = features_of(&model, &photos, crop, |done| bar.inc(done as u64));
        bar.finish_and_clear();
        let features = features?;
        let mut damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
        damaged.sort();
        let outcome = Outcome::of(&list, &photos, &features)?;

        let mut rows = vec![vec!["fold".to_owned(), "accuracy".to_owned(), "threshold".to_owned()]];
        let verification = &outcome.verification;
        for (fold, (accuracy, threshold)) in verification.accuracies.iter().zip(&verification.thresholds).enumerate() {
            rows.push(vec![(fold + 1).to_string(), percent(Some(*accuracy)), format!("{threshold:.2}")]);
        }
        let mean = format!("{} ± {}", percent(Some(verification.accuracy())), percent(Some(verification.deviation())));
        rows.push(vec!["mean".to_owned(), mean, format!("{:.3}", verification.threshold())]);
        let tar = outcome.roc.tar_at(RATES[0]).map(|point| point.tar);
        let text = format!(
            "LFW, {}{}\n\n{}\nno face found: {} of {} photos ({} damaged), in {} of {} pairs; accuracy without these pairs: {}\n\
             TAR@FAR=1e-3: {}\n",
            model.id(),
            self.side.map_or_else(String::new, |side| format!(", crops of {side} px")),
            table(&rows),
            outcome.faces_not_found.len(),
            photos.len(),
            damaged.len(),
            outcome.pairs_without_face,
            list.pairs.len(),
            percent(outcome.found_only.as_ref().map(Verification::accuracy)),
            percent(tar),
        );
        let document = json!({
            "protocol": "lfw",
            "model_id": model.id().to_string(),
            "detector": self.detector,
            "side_px": self.side,
            "pairs": list.pairs.len(),
            "photos": photos.len(),
            "photos_damaged": damaged,
            "faces_not_found": outcome.faces_not_found.iter().map(name).collect::<Vec<_>>(),
            "pairs_without_face": outcome.pairs_without_face,
            "accuracy_of_pairs_with_faces": outcome.found_only.as_ref().map(Verification::accuracy),
            "verification": figures(verification, &outcome.roc),
        });
        let panel = roc_panel("LFW: ROC".to_owned(), RATES[0], &[("LFW", &outcome.roc)]);
        self.output.write(&text, &document, &[panel])
    }
}

/// A photo for lists.
fn name(photo: &PhotoId) -> String {
    format!("{} {}", photo.name, photo.number)
}

/// What came of the pairs.
struct Outcome {
    faces_not_found: Vec<PhotoId>,
    pairs_without_face: usize,
    verification: Verification,
    /// Of the pairs with both faces.
    found_only: Option<Verification>,
    roc: Roc,
}

impl Outcome {
    fn of(list: &PairList, photos: &[PhotoId], features: &[Option<Feature>]) -> anyhow::Result<Self> {
        let by_photo: HashMap<&PhotoId, Option<&Feature>> =
            photos.iter().zip(features.iter().map(Option::as_ref)).collect();
        let feature = |photo: &PhotoId| by_photo.get(photo).copied().flatten();
        let pairs: Vec<[Option<&Feature>; 2]> =
            list.pairs.iter().map(|pair| [feature(&pair.photos[0]), feature(&pair.photos[1])]).collect();
        let distances = distances(&pairs);
        let same: Vec<bool> = list.pairs.iter().map(|pair| pair.same).collect();
        let folds: Vec<usize> = list.pairs.iter().map(|pair| pair.fold).collect();
        let found: Vec<usize> = (0..pairs.len()).filter(|&pair| distances[pair].is_finite()).collect();
        let found_only = verify(
            &found.iter().map(|&pair| distances[pair]).collect::<Vec<_>>(),
            &found.iter().map(|&pair| same[pair]).collect::<Vec<_>>(),
            &found.iter().map(|&pair| folds[pair]).collect::<Vec<_>>(),
            list.folds,
        );
        let missing = photos.iter().zip(features).filter(|(_, feature)| feature.is_none());
        Ok(Self {
            faces_not_found: missing.map(|(photo, _)| photo.clone()).collect(),
            pairs_without_face: pairs.len() - found.len(),
            verification: verify(&distances, &same, &folds, list.folds)?,
            found_only: found_only.ok(),
            roc: roc(&distances, &same)?,
        })
    }
}
