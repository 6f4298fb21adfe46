//! Adaptive-margin training for Vultus.

pub mod eval;
pub mod head;
