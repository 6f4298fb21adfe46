//! `vultus search`: who is on these images?

use std::io::Write;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, ClientError};
use super::target::Target;
use super::{SomeFailed, parallel};
use crate::api::search::{AnswerView, ModeName};
use crate::service::select::Select;

/// Searches a gallery with each image, or with all images fused into one probe.
#[derive(Debug, Args)]
pub(super) struct Search {
    /// The gallery
    #[arg(long)]
    gallery: String,
    #[command(flatten)]
    target: Target,
    /// Most candidates of a probe
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// All images are of one person: fuse them into one probe
    #[arg(long, group = "fused")]
    fuse: bool,
    /// A video in place of images: each person in it is a probe, fused from the frames; needs ffmpeg at the server
    #[arg(long, value_name = "FILE", group = "fused", conflicts_with = "images")]
    video: Option<PathBuf>,
    /// Frames a second of the video that are looked at; the server's choice where left out
    #[arg(long, value_name = "F", requires = "video")]
    fps: Option<f64>,
    /// Fusion rule of the probe: norm, softmax_quality, mean or best; the model's where left out
    #[arg(long, value_name = "RULE", requires = "fused")]
    fusion: Option<vultus_engine::template::FusionRule>,
    /// Score from which a candidate is a match
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    threshold: Option<f32>,
    /// Rate of false positives to keep, in place of a score; the gallery has to be calibrated
    #[arg(long, value_name = "RATE", conflicts_with = "threshold")]
    fpir: Option<f64>,
    /// Which face of a photo with several: only, main, largest, central or best
    #[arg(long, default_value = "main", value_parser = super::enrol::select)]
    select: Select,
    /// How the gallery is searched: auto, exact, cascade or ann; nobody is missed with exact
    #[arg(long, value_name = "MODE", value_parser = mode, conflicts_with = "video")]
    mode: Option<ModeName>,
    /// Requests at a time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Print one JSON line a probe
    #[arg(long)]
    json: bool,
    /// The images
    #[arg(required_unless_present = "video", value_name = "IMAGE")]
    images: Vec<PathBuf>,
}

fn mode(text: &str) -> Result<ModeName, String> {
    serde_json::from_value(Value::from(text)).map_err(|_| "one of auto, exact, cascade, ann".to_owned())
}

impl Search {
    fn threshold_request(&self) -> Value {
        match (self.threshold, self.fpir) {
            (Some(score), _) => json!({ "score": score }),
            (None, Some(fpir)) => json!({ "fpir": fpir }),
            (None, None) => Value::Null,
        }
    }

    pub(super) fn run(self) -> anyhow::Result<()> {
        let probes: Vec<Vec<PathBuf>> = if self.fuse {
            vec![self.images.clone()]
        } else {
            self.images.iter().map(|image| vec![image.clone()]).collect()
        };
        let options = json!({
            "limit": self.limit, "select": self.select,
            "threshold": self.threshold_request(), "mode": self.mode,
            "fusion": self.fusion.map(|rule| json!({ "rule": rule.name() })),
        });
        self.target.require_data_dir()?;
        let connected = self.target.connect()?;
        if let Some(video) = &self.video {
            let options = [
                ("galleries", Some(self.gallery)),
                ("limit", Some(self.limit.to_string())),
                ("threshold", self.threshold.map(|score| score.to_string())),
                ("fpir", self.fpir.map(|fpir| fpir.to_string())),
                ("fusion", self.fusion.map(|rule| rule.name().to_owned())),
                ("fps", self.fps.map(|fps| fps.to_string())),
            ];
            super::video::search(&connected.client, video, &options, self.json)?;
            return connected.close();
        }
        let path = format!("/v1/galleries/{}/search", self.gallery);
        let mut failed = 0;
        let mut out = std::io::stdout().lock();
        let work = |images: &Vec<PathBuf>| search(&connected.client, &path, &options, images);
        parallel::ordered(&probes, self.jobs.into(), work, |images, answer| {
            match answer {
                Ok(answer) => print(&mut out, images, &answer, self.fuse, self.json)?,
                Err(error) => {
                    // Without its server no other probe will do better.
                    if matches!(error.downcast_ref::<ClientError>(), Some(ClientError::Unreachable { .. })) {
                        return Err(error);
                    }
                    failed += 1;
                    let names: Vec<String> = images.iter().map(|image| image.display().to_string()).collect();
                    eprintln!("{}: {error:#}", names.join(", "));
                }
            }
            Ok(())
        })?;
        connected.close()?;
        if failed == 0 { Ok(()) } else { Err(SomeFailed { failed, total: probes.len() }.into()) }
    }
}

fn search(client: &Client, path: &str, options: &Value, images: &[PathBuf]) -> anyhow::Result<AnswerView> {
    let mut items = Vec::with_capacity(images.len());
    for image in images {
        let bytes = std::fs::read(image).map_err(|error| anyhow::anyhow!("{}: {error}", image.display()))?;
        items.push(json!({ "data": STANDARD.encode(bytes) }));
    }
    let mut body = json!({ "images": items });
    for (name, value) in options.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        body[name] = value.clone();
    }
    Ok(client.post(path, &body)?)
}

fn print(
    out: &mut impl Write,
    images: &[PathBuf],
    answer: &AnswerView,
    fused: bool,
    as_json: bool,
) -> anyhow::Result<()> {
    for problem in &answer.rejected {
        let image = problem.image.and_then(|index| images.get(index));
        eprintln!("{}: {problem}", image.map_or_else(|| "an image".to_owned(), |path| path.display().to_string()));
    }
    let names: Vec<String> = images.iter().map(|image| image.display().to_string()).collect();
    if as_json {
        let path = if fused { json!(names) } else { json!(names.first()) };
        let candidates: Vec<Value> = answer
            .candidates
            .iter()
            .map(|c| json!({ "subject": c.subject, "rank": c.rank, "score": c.score, "fpir": c.fpir }))
            .collect();
        let line = json!({
            "path": path, "decision": answer.decision, "threshold": answer.threshold, "candidates": candidates,
            "timings_ms": answer.timings_ms
        });
        writeln!(out, "{line}")?;
        return Ok(());
    }
    let decision = serde_json::to_value(answer.decision)?;
    writeln!(out, "{}  {}", names.join(" + "), decision.as_str().unwrap_or_default())?;
    for candidate in &answer.candidates {
        writeln!(out, "{:>5}  {:6.3}  {}", candidate.rank, candidate.score, candidate.subject)?;
    }
    Ok(())
}
