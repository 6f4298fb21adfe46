//! Order, bounds, cancellation, panics, and what is kept.

use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use super::*;

fn jobs(change: impl FnOnce(&mut JobSettings)) -> Jobs {
    let mut limits = JobSettings::default();
    change(&mut limits);
    Jobs::new(limits, TaskTracker::new())
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
    let job = jobs.start("held", None, move |run| {
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
    let gallery = GalleryId::try_from("staff").unwrap();
    let started = jobs.start("count", Some(gallery), |run| {
        run.set_total(3);
        (0..3).for_each(|_| run.advance(1));
        run.attach("note".to_owned(), "text/plain", b"three".to_vec());
        Ok(json!({ "sum": 3 }))
    });
    let job = ended(&jobs, started.unwrap().id);
    assert_eq!((job.state, job.kind.as_str(), job.gallery.as_deref()), (StateName::Done, "count", Some("staff")));
    assert_eq!(job.progress, JobProgress { done: 3, total: Some(3) });
    assert_eq!(job.result, Some(json!({ "sum": 3 })));
    assert!(job.created_at <= job.started_at.unwrap() && job.started_at <= job.ended_at);
    assert_eq!(jobs.attachment(job.id, "note").unwrap().unwrap().1.as_ref(), b"three");
    assert!(jobs.attachment(job.id, "other").unwrap().is_none());
    assert_eq!(jobs.cancel(job.id).unwrap_err().code, Code::JobEnded);
    assert_eq!(jobs.get(Uuid::now_v7()).unwrap_err().code, Code::JobNotFound);
}

#[test]
fn failures_and_panics_end_their_job_alone() {
    let jobs = jobs(|_| {});
    let failed = jobs.start("fail", None, |_| Err(Problem::new(Code::NoFace))).unwrap();
    let panicked = jobs.start("panic", None, |_| panic!("on purpose")).unwrap();
    let fine = jobs.start("fine", None, |_| Ok(json!({}))).unwrap();
    let failed = ended(&jobs, failed.id);
    assert_eq!((failed.state, failed.problem.unwrap().code), (StateName::Failed, Code::NoFace));
    assert_eq!(ended(&jobs, panicked.id).problem.unwrap().code, Code::Internal);
    assert_eq!(ended(&jobs, fine.id).state, StateName::Done);
}

#[test]
fn running_and_waiting_jobs_are_bounded() {
    let jobs = jobs(|limits| (limits.max_running, limits.max_queued) = (1, 1));
    let (first, begun, release) = held(&jobs);
    begun.recv().unwrap();
    let second = jobs.start("second", None, |_| Ok(json!({}))).unwrap();
    assert_eq!(jobs.get(second.id).unwrap().state, StateName::Queued);
    assert_eq!(jobs.start("third", None, |_| Ok(json!({}))).unwrap_err().code, Code::JobsFull);
    release.send(()).unwrap();
    assert_eq!(ended(&jobs, first).state, StateName::Done);
    assert_eq!(ended(&jobs, second.id).state, StateName::Done);
    // The place is free again.
    let fourth = (0..5000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        jobs.start("fourth", None, |_| Ok(json!({}))).ok()
    });
    assert_eq!(ended(&jobs, fourth.unwrap().id).state, StateName::Done);
}

#[test]
fn jobs_are_cancelled_while_they_wait_and_while_they_run() {
    let jobs = jobs(|limits| limits.max_running = 1);
    let (running, begun, _release) = held(&jobs);
    begun.recv().unwrap();
    let waiting = jobs.start("waiting", None, |_| panic!("it never runs")).unwrap();
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
    let jobs = Jobs::new(JobSettings { max_running: 1, ..JobSettings::default() }, tracker.clone());
    let (running, begun, _release) = held(&jobs);
    begun.recv().unwrap();
    let waiting = jobs.start("waiting", None, |_| Ok(json!({}))).unwrap().id;
    jobs.close();
    tracker.close();
    tracker.wait().await;
    for id in [running, waiting] {
        assert_eq!(jobs.get(id).unwrap().state, StateName::Cancelled);
    }
    assert_eq!(jobs.start("late", None, |_| Ok(json!({}))).unwrap_err().code, Code::NotReady);
}

#[test]
fn the_oldest_of_those_that_ended_are_forgotten() {
    let list = |jobs: &Jobs, filter: &JobFilter| -> Vec<Uuid> {
        jobs.list(filter, None, 100).iter().map(|job| job.id).collect()
    };
    let few = jobs(|limits| limits.keep = 2);
    let ids: Vec<Uuid> = (0..4)
        .map(|_| {
            let id = few.start("one", None, |_| Ok(json!({}))).unwrap().id;
            ended(&few, id).id
        })
        .collect();
    assert_eq!(list(&few, &JobFilter::default()), [ids[3], ids[2]]);
    assert_eq!(few.list(&JobFilter::default(), Some(ids[3]), 100).len(), 1);
    let other = JobFilter { kind: Some("other".to_owned()), ..JobFilter::default() };
    assert!(list(&few, &other).is_empty());

    let small = jobs(|limits| limits.keep_bytes = 1000);
    for _ in 0..3 {
        let big = small.start("big", None, |run| {
            run.attach("bytes".to_owned(), "application/octet-stream", vec![0; 600]);
            Ok(json!({}))
        });
        ended(&small, big.unwrap().id);
    }
    assert_eq!(list(&small, &JobFilter::default()).len(), 1);
}
