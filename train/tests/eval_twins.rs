//! The evaluations against slow and straightforward twins, written from the published code's rules, on made-up inputs: many
//! equal scores, one class only, nobody enrolled, templates without images, everything twice.

use std::collections::BTreeMap;

use proptest::prelude::*;
use vultus_train::eval::dir_far::{Rounding, Rule, closed_set, open_set};
use vultus_train::eval::roc::Roc;
use vultus_train::eval::search::{Labelled, Search, Ties, cmc, search, search_all, shares_at_ranks};
use vultus_train::eval::{EvalError, Rows, dot, folds, ijb, ijbs, media, tinyface, trade_off};

/// Scores of a few values only, so that many are equal.
fn coarse(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec((-6..=6i32).prop_map(|score| f64::from(score) / 8.0), count)
}

fn rows(dim: usize, values: Vec<f64>) -> Rows<f64> {
    Rows::new("row", dim, values).unwrap()
}

/// Templates of three values from a small grid, and subjects of whom some are one person.
fn people(count: std::ops::Range<usize>, subjects: i64) -> impl Strategy<Value = Labelled> {
    let one = (prop::array::uniform3(-2..=2i32), 0..subjects);
    prop::collection::vec(one, count).prop_map(|people| {
        let values = people.iter().flat_map(|(row, _)| row.map(|value| f64::from(value) / 2.0)).collect();
        Labelled::new(rows(3, values), people.iter().map(|(_, subject)| *subject).collect()).unwrap()
    })
}

/// The order in which a stable sort lists candidates.
fn order(scores: &[f64], ties: Ties) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    match ties {
        Ties::EarlierFirst | Ties::AgainstMate => order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap()),
        Ties::LaterFirst => {
            order.sort_by(|&a, &b| scores[a].partial_cmp(&scores[b]).unwrap());
            order.reverse();
        }
    }
    order
}

fn search_twin(scores: &[f64], labels: &[bool], ties: Ties) -> (Option<usize>, Option<f64>) {
    let mut order = order(scores, ties);
    if ties == Ties::AgainstMate {
        order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap().then(labels[a].cmp(&labels[b])));
    }
    let rank = order.iter().position(|&place| labels[place]).map(|at| at + 1);
    (rank, order.iter().find(|&&place| labels[place]).map(|&place| scores[place]))
}

/// Points (threshold, false accepts, true accepts), thinned by second differences, after a first one of zeros.
fn roc_twin(scores: &[f64], mated: &[bool]) -> Vec<(f64, usize, usize)> {
    let mut thresholds = scores.to_vec();
    thresholds.sort_by(|a, b| b.partial_cmp(a).unwrap());
    thresholds.dedup();
    let count = |threshold: f64, wanted: bool| {
        scores.iter().zip(mated).filter(|(score, mated)| **score >= threshold && **mated == wanted).count()
    };
    let all: Vec<(f64, usize, usize)> =
        thresholds.iter().map(|&threshold| (threshold, count(threshold, false), count(threshold, true))).collect();
    let mut kept = vec![(f64::INFINITY, 0, 0)];
    for at in 0..all.len() {
        let second = |pick: fn(&(f64, usize, usize)) -> usize| {
            pick(&all[at + 1]) as i64 - 2 * pick(&all[at]) as i64 + pick(&all[at - 1]) as i64
        };
        if at == 0 || at == all.len() - 1 || second(|p| p.1) != 0 || second(|p| p.2) != 0 {
            kept.push(all[at]);
        }
    }
    kept
}

/// Accuracy and threshold of each fold, by trying everything.
fn folds_twin(distances: &[f64], same: &[bool], folds: usize) -> (Vec<f64>, Vec<f64>) {
    let pairs = distances.len();
    let (mut accuracies, mut chosen, mut start) = (vec![], vec![], 0);
    for fold in 0..folds {
        let size = pairs / folds + usize::from(fold < pairs % folds);
        let test: Vec<usize> = (start..start + size).collect();
        let train: Vec<usize> = (0..pairs).filter(|pair| !test.contains(pair)).collect();
        start += size;
        let accuracy = |pairs: &[usize], threshold: f64| {
            pairs.iter().filter(|&&pair| (distances[pair] < threshold) == same[pair]).count() as f64
                / pairs.len() as f64
        };
        let (mut best, mut best_accuracy) = (0.0, -1.0);
        for at in 0..400 {
            let threshold = f64::from(at) * 0.01;
            if accuracy(&train, threshold) > best_accuracy {
                (best, best_accuracy) = (threshold, accuracy(&train, threshold));
            }
        }
        accuracies.push(accuracy(&test, best));
        chosen.push(best);
    }
    (accuracies, chosen)
}

fn open_twin(searches: &[(Option<usize>, f64, f64)], fpir: f64, rank: usize, rule: Rule) -> (f64, f64, Option<f64>) {
    let mut highest: Vec<f64> = searches.iter().filter(|s| s.0.is_none()).map(|s| s.2).collect();
    highest.sort_by(|a, b| a.partial_cmp(b).unwrap());
    highest.reverse();
    let alarms = match rule.rounding {
        Rounding::Down => (highest.len() as f64 * fpir) as usize,
        Rounding::Nearest => (highest.len() as f64 * fpir).round_ties_even() as usize,
    };
    let threshold = if alarms == 0 { highest[0] + rule.epsilon } else { highest[alarms - 1] };
    let mated: Vec<_> = searches.iter().filter(|s| s.0.is_some()).collect();
    let hits = mated.iter().filter(|s| s.0.unwrap() <= rank && s.1 >= threshold).count();
    let share = if mated.is_empty() { None } else { Some(hits as f64 / mated.len() as f64) };
    (threshold, highest.iter().filter(|s| **s >= threshold).count() as f64 / highest.len() as f64, share)
}

const TIES: [Ties; 3] = [Ties::EarlierFirst, Ties::LaterFirst, Ties::AgainstMate];

proptest! {
    #[test]
    fn roc_has_the_points_of_its_twin(scores in coarse(1..60), seed in any::<u64>()) {
        let mated: Vec<bool> = (0..scores.len()).map(|at| seed >> (at % 64) & 1 == 1).collect();
        let roc = Roc::new(&scores, &mated).unwrap();
        let points: Vec<_> = roc.points.iter().map(|p| (p.threshold, p.false_accepts, p.true_accepts)).collect();
        let twin = roc_twin(&scores, &mated);
        prop_assert_eq!(&points, &twin);
        let (negatives, positives) = (mated.iter().filter(|m| !**m).count(), mated.iter().filter(|m| **m).count());
        prop_assert_eq!((roc.non_mated, roc.mated), (negatives, positives));
        for far in [0.0, 1e-6, 0.1, 0.25, 0.5, 1.0] {
            if negatives == 0 || positives == 0 {
                prop_assert!(roc.tar_at(far).is_none() && roc.area().is_none() && roc.table(&[far]).is_empty());
                continue;
            }
            // The least distance, of equal ones the first from the end.
            let mut best: Option<(f64, f64)> = None;
            for &(_, fp, tp) in twin.iter().rev() {
                let distance = (fp as f64 / negatives as f64 - far).abs();
                if best.is_none_or(|(least, _)| distance < least) {
                    best = Some((distance, tp as f64 / positives as f64));
                }
            }
            prop_assert_eq!(roc.tar_at(far).unwrap().tar, best.unwrap().1);
        }
        if let Some(area) = roc.area() {
            // The area is the chance that a mated score is above a non-mated one, equal ones counting half.
            let mut wins = 0.0;
            for (a, _) in scores.iter().zip(&mated).filter(|(_, mated)| **mated) {
                for (b, _) in scores.iter().zip(&mated).filter(|(_, mated)| !**mated) {
                    wins += if a > b { 1.0 } else if a == b { 0.5 } else { 0.0 };
                }
            }
            prop_assert!((area - wins / (negatives * positives) as f64).abs() < 1e-12);
        }
    }

    #[test]
    fn folds_decide_as_their_twin(
        distances in prop::collection::vec(prop_oneof![
            (0..=410i32).prop_map(|d| f64::from(d) * 0.01), 0.0..4.0f64, Just(0.0), Just(4.0), Just(f64::INFINITY)
        ], 2..70),
        folds in 2usize..12,
        seed in any::<u64>(),
    ) {
        let same: Vec<bool> = (0..distances.len()).map(|at| seed >> (at % 61) & 1 == 1).collect();
        let outcome = folds::verify(&distances, &same, &folds::contiguous(distances.len(), folds), folds);
        if distances.len() < folds {
            let is_empty = matches!(outcome, Err(EvalError::EmptyFold { .. }));
            prop_assert!(is_empty);
        } else {
            let outcome = outcome.unwrap();
            let (accuracies, thresholds) = folds_twin(&distances, &same, folds);
            prop_assert_eq!(outcome.accuracies, accuracies);
            prop_assert_eq!(outcome.thresholds, thresholds);
        }
    }

    #[test]
    fn ranks_are_those_of_a_stable_sort(scores in coarse(1..30), seed in any::<u32>()) {
        let labels: Vec<bool> = (0..scores.len()).map(|at| seed >> (at % 32) & 1 == 1).collect();
        for ties in TIES {
            let found = search(&scores, |place| labels[place], ties);
            let (rank, score) = search_twin(&scores, &labels, ties);
            prop_assert_eq!(found.mate.map(|mate| mate.rank), rank);
            prop_assert_eq!(found.mate.map(|mate| mate.score), score);
            prop_assert_eq!(found.mates, labels.iter().filter(|is_mate| **is_mate).count());
            let others = scores.iter().zip(&labels).filter(|(_, is_mate)| !**is_mate).map(|(score, _)| *score);
            prop_assert_eq!(found.best_other, others.reduce(f64::max));
        }
    }

    #[test]
    fn templates_are_sums_of_means(
        images in prop::collection::vec((0..6i64, -1..3i64, prop::array::uniform2(-3..=3i32)), 1..40),
        chosen in prop::collection::vec(0..9i64, 1..9),
    ) {
        let values: Vec<f64> = images.iter().flat_map(|(_, _, row)| row.map(f64::from)).collect();
        let templates: Vec<i64> = images.iter().map(|(template, ..)| *template).collect();
        let medium: Vec<i64> = images.iter().map(|(_, medium, _)| *medium).collect();
        let made = media::fuse_media(&rows(2, values), &templates, &medium, Some(&chosen)).unwrap();
        let mut wanted = chosen.clone();
        wanted.sort_unstable();
        wanted.dedup();
        prop_assert_eq!(&made.ids, &wanted);
        let mut empty = 0;
        for (id, vector) in wanted.iter().zip(made.vectors.iter()) {
            let mut by_medium: BTreeMap<i64, Vec<[f64; 2]>> = BTreeMap::new();
            for (_, medium, row) in images.iter().filter(|(template, ..)| template == id) {
                by_medium.entry(*medium).or_default().push(row.map(f64::from));
            }
            let mut sum = [0.0, 0.0];
            for frames in by_medium.values() {
                for axis in 0..2 {
                    sum[axis] += frames.iter().map(|frame| frame[axis]).sum::<f64>() / frames.len() as f64;
                }
            }
            let length = sum[0].hypot(sum[1]);
            if length < 1e-12 {
                empty += 1;
                prop_assert!(vector.iter().all(|value| value.abs() <= 1.0));
            } else {
                prop_assert!((vector[0] - sum[0] / length).abs() < 1e-12 && (vector[1] - sum[1] / length).abs() < 1e-12);
            }
        }
        prop_assert!(made.empty <= empty);
        let all = media::fuse_media(&rows(2, vec![1.0; 2 * images.len()]), &templates, &medium, None).unwrap();
        let mut ids = templates.clone();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(all.ids, ids);
    }

    #[test]
    fn one_to_many_counts_as_its_twin(probes in people(1..40, 12), gallery in people(1..25, 12)) {
        let outcome = ijb::identify(&probes, &gallery);
        let mates = |probe: usize| gallery.subjects().iter().filter(|s| **s == probes.subjects()[probe]).count();
        if (0..probes.len()).any(|probe| mates(probe) != 1) {
            let is_mates = matches!(outcome, Err(EvalError::Mates { .. }));
            prop_assert!(is_mates);
            return Ok(());
        }
        check_one_to_many(&outcome.unwrap(), &probes, &gallery)?;
    }

    #[test]
    fn one_to_many_of_a_whole_gallery(gallery in people(1..20, 1), picks in prop::collection::vec(any::<prop::sample::Index>(), 1..90)) {
        // Everybody enrolled once, so that every probe has its mate; equal templates and probes abound.
        let subjects: Vec<i64> = (0..gallery.len() as i64).collect();
        let gallery = Labelled::new(gallery.vectors().clone(), subjects).unwrap();
        let whom: Vec<usize> = picks.iter().map(|pick| pick.index(gallery.len())).collect();
        let values = whom.iter().flat_map(|&who| gallery.vectors().row((who * 7 + 3) % gallery.len()).to_vec()).collect();
        let probes = Labelled::new(rows(3, values), whom.iter().map(|&who| who as i64).collect()).unwrap();
        check_one_to_many(&ijb::identify(&probes, &gallery).unwrap(), &probes, &gallery)?;
    }

    #[test]
    fn open_and_closed_sets_count_as_their_twins(
        probes in people(1..40, 9),
        gallery in people(1..15, 14),
        fpir in prop_oneof![Just(0.01), Just(0.1), Just(0.5), Just(1.0), 0.0..1.0f64],
        rank in 1usize..6,
    ) {
        let found = search_all(&probes, &gallery, Ties::LaterFirst).unwrap();
        let mut twins = Vec::new();
        let mut most_mates = 0;
        for probe in 0..probes.len() {
            let scores: Vec<f64> = gallery.vectors().iter().map(|row| dot(probes.vectors().row(probe), row)).collect();
            let labels: Vec<bool> = gallery.subjects().iter().map(|s| *s == probes.subjects()[probe]).collect();
            most_mates = most_mates.max(labels.iter().filter(|label| **label).count());
            let (rank, score) = search_twin(&scores, &labels, Ties::LaterFirst);
            twins.push((rank, score.unwrap_or(0.0), scores.iter().copied().fold(f64::NEG_INFINITY, f64::max)));
        }
        let ranks: Vec<usize> = twins.iter().filter_map(|twin| twin.0).collect();
        let closed = closed_set(&found, &[rank], Rule::TINYFACE).unwrap();
        let share = ranks.iter().filter(|own| **own <= rank).count() as f64 / ranks.len() as f64;
        prop_assert_eq!(closed, (!ranks.is_empty()).then(|| vec![share]));
        for rule in [Rule::IJBS, Rule::TINYFACE] {
            let open = open_set(&found, &[fpir], rank, rule);
            if most_mates > 1 {
                let is_mates = matches!(open, Err(EvalError::Mates { .. }));
                prop_assert!(is_mates && closed_set(&found, &[1], Rule::IJBS).is_err());
            } else if ranks.len() == probes.len() {
                let is_none = matches!(open, Err(EvalError::None(_)));
                prop_assert!(is_none);
            } else {
                let point = open.unwrap()[0];
                prop_assert_eq!((point.threshold, point.measured_fpir, point.tpir), open_twin(&twins, fpir, rank, rule));
            }
        }
    }

    #[test]
    fn the_trade_off_counts_as_its_twin(probes in people(1..60, 20), gallery in people(1..15, 10)) {
        let outcome = trade_off::trade_off(&probes, &gallery).unwrap();
        let found = search_all(&probes, &gallery, Ties::AgainstMate).unwrap();
        prop_assert_eq!(outcome.mated + outcome.non_mated, probes.len());
        for (rank, fnir) in &outcome.investigation {
            prop_assert!((1.0 - shares_at_ranks(&found, &[*rank]).unwrap()[0] - fnir).abs() < 1e-12);
        }
        let non_mated: Vec<&Search> = found.iter().filter(|search| search.mate.is_none()).collect();
        let mates: Vec<_> = found.iter().filter_map(|search| search.mate).collect();
        for point in &outcome.identification {
            let threshold = point.threshold;
            let alarms = non_mated.iter().filter(|s| s.best_other.unwrap() >= threshold).count();
            prop_assert_eq!(point.measured_fpir, alarms as f64 / non_mated.len() as f64);
            prop_assert!(point.measured_fpir <= point.fpir);
            let missed = |any: bool| mates.iter().filter(|m| m.score < threshold || (!any && m.rank > 1)).count();
            prop_assert_eq!(point.fnir_first, missed(false) as f64 / mates.len() as f64);
            prop_assert_eq!(point.fnir_any, missed(true) as f64 / mates.len() as f64);
        }
        for (fpir, fnir) in outcome.curve() {
            prop_assert!((0.0..=1.0).contains(&fpir) && (0.0..=1.0).contains(&fnir));
            let threshold = non_mated.iter().filter_map(|s| s.best_other)
                .filter(|t| non_mated.iter().filter(|s| s.best_other.unwrap() >= *t).count() as f64 / non_mated.len() as f64 == fpir)
                .reduce(f64::min).unwrap();
            let missed = mates.iter().filter(|m| m.score < threshold || m.rank > 1).count();
            prop_assert!((fnir - missed as f64 / mates.len() as f64).abs() < 1e-12);
        }
    }
}

fn check_one_to_many(
    outcome: &ijb::Identification,
    probes: &Labelled,
    gallery: &Labelled,
) -> Result<(), TestCaseError> {
    let (mut others, mut own, mut hits) = (Vec::new(), Vec::new(), [0usize; 3]);
    for probe in 0..probes.len() {
        let scores: Vec<f64> = gallery.vectors().iter().map(|row| dot(probes.vectors().row(probe), row)).collect();
        let mate = gallery.subjects().iter().position(|s| *s == probes.subjects()[probe]).unwrap();
        let order = order(&scores, Ties::EarlierFirst);
        for (hit, rank) in hits.iter_mut().zip([1, 5, 10]) {
            *hit += usize::from(order.iter().take(rank).any(|place| *place == mate));
        }
        own.push(scores[mate]);
        others.extend(scores.iter().enumerate().filter(|(place, _)| *place != mate).map(|(_, score)| *score));
    }
    others.sort_by(|a, b| b.partial_cmp(a).unwrap());
    let count = probes.len() as f64;
    for ((rank, share), (hit, expected)) in outcome.ranks.iter().zip(hits.iter().zip([1, 5, 10])) {
        prop_assert_eq!((*rank, *share), (expected, *hit as f64 / count));
    }
    for retrieval in &outcome.retrieval {
        let place = (count * retrieval.far).ceil() as usize;
        let threshold = others.get(place - 1).copied();
        prop_assert_eq!(retrieval.threshold, threshold);
        let recall = threshold.map(|threshold| own.iter().filter(|score| **score > threshold).count() as f64 / count);
        prop_assert_eq!(retrieval.recall, recall);
    }
    Ok(())
}

fn labelled(people: &[([f64; 2], i64)]) -> Labelled {
    let values = people.iter().flat_map(|(row, _)| *row).collect();
    Labelled::new(rows(2, values), people.iter().map(|(_, subject)| *subject).collect()).unwrap()
}

#[test]
fn frames_are_averaged_and_no_frame_is_nobody() {
    let images = rows(2, vec![3.0, 0.0, 0.0, 1.0, 0.0, 3.0]);
    let made = ijbs::frame_templates(&images, &[vec![0, 1], vec![], vec![1]]).unwrap();
    let length = (1.5f64 * 1.5 + 0.25).sqrt() + 1e-8;
    assert!((made.row(0)[0] - 1.5 / length).abs() < 1e-15 && (made.row(0)[1] - 0.5 / length).abs() < 1e-15);
    assert_eq!(made.row(1), [0.0, 0.0]);
    assert!((made.row(2)[1] - 1.0 / (1.0 + 1e-8)).abs() < 1e-15);
    assert!(matches!(ijbs::frame_templates(&images, &[vec![3]]), Err(EvalError::Length { .. })));
    assert!(matches!(ijbs::frame_templates(&images, &[]), Err(EvalError::None(_))));
}

#[test]
fn a_person_in_both_galleries_is_refused() {
    let probes = labelled(&[([1.0, 0.0], 1), ([0.0, 1.0], 2), ([0.5, 0.5], 3)]);
    let (first, second) = (labelled(&[([1.0, 0.0], 1)]), labelled(&[([0.0, 1.0], 2)]));
    let outcome = ijbs::two_galleries(&probes, &first, &second).unwrap();
    assert_eq!(outcome.closed, [(1, Some(1.0)), (5, Some(1.0)), (10, Some(1.0))]);
    // Non-mated searches reach 0.5 in each gallery: no alarm allowed, so just above that.
    assert_eq!(outcome.open, [(0.01, Some(1.0)), (0.1, Some(1.0))]);
    assert_eq!(outcome.by_gallery[0][0].threshold, 0.5 + 1e-8);
    assert!(matches!(ijbs::two_galleries(&probes, &first, &first), Err(EvalError::Mates { mates: 2, .. })));
    let all = labelled(&[([1.0, 0.0], 1), ([0.0, 1.0], 2), ([0.5, 0.5], 3)]);
    assert!(matches!(
        ijbs::two_galleries(&probes, &all, &labelled(&[([1.0, 0.0], 9)])),
        Err(EvalError::None("probes of persons who are not enrolled"))
    ));
}

#[test]
fn several_mates_of_tiny_faces_count_once() {
    let probes = labelled(&[([1.0, 0.0], 1), ([0.0, 1.0], 7)]);
    let gallery = labelled(&[([0.1, 0.0], 1), ([1.0, 0.0], 1), ([0.5, 0.0], tinyface::DISTRACTOR)]);
    let outcome = tinyface::identify(&probes, &gallery).unwrap();
    assert_eq!((outcome.probes, outcome.mated, outcome.gallery), (2, 1, 3));
    assert_eq!(outcome.ranks, [(1, Some(1.0)), (5, Some(1.0)), (20, Some(1.0))]);
    let nobody = tinyface::identify(&labelled(&[([0.0, 1.0], 7)]), &gallery).unwrap();
    assert_eq!(nobody.ranks[0], (1, None));
    assert_eq!(tinyface::subject_of("x/Probe/123_4.jpg".as_ref()).unwrap(), 123);
    assert!(tinyface::subject_of("x/Probe/123.jpg".as_ref()).is_err());
}

#[test]
fn nothing_to_count_is_no_figure() {
    let empty = Labelled::new(rows(2, vec![]), vec![]).unwrap();
    let one = labelled(&[([1.0, 0.0], 1)]);
    assert!(matches!(search_all(&empty, &one, Ties::LaterFirst), Err(EvalError::None("probes"))));
    assert!(matches!(search_all(&one, &empty, Ties::LaterFirst), Err(EvalError::None(_))));
    assert!(ijb::identify(&empty, &one).is_err() && ijb::identify(&one, &empty).is_err());
    assert!(Labelled::new(rows(2, vec![1.0, 0.0]), vec![]).is_err());
    assert!(shares_at_ranks(&[], &[1]).is_none() && cmc(&[], 5).is_empty());
    assert!(matches!(Roc::new(&[], &[]), Err(EvalError::None(_))));
    assert!(matches!(Roc::new(&[f64::NAN], &[true]), Err(EvalError::NotFinite { .. })));
    assert!(matches!(Roc::new(&[1.0], &[]), Err(EvalError::Length { .. })));
    assert!(matches!(folds::ten_folds(&[f64::NAN; 10], &[true; 10]), Err(EvalError::NotFinite { .. })));
    assert!(matches!(folds::ten_folds(&[], &[]), Err(EvalError::EmptyFold { .. })));
    assert!(matches!(folds::verify(&[1.0], &[true], &[0], 1), Err(EvalError::None(_))));
    assert!(folds::verify(&[1.0, 1.0], &[true, true], &[0, 2], 2).is_err());
    assert!(folds::squared_distances(&rows(1, vec![1.0, 2.0, 3.0])).is_err());
    // A single mated probe and gallery: nobody else to set a threshold by.
    let alone = ijb::identify(&one, &one).unwrap();
    assert_eq!(alone.ranks[0], (1, 1.0));
    assert!(alone.retrieval.iter().all(|retrieval| retrieval.threshold.is_none() && retrieval.recall.is_none()));
    let templates = media::fuse_media(&rows(1, vec![1.0]), &[4], &[1], None).unwrap();
    assert!(matches!(ijb::verification_scores(&templates, &[(4, 5)]), Err(EvalError::UnknownTemplate(5))));
    assert_eq!(ijb::verification_scores(&templates, &[(4, 4)]).unwrap(), [1.0]);
}

#[test]
fn of_a_template_listed_twice_the_first_subject_counts() {
    let images = rows(1, vec![1.0, -1.0, 2.0]);
    let records = [(9, 70), (5, 50), (9, 71), (6, 60)];
    let (made, empty) = ijb::labelled_templates(&images, &[5, 9, 5], &[1, 1, 1], &records).unwrap();
    assert_eq!(made.subjects(), [50, 60, 70]);
    assert_eq!((made.vectors().values(), empty), (&[1.0, 0.0, -1.0][..], 1));
}

#[test]
fn the_same_twice_changes_no_rate() {
    let scores = [0.9, 0.7, 0.7, 0.4, 0.1];
    let mated = [true, true, false, true, false];
    let (once, twice) = (Roc::new(&scores, &mated), Roc::new(&[scores, scores].concat(), &[mated, mated].concat()));
    let (once, twice) = (once.unwrap(), twice.unwrap());
    assert_eq!((once.area(), once.fpr(), once.tpr()), (twice.area(), twice.fpr(), twice.tpr()));
}
