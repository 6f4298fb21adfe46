//! `eval identify`: the identification error trade-off of labelled features.

use std::path::{Path, PathBuf};

use crate::eval::EvalError;
use crate::eval::search::Labelled;
use crate::eval::trade_off::{TradeOff, trade_off};
use clap::Args;
use serde_json::json;
use vultus_engine::evaluate::chart::{Axis, Curve, Panel};

use super::output::{Output, cmc_panel, percent, table};
use super::read_features;

/// Lowest rate of the DET curve.
const LEAST: f64 = 1e-4;

/// FNIR over FPIR. Probes whose label is in the gallery are mated searches, all others non-mated ones.
#[derive(Debug, Args)]
pub(super) struct Identify {
    #[command(flatten)]
    output: Output,
    /// Labelled features of the probes
    #[arg(long, value_name = "FILE")]
    probes: PathBuf,
    /// Labelled features of the gallery
    #[arg(long, value_name = "FILE")]
    gallery: PathBuf,
}

impl Identify {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let outcome = trade_off(&labelled(&self.probes)?, &labelled(&self.gallery)?)?;
        let name = self.probes.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let document = json!({"protocol": "identify", "method": name, "outcome": outcome});
        let det = Panel {
            title: "Identification: DET".to_owned(),
            across: Axis::rates("FPIR", LEAST),
            up: Axis::rates("FNIR", LEAST),
            curves: vec![Curve { name: &name, points: outcome.curve() }],
        };
        let cmc = outcome.searches.cmc(20).into_iter().enumerate().map(|(at, share)| ((at + 1) as f64, share));
        let cmc = cmc_panel("Investigation: CMC".to_owned(), vec![Curve { name: &name, points: cmc.collect() }]);
        self.output.write(&text(&outcome), &document, &[det, cmc])
    }
}

fn text(outcome: &TradeOff) -> String {
    let mut text = format!(
        "{} mated and {} non-mated searches of {} templates\n",
        outcome.mated, outcome.non_mated, outcome.gallery
    );
    let mut rows = vec![vec!["investigation".to_owned()], vec!["FNIR(R, 0) %".to_owned()]];
    for (rank, fnir) in &outcome.investigation {
        rows[0].push(format!("R = {rank}"));
        rows[1].push(percent(Some(*fnir)));
    }
    text += &format!("\n{}", table(&rows));
    let header = ["identification", "FPIR %", "threshold", "FNIR(1, T) %", "FNIR(any, T) %"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(outcome.identification.iter().map(|point| {
        vec![
            format!("FPIR ≤ {} %", 100.0 * point.fpir),
            percent(Some(point.measured_fpir)),
            format!("{:.4}", point.threshold),
            percent(Some(point.fnir_first)),
            percent(Some(point.fnir_any)),
        ]
    }));
    if outcome.identification.is_empty() {
        rows.push(vec!["too few non-mated searches for any rate".to_owned()]);
    }
    text + &format!("\n{}", table(&rows))
}

/// Unit vectors of a file of features, with their labels.
pub(super) fn labelled(path: &Path) -> anyhow::Result<Labelled> {
    let features = read_features(path)?;
    let labels = features.labels.clone();
    let what = "it has no labels, which say whom each feature is of".to_owned();
    let labels = labels.ok_or_else(|| EvalError::File { path: path.to_path_buf(), what })?;
    Ok(Labelled::new(features.unit()?.to_f64(), labels)?)
}
