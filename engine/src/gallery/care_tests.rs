//! Guards, consent, expiry, filters, regroupings, pairs and reviews, over embeddings whose scores are known.

use std::sync::Arc;

use jiff::{Timestamp, ToSpan};
use serde_json::json;

use super::*;
use crate::align::AlignedCrop;
use crate::face::Feature;
use crate::ids::{FaceId, MediaId};
use crate::index::{IndexConfig, SearchMode};
use crate::model::{ImpostorScore, ImpostorScores, ModelSource, ServedModel};
use crate::quality::NormStats;
use crate::store::memory::MemoryStore;
use crate::store::{Check, Consent, FaceSource, GalleryKind, Guard, Guards, Override, Store, StoredFace};
use crate::template::FusionRule;

const DIM: usize = 16;

struct Source(Arc<ServedModel>);

impl ModelSource for Source {
    fn model(&self, id: &ModelId) -> Result<Arc<ServedModel>, ModelUnavailable> {
        assert_eq!(*id, self.0.id);
        Ok(Arc::clone(&self.0))
    }

    fn embed(&self, _: &ModelId, _: Vec<AlignedCrop>) -> Result<Vec<Option<Feature>>, ModelUnavailable> {
        unreachable!("nothing is embedded")
    }
}

fn model() -> Arc<ServedModel> {
    let scores = [(0.1, 0.2), (0.05, 0.25), (0.001, 0.4), (1e-4, 0.5)];
    Arc::new(ServedModel {
        id: ModelId("m".to_owned()),
        dim: DIM,
        norm_stats: NormStats { mean: 20.0, std: 2.0 },
        fusion: FusionRule::Mean.into(),
        threshold: 0.5,
        impostors: scores
            .map(|(fmr, score)| ImpostorScore { fmr, score, flip: false })
            .into_iter()
            .collect::<ImpostorScores>(),
        network: None,
    })
}

fn gid() -> GalleryId {
    GalleryId::try_from("g").unwrap()
}

fn sid(id: &str) -> SubjectId {
    SubjectId::try_from(id).unwrap()
}

struct Fixture {
    store: Arc<MemoryStore>,
    database: Arc<Database>,
}

fn database(kind: GalleryKind, guards: Guards) -> Fixture {
    let store = Arc::new(MemoryStore::new());
    let model = model();
    let config =
        DatabaseConfig { model: Arc::clone(&model), review: None, index: IndexConfig::default(), snapshots: None };
    let database = Database::open(store.clone(), Arc::new(Source(model)), config).unwrap();
    let settings = GallerySettings { guards, ..GallerySettings::default() };
    database.create_gallery(gid(), kind, None, settings).unwrap();
    Fixture { store, database }
}

/// A subject with its faces.
type Described = (crate::store::Subject, Vec<StoredFace>);

const OFF: Guards = Guards { wrong_person: Guard::Off, duplicate_subject: Guard::Off };

/// A unit vector along `axis`, turned towards the next by `tilt`.
fn vector(axis: usize, tilt: f32) -> Vec<f32> {
    let mut vector = vec![0.0; DIM];
    let length = (1.0 + tilt * tilt).sqrt();
    vector[axis % DIM] = 1.0 / length;
    vector[(axis + 1) % DIM] = tilt / length;
    vector
}

fn new_face(axis: usize, tilt: f32, media: &str) -> NewFace {
    NewFace {
        feature: Feature { embedding: vector(axis, tilt), norm: 20.0 - tilt, style: None },
        media: MediaId::try_from(media.to_owned()).unwrap(),
        source: FaceSource::Embedding,
        bbox: None,
        landmarks: None,
        detection_score: None,
        picture: None,
        overrides: Vec::new(),
        crop: None,
    }
}

impl Fixture {
    fn enrol(&self, subject: &str, axis: usize, tilts: &[f32]) -> Vec<FaceId> {
        let faces = tilts.iter().map(|&tilt| new_face(axis, tilt, &format!("{axis} {tilt}"))).collect();
        let enrolled = self.database.enrol(&gid(), &sid(subject), &model().id, faces).unwrap();
        enrolled.faces.iter().map(|face| face.id).collect()
    }

    fn found(&self, axis: usize, query: &SearchQuery) -> Vec<String> {
        let result = self.database.search(&gid(), &model().id, &vector(axis, 0.0), query).unwrap();
        result.candidates.iter().map(|candidate| candidate.subject.to_string()).collect()
    }

    fn inspect(&self, subject: &str, faces: &[NewFace]) -> Vec<Vec<Override>> {
        self.database.inspect(&gid(), &sid(subject), &model().id, faces).unwrap().findings
    }

    fn set(&self, subject: &str, settings: SubjectSettings) {
        let settings = SubjectSettings { metadata: "{}".to_owned(), ..settings };
        self.database.update_subject(&gid(), &sid(subject), settings, None).unwrap();
    }

    /// All that a gallery shows of its subjects, and how each scores.
    fn state(&self) -> (Vec<Described>, Vec<(String, u32)>) {
        let subjects = self.store.subjects(&gid(), None, 100).unwrap();
        let faces = subjects.into_iter().map(|subject| {
            let faces = self.store.faces(&gid(), &subject.id).unwrap();
            (subject, faces)
        });
        let result = self.database.search(&gid(), &model().id, &vector(0, 0.3), &SearchQuery::plain(100)).unwrap();
        let scores = result.candidates.iter().map(|c| (c.subject.to_string(), c.score.to_bits()));
        (faces.collect(), scores.collect())
    }
}

fn checks(findings: &[Vec<Override>]) -> Vec<Vec<Check>> {
    findings.iter().map(|of| of.iter().map(|finding| finding.check).collect()).collect()
}

#[test]
fn a_stranger_among_a_subjects_faces_is_found() {
    let all = database(GalleryKind::Consolidated, Guards::default());
    // Together with the first faces: the one that disagrees with the rest.
    let faces = [new_face(0, 0.1, "a"), new_face(5, 0.0, "b"), new_face(0, 0.2, "c"), new_face(0, 0.0, "d")];
    let findings = all.inspect("ada", &faces);
    assert_eq!(checks(&findings), [vec![], vec![Check::WrongPerson], vec![], vec![]]);
    let Override { value, required, .. } = findings[1][0];
    assert!(value.abs() < 0.01 && required == 0.25, "of three others the sterner score: {value} {required}");
    // Two that disagree: nothing says which is the stranger, in whatever order they come.
    let wrong = || vec![Check::WrongPerson];
    let two = all.inspect("ada", &[new_face(0, 0.0, "a"), new_face(7, 0.1, "b")]);
    assert_eq!(checks(&two), [wrong(), wrong()]);
    assert!(two.iter().all(|of| of[0].value.abs() < 0.01 && of[0].required == 0.2), "{two:?}");
    let three = [new_face(0, 0.0, "a"), new_face(7, 0.1, "b"), new_face(9, 0.1, "c")];
    assert_eq!(checks(&all.inspect("ada", &three)), [wrong(), wrong(), wrong()]);
    let one_of_three = [new_face(7, 0.0, "a"), new_face(0, 0.1, "b"), new_face(7, 0.1, "c")];
    assert_eq!(checks(&all.inspect("ada", &one_of_three)), [vec![], wrong(), vec![]]);
    assert_eq!(checks(&all.inspect("ada", &[new_face(0, 0.0, "a")])), [vec![]], "there is nothing to compare with");

    all.enrol("ada", 0, &[0.0]);
    let beside_one = [new_face(0, 0.1, "b"), new_face(7, 0.1, "c")];
    assert_eq!(checks(&all.inspect("ada", &beside_one)), [vec![], wrong()], "one is borne out by what is there");
    let findings = all.inspect("ada", &[new_face(5, 0.0, "b")]);
    assert_eq!((checks(&findings), findings[0][0].required), (vec![vec![Check::WrongPerson]], 0.2));
    assert_eq!(checks(&all.inspect("ada", &[new_face(0, 2.0, "b")])), [vec![]]);

    let own = Guards { wrong_person: Guard::Score(0.9), duplicate_subject: Guard::Off };
    let stern = database(GalleryKind::Events, own);
    stern.enrol("ada", 0, &[0.0]);
    assert_eq!(checks(&stern.inspect("ada", &[new_face(0, 2.0, "b")])), [vec![Check::WrongPerson]]);
    let events = database(GalleryKind::Events, Guards::default());
    events.enrol("ada", 0, &[0.0]);
    assert_eq!(
        checks(&events.inspect("ada", &[new_face(5, 0.0, "b")])),
        [vec![]],
        "events are not guarded by themselves"
    );
}

#[test]
fn a_second_name_for_somebody_is_found() {
    let all = database(GalleryKind::Consolidated, Guards::default());
    all.enrol("ada", 0, &[0.0]);
    all.enrol("bob", 5, &[0.0]);
    let findings = all.inspect("eve", &[new_face(0, 0.1, "x")]);
    assert_eq!(checks(&findings), [vec![Check::DuplicateSubject]]);
    assert_eq!(findings[0][0].subject, Some(sid("ada")));
    assert!(findings[0][0].value > 0.99 && findings[0][0].required >= 0.5);
    let both = all.inspect("bob", &[new_face(0, 0.1, "x")]);
    assert_eq!(checks(&both), [vec![Check::WrongPerson, Check::DuplicateSubject]]);
    assert_eq!(checks(&all.inspect("ada", &[new_face(0, 0.1, "x")])), [vec![]]);
    assert_eq!(checks(&all.inspect("eve", &[new_face(9, 0.0, "x")])), [vec![]]);

    // Twins: known to be two people.
    all.database
        .create_subject(&gid(), sid("eve"), SubjectSettings { metadata: "{}".to_owned(), ..Default::default() })
        .unwrap();
    all.database.keep_apart(&gid(), &sid("ada"), &sid("eve"), None).unwrap();
    assert_eq!(checks(&all.inspect("eve", &[new_face(0, 0.1, "x")])), [vec![]]);
}

#[test]
fn consent_and_expiry_bar_from_matching() {
    for kind in [GalleryKind::Consolidated, GalleryKind::Events] {
        let all = database(kind, OFF);
        all.enrol("ada", 0, &[0.0, 0.1]);
        all.enrol("bob", 0, &[0.2]);
        let plain = SearchQuery::plain(10);
        assert_eq!(all.found(0, &plain), ["ada", "bob"]);
        for consent in [Consent::Pending, Consent::Withdrawn] {
            all.set("ada", SubjectSettings { consent, ..SubjectSettings::default() });
            assert_eq!(all.found(0, &plain), ["bob"]);
            let verified = all.database.verify(&gid(), &sid("ada"), &model().id, &vector(0, 0.0), Default::default());
            assert!(matches!(verified, Err(GalleryError::NotMatchable(_))));
            // Nor does a rebuilt index have it.
            let reopened = Database::open(
                all.store.clone(),
                Arc::new(Source(model())),
                DatabaseConfig { model: model(), review: None, index: IndexConfig::default(), snapshots: None },
            );
            let result = reopened.unwrap().search(&gid(), &model().id, &vector(0, 0.0), &plain).unwrap();
            assert_eq!(result.candidates.len(), 1);
        }
        let enrol = all.database.enrol(&gid(), &sid("ada"), &model().id, vec![new_face(0, 0.0, "x")]);
        assert!(matches!(enrol, Err(GalleryError::ConsentMissing(_))));
        all.set("ada", SubjectSettings { consent: Consent::Granted, ..SubjectSettings::default() });
        assert_eq!(all.found(0, &plain), ["ada", "bob"]);

        let soon = Timestamp::now().checked_add(300.milliseconds()).unwrap();
        all.set("ada", SubjectSettings { expires_at: Some(soon), ..SubjectSettings::default() });
        assert_eq!(all.found(0, &plain), ["ada", "bob"]);
        while Timestamp::now() <= soon.checked_add(2.milliseconds()).unwrap() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert_eq!(all.found(0, &plain), ["bob"], "at once");
        for _ in 0..200 {
            if all.store.subject(&gid(), &sid("ada")).unwrap().is_none() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(all.store.subject(&gid(), &sid("ada")).unwrap().is_none(), "and then for good");
    }
}

#[test]
fn filters_and_exclusions_narrow_a_search() {
    let all = database(GalleryKind::Consolidated, OFF);
    for (number, tilt) in [0.0, 0.1, 0.2, 0.3].into_iter().enumerate() {
        let id = format!("s{number}");
        let settings = SubjectSettings {
            metadata: json!({ "n": number, "even": number % 2 == 0 }).to_string(),
            ..SubjectSettings::default()
        };
        all.database.create_subject(&gid(), sid(&id), settings).unwrap();
        all.enrol(&id, 0, &[tilt]);
    }
    let field = |name: &str, comparison| Filter::Field(Field::parse(name).unwrap(), comparison);
    let even = field("metadata.even", Comparison::Eq(json!(true)));
    let query = |filter: Option<Filter>| SearchQuery { filter, mode: SearchMode::Ann, ..SearchQuery::plain(10) };
    assert_eq!(all.found(0, &query(Some(even.clone()))), ["s0", "s2"]);
    assert_eq!(all.found(0, &query(Some(Filter::Not(Box::new(even.clone()))))), ["s1", "s3"]);
    assert_eq!(all.found(0, &SearchQuery { limit: 1, ..query(Some(even.clone())) }), ["s0"]);
    // What changes later is seen.
    all.set("s2", SubjectSettings::default());
    all.enrol("s4", 0, &[0.05]);
    assert_eq!(all.found(0, &query(Some(even.clone()))), ["s0"]);
    let missing = Filter::Not(Box::new(field("metadata.even", Comparison::Exists)));
    assert_eq!(all.found(0, &query(Some(missing))), ["s4", "s2"]);
    let passed_over = [(gid(), [sid("s0"), sid("s4")].into())].into();
    assert_eq!(all.found(0, &SearchQuery { passed_over, ..query(None) }), ["s1", "s2", "s3"]);
}

#[test]
fn a_filter_that_comes_again_sees_what_has_changed() {
    let all = database(GalleryKind::Events, OFF);
    // More than a chunk of the index.
    const SUBJECTS: usize = 700;
    let is_marked = |number: usize| number.is_multiple_of(100);
    let settings = |marked: bool| SubjectSettings {
        metadata: json!({ "marked": marked }).to_string(),
        ..SubjectSettings::default()
    };
    let id = |number: usize| format!("s{number:03}");
    for number in 0..SUBJECTS {
        all.database.create_subject(&gid(), sid(&id(number)), settings(is_marked(number))).unwrap();
        all.enrol(&id(number), 0, &[number as f32 / 1_000.0]);
    }
    let filter = Filter::Field(Field::parse("metadata.marked").unwrap(), Comparison::Eq(json!(true)));
    let query = SearchQuery { filter: Some(filter), ..SearchQuery::plain(10) };
    // The second time the rows that pass are known, the third time they are used.
    let check = |expected: &[&str]| (0..3).for_each(|time| assert_eq!(all.found(0, &query), expected, "{time}"));
    check(&["s000", "s100", "s200", "s300", "s400", "s500", "s600"]);
    for (subject, marked) in [("s100", false), ("s001", true)] {
        all.database.update_subject(&gid(), &sid(subject), settings(marked), None).unwrap();
    }
    check(&["s000", "s001", "s200", "s300", "s400", "s500", "s600"]);
    all.database.delete_subject(&gid(), &sid("s200"), None).unwrap();
    all.database.create_subject(&gid(), sid("new"), settings(true)).unwrap();
    all.enrol("new", 0, &[0.0005]);
    all.enrol("s300", 0, &[0.0002]);
    check(&["s000", "s300", "new", "s001", "s400", "s500", "s600"]);
    let passed_over = [(gid(), [sid("s000"), sid("new")].into())].into();
    let query = SearchQuery { passed_over, ..query.clone() };
    assert_eq!(all.found(0, &query), ["s300", "s001", "s400", "s500", "s600"]);
}

#[test]
fn a_merge_is_undone_to_the_bit() {
    for kind in [GalleryKind::Consolidated, GalleryKind::Events] {
        let all = database(kind, OFF);
        all.enrol("ada", 0, &[0.0, 0.1]);
        all.enrol("alias", 0, &[0.3, 0.7]);
        all.enrol("eve", 0, &[0.5]);
        all.set("alias", SubjectSettings { labels: vec!["Alias".to_owned()], ..SubjectSettings::default() });
        all.database.keep_apart(&gid(), &sid("alias"), &sid("eve"), Some("twins".to_owned())).unwrap();
        let pairs = |id: &str| all.database.pairs(&gid(), &sid(id)).unwrap();
        let before = (all.state(), pairs("alias"), pairs("eve"), pairs("ada"));

        let merged = all.database.merge(&gid(), &sid("ada"), &sid("alias"), false).unwrap();
        assert_eq!((merged.kind, merged.faces.len()), (RegroupingKind::Merge, 2));
        assert_eq!(all.found(0, &SearchQuery::plain(10)), ["ada", "eve"]);
        assert_eq!(all.store.faces(&gid(), &sid("ada")).unwrap().len(), 4);
        assert_eq!(pairs("ada")[0].other, sid("eve"), "who the one is not, the other is not either");
        let refused = all.database.merge(&gid(), &sid("eve"), &sid("ada"), false);
        assert!(matches!(refused, Err(GalleryError::KeptApart(..))));

        let undone = all.database.undo(&gid(), merged.id).unwrap();
        assert_eq!(undone.left, []);
        assert_eq!((all.state(), pairs("alias"), pairs("eve"), pairs("ada")), before);
        assert!(matches!(all.database.undo(&gid(), merged.id), Err(GalleryError::AlreadyUndone(_))));

        // Faces that went elsewhere in between stay there.
        let again = all.database.merge(&gid(), &sid("ada"), &sid("alias"), false).unwrap();
        all.database.delete_face(&gid(), &sid("ada"), again.faces[0]).unwrap();
        let undone = all.database.undo(&gid(), again.id).unwrap();
        assert_eq!(undone.left, [again.faces[0]]);
        assert_eq!(all.store.faces(&gid(), &sid("alias")).unwrap().len(), 1);
        // A later subject of the same id is not overwritten.
        let third = all.database.merge(&gid(), &sid("ada"), &sid("alias"), false).unwrap();
        all.enrol("alias", 3, &[0.0]);
        let taken = all.database.undo(&gid(), third.id);
        assert!(matches!(taken, Err(GalleryError::Store(StoreError::SubjectExists(..)))));
        assert_eq!(all.database.regroupings(&gid(), None, 10).unwrap().len(), 3);
        assert!(all.store.check().unwrap().problems.is_empty());
    }
}

#[test]
fn splits_and_moves_are_undone() {
    let all = database(GalleryKind::Consolidated, OFF);
    let faces = all.enrol("ada", 0, &[0.0, 0.1, 3.0]);
    all.enrol("bob", 1, &[0.0]);
    let before = all.state();
    let split = all.database.split(&gid(), &sid("ada"), &faces[2..], sid("eve")).unwrap();
    assert_eq!(all.store.faces(&gid(), &sid("eve")).unwrap().len(), 1);
    assert!(matches!(all.database.split(&gid(), &sid("ada"), &faces[..1], sid("eve")), Err(GalleryError::Store(_))));
    let moved = all.database.move_face(&gid(), &sid("eve"), &sid("bob"), faces[2]).unwrap();
    assert_eq!(all.store.faces(&gid(), &sid("bob")).unwrap().len(), 2);
    all.database.undo(&gid(), moved.id).unwrap();
    let undone = all.database.undo(&gid(), split.id).unwrap();
    assert_eq!((undone.left, all.state()), (vec![], before), "the subject that the split made has gone with it");
    let nobody = all.database.move_face(&gid(), &sid("ada"), &sid("nobody"), faces[0]);
    assert!(matches!(nobody, Err(GalleryError::Store(StoreError::NoSubject(..)))));
    let not_hers = all.database.move_face(&gid(), &sid("bob"), &sid("ada"), faces[0]);
    assert!(matches!(not_hers, Err(GalleryError::Store(StoreError::NoFace(..)))));
}

#[test]
fn reviews_are_kept_and_a_rejection_keeps_apart() {
    let all = database(GalleryKind::Consolidated, OFF);
    all.enrol("ada", 0, &[0.0]);
    all.enrol("twin", 0, &[0.1]);
    let review = |verdict, probe| NewReview {
        subject: sid("ada"),
        verdict,
        probe,
        score: Some(0.7),
        reviewer: Some("kim".to_owned()),
        note: None,
    };
    let probe = ReviewedProbe { subject: Some(sid("twin")), ..ReviewedProbe::default() };
    let first = all.database.add_review(&gid(), review(Verdict::Confirmed, ReviewedProbe::default())).unwrap();
    assert!(all.database.pairs(&gid(), &sid("twin")).unwrap().is_empty());
    let second = all.database.add_review(&gid(), review(Verdict::Rejected, probe)).unwrap();
    assert_eq!(all.database.pairs(&gid(), &sid("twin")).unwrap()[0].other, sid("ada"));
    assert_eq!(all.database.reviews(&gid(), None, 10).unwrap(), [first.clone(), second.clone()]);
    assert_eq!(all.database.reviews(&gid(), Some(first.id), 10).unwrap(), std::slice::from_ref(&second));
    assert_eq!(all.database.find_review(second.id).unwrap(), (gid(), second));
    all.database.delete_subject(&gid(), &sid("ada"), None).unwrap();
    assert!(all.database.pairs(&gid(), &sid("twin")).unwrap().is_empty(), "nobody inherits them");
}

#[test]
fn faces_do_not_escape_what_bars_their_subject() {
    let all = database(GalleryKind::Consolidated, OFF);
    let faces = all.enrol("ada", 0, &[0.0, 0.1]);
    all.enrol("bob", 5, &[0.0]);
    let withdrawn = SubjectSettings { consent: Consent::Withdrawn, ..SubjectSettings::default() };
    all.set("ada", withdrawn.clone());
    all.database.split(&gid(), &sid("ada"), &faces[..1], sid("new")).unwrap();
    assert_eq!(all.store.subject(&gid(), &sid("new")).unwrap().unwrap().consent, Consent::Withdrawn);
    assert_eq!(all.found(0, &SearchQuery::plain(10)), ["bob"]);
    let refused = |result: Result<Regrouping, GalleryError>| matches!(result, Err(GalleryError::LaxerTerms { .. }));
    assert!(refused(all.database.merge(&gid(), &sid("bob"), &sid("ada"), false)));
    assert!(refused(all.database.move_face(&gid(), &sid("ada"), &sid("bob"), faces[1])));
    // The other way round nothing is lost, and it comes back.
    let merged = all.database.merge(&gid(), &sid("ada"), &sid("bob"), false).unwrap();
    all.database.undo(&gid(), merged.id).unwrap();
    assert_eq!(all.found(5, &SearchQuery::plain(1)), ["bob"]);
    // Taken back after a merge, consent is not given again by undoing it.
    all.enrol("eve", 9, &[0.0]);
    let merged = all.database.merge(&gid(), &sid("bob"), &sid("eve"), false).unwrap();
    all.set("bob", withdrawn);
    assert!(matches!(all.database.undo(&gid(), merged.id), Err(GalleryError::LaxerTerms { .. })));
    let probe = all.database.stored_probe(&gid(), &sid("bob"), None, None);
    assert!(matches!(probe, Err(GalleryError::NotMatchable(_))));
}

#[test]
fn events_are_explained_as_they_are_searched() {
    let all = database(GalleryKind::Events, OFF);
    all.enrol("ada", 0, &[0.5, 0.0, 1.0]);
    let query = SearchQuery { explain: true, ..SearchQuery::plain(1) };
    let result = all.database.search(&gid(), &model().id, &vector(0, 0.0), &query).unwrap();
    let parts: Vec<(f32, f32, f32)> = result.candidates[0]
        .faces
        .iter()
        .map(|face| (face.part.weight, face.part.score, face.part.score_without.unwrap()))
        .collect();
    let half = 1.0 / 1.25f32.sqrt();
    for ((weight, score, without), wanted) in
        parts.iter().zip([(0.0, half, 1.0), (1.0, 1.0, half), (0.0, 0.5f32.sqrt(), 1.0)])
    {
        assert_eq!(*weight, wanted.0);
        assert!((score - wanted.1).abs() < 1e-6 && (without - wanted.2).abs() < 1e-6, "{parts:?}");
    }
}

#[test]
fn a_merge_is_seen_at_once() {
    let all = database(GalleryKind::Consolidated, OFF);
    all.enrol("ada", 0, &[0.0]);
    all.enrol("alias", 0, &[0.2]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                let merged = all.database.merge(&gid(), &sid("ada"), &sid("alias"), false).unwrap();
                all.database.undo(&gid(), merged.id).unwrap();
            }
            stop.store(true, std::sync::atomic::Ordering::Release);
        });
        let mut seen = 0;
        while !stop.load(std::sync::atomic::Ordering::Acquire) {
            let result = all.database.search(&gid(), &model().id, &vector(0, 0.2), &SearchQuery::plain(5)).unwrap();
            let scores: Vec<f32> = result.candidates.iter().map(|candidate| candidate.score).collect();
            // Either both as they were, or the one that both became.
            match scores[..] {
                [first, second] => assert!(first > 0.999 && second > 0.97 && second < 0.99, "{scores:?}"),
                [one] => assert!(one > 0.99 && one < 0.999, "{scores:?}"),
                _ => panic!("{scores:?}"),
            }
            seen += 1;
        }
        assert!(seen > 10);
    });
}
