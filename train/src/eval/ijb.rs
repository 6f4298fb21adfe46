//! IJB-B and IJB-C: verification of templates (1:1) and identification (1:N), as the InsightFace toolbox evaluates them.
//!
//! Sources: Whitelam et al. 2017, "IARPA Janus Benchmark-B"; Maze et al. 2018, "IARPA Janus Benchmark-C"; the evaluation
//! code that AdaFace and others publish their figures with. In the identification of that code both galleries are one,
//! every probe is mated, and the thresholds of "FAR" come from the number of probes and all non-mate scores together. That
//! is no FPIR; [`trade_off`](super::trade_off) has the rates that are.

use rayon::prelude::*;
use serde::Serialize;

use super::media::{Templates, fuse_media};
use super::rows::dot;
use super::search::{self, Labelled, Search, Ties, shares_at_ranks};
use super::{EvalError, Rows};

/// Ranks that are reported.
pub const RANKS: [usize; 3] = [1, 5, 10];
/// "False accept rates" that are reported.
pub const FARS: [f64; 2] = [0.01, 0.1];
/// Probes whose scores are in memory at a time, for each thread.
const PROBES_AT_ONCE: usize = 64;

/// Scores of pairs of templates, given by their ids.
///
/// # Errors
/// [`EvalError::UnknownTemplate`] for an id without images.
pub fn verification_scores(templates: &Templates, pairs: &[(i64, i64)]) -> Result<Vec<f64>, EvalError> {
    let row = |id: i64| {
        let place = templates.position(id).ok_or(EvalError::UnknownTemplate(id))?;
        Ok(templates.vectors.row(place))
    };
    pairs.par_iter().map(|&(a, b)| Ok(dot(row(a)?, row(b)?))).collect()
}

/// The templates of a list of templates and subjects, with how many of them are empty. Of a template that is listed
/// twice the first subject counts.
///
/// # Errors
/// As [`fuse_media`].
pub fn labelled_templates<T: Copy + Into<f64> + Sync>(
    images: &Rows<T>,
    templates: &[i64],
    media: &[i64],
    records: &[(i64, i64)],
) -> Result<(Labelled, usize), EvalError> {
    let chosen: Vec<i64> = records.iter().map(|(template, _)| *template).collect();
    let made = fuse_media(images, templates, media, Some(&chosen))?;
    let mut first = records.to_vec();
    // Stable, so that the first record of a template stays the first.
    first.sort_by_key(|(template, _)| *template);
    first.dedup_by_key(|(template, _)| *template);
    let subjects = first.into_iter().map(|(_, subject)| subject).collect();
    Ok((Labelled::new(made.vectors, subjects)?, made.empty))
}

/// Share of probes whose mate scores above a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Retrieval {
    /// The "false accept rate" that was asked for.
    pub far: f64,
    /// The threshold: of all non-mate scores that with the place ⌈probes · far⌉ from above. `None` where there are
    /// fewer.
    pub threshold: Option<f64>,
    /// Share of probes whose mate scores above it, not at it.
    pub recall: Option<f64>,
}

/// Outcome of the identification protocol.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Identification {
    /// How many probes there are.
    pub probes: usize,
    /// How many templates are enrolled.
    pub gallery: usize,
    /// Ranks with the share of probes whose mate is found up to there.
    pub ranks: Vec<(usize, f64)>,
    /// Recall at thresholds.
    pub retrieval: Vec<Retrieval>,
    /// Each search.
    #[serde(skip)]
    pub searches: Vec<Search>,
}

/// Identifies probes in a gallery. Equal scores count in the order of the gallery.
///
/// # Errors
/// [`EvalError::Mates`] unless every probe has exactly one mate; [`EvalError::None`] and [`EvalError::Length`] as
/// [`search_all`](super::search::search_all).
pub fn identify(probes: &Labelled, gallery: &Labelled) -> Result<Identification, EvalError> {
    search::check(probes, gallery)?;
    let count = probes.len() as f64;
    let places: Vec<usize> = FARS.iter().map(|far| (count * far).ceil() as usize).collect();
    let most = places.iter().copied().max().unwrap_or(0);
    let block = |first: usize| {
        let last = (first + PROBES_AT_ONCE).min(probes.len());
        let (mut searches, mut others) = (Vec::with_capacity(last - first), Vec::new());
        for probe in first..last {
            let scores = gallery.scores(probes.vectors().row(probe));
            let is_mate = |place: usize| gallery.subjects()[place] == probes.subjects()[probe];
            searches.push(search::search(&scores, is_mate, Ties::EarlierFirst));
            others.extend(scores.iter().enumerate().filter(|(place, _)| !is_mate(*place)).map(|(_, score)| *score));
        }
        keep_highest(&mut others, most);
        (searches, others)
    };
    let starts: Vec<usize> = (0..probes.len()).step_by(PROBES_AT_ONCE).collect();
    let blocks: Vec<(Vec<Search>, Vec<f64>)> = starts.into_par_iter().map(block).collect();
    let (mut searches, mut others) = (Vec::with_capacity(probes.len()), Vec::new());
    for (found, scores) in blocks {
        searches.extend(found);
        others.extend(scores);
        keep_highest(&mut others, most);
    }
    if let Some(probe) = searches.iter().position(|search| search.mates != 1) {
        return Err(EvalError::Mates { probe, mates: searches[probe].mates, expected: "exactly once" });
    }
    others.sort_unstable_by(|a, b| b.total_cmp(a));
    let retrieval = FARS.iter().zip(places).map(|(far, place)| {
        let threshold = place.checked_sub(1).and_then(|at| others.get(at)).copied();
        let above =
            |threshold: f64| searches.iter().filter(|s| s.mate.is_some_and(|mate| mate.score > threshold)).count();
        Retrieval { far: *far, threshold, recall: threshold.map(|threshold| above(threshold) as f64 / count) }
    });
    let retrieval = retrieval.collect();
    let shares = shares_at_ranks(&searches, &RANKS).unwrap_or_default();
    Ok(Identification {
        probes: probes.len(),
        gallery: gallery.len(),
        ranks: RANKS.into_iter().zip(shares).collect(),
        retrieval,
        searches,
    })
}

/// Leaves the highest `most` values, in any order.
fn keep_highest(values: &mut Vec<f64>, most: usize) {
    if values.len() > most && most > 0 {
        values.select_nth_unstable_by(most - 1, |a, b| b.total_cmp(a));
        values.truncate(most);
    }
}
