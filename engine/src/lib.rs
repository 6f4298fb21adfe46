//! The engine of Vultus: from images to templates, from templates to candidates. It knows nothing of HTTP.

pub mod align;
pub mod calibration;
pub mod detect;
pub mod drawn;
pub mod evaluate;
pub mod face;
pub mod gallery;
pub mod ids;
pub mod image;
pub mod index;
pub mod infer;
pub mod kernel;
pub mod model;
pub mod quality;
pub mod random;
pub mod store;
pub mod template;
pub mod track;
