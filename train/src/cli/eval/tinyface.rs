//! `eval tinyface`: TinyFace.

use std::path::{Path, PathBuf};

use crate::eval::EvalError;
use crate::eval::faces::{features_of, normed, read_photo};
use crate::eval::search::{Labelled, cmc};
use crate::eval::tinyface::{DISTRACTOR, identify, subject_of};
use anyhow::Context;
use clap::Args;
use serde_json::json;
use vultus_engine::align::AlignedCrop;
use vultus_engine::evaluate::chart::Curve;
use vultus_engine::model::Model;

use super::identify::labelled;
use super::network::Network;
use super::output::{Output, cmc_panel, percent, progress, table};

/// Identification among distractors, with flip fusion.
#[derive(Debug, Args)]
pub(super) struct Tinyface {
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    output: Output,
    /// Labelled features of the probes, instead of a folder
    #[arg(long, value_name = "FILE", requires = "gallery", conflicts_with = "folder")]
    probes: Option<PathBuf>,
    /// Labelled features of the gallery; distractors have the label -100
    #[arg(long, value_name = "FILE", requires = "probes")]
    gallery: Option<PathBuf>,
    /// Folder with aligned crops in `Probe`, `Gallery_Match` and `Gallery_Distractor`
    #[arg(required_unless_present = "probes")]
    folder: Option<PathBuf>,
}

impl Tinyface {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let (method, probes, gallery) = match (&self.folder, &self.probes, &self.gallery) {
            (Some(folder), ..) => {
                let sides = Sides::find(folder)?;
                let device = self.network.device()?;
                let model = self.network.load(true, &device)?;
                (model.id().to_string(), embed(&model, &sides.probes)?, embed(&model, &sides.gallery)?)
            }
            (None, Some(probes), Some(gallery)) => {
                let name = probes.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                (name, labelled(probes)?, labelled(gallery)?)
            }
            _ => anyhow::bail!("a folder, or features of probes and gallery, are needed"),
        };
        let outcome = identify(&probes, &gallery)?;
        let mut rows = vec![vec!["TinyFace".to_owned()], vec![method.clone()]];
        for (rank, share) in &outcome.ranks {
            rows[0].push(format!("rank {rank}"));
            rows[1].push(percent(*share));
        }
        let counts = format!("{} probes, {} enrolled\n", outcome.mated, outcome.gallery);
        let document = json!({"protocol": "tinyface", "method": method, "outcome": outcome});
        let curve = Curve { name: &method, points: cmc(&outcome.searches, 20) };
        let panel = cmc_panel("TinyFace: CMC".to_owned(), vec![curve]);
        self.output.write(&(table(&rows) + &counts), &document, &[panel])
    }
}

/// Files and subjects of both sides.
struct Sides {
    probes: Vec<(PathBuf, i64)>,
    gallery: Vec<(PathBuf, i64)>,
}

impl Sides {
    fn find(folder: &Path) -> anyhow::Result<Self> {
        let named = |part: &str| -> anyhow::Result<Vec<(PathBuf, i64)>> {
            Ok(files(&folder.join(part))?
                .into_iter()
                .map(|path| subject_of(&path).map(|subject| (path, subject)))
                .collect::<Result<_, _>>()?)
        };
        let (probes, mut gallery) = (named("Probe")?, named("Gallery_Match")?);
        gallery.extend(files(&folder.join("Gallery_Distractor"))?.into_iter().map(|path| (path, DISTRACTOR)));
        Ok(Self { probes, gallery })
    }
}

/// The images of a folder by name.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let missing = EvalError::Missing { path: folder.to_path_buf(), what: "a folder of aligned crops" };
    anyhow::ensure!(folder.is_dir(), missing);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if ["jpg", "jpeg", "png"].iter().any(|known| extension == *known) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn embed(model: &Model, files: &[(PathBuf, i64)]) -> anyhow::Result<Labelled> {
    let bar = progress(files.len(), "images");
    let crop = |(path, _): &(PathBuf, i64)| Ok(Some(AlignedCrop::new(read_photo(path)?)?));
    let features = features_of(model, files, crop, |done| bar.inc(done as u64))?;
    bar.finish_and_clear();
    let rows = normed(&features, model.dim())?.embeddings.to_f64();
    Ok(Labelled::new(rows, files.iter().map(|(_, subject)| *subject).collect())?)
}
