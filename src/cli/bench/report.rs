//! The figures as JSON, as a table and as a page.

use std::fmt::Write;

use serde_json::{Map, Value, json};
use vultus_engine::evaluate::Interval;
use vultus_engine::evaluate::chart::escaped;

use super::chart;
use super::figures::{Figure, Figures, RATES, ScenarioFigures, Versus};

/// The whole as one JSON document.
pub(super) fn json(figures: &Figures) -> Value {
    let plan = &figures.plan;
    let clean = &figures.scenarios[0];
    let mut document = object(figure(&clean.single));
    document.insert("fusion".to_owned(), fusion(figures, clean));
    let degraded = figures.scenarios[1..].iter().map(|scenario| {
        let mut value = object(figure(&scenario.single));
        value.insert("about".to_owned(), json!(scenario.about));
        value.insert("fusion".to_owned(), fusion(figures, scenario));
        (scenario.name.clone(), Value::Object(value))
    });
    document.insert("degradations".to_owned(), degraded.collect::<Map<_, _>>().into());
    let rules: Map<String, Value> = figures.rules.iter().map(|(label, rule)| (label.clone(), json!(rule))).collect();
    let rest = json!({
        "model_id": figures.setting.model_id, "rules": rules, "reference_rule": plan.reference_rule,
        "seed": plan.seed, "splits": plan.splits, "draws": plan.draws, "references": plan.references,
        "wrong_frames": plan.wrong, "wrong_clean": plan.wrong_clean, "subjects": figures.setting.subjects, "photos": figures.setting.photos,
        "rejected": figures.setting.rejected, "enrolled": figures.enrolled, "fused_people": figures.fused_people,
        "frames": figures.frames, "notes": figures.notes,
    });
    document.extend(object(rest));
    Value::Object(document)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn fusion(figures: &Figures, scenario: &ScenarioFigures) -> Value {
    let by_frames = |own: &[Figure]| -> Map<String, Value> {
        figures.frames.iter().zip(own).map(|(k, own)| (k.to_string(), figure(own))).collect()
    };
    let rules = figures.rules.iter().zip(&scenario.fused);
    rules.map(|((label, _), own)| (label.clone(), by_frames(own).into())).collect::<Map<_, _>>().into()
}

fn figure(figure: &Figure) -> Value {
    let tpir: Map<String, Value> =
        RATES.iter().zip(figure.tpir).map(|(rate, tpir)| (rate.to_string(), json!(tpir.map(round)))).collect();
    let det: Vec<Value> = figure
        .det
        .iter()
        .map(|point| json!({ "threshold": not_below(point.threshold), "fpir": round(point.fpir), "fnir": round(point.fnir) }))
        .collect();
    let mut value = json!({
        "rank1": figure.rank1.map(|rank1| round(rank1.value)), "rank5": figure.rank5.map(round),
        "tpir_at_fpir": tpir, "fnir": figure.tpir[0].map(|tpir| round(1.0 - tpir)),
        "interval": { "rank1": figure.rank1.map(ends), "tpir": figure.tpir_interval.map(ends) },
        "searches": { "mated": figure.mated, "non_mated": figure.non_mated },
        "cmc": figure.cmc.iter().copied().map(round).collect::<Vec<_>>(), "det": det,
    });
    if !figure.versus.is_empty() {
        let versus: Map<String, Value> =
            figure.versus.iter().map(|(label, versus)| (label.clone(), difference(versus))).collect();
        value["versus"] = versus.into();
    }
    value
}

fn difference(versus: &Versus) -> Value {
    let one = |interval: Interval| json!({ "difference": round(interval.value), "low": round(interval.low), "high": round(interval.high) });
    json!({ "rank1": versus.rank1.map(one), "tpir": versus.tpir.map(one) })
}

fn ends(interval: Interval) -> [f64; 2] {
    [round(interval.low), round(interval.high)]
}

/// To five digits: more than any number of searches carries.
fn round(value: f64) -> f64 {
    (value * 1e5).round() / 1e5
}

/// The least number of single precision that is not below a threshold: it lets through what the threshold does.
fn not_below(threshold: f64) -> f32 {
    let near = threshold as f32;
    if f64::from(near) < threshold { near.next_up() } else { near }
}

/// A readable table.
pub(super) fn table(figures: &Figures) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    for line in heading(figures) {
        let _ = writeln!(out, "{line}");
    }
    for rows in tables(figures) {
        let _ = writeln!(out, "\n{}", rows.title);
        let columns = rows.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cells = |column: usize| rows.rows.iter().filter_map(move |row| row.get(column));
        let widths: Vec<usize> =
            (0..columns).map(|c| cells(c).map(|cell| cell.chars().count()).max().unwrap_or(0)).collect();
        for row in &rows.rows {
            // Numbers stand to the right; what has no heading is text.
            let is_text = |column: usize| column == 0 || rows.rows[0].get(column).is_none_or(String::is_empty);
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match is_text(column) {
                true => format!("{cell:<width$}"),
                false => format!("{cell:>width$}"),
            });
            let _ = writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
    }
    if !figures.notes.is_empty() {
        let _ = writeln!(out, "\nNotes");
        for note in &figures.notes {
            let _ = writeln!(out, "  {note}");
        }
    }
    out
}

/// What was measured, in two lines.
fn heading(figures: &Figures) -> [String; 2] {
    let (setting, plan) = (&figures.setting, &figures.plan);
    let rejected: usize = setting.rejected.values().sum();
    let wrong =
        if plan.wrong > 0 { format!(", {} frames of each of somebody else", plan.wrong) } else { String::new() };
    [
        format!(
            "{}: {} subjects, {} photos, {rejected} without a usable face",
            setting.model_id, setting.subjects, setting.photos
        ),
        format!(
            "{} splits of seed {}: {} subjects enrolled with {} photos each, {} probes of everybody{wrong}",
            plan.splits, plan.seed, figures.enrolled, plan.references, plan.draws
        ),
    ]
}

/// A table before it is laid out; the first row is its heading.
struct Rows {
    title: String,
    rows: Vec<Vec<String>>,
}

fn tables(figures: &Figures) -> Vec<Rows> {
    let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let mut singles = vec![row(&["single photos", "rank-1", "rank-5", "TPIR 1 %", "TPIR 0.1 %", "FNIR 1 %", ""])];
    for scenario in &figures.scenarios {
        let single = &scenario.single;
        singles.push(vec![
            scenario.name.clone(),
            percent(single.rank1.map(|rank1| rank1.value)),
            percent(single.rank5),
            percent(single.tpir[0]),
            percent(single.tpir[1]),
            percent(single.tpir[0].map(|tpir| 1.0 - tpir)),
            scenario.about.clone(),
        ]);
    }
    let title = format!("Single photos of {} people, percent", figures.people);
    let mut tables = vec![Rows { title, rows: singles }];
    let last = figures.frames.len().saturating_sub(1);
    if let Some(most) = figures.frames.last() {
        let mut heading = vec![format!("{most} frames")];
        heading.extend(figures.rules.iter().map(|(label, _)| label.clone()));
        let mut rows = vec![heading];
        for scenario in &figures.scenarios {
            let mut row = vec![scenario.name.clone()];
            row.extend(scenario.fused.iter().map(|own| own.get(last).map_or_else(String::new, pair)));
            rows.push(row);
        }
        let title =
            format!("{most} frames of {} people fused, TPIR at FPIR 1 % / rank-1, percent", figures.fused_people);
        tables.push(Rows { title, rows });
        tables.extend(figures.scenarios.iter().map(|scenario| by_frames(figures, scenario)));
    }
    tables
}

/// A scenario by rule and number of frames.
fn by_frames(figures: &Figures, scenario: &ScenarioFigures) -> Rows {
    let mut heading = vec!["frames".to_owned()];
    heading.extend(figures.frames.iter().map(ToString::to_string));
    let first = figures.rules.first().map_or("", |(label, _)| label.as_str());
    heading.push(format!("rank-1 and TPIR of {first} minus this, with 95 % interval"));
    let mut rows = vec![heading];
    for ((label, _), own) in figures.rules.iter().zip(&scenario.fused) {
        let mut row = vec![label.clone()];
        row.extend(own.iter().map(pair));
        let leader = scenario.fused.first().and_then(|own| own.last());
        let versus = leader.and_then(|leader| leader.versus.iter().find(|(other, _)| other == label));
        row.push(versus.map_or_else(String::new, |(_, versus)| {
            format!("{}   {}", signed(versus.rank1.as_ref()), signed(versus.tpir.as_ref()))
        }));
        rows.push(row);
    }
    Rows { title: format!("{} ({}), TPIR at FPIR 1 % / rank-1, percent", scenario.name, scenario.about), rows }
}

fn pair(figure: &Figure) -> String {
    format!("{} / {}", percent(figure.tpir[0]), percent(figure.rank1.map(|rank1| rank1.value)))
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1}", 100.0 * share))
}

fn signed(interval: Option<&Interval>) -> String {
    let points = |value: f64| format!("{:+.1}", 100.0 * value);
    interval.map_or_else(
        || "–".to_owned(),
        |interval| format!("{} [{}, {}]", points(interval.value), points(interval.low), points(interval.high)),
    )
}

/// A page that needs nothing but itself: no script, no address.
pub(super) fn page(figures: &Figures) -> String {
    let mut out = String::from(concat!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>Vultus: identification</title>\n<style>",
        "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1b1b;",
        "background:#fff}table{border-collapse:collapse;margin:0 0 1.5rem}th,td{padding:.15rem .8rem;text-align:right;",
        "border-bottom:1px solid #ddd;white-space:nowrap}th:first-child,td:first-child{text-align:left}",
        "svg{max-width:100%;height:auto}</style>\n<h1>Identification</h1>\n"
    ));
    for line in heading(figures) {
        let _ = writeln!(out, "<p>{}</p>", escaped(&line));
    }
    for note in &figures.notes {
        let _ = writeln!(out, "<p>Note: {}</p>", escaped(note));
    }
    let _ = writeln!(out, "<h2>Curves</h2>\n{}", chart::inline(figures));
    for rows in tables(figures) {
        let _ = writeln!(out, "<h2>{}</h2>\n<table>", escaped(&rows.title));
        for (index, row) in rows.rows.iter().enumerate() {
            let tag = if index == 0 { "th" } else { "td" };
            let cells: String = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
            let _ = writeln!(out, "<tr>{cells}</tr>");
        }
        out.push_str("</table>\n");
    }
    out.push_str("</html>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::made_up;
    use super::*;

    #[test]
    fn json_has_the_shape_scripts_read() {
        let value = json(&made_up(400));
        assert_eq!(value["rank1"], 0.75);
        assert_eq!(value["tpir_at_fpir"], json!({ "0.01": 0.75, "0.001": null }));
        assert_eq!(value["fnir"], 0.25);
        assert_eq!(value["fusion"]["mean"]["2"]["rank1"], 0.5);
        assert_eq!(value["fusion"]["mean"]["2"]["versus"]["norm+robust"]["rank1"]["difference"], -0.25);
        assert_eq!(value["degradations"]["small"]["rank1"], 0.5);
        assert_eq!(value["degradations"]["small"]["fusion"]["norm+robust"]["2"]["rank5"], 1.0);
        assert_eq!(value["rules"]["norm+robust"]["robust"], true);
        assert_eq!(value["rejected"]["no_face"], 1);
        assert_eq!(value["cmc"].as_array().unwrap().len(), 10);
    }

    #[test]
    fn table_and_page_hold_the_figures() {
        let figures = made_up(400);
        let text = table(&figures);
        assert!(text.contains("2 frames of 4 people fused"), "{text}");
        assert!(text.contains("75.0 / 75.0") && text.contains("8 frames: fewer"), "{text}");
        assert!(text.contains("+25.0 [+0.0, +50.0]"), "{text}");
        let html = page(&figures);
        assert!(html.contains("&lt;14 px&gt;") && !html.contains("<14 px>"));
        assert!(
            html.contains("<svg") && !html.contains("<script") && !html.contains("src=") && !html.contains("href=")
        );
    }
}
