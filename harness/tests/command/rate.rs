//! `clashtrack run --rate` as a user's script sees it.

use serde_json::Value;

use crate::{assert_fits_the_schema, clashtrack, output, refused};

fn json(words: &[&str]) -> Value {
    let value = crate::json(&[&["run"], words, &["--json", "--quiet"]].concat());
    assert_fits_the_schema(&value);
    value
}

const SMALL: [&str; 8] = [
    "--connections",
    "2k",
    "--duration",
    "20ms",
    "--repeat",
    "2",
    "--workers",
    "1",
];

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is a number"))
}

#[test]
fn each_rate_of_a_list_is_a_row_with_percentiles_in_order_and_the_limit_beside_it() {
    let words = ["lookup-hit", "churn", "--table", "lockfree,dashmap"];
    let value = json(&[&words[..], &SMALL, &["--rate", "20k,40k"]].concat());
    assert_eq!(value["config"]["rate"], "20000,40000");
    let results = value["results"].as_array().unwrap();
    assert_eq!(results.len(), 2 * 2 * 2, "workloads x rates x tables");
    let rates: Vec<f64> = results
        .iter()
        .map(|result| number(&result["open_loop"]["rate_per_s"]))
        .collect();
    assert_eq!(rates[..4], [20e3, 20e3, 40e3, 40e3]);
    for result in results {
        let latency = &result["latency_ns"];
        let names = ["p50", "p90", "p99", "p999", "p9999", "max"];
        let values = names.map(|name| number(&latency[name]));
        assert!(values.is_sorted() && values[0] > 0.0, "{latency}");
        assert_eq!(result["latency_of"], "operation");
        assert!(number(&result["limit_ns"]) > 0.0);
        assert!(
            result["limit_ratio"].is_null(),
            "its time is the schedule's"
        );
        // Whatever the machine does meanwhile: each that was due was done, or given up.
        let open = &result["open_loop"];
        let done: f64 = result["ops_per_s"]["samples"].as_array().unwrap().len() as f64;
        assert_eq!(done, 2.0, "{result}");
        assert!(open["search"].is_null() && number(&open["batches"]) > 0.0);
        let anomalies = result["anomalies"].as_object().unwrap();
        assert!(anomalies.values().all(|count| count == 0), "{result}");
    }
}

/// Aim: launches of a rate are one row whose percentiles are there. Method: what makes them comes from processes, and is kept
/// from whoever did not ask for it.
#[test]
fn launches_of_a_rate_are_one_row_with_percentiles_and_without_histograms() {
    let words = ["lookup-hit", "--table", "lockfree", "--rate", "20k"];
    let value = json(&[&words[..], &SMALL, &["--launches", "2"]].concat());
    let result = &value["results"][0];
    assert_eq!(result["samples_by_launch"], serde_json::json!([2, 2]));
    let latency = &result["latency_ns"];
    let values = ["p50", "p99", "max"].map(|name| number(&latency[name]));
    assert!(values.is_sorted() && values[0] > 0.0, "{latency}");
    assert!(result.get("histograms").is_none(), "{result}");
}

/// Aim: every workload that says so can be offered at a rate, and gives right answers there. Method: each judges itself.
#[test]
fn every_workload_that_takes_a_rate_does() {
    let can: Vec<&str> = clashtrack::workload::WORKLOADS
        .iter()
        .filter(|workload| workload.kind.takes_a_rate())
        .map(|workload| workload.name)
        .collect();
    assert!(can.len() >= 12, "{can:?}");
    // As many operations as in a longer sample at a lower rate; rounds before it, and the limit's search, are shorter.
    let words = ["--table", "lockfree", "--rate", "1M", "--workers", "1"];
    let sizes = [
        "--connections",
        "2k",
        "--duration",
        "900us",
        "--repeat",
        "2",
    ];
    let value = json(&[&can[..], &words, &sizes].concat());
    let results = value["results"].as_array().unwrap();
    assert_eq!(results.len(), can.len());
    for result in results {
        assert!(result["open_loop"].is_object(), "{result}");
        assert!(number(&result["latency_ns"]["p50"]) > 0.0, "{result}");
    }
}

#[test]
fn more_than_a_table_can_is_called_saturated() {
    let words = ["connect", "--table", "mutex", "--rate", "10G"];
    let value = json(&[&words[..], &SMALL].concat());
    let open = &value["results"][0]["open_loop"];
    assert_eq!(open["saturated"], true, "{open}");
    assert!(number(&open["given_up"]) > 0.0, "{open}");
    assert!(number(&open["achieved_per_s"]) < 9.9e9);
}

#[test]
fn a_search_tells_its_trials_and_ends_with_a_long_one() {
    let words = ["lookup-hit", "--table", "lockfree", "--rate", "max:p50=10s"];
    let value = json(&[&words[..], &SMALL].concat());
    let result = &value["results"][0];
    let open = &result["open_loop"];
    let search = &open["search"];
    assert_eq!(
        (&search["percentile"], number(&search["limit_ns"])),
        (&"p50".into(), 10e9)
    );
    let trials = search["trials"].as_array().unwrap();
    let last = trials.last().unwrap();
    // On a machine that is torn between others no rate may be kept; then it says so.
    match open["rate_per_s"].as_f64() {
        Some(rate) => {
            assert_eq!(
                (&last["kept"], &last["long"]),
                (&true.into(), &true.into()),
                "{search}"
            );
            assert_eq!(number(&last["rate_per_s"]), rate);
        }
        None => assert_eq!(last["kept"], false, "{search}"),
    }
    assert_eq!(
        number(&last["achieved_per_s"]),
        number(&open["achieved_per_s"])
    );
}

#[test]
fn a_limit_that_cannot_be_kept_ends_with_no_rate() {
    let words = [
        "lookup-hit",
        "--table",
        "mutex",
        "--rate",
        "max:max=0.001us",
    ];
    let value = json(&[&words[..], &SMALL].concat());
    let open = &value["results"][0]["open_loop"];
    assert!(open["rate_per_s"].is_null(), "{open}");
    let trials = open["search"]["trials"].as_array().unwrap();
    assert!(trials.iter().all(|trial| trial["kept"] == false));
}

#[test]
fn a_run_at_rates_for_people_names_every_percentile_as_what_it_is() {
    let words = ["run", "lookup-hit", "--table", "lockfree", "--rate", "20k"];
    let output = output(&[&words[..], &SMALL].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    for wanted in [
        "open loop, 20000 operations a second of all workers",
        "asked M/s",
        "did M/s",
        "p50 us  p90 us  p99 us  p99.9 us  p99.99 us",
        "max us",
        "fewer than 10000 batches",
    ] {
        assert!(text.contains(wanted), "no {wanted:?} in:\n{text}");
    }
}

#[test]
fn growth_is_a_row_a_size_with_the_limit_at_each() {
    let words = [
        "run",
        "lookup-hit",
        "--table",
        "lockfree,mutex",
        "--workers",
        "1",
    ];
    let sizes = [
        "--connections",
        "500..4k",
        "--duration",
        "1us",
        "--repeat",
        "1",
    ];
    let output = output(&[&words[..], &sizes].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, growth) = text
        .split_once("lookup-hit as the table grows")
        .expect(&text);
    let rows: Vec<Vec<&str>> = growth
        .lines()
        .skip(2)
        .take(4)
        .map(|line| line.split_whitespace().collect())
        .collect();
    let sizes: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(sizes, ["500", "1000", "2000", "4000"], "{text}");
    for row in &rows {
        // Size, limit, and cost, ratio and growth of two tables.
        let numbers: Vec<f64> = row.iter().map(|cell| cell.parse().expect(cell)).collect();
        assert_eq!(numbers.len(), 8, "{row:?}");
        assert!(numbers[1] > 0.0);
        assert!(
            (numbers[1] / numbers[2] - numbers[3]).abs() < 0.02,
            "{row:?}"
        );
    }
    assert_eq!((rows[0][4], rows[0][7]), ("1.00", "1.00"), "{text}");
}

#[test]
fn what_cannot_be_honoured_exits_with_2_and_says_what_can() {
    for (words, said) in [
        (
            &["lookup-hit", "--rate", "1x"][..],
            "--rate: `1x` is no size",
        ),
        (
            &["lookup-hit", "clash", "--rate", "1M"],
            "--rate: clash cannot be offered at a rate; take it out; those that can: lookup-hit,",
        ),
        (
            &["lookup-hit", "--rate", "max:p98=1us"],
            "there is no percentile `p98`",
        ),
        (
            &["lookup-hit", "--rate", "max:p99=1ms", "--launches", "2"],
            "write rates, or leave --launches out",
        ),
        (
            &["lookup-hit", "--steer", "hash"],
            "--steer: none of these workloads steers packets to workers; add `skew`",
        ),
        (
            &["skew", "--steer", "dice"],
            "--steer: there is no way of steering `dice`; write one of rss, hash, random",
        ),
        (&["skew", "--steer", ""], "there is no way of steering ``"),
        // Every worker of a race may have an entry of each flow: more than any machine has.
        (
            &["clash", "--connections", "16M", "--workers", "1000"],
            "MB are free",
        ),
    ] {
        let stderr = refused(&mut clashtrack(&[&["run"], words].concat()));
        assert!(stderr.contains(said), "{words:?}: {stderr}");
    }
}

#[test]
fn the_settings_say_how_packets_were_steered() {
    for how in ["rss", "random"] {
        let words = [
            "skew",
            "--table",
            "lockfree",
            "--workers",
            "1",
            "--steer",
            how,
        ];
        let sizes = ["--connections", "2k", "--duration", "1us", "--repeat", "2"];
        let value = json(&[&words[..], &sizes].concat());
        assert_eq!(value["config"]["steer"], how);
        assert!(value["config"]["rate"].is_null());
    }
}
