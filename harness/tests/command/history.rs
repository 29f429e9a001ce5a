//! `clashtrack run --save` and `clashtrack history` as a script uses them: what is kept, by how many at once, what is
//! refused and when, the JSON contract.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use clashtrack::history::store::{Run, Store, Wanted};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{assert_fits_the_schema, clashtrack};

/// A folder to run the command in.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = clashtrack(words);
        command
            .current_dir(self.0.path())
            .env_remove("CLASHTRACK_HISTORY");
        command
    }

    fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("the command starts")
    }

    /// What it prints on stdout; it must end with 0.
    fn printed(&self, words: &[&str]) -> String {
        let output = self.output(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn json(&self, words: &[&str]) -> Value {
        let text = self.printed(&[words, &["--json"]].concat());
        serde_json::from_str(&text).expect("one JSON object")
    }

    /// What it says of bad input; it must end with 2 and print nothing.
    fn refused(&self, words: &[&str]) -> String {
        crate::refused(&mut self.command(words))
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A run of a few milliseconds, saved.
const SHORT: [&str; 12] = [
    "run",
    "lookup-hit",
    "--table",
    "lockfree,dashmap",
    "--workers=1",
    "--connections=1k",
    "--duration=900us",
    "--repeat=3",
    "--prefetch=t0",
    "--seed=7",
    "--format=csv",
    "--save",
];

/// One that nobody waits for: it must be refused before it begins.
fn long(save: &str) -> Vec<&str> {
    let words = ["run", "lookup-hit", "--duration=60m", "--prefetch=t0"];
    [&words[..], &[save]].concat()
}

/// Sixteen runs whose time of an operation is a fifth longer from the ninth on; the limit stays.
fn stepped(path: &Path) {
    let mut store = Store::to_save(path).expect("opened");
    for run in 0..16 {
        let level = if run < 8 { 50.0 } else { 60.0 };
        let ns = level + f64::from(run * 7 % 5) * 0.3;
        let machine = json!({
            "cpu": "A CPU", "vcpus": 2, "kernel": "Linux 6.18", "page_bytes": 4096, "opt_level": "3",
            "revision": format!("rev{run}"), "version": "0.1.0",
        });
        let config = json!({"duration_ms": 500.0, "repeat": 3, "seed": run});
        let result = json!({
            "workload": "lookup-hit", "table": "lockfree", "workers": 2, "batch": 64, "connections": 1000, "l4": "tcp",
            "ns_per_op": {"median": ns, "min": ns - 1.0, "max": ns + 1.0, "samples": [ns, ns + 1.0, ns - 1.0]},
            "limit_ns": 20.0, "limit_samples_ns": [20.0, 20.0, 20.0], "limit_ratio": 20.0 / ns,
            "bytes_per_connection": null, "clash": null, "disturbed_samples": [1],
        });
        let run = Run {
            machine: &machine,
            config: &config,
            results: &[result],
            seed: u64::MAX,
            interrupted: false,
        };
        store.save(&run).expect("saved");
    }
}

#[test]
fn what_is_saved_is_what_was_printed_and_history_shows_it() {
    let folder = Folder::new();
    let words = [&SHORT[..10], &["--json", "--save"]].concat();
    let output = folder.output(&words);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let place = ".clashtrack/history.sqlite";
    let note = format!("saved in {place}: run 1, 2 of 2 results");
    assert!(said(&output).contains(&note), "{output:?}");

    let store = Store::to_read(&folder.path(place)).expect("a history");
    let saved = store.results(&Wanted::default()).expect("read");
    assert_eq!(saved.len(), 2);
    for (number, saved) in saved.iter().enumerate() {
        assert_eq!(saved.result, printed["results"][number]);
        assert_eq!(saved.config, printed["config"]);
        assert_eq!(saved.machine["revision"], printed["machine"]["revision"]);
        assert_eq!(saved.machine["cpu"], printed["machine"]["cpu"]);
        assert!(saved.saved_at.ends_with('Z') && saved.saved_at.len() == 24);
    }

    folder.printed(&SHORT);
    let value = folder.json(&["history", "--table", "lockfree"]);
    assert_fits_the_schema(&value);
    let [series] = value["results"].as_array().expect("series").as_slice() else {
        panic!("one series: {value}");
    };
    assert_eq!(series["points"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        series["points"][0]["samples"],
        printed["results"][0]["ns_per_op"]["samples"]
    );
    assert_eq!(series["judged"], false);
}

#[test]
fn the_file_can_be_asked_with_sql() {
    let folder = Folder::new();
    folder.printed(&[&SHORT[..11], &["--save=h.sqlite"]].concat());
    let file = Connection::open(folder.path("h.sqlite")).expect("opened");
    let sql = "SELECT count(*), sum(workers), min(ns_per_op) > 0, min(limit_ratio) > 0, max(seed), max(vcpus) > 0
               FROM results JOIN runs ON runs.id = run WHERE workload = 'lookup-hit' AND bytes_per_connection IS NULL";
    let row = file.query_row(sql, [], |row| {
        let seed: String = row.get(4)?;
        Ok((
            [
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get(3)?,
                row.get(5)?,
            ],
            seed,
        ))
    });
    let expected: ([i64; 5], _) = ([2, 2, 1, 1, 1], "7".to_owned());
    assert_eq!(row.expect("a row"), expected);
}

#[test]
fn several_processes_save_at_once_into_a_file_that_was_not_there() {
    const PROCESSES: usize = 6;
    let folder = Folder::new();
    let start = |_| {
        let mut command = folder.command(&SHORT);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("the command starts")
    };
    let children: Vec<Child> = (0..PROCESSES).map(start).collect();
    for child in children {
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let value = folder.json(&["history"]);
    for series in value["results"].as_array().expect("series") {
        let mut runs: Vec<i64> = series["points"]
            .as_array()
            .expect("points")
            .iter()
            .map(|point| point["run"].as_i64().expect("a number"))
            .collect();
        runs.sort_unstable();
        let all: Vec<i64> = (1..=PROCESSES as i64).collect();
        assert_eq!(runs, all, "{series}");
    }
}

#[test]
fn threads_that_save_at_once_lose_nothing() {
    let folder = Folder::new();
    let path = folder.path("many.sqlite");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| stepped(&path));
        }
    });
    let store = Store::to_read(&path).expect("a history");
    let saved = store.results(&Wanted::default()).expect("read");
    assert_eq!(saved.len(), 64);
}

#[test]
fn a_flag_the_environment_and_a_default_name_the_file() {
    let folder = Folder::new();
    let mut command = folder.command(&SHORT);
    command.env("CLASHTRACK_HISTORY", "named/by-environment.sqlite");
    let output = command.output().expect("the command starts");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(folder.path("named/by-environment.sqlite").exists());
    assert!(!folder.path(".clashtrack").exists());
    folder.json(&["history", "--file", "named/by-environment.sqlite"]);
    let said = folder.refused(&["history"]);
    assert!(
        said.contains(".clashtrack/history.sqlite: there is no such file"),
        "{said}"
    );
    assert!(said.contains("run … --save"), "{said}");
}

#[test]
fn a_workload_behind_the_flag_is_a_workload() {
    let folder = Folder::new();
    let words = [&["run", "--save", "lookup-miss"], &SHORT[2..11]].concat();
    folder.printed(&words);
    let value = folder.json(&["history"]);
    assert_eq!(value["results"][0]["workload"], "lookup-miss");
}

#[test]
fn a_file_of_something_else_is_refused_before_anything_is_measured_and_left_as_it_is() {
    let folder = Folder::new();
    let text = "not a database, but longer than the header of one, which is a hundred bytes in all; see there.\n";
    fs::write(folder.path("notes.txt"), text.repeat(20)).expect("written");
    let other = Connection::open(folder.path("other.sqlite")).expect("opened");
    other
        .execute_batch("CREATE TABLE birds (name TEXT)")
        .expect("made");
    drop(other);
    fs::create_dir(folder.path("folder")).expect("made");
    for (name, problem) in [
        ("notes.txt", "this is no SQLite database"),
        ("other.sqlite", "something else's"),
        ("folder", "this is a folder"),
    ] {
        let before = fs::read(folder.path(name)).ok();
        for words in [
            long(&format!("--save={name}")),
            vec!["history", "--file", name],
        ] {
            let said = folder.refused(&words);
            assert!(said.contains(name) && said.contains(problem), "{said}");
        }
        assert_eq!(fs::read(folder.path(name)).ok(), before, "{name}");
    }
    let said = folder.refused(&long("--save=notes.txt/history.sqlite"));
    assert!(said.contains("cannot create the folder"), "{said}");
}

#[test]
fn a_history_of_a_later_version_is_refused() {
    let folder = Folder::new();
    stepped(&folder.path("later.sqlite"));
    let file = Connection::open(folder.path("later.sqlite")).expect("opened");
    file.pragma_update(None, "user_version", 2)
        .expect("written");
    drop(file);
    for words in [
        long("--save=later.sqlite"),
        vec!["history", "--file", "later.sqlite"],
    ] {
        let said = folder.refused(&words);
        assert!(
            said.contains("schema version 2") && said.contains("knows 1"),
            "{said}"
        );
    }
}

#[test]
fn a_file_that_may_only_be_read_is_refused_before_anything_is_measured() {
    let folder = Folder::new();
    let path = folder.path("read-only.sqlite");
    stepped(&path);
    let mut permissions = fs::metadata(&path).expect("there").permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&path, permissions).expect("set");
    if fs::OpenOptions::new().append(true).open(&path).is_ok() {
        eprintln!("skipped: this user may write to what may only be read");
        return;
    }
    let said = folder.refused(&long("--save=read-only.sqlite"));
    assert!(said.contains("read-only.sqlite"), "{said}");
    folder.json(&["history", "--file", "read-only.sqlite"]);
}

#[test]
fn a_history_without_results_says_how_to_get_some() {
    let folder = Folder::new();
    fs::write(folder.path("empty.sqlite"), "").expect("written");
    let said = folder.refused(&["history", "--file", "empty.sqlite"]);
    assert!(said.contains("nothing was ever saved"), "{said}");
    drop(Store::to_save(&folder.path("new.sqlite")).expect("made"));
    let said = folder.refused(&["history", "--file", "new.sqlite"]);
    assert!(
        said.contains("no result was ever saved") && said.contains("--save"),
        "{said}"
    );
}

#[test]
fn what_is_not_there_is_refused_with_what_is() {
    let folder = Folder::new();
    stepped(&folder.path("h.sqlite"));
    for (words, expected) in [
        (
            ["--metric", "speed"],
            ["there is no metric `speed`", "limit_ratio"],
        ),
        (
            ["--metric", "resolved_per_s"],
            [
                "none of the 16 results",
                "write one of ns_per_op, limit_ratio, limit_ns",
            ],
        ),
        (
            ["--workload", "lookup-hat"],
            ["`lookup-hat`", "write one of lookup-hit"],
        ),
        (
            ["--table", "mutex,lockfree"],
            ["`mutex`", "write one of lockfree"],
        ),
        (["--last", "0"], ["0 is out of range", "from 1 to"]),
        (["--last", "many"], ["`many` is no size", "--last"]),
    ] {
        let said = folder.refused(&[&["history", "--file", "h.sqlite"], &words[..]].concat());
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
    }
}

#[test]
fn a_step_is_found_where_it_is_and_not_in_the_limit() {
    let folder = Folder::new();
    stepped(&folder.path("h.sqlite"));
    let history = ["history", "--file", "h.sqlite"];
    let value = folder.json(&history);
    assert_fits_the_schema(&value);
    let series = &value["results"][0];
    assert_eq!(
        series["changes"].as_array().map(Vec::len),
        Some(1),
        "{series}"
    );
    let change = &series["changes"][0];
    assert_eq!(change["at"], 8);
    assert_eq!(
        (&change["last_revision"], &change["revision"]),
        (&json!("rev7"), &json!("rev8"))
    );
    assert_eq!(change["better"], false);
    assert_eq!(change["limit_moved"], 1.0);
    let ratio = change["ratio"].as_f64().expect("a number");
    assert!((ratio - 1.2).abs() < 0.02, "{change}");
    assert!(series["settings"].get("seed").is_none(), "{series}");

    let text = folder.printed(&history);
    for part in [
        "lookup-hit on lockfree",
        "A CPU",
        "<- worse",
        "after rev7, to rev8",
        "±2%",
        "1/3",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(
        text,
        folder.printed(&history),
        "the same file, another answer"
    );

    let relative = folder.json(&[&history[..], &["--metric", "limit_ratio"]].concat());
    assert_eq!(relative["results"][0]["changes"][0]["at"], 8);
    let limit = folder.printed(&[&history[..], &["--metric", "limit_ns"]].concat());
    assert!(limit.contains("no change"), "{limit}");
    let few = folder.printed(&[&history[..], &["--last", "5"]].concat());
    assert!(
        few.contains("too few runs") && !few.contains("rev10"),
        "{few}"
    );
}

#[test]
fn csv_has_a_row_a_run() {
    let folder = Folder::new();
    stepped(&folder.path("h.sqlite"));
    let text = folder.printed(&["history", "--file", "h.sqlite", "--format", "csv"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 17, "{text}");
    assert!(
        lines[0].contains("saved_at,revision,ns_per_op,min,max"),
        "{text}"
    );
    assert!(
        lines[1].starts_with("lookup-hit,lockfree,2,64,1000,tcp,,A CPU,2,1,"),
        "{text}"
    );
    let cells = |line: &str| line.split(',').count();
    assert!(
        lines.iter().all(|line| cells(line) == cells(lines[0])),
        "{text}"
    );
}
