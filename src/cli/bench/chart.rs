//! DET and CMC curves as SVG.
//!
//! One panel a curve family, two panels a row. A DET panel has FPIR across and FNIR up, both logarithmic from 0.1 % to
//! 100 %; a rate below that is drawn at the edge. A CMC panel has the rank across and the share of searches with the mate
//! up to that rank, from the lowest ten percent that holds all curves.

use std::fmt::Write;

use super::figures::{Figure, Figures};
use super::report::escaped;

/// Size of a panel and of the margins inside of it, in pixels.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 46.0;
/// Lowest rate of a DET panel.
const LEAST: f64 = 1e-3;
/// Colours that people with colour blindness can tell apart (Okabe and Ito 2008), and black.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000"];

/// A named curve of points across and up, both from 0 to 1 of the panel.
struct Curve<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

/// A tick: place from 0 to 1, and what is written there.
type Tick = (f64, String);

struct Panel<'a> {
    title: String,
    across: (&'static str, Vec<Tick>),
    up: (&'static str, Vec<Tick>),
    curves: Vec<Curve<'a>>,
}

/// All curves in one picture that stands for itself.
pub(super) fn picture(figures: &Figures) -> String {
    svg(figures, " xmlns=\"http://www.w3.org/2000/svg\"")
}

/// All curves in one picture within a page, which knows the name space.
pub(super) fn inline(figures: &Figures) -> String {
    svg(figures, "")
}

fn svg(figures: &Figures, namespace: &str) -> String {
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
    let rows = panels.len().div_ceil(2) as f64;
    let (width, height) = (2.0 * WIDTH, rows * HEIGHT);
    let mut out = format!(
        "<svg{namespace} viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui,sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (index, panel) in panels.iter().enumerate() {
        let (x, y) = ((index % 2) as f64 * WIDTH, (index / 2) as f64 * HEIGHT);
        // Writing to a string cannot fail.
        let _ = writeln!(out, "<g transform=\"translate({x},{y})\">");
        draw(&mut out, panel);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

fn det<'a>(title: String, figures: &[(&'a str, &Figure)]) -> Panel<'a> {
    let place = |rate: f64| 1.0 - rate.max(LEAST).log10() / LEAST.log10();
    let ticks = || [1e-3, 1e-2, 1e-1, 1.0].map(|rate| (place(rate), format!("{} %", 100.0 * rate))).to_vec();
    let curves = figures
        .iter()
        .map(|(name, figure)| Curve {
            name,
            points: figure.det.iter().map(|point| (place(point.fpir), place(point.fnir))).collect(),
        })
        .collect();
    Panel { title, across: ("FPIR", ticks()), up: ("FNIR", ticks()), curves }
}

fn cmc<'a>(title: String, figures: &[(&'a str, &Figure)]) -> Panel<'a> {
    let ranks = figures.iter().map(|(_, figure)| figure.cmc.len()).max().unwrap_or(0).max(2);
    let lowest = figures.iter().flat_map(|(_, figure)| figure.cmc.first().copied()).fold(0.9, f64::min);
    let base = (lowest * 10.0).floor() / 10.0;
    let across = |index: usize| index as f64 / (ranks - 1) as f64;
    let up = |share: f64| (share - base) / (1.0 - base);
    let curves = figures
        .iter()
        .map(|(name, figure)| Curve {
            name,
            points: figure.cmc.iter().enumerate().map(|(index, share)| (across(index), up(*share))).collect(),
        })
        .collect();
    let shares = (0..=4)
        .map(|i| f64::from(i) / 4.0)
        .map(|part| (part, format!("{:.1} %", 100.0 * (base + part * (1.0 - base)))));
    Panel {
        title,
        across: ("rank", (0..ranks).map(|index| (across(index), (index + 1).to_string())).collect()),
        up: ("mate found", shares.collect()),
        curves,
    }
}

fn draw(out: &mut String, panel: &Panel<'_>) {
    let x = |part: f64| LEFT + part * (WIDTH - LEFT - RIGHT);
    let y = |part: f64| HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM);
    let (left, right, bottom, top) = (x(0.0), x(1.0), y(0.0), y(1.0));
    let _ = writeln!(out, "<text x=\"{left}\" y=\"18\" font-weight=\"600\">{}</text>", escaped(&panel.title));
    for (part, text) in &panel.across.1 {
        let at = x(*part);
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {bottom:.1}V{top:.1}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{text}</text>",
            bottom + 16.0
        );
    }
    for (part, text) in &panel.up.1 {
        let at = y(*part);
        let _ = writeln!(
            out,
            "<path d=\"M{left:.1} {at:.1}H{right:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{text}</text>",
            left - 6.0,
            at + 4.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text x=\"{left:.1}\" y=\"{:.1}\" \
         text-anchor=\"end\">{}</text>",
        (left + right) / 2.0,
        bottom + 34.0,
        panel.across.0,
        top - 12.0,
        panel.up.0
    );
    for (index, curve) in panel.curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        // The second time round the colours are dashed.
        let dash = if index < COLOURS.len() { "" } else { " stroke-dasharray=\"5 3\"" };
        let points: Vec<String> =
            curve.points.iter().map(|(across, up)| format!("{:.1},{:.1}", x(*across), y(up.clamp(0.0, 1.0)))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
            points.join(" ")
        );
        let (at, line) = (right + 12.0, top + 8.0 + 16.0 * index as f64);
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {line:.1}h18\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/><text x=\"{:.1}\" \
             y=\"{:.1}\">{}</text>",
            at + 24.0,
            line + 4.0,
            escaped(curve.name)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::made_up;
    use super::*;

    #[test]
    fn curves_lie_inside_their_panels() {
        let figures = made_up(400);
        let svg = picture(&figures);
        // Singles, and two scenarios of fused probes, each as DET and CMC.
        assert_eq!(svg.matches("<g ").count(), 6);
        assert_eq!(svg.matches("<polyline").count(), 12);
        for points in svg.split("points=\"").skip(1).map(|rest| &rest[..rest.find('"').unwrap()]) {
            for point in points.split(' ').filter(|point| !point.is_empty()) {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT - 0.1..=WIDTH - RIGHT + 0.1).contains(&x), "{point}");
                assert!((TOP - 0.1..=HEIGHT - BOTTOM + 0.1).contains(&y), "{point}");
            }
        }
    }

    #[test]
    fn the_axes_of_a_det_panel_are_logarithmic() {
        let panel = det(String::new(), &[]);
        let places: Vec<f64> = panel.across.1.iter().map(|(place, _)| (place * 3.0).round()).collect();
        assert_eq!(places, [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(panel.across.1[1].1, "1 %");
    }
}
