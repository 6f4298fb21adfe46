//! Filters: which subjects a search is about, by what their records say.
//!
//! A filter is a condition on one field, or `and`, `or`, `not` of filters. Fields are `id`, `labels`, `created_at`,
//! `updated_at`, `expires_at`, `consent`, and `metadata.` followed by the path of a member. Times compare as microseconds
//! since the Unix epoch ([`Field::value`] reads them). A field that is a list fulfils a comparison when one of its elements does; a field that is not there
//! fulfils none but `exists: false` and `ne`, `nin`, which are the opposites of `eq` and `in`. Values of different types
//! are neither equal nor ordered.

use std::borrow::Cow;
use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::Value;

use crate::store::Consent;

/// Most filters within filters.
pub const MAX_DEPTH: usize = 8;
/// Most conditions of a filter.
pub const MAX_CONDITIONS: usize = 64;
/// Most values of `in` and `nin`.
pub const MAX_VALUES: usize = 1_000;

/// Which subjects are meant.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// All of these hold; true without any.
    All(Vec<Filter>),
    /// One of these holds; false without any.
    Any(Vec<Filter>),
    /// This does not hold.
    Not(Box<Filter>),
    /// A field and what it is compared with.
    Field(Field, Comparison),
}

/// A part of a subject's record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Field {
    /// The subject's id.
    Id,
    /// Its labels.
    Labels,
    /// When it was created.
    CreatedAt,
    /// When its record last changed.
    UpdatedAt,
    /// When it expires.
    ExpiresAt,
    /// Its consent.
    Consent,
    /// A member of its metadata, by the names on the way there.
    Metadata(Vec<String>),
}

impl Field {
    /// Reads a field's name. `None` for one that there is not.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "id" => Self::Id,
            "labels" => Self::Labels,
            "created_at" => Self::CreatedAt,
            "updated_at" => Self::UpdatedAt,
            "expires_at" => Self::ExpiresAt,
            "consent" => Self::Consent,
            _ => {
                let path: Vec<String> = name.strip_prefix("metadata.")?.split('.').map(str::to_owned).collect();
                if path.iter().any(String::is_empty) {
                    return None;
                }
                Self::Metadata(path)
            }
        })
    }
}

impl Field {
    /// A value to compare the field with, as comparisons take it: a time for a text in RFC 3339, a digest for an object. `None`
    /// for one that the field can never have.
    pub fn value(&self, given: Value) -> Option<Value> {
        match self {
            Self::CreatedAt | Self::UpdatedAt | Self::ExpiresAt => {
                let at: Timestamp = given.as_str()?.parse().ok()?;
                Some(Value::from(at.as_microsecond()))
            }
            Self::Consent => serde_json::from_value::<Consent>(given.clone()).is_ok().then_some(given),
            Self::Id => given.is_string().then_some(given),
            Self::Labels | Self::Metadata(_) => Some(written(given)),
        }
    }
}

/// What a field is compared with.
#[derive(Debug, Clone, PartialEq)]
pub enum Comparison {
    /// Equal to this.
    Eq(Value),
    /// Equal to one of these.
    In(Vec<Value>),
    /// Within bounds, numbers with numbers and texts with texts.
    Range {
        /// The lower bound and whether it is within.
        from: Option<(Value, bool)>,
        /// The upper bound and whether it is within.
        to: Option<(Value, bool)>,
    },
    /// There, and not null.
    Exists,
}

impl Filter {
    /// Conditions in it, and how deep it is.
    pub fn size(&self) -> (usize, usize) {
        let whole = |filters: &[Self]| {
            let sizes = filters.iter().map(Self::size);
            let (conditions, depth) = sizes.fold((0, 0), |(c, d), (more, deep)| (c + more, d.max(deep)));
            (conditions, depth + 1)
        };
        match self {
            Self::All(filters) | Self::Any(filters) => whole(filters),
            Self::Not(filter) => whole(std::slice::from_ref(filter)),
            Self::Field(..) => (1, 1),
        }
    }

    /// Whether it holds of a subject with these values. A field that is null is not there.
    pub(super) fn holds<'v>(&self, value_of: &dyn Fn(&Field) -> Option<Cow<'v, Value>>) -> bool {
        match self {
            Self::All(filters) => filters.iter().all(|filter| filter.holds(value_of)),
            Self::Any(filters) => filters.iter().any(|filter| filter.holds(value_of)),
            Self::Not(filter) => !filter.holds(value_of),
            Self::Field(field, comparison) => value_of(field).is_some_and(|value| comparison.fulfilled_by(&value)),
        }
    }
}

impl Comparison {
    /// Whether a value that is there fulfils it.
    pub(super) fn fulfilled_by(&self, value: &Value) -> bool {
        match value {
            Value::Array(elements) => self.holds(value) || elements.iter().any(|element| self.holds(element)),
            value => self.holds(value),
        }
    }

    /// Where it is one of whole numbers within bounds: the first and the last of them.
    pub(super) fn bounds(&self) -> Option<(i64, i64)> {
        match self {
            Self::Range { from, to } => {
                let bound = |bound: &Option<(Value, bool)>, without: i64, inwards: i64| match bound {
                    None => Some(without),
                    Some((bound, true)) => bound.as_i64(),
                    Some((bound, false)) => bound.as_i64()?.checked_add(inwards),
                };
                Some((bound(from, i64::MIN, 1)?, bound(to, i64::MAX, -1)?))
            }
            Self::Eq(value) => value.as_i64().map(|value| (value, value)),
            Self::In(_) | Self::Exists => None,
        }
    }

    /// Where only some texts fulfil it: those.
    pub(super) fn texts(&self) -> Option<impl Iterator<Item = &str>> {
        match self {
            Self::Eq(value) => Some(std::slice::from_ref(value).iter().filter_map(Value::as_str)),
            Self::In(values) => Some(values.iter().filter_map(Value::as_str)),
            Self::Range { .. } | Self::Exists => None,
        }
    }

    fn holds(&self, value: &Value) -> bool {
        match self {
            Self::Eq(wanted) => equal(value, wanted),
            Self::In(wanted) => wanted.iter().any(|wanted| equal(value, wanted)),
            Self::Range { from, to } => {
                let above = |(bound, within): &(Value, bool)| match order(value, bound) {
                    Some(Ordering::Greater) => true,
                    Some(Ordering::Equal) => *within,
                    _ => false,
                };
                let below = |(bound, within): &(Value, bool)| match order(value, bound) {
                    Some(Ordering::Less) => true,
                    Some(Ordering::Equal) => *within,
                    _ => false,
                };
                from.as_ref().is_none_or(above) && to.as_ref().is_none_or(below)
            }
            Self::Exists => true,
        }
    }
}

/// A value as columns have it and comparisons take it: in place of each object an object with its digest alone, as short as any
/// other. Two that were equal are equal so.
pub(super) fn written(value: Value) -> Value {
    match value {
        Value::Object(_) => {
            Value::Object([(String::new(), Value::from(digest(&value).to_hex().as_str()))].into_iter().collect())
        }
        Value::Array(elements) => Value::Array(elements.into_iter().map(written).collect()),
        value => value,
    }
}

/// A digest that is the same for objects whose members stand in another order.
fn digest(value: &Value) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    match value {
        Value::Object(members) => {
            hasher.update(b"{");
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            for (name, value) in members {
                hasher.update(blake3::hash(name.as_bytes()).as_bytes());
                hasher.update(digest(value).as_bytes());
            }
        }
        Value::Array(elements) => {
            hasher.update(b"[");
            for element in elements {
                hasher.update(digest(element).as_bytes());
            }
        }
        value => {
            hasher.update(value.to_string().as_bytes());
        }
    }
    hasher.finalize()
}

/// Equality, with 1 and 1.0 the same number.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => order(a, b) == Some(Ordering::Equal),
        _ => a == b,
    }
}

fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            // Whole numbers beyond 2^53 are not all to be told apart as floating point.
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Facts;
    use super::*;
    use crate::ids::SubjectId;
    use crate::store::Subject;
    use serde_json::json;

    fn facts() -> Facts {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let metadata = json!({
            "site": "berlin", "age": 42, "big": 9_007_199_254_740_993_i64, "tags": ["a", 7], "none": null,
            "deep": { "er": { "x": true } }, "score": 1.5,
            "list": [{ "a": 1, "b": 2 }, 3]
        });
        let mut facts = Facts::default();
        let subject = Subject {
            id: ada(),
            labels: vec!["VIP".to_owned(), "staff".to_owned()],
            metadata: metadata.to_string(),
            expires_at: None,
            consent: Consent::Granted,
            created_at: at(0),
            updated_at: at(86_400),
            revision: 1,
        };
        facts.set(&subject).unwrap();
        facts
    }

    fn ada() -> SubjectId {
        SubjectId::try_from("ada").unwrap()
    }

    /// By the columns, and by the values of a subject.
    fn matches(filter: &Filter) -> bool {
        let facts = facts();
        let selected = facts.select(filter).contains(0);
        assert_eq!(facts.selects(filter, &ada()), selected, "{filter:?}");
        selected
    }

    fn holds(field: &str, comparison: Comparison) -> bool {
        matches(&Filter::Field(Field::parse(field).unwrap(), comparison))
    }

    fn range(from: Option<(Value, bool)>, to: Option<(Value, bool)>) -> Comparison {
        Comparison::Range { from, to }
    }

    #[test]
    fn fields_are_compared_by_type() {
        use Comparison::{Eq, Exists, In};
        assert!(holds("metadata.site", Eq(json!("berlin"))) && !holds("metadata.site", Eq(json!("Berlin"))));
        assert!(holds("metadata.age", Eq(json!(42.0))) && !holds("metadata.age", Eq(json!("42"))));
        assert!(holds("metadata.tags", Eq(json!("a"))) && holds("metadata.tags", Eq(json!(["a", 7]))));
        assert!(holds("metadata.tags", In(vec![json!(7)])) && !holds("metadata.tags", In(vec![])));
        assert!(holds("metadata.deep.er.x", Eq(json!(true))) && !holds("metadata.deep.x", Exists));
        assert!(!holds("metadata.none", Exists) && !holds("metadata.none", Eq(json!(null))));
        assert!(holds("labels", Eq(json!("VIP"))) && !holds("labels", Eq(json!("vip"))));
        assert!(holds("id", In(vec![json!("ada")])) && holds("consent", Eq(json!("granted"))));
        assert!(!holds("expires_at", Exists));
        // Objects are equal whole, wherever they stand.
        let object = |value: Value| Eq(Field::Metadata(vec![]).value(value).unwrap());
        assert!(holds("metadata.deep", object(json!({ "er": { "x": true } }))) && holds("metadata.deep.er", Exists));
        assert!(!holds("metadata.deep", object(json!({ "er": {} }))) && !holds("metadata.deep", Eq(json!("er"))));
        assert!(holds("metadata.list", object(json!({ "b": 2, "a": 1 }))));
        assert!(holds("metadata.list", object(json!([{ "a": 1, "b": 2 }, 3]))) && holds("metadata.list", Eq(json!(3))));
        assert!(holds("metadata.big", Eq(json!(9_007_199_254_740_993_i64))));
        assert!(!holds("metadata.big", Eq(json!(9_007_199_254_740_992_i64))));
    }

    #[test]
    fn ranges_have_open_and_closed_ends() {
        assert!(holds("metadata.age", range(Some((json!(42), true)), None)));
        assert!(!holds("metadata.age", range(Some((json!(42), false)), None)));
        assert!(holds("metadata.score", range(Some((json!(1), false)), Some((json!(1.5), true)))));
        assert!(!holds("metadata.age", range(None, Some((json!("z"), true)))), "numbers and texts have no order");
        let time = |text: &str| Field::UpdatedAt.value(json!(text)).unwrap();
        let (from, to) = (time("1970-01-02T01:00:00+01:00"), time("1970-01-02T00:00:00.000001Z"));
        assert!(holds("updated_at", range(Some((from.clone(), true)), Some((to, false)))));
        assert!(holds("updated_at", Comparison::Eq(from)));
        assert_eq!(Field::UpdatedAt.value(json!("yesterday")), None);
        assert_eq!((Field::Consent.value(json!("maybe")), Field::Id.value(json!(1))), (None, None));
        assert!(!holds("metadata.missing", range(None, None)));
    }

    #[test]
    fn filters_combine() {
        let site = || Filter::Field(Field::parse("metadata.site").unwrap(), Comparison::Eq(json!("berlin")));
        let not = Filter::Not(Box::new(site()));
        assert!(matches(&Filter::All(vec![])) && !matches(&Filter::Any(vec![])));
        assert!(matches(&Filter::All(vec![site(), site()])));
        assert!(!matches(&Filter::All(vec![site(), not.clone()])));
        assert!(matches(&Filter::Any(vec![not.clone(), site()])));
        assert_eq!(Filter::All(vec![site(), Filter::Any(vec![not])]).size(), (2, 4));
        for bad in ["", "metadata", "metadata.", "metadata.a..b", "name"] {
            assert_eq!(Field::parse(bad), None, "{bad:?}");
        }
    }
}
