//! What happens to every request before and after its handler.

pub mod auth;
pub mod fallback;
pub mod idempotency;
