//! `vultus detect`: the faces of images, one JSON line an image.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use vultus_engine::detect::DetectorKind;

use super::local::{Local, detector, each_image};
use crate::api::wire::FaceFound;
use crate::config::Settings;

/// Finds the faces of images. Prints `{"path","faces":[{"box","landmarks","score"}]}` for each.
#[derive(Debug, Args)]
pub(super) struct Detect {
    /// Lowest detector score of a face, 0.1 to 1
    #[arg(long, value_name = "SCORE", default_value_t = 0.6)]
    min_score: f32,
    /// Who looks for faces: yunet, mtcnn or mtcnn_compat
    #[arg(long, default_value = "yunet", value_parser = detector)]
    detector: DetectorKind,
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Line<'a> {
    path: Cow<'a, str>,
    faces: Vec<FaceFound>,
}

impl Detect {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut settings = Settings::default();
        settings.model.min_detection_score = self.min_score;
        settings.detect.detector = self.detector;
        let local = Local::start(settings)?;
        each_image(&self.images, |path| {
            let faces = local.detect(&Arc::new(local.read(path)?))?;
            Ok(Line { path: path.to_string_lossy(), faces: faces.iter().map(FaceFound::from).collect() })
        })
    }
}
