//! Enrolment in every form a request can have, and what it leaves behind.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};

use crate::harness::{MODEL_ID, TestApp, base64, crop_png, no_guards, people, photos, png, ready, side_by_side};

const FACES: &str = "/v1/galleries/g/subjects/ada/faces";

fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Request<Body> {
    let mut body = Vec::new();
    for (name, file, bytes) in parts {
        let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
        body.extend(format!("--cut\r\ncontent-disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes());
        body.extend(*bytes);
        body.extend(b"\r\n");
    }
    body.extend(b"--cut--\r\n");
    let request = Request::post(FACES).header("content-type", "multipart/form-data; boundary=cut");
    request.body(Body::from(body)).unwrap()
}

#[tokio::test]
async fn every_body_gives_the_same_face() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let png = crop_png(1);
    let raw = app.post_bytes(&format!("{FACES}?aligned=true&media=m"), "image/png", png.clone()).await.ok(201);
    let sent_as_json = json!({ "images": [{ "data": base64(&png), "aligned": true, "media": "m" }] });
    let in_json = app.post(FACES, sent_as_json).await.ok(201);
    let in_form = app.send(form(&[("crop", Some("x.png"), &png), ("media", None, b"m")])).await.ok(201);
    for answer in [&raw, &in_json, &in_form] {
        let face = &answer["faces"][0];
        assert_eq!((&face["media"], &face["source"]), (&json!("m"), &json!("crop")));
        assert_eq!(face["norm"], raw["faces"][0]["norm"]);
        assert_eq!(face.get("box"), None);
    }
    let embedded = app.post_bytes("/v1/embed?aligned=true", "image/png", png).await.ok(200);
    let face = &embedded["images"][0]["faces"][0];
    let item = json!({ "embedding": face["embedding"], "norm": face["norm"], "model_id": embedded["model_id"] });
    let ready = app.post(FACES, json!({ "embeddings": [item] })).await.ok(201);
    assert_eq!(ready["faces"][0]["source"], "embedding");

    let listed = app.get(FACES).await.ok(200);
    let norms: Vec<f64> = listed["items"].as_array().unwrap().iter().map(|f| f["norm"].as_f64().unwrap()).collect();
    assert_eq!(norms.len(), 4);
    assert!(norms.iter().all(|norm| (norm - norms[0]).abs() < 1e-3));
    let page = app.get(&format!("{FACES}?limit=3")).await.ok(200);
    let rest = app.get(&format!("{FACES}?limit=3&cursor={}", page["next"].as_str().unwrap())).await.ok(200);
    assert_eq!(rest["items"][0], listed["items"][3]);
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let before = app.last_seq().await;
    let body = json!({ "embeddings": [ready(0, 0.0, 70.0)], "dry_run": true });
    let answer = app.post(FACES, body).await.ok(200);
    assert_eq!((&answer["dry_run"], &answer["revision"]), (&json!(true), &json!(null)));
    assert_eq!(answer["faces"].as_array().unwrap().len(), 1);
    assert_eq!(app.last_seq().await, before);
    app.get("/v1/galleries/g/subjects/ada").await.problem(404, "subject_not_found");
}

#[tokio::test]
async fn the_quality_gate_of_gallery_and_request_both_hold() {
    let app = TestApp::start().await;
    app.post("/v1/galleries", json!({ "id": "g", "min_quality": 0.3, "guards": no_guards() })).await.ok(201);
    // Quality is the CDF of the standardised norm: 0.5 at the model's mean of 68.8.
    let enrol =
        |norm: f32, more: f32| app.post(FACES, json!({ "embeddings": [ready(0, 0.0, norm)], "min_quality": more }));
    let refused = enrol(60.0, 0.0).await.problem(422, "quality_too_low");
    assert!((refused["value"].as_f64().unwrap() - 0.142).abs() < 0.01, "{refused}");
    assert!((refused["required"].as_f64().unwrap() - 0.3).abs() < 1e-6);
    enrol(68.8, 0.6).await.problem(422, "quality_too_low");
    enrol(68.8, 0.4).await.ok(201);

    // One good image carries the request; the other is reported.
    let body = json!({ "embeddings": [ready(0, 0.0, 50.0), ready(1, 0.0, 75.0)] });
    let answer = app.post(FACES, body).await.ok(201);
    assert_eq!(answer["faces"][0]["image"], 1);
    assert_eq!(
        (&answer["rejected"][0]["code"], &answer["rejected"][0]["image"]),
        (&json!("quality_too_low"), &json!(0))
    );
}

#[tokio::test]
async fn what_is_no_embedding_of_the_model_is_refused() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let post = async |change: fn(&mut serde_json::Value)| {
        let mut item = ready(0, 0.0, 70.0);
        change(&mut item);
        app.post(FACES, json!({ "embeddings": [item] })).await
    };
    let mismatch = post(|item| item["model_id"] = json!("other-0123456789abcdef")).await;
    assert_eq!(mismatch.problem(409, "model_mismatch")["expected_model_id"], MODEL_ID);
    post(|item| item["embedding"] = json!([1.0, 0.0])).await.problem(422, "invalid_request");
    post(|item| item["embedding"][0] = json!(0.5)).await.problem(422, "invalid_request");
    post(|item| item["norm"] = json!(0.0)).await.problem(422, "invalid_request");
    post(|item| item["norm"] = json!(1e300)).await.problem(422, "invalid_request");
    post(|item| item["media"] = json!("")).await.problem(422, "invalid_request");
    assert_eq!(app.get("/v1/galleries/g").await.ok(200)["faces"], 0);
}

#[tokio::test]
async fn a_face_can_be_removed_and_its_crop_read() {
    let app = TestApp::start().await;
    app.post("/v1/galleries", json!({ "id": "g", "keep_crops": true, "guards": no_guards() })).await.ok(201);
    let png = crop_png(4);
    let enrolled = app.post_bytes(&format!("{FACES}?aligned=true"), "image/png", png.clone()).await.ok(201);
    let face = format!("{FACES}/{}", enrolled["faces"][0]["id"].as_str().unwrap());
    app.get(&face).await.ok(200);
    let crop = app.get(&format!("{face}/crop")).await;
    assert_eq!((crop.status.as_u16(), crop.header("content-type")), (200, Some("image/png")));
    let pixels = |bytes: &[u8]| image::load_from_memory(bytes).unwrap().to_rgb8();
    assert_eq!(pixels(&crop.body), pixels(&png));

    let without = app.post(FACES, json!({ "embeddings": [ready(0, 0.0, 70.0)] })).await.ok(201);
    let id = without["faces"][0]["id"].as_str().unwrap();
    app.get(&format!("{FACES}/{id}/crop")).await.problem(404, "crop_not_found");

    assert_eq!(app.delete(&face).await.status, 204);
    app.get(&face).await.problem(404, "face_not_found");
    app.get(&format!("{face}/crop")).await.problem(404, "face_not_found");
    app.delete(&face).await.problem(404, "face_not_found");
    app.get(&format!("{FACES}/17")).await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn what_was_enrolled_is_there_after_a_restart() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    app.post(FACES, json!({ "embeddings": [ready(0, 0.0, 70.0), ready(0, 0.2, 60.0)] })).await.ok(201);
    let search = json!({ "embeddings": [ready(0, 0.1, 70.0)], "explain": true });
    let before = app.post("/v1/galleries/g/search", search.clone()).await.ok(200);
    let app = app.restart().await;
    let after = app.post("/v1/galleries/g/search", search).await.ok(200);
    assert_eq!(after["candidates"], before["candidates"]);
    assert_eq!(after["candidates"][0]["subject"], "ada");
}

const UNKNOWN: &str = "/v1/galleries/g/faces";

#[tokio::test]
async fn each_unknown_face_becomes_a_subject_of_its_own() {
    let app = TestApp::start().await;
    app.post("/v1/galleries", json!({ "id": "g" })).await.ok(201);
    app.post(FACES, json!({ "embeddings": [ready(0, 0.0, 70.0)] })).await.ok(201);
    // Ada, two strangers, and the first of these once more.
    let faces = [ready(0, 0.1, 70.0), ready(30, 0.0, 70.0), ready(60, 0.0, 70.0), ready(30, 0.1, 70.0)];
    let body = |more: Value| {
        let mut body = json!({ "embeddings": faces, "prefix": "gate-2." });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let before = app.last_seq().await;
    let dry = app.post(UNKNOWN, body(json!({ "dry_run": true }))).await.ok(200);
    assert_eq!((&dry["revision"], dry["faces"].as_array().unwrap().len()), (&json!(null), 2));
    assert_eq!(app.last_seq().await, before);

    let answer = app.post(UNKNOWN, body(json!({}))).await.ok(201);
    let new = answer["faces"].as_array().unwrap();
    let subjects: Vec<&str> = new.iter().map(|face| face["subject"].as_str().unwrap()).collect();
    assert!(subjects.iter().all(|id| id.starts_with("gate-2.")) && subjects[0] != subjects[1], "{answer}");
    assert_eq!([&new[0]["image"], &new[1]["image"]], [&json!(1), &json!(2)]);
    let rejected = answer["rejected"].as_array().unwrap();
    let told: Vec<_> =
        rejected.iter().map(|problem| (&problem["image"], problem["subject"].as_str().unwrap())).collect();
    assert_eq!(told, [(&json!(0), "ada"), (&json!(3), subjects[0])]);
    assert!(rejected.iter().all(|problem| problem["code"] == "duplicate_subject"));
    // One subject and one face each, one after the other: nothing came between.
    assert_eq!(answer["revision"], before + 4);
    let probe = json!({ "embeddings": [ready(60, 0.1, 70.0)] });
    assert_eq!(app.post("/v1/galleries/g/search", probe).await.ok(200)["candidates"][0]["subject"], subjects[1]);

    // Now all of them are known.
    let answer = app.post(UNKNOWN, body(json!({}))).await.ok(200);
    assert_eq!((&answer["faces"], &answer["revision"]), (&json!([]), &json!(null)));
    assert_eq!(answer["rejected"].as_array().unwrap().len(), 4);
    let answer = app.post(UNKNOWN, body(json!({ "allow": ["duplicate_subject"] }))).await.ok(201);
    assert_eq!((answer["faces"].as_array().unwrap().len(), &answer["rejected"]), (4, &json!([])));
    assert_eq!(answer["faces"][0]["overrides"][0]["subject"], "ada");

    let poor = json!({ "embeddings": [ready(90, 0.0, 40.0), ready(120, 0.0, 70.0)], "min_quality": 0.3 });
    let answer = app.post(UNKNOWN, poor).await.ok(201);
    assert!(answer["faces"][0]["subject"].as_str().unwrap().starts_with("unknown-"));
    assert_eq!(answer["rejected"][0]["code"], "quality_too_low");
    for bad in ["a b", "a/b", &"x".repeat(93)] {
        app.post(UNKNOWN, body(json!({ "prefix": bad }))).await.problem(422, "invalid_request");
    }
    app.post(UNKNOWN, body(json!({ "select": "main" }))).await.problem(422, "invalid_request");
    app.post("/v1/galleries/none/faces", body(json!({}))).await.problem(404, "gallery_not_found");
}

#[tokio::test]
async fn the_faces_of_a_crowd_are_never_one_person() {
    let Some(folder) = photos("photos") else { return };
    let app = TestApp::start().await;
    app.post("/v1/galleries", json!({ "id": "g" })).await.ok(201);
    app.post("/v1/galleries", json!({ "id": "e", "kind": "events" })).await.ok(201);
    let people = people(&folder);
    let crowd = png(&side_by_side(&people[0].1[0], &people[1].1[0]));
    let answer = app.post_bytes(UNKNOWN, "image/png", crowd.clone()).await.ok(201);
    let faces = answer["faces"].as_array().unwrap();
    assert_eq!((faces.len(), &faces[0]["media"]), (2, &faces[1]["media"]));
    assert_ne!(faces[0]["subject"], faces[1]["subject"]);
    let again = app.post_bytes(&format!("{UNKNOWN}?min_quality=0.01"), "image/png", crowd.clone()).await.ok(200);
    let of = |list: &Value, member: &str| -> Vec<Value> {
        list.as_array().unwrap().iter().map(|one| one[member].clone()).collect()
    };
    assert_eq!(of(&again["rejected"], "subject"), of(&answer["faces"], "subject"));
    assert_eq!(again["rejected"][0]["faces"][0]["box"], answer["faces"][0]["box"]);

    // A gallery of events takes them all, and tells the two of one picture apart.
    let path = "/v1/galleries/e/faces";
    app.post_bytes(path, "image/png", crowd).await.ok(201);
    let later = png(&side_by_side(&people[1].1[0], &people[0].1[0]));
    app.post_bytes(path, "image/png", later).await.ok(201);
    let same = json!({ "embeddings": [ready(0, 0.0, 70.0), ready(0, 0.1, 70.0)] });
    assert_eq!(app.post(path, same).await.ok(201)["faces"].as_array().unwrap().len(), 2);
    let job = app.post("/v1/galleries/e/clusters", json!({})).await;
    job.ok(202);
    let location = job.header("location").unwrap().to_owned();
    let result = loop {
        let job = app.get(&location).await.ok(200);
        if job["state"] == "done" {
            break job["result"].clone();
        }
        assert_ne!(job["state"], "failed", "{job}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    // Each of the two people with their two photos, and the two ready embeddings.
    let sizes: Vec<usize> =
        result["clusters"].as_array().unwrap().iter().map(|one| one["faces"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [2, 2, 2], "{result}");
}
