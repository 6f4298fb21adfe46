//! What the derived document gets wrong for those who read it, put right.
//!
//! - Bytes are described as lists of numbers; bodies that are images are binary strings.
//! - `#[serde(default)]` puts defaults of null, false or nothing on members, from which client generators conclude that
//!   the member is always there.
//! - A page of a list repeats its item instead of naming it.
//! - Forms take the options of the query as text parts, which no type says.

use serde_json::{Map, Value, json};

/// Names of the schemas that stand for a form until [`forms`] has made one for each operation.
const FORMS: [&str; 2] = ["ImageForm", "VideoForm"];

/// Describes bodies of images as bytes, and lets them come without a proper media type.
pub(super) fn binary_bodies(document: &mut Value) {
    each_operation(document, &mut |operation| {
        let request = operation.get_mut("requestBody").and_then(|body| body["content"].as_object_mut());
        if let Some(content) = request
            && content.keys().any(|media| is_binary(media))
        {
            content.insert("application/octet-stream".to_owned(), json!({}));
        }
        for content in contents(operation) {
            for (media, body) in content {
                if is_binary(media) || media == "application/octet-stream" {
                    *body = json!({ "schema": { "type": "string", "format": "binary" } });
                }
            }
        }
    });
}

fn is_binary(media: &str) -> bool {
    media.starts_with("image/") || media.starts_with("video/")
}

/// Takes out defaults that say nothing.
pub(super) fn empty_defaults(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let empty = members.get("default").is_some_and(|default| match default {
                Value::Null => true,
                Value::Bool(on) => !on,
                Value::Array(items) => items.is_empty(),
                Value::Object(members) => members.is_empty(),
                _ => false,
            });
            // A member that is itself named `default` is a schema, which is an object with content.
            if empty {
                members.remove("default");
            }
            members.values_mut().for_each(empty_defaults);
        }
        Value::Array(items) => items.iter_mut().for_each(empty_defaults),
        _ => {}
    }
}

/// Names pages after their items, and lets them refer to them.
pub(super) fn pages(document: &mut Value) {
    let Some(schemas) = document["components"]["schemas"].as_object_mut() else { return };
    let names: Vec<String> = schemas.keys().filter_map(|name| Some(name.strip_prefix("Page_")?.to_owned())).collect();
    for item in &names {
        if let Some(mut page) = schemas.remove(&format!("Page_{item}")) {
            page["properties"]["items"]["items"] = json!({ "$ref": reference(item) });
            schemas.insert(format!("{item}Page"), page);
        }
    }
    rename(document, &names);
}

fn rename(value: &mut Value, pages: &[String]) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(target)) = members.get_mut("$ref")
                && let Some(item) = pages.iter().find(|item| *target == reference(&format!("Page_{item}")))
            {
                *target = reference(&format!("{item}Page"));
            }
            members.values_mut().for_each(|member| rename(member, pages));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, pages)),
        _ => {}
    }
}

/// Gives each operation that takes a form one of its own, with the query's options as text parts.
pub(super) fn forms(document: &mut Value) {
    let mut stand_ins = Map::new();
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        stand_ins.extend(FORMS.iter().filter_map(|name| Some((reference(name), schemas.remove(*name)?))));
    }
    let mut made = Map::new();
    each_operation(document, &mut |operation| {
        let form = operation.get("requestBody").map(|body| &body["content"]["multipart/form-data"]["schema"]["$ref"]);
        let stand_in = form.and_then(Value::as_str).and_then(|name| stand_ins.get(name));
        let (parts, required) =
            stand_in.map_or((None, None), |form| (form["properties"].as_object(), form.get("required")));
        let mut properties = parts.cloned().unwrap_or_default();
        for parameter in operation.get("parameters").and_then(Value::as_array).into_iter().flatten() {
            if let (Some("query"), Some(name)) = (parameter["in"].as_str(), parameter["name"].as_str()) {
                let mut schema = parameter["schema"].clone();
                schema["description"] = parameter["description"].clone();
                properties.insert(name.to_owned(), schema);
            }
        }
        let id = operation.get("operationId").and_then(Value::as_str).unwrap_or_default();
        let name = format!("{}Form", camel(id));
        let form = operation.get_mut("requestBody").and_then(|body| body["content"].get_mut("multipart/form-data"));
        if let Some(form) = form {
            form["schema"] = json!({ "$ref": reference(&name) });
            let description = "Files; the options of the query can be text parts.";
            let mut schema = json!({
                "type": "object", "description": description, "properties": properties, "additionalProperties": false
            });
            if let Some(required) = required {
                schema["required"] = required.clone();
            }
            made.insert(name, schema);
        }
    });
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.extend(made);
    }
}

fn reference(schema: &str) -> String {
    format!("#/components/schemas/{schema}")
}

/// `search_gallery` to `SearchGallery`.
fn camel(id: &str) -> String {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    id.split('_').filter(|word| !word.is_empty()).map(capital).collect()
}

pub(super) fn each_operation(document: &mut Value, act: &mut dyn FnMut(&mut Map<String, Value>)) {
    let paths = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in paths.filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        operation.as_object_mut().into_iter().for_each(&mut *act);
    }
}

/// The bodies of an operation's request and responses, by media type.
fn contents(operation: &mut Map<String, Value>) -> Vec<&mut Map<String, Value>> {
    let mut found = Vec::new();
    for (name, part) in operation {
        match name.as_str() {
            "requestBody" => found.extend(part.get_mut("content").and_then(Value::as_object_mut)),
            "responses" => {
                let responses = part.as_object_mut().into_iter().flat_map(Map::values_mut);
                found.extend(responses.filter_map(|response| response.get_mut("content")?.as_object_mut()));
            }
            _ => {}
        }
    }
    found
}
