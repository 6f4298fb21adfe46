//! `vultus embed`: embeddings and norms of the faces of images, one JSON line an image.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use vultus_engine::align::AlignedCrop;
use vultus_engine::detect::DetectorKind;
use vultus_engine::model::Precision;
use vultus_engine::quality::quality;

use super::local::{Local, detector, each_image};
use crate::api::embed::EmbeddedFace;
use crate::api::wire::Location;
use crate::config::Settings;

/// Embeds the faces of images. Prints
/// `{"path","model_id","faces":[{"box","landmarks","score","norm","quality","embedding":[…]}]}` for each.
#[derive(Debug, Args)]
pub(super) struct Embed {
    /// Name or id of an installed model, `mobilefacenet` for the embedded one, or a safetensors file with its
    /// manifest beside it
    #[arg(long, default_value = "mobilefacenet")]
    model: String,
    /// The images are 112×112 crops that were aligned already
    #[arg(long)]
    aligned: bool,
    /// Add the raw features of a face and its mirror image
    #[arg(long)]
    flip: bool,
    /// Who looks for faces: yunet, mtcnn or mtcnn_compat
    #[arg(long, default_value = "yunet", value_parser = detector)]
    detector: DetectorKind,
    /// Precision of the network: f32 or bf16
    #[arg(long, default_value_t)]
    dtype: Precision,
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Line<'a> {
    path: Cow<'a, str>,
    model_id: &'a str,
    faces: Vec<EmbeddedFace>,
}

impl Embed {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut settings = Settings::default();
        settings.model.name = self.model;
        settings.model.flip = self.flip;
        settings.model.dtype = self.dtype;
        settings.detect.detector = self.detector;
        let local = Local::start(settings)?;
        let model_id = local.model().served().id.to_string();
        each_image(&self.images, |path| {
            let faces = embed_one(&local, path, self.aligned)?;
            Ok(Line { path: path.to_string_lossy(), model_id: &model_id, faces })
        })
    }
}

fn embed_one(local: &Local, path: &Path, aligned: bool) -> anyhow::Result<Vec<EmbeddedFace>> {
    let photo = Arc::new(local.read(path)?);
    let (locations, crops): (Vec<_>, Vec<_>) = if aligned {
        (vec![Location::default()], vec![AlignedCrop::new(photo.as_ref().clone())?])
    } else {
        let faces = local.detect(&photo)?;
        let crops = local.align(&photo, &faces)?;
        (faces.iter().map(|face| Some(face).into()).collect(), crops)
    };
    let stats = local.model().served().norm_stats;
    let features = local.embed(crops)?;
    Ok(locations
        .into_iter()
        .zip(features)
        .map(|(location, feature)| EmbeddedFace {
            location,
            norm: feature.norm,
            quality: quality(feature.norm, stats),
            embedding: feature.embedding,
        })
        .collect())
}
