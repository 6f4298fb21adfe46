//! `eval ijb`: IJB-B and IJB-C.

use std::path::{Path, PathBuf};

use crate::eval::faces::{FaceError, features_of, mirrored, normed, read_photo};
use crate::eval::features::Features;
use crate::eval::fusion::FlipFusion;
use crate::eval::ijb::{Identification, identify, labelled_templates, verification_scores};
use crate::eval::ijb_meta::{IjbSet, TemplatePairs};
use crate::eval::media::fuse_media;
use crate::eval::roc::{IJB_RATES, Roc};
use crate::eval::search::cmc;
use crate::eval::{EvalError, Rows};
use anyhow::Context;
use clap::Args;
use serde_json::json;
use vultus_engine::align::align;
use vultus_engine::evaluate::chart::Curve;
use vultus_engine::face::Landmarks;

use super::network::Network;
use super::output::{Output, cmc_panel, percent, power, progress, roc_panel, table};
use super::read_features;

/// Verification (1:1) and identification (1:N) of templates. Whichever of the lists is missing is told on stderr and its part
/// left out.
#[derive(Debug, Args)]
pub(super) struct Ijb {
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    output: Output,
    /// Which set: ijbb or ijbc
    #[arg(long, default_value = "ijbc")]
    set: IjbSet,
    /// Features of all images in the order of the lists, instead of the images and the model
    #[arg(long, value_name = "FILE")]
    features: Option<PathBuf>,
    /// Keep the features of images and mirror images for other runs
    #[arg(long, value_name = "FILE", conflicts_with = "features")]
    save_features: Option<PathBuf>,
    /// How image and mirror image are fused: pre_norm_vector_add, norm_weighted_avg, average or concat
    #[arg(long, default_value_t)]
    fusion: FlipFusion,
    /// The set's folder, with `meta` and, where there are no features, `loose_crop` in it
    folder: PathBuf,
}

impl Ijb {
    pub(super) fn run(self) -> anyhow::Result<()> {
        // Lists first: they are read in seconds, features are made in hours.
        let (templates, media) = self.set.media(&self.folder)?;
        let pairs = there("1:1", self.set.pairs(&self.folder))?;
        let records = || Ok((self.set.galleries(&self.folder)?, self.set.probes(&self.folder)?));
        let records = there("1:N", records())?;
        anyhow::ensure!(pairs.is_some() || records.is_some(), "{} has nothing to evaluate", self.folder.display());
        let (method, images) = self.images()?;

        let mut text = format!("{}, {method}, {}\n", self.set.title(), self.fusion);
        let mut panels = Vec::new();
        let mut document = json!({
            "protocol": self.set.name(), "method": method, "fusion": self.fusion, "images": images.len(),
        });
        let roc = pairs.map(|TemplatePairs { pairs, mated }| {
            let made = fuse_media(&images, &templates, &media, None)?;
            Roc::new(&verification_scores(&made, &pairs)?, &mated)
        });
        let roc = roc.transpose()?;
        if let Some(roc) = &roc {
            let mut rows = vec![vec!["TAR@FAR".to_owned()], vec![self.set.title().to_owned()]];
            for far in IJB_RATES {
                rows[0].push(power(far));
                rows[1].push(percent(roc.tar_at(far).map(|point| point.tar)));
            }
            text += &format!("\n1:1 ({} mated, {} non-mated pairs)\n{}", roc.mated, roc.non_mated, table(&rows));
            document["verification"] = json!({
                "mated": roc.mated, "non_mated": roc.non_mated, "area_under_roc": roc.area(), "tar_at_far": roc.table(&IJB_RATES),
            });
            let title = format!("{} 1:1: ROC", self.set.title());
            panels.push(roc_panel(title, IJB_RATES[0], &[(method.as_str(), roc)]));
        }
        if let Some((gallery, probes)) = &records {
            let (gallery, no_gallery) = labelled_templates(&images, &templates, &media, gallery)?;
            let (probes, no_probe) = labelled_templates(&images, &templates, &media, probes)?;
            if no_gallery + no_probe > 0 {
                eprintln!(
                    "{no_gallery} templates of the galleries and {no_probe} probes have no features but zeros and score 0"
                );
            }
            let outcome = identify(&probes, &gallery)?;
            text +=
                &format!("\n1:N ({} probes, {} enrolled)\n{}", outcome.probes, outcome.gallery, one_to_many(&outcome));
            document["identification"] = json!(outcome);
            let curve = Curve { name: &method, points: cmc(&outcome.searches, 20) };
            panels.push(cmc_panel(format!("{} 1:N: CMC", self.set.title()), vec![curve]));
        }
        self.output.write(&text, &document, &panels)
    }

    /// Name of the method, and what templates are made of.
    fn images(&self) -> anyhow::Result<(String, Rows<f32>)> {
        if let Some(path) = &self.features {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            return Ok((name, read_features(path)?.fused(self.fusion)?));
        }
        let device = self.network.device()?;
        let model = self.network.load(false, &device)?;
        let images = self.set.images(&self.folder)?;
        let folder = self.folder.join("loose_crop");
        let missing = EvalError::Missing { path: folder.clone(), what: "the folder of loosely cut faces" };
        anyhow::ensure!(folder.is_dir(), missing);
        let bar = progress(2 * images.len(), "images");
        let plain = features_of(&model, &images, |image| crop(&folder, image), |done| bar.inc(done as u64))?;
        let flip = |image: &(String, Landmarks)| crop(&folder, image)?.map(|crop| mirrored(&crop)).transpose();
        let flipped = features_of(&model, &images, flip, |done| bar.inc(done as u64))?;
        bar.finish_and_clear();
        let without = plain.iter().filter(|feature| feature.is_none()).count();
        if without > 0 {
            eprintln!("{without} of {} images give no feature and count as zeros", images.len());
        }
        let (plain, flipped) = (normed(&plain, model.dim())?, normed(&flipped, model.dim())?);
        let features = Features { plain, flipped: Some(flipped), labels: None };
        if let Some(path) = &self.save_features {
            features.write(path)?;
        }
        Ok((model.id().to_string(), features.fused(self.fusion)?))
    }
}

/// The aligned crop of a listed image. `None` where its landmarks fit no face.
fn crop(
    folder: &Path,
    (name, landmarks): &(String, Landmarks),
) -> Result<Option<vultus_engine::align::AlignedCrop>, FaceError> {
    Ok(align(&read_photo(&folder.join(name))?, landmarks).ok())
}

/// A part of the protocol, or `None` with a line on stderr where its lists are missing.
fn there<T>(part: &str, read: Result<T, EvalError>) -> anyhow::Result<Option<T>> {
    match read {
        Ok(lists) => Ok(Some(lists)),
        Err(error @ EvalError::Missing { .. }) => {
            eprintln!("{part} is left out: {error}");
            Ok(None)
        }
        Err(error) => Err(error).context("the lists cannot be read"),
    }
}

fn one_to_many(outcome: &Identification) -> String {
    let mut rows = vec![vec![String::new()], vec!["rank / recall".to_owned()]];
    for (rank, share) in &outcome.ranks {
        rows[0].push(format!("top-{rank}"));
        rows[1].push(percent(Some(*share)));
    }
    for retrieval in &outcome.retrieval {
        rows[0].push(format!("\"FAR\" {}", retrieval.far));
        rows[1].push(percent(retrieval.recall));
    }
    table(&rows)
}
