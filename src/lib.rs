//! The Vultus server and command line.
//!
//! One way for a request: [`router`] → [`extract`] → a handler in [`api`] → a use case in [`service`] → the engine.
//! Whatever goes wrong becomes a [`problem`]. `docs/ARCHITECTURE.md` has the picture.

pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod error;
pub mod extract;
pub mod jobs;
pub mod middleware;
pub mod openapi;
pub mod problem;
pub mod router;
pub mod server;
pub mod service;
pub mod video;
pub mod watches;
