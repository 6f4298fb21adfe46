//! Adaptive-margin training for Vultus.
