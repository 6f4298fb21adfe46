//! What is wrong with a request before its content matters: routes, methods, media types, sizes, keys, time.

use axum::body::Body;
use axum::http::Request;
use secrecy::SecretString;
use serde_json::json;

use crate::harness::{TestApp, base64, crop_png, ready};

#[tokio::test]
async fn every_rejection_is_a_problem() {
    let app = TestApp::with(|settings| settings.limits.max_body_bytes = 4000).await;
    app.gallery("g").await;
    app.get("/v1/nothing").await.problem(404, "route_not_found");
    app.get("/").await.problem(404, "route_not_found");
    let wrong_method = app.delete("/v1/galleries").await;
    wrong_method.problem(405, "method_not_allowed");
    assert!(wrong_method.header("allow").is_some_and(|allow| allow.contains("GET") && allow.contains("POST")));

    app.post_bytes("/v1/galleries", "text/plain", b"{}".to_vec()).await.problem(415, "unsupported_media_type");
    app.post_bytes("/v1/galleries", "application/json", b"{".to_vec()).await.problem(400, "malformed_body");
    app.post("/v1/galleries", json!({ "name": "x" })).await.problem(422, "invalid_request");
    app.post("/v1/galleries", json!([])).await.problem(422, "invalid_request");
    let long = json!({ "id": "x", "label": "x".repeat(5000) });
    app.post("/v1/galleries", long).await.problem(413, "body_too_large");

    let search = "/v1/galleries/g/search";
    app.post_bytes(search, "text/html", b"x".to_vec()).await.problem(415, "unsupported_media_type");
    app.send(Request::post(search).body(Body::empty()).unwrap()).await.problem(415, "unsupported_media_type");
    app.post(search, json!({})).await.problem(422, "invalid_request");
    app.post(search, json!({ "images": [{ "data": "%%%" }] })).await.problem(422, "invalid_request");
    app.post_bytes(search, "multipart/form-data", b"x".to_vec()).await.problem(400, "malformed_body");
    app.post_bytes(search, "multipart/form-data; boundary=b", b"x".to_vec()).await.problem(400, "malformed_body");
    app.post_bytes(&format!("{search}?limit=many"), "image/png", crop_png(1)).await.problem(400, "invalid_parameter");
    app.post_bytes(&format!("{search}?who=me"), "image/png", crop_png(1)).await.problem(400, "invalid_parameter");
    app.post_bytes(search, "image/png", vec![0; 5000]).await.problem(413, "body_too_large");
}

#[tokio::test]
async fn an_array_is_no_object() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    app.json("PUT", "/v1/galleries/g", json!([])).await.problem(422, "invalid_request");
    app.post("/v1/galleries", json!(["x", "events"])).await.problem(422, "invalid_request");
    app.post("/v1/galleries", json!({ "id": "x", "threshold": [0.4] })).await.problem(422, "invalid_request");
    app.json("PATCH", "/v1/galleries/g", json!({ "fusion": ["norm", 2.0] })).await.problem(422, "invalid_request");
    app.post("/v1/detect", json!({ "images": [["/9j/"]] })).await.problem(422, "invalid_request");
    app.get("/v1/changes?after=9007199254740992").await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn a_request_has_a_bounded_number_of_images() {
    let app = TestApp::with(|settings| settings.limits.max_images_per_request = 2).await;
    app.gallery("g").await;
    let body = |n: usize| json!({ "embeddings": vec![ready(0, 0.0, 70.0); n] });
    app.post("/v1/galleries/g/search", body(2)).await.ok(200);
    let refused = app.post("/v1/galleries/g/search", body(3)).await.problem(413, "too_many_images");
    assert_eq!(refused["required"], 2.0);
}

#[tokio::test]
async fn a_key_is_required_where_one_is_set() {
    let app = TestApp::with(|settings| settings.auth.key = SecretString::from("open-sesame")).await;
    let ask = async |path: &str, header: Option<&str>| {
        let mut request = Request::get(path);
        if let Some(value) = header {
            request = request.header("authorization", value);
        }
        app.send(request.body(Body::empty()).unwrap()).await
    };
    let refused = ask("/v1/galleries", None).await;
    refused.problem(401, "unauthorized");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    for wrong in ["Bearer open-sesam", "Bearer", "Basic open-sesame", "open-sesame", "Bearer open-sesame x"] {
        ask("/v1/galleries", Some(wrong)).await.problem(401, "unauthorized");
    }
    ask("/v1/galleries", Some("Bearer open-sesame")).await.ok(200);
    ask("/v1/galleries", Some("bearer open-sesame")).await.ok(200);
    for open in ["/healthz", "/readyz", "/openapi.json"] {
        ask(open, None).await.ok(200);
    }
}

#[tokio::test]
async fn figures_are_there_for_who_has_the_key() {
    let app = TestApp::with(|settings| settings.auth.key = SecretString::from("open-sesame")).await;
    let ask = async |key: &str| {
        let request = Request::get("/metrics").header("authorization", format!("Bearer {key}"));
        app.send(request.body(Body::empty()).unwrap()).await
    };
    ask("wrong").await.problem(401, "unauthorized");
    let answer = ask("open-sesame").await;
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    for line in
        ["# TYPE vultus_galleries gauge", "vultus_galleries 0", "vultus_index_snapshots_total{outcome=\"refused\"} 0"]
    {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let app = TestApp::with(|settings| settings.server.request_timeout_ms = 1).await;
    let large = crate::harness::png(&image::RgbImage::new(1600, 1600));
    app.post_bytes("/v1/detect", "image/png", large).await.problem(408, "request_timeout");
}

#[tokio::test]
async fn requests_have_an_id() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/healthz").await.header("x-request-id").map(str::len), Some(36));
    let named = Request::get("/healthz").header("x-request-id", "mine").body(Body::empty()).unwrap();
    assert_eq!(app.send(named).await.header("x-request-id"), Some("mine"));
}

#[tokio::test]
async fn answers_hold_no_more_than_asked() {
    // A search answer names subjects and scores; embeddings come from /v1/embed alone.
    let app = TestApp::start().await;
    app.gallery("g").await;
    let body = json!({ "images": [{ "data": base64(&crop_png(2)), "aligned": true }], "explain": true });
    app.post("/v1/galleries/g/subjects/ada/faces", json!({ "embeddings": [ready(0, 0.0, 70.0)] })).await.ok(201);
    let text = app.post("/v1/galleries/g/search", body).await.ok(200).to_string();
    assert!(!text.contains("embedding"));
}
