//! Tells the program which commit it was built from, and by what: figures without these cannot be compared; and whether
//! its stacks can be followed by frame pointers.
//!
//! Without git, or outside a clone, the revision is unknown and the build goes on; so it does where the compiler does not tell.

use std::env;
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
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    if flags.contains("force-frame-pointers=y") || flags.contains("force-frame-pointers=always") {
        println!("cargo::rustc-cfg=frame_pointers");
    }
    // Another revision is built as this one was.
    println!("cargo::rustc-env=CLASHTRACK_RUSTFLAGS={flags}");
    tell_what_builds();
}

/// Compiler, target, instructions, optimisation and linker, where cargo tells.
fn tell_what_builds() {
    let tell = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            println!("cargo::rustc-env=CLASHTRACK_{name}={value}");
        }
    };
    let target = env::var("TARGET").ok();
    let rustc = env::var("RUSTC").ok().and_then(|rustc| first_line(&rustc));
    tell("LINKER", linker(target.as_deref(), rustc.as_deref()));
    tell("TARGET", target);
    tell("RUSTC", rustc);
    tell("TARGET_FEATURES", env::var("CARGO_CFG_TARGET_FEATURE").ok());
    tell("OPT_LEVEL", env::var("OPT_LEVEL").ok());
}

fn first_line(rustc: &str) -> Option<String> {
    let output = Command::new(rustc).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}

/// The linker and the flags for it. Since 1.90 rustc has its own lld beneath cc on x86-64 Linux, unless flags say otherwise.
fn linker(target: Option<&str>, rustc: Option<&str>) -> Option<String> {
    let minor = || -> Option<u32> {
        rustc?
            .strip_prefix("rustc 1.")?
            .split('.')
            .next()?
            .parse()
            .ok()
    };
    let own =
        target == Some("x86_64-unknown-linux-gnu") && minor().is_some_and(|minor| minor >= 90);
    let asked = env::var("RUSTC_LINKER").ok();
    let mut text = asked.unwrap_or_else(|| if own { "rust-lld by cc" } else { "cc" }.to_owned());
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    for flag in flags.split('\u{1f}').filter(|flag| flag.contains("link")) {
        text.push(' ');
        text.push_str(flag);
    }
    Some(text)
}

/// What git prints, without the last line end; `None` when it fails.
fn git(words: &[&str]) -> Option<String> {
    let output = Command::new("git").args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim_end().to_owned())
}
