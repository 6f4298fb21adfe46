//! What a restart changes, and what is left in the store.

use vultus_engine::gallery::NewAttachment;
use vultus_engine::store::sled::SledStore;
use vultus_engine::store::{Collection, Gallery, GalleryKind, Guards, Operation, Thresholds};

use super::*;

fn memory() -> (Arc<MemoryStore>, Arc<dyn Store>) {
    let store = Arc::new(MemoryStore::new());
    (Arc::clone(&store), store)
}

/// Documents of jobs in a store.
fn documents(store: &Arc<dyn Store>) -> usize {
    store.documents(None, Collection::Jobs, &[], None, usize::MAX).unwrap().len()
}

fn create(store: &Arc<dyn Store>, id: &str) {
    let at = now();
    let created = Gallery {
        id: gallery(id),
        kind: GalleryKind::Consolidated,
        model_id: vultus_engine::ids::ModelId("m".to_owned()),
        dim: 2,
        fusion: None,
        thresholds: Thresholds::default(),
        guards: Guards::default(),
        min_quality: None,
        keep_crops: false,
        label: None,
        created_at: at,
        updated_at: at,
        revision: 0,
    };
    store.commit(at, &[Operation::CreateGallery(created)]).unwrap();
}

fn delete(store: &Arc<dyn Store>, id: &str) {
    store.commit(now(), &[Operation::DeleteGallery { gallery: gallery(id), expected: None }]).unwrap();
}

/// A job on galleries that has found something and attached two crops.
fn found(jobs: &Jobs, about: About) -> JobView {
    let job = jobs.start(about, |run| {
        run.set_total(1);
        run.advance(1);
        run.attach("a".to_owned(), "image/png", vec![1; 5000]);
        run.attach("b".to_owned(), "image/png", vec![2; 50]);
        Ok(json!({ "subject": "ada" }))
    });
    ended(jobs, job.unwrap().id)
}

#[test]
fn what_has_ended_is_the_same_byte_for_byte() {
    #[derive(serde::Serialize)]
    struct Scores(Vec<f32>, Vec<f64>);
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(SledStore::open(folder.path()).unwrap());
    create(&store, "staff");
    let before = opened(&store, |_| {});
    let scores = Scores(vec![0.1, 0.123_456_79, 1e-7], vec![0.300_000_011_920_928_96, 2.0 / 3.0, 5e-324]);
    let scores = before.start(about("scores"), move |_| Ok(scores)).unwrap().id;
    let lost = |_: &Run| {
        let value = Some(f64::from(0.3_f32));
        Err::<Value, _>(Problem { value, ..Problem::with(Code::QualityTooLow, "the \"best\" is too low") })
    };
    let lost = before.start(about("lost"), lost).unwrap().id;
    let found = found(&before, About::new("video", Some(gallery("staff")))).id;
    let (held, begun, _release) = held(&before);
    begun.recv().unwrap();
    before.cancel(held).unwrap();
    let ids = [scores, lost, found, held];
    let told: Vec<String> = ids.iter().map(|id| text(&ended(&before, *id))).collect();
    let listed = |jobs: &Jobs| -> Vec<String> { jobs.list(&JobFilter::default(), None, 10).iter().map(text).collect() };
    let list = listed(&before);
    assert!(list.len() == 4 && told[0].contains("0.12345679,1e-7],[0.30000001192092896,"), "{}", told[0]);
    assert!(told[1].contains(r#""value":0.30000001192092896"#) && told[3].contains("cancelled"));

    let after = opened(&store, |_| {});
    assert_eq!(ids.iter().map(|id| text(&after.get(*id).unwrap())).collect::<Vec<_>>(), told);
    assert_eq!(listed(&after), list);
    let crop = after.attachment(found, "a").unwrap().unwrap();
    assert_eq!((crop.0.as_str(), crop.1.as_ref()), ("image/png", [1; 5000].as_slice()));
    assert!(after.attachment(found, "c").unwrap().is_none());
    assert_eq!(after.cancel(found).unwrap_err().code, Code::JobEnded);
    let filter = JobFilter { gallery: Some(gallery("staff")), state: Some(StateName::Done), ..JobFilter::default() };
    assert_eq!(after.list(&filter, None, 10).len(), 1);
    assert_eq!(store.check().unwrap().problems, [""; 0]);
}

#[test]
fn what_had_not_ended_was_interrupted() {
    let (_, store) = memory();
    let before = opened(&store, |limits| limits.max_running = 1);
    let (running, begun, release) = held(&before);
    begun.recv().unwrap();
    let waiting = before.start(about("waiting"), nothing).unwrap().id;
    // As when the process was killed in the middle of an end.
    let crop = NewAttachment { name: "a", media_type: "image/png", bytes: &[1; 100] };
    before.0.book.end(running, &before.record(running).unwrap().kept(), Some("{}"), &[crop]).unwrap();
    assert_eq!(documents(&store), 4);

    let after = opened(&store, |_| {});
    assert_eq!(documents(&store), 2);
    assert!(after.attachment(running, "a").unwrap().is_none());
    let told: Vec<JobView> = [running, waiting].iter().map(|id| after.get(*id).unwrap()).collect();
    for job in &told {
        assert_eq!((job.state, code(job), job.result.is_none()), (StateName::Failed, Some(Code::JobInterrupted), true));
        assert!(job.ended_at.is_some());
    }
    let again = opened(&store, |_| {});
    told.iter().for_each(|job| assert_eq!(text(&again.get(job.id).unwrap()), text(job)));
    release.send(()).unwrap();
    ended(&before, waiting);
}

#[test]
fn bounds_hold_for_the_store() {
    let (_, store) = memory();
    let jobs = opened(&store, |limits| limits.keep = 3);
    let ids: Vec<Uuid> = (0..5).map(|_| found(&jobs, about("video")).id).collect();
    jobs.sweep();
    assert_eq!(documents(&store), 3 * 4);
    assert_eq!(jobs.get(ids[0]).unwrap_err().code, Code::JobNotFound);
    let listed = |jobs: &Jobs| jobs.list(&JobFilter::default(), None, 10).len();
    assert_eq!(listed(&opened(&store, |limits| limits.keep_bytes = 11_000)), 2);
    assert_eq!(documents(&store), 2 * 4);
    assert_eq!(listed(&opened(&store, |limits| limits.keep = 1)), 1);
    assert_eq!(documents(&store), 4);
    assert!(opened(&store, |_| {}).get(ids[4]).is_ok());
    // A day later.
    let last = opened(&store, |_| {}).record(ids[4]).unwrap();
    let mut kept = last.kept();
    kept.job.ended_at = Some(now() - jiff::SignedDuration::from_hours(25));
    jobs.0.book.put(last.id, &kept).unwrap();
    opened(&store, |_| {});
    assert_eq!(documents(&store), 0);
}

#[test]
fn remains_without_a_record_are_removed() {
    let (_, store) = memory();
    let jobs = opened(&store, |_| {});
    let (first, second) = (found(&jobs, about("video")).id, found(&jobs, about("video")).id);
    let first_of = |id: Uuid| store.documents(None, Collection::Jobs, id.as_bytes(), None, 1).unwrap().remove(0).0;
    let key = |id| vultus_engine::store::DocumentKey { gallery: None, collection: Collection::Jobs, id };
    store.commit(now(), &[Operation::RemoveDocument { key: key(first_of(first)) }]).unwrap();
    let after = opened(&store, |_| {});
    assert_eq!((after.get(first).unwrap_err().code, documents(&store)), (Code::JobNotFound, 4));
    // A record that does not read is no reason not to start.
    let body = b"{\"job\":".to_vec();
    store.commit(now(), &[Operation::PutDocument { key: key(first_of(second)), body }]).unwrap();
    let after = opened(&store, |_| {});
    assert_eq!((after.get(second).unwrap_err().code, documents(&store)), (Code::JobNotFound, 0));
}

#[test]
fn nothing_is_left_of_a_gallery_that_is_deleted() {
    let (failing, store) = memory();
    ["a", "b"].iter().for_each(|id| create(&store, id));
    let jobs = opened(&store, |limits| limits.max_running = 2);
    let of = |id: &str| About::new("video", Some(gallery(id)));
    let several = About::new("video", None).naming([gallery("a"), gallery("b")]);
    let gone = [found(&jobs, of("a")).id, found(&jobs, several).id];
    let other = found(&jobs, of("b"));
    // One that does not ask whether it is wanted, and finds something.
    let ((begun, has_begun), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
    let stubborn = jobs.start(of("a"), move |run| {
        run.attach("a".to_owned(), "image/png", vec![1; 50]);
        begun.send(()).unwrap();
        released.recv().unwrap();
        Ok(json!({ "subject": "ada" }))
    });
    let stubborn = stubborn.unwrap().id;
    has_begun.recv().unwrap();
    let (held, begun, _release) = held(&jobs);
    begun.recv().unwrap();
    let waiting = jobs.start(of("a"), nothing).unwrap().id;

    delete(&store, "a");
    failing.fail_writes(true);
    assert_eq!(jobs.forget_gallery(&gallery("a")).unwrap_err().code, Code::StorageUnavailable);
    failing.fail_writes(false);
    jobs.forget_gallery(&gallery("a")).unwrap();
    for id in gone {
        assert_eq!(jobs.get(id).unwrap_err().code, Code::JobNotFound);
    }
    release.send(()).unwrap();
    let stubborn = ended(&jobs, stubborn);
    assert_eq!((stubborn.state, stubborn.result.is_none()), (StateName::Cancelled, true));
    assert!(jobs.attachment(stubborn.id, "a").unwrap().is_none());
    jobs.cancel(held).unwrap();
    ended(&jobs, held);
    // The end of the one that waited was forgotten at the second attempt.
    assert_eq!(jobs.get(waiting).unwrap_err().code, Code::JobNotFound);
    assert_eq!(documents(&store), 4 + 2);
    assert_eq!(text(&jobs.get(other.id).unwrap()), text(&other));

    // A process that was killed before it had forgotten: the next one does, also where the id is taken again.
    delete(&store, "b");
    while now() <= other.created_at {
        std::thread::yield_now();
    }
    create(&store, "b");
    let after = opened(&store, |_| {});
    assert_eq!((after.get(other.id).unwrap_err().code, documents(&store)), (Code::JobNotFound, 2));
    assert_eq!(text(&after.get(stubborn.id).unwrap()), text(&stubborn));
}

#[test]
fn a_store_that_cannot_be_written_loses_no_end() {
    let (failing, store) = memory();
    let jobs = opened(&store, |_| {});
    let (first, begun, release) = held(&jobs);
    begun.recv().unwrap();
    let (crop, begun_too, release_too) = {
        let ((begun, has_begun), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
        let job = jobs.start(about("crops"), move |run| {
            run.attach("a".to_owned(), "image/png", vec![3; 10]);
            begun.send(()).unwrap();
            released.recv().unwrap();
            Ok(json!({ "subject": "ada" }))
        });
        (job.unwrap().id, has_begun, release)
    };
    begun_too.recv().unwrap();
    failing.fail_writes(true);
    assert_eq!(jobs.start(about("refused"), nothing).unwrap_err().code, Code::StorageUnavailable);
    assert_eq!(jobs.list(&JobFilter::default(), None, 10).len(), 2);
    release.send(()).unwrap();
    release_too.send(()).unwrap();
    assert_eq!(ended(&jobs, first).state, StateName::Done);
    assert_eq!(ended(&jobs, crop).result.unwrap().get(), r#"{"subject":"ada"}"#);
    assert_eq!(jobs.attachment(crop, "a").unwrap().unwrap().1.as_ref(), [3; 10]);
    // A start goes on without what it cannot write.
    let after = opened(&store, |_| {});
    assert_eq!(code(&after.get(crop).unwrap()), Some(Code::JobInterrupted));
    failing.fail_writes(false);
    assert_eq!(ended(&jobs, jobs.start(about("fine"), nothing).unwrap().id).state, StateName::Done);
}
