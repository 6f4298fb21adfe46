//! What is measured with: photos of a folder or drawn ones, as files in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use vultus_engine::align::AlignedCrop;
use vultus_engine::image::decode;
use vultus_engine::infer::Pipeline;

use super::drawn;
use crate::cli::folder;
use crate::config::Settings;
use crate::service::select::Select;

/// Drawn photos.
const DRAWN: u64 = 24;
/// Different crops of a batch.
const CROPS: usize = 32;

/// Photos as files.
pub(super) struct Photos {
    pub(super) files: Vec<Vec<u8>>,
    from: Option<PathBuf>,
}

impl Photos {
    /// Those of a folder, first by path, or drawn ones.
    pub(super) fn find(folder: Option<&Path>, most: usize) -> anyhow::Result<Self> {
        let Some(folder) = folder else {
            let files = (0..DRAWN.min(most as u64)).map(drawn::photo).collect::<Result<_, _>>()?;
            return Ok(Self { files, from: None });
        };
        let paths = folder::photos(folder, most)?;
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let files = paths.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { files, from: Some(folder.to_path_buf()) })
    }

    /// Crops of the main faces of the first photos that have one.
    pub(super) fn crops(&self, pipeline: &Pipeline, settings: &Settings) -> anyhow::Result<Vec<AlignedCrop>> {
        let crops = self.files.iter().filter_map(|file| crop(file, pipeline, settings).ok());
        let crops: Vec<AlignedCrop> = crops.take(CROPS).collect();
        let from = || self.from.as_deref().unwrap_or(Path::new("")).display();
        anyhow::ensure!(!crops.is_empty(), "{} holds no photo with a face in it", from());
        Ok(crops)
    }
}

fn crop(file: &[u8], pipeline: &Pipeline, settings: &Settings) -> anyhow::Result<AlignedCrop> {
    let photo = Arc::new(decode(file, &settings.decode_limits())?);
    let (permit, options) = (pipeline.admit(1)?, settings.detect_options());
    let faces = pipeline.detect(&permit, Arc::clone(&photo), options).wait()?.output;
    let face = Select::Main.pick(&faces, photo.width(), photo.height())?;
    Ok(options.detector.align(&photo, &face.landmarks)?)
}
