//! Tables, JSON and pictures.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use crate::eval::roc::Roc;
use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use vultus_engine::evaluate::chart::{Axis, Curve, Panel, svg};

/// Where results go.
#[derive(Debug, Args)]
pub(super) struct Output {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Write the curves as a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

impl Output {
    /// Prints the table or the document, and draws the panels.
    pub(super) fn write(&self, table: &str, document: &Value, panels: &[Panel<'_>]) -> anyhow::Result<()> {
        if let Some(path) = &self.svg {
            std::fs::write(path, svg(panels, true)).with_context(|| format!("{} cannot be written", path.display()))?;
        }
        let mut out = std::io::stdout().lock();
        let written = if self.json { writeln!(out, "{document}") } else { write!(out, "{table}") };
        match written {
            // Whoever read our output has what they wanted.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }
}

/// Rows of cells, the first column to the left and the others to the right.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A share as a percentage of two digits, and a dash where there is none.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.2}", 100.0 * share))
}

/// A rate as papers head their columns: `1e-4`, `1 %`.
pub(super) fn power(rate: f64) -> String {
    format!("{rate:e}")
}

/// A panel of ROC curves.
pub(super) fn roc_panel<'a>(title: String, least: f64, curves: &[(&'a str, &Roc)]) -> Panel<'a> {
    let lowest = curves.iter().filter_map(|(_, roc)| Some(roc.tar_at(least)?.tar));
    let up = Axis::shares("TAR", lowest.collect::<Vec<_>>());
    let curves = curves.iter().map(|(name, roc)| Curve { name, points: roc.curve() }).collect();
    Panel { title, across: Axis::rates("FAR", least), up, curves }
}

/// A panel of CMC curves, each as ranks and shares.
pub(super) fn cmc_panel(title: String, curves: Vec<Curve<'_>>) -> Panel<'_> {
    let ranks = curves.iter().map(|curve| curve.points.len()).max().unwrap_or(0);
    let firsts: Vec<f64> = curves.iter().filter_map(|curve| Some(curve.points.first()?.1)).collect();
    Panel { title, across: Axis::ranks("rank", ranks), up: Axis::shares("mate found", firsts), curves }
}

/// A progress bar on stderr, hidden where that is no terminal.
pub(super) fn progress(length: usize, unit: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = format!("{{bar:30}} {{pos}}/{{len}} {unit}  {{per_sec:.1}}  {{eta}} left");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length as u64).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["".to_owned(), "LFW".to_owned()], vec!["model".to_owned(), percent(Some(0.99817))]];
        assert_eq!(table(&rows), "         LFW\nmodel  99.82\n");
        assert_eq!((percent(None), power(1e-4)), ("–".to_owned(), "1e-4".to_owned()));
        assert_eq!(table(&[]), "");
    }
}
