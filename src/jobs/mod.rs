//! Jobs: work that goes on when its request has been answered.
//!
//! A handler starts one with [`App::start_job`](crate::app::App::start_job) and answers 202 with the place where it can
//! be watched ([`accepted`](crate::api::jobs::accepted)):
//!
//! ```text
//! let job = app.start_job("clusters", Some(gallery.clone()), move |app, run| clusters(app, &gallery, run))?;
//! Ok(accepted(job))
//! ```
//!
//! The work is a plain function on a thread of its own, never on the async runtime's. It gets a [`Run`], on which it
//! reports how far it is and asks, between steps, whether it is still wanted.
//!
//! What holds:
//! - at most `jobs.max_running` run and `jobs.max_queued` wait; more are refused with `jobs_full`;
//! - a job that waits is cancelled at once, one that runs when it next asks; a panic fails its job and nothing else;
//! - what has ended is kept for a while, bounded by number, age and bytes, the oldest going first;
//! - the server's end cancels every job and waits for those that run, within its deadline.
//!
//! Jobs are kept in memory: after a restart there are none.

mod run;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use axum::body::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;
use vultus_engine::ids::GalleryId;

use crate::config::JobSettings;
use crate::problem::{Code, Problem};
pub use run::Run;
pub(crate) use run::now;
use run::{Ended, Record};
pub use view::{JobProgress, JobView, StateName};

/// What a job does. Its result is a JSON object.
type Work = Box<dyn FnOnce(&Run) -> Result<Value, Problem> + Send>;

/// All jobs, cheap to clone.
#[derive(Clone)]
pub struct Jobs(Arc<Shared>);

struct Shared {
    limits: JobSettings,
    /// Threads count as tasks of the server, so that its end waits for them.
    tracker: TaskTracker,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By id, which sorts by the time they were started.
    jobs: BTreeMap<Uuid, Arc<Record>>,
    waiting: VecDeque<(Arc<Record>, Work)>,
    running: usize,
    closed: bool,
}

/// Which jobs a list holds.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only on this gallery.
    pub gallery: Option<GalleryId>,
    /// Only in this state.
    pub state: Option<StateName>,
}

impl JobFilter {
    fn takes(&self, job: &JobView) -> bool {
        self.kind.as_ref().is_none_or(|kind| *kind == job.kind)
            && self.gallery.as_ref().is_none_or(|gallery| job.gallery.as_deref() == Some(gallery.as_str()))
            && self.state.is_none_or(|state| state == job.state)
    }
}

/// What a job found, as its result. Through text, so that single-precision numbers keep the digits they have in answers.
pub fn result(found: &impl serde::Serialize) -> Result<Value, Problem> {
    let text = serde_json::to_string(found).map_err(Problem::internal)?;
    serde_json::from_str(&text).map_err(Problem::internal)
}

impl Jobs {
    /// No job yet. Threads of running ones are counted by `tracker`.
    pub fn new(limits: JobSettings, tracker: TaskTracker) -> Self {
        Self(Arc::new(Shared { limits, tracker, state: Mutex::default() }))
    }

    /// Starts a job, or lets it wait for its turn. Refused with `jobs_full` when too many wait, with `not_ready` when
    /// the server is stopping.
    pub fn start(
        &self,
        kind: &'static str,
        gallery: Option<GalleryId>,
        work: impl FnOnce(&Run) -> Result<Value, Problem> + Send + 'static,
    ) -> Result<JobView, Problem> {
        let mut state = self.0.state.lock();
        if state.closed {
            return Err(Problem::with(Code::NotReady, "the server is stopping"));
        }
        self.forget(&mut state);
        let record = Arc::new(Record::new(kind, gallery));
        let job = (Arc::clone(&record), Box::new(work) as Work);
        if state.running < self.0.limits.max_running {
            self.spawn(job)?;
            state.running += 1;
        } else if state.waiting.len() < self.0.limits.max_queued {
            state.waiting.push_back(job);
        } else {
            let detail = format!("{} jobs run and {} wait", state.running, state.waiting.len());
            return Err(Problem::with(Code::JobsFull, detail));
        }
        state.jobs.insert(record.id, Arc::clone(&record));
        drop(state);
        tracing::info!(job = %record.id, kind, "job started");
        Ok(record.view())
    }

    /// One job with its result.
    pub fn get(&self, id: Uuid) -> Result<JobView, Problem> {
        Ok(self.record(id)?.view())
    }

    /// Up to `limit` jobs without their results, newest first, from the one older than `after`.
    pub fn list(&self, filter: &JobFilter, after: Option<Uuid>, limit: usize) -> Vec<JobView> {
        let mut state = self.0.state.lock();
        self.forget(&mut state);
        let older = state.jobs.iter().rev().filter(|(id, _)| after.is_none_or(|after| **id < after));
        let views = older.map(|(_, record)| record.summary()).filter(|job| filter.takes(job));
        views.take(limit).collect()
    }

    /// Asks a job to end. It has when its state says so; refused with `job_ended` when it had ended otherwise before.
    pub fn cancel(&self, id: Uuid) -> Result<JobView, Problem> {
        let record = self.record(id)?;
        // Under the lock, so that the job cannot begin in between.
        let withdrawn = {
            let mut state = self.0.state.lock();
            let at = state.waiting.iter().position(|(waiting, _)| waiting.id == id);
            at.and_then(|at| state.waiting.remove(at))
        };
        record.cancel.cancel();
        if withdrawn.is_some() {
            record.end(Ended::Cancelled);
        }
        let view = record.view();
        match view.state {
            StateName::Done | StateName::Failed => {
                Err(Problem::with(Code::JobEnded, format!("job {id} has ended already")))
            }
            StateName::Queued | StateName::Running | StateName::Cancelled => Ok(view),
        }
    }

    /// What a job has attached under a name: its media type and bytes.
    pub fn attachment(&self, id: Uuid, name: &str) -> Result<Option<(&'static str, Bytes)>, Problem> {
        Ok(self.record(id)?.attachment(name))
    }

    /// Cancels every job and takes no more. The tracker says when those that run have ended.
    pub fn close(&self) {
        let waiting = {
            let mut state = self.0.state.lock();
            state.closed = true;
            state.jobs.values().for_each(|record| record.cancel.cancel());
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(|(record, _)| record.end(Ended::Cancelled));
    }

    fn record(&self, id: Uuid) -> Result<Arc<Record>, Problem> {
        let state = self.0.state.lock();
        state.jobs.get(&id).cloned().ok_or_else(|| Problem::with(Code::JobNotFound, format!("there is no job {id}")))
    }

    fn spawn(&self, first: (Arc<Record>, Work)) -> Result<(), Problem> {
        let jobs = self.clone();
        let token = self.0.tracker.token();
        let thread = std::thread::Builder::new().name("job".to_owned()).spawn(move || jobs.work_off(first, token));
        thread.map(drop).map_err(Problem::internal)
    }

    /// Runs a job and then those that wait, until none does.
    fn work_off(&self, first: (Arc<Record>, Work), token: TaskTrackerToken) {
        let mut next = Some(first);
        while let Some((record, work)) = next {
            run(&record, work);
            let mut state = self.0.state.lock();
            next = state.waiting.pop_front();
            if next.is_none() {
                state.running -= 1;
            }
        }
        drop(token);
    }

    /// Lets go of what ended long ago, and of the oldest beyond the number and the bytes that are kept.
    fn forget(&self, state: &mut State) {
        let limits = &self.0.limits;
        let now = jiff::Timestamp::now();
        let (mut kept, mut bytes) = (0, 0);
        let gone: Vec<Uuid> = state
            .jobs
            .iter()
            .rev()
            .filter_map(|(id, record)| {
                let ended_at = record.ended_at()?;
                kept += 1;
                bytes += record.bytes();
                let age_s = now.as_second() - ended_at.as_second();
                let stays = kept <= limits.keep && bytes <= limits.keep_bytes && age_s <= limits.keep_s as i64;
                (!stays).then_some(*id)
            })
            .collect();
        gone.iter().for_each(|id| drop(state.jobs.remove(id)));
    }
}

fn run(record: &Arc<Record>, work: Work) {
    let run = Run::new(Arc::clone(record));
    record.begin();
    let outcome = catch_unwind(AssertUnwindSafe(|| work(&run)));
    let outcome = outcome.unwrap_or_else(|_| Err(Problem::internal("a job panicked")));
    let ended = match outcome {
        Ok(result) => Ended::Done(result),
        Err(_) if run.is_cancelled() => Ended::Cancelled,
        Err(problem) => Ended::Failed(problem),
    };
    tracing::info!(job = %record.id, kind = record.kind, state = ended.state().text(), "job ended");
    record.end(ended);
}
