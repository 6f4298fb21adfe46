//! What values in sled are: postcard of the structures here, vectors as little-endian `f32`.
//!
//! The structures belong to a schema version of `vultus-migrations` and are therefore apart from those of
//! [`record`](crate::store::record): names and order there can change freely, here they cannot.

mod migration;
mod more;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(super) use self::migration::{
    Measures, Sets, decode_measures, decode_migration, decode_sets, encode_measures, encode_migration, encode_sets,
};
use self::more::{FaceMore, GalleryMore, SubjectMore, decode_both, encode_both, join_thresholds, split_thresholds};
use super::layout::{GalleryKey, Tree};
use crate::face::{BoundingBox, Landmarks};
use crate::ids::{FaceId, GalleryId, MediaId, ModelId, SubjectId};
use crate::store::record::{Face, FaceSource, Gallery, GalleryKind, StoredAnswer, Subject};
use crate::store::{Change, ChangeKind, GalleryCounts, StoreError};
use crate::template::{Fusion, FusionRule};

/// Encodes an embedding for [`Tree::Vectors`].
pub(super) fn encode_vector(embedding: &[f32]) -> Vec<u8> {
    embedding.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Decodes a row of [`Tree::Vectors`], which has to have `dim` values.
pub(super) fn decode_vector(bytes: &[u8], dim: u32) -> Result<Vec<f32>, StoreError> {
    let (values, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || u32::try_from(values.len()).ok() != Some(dim) {
        return Err(Tree::Vectors.damaged("a vector is not of its model's dimension"));
    }
    Ok(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
}

fn encode<T: Serialize>(tree: Tree, record: &T) -> Result<Vec<u8>, StoreError> {
    postcard::to_stdvec(record).map_err(|error| {
        let error = std::io::Error::other(format!("tree {}: a record cannot be encoded: {error}", tree.name()));
        StoreError::Io(error)
    })
}

fn decode<T: DeserializeOwned>(tree: Tree, bytes: &[u8]) -> Result<T, StoreError> {
    match postcard::take_from_bytes(bytes) {
        Ok((record, [])) => Ok(record),
        _ => Err(tree.damaged("a record does not decode")),
    }
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
struct TimeRecord {
    second: i64,
    nanosecond: i32,
}

impl From<Timestamp> for TimeRecord {
    fn from(time: Timestamp) -> Self {
        Self { second: time.as_second(), nanosecond: time.subsec_nanosecond() }
    }
}

impl TimeRecord {
    fn read(self, tree: Tree) -> Result<Timestamp, StoreError> {
        Timestamp::new(self.second, self.nanosecond).map_err(|_| tree.damaged("a time is out of range"))
    }
}

#[derive(Serialize, Deserialize)]
enum KindRecord {
    Consolidated,
    Events,
}

#[derive(Serialize, Deserialize)]
enum RuleRecord {
    Norm,
    SoftmaxQuality,
    Mean,
    Best,
    Caface,
}

#[derive(Serialize, Deserialize)]
struct FusionRecord {
    rule: RuleRecord,
    tau: f32,
}

impl From<Fusion> for FusionRecord {
    fn from(fusion: Fusion) -> Self {
        let rule = match fusion.rule {
            FusionRule::Norm => RuleRecord::Norm,
            FusionRule::SoftmaxQuality => RuleRecord::SoftmaxQuality,
            FusionRule::Mean => RuleRecord::Mean,
            FusionRule::Best => RuleRecord::Best,
            FusionRule::Caface => RuleRecord::Caface,
        };
        Self { rule, tau: fusion.tau }
    }
}

impl FusionRecord {
    fn read(self, more: &GalleryMore) -> Fusion {
        let rule = match self.rule {
            RuleRecord::Norm => FusionRule::Norm,
            RuleRecord::SoftmaxQuality => FusionRule::SoftmaxQuality,
            RuleRecord::Mean => FusionRule::Mean,
            RuleRecord::Best => FusionRule::Best,
            RuleRecord::Caface => FusionRule::Caface,
        };
        Fusion { rule, tau: self.tau, cap: more.cap, robust: more.robust }
    }
}

#[derive(Serialize, Deserialize)]
struct GalleryRecord {
    key: u64,
    kind: KindRecord,
    model_id: String,
    dim: u32,
    fusion: Option<FusionRecord>,
    threshold: Option<f32>,
    min_quality: Option<f32>,
    keep_crops: bool,
    label: Option<String>,
    created_at: TimeRecord,
    updated_at: TimeRecord,
    revision: u64,
}

/// Encodes a row of [`Tree::Galleries`].
pub(super) fn encode_gallery(key: GalleryKey, gallery: &Gallery) -> Result<Vec<u8>, StoreError> {
    let record = GalleryRecord {
        key: key.0,
        kind: match gallery.kind {
            GalleryKind::Consolidated => KindRecord::Consolidated,
            GalleryKind::Events => KindRecord::Events,
        },
        model_id: gallery.model_id.0.clone(),
        dim: gallery.dim,
        fusion: gallery.fusion.map(Into::into),
        threshold: split_thresholds(gallery.thresholds).0,
        min_quality: gallery.min_quality,
        keep_crops: gallery.keep_crops,
        label: gallery.label.clone(),
        created_at: gallery.created_at.into(),
        updated_at: gallery.updated_at.into(),
        revision: gallery.revision,
    };
    encode_both(Tree::Galleries, &record, &GalleryMore::of(gallery))
}

/// Decodes a row of [`Tree::Galleries`].
pub(super) fn decode_gallery(id: GalleryId, bytes: &[u8]) -> Result<(GalleryKey, Gallery), StoreError> {
    let (record, more): (GalleryRecord, GalleryMore) = decode_both(Tree::Galleries, bytes)?;
    let gallery = Gallery {
        id,
        kind: match record.kind {
            KindRecord::Consolidated => GalleryKind::Consolidated,
            KindRecord::Events => GalleryKind::Events,
        },
        model_id: ModelId(record.model_id),
        dim: record.dim,
        fusion: record.fusion.map(|fusion| fusion.read(&more)),
        thresholds: join_thresholds(record.threshold, more.thresholds),
        min_quality: record.min_quality,
        guards: more.guards(),
        keep_crops: record.keep_crops,
        label: record.label,
        created_at: record.created_at.read(Tree::Galleries)?,
        updated_at: record.updated_at.read(Tree::Galleries)?,
        revision: record.revision,
    };
    Ok((GalleryKey(record.key), gallery))
}

#[derive(Serialize, Deserialize)]
struct CountsRecord {
    subjects: u64,
    faces: u64,
    revision: u64,
}

/// Encodes a row of [`Tree::Counts`].
pub(super) fn encode_counts(counts: GalleryCounts) -> Result<Vec<u8>, StoreError> {
    let GalleryCounts { subjects, faces, revision } = counts;
    encode(Tree::Counts, &CountsRecord { subjects, faces, revision })
}

/// Decodes a row of [`Tree::Counts`].
pub(super) fn decode_counts(bytes: &[u8]) -> Result<GalleryCounts, StoreError> {
    let CountsRecord { subjects, faces, revision } = decode(Tree::Counts, bytes)?;
    Ok(GalleryCounts { subjects, faces, revision })
}

#[derive(Serialize, Deserialize)]
struct SubjectRecord {
    labels: Vec<String>,
    metadata: String,
    created_at: TimeRecord,
    updated_at: TimeRecord,
    revision: u64,
}

/// Encodes a row of [`Tree::Subjects`].
pub(super) fn encode_subject(subject: &Subject) -> Result<Vec<u8>, StoreError> {
    let record = SubjectRecord {
        labels: subject.labels.clone(),
        metadata: subject.metadata.clone(),
        created_at: subject.created_at.into(),
        updated_at: subject.updated_at.into(),
        revision: subject.revision,
    };
    encode_both(Tree::Subjects, &record, &SubjectMore::of(subject))
}

/// Decodes a row of [`Tree::Subjects`].
pub(super) fn decode_subject(id: SubjectId, bytes: &[u8]) -> Result<Subject, StoreError> {
    let (record, more): (SubjectRecord, SubjectMore) = decode_both(Tree::Subjects, bytes)?;
    Ok(Subject {
        id,
        labels: record.labels,
        metadata: record.metadata,
        expires_at: more.expires_at.map(|time| time.read(Tree::Subjects)).transpose()?,
        consent: more.consent(),
        created_at: record.created_at.read(Tree::Subjects)?,
        updated_at: record.updated_at.read(Tree::Subjects)?,
        revision: record.revision,
    })
}

#[derive(Serialize, Deserialize)]
enum SourceRecord {
    Photo,
    Crop,
    Embedding,
}

#[derive(Serialize, Deserialize)]
struct FaceRecord {
    media: String,
    source: SourceRecord,
    norm: f32,
    quality: f32,
    bbox: Option<[f32; 4]>,
    landmarks: Option<[[f32; 2]; 5]>,
    detection_score: Option<f32>,
    created_at: TimeRecord,
}

/// Encodes a row of [`Tree::Faces`].
pub(super) fn encode_face(face: &Face) -> Result<Vec<u8>, StoreError> {
    let record = FaceRecord {
        media: face.media.as_str().to_owned(),
        source: match face.source {
            FaceSource::Photo => SourceRecord::Photo,
            FaceSource::Crop => SourceRecord::Crop,
            FaceSource::Embedding => SourceRecord::Embedding,
        },
        norm: face.norm,
        quality: face.quality,
        bbox: face.bbox.map(|BoundingBox { x1, y1, x2, y2 }| [x1, y1, x2, y2]),
        landmarks: face.landmarks.map(|landmarks| landmarks.0),
        detection_score: face.detection_score,
        created_at: face.created_at.into(),
    };
    encode_both(Tree::Faces, &record, &FaceMore::of(face))
}

/// Decodes a row of [`Tree::Faces`].
pub(super) fn decode_face(subject: SubjectId, id: FaceId, bytes: &[u8]) -> Result<Face, StoreError> {
    let (record, more): (FaceRecord, FaceMore) = decode_both(Tree::Faces, bytes)?;
    Ok(Face {
        id,
        subject,
        media: MediaId::try_from(record.media).map_err(|_| Tree::Faces.damaged("a media id is not valid"))?,
        source: match record.source {
            SourceRecord::Photo => FaceSource::Photo,
            SourceRecord::Crop => FaceSource::Crop,
            SourceRecord::Embedding => FaceSource::Embedding,
        },
        norm: record.norm,
        quality: record.quality,
        bbox: record.bbox.map(|[x1, y1, x2, y2]| BoundingBox { x1, y1, x2, y2 }),
        landmarks: record.landmarks.map(Landmarks),
        detection_score: record.detection_score,
        picture: more.picture(),
        overrides: more.overrides()?,
        created_at: record.created_at.read(Tree::Faces)?,
    })
}

#[derive(Serialize, Deserialize)]
enum ChangeKindRecord {
    GalleryCreated,
    GalleryUpdated,
    GalleryDeleted,
    SubjectCreated(String),
    SubjectUpdated(String),
    SubjectDeleted(String),
    FaceAdded(String, [u8; 16]),
    FaceDeleted(String, [u8; 16]),
    FaceMoved(String, [u8; 16], String),
}

#[derive(Serialize, Deserialize)]
struct ChangeRecord {
    at: TimeRecord,
    gallery: String,
    kind: ChangeKindRecord,
}

/// Encodes a row of [`Tree::Changes`].
pub(super) fn encode_change(change: &Change) -> Result<Vec<u8>, StoreError> {
    let text = |id: &SubjectId| id.as_str().to_owned();
    let kind = match &change.kind {
        ChangeKind::GalleryCreated => ChangeKindRecord::GalleryCreated,
        ChangeKind::GalleryUpdated => ChangeKindRecord::GalleryUpdated,
        ChangeKind::GalleryDeleted => ChangeKindRecord::GalleryDeleted,
        ChangeKind::SubjectCreated(subject) => ChangeKindRecord::SubjectCreated(text(subject)),
        ChangeKind::SubjectUpdated(subject) => ChangeKindRecord::SubjectUpdated(text(subject)),
        ChangeKind::SubjectDeleted(subject) => ChangeKindRecord::SubjectDeleted(text(subject)),
        ChangeKind::FaceAdded(subject, face) => ChangeKindRecord::FaceAdded(text(subject), face.0.into_bytes()),
        ChangeKind::FaceDeleted(subject, face) => ChangeKindRecord::FaceDeleted(text(subject), face.0.into_bytes()),
        ChangeKind::FaceMoved(to, face, from) => ChangeKindRecord::FaceMoved(text(to), face.0.into_bytes(), text(from)),
    };
    let record = ChangeRecord { at: change.at.into(), gallery: change.gallery.as_str().to_owned(), kind };
    encode(Tree::Changes, &record)
}

/// Decodes a row of [`Tree::Changes`].
pub(super) fn decode_change(seq: u64, bytes: &[u8]) -> Result<Change, StoreError> {
    let record: ChangeRecord = decode(Tree::Changes, bytes)?;
    let bad = |_| Tree::Changes.damaged("an id is not valid");
    let subject = |id: String| SubjectId::try_from(id).map_err(bad);
    let face = |id: [u8; 16]| FaceId(Uuid::from_bytes(id));
    let kind = match record.kind {
        ChangeKindRecord::GalleryCreated => ChangeKind::GalleryCreated,
        ChangeKindRecord::GalleryUpdated => ChangeKind::GalleryUpdated,
        ChangeKindRecord::GalleryDeleted => ChangeKind::GalleryDeleted,
        ChangeKindRecord::SubjectCreated(id) => ChangeKind::SubjectCreated(subject(id)?),
        ChangeKindRecord::SubjectUpdated(id) => ChangeKind::SubjectUpdated(subject(id)?),
        ChangeKindRecord::SubjectDeleted(id) => ChangeKind::SubjectDeleted(subject(id)?),
        ChangeKindRecord::FaceAdded(id, of) => ChangeKind::FaceAdded(subject(id)?, face(of)),
        ChangeKindRecord::FaceDeleted(id, of) => ChangeKind::FaceDeleted(subject(id)?, face(of)),
        ChangeKindRecord::FaceMoved(to, of, from) => ChangeKind::FaceMoved(subject(to)?, face(of), subject(from)?),
    };
    let gallery = GalleryId::try_from(record.gallery).map_err(bad)?;
    Ok(Change { seq, at: record.at.read(Tree::Changes)?, gallery, kind })
}

#[derive(Serialize, Deserialize)]
struct AnswerRecord {
    request_hash: [u8; 32],
    status: u16,
    content_type: String,
    location: Option<String>,
    etag: Option<String>,
    body: Vec<u8>,
    created_s: i64,
}

/// Encodes a row of [`Tree::Answers`].
pub(super) fn encode_answer(answer: &StoredAnswer) -> Result<Vec<u8>, StoreError> {
    let StoredAnswer { request_hash, status, content_type, location, etag, body, created_s } = answer.clone();
    encode(Tree::Answers, &AnswerRecord { request_hash, status, content_type, location, etag, body, created_s })
}

/// Decodes a row of [`Tree::Answers`].
pub(super) fn decode_answer(bytes: &[u8]) -> Result<StoredAnswer, StoreError> {
    let AnswerRecord { request_hash, status, content_type, location, etag, body, created_s } =
        decode(Tree::Answers, bytes)?;
    Ok(StoredAnswer { request_hash, status, content_type, location, etag, body, created_s })
}
