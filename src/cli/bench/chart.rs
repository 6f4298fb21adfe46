//! DET and CMC curves as SVG.
//!
//! Two panels for each family of curves. A DET panel has FPIR across and FNIR up, both logarithmic from 0.1 % to
//! 100 %; a rate below that is drawn at the edge. A CMC panel has the rank across and the share of searches with the mate
//! up to that rank.

use vultus_engine::evaluate::chart::{Axis, Curve, Panel, svg};

use super::figures::{Figure, Figures};

/// Lowest rate of a DET panel.
const LEAST: f64 = 1e-3;

/// All curves in one picture that stands for itself.
pub(super) fn picture(figures: &Figures) -> String {
    svg(&panels(figures), true)
}

/// All curves in one picture within a page.
pub(super) fn inline(figures: &Figures) -> String {
    svg(&panels(figures), false)
}

fn panels(figures: &Figures) -> Vec<Panel<'_>> {
    let mut panels = Vec::new();
    let singles: Vec<(&str, &Figure)> =
        figures.scenarios.iter().map(|scenario| (scenario.name.as_str(), &scenario.single)).collect();
    panels.push(det("Single photos: DET".to_owned(), &singles));
    panels.push(cmc("Single photos: CMC".to_owned(), &singles));
    for scenario in &figures.scenarios {
        let rules = figures.rules.iter().zip(&scenario.fused);
        let fused: Vec<(&str, &Figure)> =
            rules.filter_map(|((label, _), own)| Some((label.as_str(), own.last()?))).collect();
        if let Some(most) = figures.frames.last().filter(|_| !fused.is_empty()) {
            panels.push(det(format!("{}, {most} frames: DET", scenario.name), &fused));
            panels.push(cmc(format!("{}, {most} frames: CMC", scenario.name), &fused));
        }
    }
    panels
}

fn det<'a>(title: String, figures: &[(&'a str, &Figure)]) -> Panel<'a> {
    let curve = |(name, figure): &(&'a str, &Figure)| Curve {
        name,
        points: figure.det.iter().map(|point| (point.fpir, point.fnir)).collect(),
    };
    Panel {
        title,
        across: Axis::rates("FPIR", LEAST),
        up: Axis::rates("FNIR", LEAST),
        curves: figures.iter().map(curve).collect(),
    }
}

fn cmc<'a>(title: String, figures: &[(&'a str, &Figure)]) -> Panel<'a> {
    let ranks = figures.iter().map(|(_, figure)| figure.cmc.len()).max().unwrap_or(0);
    let curve = |(name, figure): &(&'a str, &Figure)| Curve {
        name,
        points: figure.cmc.iter().enumerate().map(|(index, share)| ((index + 1) as f64, *share)).collect(),
    };
    Panel {
        title,
        across: Axis::ranks("rank", ranks),
        up: Axis::shares("mate found", figures.iter().flat_map(|(_, figure)| figure.cmc.first().copied())),
        curves: figures.iter().map(curve).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::made_up;
    use super::*;

    #[test]
    fn every_figure_has_its_curves() {
        let figures = made_up(400);
        // Singles, and two scenarios of fused probes, each as DET and CMC.
        assert_eq!(panels(&figures).len(), 6);
        let svg = picture(&figures);
        assert_eq!(svg.matches("<g ").count(), 6);
        assert_eq!(svg.matches("<polyline").count(), 12);
        assert!(svg.contains("xmlns") && !inline(&figures).contains("xmlns"));
    }
}
