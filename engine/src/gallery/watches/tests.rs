//! Hits are numbered without a gap, kept as promised, and outlive the book they were written in.

use super::*;
use crate::gallery::{Decision, Threshold, ThresholdSource};
use crate::ids::{GalleryId, SubjectId};
use crate::store::memory::MemoryStore;
use crate::store::{Gallery, GalleryKind, Guards, ThresholdSetting, Thresholds};

fn store() -> Arc<dyn Store> {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let at = now();
    let gallery = Gallery {
        id: GalleryId::try_from("g").unwrap(),
        kind: GalleryKind::Consolidated,
        model_id: crate::ids::ModelId("m".to_owned()),
        dim: 4,
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
    store.commit(at, &[Operation::CreateGallery(gallery)]).unwrap();
    store
}

fn settings(webhook: bool) -> WatchSettings {
    let secret = Secret::new("0123456789abcdef".to_owned());
    WatchSettings {
        gallery: GalleryId::try_from("g").unwrap(),
        thresholds: Thresholds {
            matching: Some(ThresholdSetting::Fpir(0.001)),
            review: Some(ThresholdSetting::Score(0.25)),
        },
        sources: WatchSources { tracks: true, ..WatchSources::default() },
        min_decision: Decision::Review,
        webhook: webhook.then(|| Webhook { url: "http://127.0.0.1:1/".to_owned(), secret }),
        enabled: true,
        label: None,
    }
}

fn hits(count: usize) -> Vec<NewHit> {
    let threshold = Threshold { score: 0.3, fpir: None, extrapolated: false, source: ThresholdSource::Watch };
    let hit = |_| NewHit {
        source: HitSource::Search { search_id: uuid::Uuid::nil() },
        gallery: GalleryId::try_from("g").unwrap(),
        subject: SubjectId::try_from("ada").unwrap(),
        face: None,
        score: 0.5,
        fpir: None,
        decision: Decision::Match,
        threshold,
        review_threshold: None,
        coherence: Some(0.9),
    };
    (0..count).map(hit).collect()
}

fn numbers(book: &WatchBook, id: WatchId, after: u64) -> Vec<u64> {
    book.hits(id, after, 100).unwrap().iter().map(|hit| hit.number).collect()
}

#[test]
fn hits_are_numbered_and_outlive_the_book() {
    let store = store();
    let book = WatchBook::open(Arc::clone(&store), 100).unwrap();
    let watch = book.create(settings(true), 2).unwrap().unwrap();
    let other = book.create(settings(false), 2).unwrap().unwrap();
    assert!(book.create(settings(false), 2).unwrap().is_none());
    assert_eq!(book.add_hits(watch.id, hits(3)).unwrap()[2].number, 3);
    book.add_hits(other.id, hits(1)).unwrap();
    book.set_delivered(watch.id, 1).unwrap();

    let again = WatchBook::open(store, 100).unwrap();
    assert_eq!(again.watch(watch.id).unwrap(), watch);
    assert_eq!(again.add_hits(watch.id, hits(1)).unwrap()[0].number, 4);
    assert_eq!((numbers(&again, watch.id, 0), numbers(&again, other.id, 0)), (vec![1, 2, 3, 4], vec![1]));
    assert_eq!(again.undelivered(watch.id).unwrap().unwrap().number, 2);
    let expected = Progress { oldest: 1, last: 4, delivered_up_to: 1, dropped: 0 };
    assert_eq!(again.progress(watch.id).unwrap(), expected);
    again.set_delivered(watch.id, 4).unwrap();
    again.set_delivered(watch.id, 2).unwrap();
    assert!(again.undelivered(watch.id).unwrap().is_none());
}

#[test]
fn the_newest_hits_are_kept_and_lost_deliveries_counted() {
    let book = WatchBook::open(store(), 3).unwrap();
    let watch = book.create(settings(true), 9).unwrap().unwrap();
    book.add_hits(watch.id, hits(3)).unwrap();
    book.set_delivered(watch.id, 2).unwrap();
    book.add_hits(watch.id, hits(2)).unwrap();
    let progress = Progress { oldest: 3, last: 5, delivered_up_to: 2, dropped: 0 };
    assert_eq!((book.progress(watch.id).unwrap(), numbers(&book, watch.id, 0)), (progress, vec![3, 4, 5]));
    book.add_hits(watch.id, hits(2)).unwrap();
    assert_eq!(book.progress(watch.id).unwrap(), Progress { oldest: 5, last: 7, dropped: 2, ..progress });
    assert_eq!(book.undelivered(watch.id).unwrap().unwrap().number, 5);
}

#[test]
fn a_removed_watch_leaves_nothing() {
    let store = store();
    let book = WatchBook::open(Arc::clone(&store), 9).unwrap();
    let watch = book.create(settings(false), 9).unwrap().unwrap();
    book.add_hits(watch.id, hits(2)).unwrap();
    // Hits of the time before there was a webhook are not delivered to it.
    let changed = book.update::<GalleryError>(watch.id, |_| Ok(settings(true))).unwrap();
    assert!(changed.settings.webhook.is_some() && book.undelivered(watch.id).unwrap().is_none());
    book.remove(watch.id).unwrap();
    assert!(matches!(book.remove(watch.id), Err(GalleryError::NoWatch(_))));
    assert!(book.add_hits(watch.id, hits(1)).unwrap().is_empty());
    for collection in [Collection::Watches, Collection::Hits, Collection::Cursors] {
        assert!(store.documents(None, collection, &[], None, 9).unwrap().is_empty(), "{collection:?}");
    }
}

#[test]
fn a_watch_is_of_galleries_that_are_there() {
    let book = WatchBook::open(store(), 9).unwrap();
    let mut elsewhere = settings(false);
    elsewhere.sources.enrolments = vec![GalleryId::try_from("none").unwrap()];
    let refused = book.create(elsewhere, 9);
    assert!(matches!(refused, Err(GalleryError::Store(StoreError::NoGallery(_)))));
}

#[test]
fn a_secret_does_not_print() {
    assert!(!format!("{:?}", settings(true)).contains("0123456789abcdef"));
}
