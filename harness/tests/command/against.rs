//! Two programs in turns, as a script uses them: what a program that is sampled says, and the comparison measured.

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::{assert_fits_the_schema, clashtrack, refused};

/// A workload so small that a comparison takes no time.
const SMALL: [&str; 9] = [
    "lookup-hit",
    "--connections",
    "500",
    "--workers",
    "1",
    "--duration",
    "1ms",
    "--prefetch",
    "t0",
];

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_program_that_is_sampled_says_that_it_is_ready_and_answers_each_line() {
    let mut child = clashtrack(&["run"])
        .args(SMALL)
        .args(["--table", "lockfree", "--on-demand"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut requests = child.stdin.take().expect("its input");
    requests.write_all(b"sample\nsample\n").expect("asked");
    drop(requests);
    let output = child.wait_with_output().expect("it ends with its input");
    assert!(output.status.success());
    let lines: Vec<Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["on_demand"], 1);
    assert_eq!(lines[0]["connections"], 500);
    for sample in &lines[1..] {
        assert!(sample["ns_per_op"].as_f64() > Some(0.0), "{sample}");
        assert_eq!(sample["lost"], 0);
    }
}

#[test]
fn several_cases_cannot_be_sampled_on_demand() {
    let said = refused(clashtrack(&["run", "connect", "--on-demand"]).args(SMALL));
    assert!(said.contains("say one workload"), "{said}");
}

#[test]
fn a_check_goes_on_where_it_was_and_stays_what_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state").display().to_string();
    let check = |more: &[&str]| -> Output {
        clashtrack(&["check-against"])
            .args(SMALL)
            .args(["--state", &state, "--launches", "2", "--repeat", "3"])
            .args(["--equals", "2", "--slowed", "1", "--json"])
            .args(more)
            .output()
            .expect("it runs")
    };
    let done = |output: &Output| -> Vec<u64> {
        // 1: a comparison of so little may well be wrong.
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 1)), "{}", stderr(output));
        let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_fits_the_schema(&value);
        let rows = value["results"].as_array().expect("rows").clone();
        rows.iter().filter_map(|row| row["done"].as_u64()).collect()
    };
    // The time is over before the first comparison.
    assert_eq!(done(&check(&["--for", "1us"])), [0, 0]);
    assert_eq!(done(&check(&[])), [2, 1]);
    let kept = std::fs::read_to_string(&state).expect("the state");
    assert_eq!(done(&check(&[])), [2, 1]);
    let again = std::fs::read_to_string(&state).expect("the state");
    assert_eq!(kept.trim(), again.trim(), "nothing was left to do");
    let output = check(&["--threshold", "5%"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("threshold"), "{}", stderr(&output));
}

#[test]
fn a_debug_build_is_not_compared_with_a_release() {
    if !cfg!(debug_assertions) {
        return;
    }
    for words in [
        &["run", "lookup-hit", "--against", "HEAD", "--prefetch", "t0"][..],
        &["flame", "lookup-hit", "--against", "HEAD"],
    ] {
        let said = refused(&mut clashtrack(words));
        assert!(
            said.contains("debug build") && said.contains("--release"),
            "{said}"
        );
    }
}

#[test]
fn a_threshold_is_for_a_comparison() {
    let said = refused(&mut clashtrack(&["run", "lookup-hit", "--threshold", "5%"]));
    assert!(said.contains("--against"), "{said}");
}
