//! `vultus detect`: the faces of images, one JSON line an image.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::local::{Local, threads};
use super::{SomeFailed, parallel};
use crate::api::wire::FaceFound;
use crate::config::Settings;

/// Finds the faces of images. Prints `{"path","faces":[{"box","landmarks","score"}]}` for each.
#[derive(Debug, Args)]
pub(super) struct Detect {
    /// Lowest detector score of a face, 0.1 to 1
    #[arg(long, value_name = "SCORE", default_value_t = 0.6)]
    min_score: f32,
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Line<'a> {
    path: &'a std::path::Path,
    faces: Vec<FaceFound>,
}

impl Detect {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut settings = Settings::default();
        settings.model.min_detection_score = self.min_score;
        let local = Local::start(settings)?;
        let work = |path: &PathBuf| local.detect(&Arc::new(local.read(path)?));
        let mut failed = 0;
        let mut out = std::io::stdout().lock();
        parallel::ordered(&self.images, threads(), work, |path, faces| {
            match faces {
                Ok(faces) => {
                    let line = Line { path, faces: faces.iter().map(FaceFound::from).collect() };
                    serde_json::to_writer(&mut out, &line).map_err(std::io::Error::from)?;
                    out.write_all(b"\n")?;
                }
                Err(error) => {
                    failed += 1;
                    eprintln!("{}: {error:#}", path.display());
                }
            }
            Ok(())
        })?;
        if failed == 0 { Ok(()) } else { Err(SomeFailed { failed, total: self.images.len() }.into()) }
    }
}
