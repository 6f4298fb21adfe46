//! An index in a file, so that a start reads it instead of making it again.
//!
//! A file holds the chunks one after the other, then a table of them, then the table's length and digest. A chunk is its vectors,
//! digits, levels where the cascade has them, and keys, each beginning where a register may be loaded from; the table has the bases
//! that digits are in. Every chunk and the
//! table have a BLAKE3 digest, which is compared before anything is used; a file that is not as it should be is an error and
//! never half an index. Vectors stay in the file, which is mapped; what every search reads is copied out of it. A graph is in files
//! of its own beside it (`graph_files`), whose digests are in the table; where they are not as they should be, the rest is used.
//!
//! Files are written under another name, synced, and then take the place of the one before.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::RowKey;
use super::basis::Basis;
use super::cascade::{Cascade, Trial};
use super::codes::{CodedRows, Parts as CodedParts};
use super::flat::{CHUNK_ROWS, Chunk, ChunkRows, FlatRows, LiveBits};
use super::gallery::{GalleryIndex, Generation, IndexConfig};
use super::graph_files::{self, GraphTable};
use super::hnsw::Graph;
use super::mapped::{Mapped, Plane, Vectors};
use super::sketch::Directions;
use super::slots::Slots;
use super::turning::Turning;
use crate::ids::{FaceId, SubjectId};

/// Begins and ends a file. As a number, so that a machine of the other byte order does not take it for its own.
const MAGIC: u64 = u64::from_be_bytes(*b"VULTUSIX");
/// Grows with the layout.
const VERSION: u32 = 7;
/// Parts begin at multiples of this.
const ALIGNMENT: usize = 64;
/// A digest's bytes.
pub(super) const DIGEST: usize = 32;
/// What ends a file: length and digest of the table, and [`MAGIC`].
const TRAILER: usize = 8 + DIGEST + 8;

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is not what was written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It is of another version of this program or another kind of machine.
    #[error("it is of another version")]
    OtherVersion,
    /// Its vectors are of another length.
    #[error("its vectors have {0} values")]
    OtherDimension(usize),
}

/// What is where.
#[derive(Serialize, Deserialize)]
struct Table {
    version: u32,
    dim: u32,
    /// What the caller wrote beside it.
    label: Vec<u8>,
    /// In which chunks are coded that are not coded as they came.
    bases: Vec<Basis>,
    chunks: Vec<Entry>,
    cascade: Option<CascadeTable>,
    graph: Option<GraphTable>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    start: u64,
    len: u64,
    rows: u32,
    live: LiveBits,
    /// Which of the bases it is coded in.
    basis: Option<u32>,
    digest: [u8; DIGEST],
}

#[derive(Serialize, Deserialize)]
struct CascadeTable {
    directions: Directions,
    trial: Trial,
    /// Chunks that have their sketches.
    chunks: u32,
}

/// A state of an index that is not changed by what is written to the index later.
pub struct Frozen {
    generation: Arc<Generation>,
}

/// What [`GalleryIndex::load`] reads.
pub struct Loaded {
    /// The index.
    pub index: GalleryIndex,
    /// What was written beside it.
    pub label: Vec<u8>,
    /// What came of its graph.
    pub graph: LoadedGraph,
}

/// What came of the graph of a file.
#[derive(Debug)]
pub enum LoadedGraph {
    /// There is none.
    None,
    /// It is in use.
    Read,
    /// It is not what was written. It is built anew in the background.
    Refused(SnapshotError),
    /// It does not fit into the memory limit.
    Withheld,
}

impl GalleryIndex {
    /// The state of now.
    pub fn freeze(&self) -> Frozen {
        Frozen { generation: self.published.load_full() }
    }

    /// Reads what [`Frozen::save`] wrote, and its label. A graph whose files are not as they should be, or that the memory limit
    /// has no room for, is left out and asked for anew.
    ///
    /// # Errors
    /// [`SnapshotError`], where the file is not whole and of this version, and vectors of `dim` values.
    pub fn load(dim: usize, config: IndexConfig, path: &Path) -> Result<Loaded, SnapshotError> {
        let mapped = Arc::new(Mapped::open(path)?);
        let table = table(&mapped)?;
        if table.dim as usize != dim {
            return Err(SnapshotError::OtherDimension(table.dim as usize));
        }
        if table.bases.iter().any(|basis| !basis.is_for(dim)) {
            return Err(SnapshotError::Damaged("a basis does not fit"));
        }
        let bases: Vec<Arc<Basis>> = table.bases.into_iter().map(Arc::new).collect();
        let width = table.cascade.as_ref().map_or(0, |cascade| cascade.directions.row_bytes());
        let with_sketch = table.cascade.as_ref().map_or(0, |cascade| cascade.chunks as usize);
        mapped.will_be_read();
        let in_memory = config.vectors.is_none();
        let last = table.chunks.len().saturating_sub(1);
        let parts: Vec<Part> = table
            .chunks
            .par_iter()
            .enumerate()
            .map(|(number, entry)| {
                if number < last && entry.rows as usize != CHUNK_ROWS {
                    return Err(SnapshotError::Damaged("a chunk is not full"));
                }
                let width = if number < with_sketch { width } else { 0 };
                chunk(&mapped, entry, dim, &bases, width, in_memory)
            })
            .collect::<Result<_, _>>()?;
        // One after the other, as they are read.
        let sketches: Vec<Plane> =
            parts.iter().map_while(|(_, sketch)| sketch.clone()).map(|place| Plane::of(&mapped[place])).collect();
        mapped.is_read_here_and_there();
        let chunks = parts.into_iter().map(|(chunk, _)| Arc::new(chunk)).collect();
        let rows = FlatRows::of_chunks(dim, chunks, config.vectors.clone());
        let cascade = match table.cascade {
            Some(CascadeTable { directions, trial, .. }) if directions.is_for(dim) => {
                Some(Arc::new(Cascade::of_parts(directions, &rows, sketches, trial)))
            }
            Some(_) => return Err(SnapshotError::Damaged("its directions do not fit")),
            None => None,
        };
        let slots = Slots::of(&rows);
        let index = Self::new(dim, config);
        let subjects = slots.subjects();
        if slots.rows() != rows.rows() {
            return Err(SnapshotError::Damaged("a row is there twice"));
        }
        *index.turning.lock() = Turning::of(&rows);
        let mut generation = Generation { rows, cascade, graph: None, subjects };
        // What a writer that was killed has left.
        if let Err(error) = graph_files::remove_others(path, table.graph.as_ref()) {
            tracing::debug!(%error, "files of an earlier graph could not be removed");
        }
        let graph = index.graph_of(path, table.graph.as_ref(), &mut generation);
        {
            let mut writer = index.writer.lock();
            *writer = slots;
            index.publish(generation);
        }
        Ok(Loaded { index, label: table.label, graph })
    }

    /// Reads the graph of a file into a state, or asks for one.
    fn graph_of(&self, path: &Path, table: Option<&GraphTable>, generation: &mut Generation) -> LoadedGraph {
        let Some(table) = table else { return LoadedGraph::None };
        let bytes = Graph::bytes_for(table.codes(), self.dim, table.points(), self.config.graph.max_links);
        if !self.account.has_room_beside(&generation.parts(), bytes) {
            self.graph_requested.store(true, Ordering::Relaxed);
            return LoadedGraph::Withheld;
        }
        match graph_files::read(path, table, self.dim, generation.rows.slots()) {
            Ok(graph) => {
                generation.graph = Some(Arc::new(graph));
                LoadedGraph::Read
            }
            Err(error) => {
                self.graph_requested.store(true, Ordering::Relaxed);
                LoadedGraph::Refused(error)
            }
        }
    }
}

impl Frozen {
    /// Live rows.
    pub fn rows(&self) -> usize {
        self.generation.rows.rows()
    }

    /// Whether a graph is in it.
    pub fn has_graph(&self) -> bool {
        self.generation.graph.is_some()
    }

    /// Writes the state to a file, durably, in place of what is there, and its graph to files beside it; gives their size in bytes.
    /// Dead rows are left out. `label` is given back by [`GalleryIndex::load`].
    ///
    /// # Errors
    /// Those of the file system. What was there before is there still.
    pub fn save(&self, path: &Path, label: &[u8]) -> io::Result<u64> {
        let Generation { rows, cascade, graph, .. } = &*self.generation;
        let compacted = rows.compacted();
        let cascade = cascade.as_ref().map(|cascade| match rows.tombstones() {
            0 => Arc::clone(cascade),
            _ => Arc::new(cascade.extended(&compacted)),
        });
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        std::fs::create_dir_all(folder)?;
        let temporary = tempfile::Builder::new().prefix(".snapshot-").tempfile_in(folder)?;
        let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file());
        let mut at = 0u64;
        let mut blob = Vec::new();
        let mut entries = Vec::with_capacity(compacted.chunks.len());
        for (number, chunk) in compacted.chunks.iter().enumerate() {
            blob.clear();
            put(&mut blob, bytemuck::cast_slice(&chunk.rows.vectors));
            let CodedParts { coarse, fine, tails, numbers } = chunk.rows.coded.parts();
            [coarse, fine, tails].into_iter().for_each(|part| put(&mut blob, part));
            numbers.into_iter().for_each(|part| put(&mut blob, bytemuck::cast_slice(part)));
            if let Some(sketch) = cascade.as_ref().and_then(|cascade| cascade.sketch_of(number)) {
                put(&mut blob, sketch);
            }
            put(&mut blob, &postcard::to_stdvec(&keys_of(&chunk.rows)).map_err(io::Error::other)?);
            out.write_all(&blob)?;
            let digest = *blake3::hash(&blob).as_bytes();
            let (len, rows) = (blob.len() as u64, chunk.rows.keys.len() as u32);
            let is_of = |basis: &Arc<Basis>| compacted.bases.iter().position(|known| Arc::ptr_eq(known, basis));
            let basis = chunk.rows.coded.basis().and_then(is_of).map(|number| number as u32);
            entries.push(Entry { start: at, len, rows, live: chunk.live, basis, digest });
            at += len;
        }
        let cascade = cascade.map(|cascade| CascadeTable {
            directions: cascade.directions().clone(),
            trial: cascade.trial(),
            chunks: (cascade.covers() / CHUNK_ROWS) as u32,
        });
        let graph = graph.as_ref().map(|graph| graph_files::write(path, graph, rows)).transpose()?.flatten();
        let of_graph = graph.as_ref().map_or(0, GraphTable::bytes);
        let kept = graph.clone();
        let (version, dim, label) = (VERSION, rows.dim() as u32, label.to_vec());
        let bases = compacted.bases.iter().map(|basis| Basis::clone(basis)).collect();
        let table = Table { version, dim, label, bases, chunks: entries, cascade, graph };
        let table = postcard::to_stdvec(&table).map_err(io::Error::other)?;
        out.write_all(&table)?;
        out.write_all(&(table.len() as u64).to_le_bytes())?;
        out.write_all(blake3::hash(&table).as_bytes())?;
        out.write_all(&MAGIC.to_ne_bytes())?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        temporary.persist(path).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()?;
        graph_files::remove_others(path, kept.as_ref())?;
        Ok(at + (table.len() + TRAILER) as u64 + of_graph)
    }
}

/// Removes what [`Frozen::save`] wrote; nothing where there is nothing.
///
/// # Errors
/// Those of the file system.
pub fn remove(path: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    gone(std::fs::remove_file(path))?;
    gone(graph_files::remove_others(path, None))
}

/// Whether a file belongs to what was written to a path.
pub fn is_of(path: &Path, file: &Path) -> bool {
    path == file || graph_files::is_of(path, file)
}

/// The keys of a chunk as they are written.
fn keys_of(rows: &ChunkRows) -> Vec<(&SubjectId, Option<FaceId>)> {
    rows.keys.iter().map(|key| (&key.subject, key.face)).collect()
}

/// Appends a part and fills up to where the next may begin.
fn put(blob: &mut Vec<u8>, part: &[u8]) {
    blob.extend_from_slice(part);
    blob.resize(blob.len().next_multiple_of(ALIGNMENT), 0);
}

/// The table of a file whose end is as it should be.
fn table(file: &[u8]) -> Result<Table, SnapshotError> {
    const SHORT: SnapshotError = SnapshotError::Damaged("it is cut short");
    let (rest, trailer) = file.split_at_checked(file.len().wrapping_sub(TRAILER)).ok_or(SHORT)?;
    let (length, trailer) = trailer.split_at(8);
    let (digest, magic) = trailer.split_at(DIGEST);
    if magic != MAGIC.to_ne_bytes() {
        return Err(if magic == MAGIC.swap_bytes().to_ne_bytes() { SnapshotError::OtherVersion } else { SHORT });
    }
    let length = u64::from_le_bytes(length.try_into().unwrap_or_default());
    let start = usize::try_from(length).ok().and_then(|length| rest.len().checked_sub(length)).ok_or(SHORT)?;
    let table = &rest[start..];
    if blake3::hash(table).as_bytes() != digest {
        return Err(SnapshotError::Damaged("its table is not what was written"));
    }
    // The version is its first number: what follows may be laid out otherwise.
    let (version, _) = postcard::take_from_bytes::<u32>(table).map_err(|_| SHORT)?;
    if version != VERSION {
        return Err(SnapshotError::OtherVersion);
    }
    postcard::from_bytes(table).map_err(|_| SnapshotError::Damaged("its table cannot be read"))
}

/// Takes part after part out of a chunk.
struct Parts<'a> {
    file: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Parts<'a> {
    /// Where a part of so many bytes is.
    fn place(&mut self, len: usize) -> Result<usize, SnapshotError> {
        let start = self.at;
        let end = start.checked_add(len).filter(|end| *end <= self.end);
        self.at = end.ok_or(SnapshotError::Damaged("a chunk is too short"))?.next_multiple_of(ALIGNMENT);
        Ok(start)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], SnapshotError> {
        let start = self.place(len)?;
        Ok(&self.file[start..start + len])
    }

    fn values<T: bytemuck::Pod>(&mut self, count: usize) -> Result<Vec<T>, SnapshotError> {
        Ok(bytemuck::pod_collect_to_vec(self.take(count * size_of::<T>())?))
    }
}

/// A chunk, and where its sketch is, if it has one.
type Part = (Chunk, Option<Range<usize>>);

/// A chunk out of a file, and its sketch of so many bytes a row.
fn chunk(
    mapped: &Arc<Mapped>,
    entry: &Entry,
    dim: usize,
    bases: &[Arc<Basis>],
    width: usize,
    in_memory: bool,
) -> Result<Part, SnapshotError> {
    const DAMAGED: SnapshotError = SnapshotError::Damaged("a chunk is not where it should be");
    let file: &[u8] = mapped;
    let start = usize::try_from(entry.start).map_err(|_| DAMAGED)?;
    let end = usize::try_from(entry.len).ok().and_then(|len| start.checked_add(len)).ok_or(DAMAGED)?;
    let rows = entry.rows as usize;
    if end > file.len() || !start.is_multiple_of(ALIGNMENT) || !(1..=CHUNK_ROWS).contains(&rows) {
        return Err(DAMAGED);
    }
    if blake3::hash(&file[start..end]).as_bytes() != &entry.digest {
        return Err(SnapshotError::Damaged("a chunk is not what was written"));
    }
    let mut parts = Parts { file, at: start, end };
    let is_full = rows == CHUNK_ROWS;
    let len = rows * dim * size_of::<f32>();
    let vectors = parts.place(len)?;
    let vectors = if is_full && !in_memory {
        Vectors::Filed { file: Arc::clone(mapped), start: vectors, len }
    } else {
        Vectors::Own { values: bytemuck::pod_collect_to_vec(&file[vectors..vectors + len]), pool: None }
    };
    let basis = match entry.basis {
        Some(number) if is_full => Some(Arc::clone(bases.get(number as usize).ok_or(DAMAGED)?)),
        Some(_) => return Err(DAMAGED),
        None => None,
    };
    let (digits, tail) = CodedRows::widths(dim, basis.as_deref());
    let mut plane = |width: usize| {
        let bytes = parts.take(width * rows)?;
        Ok::<_, SnapshotError>(if is_full { Plane::of(bytes) } else { Plane::from(bytes.to_vec()) })
    };
    let (coarse, fine, tails) = (plane(digits)?, plane(digits)?, plane(tail)?);
    let numbers = (0..CodedRows::numbers(basis.as_deref())).map(|_| parts.values::<f32>(rows));
    let coded = CodedRows::of_parts(basis.clone(), coarse, fine, tails, numbers.collect::<Result<_, _>>()?);
    let sketch = (width > 0).then(|| parts.place(rows * width)).transpose()?;
    let sketch = sketch.map(|start| start..start + rows * width);
    let keys: Vec<(SubjectId, Option<FaceId>)> = postcard::from_bytes(&file[parts.at..end])
        .map_err(|_| SnapshotError::Damaged("names of rows cannot be read"))?;
    if keys.len() != rows || sketch.is_some() && !is_full {
        return Err(SnapshotError::Damaged("a chunk does not have its rows"));
    }
    let keys: Vec<RowKey> = keys.into_iter().map(|(subject, face)| RowKey { subject, face }).collect();
    let live = entry.live.of_first(rows);
    Ok((Chunk { rows: Arc::new(ChunkRows { keys, vectors: Arc::new(vectors), coded }), live }, sketch))
}

#[cfg(test)]
mod tests;
