//! An index in a file, so that a start reads it instead of making it again.
//!
//! A file holds the chunks one after the other, then a table of them, then the table's length and digest. A chunk is its vectors,
//! digits, bits where the cascade has them, and keys, each beginning where a register may be loaded from. Every chunk and the
//! table have a BLAKE3 digest, which is compared before anything is used; a file that is not as it should be is an error and
//! never half an index. Vectors stay in the file, which is mapped; what every search reads is copied out of it.
//!
//! Files are written under another name, synced, and then take the place of the one before.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::RowKey;
use super::cascade::{Cascade, Trial};
use super::codes::CodedRows;
use super::flat::{CHUNK_ROWS, Chunk, ChunkRows, FlatRows, LiveBits};
use super::gallery::{GalleryIndex, Generation, IndexConfig};
use super::mapped::{Mapped, Plane, Vectors};
use super::sketch::Planes;
use super::slots::Slots;
use crate::ids::{FaceId, SubjectId};

/// Begins and ends a file. As a number, so that a machine of the other byte order does not take it for its own.
const MAGIC: u64 = u64::from_be_bytes(*b"VULTUSIX");
/// Grows with the layout.
const VERSION: u32 = 1;
/// Parts begin at multiples of this.
const ALIGNMENT: usize = 64;
/// A digest's bytes.
const DIGEST: usize = 32;
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
    chunks: Vec<Entry>,
    cascade: Option<CascadeTable>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    start: u64,
    len: u64,
    rows: u32,
    live: LiveBits,
    digest: [u8; DIGEST],
}

#[derive(Serialize, Deserialize)]
struct CascadeTable {
    planes: Planes,
    trial: Trial,
    /// Chunks that have their bits.
    chunks: u32,
}

/// A state of an index that is not changed by what is written to the index later.
pub struct Frozen {
    generation: Arc<Generation>,
}

impl GalleryIndex {
    /// The state of now.
    pub fn freeze(&self) -> Frozen {
        Frozen { generation: self.published.load_full() }
    }

    /// Reads what [`Frozen::save`] wrote, and its label. A graph is not in it: it is built anew where it is wanted.
    ///
    /// # Errors
    /// [`SnapshotError`], where the file is not whole and of this version, and vectors of `dim` values.
    pub fn load(dim: usize, config: IndexConfig, path: &Path) -> Result<(Self, Vec<u8>), SnapshotError> {
        let mapped = Arc::new(Mapped::open(path)?);
        let table = table(&mapped)?;
        if table.dim as usize != dim {
            return Err(SnapshotError::OtherDimension(table.dim as usize));
        }
        let words = table.cascade.as_ref().map_or(0, |cascade| cascade.planes.words());
        let with_bits = table.cascade.as_ref().map_or(0, |cascade| cascade.chunks as usize);
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
                let words = if number < with_bits { words } else { 0 };
                chunk(&mapped, entry, dim, words, in_memory)
            })
            .collect::<Result<_, _>>()?;
        mapped.is_read_here_and_there();
        let bits: Vec<Arc<[u64]>> = parts.iter().map_while(|(_, bits)| bits.clone()).collect();
        let chunks = parts.into_iter().map(|(chunk, _)| Arc::new(chunk)).collect();
        let rows = FlatRows::of_chunks(dim, chunks, config.vectors.clone());
        let cascade = match table.cascade {
            Some(CascadeTable { planes, trial, .. }) if planes.is_for(dim) => {
                Some(Arc::new(Cascade::of_parts(planes, &rows, bits, trial)))
            }
            Some(_) => return Err(SnapshotError::Damaged("its planes do not fit")),
            None => None,
        };
        let slots = Slots::of(&rows);
        let index = Self::new(dim, config);
        let subjects = slots.subjects();
        if slots.rows() != rows.rows() {
            return Err(SnapshotError::Damaged("a row is there twice"));
        }
        *index.writer.lock() = slots;
        index.published.store(Arc::new(Generation { rows, cascade, graph: None, subjects }));
        Ok((index, table.label))
    }
}

impl Frozen {
    /// Live rows.
    pub fn rows(&self) -> usize {
        self.generation.rows.rows()
    }

    /// Writes the state to a file, durably, in place of what is there; gives its size in bytes. Dead rows are left out. `label` is
    /// given back by [`GalleryIndex::load`].
    ///
    /// # Errors
    /// Those of the file system. What was there before is there still.
    pub fn save(&self, path: &Path, label: &[u8]) -> io::Result<u64> {
        let Generation { rows, cascade, .. } = &*self.generation;
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
            chunk.rows.coded.parts().into_iter().for_each(|part| put(&mut blob, part));
            if let Some(bits) = cascade.as_ref().and_then(|cascade| cascade.bits_of(number)) {
                put(&mut blob, bytemuck::cast_slice(bits));
            }
            put(&mut blob, &postcard::to_stdvec(&keys_of(&chunk.rows)).map_err(io::Error::other)?);
            out.write_all(&blob)?;
            let digest = *blake3::hash(&blob).as_bytes();
            let (len, rows) = (blob.len() as u64, chunk.rows.keys.len() as u32);
            entries.push(Entry { start: at, len, rows, live: chunk.live, digest });
            at += len;
        }
        let cascade = cascade.map(|cascade| CascadeTable {
            planes: cascade.planes().clone(),
            trial: cascade.trial(),
            chunks: (cascade.covers() / CHUNK_ROWS) as u32,
        });
        let table = Table { version: VERSION, dim: rows.dim() as u32, label: label.to_vec(), chunks: entries, cascade };
        let table = postcard::to_stdvec(&table).map_err(io::Error::other)?;
        out.write_all(&table)?;
        out.write_all(&(table.len() as u64).to_le_bytes())?;
        out.write_all(blake3::hash(&table).as_bytes())?;
        out.write_all(&MAGIC.to_ne_bytes())?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        temporary.persist(path).map_err(|error| error.error)?;
        File::open(folder)?.sync_all()?;
        Ok(at + (table.len() + TRAILER) as u64)
    }
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

/// A chunk, and its bits where it has them.
type Part = (Chunk, Option<Arc<[u64]>>);

/// A chunk out of a file, and its bits of so many words a row.
fn chunk(
    mapped: &Arc<Mapped>,
    entry: &Entry,
    dim: usize,
    words: usize,
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
    let digits = CodedRows::digits_bytes(dim) * rows;
    let (coarse, fine) = (parts.take(digits)?, parts.take(digits)?);
    let coarse = if is_full { Plane::of(coarse) } else { Plane::from(coarse.to_vec()) };
    let scales = [parts.values::<f32>(rows)?, parts.values(rows)?, parts.values(rows)?];
    let coded = CodedRows::of_parts(coarse, fine.to_vec(), scales);
    let bits = (words > 0).then(|| parts.values::<u64>(rows * words)).transpose()?;
    let keys: Vec<(SubjectId, Option<FaceId>)> = postcard::from_bytes(&file[parts.at..end])
        .map_err(|_| SnapshotError::Damaged("names of rows cannot be read"))?;
    if keys.len() != rows || bits.is_some() && !is_full {
        return Err(SnapshotError::Damaged("a chunk does not have its rows"));
    }
    let keys: Vec<RowKey> = keys.into_iter().map(|(subject, face)| RowKey { subject, face }).collect();
    let live = entry.live.of_first(rows);
    Ok((Chunk { rows: Arc::new(ChunkRows { keys, vectors, coded }), live }, bits.map(Into::into)))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Faces, key};
    use super::super::mapped::VectorPool;
    use super::super::{IndexKind, SearchMode};
    use super::*;

    const DIM: usize = 128;

    /// An index with a cascade, an unfinished chunk and dead rows, and probes for it.
    fn filled(config: IndexConfig) -> (GalleryIndex, Vec<Vec<f32>>) {
        let mut faces = Faces::new(DIM, 51);
        let index = GalleryIndex::new(DIM, config);
        let people = faces.people(1_500);
        for (number, person) in people.iter().enumerate() {
            for image in 0..2 {
                let face = (!number.is_multiple_of(7)).then_some(image);
                index.upsert(key(number as u64, face), &faces.image(person)).unwrap();
            }
        }
        for number in (0..1_500).step_by(9) {
            index.remove_subject(&key(number, None).subject);
        }
        let probes: Vec<Vec<f32>> = people.iter().step_by(50).map(|person| faces.image(person)).collect();
        index.search(&probes[0], 1, SearchMode::Cascade).unwrap();
        index.maintain();
        index.upsert(key(9_999, None), &probes[0]).unwrap();
        index.remove_subject(&key(100, None).subject);
        (index, probes)
    }

    fn config() -> IndexConfig {
        IndexConfig { cascade_min_rows: 600, maintenance_min_rows: 20, ..IndexConfig::default() }
    }

    #[test]
    fn what_is_loaded_answers_as_what_was_saved_and_goes_on_from_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshots").join("one");
        let (index, probes) = filled(config());
        let size = index.freeze().save(&path, b"label").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
        for vectors in [None, Some(VectorPool::new(folder.path(), 0))] {
            let filed = vectors.is_some();
            let (loaded, label) = GalleryIndex::load(DIM, IndexConfig { vectors, ..config() }, &path).unwrap();
            assert_eq!(label, b"label");
            assert_eq!((loaded.rows(), loaded.subjects()), (index.rows(), index.subjects()));
            assert_eq!(loaded.stats().tombstones, 0);
            assert_eq!(loaded.stats().filed_bytes > 0, filed);
            assert_eq!(loaded.stats().cascade, index.stats().cascade);
            for probe in &probes {
                let exact = index.search(probe, 10, SearchMode::Exact).unwrap();
                assert_eq!(loaded.search(probe, 10, SearchMode::Exact).unwrap(), exact);
                let found = loaded.search(probe, 10, SearchMode::Cascade).unwrap();
                assert_eq!(found.kind, IndexKind::Cascade);
                assert_eq!(found.hits[0], exact.hits[0]);
            }
            // It can be written to as any other, and saved again.
            let late = key(20_000, Some(1));
            loaded.upsert(late.clone(), &probes[1]).unwrap();
            assert_eq!(loaded.search(&probes[1], 1, SearchMode::Exact).unwrap().hits[0].subject, late.subject);
            assert_eq!(loaded.remove_subject(&key(8, None).subject), 2);
            assert!(!loaded.remove(&key(100, None)));
            let again = folder.path().join("again");
            loaded.freeze().save(&again, b"").unwrap();
            let (again, _) = GalleryIndex::load(DIM, config(), &again).unwrap();
            assert_eq!(again.rows(), index.rows() - 1);
        }
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn an_empty_index_can_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        GalleryIndex::new(DIM, config()).freeze().save(&path, b"").unwrap();
        let (loaded, _) = GalleryIndex::load(DIM, config(), &path).unwrap();
        assert_eq!(loaded.rows(), 0);
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot");
        let (index, _) = filled(config());
        index.freeze().save(&path, b"label").unwrap();
        let whole = std::fs::read(&path).unwrap();
        let load = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            GalleryIndex::load(DIM, config(), &path).map(drop)
        };
        assert!(load(&whole).is_ok());
        // Any byte that is another than it was.
        for at in
            (0..whole.len()).step_by(whole.len() / 40).chain([whole.len() - 1, whole.len() - 20, whole.len() - 45])
        {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let error = load(&bytes).unwrap_err();
            assert!(matches!(error, SnapshotError::Damaged(_)), "{at}: {error}");
        }
        for len in [0, 1, TRAILER - 1, TRAILER, whole.len() / 2, whole.len() - 1] {
            assert!(load(&whole[..len]).is_err(), "{len}");
        }
        let mut other = whole.clone();
        let end = other.len();
        other[end - 8..].reverse();
        assert!(matches!(load(&other), Err(SnapshotError::OtherVersion)));
        std::fs::write(&path, &whole).unwrap();
        let of_dim = |dim| GalleryIndex::load(dim, config(), &path).map(drop);
        assert!(matches!(of_dim(64), Err(SnapshotError::OtherDimension(DIM))));
        let missing = GalleryIndex::load(DIM, config(), &folder.path().join("none")).map(drop);
        assert!(matches!(missing, Err(SnapshotError::Io(_))));
    }
}
