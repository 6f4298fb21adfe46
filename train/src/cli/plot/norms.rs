//! Norms and errors by the size of faces, from what `eval lfw --json` printed.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use vultus_engine::evaluate::chart::{Axis, Curve, Panel};

/// The part of the document that is drawn.
#[derive(Debug, Deserialize)]
struct Document {
    sides: Vec<Side>,
}

#[derive(Debug, Deserialize)]
struct Side {
    side_px: f64,
    identification: Option<Identification>,
    norms: Option<Norms>,
    norms_below_whole: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Identification {
    ranks: Vec<(usize, f64)>,
}

#[derive(Debug, Deserialize)]
struct Norms {
    mean: f64,
    std: f64,
    p05: f64,
    median: f64,
    p95: f64,
}

/// An evaluation of a model.
#[derive(Debug)]
pub(super) struct Evaluation {
    name: String,
    sides: Vec<Side>,
}

impl Evaluation {
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy();
        Self::parse(&name, &text).with_context(|| format!("{} is not what `eval lfw --json` prints", path.display()))
    }

    fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let mut sides = serde_json::from_str::<Document>(text)?.sides;
        sides.sort_by(|a, b| a.side_px.total_cmp(&b.side_px));
        anyhow::ensure!(sides.len() > 1, "it has one side only: --side names more");
        Ok(Self { name: name.to_owned(), sides })
    }

    fn points(&self, value: impl Fn(&Side) -> Option<f64>) -> Vec<(f64, f64)> {
        self.sides.iter().filter_map(|side| Some((side.side_px, value(side)?))).collect()
    }

    /// By how many standard deviations of whole photos' norms the mean at each side lies from theirs.
    fn fall(&self) -> Vec<(f64, f64)> {
        let Some(whole) = self.sides.last().and_then(|side| side.norms.as_ref()) else { return Vec::new() };
        self.points(|side| Some((side.norms.as_ref()?.mean - whole.mean) / whole.std))
    }
}

/// Panels over all evaluations, then one of the spread of each.
pub(super) fn panels(evaluations: &[Evaluation]) -> Vec<Panel<'_>> {
    let across =
        || Axis::values("side in pixels", evaluations.iter().flat_map(|one| one.sides.iter().map(|side| side.side_px)));
    let each = |points: &dyn Fn(&Evaluation) -> Vec<(f64, f64)>| -> Vec<Curve<'_>> {
        evaluations.iter().map(|one| Curve { name: &one.name, points: points(one) }).collect()
    };
    let fall = each(&Evaluation::fall);
    let separation = each(&|one| one.points(|side| side.norms_below_whole));
    let rank = each(&|one| one.points(|side| Some(side.identification.as_ref()?.ranks.first()?.1)));
    let mean = each(&|one| one.points(|side| Some(side.norms.as_ref()?.mean)));
    let panel = |title: &str, up: Axis, curves| Panel { title: title.to_owned(), across: across(), up, curves };
    let mut panels = vec![
        panel("Mean norm", Axis::values("norm", heights(&mean)), mean),
        panel("Mean norm from that of 112 px", Axis::values("deviations at 112 px", heights(&fall)), fall),
        panel("Norm lower than that of a photo of 112 px", Axis::shares("pairs", heights(&separation)), separation),
        panel("Found first among all", Axis::shares("rank 1", heights(&rank)), rank),
    ];
    for one in evaluations {
        let of = |name, value: fn(&Norms) -> f64| Curve {
            name,
            points: one.points(|side| Some(value(side.norms.as_ref()?))),
        };
        let curves = vec![
            of("95 % up to", |norms| norms.p95),
            of("half up to", |norms| norms.median),
            of("5 % up to", |norms| norms.p05),
        ];
        panels.push(panel(&format!("Norms: {}", one.name), Axis::values("norm", heights(&curves)), curves));
    }
    panels
}

fn heights(curves: &[Curve<'_>]) -> Vec<f64> {
    curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_joined_from_small_to_whole() {
        let side = |px: u32, mean: f64, below: &str| {
            format!(
                "{{\"side_px\":{px},\"identification\":{{\"ranks\":[[1,0.5],[5,0.75]]}},\"norms\":{{\"photos\":4,\
                 \"mean\":{mean},\"std\":8.0,\"p05\":1.0,\"median\":2.0,\"p95\":3.0}},\"norms_below_whole\":{below}}}"
            )
        };
        let text =
            format!("{{\"protocol\":\"lfw\",\"sides\":[{},{}]}}", side(112, 68.0, "null"), side(14, 48.0, "0.9"));
        let one = [Evaluation::parse("a", &text).unwrap()];
        assert_eq!(one[0].fall(), [(14.0, -2.5), (112.0, 0.0)]);
        let panels = panels(&one);
        assert_eq!(panels.len(), 5);
        assert_eq!(panels[2].curves[0].points, [(14.0, 0.9)]);
        assert_eq!(panels[3].curves[0].points, [(14.0, 0.5), (112.0, 0.5)]);
        assert_eq!(panels[4].curves.len(), 3);
        assert!(Evaluation::parse("a", "{\"sides\":[]}").unwrap_err().to_string().contains("one side"));
        assert!(Evaluation::parse("a", "[]").is_err());
    }
}
