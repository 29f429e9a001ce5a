//! `examples/own-table`, a table in a crate outside the workspace, as a user would have it: it builds, passes the kit, and is raced.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A build from nothing on a busy machine, and the example's tests.
const TIME_LIMIT: Duration = Duration::from_secs(900);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs cargo on the example with what is here already: no network, the versions of its own lock file.
fn cargo(words: &[&str]) -> Output {
    // The target folder of this build: the libraries that both use are there already, with the same profile.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("..");
    let (subcommand, rest) = words.split_first().expect("a subcommand");
    let mut command = Command::new(env!("CARGO"));
    command
        .arg(subcommand)
        .args(["--offline", "--locked", "--manifest-path"])
        .arg(root().join("examples/own-table/Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .args(rest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().expect("cargo starts");
    let id = child.id();
    let (done, ended) = mpsc::channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    match ended.recv_timeout(TIME_LIMIT) {
        Ok(output) => output.expect("cargo's output can be read"),
        Err(_) => {
            // The thread above has the child, and waits for it.
            let killed = Command::new("kill").arg(id.to_string()).status();
            panic!("cargo {words:?} did not end within {TIME_LIMIT:?} (kill: {killed:?})");
        }
    }
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}\n{stdout}\n{}\nif the lock file is out of date: cp Cargo.lock examples/own-table/ && \
         cargo metadata --offline --format-version 1 --manifest-path examples/own-table/Cargo.toml",
        output.status,
        String::from_utf8_lossy(&output.stderr),
    );
    stdout
}

#[test]
fn a_table_of_ones_own_outside_the_workspace_passes_the_kit_and_races_beside_ours() {
    let said = succeeded(&cargo(&["test", "--test", "kit", "--test", "race"]));
    for test in [
        "the_table_keeps_what_it_promises",
        "the_table_races_beside_those_of_clashtrack",
    ] {
        assert!(said.contains(&format!("{test} ... ok")), "{said}");
    }
}

/// Offline, only what the workspace brings can be built: the lock file must name nothing else.
#[test]
fn the_examples_lock_file_is_a_part_of_the_workspaces() {
    let packages = |path: &str| -> Vec<(String, String)> {
        let text = std::fs::read_to_string(root().join(path)).expect("a lock file");
        let blocks = text.split("[[package]]").skip(1);
        blocks
            .map(|block| {
                let field = |name: &str| {
                    let line = block.lines().find(|line| line.starts_with(name));
                    line.unwrap_or_default().to_owned()
                };
                (field("name = "), field("version = "))
            })
            .collect()
    };
    let of_workspace = packages("Cargo.lock");
    let others: Vec<_> = packages("examples/own-table/Cargo.lock")
        .into_iter()
        .filter(|package| package.0 != "name = \"own-table\"" && !of_workspace.contains(package))
        .collect();
    assert!(
        others.is_empty(),
        "other versions than the workspace has: {others:?}; \
         cp Cargo.lock examples/own-table/ && \
         cargo metadata --offline --format-version 1 --manifest-path examples/own-table/Cargo.toml"
    );
}
