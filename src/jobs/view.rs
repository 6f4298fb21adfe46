//! A job as it is shown, and stored. Result and problem are texts, so that their numbers keep every digit.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::problem::Problem;

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = JobState)]
pub enum StateName {
    /// It waits for its turn.
    Queued,
    /// It runs.
    Running,
    /// It has ended, and `result` holds what it found.
    Done,
    /// It has ended, and `problem` says why.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl StateName {
    /// The name as it stands in answers.
    pub fn text(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will change any more.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// Steps of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = JobProgress)]
pub struct JobProgress {
    /// Steps that are done.
    pub done: u64,
    /// Steps there are; null while that is not known.
    #[schema(required = true)]
    pub total: Option<u64>,
}

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    /// Its id.
    pub id: Uuid,
    /// What it does, such as `video`.
    pub kind: String,
    /// The gallery it is about; null for none.
    #[schema(required = true)]
    pub gallery: Option<String>,
    /// How far it is.
    pub state: StateName,
    /// Steps done, and steps there are.
    pub progress: JobProgress,
    /// What it found, once it is done; its members depend on the kind. Null in lists.
    #[schema(required = true, value_type = Option<Object>)]
    pub result: Option<Box<RawValue>>,
    /// Why it failed.
    #[schema(required = true, value_type = Option<Problem>)]
    pub problem: Option<Box<RawValue>>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// When its turn came.
    #[schema(required = true, value_type = Option<String>, format = DateTime)]
    pub started_at: Option<jiff::Timestamp>,
    /// When it ended.
    #[schema(required = true, value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<jiff::Timestamp>,
}

impl JobView {
    /// Why it failed; `None` also where that is of a kind this program does not know.
    pub fn problem(&self) -> Option<Problem> {
        serde_json::from_str(self.problem.as_deref()?.get()).ok()
    }
}
