//! The commands of `vultus-train`.

pub(crate) mod eval;
