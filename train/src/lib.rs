//! Adaptive-margin training for Vultus.

pub mod cli;
pub mod data;
pub mod eval;
pub mod head;
pub mod network;
pub mod optimise;
pub mod trainer;
