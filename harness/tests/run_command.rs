//! `clashtrack run` as a user's script sees it: the JSON contract, exit codes, seeds, Ctrl-C.

#[cfg(target_os = "linux")]
use std::io::Write;
use std::process::{Command, Output, Stdio};

use clashtrack::peer::{DEFAULT_TABLES, TABLES};
use serde_json::Value;

const SCHEMA: &str = include_str!("../schema/clashtrack-1.json");

fn clashtrack(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_clashtrack"))
        .args(words)
        .output()
        .expect("the command starts")
}

fn json(words: &[&str]) -> Value {
    let output = clashtrack(words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}");
    serde_json::from_slice(&output.stdout).expect("stdout is one JSON object")
}

fn assert_fits_the_schema(value: &Value) {
    let schema = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let validator = jsonschema::validator_for(&schema).expect("the schema is one");
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

/// One short round a sample.
const SHORT: [&str; 7] = [
    "--connections",
    "500",
    "--duration",
    "1us",
    "--repeat",
    "2",
    "--json",
];

fn short_run(words: &[&str]) -> Value {
    json(&[&["run"], words, &SHORT].concat())
}

#[test]
fn what_run_prints_fits_the_schema_and_adds_up() {
    let value = short_run(&["clash", "clash-nat", "clash-tcp", "--workers", "2,3"]);
    assert_fits_the_schema(&value);
    let results = value["results"].as_array().unwrap();
    assert_eq!(
        results.len(),
        3 * DEFAULT_TABLES.len() * 2,
        "workloads x tables x workers"
    );
    for result in results {
        let number = |name: &str| result["accounting"][name].as_u64().unwrap();
        assert_eq!(
            number("offered"),
            number("confirmed")
                + number("resolved_same")
                + number("resolved_reply_only")
                + number("dropped"),
            "{result}"
        );
        let per_cpu = result["per_cpu"].as_array().unwrap();
        assert_eq!(per_cpu.len() as u64, result["workers"].as_u64().unwrap());
        for (name, total) in result["counters"].as_object().unwrap() {
            let sum: u64 = per_cpu.iter().map(|cpu| cpu[name].as_u64().unwrap()).sum();
            assert_eq!(total.as_u64().unwrap(), sum, "{name} of {result}");
        }
        if result["table"] != "dashmap" {
            let anomalies = result["anomalies"].as_object().unwrap();
            assert!(anomalies.values().all(|count| count == 0), "{result}");
        }
    }
}

#[test]
fn a_result_without_its_accounting_does_not_fit_the_schema() {
    let mut value = short_run(&["clash", "--table", "mutex"]);
    let result = value["results"][0].as_object_mut().unwrap();
    result.remove("accounting");
    let schema = serde_json::from_str(SCHEMA).unwrap();
    assert!(!jsonschema::is_valid(&schema, &value));
}

#[test]
fn one_seed_gives_the_same_traffic_and_two_give_other() {
    let chains = |seed: &str| {
        let words = [
            "clash-nat",
            "--workers",
            "1",
            "--table",
            "striped",
            "--seed",
            seed,
        ];
        short_run(&words)["results"][0]["clash"]["chain_mean"].clone()
    };
    assert_eq!(chains("7"), chains("7"));
    assert_ne!(chains("7"), chains("8"));
}

#[test]
fn list_names_the_workloads_and_tables_that_run_knows() {
    let list = json(&["list", "--json"]);
    let workloads: Vec<&str> = list["workloads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|workload| workload["name"].as_str().unwrap())
        .collect();
    let known: Vec<&str> = clashtrack::workload::WORKLOADS
        .iter()
        .map(|workload| workload.name)
        .collect();
    assert_eq!(workloads, known);
    let tables: Vec<&str> = TABLES.iter().map(|table| table.name).collect();
    assert_eq!(list["tables"], serde_json::json!(tables));
}

#[test]
fn bad_use_exits_with_2_and_says_how_to_mend_it() {
    for (words, said) in [
        (
            &["run", "clash", "--workers", "0"][..],
            "--workers: 0 is out of range; write a number from 1 to 1024",
        ),
        (
            &["run", "clash", "--table", "btree"],
            "there is no table `btree`; write one of lockfree, striped",
        ),
        (
            &["run", "elephants"],
            "there is no workload `elephants`; write one of clash,",
        ),
        (&["run", "clash", "--connections", "1T"], "`1T` is no size"),
        (&["run", "clash", "--duration", "1"], "`1` is no time"),
        (
            &["run", "clash", "--batch", "1G"],
            "--batch: 1000000000 is out of range",
        ),
    ] {
        let output = clashtrack(words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {stderr}");
        assert!(stderr.contains(said), "{words:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn a_run_for_people_has_a_grid_a_workload_and_conntrack_s_lines() {
    let words = [
        "run",
        "clash",
        "clash-tcp",
        "--connections",
        "500",
        "--duration",
        "1us",
        "--repeat",
        "1",
    ];
    let output = clashtrack(&words);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for wanted in [
        "seed 1;",
        "\nclash\ntable ",
        "\nclash-tcp\ntable ",
        "conntrack -S, clash-tcp on lockfree",
        "cpu=0   \tfound=0 invalid=0 ",
    ] {
        assert!(text.contains(wanted), "no {wanted:?} in:\n{text}");
    }
}

#[test]
fn csv_has_the_same_columns_whatever_is_run_and_bare_numbers_in_them() {
    let run = |words: &[&str]| {
        let short = ["--connections", "500", "--duration", "1us", "--repeat", "1"];
        let output = clashtrack(&[&["run"], words, &short, &["--format", "csv"]].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let one = run(&["clash", "--workers", "1"]);
    let two = run(&["clash-nat", "clash-tcp", "--workers", "1,2"]);
    assert_eq!(one.lines().next(), two.lines().next(), "the heads differ");
    assert_eq!(
        two.lines().count(),
        1 + 2 * DEFAULT_TABLES.len() * 2,
        "{two}"
    );
    for row in one
        .lines()
        .chain(two.lines())
        .filter(|l| !l.starts_with("workload,"))
    {
        // Three words; then numbers, nothing, or a truth.
        for cell in row.split(',').skip(3) {
            let bare =
                cell.is_empty() || cell.parse::<f64>().is_ok() || cell.parse::<bool>().is_ok();
            assert!(bare, "{cell:?} in {row}");
        }
    }
}

/// Aim: Ctrl-C ends a run that would take minutes, with the marked JSON. Method: the signal is
/// sent once the process catches it, as its status in /proc says.
#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_ends_a_run_with_what_was_measured_so_far() {
    let child = Command::new(env!("CARGO_BIN_EXE_clashtrack"))
        .args([
            "run",
            "clash",
            "--connections",
            "500",
            "--duration",
            "10m",
            "--json",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let pid = child.id().to_string();
    while !catches_interrupts(&pid) {
        std::thread::yield_now();
    }
    let sent = Command::new("kill").args(["-INT", &pid]).status();
    assert!(sent.expect("kill is there").success());
    let output = child.wait_with_output().expect("the command ends");
    assert_eq!(output.status.code(), Some(130));
    let value: Value = serde_json::from_slice(&output.stdout).expect("stdout is one JSON object");
    assert_eq!(value["interrupted"], true);
    assert_fits_the_schema(&value);
}

/// Aim: Ctrl-C ends a replay of a capture that would go on, with the marked JSON. Method: one packet is fed
/// over and over; the signal is sent once the process catches it, and the writes fail when it has ended.
#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_ends_a_replay_with_what_was_read_so_far() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_clashtrack"))
        .args(["replay", "--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    let mut capture = child.stdin.take().expect("it is a pipe");
    capture.write_all(&pcap_header()).expect("it reads");
    let pid = child.id().to_string();
    while !catches_interrupts(&pid) {
        std::thread::yield_now();
    }
    capture.write_all(&udp_record()).expect("it reads");
    let sent = Command::new("kill").args(["-INT", &pid]).status();
    assert!(sent.expect("kill is there").success());
    while capture.write_all(&udp_record()).is_ok() {}
    let output = child.wait_with_output().expect("the command ends");
    assert_eq!(output.status.code(), Some(130));
    let value: Value = serde_json::from_slice(&output.stdout).expect("stdout is one JSON object");
    assert_eq!(value["interrupted"], true);
    assert_eq!(value["capture"]["complete"], false);
    assert_eq!(value["results"].as_array().unwrap().len(), 1, "{value}");
    assert_fits_the_schema(&value);
}

/// A pcap file's header, little-endian, raw IP.
#[cfg(target_os = "linux")]
fn pcap_header() -> Vec<u8> {
    let words: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 101];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A record: an empty datagram from 10.0.0.1:1000 to 10.0.0.2:53, without a checksum.
#[cfg(target_os = "linux")]
fn udp_record() -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x66, 0xcf];
    packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend([0x03, 0xe8, 0, 53, 0, 8, 0, 0]);
    let words: [u32; 4] = [1, 0, 28, 28];
    let mut record: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    record.extend(packet);
    record
}

/// Whether SIGINT (2) is among the signals that a process has a handler for.
#[cfg(target_os = "linux")]
fn catches_interrupts(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it still runs");
    let caught = status
        .lines()
        .find_map(|line| line.strip_prefix("SigCgt:"))
        .expect("Linux tells which signals are caught");
    u64::from_str_radix(caught.trim(), 16).expect("a mask in hex") & 1 << (2 - 1) != 0
}
