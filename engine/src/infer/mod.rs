//! Inference as a resource: who may use the networks, when, and in what company.
//!
//! ```text
//! request ── admit ──► permit ─┬─ detect ─► queue ─► threads ─► faces
//!            (or QueueFull)    └─ embed ──► queue ─► threads ─► features
//! ```
//!
//! A server has one detector and a backbone for each model that its galleries are of, and one set of threads that compute for
//! all of them. A thread takes its share of what waits for a network, up to a budget, and runs it as one batch: no timer, so
//! an idle server answers a lone request at once and a busy one fills its batches by itself. A request that nobody waits for
//! any more (its receiver is dropped) is left out when the batch is formed.
//!
//! Admission is bounded before any work is done: [`Pipeline::admit`] hands out a fixed number of permits and refuses
//! the rest, so that an overloaded server says so at once instead of queueing without end.

mod models;
mod pipeline;
mod queue;
mod threads;

pub use models::{EmbedConfig, Embedder, Models, UNMEASURED_THRESHOLD};
pub use pipeline::{Permit, Pipeline, PipelineConfig, PipelineHealth};
pub use queue::{Done, Timing, Waiting};
pub use threads::Threads;

/// Why the networks did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InferError {
    /// All permits are out.
    #[error("the inference queue is full")]
    QueueFull,
    /// The request was dropped without an answer: the server is going down.
    #[error("inference has stopped")]
    Stopped,
    /// The network makes nothing of this crop: its feature is zero or not finite.
    #[error("the face gives no usable feature")]
    Unusable,
    /// The network failed.
    #[error("inference failed: {0}")]
    Failed(String),
}
