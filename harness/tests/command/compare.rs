//! `clashtrack compare` as a script uses it: exit codes, messages, the JSON contract. Files are written here, not measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::{assert_fits_the_schema, clashtrack};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    fn file(&self, name: &str, content: &Value) -> PathBuf {
        self.text(name, &content.to_string())
    }

    fn text(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).expect("written");
        path
    }
}

/// A result with two rows: one with a limit, a race without.
fn result() -> Value {
    let row = |workload: &str, limit: Option<f64>| {
        json!({
            "workload": workload, "table": "lockfree", "workers": 2, "batch": 64, "connections": 1000, "l4": "tcp",
            "ns_per_op": {"median": 50.0, "min": 49.0, "max": 52.0, "samples": [50.0, 51.0, 49.0, 52.0, 50.0]},
            "limit_ns": limit,
            "disturbed_samples": [1],
        })
    };
    json!({
        "schema": "clashtrack/1", "command": "run",
        "machine": {
            "cpu": "A", "vcpus": 2, "kernel": "Linux 6.18", "page_bytes": 4096,
            "version": "0.1.0", "revision": "abc", "steal_share": 0.0,
        },
        "config": {"duration_ms": 500.0, "repeat": 5, "seed": 1, "prefetch": "t0", "prefetch_asked": "auto"},
        "results": [row("lookup-hit", Some(20.0)), row("clash", None)],
    })
}

/// With the samples of every row so many times as long.
fn slower(factor: f64) -> Value {
    let mut value = result();
    for row in value["results"].as_array_mut().expect("rows") {
        for sample in row["ns_per_op"]["samples"].as_array_mut().expect("samples") {
            *sample = json!(sample.as_f64().expect("a number") * factor);
        }
    }
    value
}

fn compare(base: &Path, new: &Path, more: &[&str]) -> Output {
    clashtrack(&["compare"])
        .args([base, new])
        .args(more)
        .output()
        .expect("the command starts")
}

/// Exit code, stdout and stderr of BASE against NEW.
fn said(base: &Value, new: &Value, more: &[&str]) -> (Option<i32>, String, String) {
    let folder = Folder::new();
    let files = (folder.file("base.json", base), folder.file("new.json", new));
    let output = compare(&files.0, &files.1, more);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn equals_exit_with_0_a_slow_down_with_1_and_a_speed_up_with_0() {
    assert_eq!(said(&result(), &result(), &[]).0, Some(0));
    let (code, text, _) = said(&result(), &slower(2.5), &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("worse"), "{text}");
    let (code, text, _) = said(&result(), &slower(0.4), &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("better"), "{text}");
    let (code, text, _) = said(&result(), &slower(1.15), &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("unsure"), "{text}");
    assert_eq!(
        said(&result(), &slower(2.5), &["--threshold", "900%"]).0,
        Some(0)
    );
}

#[test]
fn how_the_intervals_were_made_is_said() {
    let (_, text, _) = said(&result(), &slower(1.1), &[]);
    for part in [
        "Holm",
        "95 %",
        "threshold 10.0 %",
        "relative to the machine's limit",
        "No limit was measured beside clash",
        "a launch",
        "BASE: 2 of 10 samples",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn what_json_prints_is_what_the_schema_says() {
    let (_, text, _) = said(&result(), &slower(2.0), &["--json"]);
    let value: Value = serde_json::from_str(&text).expect("one JSON object");
    assert_fits_the_schema(&value);
    let row = &value["results"][0];
    let ratio = row["ratio"].as_f64().expect("a number");
    assert!((ratio - 2.0).abs() < 1e-9, "{row}");
    assert!(row["ci_low"].as_f64() < Some(ratio) && row["ci_high"].as_f64() > Some(ratio));
    assert_eq!(row["relative_to_limit"], true);
    assert_eq!(value["results"][1]["relative_to_limit"], false);
}

#[test]
fn files_of_other_machines_or_settings_are_refused_with_the_field_unless_forced() {
    let changes: [(&str, &[&str], Value); 7] = [
        ("machine.cpu", &["machine", "cpu"], json!("B")),
        ("machine.vcpus", &["machine", "vcpus"], json!(64)),
        (
            "machine.kernel",
            &["machine", "kernel"],
            json!("Linux 6.19"),
        ),
        (
            "machine.page_bytes",
            &["machine", "page_bytes"],
            json!(65536),
        ),
        (
            "config.duration_ms",
            &["config", "duration_ms"],
            json!(100.0),
        ),
        (
            "config.prefetch_asked",
            &["config", "prefetch_asked"],
            json!("t0"),
        ),
        ("schema", &["schema"], json!("clashtrack/2")),
    ];
    for (field, path, value) in changes {
        let mut new = result();
        *path.iter().fold(&mut new, |at, name| &mut at[*name]) = value;
        let (code, out, err) = said(&result(), &new, &[]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{field}: {err}");
        assert!(err.contains(field) && err.contains("--force"), "{err}");
        let (code, out, _) = said(&result(), &new, &["--force"]);
        assert_eq!(code, Some(0));
        assert!(out.contains(field), "{field}: {out}");
    }
}

#[test]
fn seed_revision_load_and_what_auto_chose_are_told_and_not_compared() {
    let mut new = result();
    new["config"]["seed"] = json!(7);
    new["config"]["prefetch"] = json!("nta");
    new["config"]["added_later"] = json!(1);
    new["machine"]["revision"] = json!("def");
    new["machine"]["steal_share"] = json!(0.3);
    let (code, text, err) = said(&result(), &new, &[]);
    assert_eq!(code, Some(0), "{err}");
    for field in [
        "config.seed",
        "config.prefetch",
        "config.added_later",
        "machine.revision",
        "machine.steal_share",
    ] {
        assert!(text.contains(field), "{field} in {text}");
    }
}

#[test]
fn rows_of_one_file_alone_are_named_and_none_in_common_is_an_error() {
    let mut new = result();
    new["results"][1]["table"] = json!("striped");
    let (code, text, _) = said(&result(), &new, &[]);
    assert_eq!(code, Some(0));
    assert!(
        text.contains("Only in BASE, not compared: clash on lockfree"),
        "{text}"
    );
    assert!(
        text.contains("Only in NEW, not compared: clash on striped"),
        "{text}"
    );
    new["results"][0]["workers"] = json!(1);
    let (code, _, err) = said(&result(), &new, &[]);
    assert_eq!(code, Some(2));
    assert!(err.contains("no result is in both"), "{err}");
}

#[test]
fn a_bad_file_is_an_error_that_names_it_and_what_is_wrong() {
    let folder = Folder::new();
    let good = folder.file("good.json", &result());
    let change = |at: fn(&mut Value) -> &mut Value, value: Value| {
        let mut bad = result();
        *at(&mut bad) = value;
        bad.to_string()
    };
    let cases = [
        (String::new(), "no result file"),
        ("{\"schema\"".to_owned(), "no result file"),
        ("[]".to_owned(), "no result file"),
        (change(|v| &mut v["command"], json!("list")), "`list`"),
        (change(|v| &mut v["results"], json!([])), "no results"),
        (change(|v| &mut v["results"][0], json!({})), "results[0]"),
        (
            change(|v| &mut v["results"][1]["ns_per_op"]["samples"], json!([])),
            "no samples",
        ),
        (
            change(
                |v| &mut v["results"][1]["ns_per_op"]["samples"][2],
                json!(-1.0),
            ),
            "sample of -1",
        ),
        (
            change(|v| &mut v["results"][0]["limit_ns"], json!(0.0)),
            "limit_ns is 0",
        ),
        (
            change(|v| &mut v["results"][0]["limit_samples_ns"], json!([1.0])),
            "limit_samples_ns has 1",
        ),
        (
            change(|v| &mut v["results"][0]["samples_by_launch"], json!([3, 3])),
            "samples_by_launch [3, 3]",
        ),
        (
            change(|v| &mut v["results"][1]["workload"], json!("lookup-hit")),
            "already",
        ),
    ];
    for (text, problem) in cases {
        let bad = folder.text("bad.json", &text);
        for output in [
            compare(&good, &bad, &[]),
            compare(&bad, &good, &["--force"]),
        ] {
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{problem}: {said}");
            assert!(
                said.contains("bad.json") && said.contains(problem),
                "{problem}: {said}"
            );
            assert!(output.stdout.is_empty());
        }
    }
    let missing = folder.0.path().join("missing.json");
    let output = compare(&good, &missing, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing.json"));
    let output = compare(&good, &good, &["--threshold", "ten"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--threshold: `ten`"));
}

#[test]
fn the_form_to_send_holds_what_the_commands_print_and_leaves_files_alone() {
    let folder = Folder::new();
    let path = folder.0.path().join("form.json");
    let form = || {
        clashtrack(&["submit-form", "--launches", "1", "--duration", "1us"])
            .args(["--connections", "500", "--quiet", "--out"])
            .arg(&path)
            .output()
            .expect("the command starts")
    };
    let output = form();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let text = fs::read_to_string(&path).expect("written");
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert_fits_the_schema(&value);
    let commands: Vec<&str> = value["results"]
        .as_array()
        .expect("parts")
        .iter()
        .filter_map(|part| part["command"].as_str())
        .collect();
    assert_eq!(commands, ["calibrate", "run", "run"]);
    let output = form();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is there already"));
}
