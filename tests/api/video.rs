//! Videos: from an upload to tracks with candidates. Needs ffmpeg, and photos where people are to be recognised.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use image::RgbImage;
use image::imageops::overlay;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::binary::{VULTUS, run};
use crate::harness::{TestApp, people, photos};

/// Whether ffmpeg is there; says so where it is not.
fn has_ffmpeg() -> bool {
    let there = Command::new("ffmpeg").arg("-version").output().is_ok();
    if !there {
        eprintln!("skipped: ffmpeg is not installed");
    }
    there
}

/// A video of pictures that show nobody.
fn test_pattern(folder: &Path, seconds: u32) -> Vec<u8> {
    let file = folder.join("pattern.mkv");
    let source = format!("testsrc=size=320x240:rate=10:duration={seconds}");
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-y", "-f", "lavfi", "-i", &source, "-c:v", "mpeg4"]).arg(&file);
    assert!(command.status().unwrap().success());
    std::fs::read(file).unwrap()
}

/// A video of nobody that takes a while to be looked at.
pub(crate) fn long_video(folder: &Path) -> Option<Vec<u8>> {
    has_ffmpeg().then(|| test_pattern(folder, 120))
}

/// A video of pictures, five a second.
fn video_of(folder: &Path, pictures: &[RgbImage]) -> PathBuf {
    for (i, picture) in pictures.iter().enumerate() {
        picture.save(folder.join(format!("{i:04}.png"))).unwrap();
    }
    let file = folder.join("people.mp4");
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-y", "-framerate", "5", "-i"]).arg(folder.join("%04d.png"));
    command.args(["-c:v", "mpeg4", "-q:v", "2"]).arg(&file);
    assert!(command.status().unwrap().success());
    file
}

async fn ended(app: &TestApp, job: &Value) -> Value {
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    for _ in 0..1200 {
        let job = app.get(&path).await.ok(200);
        if ["done", "failed", "cancelled"].contains(&job["state"].as_str().unwrap()) {
            return job;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the job does not end");
}

#[tokio::test]
async fn people_who_cross_and_a_cut_become_tracks_with_candidates() {
    let Some(folder) = photos("photos") else { return };
    if !has_ffmpeg() {
        return;
    }
    let people = people(&folder);
    let app = TestApp::start().await;
    app.gallery("g").await;
    let watch = app.post("/v1/watches", json!({ "gallery": "g" })).await.ok(201);
    // Two are enrolled with other photos than they are seen with; the third is a stranger.
    for (name, files) in &people[..2] {
        for file in &files[2..6] {
            let bytes = std::fs::read(file).unwrap();
            let path = format!("/v1/galleries/g/subjects/{name}/faces?select=main");
            app.post_bytes(&path, "image/jpeg", bytes).await.ok(201);
        }
    }
    let picture = |who: usize, photo: usize| image::open(&people[who].1[photo]).unwrap().thumbnail(220, 220).to_rgb8();
    let blank = || RgbImage::from_pixel(640, 480, image::Rgb([90, 100, 110]));
    let walk: Vec<RgbImage> = (0..20)
        .map(|i| {
            let mut frame = blank();
            // They pass each other at different heights, and each changes its photo in between.
            overlay(&mut frame, &picture(0, usize::from(i >= 10)), 20 + 20 * i, 10);
            overlay(&mut frame, &picture(1, usize::from(i >= 10)), 440 - 20 * i, 240);
            frame
        })
        .collect();
    let stranger = (0..8).map(|i| {
        let mut frame = blank();
        overlay(&mut frame, &picture(2, 0), 400 + 2 * i, 10);
        frame
    });
    let dir = TempDir::new().unwrap();
    let file = video_of(dir.path(), &walk.into_iter().chain(stranger).collect::<Vec<_>>());
    let path = "/v1/probes/video?galleries=g&keep_crops=2&limit=2";
    let started = app.post_bytes(path, "video/mp4", std::fs::read(file).unwrap()).await;
    let job = started.ok(202);
    assert_eq!(started.header("location").unwrap(), format!("/v1/jobs/{}", job["id"].as_str().unwrap()));
    assert_eq!((&job["kind"], &job["gallery"]), (&json!("video"), &json!("g")));
    let job = ended(&app, &job).await;
    assert_eq!(job["state"], "done", "{job}");
    let result = &job["result"];
    assert_eq!(job["progress"]["done"], result["frames"]);
    let tracks = result["tracks"].as_array().unwrap();
    let seen: Vec<Value> = tracks
        .iter()
        .map(|t| json!([t["first_s"], t["last_s"], t["frames"], t["decision"], t["candidates"][0]["subject"]]))
        .collect();
    assert_eq!(tracks.len(), 3, "{seen:?}");
    let found: Vec<&str> = tracks[..2].iter().map(|t| t["candidates"][0]["subject"].as_str().unwrap()).collect();
    let mut sorted = found.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [people[0].0.as_str(), people[1].0.as_str()], "{seen:?}");
    for track in &tracks[..2] {
        assert!(track["frames"].as_u64() == Some(20) && track["last_s"].as_f64().unwrap() > 3.7, "{seen:?}");
        assert_eq!((&track["decision"], &track["threshold"]["source"]), (&json!("match"), &json!("server")));
    }
    assert!(tracks[2]["first_s"].as_f64().unwrap() > 3.5, "{seen:?}");
    assert_eq!(tracks[2]["decision"], "none", "{seen:?}");
    let hits = app.get(&format!("/v1/watches/{}/hits", watch["id"].as_str().unwrap())).await.ok(200);
    let hits: Vec<&Value> = hits["items"].as_array().unwrap().iter().collect();
    assert_eq!(hits.iter().map(|hit| hit["subject"].as_str().unwrap()).collect::<Vec<_>>(), found);
    for (number, hit) in hits.iter().enumerate() {
        assert_eq!((&hit["source"]["kind"], &hit["source"]["job"]), (&json!("video"), &job["id"]));
        assert_eq!(
            (&hit["source"]["video_track"], &hit["source"]["first_s"]),
            (&json!(number), &tracks[number]["first_s"])
        );
    }

    for crop in tracks.iter().flat_map(|track| track["crops"].as_array().unwrap()) {
        let png = app.get(crop.as_str().unwrap()).await;
        assert_eq!(png.header("content-type"), Some("image/png"));
        assert_eq!(image::load_from_memory(&png.body).unwrap().to_rgb8().dimensions(), (112, 112));
    }
    assert_eq!(tracks[0]["crops"].as_array().unwrap().len(), 2);
    let none = format!("/v1/jobs/{}/tracks/0/crops/2", job["id"].as_str().unwrap());
    app.get(&none).await.problem(404, "crop_not_found");
    let listed = app.get("/v1/jobs?kind=video&gallery=g&state=done").await.ok(200);
    assert_eq!((&listed["items"][0]["id"], &listed["items"][0]["result"]), (&job["id"], &json!(null)));
    app.post(&format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap()), json!({})).await.problem(409, "job_ended");

    // A restart changes nothing of what was found; the gallery's end takes it along.
    let (place, crop) = (format!("/v1/jobs/{}", job["id"].as_str().unwrap()), tracks[0]["crops"][0].as_str().unwrap());
    let told = [app.get(&place).await.body, app.get(crop).await.body];
    let app = app.restart().await;
    assert_eq!([app.get(&place).await.body, app.get(crop).await.body], told);
    assert_eq!(app.get(crop).await.header("content-type"), Some("image/png"));
    app.delete("/v1/galleries/g").await;
    app.get(&place).await.problem(404, "job_not_found");
    app.get(crop).await.problem(404, "job_not_found");
}

#[tokio::test]
async fn a_video_comes_in_any_body_and_is_not_kept() {
    if !has_ffmpeg() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let video = test_pattern(dir.path(), 2);
    let data = dir.path().join("data");
    let app = TestApp::with(|settings| settings.server.data_dir = data.clone()).await;
    let raw = app.post_bytes("/v1/probes/video?fps=2", "application/octet-stream", video.clone()).await.ok(202);
    let job = ended(&app, &raw).await;
    let result = &job["result"];
    assert_eq!((&job["state"], &result["tracks"], &result["fps"]), (&json!("done"), &json!([]), &json!(2.0)));
    assert!((3..=5).contains(&result["frames"].as_u64().unwrap()), "{result}");

    let form = |video: &[u8], fps: &str| {
        let head = "--x\r\ncontent-disposition: form-data; name=\"video\"; filename=\"a.mkv\"\r\n\r\n";
        let tail = format!("\r\n--x\r\ncontent-disposition: form-data; name=\"fps\"\r\n\r\n{fps}\r\n--x--\r\n");
        [head.as_bytes(), video, tail.as_bytes()].concat()
    };
    let kind = "multipart/form-data; boundary=x";
    let formed = app.post_bytes("/v1/probes/video", kind, form(&video, "4")).await.ok(202);
    assert_eq!(ended(&app, &formed).await["result"]["fps"], 4.0);
    let problem = app.post_bytes("/v1/probes/video", kind, form(&video, "x")).await;
    problem.problem(422, "invalid_request");
    for bad in ["fps=0", "fps=100", "min_frames=0", "keep_crops=11", "max_seconds=0", "limit=0"] {
        let answer = app.post_bytes(&format!("/v1/probes/video?{bad}"), "video/x-matroska", video.clone()).await;
        answer.problem(422, "invalid_request");
    }
    let gone = app.post_bytes("/v1/probes/video?galleries=none", "video/webm", video.clone()).await;
    gone.problem(404, "gallery_not_found");
    assert_eq!(std::fs::read_dir(data.join("videos")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_no_video_is_refused_or_fails_its_job() {
    let dir = TempDir::new().unwrap();
    if !has_ffmpeg() {
        return;
    }
    let app = TestApp::with(|settings| settings.video.max_bytes = 20_000).await;
    let post = |media: &'static str, bytes: &[u8]| app.post_bytes("/v1/probes/video", media, bytes.to_vec());
    post("video/mp4", b"#EXTM3U\nhttp://127.0.0.1:1/a.ts\n").await.problem(415, "unsupported_video");
    post("video/mp4", b"").await.problem(422, "unreadable_video");
    post("text/plain", b"x").await.problem(415, "unsupported_media_type");
    post("multipart/form-data; boundary=x", b"--x--\r\n").await.problem(422, "unreadable_video");
    post("video/mp4", &vec![0; 20_001]).await.problem(413, "body_too_large");
    let cut = [b"\0\0\0\x20ftypisom".as_slice(), &[0; 100]].concat();
    let job = ended(&app, &post("video/mp4", &cut).await.ok(202)).await;
    assert_eq!((&job["state"], &job["problem"]["code"]), (&json!("failed"), &json!("unreadable_video")));

    let video = test_pattern(dir.path(), 1);
    let none = TestApp::with(|settings| settings.video.ffmpeg = Some("/nowhere/ffmpeg".into())).await;
    let problem = none.post_bytes("/v1/probes/video", "video/mp4", video).await.problem(422, "ffmpeg_missing");
    assert!(problem["detail"].as_str().unwrap().contains("apt-get install ffmpeg"));
}

#[tokio::test]
async fn a_video_is_looked_at_once_a_key_and_until_it_is_cancelled() {
    if !has_ffmpeg() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let app = TestApp::with(|settings| (settings.jobs.max_running, settings.jobs.max_queued) = (1, 1)).await;
    let video = test_pattern(dir.path(), 120);
    let send = async |key: &str, query: &str| {
        let request = axum::http::Request::post(format!("/v1/probes/video{query}"))
            .header("content-type", "video/x-matroska")
            .header("idempotency-key", key)
            .body(axum::body::Body::from(video.clone()));
        app.send(request.unwrap()).await
    };
    let first = send("a", "?fps=10").await.ok(202);
    let again = send("a", "?fps=10").await;
    assert_eq!((again.ok(202)["id"].clone(), again.header("idempotent-replayed")), (first["id"].clone(), Some("true")));
    send("a", "?fps=9").await.problem(422, "idempotency_key_reused");
    let second = send("b", "").await.ok(202);
    assert_eq!(second["state"], "queued");
    send("c", "").await.problem(429, "jobs_full");
    for job in [&second, &first] {
        app.post(&format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap()), json!({})).await.ok(200);
        assert_eq!(ended(&app, job).await["state"], "cancelled");
    }
    // A key that was refused for want of room can be used again.
    let third = send("c", "?max_seconds=1").await.ok(202);
    assert_eq!(ended(&app, &third).await["state"], "done");
}

#[test]
fn the_command_line_searches_with_a_video() {
    let Some(folder) = photos("photos") else { return };
    if !has_ffmpeg() {
        return;
    }
    let people = people(&folder);
    let dir = TempDir::new().unwrap();
    let enrolled = dir.path().join("people");
    for (person, files) in &people[..3] {
        std::fs::create_dir_all(enrolled.join(person)).unwrap();
        std::fs::copy(&files[2], enrolled.join(person).join("1.jpg")).unwrap();
    }
    let picture = image::open(&people[1].1[0]).unwrap().thumbnail(300, 300).to_rgb8();
    let frames: Vec<RgbImage> = (0..10)
        .map(|i| {
            let mut frame = RgbImage::from_pixel(480, 360, image::Rgb([90, 100, 110]));
            overlay(&mut frame, &picture, 10 * i, 20);
            frame
        })
        .collect();
    let video = video_of(dir.path(), &frames);
    let (data, video) = (dir.path().join("data"), video.to_str().unwrap().to_owned());
    let data = data.to_str().unwrap();
    let enrol = run(&["enrol", "--gallery", "g", "--data-dir", data, enrolled.to_str().unwrap()]);
    assert!(enrol.status.success(), "{}", String::from_utf8_lossy(&enrol.stderr));

    let search = ["search", "--gallery", "g", "--data-dir", data, "--limit", "2", "--video", &video];
    let output = run(&[&search[..], &["--json", "--fps", "4", "--fusion", "mean"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&line["path"], &line["track"], &line["frames"]), (&json!(video), &json!(0), &json!(8)));
    assert_eq!(line["candidates"][0]["subject"], json!(people[1].0));
    for stage in ["decode", "detect", "embed", "search", "total"] {
        assert!(line["timings_ms"][stage].as_f64().unwrap() > 0.0, "{stage}");
    }
    let output = run(&search);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("track 0  0.0") && text.contains(&people[1].0), "{text}");

    let missing = dir.path().join("none.mp4");
    let output = run(&["search", "--gallery", "g", "--data-dir", data, "--video", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let no_program = Command::new(VULTUS).args(search).env("PATH", "").output().unwrap();
    assert_eq!(no_program.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&no_program.stderr).contains("package ffmpeg"), "{no_program:?}");
    let both = run(&[&search[..], &[video.as_str()]].concat());
    assert_eq!(both.status.code(), Some(2));
}
