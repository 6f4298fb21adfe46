//! Tests of what only the store on disk has: its layout, opening and damage, durability, clean-up.

mod damage;
mod durability;
mod frozen;
mod killed;
mod leftovers;
mod opening;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Name of the variable that makes a test play the part of a child process. It holds the folder of the store.
const CHILD_FOLDER: &str = "VULTUS_TEST_STORE_FOLDER";

/// The folder of the store when this process is a child of a test.
fn child_folder() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD_FOLDER).map(Into::into)
}

/// Runs one test of this binary in a process of its own. The child reports on its standard error.
fn start_child(test: &str, folder: &Path, arguments: &[(&str, String)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("store::sled::tests::{test}"), "--nocapture", "--test-threads=1"])
        .env(CHILD_FOLDER, folder)
        .envs(arguments.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The lines a child reports, whole ones only: it may be killed while it writes.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    std::iter::from_fn(move || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.strip_suffix('\n').map(str::to_owned)
    })
}

/// Reports to the parent, each line in one piece.
fn report(line: &str) {
    use std::io::Write;
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}
