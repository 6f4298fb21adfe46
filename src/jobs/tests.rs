//! Order, bounds, cancellation, panics, and what is kept; over a restart in `restart`.

mod restart;

use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use vultus_engine::store::Store;
use vultus_engine::store::memory::MemoryStore;

use super::*;

fn jobs(change: impl FnOnce(&mut JobSettings)) -> Jobs {
    opened(&(Arc::new(MemoryStore::new()) as Arc<dyn Store>), change)
}

/// The jobs of a store, as after a start.
fn opened(store: &Arc<dyn Store>, change: impl FnOnce(&mut JobSettings)) -> Jobs {
    let mut limits = JobSettings::default();
    change(&mut limits);
    Jobs::open(Arc::clone(store), limits, TaskTracker::new()).unwrap()
}

fn about(kind: &'static str) -> About {
    About::new(kind, None)
}

fn gallery(id: &str) -> GalleryId {
    GalleryId::try_from(id).unwrap()
}

fn nothing(_: &Run) -> Result<Value, Problem> {
    Ok(json!({}))
}

fn code(job: &JobView) -> Option<Code> {
    job.problem().map(|problem| problem.code)
}

fn text(job: &JobView) -> String {
    serde_json::to_string(job).unwrap()
}

/// Waits until a job has ended.
fn ended(jobs: &Jobs, id: Uuid) -> JobView {
    for _ in 0..5000 {
        let job = jobs.get(id).unwrap();
        if job.state.has_ended() {
            return job;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("job {id} does not end");
}

/// A job that reports that it has begun, and ends when it is told to or cancelled.
fn held(jobs: &Jobs) -> (Uuid, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (begun, has_begun) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let job = jobs.start(about("held"), move |run| {
        begun.send(()).unwrap();
        loop {
            run.check()?;
            if released.recv_timeout(Duration::from_millis(1)).is_ok() {
                return Ok(json!({}));
            }
        }
    });
    (job.unwrap().id, has_begun, release)
}

#[test]
fn a_job_reports_its_progress_and_its_result() {
    let jobs = jobs(|_| {});
    let started = jobs.start(About::new("count", Some(gallery("staff"))), |run| {
        run.set_total(3);
        (0..3).for_each(|_| run.advance(1));
        run.attach("note".to_owned(), "text/plain", b"three".to_vec());
        Ok(json!({ "sum": 3 }))
    });
    let job = ended(&jobs, started.unwrap().id);
    assert_eq!((job.state, job.kind.as_str(), job.gallery.as_deref()), (StateName::Done, "count", Some("staff")));
    assert_eq!(job.progress, JobProgress { done: 3, total: Some(3) });
    assert_eq!(job.result.unwrap().get(), r#"{"sum":3}"#);
    assert!(job.created_at <= job.started_at.unwrap() && job.started_at <= job.ended_at);
    assert_eq!(jobs.attachment(job.id, "note").unwrap().unwrap().1.as_ref(), b"three");
    assert!(jobs.attachment(job.id, "other").unwrap().is_none());
    assert_eq!(jobs.cancel(job.id).unwrap_err().code, Code::JobEnded);
    assert_eq!(jobs.get(Uuid::now_v7()).unwrap_err().code, Code::JobNotFound);
}

#[test]
fn failures_and_panics_end_their_job_alone() {
    let jobs = jobs(|_| {});
    let failed = jobs.start(about("fail"), |_| Err::<Value, _>(Problem::new(Code::NoFace))).unwrap();
    let panicked = jobs.start(about("panic"), |_| -> Result<Value, _> { panic!("on purpose") }).unwrap();
    let fine = jobs.start(about("fine"), nothing).unwrap();
    let failed = ended(&jobs, failed.id);
    assert_eq!((failed.state, code(&failed)), (StateName::Failed, Some(Code::NoFace)));
    assert_eq!(code(&ended(&jobs, panicked.id)), Some(Code::Internal));
    assert_eq!(ended(&jobs, fine.id).state, StateName::Done);
}

#[test]
fn running_and_waiting_jobs_are_bounded() {
    let jobs = jobs(|limits| (limits.max_running, limits.max_queued) = (1, 1));
    let (first, begun, release) = held(&jobs);
    begun.recv().unwrap();
    let second = jobs.start(about("second"), nothing).unwrap();
    assert_eq!(jobs.get(second.id).unwrap().state, StateName::Queued);
    assert_eq!(jobs.start(about("third"), nothing).unwrap_err().code, Code::JobsFull);
    release.send(()).unwrap();
    assert_eq!(ended(&jobs, first).state, StateName::Done);
    assert_eq!(ended(&jobs, second.id).state, StateName::Done);
    // The place is free again.
    let fourth = (0..5000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        jobs.start(about("fourth"), nothing).ok()
    });
    assert_eq!(ended(&jobs, fourth.unwrap().id).state, StateName::Done);
}

#[test]
fn jobs_are_cancelled_while_they_wait_and_while_they_run() {
    let jobs = jobs(|limits| limits.max_running = 1);
    let (running, begun, _release) = held(&jobs);
    begun.recv().unwrap();
    let waiting = jobs.start(about("waiting"), |_| -> Result<Value, _> { panic!("it never runs") }).unwrap();
    assert_eq!(jobs.cancel(waiting.id).unwrap().state, StateName::Cancelled);
    jobs.cancel(running).unwrap();
    let job = ended(&jobs, running);
    assert_eq!((job.state, job.problem.is_none()), (StateName::Cancelled, true));
    // Asking twice does no harm.
    assert_eq!(jobs.cancel(running).unwrap().state, StateName::Cancelled);
}

#[tokio::test]
async fn the_end_cancels_jobs_and_waits_for_them() {
    let tracker = TaskTracker::new();
    let limits = JobSettings { max_running: 1, ..JobSettings::default() };
    let jobs = Jobs::open(Arc::new(MemoryStore::new()), limits, tracker.clone()).unwrap();
    let (running, begun, _release) = held(&jobs);
    begun.recv().unwrap();
    let waiting = jobs.start(about("waiting"), nothing).unwrap().id;
    jobs.close();
    tracker.close();
    tracker.wait().await;
    for id in [running, waiting] {
        let job = jobs.get(id).unwrap();
        assert_eq!((job.state, code(&job)), (StateName::Failed, Some(Code::JobInterrupted)));
    }
    assert_eq!(jobs.start(about("late"), nothing).unwrap_err().code, Code::NotReady);
}

#[test]
fn the_oldest_of_those_that_ended_are_forgotten() {
    let list = |jobs: &Jobs, filter: &JobFilter| -> Vec<Uuid> {
        jobs.list(filter, None, 100).iter().map(|job| job.id).collect()
    };
    let few = jobs(|limits| limits.keep = 2);
    let ids: Vec<Uuid> = (0..4)
        .map(|_| {
            let id = few.start(about("one"), nothing).unwrap().id;
            ended(&few, id).id
        })
        .collect();
    assert_eq!(list(&few, &JobFilter::default()), [ids[3], ids[2]]);
    assert_eq!(few.list(&JobFilter::default(), Some(ids[3]), 100).len(), 1);
    let other = JobFilter { kind: Some("other".to_owned()), ..JobFilter::default() };
    assert!(list(&few, &other).is_empty());

    let small = jobs(|limits| limits.keep_bytes = 1000);
    for _ in 0..3 {
        let big = small.start(about("big"), |run| {
            run.attach("bytes".to_owned(), "application/octet-stream", vec![0; 600]);
            Ok(json!({}))
        });
        ended(&small, big.unwrap().id);
    }
    assert_eq!(list(&small, &JobFilter::default()).len(), 1);
    // More than all may have is not kept at all, and said.
    let large = small.start(about("large"), |_| Ok(json!({ "text": "x".repeat(1000) }))).unwrap();
    let large = ended(&small, large.id);
    assert_eq!((large.state, code(&large)), (StateName::Failed, Some(Code::ResultTooLarge)));
}
