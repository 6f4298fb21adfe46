//! Galleries: their life, their settings, conditions on their revision.

use serde_json::json;

use crate::harness::{MODEL_ID, TestApp, no_guards, ready};

#[tokio::test]
async fn a_gallery_lives() {
    let app = TestApp::start().await;
    let created = app.post("/v1/galleries", json!({ "id": "staff", "label": "Staff", "min_quality": 0.1 })).await;
    let gallery = created.ok(201);
    assert_eq!(created.header("location"), Some("/v1/galleries/staff"));
    assert_eq!(gallery["model_id"], MODEL_ID);
    assert_eq!((&gallery["kind"], &gallery["subjects"]), (&json!("consolidated"), &json!(0)));
    app.post("/v1/galleries", json!({ "id": "staff" })).await.problem(409, "gallery_exists");

    let read = app.get("/v1/galleries/staff").await;
    assert_eq!(read.ok(200), gallery);
    assert_eq!(read.header("etag"), created.header("etag"));

    assert_eq!(app.delete("/v1/galleries/staff").await.status, 204);
    app.get("/v1/galleries/staff").await.problem(404, "gallery_not_found");
    app.delete("/v1/galleries/staff").await.problem(404, "gallery_not_found");
    // The id is free again.
    app.gallery("staff").await;
}

#[tokio::test]
async fn settings_are_replaced_or_merged() {
    let app = TestApp::start().await;
    let put = |body| app.json("PUT", "/v1/galleries/g", body);
    let patch = |body| app.json("PATCH", "/v1/galleries/g", body);
    let fusion = json!({ "rule": "norm", "tau": null, "robust": false });
    let gallery = put(json!({ "kind": "events", "fusion": fusion, "threshold": { "score": 0.5 } })).await.ok(201);
    assert_eq!((&gallery["kind"], &gallery["fusion"]), (&json!("events"), &fusion));

    let gallery = patch(json!({ "label": "x", "threshold": null })).await.ok(200);
    assert_eq!((&gallery["label"], &gallery["threshold"]), (&json!("x"), &json!(null)));
    assert_eq!(gallery["fusion"], fusion);

    let gallery = put(json!({ "min_quality": 0.25 })).await.ok(200);
    assert_eq!(gallery["kind"], "events");
    assert_eq!((&gallery["label"], &gallery["fusion"]), (&json!(null), &json!(null)));
    assert_eq!(gallery["min_quality"], 0.25);

    // A rate takes the place of a score.
    patch(json!({ "threshold": { "score": 0.5 }, "review_threshold": { "score": 0.25 } })).await.ok(200);
    let guards = json!({ "wrong_person": { "enabled": false } });
    let gallery = patch(json!({ "threshold": { "fpir": 0.125 }, "guards": guards })).await.ok(200);
    assert_eq!(gallery["threshold"], json!({ "fpir": 0.125 }));
    assert_eq!(gallery["review_threshold"], json!({ "score": 0.25 }));
    assert_eq!(gallery["guards"]["wrong_person"], json!({ "enabled": false, "score": null }));
    assert_eq!(gallery["guards"]["duplicate_subject"], json!({ "enabled": true, "score": null }));

    // A parameter goes with its rule, in whatever order they come.
    let fusion = json!({ "rule": "softmax_quality", "tau": 0.5, "cap": 1.5, "robust": false });
    assert_eq!(patch(json!({ "fusion": fusion })).await.ok(200)["fusion"], fusion);
    let other = json!({ "rule": "mean", "tau": null, "robust": false });
    assert_eq!(patch(json!({ "fusion": { "rule": "mean" } })).await.ok(200)["fusion"], other);
    for (rule, name) in [("mean", "cap"), ("norm", "tau"), ("best", "tau")] {
        let refused = patch(json!({ "fusion": { "rule": rule, (name): 1.0 } })).await.problem(422, "invalid_request");
        let detail = format!("the rule {rule} has no {name}; only softmax_quality has");
        assert_eq!(refused["detail"], detail);
    }
    assert_eq!(put(json!({ "fusion": other })).await.ok(200)["fusion"], other, "what is read can be sent back");
    patch(json!({ "review_threshold": { "score": 0.25 } })).await.ok(200);

    put(json!({ "kind": "consolidated" })).await.problem(422, "invalid_request");
    for bad in [
        json!({ "min_quality": 1.5 }),
        json!({ "threshold": { "score": 2 } }),
        json!({ "threshold": { "fpir": 0.0 } }),
        json!({ "threshold": { "fpir": 0.1, "score": 0.4 } }),
        json!({ "threshold": {} }),
        json!({ "guards": { "wrong_person": { "score": 2 } } }),
        json!({ "fusion": { "rule": "caface" } }),
        json!({ "fusion": { "rule": "mystery" } }),
        json!({ "fusion": { "rule": "softmax_quality", "tau": 0 } }),
        json!({ "threshold": { "score": 0.2 } }),
        json!({ "threshold": { "score": 0.4 }, "review_threshold": { "score": 0.41 } }),
        json!({ "threshold": { "fpir": 0.01 }, "review_threshold": { "fpir": 0.001 } }),
        json!({ "unknown": 1 }),
        json!({ "unknown": null }),
        json!({ "label": "x".repeat(1001) }),
        json!({ "keep_crops": "yes" }),
    ] {
        patch(bad).await.problem(422, "invalid_request");
    }
}

#[tokio::test]
async fn a_change_can_be_bound_to_a_revision() {
    let app = TestApp::start().await;
    let first = app.post("/v1/galleries", json!({ "id": "g" })).await;
    let etag = first.header("etag").unwrap().to_owned();
    let patch = async |etag: &str, label: &str| {
        app.json_with("PATCH", "/v1/galleries/g", json!({ "label": label }), &[("if-match", etag)]).await
    };
    let second = patch(&etag, "one").await;
    second.ok(200);
    assert_ne!(second.header("etag"), Some(etag.as_str()));
    patch(&etag, "two").await.problem(412, "revision_mismatch");
    patch("*", "three").await.ok(200);
    patch("17", "four").await.problem(400, "invalid_parameter");
    assert_eq!(app.get("/v1/galleries/g").await.ok(200)["label"], "three");
}

#[tokio::test]
async fn galleries_are_listed_in_pages() {
    let app = TestApp::start().await;
    for id in ["b", "a", "d", "c", "e"] {
        app.gallery(id).await;
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = app.get(&format!("/v1/galleries?limit=2{cursor}")).await.ok(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|g| g["id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    for bad in ["limit=0", "limit=1001", "limit=x", "cursor=%21", "page=2"] {
        app.get(&format!("/v1/galleries?{bad}")).await.problem(400, "invalid_parameter");
    }
    app.get("/v1/galleries/not%20an%20id").await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn a_change_without_a_condition_is_not_told_of_races() {
    let app = TestApp::start().await;
    app.gallery("g").await;
    app.post("/v1/galleries/g/subjects", json!({ "id": "s" })).await.ok(201);
    let requests = (0..24).map(|n: u32| {
        let (app, labels, gallery) = (&app, json!({ "labels": [n.to_string()] }), json!({ "label": n.to_string() }));
        async move {
            app.json("PATCH", "/v1/galleries/g/subjects/s", labels.clone()).await.ok(200);
            app.json("PATCH", "/v1/galleries/g", gallery).await.ok(200);
            app.json("PUT", "/v1/galleries/g/subjects/t", labels).await.status
        }
    });
    let created = futures::future::join_all(requests).await.into_iter().filter(|status| *status == 201).count();
    assert_eq!(created, 1);
    let conditional = app.json_with("PUT", "/v1/galleries/new", json!({}), &[("if-match", "*")]).await;
    conditional.problem(412, "revision_mismatch");
}

#[tokio::test]
async fn the_rule_caface_needs_a_model_with_the_network() {
    let app = TestApp::start().await;
    let caface = json!({ "rule": "caface" });
    let detail = |problem: serde_json::Value| problem["detail"].as_str().unwrap().to_owned();
    let created = app.post("/v1/galleries", json!({ "id": "g", "fusion": caface })).await;
    let text = detail(created.problem(422, "invalid_request"));
    assert!(text.contains("CAFace network") && text.contains("gallery g is of mobilefacenet-"), "{text}");
    app.get("/v1/galleries/g").await.problem(404, "gallery_not_found");
    let put = app.json("PUT", "/v1/galleries/g", json!({ "fusion": caface })).await;
    put.problem(422, "invalid_request");
    app.gallery("g").await;
    let put = app.json("PUT", "/v1/galleries/g", json!({ "fusion": caface })).await;
    put.problem(422, "invalid_request");
    let patch = app.json("PATCH", "/v1/galleries/g", json!({ "fusion": caface })).await;
    patch.problem(422, "invalid_request");
    let probe = json!({ "embeddings": [ready(1, 0.0, 60.0)], "fusion": caface });
    let searched = app.post("/v1/galleries/g/search", probe).await;
    let text = detail(searched.problem(422, "invalid_request"));
    assert!(text.contains("images"), "{text}");
}

#[tokio::test]
async fn what_a_memory_limit_withholds_is_said() {
    let app = TestApp::with(|settings| settings.search.memory_limit_mb = Some(1)).await;
    let gallery = json!({ "id": "g", "kind": "events", "guards": no_guards() });
    assert_eq!(app.post("/v1/galleries", gallery).await.ok(201)["index"], json!(null), "nothing is in it yet");
    // As many as a graph is built for.
    for request in 0..32 {
        let faces: Vec<_> = (0..64).map(|face| ready(64 * request + face, request as f32 / 40.0, 70.0)).collect();
        app.post("/v1/galleries/g/subjects/s/faces", json!({ "embeddings": faces })).await.ok(201);
    }
    let ann = || app.post("/v1/galleries/g/search", json!({ "embeddings": [ready(3, 0.1, 70.0)], "mode": "ann" }));
    ann().await.ok(200);
    let index = async || app.get("/v1/galleries/g").await.ok(200)["index"].clone();
    for _ in 0..200 {
        if index().await["graph"]["state"] == "withheld" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let index = index().await;
    assert_eq!((&index["rows"], &index["graph"]["state"]), (&json!(2_048), &json!("withheld")), "{index}");
    assert_eq!((&index["graph"]["rows"], &index["cascade"]["state"]), (&json!(null), &json!("none")));
    let bytes = |value: &serde_json::Value| value.as_u64().unwrap();
    assert!(bytes(&index["memory_bytes"]["total"]) <= 1 << 20 && bytes(&index["filed_bytes"]) > 0, "{index}");
    let answer = ann().await.ok(200);
    assert_eq!(
        (&answer["galleries"][0]["index"], &answer["galleries"][0]["recall"]),
        (&json!("exact"), &json!(null)),
        "as where no graph is prepared"
    );
    let metrics = String::from_utf8(app.get("/metrics").await.body).unwrap();
    for line in [
        "vultus_index_memory_limit_bytes 1048576",
        "vultus_index_memory_actions_total{action=\"graph_withheld\"} 1",
        "vultus_index_memory_actions_total{action=\"graph_dropped\"} 0",
        "vultus_index_part_bytes{part=\"graph\"} 0",
        "vultus_index_snapshot_graphs_total{outcome=\"refused\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    // Nobody is refused for it.
    app.post("/v1/galleries/g/subjects/t/faces", json!({ "embeddings": [ready(1, 0.5, 70.0)] })).await.ok(201);
}
