//! IJB-S: identification in surveillance videos (Kalka et al. 2018, "IJB-S: IARPA Janus Surveillance Video Benchmark").
//!
//! Five protocols search two galleries with videos, or with all videos of a person together. A template is the normalised
//! mean of the raw features ê·n of its frames, without flip fusion; a person whom the detector found in no frame has a
//! template of zeros, whose searches count like all others. Closed set: both galleries as one. Open set: each gallery by
//! itself, where probes of persons in the other one are without a mate, then the mean of the two.

use serde::Serialize;

use super::dir_far::{OpenSet, Rule, closed_set, open_set};
use super::rows::length;
use super::search::{Labelled, Search, Ties, search_all};
use super::{EvalError, Rows};

/// Ranks that are reported.
pub const RANKS: [usize; 3] = [1, 5, 10];
/// False positive identification rates that are reported.
pub const FPIRS: [f64; 2] = [0.01, 0.1];
/// Added to the length of a mean before it is divided by that.
const EPSILON: f64 = 1e-8;

/// Makes a template of each list of images, given by their rows. An empty list makes a template of zeros.
///
/// # Errors
/// [`EvalError::Length`] for a row that does not exist, [`EvalError::None`] without lists.
pub fn frame_templates<T: Copy + Into<f64>>(images: &Rows<T>, lists: &[Vec<usize>]) -> Result<Rows<f64>, EvalError> {
    if lists.is_empty() {
        return Err(EvalError::None("templates"));
    }
    let dim = images.dim();
    let mut values = Vec::with_capacity(lists.len() * dim);
    for list in lists {
        let mut mean = vec![0.0; dim];
        for &image in list {
            if image >= images.len() {
                return Err(EvalError::Length { what: "images", expected: image + 1, actual: images.len() });
            }
            mean.iter_mut().zip(images.row(image)).for_each(|(sum, value)| *sum += (*value).into());
        }
        mean.iter_mut().for_each(|sum| *sum /= list.len().max(1) as f64);
        let length = length(&mean) + EPSILON;
        values.extend(mean.into_iter().map(|value| value / length));
    }
    Rows::new("template", dim, values)
}

/// Outcome of one protocol.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TwoGalleries {
    /// How many probes there are.
    pub probes: usize,
    /// How many templates each gallery has.
    pub galleries: [usize; 2],
    /// Ranks with the share of mated probes whose mate is found up to there. `None` without mated probes.
    pub closed: Vec<(usize, Option<f64>)>,
    /// Rates with the mean of both galleries' shares of mated probes that find their mate first, at or above the
    /// threshold. `None` where a gallery has no mated probes.
    pub open: Vec<(f64, Option<f64>)>,
    /// The same by gallery.
    pub by_gallery: [Vec<OpenSet>; 2],
    /// Each search in both galleries.
    #[serde(skip)]
    pub searches: Vec<Search>,
}

/// Searches two galleries with the probes of a protocol. Of equal scores the one enrolled later comes first.
///
/// # Errors
/// [`EvalError::Mates`] for a person who is enrolled twice, [`EvalError::None`] where all probes have a mate in one of the
/// galleries or something is empty, [`EvalError::Length`] for templates of different lengths.
pub fn two_galleries(probes: &Labelled, first: &Labelled, second: &Labelled) -> Result<TwoGalleries, EvalError> {
    for gallery in [first, second] {
        super::search::check(probes, gallery)?;
    }
    let both = first.followed_by(second)?;
    let searches = search_all(probes, &both, Ties::LaterFirst)?;
    let closed = closed_set(&searches, &RANKS, Rule::IJBS)?;
    let open = |gallery| open_set(&search_all(probes, gallery, Ties::LaterFirst)?, &FPIRS, 1, Rule::IJBS);
    let by_gallery = [open(first)?, open(second)?];
    let mean = |a: &OpenSet, b: &OpenSet| Some((a.tpir? + b.tpir?) / 2.0);
    Ok(TwoGalleries {
        probes: probes.len(),
        galleries: [first.len(), second.len()],
        closed: RANKS.iter().enumerate().map(|(at, rank)| (*rank, closed.as_ref().map(|all| all[at]))).collect(),
        open: by_gallery[0].iter().zip(&by_gallery[1]).map(|(a, b)| (a.fpir, mean(a, b))).collect(),
        by_gallery,
        searches,
    })
}
