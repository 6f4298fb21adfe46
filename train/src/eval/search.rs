//! Searches of a gallery: where the mate comes and how near the others get. All identification figures follow from these.

use rayon::prelude::*;

use super::error::check_length;
use super::rows::dot;
use super::{EvalError, Rows};

/// Who comes first of those with equal scores. The published evaluations leave that to a sorting routine and differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ties {
    /// The one enrolled earlier: a stable sort by descending score (IJB-B and IJB-C).
    EarlierFirst,
    /// The one enrolled later: a stable sort by ascending score, read backwards (IJB-S, TinyFace).
    LaterFirst,
    /// Anyone but the mate: nothing is gained by equal scores.
    AgainstMate,
}

/// The mate of a search; of several the one that comes first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mate {
    /// Its rank, 1 for the first candidate.
    pub rank: usize,
    /// Its score.
    pub score: f64,
}

/// What came of a search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// The mate. `None` for a probe of a person who is not enrolled.
    pub mate: Option<Mate>,
    /// How many templates of that person are enrolled.
    pub mates: usize,
    /// Highest score of anybody else. `None` where nobody else is enrolled.
    pub best_other: Option<f64>,
}

/// Templates with the subjects they are of.
#[derive(Debug, Clone, PartialEq)]
pub struct Labelled {
    vectors: Rows<f64>,
    subjects: Vec<i64>,
}

impl Labelled {
    /// Takes templates, one a row, and as many subjects.
    ///
    /// # Errors
    /// [`EvalError::Length`] for another number of subjects.
    pub fn new(vectors: Rows<f64>, subjects: Vec<i64>) -> Result<Self, EvalError> {
        check_length("subjects of templates", subjects.len(), vectors.len())?;
        Ok(Self { vectors, subjects })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// The templates.
    pub fn vectors(&self) -> &Rows<f64> {
        &self.vectors
    }

    /// Whom each is of.
    pub fn subjects(&self) -> &[i64] {
        &self.subjects
    }

    /// These and then others.
    ///
    /// # Errors
    /// [`EvalError::Length`] for templates of another length.
    pub fn followed_by(&self, other: &Self) -> Result<Self, EvalError> {
        let vectors = self.vectors.followed_by(&other.vectors)?;
        Ok(Self { vectors, subjects: [self.subjects.as_slice(), other.subjects.as_slice()].concat() })
    }

    /// Inner products of a probe with all of them.
    pub(super) fn scores(&self, probe: &[f64]) -> Vec<f64> {
        self.vectors.iter().map(|row| dot(probe, row)).collect()
    }
}

/// What comes of a search with these scores, finite ones, where `is_mate` says which of them are of the probe's person.
pub fn search(scores: &[f64], is_mate: impl Fn(usize) -> bool, ties: Ties) -> Search {
    let (mut mates, mut first, mut best_other): (usize, Option<(usize, f64)>, Option<f64>) = (0, None, None);
    for (place, &score) in scores.iter().enumerate() {
        if is_mate(place) {
            mates += 1;
            if first.is_none_or(|(_, best)| score > best || (score == best && ties == Ties::LaterFirst)) {
                first = Some((place, score));
            }
        } else if best_other.is_none_or(|best| score > best) {
            best_other = Some(score);
        }
    }
    let mate = first.map(|(own, best)| {
        let comes_before = |place: usize| match ties {
            Ties::EarlierFirst => place < own,
            Ties::LaterFirst => place > own,
            Ties::AgainstMate => true,
        };
        // Other mates never come before the first of them.
        let before = scores
            .iter()
            .enumerate()
            .filter(|(place, score)| !is_mate(*place) && (**score > best || (**score == best && comes_before(*place))));
        Mate { rank: before.count() + 1, score: best }
    });
    Search { mate, mates, best_other }
}

/// Searches a gallery with every probe, by inner product.
///
/// # Errors
/// [`EvalError::None`] for an empty gallery or no probes, [`EvalError::Length`] where templates differ in length.
pub fn search_all(probes: &Labelled, gallery: &Labelled, ties: Ties) -> Result<Vec<Search>, EvalError> {
    check(probes, gallery)?;
    let one = |probe: usize| {
        let subject = probes.subjects[probe];
        search(&gallery.scores(probes.vectors.row(probe)), |place| gallery.subjects[place] == subject, ties)
    };
    Ok((0..probes.len()).into_par_iter().map(one).collect())
}

pub(super) fn check(probes: &Labelled, gallery: &Labelled) -> Result<(), EvalError> {
    if probes.is_empty() {
        return Err(EvalError::None("probes"));
    }
    if gallery.is_empty() {
        return Err(EvalError::None("templates in the gallery"));
    }
    check_length("values of a template in the gallery", gallery.vectors.dim(), probes.vectors.dim())
}

/// Share of mated searches with the mate among the first `rank` candidates, for each rank. `None` without mated searches.
pub fn shares_at_ranks(searches: &[Search], ranks: &[usize]) -> Option<Vec<f64>> {
    let mates: Vec<usize> = searches.iter().filter_map(|search| Some(search.mate?.rank)).collect();
    let share = |rank: &usize| mates.iter().filter(|mate| *mate <= rank).count() as f64 / mates.len() as f64;
    (!mates.is_empty()).then(|| ranks.iter().map(share).collect())
}

/// [`shares_at_ranks`] from 1 to `ranks`, with the rank; empty without mated searches.
pub fn cmc(searches: &[Search], ranks: usize) -> Vec<(f64, f64)> {
    let all: Vec<usize> = (1..=ranks).collect();
    let shares = shares_at_ranks(searches, &all).unwrap_or_default();
    shares.into_iter().enumerate().map(|(at, share)| ((at + 1) as f64, share)).collect()
}
