//! `vultus models pull` against a server on this machine that answers as the hub does: metadata at the address of a
//! file, a redirect to a store for large ones, ranges, and every way of failing.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::Value;

const WEIGHTS: &[u8] = include_bytes!("../../engine/assets/mobilefacenet.safetensors");
const SHA256: &str = "17d5763f9ac4054bc6fcd1526e7baefbb59719f5a756d677d4175d02b7389607";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// The description of the colour order.
const YAML: &[u8] = b"input_size: [3, 112, 112]\ncolor_space: RGB\n";

/// How the hub behaves.
#[derive(Default)]
struct Behaviour {
    /// Bytes after which each of the next answers of the store breaks off.
    breaks: Vec<usize>,
    /// Whether the store answers 503 once there is no break left.
    gone: bool,
    /// Whether the store sends the whole file whatever range is asked for.
    ignores_range: bool,
    /// The SHA-256 that is stated.
    sha256: Option<String>,
    /// Whether the colour order is said.
    described: bool,
    /// First byte of each request to the store.
    asked: Vec<u64>,
    /// Requests with a token, to the hub and to the store.
    tokens: [usize; 2],
}

struct FakeHub {
    address: String,
    behaviour: Arc<Mutex<Behaviour>>,
}

impl FakeHub {
    fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let behaviour = Arc::new(Mutex::new(behaviour));
        let (shared, own) = (Arc::clone(&behaviour), address.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, own) = (Arc::clone(&shared), own.clone());
                std::thread::spawn(move || serve(stream, &own, &shared));
            }
        });
        Self { address, behaviour }
    }

    fn asked(&self) -> Vec<u64> {
        self.behaviour.lock().unwrap().asked.clone()
    }
}

/// Answers one request and closes the connection.
fn serve(mut stream: TcpStream, own: &str, behaviour: &Mutex<Behaviour>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let (mut from, mut token) = (None, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(range) = header.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse::<usize>().ok();
        }
        token |= header.starts_with("authorization: bearer ");
    }
    let mut behaviour = behaviour.lock().unwrap();
    let head = method == "HEAD";
    let mut answer = |status: &str, headers: &str, body: &[u8], length: usize| {
        let head_text = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n");
        stream.write_all(head_text.as_bytes()).ok()?;
        if head { Some(()) } else { stream.write_all(body).ok() }
    };
    match path.as_str() {
        "/some/one/resolve/main/model.safetensors" => {
            behaviour.tokens[0] += usize::from(token);
            let sha256 = behaviour.sha256.clone().unwrap_or_else(|| SHA256.to_owned());
            let headers = format!(
                "x-repo-commit: {COMMIT}\r\nx-linked-etag: \"{sha256}\"\r\nx-linked-size: {}\r\n\
                 location: {own}/store/weights?signed=1\r\n",
                WEIGHTS.len()
            );
            answer("302 Found", &headers, b"", 0)
        }
        "/store/weights?signed=1" => {
            let start = if behaviour.ignores_range { 0 } else { from.unwrap_or(0) };
            behaviour.asked.push(from.unwrap_or(0) as u64);
            behaviour.tokens[1] += usize::from(token);
            if behaviour.breaks.is_empty() && behaviour.gone {
                return answer("503 Service Unavailable", "", b"", 0);
            }
            let rest = &WEIGHTS[start.min(WEIGHTS.len())..];
            let sent =
                if behaviour.breaks.is_empty() { rest.len() } else { behaviour.breaks.remove(0).min(rest.len()) };
            let (status, range) = match from.filter(|_| !behaviour.ignores_range) {
                Some(from) => {
                    let range = format!("content-range: bytes {from}-{}/{}\r\n", WEIGHTS.len() - 1, WEIGHTS.len());
                    ("206 Partial Content", range)
                }
                None => ("200 OK", String::new()),
            };
            answer(status, &range, &rest[..sent], rest.len())
        }
        "/some/one/resolve/main/pretrained_model/model.yaml" if behaviour.described => {
            answer("200 OK", "etag: \"0123456789012345678901234567890123456789\"\r\n", YAML, YAML.len())
        }
        "/some/one/resolve/main/config.json" => answer("200 OK", "", b"{}", 2),
        _ => answer("404 Not Found", "", b"", 0),
    }
}

fn pull(address: &str, folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vultus"))
        .args(["models", "pull"])
        .args(arguments)
        .env("HF_ENDPOINT", address)
        .env("HF_HOME", folder.join("home"))
        .env("VULTUS_MODELS_DIR", folder.join("models"))
        .env("HF_TOKEN", "secret")
        .output()
        .unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join("models")).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[track_caller]
fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(output.stdout.is_empty() && text.lines().count() == 1, "{text}");
    text
}

#[test]
fn a_model_is_fetched_verified_and_installed() {
    let folder = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(Behaviour { described: true, ..Behaviour::default() });
    let model = done(&pull(&hub.address, folder.path(), &["some/one", "--json"]));
    assert_eq!((&model["name"], &model["color"]), (&Value::from("one"), &Value::from("rgb")));
    assert_eq!(model["source"], format!("some/one of the Hugging Face hub, revision {COMMIT}"));
    assert_eq!(files(folder.path()), ["one.json", "one.safetensors"]);
    assert_eq!(hub.asked(), [0]);
    let [at_hub, at_store] = hub.behaviour.lock().unwrap().tokens;
    assert!(at_hub > 0 && at_store == 0, "the token is for the hub alone");
    let again = failed(&pull(&hub.address, folder.path(), &["some/one"]));
    assert!(again.contains("--force"), "{again}");
    assert_eq!(hub.asked(), [0], "nothing is fetched in vain");
}

#[test]
fn a_broken_download_is_taken_up_where_it_broke() {
    let folder = tempfile::tempdir().unwrap();
    let breaks = vec![1_000_000, 2_000_000];
    let hub = FakeHub::start(Behaviour { described: true, breaks, ..Behaviour::default() });
    done(&pull(&hub.address, folder.path(), &["some/one", "--json"]));
    let asked = hub.asked();
    assert_eq!(asked.len(), 3);
    assert!(asked[0] == 0 && asked[1] > 0 && asked[1] <= 1_000_000 && asked[2] > asked[1], "{asked:?}");
}

#[test]
fn a_later_run_goes_on_with_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let behaviour = Behaviour { described: true, breaks: vec![3_000_000], gone: true, ..Behaviour::default() };
    let hub = FakeHub::start(behaviour);
    let text = failed(&pull(&hub.address, folder.path(), &["some/one"]));
    assert!(text.contains("503") && text.contains("resumed"), "{text}");
    hub.behaviour.lock().unwrap().gone = false;
    let before = hub.asked().len();
    done(&pull(&hub.address, folder.path(), &["some/one", "--json"]));
    let asked = hub.asked();
    assert!(asked.len() == before + 1 && asked[before] > 0, "{asked:?}");
    assert_eq!(files(folder.path()), ["one.json", "one.safetensors"]);
}

#[test]
fn a_store_without_ranges_sends_all_again() {
    let folder = tempfile::tempdir().unwrap();
    let behaviour = Behaviour { described: true, breaks: vec![1_000_000], ignores_range: true, ..Behaviour::default() };
    let hub = FakeHub::start(behaviour);
    done(&pull(&hub.address, folder.path(), &["some/one", "--json"]));
    assert_eq!(hub.asked().len(), 2);
}

#[test]
fn bytes_that_are_not_the_stated_ones_are_discarded() {
    let folder = tempfile::tempdir().unwrap();
    let behaviour = Behaviour { described: true, sha256: Some("ab".repeat(32)), ..Behaviour::default() };
    let hub = FakeHub::start(behaviour);
    let text = failed(&pull(&hub.address, folder.path(), &["some/one"]));
    assert!(text.contains("SHA-256") && text.contains("discarded"), "{text}");
    // The next attempt begins anew.
    hub.behaviour.lock().unwrap().sha256 = None;
    done(&pull(&hub.address, folder.path(), &["some/one", "--json"]));
    assert_eq!(hub.asked(), [0, 0]);
}

#[test]
fn what_cannot_be_fetched_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let hub = FakeHub::start(Behaviour::default());
    let text = failed(&pull(&hub.address, folder.path(), &["some/one"]));
    assert!(text.contains("--color") && hub.asked().is_empty(), "{text}");
    let chosen = done(&pull(&hub.address, folder.path(), &["some/one", "--color", "rgb", "--name", "x", "--json"]));
    assert_eq!(chosen["name"], "x");

    let text = failed(&pull(&hub.address, folder.path(), &["adaface_ir50_ms1mv2", "--color", "rgb"]));
    assert!(
        text.contains("minchul/cvlface_adaface_ir50_ms1mv2/resolve/main/model.safetensors does not exist"),
        "{text}"
    );
    let text = failed(&pull(&hub.address, folder.path(), &["nothing"]));
    assert!(text.contains("adaface_ir101_webface12m"), "{text}");
    // A port that nobody listens on.
    let text = failed(&pull("http://127.0.0.1:1", folder.path(), &["some/one", "--name", "y"]));
    assert!(text.contains("cannot be reached") && text.contains("vultus models import"), "{text}");
    assert_eq!(files(folder.path()).iter().filter(|name| name.ends_with(".json")).count(), 1);
}
