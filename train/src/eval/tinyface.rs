//! TinyFace: faces of some 20 pixels among 153,428 others (Cheng et al. 2018, "Low-Resolution Face Recognition").
//!
//! Probes are searched for in the matching gallery and the distractors together. Features are unit vectors of flip
//! fusion. Who a face is stands in its file name, before the first underscore; distractors are nobody.

use std::path::Path;

use serde::Serialize;

use super::EvalError;
use super::dir_far::{Rule, closed_set};
use super::search::{Labelled, Search, Ties, search_all};

/// Ranks that are reported.
pub const RANKS: [usize; 3] = [1, 5, 20];
/// Stands for the subject of a distractor.
pub const DISTRACTOR: i64 = -100;

/// Outcome of the protocol.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TinyFace {
    /// How many probes there are.
    pub probes: usize,
    /// How many of them have a mate.
    pub mated: usize,
    /// How many faces are in the gallery, distractors included.
    pub gallery: usize,
    /// Ranks with the share of mated probes that have a mate up to there. `None` without mated probes.
    pub ranks: Vec<(usize, Option<f64>)>,
    /// Each search.
    #[serde(skip)]
    pub searches: Vec<Search>,
}

/// Searches the gallery with the probes. Of equal scores the one that is later in the gallery comes first.
///
/// # Errors
/// As [`search_all`].
pub fn identify(probes: &Labelled, gallery: &Labelled) -> Result<TinyFace, EvalError> {
    let searches = search_all(probes, gallery, Ties::LaterFirst)?;
    let shares = closed_set(&searches, &RANKS, Rule::TINYFACE)?;
    Ok(TinyFace {
        probes: probes.len(),
        mated: searches.iter().filter(|search| search.mate.is_some()).count(),
        gallery: gallery.len(),
        ranks: RANKS.iter().enumerate().map(|(at, rank)| (*rank, shares.as_ref().map(|all| all[at]))).collect(),
        searches,
    })
}

/// The subject that a file's name tells.
///
/// # Errors
/// [`EvalError::File`] where the name does not begin with a number and an underscore.
pub fn subject_of(path: &Path) -> Result<i64, EvalError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = name.split('_').next().filter(|number| number.len() < name.len());
    number
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| EvalError::file(path, "the name does not begin with a subject's number and an underscore"))
}
