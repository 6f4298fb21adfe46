//! Splits, and an experiment on made-up people whose outcome is known.

use super::*;
use crate::quality::NormStats;
use crate::template::FusionRule;

const STATS: NormStats = NormStats { mean: 10.0, std: 2.0 };
const FUSER: Fuser<'_> = Fuser { stats: STATS, network: None, strangers: None };
const DIM: usize = 32;

/// People around directions of their own. Condition 0 is near to the direction and of norm 10, condition 1 is noisy: half
/// of its photos are of norm 8 and still of use, the others of norm 4 and nothing but noise.
fn people(count: usize, photos: usize) -> Vec<Person> {
    (0..count)
        .map(|person| {
            let name = format!("person {person}");
            let mut random = Random::named(9, &name);
            let centre: Vec<f64> = (0..DIM).map(|_| random.normal()).collect();
            let mut feature = |noise: f64, norm: f32| {
                let raw = centre.iter().map(|value| (value + noise * random.normal()) as f32).collect();
                Feature { norm, ..Feature::from_raw(raw).unwrap() }
            };
            let photo = |photo: usize| match photo % 2 {
                0 => vec![feature(0.4, 10.0), feature(2.0, 8.0)],
                _ => vec![feature(0.4, 10.0), feature(8.0, 4.0)],
            };
            Person { name, photos: (0..photos).map(photo).collect() }
        })
        .collect()
}

fn plan() -> Plan {
    let scenario = |name: &str, condition| Scenario { name: name.to_owned(), conditions: vec![condition] };
    Plan {
        seed: 4,
        splits: 6,
        draws: 3,
        references: 1,
        frames: vec![4, 1, 4, 64],
        wrong: 0,
        wrong_clean: false,
        scenarios: vec![scenario("clean", 0), scenario("poor", 1)],
        rules: vec![FusionRule::Mean.into(), FusionRule::SoftmaxQuality.into(), FusionRule::Best.into()],
        reference_rule: FusionRule::Mean.into(),
    }
}

#[test]
fn a_split_enrols_half_of_each_group() {
    let groups = [(0..7).collect::<Vec<_>>(), (7..11).collect()];
    let split = Split::draw(1, 0, &groups);
    assert_eq!((split.enrolled.len(), split.unknown.len()), (6, 5));
    assert_eq!(split.enrolled.iter().filter(|&&person| person < 7).count(), 4);
    let mut all: Vec<usize> = split.enrolled.iter().chain(&split.unknown).copied().collect();
    all.sort_unstable();
    assert_eq!(all, (0..11).collect::<Vec<_>>());
    assert_eq!(split, Split::draw(1, 0, &groups));
    assert_ne!(split, Split::draw(1, 1, &groups));
    assert_ne!(split, Split::draw(2, 0, &groups));
}

#[test]
fn weights_by_quality_beat_the_mean_where_quality_differs() {
    let people = people(40, 9);
    let report = run(&people, &plan(), &FUSER).unwrap();
    assert_eq!((report.people, report.fused_people, report.enrolled), (40, 40, 20));
    // 64 frames nobody has.
    assert_eq!(report.frames, [1, 4]);
    let rank1 = |scenario: usize, k: usize, rule: usize| report.fused[scenario][k][rule].searches.rank(1).unwrap();
    assert_eq!(rank1(0, 1, 0), 1.0);
    // With one frame all rules are the same.
    assert_eq!(report.fused[1][0][0], report.fused[1][0][1]);
    assert!(rank1(1, 1, 0) > rank1(1, 0, 0) + 0.1);
    assert!(rank1(1, 1, 1) > rank1(1, 1, 0) + 0.05, "{} {}", rank1(1, 1, 1), rank1(1, 1, 0));
    // 20 enrolled people, 3 draws, 6 splits; the unknown ones likewise.
    let cell = &report.fused[1][1][1];
    assert_eq!((cell.searches.mated.len(), cell.people.len(), cell.searches.non_mated.len()), (360, 360, 360));
    assert_eq!(report, run(&people, &plan(), &FUSER).unwrap());
}

#[test]
fn wrong_frames_cost_and_robust_fusion_wins_some_back() {
    let people = people(40, 9);
    let robust = Fusion { robust: true, ..FusionRule::Mean.into() };
    let plan = Plan { wrong: 1, rules: vec![FusionRule::Mean.into(), robust], ..plan() };
    let report = run(&people, &plan, &FUSER).unwrap();
    // One wrong frame of one would be all of it.
    assert!(report.fused[0][0][0].searches.mated.is_empty());
    let score = |rule: usize| {
        let mated = &report.fused[0][1][rule].searches.mated;
        mated.iter().map(|mated| mated.score).sum::<f64>() / mated.len() as f64
    };
    assert!(score(1) > score(0) + 0.02, "{} {}", score(1), score(0));
}

#[test]
fn people_with_few_photos_stay_in_the_gallery() {
    let mut all = people(12, 9);
    for person in &mut all[6..] {
        person.photos.truncate(1);
    }
    all.push(Person { name: "nobody".to_owned(), photos: Vec::new() });
    let report = run(&all, &plan(), &FUSER).unwrap();
    assert_eq!((report.people, report.fused_people, report.enrolled), (12, 6, 6));
    // The three with photos left over are searched for; of the unknown, all six.
    assert_eq!((report.singles[0].searches.mated.len(), report.singles[0].searches.non_mated.len()), (54, 108));
    assert_eq!(report.fused[0][1][0].searches.non_mated.len(), 54);

    let few = run(&people(2, 2), &plan(), &FUSER).unwrap();
    assert!(few.frames.is_empty() && few.fused[0].is_empty());
    assert_eq!(few.singles[0].searches.mated.len(), 18);
}

#[test]
fn what_cannot_be_tried_is_told() {
    assert_eq!(run(&people(1, 9), &plan(), &FUSER), Err(PlanError::TooFewPeople(1)));
    let none = Plan { rules: Vec::new(), ..plan() };
    assert_eq!(run(&people(4, 9), &none, &FUSER), Err(PlanError::None("rules")));
    let mut lacking = people(4, 9);
    lacking[2].photos[3].truncate(1);
    assert!(matches!(run(&lacking, &plan(), &FUSER), Err(PlanError::Condition { condition: 1, .. })));
}
