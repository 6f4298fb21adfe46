//! Calibrations of made galleries whose true rates are known.

use proptest::prelude::*;

use super::random::Random;
use super::*;

/// Scores of pairs that are normally distributed with this deviation, cut at 1.
const SIGMA: f64 = 0.13;

/// The scores of all pairs of a gallery, each the same in both directions, with a part that belongs to each subject.
fn scores(size: usize, shared: f64, random: &mut Random) -> Vec<Vec<f32>> {
    let own: Vec<f64> = (0..size).map(|_| random.normal()).collect();
    let mut rows = vec![vec![0f32; size]; size];
    for (a, b) in (0..size).flat_map(|a| (0..a).map(move |b| (a, b))) {
        let common = (own[a] + own[b]) * (shared / 2.0).sqrt();
        let score = SIGMA * (common + random.normal() * (1.0 - shared).sqrt());
        rows[a][b] = score.min(1.0) as f32;
        rows[b][a] = rows[a][b];
    }
    rows
}

fn collect(rows: &[Vec<f32>]) -> MaximaCollector {
    let mut maxima = MaximaCollector::new(rows.len());
    for (probe, row) in rows.iter().enumerate() {
        let others = row.iter().enumerate().filter(|&(other, _)| other != probe);
        let mut hits: Vec<(String, f32)> = others.map(|(other, &score)| (other.to_string(), score)).collect();
        hits.sort_by(|a, b| b.1.total_cmp(&a.1));
        hits.truncate(DEPTH);
        maxima.add(Prober::Enrolled(&probe.to_string()), rows.len() - 1, hits);
    }
    maxima
}

fn fit(rows: &[Vec<f32>]) -> Calibration {
    Calibration::fit(&collect(rows), &FitOptions::default()).unwrap()
}

/// P(X > x), X standard normal, by the trapezoid rule.
fn normal_survival(x: f64) -> f64 {
    let density = |z: f64| (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let steps = 2000;
    let width = 10.0 / f64::from(steps);
    (0..steps).map(|i| (density(x + f64::from(i) * width) + density(x + f64::from(i + 1) * width)) / 2.0 * width).sum()
}

/// FPIR of independent normal scores in a gallery of this size.
fn true_fpir(score: f64, size: usize) -> f64 {
    -(size as f64 * (-normal_survival(score / SIGMA)).ln_1p()).exp_m1()
}

#[test]
fn normal_scores_give_the_known_rates() {
    let calibration = fit(&scores(600, 0.0, &mut Random::new(7)));
    assert_eq!(calibration.gallery_size(), 600);
    assert_eq!((calibration.searches(), calibration.probers()), (600, 600));
    let view = calibration.at_size(600);
    for rate in [0.5, 0.1, 0.01, 0.001] {
        let at = view.score_at(rate);
        approx::assert_relative_eq!(at.fpir, rate, max_relative = 1e-6);
        let truth = true_fpir(at.score, 600);
        assert!(at.low <= truth && truth <= at.high, "{rate}: {truth} {at:?}");
        assert!((truth / rate).ln().abs() < 1.0, "{rate}: {truth}");
    }
    assert!(calibration.suspects().is_empty());
    let smallest = view.smallest_fpir();
    assert!(smallest > 1e-5 && smallest < 0.02, "{smallest}");
    assert!(view.score_at(smallest / 2.0).extrapolated && !view.score_at(smallest * 2.0).extrapolated);
}

/// A fifth of the gallery cannot be told apart at all: no score keeps a small rate, and the answer does not pretend.
#[test]
fn a_rate_that_no_score_keeps_is_extrapolated() {
    let mut rows = scores(200, 0.0, &mut Random::new(3));
    for (a, b) in (0..40).flat_map(|a| (0..a).map(move |b| (a, b))) {
        (rows[a][b], rows[b][a]) = (1.0, 1.0);
    }
    let view = fit(&rows).at_size(200);
    let at = view.score_at(0.001);
    assert!(at.extrapolated && at.score >= 1.0 && at.fpir > 0.1, "{at:?}");
    assert!(at.low <= at.fpir && at.fpir <= at.high, "{at:?}");
    assert!(!view.score_at(0.9).extrapolated);
}

/// Seeds 0 to 119, galleries of 120: at least 90 % of the intervals hold the true rate, at each rate and after growth.
#[test]
fn intervals_hold_the_true_rate() {
    const SPLITS: u64 = 120;
    let cases = [(0.1, 1), (0.01, 1), (0.001, 1), (0.1, 10), (0.01, 10)];
    let mut held = [0; 5];
    for seed in 0..SPLITS {
        let calibration = fit(&scores(120, 0.0, &mut Random::new(seed)));
        for ((rate, growth), held) in cases.iter().zip(&mut held) {
            let at = calibration.at_size(120 * growth).score_at(*rate);
            let truth = true_fpir(at.score, 120 * *growth as usize);
            *held += u64::from(at.low <= truth && truth <= at.high);
        }
    }
    for (case, held) in cases.iter().zip(held) {
        assert!(held * 100 >= SPLITS * 90, "{case:?}: {held} of {SPLITS}");
    }
}

#[test]
fn faces_that_resemble_everybody_are_accounted_for() {
    let mut random = Random::new(11);
    let (size, others) = (400, 6000);
    let calibration = fit(&scores(size, 0.15, &mut random));
    // The same population: each new face with its own part against new references.
    let own: Vec<f64> = (0..size).map(|_| random.normal()).collect();
    let best: Vec<f64> = (0..others)
        .map(|_| {
            let mine = random.normal();
            let score = |theirs: &f64| SIGMA * ((mine + theirs) * 0.075f64.sqrt() + random.normal() * 0.85f64.sqrt());
            own.iter().map(score).fold(f64::MIN, f64::max)
        })
        .collect();
    let view = calibration.at_size(size as u64);
    for rate in [0.3, 0.1, 0.03] {
        let at = view.score_at(rate);
        let truth = best.iter().filter(|&&score| score >= at.score).count() as f64 / f64::from(others);
        assert!(at.low <= truth && truth <= at.high, "{rate}: {truth} {at:?}");
    }
}

#[test]
fn growth_moves_the_threshold_up_and_widens_the_interval() {
    let calibration = fit(&scores(300, 0.0, &mut Random::new(3)));
    let (now, grown) = (calibration.at_size(300), calibration.at_size(3000));
    assert_eq!((now.growth(), grown.growth()), (1.0, 10.0));
    for rate in [0.1, 0.01] {
        let (a, b) = (now.score_at(rate), grown.score_at(rate));
        assert!(b.score > a.score);
        assert!(b.high / b.low > a.high / a.low);
        // At the old threshold there are about ten times as many.
        let at = grown.fpir_at(a.score);
        assert!(at.value > 5.0 * rate && at.value < 10.0 * rate + 1e-9, "{at:?}");
    }
    assert!(grown.smallest_fpir() > now.smallest_fpir());
    // A gallery that shrank.
    assert!(calibration.at_size(30).score_at(0.01).score < now.score_at(0.01).score);
}

#[test]
fn one_person_enrolled_twice_is_suspected_unless_said_to_be_two() {
    let mut rows = scores(400, 0.0, &mut Random::new(5));
    let clean = fit(&rows);
    for (a, b, score) in [(3, 8, 0.86), (20, 21, 0.78), (50, 51, 0.95)] {
        rows[a][b] = score;
        rows[b][a] = score;
    }
    let found = fit(&rows);
    let pairs: Vec<(&str, &str)> = found.suspects().iter().map(|s| (s.first.as_str(), s.second.as_str())).collect();
    assert_eq!(pairs, [("50", "51"), ("3", "8"), ("20", "21")]);
    assert_eq!(found.suspects_total(), 3);
    assert!(found.suspects().iter().all(|suspect| !suspect.outsider));
    // They leave the estimate as it was and stand in the upper end.
    let (before, after) = (clean.at_size(400).score_at(0.001), found.at_size(400).score_at(0.001));
    approx::assert_relative_eq!(before.score, after.score, epsilon = 0.01);
    assert!(after.high >= 2.0 * 3.0 / 400.0 && before.high < 0.01, "{before:?} {after:?}");

    let known = |a: u32, b: u32| (a.to_string(), b.to_string());
    let options = FitOptions { seed: 0, known_different: vec![known(8, 3), known(20, 21), known(50, 51)] };
    let told = Calibration::fit(&collect(&rows), &options).unwrap();
    assert_eq!(told.suspects_total(), 0);
    assert!(told.at_size(400).score_at(0.001).score > after.score);
}

#[test]
fn many_duplicates_do_not_hide_each_other() {
    let mut random = Random::new(6);
    let mut rows = scores(400, 0.0, &mut random);
    for pair in 0..40 {
        let score = 0.75 + 0.2 * random.uniform() as f32;
        rows[2 * pair][2 * pair + 1] = score;
        rows[2 * pair + 1][2 * pair] = score;
    }
    let found = fit(&rows);
    assert!(found.suspects_total() >= 36 && found.suspects_total() <= 41, "{}", found.suspects_total());
    assert_eq!(found.suspects().len(), 32);
    // More are in the upper end than the list holds.
    assert!(found.at_size(400).fpir_at(0.75).high > 0.16);
}

#[test]
fn outsiders_and_several_faces_a_subject() {
    let mut random = Random::new(9);
    let rows = scores(200, 0.0, &mut random);
    let mut maxima = collect(&rows);
    let names: Vec<String> = (0..200).map(|i| i.to_string()).collect();
    for person in 0..500 {
        // Two searches of everybody count as much as one.
        for _ in 0..2 {
            let hits = names.iter().map(|name| (name, (SIGMA * random.normal()) as f32));
            maxima.add(Prober::Outsider(&format!("o{person}")), 200, hits);
        }
    }
    // One who is enrolled after all.
    maxima.add(Prober::Outsider("o7"), 200, [("42", 0.9)]);
    let calibration = Calibration::fit(&maxima, &FitOptions::default()).unwrap();
    assert_eq!((calibration.probers(), calibration.searches()), (700, 1201));
    let suspect = &calibration.suspects()[0];
    assert_eq!((suspect.first.as_str(), suspect.second.as_str(), suspect.outsider), ("o7", "42", true));
    let at = calibration.at_size(200).score_at(0.01);
    let truth = true_fpir(at.score, 200);
    assert!(at.low <= truth && truth <= at.high, "{truth} {at:?}");
}

#[test]
fn too_little_is_refused() {
    for size in [0, 1, 2, 19] {
        let error = Calibration::fit(&collect(&scores(size, 0.0, &mut Random::new(1))), &FitOptions::default());
        let probes = if size > 1 { size } else { 0 };
        assert_eq!(error, Err(CalibrationError::TooFew { probes, required: 20 }));
    }
    let mut empty = MaximaCollector::new(100);
    let mut short = MaximaCollector::new(100);
    for probe in 0..30 {
        empty.add(Prober::Enrolled(&probe.to_string()), 99, std::iter::once(("x", f32::NAN)));
        short.add(Prober::Enrolled(&probe.to_string()), 99, std::iter::once(("x", probe as f32 / 100.0)));
    }
    for maxima in [empty, short] {
        let error = Calibration::fit(&maxima, &FitOptions::default());
        assert_eq!(error, Err(CalibrationError::ListsTooShort { required: DEPTH }));
    }
    let mut nobody = MaximaCollector::new(1);
    for probe in 0..30 {
        nobody.add(Prober::Outsider(&probe.to_string()), 1, std::iter::empty::<(&str, f32)>());
    }
    assert!(Calibration::fit(&nobody, &FitOptions::default()).is_err());
}

#[test]
fn equal_scores_do_no_harm() {
    for score in [0.0, 0.3, 1.0, -1.0] {
        let calibration = fit(&vec![vec![score; 30]; 30]);
        check_order(&calibration, 30);
        let above = calibration.at_size(30).fpir_at(f64::from(score) + 0.1);
        assert!(above.value < 0.01, "{score}: {above:?}");
    }
}

#[test]
fn the_stored_form_is_small_and_comes_back() {
    let mut rows = scores(500, 0.1, &mut Random::new(2));
    for pair in 0..40 {
        rows[2 * pair][2 * pair + 1] = 0.9;
        rows[2 * pair + 1][2 * pair] = 0.9;
    }
    let calibration = fit(&rows);
    let json = serde_json::to_string(&calibration).unwrap();
    assert!(json.len() < 12_000, "{}", json.len());
    assert_eq!(serde_json::from_str::<Calibration>(&json).unwrap(), calibration);
    let bytes = postcard::to_allocvec(&calibration).unwrap();
    assert_eq!(postcard::from_bytes::<Calibration>(&bytes).unwrap(), calibration);
    assert_eq!(fit(&rows), calibration);
}

#[test]
fn damaged_content_gives_answers_and_no_panic() {
    let calibration = fit(&scores(50, 0.0, &mut Random::new(2)));
    let mut broken = calibration.clone();
    broken.body.clear();
    broken.tail = Draws { factor: vec![], scale: vec![], shape: vec![] };
    let mut strange = calibration;
    strange.dispersion = f64::NAN;
    strange.gallery_size = 0;
    for calibration in [broken, strange] {
        let view = calibration.at_size(0);
        for score in [f64::NAN, f64::INFINITY, -2.0, 0.4] {
            let at = view.fpir_at(score);
            assert!(at.value >= SMALLEST_RATE && at.value <= LARGEST_RATE);
        }
        view.table();
    }
}

#[test]
fn the_stated_rule_says_when_it_is_stale() {
    let calibration = fit(&scores(100, 0.0, &mut Random::new(2)));
    let fresh = Since { gallery_size: 100, changed_subjects: 0, same_model: true, same_fusion: true };
    assert_eq!(calibration.staleness(fresh), None);
    assert_eq!(calibration.staleness(Since { gallery_size: 120, changed_subjects: 20, ..fresh }), None);
    for gallery_size in [79, 121, 1000] {
        assert_eq!(calibration.staleness(Since { gallery_size, ..fresh }), Some(Stale::Size));
    }
    assert_eq!(calibration.staleness(Since { changed_subjects: 21, ..fresh }), Some(Stale::Changes));
    assert_eq!(calibration.staleness(Since { same_fusion: false, ..fresh }), Some(Stale::Fusion));
    assert_eq!(calibration.staleness(Since { same_model: false, same_fusion: false, ..fresh }), Some(Stale::Model));
}

/// Rates fall with the score, lie in their intervals, and scores and rates answer each other.
fn check_order(calibration: &Calibration, size: u64) {
    for view in [calibration.at_size(size), calibration.at_size(size * 10), calibration.at_size(1)] {
        let mut before: Option<Estimate> = None;
        for step in -120..=140 {
            let at = view.fpir_at(f64::from(step) / 100.0);
            assert!(SMALLEST_RATE <= at.low && at.low <= at.value && at.value <= at.high && at.high <= LARGEST_RATE);
            if let Some(before) = before {
                // Rounding may move the last digit either way.
                assert!(at.value <= before.value * (1.0 + 1e-9), "{step}: {before:?} {at:?}");
                assert!(at.low <= before.low * (1.0 + 1e-9), "{step}: {before:?} {at:?}");
                assert!(!before.extrapolated || at.extrapolated);
            }
            before = Some(at);
        }
        let table = view.table();
        assert!(
            table
                .windows(2)
                .all(|rows| rows[0].1.score <= rows[1].1.score && rows[0].1.fpir * (1.0 + 1e-9) >= rows[1].1.fpir)
        );
        for (rate, at) in table {
            assert!(at.fpir <= rate || at.score == 1.0, "{rate} {at:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        rng_seed: proptest::test_runner::RngSeed::Fixed(20_261_124),
        ..ProptestConfig::with_cases(24)
    })]
    #[test]
    fn rates_are_in_order(size in 20usize..80, seed: u64, levels in 1u32..200) {
        let mut rows = scores(size, 0.2, &mut Random::new(seed));
        // Coarse scores have many ties.
        for value in rows.iter_mut().flatten() {
            *value = (*value * levels as f32).round() / levels as f32;
        }
        check_order(&fit(&rows), size as u64);
    }

    #[test]
    fn the_two_parts_meet(seed: u64) {
        let calibration = fit(&scores(150, 0.1, &mut Random::new(seed)));
        let view = calibration.at_size(150);
        let at = |offset: f64| view.fpir_at(calibration.tail_from() + offset);
        let (below, above) = (at(-1e-9), at(1e-9));
        for (a, b) in [(below.value, above.value), (below.low, above.low), (below.high, above.high)] {
            prop_assert!((a / b - 1.0).abs() < 1e-4, "{below:?} {above:?}");
        }
    }
}
