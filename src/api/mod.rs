//! The resources of the API, one file each: wire types, handlers, their documentation.

pub(crate) mod analysis;
pub mod calibration;
pub mod changes;
pub mod clusters;
pub mod decision;
pub mod detect;
pub mod duplicates;
pub mod embed;
pub mod faces;
pub mod filter;
pub mod galleries;
pub mod health;
pub mod jobs;
pub mod leave_one_out;
pub mod metrics;
pub mod migrations;
pub mod models;
pub mod paging;
pub mod pairs;
pub mod params;
pub mod probes;
pub mod regroupings;
pub mod reviews;
pub mod search;
pub mod subjects;
pub mod templates;
pub mod tracks;
pub mod unknown;
pub mod verify;
pub mod watches;
pub mod wire;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::problem::{Code, Problem};

/// Applies a JSON merge patch (RFC 7396) to a value whose serialised form names every member it can have.
pub(crate) fn merge<T: Serialize + DeserializeOwned>(value: T, patch: Map<String, Value>) -> Result<T, Problem> {
    let mut whole = serde_json::to_value(value).map_err(Problem::internal)?;
    if let Some(unknown) = patch.keys().find(|name| whole.get(name).is_none()) {
        return Err(Problem::with(Code::InvalidRequest, format!("unknown field `{unknown:.100}`")));
    }
    merge_value(&mut whole, Value::Object(patch));
    serde_json::from_value(whole).map_err(|error| Problem::with(Code::InvalidRequest, error.to_string()))
}

fn merge_value(target: &mut Value, patch: Value) {
    let Value::Object(changes) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    if let Value::Object(members) = target {
        for (name, change) in changes {
            if change.is_null() {
                members.remove(&name);
            } else {
                merge_value(members.entry(name).or_insert(Value::Null), change);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patch_follows_the_rfc() {
        let merged = |target: Value, patch: Value| {
            let mut target = target;
            merge_value(&mut target, patch);
            target
        };
        assert_eq!(merged(json!({"a": "b"}), json!({"a": "c"})), json!({"a": "c"}));
        assert_eq!(merged(json!({"a": "b", "b": "c"}), json!({"a": null})), json!({"b": "c"}));
        assert_eq!(merged(json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}})), json!({"a": {"b": "d"}}));
        assert_eq!(
            merged(json!({"e": null}), json!({"a": {"bb": {"ccc": null}}})),
            json!({"e": null, "a": {"bb": {}}})
        );
        assert_eq!(merged(json!({"a": [1]}), json!({"a": {"x": 1}})), json!({"a": {"x": 1}}));
    }
}
