//! Adaptive-margin training for Vultus.

pub mod data;
pub mod head;
