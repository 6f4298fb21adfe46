//! What a gallery is filled with and searched for: drawn, or out of files.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use vultus_engine::drawn::Faces;
use vultus_engine::ids::{FaceId, SubjectId};
use vultus_engine::index::vector::check_unit;
use vultus_engine::index::{GalleryIndex, IndexError, RowKey, SearchMode};

/// Subjects whose scores are summed in double precision, and that a search asks for.
pub(super) const LIMIT: usize = 10;

/// What is searched for.
pub(super) struct Probe {
    pub(super) vector: Vec<f32>,
    /// Who should come first, where that is known.
    pub(super) person: Option<usize>,
    /// For those of the sample: the best people by scores summed in double precision, best first. For others, an exact
    /// search's, once approximate ones are measured.
    pub(super) best: Option<Vec<(f64, usize)>>,
}

impl Probe {
    pub(super) fn new(vector: Vec<f32>, person: Option<usize>, in_sample: bool) -> Self {
        Self { vector, person, best: in_sample.then(|| Vec::with_capacity(LIMIT + 1)) }
    }

    /// Takes a person's rows into account.
    pub(super) fn meet(&mut self, person: usize, rows: &[Vec<f32>]) {
        let Some(best) = &mut self.best else { return };
        let score = rows.iter().map(|row| product(&self.vector, row)).fold(f64::MIN, f64::max);
        if best.len() < LIMIT || score > best[LIMIT - 1].0 {
            best.insert(best.partition_point(|(other, _)| *other >= score), (score, person));
            best.truncate(LIMIT);
        }
    }
}

/// Has an exact search say who is best for the first probes that are not of the sample, so many in all. What is found of the best
/// few of 50 probes wanders by several points.
pub(super) fn complete(probes: &mut [Probe], count: usize, index: &GalleryIndex) -> Result<(), IndexError> {
    let mut open: Vec<&mut Probe> = probes.iter_mut().take(count).filter(|probe| probe.best.is_none()).collect();
    let queries: Vec<(&[f32], usize)> = open.iter().map(|probe| (&probe.vector[..], LIMIT)).collect();
    let answers = index.search_many(&queries, SearchMode::Exact)?;
    for (probe, answer) in open.iter_mut().zip(answers) {
        let people = answer.hits.iter().filter_map(|hit| Some((f64::from(hit.score), person_of(&hit.subject)?)));
        probe.best = Some(people.collect());
    }
    Ok(())
}

fn product(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// People and their rows, one person after the other.
pub(super) enum Source {
    /// Images of drawn people.
    Drawn { faces: Faces, people: std::vec::IntoIter<Vec<f32>>, images: usize, left: usize },
    /// Vectors of a file, each of a person of its own.
    File(VectorFile),
    /// Rows of a stored gallery in a file, and how many each subject has.
    Stored { file: BufReader<File>, dim: usize, subjects: std::vec::IntoIter<u32> },
}

impl Source {
    /// The rows of the next person; `None` after the last.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Vec<Vec<f32>>>> {
        Ok(match self {
            Self::Drawn { faces, people, images, left } => people.next().map(|person| {
                let count = (*images).min(*left);
                *left -= count;
                (0..count).map(|_| faces.image(&person)).collect()
            }),
            Self::File(file) => file.next()?.map(|vector| vec![vector]),
            Self::Stored { file, dim, subjects } => match subjects.next() {
                Some(rows) => Some((0..rows).map(|_| read_vector(file, *dim)).collect::<anyhow::Result<_>>()?),
                None => None,
            },
        })
    }
}

/// A file of unit vectors of raw little-endian f32.
pub(super) struct VectorFile {
    path: PathBuf,
    file: BufReader<File>,
    dim: usize,
    /// How many there are, and how many were read.
    pub(super) count: usize,
    read: usize,
}

impl VectorFile {
    pub(super) fn open(path: &Path, dim: usize) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let (bytes, row) = (file.metadata()?.len(), (dim * size_of::<f32>()) as u64);
        ensure!(
            bytes > 0 && bytes.is_multiple_of(row),
            "{} has {bytes} bytes, which are no vectors of {dim} values of four bytes",
            path.display()
        );
        let (file, count) = (BufReader::with_capacity(1 << 20, file), (bytes / row) as usize);
        Ok(Self { path: path.to_owned(), file, dim, count, read: 0 })
    }

    /// The next one; `None` after the last.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Vec<f32>>> {
        if self.read == self.count {
            return Ok(None);
        }
        self.read += 1;
        let named = || format!("{}, vector {} of {}", self.path.display(), self.read, self.count);
        let vector = read_vector(&mut self.file, self.dim).with_context(named)?;
        check_unit(&vector, self.dim).with_context(named)?;
        Ok(Some(vector))
    }
}

/// The next vector of a file.
fn read_vector(file: &mut impl Read, dim: usize) -> anyhow::Result<Vec<f32>> {
    let mut bytes = vec![0; dim * size_of::<f32>()];
    file.read_exact(&mut bytes)?;
    Ok(bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
}

/// Names a row: its number is its face.
pub(super) fn key(person: usize, row: usize) -> anyhow::Result<RowKey> {
    let subject = SubjectId::try_from(format!("s{person:08}"))?;
    Ok(RowKey { subject, face: Some(FaceId(uuid::Uuid::from_u128(row as u128))) })
}

/// The person of a subject.
pub(super) fn person_of(subject: &SubjectId) -> Option<usize> {
    subject.as_str().strip_prefix('s')?.parse().ok()
}

/// The number of a row.
pub(super) fn row_of(face: Option<FaceId>) -> Option<u128> {
    face.map(|face| face.0.as_u128())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_people_are_kept_in_order() {
        let mut probe = Probe::new(vec![1.0, 0.0], None, true);
        for person in 0..100usize {
            let score = ((person * 37) % 100) as f32 / 100.0;
            probe.meet(person, &[vec![score, 0.0], vec![score / 2.0, 0.0]]);
        }
        let best = probe.best.unwrap();
        assert_eq!(best.len(), LIMIT);
        assert!(best.iter().zip(0..).all(|((score, _), rank)| (score - f64::from(99 - rank) / 100.0).abs() < 1e-6));
        assert_eq!(best[0].1 * 37 % 100, 99);
    }

    #[test]
    fn files_hold_whole_vectors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.f32");
        std::fs::write(&path, [0.6f32, 0.8, 0.0, -1.0, 3.0, -4.0].map(f32::to_le_bytes).concat()).unwrap();
        let mut file = VectorFile::open(&path, 2).unwrap();
        assert_eq!(file.count, 3);
        assert_eq!(file.next().unwrap(), Some(vec![0.6, 0.8]));
        assert_eq!(file.next().unwrap(), Some(vec![0.0, -1.0]));
        let error = file.next().unwrap_err().to_string();
        assert!(error.ends_with("rows.f32, vector 3 of 3"), "{error}");
        assert_eq!(file.next().unwrap(), None);
        assert!(VectorFile::open(&path, 4).is_err());
        std::fs::write(&path, []).unwrap();
        assert!(VectorFile::open(&path, 2).is_err() && VectorFile::open(&folder.path().join("none"), 2).is_err());
    }

    #[test]
    fn names_lead_back() {
        let key = key(7, 31).unwrap();
        assert_eq!((person_of(&key.subject), row_of(key.face)), (Some(7), Some(31)));
    }
}
