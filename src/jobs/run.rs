//! One job from the inside: what its work is told and tells, and what is known of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
use jiff::{Timestamp, Unit};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vultus_engine::ids::GalleryId;

use super::view::{JobProgress, JobView, StateName};
use super::{About, raw};
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
        self.0.total_known.store(true, Ordering::Relaxed);
    }

    /// Says that some more steps are done.
    pub fn advance(&self, steps: u64) {
        self.0.done.fetch_add(steps, Ordering::Relaxed);
    }

    /// Keeps bytes beside the result, under a name of at most 500 bytes, as long as the result is kept. They are held in
    /// memory until the job ends.
    pub fn attach(&self, name: String, media_type: &'static str, bytes: Vec<u8>) {
        self.0.inner.lock().held.attachments.insert(name, (Cow::Borrowed(media_type), Bytes::from(bytes)));
    }
}

/// Media type and bytes.
pub(super) type Attachment = (Cow<'static, str>, Bytes);

/// Who wants a job to end before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// A request, or a gallery that is gone.
    Cancel,
    /// The server is stopping.
    Stop,
}

/// How a job ended.
pub(super) enum Ended {
    Done(Box<RawValue>),
    Failed(Problem),
    Cancelled,
}

impl Ended {
    /// The server stopped in the middle of it.
    pub(super) fn interrupted() -> Self {
        Self::Failed(Problem::new(Code::JobInterrupted))
    }
}

/// What is written of a job: all but its result and attachments.
#[derive(Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) job: JobView,
    /// See [`About::galleries`].
    pub(super) galleries: Vec<GalleryId>,
    /// Bytes of result and attachments.
    pub(super) bytes: usize,
}

/// All that is known of a job.
pub(super) struct Record {
    pub(super) id: Uuid,
    pub(super) kind: String,
    pub(super) cancel: CancellationToken,
    gallery: Option<String>,
    galleries: Vec<GalleryId>,
    pub(super) created_at: Timestamp,
    done: AtomicU64,
    total: AtomicU64,
    total_known: AtomicBool,
    asked: OnceLock<Asked>,
    /// One of its galleries is gone: whatever it finds is not to be kept.
    pub(super) disowned: AtomicBool,
    /// Held while the end of the job is written.
    pub(super) ending: Mutex<()>,
    inner: Mutex<Inner>,
}

struct Inner {
    state: StateName,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    problem: Option<Box<RawValue>>,
    /// Of result and attachments, wherever they are.
    bytes: usize,
    held: Held,
}

/// What is not in the store: what running jobs attach, and ends that could not be written.
#[derive(Default)]
pub(super) struct Held {
    pub(super) result: Option<Box<RawValue>>,
    pub(super) attachments: BTreeMap<String, Attachment>,
}

/// The end of a job, before anybody is told.
pub(super) struct End {
    pub(super) kept: Kept,
    pub(super) held: Held,
}

impl Record {
    /// A job that waits for its turn.
    pub(super) fn new(about: About) -> Self {
        let job = JobView {
            id: Uuid::now_v7(),
            kind: about.kind.to_owned(),
            gallery: about.gallery.map(|gallery| gallery.to_string()),
            state: StateName::Queued,
            progress: JobProgress { done: 0, total: None },
            result: None,
            problem: None,
            created_at: now(),
            started_at: None,
            ended_at: None,
        };
        Self::restored(Kept { job, galleries: about.galleries, bytes: 0 })
    }

    /// A job as it was written.
    pub(super) fn restored(kept: Kept) -> Self {
        let Kept { job, galleries, bytes } = kept;
        let inner = Inner {
            state: job.state,
            started_at: job.started_at,
            ended_at: job.ended_at,
            problem: job.problem,
            bytes,
            held: Held::default(),
        };
        Self {
            id: job.id,
            kind: job.kind,
            cancel: CancellationToken::new(),
            gallery: job.gallery,
            galleries,
            created_at: job.created_at,
            done: AtomicU64::new(job.progress.done),
            total: AtomicU64::new(job.progress.total.unwrap_or(0)),
            total_known: AtomicBool::new(job.progress.total.is_some()),
            asked: OnceLock::new(),
            disowned: AtomicBool::new(false),
            ending: Mutex::default(),
            inner: Mutex::new(inner),
        }
    }

    /// Asks the job to end. Who asks first counts.
    pub(super) fn ask(&self, asked: Asked) {
        let _ = self.asked.set(asked);
        self.cancel.cancel();
    }

    pub(super) fn asked(&self) -> Option<Asked> {
        self.asked.get().copied()
    }

    pub(super) fn begin(&self) {
        let mut inner = self.inner.lock();
        inner.state = StateName::Running;
        inner.started_at = Some(now());
    }

    /// What an end comes to. Takes the attachments, which go where the job is not done.
    pub(super) fn end(&self, ended: Ended) -> End {
        let mut held = std::mem::take(&mut self.inner.lock().held);
        let mut job = JobView { ended_at: Some(now()), ..self.view() };
        match ended {
            Ended::Done(result) => {
                job.state = StateName::Done;
                held.result = Some(result);
            }
            Ended::Failed(problem) => {
                (job.state, job.problem, held) = (StateName::Failed, raw(&problem).ok(), Held::default());
            }
            Ended::Cancelled => (job.state, held) = (StateName::Cancelled, Held::default()),
        }
        let bytes = held.bytes();
        End { kept: Kept { job, galleries: self.galleries.clone(), bytes }, held }
    }

    /// Shows an end to everybody, with what the store does not have of it.
    pub(super) fn show(&self, job: JobView, bytes: usize, held: Held) {
        let mut inner = self.inner.lock();
        (inner.state, inner.problem, inner.ended_at) = (job.state, job.problem, job.ended_at);
        (inner.bytes, inner.held) = (bytes, held);
    }

    /// What is written of it by now.
    pub(super) fn kept(&self) -> Kept {
        Kept { job: self.view(), galleries: self.galleries.clone(), bytes: self.bytes() }
    }

    pub(super) fn names(&self, gallery: &GalleryId) -> bool {
        self.galleries.contains(gallery)
    }

    pub(super) fn ended_at(&self) -> Option<Timestamp> {
        self.inner.lock().ended_at
    }

    /// Bytes of result and attachments.
    pub(super) fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }

    pub(super) fn held_result(&self) -> Option<Box<RawValue>> {
        self.inner.lock().held.result.clone()
    }

    pub(super) fn held_attachment(&self, name: &str) -> Option<Attachment> {
        self.inner.lock().held.attachments.get(name).cloned()
    }

    /// The job without its result.
    pub(super) fn view(&self) -> JobView {
        let inner = self.inner.lock();
        let known = self.total_known.load(Ordering::Relaxed);
        JobView {
            id: self.id,
            kind: self.kind.clone(),
            gallery: self.gallery.clone(),
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

impl Held {
    fn bytes(&self) -> usize {
        let attached: usize = self.attachments.values().map(|(_, bytes)| bytes.len()).sum();
        attached + self.result.as_ref().map_or(0, |result| result.get().len())
    }
}
