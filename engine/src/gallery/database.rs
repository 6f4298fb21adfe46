//! The database: all galleries of a store, each with its index.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::{Timestamp, Unit};
use parking_lot::{Condvar, Mutex, RwLock};

use super::GalleryError;
use super::mover::Mover;
use super::open::OpenGallery;
use super::open::State;
use super::snapshots::{SnapshotConfig, SnapshotCounts};
use crate::ids::{GalleryId, ModelId};
use crate::index::gallery::GalleryIndex;
use crate::index::maintenance::Maintenance;
use crate::index::{IndexConfig, IndexStats, MemoryParts, MemoryTotals};
use crate::model::{ModelSource, ServedModel};
use crate::store::{
    Gallery, GalleryCounts, GalleryKind, Guards, Operation, Store, StoreError, StoredAnswer, Thresholds,
};
use crate::template::{FusionRequest, FusionRule};

/// How often the background threads look for index work.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer is kept for its idempotency key.
const ANSWER_LIFETIME_S: i64 = 24 * 3600;
/// How often answers past their lifetime are looked for, in maintenance rounds.
const FORGET_EVERY_ROUNDS: u64 = 600;

/// What a background thread does in each round.
type Work = fn(&Database, u64);

/// Settings of the database.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// The server's own model: that of galleries for which no other is asked.
    pub model: Arc<ServedModel>,
    /// Score from which a person should look at a candidate, where neither request nor gallery says.
    pub review: Option<f32>,
    /// Settings of every gallery's index.
    pub index: IndexConfig,
    /// Where indexes are kept between runs; they are made anew at each start without it.
    pub snapshots: Option<SnapshotConfig>,
}

/// What a caller may set of a gallery.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GallerySettings {
    /// See [`Gallery::fusion`]; what is left open follows the gallery's model of that moment.
    pub fusion: Option<FusionRequest>,
    /// See [`Gallery::thresholds`].
    pub thresholds: Thresholds,
    /// See [`Gallery::guards`].
    pub guards: Guards,
    /// See [`Gallery::min_quality`].
    pub min_quality: Option<f32>,
    /// See [`Gallery::keep_crops`].
    pub keep_crops: bool,
    /// See [`Gallery::label`].
    pub label: Option<String>,
}

/// What the indexes of galleries hold together, standby sides included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexTotals {
    /// Galleries in use.
    pub galleries: usize,
    /// Live rows.
    pub rows: usize,
    /// Rows that were removed and still take room.
    pub tombstones: usize,
    /// Memory taken in bytes, estimated.
    pub bytes: usize,
    /// The same by part.
    pub memory: MemoryParts,
    /// What of the vectors is in files, in bytes.
    pub filed_bytes: usize,
}

/// All galleries of a store.
pub struct Database {
    pub(super) store: Arc<dyn Store>,
    pub(super) config: DatabaseConfig,
    pub(super) models: Arc<dyn ModelSource>,
    pub(super) mover: Mover,
    pub(super) snapshots: SnapshotCounts,
    galleries: RwLock<HashMap<GalleryId, Arc<OpenGallery>>>,
    stopping: Arc<(Mutex<bool>, Condvar)>,
    keepers: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// The present time as records state it, to the millisecond.
pub(super) fn now() -> Timestamp {
    let now = Timestamp::now();
    now.round(Unit::Millisecond).unwrap_or(now)
}

impl Database {
    /// Builds the index of every gallery whose model is at hand, and starts the threads that maintain them and go on
    /// with migrations.
    pub fn open(
        store: Arc<dyn Store>,
        models: Arc<dyn ModelSource>,
        config: DatabaseConfig,
    ) -> Result<Arc<Self>, GalleryError> {
        let database = Arc::new(Self {
            store,
            config,
            models,
            mover: Mover::default(),
            snapshots: SnapshotCounts::default(),
            galleries: RwLock::default(),
            stopping: Arc::default(),
            keepers: Mutex::default(),
        });
        database.tidy_snapshots()?;
        for gallery in database.store.galleries()? {
            match database.gallery_in_use(&gallery.id) {
                Err(error @ GalleryError::ModelUnavailable { .. }) => {
                    tracing::warn!(gallery = %gallery.id, %error, "the gallery cannot be searched");
                }
                other => drop(other?),
            }
        }
        // A graph takes an hour for a million rows: it is built on a thread of its own, so that other galleries are kept meanwhile.
        let works: [(&str, Work); 2] = [("index-keeper", Self::maintain), ("graph-keeper", Self::build_graphs)];
        for (name, work) in works {
            let (weak, stopping) = (Arc::downgrade(&database), Arc::clone(&database.stopping));
            let keeper = std::thread::Builder::new().name(name.to_owned());
            let keeper = keeper.spawn(move || keep(&weak, &stopping, work)).map_err(StoreError::Io)?;
            database.keepers.lock().push(keeper);
        }
        database.mover.start(&database).map_err(StoreError::Io)?;
        Ok(database)
    }

    /// The store under the galleries.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// The server's own model.
    pub fn model(&self) -> &Arc<ServedModel> {
        &self.config.model
    }

    /// The model a gallery is of. [`GalleryError::ModelUnavailable`] when it is not at hand, so that the gallery can be
    /// read but not searched.
    pub fn model_of(&self, gallery: &GalleryId) -> Result<Arc<ServedModel>, GalleryError> {
        Ok(Arc::clone(&self.gallery_in_use(gallery)?.state().in_use.model))
    }

    pub(super) fn find_model(&self, gallery: &GalleryId, id: &ModelId) -> Result<Arc<ServedModel>, GalleryError> {
        self.models.model(id).map_err(|reason| GalleryError::ModelUnavailable {
            gallery: gallery.clone(),
            model: id.clone(),
            reason,
        })
    }

    /// A gallery with its index, opened on first use.
    pub(super) fn gallery_in_use(&self, id: &GalleryId) -> Result<Arc<OpenGallery>, GalleryError> {
        if let Some(open) = self.galleries.read().get(id) {
            return Ok(Arc::clone(open));
        }
        let mut galleries = self.galleries.write();
        if let Some(open) = galleries.get(id) {
            return Ok(Arc::clone(open));
        }
        let gallery = self.store.gallery(id)?.ok_or_else(|| StoreError::NoGallery(id.clone()))?;
        let model = self.find_model(id, &gallery.model_id)?;
        let snapshots = self.config.snapshots.as_ref().map(|config| (config, &self.snapshots));
        let open = Arc::new(OpenGallery::load(self.store(), gallery, model, &self.config.index, snapshots)?);
        self.open_standby(&open)?;
        galleries.insert(id.clone(), Arc::clone(&open));
        Ok(open)
    }

    /// Adds a gallery bound to a model, the server's own where none is named.
    pub fn create_gallery(
        &self,
        id: GalleryId,
        kind: GalleryKind,
        model: Option<&ModelId>,
        settings: GallerySettings,
    ) -> Result<Gallery, GalleryError> {
        let at = now();
        let model = match model {
            Some(model) => self.find_model(&id, model)?,
            None => Arc::clone(self.model()),
        };
        require_network(&id, &settings, &model)?;
        let gallery = Gallery {
            id,
            kind,
            model_id: model.id.clone(),
            dim: model.dim as u32,
            fusion: settings.fusion.map(|fusion| fusion.resolve(model.fusion)),
            thresholds: settings.thresholds,
            guards: settings.guards,
            min_quality: settings.min_quality,
            keep_crops: settings.keep_crops,
            label: settings.label,
            created_at: at,
            updated_at: at,
            revision: 0,
        };
        let committed = self.store.commit(at, &[Operation::CreateGallery(gallery.clone())])?;
        Ok(Gallery { revision: committed.last_seq, ..gallery })
    }

    /// All galleries by id, those of other models included.
    pub fn galleries(&self) -> Result<Vec<Gallery>, GalleryError> {
        Ok(self.store.galleries()?)
    }

    /// One gallery.
    pub fn gallery(&self, id: &GalleryId) -> Result<Gallery, GalleryError> {
        Ok(self.store.gallery(id)?.ok_or_else(|| StoreError::NoGallery(id.clone()))?)
    }

    /// A gallery's sizes.
    pub fn counts(&self, id: &GalleryId) -> Result<GalleryCounts, GalleryError> {
        Ok(self.store.counts(id)?)
    }

    /// Replaces a gallery's settings.
    pub fn update_gallery(
        &self,
        id: &GalleryId,
        settings: GallerySettings,
        expected: Option<u64>,
    ) -> Result<Gallery, GalleryError> {
        let at = now();
        let there = self.gallery(id)?;
        // A gallery that has the rule keeps it, also where the network has gone since.
        if settings.by_caface() && !there.by_caface() {
            let model = self.find_model(id, &there.model_id)?;
            require_network(id, &settings, &model)?;
        }
        // Where the model is not at hand, what it would have added is the rule's usual.
        let own = |fusion: FusionRequest| {
            self.find_model(id, &there.model_id).map_or(fusion.rule.into(), |model| model.fusion)
        };
        let gallery = Gallery {
            fusion: settings.fusion.map(|fusion| fusion.resolve(own(fusion))),
            thresholds: settings.thresholds,
            guards: settings.guards,
            min_quality: settings.min_quality,
            keep_crops: settings.keep_crops,
            label: settings.label,
            updated_at: at,
            ..there
        };
        let committed = self.store.commit(at, &[Operation::UpdateGallery { gallery: gallery.clone(), expected }])?;
        let gallery = Gallery { revision: committed.last_seq, ..gallery };
        if let Ok(open) = self.gallery_in_use(id) {
            open.update(self.store(), gallery.clone(), &self.config.index)?;
        }
        Ok(gallery)
    }

    /// Removes a gallery with all in it.
    pub fn delete_gallery(&self, id: &GalleryId, expected: Option<u64>) -> Result<(), GalleryError> {
        // Under the lock, so that no search opens the gallery again between the two steps.
        let mut galleries = self.galleries.write();
        self.store.commit(now(), &[Operation::DeleteGallery { gallery: id.clone(), expected }])?;
        galleries.remove(id);
        self.forget_snapshot(id);
        Ok(())
    }

    /// Galleries with their indexes.
    pub(super) fn open_galleries(&self) -> Vec<Arc<OpenGallery>> {
        self.galleries.read().values().cloned().collect()
    }

    /// What the indexes of all galleries hold together.
    pub fn index_totals(&self) -> IndexTotals {
        let mut totals = IndexTotals::default();
        for open in self.open_galleries() {
            totals.galleries += 1;
            for side in open.state().sides() {
                let stats = side.index.stats();
                totals.rows += stats.rows;
                totals.tombstones += stats.tombstones;
                totals.bytes += stats.bytes;
                totals.memory = totals.memory.plus(stats.memory);
                totals.filed_bytes += stats.filed_bytes;
            }
        }
        totals
    }

    /// What the indexes keep of their memory limit, and what was done for it; `None` where they do not share a pool.
    pub fn memory_totals(&self) -> Option<MemoryTotals> {
        self.config.index.vectors.as_ref().map(|pool| pool.totals())
    }

    /// What the index in use of a gallery holds; `None` while the gallery is not open, since its model is not at hand, say.
    pub fn index_stats(&self, gallery: &GalleryId) -> Option<IndexStats> {
        self.open_gallery(gallery).map(|open| open.state().in_use.index.stats())
    }

    /// A gallery that is in use.
    pub(super) fn open_gallery(&self, gallery: &GalleryId) -> Option<Arc<OpenGallery>> {
        self.galleries.read().get(gallery).cloned()
    }

    /// Brings the index of a gallery after a write; one that is not in use reads the store when it is.
    pub(super) fn if_in_use(
        &self,
        gallery: &GalleryId,
        act: impl FnOnce(&OpenGallery) -> Result<(), GalleryError>,
    ) -> Result<(), GalleryError> {
        self.open_gallery(gallery).map_or(Ok(()), |open| act(&open))
    }

    /// The stored answer under an idempotency key, unless it is too old.
    pub fn answer(&self, key: &[u8; 32]) -> Result<Option<StoredAnswer>, GalleryError> {
        let answer = self.store.answer(key)?;
        Ok(answer.filter(|a| a.created_s >= Timestamp::now().as_second() - ANSWER_LIFETIME_S))
    }

    /// Builds the graphs that are due.
    fn build_graphs(&self, _round: u64) {
        // Hours may pass from the first to the last, and galleries go meanwhile.
        let galleries: Vec<GalleryId> = self.galleries.read().keys().cloned().collect();
        for gallery in galleries {
            let Some(open) = self.open_gallery(&gallery) else { continue };
            let _of = tracing::info_span!("index", %gallery).entered();
            each_index(&open, |index| if index.wants_graph() { index.maintain() } else { Maintenance::default() });
        }
    }

    /// Does what other index work is due.
    fn maintain(&self, round: u64) {
        let open: Vec<(GalleryId, Arc<OpenGallery>)> =
            self.galleries.read().iter().map(|(id, open)| (id.clone(), Arc::clone(open))).collect();
        for (gallery, open) in open {
            // What indexes tell of their work is of this gallery.
            let _of = tracing::info_span!("index", %gallery).entered();
            open.expire();
            if let Err(error) = self.remove_expired(&gallery) {
                tracing::warn!(%gallery, %error, "expired subjects could not be removed");
            }
            each_index(&open, GalleryIndex::maintain_beside_graphs);
            if let Err(error) = self.keep_snapshot(&open) {
                tracing::warn!(%gallery, %error, "the snapshot of an index could not be written");
            }
        }
        if round.is_multiple_of(FORGET_EVERY_ROUNDS)
            && let Err(error) = self.store.forget_answers(Timestamp::now().as_second() - ANSWER_LIFETIME_S)
        {
            tracing::warn!(%error, "old answers could not be forgotten");
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.mover.stop();
        *self.stopping.0.lock() = true;
        self.stopping.1.notify_all();
        // A keeper itself may hold the last reference for a moment.
        let own = std::thread::current().id();
        for keeper in self.keepers.lock().drain(..).filter(|keeper| keeper.thread().id() != own) {
            let _ = keeper.join();
        }
    }
}

impl GallerySettings {
    fn by_caface(&self) -> bool {
        self.fusion.is_some_and(|fusion| fusion.rule == FusionRule::Caface)
    }
}

/// Refuses the rule `caface` where the gallery's model has no network for it.
fn require_network(gallery: &GalleryId, settings: &GallerySettings, model: &ServedModel) -> Result<(), GalleryError> {
    if settings.by_caface() && model.network.is_none() {
        return Err(GalleryError::NoCaface { gallery: gallery.clone(), model: model.id.clone() });
    }
    Ok(())
}

/// Does work on the index in use of a gallery, and on one that is prepared to follow it.
fn each_index(open: &OpenGallery, work: impl Fn(&GalleryIndex) -> Maintenance) {
    let State { in_use, standby, .. } = &*open.state();
    for side in std::iter::once(in_use).chain(standby.as_ref().map(|standby| &standby.side)) {
        let work = work(&side.index);
        if work.is_due() {
            tracing::info!(?work, "index maintained");
        }
    }
}

fn keep(database: &Weak<Database>, stopping: &(Mutex<bool>, Condvar), work: Work) {
    for round in 0u64.. {
        let Some(database) = database.upgrade() else { return };
        // A thread that is no more would be missed by all galleries, and by nobody else.
        if catch_unwind(AssertUnwindSafe(|| work(&database, round))).is_err() {
            tracing::error!("the work on indexes panicked; it is tried again");
        }
        drop(database);
        let mut stop = stopping.0.lock();
        if !*stop {
            stopping.1.wait_for(&mut stop, MAINTENANCE_INTERVAL);
        }
        if *stop {
            return;
        }
    }
}
