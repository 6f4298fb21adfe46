//! Detection and identification rates over false alarm rates, as Shi and Jain's code counts them.
//!
//! AdaFace's figures on IJB-S and TinyFace come from the evaluation of "Probabilistic Face Embeddings" (Shi and Jain 2019)
//! and of a copy that differs a little. *Closed set*: of the searches that have a mate, the share with the mate among the
//! first R. *Open set*: the threshold comes from the highest scores of the searches without a mate; a mated search
//! counts if its mate is among the first R and at or above it. With few searches the false alarm rate that results is not the
//! one asked for, so it is told too.

use serde::Serialize;

use super::EvalError;
use super::search::{Search, shares_at_ranks};

/// How a number of false alarms becomes a whole one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Downwards.
    Down,
    /// To the nearest, a half to the even one.
    Nearest,
}

/// In what the evaluations differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// How much above the highest score the threshold lies where no false alarm is allowed.
    pub epsilon: f64,
    /// How the number of false alarms is rounded.
    pub rounding: Rounding,
    /// Whether closed-set searches may have several mates.
    pub several_mates: bool,
}

impl Rule {
    /// That of IJB-S.
    pub const IJBS: Self = Self { epsilon: 1e-8, rounding: Rounding::Down, several_mates: false };
    /// That of TinyFace.
    pub const TINYFACE: Self = Self { epsilon: 1e-5, rounding: Rounding::Nearest, several_mates: true };
}

/// Open-set identification at one false alarm rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OpenSet {
    /// The rate that was asked for.
    pub fpir: f64,
    /// Share of searches without a mate that have a candidate at or above the threshold.
    pub measured_fpir: f64,
    /// The threshold.
    pub threshold: f64,
    /// Share of mated searches with the mate in time and at or above the threshold. `None` without mated searches.
    pub tpir: Option<f64>,
}

/// Share of mated searches with the mate among the first R, for each R. `None` without mated searches.
///
/// # Errors
/// [`EvalError::Mates`] for several mates where the rule allows one.
pub fn closed_set(searches: &[Search], ranks: &[usize], rule: Rule) -> Result<Option<Vec<f64>>, EvalError> {
    if !rule.several_mates {
        check_single(searches)?;
    }
    Ok(shares_at_ranks(searches, ranks))
}

/// Open-set identification within the first `rank` candidates, for each rate.
///
/// # Errors
/// [`EvalError::None`] where every search has a mate, [`EvalError::Mates`] where one has several.
pub fn open_set(searches: &[Search], fpirs: &[f64], rank: usize, rule: Rule) -> Result<Vec<OpenSet>, EvalError> {
    check_single(searches)?;
    let others = searches.iter().filter(|search| search.mate.is_none());
    let mut highest: Vec<f64> = others.filter_map(|search| search.best_other).collect();
    highest.sort_by(|a, b| b.total_cmp(a));
    let Some(&top) = highest.first() else {
        return Err(EvalError::None("probes of persons who are not enrolled"));
    };
    let mates: Vec<_> = searches.iter().filter_map(|search| search.mate).collect();
    let at = |&fpir: &f64| {
        let alarms = highest.len() as f64 * fpir;
        let alarms = match rule.rounding {
            Rounding::Down => alarms.floor(),
            Rounding::Nearest => alarms.round_ties_even(),
        };
        // A rate of more than 1 or less than 0 is taken as that.
        let alarms = (alarms.max(0.0) as usize).min(highest.len());
        let threshold = alarms.checked_sub(1).map_or(top + rule.epsilon, |last| highest[last]);
        let false_alarms = highest.iter().filter(|score| **score >= threshold).count();
        let hits = mates.iter().filter(|mate| mate.rank <= rank && mate.score >= threshold).count();
        OpenSet {
            fpir,
            measured_fpir: false_alarms as f64 / highest.len() as f64,
            threshold,
            tpir: (!mates.is_empty()).then(|| hits as f64 / mates.len() as f64),
        }
    };
    Ok(fpirs.iter().map(at).collect())
}

fn check_single(searches: &[Search]) -> Result<(), EvalError> {
    match searches.iter().position(|search| search.mates > 1) {
        Some(probe) => Err(EvalError::Mates { probe, mates: searches[probe].mates, expected: "at most once" }),
        None => Ok(()),
    }
}
