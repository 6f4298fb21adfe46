//! How near is near for a probe: which product with sketches the rows have that are looked at further.
//!
//! Nearly always products are spread normally over a gallery, and means and covariances of its levels say which product a small
//! share of the rows reach (`spread`). Whether they are is asked of some thousand rows, for each probe. Where they are not, as in a
//! gallery of two kinds of faces that have little in common, products of more rows are counted.

use std::ops::Range;

use super::cascade::{BLOCKS, Cascade};
use super::flat::CHUNK_ROWS;
use super::spread::Spread;
use crate::kernel::isa::Isa;
use crate::kernel::levels::{self, PROBES};

/// Chunks of which is asked whether products are spread normally: whether this share of the rows, or a greater one that is to be
/// near, reach the product that they should, within a factor.
const ASKED: usize = 16;
const ASKED_FOR: f64 = 1.0 / 256.0;
const WITHIN: f64 = 3.0;
/// Chunks of which products are counted where they are not, so many at least and at most, and how many of their rows should be near:
/// of a few the least product would be anybody's guess.
const COUNTED: Range<usize> = 16..256;
const NEAR_COUNTED: f64 = 32.0;

/// A probe in bytes, and the share of the rows that are to be near.
pub(super) type Wanted<'p> = (&'p [i8], f64);

impl Cascade {
    /// The least products of the rows that are near.
    pub(super) fn least_products(&self, probes: &[Wanted<'_>]) -> Vec<i32> {
        let each = probes.iter().zip(self.spreads(probes));
        each.map(|((sight, share), spread)| match spread {
            Some(spread) => spread.reached_by(*share),
            None => self.counted_least(sight, *share),
        })
        .collect()
    }

    /// The shares of the rows that reach some products with a probe.
    pub(super) fn shares_reaching(&self, sight: &[i8], products: &[i32]) -> Vec<f64> {
        if let [Some(spread)] = self.spreads(&[(sight, 0.0)])[..] {
            return products.iter().map(|product| spread.share_reaching(*product)).collect();
        }
        let probes: Vec<(&[i8], i32)> = products.iter().map(|product| (sight, *product)).collect();
        let (counts, rows) = self.count(&probes, COUNTED.end);
        counts.into_iter().map(|count| count as f64 / rows as f64).collect()
    }

    /// How products with each probe are spread, where it is normally.
    fn spreads(&self, probes: &[Wanted<'_>]) -> Vec<Option<Spread>> {
        let spreads: Vec<Spread> = probes.iter().map(|(sight, _)| self.directions().spread(sight)).collect();
        let asked_for = |share: f64| share.max(ASKED_FOR);
        let asked: Vec<(&[i8], i32)> = probes
            .iter()
            .zip(&spreads)
            .map(|((sight, share), spread)| (*sight, spread.reached_by(asked_for(*share))))
            .collect();
        let (counts, rows) = self.count(&asked, ASKED);
        let each = probes.iter().zip(spreads).zip(counts);
        each.map(|(((_, share), spread), count)| {
            let expected = asked_for(*share) * rows as f64;
            (expected / WITHIN..=expected * WITHIN).contains(&(count as f64)).then_some(spread)
        })
        .collect()
    }

    /// The greatest product that this share of the rows reach.
    fn counted_least(&self, sight: &[i8], share: f64) -> i32 {
        let chunks = (NEAR_COUNTED / (share * CHUNK_ROWS as f64)).ceil() as usize;
        let chunks = chunks.clamp(COUNTED.start, COUNTED.end);
        let sum_of = |wanted: fn(i32) -> bool| {
            sight.iter().map(|code| i32::from(*code)).filter(|code| wanted(*code)).sum::<i32>()
        };
        // All rows reach the one, none the other.
        let (mut low, mut high) = (3 * sum_of(|code| code < 0), 3 * sum_of(|code| code > 0) + 1);
        while high - low > 1 {
            let step = ((high - low) / (PROBES as i32 + 1)).max(1);
            let between: Vec<(&[i8], i32)> =
                (1..=PROBES as i32).map(|number| (sight, low + number * step)).filter(|(_, at)| *at < high).collect();
            let (counts, rows) = self.count(&between, chunks);
            let enough = counts.iter().take_while(|count| **count as f64 >= share * rows as f64).count();
            high = between.get(enough).map_or(high, |(_, at)| *at);
            low = if enough == 0 { low } else { between[enough - 1].1 };
        }
        low
    }

    /// How many rows of some chunks reach each product, and of how many.
    fn count(&self, products: &[(&[i8], i32)], chunks: usize) -> (Vec<usize>, usize) {
        let isa = Isa::current();
        let all = self.covers() / CHUNK_ROWS;
        let looked_at = chunks.min(all);
        let mut counts = vec![0; products.len()];
        for blocks in (0..looked_at).filter_map(|number| self.sketch_of(number * all / looked_at)) {
            for (counts, products) in counts.chunks_mut(PROBES).zip(products.chunks(PROBES)) {
                let mut reaching = [0u16; PROBES * BLOCKS];
                let reaching = &mut reaching[..products.len() * BLOCKS];
                levels::reaching(isa, products, blocks, reaching);
                for (count, reaching) in counts.iter_mut().zip(reaching.as_chunks::<BLOCKS>().0) {
                    *count += reaching.iter().map(|rows| rows.count_ones() as usize).sum::<usize>();
                }
            }
        }
        (counts, looked_at * CHUNK_ROWS)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Faces, key};
    use super::super::flat::{FlatEdit, FlatRows};
    use super::*;

    const DIM: usize = 128;

    /// Rows of which this many in a hundred lie to one side of the others, and probes of both kinds.
    fn of_two_kinds(to_one_side: usize) -> (FlatRows, Vec<Vec<f32>>) {
        let mut faces = Faces::new(DIM, 61);
        let side = faces.person();
        let people = faces.people(8_192);
        let mut moved = |number: usize, person: &[f32]| -> Vec<f32> {
            let by = if to_one_side == 0 {
                0.0
            } else if number % 100 < to_one_side {
                2.0
            } else {
                -2.0
            };
            let vector: Vec<f32> =
                faces.image(person).iter().zip(&side).map(|(value, side)| value + by * side).collect();
            let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            vector.iter().map(|value| value / length).collect()
        };
        let mut edit = FlatEdit::new(&FlatRows::new(DIM));
        for (number, person) in people.iter().enumerate() {
            edit.push(key(number as u64, None), &moved(number, person));
        }
        let probes = people.iter().enumerate().step_by(97).map(|(number, person)| moved(number, person)).collect();
        (edit.finish(), probes)
    }

    #[test]
    fn so_many_rows_are_near_as_are_to_be() {
        for (to_one_side, normal) in [(0, true), (50, false), (5, false)] {
            let (rows, probes) = of_two_kinds(to_one_side);
            let cascade = Cascade::build(&rows, 0.9, &|_| None);
            let mut normally = 0;
            for probe in &probes {
                let sight = cascade.directions().probe(probe);
                let products: Vec<i32> = (0..rows.slots())
                    .map(|slot| cascade.product_with(&sight, rows.row(slot).unwrap().vector))
                    .collect();
                for share in [0.004, 0.02] {
                    let least = cascade.least_products(&[(&sight, share)])[0];
                    let near = products.iter().filter(|product| **product >= least).count() as f64;
                    let expected = share * products.len() as f64;
                    assert!(
                        near >= expected / 5.0 && near <= expected * 5.0,
                        "{to_one_side} {share}: {near} of {expected}"
                    );
                    normally += usize::from(cascade.spreads(&[(&sight, share)])[0].is_some());
                }
                // Counted, it is what sorting says.
                let mut sorted = products.clone();
                sorted.sort_unstable_by(|a, b| b.cmp(a));
                assert_eq!(cascade.counted_least(&sight, 0.01), sorted[(0.01f64 * 8_192.0).ceil() as usize - 1]);
                let shares = cascade.shares_reaching(&sight, &[sorted[80], sorted[800]]);
                assert!(shares[0] > 0.003 && shares[0] < 0.03 && shares[1] > 0.05 && shares[1] < 0.2, "{shares:?}");
            }
            let share = normally as f32 / (2 * probes.len()) as f32;
            assert!(if normal { share > 0.95 } else { share < 0.5 }, "{to_one_side}: {share}");
        }
    }
}
