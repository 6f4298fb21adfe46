//! The choice of the detector, by server and by request.

use serde_json::{Value, json};
use vultus_engine::detect::DetectorKind;

use crate::harness::{TestApp, base64};

/// Four drawn faces.
const DRAWN: &[u8] = include_bytes!("../../engine/tests/data/mtcnn/drawn.png");

async fn boxes(app: &TestApp, query: &str) -> Value {
    let answer = app.post_bytes(&format!("/v1/detect{query}"), "image/png", DRAWN.to_vec()).await.ok(200);
    answer["images"][0]["faces"].as_array().unwrap().iter().map(|face| face["box"].clone()).collect()
}

fn body(detector: &str) -> Value {
    json!({ "images": [{ "data": base64(DRAWN) }], "detector": detector })
}

#[tokio::test]
async fn a_request_chooses_its_detector() {
    let app = TestApp::start().await;
    let [default, yunet, mtcnn, compat] =
        ["", "?detector=yunet", "?detector=mtcnn", "?detector=mtcnn_compat"].map(|query| boxes(&app, query));
    let (default, yunet, mtcnn, compat) = tokio::join!(default, yunet, mtcnn, compat);
    assert_eq!(default, yunet);
    assert_eq!(mtcnn.as_array().unwrap().len(), 4);
    assert_eq!(compat.as_array().unwrap().len(), 4);
    assert!(yunet != mtcnn && mtcnn != compat);
    // Members win over the query, and every operation on photos knows the name.
    let answer = app.post("/v1/detect?detector=yunet", body("mtcnn")).await.ok(200);
    assert_eq!(answer["images"][0]["faces"][0]["box"], mtcnn[0]);
    let embedded = app.post("/v1/embed", body("mtcnn_compat")).await.ok(200);
    assert_eq!(embedded["images"][0]["faces"][0]["box"], compat[0]);
    app.gallery("g").await;
    let enrol = "/v1/galleries/g/subjects/ada/faces?select=largest";
    let enrolled = app.post(enrol, body("mtcnn")).await.ok(201);
    let largest = &enrolled["faces"][0]["box"];
    assert!(mtcnn.as_array().unwrap().contains(largest));
    for path in ["search", "subjects/ada/verify"] {
        let found = app.post(&format!("/v1/galleries/g/{path}?select=largest"), body("mtcnn")).await.ok(200);
        assert_eq!(&found["probe"]["faces"][0]["box"], largest, "{path}");
    }
    let image = json!({ "data": base64(DRAWN) });
    let pair = json!({ "images": [image, image], "select": "largest", "detector": "mtcnn" });
    assert_eq!(&app.post("/v1/verify", pair).await.ok(200)["faces"][1]["box"], largest);
}

#[tokio::test]
async fn the_published_alignment_goes_with_the_published_detector() {
    let app = TestApp::start().await;
    let embedding = async |detector: &str| {
        let answer = app.post("/v1/embed?select=largest", body(detector)).await.ok(200);
        answer["images"][0]["faces"][0]["embedding"].clone()
    };
    assert_ne!(embedding("mtcnn").await, embedding("mtcnn_compat").await);
}

#[tokio::test]
async fn a_server_has_a_detector_of_its_own() {
    let app = TestApp::with(|settings| settings.detect.detector = DetectorKind::MtcnnCompat).await;
    let plain = TestApp::start().await;
    assert_eq!(boxes(&app, "").await, boxes(&plain, "?detector=mtcnn_compat").await);
    assert_eq!(boxes(&app, "?detector=yunet").await, boxes(&plain, "").await);
}

#[tokio::test]
async fn an_unknown_detector_is_refused() {
    let app = TestApp::start().await;
    let query = app.post_bytes("/v1/detect?detector=retina", "image/png", DRAWN.to_vec()).await;
    query.problem(400, "invalid_parameter");
    assert!(app.post("/v1/embed", body("retina")).await.status.is_client_error());
}
