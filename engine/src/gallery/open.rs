//! One gallery in use: its settings and its indexes.
//!
//! A gallery has one side, or two while it moves to another model: the side in use and the standby side, each with the
//! index of its feature set. What is published is one value, so a search sees either all of a switch or nothing of it.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Once};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::GalleryError;
use super::calibrate::Calibrated;
use super::care::{Care, is_matchable};
use super::database::now;
use super::snapshots::{self, Kept, SnapshotConfig, SnapshotCounts};
use crate::ids::{FaceId, GalleryId, MigrationId, ModelId, SubjectId};
use crate::index::{GalleryIndex, IndexConfig, RowKey};
use crate::model::ServedModel;
use crate::store::{Gallery, GalleryKind, Store, StoreError, StoredFace, Thresholds};
use crate::template::{Fusion, Template, TemplateError, TemplateFace};

/// A gallery under one model.
#[derive(Clone)]
pub(super) struct Side {
    pub(super) model: Arc<ServedModel>,
    /// The gallery's own thresholds under this model.
    pub(super) thresholds: Thresholds,
    /// What its scores are worth.
    pub(super) calibration: Option<Arc<Calibrated>>,
    pub(super) index: Arc<GalleryIndex>,
}

/// The side that is being filled, or that can be rolled back to.
#[derive(Clone)]
pub(super) struct Standby {
    pub(super) migration: MigrationId,
    /// Whether it was in use before and has every face, so that probes of its model can be answered.
    pub(super) answers: bool,
    pub(super) side: Side,
}

/// What is published of a gallery.
#[derive(Clone)]
pub(super) struct State {
    pub(super) settings: Gallery,
    pub(super) in_use: Side,
    pub(super) standby: Option<Standby>,
}

impl State {
    /// The side whose embeddings are of a model and which has every face.
    pub(super) fn side(&self, model: &ModelId) -> Option<&Side> {
        let standby = self.standby.as_ref().filter(|standby| standby.answers).map(|standby| &standby.side);
        std::iter::once(&self.in_use).chain(standby).find(|side| side.model.id == *model)
    }

    /// Both sides.
    pub(super) fn sides(&self) -> impl Iterator<Item = &Side> {
        std::iter::once(&self.in_use).chain(self.standby.as_ref().map(|standby| &standby.side))
    }

    /// Removes a subject's rows of both sides.
    fn remove_subject(&self, subject: &SubjectId) {
        self.in_use.index.remove_subject(subject);
        if let Some(standby) = &self.standby {
            standby.side.index.remove_subject(subject);
        }
    }

    /// The rule of the gallery's templates under a model.
    pub(super) fn fusion(&self, model: &ServedModel) -> Fusion {
        self.settings.fusion.unwrap_or(model.fusion)
    }
}

/// A gallery with its indexes.
pub(super) struct OpenGallery {
    state: ArcSwap<State>,
    /// Which subjects may be found.
    pub(super) care: Care,
    /// Held while rows are made again from the store.
    writer: Mutex<()>,
    /// Read by who changes subjects and faces, from before the commit until the rows agree; written by who exchanges the sides, so
    /// that a face comes in under the model in use or waits, and by who has to know that all commits are in the rows.
    pub(super) members: RwLock<()>,
    /// Set while the standby side could not be opened because its model is not at hand.
    pub(super) stalled: AtomicBool,
    /// The snapshot of the index in use.
    pub(super) snapshot: Kept,
}

/// Where the snapshots are, and what is counted of them.
pub(super) type Snapshots<'a> = Option<(&'a SnapshotConfig, &'a SnapshotCounts)>;

impl OpenGallery {
    /// With the index of all that the store holds of the gallery: out of its snapshot, or made anew.
    pub(super) fn load(
        store: &dyn Store,
        settings: Gallery,
        model: Arc<ServedModel>,
        config: &IndexConfig,
        snapshots: Snapshots<'_>,
    ) -> Result<Self, GalleryError> {
        let (care, barred) = Care::load(store, &settings.id, now())?;
        let kept = snapshots.and_then(|(snapshots, counts)| {
            snapshots::load(snapshots, counts, store, &settings, &model, config, &barred)
        });
        let (index, snapshot) = match kept {
            Some(index) => {
                let index = Arc::new(index);
                let kept = Kept::of_read(&index);
                (index, kept)
            }
            None => (Arc::new(build_index(store, &settings, &model, config, &barred)?), Kept::default()),
        };
        let calibration = Calibrated::load(store, &settings.id, &model.id)?;
        let in_use = Side { model, thresholds: settings.thresholds, calibration, index };
        Ok(Self {
            care,
            state: ArcSwap::from_pointee(State { settings, in_use, standby: None }),
            writer: Mutex::new(()),
            members: RwLock::new(()),
            stalled: AtomicBool::new(false),
            snapshot,
        })
    }

    /// What was last published.
    pub(super) fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Keeps rows and sides as they are while it is held.
    pub(super) fn hold(&self) -> MutexGuard<'_, ()> {
        self.writer.lock()
    }

    /// Publishes a state made of the present one, with the rows held.
    pub(super) fn publish(&self, _held: &MutexGuard<'_, ()>, change: impl FnOnce(&mut State)) {
        let mut state = State::clone(&self.state.load());
        change(&mut state);
        self.state.store(Arc::new(state));
    }

    /// Publishes new settings. Another fusion rule means other templates, so the indexes are then built again beside
    /// the old ones, which answer until it is done.
    pub(super) fn update(
        &self,
        store: &dyn Store,
        settings: Gallery,
        config: &IndexConfig,
    ) -> Result<(), GalleryError> {
        let held = self.hold();
        let mut state = State::clone(&self.state.load());
        // A switch that came between the caller's write and this lock has published later settings.
        if state.settings.revision > settings.revision {
            return Ok(());
        }
        let refuse = state.settings.fusion != settings.fusion && settings.kind == GalleryKind::Consolidated;
        state.in_use.thresholds = settings.thresholds;
        state.settings = settings;
        if refuse {
            let barred = barred(store, &state.settings.id)?;
            let Side { model, index, .. } = &mut state.in_use;
            *index = Arc::new(build_index(store, &state.settings, model, config, &barred)?);
            if let Some(Standby { side: Side { model, index, .. }, .. }) = &mut state.standby {
                *index = Arc::new(build_standby(store, &state.settings, model, config, &barred)?);
            }
        }
        self.publish(&held, |published| *published = state);
        Ok(())
    }

    /// Makes rows of subjects agree with the store, those of all of them published at once. `faces` are those that came,
    /// went, or changed hands among the subjects.
    pub(super) fn refresh(
        &self,
        store: &dyn Store,
        subjects: &[&SubjectId],
        faces: &[FaceId],
    ) -> Result<(), GalleryError> {
        let each: Vec<(&SubjectId, &[FaceId])> = subjects.iter().map(|&subject| (subject, faces)).collect();
        self.refresh_each(store, &each)
    }

    /// The same where every subject has faces of its own that came or went.
    pub(super) fn refresh_each(
        &self,
        store: &dyn Store,
        subjects: &[(&SubjectId, &[FaceId])],
    ) -> Result<(), GalleryError> {
        let _held = self.hold();
        let state = self.state();
        let gallery = &state.settings.id;
        let mut matchable = Vec::with_capacity(subjects.len());
        for &(subject, _) in subjects {
            let record = store.subject(gallery, subject)?;
            self.care.note(subject, record.as_ref())?;
            matchable.push(record.is_some_and(|record| is_matchable(&record, now())));
        }
        for side in state.sides() {
            let mut changes = Vec::new();
            for (&(subject, faces), &matchable) in subjects.iter().zip(&matchable) {
                let stored = if matchable { self.stored(store, &state, side, subject, faces)? } else { Vec::new() };
                match state.settings.kind {
                    GalleryKind::Consolidated => changes.push(template_row(&state, side, subject, &stored)),
                    GalleryKind::Events => changes.extend(faces.iter().map(|&id| {
                        let stored = stored.iter().find(|stored| stored.face.id == id);
                        let key = RowKey { subject: subject.clone(), face: Some(id) };
                        (key, stored.map(|stored| stored.embedding.clone()))
                    })),
                }
            }
            // A refresh that finds the rows as they should be, such as one for the other side, is no change to calibrate anew for.
            if side.index.apply(changes)?
                && let Some(calibrated) = &side.calibration
            {
                subjects.iter().for_each(|(subject, _)| calibrated.note(subject));
            }
        }
        Ok(())
    }

    /// The faces of a subject that its rows of one side are made of.
    fn stored(
        &self,
        store: &dyn Store,
        state: &State,
        side: &Side,
        subject: &SubjectId,
        faces: &[FaceId],
    ) -> Result<Vec<StoredFace>, GalleryError> {
        let gallery = &state.settings.id;
        if side.model.id != state.in_use.model.id {
            return Ok(store.standby_faces(gallery, subject)?);
        }
        match state.settings.kind {
            GalleryKind::Consolidated => Ok(store.faces(gallery, subject)?),
            // A row a face: the subject's others, of which there may be many, do not matter.
            GalleryKind::Events => {
                let found = faces.iter().map(|&face| store.face(gallery, face)).collect::<Result<Vec<_>, _>>()?;
                Ok(found.into_iter().flatten().filter(|stored| stored.face.subject == *subject).collect())
            }
        }
    }

    /// Makes all rows of a subject agree with the store, after its record changed or it was removed.
    pub(super) fn refresh_subject(&self, store: &dyn Store, subject: &SubjectId) -> Result<(), GalleryError> {
        let faces = store.faces(&self.state().settings.id, subject)?;
        let faces: Vec<FaceId> = faces.iter().map(|stored| stored.face.id).collect();
        self.refresh(store, &[subject], &faces)
    }

    /// Drops a subject's rows after it was removed from the store. One that is there again already gets new ones.
    pub(super) fn forget(&self, store: &dyn Store, subject: &SubjectId) -> Result<(), GalleryError> {
        {
            let _held = self.hold();
            let state = self.state();
            state.remove_subject(subject);
            if store.subject(&state.settings.id, subject)?.is_none() {
                return self.care.note(subject, None);
            }
        }
        self.refresh_subject(store, subject)
    }

    /// Removes the rows of subjects that have expired.
    pub(super) fn expire(&self) {
        let at = now();
        if !self.care.is_due(at) {
            return;
        }
        let _held = self.hold();
        let state = self.state();
        for subject in self.care.due(at, usize::MAX) {
            state.remove_subject(&subject);
        }
        self.care.rows_removed(at);
    }
}

/// Subjects of a gallery that may not be matched now.
pub(super) fn barred(store: &dyn Store, gallery: &GalleryId) -> Result<HashSet<SubjectId>, GalleryError> {
    Ok(Care::load(store, gallery, now())?.1)
}

/// A subject's row of one side; without a vector where it has no template.
fn template_row(state: &State, side: &Side, subject: &SubjectId, stored: &[StoredFace]) -> (RowKey, Option<Vec<f32>>) {
    let key = RowKey { subject: subject.clone(), face: None };
    (key, row_vector(subject, stored, state.fusion(&side.model), &side.model))
}

/// The template of a subject as an index holds it. `None` without faces, and where they contradict each other completely:
/// such a subject is kept but cannot be found.
fn row_vector(subject: &SubjectId, stored: &[StoredFace], fusion: Fusion, model: &ServedModel) -> Option<Vec<f32>> {
    match template(stored, fusion, model) {
        Ok(template) => Some(template.vector),
        Err(TemplateError::Empty) => None,
        Err(error) => {
            tracing::warn!(%subject, %error, "the subject has no template");
            None
        }
    }
}

/// The template of a subject's stored faces.
///
/// Where the rule is `caface` and a face has no style of the model's network, since it was enrolled as an embedding,
/// or before the network was there, or the network is gone, the model's own rule takes its place: the subject is to be
/// found all the same.
pub(super) fn template(stored: &[StoredFace], fusion: Fusion, model: &ServedModel) -> Result<Template, TemplateError> {
    static TOLD: Once = Once::new();
    let faces = template_faces(stored);
    match model.fuse(&faces, fusion) {
        Err(TemplateError::NoCaface) => {
            TOLD.call_once(|| {
                let (model, rule) = (&model.id, model.fusion.rule);
                tracing::warn!(%model, %rule, "subjects of a caface gallery have faces without style; they follow the model's rule");
            });
            model.fuse(&faces, model.fusion)
        }
        template => template,
    }
}

/// Stored faces as the template module takes them.
pub(super) fn template_faces(stored: &[StoredFace]) -> Vec<TemplateFace<'_>> {
    stored
        .iter()
        .map(|StoredFace { face, embedding, style }| TemplateFace {
            embedding,
            norm: face.norm,
            media: face.media.as_str(),
            style: style.as_ref(),
        })
        .collect()
}

/// Rows of one subject, and who has them.
type Rows = Vec<(RowKey, Vec<f32>)>;

/// Goes through the rows that an index of a gallery is made of, one subject after the other, without making one: those of
/// subjects that may not be matched now are left out. `model` is the gallery's. Nothing is written.
///
/// # Errors
/// Those of the store and of `each`, which ends it.
pub fn stored_rows(
    store: &dyn Store,
    gallery: &Gallery,
    model: &ServedModel,
    each: &mut dyn FnMut(Rows) -> Result<(), GalleryError>,
) -> Result<(), GalleryError> {
    rows_in_use(store, gallery, model, &barred(store, &gallery.id)?, each)
}

/// The rows of the set in use.
fn rows_in_use(
    store: &dyn Store,
    gallery: &Gallery,
    model: &ServedModel,
    barred: &HashSet<SubjectId>,
    each: &mut dyn FnMut(Rows) -> Result<(), GalleryError>,
) -> Result<(), GalleryError> {
    let scan: Scan<'_> = &mut |add| {
        store.scan_faces(&gallery.id, &mut |stored| {
            if barred.contains(&stored.face.subject) { ControlFlow::Continue(()) } else { add(stored) }
        })
    };
    by_subject(gallery, model, scan, each)
}

/// The index of the set in use.
fn build_index(
    store: &dyn Store,
    gallery: &Gallery,
    model: &ServedModel,
    config: &IndexConfig,
    barred: &HashSet<SubjectId>,
) -> Result<GalleryIndex, GalleryError> {
    let index = GalleryIndex::new(model.dim, config.clone());
    rows_in_use(store, gallery, model, barred, &mut |rows| Ok(index.extend(rows).map(drop)?))?;
    Ok(index)
}

/// The index of the standby set.
pub(super) fn build_standby(
    store: &dyn Store,
    gallery: &Gallery,
    model: &ServedModel,
    config: &IndexConfig,
    barred: &HashSet<SubjectId>,
) -> Result<GalleryIndex, GalleryError> {
    let scan: Scan<'_> = &mut |add| {
        store.scan_standby(&gallery.id, &mut |face| {
            let stored = face.stored.filter(|stored| !barred.contains(&stored.face.subject));
            stored.map_or(ControlFlow::Continue(()), &mut *add)
        })
    };
    let index = GalleryIndex::new(model.dim, config.clone());
    by_subject(gallery, model, scan, &mut |rows| Ok(index.extend(rows).map(drop)?))?;
    Ok(index)
}

/// The rows that faces of one subject make, under a model.
pub(super) fn rows_of(gallery: &Gallery, model: &ServedModel, faces: &[StoredFace]) -> Rows {
    let Some(subject) = faces.first().map(|stored| &stored.face.subject) else { return Vec::new() };
    let key = |face| RowKey { subject: subject.clone(), face };
    match gallery.kind {
        GalleryKind::Consolidated => {
            let vector = row_vector(subject, faces, gallery.fusion.unwrap_or(model.fusion), model);
            vector.into_iter().map(|vector| (key(None), vector)).collect()
        }
        GalleryKind::Events => {
            faces.iter().map(|stored| (key(Some(stored.face.id)), stored.embedding.clone())).collect()
        }
    }
}

/// Goes through faces, subject by subject.
type Scan<'a> = &'a mut dyn FnMut(&mut dyn FnMut(StoredFace) -> ControlFlow<()>) -> Result<(), StoreError>;

fn by_subject(
    gallery: &Gallery,
    model: &ServedModel,
    scan: Scan<'_>,
    each: &mut dyn FnMut(Rows) -> Result<(), GalleryError>,
) -> Result<(), GalleryError> {
    let mut add = |faces: &mut Vec<StoredFace>| -> Result<(), GalleryError> {
        each(rows_of(gallery, model, faces))?;
        faces.clear();
        Ok(())
    };
    // Only one subject's faces are held at a time.
    let mut pending: Vec<StoredFace> = Vec::new();
    let mut failed = None;
    scan(&mut |stored| {
        if pending.first().is_some_and(|first| first.face.subject != stored.face.subject)
            && let Err(error) = add(&mut pending)
        {
            failed = Some(error);
            return ControlFlow::Break(());
        }
        pending.push(stored);
        ControlFlow::Continue(())
    })?;
    // What is pending when it ended early is not all of its subject.
    failed.map_or_else(|| add(&mut pending), Err)
}
