//! A graph in two files beside a snapshot: links in `NAME.hnsw.graph`, codes of vectors in `NAME.hnsw.data`.
//!
//! The layout is that in which `hnsw_rs` 0.3.5 dumps a graph, since only its loader can make one. The files are written here all
//! the same: its `file_dump` panics where a file cannot be made, and writes slots as they were when the graph was built, where a
//! snapshot numbers rows anew; above all it writes vectors of rows that have died since, and what was erased must not stay in a
//! file. Such rows stay as **waypoints**: their links lead on as before, and their vector is that of the nearest row that is
//! left.
//!
//! That loader ends the process on some damage, panics on other, and trusts lengths. So each file has a BLAKE3 digest in the
//! snapshot's own table, and only files that are to the byte what was written here come to it. What it makes may borrow from the
//! reader, which is a few hundred bytes and is therefore left where it is: vectors are copied, so nothing else stays.
//!
//! Files are named after their digests. A snapshot that is written anew gets files of other names before it takes the place of
//! the one before, so a process that is killed in between leaves a whole snapshot, and files that nobody names, which the next one
//! to be read or written removes.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hnsw_rs::hnsw::{Neighbour, PointId};
use hnsw_rs::hnswio::HnswIo;
use serde::{Deserialize, Serialize};

use super::flat::FlatRows;
use super::graph_codes::{CodeDistance, GraphCodes};
use super::hnsw::{Graph, Known, Links, MAX_LAYERS};
use super::mapped::Mapped;
use super::snapshot::{DIGEST, SnapshotError};

/// How `hnsw_rs` begins a file of links, each layer, each point, and each vector. The first is of its fourth layout.
const LINKS: u32 = 0x002a_6779;
const LAYER: u32 = 0x000a_676f;
const POINT: u32 = 0x000a_678f;
const VECTOR: u32 = 0xa67f_0000;
/// Links name layer and place of their ends.
const FULL: u8 = 1;
/// The slot of waypoints: no row has it.
const NOBODY: usize = usize::MAX;
/// Bytes gathered before they are written.
const GATHERED: usize = 1 << 20;
/// How `hnsw_rs` ends the names of the two files.
const ENDINGS: [&str; 2] = ["hnsw.graph", "hnsw.data"];

/// What a snapshot says of its graph.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct GraphTable {
    known: Known,
    /// Links and vectors.
    files: [Written; 2],
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Written {
    bytes: u64,
    digest: [u8; DIGEST],
}

impl GraphTable {
    /// Bytes of both files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// What it walks over.
    pub(super) fn codes(&self) -> GraphCodes {
        self.known.codes
    }

    /// Places of the graph: rows and waypoints.
    pub(super) fn points(&self) -> usize {
        self.known.covers.saturating_add(self.known.waypoints)
    }

    /// What both files beside a snapshot are called, without their endings.
    fn name(&self, snapshot: &Path) -> String {
        let digests = self.files.map(|file| file.digest).concat();
        format!("{}.{}", stem(snapshot), &blake3::hash(&digests).to_hex()[..16])
    }

    fn paths(&self, snapshot: &Path) -> [PathBuf; 2] {
        let name = self.name(snapshot);
        ENDINGS.map(|ending| snapshot.with_file_name(format!("{name}.{ending}")))
    }
}

/// The name that a snapshot shares with the files of its graph.
fn stem(snapshot: &Path) -> String {
    snapshot.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether a file holds a part of the graph of this snapshot, be it the one that is named in it or one from before.
pub(super) fn is_of(snapshot: &Path, file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let rest = name.strip_prefix(&stem(snapshot)).and_then(|rest| rest.strip_prefix('.'));
    rest.and_then(|rest| rest.split_once('.')).is_some_and(|(_, ending)| ENDINGS.contains(&ending))
}

/// Removes files of graphs beside a snapshot, all but those of the graph that is `kept`.
pub(super) fn remove_others(snapshot: &Path, kept: Option<&GraphTable>) -> io::Result<()> {
    let kept = kept.map(|table| table.paths(snapshot));
    let folder = snapshot.parent().unwrap_or_else(|| Path::new("."));
    for file in std::fs::read_dir(folder)? {
        let file = file?.path();
        if is_of(snapshot, &file) && !kept.iter().flatten().any(|kept| kept.file_name() == file.file_name()) {
            std::fs::remove_file(file)?;
        }
    }
    Ok(())
}

/// Writes a graph beside a snapshot that is about to be written, durably but for the folder's entries. `rows` is the state that the
/// snapshot is of, with the numbers the graph knows; the snapshot numbers its live rows in their order. `None`, and nothing is
/// written, where no row of the graph is live.
pub(super) fn write(snapshot: &Path, graph: &Graph, rows: &FlatRows) -> io::Result<Option<GraphTable>> {
    let mut live = 0;
    let numbers: Vec<usize> = (0..graph.covers())
        .map(|slot| {
            let number = live;
            let is_live = rows.row(slot).is_some();
            live += usize::from(is_live);
            if is_live { number } else { NOBODY }
        })
        .collect();
    if live == 0 {
        return Ok(None);
    }
    let points = graph.links().get_nb_point();
    let folder = snapshot.parent().unwrap_or_else(|| Path::new("."));
    let temporary = || tempfile::Builder::new().prefix(".snapshot-").tempfile_in(folder);
    let temporaries = [temporary()?, temporary()?];
    let [links, vectors] = [0, 1].map(|at| Hashed::new(temporaries[at].as_file()));
    let mut writer = Writer { numbers, rows, codes: graph.known().codes, links, vectors };
    writer.all(graph)?;
    let files = [writer.links.finish()?, writer.vectors.finish()?];
    let known = Known { covers: live, waypoints: points - live, ..graph.known() };
    let table = GraphTable { known, files };
    for (temporary, path) in temporaries.into_iter().zip(table.paths(snapshot)) {
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|error| error.error)?;
    }
    Ok(Some(table))
}

struct Writer<'a> {
    /// The number of each slot in the snapshot.
    numbers: Vec<usize>,
    rows: &'a FlatRows,
    codes: GraphCodes,
    links: Hashed<'a>,
    vectors: Hashed<'a>,
}

impl Writer<'_> {
    fn number(&self, slot: usize) -> usize {
        self.numbers.get(slot).copied().unwrap_or(NOBODY)
    }

    fn all(&mut self, graph: &Graph) -> io::Result<()> {
        let links = graph.links();
        let indexed = links.get_point_indexation();
        self.links.put(&LINKS.to_ne_bytes());
        self.links.put(&[FULL, links.get_max_nb_connection()]);
        // By what the chance of upper layers differs from the usual.
        self.links.put(&1f64.to_ne_bytes());
        self.links.put(&[MAX_LAYERS as u8]);
        self.links.count(links.get_ef_construction());
        self.links.count(links.get_nb_point());
        self.links.count(indexed.get_data_dimension());
        for name in [links.get_distance_name().as_str(), std::any::type_name::<i8>()] {
            self.links.count(name.len());
            self.links.put(name.as_bytes());
        }
        self.links.put(&[MAX_LAYERS as u8]);
        self.vectors.put(&VECTOR.to_ne_bytes());
        self.vectors.count(indexed.get_data_dimension());
        for layer in 0..MAX_LAYERS {
            self.links.put(&LAYER.to_ne_bytes());
            self.links.count(indexed.get_layer_nb_point(layer));
            for point in indexed.get_layer_iterator(layer) {
                let links = point.get_neighborhood_id();
                self.point(point.get_origin_id(), point.get_point_id(), point.get_v(), &links)?;
            }
        }
        // Where searches begin: at the first row of the highest layer. `hnsw_rs` does not tell where it begins, which is there too;
        // it is another row only where two came to a new layer at the same moment, and one is as good as the other.
        let top = PointId(indexed.get_max_level_observed(), 0);
        let first = indexed.get_layer_iterator(usize::from(top.0)).next();
        let number = self.number(first.map_or(NOBODY, |point| point.get_origin_id()));
        self.links.count(number);
        self.links.place(top);
        Ok(())
    }

    fn point(&mut self, slot: usize, at: PointId, vector: &[i8], links: &[Vec<Neighbour>]) -> io::Result<()> {
        let number = self.number(slot);
        self.links.put(&POINT.to_ne_bytes());
        self.links.count(number);
        self.links.place(at);
        for layer in 0..MAX_LAYERS {
            let of_layer = links.get(layer).map_or(&[][..], Vec::as_slice);
            self.links.count(of_layer.len());
            for link in of_layer {
                let other = self.number(link.d_id);
                self.links.count(other);
                self.links.place(link.p_id);
                // How far a row that is gone was from others tells where it was. Searches do not look at it.
                let distance = if number == NOBODY || other == NOBODY { 0.0 } else { link.distance };
                self.links.put(&distance.to_ne_bytes());
            }
        }
        let stand_in = (number == NOBODY).then(|| self.nearest_left(links, vector.len()));
        let vector = stand_in.as_deref().unwrap_or(vector);
        self.vectors.put(&VECTOR.to_ne_bytes());
        self.vectors.put(&(number as u64).to_ne_bytes());
        self.vectors.put(&(vector.len() as u64).to_ne_bytes());
        self.vectors.put(bytemuck::cast_slice(vector));
        self.links.spill(GATHERED)?;
        self.vectors.spill(GATHERED)
    }

    /// The codes of the first live row that a row links to; links are ordered by distance. Zeros without one.
    fn nearest_left(&self, links: &[Vec<Neighbour>], len: usize) -> Vec<i8> {
        let row = links.iter().flatten().find_map(|link| self.rows.row(link.d_id));
        row.map_or(vec![0; len], |row| self.codes.of(row.vector))
    }
}

/// A file that is written once, and the digest of what is written.
struct Hashed<'a> {
    file: &'a File,
    gathered: Vec<u8>,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<'a> Hashed<'a> {
    fn new(file: &'a File) -> Self {
        Self { file, gathered: Vec::with_capacity(2 * GATHERED), hasher: blake3::Hasher::new(), bytes: 0 }
    }

    fn put(&mut self, bytes: &[u8]) {
        self.gathered.extend_from_slice(bytes);
    }

    fn count(&mut self, count: usize) {
        self.put(&count.to_ne_bytes());
    }

    fn place(&mut self, PointId(layer, rank): PointId) {
        self.put(&[layer]);
        self.put(&rank.to_ne_bytes());
    }

    /// Writes what is gathered, where it is more than `most`.
    fn spill(&mut self, most: usize) -> io::Result<()> {
        if self.gathered.len() > most {
            self.hasher.update(&self.gathered);
            self.bytes += self.gathered.len() as u64;
            let mut file = self.file;
            file.write_all(&self.gathered)?;
            self.gathered.clear();
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<Written> {
        self.spill(0)?;
        Ok(Written { bytes: self.bytes, digest: *self.hasher.finalize().as_bytes() })
    }
}

/// Reads the graph of a snapshot of `slots` rows of `dim` values.
///
/// # Errors
/// [`SnapshotError`], where a file is not there or not what was written.
pub(super) fn read(snapshot: &Path, table: &GraphTable, dim: usize, slots: usize) -> Result<Graph, SnapshotError> {
    for (path, written) in table.paths(snapshot).iter().zip(&table.files) {
        let mapped = Mapped::open(path)?;
        mapped.will_be_read();
        if mapped.len() as u64 != written.bytes || blake3::hash(&mapped).as_bytes() != &written.digest {
            return Err(SnapshotError::Damaged("a file of its graph is not what was written"));
        }
    }
    if table.known.covers > slots {
        return Err(SnapshotError::Damaged("its graph is over more rows than it has"));
    }
    let folder = snapshot.parent().unwrap_or_else(|| Path::new("."));
    let reader: &'static HnswIo = Box::leak(Box::new(HnswIo::new(folder, &table.name(snapshot))));
    // It names the type of the distance in the file, so what another version has written is an error here.
    let links: Links = reader.load_hnsw_with_dist(CodeDistance::new(table.codes(), dim)).map_err(|error| {
        tracing::debug!(%error, "hnsw_rs refuses a graph");
        SnapshotError::OtherVersion
    })?;
    let is_whole = links.get_nb_point() == table.points()
        && links.get_point_indexation().get_data_dimension() == table.codes().width(dim);
    if !is_whole {
        return Err(SnapshotError::Damaged("its graph is of other rows"));
    }
    Ok(Graph::of_parts(links, dim, table.known))
}
