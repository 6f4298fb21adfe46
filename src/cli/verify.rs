//! `vultus verify`: two images compared.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use vultus_engine::detect::DetectorKind;
use vultus_engine::face::Feature;
use vultus_engine::model::Precision;
use vultus_engine::template::score;

use super::local::{Local, detector};
use crate::config::Settings;
use crate::service::select::Select;

/// Compares the main faces of two images. Prints `{"score","same_at":{"fmr"}}`: the cosine, and the lowest false match
/// rate at which the two would be called the same person.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// `mobilefacenet` or its model id for the embedded model, or a safetensors file with its manifest beside it
    #[arg(long, default_value = "mobilefacenet")]
    model: String,
    /// Add the raw features of a face and its mirror image
    #[arg(long)]
    flip: bool,
    /// Precision of the network: f32 or bf16
    #[arg(long, default_value_t)]
    dtype: Precision,
    /// Who looks for faces: yunet, mtcnn or mtcnn_compat
    #[arg(long, default_value = "yunet", value_parser = detector)]
    detector: DetectorKind,
    /// One image
    a: PathBuf,
    /// The other
    b: PathBuf,
}

impl Verify {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut settings = Settings::default();
        settings.model.name = self.model;
        settings.model.flip = self.flip;
        settings.model.dtype = self.dtype;
        settings.detect.detector = self.detector;
        let local = Local::start(settings)?;
        let (a, b) = (main_face(&local, &self.a)?, main_face(&local, &self.b)?);
        let score = score(&a.embedding, &b.embedding);
        let fmr = local.model().served().impostors.fmr_at(score);
        writeln!(std::io::stdout(), "{}", json!({ "score": score, "same_at": { "fmr": fmr } }))?;
        Ok(())
    }
}

fn main_face(local: &Local, path: &Path) -> anyhow::Result<Feature> {
    let name = || path.display().to_string();
    let photo = Arc::new(local.read(path).map_err(|error| error.context(name()))?);
    let faces = local.detect(&photo)?;
    let face =
        Select::Main.pick(&faces, photo.width(), photo.height()).map_err(|p| anyhow::Error::from(p).context(name()))?;
    let features = local.embed(local.align(&photo, &[face])?)?;
    features.into_iter().next().ok_or_else(|| anyhow::anyhow!("{}: the face gave no feature", name()))
}
