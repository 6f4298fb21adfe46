//! Galleries that fuse by the rule `caface`, over a stand-in for the network.

use std::sync::Arc;

use super::*;
use crate::align::AlignedCrop;
use crate::face::{Feature, Style};
use crate::ids::{MediaId, SubjectId};
use crate::index::{IndexConfig, SearchMode};
use crate::model::{ImpostorScores, ModelSource, ServedModel};
use crate::quality::NormStats;
use crate::store::memory::MemoryStore;
use crate::store::{FaceSource, GalleryKind, Thresholds};
use crate::template::{Fused, FusionRule, NetworkError, SetFace, SetFusion};

const NETWORK: [u8; 8] = [7; 8];

/// Weighs each face by the first value of its style.
#[derive(Debug)]
struct ByStyle;

impl SetFusion for ByStyle {
    fn id(&self) -> [u8; 8] {
        NETWORK
    }

    fn fuse(&self, faces: &[SetFace<'_>]) -> Result<Fused, NetworkError> {
        let parts: Vec<f32> = faces.iter().map(|face| face.style[0]).collect();
        let mut vector = vec![0.0; faces[0].embedding.len()];
        for (face, part) in faces.iter().zip(&parts) {
            vector.iter_mut().zip(face.embedding).for_each(|(sum, value)| *sum += part * value);
        }
        Ok(Fused { vector, parts })
    }
}

/// Two models: `plain`, and `styled` with a network.
struct Source;

fn served(name: &str, network: Option<Arc<dyn SetFusion>>) -> Arc<ServedModel> {
    Arc::new(ServedModel {
        id: ModelId(name.to_owned()),
        dim: 4,
        norm_stats: NormStats { mean: 20.0, std: 5.0 },
        fusion: FusionRule::Mean.into(),
        threshold: 0.3,
        impostors: ImpostorScores::default(),
        network,
    })
}

impl ModelSource for Source {
    fn model(&self, id: &ModelId) -> Result<Arc<ServedModel>, ModelUnavailable> {
        Ok(served(&id.0, (id.0 == "styled").then_some(Arc::new(ByStyle) as _)))
    }

    fn embed(&self, _: &ModelId, _: Vec<AlignedCrop>) -> Result<Vec<Option<Feature>>, ModelUnavailable> {
        Err(ModelUnavailable("no faces are embedded here".to_owned()))
    }
}

fn open(store: &Arc<MemoryStore>) -> Arc<Database> {
    let config =
        DatabaseConfig { model: served("plain", None), review: None, index: IndexConfig::default(), snapshots: None };
    Database::open(Arc::clone(store) as _, Arc::new(Source), config).unwrap()
}

fn gid() -> GalleryId {
    GalleryId::try_from("g").unwrap()
}

fn sid() -> SubjectId {
    SubjectId::try_from("s").unwrap()
}

fn styled() -> ModelId {
    ModelId("styled".to_owned())
}

fn settings(rule: FusionRule) -> GallerySettings {
    GallerySettings { fusion: Some(rule.into()), ..GallerySettings::default() }
}

/// A face along an axis, with the weight its style gives it.
fn face(axis: usize, style: Option<([u8; 8], f32)>) -> NewFace {
    let mut embedding = vec![0.0; 4];
    embedding[axis] = 1.0;
    let style = style.map(|(network, value)| Style { network, values: vec![value] });
    NewFace {
        feature: Feature { embedding, norm: 20.0, style },
        media: MediaId::try_from("one.jpg".to_owned()).unwrap(),
        source: FaceSource::Photo,
        bbox: None,
        landmarks: None,
        detection_score: None,
        picture: None,
        overrides: Vec::new(),
        crop: None,
    }
}

/// The subject's score against an axis, and its faces' weights.
fn match_axis(database: &Database, axis: usize) -> (f32, Vec<f32>) {
    let probe = face(axis, None).feature.embedding;
    let found = database.verify(&gid(), &sid(), &styled(), &probe, Thresholds::default()).unwrap();
    let query = &SearchQuery { mode: SearchMode::Exact, explain: true, ..SearchQuery::plain(1) };
    let searched = database.search(&gid(), &styled(), &probe, query).unwrap().candidates.remove(0);
    approx::assert_abs_diff_eq!(searched.score, found.score, epsilon = 1e-6);
    let weights: Vec<f32> = found.faces.iter().map(|face| face.part.weight).collect();
    assert_eq!(searched.faces.iter().map(|face| face.part.weight).collect::<Vec<_>>(), weights);
    (found.score, weights)
}

#[test]
fn the_rule_needs_a_model_with_a_network() {
    let database = open(&Arc::new(MemoryStore::new()));
    let create = |model: Option<&ModelId>, rule| {
        database.create_gallery(gid(), GalleryKind::Consolidated, model, settings(rule))
    };
    let error = create(None, FusionRule::Caface).unwrap_err();
    assert!(matches!(&error, GalleryError::NoCaface { model, .. } if model.0 == "plain"), "{error}");
    create(None, FusionRule::Norm).unwrap();
    let update = |rule| database.update_gallery(&gid(), settings(rule), None);
    assert!(matches!(update(FusionRule::Caface), Err(GalleryError::NoCaface { .. })));
    assert_eq!(update(FusionRule::Best).unwrap().fusion, Some(FusionRule::Best.into()));
    database.delete_gallery(&gid(), None).unwrap();
    create(Some(&styled()), FusionRule::Norm).unwrap();
    assert!(update(FusionRule::Caface).unwrap().by_caface());
}

#[test]
fn templates_are_those_of_the_network() {
    let store = Arc::new(MemoryStore::new());
    let database = open(&store);
    let kind = GalleryKind::Consolidated;
    database.create_gallery(gid(), kind, Some(&styled()), settings(FusionRule::Caface)).unwrap();
    let enrol = |database: &Database, faces| database.enrol(&gid(), &sid(), &styled(), faces);
    enrol(&database, vec![face(0, Some((NETWORK, 3.0))), face(1, Some((NETWORK, 1.0)))]).unwrap();
    let by_network = 3.0 / 10f32.sqrt();
    let expect = |database: &Database, score: f32, weights: &[f32]| {
        let (found, shares) = match_axis(database, 0);
        approx::assert_abs_diff_eq!(found, score, epsilon = 1e-6);
        assert_eq!(shares, weights);
    };
    expect(&database, by_network, &[0.75, 0.25]);
    // Another rule and back: the templates are made anew from what is stored.
    database.update_gallery(&gid(), settings(FusionRule::Mean), None).unwrap();
    expect(&database, 0.5f32.sqrt(), &[0.5, 0.5]);
    database.update_gallery(&gid(), settings(FusionRule::Caface), None).unwrap();
    expect(&database, by_network, &[0.75, 0.25]);
    drop(database);
    let database = open(&store);
    expect(&database, by_network, &[0.75, 0.25]);

    // A face without style, or with that of another network: the model's own rule, until it is gone.
    for style in [None, Some(([8; 8], 1.0))] {
        let odd = enrol(&database, vec![face(2, style)]).unwrap().faces.remove(0).id;
        expect(&database, (1.0f32 / 3.0).sqrt(), &[1.0 / 3.0; 3]);
        database.delete_face(&gid(), &sid(), odd).unwrap();
        expect(&database, by_network, &[0.75, 0.25]);
    }
    let ready = NewFace { source: FaceSource::Embedding, ..face(0, None) };
    assert!(matches!(enrol(&database, vec![ready]), Err(GalleryError::NeedsImages(_))));
}
