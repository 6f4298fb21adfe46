//! The improved residual networks of ArcFace and AdaFace (IR and IR-SE): 112x112 to 512 dimensions.

mod table;

pub(crate) use table::{Design, tensors};
