//! `vultus models`: installing, describing and verifying models from the command line.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const WEIGHTS: &[u8] = include_bytes!("../../engine/assets/mobilefacenet.safetensors");
const MANIFEST: &str = include_str!("../../engine/assets/mobilefacenet.json");

fn models(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vultus"))
        .arg("models")
        .args(arguments)
        .env("VULTUS_MODELS_DIR", folder.join("models"))
        .current_dir(folder)
        .output()
        .unwrap()
}

#[track_caller]
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_file_becomes_a_model_that_is_listed_described_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("weights.safetensors"), WEIGHTS).unwrap();
    let output = models(at, &["import", "weights.safetensors", "--arch", "mobilefacenet", "--name", "amy"]);
    assert!(printed(&output).starts_with("amy-"));
    let warnings = String::from_utf8(output.stderr).unwrap();
    assert!(warnings.lines().all(|line| line.starts_with("vultus: warning: ")), "{warnings}");

    let list = printed(&models(at, &["list", "--json"]));
    let lines: Vec<Value> = list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["embedded"], &lines[1]["name"]), (2, &Value::from(true), &Value::from("amy")));
    let id = lines[1]["model_id"].as_str().unwrap();

    let manifest: Value = serde_json::from_str(&printed(&models(at, &["info", id, "--json"]))).unwrap();
    assert_eq!((&manifest["name"], &manifest["norm"]["source"]), (&Value::from("amy"), &Value::from("assumed")));
    let embedded: Value = serde_json::from_str(&printed(&models(at, &["info", "mobilefacenet", "--json"]))).unwrap();
    assert_eq!(embedded, serde_json::from_str::<Value>(MANIFEST).unwrap());
    assert!(printed(&models(at, &["info", "amy"])).contains("colour order  rgb (layout)"));

    let verified: Value = serde_json::from_str(&printed(&models(at, &["verify", "amy", "--json"]))).unwrap();
    assert_eq!(
        (&verified["tensors"], &verified["color_check"]["verdict"]),
        (&Value::from(137), &Value::from("agrees"))
    );
    let path = at.join("models/amy.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1_000_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let output = models(at, &["verify", "amy"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("SHA-256"));
}

#[test]
fn what_cannot_be_done_is_one_line_and_the_right_status() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("evil.pt"), b"cos\nsystem\n(S'echo'\ntR.").unwrap();
    for (arguments, status, says) in [
        (&["info", "nobody"][..], 1, "there is no model nobody"),
        (&["import", "nothing.ckpt", "--name", "x"], 1, "nothing.ckpt"),
        (&["import", "evil.pt", "--name", "x"], 1, "hostile"),
        (&["import", "evil.pt", "--name", "A B"], 1, "a-z"),
        (&["import", "evil.pt", "--name", "x", "--arch", "ir_51"], 2, "ir_50"),
        (&["import", "evil.pt"], 2, "--name"),
        (&["import", "evil.pt", "--name", "x", "--threshold", "3"], 2, "-1 to 1"),
    ] {
        let output = models(at, arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(status) && text.contains(says), "{arguments:?}: {text}");
        assert!(status == 2 || text.lines().count() == 1, "{text}");
    }
    assert!(!at.join("models").exists());
}
