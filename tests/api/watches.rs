//! Watches: from a probe that passes to a hit, over events and webhooks, through failures and restarts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use futures::StreamExt;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};

use crate::harness::{TestApp, ready};

const SECRET: &str = "a secret of the test";

/// Longest wait for something that happens on another thread.
const PATIENCE: Duration = Duration::from_secs(30);

async fn enrol(app: &TestApp, gallery: &str, subject: &str, embedding: Value) -> Value {
    let path = format!("/v1/galleries/{gallery}/subjects/{subject}/faces");
    app.post(&path, json!({ "embeddings": [embedding] })).await.ok(201)
}

async fn people(app: &TestApp) {
    app.gallery("g").await;
    enrol(app, "g", "ada", ready(0, 0.0, 70.0)).await;
    enrol(app, "g", "bob", ready(60, 0.0, 70.0)).await;
}

/// Makes a watch on the gallery `g` and gives its path.
async fn watch(app: &TestApp, more: Value) -> (String, Value) {
    let mut body = json!({ "gallery": "g", "threshold": { "score": 0.8 } });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = app.post("/v1/watches", body).await;
    let made = answer.ok(201);
    let path = format!("/v1/watches/{}", made["id"].as_str().unwrap());
    assert_eq!(answer.header("location"), Some(path.as_str()));
    (path, made)
}

async fn search(app: &TestApp, hot: usize, more: Value) -> Value {
    let mut body = json!({ "embeddings": [ready(hot, 0.0, 70.0)] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    app.post("/v1/galleries/g/search", body).await.ok(200)
}

async fn hits(app: &TestApp, path: &str) -> Vec<Value> {
    app.get(&format!("{path}/hits")).await.ok(200)["items"].as_array().unwrap().clone()
}

/// Asks until it is so.
async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "it has not happened");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A request that the endpoint got.
#[derive(Clone, Debug)]
struct Posted {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Posted {
    fn header(&self, name: &str) -> &str {
        &self.headers.iter().find(|(header, _)| header == name).unwrap().1
    }

    fn number(&self) -> u64 {
        self.header("vultus-hit").parse().unwrap()
    }
}

/// An HTTP server of one thread that answers each request with the status of the moment and remembers it.
struct Endpoint {
    address: SocketAddr,
    posted: Arc<Mutex<Vec<Posted>>>,
    status: Arc<Mutex<&'static str>>,
}

impl Endpoint {
    fn start(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Self {
            address: listener.local_addr().unwrap(),
            posted: Arc::default(),
            status: Arc::new(Mutex::new(status)),
        };
        let (posted, status) = (Arc::clone(&endpoint.posted), Arc::clone(&endpoint.status));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut reader = BufReader::new(stream.unwrap());
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                assert!(line.starts_with("POST /hook HTTP/1.1"), "{line}");
                let mut headers = Vec::new();
                loop {
                    line.clear();
                    reader.read_line(&mut line).unwrap();
                    let Some((name, value)) = line.trim_end().split_once(": ") else { break };
                    headers.push((name.to_ascii_lowercase(), value.to_owned()));
                }
                let length = headers.iter().find(|(name, _)| name == "content-length").unwrap().1.parse().unwrap();
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let status = *status.lock().unwrap();
                let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                posted.lock().unwrap().push(Posted { headers, body });
                reader.get_mut().write_all(head.as_bytes()).unwrap();
            }
        });
        endpoint
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    fn answer(&self, status: &'static str) {
        *self.status.lock().unwrap() = status;
    }

    fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap().clone()
    }

    fn numbers(&self) -> Vec<u64> {
        self.posted().iter().map(Posted::number).collect()
    }
}

/// A server whose couriers come back soon.
async fn hasty() -> TestApp {
    TestApp::with(|settings| (settings.watch.retry_min_ms, settings.watch.retry_max_ms) = (20, 100)).await
}

#[tokio::test]
async fn who_is_searched_for_and_on_the_list_is_a_hit() {
    let app = TestApp::start().await;
    people(&app).await;
    let (all, _) = watch(&app, json!({ "label": "door" })).await;
    let (named, view) = watch(&app, json!({ "sources": { "searches": "named" }, "threshold": { "score": 0.9 } })).await;
    let answer = search(&app, 0, json!({ "limit": 1, "threshold": { "score": 1.0 } })).await;
    assert_eq!(answer["threshold"]["source"], "request");
    search(&app, 100, json!({})).await;

    let found = hits(&app, &all).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let hit = &found[0];
    assert_eq!((&hit["number"], &hit["subject"], &hit["decision"]), (&json!(1), &json!("ada"), &json!("match")));
    assert_eq!(hit["source"], json!({ "kind": "search", "search_id": answer["search_id"] }));
    // What a request says of its own thresholds is nothing to a watch that it does not name.
    assert_eq!((&hit["threshold"]["source"], &hit["threshold"]["score"]), (&json!("watch"), &json!(0.8)));
    assert!(hits(&app, &named).await.is_empty());

    // One that is named goes before the gallery, and after the request.
    let answer = search(&app, 60, json!({ "watch": view["id"] })).await;
    assert_eq!((&answer["threshold"]["source"], &answer["decision"]), (&json!("watch"), &json!("match")));
    assert_eq!(hits(&app, &named).await[0]["subject"], "bob");
    let both = json!({ "watch": view["id"], "threshold": { "score": 0.95 } });
    assert_eq!(search(&app, 60, both).await["threshold"]["source"], "request");
    assert_eq!(hits(&app, &named).await[1]["threshold"]["source"], "request");

    app.gallery("other").await;
    let body = json!({ "embeddings": [ready(0, 0.0, 70.0)], "watch": view["id"] });
    app.post("/v1/galleries/other/search", body).await.problem(422, "invalid_request");
    let body = json!({ "embeddings": [ready(0, 0.0, 70.0)], "watch": uuid::Uuid::nil() });
    app.post("/v1/galleries/g/search", body).await.problem(404, "watch_not_found");

    // Disabled, it does not look; removed, it is gone with its hits.
    app.json("PATCH", &all, json!({ "enabled": false })).await.ok(200);
    let before = hits(&app, &all).await.len();
    search(&app, 0, json!({})).await;
    assert_eq!(hits(&app, &all).await.len(), before);
    assert_eq!(app.delete(&all).await.status, 204);
    app.get(&format!("{all}/hits")).await.problem(404, "watch_not_found");
    assert_eq!(app.get("/v1/watches").await.ok(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_track_hits_once_and_again_when_a_review_becomes_a_match() {
    let app = TestApp::start().await;
    people(&app).await;
    let more = json!({ "threshold": { "score": 0.9 }, "review_threshold": { "score": 0.6 }, "min_decision": "review",
        "sources": { "searches": "none" } });
    let (path, _) = watch(&app, more).await;
    app.post("/v1/tracks", json!({ "id": "t", "gallery": "g", "fusion": { "rule": "mean" } })).await.ok(201);
    let add = async |embedding: Value| {
        app.post("/v1/tracks/t/frames", json!({ "embeddings": [embedding] })).await.ok(201);
    };
    add(ready(0, 1.0, 70.0)).await;
    add(ready(0, 1.0, 70.0)).await;
    let found = hits(&app, &path).await;
    assert_eq!((found.len(), &found[0]["decision"]), (1, &json!("review")));
    assert_eq!(found[0]["source"], json!({ "kind": "track", "track": "t", "frames": 1 }));
    assert!((found[0]["coherence"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    for _ in 0..4 {
        add(ready(0, 0.0, 70.0)).await;
    }
    let found = hits(&app, &path).await;
    let told: Vec<&Value> = found.iter().map(|hit| &hit["decision"]).collect();
    assert_eq!(told, [&json!("review"), &json!("match")]);
    // Another track of the same name is another track.
    app.delete("/v1/tracks/t").await;
    app.post("/v1/tracks", json!({ "id": "t", "gallery": "g" })).await.ok(201);
    add(ready(0, 0.0, 70.0)).await;
    assert_eq!(hits(&app, &path).await.len(), 3);
    // Of another model, it is nothing to the watch.
    let flip = format!("{}+flip", crate::harness::MODEL_ID);
    app.post("/v1/tracks", json!({ "id": "flip", "model": flip })).await.ok(201);
    let png = crate::harness::crop_png(3);
    app.post_bytes("/v1/tracks/flip/frames?aligned=true", "image/png", png).await.ok(201);
    assert_eq!(app.get(&path).await.ok(200)["trouble"], json!(null));
}

#[tokio::test]
async fn faces_enrolled_elsewhere_are_looked_at() {
    let app = TestApp::start().await;
    people(&app).await;
    app.post("/v1/galleries", json!({ "id": "door", "kind": "events" })).await.ok(201);
    let (path, _) =
        watch(&app, json!({ "sources": { "searches": "none", "enrolments": ["g", "door", "door"] } })).await;
    let enrolled = enrol(&app, "door", "passer-by", ready(0, 0.1, 70.0)).await;
    enrol(&app, "door", "passer-by", ready(100, 0.1, 70.0)).await;
    // Enrolled into the watchlist itself, it does not find itself.
    enrol(&app, "g", "eve", ready(120, 0.0, 70.0)).await;
    let dry = json!({ "embeddings": [ready(0, 0.1, 70.0)], "dry_run": true });
    app.post("/v1/galleries/door/subjects/dry/faces", dry).await.ok(200);
    let found = hits(&app, &path).await;
    assert_eq!((found.len(), &found[0]["subject"]), (1, &json!("ada")));
    let face = &enrolled["faces"][0]["id"];
    let source = json!({ "kind": "enrolment", "gallery": "door", "subject": "passer-by", "face": face });
    assert_eq!(found[0]["source"], source);
}

#[tokio::test]
async fn what_a_watch_cannot_do_fails_no_request() {
    let app = TestApp::start().await;
    people(&app).await;
    let (path, _) = watch(&app, json!({ "threshold": { "fpir": 0.001 } })).await;
    search(&app, 0, json!({})).await;
    let trouble = app.get(&path).await.ok(200)["trouble"].as_str().unwrap().to_owned();
    assert!(trouble.contains("not calibrated"), "{trouble}");
    app.json("PATCH", &path, json!({ "threshold": { "score": 0.5 } })).await.ok(200);
    search(&app, 0, json!({})).await;
    assert_eq!(app.get(&path).await.ok(200)["trouble"], json!(null));
    assert_eq!(hits(&app, &path).await.len(), 1);
    app.post("/v1/watches", json!({ "gallery": "none" })).await.problem(404, "gallery_not_found");
    for bad in [
        json!({ "gallery": "g", "min_decision": "none" }),
        json!({ "gallery": "g", "threshold": { "score": 2.0 } }),
        json!({ "gallery": "g", "webhook": { "url": "http://127.0.0.1/", "secret": "short" } }),
        json!({ "gallery": "g", "sources": { "mail": true } }),
    ] {
        app.post("/v1/watches", bad).await.problem(422, "invalid_request");
    }
}

#[tokio::test]
async fn deliveries_are_signed_and_secrets_are_shown_once() {
    let app = hasty().await;
    people(&app).await;
    let endpoint = Endpoint::start("204 No Content");
    let (path, made) = watch(&app, json!({ "webhook": { "url": endpoint.url(), "secret": SECRET } })).await;
    assert!(!made.to_string().contains(SECRET));
    search(&app, 0, json!({})).await;
    let posted = until(async || endpoint.posted().pop()).await;
    assert_eq!(posted.header("content-type"), "application/json");
    assert_eq!(posted.header("vultus-watch"), made["id"].as_str().unwrap());
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(posted.header("vultus-timestamp").as_bytes());
    mac.update(b".");
    mac.update(&posted.body);
    let code: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(posted.header("vultus-signature"), format!("v1={code}"));
    assert_eq!(serde_json::from_slice::<Value>(&posted.body).unwrap(), hits(&app, &path).await[0]);
    let view = until(async || {
        let view = app.get(&path).await.ok(200);
        (view["webhook"]["delivered_up_to"] == 1).then_some(view)
    })
    .await;
    assert_eq!((&view["webhook"]["waiting"], &view["webhook"]["last_error"]), (&json!(0), &json!(null)));

    // One that is made here is shown where it is made and nowhere else.
    let (path, made) = watch(&app, json!({ "webhook": { "url": endpoint.url() } })).await;
    let secret = made["webhook"]["secret"].as_str().unwrap().to_owned();
    assert!(secret.len() >= 43);
    let patched = app.json("PATCH", &path, json!({ "webhook": { "url": endpoint.url() }, "label": "x" })).await.ok(200);
    let listed = app.get("/v1/watches").await.ok(200);
    for shown in [patched, app.get(&path).await.ok(200), listed] {
        assert!(!shown.to_string().contains(&secret) && !shown.to_string().contains(SECRET));
    }
    app.json("PATCH", &path, json!({ "webhook": null })).await.ok(200);
    let again = app.json("PATCH", &path, json!({ "webhook": { "url": endpoint.url() } })).await.ok(200);
    assert_ne!(again["webhook"]["secret"], json!(secret));
}

#[tokio::test]
async fn a_failing_endpoint_is_tried_again_in_order_and_holds_up_no_other() {
    let app = hasty().await;
    people(&app).await;
    let (failing, well) = (Endpoint::start("500 Internal Server Error"), Endpoint::start("200 OK"));
    let (path, _) = watch(&app, json!({ "webhook": { "url": failing.url() } })).await;
    watch(&app, json!({ "webhook": { "url": well.url() } })).await;
    for _ in 0..3 {
        search(&app, 0, json!({})).await;
    }
    until(async || (well.numbers() == [1, 2, 3]).then_some(())).await;
    until(async || (failing.posted().len() >= 3).then_some(())).await;
    assert!(failing.numbers().iter().all(|number| *number == 1));
    let webhook = app.get(&path).await.ok(200)["webhook"].clone();
    assert_eq!((&webhook["delivered_up_to"], &webhook["waiting"]), (&json!(0), &json!(3)));
    assert_eq!(webhook["last_error"], "answered with status 500");
    assert!(webhook["next_attempt_at"].is_string());
    // A redirect is not followed.
    failing.answer("302 Found\r\nlocation: http://127.0.0.1:1/");
    until(async || (app.get(&path).await.ok(200)["webhook"]["last_error"] == "answered with status 302").then_some(()))
        .await;
    failing.answer("200 OK");
    until(async || (app.get(&path).await.ok(200)["webhook"]["delivered_up_to"] == 3).then_some(())).await;
    let mut numbers = failing.numbers();
    assert!(numbers.is_sorted());
    numbers.dedup();
    assert_eq!(numbers, [1, 2, 3]);
}

#[tokio::test]
async fn what_was_not_delivered_is_after_a_restart() {
    let app = hasty().await;
    people(&app).await;
    let endpoint = Endpoint::start("503 Service Unavailable");
    let (path, _) = watch(&app, json!({ "webhook": { "url": endpoint.url(), "secret": SECRET } })).await;
    search(&app, 0, json!({})).await;
    search(&app, 60, json!({})).await;
    until(async || endpoint.posted().pop()).await;
    let before = hits(&app, &path).await;
    let app = app.restart().await;
    assert_eq!(hits(&app, &path).await, before);
    endpoint.answer("200 OK");
    until(async || (app.get(&path).await.ok(200)["webhook"]["delivered_up_to"] == 2).then_some(())).await;
    search(&app, 0, json!({})).await;
    until(async || (app.get(&path).await.ok(200)["webhook"]["delivered_up_to"] == 3).then_some(())).await;
    // And what was, is not delivered again.
    let app = app.restart().await;
    search(&app, 0, json!({})).await;
    until(async || (app.get(&path).await.ok(200)["webhook"]["delivered_up_to"] == 4).then_some(())).await;
    assert_eq!(endpoint.numbers().iter().filter(|number| **number > 2).collect::<Vec<_>>(), [&3, &4]);
}

#[tokio::test]
async fn private_addresses_are_refused() {
    let app = TestApp::with(|settings| {
        settings.server.listen = "0.0.0.0:0".parse().unwrap();
        (settings.watch.retry_min_ms, settings.watch.retry_max_ms) = (20, 100);
    })
    .await;
    people(&app).await;
    for url in ["http://127.0.0.1:1/", "http://10.0.0.1/", "http://[::1]/", "ftp://example.com/", "nowhere"] {
        let body = json!({ "gallery": "g", "webhook": { "url": url } });
        app.post("/v1/watches", body).await.problem(422, "webhook_refused");
    }
    // A name is found to be private when it is looked up, and nothing is sent.
    let endpoint = Endpoint::start("200 OK");
    let url = format!("http://localhost:{}/hook", endpoint.address.port());
    let (path, _) = watch(&app, json!({ "webhook": { "url": url } })).await;
    search(&app, 0, json!({})).await;
    let error = until(async || app.get(&path).await.ok(200)["webhook"]["last_error"].as_str().map(str::to_owned)).await;
    assert!(error.contains("is not a public address"), "{error}");
    assert!(endpoint.posted().is_empty());

    let none = TestApp::with(|settings| settings.watch.allow_webhooks = false).await;
    none.gallery("g").await;
    let body = json!({ "gallery": "g", "webhook": { "url": "https://example.com/" } });
    none.post("/v1/watches", body).await.problem(422, "webhook_refused");
}

/// The first `count` events of a stream, as (id, data).
async fn read_events(response: Response, count: usize) -> Vec<(String, Value)> {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut stream = response.into_body().into_data_stream();
    let (mut text, mut found) = (String::new(), Vec::new());
    while found.len() < count {
        let bytes = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap();
        text += std::str::from_utf8(&bytes).unwrap();
        while let Some((event, rest)) = text.split_once("\n\n") {
            let of = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            if of("event:") == Some("hit") {
                found.push((of("id:").unwrap().to_owned(), serde_json::from_str(of("data:").unwrap()).unwrap()));
            }
            text = rest.to_owned();
        }
    }
    found
}

#[tokio::test]
async fn events_come_as_they_happen_and_go_on_where_they_were() {
    let app = TestApp::with(|settings| settings.watch.max_streams = 2).await;
    people(&app).await;
    let (path, _) = watch(&app, json!({})).await;
    for _ in 0..3 {
        search(&app, 0, json!({})).await;
    }
    let open = async |query: &str, last: Option<&str>| {
        let mut request = Request::get(format!("{path}/events{query}"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        app.open(request.body(Body::empty()).unwrap()).await
    };
    let ids = async |response: Response, count: usize| -> Vec<String> {
        read_events(response, count).await.into_iter().map(|(id, _)| id).collect()
    };
    assert_eq!(ids(open("?after=0", None).await, 3).await, ["1", "2", "3"]);
    assert_eq!(ids(open("?after=0", Some("1")).await, 2).await, ["2", "3"]);
    // With neither, from now on.
    let live = open("", None).await;
    search(&app, 60, json!({})).await;
    let events = read_events(live, 1).await;
    assert_eq!((events[0].0.as_str(), &events[0].1), ("4", &hits(&app, &path).await[3]));

    let page = app.get(&format!("{path}/hits?after=1&limit=2")).await.ok(200);
    let numbers: Vec<&Value> = page["items"].as_array().unwrap().iter().map(|hit| &hit["number"]).collect();
    assert_eq!((numbers, &page["last"]), (vec![&json!(2), &json!(3)], &json!(4)));

    let held = (open("", None).await, open("", None).await);
    assert_eq!(open("", None).await.status(), 429);
    // The place of one whose reader has gone is free again, and a stream ends with its watch.
    drop(held.0);
    for bad in ["x", "+1", "-1", "9999999999999999"] {
        assert_eq!(open("", Some(bad)).await.status(), 400, "{bad}");
    }
    app.get(&format!("{path}/hits?after=9007199254740992")).await.problem(400, "invalid_parameter");
    assert_eq!(app.delete(&path).await.status, 204);
    let rest = axum::body::to_bytes(held.1.into_body(), 1 << 20);
    let rest = tokio::time::timeout(PATIENCE, rest).await.unwrap().unwrap();
    assert!(rest.is_empty(), "{rest:?}");
    assert_eq!(open("", None).await.status(), 404);
}

#[tokio::test]
async fn the_number_of_watches_is_bounded() {
    let app = TestApp::with(|settings| settings.watch.max_watches = 1).await;
    app.gallery("g").await;
    watch(&app, json!({})).await;
    let full = app.post("/v1/watches", json!({ "gallery": "g" })).await;
    full.problem(429, "watches_full");
}
