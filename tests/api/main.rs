//! Integration tests: the server driven through its router and through its binary.
//!
//! One binary for all of them, since each test file of its own would link the networks anew. Tests that need photos
//! look for them beside the repository (see [`harness::photos`]) and say so when they are not there.

mod analysis;
mod binary;
mod bodies;
mod calibration;
mod detectors;
mod enrolment;
mod galleries;
mod guards;
mod harness;
mod idempotency;
mod jobs;
mod migrations;
mod model_files;
mod models;
mod openapi;
mod photos;
mod pull;
mod refusals;
mod regroupings;
mod search;
mod subjects;
mod templates;
mod tracks;
mod video;
mod watches;
