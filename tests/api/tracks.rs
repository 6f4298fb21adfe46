//! Tracks: grown, searched at any time, bounded, forgotten.

use serde_json::{Value, json};

use crate::harness::{Answer, TestApp, base64, crop_png, ready};

async fn enrol(app: &TestApp, gallery: &str, subject: &str, embedding: Value) {
    let path = format!("/v1/galleries/{gallery}/subjects/{subject}/faces");
    app.post(&path, json!({ "embeddings": [embedding] })).await.ok(201);
}

async fn people(app: &TestApp) {
    app.gallery("g").await;
    enrol(app, "g", "ada", ready(0, 0.0, 70.0)).await;
    enrol(app, "g", "bob", ready(60, 0.0, 70.0)).await;
}

fn near(value: &Value, expected: f64) -> bool {
    (value.as_f64().unwrap() - expected).abs() < 1e-6
}

#[tokio::test]
async fn a_track_is_searched_while_it_grows() {
    let app = TestApp::start().await;
    people(&app).await;
    let made = app.post("/v1/tracks", json!({ "id": "door-17", "gallery": "g", "camera": "door" })).await;
    assert_eq!(made.header("location"), Some("/v1/tracks/door-17"));
    let track = made.ok(201);
    assert_eq!((&track["frames"], &track["coherence"], &track["gallery"]), (&json!(0), &json!(null), &json!("g")));
    app.post("/v1/tracks", json!({ "id": "door-17" })).await.problem(409, "track_exists");

    let search = |more: Value| {
        let mut body = json!({ "track": "door-17" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        app.post("/v1/galleries/g/search", body)
    };
    search(json!({})).await.problem(422, "invalid_request");

    // Three poor frames that look like bob, then a good one of ada.
    let poor = vec![ready(60, 0.0, 40.0), ready(60, 0.0, 40.0), ready(60, 0.0, 40.0)];
    let added = app.post("/v1/tracks/door-17/frames", json!({ "embeddings": poor })).await.ok(201);
    assert_eq!((&added["track"]["frames"], &added["frames"][2]["frame"]), (&json!(3), &json!(2)));
    assert_eq!(added["frames"][0]["media"], "track");
    let answer = search(json!({})).await.ok(200);
    assert_eq!(answer["candidates"][0]["subject"], "bob");
    assert_eq!(answer["probe"]["faces"], json!([]));
    app.post("/v1/tracks/door-17/frames", json!({ "embeddings": [ready(0, 0.0, 80.0)] })).await.ok(201);
    let answer = search(json!({ "explain": true })).await.ok(200);
    assert_eq!(answer["candidates"][0]["subject"], "ada");
    let weights: Vec<f64> =
        answer["probe"]["faces"].as_array().unwrap().iter().map(|f| f["weight"].as_f64().unwrap()).collect();
    assert!(weights.len() == 4 && weights[3] > 0.9, "{weights:?}");
    assert_eq!(search(json!({ "fusion": { "rule": "mean" } })).await.ok(200)["candidates"][0]["subject"], "bob");

    // The same faces as one request give the same score.
    let all: Vec<Value> = [(60, 40.0), (60, 40.0), (60, 40.0), (0, 80.0)]
        .map(|(hot, norm)| {
            let mut face = ready(hot, 0.0, norm);
            face["media"] = json!("one");
            face
        })
        .to_vec();
    let direct = app.post("/v1/galleries/g/search", json!({ "embeddings": all })).await.ok(200);
    let score = direct["candidates"][0]["score"].as_f64().unwrap();
    assert!(near(&search(json!({})).await.ok(200)["candidates"][0]["score"], score));
    let several = app.post("/v1/search", json!({ "track": "door-17", "galleries": ["g"] })).await.ok(200);
    assert!(near(&several["candidates"][0]["score"], score));

    // A frame taken out is as if it had never come.
    assert_eq!(app.delete("/v1/tracks/door-17/frames/3").await.status, 204);
    app.delete("/v1/tracks/door-17/frames/3").await.problem(404, "frame_not_found");
    assert!(near(&search(json!({})).await.ok(200)["candidates"][0]["score"], 1.0));
}

#[tokio::test]
async fn frames_are_listed_in_pages_and_sent_again_without_harm() {
    let app = TestApp::start().await;
    let id = app.post("/v1/tracks", json!({})).await.ok(201)["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/tracks/{id}/frames");
    let frames: Vec<Value> = (0..1000).map(|i| ready(i % 5, 0.1, 40.0 + i as f32 / 20.0)).collect();
    let key = [("idempotency-key", "frames-1")];
    let first = app.json_with("POST", &path, json!({ "embeddings": frames }), &key).await;
    let again = app.json_with("POST", &path, json!({ "embeddings": frames }), &key).await;
    assert_eq!(first.ok(201), again.ok(201));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(app.get(&format!("/v1/tracks/{id}")).await.ok(200)["frames"], 1000);
    let page = app.get(&format!("{path}?limit=600")).await.ok(200);
    let cursor = page["next"].as_str().unwrap();
    let rest = app.get(&format!("{path}?limit=600&cursor={cursor}")).await.ok(200);
    assert_eq!((rest["items"][0]["frame"].as_u64(), rest["items"].as_array().unwrap().len()), (Some(600), 400));
    assert_eq!(rest["next"], json!(null));
    assert!(rest["items"][0].get("embedding").is_none());
    app.get(&format!("{path}?cursor=eA")).await.problem(400, "invalid_parameter");

    let many: Vec<Value> = (0..1001).map(|i| ready(i % 5, 0.1, 40.0)).collect();
    app.post(&path, json!({ "embeddings": many })).await.problem(413, "too_many_images");
    let mut foreign = ready(0, 0.0, 60.0);
    foreign["model_id"] = json!("other-0000000000000000");
    app.post(&path, json!({ "embeddings": [foreign] })).await.problem(409, "model_mismatch");
}

#[tokio::test]
async fn images_become_frames_of_the_tracks_own_media() {
    let app = TestApp::start().await;
    app.post("/v1/tracks", json!({ "id": "t" })).await.ok(201);
    let images = [
        json!({ "data": base64(&crop_png(1)), "aligned": true }),
        json!({ "data": base64(&crop_png(2)), "aligned": true, "media": "still" }),
        json!({ "data": base64(b"no image"), "aligned": true }),
    ];
    let added = app.post("/v1/tracks/t/frames", json!({ "images": images })).await.ok(201);
    let media: Vec<&str> = added["frames"].as_array().unwrap().iter().map(|f| f["media"].as_str().unwrap()).collect();
    assert_eq!(media, ["track", "still"]);
    assert_eq!((&added["rejected"][0]["code"], &added["rejected"][0]["image"]), (&json!("not_an_image"), &json!(2)));
    let raw = app.post_bytes("/v1/tracks/t/frames?aligned=true", "image/png", crop_png(3)).await.ok(201);
    assert_eq!((&raw["frames"][0]["frame"], &raw["frames"][0]["media"]), (&json!(2), &json!("track")));
}

#[tokio::test]
async fn what_tracks_take_is_bounded() {
    let app = TestApp::with(|settings| {
        settings.probes.max_frames_per_track = 10;
        settings.probes.max_tracks = 3;
        settings.probes.max_bytes = 60_000;
    })
    .await;
    for (id, ttl_s) in [("a", 600), ("b", 40), ("c", 600)] {
        app.post("/v1/tracks", json!({ "id": id, "ttl_s": ttl_s })).await.ok(201);
    }
    let until_one_goes = |full: &Answer| {
        let seconds: u64 = full.header("retry-after").unwrap().parse().unwrap();
        assert!((30..=40).contains(&seconds), "{seconds}");
    };
    let full = app.post("/v1/tracks", json!({ "id": "d" })).await;
    until_one_goes(&full);
    full.problem(429, "probes_full");
    let add = |id: &str, frames: usize| {
        let frames: Vec<Value> = (0..frames).map(|i| ready(i, 0.0, 60.0)).collect();
        let path = format!("/v1/tracks/{id}/frames");
        let app = &app;
        async move { app.post(&path, json!({ "embeddings": frames })).await }
    };
    add("a", 11).await.problem(409, "track_full");
    add("a", 10).await.ok(201);
    add("a", 1).await.problem(409, "track_full");
    add("b", 10).await.ok(201);
    add("c", 10).await.ok(201);
    // A track that goes gives its bytes back, so this does not end after a few rounds.
    for _ in 0..20 {
        assert_eq!(app.delete("/v1/tracks/c").await.status, 204);
        app.post("/v1/tracks", json!({ "id": "c" })).await.ok(201);
        add("c", 10).await.ok(201);
    }
    let wide: Vec<Value> = (0..10)
        .map(|i| {
            let mut frame = ready(i, 0.0, 60.0);
            frame["media"] = json!(format!("{i}{}", "x".repeat(250)));
            frame
        })
        .collect();
    app.delete("/v1/tracks/b").await;
    app.post("/v1/tracks", json!({ "id": "b", "ttl_s": 40 })).await.ok(201);
    let full = app.post("/v1/tracks/b/frames", json!({ "embeddings": wide })).await;
    until_one_goes(&full);
    full.problem(429, "probes_full");
    assert_eq!(app.get("/v1/tracks/b").await.ok(200)["frames"], 0);
}

#[tokio::test]
async fn tracks_go_when_they_are_not_used() {
    let app = TestApp::start().await;
    app.post("/v1/tracks", json!({ "id": "a", "ttl_s": 1 })).await.ok(201);
    app.post("/v1/tracks", json!({ "id": "b" })).await.ok(201);
    assert_eq!(app.get("/v1/tracks").await.ok(200)["items"].as_array().unwrap().len(), 2);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    app.get("/v1/tracks/a").await.problem(404, "track_not_found");
    app.post("/v1/search", json!({ "track": "a", "galleries": ["g"] })).await.problem(404, "track_not_found");
    let left = app.get("/v1/tracks?limit=1").await.ok(200);
    assert_eq!((&left["items"][0]["id"], &left["next"]), (&json!("b"), &json!(null)));
    for ttl_s in [0u64, 86_401] {
        app.post("/v1/tracks", json!({ "ttl_s": ttl_s })).await.problem(422, "invalid_request");
    }
    // In memory only.
    let app = app.restart().await;
    app.get("/v1/tracks/b").await.problem(404, "track_not_found");
}

#[tokio::test]
async fn a_search_has_one_probe_of_the_galleries_model() {
    let app = TestApp::start().await;
    people(&app).await;
    let flip = format!("{}+flip", crate::harness::MODEL_ID);
    app.post("/v1/tracks", json!({ "id": "t", "model": flip })).await.ok(201);
    app.post("/v1/tracks", json!({ "gallery": "g", "model": flip })).await.problem(422, "invalid_request");
    app.post("/v1/tracks", json!({ "gallery": "none" })).await.problem(404, "gallery_not_found");
    app.post("/v1/tracks", json!({ "model": "none" })).await.problem(422, "unknown_model");
    app.post_bytes("/v1/tracks/t/frames?aligned=true", "image/png", crop_png(3)).await.ok(201);
    for explain in [false, true] {
        let body = json!({ "track": "t", "explain": explain });
        let problem = app.post("/v1/galleries/g/search", body).await.problem(409, "model_mismatch");
        assert_eq!(problem["expected_model_id"], crate::harness::MODEL_ID);
    }
    let template = app.post("/v1/templates", json!({ "embeddings": [ready(0, 0.0, 60.0)] })).await.ok(201);
    for bad in [
        json!({ "track": "t", "template": template["id"] }),
        json!({ "track": "t", "embeddings": [ready(0, 0.0, 60.0)] }),
        json!({ "template": template["id"], "images": [{ "data": base64(&crop_png(1)) }] }),
        json!({ "template": template["id"], "faces": "each" }),
        json!({}),
    ] {
        app.post("/v1/galleries/g/search", bad).await.problem(422, "invalid_request");
    }
}
