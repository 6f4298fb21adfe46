//! Calibration: from non-mated searches of a gallery to thresholds at a stated FPIR.
//!
//! FPIR(t; N) is the share of searches by people who are not enrolled that have a candidate with a score of t or more in
//! a gallery of N subjects (ISO/IEC 19795-1; Grother, Ngan and Hanaoka 2019). It depends on the gallery, so it is measured
//! on it: each subject is searched with the subject itself left out, and people known not to be enrolled can be added.
//!
//! ```text
//! collect: MaximaCollector::add, once a search        fit: Calibration::fit        ask: calibration.at_size(n)
//! ```
//!
//! - Where at least a few searches in ten have a candidate, the measured shares are used. Beyond, the expected number of
//!   candidates μ(t) follows a generalised Pareto tail fitted to pairs of people (`tail.rs`), and
//!   FPIR = 1 − (1 + μ/k)^−k (`counts.rs`). Both parts meet where one ends.
//! - An estimate has a 95 % interval, from 200 draws of all that the data leave open. They are kept, so any score and any
//!   rate can be asked for later.
//! - A gallery of M subjects has M/N times the expected candidates. Intervals widen with growth, because the same rate then
//!   lies further out in the tail.
//! - Pairs far beyond the tail are probably one person enrolled twice. They are listed, left out of the estimate, and
//!   counted in the upper end of the interval.
//! - The same searches in the same order and the same seed give the same calibration, bit for bit.
//!
//! `docs/CALIBRATION.md` has the formulas and how well they held on photos.

mod counts;
mod fit;
mod maxima;
mod random;
mod stale;
mod tail;
mod view;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use maxima::{DEPTH, MaximaCollector, Prober};
pub use stale::{STALE_SHARE, Since, Stale};
pub use view::{Estimate, LARGEST_RATE, SMALLEST_RATE, SUPPORTED_RATIO, ScoreEstimate, TABLE_RATES, View};

/// Why there is no calibration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalibrationError {
    /// Too few people were searched with.
    #[error("a calibration needs non-mated searches of at least {required} different people, there are {probes}")]
    TooFew {
        /// People searched with.
        probes: usize,
        /// People needed.
        required: usize,
    },
    /// The searches found too few candidates.
    #[error("a calibration needs at least {required} pairs of people, the searches have {scores}")]
    TooFewScores {
        /// Pairs found.
        scores: usize,
        /// Pairs needed.
        required: usize,
    },
    /// Candidate lists end where the tail should begin.
    #[error("the candidate lists are too short to calibrate with; ask for {required} candidates a search")]
    ListsTooShort {
        /// Candidates a search to ask for.
        required: usize,
    },
}

/// How to fit.
#[derive(Debug, Clone, Default)]
pub struct FitOptions {
    /// Seed of the draws.
    pub seed: u64,
    /// Pairs of enrolled subjects that somebody has said are different people, in either order: never suspected.
    pub known_different: Vec<(String, String)>,
}

/// Two subjects that score so high that they are probably one person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suspect {
    /// One of them; the person who is not enrolled, where there is one.
    pub first: String,
    /// The other, an enrolled subject.
    pub second: String,
    /// Whether `first` came from outside of the gallery.
    pub outsider: bool,
    /// Their highest score.
    pub score: f64,
    /// What they add to the expected candidates of a search when they are different people.
    pub mean: f64,
}

/// A measured point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Knot {
    score: f64,
    /// Expected candidates of that score or more.
    mean: f64,
}

/// Draws of what the data leave open about the tail, column by column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Draws {
    /// Factor on the expected candidates at the threshold.
    factor: Vec<f64>,
    /// σ.
    scale: Vec<f64>,
    /// ξ.
    shape: Vec<f64>,
}

/// What non-mated searches say of a gallery. About 7 KB as JSON, whatever the gallery's size, and at most 12 KB more for
/// suspected pairs with long names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Subjects with a template when it was made.
    gallery_size: u64,
    /// Searches it was made from.
    searches: u64,
    /// People who were searched with.
    probers: u64,
    /// Where the tail begins.
    threshold: f64,
    /// Expected candidates of a search there, in a gallery of that size.
    mean: f64,
    /// k.
    dispersion: f64,
    /// Pairs of people beyond.
    pairs: u64,
    /// How many independent ones would tell as much.
    independent_pairs: f64,
    /// The measured part: scores rising to the threshold, means falling.
    body: Vec<Knot>,
    /// The tail beyond.
    tail: Draws,
    /// Suspected pairs, best first.
    suspects: Vec<Suspect>,
    /// Suspected pairs, also those beyond the list.
    suspects_total: u64,
}

impl Calibration {
    /// Fits a calibration: some tens of milliseconds, and more where rounds of suspects follow each other.
    pub fn fit(maxima: &MaximaCollector, options: &FitOptions) -> Result<Self, CalibrationError> {
        fit::fit(maxima, options)
    }

    /// The calibration as it applies to the gallery at a size in subjects.
    pub fn at_size(&self, gallery_size: u64) -> View {
        View::new(self.clone(), gallery_size)
    }

    /// Subjects with a template when it was made.
    pub fn gallery_size(&self) -> u64 {
        self.gallery_size
    }

    /// Non-mated searches it was made from.
    pub fn searches(&self) -> u64 {
        self.searches
    }

    /// Different people who were searched with.
    pub fn probers(&self) -> u64 {
        self.probers
    }

    /// The score from which rates come from the fitted tail; below they are measured shares.
    pub fn tail_from(&self) -> f64 {
        self.threshold
    }

    /// Pairs of subjects that are probably one person, best first, at most 32 of them.
    pub fn suspects(&self) -> &[Suspect] {
        &self.suspects
    }

    /// Suspected pairs, also those that are not listed.
    pub fn suspects_total(&self) -> u64 {
        self.suspects_total
    }
}
