//! Filters as requests write them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use vultus_engine::gallery::{Comparison, Field, Filter, MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES};

use crate::problem::{Code, Problem};

/// Most characters of a field's name.
const MAX_FIELD: usize = 256;

/// Which subjects a search is about: `and`, `or` or `not` of filters, or a `field` with what it is compared with.
///
/// Fields are `id`, `labels`, `created_at`, `updated_at`, `expires_at`, `consent` and `metadata.` with the path of a
/// member, such as `metadata.site.name`. A field that is a list fulfils a comparison when one of its elements does. A
/// field that is not there fulfils only `ne`, `nin` and `exists: false`. Times are given in RFC 3339. At most 8 filters deep, 64 conditions in all.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = Filter, no_recursion, example = json!({
    "and": [{"field": "metadata.site", "in": ["berlin", "bonn"]}, {"not": {"field": "labels", "eq": "guest"}}]
}))]
pub struct FilterSpec {
    /// All of these hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64, nullable = false)]
    pub and: Option<Vec<FilterSpec>>,
    /// One of these holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 64, nullable = false)]
    pub or: Option<Vec<FilterSpec>>,
    /// This does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub not: Option<Box<FilterSpec>>,
    /// A part of the subject's record.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 256, nullable = false)]
    pub field: Option<String>,
    /// Equal to this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub eq: Option<Value>,
    /// Not equal to this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub ne: Option<Value>,
    /// Equal to one of these.
    #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Value>>, max_items = 1000, nullable = false)]
    pub any_of: Option<Vec<Value>>,
    /// Equal to none of these.
    #[serde(rename = "nin", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Value>>, max_items = 1000, nullable = false)]
    pub none_of: Option<Vec<Value>>,
    /// Greater than this number or text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub gt: Option<Value>,
    /// Greater or equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub gte: Option<Value>,
    /// Less than this number or text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub lt: Option<Value>,
    /// Less or equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub lte: Option<Value>,
    /// There and not null, or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub exists: Option<bool>,
}

impl FilterSpec {
    /// A filter as a query parameter gives it: JSON text.
    pub fn from_text(text: &str) -> Result<Self, Problem> {
        serde_json::from_str(text)
            .map_err(|error| Problem::with(Code::InvalidParameter, format!("filter is not a filter in JSON: {error}")))
    }

    /// The engine's form, checked.
    pub fn checked(self) -> Result<Filter, Problem> {
        let filter = self.parsed(MAX_DEPTH)?;
        let (conditions, _) = filter.size();
        if conditions > MAX_CONDITIONS {
            return Err(bad(format!("a filter has at most {MAX_CONDITIONS} conditions, this has {conditions}")));
        }
        Ok(filter)
    }

    fn parsed(self, depth: usize) -> Result<Filter, Problem> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(bad(format!("filters lie at most {MAX_DEPTH} deep in each other")));
        };
        let Self { and, or, not, field, .. } = &self;
        let kinds = [and.is_some(), or.is_some(), not.is_some(), field.is_some()];
        let has_comparison = self.has_comparison();
        if kinds.into_iter().filter(|there| *there).count() != 1 || has_comparison != field.is_some() {
            return Err(bad("a filter is one of `and`, `or`, `not`, or a `field` with a comparison".to_owned()));
        }
        let all = |filters: Vec<Self>| filters.into_iter().map(|filter| filter.parsed(depth)).collect::<Result<_, _>>();
        match self {
            Self { and: Some(filters), .. } => Ok(Filter::All(all(filters)?)),
            Self { or: Some(filters), .. } => Ok(Filter::Any(all(filters)?)),
            Self { not: Some(filter), .. } => Ok(Filter::Not(Box::new(filter.parsed(depth)?))),
            condition => condition.condition(),
        }
    }

    fn has_comparison(&self) -> bool {
        let Self { eq, ne, any_of, none_of, gt, gte, lt, lte, exists, .. } = self;
        [eq, ne, gt, gte, lt, lte].iter().any(|value| value.is_some())
            || any_of.is_some()
            || none_of.is_some()
            || exists.is_some()
    }

    /// A field with all of its comparisons.
    fn condition(self) -> Result<Filter, Problem> {
        let name = self.field.unwrap_or_default();
        if name.chars().count() > MAX_FIELD {
            return Err(bad(format!("the name of a field has at most {MAX_FIELD} characters")));
        }
        let field = Field::parse(&name).ok_or_else(|| bad(format!("there is no field {name:.100}")))?;
        let on = |comparison| Filter::Field(field.clone(), comparison);
        let not = |comparison| Filter::Not(Box::new(Filter::Field(field.clone(), comparison)));
        for values in [&self.any_of, &self.none_of].into_iter().flatten() {
            if values.len() > MAX_VALUES {
                return Err(bad(format!("`in` and `nin` take at most {MAX_VALUES} values")));
            }
        }
        let read = |value: Value| {
            let shown = value.to_string();
            field.value(value).ok_or_else(|| bad(format!("{name:.100} never is {shown:.100}")))
        };
        let read_all = |values: Vec<Value>| values.into_iter().map(read).collect::<Result<Vec<_>, _>>();
        let mut parts = Vec::new();
        parts.extend(self.eq.map(read).transpose()?.map(|value| on(Comparison::Eq(value))));
        parts.extend(self.ne.map(read).transpose()?.map(|value| not(Comparison::Eq(value))));
        parts.extend(self.any_of.map(read_all).transpose()?.map(|values| on(Comparison::In(values))));
        parts.extend(self.none_of.map(read_all).transpose()?.map(|values| not(Comparison::In(values))));
        parts.extend(self.exists.map(|exists| if exists { on(Comparison::Exists) } else { not(Comparison::Exists) }));
        let end = |bound: Option<(Value, bool)>| {
            bound.map(|(value, within)| Ok::<_, Problem>((read(value)?, within))).transpose()
        };
        let from = end(bound(self.gt, self.gte)?)?;
        let to = end(bound(self.lt, self.lte)?)?;
        if from.is_some() || to.is_some() {
            parts.push(on(Comparison::Range { from, to }));
        }
        // One comparison is the usual case.
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Filter::All(parts) })
    }
}

/// An end of a range: without its bound, or with it.
fn bound(open: Option<Value>, closed: Option<Value>) -> Result<Option<(Value, bool)>, Problem> {
    let bound = match (open, closed) {
        (Some(_), Some(_)) => return Err(bad("`gt` and `gte`, `lt` and `lte` exclude each other".to_owned())),
        (Some(value), None) => Some((value, false)),
        (None, closed) => closed.map(|value| (value, true)),
    };
    match bound {
        Some((value, _)) if !value.is_number() && !value.is_string() => {
            Err(bad("the bounds of a range are numbers or texts".to_owned()))
        }
        bound => Ok(bound),
    }
}

fn bad(detail: String) -> Problem {
    Problem::with(Code::InvalidRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(filter: Value) -> Result<Filter, Problem> {
        serde_json::from_value::<FilterSpec>(filter).unwrap().checked()
    }

    #[test]
    fn filters_are_read() {
        let site = Field::parse("metadata.site").unwrap();
        let eq = Filter::Field(site.clone(), Comparison::Eq(json!("berlin")));
        assert_eq!(parse(json!({ "field": "metadata.site", "eq": "berlin" })).unwrap(), eq);
        let not = Filter::Not(Box::new(eq.clone()));
        assert_eq!(parse(json!({ "field": "metadata.site", "ne": "berlin" })).unwrap(), not);
        let both = json!({ "or": [{ "not": { "field": "metadata.site", "eq": "berlin" } }, { "and": [] }] });
        assert_eq!(parse(both).unwrap(), Filter::Any(vec![not, Filter::All(vec![])]));
        let range = parse(json!({ "field": "metadata.n", "gte": 1, "lt": 5, "exists": true })).unwrap();
        assert_eq!(range.size(), (2, 2));
    }

    #[test]
    fn what_is_none_is_refused() {
        let deep = (0..MAX_DEPTH).fold(json!({ "field": "id", "eq": "a" }), |inner, _| json!({ "not": inner }));
        let many: Vec<Value> = (0..=MAX_CONDITIONS).map(|n| json!({ "field": "id", "eq": n })).collect();
        for bad in [
            json!({}),
            json!({ "field": "id" }),
            json!({ "eq": 1 }),
            json!({ "field": format!("metadata.{}", "x".repeat(250)), "eq": 1 }),
            json!({ "field": "created_at", "gt": "yesterday" }),
            json!({ "field": "consent", "in": ["granted", "perhaps"] }),
            json!({ "and": [], "or": [] }),
            json!({ "and": [], "eq": 1 }),
            json!({ "field": "name", "eq": 1 }),
            json!({ "field": "metadata.n", "gt": 1, "gte": 2 }),
            json!({ "field": "metadata.n", "gt": [1] }),
            json!({ "field": "id", "in": vec![0; MAX_VALUES + 1] }),
            json!({ "and": many }),
            deep,
        ] {
            assert_eq!(parse(bad.clone()).unwrap_err().code, Code::InvalidRequest, "{bad}");
        }
    }
}
