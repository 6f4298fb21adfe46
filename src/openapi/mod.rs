//! The OpenAPI document: what the handlers say of themselves, with the problems each operation can answer with.
//!
//! A handler names its own problem codes in the extension `x-problems`; `x-images` marks operations that take images.
//! [`document`] turns both into responses, adds the problems that every operation shares, and takes the extensions
//! out again. So no code is listed twice, and none that a handler can give is missing.

mod tidy;

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use crate::app::App;
use crate::problem::{Code, PROBLEM_JSON, Problem};

/// Title, tags and security of the document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Vultus",
        description = "Face identification database server: enrol photos of subjects, find them again with other \
            photos. Templates are fused from many faces, weighted by quality.",
        license(name = "MIT OR Apache-2.0", url = "https://spdx.org/licenses/MIT.html")
    ),
    servers((url = "/", description = "This server.")),
    tags(
        (name = "galleries", description = "Enrolled sets of subjects, each bound to one model."),
        (name = "subjects", description = "Persons with an id."),
        (name = "faces", description = "Enrolment, detection, embedding."),
        (name = "search", description = "Who is this?"),
        (name = "calibration", description = "What a score is worth in a gallery."),
        (name = "reports", description = "What a gallery's own faces say of it: duplicates, clusters, confusions."),
        (name = "reviews", description = "What persons said of candidates."),
        (name = "verify", description = "Is this the same person?"),
        (name = "migrations", description = "A gallery moves to another model."),
        (name = "models", description = "Networks that embed faces."),
        (name = "probes", description = "Probe templates, tracks and videos: kept in memory, for a while, to be searched with."),
        (name = "watches", description = "Standing searches: who of a watchlist is seen, told at once."),
        (name = "jobs", description = "Work that goes on when its request has been answered."),
        (name = "changes", description = "What happened, in order."),
        (name = "health", description = "For supervisors and load balancers.")
    ),
    components(schemas(Problem, Code))
)]
pub struct Document;

/// Problems that no operation answers with: of requests that are to none, and of jobs, which tell them in their `problem`.
const OUTSIDE: &[Code] = &[
    Code::RouteNotFound,
    Code::MethodNotAllowed,
    Code::CalibrationImpossible,
    Code::JobInterrupted,
    Code::ResultTooLarge,
];
/// Problems of every operation under `/v1`.
const ALWAYS: &[Code] = &[Code::Unauthorized, Code::Internal, Code::StorageUnavailable];
/// Problems of operations with path, query or header parameters.
const PARAMETERS: &[Code] = &[Code::InvalidParameter];
/// Problems of operations with a body.
const BODY: &[Code] = &[Code::MalformedBody, Code::InvalidRequest, Code::BodyTooLarge, Code::UnsupportedMediaType];
/// Problems of every POST, which takes an `Idempotency-Key`.
const POST: &[Code] =
    &[Code::InvalidParameter, Code::IdempotencyInProgress, Code::IdempotencyKeyReused, Code::BodyTooLarge];
/// Problems of operations that take images.
const IMAGES: &[Code] = &[
    Code::QueueFull,
    Code::NotReady,
    Code::TooManyImages,
    Code::ImageTooLarge,
    Code::UnsupportedImage,
    Code::NotAnImage,
    Code::EmptyImage,
    Code::TruncatedImage,
    Code::CorruptImage,
];
/// Problems of operations that embed faces.
const FACES: &[Code] = &[Code::NoFace, Code::FaceUnusable, Code::ModelMismatch];

/// The whole document.
pub fn document() -> Value {
    let mut document = serde_json::to_value(crate::router::described()).unwrap_or_default();
    document["components"]["securitySchemes"] = json!({
        "key": { "type": "http", "scheme": "bearer", "description": "Needed when the server was started with a key." }
    });
    document["components"]["parameters"] = json!({
        "IdempotencyKey": {
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "Repeat a request under the same key and it is done once; the stored answer is sent again \
                for 24 hours.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" }
        }
    });
    document["security"] = json!([{}, { "key": [] }]);
    document["components"]["examples"] = Code::ALL
        .iter()
        .filter(|code| !OUTSIDE.contains(code))
        .map(|code| (code.text().to_owned(), json!({ "summary": code.title(), "value": Problem::new(*code) })))
        .collect::<Map<_, _>>()
        .into();
    tidy::pages(&mut document);
    tidy::forms(&mut document);
    tidy::binary_bodies(&mut document);
    if let Some(schemas) = document["components"].get_mut("schemas") {
        tidy::empty_defaults(schemas);
    }
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, item) in paths {
            for (method, operation) in item.as_object_mut().into_iter().flatten() {
                if let Some(operation) = operation.as_object_mut() {
                    complete(path, method, operation);
                }
            }
        }
    }
    document
}

/// The document as it is committed and served: pretty-printed, with a newline at the end.
pub fn text() -> String {
    let mut text = serde_json::to_string_pretty(&document()).unwrap_or_default();
    text.push('\n');
    text
}

/// `GET /openapi.json`.
pub async fn serve(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], app.openapi.clone())
}

fn complete(path: &str, method: &str, operation: &mut Map<String, Value>) {
    let own = operation.remove("x-problems").and_then(|v| serde_json::from_value::<Vec<Code>>(v).ok());
    let images = operation.remove("x-images");
    let mut codes: BTreeSet<&'static str> = own.into_iter().flatten().map(Code::text).collect();
    let mut add = |more: &[Code]| codes.extend(more.iter().map(|code| code.text()));
    add(&[Code::RequestTimeout]);
    if path.starts_with("/v1/") || path == "/metrics" {
        add(ALWAYS);
    }
    if operation.contains_key("parameters") {
        add(PARAMETERS);
    }
    if operation.contains_key("requestBody") {
        add(BODY);
    }
    if method == "post" {
        add(POST);
        let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
        if let Some(parameters) = parameters.as_array_mut() {
            parameters.push(json!({ "$ref": "#/components/parameters/IdempotencyKey" }));
        }
    }
    if images.is_some() {
        add(IMAGES);
        if images != Some(json!("photos")) {
            add(FACES);
        }
    }
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in Code::ALL.iter().filter(|code| codes.contains(code.text())) {
        by_status.entry(code.status().as_u16()).or_default().push(*code);
    }
    if let Some(responses) = operation.entry("responses").or_insert_with(|| json!({})).as_object_mut() {
        for (status, codes) in by_status {
            responses.insert(status.to_string(), problem_response(status, &codes));
        }
    }
}

/// A response that carries one of the codes.
fn problem_response(status: u16, codes: &[Code]) -> Value {
    let lines: Vec<String> = codes.iter().map(|code| format!("`{}`: {}", code.text(), code.title())).collect();
    let examples: Map<String, Value> = codes
        .iter()
        .map(|code| (code.text().to_owned(), json!({ "$ref": format!("#/components/examples/{}", code.text()) })))
        .collect();
    let mut response = json!({
        "description": lines.join("\n\n"),
        "content": { PROBLEM_JSON: { "schema": { "$ref": "#/components/schemas/Problem" }, "examples": examples } }
    });
    if status == 401 {
        response["headers"] = json!({
            "WWW-Authenticate": { "description": "`Bearer`.", "required": true, "schema": { "type": "string" } }
        });
    }
    if status == 429 {
        response["headers"] = json!({
            "Retry-After": { "description": "Seconds to wait.", "required": true, "schema": { "type": "integer", "minimum": 0 } }
        });
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations(document: &Value) -> Vec<(String, Value)> {
        let paths = document["paths"].as_object().unwrap();
        paths
            .iter()
            .flat_map(|(path, item)| {
                item.as_object()
                    .unwrap()
                    .iter()
                    .map(move |(method, operation)| (format!("{method} {path}"), operation.clone()))
            })
            .collect()
    }

    #[test]
    fn every_operation_has_an_id_of_its_own_and_its_problems() {
        let document = document();
        let mut ids = BTreeSet::new();
        for (name, operation) in operations(&document) {
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{name}");
            assert!(operation.get("x-problems").is_none() && operation.get("x-images").is_none(), "{name}");
            if name.contains("/v1/") || name.ends_with("/metrics") {
                assert!(operation["responses"]["401"].is_object() && operation["responses"]["500"].is_object());
            }
            if name.starts_with("post") {
                assert!(operation["responses"]["409"].is_object(), "{name}");
            }
        }
        assert!(ids.len() > 20);
    }

    /// Two types of one name would silently describe each other's members.
    #[test]
    fn every_schema_that_is_referred_to_is_the_one_meant() {
        let document = document();
        let schema = |name: &str| document["components"]["schemas"][name].clone();
        let members = |name: &str| schema(name)["enum"].as_array().map(|list| list.len());
        assert_eq!((members("GalleryKind"), members("IndexKind"), members("ChangeKind")), (Some(2), Some(3), Some(9)));
        for name in ["Gallery", "GalleryPage", "SearchRequest", "SearchAnswer", "EnrolFacesForm", "Problem"] {
            assert_eq!(schema(name)["type"], "object", "{name}");
        }
        assert_eq!(schema("FacePage")["properties"]["items"]["items"]["$ref"], "#/components/schemas/Face");
    }

    #[test]
    fn every_code_that_a_handler_can_give_is_documented_somewhere() {
        let text = document()["paths"].to_string();
        let undocumented: Vec<_> = Code::ALL
            .iter()
            .filter(|code| !OUTSIDE.contains(code))
            .filter(|code| !text.contains(&format!("#/components/examples/{}\"", code.text())))
            .collect();
        assert!(undocumented.is_empty(), "{undocumented:?}");
    }
}
