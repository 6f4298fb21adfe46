//! What the operations of a migration mean.

use jiff::Timestamp;

use super::{Ledger, Removed, existing};
use crate::ids::{GalleryId, MigrationId, ModelId};
use crate::store::{Gallery, Migration, Side, Stage, StandbyFeature, StoreError};

pub(super) fn start(
    ledger: &mut impl Ledger,
    at: Timestamp,
    gallery: &GalleryId,
    new: &Migration,
) -> Result<(), StoreError> {
    let there = existing(ledger, gallery)?;
    if let Some(other) = ledger.under_way(gallery)? {
        return Err(StoreError::MigrationUnderWay(gallery.clone(), other));
    }
    ledger.open_standby(gallery, new.id)?;
    let from = Side { model_id: there.model_id, dim: there.dim, thresholds: there.thresholds };
    let migration = Migration {
        from,
        stage: Stage::Embedding,
        standby_faces: 0,
        failure: None,
        report: None,
        created_at: at,
        updated_at: at,
        ..new.clone()
    };
    ledger.put_migration(gallery, migration)
}

pub(super) fn put(
    ledger: &mut impl Ledger,
    gallery: &GalleryId,
    id: MigrationId,
    model: &ModelId,
    features: &[StandbyFeature],
) -> Result<(), StoreError> {
    let mut migration = under_way(ledger, gallery, id)?;
    // The sets may have been exchanged while the features were made.
    if migration.standby().model_id != *model {
        return Err(StoreError::Switched(gallery.clone()));
    }
    let expected = migration.standby().dim;
    for feature in features {
        let actual = feature.feature.embedding.len();
        if usize::try_from(expected).ok() != Some(actual) {
            return Err(StoreError::WrongDimension { expected, actual });
        }
        let there = ledger.face_owner(gallery, feature.face)?.is_some_and(|owner| owner == feature.subject);
        if there && ledger.put_standby(gallery, feature)? {
            migration.standby_faces += 1;
        }
    }
    ledger.put_migration(gallery, migration)
}

pub(super) fn note(
    ledger: &mut impl Ledger,
    at: Timestamp,
    gallery: &GalleryId,
    id: MigrationId,
    ready: bool,
    failure: Option<String>,
    report: Option<String>,
) -> Result<(), StoreError> {
    let mut migration = under_way(ledger, gallery, id)?;
    if ready && migration.stage == Stage::Embedding {
        migration.stage = Stage::Ready;
        migration.updated_at = at;
    }
    migration.failure = failure;
    migration.report = report.or(migration.report);
    ledger.put_migration(gallery, migration)
}

pub(super) fn switch(
    ledger: &mut impl Ledger,
    at: Timestamp,
    gallery: &GalleryId,
    id: MigrationId,
    to_new: bool,
) -> Result<(), StoreError> {
    let mut migration = under_way(ledger, gallery, id)?;
    let stage = match (migration.stage, to_new) {
        (Stage::Ready | Stage::RolledBack, true) => Stage::CutOver,
        (Stage::CutOver, false) => Stage::RolledBack,
        (stage, _) => return Err(StoreError::WrongStage { id, stage }),
    };
    let faces = ledger.counts(gallery)?.faces;
    if migration.standby_faces != faces {
        return Err(StoreError::StandbyIncomplete { missing: faces.saturating_sub(migration.standby_faces) });
    }
    let old = existing(ledger, gallery)?;
    // Thresholds go with the model: whatever was set while a model was in use comes back with it.
    let left = if to_new { &mut migration.from } else { &mut migration.to };
    left.thresholds = old.thresholds;
    migration.stage = stage;
    migration.failure = None;
    migration.updated_at = at;
    let Side { model_id, dim, thresholds } = migration.in_use().clone();
    let revision = ledger.last_seq() + 1;
    ledger.replace_gallery(Gallery { model_id, dim, thresholds, updated_at: at, revision, ..old })?;
    ledger.switch_sets(gallery)?;
    ledger.put_migration(gallery, migration)
}

pub(super) fn end(
    ledger: &mut impl Ledger,
    at: Timestamp,
    gallery: &GalleryId,
    id: MigrationId,
) -> Result<(), StoreError> {
    let migration = under_way(ledger, gallery, id)?;
    let stage = if migration.stage.uses_new() { Stage::Completed } else { Stage::Cancelled };
    ledger.drop_standby(gallery)?;
    ledger.put_migration(gallery, Migration { stage, standby_faces: 0, failure: None, updated_at: at, ..migration })
}

/// Counts features that left the standby set with their faces.
pub(super) fn forget(ledger: &mut impl Ledger, gallery: &GalleryId, removed: Removed) -> Result<(), StoreError> {
    if removed.standby == 0 {
        return Ok(());
    }
    let Some(id) = ledger.under_way(gallery)? else { return Ok(()) };
    let mut migration = under_way(ledger, gallery, id)?;
    let left = migration.standby_faces.checked_sub(removed.standby);
    let too_low = || StoreError::Damaged(format!("the counts of migration {id} of gallery {gallery} are too low"));
    migration.standby_faces = left.ok_or_else(too_low)?;
    ledger.put_migration(gallery, migration)
}

/// The migration, which has to be the one under way.
fn under_way(ledger: &mut impl Ledger, gallery: &GalleryId, id: MigrationId) -> Result<Migration, StoreError> {
    existing(ledger, gallery)?;
    let migration = ledger.migration(gallery, id)?;
    let migration = migration.ok_or_else(|| StoreError::NoMigration(gallery.clone(), id))?;
    if ledger.under_way(gallery)? != Some(id) {
        return Err(StoreError::WrongStage { id, stage: migration.stage });
    }
    Ok(migration)
}
