//! Vision transformers for faces, without and with position encoding relative to landmarks: 112x112 to 512 dimensions.

mod table;

pub(crate) use table::tensors;
