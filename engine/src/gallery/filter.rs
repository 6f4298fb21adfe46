//! Filters: which subjects a search is about, by what their records say.
//!
//! A filter is a condition on one field, or `and`, `or`, `not` of filters. Fields are `id`, `labels`, `created_at`,
//! `updated_at`, `expires_at`, `consent`, and `metadata.` followed by the path of a member. Times compare as microseconds
//! since the Unix epoch ([`Field::value`] reads them). A field that is a list fulfils a comparison when one of its elements does; a field that is not there
//! fulfils none but `exists: false` and `ne`, `nin`, which are the opposites of `eq` and `in`. Values of different types
//! are neither equal nor ordered.

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::store::{Consent, StoreError, Subject};

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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// A value to compare the field with, as comparisons take it: a time for a text in RFC 3339. `None` for one that the
    /// field can never have.
    pub fn value(&self, given: Value) -> Option<Value> {
        match self {
            Self::CreatedAt | Self::UpdatedAt | Self::ExpiresAt => {
                let at: Timestamp = given.as_str()?.parse().ok()?;
                Some(Value::from(at.as_microsecond()))
            }
            Self::Consent => serde_json::from_value::<Consent>(given.clone()).is_ok().then_some(given),
            Self::Id => given.is_string().then_some(given),
            Self::Labels | Self::Metadata(_) => Some(given),
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

/// What filters look at of a subject.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Facts {
    id: Value,
    labels: Value,
    created_at: Value,
    updated_at: Value,
    expires_at: Value,
    consent: Value,
    metadata: Map<String, Value>,
}

impl TryFrom<&Subject> for Facts {
    type Error = StoreError;

    fn try_from(subject: &Subject) -> Result<Self, StoreError> {
        let bad = |_| StoreError::Damaged("a subject's metadata is not a JSON object".to_owned());
        Ok(Self {
            id: Value::from(subject.id.as_str()),
            labels: Value::from(subject.labels.clone()),
            created_at: Value::from(subject.created_at.as_microsecond()),
            updated_at: Value::from(subject.updated_at.as_microsecond()),
            expires_at: subject.expires_at.map_or(Value::Null, |at| Value::from(at.as_microsecond())),
            consent: serde_json::to_value(subject.consent).unwrap_or_default(),
            metadata: serde_json::from_str(&subject.metadata).map_err(bad)?,
        })
    }
}

impl Facts {
    fn field(&self, field: &Field) -> Option<&Value> {
        let value = match field {
            Field::Id => &self.id,
            Field::Labels => &self.labels,
            Field::CreatedAt => &self.created_at,
            Field::UpdatedAt => &self.updated_at,
            Field::ExpiresAt => &self.expires_at,
            Field::Consent => &self.consent,
            Field::Metadata(path) => {
                let (first, rest) = path.split_first()?;
                rest.iter().try_fold(self.metadata.get(first)?, |value, name| value.get(name))?
            }
        };
        (!value.is_null()).then_some(value)
    }
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

    pub(super) fn matches(&self, facts: &Facts) -> bool {
        match self {
            Self::All(filters) => filters.iter().all(|filter| filter.matches(facts)),
            Self::Any(filters) => filters.iter().any(|filter| filter.matches(facts)),
            Self::Not(filter) => !filter.matches(facts),
            Self::Field(field, comparison) => {
                let Some(value) = facts.field(field) else { return false };
                match (comparison, value) {
                    (Comparison::Exists, _) => true,
                    (comparison, Value::Array(elements)) => {
                        comparison.holds(value) || elements.iter().any(|element| comparison.holds(element))
                    }
                    (comparison, value) => comparison.holds(value),
                }
            }
        }
    }
}

impl Comparison {
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
    use super::*;
    use crate::ids::SubjectId;
    use serde_json::json;

    fn facts() -> Facts {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let metadata = json!({
            "site": "berlin", "age": 42, "big": 9_007_199_254_740_993_i64, "tags": ["a", 7], "none": null,
            "deep": { "er": { "x": true } }, "score": 1.5
        });
        Facts::try_from(&Subject {
            id: SubjectId::try_from("ada").unwrap(),
            labels: vec!["VIP".to_owned(), "staff".to_owned()],
            metadata: metadata.to_string(),
            expires_at: None,
            consent: Consent::Granted,
            created_at: at(0),
            updated_at: at(86_400),
            revision: 1,
        })
        .unwrap()
    }

    fn holds(field: &str, comparison: Comparison) -> bool {
        Filter::Field(Field::parse(field).unwrap(), comparison).matches(&facts())
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
        assert!(Filter::All(vec![]).matches(&facts()) && !Filter::Any(vec![]).matches(&facts()));
        assert!(Filter::All(vec![site(), site()]).matches(&facts()));
        assert!(!Filter::All(vec![site(), not.clone()]).matches(&facts()));
        assert!(Filter::Any(vec![not.clone(), site()]).matches(&facts()));
        assert_eq!(Filter::All(vec![site(), Filter::Any(vec![not])]).size(), (2, 4));
        for bad in ["", "metadata", "metadata.", "metadata.a..b", "name"] {
            assert_eq!(Field::parse(bad), None, "{bad:?}");
        }
    }
}
