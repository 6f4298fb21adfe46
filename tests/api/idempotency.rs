//! `Idempotency-Key`: a repeated POST is done once.

use serde_json::json;

use crate::harness::{TestApp, ready};

const FACES: &str = "/v1/galleries/g/subjects/ada/faces";

#[tokio::test]
async fn the_same_request_is_done_once() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let key = [("idempotency-key", "k-1")];
    let body = json!({ "embeddings": [ready(0, 0.0, 70.0)] });
    let first = app.json_with("POST", FACES, body.clone(), &key).await;
    let second = app.json_with("POST", FACES, body.clone(), &key).await;
    assert_eq!(first.ok(201), second.ok(201));
    assert_eq!(first.header("location"), second.header("location"));
    assert_eq!((first.header("idempotent-replayed"), second.header("idempotent-replayed")), (None, Some("true")));
    assert_eq!(app.get("/v1/galleries/g").await.ok(200)["faces"], 1);

    let other = json!({ "embeddings": [ready(1, 0.0, 70.0)] });
    app.json_with("POST", FACES, other, &key).await.problem(422, "idempotency_key_reused");
    // The same text is another key elsewhere.
    app.json_with("POST", &FACES.replace("ada", "bob"), body.clone(), &key).await.ok(201);
    app.json_with("POST", FACES, body.clone(), &[("idempotency-key", "k-2")]).await.ok(201);
    for bad in ["", "a b"] {
        app.json_with("POST", FACES, body.clone(), &[("idempotency-key", bad)]).await.problem(400, "invalid_parameter");
    }
}

#[tokio::test]
async fn refusals_are_remembered_and_answers_survive_a_restart() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let key = [("idempotency-key", "k")];
    let body = json!({ "id": "g" });
    app.json_with("POST", "/v1/galleries", body.clone(), &key).await.problem(409, "gallery_exists");
    app.delete("/v1/galleries/g").await;
    let app = app.restart().await;
    let again = app.json_with("POST", "/v1/galleries", body, &key).await;
    again.problem(409, "gallery_exists");
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
}

#[tokio::test]
async fn of_concurrent_requests_under_one_key_one_is_done() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let body = json!({ "embeddings": [ready(0, 0.0, 70.0)] });
    let requests = (0..8).map(|_| app.json_with("POST", FACES, body.clone(), &[("idempotency-key", "same")]));
    let answers = futures::future::join_all(requests).await;
    for answer in &answers {
        if answer.status != 201 {
            answer.problem(409, "idempotency_in_progress");
        }
    }
    assert!(answers.iter().any(|answer| answer.status == 201));
    assert_eq!(app.get("/v1/galleries/g").await.ok(200)["faces"], 1);
}
