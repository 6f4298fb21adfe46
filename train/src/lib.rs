//! Adaptive-margin training for Vultus.

pub mod head;
