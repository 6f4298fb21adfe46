//! From the outcomes of searches to the figures that are shown, in one form for JSON, table and page.

use std::collections::BTreeMap;

use vultus_engine::evaluate::{Cell, DetPoint, Interval, LEAST_EXPECTED, Plan, Report, Tally, bootstrap};
use vultus_engine::random::Random;
use vultus_engine::template::{Fusion, FusionRule};

/// The FPIRs that TPIR is told for. Intervals and comparisons are at the first one.
pub(super) const RATES: [f64; 2] = [0.01, 0.001];
/// The FPIRs of DET curves.
const CURVE: [f64; 12] = [0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002, 0.001];
/// Ranks of CMC curves.
const RANKS: usize = 10;
/// Resamples of the people for an interval.
const ROUNDS: usize = 1_000;

/// What was measured on.
pub(super) struct Setting {
    pub(super) model_id: String,
    pub(super) subjects: usize,
    pub(super) photos: usize,
    pub(super) rejected: BTreeMap<String, usize>,
    /// What each scenario is, in their order.
    pub(super) about: Vec<String>,
}

/// The figures of one kind of search. What could not be measured is `None`.
pub(super) struct Figure {
    pub(super) mated: usize,
    pub(super) non_mated: usize,
    pub(super) rank1: Option<Interval>,
    pub(super) rank5: Option<f64>,
    /// At each of [`RATES`].
    pub(super) tpir: [Option<f64>; RATES.len()],
    /// Interval of the first of them.
    pub(super) tpir_interval: Option<Interval>,
    pub(super) cmc: Vec<f64>,
    pub(super) det: Vec<DetPoint>,
    /// This rule minus another on the same probes.
    pub(super) versus: Vec<(String, Versus)>,
}

/// Differences of shares, paired by probe, with their intervals.
pub(super) struct Versus {
    pub(super) rank1: Option<Interval>,
    pub(super) tpir: Option<Interval>,
}

/// A scenario's figures.
pub(super) struct ScenarioFigures {
    pub(super) name: String,
    pub(super) about: String,
    /// Single photos of everybody.
    pub(super) single: Figure,
    /// By rule and number of frames, as in [`Figures::rules`] and [`Figures::frames`].
    pub(super) fused: Vec<Vec<Figure>>,
}

/// All that is told.
pub(super) struct Figures {
    pub(super) setting: Setting,
    pub(super) plan: Plan,
    pub(super) people: usize,
    pub(super) fused_people: usize,
    pub(super) enrolled: usize,
    pub(super) rules: Vec<(String, Fusion)>,
    pub(super) frames: Vec<usize>,
    /// Undamaged photos first.
    pub(super) scenarios: Vec<ScenarioFigures>,
    pub(super) notes: Vec<String>,
}

impl Figures {
    pub(super) fn of(plan: &Plan, report: &Report, setting: Setting) -> Self {
        let rules: Vec<(String, Fusion)> =
            plan.rules.iter().map(|rule| (label(*rule, plan.reference_rule), *rule)).collect();
        let mut random = Random::named(plan.seed, "intervals");
        let mut scenarios = Vec::with_capacity(plan.scenarios.len());
        for (index, scenario) in plan.scenarios.iter().enumerate() {
            let mut fused: Vec<Vec<Figure>> = rules.iter().map(|_| Vec::new()).collect();
            for cells in &report.fused[index] {
                let hits: Vec<Hits> = cells.iter().map(Hits::of).collect();
                for (rule, figures) in fused.iter_mut().enumerate() {
                    let others = (0..rules.len()).filter(|other| *other != rule);
                    let versus = others
                        .map(|other| {
                            (rules[other].0.clone(), hits[rule].versus(&hits[other], &cells[rule], &mut random))
                        })
                        .collect();
                    figures.push(Figure { versus, ..Figure::of(&cells[rule], &hits[rule], &mut random) });
                }
            }
            let cell = &report.singles[index];
            scenarios.push(ScenarioFigures {
                name: scenario.name.clone(),
                about: setting.about.get(index).cloned().unwrap_or_default(),
                single: Figure::of(cell, &Hits::of(cell), &mut random),
                fused,
            });
        }
        let mut figures = Self {
            setting,
            plan: plan.clone(),
            people: report.people,
            fused_people: report.fused_people,
            enrolled: report.enrolled,
            rules,
            frames: report.frames.clone(),
            scenarios,
            notes: Vec::new(),
        };
        figures.notes = figures.what_is_missing();
        figures
    }

    /// What could not be measured, and why.
    fn what_is_missing(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.people < 2 {
            notes.push(format!(
                "open-set identification needs at least 2 subjects with photos, there are {}",
                self.people
            ));
            return notes;
        }
        let single = self.scenarios.first().map(|scenario| &scenario.single);
        if single.is_some_and(|single| single.mated == 0) {
            let references = self.plan.references;
            notes.push(format!("no enrolled subject has photos beside its {references} in the gallery to search with"));
        }
        let lacking: Vec<String> =
            self.plan.frames.iter().filter(|k| !self.frames.contains(k)).map(ToString::to_string).collect();
        if !lacking.is_empty() {
            notes.push(format!(
                "{} frames: fewer than 4 subjects have that many photos beside the {} in the gallery",
                lacking.join(", "),
                self.plan.references
            ));
        }
        let outvoted: Vec<String> =
            self.frames.iter().filter(|k| self.plan.wrong * 2 >= **k).map(ToString::to_string).collect();
        if self.plan.wrong > 0 && !outvoted.is_empty() {
            let wrong = self.plan.wrong;
            notes.push(format!(
                "{} frames: {wrong} wrong ones would not leave the right ones a majority",
                outvoted.join(", ")
            ));
        }
        for rate in RATES {
            let needed = (LEAST_EXPECTED / rate).ceil() as usize;
            let mut carry = |what: &str, searches: usize| {
                if searches > 0 && searches < needed {
                    notes.push(format!(
                        "FPIR {rate} of {what}: {searches} non-mated searches do not carry it, {needed} would"
                    ));
                }
            };
            carry("single photos", single.map_or(0, |single| single.non_mated));
            let fused = self.scenarios.first().and_then(|scenario| scenario.fused.first()?.last());
            carry("fused probes", fused.map_or(0, |figure| figure.non_mated));
        }
        if !self.frames.is_empty() && self.fused_people < 100 {
            let people = self.fused_people;
            notes.push(format!("fused probes are of {people} people, drawn again and again: mind the intervals"));
        }
        notes
    }
}

/// The name of a rule in answers: with its parameters where they are not the model's own.
fn label(fusion: Fusion, own: Fusion) -> String {
    let mut label = fusion.rule.to_string();
    if fusion.rule == FusionRule::SoftmaxQuality && (fusion.tau, fusion.cap) != (own.tau, own.cap) {
        label += &format!(":{}", fusion.tau);
        label += &fusion.cap.map_or_else(String::new, |cap| format!(":{cap}"));
    }
    let ignores = matches!(fusion.rule, FusionRule::Best | FusionRule::Caface);
    if fusion.robust && !ignores {
        label += "+robust";
    }
    label
}

/// Which mated searches succeed: by rank, and at the threshold of the first rate.
struct Hits {
    rank1: Vec<bool>,
    tpir: Option<Vec<bool>>,
}

impl Hits {
    fn of(cell: &Cell) -> Self {
        let searches = &cell.searches;
        Self {
            rank1: searches.mated.iter().map(|mated| mated.rank == 1).collect(),
            tpir: searches.threshold_at(RATES[0]).map(|threshold| searches.hits(threshold).collect()),
        }
    }

    fn versus(&self, other: &Self, cell: &Cell, random: &mut Random) -> Versus {
        let mut difference = |own: &[bool], other: &[bool]| {
            let values = own.iter().zip(other).map(|(own, other)| f64::from(*own) - f64::from(*other));
            interval(values, &cell.people, random)
        };
        Versus {
            rank1: difference(&self.rank1, &other.rank1),
            tpir: self.tpir.as_ref().zip(other.tpir.as_ref()).and_then(|(own, other)| difference(own, other)),
        }
    }
}

/// The mean of a value of each search, with its interval over people.
fn interval(values: impl Iterator<Item = f64>, people: &[usize], random: &mut Random) -> Option<Interval> {
    let mut tallies: BTreeMap<usize, Tally> = BTreeMap::new();
    for (value, person) in values.zip(people) {
        let tally = tallies.entry(*person).or_default();
        tally.hits += value;
        tally.trials += 1.0;
    }
    bootstrap(&tallies.into_values().collect::<Vec<_>>(), ROUNDS, random)
}

impl Figure {
    fn of(cell: &Cell, hits: &Hits, random: &mut Random) -> Self {
        let searches = &cell.searches;
        let mut over_people = |hits: &[bool]| interval(hits.iter().map(|hit| f64::from(*hit)), &cell.people, random);
        Self {
            mated: searches.mated.len(),
            non_mated: searches.non_mated.len(),
            rank1: over_people(&hits.rank1),
            rank5: searches.rank(5),
            tpir: RATES.map(|rate| searches.tpir_at(rate)),
            tpir_interval: hits.tpir.as_ref().and_then(|hits| over_people(hits)),
            cmc: searches.cmc(RANKS),
            det: searches.det(&CURVE),
            versus: Vec::new(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use vultus_engine::evaluate::{Mated, Scenario, Searches};

    /// Two people with two mated searches each and `non_mated` searches of nobody, in two scenarios by two rules. The second
    /// rule finds one of the four less.
    pub(in super::super) fn made_up(non_mated: usize) -> Figures {
        let cell = |ranks: [usize; 4]| Cell {
            searches: Searches {
                mated: ranks.map(|rank| Mated { rank, score: 0.9 }).to_vec(),
                non_mated: (0..non_mated).map(|i| i as f64 / non_mated as f64 * 0.5).collect(),
            },
            people: vec![0, 0, 1, 1],
        };
        let (good, less) = (cell([1, 1, 1, 3]), cell([1, 2, 1, 3]));
        let scenario = |name: &str, condition| Scenario { name: name.to_owned(), conditions: vec![condition] };
        let plan = Plan {
            seed: 1,
            splits: 2,
            draws: 1,
            references: 1,
            frames: vec![2, 8],
            wrong: 0,
            wrong_clean: false,
            scenarios: vec![scenario("clean", 0), scenario("small", 1)],
            rules: vec![Fusion { robust: true, ..FusionRule::Norm.into() }, FusionRule::Mean.into()],
            reference_rule: FusionRule::Mean.into(),
        };
        let report = Report {
            singles: vec![good.clone(), less.clone()],
            frames: vec![2],
            fused: vec![vec![vec![good, less]]; 2],
            people: 4,
            fused_people: 4,
            enrolled: 2,
        };
        let setting = Setting {
            model_id: "m-1".to_owned(),
            subjects: 4,
            photos: 12,
            rejected: BTreeMap::from([("no_face".to_owned(), 1)]),
            about: vec!["undamaged".to_owned(), "<14 px>".to_owned()],
        };
        Figures::of(&plan, &report, setting)
    }

    #[test]
    fn figures_are_those_of_the_searches() {
        let figures = made_up(400);
        assert_eq!(figures.rules.iter().map(|(label, _)| label.as_str()).collect::<Vec<_>>(), ["norm+robust", "mean"]);
        let [robust, mean] = &figures.scenarios[0].fused[..] else { panic!("two rules") };
        assert_eq!(robust[0].rank1.unwrap().value, 0.75);
        assert_eq!(robust[0].rank5, Some(1.0));
        assert_eq!(robust[0].tpir, [Some(0.75), None]);
        let versus = &mean[0].versus;
        assert_eq!((versus.len(), versus[0].0.as_str()), (1, "norm+robust"));
        let difference = versus[0].1.rank1.unwrap();
        // The first person loses one of two searches, the second none.
        assert_eq!((difference.value, difference.low, difference.high), (-0.25, -0.5, 0.0));
    }

    #[test]
    fn what_is_missing_is_told() {
        let notes = made_up(20).notes.join("\n");
        for part in ["8 frames: fewer than 4 subjects", "FPIR 0.01 of single photos: 20 non-mated", "of 4 people"] {
            assert!(notes.contains(part), "{part}: {notes}");
        }
        assert!(!made_up(400).notes.join("\n").contains("FPIR 0.01 "));
    }
}
