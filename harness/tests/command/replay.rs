//! `clashtrack replay` as a user runs it, held against what a kernel did.
//!
//! `data/real/inside.pcap` is the clients' side of a masquerading gateway (Linux 6.18) that
//! real applications talked through: HTTP, DNS-like UDP, ping, refused and reset connections,
//! UDP to a closed port, iperf3. `table.txt` and `events.txt` are the gateway's own
//! `conntrack -L` and `conntrack -E -o timestamp,id`. From one side, replies are not
//! translated, ids differ, the table was listed a second or two after the last packet, and
//! connections to the gateway itself (198.51.100.1) were seen on the other side only.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::clashtrack;

const GATEWAY: &str = "dst=198.51.100.1 ";

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/real")
        .join(name)
}

fn real_capture() -> Vec<u8> {
    std::fs::read(data("inside.pcap")).unwrap()
}

/// Runs the command with the capture on its standard input.
fn replay(arguments: &[&str], capture: &[u8]) -> Output {
    let mut child = clashtrack(&["replay"])
        .args(arguments)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let capture = capture.to_vec();
    // From a thread: the command may fill its own pipes before it has read all. It may also
    // end early, which closes ours.
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&capture);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn stdout(arguments: &[&str], capture: &[u8]) -> String {
    let output = replay(arguments, capture);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

/// A line of the conntrack tool, as far as both sides of the gateway must agree on it.
#[derive(PartialEq, Eq, Debug)]
struct Line {
    /// Protocol and original tuple.
    connection: String,
    timeout: Option<i64>,
    state: Option<String>,
    unreplied: bool,
    assured: bool,
}

impl Line {
    /// A line of `conntrack -L`, or of `-E` behind its bracketed kind. `None` for connections
    /// to the gateway.
    fn parse(line: &str) -> Option<Line> {
        let mut words = line.split_whitespace();
        let protocol = words.next().unwrap();
        let _number = words.next().unwrap();
        let before: Vec<&str> = words
            .clone()
            .take_while(|word| !word.starts_with("src="))
            .collect();
        let tuple: Vec<&str> = words
            .skip(before.len())
            .enumerate()
            .take_while(|(i, word)| {
                *i == 0 || (!word.starts_with("src=") && *word != "[UNREPLIED]")
            })
            .map(|(_, word)| word)
            .collect();
        let connection = format!("{protocol} {} ", tuple.join(" "));
        (!connection.contains(GATEWAY)).then(|| Line {
            connection,
            timeout: before.iter().find_map(|word| word.parse().ok()),
            state: before
                .iter()
                .find(|word| word.parse::<i64>().is_err())
                .map(|&word| word.to_owned()),
            unreplied: line.contains("[UNREPLIED]"),
            assured: line.contains("[ASSURED]"),
        })
    }

    /// What must be the same on both sides.
    fn judged(&self) -> (&str, Option<&str>, bool, bool) {
        (
            &self.connection,
            self.state.as_deref(),
            self.unreplied,
            self.assured,
        )
    }
}

fn is_listed(line: &&str) -> bool {
    !line.is_empty() && !line.starts_with('[') && !line.starts_with("cpu=")
}

fn table(lines: &str) -> BTreeMap<String, Line> {
    let lines = lines.lines().filter(is_listed).filter_map(Line::parse);
    lines.map(|line| (line.connection.clone(), line)).collect()
}

/// NEW and UPDATE of each connection, in order: what, time given, state, flags.
fn events(lines: &str) -> BTreeMap<String, Vec<(String, Line)>> {
    let mut events: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for line in lines.lines().filter(|line| line.starts_with('[')) {
        let (_stamp, event) = line.split_once('\t').unwrap();
        let (kind, line) = event.trim_start().split_once(' ').unwrap();
        if kind == "[DESTROY]" {
            continue;
        }
        if let Some(line) = Line::parse(line) {
            events
                .entry(line.connection.clone())
                .or_default()
                .push((kind.to_owned(), line));
        }
    }
    events
}

#[test]
fn a_real_capture_ends_with_the_connections_that_the_kernel_had() {
    let kernel = table(&std::fs::read_to_string(data("table.txt")).unwrap());
    let ours = table(&stdout(&[], &real_capture()));
    let judged = |table: &BTreeMap<String, Line>| -> Vec<String> {
        table
            .values()
            .map(|line| format!("{:?}", line.judged()))
            .collect()
    };
    assert_eq!(judged(&ours), judged(&kernel));
    assert_eq!(ours.len(), 68);
    for (connection, line) in &ours {
        let later = line.timeout.unwrap() - kernel[connection].timeout.unwrap();
        assert!(
            (0..=3).contains(&later),
            "{connection}: {later} s more than the kernel's"
        );
    }
}

#[test]
fn a_real_capture_gives_the_events_that_the_kernel_gave() {
    let kernel = events(&std::fs::read_to_string(data("events.txt")).unwrap());
    let ours = events(&stdout(&["--events"], &real_capture()));
    for (connection, theirs) in &kernel {
        assert_eq!(ours.get(connection), Some(theirs), "{connection}");
    }
    assert_eq!(ours.len(), kernel.len());
}

#[test]
fn connections_are_listed_in_the_order_of_their_first_packets_then_the_counters() {
    let out = stdout(&["--events"], &real_capture());
    let listed: Vec<_> = out
        .lines()
        .filter(is_listed)
        .filter_map(Line::parse)
        .collect();
    let begun: Vec<_> = out
        .lines()
        .filter_map(|line| line.split_once("[NEW] "))
        .filter_map(|(_, line)| Line::parse(line))
        .map(|line| line.connection)
        .collect();
    let places = listed
        .iter()
        .map(|line| begun.iter().rposition(|c| *c == line.connection));
    assert!(places.is_sorted());
    let (_, counters) = out.rsplit_once("\n\n").unwrap();
    assert!(
        counters.starts_with("cpu=0   \tfound=0 invalid=0 "),
        "{counters}"
    );
    assert_eq!(counters.lines().count(), 1);
}

#[test]
fn notes_say_what_was_cut_short_and_what_was_discarded() {
    let output = replay(&[], &real_capture());
    let notes = text(&output.stderr);
    for note in [
        "68 flow entries have been shown",
        "2156 packets cut short by the capture",
        "2 packets whose time to live had run out",
    ] {
        assert!(notes.contains(note), "{note} in:\n{notes}");
    }
    assert!(replay(&["--quiet"], &real_capture()).stderr.is_empty());
}

#[test]
fn json_has_connections_events_and_counters_in_the_envelope() {
    let out = stdout(&["--json", "--set", "nf_conntrack_acct=1"], &real_capture());
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&json["schema"], &json["command"]),
        (&"clashtrack/1".into(), &"replay".into())
    );
    assert!(json["machine"].is_object());
    assert_eq!(json["config"]["settings"][0], "nf_conntrack_acct=1");
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.len(), 68);
    let tcp = results.iter().find(|c| c["proto"] == "tcp").unwrap();
    assert_eq!(tcp["state"], "TIME_WAIT");
    assert!(
        tcp["status"]
            .as_array()
            .unwrap()
            .contains(&"ASSURED".into())
    );
    assert_eq!(tcp["original"]["dst"], tcp["reply"]["src"]);
    assert!(tcp["timeout_s"].is_u64() && tcp["original"]["packets"].is_u64());
    let unreplied = results.iter().find(|c| {
        c["status"]
            .as_array()
            .unwrap()
            .contains(&"UNREPLIED".into())
    });
    assert_eq!(unreplied.unwrap()["proto"], "udp");
    assert_eq!(json["events"][0]["event"], "NEW");
    assert_eq!(json["per_cpu"][0]["insert_failed"], 0);
    assert_eq!(json["capture"]["complete"], true);
}

/// Byte at which a record starts, and where the capture breaks off inside it.
fn cut_inside_record(capture: &[u8], number: usize) -> (usize, usize) {
    let mut start = 24;
    for _ in 0..number {
        let captured = u32::from_le_bytes(capture[start + 8..start + 12].try_into().unwrap());
        start += 16 + captured as usize;
    }
    (start, start + 40)
}

#[test]
fn a_capture_cut_off_in_a_record_is_replayed_up_to_it_and_exits_with_2() {
    let capture = real_capture();
    let (start, cut) = cut_inside_record(&capture, 100);
    let broken = replay(&["--events"], &capture[..cut]);
    assert_eq!(broken.status.code(), Some(2));
    let said = text(&broken.stderr);
    assert!(said.contains(&format!("byte {start}")), "{said}");
    assert_eq!(
        text(&broken.stdout),
        stdout(&["--events"], &capture[..start])
    );
    assert!(text(&broken.stdout).contains("TIME_WAIT"));
}

#[test]
fn a_record_of_absurd_length_is_where_the_replay_ends() {
    let mut capture = real_capture();
    let (start, _) = cut_inside_record(&capture, 100);
    capture[start + 8..start + 12].copy_from_slice(&u32::MAX.to_le_bytes());
    let broken = replay(&[], &capture);
    assert_eq!(broken.status.code(), Some(2));
    assert!(text(&broken.stderr).contains(&format!("byte {start}")));
    assert_eq!(text(&broken.stdout), stdout(&[], &capture[..start]));
}

#[test]
fn a_file_that_is_no_capture_prints_nothing_and_exits_with_2() {
    for file in [&b""[..], b"%PDF-1.7", &real_capture()[..20], &[0; 64]] {
        let refused = replay(&[], file);
        assert_eq!(refused.status.code(), Some(2));
        assert!(refused.stdout.is_empty());
        assert!(
            text(&refused.stderr).contains("no capture"),
            "{}",
            text(&refused.stderr)
        );
    }
}

#[test]
fn one_bad_file_among_good_ones_prints_nothing() {
    let output = clashtrack(&["replay"])
        .args([data("inside.pcap"), data("table.txt")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(text(&output.stderr).contains("table.txt"));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = crate::output(&["replay", "no-such.pcap"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no-such.pcap"));
}

#[test]
fn settings_change_what_is_tracked_and_a_wrong_name_is_answered_with_the_right_one() {
    let capture = real_capture();
    // Behind the handshake of the first connection, all that follows of it is mid-stream.
    let (start, _) = cut_inside_record(&capture, 5);
    let middle = [&capture[..24], &capture[start..]].concat();
    let first = |out: &str| {
        Line::parse(out.lines().find(is_listed).unwrap())
            .unwrap()
            .connection
    };
    let loose = first(&stdout(&[], &middle));
    let strict = first(&stdout(
        &["--set", "net.netfilter.nf_conntrack_tcp_loose=0"],
        &middle,
    ));
    assert!(
        loose.contains("sport=42347") && !strict.contains("sport=42347"),
        "{loose}, {strict}"
    );

    let refused = replay(&["--set", "tcp_lose=0"], &capture);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("did you mean tcp_loose"));
    let refused = replay(&["--set", "nf_conntrack_max=99999999999"], &capture);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("16777216 at most"));
}

mod made {
    //! Captures made of packets that are written here.

    use super::*;

    pub(super) fn pcap(link: u32, frames: &[(u32, Vec<u8>)]) -> Vec<u8> {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
        for word in [0, 0, 262_144, link] {
            file.extend(u32::to_le_bytes(word));
        }
        for (seconds, frame) in frames {
            let length = frame.len() as u32;
            for word in [*seconds, 0, length, length] {
                file.extend(u32::to_le_bytes(word));
            }
            file.extend(frame);
        }
        file
    }

    pub(super) fn udp(src: [u8; 4], dst: [u8; 4], ttl: u8, ports: (u16, u16)) -> Vec<u8> {
        let mut bytes = Vec::new();
        etherparse::PacketBuilder::ipv4(src, dst, ttl)
            .udp(ports.0, ports.1)
            .write(&mut bytes, b"payload")
            .unwrap();
        bytes
    }

    /// A frame of a Linux cooked capture: 0 received, 4 sent.
    fn cooked(packet_type: u8, packet: &[u8]) -> Vec<u8> {
        [&[0, packet_type, 0, 1, 0, 6][..], &[0; 8], &[8, 0], packet].concat()
    }

    const A: [u8; 4] = [192, 0, 2, 1];
    const B: [u8; 4] = [192, 0, 2, 2];
    const RAW: u32 = 101;
    const COOKED: u32 = 113;

    #[test]
    fn a_malformed_packet_counts_as_invalid_and_is_no_failure() {
        let mut longer_than_it_is = udp(A, B, 64, (1, 2));
        longer_than_it_is[2] = 9;
        let stump = udp(A, B, 64, (1, 2))[..22].to_vec();
        let out = stdout(&[], &pcap(RAW, &[(1, longer_than_it_is), (1, stump)]));
        assert!(out.contains("invalid=2 "), "{out}");
    }

    #[test]
    fn a_wrong_checksum_is_invalid_but_one_left_to_the_network_card_is_not() {
        let mut wrong = udp(A, B, 64, (1, 2));
        wrong[26] ^= 0x55;
        assert!(stdout(&[], &pcap(RAW, &[(1, wrong)])).contains("invalid=1 "));
        let mut offloaded = udp(A, B, 64, (1, 2));
        let pseudo = u32::from(u16::from_be_bytes([192, 0])) * 2
            + u32::from(u16::from_be_bytes([2, 1]))
            + u32::from(u16::from_be_bytes([2, 2]))
            + 17
            + (offloaded.len() as u32 - 20);
        let pseudo = ((pseudo & 0xffff) + (pseudo >> 16)) as u16;
        offloaded[26..28].copy_from_slice(&pseudo.to_be_bytes());
        let output = replay(&[], &pcap(RAW, &[(1, offloaded)]));
        assert!(text(&output.stdout).contains("invalid=0 "));
        assert!(text(&output.stderr).contains("1 packets whose checksum was left"));
    }

    #[test]
    fn ipv6_and_frames_without_ip_are_counted_and_said() {
        let ethernet =
            |ethertype: [u8; 2]| [&[2; 6][..], &[4; 6], &ethertype, &[0x60; 40]].concat();
        let frames = [(1, ethernet([0x86, 0xdd])), (1, ethernet([0x88, 0xcc]))];
        let output = replay(&[], &pcap(1, &frames));
        assert!(output.status.success());
        let notes = text(&output.stderr);
        assert!(
            notes.contains("1 packets not tracked yet (IPv6)"),
            "{notes}"
        );
        assert!(
            notes.contains("1 frames skipped that carry no IP"),
            "{notes}"
        );
    }

    #[test]
    fn a_last_hop_is_discarded_on_its_way_in_and_confirmed_on_its_way_out() {
        let packet = udp(A, B, 1, (1, 2));
        let received = stdout(&[], &pcap(COOKED, &[(1, cooked(0, &packet))]));
        assert!(!received.contains("udp"), "{received}");
        let sent = stdout(&[], &pcap(COOKED, &[(1, cooked(4, &packet))]));
        assert!(sent.starts_with("udp      17 30 src=192.0.2.1"), "{sent}");
    }

    #[test]
    fn a_gateway_may_be_named() {
        let frame = [&[2; 6][..], &[4; 6], &[8, 0], &udp(A, B, 1, (1, 2))].concat();
        let capture = pcap(1, &[(1, frame)]);
        assert!(stdout(&["--gateway", "04:04:04:04:04:04"], &capture).contains("udp"));
        assert!(!stdout(&["--gateway", "02:02:02:02:02:02"], &capture).contains("udp"));
    }

    #[test]
    fn rules_of_a_file_apply_and_one_that_is_not_understood_is_pointed_at() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules");
        let capture = pcap(RAW, &[(1, udp(A, B, 64, (1111, 53)))]);
        let with = |rule: &str| {
            let file = format!("*nat\n:POSTROUTING ACCEPT [0:0]\n{rule}\nCOMMIT\n");
            std::fs::write(&path, file).unwrap();
            replay(&["--rules", path.to_str().unwrap()], &capture)
        };
        let translated = with("-A POSTROUTING -p udp -j SNAT --to-source 203.0.113.9");
        let out = text(&translated.stdout);
        assert!(
            out.contains("src=192.0.2.2 dst=203.0.113.9 sport=53 dport=1111"),
            "{out}"
        );
        let refused = with("-A POSTROUTING -j SNAT --to-sauce 203.0.113.9");
        assert_eq!(refused.status.code(), Some(2));
        assert!(refused.stdout.is_empty());
        let said = text(&refused.stderr);
        assert!(
            said.contains("--to-sauce") && said.contains("^^^"),
            "{said}"
        );
    }

    #[test]
    fn connections_that_ran_out_before_the_end_are_not_listed_and_are_destroyed_in_time() {
        let frames = [(1, udp(A, B, 64, (1, 2))), (300, udp(A, B, 64, (3, 4)))];
        let out = stdout(&["--events"], &pcap(RAW, &frames));
        let kinds: Vec<_> = out
            .lines()
            .filter_map(|line| line.split(['[', ']']).nth(3))
            .collect();
        assert_eq!(kinds, ["NEW", "DESTROY", "NEW"]);
        assert_eq!(out.lines().filter(is_listed).count(), 1);
    }

    #[test]
    fn several_captures_are_one_by_time() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, capture: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, capture).unwrap();
            path
        };
        let question = write(
            "there.pcap",
            &pcap(
                RAW,
                &[(1, udp(A, B, 64, (1, 2))), (4, udp(A, B, 64, (1, 2)))],
            ),
        );
        let answer = write("back.pcap", &pcap(RAW, &[(2, udp(B, A, 64, (2, 1)))]));
        let output = clashtrack(&["replay"])
            .args([answer, question])
            .output()
            .unwrap();
        let out = text(&output.stdout);
        assert!(
            out.starts_with("udp      17 120 src=192.0.2.1 dst=192.0.2.2 sport=1"),
            "{out}"
        );
        assert!(out.contains("[ASSURED]"), "{out}");
    }

    #[test]
    fn events_do_not_go_into_a_csv_table() {
        let capture = pcap(RAW, &[(1, udp(A, B, 64, (1, 2)))]);
        assert_eq!(
            replay(&["--events", "--format", "csv"], &capture)
                .status
                .code(),
            Some(2)
        );
        let csv = stdout(&["--format", "csv"], &capture);
        assert!(csv.starts_with("proto,state,timeout_s,"), "{csv}");
    }
}
