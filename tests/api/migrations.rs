//! A gallery moves to another model. The other model is the embedded one under flip fusion, which is always at hand.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{MODEL_ID, TestApp, crop_png, no_guards};

fn other() -> String {
    format!("{MODEL_ID}+flip")
}

async fn enrol(app: &TestApp, subject: &str, seed: u32) -> Value {
    let path = format!("/v1/galleries/g/subjects/{subject}/faces?aligned=true");
    app.post_bytes(&path, "image/png", crop_png(seed)).await.ok(201)
}

async fn search(app: &TestApp, seed: u32) -> (String, String) {
    let answer = app.post_bytes("/v1/galleries/g/search?aligned=true", "image/png", crop_png(seed)).await.ok(200);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&answer["model_id"]), text(&answer["candidates"][0]["subject"]))
}

async fn ready(app: &TestApp, path: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let migration = app.get(path).await.ok(200);
        if migration["stage"] == "ready" {
            return migration;
        }
        assert!(Instant::now() < deadline, "{migration}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A gallery that keeps crops, with one crop of each of six subjects.
async fn gallery() -> TestApp {
    let app = TestApp::start().await;
    app.post("/v1/galleries", json!({ "id": "g", "keep_crops": true, "guards": no_guards() })).await.ok(201);
    for seed in 0..6 {
        enrol(&app, &format!("s{seed}"), seed).await;
    }
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gallery_moves_and_comes_back() {
    let app = gallery().await;
    let started =
        app.post("/v1/galleries/g/migrations", json!({ "model": other(), "threshold": { "score": 0.5 } })).await;
    let path = started.header("location").unwrap().to_owned();
    let migration = started.ok(201);
    assert_eq!((&migration["from_model_id"], &migration["to_model_id"]), (&json!(MODEL_ID), &json!(other())));
    app.post("/v1/galleries/g/migrations", json!({ "model": other() })).await.problem(409, "migration_under_way");
    let migration = ready(&app, &path).await;
    assert_eq!((&migration["faces"], &migration["embedded"]), (&json!(6), &json!(6)));
    assert_eq!(migration["agreement"]["non_mated"]["probes"], 6);
    assert_eq!(search(&app, 2).await, (MODEL_ID.to_owned(), "s2".to_owned()));
    app.post(&format!("{path}/roll-back"), json!({})).await.problem(409, "migration_stage");

    assert_eq!(app.post(&format!("{path}/cut-over"), json!({})).await.ok(200)["stage"], "cut_over");
    let gallery = app.get("/v1/galleries/g").await.ok(200);
    assert_eq!((&gallery["model_id"], &gallery["threshold"]["score"]), (&json!(other()), &json!(0.5)));
    assert_eq!(search(&app, 2).await, (other(), "s2".to_owned()));
    assert_eq!(enrol(&app, "late", 77).await["model_id"], other());

    // The state is the store's, so a restart changes nothing.
    let app = app.restart().await;
    assert_eq!(search(&app, 77).await, (other(), "late".to_owned()));
    assert_eq!(app.post(&format!("{path}/roll-back"), json!({})).await.ok(200)["stage"], "rolled_back");
    assert_eq!(search(&app, 77).await, (MODEL_ID.to_owned(), "late".to_owned()));
    app.post(&format!("{path}/cut-over"), json!({})).await.ok(200);
    let ended = app.post(&format!("{path}/end"), json!({})).await.ok(200);
    assert_eq!((&ended["stage"], &ended["embedded"]), (&json!("completed"), &json!(0)));
    app.post(&format!("{path}/roll-back"), json!({})).await.problem(409, "migration_stage");
    let all = app.get("/v1/galleries/g/migrations").await.ok(200);
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn galleries_of_two_models_live_side_by_side() {
    let app = gallery().await;
    let body = json!({ "id": "h", "model": other() });
    assert_eq!(app.post("/v1/galleries", body).await.ok(201)["model_id"], other());
    let enrolled =
        app.post_bytes("/v1/galleries/h/subjects/a/faces?aligned=true", "image/png", crop_png(1)).await.ok(201);
    assert_eq!(enrolled["model_id"], other());
    let picture = json!({ "data": crate::harness::base64(&crop_png(1)), "aligned": true });
    let both = json!({ "galleries": ["g", "h"], "images": [picture] });
    app.post("/v1/search", both).await.problem(409, "model_mismatch");
    let probe = app.post_bytes("/v1/embed?aligned=true", "image/png", crop_png(1)).await.ok(200);
    let face = &probe["images"][0]["faces"][0];
    let ready = json!({ "embedding": face["embedding"], "norm": face["norm"], "model_id": MODEL_ID });
    let body = json!({ "embeddings": [ready] });
    app.post("/v1/galleries/g/search", body.clone()).await.ok(200);
    let refused = app.post("/v1/galleries/h/search", body).await.problem(409, "model_mismatch");
    assert_eq!(refused["expected_model_id"], other());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_move_says_why() {
    let app = gallery().await;
    let start = |body: Value| app.post("/v1/galleries/g/migrations", body);
    start(json!({ "model": "none-0123456789abcdef" })).await.problem(422, "unknown_model");
    start(json!({ "model": MODEL_ID })).await.problem(422, "invalid_request");
    start(json!({})).await.problem(422, "invalid_request");
    app.get("/v1/galleries/g/migrations/7").await.problem(400, "invalid_parameter");
    let unknown = "/v1/galleries/g/migrations/01a20d16-6b67-71c0-b500-26e3c0e96499";
    app.get(unknown).await.problem(404, "migration_not_found");
    app.post(&format!("{unknown}/cut-over"), json!({})).await.problem(404, "migration_not_found");
    app.post("/v1/galleries/none/migrations", json!({ "model": other() })).await.problem(404, "gallery_not_found");
    app.post("/v1/galleries", json!({ "id": "x", "model": "none", "guards": no_guards() }))
        .await
        .problem(422, "unknown_model");

    // A gallery that keeps no crops has nothing to embed.
    app.gallery("bare").await;
    app.post_bytes("/v1/galleries/bare/subjects/a/faces?aligned=true", "image/png", crop_png(1)).await.ok(201);
    let started = app.post("/v1/galleries/bare/migrations", json!({ "model": other() })).await;
    let path = started.header("location").unwrap().to_owned();
    let migration = ready(&app, &path).await;
    assert!(migration["failure"].as_str().unwrap().contains("crop"), "{migration}");
    app.post(&format!("{path}/cut-over"), json!({})).await.problem(409, "migration_incomplete");
    assert_eq!(app.post(&format!("{path}/end"), json!({})).await.ok(200)["stage"], "cancelled");
}
