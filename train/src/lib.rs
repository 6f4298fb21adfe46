//! Adaptive-margin training for Vultus.

pub mod head;
pub mod network;
