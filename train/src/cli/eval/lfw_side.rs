//! What came of LFW's photos at one side.

use std::collections::HashMap;

use crate::eval::Rows;
use crate::eval::folds::{Verification, verify};
use crate::eval::lfw::{ClosedSet, PairList, PhotoId};
use crate::eval::norms::{NormSpread, distribution, separation};
use crate::eval::roc::Roc;
use crate::eval::search::{Labelled, Search, Ties, search_all};
use serde_json::{Value, json};
use vultus_engine::align::SIZE;
use vultus_engine::face::Feature;

use super::verify::{distances, figures, roc};

/// Ranks that are reported.
const RANKS: [usize; 3] = [1, 5, 10];
/// Points of a distribution that are drawn.
const POINTS: usize = 200;

/// The photos, and their features as they are.
pub(super) struct Photos<'a> {
    pub(super) list: &'a PairList,
    pub(super) photos: &'a [PhotoId],
    pub(super) whole: &'a [Option<Feature>],
    /// Of those with a face.
    pub(super) norms: &'a [f64],
}

/// What came of it.
pub(super) struct SideOutcome {
    pub(super) side: u32,
    pub(super) pairs_without_face: usize,
    pub(super) verification: Verification,
    /// Of the pairs with both faces.
    pub(super) found_only: Option<Verification>,
    pub(super) roc: Roc,
    /// None where nobody has two photos and a face.
    pub(super) identification: Option<Identification>,
    /// None where no face is found.
    pub(super) norms: Option<NormSpread>,
    /// How often a whole photo has a higher norm.
    pub(super) separation: Option<f64>,
    /// Norms with the share of photos up to each.
    pub(super) distribution: Vec<(f64, f64)>,
}

/// Searches for all photos but the one that is enrolled.
pub(super) struct Identification {
    pub(super) gallery: usize,
    pub(super) probes: usize,
    pub(super) probes_without_face: usize,
    /// Ranks with the share of all probes whose mate comes up to there.
    pub(super) ranks: Vec<(usize, f64)>,
    searches: Vec<Search>,
}

impl SideOutcome {
    /// `features` and `norms` are those of the photos shrunk to the side.
    pub(super) fn new(
        photos: &Photos<'_>,
        side: u32,
        features: &[Option<Feature>],
        norms: &[f64],
    ) -> anyhow::Result<Self> {
        let list = photos.list;
        let by_photo: HashMap<&PhotoId, Option<&Feature>> =
            photos.photos.iter().zip(features.iter().map(Option::as_ref)).collect();
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
        Ok(Self {
            side,
            pairs_without_face: pairs.len() - found.len(),
            verification: verify(&distances, &same, &folds, list.folds)?,
            found_only: found_only.ok(),
            roc: roc(&distances, &same)?,
            identification: Identification::new(photos, features)?,
            norms: NormSpread::new(norms).ok(),
            separation: if side == SIZE { None } else { separation(photos.norms, norms).ok() },
            distribution: distribution(norms, POINTS).unwrap_or_default(),
        })
    }

    /// As JSON.
    pub(super) fn document(&self) -> Value {
        json!({
            "side_px": self.side,
            "verification": figures(&self.verification, &self.roc),
            "identification": self.identification.as_ref().map(|found| json!({
                "gallery": found.gallery,
                "probes": found.probes,
                "probes_without_face": found.probes_without_face,
                "ranks": found.ranks,
            })),
            "norms": self.norms,
            "norms_below_whole": self.separation,
        })
    }
}

impl Identification {
    fn new(photos: &Photos<'_>, features: &[Option<Feature>]) -> anyhow::Result<Option<Self>> {
        let has_face: Vec<bool> = photos.whole.iter().map(Option::is_some).collect();
        let set = ClosedSet::new(photos.photos, &has_face);
        // Persons by number: photos are sorted by name.
        let mut persons = Vec::with_capacity(photos.photos.len());
        for (at, photo) in photos.photos.iter().enumerate() {
            let same = at > 0 && photos.photos[at - 1].name == photo.name;
            persons.push(persons.last().map_or(0, |last: &i64| last + i64::from(!same)));
        }
        let labelled = |places: &[usize], features: &[Option<Feature>]| -> anyhow::Result<Option<Labelled>> {
            let found: Vec<(usize, &Feature)> =
                places.iter().filter_map(|place| Some((*place, features[*place].as_ref()?))).collect();
            let Some((_, first)) = found.first() else { return Ok(None) };
            let values = found.iter().flat_map(|(_, feature)| feature.embedding.iter().map(|value| f64::from(*value)));
            let rows = Rows::new("feature", first.embedding.len(), values.collect())?;
            Ok(Some(Labelled::new(rows, found.iter().map(|(place, _)| persons[*place]).collect())?))
        };
        let (gallery, probes) = (labelled(&set.gallery, photos.whole)?, labelled(&set.probes, features)?);
        let Some((gallery, probes)) = gallery.zip(probes) else { return Ok(None) };
        let searches = search_all(&probes, &gallery, Ties::AgainstMate)?;
        let share = |rank: usize| {
            let found = searches.iter().filter(|search| search.mate.is_some_and(|mate| mate.rank <= rank));
            found.count() as f64 / set.probes.len() as f64
        };
        let ranks = RANKS.map(|rank| (rank, share(rank))).to_vec();
        let probes_without_face = set.probes.len() - probes.len();
        Ok(Some(Self { gallery: gallery.len(), probes: set.probes.len(), probes_without_face, ranks, searches }))
    }

    /// Ranks from 1 with the share of all probes found up to there.
    pub(super) fn cmc(&self) -> Vec<(f64, f64)> {
        let seen = self.searches.len() as f64 / self.probes as f64;
        crate::eval::search::cmc(&self.searches, 20).into_iter().map(|(rank, share)| (rank, share * seen)).collect()
    }
}
