//! `vultus bench identify`: open-set identification and what fusion buys, on a folder of the operator's own photos.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use vultus_engine::detect::DetectorKind;
use vultus_engine::evaluate::{Degradation, PRESETS, Plan, PlanError, Report, Scenario, run};
use vultus_engine::model::{Precision, ServedModel};
use vultus_engine::template::{Fuser, Fusion, FusionRule, STRANGER_FMR, UnknownRule};

use super::figures::{Figures, Setting};
use super::photos::{Embedding, Photos, read};
use super::{chart, report};
use crate::cli::local::{Local, detector};
use crate::config::Settings;

/// Name of the scenario of undamaged frames.
pub(super) const CLEAN: &str = "clean";
/// Name of the scenario of one undamaged frame among tiny ones.
const ONE_GOOD: &str = "one_good";
/// The degradation of the others in it.
const TINY: &str = "tiny";
/// What is said of it.
const ABOUT_ONE_GOOD: &str = "the first frame undamaged, the others 14 px";

/// Measures open-set identification on FOLDER/SUBJECT/PHOTO: half of the subjects are enrolled, all are searched for, with
/// single photos and with several frames fused, undamaged and degraded. Photos are embedded one by one; of each, only
/// the features are kept, about a kilobyte for each condition.
#[derive(Debug, Args)]
pub(super) struct Identify {
    /// Name or id of an installed model, `mobilefacenet` for the embedded one, or a safetensors file with its manifest
    /// beside it
    #[arg(long, default_value = "mobilefacenet")]
    model: String,
    /// Add the raw features of a face and its mirror image
    #[arg(long)]
    flip: bool,
    /// Precision of the network: f32 or bf16
    #[arg(long, default_value_t)]
    dtype: Precision,
    /// Where everything random comes from: splits, probes, degradations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Numbers of frames that are fused
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8", value_parser = frames)]
    frames: Vec<usize>,
    /// Fusion rules as RULE[:TAU[:CAP]][+robust]; the model's own rule has the model's parameters where none are given
    /// [default: the model's own, mean, norm, best]
    #[arg(long, value_delimiter = ',', value_name = "RULE", value_parser = rule)]
    rules: Vec<Rule>,
    /// Degradations: small, small_bicubic, tiny, mixed, blur, noise, cover, jpeg, camera, one_good [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = degradation)]
    degradations: Vec<String>,
    /// Splits into enrolled and unknown subjects
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    splits: u16,
    /// Probes of each subject in each split
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    draws: u16,
    /// Photos of each enrolled subject, fused by the model's rule
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    references: u16,
    /// Frames of each fused probe that are of somebody else
    #[arg(long, default_value_t = 0)]
    wrong: usize,
    /// Those frames are undamaged, whatever the others are
    #[arg(long, requires = "wrong")]
    wrong_clean: bool,
    /// Take at most this many photos of each subject, first by name
    #[arg(long, value_name = "N")]
    max_per_subject: Option<usize>,
    /// The images are 112×112 crops that were aligned already
    #[arg(long)]
    aligned: bool,
    /// Who looks for faces: yunet, mtcnn or mtcnn_compat
    #[arg(long, default_value = "yunet", value_parser = detector)]
    detector: DetectorKind,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Write tables and curves as a page that needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the curves as a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The folder
    folder: PathBuf,
}

/// A rule as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rule {
    rule: FusionRule,
    /// τ and cap where they are given.
    parameters: Option<(f32, Option<f32>)>,
    robust: bool,
}

impl Rule {
    fn plain(rule: FusionRule) -> Self {
        Self { rule, parameters: None, robust: false }
    }

    /// With the parameters of `own`, the model's fusion, where none are given.
    fn fusion(self, own: Fusion) -> Fusion {
        let fusion = match self.parameters {
            Some((tau, cap)) => Fusion { cap, ..Fusion::new(self.rule, tau) },
            None => Fusion::named(self.rule, own),
        };
        Fusion { robust: self.robust, ..fusion }
    }
}

fn rule(text: &str) -> Result<Rule, String> {
    let (text, robust) = match text.strip_suffix("+robust") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let mut parts = text.split(':');
    let rule: FusionRule = parts.next().unwrap_or_default().parse().map_err(|error: UnknownRule| error.to_string())?;
    let number = |text: &str| text.parse::<f32>().map_err(|_| format!("{text:?} is no number"));
    let (tau, cap) = (parts.next().map(number).transpose()?, parts.next().map(number).transpose()?);
    let rule = Rule { rule, parameters: tau.map(|tau| (tau, cap)), robust };
    if parts.next().is_some() || !rule.fusion(FusionRule::Mean.into()).is_valid() {
        return Err("RULE[:TAU[:CAP]][+robust], tau from 0.05 to 100, cap from -10 to 10".to_owned());
    }
    Ok(rule)
}

fn frames(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=1_000).contains(number));
    number.ok_or_else(|| "a number from 1 to 1000".to_owned())
}

fn degradation(text: &str) -> Result<String, String> {
    let known = text == ONE_GOOD || Degradation::named(text).is_some();
    let names = PRESETS.map(|preset| preset.name).join(", ");
    if known { Ok(text.to_owned()) } else { Err(format!("one of {names}, {ONE_GOOD}")) }
}

impl Identify {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut settings = Settings::default();
        settings.model.name.clone_from(&self.model);
        settings.model.flip = self.flip;
        settings.model.dtype = self.dtype;
        settings.detect.detector = self.detector;
        let local = Local::start(settings)?;
        let model = local.model().served();
        let (scenarios, degradations) = self.scenarios();
        let rules = self.rules(model);
        let how = Embedding { local: &local, aligned: self.aligned, seed: self.seed, degradations: &degradations };
        let photos = read(&self.folder, self.max_per_subject, &how)?;
        let plan = Plan {
            seed: self.seed,
            splits: self.splits.into(),
            draws: self.draws.into(),
            references: self.references.into(),
            frames: self.frames.clone(),
            wrong: self.wrong,
            wrong_clean: self.wrong_clean,
            scenarios: scenarios.iter().map(|(scenario, _)| scenario.clone()).collect(),
            rules,
            reference_rule: model.fusion,
        };
        let strangers = model.impostors.score_at(STRANGER_FMR);
        let fuser = Fuser { stats: model.norm_stats, network: model.network.as_deref(), strangers };
        let outcome = match run(&photos.people, &plan, &fuser) {
            Ok(outcome) => outcome,
            Err(PlanError::TooFewPeople(_)) => nothing(&plan, photos.people.len()),
            Err(error) => return Err(error.into()),
        };
        let figures = Figures::of(&plan, &outcome, setting(model, &photos, scenarios));
        self.write(&figures)
    }

    fn write(&self, figures: &Figures) -> anyhow::Result<()> {
        let save = |path: &PathBuf, text: String| {
            std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
        };
        if let Some(path) = &self.svg {
            save(path, chart::picture(figures))?;
        }
        if let Some(path) = &self.html {
            save(path, report::page(figures))?;
        }
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", report::json(figures))?;
        } else {
            write!(out, "{}", report::table(figures))?;
        }
        Ok(())
    }

    /// Scenarios with what is said of them, and the degradations they are made of (condition 1 and so on).
    fn scenarios(&self) -> (Vec<(Scenario, String)>, Vec<Degradation>) {
        let every = || PRESETS.iter().map(|preset| preset.name.to_owned()).chain([ONE_GOOD.to_owned()]).collect();
        let mut names: Vec<String> = if self.degradations.is_empty() { every() } else { self.degradations.clone() };
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        let mut degradations: Vec<Degradation> = Vec::new();
        let mut condition = |name: &str| {
            let preset = Degradation::named(name)?;
            let known = degradations.iter().position(|known| known.name == name);
            let place = known.unwrap_or_else(|| {
                degradations.push(preset);
                degradations.len() - 1
            });
            Some((place + 1, preset.about))
        };
        let mut scenarios = vec![(Scenario { name: CLEAN.to_owned(), conditions: vec![0] }, "undamaged".to_owned())];
        for name in names {
            let found = match name.as_str() {
                ONE_GOOD => condition(TINY).map(|(tiny, _)| (vec![0, tiny], ABOUT_ONE_GOOD)),
                name => condition(name).map(|(condition, about)| (vec![condition], about)),
            };
            if let Some((conditions, about)) = found {
                scenarios.push((Scenario { name, conditions }, about.to_owned()));
            }
        }
        (scenarios, degradations)
    }

    fn rules(&self, model: &ServedModel) -> Vec<Fusion> {
        let own = model.fusion;
        let asked: Vec<Fusion> = if self.rules.is_empty() {
            let others = [FusionRule::Mean, FusionRule::Norm, FusionRule::Best].into_iter();
            let network = model.network.is_some().then_some(FusionRule::Caface);
            let others = others.chain(network).filter(|rule| *rule != own.rule);
            std::iter::once(own).chain(others.map(|rule| Rule::plain(rule).fusion(own))).collect()
        } else {
            self.rules.iter().map(|asked| asked.fusion(own)).collect()
        };
        let mut rules: Vec<Fusion> = Vec::new();
        for rule in asked {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        rules
    }
}

fn setting(model: &ServedModel, photos: &Photos, scenarios: Vec<(Scenario, String)>) -> Setting {
    Setting {
        model_id: model.id.to_string(),
        subjects: photos.people.len(),
        photos: photos.count(),
        rejected: photos.rejected.clone(),
        about: scenarios.into_iter().map(|(_, about)| about).collect(),
    }
}

/// The report of an experiment for which there are too few people: no searches.
fn nothing(plan: &Plan, people: usize) -> Report {
    Report {
        singles: vec![Default::default(); plan.scenarios.len()],
        frames: Vec::new(),
        fused: vec![Vec::new(); plan.scenarios.len()],
        people,
        fused_people: 0,
        enrolled: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_degradations_are_read() {
        let own = Fusion { cap: Some(-1.0), ..Fusion::new(FusionRule::SoftmaxQuality, 0.5) };
        let fusion = |text| rule(text).map(|rule| rule.fusion(own));
        assert_eq!(fusion("mean"), Ok(FusionRule::Mean.into()));
        assert_eq!(fusion("norm+robust"), Ok(Fusion { robust: true, ..FusionRule::Norm.into() }));
        assert_eq!(fusion("softmax_quality"), Ok(own));
        assert_eq!(fusion("softmax_quality:2"), Ok(Fusion::new(FusionRule::SoftmaxQuality, 2.0)));
        assert_eq!(fusion("softmax_quality:2:-0.5"), Ok(Fusion { cap: Some(-0.5), tau: 2.0, ..own }));
        for wrong in ["median", "+robust", "mean:x", "mean:0", "mean:1:2:3", "mean:1:nan"] {
            assert!(rule(wrong).is_err(), "{wrong}");
        }
        assert_eq!(degradation("one_good"), Ok("one_good".to_owned()));
        assert!(degradation("rain").unwrap_err().starts_with("one of small, small_bicubic"));
        assert!(frames("0").is_err() && frames("x").is_err());
        assert_eq!(frames("8"), Ok(8));
    }
}
