//! Bad uploads: each kind has a code of its own, and leaves nothing behind.

use serde_json::json;

use crate::harness::{TestApp, base64, people, photos, png, side_by_side};

const FACES: &str = "/v1/galleries/g/subjects/ada/faces";

/// A PNG header that promises a picture of this size.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend([8, 2, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

fn grey_photo() -> image::RgbImage {
    image::RgbImage::from_fn(320, 240, |x, y| image::Rgb([((x + y) / 3) as u8; 3]))
}

fn jpeg(picture: &image::RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut bytes).encode_image(picture).unwrap();
    bytes
}

fn corrupted(mut bytes: Vec<u8>) -> Vec<u8> {
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0xff);
    bytes
}

#[tokio::test]
async fn each_kind_of_bad_upload_has_its_own_code_and_leaves_nothing() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let before = app.last_seq().await;
    let (whole_jpeg, whole_png) = (jpeg(&grey_photo()), png(&grey_photo()));
    let cut = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("no bytes", Vec::new(), 422, "empty_image"),
        ("text", b"this is not an image at all, whatever its name says".to_vec(), 415, "not_an_image"),
        ("gif", b"GIF89a\x01\0\x01\0\0\0\0;".to_vec(), 415, "unsupported_image"),
        ("enormous", png_header(50_000, 50_000), 413, "image_too_large"),
        ("cut jpeg", cut(&whole_jpeg), 422, "truncated_image"),
        ("cut png", cut(&whole_png), 422, "truncated_image"),
        ("corrupted png", corrupted(whole_png.clone()), 422, "corrupt_image"),
        ("no face", whole_jpeg.clone(), 422, "no_face"),
        ("too many bytes", vec![0; (20 << 20) + 1], 413, "image_too_large"),
    ];
    for (name, bytes, status, code) in cases {
        eprintln!("{name}");
        let in_json = json!({ "images": [{ "data": base64(&bytes) }] });
        app.post(FACES, in_json.clone()).await.problem(status, code);
        app.post_bytes(FACES, "image/jpeg", bytes.clone()).await.problem(status, code);
        app.post_bytes("/v1/galleries/g/search", "image/jpeg", bytes.clone()).await.problem(status, code);
        app.post_bytes("/v1/embed", "image/jpeg", bytes.clone()).await.problem(status, code);
        if code != "no_face" {
            app.post_bytes("/v1/detect", "image/jpeg", bytes).await.problem(status, code);
        }
    }
    assert_eq!(app.last_seq().await, before);
    app.get("/v1/galleries/g/subjects/ada").await.problem(404, "subject_not_found");
    let found = app.post_bytes("/v1/detect", "image/jpeg", whole_jpeg).await.ok(200);
    assert_eq!(found["images"][0], json!({ "image": 0, "width": 320, "height": 240, "faces": [] }));
}

#[tokio::test]
async fn a_crop_of_another_size_is_refused() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let path = format!("{FACES}?aligned=true");
    app.post_bytes(&path, "image/png", png(&grey_photo())).await.problem(422, "invalid_request");
}

#[tokio::test]
async fn several_faces_are_refused_with_their_boxes_unless_one_is_chosen() {
    let Some(folder) = photos("photos") else { return };
    let app = TestApp::start().await;
    app.gallery("g").await;
    let people = people(&folder);
    let bytes = jpeg(&side_by_side(&people[0].1[0], &people[1].1[0]));
    let refused = app.post_bytes(FACES, "image/jpeg", bytes.clone()).await.problem(422, "several_faces");
    assert_eq!(refused["faces"].as_array().unwrap().len(), 2);
    let chosen = app.post_bytes(&format!("{FACES}?select=largest"), "image/jpeg", bytes).await.ok(201);
    assert_eq!(chosen["faces"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_overloaded_server_says_so_at_once() {
    let app = TestApp::with(|settings| settings.limits.max_queued_images = 1).await;
    let large = png(&image::RgbImage::new(1200, 1200));
    let requests = (0..6).map(|_| app.post_bytes("/v1/detect", "image/png", large.clone()));
    let answers = futures::future::join_all(requests).await;
    let (served, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert!(!served.is_empty() && !refused.is_empty());
    for answer in refused {
        answer.problem(429, "queue_full");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    app.post_bytes("/v1/detect", "image/png", large).await.ok(200);
}
