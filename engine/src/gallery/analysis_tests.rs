//! Duplicates, clusters and the leave-one-out report, over embeddings whose scores are known.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::*;
use crate::align::AlignedCrop;
use crate::face::Feature;
use crate::ids::{FaceId, MediaId};
use crate::index::IndexConfig;
use crate::model::{ImpostorScore, ImpostorScores, ModelSource, ServedModel};
use crate::quality::NormStats;
use crate::store::memory::MemoryStore;
use crate::store::{FaceSource, GalleryKind, Guard, Guards, PictureId, ThresholdSetting};
use crate::template::FusionRule;

const DIM: usize = 16;

struct Source(Arc<ServedModel>);

impl ModelSource for Source {
    fn model(&self, _: &ModelId) -> Result<Arc<ServedModel>, ModelUnavailable> {
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

/// A unit vector along `axis`, turned towards the next by `tilt`.
fn vector(axis: usize, tilt: f32) -> Vec<f32> {
    let mut vector = vec![0.0; DIM];
    let length = (1.0 + tilt * tilt).sqrt();
    vector[axis % DIM] = 1.0 / length;
    vector[(axis + 1) % DIM] = tilt / length;
    vector
}

/// Axis, tilt, norm and number of the picture.
type Made = (usize, f32, f32, Option<u8>);

fn new_face((axis, tilt, norm, picture): Made) -> NewFace {
    NewFace {
        feature: Feature { embedding: vector(axis, tilt), norm, style: None },
        media: MediaId::try_from(format!("{axis} {tilt}")).unwrap(),
        source: FaceSource::Embedding,
        bbox: None,
        landmarks: None,
        detection_score: None,
        picture: picture.map(|picture| PictureId([picture; 16])),
        overrides: Vec::new(),
        crop: None,
    }
}

fn database(kind: GalleryKind) -> Arc<Database> {
    let model = model();
    let config =
        DatabaseConfig { model: Arc::clone(&model), review: None, index: IndexConfig::default(), snapshots: None };
    let database = Database::open(Arc::new(MemoryStore::new()), Arc::new(Source(model)), config).unwrap();
    let guards = Guards { wrong_person: Guard::Off, duplicate_subject: Guard::Off };
    database.create_gallery(gid(), kind, None, GallerySettings { guards, ..GallerySettings::default() }).unwrap();
    database
}

fn enrol(database: &Database, subject: &str, faces: &[Made]) -> Vec<FaceId> {
    let faces = faces.iter().copied().map(new_face).collect();
    database.enrol(&gid(), &sid(subject), &model().id, faces).unwrap().faces.iter().map(|face| face.id).collect()
}

fn go_on(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn duplicates(database: &Database, threshold: Option<f32>, limit: usize) -> (Vec<(String, String)>, bool) {
    let options = DuplicateOptions { threshold: threshold.map(ThresholdSetting::Score), limit };
    let found = database.duplicates(&gid(), &options, &mut go_on).unwrap();
    let pairs = found.pairs.iter().map(|pair| (pair.subject.to_string(), pair.other.to_string()));
    (pairs.collect(), found.truncated)
}

/// The subjects of each cluster.
fn clusters(database: &Database) -> Vec<Vec<String>> {
    let options = ClusterOptions { threshold: None, min_faces: 2, limit: 100 };
    let found = database.clusters(&gid(), &options, &mut go_on).unwrap();
    let told: usize = found.clusters.iter().map(|cluster| cluster.faces.len()).sum();
    assert_eq!(told as u64 + found.left_alone, found.faces);
    let names = |cluster: &Cluster| cluster.subjects.iter().map(ToString::to_string).collect();
    found.clusters.iter().map(names).collect()
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn duplicates_are_told_once_and_best_first() {
    for kind in [GalleryKind::Consolidated, GalleryKind::Events] {
        let all = database(kind);
        enrol(&all, "ada", &[(0, 0.0, 20.0, None), (0, 0.1, 20.0, None)]);
        enrol(&all, "eve", &[(0, 0.5, 20.0, None)]);
        enrol(&all, "alias", &[(0, 0.15, 20.0, None)]);
        enrol(&all, "bob", &[(6, 0.0, 20.0, Some(1))]);
        enrol(&all, "bobby", &[(6, 0.0, 20.0, None)]);
        enrol(&all, "robert", &[(6, 0.0, 20.0, Some(1))]);
        // Bob and Robert stand in one picture. Of equal scores the ids decide.
        let pairs = [("bob", "bobby"), ("bobby", "robert"), ("ada", "alias"), ("ada", "eve"), ("alias", "eve")];
        let (mut found, truncated) = duplicates(&all, Some(0.6), 10);
        assert!(!truncated);
        assert_eq!(found[..3], owned(&pairs[..3]));
        found.sort();
        let mut wanted = owned(&pairs);
        wanted.sort();
        assert_eq!(found, wanted);
        assert_eq!(duplicates(&all, Some(0.6), 2), (owned(&pairs[..2]), true));
        // Where enrolment would see a duplicate.
        let usual = all.duplicates(&gid(), &DuplicateOptions { threshold: None, limit: 10 }, &mut go_on).unwrap();
        assert!(usual.threshold.score >= 0.5 && usual.searched == 6, "{:?}", usual.threshold);
        let pair = usual.pairs.iter().find(|pair| pair.other == sid("alias")).unwrap();
        assert_eq!((pair.faces, pair.other_faces, pair.fpir), (2, 1, None));

        all.keep_apart(&gid(), &sid("alias"), &sid("ada"), None).unwrap();
        let (found, _) = duplicates(&all, Some(0.6), 10);
        assert!(!found.contains(&owned(&pairs[2..3])[0]), "{found:?}");

        let rate = DuplicateOptions { threshold: Some(ThresholdSetting::Fpir(0.01)), limit: 10 };
        let refused = all.duplicates(&gid(), &rate, &mut go_on);
        assert!(matches!(refused, Err(GalleryError::CalibrationMissing(_))));
        let stopped = all
            .duplicates(&gid(), &DuplicateOptions { threshold: None, limit: 10 }, &mut |_, _| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(GalleryError::Stopping)));
    }
}

#[test]
fn faces_of_one_person_are_one_cluster() {
    let faces: [(&str, Made); 6] = [
        ("s0", (0, 0.0, 20.0, Some(1))),
        ("s1", (0, 0.1, 21.0, None)),
        ("s2", (0, 0.2, 20.0, Some(2))),
        ("s3", (5, 0.0, 20.0, Some(1))),
        ("s4", (5, 0.1, 20.0, None)),
        ("s5", (9, 0.0, 20.0, None)),
    ];
    let wanted = [vec!["s0", "s1", "s2"], vec!["s3", "s4"]];
    for kind in [GalleryKind::Consolidated, GalleryKind::Events] {
        for backwards in [false, true] {
            let all = database(kind);
            let mut order = faces;
            if backwards {
                order.reverse();
            }
            order.iter().for_each(|(subject, face)| drop(enrol(&all, subject, &[*face])));
            assert_eq!(clusters(&all), wanted, "in whatever order they come");
        }
    }
    let all = database(GalleryKind::Events);
    faces.iter().for_each(|(subject, face)| drop(enrol(&all, subject, &[*face])));
    let options = ClusterOptions { threshold: None, min_faces: 3, limit: 100 };
    let found = all.clusters(&gid(), &options, &mut go_on).unwrap();
    assert_eq!((found.total, found.left_alone, found.faces, found.threshold.score), (1, 3, 6, 0.4));
    let cluster = &found.clusters[0];
    assert_eq!((cluster.cluster, &cluster.faces[0].subject, cluster.best), (1, &sid("s1"), cluster.faces[0].face));
    assert!(cluster.coherence.unwrap() > 0.97);
    let stopped = all.clusters(&gid(), &options, &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(GalleryError::Stopping)));
}

#[test]
fn two_faces_of_one_picture_never_share_a_cluster() {
    let all = database(GalleryKind::Events);
    // The third face is between the two of the picture, and like both.
    enrol(&all, "s0", &[(0, 0.0, 20.0, Some(1))]);
    enrol(&all, "s1", &[(0, 0.2, 20.0, Some(1))]);
    enrol(&all, "s2", &[(0, 0.12, 20.0, None)]);
    assert_eq!(clusters(&all), [["s1", "s2"]]);
    // Nor do two faces that one subject has of a picture.
    enrol(&all, "s3", &[(7, 0.0, 20.0, Some(3)), (7, 0.01, 20.0, Some(3))]);
    assert_eq!(clusters(&all), [["s1", "s2"]]);
    // Nor subjects that are kept apart, with all their faces.
    enrol(&all, "t0", &[(10, 0.0, 20.0, None), (10, 0.1, 20.0, None)]);
    enrol(&all, "t1", &[(10, 0.05, 20.0, None)]);
    assert_eq!(clusters(&all), [vec!["t0", "t1"], vec!["s1", "s2"]]);
    all.keep_apart(&gid(), &sid("t1"), &sid("t0"), None).unwrap();
    let found = clusters(&all);
    assert!(found.contains(&vec!["t0".to_owned()]) && !found.iter().any(|names| names.len() > 1 && names[0] == "t0"));
}

#[test]
fn poor_faces_do_not_make_two_people_one() {
    let with_norm = |norm: f32| {
        let all = database(GalleryKind::Events);
        enrol(&all, "a", &[(0, 0.0, 20.0, None)]);
        // Like both (0.71 and 0.71), who are like each other not at all.
        enrol(&all, "between", &[(0, 1.0, norm, None)]);
        enrol(&all, "b", &[(1, 0.0, 20.0, None)]);
        let options = ClusterOptions { threshold: Some(ThresholdSetting::Score(0.3)), min_faces: 1, limit: 10 };
        let found = all.clusters(&gid(), &options, &mut go_on).unwrap();
        found.clusters.iter().map(|cluster| cluster.faces.len()).collect::<Vec<_>>()
    };
    assert_eq!(with_norm(30.0), [3], "a good face does");
    assert_eq!(with_norm(10.0), [2, 1]);
}

#[test]
fn mislabelled_faces_come_first() {
    for kind in [GalleryKind::Consolidated, GalleryKind::Events] {
        let all = database(kind);
        let good = |axis| [0.0, 0.1, 0.2, 0.15].map(|tilt| (axis, tilt, 20.0, None));
        enrol(&all, "ada", &good(0));
        enrol(&all, "bob", &good(5));
        let swapped = enrol(&all, "bob", &[(0, 0.3, 20.0, None)]);
        let foreign = enrol(&all, "ada", &[(10, 0.0, 20.0, None)]);
        enrol(&all, "one", &[(13, 0.0, 20.0, None)]);
        let report = all.leave_one_out(&gid(), &LeaveOneOutOptions { limit: 10 }, &mut go_on).unwrap();
        assert_eq!((report.measured, report.not_measurable), (10, 1));
        let told: Vec<FaceId> = report.suspects.iter().map(|suspect| suspect.face).collect();
        assert_eq!(told, [swapped[0], foreign[0]], "{kind:?} {:?}", report.suspects);
        assert_eq!(report.suspects_total, 2);
        let first = &report.suspects[0];
        assert_eq!(
            (&first.subject, first.best_other.as_ref(), first.own_rank),
            (&sid("bob"), Some(&sid("ada")), Some(2))
        );
        assert!(first.best_other_score.unwrap() > 0.9 && first.own_score < 0.1 && first.suspicion > 0.8);
        assert!((report.suspects[1].suspicion - 0.25).abs() < 0.05, "below what enrolment asks");
        let confused = &report.confusions[0];
        assert_eq!((&confused.subject, &confused.other, confused.faces), (&sid("bob"), &sid("ada"), 1));
        assert!(report.rank1.unwrap() >= 0.8 && report.own_scores.unwrap().median > 0.8);
        let limited = all.leave_one_out(&gid(), &LeaveOneOutOptions { limit: 1 }, &mut go_on).unwrap();
        assert_eq!((limited.suspects.len(), limited.suspects_total), (1, 2));
        let stopped = all.leave_one_out(&gid(), &LeaveOneOutOptions { limit: 1 }, &mut |_, _| ControlFlow::Break(()));
        assert!(matches!(stopped, Err(GalleryError::Stopping)));
    }
    let empty = database(GalleryKind::Consolidated);
    let report = empty.leave_one_out(&gid(), &LeaveOneOutOptions { limit: 1 }, &mut go_on).unwrap();
    assert_eq!((report.measured, report.rank1, report.own_scores), (0, None, None));
    assert_eq!(clusters(&empty), Vec::<Vec<String>>::new());
    assert_eq!(duplicates(&empty, None, 1), (vec![], false));
}
