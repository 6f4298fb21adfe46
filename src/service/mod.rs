//! Use cases: what the API offers, without its wire format.

pub mod enrol;
pub mod examine;
pub mod probes;
pub mod search;
pub mod select;
pub mod timing;
pub mod tracks;
pub mod unknown;
pub mod video;
