//! Curves as SVG: DET, ROC and CMC panels that need nothing else to be looked at.
//!
//! A [`Panel`] is a coordinate system with named curves. Curves hold values, not places: their axes say where a value
//! lies and which ticks are written. Values beyond an axis are drawn at its edge. [`svg`] lays panels out two a row.

use std::fmt::Write;

/// Size of a panel and of the margins inside of it, in pixels.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 46.0;
/// Most ranks that are all written below their axis.
const MOST_TICKS: usize = 20;
/// Colours that people with colour blindness can tell apart (Okabe and Ito 2008), and black.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000"];

/// One side of a panel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Axis {
    name: &'static str,
    scale: Scale,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Scale {
    /// From 10 to this power, below 0, up to 1.
    Logarithmic(i32),
    /// From this share to 1.
    Linear(f64),
    /// From 1 to this rank, at least 2.
    Ranks(usize),
    /// Any values, from one multiple of `step` to another above it.
    Values { from: f64, to: f64, step: f64 },
}

impl Axis {
    /// Rates on a logarithmic scale from `least`, taken as the power of ten nearest to it, to 1.
    pub fn rates(name: &'static str, least: f64) -> Self {
        let power = if least.is_finite() && least > 0.0 { least.log10().round() } else { -3.0 };
        Self { name, scale: Scale::Logarithmic(power.clamp(-12.0, -1.0) as i32) }
    }

    /// Shares on a linear scale up to 1, from the lowest ten percent that holds all of `values`; from 90 % at most.
    pub fn shares(name: &'static str, values: impl IntoIterator<Item = f64>) -> Self {
        let lowest = values.into_iter().fold(0.9, f64::min);
        Self { name, scale: Scale::Linear((lowest * 10.0).floor().max(0.0) / 10.0) }
    }

    /// Ranks from 1 to `most`.
    pub fn ranks(name: &'static str, most: usize) -> Self {
        Self { name, scale: Scale::Ranks(most.max(2)) }
    }

    /// A linear scale that holds all of `values` that are finite, between round numbers.
    pub fn values(name: &'static str, values: impl IntoIterator<Item = f64>) -> Self {
        let finite = values.into_iter().filter(|value| value.is_finite());
        let (least, most) =
            finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| (a.min(value), b.max(value)));
        let (least, most) = if least <= most { (least, most) } else { (0.0, 1.0) };
        // A constant is drawn in the middle.
        let wide = if most > least { most - least } else { least.abs().max(1.0) };
        let (least, most) = if most > least { (least, most) } else { (least - wide / 2.0, most + wide / 2.0) };
        let rough = wide / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(10.0 * power);
        // What lies on a multiple but for rounding is on it.
        let (from, to) = ((least / step + 1e-9).floor() * step, (most / step - 1e-9).ceil() * step);
        Self { name, scale: Scale::Values { from, to, step } }
    }

    /// Where a value lies, from 0 to 1.
    fn place(self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Logarithmic(power) => 1.0 - value.max(10f64.powi(power)).log10() / f64::from(power),
            Scale::Linear(base) => (value - base) / (1.0 - base),
            Scale::Ranks(most) => (value - 1.0) / (most - 1) as f64,
            Scale::Values { from, to, .. } => (value - from) / (to - from),
        };
        place.clamp(0.0, 1.0)
    }

    /// Places with what is written there.
    fn ticks(self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Logarithmic(power) => (power..=0)
                .map(|exponent| {
                    let digits = usize::try_from(-exponent - 2).unwrap_or(0);
                    let percent = format!("{:.digits$} %", 10f64.powi(exponent + 2));
                    (1.0 - f64::from(exponent) / f64::from(power), percent)
                })
                .collect(),
            Scale::Linear(base) => (0..=4)
                .map(|quarter| f64::from(quarter) / 4.0)
                .map(|part| (part, format!("{:.1} %", 100.0 * (base + part * (1.0 - base)))))
                .collect(),
            Scale::Ranks(most) => (1..=most)
                .step_by(most.div_ceil(MOST_TICKS))
                .map(|rank| (self.place(rank as f64), rank.to_string()))
                .collect(),
            Scale::Values { from, to, step } => {
                let digits = usize::try_from(-(step.log10().floor() as i32)).unwrap_or(0);
                let places = 0..=((to - from) / step).round() as u32;
                let at = places.map(|place| from + f64::from(place) * step);
                at.map(|value| (self.place(value), format!("{:.digits$}", if value == 0.0 { 0.0 } else { value })))
                    .collect()
            }
        }
    }
}

/// A named curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve<'a> {
    /// What the legend calls it.
    pub name: &'a str,
    /// Values across and up, in the order they are joined.
    pub points: Vec<(f64, f64)>,
}

/// Curves in one coordinate system.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel<'a> {
    /// What stands above it.
    pub title: String,
    /// The axis from left to right.
    pub across: Axis,
    /// The axis upwards.
    pub up: Axis,
    /// The curves, in the order of the legend.
    pub curves: Vec<Curve<'a>>,
}

/// Panels in one picture, two a row. Standing alone it names its name space, which a page that it becomes part of knows.
pub fn svg(panels: &[Panel<'_>], stands_alone: bool) -> String {
    let namespace = if stands_alone { " xmlns=\"http://www.w3.org/2000/svg\"" } else { "" };
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

/// Text for HTML and SVG, which cannot hold control characters in any form: a mark stands for each.
pub fn escaped(text: &str) -> String {
    let text = text.replace(|c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'), "\u{fffd}");
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn draw(out: &mut String, panel: &Panel<'_>) {
    let x = |part: f64| LEFT + part * (WIDTH - LEFT - RIGHT);
    let y = |part: f64| HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM);
    let (left, right, bottom, top) = (x(0.0), x(1.0), y(0.0), y(1.0));
    let _ = writeln!(out, "<text x=\"{left}\" y=\"18\" font-weight=\"600\">{}</text>", escaped(&panel.title));
    for (part, text) in panel.across.ticks() {
        let at = x(part);
        let _ = writeln!(
            out,
            "<path d=\"M{at:.1} {bottom:.1}V{top:.1}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
             text-anchor=\"middle\">{text}</text>",
            bottom + 16.0
        );
    }
    for (part, text) in panel.up.ticks() {
        let at = y(part);
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
        panel.across.name,
        top - 12.0,
        panel.up.name
    );
    for (index, curve) in panel.curves.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        // The second time round the colours are dashed.
        let dash = if index < COLOURS.len() { "" } else { " stroke-dasharray=\"5 3\"" };
        let place =
            |(across, up): &(f64, f64)| format!("{:.1},{:.1}", x(panel.across.place(*across)), y(panel.up.place(*up)));
        let mut points: Vec<String> =
            curve.points.iter().filter(|point| !point.0.is_nan() && !point.1.is_nan()).map(place).collect();
        // A curve of a million comparisons has thousands of points for each that can be seen.
        points.dedup();
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
    use super::*;

    #[test]
    fn text_is_what_xml_can_hold() {
        assert_eq!(escaped("a<b & \"c\" \u{1}\n\u{ffff}ü"), "a&lt;b &amp; &quot;c&quot; \u{fffd}\u{fffd}\u{fffd}ü");
    }

    #[test]
    fn rates_are_logarithmic() {
        let axis = Axis::rates("FPIR", 1e-3);
        let ticks = axis.ticks();
        let places: Vec<f64> = ticks.iter().map(|(place, _)| (place * 3.0).round()).collect();
        assert_eq!(places, [0.0, 1.0, 2.0, 3.0]);
        let texts: Vec<&str> = ticks.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["0.1 %", "1 %", "10 %", "100 %"]);
        assert_eq!(Axis::rates("FAR", 1e-6).ticks()[0].1, "0.0001 %");
        assert!((axis.place(1e-2) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!((axis.place(0.0), axis.place(1e-9), axis.place(1.0)), (0.0, 0.0, 1.0));
    }

    #[test]
    fn shares_begin_at_a_whole_ten_percent() {
        let axis = Axis::shares("mate found", [0.95, 0.73]);
        assert_eq!(axis.ticks()[0].1, "70.0 %");
        assert_eq!(Axis::shares("mate found", []).ticks()[0].1, "90.0 %");
        assert!((axis.place(0.85) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn many_ranks_are_not_all_written() {
        assert_eq!(Axis::ranks("rank", 10).ticks().len(), 10);
        assert_eq!(Axis::ranks("rank", 100).ticks().len(), 20);
        assert_eq!(Axis::ranks("rank", 0).ticks().len(), 2);
    }

    #[test]
    fn values_lie_between_round_numbers() {
        let texts = |values: &[f64]| {
            let ticks = Axis::values("norm", values.iter().copied()).ticks();
            ticks.into_iter().map(|(_, text)| text).collect::<Vec<_>>()
        };
        assert_eq!(texts(&[49.3, 71.0, f64::NAN]), ["45", "50", "55", "60", "65", "70", "75"]);
        assert_eq!(texts(&[0.0, 0.003]), ["0.000", "0.001", "0.002", "0.003"]);
        assert_eq!(texts(&[-1.0, 1.0]), ["-1.0", "-0.5", "0.0", "0.5", "1.0"]);
        assert_eq!(texts(&[]), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(Axis::values("norm", [7.0, 7.0]).place(7.0), 0.5);
        assert_eq!(Axis::values("norm", [0.0, 10.0]).place(4.0), 0.4);
    }

    #[test]
    fn points_lie_inside_and_once() {
        let points = vec![(0.0, 2.0), (1e-9, 1.5), (f64::NAN, 0.5), (0.5, 0.5), (3.0, -1.0)];
        let panel = Panel {
            title: "a < b".to_owned(),
            across: Axis::rates("FAR", 1e-4),
            up: Axis::shares("TAR", [0.0]),
            curves: vec![Curve { name: "\"x\"", points }],
        };
        let picture = svg(&[panel], true);
        assert!(picture.contains("a &lt; b") && picture.contains("&quot;x&quot;") && picture.contains("xmlns"));
        let points = picture.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let points: Vec<&str> = points.split(' ').collect();
        assert_eq!(points.len(), 3, "{points:?}");
        for point in points {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y), "{point}");
        }
    }
}
