//! The networks without a server, for `detect`, `embed` and `verify`.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use vultus_engine::align::AlignedCrop;
use vultus_engine::detect::DetectorKind;
use vultus_engine::face::{DetectedFace, Feature};
use vultus_engine::image::decode;
use vultus_engine::infer::{Embedder, Pipeline};

use super::{SomeFailed, parallel};
use crate::config::Settings;
use crate::problem::Problem;

/// Prints a JSON line for each image, in their order. What fails is told on stderr, and the rest goes on.
pub(super) fn each_image<'a, L: Serialize + Send>(
    images: &'a [PathBuf],
    work: impl Fn(&'a Path) -> anyhow::Result<L> + Sync,
) -> anyhow::Result<()> {
    let threads = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    let paths: Vec<&'a Path> = images.iter().map(PathBuf::as_path).collect();
    let mut out = std::io::stdout().lock();
    // Lines on a terminal show the progress by themselves.
    let bar = if std::io::stdout().is_terminal() { ProgressBar::hidden() } else { progress(paths.len(), "images") };
    let mut failed = 0;
    parallel::ordered(
        &paths,
        threads,
        |path| work(path),
        |path, line| {
            bar.inc(1);
            match line {
                Ok(line) => {
                    serde_json::to_writer(&mut out, &line).map_err(std::io::Error::from)?;
                    out.write_all(b"\n")?;
                }
                Err(error) => {
                    failed += 1;
                    bar.suspend(|| eprintln!("{}: {error:#}", path.display()));
                }
            }
            Ok(())
        },
    )?;
    bar.finish_and_clear();
    if failed == 0 { Ok(()) } else { Err(SomeFailed { failed, total: images.len() }.into()) }
}

/// A progress bar on stderr, hidden where that is no terminal.
pub(super) fn progress(length: usize, unit: &str) -> ProgressBar {
    let template = format!("{{bar:30}} {{pos}}/{{len}} {unit}  {{per_sec:.1}}  {{eta}} left");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length as u64).with_style(style)
}

/// A detector by name.
pub(super) fn detector(text: &str) -> Result<DetectorKind, String> {
    serde_json::from_value(serde_json::Value::from(text)).map_err(|_| "one of yunet, mtcnn, mtcnn_compat".to_owned())
}

/// Detector and backbone on this thread's terms.
pub(super) struct Local {
    pub(super) pipeline: Pipeline,
    settings: Settings,
}

impl Local {
    /// Starts the networks.
    pub(super) fn start(settings: Settings) -> anyhow::Result<Self> {
        super::serve::init_log(&settings.log);
        Ok(Self { pipeline: crate::server::start_pipeline(&settings)?, settings })
    }

    /// The backbone.
    pub(super) fn model(&self) -> &Embedder {
        self.pipeline.models().default_model()
    }

    /// Reads an image file.
    pub(super) fn read(&self, path: &Path) -> anyhow::Result<RgbImage> {
        let bytes = std::fs::read(path).context("cannot be read")?;
        decode(&bytes, &self.settings.decode_limits()).map_err(|error| Problem::from(error).into())
    }

    /// Finds the faces of a photo, best first.
    pub(super) fn detect(&self, photo: &Arc<RgbImage>) -> anyhow::Result<Vec<DetectedFace>> {
        let options = self.settings.detect_options();
        let permit = self.pipeline.admit(1)?;
        Ok(self.pipeline.detect(&permit, Arc::clone(photo), options).wait()?.output)
    }

    /// Aligns faces of a photo.
    pub(super) fn align(&self, photo: &RgbImage, faces: &[DetectedFace]) -> anyhow::Result<Vec<AlignedCrop>> {
        let detector = self.settings.detect.detector;
        Ok(faces.iter().map(|face| detector.align(photo, &face.landmarks)).collect::<Result<_, _>>()?)
    }

    /// Embeds aligned crops.
    pub(super) fn embed(&self, crops: Vec<AlignedCrop>) -> anyhow::Result<Vec<Feature>> {
        let permit = self.pipeline.admit(1)?;
        Ok(self.pipeline.embed(&permit, self.model(), crops).wait()?.output)
    }
}
