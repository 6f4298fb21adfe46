//! A server of one's own for each test, in a temporary directory, without a port.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;
use vultus::config::Settings;
use vultus::server::{build, open_store};
use vultus_engine::store::Store;

/// A server in this process.
pub(crate) struct TestApp {
    router: Router,
    settings: Settings,
    folder: TempDir,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Asserts the status and gives the JSON.
    #[track_caller]
    pub(crate) fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// Asserts a problem of the given status and code, in form and content.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.ok(status);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:vultus:problem:{code}"));
        problem
    }
}

impl TestApp {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A server with settings of one's own.
    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = TempDir::new().unwrap();
        let mut settings = Settings::default();
        settings.server.data_dir = folder.path().join("data");
        change(&mut settings);
        let router = open(&settings).await;
        Self { router, settings, folder }
    }

    /// Stops the server and starts it again on the same data.
    pub(crate) async fn restart(self) -> Self {
        let Self { router, settings, folder } = self;
        // The store is closed when the last reference to it goes, on a thread that may block.
        tokio::task::spawn_blocking(move || drop(router)).await.unwrap();
        let router = open(&settings).await;
        Self { router, settings, folder }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Sends a request whose answer is read by the caller, or not to its end.
    pub(crate) async fn open(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn json(&self, method: &str, path: &str, body: Value) -> Answer {
        self.json_with(method, path, body, &[]).await
    }

    pub(crate) async fn json_with(&self, method: &str, path: &str, body: Value, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.json("POST", path, body).await
    }

    pub(crate) async fn post_bytes(&self, path: &str, media_type: &str, bytes: Vec<u8>) -> Answer {
        self.send(Request::post(path).header("content-type", media_type).body(Body::from(bytes)).unwrap()).await
    }

    /// Adds a gallery without guards, since made-up embeddings are like nobody's.
    pub(crate) async fn gallery(&self, id: &str) {
        self.post("/v1/galleries", json!({ "id": id, "guards": no_guards() })).await.ok(201);
    }

    /// Sequence number of the last change.
    pub(crate) async fn last_seq(&self) -> u64 {
        self.get("/v1/changes?limit=1").await.ok(200)["last_seq"].as_u64().unwrap()
    }
}

async fn open(settings: &Settings) -> Router {
    let settings = settings.clone();
    tokio::task::spawn_blocking(move || {
        // The thread of a job that has just ended may hold the store a little longer than who watched it.
        let opened = (0..500).find_map(|_| {
            let opened = open_store(&settings.server.data_dir).ok();
            opened.or_else(|| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                None
            })
        });
        let store: Arc<dyn Store> = Arc::new(opened.expect("the data directory opens"));
        vultus::router::router(build(settings, store).unwrap())
    })
    .await
    .unwrap()
}

/// A picture that is no face but embeds like a crop, different for each seed, as PNG.
pub(crate) fn crop_png(seed: u32) -> Vec<u8> {
    png(&image::RgbImage::from_fn(112, 112, |x, y| {
        let wave = |k: u32| (((x * (3 + seed % 7) + y * (5 + seed % 11) + 40 * k + 17 * seed) / 3) % 256) as u8;
        image::Rgb([wave(0), wave(seed), wave(2 * seed + 1)])
    }))
}

pub(crate) fn png(picture: &image::RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A unit vector with 1 at `hot` and a little of `tilt` at the next place.
pub(crate) fn embedding(hot: usize, tilt: f32) -> Vec<f32> {
    let mut vector = vec![0f32; 192];
    let length = (1.0 + tilt * tilt).sqrt();
    vector[hot % 192] = 1.0 / length;
    vector[(hot + 1) % 192] = tilt / length;
    vector
}

pub(crate) const MODEL_ID: &str = "mobilefacenet-17d5763f9ac4054b";

/// Settings under which any face is enrolled.
pub(crate) fn no_guards() -> Value {
    let off = json!({ "enabled": false });
    json!({ "wrong_person": off, "duplicate_subject": off })
}

/// A ready embedding as JSON.
pub(crate) fn ready(hot: usize, tilt: f32, norm: f32) -> Value {
    json!({ "embedding": embedding(hot, tilt), "norm": norm, "model_id": MODEL_ID })
}

/// A folder of photos, one folder a person; `None`, with a message, where it is not there.
pub(crate) fn photos(name: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("skipped: there are no photos at {}", folder.display());
    None
}

/// Two photos as one.
pub(crate) fn side_by_side(left: &std::path::Path, right: &std::path::Path) -> image::RgbImage {
    let [left, right] = [left, right].map(|path| image::open(path).unwrap().to_rgb8());
    let mut both = image::RgbImage::new(left.width() + right.width(), left.height().max(right.height()));
    image::imageops::replace(&mut both, &left, 0, 0);
    image::imageops::replace(&mut both, &right, i64::from(left.width()), 0);
    both
}

/// The photos of a folder, by person.
pub(crate) fn people(folder: &std::path::Path) -> Vec<(String, Vec<PathBuf>)> {
    let sorted = |path: &std::path::Path| {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        entries
    };
    let person = |path: PathBuf| (path.file_name().unwrap().to_str().unwrap().to_owned(), sorted(&path));
    sorted(folder).into_iter().filter(|path| path.is_dir()).map(person).collect()
}
