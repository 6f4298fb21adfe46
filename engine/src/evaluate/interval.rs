//! How sure a share is: bootstrap over people.
//!
//! Searches of one person resemble each other, so people are resampled, not searches (the cluster bootstrap; Efron and
//! Tibshirani 1993). Two rules tried on the same probes are compared by their difference in each person, which leaves
//! out what both find hard.

use crate::random::Random;

/// A figure with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The figure itself.
    pub value: f64,
    /// 2.5 % quantile.
    pub low: f64,
    /// 97.5 % quantile.
    pub high: f64,
}

/// What one person adds to a share: `hits` of `trials`. Of a difference of shares, the hits of one minus those of the other.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// Successes, or a difference of successes.
    pub hits: f64,
    /// Trials.
    pub trials: f64,
}

/// Σ hits / Σ trials with its interval from `rounds` resamples of the people. `None` without trials.
pub fn bootstrap(people: &[Tally], rounds: usize, random: &mut Random) -> Option<Interval> {
    let value = ratio(people.iter().copied())?;
    let mut values: Vec<f64> = (0..rounds.max(1))
        .filter_map(|_| ratio((0..people.len()).map(|_| people[random.below(people.len())]).collect::<Vec<_>>()))
        .collect();
    values.sort_by(f64::total_cmp);
    Some(Interval {
        value,
        low: percentile(&values, 0.025).unwrap_or(value),
        high: percentile(&values, 0.975).unwrap_or(value),
    })
}

fn ratio(people: impl IntoIterator<Item = Tally>) -> Option<f64> {
    let (hits, trials) =
        people.into_iter().fold((0.0, 0.0), |(hits, trials), one| (hits + one.hits, trials + one.trials));
    (trials > 0.0).then(|| hits / trials)
}

/// The value below which a share of sorted values lies, interpolated between neighbours. `None` without values.
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share.clamp(0.0, 1.0) * last as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = (below + 1).min(last);
    Some(sorted[below] + part * (sorted[above] - sorted[below]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_interpolated() {
        let values = [1.0, 2.0, 4.0];
        let at = |share| percentile(&values, share).unwrap();
        assert_eq!([at(0.0), at(0.25), at(0.5), at(0.75), at(1.0)], [1.0, 1.5, 2.0, 3.0, 4.0]);
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn the_interval_has_the_width_of_the_binomial_one() {
        // 400 people with one trial each, half of them hits: standard error 0.025.
        let people: Vec<Tally> = (0..400).map(|i| Tally { hits: f64::from(i % 2), trials: 1.0 }).collect();
        let interval = bootstrap(&people, 2_000, &mut Random::new(1)).unwrap();
        assert_eq!(interval.value, 0.5);
        assert!((interval.low - 0.451).abs() < 0.006 && (interval.high - 0.549).abs() < 0.006, "{interval:?}");
        assert_eq!(bootstrap(&people, 2_000, &mut Random::new(1)), Some(interval));
    }

    #[test]
    fn many_trials_of_few_people_do_not_make_it_narrow() {
        let people = [(1_000.0, 1_000.0), (0.0, 1_000.0), (1_000.0, 1_000.0), (0.0, 1_000.0)];
        let people = people.map(|(hits, trials)| Tally { hits, trials });
        let interval = bootstrap(&people, 500, &mut Random::new(2)).unwrap();
        assert!(interval.high - interval.low > 0.7, "{interval:?}");
        assert_eq!(bootstrap(&[], 10, &mut Random::new(2)), None);
        assert_eq!(bootstrap(&[Tally::default()], 10, &mut Random::new(2)), None);
    }
}
