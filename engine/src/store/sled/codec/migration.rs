//! Records of feature sets and migrations.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::more::{MigrationMore, ThresholdsMore, decode_both, encode_both, join_thresholds, split_thresholds};
use super::{TimeRecord, decode, encode};
use crate::face::Style;
use crate::ids::{MigrationId, ModelId};
use crate::store::sled::layout::{GalleryKey, SetKey, Tree};
use crate::store::{Migration, Side, Stage, StoreError};

/// Norm, quality and style of a feature, where they are not those in the face's record, which knows no style.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::store::sled) struct Measures {
    pub(in crate::store::sled) norm: f32,
    pub(in crate::store::sled) quality: f32,
    pub(in crate::store::sled) style: Option<Style>,
}

#[derive(Serialize, Deserialize)]
struct StyleRecord {
    network: [u8; 8],
    values: Vec<f32>,
}

#[derive(Serialize, Deserialize)]
struct MeasuresRecord {
    norm: f32,
    quality: f32,
    style: Option<StyleRecord>,
}

/// Encodes a row of [`Tree::Measures`].
pub(in crate::store::sled) fn encode_measures(measures: &Measures) -> Result<Vec<u8>, StoreError> {
    let Measures { norm, quality, ref style } = *measures;
    let style = style.as_ref().map(|style| StyleRecord { network: style.network, values: style.values.clone() });
    encode(Tree::Measures, &MeasuresRecord { norm, quality, style })
}

/// Decodes a row of [`Tree::Measures`].
pub(in crate::store::sled) fn decode_measures(bytes: &[u8]) -> Result<Measures, StoreError> {
    let MeasuresRecord { norm, quality, style } = decode(Tree::Measures, bytes)?;
    let style = style.map(|StyleRecord { network, values }| Style { network, values });
    Ok(Measures { norm, quality, style })
}

/// The feature sets of a gallery.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::store::sled) struct Sets {
    /// The set that is searched.
    pub(in crate::store::sled) in_use: SetKey,
    /// The set of the other model, and the migration under way.
    pub(in crate::store::sled) standby: Option<(SetKey, MigrationId)>,
}

impl Sets {
    /// What a gallery has that was never migrated.
    pub(in crate::store::sled) fn first(gallery: GalleryKey) -> Self {
        Self { in_use: SetKey(gallery.0), standby: None }
    }

    /// Both sets.
    pub(in crate::store::sled) fn all(self) -> impl Iterator<Item = SetKey> {
        std::iter::once(self.in_use).chain(self.standby.map(|(set, _)| set))
    }
}

#[derive(Serialize, Deserialize)]
struct StandbyRecord {
    set: u64,
    migration: [u8; 16],
}

#[derive(Serialize, Deserialize)]
struct SetsRecord {
    in_use: u64,
    standby: Option<StandbyRecord>,
}

/// Encodes a row of [`Tree::Sets`].
pub(in crate::store::sled) fn encode_sets(sets: Sets) -> Result<Vec<u8>, StoreError> {
    let standby = sets.standby.map(|(set, id)| StandbyRecord { set: set.0, migration: id.0.into_bytes() });
    encode(Tree::Sets, &SetsRecord { in_use: sets.in_use.0, standby })
}

/// Decodes a row of [`Tree::Sets`].
pub(in crate::store::sled) fn decode_sets(bytes: &[u8]) -> Result<Sets, StoreError> {
    let SetsRecord { in_use, standby } = decode(Tree::Sets, bytes)?;
    let standby = standby.map(|record| (SetKey(record.set), MigrationId(Uuid::from_bytes(record.migration))));
    Ok(Sets { in_use: SetKey(in_use), standby })
}

#[derive(Serialize, Deserialize)]
struct SideRecord {
    model_id: String,
    dim: u32,
    threshold: Option<f32>,
}

impl From<&Side> for SideRecord {
    fn from(side: &Side) -> Self {
        Self { model_id: side.model_id.0.clone(), dim: side.dim, threshold: split_thresholds(side.thresholds).0 }
    }
}

impl SideRecord {
    fn read(self, more: ThresholdsMore) -> Side {
        let thresholds = join_thresholds(self.threshold, more);
        Side { model_id: ModelId(self.model_id), dim: self.dim, thresholds }
    }
}

#[derive(Serialize, Deserialize)]
enum StageRecord {
    Embedding,
    Ready,
    CutOver,
    RolledBack,
    Completed,
    Cancelled,
}

#[derive(Serialize, Deserialize)]
struct MigrationRecord {
    from: SideRecord,
    to: SideRecord,
    stage: StageRecord,
    standby_faces: u64,
    failure: Option<String>,
    report: Option<String>,
    created_at: TimeRecord,
    updated_at: TimeRecord,
}

/// Encodes a row of [`Tree::Migrations`].
pub(in crate::store::sled) fn encode_migration(migration: &Migration) -> Result<Vec<u8>, StoreError> {
    let record = MigrationRecord {
        from: (&migration.from).into(),
        to: (&migration.to).into(),
        stage: match migration.stage {
            Stage::Embedding => StageRecord::Embedding,
            Stage::Ready => StageRecord::Ready,
            Stage::CutOver => StageRecord::CutOver,
            Stage::RolledBack => StageRecord::RolledBack,
            Stage::Completed => StageRecord::Completed,
            Stage::Cancelled => StageRecord::Cancelled,
        },
        standby_faces: migration.standby_faces,
        failure: migration.failure.clone(),
        report: migration.report.clone(),
        created_at: migration.created_at.into(),
        updated_at: migration.updated_at.into(),
    };
    encode_both(Tree::Migrations, &record, &MigrationMore::of(migration))
}

/// Decodes a row of [`Tree::Migrations`].
pub(in crate::store::sled) fn decode_migration(id: MigrationId, bytes: &[u8]) -> Result<Migration, StoreError> {
    let (record, more): (MigrationRecord, MigrationMore) = decode_both(Tree::Migrations, bytes)?;
    Ok(Migration {
        id,
        from: record.from.read(more.from),
        to: record.to.read(more.to),
        stage: match record.stage {
            StageRecord::Embedding => Stage::Embedding,
            StageRecord::Ready => Stage::Ready,
            StageRecord::CutOver => Stage::CutOver,
            StageRecord::RolledBack => Stage::RolledBack,
            StageRecord::Completed => Stage::Completed,
            StageRecord::Cancelled => Stage::Cancelled,
        },
        standby_faces: record.standby_faces,
        failure: record.failure,
        report: record.report,
        created_at: record.created_at.read(Tree::Migrations)?,
        updated_at: record.updated_at.read(Tree::Migrations)?,
    })
}
