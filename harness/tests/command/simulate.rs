//! `clashtrack simulate` as a user's script sees it: the experiment of the article on SNAT
//! time-outs on both kernels, its variations, and bad use.

use std::process::Output;

use serde_json::Value;

/// The article's rule, verbatim.
const RULE: &str = "iptables -t nat -A POSTROUTING -p tcp -d 127.0.0.1 --dport 8080 -j SNAT --to-source 127.0.0.1:40000";

const ARTICLE_SYNS: [f64; 7] = [0., 1., 3., 7., 15., 31., 63.];
const LINEAR_SYNS: [f64; 11] = [0., 1., 2., 3., 4., 5., 7., 11., 19., 35., 67.];

fn simulate(args: &[&str]) -> Output {
    crate::output(&[&["simulate"], args].concat())
}

fn json(args: &[&str]) -> Value {
    crate::json(&[&["simulate"], args, &["--json"]].concat())
}

fn text(args: &[&str]) -> String {
    let output = simulate(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
    String::from_utf8(output.stdout).expect("stdout is text")
}

/// What stderr says of a bad use, which exits with 2 and prints nothing else.
fn refused(args: &[&str]) -> String {
    crate::refused(&mut crate::clashtrack(&[&["simulate"], args].concat()))
}

fn with_rule<'a>(rule: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [&["--rule", rule, "--connect", "127.0.0.1:8080"], rest].concat()
}

fn outcomes(value: &Value) -> Vec<&str> {
    let results = value["results"].as_array().expect("results are a list");
    results
        .iter()
        .map(|r| r["outcome"].as_str().expect("an outcome"))
        .collect()
}

fn how_many(value: &Value, outcome: &str) -> usize {
    outcomes(value).iter().filter(|o| **o == outcome).count()
}

fn syn_times(result: &Value) -> Vec<f64> {
    let syns = result["syns"].as_array().expect("syns are a list");
    syns.iter()
        .map(|syn| syn["at_s"].as_f64().expect("a time"))
        .collect()
}

/// found, insert_failed and drop of a CPU.
fn losses(value: &Value, cpu: usize) -> (u64, u64, u64) {
    let of = |name: &str| value["per_cpu"][cpu][name].as_u64().expect(name);
    (of("found"), of("insert_failed"), of("drop"))
}

/// Every counter of every CPU but the three of [`losses`] is 0.
fn assert_nothing_else_counted(value: &Value) {
    for cpu in value["per_cpu"].as_array().expect("per_cpu is a list") {
        for (name, n) in cpu.as_object().expect("counters by name") {
            if !["found", "insert_failed", "drop"].contains(&name.as_str()) {
                assert_eq!(n, 0, "{name}");
            }
        }
    }
}

#[test]
fn case_96_the_articles_second_connection_sends_seven_syns_and_times_out_at_127_seconds() {
    let value = json(&with_rule(
        RULE,
        &["--kernel", "article", "--connections", "2"],
    ));
    assert_eq!(outcomes(&value), ["established", "timed_out"]);
    let second = &value["results"][1];
    assert_eq!(syn_times(second), ARTICLE_SYNS);
    assert_eq!(second["failed_at_s"], 127.0);
    assert_eq!(second["errno"], "ETIMEDOUT");
    assert_eq!(second["established_at_s"], Value::Null);
    for syn in second["syns"].as_array().unwrap() {
        assert_eq!(
            (&syn["verdict"], &syn["reason"]),
            (&"drop".into(), &"clash".into())
        );
        assert_eq!(syn["lost_to"], 1);
    }
    assert_eq!(losses(&value, 0), (0, 0, 0));
    assert_eq!(losses(&value, 1), (7, 7, 7));
    assert_nothing_else_counted(&value);
    assert_eq!(value["tcpext"]["TCPTimeouts"], 7);
    assert_eq!(value["tcpext"]["TCPAbortOnTimeout"], 1);
    assert_eq!(value["tcpext"]["TCPSynRetrans"], 6);
    assert_eq!(value["tcpext"]["TCPRetransFail"], 6);
    assert_eq!(value["tcp"]["ActiveOpens"], 2);
    assert_eq!(value["tcp"]["AttemptFails"], 1);
    assert_eq!(value["tcp"]["RetransSegs"], 6);
}

#[test]
fn case_96_linux_6_18_sends_eleven_syns_and_times_out_at_131_seconds() {
    let value = json(&with_rule(RULE, &["--connections", "2"]));
    assert_eq!(outcomes(&value), ["established", "timed_out"]);
    let second = &value["results"][1];
    assert_eq!(syn_times(second), LINEAR_SYNS);
    assert_eq!(second["failed_at_s"], 131.0);
    assert_eq!(losses(&value, 0), (0, 0, 0));
    assert_eq!(losses(&value, 1), (0, 11, 11));
    assert_nothing_else_counted(&value);
    assert_eq!(value["tcpext"]["TCPTimeouts"], 11);
    assert_eq!(value["tcpext"]["TCPAbortOnTimeout"], 1);
}

#[test]
fn the_first_connection_is_established_at_once_under_the_translated_port() {
    let value = json(&with_rule(RULE, &["--connections", "1"]));
    let first = &value["results"][0];
    assert_eq!(first["outcome"], "established");
    assert_eq!(first["established_at_s"], 0.0);
    assert_eq!(
        (&first["errno"], &first["failed_at_s"]),
        (&Value::Null, &Value::Null)
    );
    assert_eq!(first["syns"][0]["verdict"], "accept");
    assert_eq!(first["syns"][0]["left_as"], "127.0.0.1:40000");
    assert_eq!(losses(&value, 0), (0, 0, 0));
    assert_eq!(value["tcp"]["CurrEstab"], 2, "both ends are on this host");
}

#[test]
fn seven_more_connections_fare_like_the_second() {
    let value = json(&with_rule(
        RULE,
        &["--kernel", "article", "--connections", "8"],
    ));
    assert_eq!(outcomes(&value)[0], "established");
    assert_eq!(how_many(&value, "timed_out"), 7);
    for result in &value["results"].as_array().unwrap()[1..] {
        assert_eq!(syn_times(result), ARTICLE_SYNS);
        assert_eq!(result["failed_at_s"], 127.0);
    }
    assert_eq!(losses(&value, 0), (21, 21, 21), "connections 3, 5 and 7");
    assert_eq!(losses(&value, 1), (28, 28, 28), "connections 2, 4, 6 and 8");
    assert_eq!(value["tcpext"]["TCPTimeouts"], 49);
    assert_eq!(value["tcpext"]["TCPAbortOnTimeout"], 7);
}

#[test]
fn four_ports_let_four_connections_through() {
    let rule = format!("{RULE}-40003");
    for kernel in ["6.18", "article"] {
        let value = json(&with_rule(
            &rule,
            &["--connections", "6", "--kernel", kernel],
        ));
        let first_four = ["established"; 4].into_iter().chain(["timed_out"; 2]);
        assert!(outcomes(&value).into_iter().eq(first_four), "{kernel}");
    }
}

#[test]
fn four_taken_ports_are_four_tries_that_only_the_older_kernel_counts_as_found() {
    let rule = format!("{RULE}-40003");
    let one_cpu = ["--connections", "5", "--cpus", "1"];
    let value = json(&with_rule(
        &rule,
        &[&one_cpu[..], &["--kernel", "article"]].concat(),
    ));
    let (found, insert_failed, drop) = losses(&value, 0);
    assert_eq!((insert_failed, drop), (7, 7));
    assert!(
        found >= 7 * 4,
        "each of seven SYNs tried four ports: {found}"
    );
    let value = json(&with_rule(&rule, &one_cpu));
    assert_eq!(losses(&value, 0), (0, 11, 11));
}

#[test]
fn random_fully_lets_all_through_where_ports_are_plenty() {
    let rule = format!("{RULE}-49999 --random-fully");
    let value = json(&with_rule(&rule, &["--connections", "200"]));
    assert_eq!(how_many(&value, "established"), 200);
    assert_eq!(value["tcpext"]["TCPTimeouts"], 0);
}

/// A table for one connection, and one that all its workers share: entries that wait to be reused, or lie at the hand
/// of an idle worker, are nobody's lack.
#[test]
fn as_many_connections_as_fit_are_established_whether_one_cpu_has_them_or_each_has_its_own() {
    for [connections, cpus] in [["1", "1"], ["1", "1024"], ["1024", "1024"], ["3000", "7"]] {
        let words = ["--connections", connections, "--cpus", cpus];
        let value = json(&[&["--connect", "127.0.0.1:8080"], &words[..]].concat());
        let established = how_many(&value, "established");
        assert_eq!(established.to_string(), connections, "{cpus} CPUs");
        let drops: u64 = (0..cpus.parse().unwrap())
            .map(|cpu| losses(&value, cpu).2)
            .sum();
        assert_eq!(drops, 0, "{connections} connections, {cpus} CPUs");
    }
}

#[test]
fn masquerade_out_of_lo_takes_the_address_of_eth0() {
    let rule = "-t nat -A POSTROUTING -o lo -p tcp -j MASQUERADE";
    let value = json(&with_rule(rule, &["--connections", "3"]));
    assert_eq!(how_many(&value, "established"), 3);
    for result in value["results"].as_array().unwrap() {
        let left_as = result["syns"][0]["left_as"].as_str().unwrap();
        assert!(left_as.starts_with("192.0.2.10:"), "{left_as}");
    }
}

#[test]
fn a_server_beyond_eth0_is_reached_with_and_without_translation() {
    let remote = ["--connect", "203.0.113.5:443", "--connections", "2"];
    let plain = json(&remote);
    assert_eq!(how_many(&plain, "established"), 2);
    let snat = "-t nat -A POSTROUTING -o eth0 -p tcp -j SNAT --to-source 198.51.100.7:5000";
    let translated = json(&[&remote[..], &["--rule", snat]].concat());
    assert_eq!(outcomes(&translated), ["established", "timed_out"]);
    assert_eq!(
        translated["results"][0]["syns"][0]["left_as"],
        "198.51.100.7:5000"
    );
    assert_eq!(
        translated["tcp"]["PassiveOpens"], 0,
        "the server counts for itself"
    );
}

#[test]
fn destination_nat_leads_to_the_listener_and_back() {
    let rule =
        "-t nat -A OUTPUT -p tcp -d 203.0.113.5 --dport 80 -j DNAT --to-destination 127.0.0.1:8080";
    let value = json(&["--rule", rule, "--connect", "203.0.113.5:80"]);
    assert_eq!(how_many(&value, "established"), 2);
}

#[test]
fn without_a_rule_all_connections_are_established() {
    let value = json(&["--connect", "127.0.0.1:8080", "--connections", "50"]);
    assert_eq!(how_many(&value, "established"), 50);
    for cpu in 0..2 {
        assert_eq!(losses(&value, cpu), (0, 0, 0));
    }
    let ports: std::collections::HashSet<_> = value["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["local"].as_str().unwrap())
        .collect();
    assert_eq!(ports.len(), 50);
}

#[test]
fn a_port_where_nobody_listens_refuses() {
    let value = json(&["--connect", "127.0.0.1:8080", "--no-listener"]);
    assert_eq!(outcomes(&value), ["refused", "refused"]);
    assert_eq!(value["results"][0]["errno"], "ECONNREFUSED");
    assert_eq!(value["results"][0]["failed_at_s"], 0.0);
    assert_eq!(value["tcp"]["OutRsts"], 2);
}

#[test]
fn an_occupier_that_conntrack_forgets_gives_the_port_back() {
    let forget = ["--set", "nf_conntrack_tcp_timeout_established=10"];
    let value = json(&with_rule(RULE, &forget));
    assert_eq!(outcomes(&value), ["established", "established"]);
    let second = &value["results"][1];
    // The SYN at 11 s finds the port free; the listener still knows the old connection, asks,
    // and is told by a reset that it is over: the next SYN opens the new one.
    assert_eq!(second["established_at_s"], 19.0);
    assert_eq!(second["syns"][7]["verdict"], "accept");
    assert_eq!(second["syns"][6]["verdict"], "drop");
}

#[test]
fn a_predicted_timeout_is_exit_code_1_only_when_asked_for() {
    let args = with_rule(RULE, &["--fail-on-timeout"]);
    assert_eq!(simulate(&args).status.code(), Some(1));
    let free = with_rule(RULE, &["--fail-on-timeout", "--connections", "1"]);
    assert_eq!(simulate(&free).status.code(), Some(0));
    assert_eq!(simulate(&with_rule(RULE, &[])).status.code(), Some(0));
}

#[test]
fn the_clients_sysctls_shape_the_schedule() {
    let set = [
        "--set",
        "net.ipv4.tcp_syn_retries=3",
        "--set",
        "tcp_syn_linear_timeouts=0",
    ];
    let value = json(&with_rule(RULE, &set));
    assert_eq!(syn_times(&value["results"][1]), [0., 1., 3., 7.]);
    assert_eq!(value["results"][1]["failed_at_s"], 15.0);
}

#[test]
fn one_seed_gives_one_run_and_two_seeds_two() {
    let seeded = |seed| json(&with_rule(RULE, &["--seed", seed]))["results"].clone();
    assert_eq!(seeded("5"), seeded("5"));
    assert_ne!(seeded("5"), seeded("6"));
}

#[test]
fn the_envelope_says_what_was_simulated() {
    let value = json(&with_rule(RULE, &["--kernel", "article"]));
    assert_eq!(
        (&value["schema"], &value["command"]),
        (&"clashtrack/1".into(), &"simulate".into())
    );
    assert!(value["machine"].is_object());
    let config = &value["config"];
    assert_eq!(
        (&config["kernel"], &config["tcp_syn_linear_timeouts"]),
        (&"article".into(), &0.into())
    );
    assert_eq!(
        (&config["connect"], &config["rule"][0]),
        (&"127.0.0.1:8080".into(), &RULE.into())
    );
    assert!(config["seed"].is_u64());
}

#[test]
fn the_report_shows_the_timeline_the_counters_and_the_reason() {
    let report = text(&with_rule(RULE, &["--kernel", "article"]));
    for wanted in [
        "ESTABLISHED at 0 s",
        "ETIMEDOUT at 127 s",
        "left the host as 127.0.0.1:40000 -> 127.0.0.1:8080",
        "dropped at confirm: reply tuple src=127.0.0.1 dst=127.0.0.1 sport=8080 dport=40000",
        "is owned by connection 1 (tcp      6 432000 ESTABLISHED src=127.0.0.1",
        "     63 s  SYN  dropped likewise",
        "cpu=1   \tfound=7 invalid=0 insert=0 insert_failed=7 drop=7 early_drop=0",
        "    1 connections aborted due to timeout\n",
        "    TCPTimeouts: 7\n",
        "Why: The only port of 127.0.0.1:40000 is taken toward 127.0.0.1:8080, by connection 1",
        "Try: a wider range: --to-source 127.0.0.1:40000-40999",
        "up to 2 %",
        "seed 1",
    ] {
        assert!(report.contains(wanted), "no `{wanted}` in\n{report}");
    }
}

#[test]
fn events_show_the_clash_that_the_kernel_hides() {
    let report = text(&with_rule(RULE, &["--events"]));
    assert_eq!(
        report.matches("[CLASH] dropped: reply tuple").count(),
        11,
        "{report}"
    );
    assert_eq!(report.matches("[NEW] tcp").count(), 1, "{report}");
    let value = json(&with_rule(RULE, &["--events"]));
    let events = value["events"].as_array().unwrap();
    assert!(
        events
            .iter()
            .any(|e| e["event"] == "CLASH" && e["at_s"] == 67.0)
    );
}

#[test]
fn other_formats_give_a_row_a_connection() {
    let csv = text(&with_rule(RULE, &["--format", "csv"]));
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!(rows.len(), 3);
    assert!(rows[2].ends_with("timed_out,,131,11,11"), "{csv}");
}

#[test]
fn many_connections_are_summed_up_in_the_report() {
    let report = text(&["--connect", "127.0.0.1:8080", "--connections", "100"]);
    assert!(
        report.contains("and 36 more: 36 established, 0 failed"),
        "{report}"
    );
    assert!(report.contains("All 100 connections were established, with the first SYN."));
}

#[test]
fn more_addresses_do_not_help_one_client_toward_one_server() {
    let rule = RULE.replace("127.0.0.1:40000", "127.0.0.1-127.0.0.8:40000");
    let report = text(&with_rule(&rule, &["--connections", "3"]));
    assert!(report.contains("addresses do not help here"), "{report}");
    assert_eq!(
        how_many(
            &json(&with_rule(&rule, &["--connections", "3"])),
            "established"
        ),
        1
    );
}

#[test]
fn a_full_table_is_named_as_the_cause() {
    let args = ["--connect", "127.0.0.1:8080", "--set", "nf_conntrack_max=1"];
    let value = json(&args);
    assert_eq!(outcomes(&value), ["established", "timed_out"]);
    assert_eq!(value["results"][1]["syns"][0]["reason"], "table_full");
    assert!(text(&args).contains("Try: a larger table: --set nf_conntrack_max=N"));
}

#[test]
fn a_rule_that_cannot_be_honoured_is_an_error_at_its_word() {
    let rule = RULE.replace("--dport 8080", "--dport 8080 -m hashlimit --hashlimit 5");
    assert!(refused(&with_rule(&rule, &[])).contains("hashlimit"));
}

#[test]
fn a_bad_address_is_refused_with_an_example() {
    for (bad, why) in [
        ("127.0.0.1", "has no port"),
        ("127.0.0.1:0", "port 0"),
        ("[::1]:80", "IPv6"),
        ("::1", "IPv6"),
        ("localhost:80", "names are not looked up"),
        ("127.0.0.1:99999", "no address and port"),
        ("224.0.0.1:80", "cannot connect"),
        ("", "no address and port"),
    ] {
        let said = refused(&["--connect", bad]);
        assert!(
            said.contains(why) && said.contains("127.0.0.1:8080"),
            "{bad}: {said}"
        );
    }
}

#[test]
fn numbers_out_of_bounds_are_refused_with_the_bounds() {
    let to = ["--connect", "127.0.0.1:8080"];
    for (flag, bad) in [
        ("--connections", "0"),
        ("--connections", "28232"),
        ("--cpus", "0"),
        ("--cpus", "5000"),
        ("--set", "tcp_syn_retries=0"),
        ("--set", "tcp_syn_retries"),
        ("--set", "nf_conntrack_tcp_timeout_establishd=3"),
    ] {
        let said = refused(&[&to[..], &[flag, bad]].concat());
        assert!(said.contains(flag), "{flag} {bad}: {said}");
    }
}

#[test]
fn rules_are_read_from_a_file_of_iptables_save() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nat.rules");
    let rules = "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\n\
                 :INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
                 -A POSTROUTING -d 127.0.0.1/32 -p tcp -m tcp --dport 8080 -j SNAT --to-source 127.0.0.1:40000\n\
                 COMMIT\n";
    std::fs::write(&path, rules).unwrap();
    let args = [
        "--connect",
        "127.0.0.1:8080",
        "--rules",
        path.to_str().unwrap(),
    ];
    assert_eq!(outcomes(&json(&args)), ["established", "timed_out"]);
    let notes = String::from_utf8(simulate(&args).stderr).unwrap();
    assert!(
        notes.contains("filter"),
        "the skipped table is told: {notes}"
    );
}
