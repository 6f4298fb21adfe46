//! Curves of runs, from their `metrics.ndjson`.

use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use vultus_engine::evaluate::chart::{Axis, Curve, Panel};

use crate::trainer::{METRICS, StepRecord, ValidationRecord};

/// Points of a curve at most: each is the mean of neighbouring steps, which also makes a noisy curve readable.
const POINTS: usize = 150;

/// A line of the file.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Step(StepRecord),
    Validation(ValidationRecord),
}

/// What a run wrote.
#[derive(Debug)]
pub(super) struct Curves {
    name: String,
    steps: Vec<StepRecord>,
    validations: Vec<ValidationRecord>,
    /// Legends of the sides that validation looked at.
    sides: Vec<String>,
}

impl Curves {
    pub(super) fn read(run: &Path) -> anyhow::Result<Self> {
        let path = run.join(METRICS);
        let text = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        // The folder's own name, also where the path ends in a point.
        let name = std::path::absolute(run).unwrap_or_else(|_| run.to_owned());
        let name = name.file_name().unwrap_or(run.as_os_str()).to_string_lossy();
        Self::parse(&name, &text).with_context(|| path.display().to_string())
    }

    fn parse(name: &str, text: &str) -> anyhow::Result<Self> {
        let (mut steps, mut validations): (Vec<StepRecord>, Vec<ValidationRecord>) = (Vec::new(), Vec::new());
        let last = text.lines().count();
        for (number, line) in (1..).zip(text.lines()) {
            match serde_json::from_str(line) {
                Ok(Line::Step(record)) => steps.push(record),
                Ok(Line::Validation(record)) => validations.push(record),
                // A run that is going on, or was killed, may be in the middle of its last line.
                Err(_) if number == last && !text.ends_with('\n') => {}
                Err(_) => anyhow::bail!("line {number} is neither a step nor a validation"),
            }
        }
        anyhow::ensure!(!steps.is_empty(), "there is no step yet");
        let sides = validations.first().map_or(&[][..], |record| &record.validation_sides);
        let sides = sides.iter().map(|of_side| format!("{name}, {} px", of_side.side)).collect();
        Ok(Self { name: name.to_owned(), steps, validations, sides })
    }

    /// Means of a value over neighbouring steps.
    fn thinned(&self, value: impl Fn(&StepRecord) -> f64) -> Vec<(f64, f64)> {
        let mean = |records: &[StepRecord], of: &dyn Fn(&StepRecord) -> f64| {
            records.iter().map(of).sum::<f64>() / records.len() as f64
        };
        let groups = self.steps.chunks(self.steps.len().div_ceil(POINTS));
        groups.map(|records| (mean(records, &|record| record.step as f64), mean(records, &value))).collect()
    }
}

/// A value of a step.
type OfStep = fn(&StepRecord) -> f64;

/// The panels that there is something for.
pub(super) fn panels(runs: &[Curves]) -> Vec<Panel<'_>> {
    let last = runs.iter().filter_map(|run| run.steps.last()).map(|last| last.step as f64).fold(0.0, f64::max);
    let across = || Axis::values("step", [0.0, last]);
    let mut panels = Vec::new();
    let values: [(&str, &'static str, OfStep); 4] = [
        ("Loss", "loss", |record| record.loss),
        ("Learning rate", "rate", |record| record.lr),
        ("Mean norm of a step's embeddings", "norm", |record| record.norm_mean),
        ("Standard deviation of their norms", "norm", |record| record.norm_std),
    ];
    for (title, unit, value) in values {
        let curves: Vec<Curve<'_>> =
            runs.iter().map(|run| Curve { name: &run.name, points: run.thinned(value) }).collect();
        let up = Axis::values(unit, heights(&curves));
        panels.push(Panel { title: title.to_owned(), across: across(), up, curves });
    }
    let accuracy = runs.iter().filter(|run| !run.validations.is_empty()).map(|run| Curve {
        name: &run.name,
        points: run.validations.iter().map(|record| (record.step as f64, record.validation_accuracy)).collect(),
    });
    let curves: Vec<Curve<'_>> = accuracy.collect();
    if !curves.is_empty() {
        let up = Axis::shares("nearest to own identity", heights(&curves));
        panels.push(Panel { title: "Validation accuracy".to_owned(), across: across(), up, curves });
    }
    let curves: Vec<Curve<'_>> = runs
        .iter()
        .flat_map(|run| run.sides.iter().enumerate().map(move |(at, name)| (run, at, name)))
        .map(|(run, at, name)| {
            let norm =
                |record: &ValidationRecord| Some((record.step as f64, record.validation_sides.get(at)?.norm_mean));
            Curve { name, points: run.validations.iter().filter_map(norm).collect() }
        })
        .collect();
    if !curves.is_empty() {
        let up = Axis::values("norm", heights(&curves));
        panels.push(Panel { title: "Validation: mean norm by side".to_owned(), across: across(), up, curves });
    }
    panels
}

fn heights(curves: &[Curve<'_>]) -> Vec<f64> {
    curves.iter().flat_map(|curve| curve.points.iter().map(|point| point.1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> String {
        format!(
            "{{\"step\":{step},\"epoch\":0,\"loss\":{},\"lr\":0.1,\"norm_mean\":60.0,\"norm_std\":8.0,\
             \"gradient_norm\":1.0,\"images_per_s\":9.0,\"seconds\":1.0}}\n",
            1000 - step
        )
    }

    #[test]
    fn many_steps_become_few_points() {
        let text: String = (1..=600).map(step).collect();
        let run = Curves::parse("a", &text).unwrap();
        let loss = run.thinned(|record| record.loss);
        assert_eq!((loss.len(), loss[0]), (150, (2.5, 997.5)));
        // Without a validation there is nothing to draw of it.
        assert_eq!(panels(&[run]).len(), 4);
    }

    #[test]
    fn validations_are_drawn_by_side() {
        let sides = "[{\"side\":112,\"accuracy\":0.99,\"norm_mean\":70.0,\"norm_std\":8.0},\
                     {\"side\":14,\"accuracy\":0.5,\"norm_mean\":50.0,\"norm_std\":5.0}]";
        let validation = format!(
            "{{\"step\":2,\"epoch\":0,\"validation_accuracy\":0.745,\"validation_crops\":9,\"validation_norm\":70.0,\
             \"validation_sides\":{sides}}}\n"
        );
        // The last line is being written.
        let run = Curves::parse("a", &(step(1) + &step(2) + &validation + "{\"step\":3,")).unwrap();
        let runs = [run];
        let panels = panels(&runs);
        assert_eq!(panels.len(), 6);
        assert_eq!(panels[4].curves[0].points, [(2.0, 0.745)]);
        let named: Vec<_> = panels[5].curves.iter().map(|curve| (curve.name, curve.points[0].1)).collect();
        assert_eq!(named, [("a, 112 px", 70.0), ("a, 14 px", 50.0)]);
    }

    #[test]
    fn what_is_no_metric_is_refused_with_its_line() {
        let told = |text: &str| Curves::parse("a", text).unwrap_err().to_string();
        assert!(told(&(step(1) + "{}\n" + &step(2))).contains("line 2"));
        assert!(told("").contains("no step"));
    }
}
