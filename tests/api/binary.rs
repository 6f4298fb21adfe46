//! The `vultus` program itself: its commands, its exit status, and what survives when it is killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{crop_png, ready};

pub(crate) const VULTUS: &str = env!("CARGO_BIN_EXE_vultus");

struct Served {
    child: Child,
    address: String,
}

impl Served {
    fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    fn start_with(data_dir: &Path, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(VULTUS)
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let address = first.trim().strip_prefix("listening on http://").expect("the first line is for scripts");
        Self { address: address.to_owned(), child }
    }

    /// A request over a connection of its own; `None` when the server is gone.
    fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let (status, body) = self.send("POST", path, "application/json", body.to_string().as_bytes())?;
        Some((status, serde_json::from_slice(&body).ok()?))
    }

    /// As [`post`](Self::post), of any method and body.
    fn send(&self, method: &str, path: &str, media_type: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(body).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        let status = std::str::from_utf8(&answer[..end]).ok()?.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_off(end + 4)))
    }

    fn get(&self, path: &str) -> Option<(u16, Vec<u8>)> {
        self.send("GET", path, "application/json", b"")
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    #[cfg(unix)]
    fn terminate(mut self) -> std::process::ExitStatus {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap()
    }
}

pub(crate) fn run(arguments: &[&str]) -> std::process::Output {
    Command::new(VULTUS).args(arguments).output().unwrap()
}

fn check(data_dir: &Path) -> Value {
    let output = Command::new(VULTUS).args(["check", "--json", "--data-dir"]).arg(data_dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_acknowledged_face_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let server = Served::start(folder.path());
        if round == 0 {
            assert_eq!(server.post("/v1/galleries", &json!({ "id": "g" })).unwrap().0, 201);
        }
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (sender, server) = (sender.clone(), &server);
                scope.spawn(move || {
                    for n in 0.. {
                        let subject = format!("r{round}-w{worker}-{n}");
                        let hot = 48 * worker + n;
                        let body = json!({ "embeddings": [ready(hot, 0.0, 70.0)] });
                        match server.post(&format!("/v1/galleries/g/subjects/{subject}/faces"), &body) {
                            Some((201, _)) => sender.send(subject).unwrap(),
                            _ => return,
                        }
                    }
                });
            }
            drop(sender);
            // Enough to be in the middle of it, then no warning.
            acknowledged.extend(receiver.iter().take(40 + 17 * round));
            Command::new("kill").args(["-9", &server.child.id().to_string()]).status().unwrap();
            acknowledged.extend(receiver.iter());
        });
        server.kill();
    }
    let report = check(folder.path());
    assert_eq!(report["problems"], json!([]));
    assert_eq!(report["sequence"], json!([1, report["changes"]]));

    let server = Served::start(folder.path());
    for subject in &acknowledged {
        let path = format!("/v1/galleries/g/subjects/{subject}/verify");
        let (status, answer) = server.post(&path, &json!({ "embeddings": [ready(0, 0.0, 70.0)] })).unwrap();
        assert_eq!((status, answer["faces"].as_array().map(Vec::len)), (200, Some(1)), "{subject}");
    }
    server.kill();
}

#[cfg(unix)]
#[test]
fn a_terminated_server_ends_well() {
    let folder = tempfile::tempdir().unwrap();
    let server = Served::start(folder.path());
    assert_eq!(server.post("/v1/galleries", &json!({ "id": "g" })).unwrap().0, 201);
    assert!(server.terminate().success());
    assert_eq!(check(folder.path())["galleries"], 1);
}

#[cfg(unix)]
#[test]
fn an_open_event_stream_ends_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Served::start(folder.path());
    server.post("/v1/galleries", &json!({ "id": "g" })).unwrap();
    let face = json!({ "embeddings": [ready(0, 0.0, 70.0)] });
    server.post("/v1/galleries/g/subjects/ada/faces", &face).unwrap();
    let watch = server.post("/v1/watches", &json!({ "gallery": "g" })).unwrap().1;
    assert_eq!(server.post("/v1/galleries/g/search", &face).unwrap().0, 200);
    let mut stream = TcpStream::connect(&server.address).unwrap();
    let id = watch["id"].as_str().unwrap();
    write!(stream, "GET /v1/watches/{id}/events?after=0 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while !line.starts_with("data:") {
        line.clear();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0);
    }
    assert!(server.terminate().success());
    // The end of a chunked body, as it is sent for one that is complete.
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
    check(folder.path());
}

#[test]
fn a_data_directory_has_one_user() {
    let folder = tempfile::tempdir().unwrap();
    let server = Served::start(folder.path());
    let second = run(&["serve", "--listen", "127.0.0.1:0", "--data-dir", folder.path().to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(1));
    let message = String::from_utf8(second.stderr).unwrap();
    assert!(message.contains("in use"), "{message}");
    server.kill();
}

#[test]
fn wrong_usage_and_damage_have_their_own_status() {
    assert_eq!(run(&["serve", "--unknown"]).status.code(), Some(2));
    let exposed = run(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(exposed.status.code(), Some(2));
    assert!(String::from_utf8(exposed.stderr).unwrap().contains("--insecure"));
    let folder = tempfile::tempdir().unwrap();
    let no_data = folder.path().to_str().unwrap();
    assert_eq!(run(&["check", "--data-dir", no_data]).status.code(), Some(1));
    assert_eq!(run(&["search", "--gallery", "g", "--data-dir", no_data, "x.jpg"]).status.code(), Some(1));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a mistyped directory stays as it is");
    let missing = run(&["detect", "/nowhere.jpg"]);
    assert_eq!((missing.status.code(), missing.stdout.len()), (Some(1), 0));
}

#[test]
fn crops_are_embedded_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crop.png");
    std::fs::write(&path, crop_png(5)).unwrap();
    let embed = |more: &[&str]| {
        let output = Command::new(VULTUS).args(["embed", "--aligned"]).args(more).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let plain = embed(&[]);
    assert_eq!(plain["model_id"], crate::harness::MODEL_ID);
    assert_eq!(plain["faces"][0]["embedding"].as_array().unwrap().len(), 192);
    assert_eq!(embed(&["--model", crate::harness::MODEL_ID])["faces"], plain["faces"]);
    let flipped = embed(&["--flip"]);
    assert_eq!(flipped["model_id"], format!("{}+flip", crate::harness::MODEL_ID));
    assert!(flipped["faces"][0]["norm"].as_f64() > plain["faces"][0]["norm"].as_f64());
}

#[test]
fn a_folder_is_enrolled_once_and_searched() {
    let Some(folder) = crate::harness::photos("photos") else { return };
    let people = crate::harness::people(&folder);
    let work = tempfile::tempdir().unwrap();
    let photos = work.path().join("photos");
    for (person, files) in &people[..4] {
        std::fs::create_dir_all(photos.join(person)).unwrap();
        std::fs::copy(&files[0], photos.join(person).join("1.jpg")).unwrap();
    }
    std::fs::write(photos.join(&people[0].0).join("2.jpg"), b"no photo").unwrap();
    let data = work.path().join("data");
    let (data, photos) = (data.to_str().unwrap(), photos.to_str().unwrap());
    let enrol = || {
        let output = run(&["enrol", "--gallery", "g", "--data-dir", data, "--json", photos]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str::<Value>(text.lines().last().unwrap()).unwrap()
    };
    let first = enrol();
    assert_eq!((&first["subjects"], &first["faces"]), (&json!(4), &json!(4)));
    assert_eq!(first["rejected"], json!({ "not_an_image": 1 }));
    let second = enrol();
    assert_eq!((&second["faces"], &second["already_enrolled"]), (&json!(0), &json!(4)));

    let probe = people[2].1[1].to_str().unwrap();
    let output = run(&["search", "--gallery", "g", "--data-dir", data, "--json", "--limit", "2", probe]);
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&line["path"], &line["candidates"][0]["subject"]), (&json!(probe), &json!(people[2].0)));
    let probes: Vec<&str> = people[1].1[1..4].iter().map(|path| path.to_str().unwrap()).collect();
    let mut arguments = vec!["search", "--gallery", "g", "--data-dir", data, "--json", "--fuse", "--fusion", "norm"];
    arguments.extend(&probes);
    let line: Value = serde_json::from_slice(&run(&arguments).stdout).unwrap();
    assert_eq!((&line["path"], &line["candidates"][0]["subject"]), (&json!(probes), &json!(people[1].0)));
}

#[test]
fn identification_is_measured_on_a_folder() {
    let work = tempfile::tempdir().unwrap();
    let folder = work.path().join("people");
    for person in 0..6 {
        std::fs::create_dir_all(folder.join(person.to_string())).unwrap();
        // Pictures of one seed are one person to the network; brightness tells them apart.
        for photo in 0..3u8 {
            let mut picture = image::load_from_memory(&crop_png(5 * person + 3)).unwrap().to_rgb8();
            picture.iter_mut().for_each(|value| *value = value.saturating_add(6 * photo));
            std::fs::write(folder.join(format!("{person}/{photo}.png")), crate::harness::png(&picture)).unwrap();
        }
    }
    std::fs::write(folder.join("0/broken.png"), b"no photo").unwrap();
    let html = work.path().join("report.html");
    let bench = |folder: &Path| {
        let output = Command::new(VULTUS)
            .args(["bench", "identify", "--aligned", "--json", "--frames", "1,2,8", "--degradations", "small"])
            .arg("--html")
            .args([&html, folder])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let measured = bench(&folder);
    assert_eq!((&measured["subjects"], &measured["photos"]), (&json!(6), &json!(18)));
    assert_eq!(measured["rejected"], json!({ "not_an_image": 1 }));
    assert_eq!((&measured["rank1"], &measured["frames"]), (&json!(1.0), &json!([1, 2])));
    assert_eq!(measured["fusion"]["mean"]["2"]["rank1"], 1.0);
    assert!(measured["degradations"]["small"]["fusion"]["softmax_quality"]["2"]["rank5"].is_f64());
    // 240 non-mated searches carry neither rate.
    assert_eq!(measured["tpir_at_fpir"], json!({ "0.01": null, "0.001": null }));
    assert_eq!(bench(&folder), measured);
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("<svg") && !page.contains("http") && !page.contains("<script"));

    // One subject is too few, which is told and no failure.
    let one = work.path().join("one");
    std::fs::create_dir(&one).unwrap();
    std::fs::rename(folder.join("1"), one.join("1")).unwrap();
    let measured = bench(&one);
    assert_eq!((&measured["rank1"], &measured["fnir"]), (&Value::Null, &Value::Null));
    assert!(measured["notes"][0].as_str().unwrap().contains("at least 2 subjects"));
}

#[test]
fn embedding_is_measured_on_drawn_faces() {
    let rows = |arguments: &[&str]| {
        let output = run(&[&["bench", "embed", "--json", "--rounds", "1"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    // The embedded model has no bf16, which is told.
    let plain = rows(&["--threads", "1,2", "--batch", "1,3", "--dtype", "f32,bf16"]);
    let keys = |row: &Value| (row["threads"].as_u64().unwrap(), row["batch"].as_u64().unwrap());
    assert_eq!(plain.iter().map(keys).collect::<Vec<_>>(), [(1, 1), (1, 3), (2, 1), (2, 3)]);
    for row in &plain {
        assert_eq!((&row["model"], &row["dtype"]), (&json!("mobilefacenet"), &json!("f32")));
        assert!(["avx512", "avx2", "portable", "stock"].contains(&row["path"].as_str().unwrap()));
        assert!(row["ms_min"].as_f64().unwrap() <= row["ms_median"].as_f64().unwrap());
        assert!(row["faces_per_s"].as_f64().unwrap() > 0.0 && row.get("decode").is_none());
        assert!(row["rss_mb"].as_f64().is_some_and(|mb| mb > 1.0) || !cfg!(target_os = "linux"));
    }
    let staged = rows(&["--stages", "--batch", "2", "--max-images", "6", "--flip"]);
    for figure in ["decode", "detect", "align", "chain_faces_per_s", "chain_decoded_faces_per_s"] {
        assert!(staged[0][figure].as_f64().unwrap() > 0.0, "{figure}");
    }
    let output = run(&["bench", "embed", "--json", "--count", "50"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let done: Vec<Value> =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["done"].clone()).collect();
    assert_eq!(done, (1..=10).map(|point| json!(5 * point)).collect::<Vec<_>>());
}

#[test]
fn searches_of_a_stored_gallery_are_measured_and_it_stays_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let server = Served::start(folder.path());
    let guards = crate::harness::no_guards();
    assert_eq!(server.post("/v1/galleries", &json!({ "id": "g", "guards": guards })).unwrap().0, 201);
    for subject in 0..40 {
        let faces = [crate::harness::ready(4 * subject, 0.0, 70.0), crate::harness::ready(4 * subject, 0.2, 60.0)];
        let path = format!("/v1/galleries/g/subjects/s{subject}/faces");
        assert_eq!(server.post(&path, &json!({ "embeddings": faces })).unwrap().0, 201);
    }
    server.terminate();
    let before = check(folder.path());
    let data = folder.path().to_str().unwrap();
    let bench = |arguments: &[&str]| run(&[&["bench", "search", "--data-dir", data], arguments].concat());
    let output = bench(&["--gallery", "g", "--probes", "60", "--modes", "exact", "--memory-limit-mb", "0", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let row: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&row["rows"], &row["dim"], &row["kind"]), (&json!(40), &json!(192), &json!("exact")));
    assert_eq!((&row["rank1"], &row["recall_at_10"]), (&json!(1.0), &json!(1.0)));
    let parts = &row["bytes_per_row_by_part"];
    assert_eq!(
        (&parts["digits"], &parts["graph"], &parts["graph_measured"]),
        (&json!(204.0), &json!(0.0), &Value::Null)
    );
    let sum: f64 =
        ["vectors", "digits", "keys", "sketches", "graph"].map(|part| parts[part].as_f64().unwrap()).iter().sum();
    assert!((sum - row["bytes_per_row"].as_f64().unwrap()).abs() < 1e-6, "{row}");
    assert_eq!(check(folder.path()), before);
    for (arguments, status, told) in [
        (&["--gallery", "nobody"][..], 1, "there is no gallery nobody"),
        (&["--gallery", "a/b"], 2, "--gallery"),
        (&["--gallery", "g", "--rows", "5"], 2, "cannot be used with"),
        (&["--gallery", "g", "--memory-limit-mb", "x"], 2, "--memory-limit-mb"),
    ] {
        let output = bench(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), errors.contains(told)), (Some(status), true), "{errors}");
    }
    let output = run(&["bench", "search", "--gallery", "g", "--data-dir", "/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("is not a data directory"));
}

#[test]
fn what_cannot_be_measured_is_told_in_a_line() {
    let empty = tempfile::tempdir().unwrap();
    let folder = empty.path().to_str().unwrap();
    for (arguments, status, told) in [
        (&["--model", "nobody"][..], 1, "there is no model nobody"),
        (&["--dtype", "bf16"], 1, "bf16"),
        (&["--images", folder], 1, "holds no photos"),
        (&["--images", "/nowhere"], 1, "cannot read /nowhere"),
        (&["--device", "tpu"], 1, "there is no device"),
        (&["--batch", "0"], 2, "--batch"),
        (&["--threads", "x"], 2, "--threads"),
        (&["--dtype", "f16"], 2, "the precisions are f32 and bf16"),
        (&["--count", "100", "--stages"], 2, "cannot be used with"),
    ] {
        let output = run(&[&["bench", "embed"], arguments].concat());
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {message}");
        assert!(message.contains(told), "{arguments:?}: {message}");
        assert!(status == 2 || message.trim().lines().count() == 1, "{message}");
    }
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Served::start_with(folder.path(), &[("VULTUS_SERVER__HEADER_TIMEOUT_MS", "200")]);
    for beginning in ["", "GET /healthz HTT"] {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        stream.write_all(beginning.as_bytes()).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let mut answer = String::new();
        // The end of the stream, or a 408 and then the end; a time-out would be an error.
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    server.kill();
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let script = format!("set -o pipefail; '{VULTUS}' serve --print-config | true");
    // Whether the pipe is closed in time is up to chance; it must not show either way.
    for _ in 0..20 {
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

#[cfg(unix)]
#[test]
fn jobs_that_a_stop_or_a_kill_cuts_off_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let Some(video) = crate::video::long_video(folder.path()) else { return };
    let data = folder.path().join("data");
    let mut served = Served::start(&data);
    assert_eq!(served.post("/v1/galleries", &json!({ "id": "g" })).unwrap().0, 201);
    let (status, started) = served.post("/v1/galleries/g/duplicates", &json!({})).unwrap();
    assert_eq!(status, 202);
    let report = format!("/v1/jobs/{}", started["id"].as_str().unwrap());
    let state = |served: &Served, job: &str| -> Value { serde_json::from_slice(&served.get(job).unwrap().1).unwrap() };
    let wait = |served: &Served, job: &str, wanted: &str| {
        let found = (0..3000).find(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            state(served, job)["state"] == wanted
        });
        assert!(found.is_some(), "{}", state(served, job));
    };
    wait(&served, &report, "done");
    let told = served.get(&report).unwrap();
    for stop in ["terminate", "kill"] {
        let path = "/v1/probes/video?galleries=g&fps=60";
        let (status, started) = served.send("POST", path, "video/x-matroska", &video).unwrap();
        assert_eq!(status, 202);
        let started: Value = serde_json::from_slice(&started).unwrap();
        let job = format!("/v1/jobs/{}", started["id"].as_str().unwrap());
        wait(&served, &job, "running");
        match stop {
            "kill" => served.kill(),
            _ => assert!(served.terminate().success()),
        }
        served = Served::start(&data);
        let ended = state(&served, &job);
        assert_eq!((&ended["state"], &ended["problem"]["code"]), (&json!("failed"), &json!("job_interrupted")));
        assert!(!ended["started_at"].is_null(), "{stop}");
        assert_eq!(served.get(&report).unwrap(), told);
    }
    assert_eq!(served.send("DELETE", "/v1/galleries/g", "application/json", b"").unwrap().0, 204);
    assert_eq!(served.get(&report).unwrap().0, 404);
    assert!(served.terminate().success());
    check(&data);
}
