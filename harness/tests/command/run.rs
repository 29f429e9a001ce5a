//! `clashtrack run` as a user's script sees it: the JSON contract, exit codes, seeds, Ctrl-C.

#[cfg(target_os = "linux")]
use std::io::Write;
#[cfg(target_os = "linux")]
use std::process::{Command, Stdio};

use clashtrack::peer::{DEFAULT_TABLES, TABLES};
use clashtrack_engine::table::lockfree::Isa;
use serde_json::Value;

use crate::{SCHEMA, assert_fits_the_schema, clashtrack, json, output, refused};

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
fn the_measured_workloads_fit_the_schema_and_have_the_limit_beside_them() {
    let workloads = ["lookup-hit", "lookup-miss", "connect", "churn"];
    let words = ["--workers", "1,2", "--l4", "tcp,udp", "--prefetch", "t1"];
    let value = short_run(&[&workloads[..], &words, &["--table", "lockfree,dashmap"]].concat());
    assert_fits_the_schema(&value);
    assert_eq!(value["machine"]["prefetch"], "t1");
    let results = value["results"].as_array().unwrap();
    assert_eq!(
        results.len(),
        4 * 2 * 2 * 2,
        "workloads x protocols x workers x tables"
    );
    for result in results {
        let ratio = result["limit_ratio"].as_f64().unwrap();
        let ns = result["ns_per_op"]["median"].as_f64().unwrap();
        let limit = result["limit_ns"].as_f64().unwrap();
        assert!(
            (ratio - limit / ns).abs() < 1e-9 * ratio.max(1.0),
            "{result}"
        );
        let anomalies = result["anomalies"].as_object().unwrap();
        assert!(anomalies.values().all(|count| count == 0), "{result}");
        let lookup = result["workload"].as_str().unwrap().starts_with("lookup");
        assert_eq!(result["accounting"].is_null(), lookup, "{result}");
        // A table this small may refuse connections while entries wait to be recycled; those are not offered.
        if let Some(accounting) = result["accounting"].as_object() {
            assert_eq!(accounting["offered"], accounting["confirmed"], "{result}");
        }
        let batch = if lookup { 64 } else { 32 };
        assert_eq!(result["batch"], batch);
        assert!(result["clash"].is_null() && result["latency_ns"].is_null());
    }
}

#[test]
fn expire_fits_the_schema_and_its_removals_are_in_counters_of_their_own() {
    let words = ["expire", "--workers", "1", "--table", "lockfree,striped"];
    let sizes = [
        "--connections",
        "2k",
        "--duration",
        "100ms",
        "--repeat",
        "1",
    ];
    let value = json(&[&["run"], &words[..], &sizes, &["--json"]].concat());
    assert_fits_the_schema(&value);
    for result in value["results"].as_array().unwrap() {
        let expired = result["maintenance"]["expired"].as_u64().unwrap();
        let left_over = result["expiry"]["left_over"].as_u64().unwrap();
        assert_eq!(expired + left_over, 2000, "{result}");
        assert!(
            result["expiry"]["core_share"].as_f64().unwrap() > 0.0,
            "{result}"
        );
        assert!(
            result["latency_ns"]["p50"].as_u64().unwrap() > 0,
            "{result}"
        );
        assert_eq!(result["per_cpu"].as_array().unwrap().len(), 1);
    }
}

/// Takes two seconds a table: that long is the worker suspended.
#[test]
fn a_stall_hangs_striped_and_not_lockfree_and_both_exit_with_0() {
    let words = [
        "run",
        "stall",
        "--table",
        "lockfree,striped",
        "--connections",
        "5k",
        "--json",
    ];
    let value = json(&words);
    assert_fits_the_schema(&value);
    let [lockfree, striped] = value["results"].as_array().unwrap().as_slice() else {
        panic!("a result a table: {value}");
    };
    assert_eq!(lockfree["stall"]["hung"], false, "{lockfree}");
    assert!(lockfree["stall"]["others_ops"].as_u64().unwrap() > 0);
    assert_eq!(striped["stall"]["hung"], true, "{striped}");
    for result in [lockfree, striped] {
        assert_eq!(
            result["stall"]["suspended_s"].as_f64().unwrap().floor(),
            2.0
        );
    }
}

#[test]
fn churn_tells_how_many_bytes_a_connection_is() {
    let words = [
        "churn",
        "--table",
        "lockfree",
        "--l4",
        "tcp,udp",
        "--workers",
        "2",
    ];
    let sizes = [
        "--connections",
        "100k",
        "--duration",
        "1us",
        "--repeat",
        "1",
    ];
    let value = json(&[&["run"], &words[..], &sizes, &["--json"]].concat());
    assert_fits_the_schema(&value);
    let bytes = |at: usize| {
        value["results"][at]["bytes_per_connection"]
            .as_f64()
            .unwrap()
    };
    // A TCP connection has a tracker's line more than one of UDP.
    assert!(bytes(0) > bytes(1) + 32.0, "{} and {}", bytes(0), bytes(1));
    assert!(bytes(1) > 64.0, "{}", bytes(1));
}

#[test]
fn calibrate_fits_the_schema_and_names_the_best_hint() {
    let value = json(&["calibrate", "--lines", "10k", "--json"]);
    assert_fits_the_schema(&value);
    let best = &value["best"]["read"];
    let costs = value["results"].as_array().unwrap();
    let reads = costs.iter().filter(|cost| cost["access"] == "read");
    let smallest = reads.map(|cost| cost["ns_per_line"].as_f64().unwrap());
    assert_eq!(
        best["ns_per_line"].as_f64().unwrap(),
        smallest.fold(f64::MAX, f64::min)
    );
    assert_eq!(value["machine"]["prefetch"], best["hint"]);
}

#[test]
fn a_result_without_its_accounting_does_not_fit_the_schema() {
    let mut value = short_run(&["clash", "--table", "mutex"]);
    let result = value["results"][0].as_object_mut().unwrap();
    result.remove("accounting");
    assert!(!SCHEMA.is_valid(&value));
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
            "--workers: 0 is out of range; write a number from 1 to 1000",
        ),
        (
            &["run", "clash", "--table", "btree"],
            "there is no table `btree`; write one of lockfree, striped",
        ),
        (
            &["run", "elephants"],
            "there is no workload `elephants`; write one of clash,",
        ),
        (
            &["run", "stall", "--workers", "1"],
            "stall with 1 worker: nobody is left to look at while it is suspended; write 2 or more",
        ),
        (
            &["run", "connect", "--l4", "icmp"],
            "there is no protocol here `icmp`; write one of tcp, udp",
        ),
        (
            &["run", "connect", "--isa", "avx1024"],
            "--isa: there is no instruction set `avx1024`; write one of scalar, avx2, avx512, auto",
        ),
        (
            &["run", "connect", "--prefetch", "t3"],
            "there is no prefetch hint `t3`; write one of t0, t1, nta, w, none, auto",
        ),
        (&["calibrate", "--lines", "0"], "--lines: 0 is out of range"),
        (&["run", "clash", "--connections", "1T"], "`1T` is no size"),
        (&["run", "clash", "--duration", "1"], "`1` is no time"),
        (
            &["run", "clash", "--batch", "1G"],
            "--batch: 1000000000 is out of range",
        ),
    ] {
        let stderr = refused(&mut clashtrack(words));
        assert!(stderr.contains(said), "{words:?}: {stderr}");
    }
}

/// Asks the machine: where it has the instructions, they are taken and named in the answer.
#[test]
fn an_instruction_set_that_the_processor_has_not_is_refused() {
    for isa in Isa::ALL {
        let words = [
            "run",
            "connect",
            "--table",
            "lockfree",
            "--connections",
            "500",
            "--duration",
            "1us",
            "--repeat",
            "1",
            "--isa",
            isa.name(),
            "--json",
        ];
        let output = output(&words);
        let stderr = String::from_utf8_lossy(&output.stderr);
        if isa.is_available() {
            assert!(output.status.success(), "{isa:?}: {stderr}");
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(answer["machine"]["isa"], isa.resolved().name());
        } else {
            assert_eq!(output.status.code(), Some(2), "{isa:?}: {stderr}");
            let said = format!("this processor has no {}; write scalar or auto", isa.name());
            assert!(stderr.contains(&said), "{stderr}");
        }
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
    let output = output(&words);
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
        let output = output(&[&["run"], words, &short, &["--format", "csv"]].concat());
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
    let words = ["clash", "--connections", "500", "--duration", "10m"];
    let child = clashtrack(&[&["run"], &words[..], &["--json"]].concat())
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
    let mut child = clashtrack(&["replay", "--json", "-"])
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

#[test]
fn launches_are_processes_whose_samples_stay_apart() {
    let value = short_run(&[
        "lookup-hit",
        "clash",
        "--table",
        "lockfree",
        "--launches",
        "3",
    ]);
    assert_fits_the_schema(&value);
    assert_eq!(value["config"]["launches"], 3);
    let results = value["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        assert_eq!(result["samples_by_launch"], serde_json::json!([2, 2, 2]));
        assert_eq!(result["ns_per_op"]["samples"].as_array().unwrap().len(), 6);
    }
    let limits = results[0]["limit_samples_ns"].as_array().unwrap();
    assert_eq!(limits.len(), 6);
    let said = refused(&mut clashtrack(&["run", "lookup-hit", "--launches", "0"]));
    assert!(said.contains("--launches: 0"), "{said}");
}

#[test]
fn the_machine_says_what_moves_figures() {
    let value = json(&["hooks", "--json"]);
    for name in [
        "rustc",
        "target",
        "target_features",
        "opt_level",
        "linker",
        "pinning",
    ] {
        assert!(
            value["machine"][name].is_string(),
            "{name}: {}",
            value["machine"]
        );
    }
    for name in [
        "smt_siblings",
        "caches",
        "numa_nodes",
        "governor",
        "clock_source",
        "huge_pages",
    ] {
        assert!(
            value["machine"].get(name).is_some(),
            "{name}: {}",
            value["machine"]
        );
    }
}
