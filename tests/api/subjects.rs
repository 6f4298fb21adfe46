//! Subjects: their life, labels and metadata, and what goes with them.

use serde_json::json;

use crate::harness::{TestApp, ready};

#[tokio::test]
async fn a_subject_lives() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let body = json!({ "id": "ada", "labels": ["Ada"], "metadata": { "badge": 17, "nested": { "a": [1] } } });
    let created = app.post("/v1/galleries/g/subjects", body.clone()).await;
    let subject = created.ok(201);
    assert_eq!(created.header("location"), Some("/v1/galleries/g/subjects/ada"));
    assert_eq!((&subject["labels"], &subject["metadata"]), (&body["labels"], &body["metadata"]));
    app.post("/v1/galleries/g/subjects", body).await.problem(409, "subject_exists");

    let patched = app.json("PATCH", "/v1/galleries/g/subjects/ada", json!({ "metadata": { "badge": null, "x": 1 } }));
    assert_eq!(patched.await.ok(200)["metadata"], json!({ "nested": { "a": [1] }, "x": 1 }));
    let put = app.json("PUT", "/v1/galleries/g/subjects/ada", json!({ "labels": ["L"] })).await.ok(200);
    assert_eq!((&put["labels"], &put["metadata"]), (&json!(["L"]), &json!({})));
    app.json("PUT", "/v1/galleries/g/subjects/bob", json!({})).await.ok(201);
    assert_eq!(app.get("/v1/galleries/g").await.ok(200)["subjects"], 2);

    // Without an id, one is made.
    let id = app.post("/v1/galleries/g/subjects", json!({})).await.ok(201)["id"].as_str().unwrap().to_owned();
    app.get(&format!("/v1/galleries/g/subjects/{id}")).await.ok(200);

    assert_eq!(app.delete("/v1/galleries/g/subjects/ada").await.status, 204);
    app.get("/v1/galleries/g/subjects/ada").await.problem(404, "subject_not_found");
    app.get("/v1/galleries/h/subjects/ada").await.problem(404, "gallery_not_found");
    let huge = json!({ "id": "c", "metadata": { "text": "x".repeat(17 << 10) } });
    app.post("/v1/galleries/g/subjects", huge).await.problem(422, "invalid_request");
}

#[tokio::test]
async fn a_removed_subject_takes_its_faces_along() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let enrol = async |subject: &str, hot| {
        let path = format!("/v1/galleries/g/subjects/{subject}/faces");
        app.post(&path, json!({ "embeddings": [ready(hot, 0.0, 70.0)] })).await
    };
    enrol("a", 0).await.ok(201);
    enrol("b", 9).await.ok(201);
    assert_eq!(app.delete("/v1/galleries/g/subjects/a").await.status, 204);
    let found = app.post("/v1/galleries/g/search", json!({ "embeddings": [ready(0, 0.0, 70.0)] })).await.ok(200);
    let subjects: Vec<_> = found["candidates"].as_array().unwrap().iter().map(|c| &c["subject"]).collect();
    assert_eq!(subjects, ["b"]);
    assert_eq!(app.get("/v1/galleries/g").await.ok(200)["faces"], 1);

    // A gallery of the same name does not inherit anything.
    assert_eq!(app.delete("/v1/galleries/g").await.status, 204);
    app.gallery("g").await;
    let found = app.post("/v1/galleries/g/search", json!({ "embeddings": [ready(9, 0.0, 70.0)] })).await.ok(200);
    assert_eq!(found["candidates"], json!([]));
    assert_eq!(found["decision"], "none");
}

#[tokio::test]
async fn subjects_are_listed_in_pages() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    for n in [3, 1, 2] {
        app.post("/v1/galleries/g/subjects", json!({ "id": format!("s{n}") })).await.ok(201);
    }
    let page = app.get("/v1/galleries/g/subjects?limit=2").await.ok(200);
    assert_eq!((&page["items"][0]["id"], &page["items"][1]["id"]), (&json!("s1"), &json!("s2")));
    let next = page["next"].as_str().unwrap();
    let page = app.get(&format!("/v1/galleries/g/subjects?limit=2&cursor={next}")).await.ok(200);
    assert_eq!((&page["items"][0]["id"], &page["next"]), (&json!("s3"), &json!(null)));
}

#[tokio::test]
async fn the_latest_expiry_is_told_to_who_asks_for_more() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let subjects = "/v1/galleries/g/subjects";
    let latest = json!({ "id": "ada", "expires_at": "9999-12-30T22:00:00Z" });
    assert_eq!(app.post(subjects, latest).await.ok(201)["expires_at"], "9999-12-30T22:00:00Z");
    for bad in ["9999-12-31T23:59:59Z", "tomorrow", "2030-01-31"] {
        let new = app.post(subjects, json!({ "id": "bob", "expires_at": bad })).await;
        let put = app.json("PUT", &format!("{subjects}/bob"), json!({ "expires_at": bad })).await;
        let patch = app.json("PATCH", &format!("{subjects}/ada"), json!({ "expires_at": bad })).await;
        for answer in [new, put, patch] {
            let problem = answer.problem(422, "invalid_request");
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("at latest 9999-12-30T22:00:00Z, or null for never"), "{detail}");
        }
    }
}
