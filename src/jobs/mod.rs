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
//! Jobs are in the store ([`JobBook`]): one that was started before its request is answered, its end before anybody is
//! told of it. Results and attachments are read from there, memory holds what lists show. So a restart changes nothing
//! of what has ended; what had not is failed by it, with `job_interrupted`. An end that cannot be written is held in
//! memory as long as the server runs.
//!
//! A job goes with each of the galleries it names ([`Jobs::forget_gallery`]), since its result tells of their subjects.

mod keep;
mod run;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use uuid::Uuid;
use vultus_engine::gallery::JobBook;
use vultus_engine::ids::GalleryId;

use crate::config::JobSettings;
use crate::problem::{Code, Problem};
pub use run::Run;
pub(crate) use run::now;
use run::{Asked, Ended, Record};
pub use view::{JobProgress, JobView, StateName};

/// What a job does, and the JSON object it finds.
type Work = Box<dyn FnOnce(&Run) -> Result<Box<RawValue>, Problem> + Send>;

/// All jobs, cheap to clone. Every method may block on the disk.
#[derive(Clone)]
pub struct Jobs(Arc<Shared>);

struct Shared {
    limits: JobSettings,
    book: JobBook,
    /// Threads count as tasks of the server, so that its end waits for them.
    tracker: TaskTracker,
    /// Held while a job is started, so that no other takes its place while it is written.
    starting: Mutex<()>,
    /// Held while what is doomed is removed from the store.
    removing: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By id, which sorts by the time they were started.
    jobs: BTreeMap<Uuid, Arc<Record>>,
    waiting: VecDeque<(Arc<Record>, Work)>,
    running: usize,
    closed: bool,
    /// Forgotten, and still to be removed from the store.
    doomed: Vec<Uuid>,
}

/// What a job is about.
#[derive(Debug, Clone)]
pub struct About {
    kind: &'static str,
    gallery: Option<GalleryId>,
    /// Every gallery whose subjects the result can name.
    galleries: Vec<GalleryId>,
}

impl About {
    /// A job of a kind on one gallery, or on none.
    pub fn new(kind: &'static str, gallery: Option<GalleryId>) -> Self {
        Self { kind, galleries: gallery.iter().cloned().collect(), gallery }
    }

    /// Whose result can also name subjects of these galleries.
    pub fn naming(mut self, others: impl IntoIterator<Item = GalleryId>) -> Self {
        self.galleries.extend(others);
        self
    }
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

/// A value as JSON text. Single-precision numbers keep the digits they have in answers.
fn raw(value: &impl Serialize) -> Result<Box<RawValue>, Problem> {
    serde_json::value::to_raw_value(value).map_err(Problem::internal)
}

impl Jobs {
    /// Starts a job, or lets it wait for its turn. It is durable when this returns. Refused with `jobs_full` when too
    /// many wait, with `not_ready` when the server is stopping, and when it cannot be written.
    pub fn start<R: Serialize>(
        &self,
        about: About,
        work: impl FnOnce(&Run) -> Result<R, Problem> + Send + 'static,
    ) -> Result<JobView, Problem> {
        self.sweep();
        let _starting = self.0.starting.lock();
        self.room(&self.0.state.lock())?;
        let record = Arc::new(Record::new(about));
        self.0.book.put(record.id, &record.kept())?;
        let view = record.view();
        let work: Work = Box::new(move |run| raw(&work(run)?));
        let mut state = self.0.state.lock();
        // There can be more room by now, or the end has come.
        if let Err(problem) = self.place(&mut state, (Arc::clone(&record), work)) {
            state.doomed.push(record.id);
            drop(state);
            let _ = self.remove_doomed();
            return Err(problem);
        }
        state.jobs.insert(record.id, Arc::clone(&record));
        drop(state);
        tracing::info!(job = %record.id, kind = record.kind, "job started");
        Ok(view)
    }

    /// One job with its result.
    pub fn get(&self, id: Uuid) -> Result<JobView, Problem> {
        let record = self.record(id)?;
        let mut job = record.view();
        if job.state == StateName::Done {
            job.result = match record.held_result() {
                Some(result) => Some(result),
                // It may be forgotten in between.
                None => Some(self.read_result(id)?.ok_or_else(|| not_found(id))?),
            };
        }
        Ok(job)
    }

    /// Up to `limit` jobs without their results, newest first, from the one older than `after`.
    pub fn list(&self, filter: &JobFilter, after: Option<Uuid>, limit: usize) -> Vec<JobView> {
        self.sweep();
        let state = self.0.state.lock();
        let older = state.jobs.iter().rev().filter(|(id, _)| after.is_none_or(|after| **id < after));
        let views = older.map(|(_, record)| record.view()).filter(|job| filter.takes(job));
        views.take(limit).collect()
    }

    /// Asks a job to end. It has when its state says so; refused with `job_ended` when it had ended otherwise before.
    pub fn cancel(&self, id: Uuid) -> Result<JobView, Problem> {
        let record = self.record(id)?;
        self.stop(&record, Asked::Cancel);
        let view = record.view();
        match view.state {
            StateName::Done | StateName::Failed => {
                Err(Problem::with(Code::JobEnded, format!("job {id} has ended already")))
            }
            StateName::Queued | StateName::Running | StateName::Cancelled => Ok(view),
        }
    }

    /// What a job has attached under a name: its media type and bytes.
    pub fn attachment(&self, id: Uuid, name: &str) -> Result<Option<(String, Bytes)>, Problem> {
        if let Some((media_type, bytes)) = self.record(id)?.held_attachment(name) {
            return Ok(Some((media_type.into_owned(), bytes)));
        }
        let kept = self.0.book.attachment(id, name)?;
        Ok(kept.map(|(media_type, bytes)| (media_type, Bytes::from(bytes))))
    }

    /// Cancels every job and takes no more. The tracker says when those that run have ended.
    pub fn close(&self) {
        let waiting = {
            let mut state = self.0.state.lock();
            state.closed = true;
            state.jobs.values().for_each(|record| record.ask(Asked::Stop));
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(|(record, _)| self.finish(&record, Ended::interrupted()));
    }

    fn record(&self, id: Uuid) -> Result<Arc<Record>, Problem> {
        self.0.state.lock().jobs.get(&id).cloned().ok_or_else(|| not_found(id))
    }

    /// Asks a job to end, which it has at once when it waits.
    fn stop(&self, record: &Record, asked: Asked) {
        // Under the lock, so that the job cannot begin in between.
        let withdrawn = {
            let mut state = self.0.state.lock();
            let at = state.waiting.iter().position(|(waiting, _)| waiting.id == record.id);
            at.and_then(|at| state.waiting.remove(at))
        };
        record.ask(asked);
        if withdrawn.is_some() {
            self.finish(record, Ended::Cancelled);
        }
    }

    /// Refuses a job that there is no place for.
    fn room(&self, state: &State) -> Result<(), Problem> {
        if state.closed {
            return Err(Problem::with(Code::NotReady, "the server is stopping"));
        }
        if state.running >= self.0.limits.max_running && state.waiting.len() >= self.0.limits.max_queued {
            let detail = format!("{} jobs run and {} wait", state.running, state.waiting.len());
            return Err(Problem::with(Code::JobsFull, detail));
        }
        Ok(())
    }

    /// Gives a job a thread, or a place among those that wait.
    fn place(&self, state: &mut State, job: (Arc<Record>, Work)) -> Result<(), Problem> {
        self.room(state)?;
        if state.running < self.0.limits.max_running {
            self.spawn(job)?;
            state.running += 1;
        } else {
            state.waiting.push_back(job);
        }
        Ok(())
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
            self.run(&record, work);
            let mut state = self.0.state.lock();
            next = state.waiting.pop_front();
            if next.is_none() {
                state.running -= 1;
            }
            drop(state);
            self.sweep();
        }
        drop(token);
    }

    fn run(&self, record: &Arc<Record>, work: Work) {
        let run = Run::new(Arc::clone(record));
        record.begin();
        // So that a job that is cut off can be told from one that never began.
        if let Err(error) = self.0.book.put(record.id, &record.kept()) {
            tracing::warn!(job = %record.id, %error, "the beginning of a job could not be written");
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&run)));
        let outcome = outcome.unwrap_or_else(|_| Err(Problem::internal("a job panicked")));
        let ended = match (outcome, record.asked()) {
            (Ok(result), _) => Ended::Done(result),
            (Err(_), Some(Asked::Stop)) => Ended::interrupted(),
            (Err(_), Some(Asked::Cancel)) => Ended::Cancelled,
            (Err(problem), None) => Ended::Failed(problem),
        };
        self.finish(record, ended);
    }

    /// Ends a job: in the store first, then for everybody.
    fn finish(&self, record: &Record, ended: Ended) {
        let _ending = record.ending.lock();
        let ended = if record.disowned.load(Ordering::Acquire) { Ended::Cancelled } else { ended };
        let end = self.within_bounds(record.end(ended), record);
        self.write_end(record, end);
    }
}

fn not_found(id: Uuid) -> Problem {
    Problem::with(Code::JobNotFound, format!("there is no job {id}"))
}
