//! The rows of a stored gallery, read once and kept in a file without name while they are measured.

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, ensure};
use vultus_engine::gallery::{GalleryError, stored_rows};
use vultus_engine::ids::GalleryId;
use vultus_engine::index::disturbed;
use vultus_engine::model::ModelUnavailable;
use vultus_engine::store::{Store, StoreError};

use super::vectors::{Probe, Source};
use crate::config::Settings;
use crate::server::{open_store, require_data_dir, start_pipeline};

/// Rows of a gallery, subject after subject.
pub(super) struct Stored {
    dim: usize,
    /// Raw little-endian f32.
    file: File,
    /// Rows of each subject.
    subjects: Vec<u32>,
    rows: usize,
}

impl Stored {
    /// Reads the rows that a server would search: templates, or in a gallery of events faces. Nothing is written to the data
    /// directory, unless it is of an older version: then it is migrated, as by every command that opens it.
    pub(super) fn read(data_dir: &Path, gallery: &GalleryId) -> anyhow::Result<Self> {
        require_data_dir(data_dir)?;
        let store = open_store(data_dir)?;
        let there = store.gallery(gallery)?.with_context(|| format!("there is no gallery {gallery}"))?;
        let mut settings = Settings::default();
        settings.server.data_dir = data_dir.to_owned();
        let pipeline = start_pipeline(&settings)?;
        // Templates are fused as the gallery's model says.
        let embedder = pipeline.models().get(&there.model_id);
        let embedder = embedder.map_err(|reason: ModelUnavailable| GalleryError::ModelUnavailable {
            gallery: gallery.clone(),
            model: there.model_id.clone(),
            reason,
        })?;
        let file = tempfile::tempfile().context("no temporary file can be made")?;
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        let mut subjects = Vec::new();
        stored_rows(&store, &there, embedder.served(), &mut |rows| {
            if !rows.is_empty() {
                subjects.push(rows.len() as u32);
            }
            for value in rows.iter().flat_map(|(_, vector)| vector) {
                out.write_all(&value.to_le_bytes()).map_err(StoreError::Io)?;
            }
            Ok(())
        })?;
        out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        let rows: usize = subjects.iter().map(|rows| *rows as usize).sum();
        ensure!(rows >= 2, "gallery {gallery} has {rows} rows; at least 2 are measured");
        Ok(Self { dim: there.dim as usize, file, subjects, rows })
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// So many probes, evenly spread over the rows: each a row, disturbed by another from elsewhere. The first `sample` are
    /// compared with sums of every row.
    pub(super) fn probes(&self, count: usize, sample: usize) -> anyhow::Result<Vec<Probe>> {
        let mut probes = Vec::with_capacity(count);
        let (mut subject, mut rows_before) = (0, 0);
        for number in 0..count {
            let row = number * self.rows / count;
            while row >= rows_before + self.subjects[subject] as usize {
                rows_before += self.subjects[subject] as usize;
                subject += 1;
            }
            // In a gallery of two rows half a gallery on may be the row itself.
            let other = (row + (self.rows / 2).max(1) + number % (self.rows - 1)) % self.rows;
            let other = if other == row { (row + 1) % self.rows } else { other };
            if let Some(vector) = disturbed(&self.row(row)?, &self.row(other)?) {
                probes.push(Probe::new(vector, Some(subject), probes.len() < sample));
            }
        }
        ensure!(!probes.is_empty(), "all rows of the gallery are the same");
        Ok(probes)
    }

    fn row(&self, number: usize) -> anyhow::Result<Vec<f32>> {
        let width = self.dim * size_of::<f32>();
        let mut bytes = vec![0; width];
        self.file.read_exact_at(&mut bytes, (number * width) as u64)?;
        Ok(bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
    }

    /// The rows from the first on.
    pub(super) fn into_source(self) -> anyhow::Result<Source> {
        let Self { mut file, dim, subjects, .. } = self;
        file.rewind()?;
        Ok(Source::Stored { file: BufReader::with_capacity(1 << 20, file), dim, subjects: subjects.into_iter() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_like_their_rows_and_rows_come_back_by_subject() {
        let mut random = vultus_engine::random::Random::new(5);
        let dim = 64;
        let subjects = vec![1u32, 3, 2, 4];
        let vectors: Vec<Vec<f32>> = (0..10)
            .map(|_| {
                let vector: Vec<f32> = (0..dim).map(|_| random.normal() as f32).collect();
                let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
                vector.iter().map(|value| value / length).collect()
            })
            .collect();
        let mut file = tempfile::tempfile().unwrap();
        vectors.iter().flatten().for_each(|value| file.write_all(&value.to_le_bytes()).unwrap());
        let stored = Stored { dim, file, subjects, rows: 10 };
        let probes = stored.probes(20, 5).unwrap();
        let subject_of = [0, 1, 1, 1, 2, 2, 3, 3, 3, 3];
        for (number, probe) in probes.iter().enumerate() {
            let row = number * 10 / 20;
            assert_eq!(probe.person, Some(subject_of[row]));
            let cosine: f32 = probe.vector.iter().zip(&vectors[row]).map(|(a, b)| a * b).sum();
            assert!((0.35..0.85).contains(&cosine), "{cosine}");
        }
        assert_eq!(probes.iter().filter(|probe| probe.best.is_some()).count(), 5);
        let mut source = stored.into_source().unwrap();
        let mut read = Vec::new();
        while let Some(rows) = source.next().unwrap() {
            read.push(rows);
        }
        assert_eq!(read.iter().map(Vec::len).collect::<Vec<_>>(), [1, 3, 2, 4]);
        assert_eq!(read.concat(), vectors);
    }
}
