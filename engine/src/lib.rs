//! The engine of Vultus: from images to templates, from templates to candidates. It knows nothing of HTTP.

pub mod face;
pub mod ids;
pub mod index;
pub mod store;
pub mod template;
