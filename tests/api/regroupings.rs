//! Merging, splitting, moving and undoing; pairs; reviews; searches with what is enrolled; filters.

use serde_json::{Value, json};

use crate::harness::{TestApp, ready};

async fn enrolled() -> TestApp {
    let app = TestApp::start().await;
    app.gallery("g").await;
    for (subject, axis, tilts) in
        [("ada", 0, vec![0.0, 0.1]), ("alias", 0, vec![0.3, 0.6]), ("bob", 60, vec![0.0]), ("eve", 0, vec![0.8])]
    {
        let body = json!({ "labels": [subject], "metadata": { "site": if axis == 0 { "north" } else { "south" } } });
        app.json("PUT", &format!("/v1/galleries/g/subjects/{subject}"), body).await.ok(201);
        let faces: Vec<Value> = tilts.into_iter().map(|tilt| ready(axis, tilt, 70.0 + tilt)).collect();
        app.post(&format!("/v1/galleries/g/subjects/{subject}/faces"), json!({ "embeddings": faces })).await.ok(201);
    }
    app
}

/// All that a client sees of a gallery, but for the sequence number of its last change.
async fn everything(app: &TestApp) -> Value {
    let mut seen = Vec::new();
    let subjects = app.get("/v1/galleries/g/subjects").await.ok(200);
    for subject in subjects["items"].as_array().unwrap() {
        let path = format!("/v1/galleries/g/subjects/{}", subject["id"].as_str().unwrap());
        let etag = app.get(&path).await.header("etag").unwrap().to_owned();
        seen.push(json!([subject, etag, app.get(&format!("{path}/faces")).await.ok(200)]));
    }
    let body = json!({ "embeddings": [ready(0, 0.4, 70.0)], "explain": true });
    let found = app.post("/v1/galleries/g/search", body).await.ok(200);
    json!([seen, found["candidates"]])
}

#[tokio::test]
async fn a_merge_and_its_split_restore_everything() {
    let app = enrolled().await;
    let before = everything(&app).await;
    let merge = app.post("/v1/galleries/g/subjects/ada/merge", json!({ "subject": "alias" })).await;
    let done = merge.ok(201);
    assert_eq!((&done["kind"], &done["from"], &done["into"]), (&json!("merge"), &json!("alias"), &json!("ada")));
    let location = merge.header("location").unwrap().to_owned();
    assert_eq!(app.get(&location).await.ok(200), done);
    app.get("/v1/galleries/g/subjects/alias").await.problem(404, "subject_not_found");
    let faces = app.get("/v1/galleries/g/subjects/ada/faces").await.ok(200);
    assert_eq!(faces["items"].as_array().unwrap().len(), 4);
    assert!(everything(&app).await != before);

    let split = json!({ "merge": done["id"] });
    app.post("/v1/galleries/g/subjects/bob/split", split.clone()).await.problem(404, "regrouping_not_found");
    let app = app.restart().await;
    let undone = app.post("/v1/galleries/g/subjects/ada/split", split.clone()).await.ok(200);
    assert!(undone["undone_at"].is_string() && undone["left"] == json!([]));
    assert_eq!(everything(&app).await, before);
    app.post("/v1/galleries/g/subjects/ada/split", split).await.problem(409, "already_undone");
    let changes = app.get("/v1/changes?limit=1000").await.ok(200);
    let moved = changes["items"].as_array().unwrap().iter().filter(|change| change["kind"] == "face_moved");
    assert_eq!(moved.filter(|change| change["from"] == "alias" && change["subject"] == "ada").count(), 2);
    for bad in [json!({}), json!({ "faces": [] }), json!({ "faces": [done["id"]], "merge": done["id"] })] {
        app.post("/v1/galleries/g/subjects/ada/split", bad).await.problem(422, "invalid_request");
    }
    let itself = json!({ "subject": "ada" });
    app.post("/v1/galleries/g/subjects/ada/merge", itself).await.problem(422, "invalid_request");
}

#[tokio::test]
async fn faces_are_split_off_and_moved_and_come_back() {
    let app = enrolled().await;
    let before = everything(&app).await;
    let faces = app.get("/v1/galleries/g/subjects/alias/faces").await.ok(200);
    let face = faces["items"][1]["id"].as_str().unwrap();
    let split = json!({ "faces": [face], "into": "new" });
    let split = app.post("/v1/galleries/g/subjects/alias/split", split).await.ok(201);
    let path = format!("/v1/galleries/g/subjects/new/faces/{face}");
    app.get(&path).await.ok(200);
    let moved = app.json("PATCH", &path, json!({ "subject": "bob" })).await.ok(200);
    app.get(&path).await.problem(404, "face_not_found");
    let undo = async |id: &Value| {
        app.post(&format!("/v1/galleries/g/regroupings/{}/undo", id.as_str().unwrap()), json!({})).await.ok(200)
    };
    undo(&moved["id"]).await;
    undo(&split["id"]).await;
    assert_eq!(everything(&app).await, before);
    let list = app.get("/v1/galleries/g/regroupings?limit=1").await.ok(200);
    assert_eq!((&list["items"][0]["kind"], list["next"].is_string()), (&json!("split"), true));
    app.json("PATCH", &path, json!({ "subject": "nobody" })).await.problem(404, "subject_not_found");
}

#[tokio::test]
async fn two_people_are_kept_apart() {
    let app = enrolled().await;
    let pair = "/v1/galleries/g/subjects/alias/kept_apart/eve";
    app.json("PUT", pair, json!({ "note": "twins" })).await.ok(200);
    let list = app.get("/v1/galleries/g/subjects/eve/kept_apart").await.ok(200);
    assert_eq!((&list["items"][0]["subject"], &list["items"][0]["note"]), (&json!("alias"), &json!("twins")));
    app.post("/v1/galleries/g/subjects/eve/merge", json!({ "subject": "alias" })).await.problem(409, "kept_apart");
    let body = json!({ "enrolled": { "gallery": "g", "subject": "alias" } });
    let found = app.post("/v1/galleries/g/search", body.clone()).await.ok(200);
    let names: Vec<&str> =
        found["candidates"].as_array().unwrap().iter().map(|c| c["subject"].as_str().unwrap()).collect();
    assert_eq!(names, ["ada", "bob"], "neither itself nor who it is not");
    assert_eq!(found["probe"]["faces"].as_array().unwrap().len(), 2);
    assert_eq!(app.delete(pair).await.status.as_u16(), 204);
    let found = app.post("/v1/galleries/g/search", body).await.ok(200);
    assert_eq!(found["candidates"].as_array().unwrap().len(), 3);

    // A review that rejects keeps apart as well.
    let review = json!({
        "gallery": "g", "subject": "ada", "verdict": "rejected", "probe": { "subject": "alias" }, "score": 0.7,
        "reviewer": "kim"
    });
    let made = app.post("/v1/reviews", review.clone()).await;
    let review = made.ok(201);
    assert_eq!(app.get(made.header("location").unwrap()).await.ok(200), review);
    assert_eq!(app.get("/v1/reviews?gallery=g").await.ok(200)["items"], json!([review]));
    let list = app.get("/v1/galleries/g/subjects/ada/kept_apart").await.ok(200);
    assert_eq!(list["items"][0]["subject"], "alias");
    app.get("/v1/reviews").await.problem(400, "invalid_parameter");
    app.get("/v1/reviews/01a20c73-3c10-7081-b8cd-13949bf1b0a0").await.problem(404, "review_not_found");
    app.json("PUT", "/v1/galleries/g/subjects/ada/kept_apart/ada", json!({})).await.problem(422, "invalid_request");
}

#[tokio::test]
async fn searches_are_filtered_by_metadata() {
    let app = enrolled().await;
    let search = async |filter: Value| {
        let body = json!({ "embeddings": [ready(0, 0.0, 70.0)], "filter": filter });
        let found = app.post("/v1/galleries/g/search", body).await.ok(200);
        let names = found["candidates"].as_array().unwrap().iter().map(|c| c["subject"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(search(json!({ "field": "metadata.site", "eq": "south" })).await, ["bob"]);
    let both =
        json!({ "and": [{ "field": "metadata.site", "eq": "north" }, { "not": { "field": "id", "in": ["ada"] } }] });
    assert_eq!(search(both).await, ["alias", "eve"]);
    assert_eq!(search(json!({ "field": "labels", "eq": "eve" })).await, ["eve"]);
    let bad = json!({ "embeddings": [ready(0, 0.0, 70.0)], "filter": { "field": "nothing", "eq": 1 } });
    app.post("/v1/galleries/g/search", bad).await.problem(422, "invalid_request");
    let path = "/v1/galleries/g/search?filter=%7B%22field%22%3A%22metadata.site%22%2C%22eq%22%3A%22south%22%7D";
    let found = app.post(path, json!({ "embeddings": [ready(0, 0.0, 70.0)] })).await.ok(200);
    assert_eq!(found["candidates"].as_array().unwrap().len(), 1);
    app.post("/v1/galleries/g/search?filter=x", json!({ "embeddings": [ready(0, 0.0, 70.0)] }))
        .await
        .problem(400, "invalid_parameter");
}
