//! Photos that a model is tried on while it is imported.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;
use vultus_engine::align::{AlignedCrop, SIZE};

use super::warn;
use crate::cli::folder;
use crate::cli::local::{Local, progress};
use crate::config::Settings;

/// Most photos that are taken, first by path.
const MOST: usize = 512;

/// What the samples are.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Kind {
    /// 112×112 images are crops that were aligned already, others photos.
    Auto,
    /// Photos with faces in them.
    Photos,
    /// 112×112 crops.
    Crops,
}

/// The crops of a folder of photos or of crops, one of each: that of the best face. What cannot be used is told on stderr.
pub(super) fn read(folder: &Path, kind: Kind) -> anyhow::Result<Vec<AlignedCrop>> {
    let paths = folder::photos(folder, MOST)?;
    let mut settings = Settings::default();
    settings.log.filter = "warn".to_owned();
    let local = Local::start(settings)?;
    let bar = progress(paths.len(), "samples");
    let mut crops = Vec::new();
    for path in &paths {
        match crop(&local, path, kind) {
            Ok(crop) => crops.push(crop),
            Err(error) => bar.suspend(|| warn(&format!("{}: {error:#}", path.display()))),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(crops)
}

fn crop(local: &Local, path: &Path, kind: Kind) -> anyhow::Result<AlignedCrop> {
    let photo = Arc::new(local.read(path)?);
    let aligned = match kind {
        Kind::Auto => photo.dimensions() == (SIZE, SIZE),
        Kind::Photos => false,
        Kind::Crops => true,
    };
    if aligned {
        return Ok(AlignedCrop::new(Arc::unwrap_or_clone(photo))?);
    }
    let faces = local.detect(&photo)?;
    let best = faces.get(..1).filter(|best| !best.is_empty()).context("there is no face in it")?;
    local.align(&photo, best)?.pop().context("its face cannot be aligned")
}
