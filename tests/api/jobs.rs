//! Jobs seen from outside; what they do is tested with each kind.

use serde_json::json;

use crate::harness::TestApp;

#[tokio::test]
async fn there_is_no_job_that_nobody_started() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/v1/jobs?kind=video&state=done&gallery=g").await.ok(200), json!({ "items": [], "next": null }));
    let none = "/v1/jobs/0190163d-8694-739b-aea5-966c26f8ad91";
    app.get(none).await.problem(404, "job_not_found");
    app.post(&format!("{none}/cancel"), json!({})).await.problem(404, "job_not_found");
    app.get("/v1/jobs/none").await.problem(400, "invalid_parameter");
    for query in ["state=asleep", "limit=0", "cursor=eA", "other=1"] {
        app.get(&format!("/v1/jobs?{query}")).await.problem(400, "invalid_parameter");
    }
}
