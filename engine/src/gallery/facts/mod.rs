//! What filters look at: the fields of all subjects of a gallery, column by column, and the subjects that a filter selects.
//!
//! Subjects have numbers. One that is removed keeps its number while there is no need of it, so that a number never means two
//! subjects; when half of the numbers are no longer needed, all is numbered anew and an **era** ends.

mod column;
mod filter;

use std::borrow::Cow;
use std::collections::HashMap;

use fixedbitset::FixedBitSet;
use serde_json::{Map, Value};

use self::column::{Column, Times};
pub use self::filter::{Comparison, Field, Filter, MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES};
use crate::ids::SubjectId;
use crate::store::{StoreError, Subject};

/// Numbers are given anew when at least so many are not needed.
const RENUMBER_FROM: usize = 1_024;

/// Facts of a gallery's subjects.
#[derive(Default)]
pub(super) struct Facts {
    numbers: HashMap<SubjectId, u32>,
    /// Numbers whose subjects are there.
    there: FixedBitSet,
    created: Times,
    updated: Times,
    expires: Times,
    /// Every other field that some subject has.
    columns: HashMap<Field, Column>,
    version: u64,
    era: u64,
}

impl Facts {
    /// Grows when what was known of a subject is known otherwise, and not when a subject comes.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Grows when subjects get other numbers.
    pub(super) fn era(&self) -> u64 {
        self.era
    }

    /// The number of a subject that is there or was lately.
    pub(super) fn number(&self, subject: &SubjectId) -> Option<u32> {
        self.numbers.get(subject).copied()
    }

    /// Takes over what a subject's record says.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where its metadata is not a JSON object.
    pub(super) fn set(&mut self, subject: &Subject) -> Result<(), StoreError> {
        let mut fields = fields(subject)?;
        let known = self.numbers.len() as u32;
        let number = *self.numbers.entry(subject.id.clone()).or_insert(known);
        let is_new = number == known;
        let of = self.numbers.len();
        self.there.grow(of);
        let mut changed = !self.there.put(number as usize);
        changed |= self.created.set(number, Some(subject.created_at.as_microsecond()));
        changed |= self.updated.set(number, Some(subject.updated_at.as_microsecond()));
        changed |= self.expires.set(number, subject.expires_at.map(|at| at.as_microsecond()));
        for (field, column) in &mut self.columns {
            changed |= column.set(number, fields.remove(field), of);
        }
        for (field, value) in fields {
            let mut column = Column::default();
            changed |= column.set(number, Some(value), of);
            self.columns.insert(field, column);
        }
        self.columns.retain(|_, column| !column.is_empty());
        // The rows of a new subject come after this: nobody has looked at them.
        self.version += u64::from(changed && !is_new);
        Ok(())
    }

    /// Forgets a subject.
    pub(super) fn remove(&mut self, subject: &SubjectId) {
        let Some(number) = self.number(subject).filter(|number| self.there.contains(*number as usize)) else { return };
        self.there.remove(number as usize);
        let of = self.numbers.len();
        for times in [&mut self.created, &mut self.updated, &mut self.expires] {
            times.set(number, None);
        }
        for column in self.columns.values_mut() {
            column.set(number, None, of);
        }
        self.columns.retain(|_, column| !column.is_empty());
        self.version += 1;
        let gone = of - self.there.count_ones(..);
        if gone >= RENUMBER_FROM && 2 * gone >= of {
            self.renumber();
        }
    }

    fn renumber(&mut self) {
        let mut numbers = vec![None; self.numbers.len()];
        self.there.ones().zip(0..).for_each(|(number, new)| numbers[number] = Some(new));
        let of = self.there.count_ones(..);
        self.numbers.retain(|_, number| {
            let new = numbers[*number as usize];
            *number = new.unwrap_or(*number);
            new.is_some()
        });
        self.numbers.shrink_to_fit();
        self.there = FixedBitSet::with_capacity(of);
        self.there.insert_range(..);
        for times in [&mut self.created, &mut self.updated, &mut self.expires] {
            times.renumber(&numbers);
        }
        self.columns.values_mut().for_each(|column| column.renumber(&numbers, of));
        self.era += 1;
        self.version += 1;
    }

    /// The numbers of the subjects that a filter selects.
    pub(super) fn select(&self, filter: &Filter) -> FixedBitSet {
        let of = self.numbers.len();
        match filter {
            Filter::All(filters) => filters.iter().fold(self.there.clone(), |mut all, filter| {
                all.intersect_with(&self.select(filter));
                all
            }),
            Filter::Any(filters) => filters.iter().fold(FixedBitSet::with_capacity(of), |mut all, filter| {
                all.union_with(&self.select(filter));
                all
            }),
            Filter::Not(filter) => {
                let mut others = self.there.clone();
                others.difference_with(&self.select(filter));
                others
            }
            Filter::Field(field, comparison) => match field {
                Field::Id => self.select_by_id(comparison),
                Field::CreatedAt => self.created.select(comparison, of),
                Field::UpdatedAt => self.updated.select(comparison, of),
                Field::ExpiresAt => self.expires.select(comparison, of),
                Field::Labels | Field::Consent | Field::Metadata(_) => match self.columns.get(field) {
                    Some(column) => column.select(comparison, of),
                    None => FixedBitSet::with_capacity(of),
                },
            },
        }
    }

    fn select_by_id(&self, comparison: &Comparison) -> FixedBitSet {
        let mut selected = FixedBitSet::with_capacity(self.numbers.len());
        match comparison.texts() {
            Some(ids) => {
                let known = ids.filter_map(|id| self.number(&SubjectId::try_from(id).ok()?));
                known.for_each(|number| selected.insert(number as usize));
            }
            None => {
                let fulfil = self.numbers.iter().filter(|(id, _)| comparison.fulfilled_by(&Value::from(id.as_str())));
                fulfil.for_each(|(_, number)| selected.insert(*number as usize));
            }
        }
        selected.intersect_with(&self.there);
        selected
    }

    /// Whether a filter selects a subject.
    pub(super) fn selects(&self, filter: &Filter, subject: &SubjectId) -> bool {
        let number = self.number(subject).filter(|number| self.there.contains(*number as usize));
        number.is_some_and(|number| filter.holds(&|field| self.value(field, subject, number)))
    }

    fn value<'a>(&'a self, field: &Field, subject: &SubjectId, number: u32) -> Option<Cow<'a, Value>> {
        let time = |times: &Times| times.get(number).map(|at| Cow::Owned(Value::from(at)));
        match field {
            Field::Id => Some(Cow::Owned(Value::from(subject.as_str()))),
            Field::CreatedAt => time(&self.created),
            Field::UpdatedAt => time(&self.updated),
            Field::ExpiresAt => time(&self.expires),
            Field::Labels | Field::Consent | Field::Metadata(_) => {
                self.columns.get(field)?.get(number).map(Cow::Borrowed)
            }
        }
    }
}

/// What a record says in the fields that have columns. A null says nothing.
fn fields(subject: &Subject) -> Result<HashMap<Field, Value>, StoreError> {
    let bad = |_| StoreError::Damaged("a subject's metadata is not a JSON object".to_owned());
    let metadata: Map<String, Value> = serde_json::from_str(&subject.metadata).map_err(bad)?;
    let mut fields = HashMap::new();
    fields.insert(Field::Labels, Value::from(subject.labels.clone()));
    fields.insert(Field::Consent, serde_json::to_value(subject.consent).unwrap_or_default());
    members(&metadata, &mut Vec::new(), &mut fields);
    Ok(fields)
}

/// Members, by their paths. An object stands beside its members, since filters can be about both, as its digest: or each of many
/// levels would hold all below it once more.
fn members(object: &Map<String, Value>, path: &mut Vec<String>, fields: &mut HashMap<Field, Value>) {
    for (name, value) in object {
        path.push(name.clone());
        match value {
            Value::Null => {}
            Value::Object(inner) => {
                fields.insert(Field::Metadata(path.clone()), filter::written(value.clone()));
                members(inner, path, fields);
            }
            value => {
                fields.insert(Field::Metadata(path.clone()), filter::written(value.clone()));
            }
        }
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::store::Consent;

    fn subject(id: usize, metadata: &Value) -> Subject {
        Subject {
            id: SubjectId::try_from(format!("s{id}")).unwrap(),
            labels: Vec::new(),
            metadata: metadata.to_string(),
            expires_at: None,
            consent: Consent::Granted,
            created_at: Timestamp::from_second(id as i64).unwrap(),
            updated_at: Timestamp::from_second(0).unwrap(),
            revision: 1,
        }
    }

    fn on(field: &str, comparison: Comparison) -> Filter {
        Filter::Field(Field::parse(field).unwrap(), comparison)
    }

    /// What a filter selects, which is the same for one subject after the other.
    fn selected(facts: &Facts, filter: &Filter) -> Vec<usize> {
        let numbers = facts.select(filter);
        let mut ids: Vec<usize> = facts
            .numbers
            .iter()
            .filter(|(id, number)| {
                let is_selected = numbers.contains(**number as usize);
                assert_eq!(facts.selects(filter, id), is_selected, "{filter:?} {}", id.as_str());
                is_selected
            })
            .map(|(id, _)| id.as_str()[1..].parse().unwrap())
            .collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn filters_select_by_columns_what_they_hold_of() {
        let mut facts = Facts::default();
        for id in 0..500 {
            let rare = if id % 100 == 0 { json!(id) } else { Value::Null };
            facts
                .set(&subject(id, &json!({ "n": id % 10, "site": { "name": format!("x{}", id % 3) }, "rare": rare })))
                .unwrap();
        }
        assert_eq!(facts.version(), 0, "all are new");
        let seventh = on("metadata.n", Comparison::Eq(json!(7)));
        let of = |is_it: &dyn Fn(usize) -> bool| (0..500).filter(|id| is_it(*id)).collect::<Vec<_>>();
        assert_eq!(selected(&facts, &seventh), of(&|id| id % 10 == 7));
        let both = Filter::All(vec![seventh.clone(), on("metadata.site.name", Comparison::Eq(json!("x1")))]);
        assert_eq!(selected(&facts, &both), of(&|id| id % 10 == 7 && id % 3 == 1));
        assert_eq!(selected(&facts, &Filter::Not(Box::new(both.clone()))), of(&|id| id % 10 != 7 || id % 3 != 1));
        let either = Filter::Any(vec![on("metadata.rare", Comparison::Exists), on("id", Comparison::Eq(json!("s3")))]);
        assert_eq!(selected(&facts, &either), [0, 3, 100, 200, 300, 400]);
        assert_eq!(selected(&facts, &on("metadata.nothing", Comparison::Exists)), [0usize; 0]);
        let at = |second: i64| json!(second * 1_000_000);
        let span = Comparison::Range { from: Some((at(490), false)), to: Some((at(495), true)) };
        assert_eq!(selected(&facts, &on("created_at", span)), [491, 492, 493, 494, 495]);
        let from = Comparison::Range { from: Some((json!("s497"), true)), to: Some((json!("s5"), false)) };
        assert_eq!(selected(&facts, &on("id", from)), [497, 498, 499]);

        // What changes is seen, and told by the version; what does not is not.
        facts.set(&subject(7, &json!({ "n": 7, "site": { "name": "x1" } }))).unwrap();
        assert_eq!(facts.version(), 0);
        facts.set(&subject(7, &json!({ "n": 8 }))).unwrap();
        facts.remove(&subject(17, &json!({})).id);
        facts.remove(&subject(9_999, &json!({})).id);
        assert_eq!((facts.version(), facts.era()), (2, 0));
        assert_eq!(selected(&facts, &seventh), of(&|id| id % 10 == 7 && id > 17));
        facts.set(&subject(17, &json!({ "n": 7 }))).unwrap();
        assert_eq!((facts.version(), facts.numbers.len()), (3, 500), "whoever comes back has the same number");
        assert!(facts.set(&Subject { metadata: "[]".to_owned(), ..subject(1, &json!({})) }).is_err());
    }

    #[test]
    fn numbers_of_removed_subjects_do_not_pile_up() {
        let mut facts = Facts::default();
        let add = |facts: &mut Facts, id: usize| facts.set(&subject(id, &json!({ "n": id % 5, "id": id }))).unwrap();
        (0..2_000).for_each(|id| add(&mut facts, id));
        for id in 0..100_000 {
            facts.remove(&subject(id, &json!({})).id);
            add(&mut facts, id + 2_000);
            assert!(facts.numbers.len() <= 4_001);
        }
        assert!(facts.era() > 40 && facts.columns.len() == 4);
        let third = on("metadata.n", Comparison::Eq(json!(3)));
        assert_eq!(selected(&facts, &third), (100_000..102_000).filter(|id| id % 5 == 3).collect::<Vec<_>>());
        (100_000..102_000).for_each(|id| facts.remove(&subject(id, &json!({})).id));
        assert!(facts.columns.is_empty() && facts.numbers.len() < RENUMBER_FROM);
    }

    #[test]
    fn deep_metadata_takes_no_more_than_its_text() {
        let mut deep = json!({ "leaf": "x".repeat(8_000) });
        for _ in 0..100 {
            deep = json!({ "a": deep });
        }
        let mut facts = Facts::default();
        facts.set(&subject(0, &deep)).unwrap();
        let size: usize =
            facts.columns.values().filter_map(|column| column.get(0)).map(|value| value.to_string().len()).sum();
        assert!(size < 8_000 + 101 * 80, "{size}");
    }
}
