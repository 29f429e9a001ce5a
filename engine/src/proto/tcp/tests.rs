//! The tracker driven with whole packets: what the kernel was seen to do with each story.

use super::segment::HeaderFlags;
use super::{TcpConntrackState, nat_view};
use crate::event::Changes;
use crate::hook::HookPoint;
use crate::packet::checksum::{checksum, pseudo_header_v4};
use crate::proto::Action;
use crate::proto::testing::{Flow, ipv4, ports};
use crate::status::Status;
use crate::time::SECOND;
use crate::tuple::Direction::{self, Original, Reply};
use crate::tuple::Protocol;

const SYN: HeaderFlags = HeaderFlags::SYN;
const ACK: HeaderFlags = HeaderFlags::ACK;
const RST: HeaderFlags = HeaderFlags::RST;
const SYN_ACK: HeaderFlags = HeaderFlags::SYN.union(HeaderFlags::ACK);
const FIN_ACK: HeaderFlags = HeaderFlags::FIN.union(HeaderFlags::ACK);
const RST_ACK: HeaderFlags = HeaderFlags::RST.union(HeaderFlags::ACK);

/// Days of an established connection, in seconds.
const ESTABLISHED: u64 = 432_000;
/// Initial sequence numbers of client and server.
const CLIENT: u32 = 1000;
const SERVER: u32 = 5000;
/// Windows that [`tcp`] offers.
const WINDOW: u16 = 1000;

/// A segment's bytes from the IP header on, without options or a checksum.
fn tcp(from: Direction, flags: HeaderFlags, seq: u32, ack: u32, payload: usize) -> Vec<u8> {
    tcp_with_window(from, flags, seq, ack, payload, WINDOW)
}

fn tcp_with_window(
    from: Direction,
    flags: HeaderFlags,
    seq: u32,
    ack: u32,
    payload: usize,
    window: u16,
) -> Vec<u8> {
    let mut l4 = ports(from).to_vec();
    l4.extend(seq.to_be_bytes());
    l4.extend(ack.to_be_bytes());
    l4.extend([0x50, flags.bits()]);
    l4.extend(window.to_be_bytes());
    l4.extend([0; 4]);
    l4.resize(20 + payload, b'x');
    ipv4(from, Protocol::TCP, &l4)
}

impl Flow {
    fn send(&mut self, from: Direction, flags: HeaderFlags, seq: u32, ack: u32) -> bool {
        self.accepts(&tcp(from, flags, seq, ack, 0))
    }

    fn state(&self) -> &'static str {
        TcpConntrackState::from_number(self.tracker().public_state()).name()
    }

    /// State, seconds left, and the flags that `conntrack -L` prints.
    fn line(&self) -> (&'static str, u64, &'static str) {
        let flags = if self.status().contains(Status::ASSURED) {
            "ASSURED"
        } else if self.status().contains(Status::SEEN_REPLY) {
            ""
        } else {
            "UNREPLIED"
        };
        (self.state(), self.left(), flags)
    }

    fn with_syn() -> Flow {
        let mut flow = Flow::new();
        assert!(flow.send(Original, SYN, CLIENT, 0));
        flow
    }

    fn with_syn_ack() -> Flow {
        let mut flow = Flow::with_syn();
        assert!(flow.send(Reply, SYN_ACK, SERVER, CLIENT + 1));
        flow
    }

    fn established() -> Flow {
        let mut flow = Flow::with_syn_ack();
        assert!(flow.send(Original, ACK, CLIENT + 1, SERVER + 1));
        flow
    }

    /// Established, and the server has acknowledged too: resets are judged by that number.
    fn both_acknowledged() -> Flow {
        let mut flow = Flow::established();
        assert!(flow.send(Reply, ACK, SERVER + 1, CLIENT + 1));
        flow
    }

    fn in_time_wait() -> Flow {
        let mut flow = Flow::established();
        flow.send(Original, FIN_ACK, CLIENT + 1, SERVER + 1);
        flow.send(Reply, FIN_ACK, SERVER + 1, CLIENT + 2);
        flow.send(Original, ACK, CLIENT + 2, SERVER + 2);
        assert_eq!(flow.state(), "TIME_WAIT");
        flow
    }
}

#[test]
fn a_handshake_goes_from_syn_sent_to_established_and_assured() {
    let mut flow = Flow::with_syn();
    assert_eq!(flow.line(), ("SYN_SENT", 120, "UNREPLIED"));
    let syn_ack = tcp(Reply, SYN_ACK, SERVER, CLIENT + 1, 0);
    assert_eq!(flow.changes(&syn_ack), Changes::PROTOINFO);
    assert_eq!(flow.line(), ("SYN_RECV", 60, ""));
    let ack = tcp(Original, ACK, CLIENT + 1, SERVER + 1, 0);
    assert_eq!(flow.changes(&ack), Changes::PROTOINFO | Changes::ASSURED);
    assert_eq!(flow.line(), ("ESTABLISHED", ESTABLISHED, "ASSURED"));
    assert_eq!(flow.changes(&ack), Changes::empty(), "nothing new");
}

#[test]
fn unacknowledged_data_shortens_the_timeout_until_all_is_acknowledged() {
    let mut flow = Flow::established();
    flow.accepts(&tcp(Original, ACK, CLIENT + 1, SERVER + 1, 100));
    assert_eq!(flow.left(), 300);
    flow.send(Reply, ACK, SERVER + 1, CLIENT + 51);
    assert_eq!(flow.left(), 300, "only half of it");
    flow.send(Reply, ACK, SERVER + 1, CLIENT + 101);
    assert_eq!(flow.left(), ESTABLISHED);
}

#[test]
fn a_close_from_either_side_ends_in_time_wait() {
    for (first, second) in [(Original, Reply), (Reply, Original)] {
        let mut flow = Flow::established();
        let (a, b) = match first {
            Original => (CLIENT + 1, SERVER + 1),
            Reply => (SERVER + 1, CLIENT + 1),
        };
        let mut lines = Vec::new();
        for (from, flags, seq, ack) in [
            (first, FIN_ACK, a, b),
            (second, ACK, b, a + 1),
            (second, FIN_ACK, b, a + 1),
            (first, ACK, a + 1, b + 1),
        ] {
            assert!(flow.send(from, flags, seq, ack));
            lines.push((flow.state(), flow.left()));
        }
        assert_eq!(
            lines,
            [
                ("FIN_WAIT", 120),
                ("CLOSE_WAIT", 60),
                ("LAST_ACK", 30),
                ("TIME_WAIT", 120)
            ]
        );
    }
}

#[test]
fn a_fin_that_acknowledges_a_fin_leads_to_last_ack_at_once() {
    let mut flow = Flow::established();
    flow.send(Original, FIN_ACK, CLIENT + 1, SERVER + 1);
    flow.send(Reply, FIN_ACK, SERVER + 1, CLIENT + 2);
    assert_eq!(flow.line(), ("LAST_ACK", 30, "ASSURED"));
}

#[test]
fn a_syn_in_time_wait_begins_a_new_connection_with_any_sequence_number() {
    for seq in [CLIENT - 500, CLIENT + 70_000] {
        let mut flow = Flow::in_time_wait();
        assert!(flow.send(Original, SYN, seq, 0));
        assert_eq!(flow.line(), ("SYN_SENT", 120, "UNREPLIED"));
        assert_eq!(nat_view(flow.tracker()).original_end, seq + 1);
    }
}

#[test]
fn a_syn_of_the_other_side_in_time_wait_begins_one_with_the_roles_swapped() {
    let mut flow = Flow::in_time_wait();
    assert_eq!(flow.original_source_port(), 1234);
    assert!(flow.send(Reply, SYN, 1, 0));
    assert_eq!(flow.line(), ("SYN_SENT", 120, "UNREPLIED"));
    assert_eq!(flow.original_source_port(), 4321);
}

#[test]
fn a_repeated_syn_is_accepted_and_buys_no_time() {
    let mut flow = Flow::with_syn();
    flow.wait(2 * SECOND);
    assert!(flow.send(Original, SYN, CLIENT, 0));
    assert_eq!(flow.line(), ("SYN_SENT", 118, "UNREPLIED"));
    assert_eq!(flow.packets(Original), 1, "nor is it counted");
}

#[test]
fn a_reset_before_any_reply_removes_the_connection() {
    for reset in [
        tcp(Reply, RST_ACK, 0, CLIENT + 1, 0),
        tcp(Original, RST, CLIENT + 1, 0, 0),
    ] {
        let mut flow = Flow::with_syn();
        assert_eq!(flow.pass(&reset).action, Action::AcceptAndKill);
        assert!(!flow.exists());
    }
}

#[test]
fn a_challenge_ack_to_a_syn_passes_and_the_reset_that_answers_it_closes() {
    let mut flow = Flow::with_syn();
    flow.wait(SECOND);
    assert!(flow.send(Reply, ACK, 77, 99_999));
    assert_eq!(flow.line(), ("SYN_SENT", 119, ""), "SEEN_REPLY is set");
    assert!(flow.send(Original, RST, 99_999, 0));
    assert_eq!((flow.state(), flow.left()), ("CLOSE", 10));
    assert!(flow.send(Original, SYN, CLIENT, 0));
    assert_eq!(flow.line(), ("SYN_SENT", 120, "UNREPLIED"));
}

#[test]
fn a_syn_ack_must_not_acknowledge_what_was_never_sent() {
    let mut flow = Flow::with_syn();
    assert!(!flow.send(Reply, SYN_ACK, SERVER, CLIENT + 2));
    assert_eq!(flow.line(), ("SYN_SENT", 120, "UNREPLIED"));
    assert!(flow.send(Reply, SYN_ACK, SERVER, CLIENT - 223));
    assert_eq!(flow.state(), "SYN_RECV", "too low an ack is forgiven");
}

#[test]
fn a_repeated_syn_ack_is_ignored() {
    let mut flow = Flow::with_syn_ack();
    flow.wait(5 * SECOND);
    assert!(flow.send(Reply, SYN_ACK, SERVER, CLIENT + 1));
    assert_eq!(flow.line(), ("SYN_RECV", 55, ""));
}

#[test]
fn a_reset_in_syn_recv_must_be_exact() {
    let mut flow = Flow::with_syn_ack();
    assert!(flow.send(Reply, RST_ACK, SERVER + 1, CLIENT + 1));
    assert_eq!(flow.line(), ("CLOSE", 10, ""));

    let mut flow = Flow::with_syn_ack();
    assert!(flow.send(Reply, RST, 0, 0), "too old: ignored");
    assert_eq!(flow.line(), ("SYN_RECV", 60, ""));
}

#[test]
fn a_reset_of_an_established_connection_is_judged_by_how_exact_it_is() {
    let reset = |seq: u32, ignore_invalid: bool| {
        let mut flow = Flow::both_acknowledged();
        flow.sysctls.tcp_ignore_invalid_rst = ignore_invalid;
        let accepted = flow.send(Reply, RST, seq, 0);
        (accepted, flow.state(), flow.left())
    };
    assert_eq!(reset(SERVER + 1, false), (true, "CLOSE", 10), "exact");
    assert_eq!(
        reset(SERVER, false),
        (false, "ESTABLISHED", ESTABLISHED),
        "before the acknowledged"
    );
    let passed = reset(SERVER, true);
    assert_eq!((passed.0, passed.1), (true, "ESTABLISHED"), "let pass");
    assert_eq!(
        reset(SERVER + 500, false),
        (true, "ESTABLISHED", 10),
        "in the window: may draw a challenge ACK"
    );
    assert_eq!(
        reset(SERVER + 9000, false),
        (false, "ESTABLISHED", ESTABLISHED),
        "outside the window"
    );
}

#[test]
fn a_segment_after_an_inexact_reset_restores_the_timeout() {
    let mut flow = Flow::both_acknowledged();
    flow.send(Reply, RST, SERVER + 500, 0);
    assert_eq!(flow.left(), 10);
    flow.send(Original, ACK, CLIENT + 1, SERVER + 1);
    assert_eq!(flow.left(), 300, "the reset's number counts as sent");
    flow.send(Original, ACK, CLIENT + 1, SERVER + 500);
    assert_eq!(flow.left(), ESTABLISHED);
}

#[test]
fn a_reset_right_behind_data_closes() {
    let mut flow = Flow::both_acknowledged();
    flow.accepts(&tcp(Reply, ACK, SERVER + 1, CLIENT + 1, 19));
    assert!(flow.send(Reply, RST, SERVER + 20, 0));
    assert_eq!((flow.state(), flow.left()), ("CLOSE", 10));
}

#[test]
fn a_syn_after_the_servers_reset_is_believed_when_the_server_answers_it() {
    let mut flow = Flow::both_acknowledged();
    flow.send(Reply, RST, SERVER + 1, 0);
    flow.wait(SECOND);
    assert!(flow.send(Original, SYN, 90_000, 0));
    assert_eq!(flow.line(), ("CLOSE", 9, "ASSURED"), "ignored");
    assert!(flow.send(Reply, SYN_ACK, 70_000, 90_001));
    assert_eq!(flow.line(), ("SYN_RECV", 60, "ASSURED"));
}

#[test]
fn a_syn_after_its_own_sides_reset_begins_a_new_connection() {
    let mut flow = Flow::established();
    flow.send(Original, RST, CLIENT + 1, 0);
    assert_eq!(flow.state(), "CLOSE");
    assert!(flow.send(Original, SYN, 3, 0));
    assert_eq!(flow.line(), ("SYN_SENT", 120, "UNREPLIED"));
}

#[test]
fn a_syn_into_a_live_connection_is_settled_by_challenge_and_reset() {
    let mut flow = Flow::established();
    flow.wait(SECOND);
    assert!(flow.send(Original, SYN, 90_000, 0));
    assert_eq!(flow.line(), ("ESTABLISHED", ESTABLISHED - 1, "ASSURED"));
    assert!(flow.send(Reply, ACK, SERVER + 1, CLIENT + 1), "challenge");
    assert!(flow.send(Original, RST, CLIENT + 1, 0));
    assert_eq!((flow.state(), flow.left()), ("CLOSE", 10));
    assert!(flow.send(Original, SYN, 90_000, 0));
    assert_eq!(flow.line(), ("SYN_SENT", 120, "UNREPLIED"));
}

#[test]
fn a_challenge_ack_in_last_ack_is_not_taken_for_the_last_ack() {
    let mut flow = Flow::established();
    flow.send(Original, FIN_ACK, CLIENT + 1, SERVER + 1);
    flow.send(Reply, FIN_ACK, SERVER + 1, CLIENT + 2);
    assert!(flow.send(Original, SYN, 90_000, 0));
    assert!(flow.send(Reply, ACK, SERVER + 2, CLIENT + 2));
    assert_eq!(flow.state(), "LAST_ACK");
    assert!(flow.send(Reply, ACK, SERVER + 2, CLIENT + 2));
    assert_eq!(flow.state(), "TIME_WAIT");
}

#[test]
fn a_simultaneous_open_ends_established() {
    let mut flow = Flow::with_syn();
    assert!(flow.send(Reply, SYN, SERVER, 0));
    assert_eq!(flow.line(), ("SYN_SENT2", 120, ""));
    assert!(flow.send(Original, SYN_ACK, CLIENT, SERVER + 1));
    assert_eq!(flow.line(), ("SYN_RECV", 60, ""));
    assert!(flow.send(Reply, SYN_ACK, SERVER, CLIENT + 1));
    assert_eq!(flow.state(), "SYN_RECV");
    assert!(flow.send(Original, ACK, CLIENT + 1, SERVER + 1));
    assert_eq!(flow.line(), ("ESTABLISHED", ESTABLISHED, "ASSURED"));
}

#[test]
fn an_ack_of_the_other_side_completes_a_simultaneous_open() {
    let mut flow = Flow::with_syn();
    flow.send(Reply, SYN, SERVER, 0);
    flow.send(Original, SYN_ACK, CLIENT, SERVER + 1);
    assert!(flow.send(Reply, ACK, SERVER + 1, CLIENT + 1));
    assert_eq!(flow.state(), "ESTABLISHED");
}

#[test]
fn a_connection_picked_up_from_the_middle_is_assured_by_its_third_packet() {
    let mut flow = Flow::new();
    assert!(flow.send(Original, ACK, 7, 9));
    assert_eq!(flow.line(), ("ESTABLISHED", 300, "UNREPLIED"));
    assert!(flow.send(Reply, ACK, 9, 7));
    assert_eq!(flow.line(), ("ESTABLISHED", 300, ""));
    assert!(flow.send(Original, ACK, 7, 9));
    assert_eq!(flow.line(), ("ESTABLISHED", ESTABLISHED, "ASSURED"));
}

#[test]
fn nothing_is_picked_up_from_the_middle_when_tcp_loose_is_off() {
    let mut flow = Flow::new();
    flow.sysctls.tcp_loose = false;
    assert!(!flow.send(Original, ACK, 7, 9));
    assert!(!flow.exists());
}

#[test]
fn only_a_syn_or_an_ack_begins_a_connection() {
    let begins = |flags: u8| {
        let mut flow = Flow::new();
        flow.send(Original, HeaderFlags::from_bits_retain(flags), 7, 9)
    };
    // FIN, FIN/ACK, SYN/ACK, RST, RST/ACK, NULL, URG, SYN+FIN, SYN+RST
    for flags in [0x01, 0x11, 0x12, 0x04, 0x14, 0x00, 0x20, 0x03, 0x06] {
        assert!(!begins(flags), "{flags:#x}");
    }
    // SYN, SYN+ECE+CWR, ACK, PSH+ACK
    for flags in [0x02, 0xc2, 0x10, 0x18] {
        assert!(begins(flags), "{flags:#x}");
    }
}

#[test]
fn a_header_cut_short_is_invalid() {
    for length in [4, 12, 19] {
        let mut l4 = ports(Original).to_vec();
        l4.resize(length, 0x50);
        assert!(!Flow::new().accepts(&ipv4(Original, Protocol::TCP, &l4)));
    }
}

#[test]
fn packets_outside_the_window_are_invalid_unless_liberal() {
    let far_right = tcp(Original, ACK, CLIENT + 60_000, SERVER + 1, 10);
    let never_sent = tcp(Original, ACK, CLIENT + 1, SERVER + 50, 0);
    for bytes in [far_right, never_sent] {
        for liberal in [false, true] {
            let mut flow = Flow::established();
            flow.sysctls.tcp_be_liberal = liberal;
            assert_eq!(flow.accepts(&bytes), liberal);
            assert_eq!(flow.line(), ("ESTABLISHED", ESTABLISHED, "ASSURED"));
        }
    }
}

#[test]
fn old_and_slightly_overlong_packets_pass_and_change_nothing() {
    let edge = CLIENT + 1 + u32::from(WINDOW);
    for bytes in [
        tcp(Original, ACK, CLIENT.wrapping_sub(5000), SERVER + 1, 10),
        tcp(Original, ACK, CLIENT + 1, SERVER.wrapping_sub(70_000), 0),
        tcp(Original, ACK, edge + 1, SERVER + 1, 500),
    ] {
        let mut flow = Flow::established();
        flow.wait(SECOND);
        assert!(flow.accepts(&bytes));
        assert_eq!(flow.left(), ESTABLISHED - 1);
    }
}

#[test]
fn invalid_fins_of_both_sides_cut_a_long_timeout() {
    let mut flow = Flow::established();
    assert!(!flow.send(Original, FIN_ACK, CLIENT + 90_000, SERVER + 1));
    assert_eq!(flow.left(), ESTABLISHED);
    assert!(!flow.send(Reply, FIN_ACK, SERVER + 90_000, CLIENT + 1));
    assert_eq!(flow.line(), ("ESTABLISHED", 300, "ASSURED"));
}

#[test]
fn an_ack_repeated_three_times_cuts_the_timeout() {
    let mut flow = Flow::both_acknowledged();
    let left: Vec<u64> = (0..5)
        .map(|_| {
            flow.send(Original, ACK, CLIENT + 1, SERVER + 1);
            flow.left()
        })
        .collect();
    assert_eq!(left, [ESTABLISHED, ESTABLISHED, ESTABLISHED, 300, 300]);
}

#[test]
fn a_closed_window_cuts_the_timeout_until_it_opens() {
    let mut flow = Flow::both_acknowledged();
    flow.accepts(&tcp_with_window(Reply, ACK, SERVER + 1, CLIENT + 1, 0, 0));
    assert_eq!(flow.left(), 300);
    flow.send(Original, ACK, CLIENT + 1, SERVER + 1);
    assert_eq!(flow.left(), ESTABLISHED);
}

#[test]
fn a_checksum_is_verified_at_pre_routing_alone() {
    let bad = tcp(Original, SYN, CLIENT, 0, 0);
    let mut good = bad.clone();
    let word = |at: usize| u32::from_be_bytes(bad[at..at + 4].try_into().unwrap());
    let sum = checksum(&bad[20..], pseudo_header_v4(word(12), word(16), 6, 20));
    good[36..38].copy_from_slice(&sum.to_be_bytes());

    for (hook, verify, bytes, accepted) in [
        (HookPoint::PreRouting, true, &good, true),
        (HookPoint::PreRouting, true, &bad, false),
        (HookPoint::PreRouting, false, &bad, true),
        (HookPoint::LocalOut, true, &bad, true),
    ] {
        let mut flow = Flow::new();
        flow.hook = hook;
        flow.sysctls.checksum = verify;
        assert_eq!(flow.accepts(bytes), accepted, "{hook:?} {verify}");
    }
}

#[test]
fn a_fixed_timeout_is_not_refreshed_but_the_packets_are_counted() {
    let mut flow = Flow::established();
    flow.set_status(Status::FIXED_TIMEOUT);
    flow.wait(7 * SECOND);
    let before = flow.packets(Reply);
    assert!(flow.send(Reply, ACK, SERVER + 1, CLIENT + 1));
    assert_eq!(flow.left(), ESTABLISHED - 7);
    assert_eq!(flow.packets(Reply), before + 1);
}

#[test]
fn nat_sees_state_and_how_far_the_original_side_has_sent() {
    let mut flow = Flow::established();
    flow.accepts(&tcp(Original, ACK, CLIENT + 1, SERVER + 1, 100));
    let view = nat_view(flow.tracker());
    assert_eq!(view.state, TcpConntrackState::Established);
    assert_eq!(view.original_end, CLIENT + 101);
}
