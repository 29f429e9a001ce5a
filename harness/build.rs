//! Tells the program which commit it was built from: figures without one cannot be compared; and whether its
//! stacks can be followed by frame pointers.
//!
//! Without git, or outside a clone, the revision is unknown and the build goes on.

use std::process::Command;

fn main() {
    // Whether the sources differ from the commit is looked at whenever one of them changes.
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=../engine/src");
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    if let Some(revision) = git(&["rev-parse", "--short=12", "HEAD"]) {
        let changed = git(&["status", "--porcelain", "--", ".", "../engine"]);
        let mark = match changed {
            Some(list) if list.is_empty() => "",
            _ => "+changes",
        };
        println!("cargo::rustc-env=CLASHTRACK_REVISION={revision}{mark}");
    }
    // Without frame pointers a profiler must copy stacks: `flame` asks.
    println!("cargo::rustc-check-cfg=cfg(frame_pointers)");
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    if flags.contains("force-frame-pointers=y") || flags.contains("force-frame-pointers=always") {
        println!("cargo::rustc-cfg=frame_pointers");
    }
}

/// What git prints, without the last line end; `None` when it fails.
fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}
