//! Templates.

pub mod rule;

pub use rule::{Fusion, FusionRule};
