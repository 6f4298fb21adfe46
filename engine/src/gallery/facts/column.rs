//! One field of all subjects: each value once, and for each subject which.
//!
//! Whether a value fulfils a comparison is asked once for each value, and then looked up for each subject.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use fixedbitset::FixedBitSet;
use hashbrown::HashTable;
use serde_json::Value;

use super::filter::Comparison;

/// Stands for no value.
const NONE: u32 = u32::MAX;
/// With a value for one in so many subjects at least, codes are kept in a list and no longer in a table.
const DENSE_ONE_IN: usize = 8;
/// Up to so many subjects, a list is always short enough.
const SMALL: usize = 1_024;

/// A field whose values come again.
#[derive(Default)]
pub(super) struct Column {
    values: Vec<Entry>,
    free: Vec<u32>,
    /// Where a value stands in `values`.
    places: HashTable<u32>,
    hashes: RandomState,
    codes: Codes,
}

/// A value and how many subjects have it: nobody, where its place is free.
struct Entry {
    value: Value,
    subjects: u32,
}

/// The place of each subject's value.
enum Codes {
    Sparse(HashMap<u32, u32>),
    Dense { codes: Vec<u32>, used: usize },
}

impl Default for Codes {
    fn default() -> Self {
        Self::Sparse(HashMap::new())
    }
}

impl Codes {
    fn get(&self, number: u32) -> Option<u32> {
        match self {
            Self::Sparse(codes) => codes.get(&number).copied(),
            Self::Dense { codes, .. } => codes.get(number as usize).copied().filter(|code| *code != NONE),
        }
    }

    /// `of` is how many subjects there are numbers for.
    fn set(&mut self, number: u32, code: Option<u32>, of: usize) {
        match self {
            Self::Sparse(codes) => {
                match code {
                    Some(code) => codes.insert(number, code),
                    None => codes.remove(&number),
                };
                if codes.len() * DENSE_ONE_IN >= of || of <= SMALL && !codes.is_empty() {
                    let mut dense = vec![NONE; of];
                    codes.iter().for_each(|(number, code)| dense[*number as usize] = *code);
                    *self = Self::Dense { used: codes.len(), codes: dense };
                }
            }
            Self::Dense { codes, used } => {
                let at = number as usize;
                if codes.len() <= at {
                    codes.resize(at + 1, NONE);
                }
                *used += usize::from(code.is_some());
                *used -= usize::from(codes[at] != NONE);
                codes[at] = code.unwrap_or(NONE);
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Sparse(codes) => codes.is_empty(),
            Self::Dense { used, .. } => *used == 0,
        }
    }
}

impl Column {
    /// A subject's value.
    pub(super) fn get(&self, number: u32) -> Option<&Value> {
        Some(&self.values[self.codes.get(number)? as usize].value)
    }

    /// Whether no subject has a value.
    pub(super) fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// Takes over a subject's value and gives whether it is another one. `of` is how many subjects there are numbers for.
    pub(super) fn set(&mut self, number: u32, value: Option<Value>, of: usize) -> bool {
        if self.get(number) == value.as_ref() {
            return false;
        }
        if let Some(old) = self.codes.get(number) {
            self.release(old);
        }
        let code = value.map(|value| self.place(value));
        self.codes.set(number, code, of);
        true
    }

    /// Where a value stands from now on.
    fn place(&mut self, value: Value) -> u32 {
        let Self { values, free, places, hashes, .. } = self;
        let hash = hashes.hash_one(&value);
        if let Some(&place) = places.find(hash, |place| values[*place as usize].value == value) {
            values[place as usize].subjects += 1;
            return place;
        }
        let entry = Entry { value, subjects: 1 };
        let place = match free.pop() {
            Some(place) => {
                values[place as usize] = entry;
                place
            }
            None => {
                values.push(entry);
                (values.len() - 1) as u32
            }
        };
        places.insert_unique(hash, place, |place| hashes.hash_one(&values[*place as usize].value));
        place
    }

    /// One subject has it no longer.
    fn release(&mut self, place: u32) {
        let Self { values, free, places, hashes, .. } = self;
        let entry = &mut values[place as usize];
        entry.subjects -= 1;
        if entry.subjects > 0 {
            return;
        }
        let hash = hashes.hash_one(std::mem::take(&mut entry.value));
        if let Ok(entry) = places.find_entry(hash, |other| *other == place) {
            entry.remove();
        }
        free.push(place);
    }

    /// The subjects, of so many, whose value fulfils a comparison.
    pub(super) fn select(&self, comparison: &Comparison, of: usize) -> FixedBitSet {
        let fulfil: Vec<bool> =
            self.values.iter().map(|entry| entry.subjects > 0 && comparison.fulfilled_by(&entry.value)).collect();
        match &self.codes {
            Codes::Sparse(codes) => {
                let mut selected = FixedBitSet::with_capacity(of);
                let chosen = codes.iter().filter(|(_, code)| fulfil[**code as usize]);
                chosen.for_each(|(number, _)| selected.insert(*number as usize));
                selected
            }
            // NONE lies behind all values.
            Codes::Dense { codes, .. } => select(codes, of, |code| fulfil.get(code as usize).copied().unwrap_or(false)),
        }
    }

    /// The same for subjects that have got other numbers: `numbers` has the new one of each old one that still counts.
    pub(super) fn renumber(&mut self, numbers: &[Option<u32>], of: usize) {
        let old = std::mem::take(&mut self.codes);
        for (number, new) in numbers.iter().enumerate() {
            match (old.get(number as u32), new) {
                (Some(code), Some(new)) => self.codes.set(*new, Some(code), of),
                (Some(code), None) => self.release(code),
                (None, _) => {}
            }
        }
    }
}

/// A time of each subject, in microseconds since the Unix epoch.
#[derive(Default)]
pub(super) struct Times(Vec<i64>);

impl Times {
    /// Stands for no time; the clocks of records do not go so far back.
    const NEVER: i64 = i64::MIN;

    /// A subject's time.
    pub(super) fn get(&self, number: u32) -> Option<i64> {
        self.0.get(number as usize).copied().filter(|at| *at != Self::NEVER)
    }

    /// Takes over a subject's time and gives whether it is another one.
    pub(super) fn set(&mut self, number: u32, at: Option<i64>) -> bool {
        let index = number as usize;
        if self.0.len() <= index {
            self.0.resize(index + 1, Self::NEVER);
        }
        let at = at.unwrap_or(Self::NEVER);
        std::mem::replace(&mut self.0[index], at) != at
    }

    /// The subjects, of so many, whose time fulfils a comparison.
    pub(super) fn select(&self, comparison: &Comparison, of: usize) -> FixedBitSet {
        match comparison.bounds() {
            Some((first, last)) => select(&self.0, of, |at| at != Self::NEVER && first <= at && at <= last),
            None => select(&self.0, of, |at| at != Self::NEVER && comparison.fulfilled_by(&Value::from(at))),
        }
    }

    /// As [`Column::renumber`].
    pub(super) fn renumber(&mut self, numbers: &[Option<u32>]) {
        let old = std::mem::take(self);
        for (number, new) in numbers.iter().enumerate() {
            if let Some(new) = new {
                self.set(*new, old.get(number as u32));
            }
        }
    }
}

/// The places, of so many, of values that are chosen.
fn select<T: Copy>(values: &[T], of: usize, is_chosen: impl Fn(T) -> bool) -> FixedBitSet {
    const BITS: usize = usize::BITS as usize;
    let word = |values: &[T]| values.iter().rev().fold(0, |word, value| word << 1 | usize::from(is_chosen(*value)));
    let mut selected = FixedBitSet::with_capacity_and_blocks(values.len(), values.chunks(BITS).map(word));
    selected.grow(of);
    selected
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selected(column: &Column, value: Value, of: usize) -> Vec<usize> {
        column.select(&Comparison::Eq(value), of).ones().collect()
    }

    #[test]
    fn values_come_and_go_with_their_subjects() {
        // Few of many subjects, and later most.
        const OF: usize = 10_000;
        let mut column = Column::default();
        for number in 0..20 {
            assert!(column.set(number * 400, Some(json!(number % 3)), OF));
        }
        assert!(matches!(column.codes, Codes::Sparse(_)));
        assert_eq!(selected(&column, json!(1.0), OF), [400, 1_600, 2_800, 4_000, 5_200, 6_400, 7_600]);
        assert!(!column.set(400, Some(json!(1)), OF), "it was so before");
        assert!(column.set(400, None, OF) && !column.set(401, None, OF));
        for number in 0..5_000 {
            column.set(number, Some(json!(format!("v{}", number % 7))), OF);
        }
        assert!(matches!(column.codes, Codes::Dense { .. }));
        assert_eq!(selected(&column, json!("v3"), OF).len(), 5_000 / 7);
        assert_eq!(selected(&column, json!(1), OF), [5_200, 6_400, 7_600]);
        // Places of values that nobody has any longer serve again.
        let places = column.values.len();
        (0..5_000).for_each(|number| assert!(column.set(number, Some(json!([number % 10])), OF)));
        assert!(column.values.len() <= places + 10 && column.places.len() == 13);
        assert_eq!(selected(&column, json!(4), OF).len(), 500);
        let halves: Vec<Option<u32>> = (0..OF as u32).map(|number| (number % 2 == 0).then_some(number / 2)).collect();
        column.renumber(&halves, OF / 2);
        assert_eq!(selected(&column, json!([4]), OF / 2).len(), 500);
        assert_eq!(column.places.len(), 8, "values of odd numbers have gone");
        for number in 0..OF as u32 {
            column.set(number, None, OF);
        }
        assert!(column.is_empty() && column.places.is_empty());
    }

    #[test]
    fn times_are_within_bounds() {
        let mut times = Times::default();
        for number in 0..200 {
            times.set(number, (number % 2 == 0).then(|| i64::from(number) * 10));
        }
        assert!(!times.set(2, Some(20)) && times.set(2, Some(21)));
        let within = |from: Option<(Value, bool)>, to| {
            times.select(&Comparison::Range { from, to }, 300).ones().collect::<Vec<usize>>()
        };
        assert_eq!(within(Some((json!(20), false)), Some((json!(60), true))), [2, 4, 6]);
        assert_eq!(within(Some((json!(1960), true)), None), [196, 198]);
        assert!(within(Some((json!("x"), true)), None).is_empty());
        assert_eq!(within(Some((json!(0.5), true)), Some((json!(21.5), true))), [2]);
        assert_eq!(times.select(&Comparison::Exists, 300).count_ones(..), 100);
        assert_eq!(times.select(&Comparison::In(vec![json!(21), json!(40)]), 300).ones().collect::<Vec<_>>(), [2, 4]);
        times.renumber(&(0..200).map(|number| (number >= 100).then(|| number - 100)).collect::<Vec<_>>());
        assert_eq!((times.get(0), times.get(1), times.get(98)), (Some(1_000), None, Some(1_980)));
    }
}
