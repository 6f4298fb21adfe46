//! Models over the API.

use serde_json::{Value, json};

use crate::harness::{MODEL_ID, TestApp};

const WEIGHTS: &[u8] = include_bytes!("../../engine/assets/mobilefacenet.safetensors");
const MANIFEST: &str = include_str!("../../engine/assets/mobilefacenet.json");

#[tokio::test]
async fn models_are_listed_and_described() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("amy.safetensors"), WEIGHTS).unwrap();
    let manifest = MANIFEST.replace("\"name\": \"mobilefacenet\"", "\"name\": \"amy\"");
    std::fs::write(folder.path().join("amy.json"), manifest).unwrap();
    std::fs::write(folder.path().join("broken.safetensors"), "").unwrap();
    let app = TestApp::with(|settings| settings.models.dir = Some(folder.path().to_owned())).await;

    let list = app.get("/v1/models").await.ok(200);
    let ids: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, [&json!("amy-17d5763f9ac4054b"), &json!(MODEL_ID)]);
    assert_eq!((&list["items"][0]["in_use"], &list["items"][1]["in_use"]), (&json!([]), &json!([MODEL_ID])));

    let page = app.get("/v1/models?limit=1").await.ok(200);
    let next = page["next"].as_str().unwrap();
    let rest = app.get(&format!("/v1/models?limit=1&cursor={next}")).await.ok(200);
    assert_eq!((&rest["items"][0]["id"], &rest["next"]), (&json!(MODEL_ID), &json!(null)));

    for wanted in ["amy", "amy-17d5763f9ac4054b", "amy-17d5763f9ac4054b+flip"] {
        let model = app.get(&format!("/v1/models/{wanted}")).await.ok(200);
        assert_eq!(
            (&model["name"], &model["embedded"], &model["color"]),
            (&json!("amy"), &json!(false), &json!("rgb"))
        );
        assert_eq!((&model["dim"], &model["bytes"]), (&json!(192), &json!(WEIGHTS.len())));
        assert!(model.get("path").is_none(), "paths stay with the server");
    }
    for wanted in ["bob", "broken", "amy-0000000000000000", "..%2Famy"] {
        app.get(&format!("/v1/models/{wanted}")).await.problem(404, "model_not_found");
    }
}

#[tokio::test]
async fn an_installed_model_is_served_by_name_and_galleries_are_bound_to_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("amy.safetensors"), WEIGHTS).unwrap();
    let manifest = MANIFEST.replace("\"name\": \"mobilefacenet\"", "\"name\": \"amy\"");
    std::fs::write(folder.path().join("amy.json"), manifest).unwrap();
    let app = TestApp::with(|settings| {
        settings.models.dir = Some(folder.path().to_owned());
        settings.model.name = "amy-17d5763f9ac4054b+flip".to_owned();
    })
    .await;
    let gallery = app.post("/v1/galleries", json!({ "id": "g" })).await.ok(201);
    assert_eq!(gallery["model_id"], "amy-17d5763f9ac4054b+flip");
    let model = app.get("/v1/models/amy").await.ok(200);
    assert_eq!(model["in_use"], json!(["amy-17d5763f9ac4054b+flip"]));
}
