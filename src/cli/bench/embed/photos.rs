//! What is measured with: photos of a folder or drawn ones, as files in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use vultus_engine::align::AlignedCrop;
use vultus_engine::image::decode;
use vultus_engine::infer::Pipeline;

use super::drawn;
use crate::config::Settings;
use crate::service::select::Select;

/// Files taken for photos.
const EXTENSIONS: &[&str] = &["jpg", "jpeg", "png", "webp"];
/// How deep folders are searched.
const DEPTH: usize = 3;
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
        let mut paths = Vec::new();
        collect(folder, DEPTH, &mut paths)?;
        paths.sort();
        paths.truncate(most);
        anyhow::ensure!(!paths.is_empty(), "{} holds no photos", folder.display());
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

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let unreadable = || format!("cannot read {}", folder.display());
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        if path.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, found)?;
            }
        } else if extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str())) {
            found.push(path);
        }
    }
    Ok(())
}
