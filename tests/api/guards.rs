//! Enrolment that refuses poison, and what lets a face in all the same.

use serde_json::{Value, json};

use crate::harness::{TestApp, ready};

async fn guarded() -> TestApp {
    let app = TestApp::start().await;
    app.post("/v1/galleries", json!({ "id": "g" })).await.ok(201);
    app
}

fn faces(subject: &str) -> String {
    format!("/v1/galleries/g/subjects/{subject}/faces")
}

#[tokio::test]
async fn a_face_of_somebody_else_is_refused_with_its_reason() {
    let app = guarded().await;
    app.post(&faces("ada"), json!({ "embeddings": [ready(0, 0.0, 70.0), ready(0, 0.2, 70.0)] })).await.ok(201);
    app.post(&faces("bob"), json!({ "embeddings": [ready(60, 0.0, 70.0)] })).await.ok(201);

    let stranger = json!({ "embeddings": [ready(100, 0.0, 70.0)] });
    let problem = app.post(&faces("ada"), stranger.clone()).await.problem(422, "wrong_person");
    assert!(problem["value"].as_f64().unwrap() < 0.01 && problem["required"].as_f64().unwrap() > 0.15, "{problem}");
    let problem = app.post(&faces("eve"), json!({ "embeddings": [ready(0, 0.1, 70.0)] })).await;
    let problem = problem.problem(422, "duplicate_subject");
    assert_eq!(problem["subject"], "ada");
    assert!(problem["value"].as_f64() > problem["required"].as_f64());
    app.get("/v1/galleries/g/subjects/eve").await.problem(404, "subject_not_found");

    // Among others that are fine it is listed, and the others come in.
    let mixed = json!({ "embeddings": [ready(0, 0.1, 70.0), ready(60, 0.1, 70.0), ready(0, 0.3, 70.0)] });
    let answer = app.post(&faces("ada"), mixed.clone()).await.ok(201);
    assert_eq!(answer["faces"].as_array().unwrap().len(), 2);
    let rejected = &answer["rejected"][0];
    assert_eq!((&rejected["code"], &rejected["image"]), (&json!("wrong_person"), &json!(1)));
    assert_eq!(rejected["subject"], "bob", "{rejected}");
    let images: Vec<&Value> = answer["faces"].as_array().unwrap().iter().map(|face| &face["image"]).collect();
    assert_eq!(images, [&json!(0), &json!(2)]);
}

#[tokio::test]
async fn an_override_is_recorded_with_the_face() {
    let app = guarded().await;
    app.post(&faces("ada"), json!({ "embeddings": [ready(0, 0.0, 70.0)] })).await.ok(201);
    app.post(&faces("bob"), json!({ "embeddings": [ready(60, 0.0, 70.0)] })).await.ok(201);
    let body = |allow: Value| json!({ "embeddings": [ready(60, 0.1, 50.0)], "allow": allow, "min_quality": 0.5, "dry_run": true });
    app.post(&faces("ada"), body(json!([]))).await.problem(422, "quality_too_low");
    app.post(&faces("ada"), body(json!(["quality"]))).await.problem(422, "wrong_person");
    app.post(&faces("ada"), body(json!(["quality", "wrong_person"]))).await.problem(422, "duplicate_subject");
    app.post(&faces("ada"), body(json!(["other"]))).await.problem(422, "invalid_request");
    let mut all = body(json!(["quality", "wrong_person", "duplicate_subject"]));
    let dry = app.post(&faces("ada"), all.clone()).await.ok(200);
    assert_eq!(dry["faces"][0]["overrides"].as_array().unwrap().len(), 3);
    assert_eq!(app.get(&faces("ada")).await.ok(200)["items"].as_array().unwrap().len(), 1);
    all["dry_run"] = json!(false);
    app.post(&faces("ada"), all).await.ok(201);
    let kept = app.get(&faces("ada")).await.ok(200)["items"][1]["overrides"].clone();
    let checks: Vec<&str> = kept.as_array().unwrap().iter().map(|of| of["check"].as_str().unwrap()).collect();
    assert_eq!(checks, ["quality", "wrong_person", "duplicate_subject"]);
    assert_eq!(kept[2]["subject"], "bob");
    assert!(kept[0]["value"].as_f64().unwrap() < 0.5 && kept[0]["required"] == 0.5);

    let query = format!("{}?allow=wrong_person,nonsense", faces("ada"));
    app.post(&query, json!({ "embeddings": [ready(0, 0.0, 70.0)] })).await.problem(400, "invalid_parameter");
    let off = json!({ "guards": { "wrong_person": { "enabled": false }, "duplicate_subject": { "score": 1.0 } } });
    app.json("PATCH", "/v1/galleries/g", off).await.ok(200);
    app.post(&faces("ada"), json!({ "embeddings": [ready(60, 0.2, 70.0)] })).await.ok(201);
}

#[tokio::test]
async fn withdrawn_consent_refuses_faces_and_hides_from_searches() {
    let app = guarded().await;
    app.post(&faces("ada"), json!({ "embeddings": [ready(0, 0.0, 70.0)] })).await.ok(201);
    let subject = "/v1/galleries/g/subjects/ada";
    let search = async || {
        let body = json!({ "embeddings": [ready(0, 0.0, 70.0)] });
        app.post("/v1/galleries/g/search", body).await.ok(200)["candidates"].as_array().unwrap().len()
    };
    assert_eq!(search().await, 1);
    let answer = app.json("PATCH", subject, json!({ "consent": "withdrawn" })).await.ok(200);
    assert_eq!((&answer["consent"], &answer["expires_at"]), (&json!("withdrawn"), &json!(null)));
    assert_eq!(search().await, 0);
    let one = json!({ "embeddings": [ready(0, 0.1, 70.0)] });
    app.post(&faces("ada"), one.clone()).await.problem(409, "consent_missing");
    app.post(&format!("{subject}/verify"), one.clone()).await.problem(409, "consent_missing");
    let app = app.restart().await;
    let body = json!({ "embeddings": [ready(0, 0.0, 70.0)] });
    assert_eq!(app.post("/v1/galleries/g/search", body.clone()).await.ok(200)["candidates"], json!([]));
    app.json("PATCH", subject, json!({ "consent": "granted", "expires_at": "2999-01-01T00:00:00Z" })).await.ok(200);
    assert_eq!(app.post("/v1/galleries/g/search", body.clone()).await.ok(200)["candidates"][0]["subject"], "ada");
    app.json("PATCH", subject, json!({ "expires_at": "2001-01-01T00:00:00Z" })).await.ok(200);
    assert_eq!(app.post("/v1/galleries/g/search", body).await.ok(200)["candidates"], json!([]));
}

#[tokio::test]
async fn first_faces_that_disagree_are_all_refused() {
    let app = guarded().await;
    for order in [[0, 60], [60, 0]] {
        let two = json!({ "embeddings": order.map(|hot| ready(hot, 0.0, 60.0 + hot as f32)) });
        let problem = app.post(&faces("ada"), two).await.problem(422, "wrong_person");
        assert!(problem["detail"].as_str().unwrap().starts_with("the faces of the request disagree"), "{problem}");
        app.get("/v1/galleries/g/subjects/ada").await.problem(404, "subject_not_found");
    }
    // Two that agree are enrolled, whatever comes with them.
    let three = json!({ "embeddings": [ready(60, 0.0, 80.0), ready(0, 0.0, 70.0), ready(0, 0.1, 50.0)] });
    let answer = app.post(&faces("ada"), three).await.ok(201);
    assert_eq!([&answer["faces"][0]["image"], &answer["faces"][1]["image"]], [&json!(1), &json!(2)]);
    let rejected = &answer["rejected"][0];
    assert_eq!((&rejected["code"], &rejected["image"]), (&json!("wrong_person"), &json!(0)));
    let detail = |problem: &Value| problem["detail"].as_str().unwrap().to_owned();
    assert!(detail(rejected).starts_with("the faces of the request disagree"), "{rejected}");
    let stranger = json!({ "embeddings": [ready(60, 0.0, 80.0)] });
    let problem = app.post(&faces("ada"), stranger).await.problem(422, "wrong_person");
    assert!(detail(&problem).contains("against the subject's other faces"), "{problem}");
}

/// Two faces that cancel each other out have no template: the subject is there, and nothing finds it.
#[tokio::test]
async fn faces_that_cancel_out_are_refused_and_harm_nothing_where_they_are_allowed() {
    let app = guarded().await;
    app.post(&faces("bob"), json!({ "embeddings": [ready(60, 0.0, 70.0)] })).await.ok(201);
    let mut opposite = ready(0, 0.0, 70.0);
    opposite["embedding"][0] = json!(-1.0);
    let both = json!({ "embeddings": [ready(0, 0.0, 70.0), opposite] });
    let problem = app.post(&faces("ada"), both.clone()).await.problem(422, "wrong_person");
    assert_eq!(problem["value"], -1.0);

    let allowed = app.post(&format!("{}?allow=wrong_person", faces("ada")), both).await.ok(201);
    for face in allowed["faces"].as_array().unwrap() {
        let kept = &face["overrides"][0];
        assert_eq!((&kept["check"], &kept["value"]), (&json!("wrong_person"), &json!(-1.0)));
    }
    let app = app.restart().await;
    app.get("/v1/galleries/g/subjects/ada").await.ok(200);
    assert_eq!(app.get("/v1/galleries/g").await.ok(200)["faces"], 3);
    let probe = json!({ "embeddings": [ready(0, 0.0, 70.0)], "explain": true });
    let answer = app.post("/v1/galleries/g/search", probe.clone()).await.ok(200);
    let found: Vec<&Value> = answer["candidates"].as_array().unwrap().iter().map(|one| &one["subject"]).collect();
    assert_eq!(found, [&json!("bob")]);
    let one = json!({ "embeddings": [ready(0, 0.0, 70.0)] });
    app.post("/v1/galleries/g/subjects/ada/verify", one).await.problem(422, "faces_contradict");
    // A third face decides which way it looks, and then it is found.
    let third = format!("{}?allow=wrong_person", faces("ada"));
    app.post(&third, json!({ "embeddings": [ready(0, 0.1, 70.0)] })).await.ok(201);
    let answer = app.post("/v1/galleries/g/search", probe).await.ok(200);
    assert_eq!(answer["candidates"][0]["subject"], "ada");
    assert!(answer["candidates"][0]["score"].as_f64().unwrap() > 0.9, "{answer}");
}
