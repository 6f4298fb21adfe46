//! Probe templates: fused once, searched with as often as wanted.

use serde_json::json;

use crate::harness::{TestApp, base64, crop_png, ready};

#[tokio::test]
async fn a_template_is_made_shown_searched_and_let_go() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let face = json!({ "embeddings": [ready(0, 0.0, 70.0)] });
    app.post("/v1/galleries/g/subjects/ada/faces", face).await.ok(201);
    let faces = json!([ready(0, 0.0, 80.0), ready(60, 0.0, 40.0)]);
    let made = app.post("/v1/templates", json!({ "embeddings": faces, "gallery": "g" })).await;
    let template = made.ok(201);
    let path = made.header("location").unwrap().to_owned();
    assert_eq!(path, format!("/v1/templates/{}", template["id"].as_str().unwrap()));
    assert!(template.get("vector").is_none());
    let weight = |face: usize| template["faces"][face]["weight"].as_f64().unwrap();
    assert!(weight(0) > 0.9 && (weight(0) + weight(1) - 1.0).abs() < 1e-6);
    assert_eq!(template["faces"][1]["source"], "embedding");
    assert!(template["coherence"].as_f64().unwrap() < 0.8);

    let shown = app.get(&format!("{path}?vector=true")).await.ok(200);
    let length: f64 = shown["vector"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap().powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-5);
    assert!(app.get(&path).await.ok(200).get("vector").is_none());

    let search = json!({ "template": template["id"] });
    let by_id = app.post("/v1/galleries/g/search", search.clone()).await.ok(200);
    let direct = app.post("/v1/galleries/g/search", json!({ "embeddings": faces })).await.ok(200);
    assert_eq!(by_id["candidates"], direct["candidates"]);
    assert_eq!(by_id["probe"]["coherence"], direct["probe"]["coherence"]);
    assert_eq!(by_id["probe"]["faces"], direct["probe"]["faces"]);

    assert_eq!(app.delete(&path).await.status, 204);
    app.get(&path).await.problem(404, "template_not_found");
    app.post("/v1/galleries/g/search", search).await.problem(404, "template_not_found");
    app.get("/v1/templates/none").await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn images_of_any_body_become_a_template() {
    let app = TestApp::start().await;
    let images = [json!({ "data": base64(&crop_png(1)), "aligned": true, "media": "m" }), json!({ "data": "AAAA" })];
    let template = app.post("/v1/templates?vector=true", json!({ "images": images })).await.ok(201);
    assert_eq!((&template["faces"][0]["media"], &template["faces"][0]["source"]), (&json!("m"), &json!("crop")));
    assert_eq!(template["rejected"][0]["code"], "not_an_image");
    assert_eq!(template["vector"].as_array().unwrap().len(), 192);
    let raw = app.post_bytes("/v1/templates?aligned=true&fusion=mean", "image/png", crop_png(2)).await.ok(201);
    assert_eq!(raw["fusion"]["rule"], "mean");

    let mut opposite = ready(0, 0.0, 70.0);
    opposite["embedding"][0] = json!(-1.0);
    let body = json!({ "embeddings": [ready(0, 0.0, 70.0), opposite] });
    app.post("/v1/templates", body).await.problem(422, "faces_contradict");
    app.post("/v1/templates", json!({})).await.problem(422, "invalid_request");
}
