//! A gallery's move to another model, as its owner drives it: start, cut over, roll back, end.
//!
//! What happens by itself in between is [`mover`](super::mover)'s: it fills the standby set, keeps it up to date and
//! makes the report.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::GalleryError;
use super::calibrate::Calibrated;
use super::database::{Database, now};
use super::open::{OpenGallery, Side, Standby, barred, build_standby};
use crate::ids::{GalleryId, MigrationId, ModelId};
use crate::index::GalleryIndex;
use crate::store::{Migration, Operation, Stage, StandbyFace, StoreError, Thresholds};

/// Most faces embedded while enrolments wait for a switch; the background has to see to more.
const MOST_MISSING: u64 = 64;

impl Database {
    /// The gallery's migrations, newest first.
    pub fn migrations(&self, gallery: &GalleryId) -> Result<Vec<Migration>, GalleryError> {
        let mut migrations = self.store.migrations(gallery)?;
        migrations.reverse();
        Ok(migrations)
    }

    /// One migration.
    pub fn migration(&self, gallery: &GalleryId, id: MigrationId) -> Result<Migration, GalleryError> {
        let found = self.store.migrations(gallery)?.into_iter().find(|migration| migration.id == id);
        Ok(found.ok_or_else(|| StoreError::NoMigration(gallery.clone(), id))?)
    }

    /// Starts moving a gallery to a model. Faces are embedded in the background, from their kept crops.
    ///
    /// `thresholds` are the gallery's own under the new model; scores of the old one mean nothing there.
    pub fn start_migration(
        &self,
        gallery: &GalleryId,
        model: &ModelId,
        thresholds: Thresholds,
    ) -> Result<Migration, GalleryError> {
        let open = self.gallery_in_use(gallery)?;
        let model = self.find_model(gallery, model)?;
        let held = open.hold();
        let settings = &open.state().settings;
        if settings.model_id == model.id {
            return Err(GalleryError::SameModel(gallery.clone(), model.id.clone()));
        }
        let at = now();
        let side =
            |model_id: &ModelId, dim, thresholds| crate::store::Side { model_id: model_id.clone(), dim, thresholds };
        let id = MigrationId::generate();
        let migration = Migration {
            id,
            from: side(&settings.model_id, settings.dim, settings.thresholds),
            to: side(&model.id, model.dim as u32, thresholds),
            stage: Stage::Embedding,
            standby_faces: 0,
            failure: None,
            report: None,
            created_at: at,
            updated_at: at,
        };
        let start = Operation::StartMigration { gallery: gallery.clone(), migration };
        self.store.commit(at, &[start])?;
        let index = Arc::new(GalleryIndex::new(model.dim, self.config.index.clone()));
        let calibration = Calibrated::load(self.store(), gallery, &model.id)?;
        let side = Side { model, thresholds, calibration, index };
        open.publish(&held, |state| state.standby = Some(Standby { migration: id, answers: false, side }));
        open.stalled.store(false, Ordering::Release);
        drop(held);
        self.mover.wake();
        self.migration(gallery, id)
    }

    /// Puts the new model into use. Refused while faces lack their new features, unless `discard_missing`: then those
    /// faces, which have no crop to embed, are removed from the gallery for good.
    pub fn cut_over(
        &self,
        gallery: &GalleryId,
        id: MigrationId,
        discard_missing: bool,
    ) -> Result<Migration, GalleryError> {
        self.switch(gallery, id, true, discard_missing)
    }

    /// Puts the old model back into use. Refused while faces enrolled since lack features of it.
    pub fn roll_back(&self, gallery: &GalleryId, id: MigrationId) -> Result<Migration, GalleryError> {
        match self.gallery_in_use(gallery) {
            // The model in use was lost; the other one, whose features are there, takes over.
            Err(GalleryError::ModelUnavailable { .. }) => {
                self.find_model(gallery, &self.migration(gallery, id)?.standby().model_id)?;
                let switch = Operation::SwitchModel { gallery: gallery.clone(), migration: id, to_new: false };
                self.store.commit(now(), &[switch])?;
                self.gallery_in_use(gallery)?;
                self.migration(gallery, id)
            }
            _ => self.switch(gallery, id, false, false),
        }
    }

    /// Ends a migration: the model in use stays, the features of the other are dropped.
    pub fn end_migration(&self, gallery: &GalleryId, id: MigrationId) -> Result<Migration, GalleryError> {
        let end = Operation::EndMigration { gallery: gallery.clone(), migration: id };
        let open = self.gallery_in_use(gallery)?;
        let held = open.hold();
        self.store.commit(now(), &[end])?;
        open.publish(&held, |state| state.standby = None);
        open.stalled.store(false, Ordering::Release);
        drop(held);
        self.migration(gallery, id)
    }

    fn switch(
        &self,
        gallery: &GalleryId,
        id: MigrationId,
        to_new: bool,
        discard_missing: bool,
    ) -> Result<Migration, GalleryError> {
        let open = self.gallery_in_use(gallery)?;
        let Migration { stage, standby_faces, .. } = self.migration(gallery, id)?;
        if !matches!((stage, to_new), (Stage::Ready | Stage::RolledBack, true) | (Stage::CutOver, false)) {
            return Err(StoreError::WrongStage { id, stage }.into());
        }
        // Enrolments wait from here on, so there must not be much left to embed.
        let missing = self.counts(gallery)?.faces.saturating_sub(standby_faces);
        if missing > MOST_MISSING && !discard_missing {
            return Err(StoreError::StandbyIncomplete { missing }.into());
        }
        if open.stalled.load(Ordering::Acquire) {
            self.open_standby(&open)?;
        }
        // Once beside enrolments, so that they do not wait for more than what came in during it.
        self.embed_lacking(&open, &mut |_| {})?;
        let members = open.members.write();
        let mut operations = Vec::new();
        self.embed_lacking(&open, &mut |StandbyFace { subject, face, .. }| {
            if discard_missing {
                operations.push(Operation::DeleteFace { gallery: gallery.clone(), subject, face });
            }
        })?;
        let discarded: Vec<_> = operations.clone();
        operations.push(Operation::SwitchModel { gallery: gallery.clone(), migration: id, to_new });
        let held = open.hold();
        if open.state().standby.as_ref().is_none_or(|standby| standby.migration != id) {
            let migration = self.migration(gallery, id)?;
            // Where the other model cannot be loaded there is nothing to switch to.
            self.find_model(gallery, &migration.standby().model_id)?;
            return Err(StoreError::WrongStage { id, stage: migration.stage }.into());
        }
        self.store.commit(now(), &operations)?;
        let settings = self.gallery(gallery)?;
        open.publish(&held, |state| {
            if let Some(standby) = &mut state.standby {
                std::mem::swap(&mut state.in_use, &mut standby.side);
                standby.answers = true;
            }
            state.in_use.thresholds = settings.thresholds;
            state.settings = settings;
        });
        drop(held);
        for operation in discarded {
            if let Operation::DeleteFace { subject, face, .. } = operation {
                open.refresh(self.store(), &[&subject], &[face])?;
            }
        }
        drop(members);
        tracing::info!(%gallery, migration = %id, to_new, "the gallery changed its model");
        self.migration(gallery, id)
    }

    /// Opens the standby side of a gallery that is in the middle of a migration.
    pub(super) fn open_standby(&self, open: &OpenGallery) -> Result<(), GalleryError> {
        // Held from the first look, so that no end or switch comes between it and what is published.
        let held = open.hold();
        let settings = &open.state().settings;
        let migrations = self.store.migrations(&settings.id)?;
        let Some(migration) = migrations.into_iter().find(|migration| !migration.stage.is_ended()) else {
            return Ok(());
        };
        let standby = migration.standby();
        let model = match self.find_model(&settings.id, &standby.model_id) {
            Ok(model) => model,
            // The gallery itself can be searched all the same.
            Err(GalleryError::ModelUnavailable { reason, .. }) => {
                tracing::warn!(gallery = %settings.id, migration = %migration.id, %reason, "a migration cannot go on");
                open.stalled.store(true, Ordering::Release);
                let failure = Some(reason.to_string());
                if failure != migration.failure {
                    let (gallery, migration) = (settings.id.clone(), migration.id);
                    let note = Operation::NoteMigration { gallery, migration, ready: false, failure, report: None };
                    self.store.commit(now(), &[note])?;
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let index = Arc::new(build_standby(
            self.store(),
            settings,
            &model,
            &self.config.index,
            &barred(self.store(), &settings.id)?,
        )?);
        let calibration = Calibrated::load(self.store(), &settings.id, &model.id)?;
        let side = Side { model, thresholds: standby.thresholds, calibration, index };
        let answers = matches!(migration.stage, Stage::CutOver | Stage::RolledBack);
        open.publish(&held, |state| state.standby = Some(Standby { migration: migration.id, answers, side }));
        open.stalled.store(false, Ordering::Release);
        Ok(())
    }
}
