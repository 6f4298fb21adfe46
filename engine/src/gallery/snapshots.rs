//! Indexes kept between runs, so that a start reads them instead of making them again from the store.
//!
//! The store is the truth: a snapshot states the number of the last change that its rows contain, and when it is read, the subjects
//! that changed since are made again from the store. It is used only where it is of this gallery as it is now (its model, its
//! fusion rule, its settings unchanged since) and the change it ends with is the one the store has under that number; anything else,
//! a damaged file above all, is said in the log, and the index is made from the store.
//!
//! Snapshots are written in the background: when a part of the rows has changed, sooner when rows were removed, so that what was
//! erased does not stay in a file, and when a cascade or a graph was made, as soon as writing may take its share of the time again.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::GalleryError;
use super::database::Database;
use super::open::{OpenGallery, rows_of};
use crate::ids::{GalleryId, ModelId, SubjectId};
use crate::index::{GalleryIndex, IndexConfig, Loaded, LoadedGraph, snapshot};
use crate::model::ServedModel;
use crate::store::{ChangeKind, Gallery, GalleryKind, Store, StoreError};
use crate::template::Fusion;

/// Changes read from the log at a time.
const PAGE: usize = 10_000;
/// With more of its subjects changed than this share, making the index from the store is as fast.
const MOST_CHANGED: f64 = 0.3;
/// Writing takes at most one part of so many of the time.
const PAUSES: u32 = 20;
/// How the files are named.
const EXTENSION: &str = "snapshot";

/// When snapshots are written, and where.
#[derive(Debug, Clone)]
pub struct SnapshotConfig {
    /// The folder, which is made when it is not there. Nothing else is kept in it.
    pub folder: PathBuf,
    /// Indexes of fewer rows are made anew in no time.
    pub min_rows: usize,
    /// Time from one to the next, unless a cascade or a graph was made or a basis learnt since.
    pub min_interval: Duration,
    /// Share of the rows that has to have changed, unless rows were removed.
    pub changed_share: f64,
}

impl SnapshotConfig {
    /// As usual, in a folder.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, min_rows: 20_000, min_interval: Duration::from_secs(300), changed_share: 0.05 }
    }

    fn path(&self, gallery: &GalleryId) -> PathBuf {
        // Not the id itself: file systems differ in the names they tell apart.
        self.folder.join(format!("{}.{EXTENSION}", blake3::hash(gallery.as_str().as_bytes()).to_hex()))
    }
}

/// What has been done with snapshots since the start.
#[derive(Debug, Default)]
pub struct SnapshotCounts {
    /// Read in place of making an index.
    pub read: AtomicU64,
    /// Found and not used.
    pub refused: AtomicU64,
    /// Written.
    pub written: AtomicU64,
    /// Graphs read with their snapshots.
    pub graphs_read: AtomicU64,
    /// Graphs that were not as they should be and are built anew; the rest of their snapshots was used.
    pub graphs_refused: AtomicU64,
    /// Graphs that were not read since they do not fit into the memory limit.
    pub graphs_withheld: AtomicU64,
    /// Graphs written with their snapshots.
    pub graphs_written: AtomicU64,
}

/// What a snapshot is of.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Label {
    gallery: GalleryId,
    created_at: Timestamp,
    kind: GalleryKind,
    model: ModelId,
    fusion: Fusion,
    /// The last change that it contains.
    seq: u64,
    /// Digest of that change.
    mark: Option<[u8; 32]>,
}

impl Label {
    fn of(gallery: &Gallery, model: &ServedModel, store: &dyn Store, seq: u64) -> Result<Self, StoreError> {
        Ok(Self {
            gallery: gallery.id.clone(),
            created_at: gallery.created_at,
            kind: gallery.kind,
            model: model.id.clone(),
            fusion: gallery.fusion.unwrap_or(model.fusion),
            seq,
            mark: mark(store, seq)?,
        })
    }
}

/// Digest of the change with a number. A store that was restored from a backup may have another one there.
fn mark(store: &dyn Store, seq: u64) -> Result<Option<[u8; 32]>, StoreError> {
    let Some(before) = seq.checked_sub(1) else { return Ok(None) };
    let change = store.changes(before, 1)?.into_iter().find(|change| change.seq == seq);
    let bytes =
        change.map(|change| serde_json::to_vec(&change).map_err(|error| StoreError::Damaged(error.to_string())));
    Ok(bytes.transpose()?.map(|bytes| *blake3::hash(&bytes).as_bytes()))
}

/// What is known of a gallery's snapshot.
#[derive(Default)]
pub(super) struct Kept(Mutex<Option<Last>>);

impl Kept {
    /// Of an index that was just read.
    pub(super) fn of_read(index: &Arc<GalleryIndex>) -> Self {
        let (index, at) = (Arc::downgrade(index), Instant::now());
        // What was made again after reading is not in the file.
        Self(Mutex::new(Some(Last { index, at, ..Last::none() })))
    }
}

/// The last one that was read or written.
struct Last {
    index: Weak<GalleryIndex>,
    /// As [`GalleryIndex::changes`].
    changes: u64,
    removals: u64,
    /// As [`GalleryIndex::preparations`].
    preparations: u64,
    at: Instant,
    took: Duration,
}

impl Last {
    fn none() -> Self {
        let (changes, removals, preparations) = (0, 0, 0);
        Self { index: Weak::new(), changes, removals, preparations, at: Instant::now(), took: Duration::ZERO }
    }

    /// Whether it is time for another one, of the index as it is now.
    fn is_outdated(&self, config: &SnapshotConfig, index: &Arc<GalleryIndex>) -> bool {
        let (since, pause) = (self.at.elapsed(), self.took * PAUSES);
        // Another index, made for another rule say, counts from its own beginning.
        let is_same = std::ptr::eq(self.index.as_ptr(), Arc::as_ptr(index));
        // What took minutes to make is worth keeping, before anything happens to the server.
        if is_same && index.preparations() > self.preparations {
            return since >= pause;
        }
        if since < config.min_interval.max(pause) {
            return false;
        }
        if !is_same {
            return true;
        }
        let (changes, removals) = index.changes();
        let changed = changes - self.changes;
        removals > self.removals || changed > 0 && changed as f64 >= config.changed_share * index.rows() as f64
    }
}

/// The index of a gallery out of its snapshot; `None` where there is none that could be used, which the log says.
pub(super) fn load(
    config: &SnapshotConfig,
    counts: &SnapshotCounts,
    store: &dyn Store,
    gallery: &Gallery,
    model: &ServedModel,
    index: &IndexConfig,
    barred: &HashSet<SubjectId>,
) -> Option<GalleryIndex> {
    let path = config.path(&gallery.id);
    if !path.exists() {
        return None;
    }
    let started = Instant::now();
    match read(&path, store, gallery, model, index, barred) {
        Ok((Loaded { index, graph, .. }, replayed)) => {
            counts.read.fetch_add(1, Ordering::Relaxed);
            note_graph(counts, gallery, &graph);
            let (rows, ms) = (index.rows(), started.elapsed().as_millis() as u64);
            tracing::info!(gallery = %gallery.id, rows, replayed, ms, "an index was read from its snapshot");
            Some(index)
        }
        Err(reason) => {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(gallery = %gallery.id, %reason, "a snapshot is not used, the index is made from the store");
            remove(&path);
            None
        }
    }
}

/// Counts and tells what came of the graph of a snapshot.
fn note_graph(counts: &SnapshotCounts, gallery: &Gallery, graph: &LoadedGraph) {
    let gallery = &gallery.id;
    let count = match graph {
        LoadedGraph::None => return,
        LoadedGraph::Read => &counts.graphs_read,
        LoadedGraph::Refused(reason) => {
            tracing::warn!(%gallery, %reason, "the graph of a snapshot is not used, it is built anew");
            &counts.graphs_refused
        }
        LoadedGraph::Withheld => {
            tracing::warn!(%gallery, "the graph of a snapshot is not read: it does not fit into the memory limit");
            &counts.graphs_withheld
        }
    };
    count.fetch_add(1, Ordering::Relaxed);
}

/// The index, and how many subjects were made again.
fn read(
    path: &Path,
    store: &dyn Store,
    gallery: &Gallery,
    model: &ServedModel,
    config: &IndexConfig,
    barred: &HashSet<SubjectId>,
) -> Result<(Loaded, usize), String> {
    let loaded = GalleryIndex::load(model.dim, config.clone(), path).map_err(|error| error.to_string())?;
    let index = &loaded.index;
    let label: Label = serde_json::from_slice(&loaded.label).map_err(|error| error.to_string())?;
    let seq = label.seq;
    let failed = |error: StoreError| error.to_string();
    if label != Label::of(gallery, model, store, seq).map_err(failed)? {
        return Err("it is of another gallery, model or rule, or of another store".to_owned());
    }
    let mut touched = HashSet::new();
    let mut after = seq;
    loop {
        let page = store.changes(after, PAGE).map_err(failed)?;
        let Some(last) = page.last() else { break };
        after = last.seq;
        for change in page.into_iter().filter(|change| change.gallery == gallery.id) {
            match change.kind {
                ChangeKind::GalleryCreated | ChangeKind::GalleryUpdated | ChangeKind::GalleryDeleted => {
                    return Err("the gallery's settings have changed since".to_owned());
                }
                ChangeKind::SubjectCreated(subject)
                | ChangeKind::SubjectUpdated(subject)
                | ChangeKind::SubjectDeleted(subject)
                | ChangeKind::FaceAdded(subject, _)
                | ChangeKind::FaceDeleted(subject, _) => drop(touched.insert(subject)),
                ChangeKind::FaceMoved(to, _, from) => touched.extend([to, from]),
            }
        }
        if touched.len() as f64 > MOST_CHANGED * index.subjects() as f64 + PAGE as f64 {
            return Err("too much has changed since".to_owned());
        }
    }
    // Whose time has come since has no row any more either.
    for subject in touched.iter().chain(barred) {
        index.remove_subject(subject);
    }
    for subject in touched.difference(barred) {
        let faces = store.faces(&gallery.id, subject).map_err(failed)?;
        index.extend(rows_of(gallery, model, &faces)).map_err(|error| error.to_string())?;
    }
    Ok((loaded, touched.len()))
}

fn remove(path: &Path) {
    if let Err(error) = snapshot::remove(path) {
        tracing::warn!(%error, "a snapshot could not be removed");
    }
}

impl Database {
    /// What has been done with snapshots since the start.
    pub fn snapshot_counts(&self) -> &SnapshotCounts {
        &self.snapshots
    }

    /// Writes a gallery's snapshot when it is time; says whether it did.
    pub(super) fn keep_snapshot(&self, open: &OpenGallery) -> Result<bool, GalleryError> {
        let Some(config) = &self.config.snapshots else { return Ok(false) };
        let mut last = open.snapshot.0.lock();
        let index = Arc::clone(&open.state().in_use.index);
        let path = config.path(&open.state().settings.id);
        if index.rows() < config.min_rows {
            if last.take().is_some() {
                remove(&path);
            }
            return Ok(false);
        }
        if let Some(last) = &*last
            && !last.is_outdated(config, &index)
        {
            return Ok(false);
        }
        let started = Instant::now();
        // Where it fails, on a full disk say, it is tried again after a rest and not every second.
        *last = Some(Last::none());
        // Who changes the gallery holds this from the commit until the rows agree, so all changes up to the number are in the rows.
        let (label, frozen, index, (changes, removals), preparations) = {
            let _alone = open.members.write();
            let state = open.state();
            let label = Label::of(&state.settings, &state.in_use.model, self.store(), self.store().last_seq()?)?;
            let index = &state.in_use.index;
            let preparations = index.preparations();
            (label, index.freeze(), Arc::downgrade(index), index.changes(), preparations)
        };
        let bytes = serde_json::to_vec(&label)
            .map_err(std::io::Error::other)
            .and_then(|label| frozen.save(&path, &label))
            .map_err(StoreError::Io)?;
        // A gallery that was removed meanwhile has taken its file with it, and must not get another one.
        let there = self.store().gallery(&label.gallery)?;
        if there.is_none_or(|there| there.created_at != label.created_at) {
            remove(&path);
            return Ok(false);
        }
        let took = started.elapsed();
        *last = Some(Last { index, changes, removals, preparations, at: Instant::now(), took });
        self.snapshots.written.fetch_add(1, Ordering::Relaxed);
        self.snapshots.graphs_written.fetch_add(u64::from(frozen.has_graph()), Ordering::Relaxed);
        let (rows, ms) = (frozen.rows(), took.as_millis() as u64);
        tracing::info!(gallery = %label.gallery, rows, bytes, ms, "the snapshot of an index was written");
        Ok(true)
    }

    /// Removes the snapshot of a gallery that is no more.
    pub(super) fn forget_snapshot(&self, gallery: &GalleryId) {
        if let Some(config) = &self.config.snapshots {
            remove(&config.path(gallery));
        }
    }

    /// Removes snapshots of galleries that are no more, and what a write that was cut off has left.
    pub(super) fn tidy_snapshots(&self) -> Result<(), GalleryError> {
        let Some(config) = &self.config.snapshots else { return Ok(()) };
        let Ok(files) = std::fs::read_dir(&config.folder) else { return Ok(()) };
        let paths = self.store.galleries()?.into_iter().map(|gallery| config.path(&gallery.id));
        let known: HashMap<_, PathBuf> = paths.filter_map(|path| Some((path.file_stem()?.to_owned(), path))).collect();
        // A graph's files begin as the snapshot does, up to a dot.
        let is_known = |file: &Path| {
            let stem = file.file_name().and_then(|name| name.to_str()?.split('.').next());
            let snapshot = stem.and_then(|stem| known.get(OsStr::new(stem)));
            snapshot.is_some_and(|snapshot| snapshot::is_of(snapshot, file))
        };
        for file in files.flatten().map(|file| file.path()).filter(|path| path.is_file() && !is_known(path)) {
            remove(&file);
        }
        Ok(())
    }
}
