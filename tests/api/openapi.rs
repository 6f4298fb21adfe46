//! The OpenAPI document: committed, served, and the same.

use std::path::Path;

use crate::harness::TestApp;

/// Run with `VULTUS_UPDATE_OPENAPI=1` to write the file anew.
#[test]
fn the_committed_document_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/openapi.json");
    let generated = vultus::openapi::text();
    if std::env::var_os("VULTUS_UPDATE_OPENAPI").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(
        committed == generated,
        "openapi/openapi.json is not what the handlers say; run `cargo run -- openapi > openapi/openapi.json`"
    );
}

#[tokio::test]
async fn the_document_is_served_beside_its_viewer() {
    let app = TestApp::start().await;
    let served = app.get("/openapi.json").await;
    assert_eq!(served.header("content-type"), Some("application/json"));
    assert_eq!(String::from_utf8(served.body).unwrap(), vultus::openapi::text());
    app.get("/docs/nothing.js").await.problem(404, "route_not_found");
    let docs = app.get("/docs/").await;
    assert_eq!(docs.status, 200);
    let page = String::from_utf8(docs.body).unwrap();
    assert!(!page.contains("https://") && !page.contains("http://"), "the viewer loads nothing from elsewhere");
}
