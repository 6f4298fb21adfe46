//! Duplicates, clusters and the leave-one-out report: jobs, and the newest result of each.

use serde_json::{Value, json};

use crate::harness::{TestApp, ready};

/// Starts a job, waits for it, and gives it.
async fn done(app: &TestApp, path: &str, body: Value) -> Value {
    let started = app.post(path, body).await;
    started.ok(202);
    let location = started.header("location").unwrap().to_owned();
    for _ in 0..1000 {
        let job = app.get(&location).await.ok(200);
        if !["queued", "running"].contains(&job["state"].as_str().unwrap()) {
            assert_eq!(job["state"], "done", "{job}");
            return job;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the job does not end");
}

async fn enrol(app: &TestApp, gallery: &str, subject: &str, faces: &[(usize, f32)]) {
    let faces: Vec<Value> = faces.iter().map(|&(hot, tilt)| ready(hot, tilt, 70.0)).collect();
    let path = format!("/v1/galleries/{gallery}/subjects/{subject}/faces");
    app.post(&path, json!({ "embeddings": faces })).await.ok(201);
}

#[tokio::test]
async fn duplicates_are_found_by_a_job() {
    let app = TestApp::start().await;
    let path = "/v1/galleries/g/duplicates";
    app.post(path, json!({})).await.problem(404, "gallery_not_found");
    app.get(path).await.problem(404, "gallery_not_found");
    app.gallery("g").await;
    app.get(path).await.problem(404, "report_not_found");
    enrol(&app, "g", "ada", &[(0, 0.0), (0, 0.1)]).await;
    enrol(&app, "g", "alias", &[(0, 0.05)]).await;
    enrol(&app, "g", "bob", &[(9, 0.0)]).await;

    let job = done(&app, path, json!({})).await;
    assert_eq!((&job["kind"], &job["progress"]), (&json!("duplicates"), &json!({ "done": 3, "total": 3 })));
    let found = app.get(path).await.ok(200);
    assert_eq!(found, job["result"]);
    let pair = &found["pairs"][0];
    assert_eq!((&pair["subject"], &pair["other"], &pair["faces"]), (&json!("ada"), &json!("alias"), &json!(2)));
    assert_eq!((found["pairs"].as_array().unwrap().len(), &found["truncated"]), (1, &json!(false)));
    assert_eq!((&found["searched"], &pair["fpir"]), (&json!(3), &json!(null)));

    app.json("PUT", "/v1/galleries/g/subjects/ada/kept_apart/alias", json!({})).await.ok(200);
    done(&app, path, json!({ "threshold": { "score": 0.3 }, "limit": 5 })).await;
    let newest = app.get(path).await.ok(200);
    assert_eq!((&newest["pairs"], &newest["threshold"]["source"]), (&json!([]), &json!("request")));

    // The report and its job are the same after a restart, to the last digit.
    let place = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    let told = [app.get(path).await.body, app.get(&place).await.body, app.get("/v1/jobs").await.body];
    let app = app.restart().await;
    assert_eq!([app.get(path).await.body, app.get(&place).await.body, app.get("/v1/jobs").await.body], told);

    app.post(path, json!({ "threshold": { "fpir": 0.01 } })).await.problem(409, "calibration_missing");
    for bad in [json!({ "limit": 0 }), json!({ "limit": 10_001 }), json!({ "threshold": {} }), json!({ "other": 1 })] {
        app.post(path, bad).await.problem(422, "invalid_request");
    }
    // Another gallery of the same id has no report.
    app.delete("/v1/galleries/g").await;
    app.gallery("g").await;
    app.get(path).await.problem(404, "report_not_found");
    app.get(&place).await.problem(404, "job_not_found");
    assert_eq!(app.get("/v1/jobs").await.ok(200)["items"], json!([]));
}

#[tokio::test]
async fn unknown_faces_are_clustered_by_a_job() {
    let app = TestApp::start().await;
    app.post("/v1/galleries", json!({ "id": "e", "kind": "events" })).await.ok(201);
    let path = "/v1/galleries/e/clusters";
    app.get(path).await.problem(404, "report_not_found");
    for (subject, hot, tilt) in [("s0", 0, 0.0), ("s1", 0, 0.1), ("s2", 9, 0.0), ("s3", 0, 0.2)] {
        enrol(&app, "e", subject, &[(hot, tilt)]).await;
    }
    let job = done(&app, path, json!({})).await;
    let found = app.get(path).await.ok(200);
    assert_eq!(found, job["result"]);
    let cluster = &found["clusters"][0];
    assert_eq!((&cluster["cluster"], &cluster["subjects"]), (&json!(1), &json!(["s0", "s1", "s3"])));
    assert_eq!(cluster["best"], cluster["faces"][0]["face"]);
    assert!(cluster["coherence"].as_f64().unwrap() > 0.9);
    assert_eq!((&found["total"], &found["left_alone"], &found["faces"]), (&json!(1), &json!(1), &json!(4)));
    let job = done(&app, path, json!({ "threshold": { "score": 0.5 }, "min_faces": 4 })).await;
    assert_eq!(job["result"]["clusters"], json!([]));
    for bad in [json!({ "min_faces": 0 }), json!({ "limit": 0 }), json!({ "threshold": { "score": 2 } })] {
        app.post(path, bad).await.problem(422, "invalid_request");
    }
}

#[tokio::test]
async fn a_gallery_is_searched_with_its_own_faces() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    let path = "/v1/galleries/g/leave_one_out";
    app.get(path).await.problem(404, "report_not_found");
    enrol(&app, "g", "ada", &[(0, 0.0), (0, 0.1), (0, 0.2), (0, 0.3)]).await;
    enrol(&app, "g", "bob", &[(9, 0.0), (9, 0.1), (9, 0.2), (0, 0.15)]).await;
    enrol(&app, "g", "eve", &[(20, 0.0)]).await;
    let job = done(&app, path, json!({ "limit": 3 })).await;
    let report = app.get(path).await.ok(200);
    assert_eq!(report, job["result"]);
    assert_eq!((&report["measured"], &report["not_measurable"]), (&json!(8), &json!(1)));
    let first = &report["suspects"][0];
    assert_eq!((&first["subject"], &first["best_other"]), (&json!("bob"), &json!("ada")));
    assert!(first["suspicion"].as_f64().unwrap() > 0.5 && first["own_rank"].as_u64().unwrap() == 2);
    let confusion = &report["confusions"][0];
    assert_eq!((&confusion["subject"], &confusion["other"]), (&json!("bob"), &json!("ada")));
    assert_eq!(report["rank1"], 0.875);
    app.post(path, json!({ "limit": 0 })).await.problem(422, "invalid_request");
    app.post("/v1/galleries/none/leave_one_out", json!({})).await.problem(404, "gallery_not_found");
}
