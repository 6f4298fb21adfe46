//! `eval ijbs`: IJB-S.

use std::path::PathBuf;

use crate::eval::faces::{features_of, normed, read_photo};
use crate::eval::ijbs::{FPIRS, RANKS, TwoGalleries, frame_templates, two_galleries};
use crate::eval::ijbs_protocol::{FrameList, IjbsProtocols, PROTOCOLS};
use crate::eval::search::{Labelled, cmc};
use crate::eval::{EvalError, Rows};
use anyhow::Context;
use clap::Args;
use serde_json::json;
use vultus_engine::align::AlignedCrop;
use vultus_engine::evaluate::chart::Curve;

use super::network::Network;
use super::output::{Output, cmc_panel, percent, progress, table};
use super::read_features;

/// Five protocols, each in closed and open set. Features are raw and without flip fusion, as published.
#[derive(Debug, Args)]
pub(super) struct Ijbs {
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    output: Output,
    /// Paths of the detected frames, one a line: …/SUBJECT/videos_N_FRAME.jpg or …/SUBJECT/img_N.jpg
    #[arg(long, value_name = "FILE")]
    images: PathBuf,
    /// Features of those frames in their order
    #[arg(long, value_name = "FILE")]
    features: Option<PathBuf>,
    /// Folder that the paths of aligned frames begin in, where there are no features
    #[arg(long, value_name = "FOLDER", required_unless_present = "features", conflicts_with = "features")]
    root: Option<PathBuf>,
    /// Folder of the protocol files
    protocols: PathBuf,
}

impl Ijbs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let missing = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => anyhow::Error::from(EvalError::Missing {
                path: self.images.clone(),
                what: "the list of detected frames",
            }),
            _ => anyhow::Error::from(error).context(self.images.display().to_string()),
        };
        let list = std::fs::read_to_string(&self.images).map_err(missing)?;
        let paths: Vec<PathBuf> =
            list.lines().map(str::trim).filter(|line| !line.is_empty()).map(PathBuf::from).collect();
        let protocols = IjbsProtocols::read(&self.protocols, &paths)?;
        let (method, features) = self.features(&paths)?;
        anyhow::ensure!(
            features.len() == paths.len(),
            "there are {} features for {} frames",
            features.len(),
            paths.len()
        );
        let without = protocols.videos_without_frames();
        if without > 0 {
            eprintln!("of {without} persons in a video no frame was detected; their templates are zeros");
        }
        let mut outcomes = Vec::new();
        for protocol in PROTOCOLS {
            let sides = protocols.sides(protocol)?;
            let [first, second] = &sides.galleries;
            let outcome = two_galleries(
                &templates(&features, &sides.probes)?,
                &templates(&features, first)?,
                &templates(&features, second)?,
            );
            outcomes.push((protocol, outcome.with_context(|| protocol.title())?));
        }
        let mut rows = vec![vec![method.clone()]];
        rows[0].extend(RANKS.iter().map(|rank| format!("rank {rank}")));
        rows[0].extend(FPIRS.iter().map(|fpir| format!("{} %", 100.0 * fpir)));
        rows.extend(outcomes.iter().map(|(protocol, outcome)| row(protocol.title(), outcome)));
        let document = json!({
            "protocol": "ijbs",
            "method": method,
            "frames": paths.len(),
            "videos_without_frames": without,
            "protocols": outcomes.iter().map(|(protocol, outcome)| json!({"protocol": protocol, "outcome": outcome})).collect::<Vec<_>>(),
        });
        let curve = |(protocol, outcome): &(crate::eval::ijbs_protocol::Protocol, TwoGalleries)| Curve {
            name: protocol.title(),
            points: cmc(&outcome.searches, 20),
        };
        let panel = cmc_panel("IJB-S, closed set: CMC".to_owned(), outcomes.iter().map(curve).collect());
        self.output.write(&table(&rows), &document, &[panel])
    }

    /// Name of the method, and raw features of the frames.
    fn features(&self, paths: &[PathBuf]) -> anyhow::Result<(String, Rows<f32>)> {
        let Some(root) = &self.root else {
            let path = self.features.as_ref().context("--features or --root is needed")?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            return Ok((name, read_features(path)?.raw()?));
        };
        let device = self.network.device()?;
        let model = self.network.load(false, &device)?;
        let bar = progress(paths.len(), "frames");
        let crop = |path: &PathBuf| Ok(Some(AlignedCrop::new(read_photo(&root.join(path))?)?));
        let features = features_of(&model, paths, crop, |done| bar.inc(done as u64))?;
        bar.finish_and_clear();
        Ok((model.id().to_string(), normed(&features, model.dim())?.raw()?))
    }
}

fn templates(features: &Rows<f32>, lists: &[FrameList]) -> Result<Labelled, EvalError> {
    let frames: Vec<Vec<usize>> = lists.iter().map(|list| list.frames.clone()).collect();
    Labelled::new(frame_templates(features, &frames)?, lists.iter().map(|list| list.subject).collect())
}

fn row(title: &str, outcome: &TwoGalleries) -> Vec<String> {
    let mut row = vec![title.to_owned()];
    row.extend(outcome.closed.iter().map(|(_, share)| percent(*share)));
    row.extend(outcome.open.iter().map(|(_, share)| percent(*share)));
    row
}
