//! The main job on real photos, where they are at hand.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{TestApp, base64, people, photos};

fn image_item(path: &PathBuf) -> Value {
    json!({ "data": base64(&std::fs::read(path).unwrap()) })
}

#[tokio::test]
async fn people_are_found_again_and_fusion_does_not_lose() {
    let Some(folder) = photos("photos") else { return };
    let app = TestApp::start().await;
    app.gallery("people").await;
    let people = people(&folder);
    for (person, photos) in &people {
        let path = format!("/v1/galleries/people/subjects/{person}/faces?select=main");
        app.post_bytes(&path, "image/jpeg", std::fs::read(&photos[0]).unwrap()).await.ok(201);
    }
    let (mut single, mut fused, mut probes) = (0, 0, 0);
    for (person, photos) in &people {
        let others: Vec<PathBuf> = photos[1..].iter().take(4).cloned().collect();
        let found = async |images: Vec<Value>| {
            let answer = app.post("/v1/galleries/people/search", json!({ "images": images, "limit": 1 })).await.ok(200);
            answer["candidates"][0]["subject"] == json!(person)
        };
        for photo in &others {
            probes += 1;
            single += usize::from(found(vec![image_item(photo)]).await);
        }
        fused += usize::from(found(others.iter().map(image_item).collect()).await);
    }
    let (single, fused) = (single as f64 / probes as f64, f64::from(fused as u32) / people.len() as f64);
    eprintln!("rank-1: {single:.3} with one photo of {} people, {fused:.3} with four fused", people.len());
    assert!(single >= 0.85, "{single}");
    assert!(fused >= single, "{fused} < {single}");
}

#[tokio::test]
async fn a_mirrored_or_turned_photo_is_the_same_person_upright() {
    let Some(folder) = photos("photos") else { return };
    let app = TestApp::start().await;
    let photo = &people(&folder)[0].1[0];
    let picture = image::open(photo).unwrap().to_rgb8();
    let item = |picture: &image::RgbImage| json!({ "data": base64(&crate::harness::png(picture)) });
    let pair = json!({ "images": [item(&picture), item(&image::imageops::flip_horizontal(&picture))] });
    assert!(app.post("/v1/verify", pair).await.ok(200)["score"].as_f64().unwrap() > 0.9);
}
