//! The open-set experiment: half of the people are enrolled, all are searched for.
//!
//! For each of several splits, people are shuffled by the seed. The first half is enrolled with `references` photos each,
//! the other half is unknown. Probes are made of other photos: `draws` times per person the photos are shuffled, and a
//! probe of k frames takes the first k. So probes of different rules, numbers of frames and scenarios are of the same
//! photos, and can be compared pair by pair. Outcomes are pooled over the splits before rates are taken.
//!
//! Two groups of people are searched for. *Singles* are all who have a photo to search with. The *fused* probes are of those
//! who have enough photos for the largest number of frames, for every number of frames, so that numbers of frames
//! differ in nothing else; all others stay in the gallery.

use rayon::prelude::*;

use super::{Mated, Searches};
use crate::face::Feature;
use crate::index::vector::dot;
use crate::random::Random;
use crate::template::{Fuser, Fusion, Template, TemplateError, TemplateFace};

/// Fewest people with enough photos for which fused probes are made: one half of them is enrolled, the other unknown.
const LEAST_PEOPLE: usize = 4;
/// Singles of a split are drawn once per person where there are more people than this.
const MANY_PEOPLE: usize = 1_000;

/// A person with the features of their photos, each photo in several conditions.
#[derive(Debug, Clone)]
pub struct Person {
    /// Their name; part of the seed of what is drawn for them.
    pub name: String,
    /// By photo and condition. Condition 0 is the undamaged photo, of which references are made.
    pub photos: Vec<Vec<Feature>>,
}

/// Which condition each frame of a probe is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// Condition of the first frame, the second and so on; the last one stands for all further frames.
    pub conditions: Vec<usize>,
}

/// What is tried.
#[derive(Debug, Clone)]
pub struct Plan {
    /// From which everything random comes.
    pub seed: u64,
    /// Splits into enrolled and unknown people.
    pub splits: usize,
    /// Probes of each person in each split.
    pub draws: usize,
    /// Photos each enrolled person has in the gallery.
    pub references: usize,
    /// Numbers of frames, each at least 1.
    pub frames: Vec<usize>,
    /// How many frames of each probe are of another person, where that leaves the right ones in the majority.
    pub wrong: usize,
    /// Whether those frames are undamaged, whatever the scenario: the worst case for rules that go by quality.
    pub wrong_clean: bool,
    /// Conditions of the frames.
    pub scenarios: Vec<Scenario>,
    /// How probes are fused.
    pub rules: Vec<Fusion>,
    /// How references are fused.
    pub reference_rule: Fusion,
}

/// Why an experiment is not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Fewer than two people with photos.
    #[error("at least two people with photos are needed, there are {0}")]
    TooFewPeople(usize),
    /// Something there should be at least one of.
    #[error("there are no {0}")]
    None(&'static str),
    /// A scenario names a condition that some photo was not embedded in.
    #[error("scenario {scenario} has frames in condition {condition}, which photos of {person} lack")]
    Condition {
        /// The scenario.
        scenario: String,
        /// The condition.
        condition: usize,
        /// Whose photo.
        person: String,
    },
    /// Faces that cannot be fused.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// Outcomes of the searches of one scenario, number of frames and rule, over all splits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cell {
    /// The outcomes.
    pub searches: Searches,
    /// Whom each mated search is for, as position in the list of people.
    pub people: Vec<usize>,
}

/// What came of an experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Searches with single photos of everybody, by scenario.
    pub singles: Vec<Cell>,
    /// Numbers of frames that enough people have photos for, ascending.
    pub frames: Vec<usize>,
    /// Fused searches by scenario, number of frames (as in `frames`) and rule.
    pub fused: Vec<Vec<Vec<Cell>>>,
    /// People whose single photos were searched with.
    pub people: usize,
    /// People of the fused probes.
    pub fused_people: usize,
    /// Subjects in the gallery of a split.
    pub enrolled: usize,
}

/// Who is enrolled and who is unknown, as positions in the list of people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The first half of each group.
    pub enrolled: Vec<usize>,
    /// The others.
    pub unknown: Vec<usize>,
}

impl Split {
    /// Shuffles each group of people by seed and number and enrols the first half of it, rounded up.
    pub fn draw(seed: u64, number: usize, groups: &[Vec<usize>]) -> Self {
        let (mut enrolled, mut unknown) = (Vec::new(), Vec::new());
        for (group, people) in groups.iter().enumerate() {
            let mut people = people.clone();
            Random::named(seed, &format!("split {number} {group}")).shuffle(&mut people);
            let rest = people.split_off(people.len().div_ceil(2));
            enrolled.extend(people);
            unknown.extend(rest);
        }
        Self { enrolled, unknown }
    }
}

/// Runs an experiment, its splits on all cores. The result depends on people, plan and model alone.
pub fn run(people: &[Person], plan: &Plan, fuser: &Fuser<'_>) -> Result<Report, PlanError> {
    check(people, plan)?;
    let (frames, has_frames) = carried(people, plan);
    let (fused, others): (Vec<usize>, Vec<usize>) =
        (0..people.len()).filter(|&i| !people[i].photos.is_empty()).partition(|&i| has_frames[i]);
    let experiment = Experiment { people, plan, fuser, frames: &frames, has_frames: &has_frames };
    let groups = [fused, others];
    let split = |number| experiment.split(number, &Split::draw(plan.seed, number, &groups));
    let outcomes = (0..plan.splits).into_par_iter().map(split).collect::<Result<Vec<_>, _>>()?;

    let mut report = Report {
        singles: vec![Cell::default(); plan.scenarios.len()],
        fused: vec![vec![vec![Cell::default(); plan.rules.len()]; frames.len()]; plan.scenarios.len()],
        people: groups.iter().map(Vec::len).sum(),
        fused_people: groups[0].len(),
        enrolled: groups.iter().map(|group| group.len().div_ceil(2)).sum(),
        frames: Vec::new(),
    };
    for outcome in outcomes {
        report.singles.iter_mut().zip(outcome.singles).for_each(|(all, one)| all.extend(one));
        let cells = report.fused.iter_mut().flatten().flatten();
        cells.zip(outcome.fused.into_iter().flatten().flatten()).for_each(|(all, one)| all.extend(one));
    }
    report.frames = frames;
    Ok(report)
}

fn check(people: &[Person], plan: &Plan) -> Result<(), PlanError> {
    let with_photos = people.iter().filter(|person| !person.photos.is_empty()).count();
    if with_photos < 2 {
        return Err(PlanError::TooFewPeople(with_photos));
    }
    for (what, count) in [
        ("splits", plan.splits),
        ("draws", plan.draws),
        ("references", plan.references),
        ("scenarios", plan.scenarios.len()),
        ("rules", plan.rules.len()),
    ] {
        if count == 0 {
            return Err(PlanError::None(what));
        }
    }
    for scenario in &plan.scenarios {
        let condition = scenario.conditions.iter().copied().max().ok_or(PlanError::None("conditions"))?;
        let lacks = |person: &&Person| person.photos.iter().any(|photo| photo.len() <= condition);
        if let Some(person) = people.iter().find(lacks) {
            let (scenario, person) = (scenario.name.clone(), person.name.clone());
            return Err(PlanError::Condition { scenario, condition, person });
        }
    }
    Ok(())
}

/// The numbers of frames that can be tried, and who has photos for all of them.
fn carried(people: &[Person], plan: &Plan) -> (Vec<usize>, Vec<bool>) {
    let enough = |frames: usize| -> Vec<bool> {
        people.iter().map(|person| person.photos.len() >= plan.references + frames).collect()
    };
    let mut frames: Vec<usize> = plan.frames.iter().copied().filter(|k| *k > 0).collect();
    frames.sort_unstable();
    frames.dedup();
    frames.retain(|&k| enough(k).into_iter().filter(|has| *has).count() >= LEAST_PEOPLE);
    let has = frames.last().map_or_else(|| vec![false; people.len()], |&k| enough(k));
    (frames, has)
}

impl Cell {
    fn extend(&mut self, other: Self) {
        self.searches.mated.extend(other.searches.mated);
        self.searches.non_mated.extend(other.searches.non_mated);
        self.people.extend(other.people);
    }
}

/// Outcomes of one split.
struct Outcome {
    singles: Vec<Cell>,
    fused: Vec<Vec<Vec<Cell>>>,
}

struct Experiment<'a> {
    people: &'a [Person],
    plan: &'a Plan,
    fuser: &'a Fuser<'a>,
    frames: &'a [usize],
    has_frames: &'a [bool],
}

/// One reference a row, in the order of the people enrolled.
struct References(Vec<Vec<f32>>);

impl References {
    /// Rank and score of the reference of a row.
    fn mated(&self, probe: &[f32], row: usize) -> Mated {
        let own = dot(probe, &self.0[row]);
        // Written so that an equal score counts as before it.
        let before = self.0.iter().enumerate().filter(|(i, other)| *i != row && dot(probe, other) >= own).count();
        Mated { rank: before + 1, score: f64::from(own) }
    }

    fn highest(&self, probe: &[f32]) -> f64 {
        f64::from(self.0.iter().map(|row| dot(probe, row)).fold(-1.0, f32::max))
    }
}

impl Experiment<'_> {
    fn split(&self, number: usize, split: &Split) -> Result<Outcome, PlanError> {
        let plan = self.plan;
        let mut rows = Vec::with_capacity(split.enrolled.len());
        for &person in &split.enrolled {
            let order = self.photos(number, person);
            let faces: Vec<(usize, usize)> = order.iter().take(plan.references).map(|&photo| (person, photo)).collect();
            rows.push(self.fuse(&faces, |_| 0, plan.reference_rule)?.map_or_else(Vec::new, |t| t.vector));
        }
        // A reference whose photos cancel out scores as nobody would.
        let dim = rows.iter().map(Vec::len).max().unwrap_or(0);
        rows.iter_mut().for_each(|row| row.resize(dim, 0.0));
        let references = References(rows);

        let mut outcome = Outcome {
            singles: vec![Cell::default(); plan.scenarios.len()],
            fused: vec![vec![vec![Cell::default(); plan.rules.len()]; self.frames.len()]; plan.scenarios.len()],
        };
        let crowd = split.enrolled.len() + split.unknown.len();
        let single_draws = if crowd > MANY_PEOPLE { 1 } else { plan.draws };
        let enrolled = split.enrolled.iter().enumerate().map(|(row, &person)| (person, Some(row)));
        for (person, row) in enrolled.chain(split.unknown.iter().map(|&person| (person, None))) {
            let photos = self.photos(number, person);
            // Of an unknown person every photo can be searched with, but then fused probes would see more photos of
            // unknown people than of enrolled ones.
            let probes = photos.get(plan.references..).filter(|rest| !rest.is_empty());
            let Some(probes) = probes.or(row.is_none().then_some(&photos[..])) else { continue };
            for draw in 0..plan.draws {
                let mut random =
                    Random::named(plan.seed, &format!("draw {number} {draw} {}", self.people[person].name));
                let mut photos = probes.to_vec();
                random.shuffle(&mut photos);
                let frames: Vec<(usize, usize)> = photos.into_iter().map(|photo| (person, photo)).collect();
                if draw < single_draws {
                    self.single(&frames[..1], row, &references, &mut outcome.singles)?;
                }
                if self.has_frames[person] {
                    self.probes(&frames, row, &references, &mut random, &mut outcome.fused)?;
                }
            }
        }
        Ok(outcome)
    }

    /// A person's photos in the order of a split; references come first.
    fn photos(&self, number: usize, person: usize) -> Vec<usize> {
        let Person { name, photos } = &self.people[person];
        Random::named(self.plan.seed, &format!("references {number} {name}")).order(photos.len())
    }

    /// Searches with one photo, which no rule changes.
    fn single(
        &self,
        frame: &[(usize, usize)],
        row: Option<usize>,
        references: &References,
        cells: &mut [Cell],
    ) -> Result<(), PlanError> {
        for (scenario, cell) in self.plan.scenarios.iter().zip(cells) {
            let template = self.fuse(frame, |_| scenario.conditions[0], self.plan.reference_rule)?;
            search(template, frame[0].0, row, references, cell);
        }
        Ok(())
    }

    /// Searches with the first photos of a draw, in every scenario, by every rule.
    fn probes(
        &self,
        photos: &[(usize, usize)],
        row: Option<usize>,
        references: &References,
        random: &mut Random,
        cells: &mut [Vec<Vec<Cell>>],
    ) -> Result<(), PlanError> {
        let person = photos[0].0;
        let strangers: Vec<(usize, usize)> = (0..self.plan.wrong).map(|_| self.stranger(person, random)).collect();
        for (scenario, cells) in self.plan.scenarios.iter().zip(cells) {
            for (&k, cells) in self.frames.iter().zip(cells) {
                if strangers.len() * 2 >= k && !strangers.is_empty() {
                    continue;
                }
                let mut frames = photos[..k].to_vec();
                frames[k - strangers.len()..].copy_from_slice(&strangers);
                let condition = |frame: usize| match frame >= k - strangers.len() && self.plan.wrong_clean {
                    true => 0,
                    false => scenario.conditions[frame.min(scenario.conditions.len() - 1)],
                };
                for (rule, cell) in self.plan.rules.iter().zip(cells) {
                    search(self.fuse(&frames, condition, *rule)?, person, row, references, cell);
                }
            }
        }
        Ok(())
    }

    /// A photo of somebody else.
    fn stranger(&self, person: usize, random: &mut Random) -> (usize, usize) {
        let others: Vec<usize> =
            (0..self.people.len()).filter(|&i| i != person && !self.people[i].photos.is_empty()).collect();
        let other = others[random.below(others.len())];
        (other, random.below(self.people[other].photos.len()))
    }

    /// Fuses photos given as (person, photo), each a media of its own. `None` where they cancel out.
    fn fuse(
        &self,
        frames: &[(usize, usize)],
        condition: impl Fn(usize) -> usize,
        rule: Fusion,
    ) -> Result<Option<Template>, PlanError> {
        let media: Vec<String> = frames.iter().map(|(person, photo)| format!("{person} {photo}")).collect();
        let faces: Vec<TemplateFace<'_>> = frames
            .iter()
            .zip(&media)
            .enumerate()
            .map(|(frame, (&(person, photo), media))| {
                let feature = &self.people[person].photos[photo][condition(frame)];
                let style = feature.style.as_ref();
                TemplateFace { embedding: &feature.embedding, norm: feature.norm, media, style }
            })
            .collect();
        match self.fuser.fuse(&faces, rule) {
            Ok(template) => Ok(Some(template)),
            Err(TemplateError::Degenerate) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Searches with a probe and notes what came of it. Without a template nothing is found: the mate comes last.
fn search(template: Option<Template>, person: usize, row: Option<usize>, references: &References, cell: &mut Cell) {
    let probe = template.as_ref().map(|template| template.vector.as_slice());
    match row {
        Some(row) => {
            let nothing = Mated { rank: references.0.len(), score: -1.0 };
            cell.searches.mated.push(probe.map_or(nothing, |probe| references.mated(probe, row)));
            cell.people.push(person);
        }
        None => cell.searches.non_mated.push(probe.map_or(-1.0, |probe| references.highest(probe))),
    }
}

#[cfg(test)]
mod tests;
