//! Search and verification over ready embeddings, where every score is known.

use serde_json::{Value, json};

use crate::harness::{TestApp, crop_png, ready};

async fn enrol(app: &TestApp, gallery: &str, subject: &str, embeddings: Vec<Value>) -> Value {
    let path = format!("/v1/galleries/{gallery}/subjects/{subject}/faces");
    app.post(&path, json!({ "embeddings": embeddings })).await.ok(201)
}

fn near(value: &Value, expected: f64) -> bool {
    (value.as_f64().unwrap() - expected).abs() < 1e-5
}

#[tokio::test]
async fn candidates_are_ranked_and_decided() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    enrol(&app, "g", "ada", vec![ready(0, 0.0, 70.0)]).await;
    enrol(&app, "g", "bob", vec![ready(0, 1.0, 70.0)]).await;
    enrol(&app, "g", "eve", vec![ready(50, 0.0, 70.0)]).await;
    let search = |options: Value| {
        let mut body = json!({ "embeddings": [ready(0, 0.0, 70.0)] });
        body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        app.post("/v1/galleries/g/search", body)
    };
    let answer = search(json!({ "threshold": { "score": 0.8 } })).await.ok(200);
    let list = answer["candidates"].as_array().unwrap();
    let names: Vec<&str> = list.iter().map(|c| c["subject"].as_str().unwrap()).collect();
    assert_eq!(names, ["ada", "bob", "eve"]);
    assert!(near(&list[0]["score"], 1.0) && near(&list[1]["score"], 0.5f64.sqrt()) && near(&list[2]["score"], 0.0));
    assert_eq!((&list[0]["decision"], &list[1]["decision"]), (&json!("match"), &json!("none")));
    assert_eq!((&list[0]["rank"], &list[2]["rank"]), (&json!(1), &json!(3)));
    assert_eq!((&answer["decision"], &answer["threshold"]["source"]), (&json!("match"), &json!("request")));
    assert_eq!(answer["galleries"][0]["index"], "exact");

    assert_eq!(search(json!({ "limit": 1 })).await.ok(200)["candidates"].as_array().unwrap().len(), 1);
    app.json("PATCH", "/v1/galleries/g", json!({ "threshold": { "score": 1.0 } })).await.ok(200);
    assert_eq!(search(json!({})).await.ok(200)["threshold"]["source"], "gallery");
    for bad in [json!({ "limit": 0 }), json!({ "threshold": { "score": 1.5 } }), json!({ "galleries": ["g"] })] {
        search(bad).await.problem(422, "invalid_request");
    }
}

#[tokio::test]
async fn a_subject_is_one_candidate_with_its_faces_explained() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    enrol(&app, "g", "ada", vec![ready(0, 0.0, 77.0), ready(0, 1.0, 48.3)]).await;
    let body = json!({ "embeddings": [ready(0, 0.0, 70.0)], "explain": true });
    let answer = app.post("/v1/galleries/g/search", body).await.ok(200);
    assert_eq!(answer["candidates"].as_array().unwrap().len(), 1);
    let faces = answer["candidates"][0]["faces"].as_array().unwrap();
    // The model's rule: exp(min(z, -1.5) / 0.6) with z = (norm - 68.796) / 8.191.
    let weights: Vec<f64> = faces.iter().map(|f| f["weight"].as_f64().unwrap()).collect();
    assert!(
        (weights[0] / weights[1] - ((68.796f64 - 1.5 * 8.191 - 48.3) / 8.191 / 0.6).exp()).abs() < 1e-2,
        "{weights:?}"
    );
    assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-5);
    assert!(near(&faces[0]["score"], 1.0) && near(&faces[1]["score"], 0.5f64.sqrt()));
}

#[tokio::test]
async fn probes_are_fused_by_the_rule_asked_for() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    enrol(&app, "g", "ada", vec![ready(0, 0.0, 70.0)]).await;
    enrol(&app, "g", "bob", vec![ready(60, 0.0, 70.0)]).await;
    // One good frame of ada, three poor ones that look like bob.
    let frames = || vec![ready(0, 0.0, 80.0), ready(60, 0.0, 50.0), ready(60, 0.0, 50.0), ready(60, 0.0, 50.0)];
    let first = async |fusion: Value| {
        let body = json!({ "embeddings": frames(), "fusion": fusion });
        let answer = app.post("/v1/galleries/g/search", body).await.ok(200);
        assert_eq!(answer["probe"]["faces"].as_array().unwrap().len(), 4);
        answer["candidates"][0]["subject"].as_str().unwrap().to_owned()
    };
    assert_eq!(first(json!({ "rule": "mean" })).await, "bob");
    assert_eq!(first(json!({ "rule": "norm" })).await, "bob");
    assert_eq!(first(json!({ "rule": "softmax_quality", "tau": 1.0 })).await, "ada");
    assert_eq!(first(json!({ "rule": "best" })).await, "ada");

    // Frames of one video count as one view.
    let mut video = frames();
    video[1..].iter_mut().for_each(|frame| frame["media"] = json!("cam-1"));
    let body = json!({ "embeddings": video, "fusion": { "rule": "mean" } });
    let answer = app.post("/v1/galleries/g/search", body).await.ok(200);
    assert!(near(&answer["probe"]["faces"][0]["weight"], 0.5));
}

#[tokio::test]
async fn events_are_searched_face_by_face() {
    let app = TestApp::start().await;
    app.post("/v1/galleries", json!({ "id": "cam", "kind": "events" })).await.ok(201);
    let enrolled = enrol(&app, "cam", "x", vec![ready(0, 0.0, 70.0), ready(90, 0.0, 70.0)]).await;
    let search = || app.post("/v1/galleries/cam/search", json!({ "embeddings": [ready(90, 0.0, 70.0)] }));
    let answer = search().await.ok(200);
    assert_eq!(answer["candidates"].as_array().unwrap().len(), 1);
    assert!(near(&answer["candidates"][0]["score"], 1.0));
    assert_eq!(answer["candidates"][0]["face"], enrolled["faces"][1]["id"]);

    let face = enrolled["faces"][1]["id"].as_str().unwrap();
    assert_eq!(app.delete(&format!("/v1/galleries/cam/subjects/x/faces/{face}")).await.status, 204);
    let answer = search().await.ok(200);
    assert!(near(&answer["candidates"][0]["score"], 0.0));
}

#[tokio::test]
async fn events_that_cancel_out_are_still_found_and_explained() {
    let app = TestApp::start().await;
    app.post("/v1/galleries", json!({ "id": "cam", "kind": "events" })).await.ok(201);
    let mut opposite = ready(0, 0.0, 70.0);
    opposite["embedding"][0] = json!(-1.0);
    enrol(&app, "cam", "x", vec![ready(0, 0.0, 70.0), opposite]).await;
    let probe = json!({ "embeddings": [ready(0, 0.0, 70.0)], "explain": true });
    let answer = app.post("/v1/galleries/cam/search", probe).await.ok(200);
    assert!(near(&answer["candidates"][0]["score"], 1.0));
    // The best face speaks for its subject, and the next one would.
    let faces = &answer["candidates"][0]["faces"];
    assert_eq!((&faces[0]["weight"], &faces[1]["weight"]), (&json!(1.0), &json!(0.0)));
    assert!(near(&faces[0]["score_without"], -1.0) && near(&faces[1]["score_without"], 1.0));
    let probe = json!({ "embeddings": [ready(0, 0.0, 70.0)] });
    let answer = app.post("/v1/galleries/cam/subjects/x/verify", probe).await.ok(200);
    assert!(near(&answer["score"], 1.0) && near(&answer["coherence"], 0.0));
}

#[tokio::test]
async fn a_changed_rule_changes_the_references() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    enrol(&app, "g", "ada", vec![ready(0, 0.0, 80.0), ready(60, 0.0, 45.0)]).await;
    let score = async || {
        let answer = app.post("/v1/galleries/g/search", json!({ "embeddings": [ready(60, 0.0, 70.0)] })).await.ok(200);
        answer["candidates"][0]["score"].as_f64().unwrap()
    };
    let before = score().await;
    app.json("PATCH", "/v1/galleries/g", json!({ "fusion": { "rule": "mean" } })).await.ok(200);
    assert!((score().await - 0.5f64.sqrt()).abs() < 1e-5);
    assert!(before < 0.1);
}

#[tokio::test]
async fn several_galleries_are_searched_at_once() {
    let app = TestApp::start().await;
    for gallery in ["one", "two"] {
        app.gallery(gallery).await;
    }
    enrol(&app, "one", "ada", vec![ready(0, 0.5, 70.0)]).await;
    enrol(&app, "two", "ada", vec![ready(0, 0.0, 70.0)]).await;
    let body = json!({ "embeddings": [ready(0, 0.0, 70.0)], "galleries": ["one", "two"] });
    let answer = app.post("/v1/search", body).await.ok(200);
    let found: Vec<(&str, &str)> = answer["candidates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["gallery"].as_str().unwrap(), c["subject"].as_str().unwrap()))
        .collect();
    assert_eq!(found, [("two", "ada"), ("one", "ada")]);
    assert_eq!(answer["galleries"].as_array().unwrap().len(), 2);
    assert_eq!(answer["threshold"]["source"], "server");

    app.json("PATCH", "/v1/galleries/one", json!({ "threshold": { "score": 0.95 } })).await.ok(200);
    let raw = app.post_bytes("/v1/search?galleries=one,two&aligned=true", "image/png", crop_png(3)).await.ok(200);
    assert_eq!(raw["threshold"], json!(null));
    let body = json!({ "embeddings": [ready(0, 0.0, 70.0)], "galleries": ["one", "none"] });
    app.post("/v1/search", body).await.problem(404, "gallery_not_found");
    app.post("/v1/search", json!({ "embeddings": [ready(0, 0.0, 70.0)] })).await.problem(422, "invalid_request");
}

#[tokio::test]
async fn each_face_can_be_a_probe_of_its_own() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    enrol(&app, "g", "ada", vec![ready(0, 0.0, 70.0)]).await;
    enrol(&app, "g", "bob", vec![ready(60, 0.0, 70.0)]).await;
    let body = json!({ "embeddings": [ready(60, 0.0, 70.0), ready(0, 0.0, 70.0)], "faces": "each", "limit": 1 });
    let answer = app.post("/v1/galleries/g/search", body).await.ok(200);
    let found: Vec<&str> = answer["searches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["candidates"][0]["subject"].as_str().unwrap())
        .collect();
    assert_eq!(found, ["bob", "ada"]);
}

#[tokio::test]
async fn a_probe_is_verified_against_a_subject_and_against_another() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    enrol(&app, "g", "ada", vec![ready(0, 0.0, 70.0), ready(0, 1.0, 70.0)]).await;
    let path = "/v1/galleries/g/subjects/ada/verify";
    let answer = app.post(path, json!({ "embeddings": [ready(0, 0.0, 70.0)] })).await.ok(200);
    assert_eq!(answer["decision"], "match");
    assert_eq!(answer["faces"].as_array().unwrap().len(), 2);
    assert!(near(&answer["faces"][1]["score"], 0.5f64.sqrt()));
    let other = app.post(path, json!({ "embeddings": [ready(99, 0.0, 70.0)] })).await.ok(200);
    assert_eq!(other["decision"], "none");
    assert!(other["same_at"]["fmr"].as_f64().unwrap() > answer["same_at"]["fmr"].as_f64().unwrap());

    app.post("/v1/galleries/g/subjects", json!({ "id": "empty" })).await.ok(201);
    let empty = app.post("/v1/galleries/g/subjects/empty/verify", json!({ "embeddings": [ready(0, 0.0, 70.0)] })).await;
    empty.problem(422, "subject_has_no_faces");

    let pair = json!({ "embeddings": [ready(0, 0.0, 70.0), ready(0, 1.0, 70.0)] });
    assert!(near(&app.post("/v1/verify", pair).await.ok(200)["score"], 0.5f64.sqrt()));
    app.post("/v1/verify", json!({ "embeddings": [ready(0, 0.0, 70.0)] })).await.problem(422, "invalid_request");
}

#[tokio::test]
async fn faces_that_cancel_out_are_refused_as_a_probe() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let mut opposite = ready(0, 0.0, 70.0);
    opposite["embedding"][0] = json!(-1.0);
    let body = json!({ "embeddings": [ready(0, 0.0, 70.0), opposite] });
    app.post("/v1/galleries/g/search", body).await.problem(422, "faces_contradict");
}

#[tokio::test]
async fn a_review_threshold_above_that_of_a_match_is_refused_or_takes_nothing_away() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    app.post("/v1/galleries/g/subjects/ada/faces", json!({ "embeddings": [ready(0, 0.0, 70.0)] })).await.ok(201);
    let probe = || json!([ready(0, 1.5, 70.0)]);
    for (of_match, of_review) in
        [(json!({ "score": 0.4 }), json!({ "score": 0.5 })), (json!({ "fpir": 0.01 }), json!({ "fpir": 0.001 }))]
    {
        let body = json!({ "embeddings": probe(), "threshold": of_match, "review_threshold": of_review });
        for path in ["/v1/galleries/g/search", "/v1/galleries/g/subjects/ada/verify"] {
            let problem = app.post(path, body.clone()).await.problem(422, "invalid_request");
            assert!(problem["detail"].as_str().unwrap().contains("review_threshold"), "{problem}");
        }
    }
    let query = "/v1/galleries/g/search?threshold=0.4&review_threshold=0.5";
    app.post(query, json!({ "embeddings": probe() })).await.problem(422, "invalid_request");

    // The request's threshold and the gallery's for reviews: a score of 0.55 is above the one and below the other.
    let settings = json!({ "threshold": { "score": 0.8 }, "review_threshold": { "score": 0.7 } });
    app.json("PATCH", "/v1/galleries/g", settings).await.ok(200);
    let body = json!({ "embeddings": probe(), "threshold": { "score": 0.5 } });
    let answer = app.post("/v1/galleries/g/search", body).await.ok(200);
    assert_eq!((&answer["decision"], &answer["review_threshold"]["source"]), (&json!("match"), &json!("gallery")));
    let answer = app.post("/v1/galleries/g/search", json!({ "embeddings": probe() })).await.ok(200);
    assert_eq!(answer["decision"], "none");
}
