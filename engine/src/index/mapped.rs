//! What lies in memory that the system maps: vectors of full chunks in files, where there is no more room for them, and what every
//! search reads in large pages.
//!
//! A scan reads digits; vectors are read for the few rows that come near the list. So they may lie on disk, at a cost that the
//! system's cache hides where it has memory to spare. The files are this process's own and have no name: they go when the last
//! chunk in them does, or with the process. What they hold is in the store.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{Advice, Mmap, MmapOptions, MmapRaw};
use parking_lot::Mutex;

use super::memory::{Memory, MemoryTotals};

/// Bytes of a file. Chunks share it, since a process can map some ten thousand files only.
const FILE_BYTES: usize = 256 << 20;

/// Values that do not change any more.
pub(super) enum Vectors {
    /// In memory.
    Own {
        values: Vec<f32>,
        /// Where they are counted.
        pool: Option<Arc<VectorPool>>,
    },
    /// In a part of a file.
    Filed { file: Arc<Mapped>, start: usize, len: usize },
}

impl Default for Vectors {
    fn default() -> Self {
        Self::Own { values: Vec::new(), pool: None }
    }
}

impl Deref for Vectors {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Own { values, .. } => values,
            Self::Filed { file, start, len } => bytemuck::cast_slice(&file.map[*start..*start + *len]),
        }
    }
}

impl Drop for Vectors {
    fn drop(&mut self) {
        if let Self::Own { values, pool: Some(pool) } = self {
            pool.memory.vectors.fetch_sub(size_of_val(&values[..]), Ordering::Relaxed);
        }
    }
}

impl Vectors {
    /// Whether they take no memory of the process's own.
    pub(super) fn is_filed(&self) -> bool {
        matches!(self, Self::Filed { .. })
    }

    /// Whether they are in memory and counted, so that they could go to a file.
    pub(super) fn is_movable(&self) -> bool {
        matches!(self, Self::Own { pool: Some(_), .. })
    }

    /// The values, to add more. A copy where they are in a file.
    pub(super) fn into_values(mut self) -> Vec<f32> {
        match &mut self {
            Self::Own { values, pool: None } => std::mem::take(values),
            _ => self.to_vec(),
        }
    }
}

/// A file that is mapped.
#[derive(Debug)]
pub(super) struct Mapped {
    map: Mmap,
}

impl Mapped {
    /// A file that was written whole and is not written to any more, only replaced by another of its name.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: such files lie in the data directory, which belongs to this process while it runs, and are written under another
        // name before they get their own.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self { map })
    }

    /// Says that all of it will be read soon.
    pub(super) fn will_be_read(&self) {
        self.advise(Advice::WillNeed);
        self.advise(Advice::Sequential);
    }

    /// Says that it is read here and there from now on.
    pub(super) fn is_read_here_and_there(&self) {
        self.advise(Advice::Random);
    }

    fn advise(&self, advice: Advice) {
        if let Err(error) = self.map.advise(advice) {
            tracing::debug!(%error, "the system takes no advice about a file");
        }
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// Places vectors of all galleries of a server, and keeps account of all that their indexes keep in memory.
#[derive(Debug)]
pub struct VectorPool {
    folder: PathBuf,
    /// Bytes of vectors that may be in memory.
    limit: usize,
    pub(super) memory: Memory,
    filling: Mutex<Option<Filling>>,
    told: AtomicBool,
}

/// The file that the next chunk goes to.
#[derive(Debug)]
struct Filling {
    file: File,
    mapped: Arc<Mapped>,
    used: usize,
    len: usize,
}

impl VectorPool {
    /// Keeps at most `limit` bytes of vectors in memory, others in files without name in a folder, which is made when the first
    /// one is needed.
    pub fn new(folder: &Path, limit: usize) -> Arc<Self> {
        Self::with_memory_limit(folder, limit, None)
    }

    /// As [`new`](Self::new), where all that the indexes keep in memory is to stay within `memory_limit` bytes: vectors, digits,
    /// names, sketches and graphs. The first to go are vectors; digits and names stay in any case.
    pub fn with_memory_limit(folder: &Path, limit: usize, memory_limit: Option<usize>) -> Arc<Self> {
        Arc::new(Self {
            folder: folder.to_owned(),
            limit,
            memory: Memory::new(memory_limit),
            filling: Mutex::new(None),
            told: AtomicBool::new(false),
        })
    }

    /// What all indexes that share it keep in memory.
    pub fn totals(&self) -> MemoryTotals {
        self.memory.totals()
    }

    /// Places the vectors of a full chunk.
    pub(super) fn place(self: &Arc<Self>, values: Vec<f32>) -> Vectors {
        let bytes = size_of_val(&values[..]);
        let most = self.limit.min(self.memory.left_for_vectors());
        let room = |now: usize| now.checked_add(bytes).filter(|sum| *sum <= most);
        let in_memory = &self.memory.vectors;
        if in_memory.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok() {
            return Vectors::Own { values, pool: Some(Arc::clone(self)) };
        }
        self.to_file(&values).unwrap_or_else(|| {
            in_memory.fetch_add(bytes, Ordering::Relaxed);
            Vectors::Own { values, pool: Some(Arc::clone(self)) }
        })
    }

    /// A copy in a file; `None`, which is told, where there can be none.
    pub(super) fn to_file(&self, values: &[f32]) -> Option<Vectors> {
        let filed = self.file(values);
        let failed_before = self.memory.files_fail.swap(filed.is_err(), Ordering::Relaxed);
        match filed {
            Ok(vectors) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    let (limit_mb, memory_limit_mb) = (self.limit >> 20, self.memory.limit.map(|limit| limit >> 20));
                    let folder = self.folder.display();
                    tracing::info!(limit_mb, memory_limit_mb, %folder, "vectors beyond the limit go to files");
                }
                Some(vectors)
            }
            Err(error) => {
                if !failed_before {
                    let folder = self.folder.display();
                    tracing::warn!(%error, %folder, "vectors stay in memory, beyond the limit");
                }
                None
            }
        }
    }

    fn file(&self, values: &[f32]) -> io::Result<Vectors> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let mut filling = self.filling.lock();
        let filling = match &mut *filling {
            Some(filling) if filling.len - filling.used >= bytes.len() => filling,
            full => full.insert(self.next_file(bytes.len().max(FILE_BYTES))?),
        };
        filling.file.write_all_at(bytes, filling.used as u64)?;
        let start = filling.used;
        filling.used += bytes.len();
        Ok(Vectors::Filed { file: Arc::clone(&filling.mapped), start, len: bytes.len() })
    }

    fn next_file(&self, len: usize) -> io::Result<Filling> {
        std::fs::create_dir_all(&self.folder)?;
        let file = tempfile::tempfile_in(&self.folder)?;
        file.set_len(len as u64)?;
        // SAFETY: the file has no name and its handle stays here, so nobody else changes or shortens it. This process writes each
        // part once, before it is handed out as a slice.
        let map = unsafe { Mmap::map(&file) }?;
        // Rows are looked at here and there.
        map.advise(Advice::Random)?;
        Ok(Filling { file, mapped: Arc::new(Mapped { map }), used: 0, len })
    }
}

/// Bytes of a region of large pages.
const REGION_BYTES: usize = 32 << 20;

/// Bytes that every search reads from first to last. They grow on the heap and then settle among those of others in large pages,
/// where the processor finds them a quarter faster. A copy of what has settled shares it.
#[derive(Clone)]
pub(super) enum Plane {
    /// On the heap.
    Own(Vec<u8>),
    /// A part of a region.
    Settled { region: Arc<Region>, start: usize, len: usize },
}

impl Default for Plane {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl From<Vec<u8>> for Plane {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Own(bytes)
    }
}

impl Deref for Plane {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            // SAFETY: the part lies within the region, which lives as long as this does. It was written before this was made,
            // and is not written again.
            Self::Settled { region, start, len } => unsafe {
                std::slice::from_raw_parts(region.map.as_ptr().add(*start), *len)
            },
        }
    }
}

impl Plane {
    /// A copy in large pages, or on the heap where the system has none.
    pub(super) fn of(bytes: &[u8]) -> Self {
        settled(bytes).unwrap_or_else(|_| Self::Own(bytes.to_vec()))
    }

    /// Changes the bytes, which come back to the heap for it.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = match std::mem::take(self) {
            Self::Own(bytes) => bytes,
            settled => settled.to_vec(),
        };
        change(&mut bytes);
        *self = Self::Own(bytes);
    }

    /// Lays the bytes into large pages, or leaves them on the heap where the system has none.
    pub(super) fn settle(&mut self) {
        let Self::Own(bytes) = self else { return };
        match settled(bytes) {
            Ok(settled) => *self = settled,
            Err(error) => {
                tracing::debug!(%error, "rows stay on the heap");
                bytes.shrink_to_fit();
            }
        }
    }
}

/// Memory that is written once, part by part.
pub(super) struct Region {
    map: MmapRaw,
}

fn settled(bytes: &[u8]) -> io::Result<Plane> {
    /// The region that the next bytes go to, and how much of it is taken.
    static FILLING: Mutex<Option<(Arc<Region>, usize)>> = Mutex::new(None);
    /// Parts begin where the processor fetches.
    const LINE: usize = 64;
    let mut filling = FILLING.lock();
    let (region, used) = match &mut *filling {
        Some((region, used)) if region.map.len() - *used >= bytes.len() => (region, used),
        full => {
            let map = MmapOptions::new().len(bytes.len().max(REGION_BYTES)).map_anon()?;
            #[cfg(target_os = "linux")]
            if let Err(error) = map.advise(Advice::HugePage) {
                tracing::debug!(%error, "the system has no large pages");
            }
            let (region, used) = full.insert((Arc::new(Region { map: map.into() }), 0));
            (region, used)
        }
    };
    let start = *used;
    *used = (start + bytes.len()).next_multiple_of(LINE).min(region.map.len());
    // SAFETY: so many bytes are left from here on, and nobody has them: under the lock each part is handed out once, after this.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), region.map.as_mut_ptr().add(start), bytes.len()) };
    Ok(Plane::Settled { region: Arc::clone(region), start, len: bytes.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_settle_and_can_be_changed_again() {
        let planes: Vec<Plane> = (0..40u8)
            .map(|number| {
                let mut plane = Plane::from(vec![number; 1_000_000 + usize::from(number)]);
                plane.settle();
                assert!(matches!(plane, Plane::Settled { .. }));
                plane.settle();
                plane
            })
            .collect();
        for (number, plane) in (0..40u8).zip(&planes) {
            assert!(plane.len() == 1_000_000 + usize::from(number) && plane.iter().all(|byte| *byte == number));
        }
        let mut plane = Plane::from(vec![7; REGION_BYTES + 1]);
        plane.settle();
        plane.change(|bytes| bytes.push(8));
        assert_eq!((plane.len(), plane[REGION_BYTES], plane[REGION_BYTES + 1]), (REGION_BYTES + 2, 7, 8));
    }

    #[test]
    fn vectors_beyond_the_limit_go_to_files_and_read_back_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let pool = VectorPool::new(&folder.path().join("index"), 2 * 4_000);
        let values = |number: usize| (0..1_000).map(|at| (at * number) as f32).collect::<Vec<_>>();
        let mut placed: Vec<Vectors> = (0..5).map(|number| pool.place(values(number))).collect();
        let filed: Vec<bool> = placed.iter().map(Vectors::is_filed).collect();
        assert_eq!(filed, [false, false, true, true, true]);
        placed.iter().enumerate().for_each(|(number, vectors)| assert_eq!(vectors[..], values(number)));
        assert_eq!(std::fs::read_dir(folder.path().join("index")).unwrap().count(), 0, "files have no name");
        // What goes leaves room.
        placed.remove(0);
        assert!(!pool.place(values(9)).is_filed());
        assert_eq!(placed.pop().unwrap().into_values(), values(4));
    }

    #[test]
    fn without_a_folder_vectors_stay_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file");
        std::fs::write(&path, "").unwrap();
        let pool = VectorPool::new(&path, 0);
        assert_eq!(pool.place(vec![1.0, 2.0])[..], [1.0, 2.0]);
        assert_eq!(pool.memory.vectors.load(Ordering::Relaxed), 0);
        assert!(pool.memory.files_fail.load(Ordering::Relaxed));
    }
}
