//! Which classes of a shard a step looks at.

use vultus_engine::random::Random;

/// Rows of a shard of `rows`: all `positives`, which are rising, and so many others at random that they are `quota`
/// together. Rising. Where there are more positives than that, just them.
pub(super) fn sample(rows: usize, positives: &[u32], quota: usize, random: &mut Random) -> Vec<u32> {
    let mut others = Vec::with_capacity(rows - positives.len());
    let mut next = positives.iter().peekable();
    for row in 0..rows as u32 {
        if next.next_if_eq(&&row).is_none() {
            others.push(row);
        }
    }
    let wanted = quota.saturating_sub(positives.len()).min(others.len());
    // The first steps of a shuffle (Fisher and Yates 1938) are a sample without repeats.
    for taken in 0..wanted {
        let pick = taken + random.below(others.len() - taken);
        others.swap(taken, pick);
    }
    others.truncate(wanted);
    others.extend_from_slice(positives);
    others.sort_unstable();
    others
}

/// The column of a row among those sampled.
pub(super) fn column(sampled: &[u32], row: u32) -> Option<u32> {
    sampled.binary_search(&row).ok().map(|column| column as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positives_are_kept_and_filled_up() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let sampled = sample(20, &[3, 11, 19], 8, &mut random);
            assert_eq!(sampled.len(), 8);
            assert!(sampled.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(sampled.iter().all(|row| *row < 20));
            for (row, known) in [(3, true), (11, true), (19, true)] {
                assert_eq!(column(&sampled, row).is_some(), known);
            }
            assert_eq!(sampled[column(&sampled, 11).unwrap() as usize], 11);
            assert_eq!(sample(20, &[3, 11, 19], 8, &mut Random::new(seed)), sampled);
        }
        let random = &mut Random::new(1);
        assert_eq!(sample(20, &[3, 11, 19], 2, random), [3, 11, 19]);
        assert_eq!(sample(5, &[1], 5, random), [0, 1, 2, 3, 4]);
        assert_eq!(sample(5, &[], 9, random), [0, 1, 2, 3, 4]);
        assert_eq!(column(&[1, 4], 2), None);
    }

    #[test]
    fn others_are_as_likely_as_each_other() {
        let mut counts = [0u32; 10];
        let mut random = Random::new(7);
        for _ in 0..20_000 {
            for row in sample(10, &[4], 4, &mut random) {
                counts[row as usize] += 1;
            }
        }
        assert_eq!(counts[4], 20_000);
        // 3 of 9: a third, with a standard deviation of 67.
        for (row, count) in counts.into_iter().enumerate().filter(|(row, _)| *row != 4) {
            assert!((6_330..7_000).contains(&count), "{row}: {count}");
        }
    }
}
