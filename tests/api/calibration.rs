//! Calibration: a job, thresholds as rates, decisions with a review band.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{MODEL_ID, TestApp};

/// A unit vector that follows from a seed, near a direction that all share, as faces are.
fn face(seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let raw: Vec<f32> = (0..192).map(|_| next() + next() + next()).collect();
    let length = raw.iter().map(|value| value * value).sum::<f32>().sqrt();
    raw.iter().map(|value| value / length).collect()
}

fn ready(seed: u64) -> Value {
    json!({ "embedding": face(seed), "norm": 70.0, "model_id": MODEL_ID })
}

async fn enrol(app: &TestApp, from: u64, to: u64) {
    for seed in from..to {
        let path = format!("/v1/galleries/g/subjects/s{seed}/faces");
        app.post(&path, json!({ "embeddings": [ready(seed)] })).await.ok(201);
    }
}

async fn finished(app: &TestApp, job: &Value) -> Value {
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    for _ in 0..600 {
        let job = app.get(&path).await.ok(200);
        if !matches!(job["state"].as_str(), Some("queued" | "running")) {
            return job;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the job does not end");
}

#[tokio::test]
async fn a_rate_becomes_a_score_and_says_when_it_is_stale() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    enrol(&app, 0, 5).await;
    let rate = |probe: u64, fpir: f64| json!({ "embeddings": [ready(probe)], "threshold": { "fpir": fpir } });
    app.post("/v1/galleries/g/search", rate(9000, 0.01)).await.problem(409, "calibration_missing");
    app.get("/v1/galleries/g/calibration").await.problem(409, "calibration_missing");
    let job = app.post("/v1/galleries/g/calibration", json!({})).await.ok(202);
    let job = finished(&app, &job).await;
    assert_eq!((&job["state"], &job["problem"]["code"]), (&json!("failed"), &json!("calibration_impossible")));

    enrol(&app, 5, 120).await;
    let job = app.post("/v1/galleries/g/calibration", json!({ "seed": 7 })).await.ok(202);
    let job = finished(&app, &job).await;
    assert_eq!((&job["state"], &job["progress"]["done"]), (&json!("done"), &json!(120)), "{job}");
    let calibration = app.get("/v1/galleries/g/calibration").await.ok(200);
    assert_eq!(job["result"], calibration);
    // To the last digit, also where what is sent was read from the store in between.
    let numbers = async |path: &str| -> HashSet<String> {
        let text = String::from_utf8(app.get(path).await.body).unwrap();
        let parts = text.split(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c)));
        parts.filter(|part| part.contains('.') && part.parse::<f64>().is_ok()).map(str::to_owned).collect()
    };
    let of_gallery = numbers("/v1/galleries/g/calibration").await;
    let of_job = numbers(&format!("/v1/jobs/{}", job["id"].as_str().unwrap())).await;
    let differ: Vec<&String> = of_gallery.difference(&of_job).collect();
    assert!(of_gallery.len() > 20 && differ.is_empty(), "{} numbers; {differ:?}", of_gallery.len());
    assert_eq!((&calibration["calibrated_size"], &calibration["stale"]), (&json!(120), &json!(false)));
    let table = calibration["table"].as_array().unwrap();
    assert!(table.windows(2).all(|rows| rows[0]["score"].as_f64() < rows[1]["score"].as_f64()), "{table:?}");

    // People who are not enrolled reach the score of a rate about as often as it says.
    let (mut matches, mut reviews) = (0, 0);
    for seed in 10_000..10_400 {
        let mut body = rate(seed, 0.05);
        body["review_threshold"] = json!({ "fpir": 0.3 });
        let answer = app.post("/v1/galleries/g/search", body).await.ok(200);
        matches += u32::from(answer["decision"] == "match");
        reviews += u32::from(answer["decision"] == "review");
        assert_eq!((&answer["threshold"]["fpir"], &answer["threshold"]["source"]), (&json!(0.05), &json!("request")));
        let best = &answer["candidates"][0];
        let above = best["score"].as_f64() >= answer["threshold"]["score"].as_f64();
        assert_eq!(above, answer["decision"] == "match");
        assert!(best["fpir"].as_f64().unwrap() > 0.0);
    }
    // 5 % and 25 % of 400, with room for chance and for what 120 subjects can tell.
    assert!((5..=45).contains(&matches) && (50..=160).contains(&reviews), "{matches} {reviews}");

    app.json("PATCH", "/v1/galleries/g", json!({ "threshold": { "fpir": 0.01 } })).await.ok(200);
    let search = json!({ "embeddings": [ready(3)] });
    let app = app.restart().await;
    let before = app.post("/v1/galleries/g/search", search.clone()).await.ok(200);
    assert_eq!((&before["threshold"]["source"], &before["decision"]), (&json!("gallery"), &json!("match")));
    assert_eq!(before["galleries"][0]["calibration"]["stale"], false);
    enrol(&app, 120, 150).await;
    let after = app.post("/v1/galleries/g/search", search.clone()).await.ok(200);
    let note = &after["galleries"][0]["calibration"];
    assert_eq!((&note["stale"], &note["stale_reason"]), (&json!(true), &json!("size")));
    let score = |answer: &Value| answer["threshold"]["score"].as_f64().unwrap();
    assert!(score(&after) > score(&before), "a larger gallery needs a higher score for the same rate");

    // Another rule, other templates: nothing is known of their scores.
    app.json("PATCH", "/v1/galleries/g", json!({ "fusion": { "rule": "best" } })).await.ok(200);
    app.post("/v1/galleries/g/search", search).await.problem(409, "calibration_missing");
    let bad = json!({ "only_non_mated": true });
    app.post("/v1/galleries/g/calibration", bad).await.problem(422, "invalid_request");
    app.post("/v1/galleries/h/calibration", json!({})).await.problem(404, "gallery_not_found");
}
