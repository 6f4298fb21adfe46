//! Open-set identification, measured: what a share of a gallery's searches gets right, and with which error rates.
//!
//! Everything here works on plain data and seeds; nothing reads files or looks at the clock, so the same faces, plan and
//! seed give the same figures. Words and definitions follow ISO/IEC 19795-1:
//!
//! - A *mated* search is for a person who is enrolled, a *non-mated* one for a person who is not.
//! - FPIR(T): share of non-mated searches with a candidate at or above the threshold T.
//! - FNIR(R, T): share of mated searches without the mate among the first R candidates at or above T. TPIR = 1 − FNIR.
//! - Rank-k (CMC): share of mated searches with the mate among the first k candidates, whatever the score.
//! - DET: FNIR over FPIR as the threshold moves.
//!
//! | module | what |
//! |---|---|
//! | `degrade` | aligned crops made worse: small, blurred, noisy, covered, compressed |
//! | `searches` | the rates above from the outcomes of searches |
//! | `interval` | how sure they are: bootstrap over people |
//! | `experiment` | open-set splits, probes of several frames fused by several rules |
//! | [`chart`] | DET, ROC and CMC curves as SVG |

pub mod chart;
mod degrade;
mod experiment;
mod interval;
mod searches;

pub use degrade::{Degradation, DegradeError, PRESETS, Resampling, Step};
pub use experiment::{Cell, Person, Plan, PlanError, Report, Scenario, Split, run};
pub use interval::{Interval, Tally, bootstrap, percentile};
pub use searches::{DetPoint, LEAST_EXPECTED, Mated, Searches};
