//! The field's evaluation protocols, equal to the code that published figures come from.
//!
//! Everything but [`faces`] works on plain data: distances, scores, features, lists. So a figure can be had for features of
//! any origin, and each protocol can be held against its reference implementation. Where that leaves something open, such
//! as the order of equal scores, the module says what is done here.
//!
//! | module | what |
//! |---|---|
//! | [`folds`] | verification accuracy in ten folds: LFW, CFP-FP, CPLFW, CALFW, AgeDB |
//! | [`roc`] | ROC with scikit-learn's points, TAR at FAR without interpolation |
//! | [`fusion`] | an image and its mirror image: four ways to one feature |
//! | [`media`], [`ijb`] | IJB-B and IJB-C: templates of media, 1:1 and 1:N |
//! | [`search`] | where the mate comes: what all identification figures are made of |
//! | [`dir_far`], [`ijbs`], [`tinyface`] | closed and open sets as published for IJB-S and TinyFace |
//! | [`norms`] | how norms follow the size of faces |
//! | [`trade_off`] | FNIR over FPIR, as NIST reports |
//! | [`bin_set`], [`lfw`], [`ijb_meta`], [`ijbs_protocol`], [`features`] | the files that protocols and features come in |
//! | [`faces`] | photos to features by the engine |
//!
//! # Use
//! ```
//! use vultus_train::eval::{folds, roc::Roc};
//!
//! # fn main() -> Result<(), vultus_train::eval::EvalError> {
//! // Squared distances of twenty pairs, every second one of one person.
//! let same: Vec<bool> = (0..20).map(|pair| pair % 2 == 0).collect();
//! let distances: Vec<f64> = same.iter().map(|same| if *same { 0.705 } else { 1.9 }).collect();
//! let outcome = folds::ten_folds(&distances, &same)?;
//! assert!(outcome.accuracy() == 1.0 && (outcome.threshold() - 0.71).abs() < 1e-9);
//!
//! let scores: Vec<f64> = distances.iter().map(|distance| 1.0 - distance / 2.0).collect();
//! let roc = Roc::new(&scores, &same)?;
//! assert_eq!(roc.tar_at(1e-4).map(|point| point.tar), Some(1.0));
//! # Ok(())
//! # }
//! ```

pub mod bin_set;
pub mod dir_far;
mod error;
pub mod faces;
pub mod features;
pub mod folds;
pub mod fusion;
pub mod ijb;
pub mod ijb_meta;
pub mod ijbs;
pub mod ijbs_protocol;
pub mod lfw;
pub mod media;
pub mod norms;
mod pickle;
pub mod roc;
mod rows;
pub mod search;
pub mod tinyface;
pub mod trade_off;

pub use error::EvalError;
pub use rows::{Rows, dot};
