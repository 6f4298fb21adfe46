//! `eval lfw`: LFW from its photos, whole and shrunk.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::eval::faces::{FaceError, Finder, features, mirrored, read_photo, with_mirrored};
use crate::eval::folds::Verification;
use crate::eval::lfw::{PairList, PhotoId};
use clap::Args;
use rayon::prelude::*;
use serde_json::{Value, json};
use vultus_engine::align::{AlignedCrop, SIZE};
use vultus_engine::detect::DetectorKind;
use vultus_engine::evaluate::chart::{Axis, Curve, Panel};
use vultus_engine::evaluate::{Degradation, Resampling, Step};
use vultus_engine::face::Feature;
use vultus_engine::model::Model;
use vultus_engine::random::Random;

use super::lfw_side::{Photos, SideOutcome};
use super::network::Network;
use super::output::{Output, cmc_panel, percent, progress, roc_panel, table};
use super::verify::RATES;

/// Photos that are read and looked at together.
const AT_ONCE: usize = 64;

/// What `--side` can shrink crops to.
const SIDES: [(u32, Degradation); 3] = [
    (28, shrunk(&[Step::Shrink { least: 28, most: 28, by: Resampling::Area }])),
    (20, shrunk(&[Step::Shrink { least: 20, most: 20, by: Resampling::Area }])),
    (14, shrunk(&[Step::Shrink { least: 14, most: 14, by: Resampling::Area }])),
];

const fn shrunk(steps: &'static [Step]) -> Degradation {
    Degradation { name: "side", about: "shrunk and enlarged again", steps }
}

/// Accuracy in the ten folds of pairs.txt, identification of everybody in it, and norms, with flip fusion. Photos in which
/// no face is found, and damaged ones, are counted; their pairs are decided as of two persons, and they find nobody.
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
    /// Beside whole crops, such that are shrunk to sides of 28, 20 or 14 pixels and enlarged again
    #[arg(long, value_name = "PIXELS,…", value_parser = side, value_delimiter = ',')]
    side: Vec<u32>,
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

/// Features of all photos at one side.
#[derive(Default)]
struct Look {
    /// What is compared, with flip fusion or without.
    compared: Vec<Option<Feature>>,
    /// Norms of the crops themselves.
    norms: Vec<f64>,
}

impl Lfw {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let list = PairList::read(&self.pairs.clone().unwrap_or_else(|| self.folder.join("pairs.txt")))?;
        let device = self.network.device()?;
        let model = self.network.load(false, &device)?;
        let finder = Finder::new(self.detector, &device)?;
        let photos = list.photos();
        let mut sides: Vec<(u32, Option<Degradation>)> = vec![(SIZE, None)];
        sides.extend(
            SIDES.into_iter().filter(|(side, _)| self.side.contains(side)).map(|(side, how)| (side, Some(how))),
        );

        let bar = progress(photos.len(), "photos");
        let damaged = Mutex::new(Vec::new());
        let crop = |photo: &PhotoId| -> Result<Option<AlignedCrop>, FaceError> {
            match read_photo(&photo.path(&self.folder)) {
                Err(error @ FaceError::Damaged { .. }) => {
                    bar.suspend(|| eprintln!("{error}"));
                    damaged.lock().unwrap_or_else(PoisonError::into_inner).push(name(photo));
                    Ok(None)
                }
                picture => finder.crop(&picture?),
            }
        };
        let mut looks: Vec<Look> = sides.iter().map(|_| Look::default()).collect();
        for photos in photos.chunks(AT_ONCE) {
            let crops: Vec<Option<AlignedCrop>> = photos.par_iter().map(&crop).collect::<Result<_, _>>()?;
            for (look, (_, degradation)) in looks.iter_mut().zip(&sides) {
                self.look(&model, &crops, degradation.as_ref(), look)?;
            }
            bar.inc(photos.len() as u64);
        }
        bar.finish_and_clear();
        let mut damaged = damaged.into_inner().unwrap_or_else(PoisonError::into_inner);
        damaged.sort();

        let whole = &looks[0];
        let photos = Photos { list: &list, photos: &photos, whole: &whole.compared, norms: &whole.norms };
        let outcomes: Vec<SideOutcome> = sides
            .iter()
            .zip(&looks)
            .map(|((side, _), look)| SideOutcome::new(&photos, *side, &look.compared, &look.norms))
            .collect::<anyhow::Result<_>>()?;
        self.tell(&model, &photos, &damaged, &outcomes)
    }

    /// Adds the features of some crops.
    fn look(
        &self,
        model: &Model,
        crops: &[Option<AlignedCrop>],
        degradation: Option<&Degradation>,
        look: &mut Look,
    ) -> anyhow::Result<()> {
        let there: Vec<AlignedCrop> = crops
            .par_iter()
            .flatten()
            // Shrinking draws nothing, and only compression can fail.
            .map(|crop| {
                degradation.and_then(|how| how.apply(crop, &mut Random::new(0)).ok()).unwrap_or_else(|| crop.clone())
            })
            .collect();
        let plain = features(model, &there)?;
        let flipped = if self.no_flip {
            None
        } else {
            let mirrored: Vec<AlignedCrop> = there.iter().map(mirrored).collect::<Result<_, _>>()?;
            Some(features(model, &mirrored)?)
        };
        let mut found = plain.into_iter().enumerate().map(|(at, plain)| {
            let norm = plain.as_ref().map(|plain| f64::from(plain.norm));
            let compared = match &flipped {
                Some(flipped) => {
                    plain.zip(flipped[at].as_ref()).and_then(|(plain, flipped)| with_mirrored(&plain, flipped))
                }
                None => plain,
            };
            (compared, norm)
        });
        for crop in crops {
            let (compared, norm) = crop.as_ref().and_then(|_| found.next()).unwrap_or_default();
            look.compared.push(compared);
            look.norms.extend(norm);
        }
        Ok(())
    }

    fn tell(
        &self,
        model: &Model,
        photos: &Photos<'_>,
        damaged: &[String],
        outcomes: &[SideOutcome],
    ) -> anyhow::Result<()> {
        let without: Vec<String> = photos
            .photos
            .iter()
            .zip(photos.whole)
            .filter(|(_, found)| found.is_none())
            .map(|(one, _)| name(one))
            .collect();
        let whole = &outcomes[0];
        let flip = if self.no_flip { "without flip fusion" } else { "with flip fusion" };
        let mut text = format!(
            "LFW, {}, {flip}\nno face found: {} of {} photos ({} damaged), in {} of {} pairs; accuracy without these pairs: {}\n",
            model.id(),
            without.len(),
            photos.photos.len(),
            damaged.len(),
            whole.pairs_without_face,
            photos.list.pairs.len(),
            percent(whole.found_only.as_ref().map(Verification::accuracy)),
        );
        if let [only] = outcomes {
            text += &format!("\n{}", folds(&only.verification));
        }
        text += &format!("\n{}", self::sides(outcomes));
        let gallery = whole.identification.as_ref().map_or(0, |found| found.gallery);
        let probes = whole.identification.as_ref().map_or(0, |found| found.probes);
        text += &format!(
            "\nrank 1 and 5: {probes} photos at the side of the row, searched among the whole first photos of {gallery} persons\n\
             norms: of crops alone; separation: how often that of a whole photo is higher than that of one at this side\n"
        );
        let document = json!({
            "protocol": "lfw",
            "model_id": model.id().to_string(),
            "flip": !self.no_flip,
            "detector": self.detector,
            "pairs": photos.list.pairs.len(),
            "photos": photos.photos.len(),
            "photos_damaged": damaged,
            "faces_not_found": without,
            "pairs_without_face": whole.pairs_without_face,
            "accuracy_of_pairs_with_faces": whole.found_only.as_ref().map(Verification::accuracy),
            "sides": outcomes.iter().map(SideOutcome::document).collect::<Vec<Value>>(),
        });
        let names: Vec<String> = outcomes.iter().map(|outcome| format!("{} px", outcome.side)).collect();
        let named = || names.iter().map(String::as_str).zip(outcomes);
        let rocs: Vec<_> = named().map(|(name, outcome)| (name, &outcome.roc)).collect();
        let cmcs =
            named().filter_map(|(name, outcome)| Some(Curve { name, points: outcome.identification.as_ref()?.cmc() }));
        let norms: Vec<Curve<'_>> =
            named().map(|(name, outcome)| Curve { name, points: outcome.distribution.clone() }).collect();
        let across = Axis::values("norm", norms.iter().flat_map(|curve| curve.points.iter().map(|point| point.0)));
        self.output.write(
            &text,
            &document,
            &[
                roc_panel("LFW: ROC".to_owned(), RATES[0], &rocs),
                cmc_panel("LFW: CMC".to_owned(), cmcs.collect()),
                Panel {
                    title: "LFW: norms up to".to_owned(),
                    across,
                    up: Axis::shares("photos", [0.0]),
                    curves: norms,
                },
            ],
        )
    }
}

/// The folds of one side.
fn folds(verification: &Verification) -> String {
    let mut rows = vec![vec!["fold".to_owned(), "accuracy".to_owned(), "threshold".to_owned()]];
    for (fold, (accuracy, threshold)) in verification.accuracies.iter().zip(&verification.thresholds).enumerate() {
        rows.push(vec![(fold + 1).to_string(), percent(Some(*accuracy)), format!("{threshold:.2}")]);
    }
    table(&rows)
}

/// A row for each side.
fn sides(outcomes: &[SideOutcome]) -> String {
    let header = ["side", "accuracy", "threshold", "TAR@FAR=1e-3", "rank 1", "rank 5", "norm", "separation"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(outcomes.iter().map(|outcome| {
        let verification = &outcome.verification;
        let rank = |at: usize| percent(outcome.identification.as_ref().map(|found| found.ranks[at].1));
        let norm = outcome.norms.as_ref();
        vec![
            format!("{} px", outcome.side),
            format!("{} ± {}", percent(Some(verification.accuracy())), percent(Some(verification.deviation()))),
            format!("{:.3}", verification.threshold()),
            percent(outcome.roc.tar_at(RATES[0]).map(|point| point.tar)),
            rank(0),
            rank(1),
            norm.map_or_else(|| "–".to_owned(), |norm| format!("{:.2} ± {:.2}", norm.mean, norm.std)),
            outcome.separation.map_or_else(|| "–".to_owned(), |share| format!("{share:.3}")),
        ]
    }));
    table(&rows)
}

/// A photo for lists.
fn name(photo: &PhotoId) -> String {
    format!("{} {}", photo.name, photo.number)
}
