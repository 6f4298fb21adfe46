//! What is kept of jobs, and for how long.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use vultus_engine::gallery::{GalleryError, JobBook, NewAttachment};
use vultus_engine::ids::GalleryId;
use vultus_engine::store::Store;

use super::run::{Asked, End, Ended, Held, Kept, Record};
use super::{JobView, Jobs, Shared, State, StateName};
use crate::config::JobSettings;
use crate::problem::{Code, Problem};

impl Jobs {
    /// The jobs of a store. What had not ended when the last server did is failed by it now; what is beyond the bounds,
    /// or told of a gallery that is gone, is removed. Threads of running jobs are counted by `tracker`.
    pub fn open(store: Arc<dyn Store>, limits: JobSettings, tracker: TaskTracker) -> Result<Self, GalleryError> {
        let book = JobBook::new(store);
        let mut state = State::default();
        let mut cut_off = Vec::new();
        for (id, kept) in book.records::<Kept>()? {
            let Some(kept) = kept.filter(|kept| kept.job.id == id) else {
                tracing::warn!(job = %id, "a job that cannot be read is removed");
                state.doomed.push(id);
                continue;
            };
            if tells_of_subjects(&kept.job) && !are_there(&book, &kept)? {
                state.doomed.push(id);
                continue;
            }
            let has_ended = kept.job.state.has_ended();
            let record = Arc::new(Record::restored(kept));
            if !has_ended {
                cut_off.push(Arc::clone(&record));
            }
            state.jobs.insert(id, record);
        }
        let shared = Shared {
            limits,
            book,
            tracker,
            starting: Mutex::default(),
            removing: Mutex::default(),
            state: Mutex::new(state),
        };
        let jobs = Self(Arc::new(shared));
        for record in cut_off {
            // What it had attached, if it was in the middle of its end.
            if let Err(error) = jobs.0.book.strip(record.id) {
                tracing::warn!(job = %record.id, %error, "remains of a job could not be removed");
            }
            jobs.finish(&record, Ended::interrupted());
        }
        jobs.sweep();
        Ok(jobs)
    }

    /// Forgets what ended long ago, and the oldest beyond the number and the bytes that are kept.
    pub(crate) fn sweep(&self) {
        self.forget(&mut self.0.state.lock());
        // Why it fails is in the log.
        let _ = self.remove_doomed();
    }

    /// Forgets what has ended and names a gallery, which is gone, and cancels what runs; nothing that is found by then is
    /// kept. When this returns well, the store has nothing more of it.
    pub fn forget_gallery(&self, gallery: &GalleryId) -> Result<(), Problem> {
        let all: Vec<Arc<Record>> = self.0.state.lock().jobs.values().cloned().collect();
        let mut gone = Vec::new();
        for record in all.into_iter().filter(|record| record.names(gallery)) {
            // An end that is being written is waited for; one that is not is kept from it.
            let ending = record.ending.lock();
            if record.ended_at().is_some() {
                gone.push(record.id);
                continue;
            }
            record.disowned.store(true, Ordering::Release);
            drop(ending);
            self.stop(&record, Asked::Cancel);
        }
        {
            let mut state = self.0.state.lock();
            gone.iter().for_each(|id| drop(state.jobs.remove(id)));
            state.doomed.extend(gone);
        }
        self.remove_doomed()
    }

    /// Removes from the store what is forgotten. What cannot be removed is tried again the next time.
    pub(super) fn remove_doomed(&self) -> Result<(), Problem> {
        // When it is free, nothing that was doomed before is left.
        let _removing = self.0.removing.lock();
        let doomed = std::mem::take(&mut self.0.state.lock().doomed);
        let mut outcome = Ok(());
        for id in doomed {
            if let Err(error) = self.0.book.remove(id) {
                tracing::warn!(job = %id, %error, "a job could not be removed");
                self.0.state.lock().doomed.push(id);
                outcome = Err(error.into());
            }
        }
        outcome
    }

    fn forget(&self, state: &mut State) {
        let limits = &self.0.limits;
        let now = jiff::Timestamp::now();
        let (mut kept, mut bytes) = (0, 0_usize);
        let gone: Vec<Uuid> = state
            .jobs
            .iter()
            .rev()
            .filter_map(|(id, record)| {
                let ended_at = record.ended_at()?;
                kept += 1;
                bytes = bytes.saturating_add(record.bytes());
                let age_s = u64::try_from(now.as_second() - ended_at.as_second()).unwrap_or(0);
                let stays = kept <= limits.keep && bytes <= limits.keep_bytes && age_s <= limits.keep_s;
                (!stays).then_some(*id)
            })
            .collect();
        gone.iter().for_each(|id| drop(state.jobs.remove(id)));
        state.doomed.extend(gone);
    }

    /// A job that found more than is kept of all jobs has failed: its result would be forgotten at once.
    pub(super) fn within_bounds(&self, end: End, record: &Record) -> End {
        let most = self.0.limits.keep_bytes;
        if end.kept.bytes <= most {
            return end;
        }
        let bytes = end.kept.bytes as f64;
        let problem = Problem { value: Some(bytes), required: Some(most as f64), ..Problem::new(Code::ResultTooLarge) };
        record.end(Ended::Failed(problem))
    }

    /// Writes an end and shows it. One that cannot be written is held in memory.
    pub(super) fn write_end(&self, record: &Record, end: End) {
        let End { kept, held } = end;
        let attachments = held.attachments.iter().map(|(name, (media_type, bytes))| {
            let media_type = media_type.as_ref();
            NewAttachment { name, media_type, bytes }
        });
        let attachments: Vec<NewAttachment<'_>> = attachments.collect();
        let result = held.result.as_deref().map(RawValue::get);
        let (kind, state) = (record.kind.as_str(), kept.job.state.text());
        let held = match self.0.book.end(record.id, &kept, result, &attachments) {
            Ok(()) => {
                tracing::info!(job = %record.id, kind, state, "job ended");
                Held::default()
            }
            Err(error) => {
                tracing::error!(job = %record.id, kind, state, %error, "the end of a job could not be written");
                held
            }
        };
        record.show(kept.job, kept.bytes, held);
    }

    pub(super) fn read_result(&self, id: Uuid) -> Result<Option<Box<RawValue>>, Problem> {
        let text = self.0.book.result(id)?;
        text.map(|text| RawValue::from_string(text).map_err(|_| Problem::internal("a job's result is not JSON")))
            .transpose()
    }
}

/// Whether a job has a result, or a problem of its work, which can name subjects.
fn tells_of_subjects(job: &JobView) -> bool {
    match job.state {
        StateName::Done => true,
        StateName::Failed => job.problem().is_none_or(|problem| problem.code != Code::JobInterrupted),
        StateName::Queued | StateName::Running | StateName::Cancelled => false,
    }
}

/// Whether the galleries that a job names are the ones they were.
fn are_there(book: &JobBook, kept: &Kept) -> Result<bool, GalleryError> {
    for gallery in &kept.galleries {
        if !book.is_there(gallery, kept.job.created_at)? {
            return Ok(false);
        }
    }
    Ok(true)
}
