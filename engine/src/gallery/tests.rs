//! Galleries that move to another model, over a store in memory and models that look at one pixel.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use image::RgbImage;

use super::*;
use crate::align::{AlignedCrop, SIZE};
use crate::face::Feature;
use crate::ids::{MediaId, MigrationId, SubjectId};
use crate::image::encode_png;
use crate::index::{IndexConfig, SearchMode};
use crate::model::{ImpostorScores, ModelSource, ServedModel};
use crate::quality::NormStats;
use crate::store::memory::MemoryStore;
use crate::store::{FaceSource, GalleryKind, Migration, Stage, ThresholdSetting, Thresholds};
use crate::template::{Fusion, FusionRule};

static OLD: LazyLock<ModelId> = LazyLock::new(|| ModelId("old-0123456789abcdef".to_owned()));
static NEW: LazyLock<ModelId> = LazyLock::new(|| ModelId("new-0123456789abcdef".to_owned()));

/// Two models of different dimension whose features follow from the first pixel of a crop.
#[derive(Default)]
struct Fakes {
    embedded: AtomicUsize,
    /// Faces after which the new model fails; 0 is never.
    fails_after: AtomicUsize,
    gone: AtomicBool,
}

fn feature(model: &ModelId, pixel: [u8; 3]) -> Feature {
    let [person, photo, _] = pixel.map(f32::from);
    let dim = if *model == *OLD { 16 } else { 8 };
    let value = |i: usize| ((person + 1.0) * (i as f32 + 1.3)).sin() + 0.05 * ((photo + 2.0) * (i as f32 + 0.7)).sin();
    Feature::from_raw((0..dim).map(value).map(|v| 10.0 * v).collect()).unwrap()
}

impl ModelSource for Fakes {
    fn model(&self, id: &ModelId) -> Result<Arc<ServedModel>, ModelUnavailable> {
        if !(*id == *OLD || *id == *NEW && !self.gone.load(Ordering::Relaxed)) {
            return Err(ModelUnavailable(format!("there is no model {id}")));
        }
        Ok(Arc::new(ServedModel {
            id: id.clone(),
            dim: feature(id, [0; 3]).embedding.len(),
            norm_stats: NormStats { mean: 30.0, std: 5.0 },
            fusion: Fusion::from(FusionRule::Norm),
            threshold: if *id == *OLD { 0.3 } else { 0.4 },
            impostors: ImpostorScores::default(),
            network: None,
        }))
    }

    fn embed(&self, id: &ModelId, crops: Vec<AlignedCrop>) -> Result<Vec<Option<Feature>>, ModelUnavailable> {
        let limit = self.fails_after.load(Ordering::Relaxed);
        if limit > 0 && self.embedded.load(Ordering::Relaxed) >= limit {
            return Err(ModelUnavailable("out of order".to_owned()));
        }
        self.embedded.fetch_add(crops.len(), Ordering::Relaxed);
        Ok(crops.iter().map(|crop| Some(feature(id, crop.image().get_pixel(0, 0).0))).collect())
    }
}

fn gid() -> GalleryId {
    GalleryId::try_from("g").unwrap()
}

fn sid(person: u8) -> SubjectId {
    SubjectId::try_from(format!("person-{person}")).unwrap()
}

fn open(store: &Arc<MemoryStore>, models: &Arc<Fakes>) -> Arc<Database> {
    let config = DatabaseConfig {
        model: models.model(&OLD).unwrap(),
        review: None,
        index: IndexConfig::default(),
        snapshots: None,
    };
    Database::open(store.clone(), models.clone(), config).unwrap()
}

fn score(score: f32) -> Thresholds {
    Thresholds { matching: Some(ThresholdSetting::Score(score)), review: None }
}

fn face(model: &ModelId, person: u8, photo: u8, crop: bool) -> NewFace {
    let pixel = [person, photo, 7];
    let picture = RgbImage::from_pixel(SIZE, SIZE, image::Rgb(pixel));
    NewFace {
        feature: feature(model, pixel),
        media: MediaId::try_from(format!("{person}-{photo}")).unwrap(),
        source: FaceSource::Crop,
        bbox: None,
        landmarks: None,
        detection_score: None,
        picture: None,
        overrides: Vec::new(),
        crop: crop.then(|| encode_png(&picture).unwrap()),
    }
}

/// Sides are exchanged while the mover embeds: no feature of one model may come into the set of the other.
#[test]
fn switches_and_embedding_do_not_mix_models() {
    let (_, _, database) = enrolled(4, GalleryKind::Consolidated);
    let id = database.start_migration(&gid(), &NEW, Thresholds::default()).unwrap().id;
    until(&database, id, |migration| migration.stage == Stage::Ready);
    for round in 0..60u8 {
        let model = database.model_of(&gid()).unwrap().id.clone();
        database.enrol(&gid(), &sid(100), &model, vec![face(&model, 100, round, true)]).unwrap();
        if model == *OLD { database.cut_over(&gid(), id, false) } else { database.roll_back(&gid(), id) }.unwrap();
    }
    until(&database, id, |migration| migration.standby_faces == 8 + 60);
    let standby = if database.model_of(&gid()).unwrap().id == *OLD { &*NEW } else { &*OLD };
    for (stored, model) in [
        (database.store().standby_faces(&gid(), &sid(100)).unwrap(), standby),
        (database.faces(&gid(), &sid(100)).unwrap(), &database.model_of(&gid()).unwrap().id),
    ] {
        for face in stored {
            let photo = face.face.media.as_str().rsplit('-').next().unwrap().parse().unwrap();
            assert_eq!(face.embedding, feature(model, [100, photo, 7]).embedding);
        }
    }
}

/// A database with `people` subjects of two faces each.
fn enrolled(people: u8, kind: GalleryKind) -> (Arc<MemoryStore>, Arc<Fakes>, Arc<Database>) {
    let (store, models) = (Arc::new(MemoryStore::new()), Arc::new(Fakes::default()));
    let database = open(&store, &models);
    let settings = GallerySettings { keep_crops: true, thresholds: score(0.25), ..GallerySettings::default() };
    database.create_gallery(gid(), kind, None, settings).unwrap();
    for person in 0..people {
        let faces = (0..2).map(|photo| face(&OLD, person, photo, true)).collect();
        database.enrol(&gid(), &sid(person), &OLD, faces).unwrap();
    }
    (store, models, database)
}

fn until(database: &Database, id: MigrationId, done: impl Fn(&Migration) -> bool) -> Migration {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let migration = database.migration(&gid(), id).unwrap();
        if done(&migration) {
            return migration;
        }
        assert!(Instant::now() < deadline, "{migration:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn best(database: &Database, model: &ModelId, person: u8) -> Candidate {
    let query = &SearchQuery { mode: SearchMode::Exact, explain: true, ..SearchQuery::plain(3) };
    let probe = feature(model, [person, 9, 7]);
    let result = database.search(&gid(), model, &probe.embedding, query).unwrap();
    let best = result.candidates.into_iter().next().unwrap();
    assert!(!best.faces.is_empty());
    best
}

fn moves_and_comes_back(kind: GalleryKind) {
    let (_, _, database) = enrolled(12, kind);
    let id = database.start_migration(&gid(), &NEW, score(0.5)).unwrap().id;
    let searching = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let searches = scope.spawn(|| {
            let mut searches = 0;
            while searching.load(Ordering::Relaxed) {
                // Probes are made with the model the gallery is said to be of; a switch may come in between.
                let model = database.model_of(&gid()).unwrap();
                assert_eq!(best(&database, &model.id, searches % 12).subject, sid(searches % 12));
                searches = searches.wrapping_add(1);
            }
            searches
        });
        let ready = until(&database, id, |migration| migration.stage == Stage::Ready);
        assert_eq!((ready.standby_faces, ready.failure), (24, None));
        let report: Agreement = serde_json::from_str(&ready.report.unwrap()).unwrap();
        assert_eq!((report.faces, report.mated.probes), (24, 24));
        assert_eq!((report.mated.rank1_before, report.mated.rank1_after), (1.0, 1.0));
        assert!(report.mated.score_after.mean > report.non_mated.score_after.mean);

        assert_eq!(database.cut_over(&gid(), id, false).unwrap().stage, Stage::CutOver);
        assert_eq!(database.model_of(&gid()).unwrap().id, *NEW);
        let gallery = database.gallery(&gid()).unwrap();
        assert_eq!((gallery.dim, gallery.thresholds), (8, score(0.5)));
        // A probe of the old model is still answered.
        assert_eq!(best(&database, &OLD, 3).subject, sid(3));
        // A face enrolled under the new model is found under the old one after rolling back.
        let late = database.enrol(&gid(), &sid(12), &OLD, vec![face(&OLD, 12, 0, true)]);
        assert!(matches!(late, Err(GalleryError::ModelMismatch { .. })));
        database.enrol(&gid(), &sid(12), &NEW, vec![face(&NEW, 12, 0, true)]).unwrap();
        assert_eq!(best(&database, &NEW, 12).subject, sid(12));
        assert_eq!(database.roll_back(&gid(), id).unwrap().stage, Stage::RolledBack);
        assert_eq!(database.gallery(&gid()).unwrap().thresholds, score(0.25));
        assert_eq!(best(&database, &OLD, 12).subject, sid(12));
        database.cut_over(&gid(), id, false).unwrap();
        searching.store(false, Ordering::Relaxed);
        searches.join().unwrap();
    });
    assert_eq!(database.end_migration(&gid(), id).unwrap().stage, Stage::Completed);
    assert_eq!(best(&database, &NEW, 5).subject, sid(5));
    let probe = feature(&OLD, [5, 9, 7]);
    let query = &SearchQuery { mode: SearchMode::Exact, ..SearchQuery::plain(1) };
    let old = database.search(&gid(), &OLD, &probe.embedding, query);
    assert!(matches!(old, Err(GalleryError::ModelMismatch { .. })));
    assert_eq!(database.store().check().unwrap().problems, Vec::<String>::new());
}

#[test]
fn templates_move_and_come_back() {
    moves_and_comes_back(GalleryKind::Consolidated);
}

#[test]
fn events_move_and_come_back() {
    moves_and_comes_back(GalleryKind::Events);
}

#[test]
fn a_migration_goes_on_where_it_was_cut_off() {
    let (store, models, database) = enrolled(40, GalleryKind::Consolidated);
    models.fails_after.store(20, Ordering::Relaxed);
    let id = database.start_migration(&gid(), &NEW, Thresholds::default()).unwrap().id;
    let stuck = until(&database, id, |migration| migration.failure.is_some());
    assert_eq!((stuck.stage, stuck.failure.as_deref()), (Stage::Embedding, Some("out of order")));
    let done = stuck.standby_faces as usize;
    assert!((16..80).contains(&done), "{done}");
    assert!(matches!(database.cut_over(&gid(), id, false), Err(GalleryError::Store(StoreError::WrongStage { .. }))));
    // A set that is being filled answers nobody, or people would be missing from the answer.
    let probe = feature(&NEW, [5, 9, 7]);
    let query = &SearchQuery { mode: SearchMode::Exact, ..SearchQuery::plain(1) };
    let early = database.search(&gid(), &NEW, &probe.embedding, query);
    assert!(matches!(early, Err(GalleryError::ModelMismatch { .. })));
    drop(database);

    models.fails_after.store(0, Ordering::Relaxed);
    models.embedded.store(0, Ordering::Relaxed);
    let database = open(&store, &models);
    let ready = until(&database, id, |migration| migration.stage == Stage::Ready);
    assert_eq!((ready.standby_faces, ready.failure), (80, None));
    assert_eq!(models.embedded.load(Ordering::Relaxed), 80 - done, "nothing is embedded twice");
    database.cut_over(&gid(), id, false).unwrap();
    drop(database);
    let database = open(&store, &models);
    assert_eq!(best(&database, &NEW, 7).subject, sid(7));
    database.roll_back(&gid(), id).unwrap();
    assert_eq!(best(&database, &OLD, 7).subject, sid(7));
}

#[test]
fn faces_without_crops_stop_the_cut_over_until_they_are_given_up() {
    let (_, _, database) = enrolled(3, GalleryKind::Consolidated);
    // More than are embedded at once, and before the others in the order of the scan.
    let bare = (0..40).map(|photo| face(&OLD, 9, photo, false)).collect();
    let first = SubjectId::try_from("a").unwrap();
    database.enrol(&gid(), &first, &OLD, bare).unwrap();
    let id = database.start_migration(&gid(), &NEW, Thresholds::default()).unwrap().id;
    let ready = until(&database, id, |migration| migration.stage == Stage::Ready);
    assert!(ready.failure.unwrap().ends_with(": 40"));
    let refused = database.cut_over(&gid(), id, false);
    assert!(matches!(refused, Err(GalleryError::Store(StoreError::StandbyIncomplete { missing: 40 }))));
    assert_eq!(best(&database, &OLD, 9).subject, first);
    database.cut_over(&gid(), id, true).unwrap();
    assert_eq!(database.counts(&gid()).unwrap().faces, 6);
    assert_ne!(best(&database, &NEW, 9).subject, first);
    assert_eq!(best(&database, &NEW, 2).subject, sid(2));
    assert_eq!(database.store().check().unwrap().problems, Vec::<String>::new());
}

#[test]
fn what_cannot_be_is_refused() {
    let (store, models, database) = enrolled(2, GalleryKind::Consolidated);
    let start = |model: &ModelId| database.start_migration(&gid(), model, Thresholds::default());
    assert!(matches!(start(&OLD), Err(GalleryError::SameModel(..))));
    assert!(matches!(start(&ModelId("none".to_owned())), Err(GalleryError::ModelUnavailable { .. })));
    let id = start(&NEW).unwrap().id;
    assert!(matches!(start(&NEW), Err(GalleryError::Store(StoreError::MigrationUnderWay(_, other))) if other == id));
    until(&database, id, |migration| migration.stage == Stage::Ready);
    database.cut_over(&gid(), id, false).unwrap();
    drop(database);
    // Without the gallery's model everything can be read and nothing searched; the migration is not lost.
    models.gone.store(true, Ordering::Relaxed);
    let database = open(&store, &models);
    assert_eq!(database.faces(&gid(), &sid(1)).unwrap().len(), 2);
    assert!(matches!(database.model_of(&gid()), Err(GalleryError::ModelUnavailable { .. })));
    // The old features are there, so rolling back is the way out.
    assert_eq!(database.roll_back(&gid(), id).unwrap().stage, Stage::RolledBack);
    assert_eq!(best(&database, &OLD, 1).subject, sid(1));
    assert!(matches!(database.cut_over(&gid(), id, false), Err(GalleryError::ModelUnavailable { .. })));
    assert!(database.migration(&gid(), id).unwrap().failure.unwrap().contains(&NEW.0));
    models.gone.store(false, Ordering::Relaxed);
    assert_eq!(database.cut_over(&gid(), id, false).unwrap().stage, Stage::CutOver);
    assert_eq!(best(&database, &NEW, 1).subject, sid(1));
    database.end_migration(&gid(), id).unwrap();
    assert_eq!(best(&database, &NEW, 1).subject, sid(1));
}
