//! One job from the inside: what its work is told and tells.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Bytes;
use jiff::{Timestamp, Unit};
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vultus_engine::ids::GalleryId;

use super::view::{JobProgress, JobView, StateName};
use crate::problem::{Code, Problem};

/// The present time to the millisecond.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    now.round(Unit::Millisecond).unwrap_or(now)
}

/// The work's side of a job.
pub struct Run(Arc<Record>);

impl Run {
    pub(super) fn new(record: Arc<Record>) -> Self {
        Self(record)
    }

    /// The job's id.
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// Whether the job was cancelled; the work then ends as soon as it can, with any problem.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancel.is_cancelled()
    }

    /// Fails when the job was cancelled: `run.check()?` between steps is all that work must do.
    pub fn check(&self) -> Result<(), Problem> {
        if self.is_cancelled() { Err(Problem::with(Code::JobEnded, "the job was cancelled")) } else { Ok(()) }
    }

    /// For work that waits on an async runtime.
    pub fn token(&self) -> &CancellationToken {
        &self.0.cancel
    }

    /// Says how many steps there are. Until then, the number is not known.
    pub fn set_total(&self, steps: u64) {
        self.0.total.store(steps, Ordering::Relaxed);
        self.0.total_known.store(1, Ordering::Relaxed);
    }

    /// Says that some more steps are done.
    pub fn advance(&self, steps: u64) {
        self.0.done.fetch_add(steps, Ordering::Relaxed);
    }

    /// Keeps bytes beside the result, under a name, as long as the result is kept.
    pub fn attach(&self, name: String, media_type: &'static str, bytes: Vec<u8>) {
        self.0.inner.lock().attachments.insert(name, (media_type, Bytes::from(bytes)));
    }
}

/// How a job ended.
pub(super) enum Ended {
    Done(Value),
    Failed(Problem),
    Cancelled,
}

impl Ended {
    pub(super) fn state(&self) -> StateName {
        match self {
            Self::Done(_) => StateName::Done,
            Self::Failed(_) => StateName::Failed,
            Self::Cancelled => StateName::Cancelled,
        }
    }
}

/// All that is known of a job.
pub(super) struct Record {
    pub(super) id: Uuid,
    pub(super) kind: &'static str,
    pub(super) cancel: CancellationToken,
    gallery: Option<GalleryId>,
    created_at: Timestamp,
    done: AtomicU64,
    total: AtomicU64,
    /// 1 once the total is known.
    total_known: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    state: StateName,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    result: Option<Value>,
    result_bytes: usize,
    problem: Option<Problem>,
    attachments: HashMap<String, (&'static str, Bytes)>,
}

impl Record {
    pub(super) fn new(kind: &'static str, gallery: Option<GalleryId>) -> Self {
        let inner = Inner {
            state: StateName::Queued,
            started_at: None,
            ended_at: None,
            result: None,
            result_bytes: 0,
            problem: None,
            attachments: HashMap::new(),
        };
        Self {
            id: Uuid::now_v7(),
            kind,
            cancel: CancellationToken::new(),
            gallery,
            created_at: now(),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            total_known: AtomicU64::new(0),
            inner: Mutex::new(inner),
        }
    }

    pub(super) fn begin(&self) {
        let mut inner = self.inner.lock();
        inner.state = StateName::Running;
        inner.started_at = Some(now());
    }

    pub(super) fn end(&self, ended: Ended) {
        let state = ended.state();
        let (result, problem) = match ended {
            Ended::Done(result) => (Some(result), None),
            Ended::Failed(problem) => (None, Some(problem)),
            Ended::Cancelled => (None, None),
        };
        // Measured once, for the bound on what is kept.
        let result_bytes = result.as_ref().map_or(0, |result| result.to_string().len());
        let mut inner = self.inner.lock();
        if state != StateName::Done {
            inner.attachments.clear();
        }
        (inner.result, inner.result_bytes, inner.problem) = (result, result_bytes, problem);
        (inner.state, inner.ended_at) = (state, Some(now()));
    }

    pub(super) fn ended_at(&self) -> Option<Timestamp> {
        self.inner.lock().ended_at
    }

    /// Bytes of result and attachments.
    pub(super) fn bytes(&self) -> usize {
        let inner = self.inner.lock();
        inner.result_bytes + inner.attachments.values().map(|(_, bytes)| bytes.len()).sum::<usize>()
    }

    pub(super) fn attachment(&self, name: &str) -> Option<(&'static str, Bytes)> {
        self.inner.lock().attachments.get(name).cloned()
    }

    pub(super) fn view(&self) -> JobView {
        let result = self.inner.lock().result.clone();
        JobView { result, ..self.summary() }
    }

    /// The view without the result, which can be large.
    pub(super) fn summary(&self) -> JobView {
        let inner = self.inner.lock();
        let known = self.total_known.load(Ordering::Relaxed) == 1;
        JobView {
            id: self.id,
            kind: self.kind.to_owned(),
            gallery: self.gallery.as_ref().map(ToString::to_string),
            state: inner.state,
            progress: JobProgress {
                done: self.done.load(Ordering::Relaxed),
                total: known.then(|| self.total.load(Ordering::Relaxed)),
            },
            result: None,
            problem: inner.problem.clone(),
            created_at: self.created_at,
            started_at: inner.started_at,
            ended_at: inner.ended_at,
        }
    }
}
