//! Cases 1–41: TCP. Client a:1234, server b:4321; the connection is printed as
//! `STATE seconds-left [flags]`.

use crate::lab::{CLIENT, LAN, Lab, SERVER};
use crate::packets::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, ipv4, segment};
use clashtrack_engine::tuple::Protocol;

/// Client's first sequence number, and server's.
const ISN: u32 = 1000;
const SERVER_ISN: u32 = 5000;

fn syn_sent() -> Lab {
    let mut lab = Lab::new();
    assert!(lab.o(&segment(SYN, ISN, 0)).accepted());
    lab
}

fn syn_recv() -> Lab {
    let mut lab = syn_sent();
    assert!(lab.r(&segment(SYN | ACK, SERVER_ISN, ISN + 1)).accepted());
    lab
}

fn established() -> Lab {
    let mut lab = Lab::new();
    lab.open();
    lab
}

/// Established, and the server has acknowledged once more, so that its acknowledgement is known.
fn established_acked() -> Lab {
    let mut lab = established();
    lab.r(&segment(ACK, SERVER_ISN + 1, ISN + 1));
    lab
}

/// Closed with FINs by the client first: `TIME_WAIT`.
fn time_wait() -> Lab {
    let mut lab = established();
    lab.o(&segment(FIN | ACK, ISN + 1, SERVER_ISN + 1));
    lab.r(&segment(FIN | ACK, SERVER_ISN + 1, ISN + 2));
    lab.o(&segment(ACK, ISN + 2, SERVER_ISN + 2));
    assert_eq!(lab.tcp(), "TIME_WAIT 120 [ASSURED]");
    lab
}

#[test]
fn case_01_a_syn_begins_a_connection() {
    assert_eq!(syn_sent().tcp(), "SYN_SENT 120 [UNREPLIED]");
}

#[test]
fn case_02_a_syn_ack_answers_it() {
    assert_eq!(syn_recv().tcp(), "SYN_RECV 60");
}

#[test]
fn case_03_the_third_packet_establishes_and_assures_it() {
    let mut lab = syn_recv();
    lab.o(&segment(ACK, ISN + 1, SERVER_ISN + 1));
    assert_eq!(lab.tcp(), "ESTABLISHED 432000 [ASSURED]");
    assert!(lab.moved().is_empty());
}

#[test]
fn case_04_data_without_acknowledgement_shortens_the_timeout() {
    let mut lab = established();
    lab.o(&segment(ACK, ISN + 1, SERVER_ISN + 1).data(100));
    assert_eq!(lab.tcp(), "ESTABLISHED 300 [ASSURED]");
    lab.r(&segment(ACK, SERVER_ISN + 1, ISN + 1));
    assert_eq!(
        lab.tcp(),
        "ESTABLISHED 300 [ASSURED]",
        "an ACK of the old data alone"
    );
    lab.r(&segment(ACK, SERVER_ISN + 1, ISN + 101));
    assert_eq!(lab.tcp(), "ESTABLISHED 432000 [ASSURED]");
}

#[test]
fn case_05_the_client_closes_first() {
    let mut lab = established();
    lab.o(&segment(FIN | ACK, ISN + 1, SERVER_ISN + 1));
    assert_eq!(lab.tcp(), "FIN_WAIT 120 [ASSURED]");
    lab.r(&segment(ACK, SERVER_ISN + 1, ISN + 2));
    assert_eq!(lab.tcp(), "CLOSE_WAIT 60 [ASSURED]");
    lab.r(&segment(FIN | ACK, SERVER_ISN + 1, ISN + 2));
    assert_eq!(lab.tcp(), "LAST_ACK 30 [ASSURED]");
    lab.o(&segment(ACK, ISN + 2, SERVER_ISN + 2));
    assert_eq!(lab.tcp(), "TIME_WAIT 120 [ASSURED]");
}

#[test]
fn case_06_the_server_closes_first() {
    let mut lab = established();
    lab.r(&segment(FIN | ACK, SERVER_ISN + 1, ISN + 1));
    assert_eq!(lab.tcp(), "FIN_WAIT 120 [ASSURED]");
    lab.o(&segment(ACK, ISN + 1, SERVER_ISN + 2));
    assert_eq!(lab.tcp(), "CLOSE_WAIT 60 [ASSURED]");
    lab.o(&segment(FIN | ACK, ISN + 1, SERVER_ISN + 2));
    assert_eq!(lab.tcp(), "LAST_ACK 30 [ASSURED]");
    lab.r(&segment(ACK, SERVER_ISN + 2, ISN + 2));
    assert_eq!(lab.tcp(), "TIME_WAIT 120 [ASSURED]");
}

#[test]
fn case_07_a_fin_that_acknowledges_the_fin_goes_straight_to_last_ack() {
    let mut lab = established();
    lab.o(&segment(FIN | ACK, ISN + 1, SERVER_ISN + 1));
    lab.r(&segment(FIN | ACK, SERVER_ISN + 1, ISN + 2));
    assert_eq!(lab.tcp(), "LAST_ACK 30 [ASSURED]");
    lab.o(&segment(ACK, ISN + 2, SERVER_ISN + 2));
    assert_eq!(lab.tcp(), "TIME_WAIT 120 [ASSURED]");
}

#[test]
fn case_08_a_syn_reopens_a_closed_connection_as_a_new_one() {
    for seq in [ISN + 100_000, ISN - 500] {
        let mut lab = time_wait();
        assert!(lab.o(&segment(SYN, seq, 0)).accepted());
        assert_eq!(lab.tcp(), "SYN_SENT 120 [UNREPLIED]", "seq {seq}");
        assert!(lab.moved().is_empty());
        assert_eq!(lab.engine.count(), 1);
    }
}

#[test]
fn case_09_a_syn_of_the_server_reopens_it_with_the_roles_swapped() {
    let mut lab = time_wait();
    assert!(lab.r(&segment(SYN, 9000, 0)).accepted());
    assert_eq!(lab.tcp(), "SYN_SENT 120 [UNREPLIED] swapped");
    assert_eq!(lab.engine.count(), 1);
}

#[test]
fn case_10_a_repeated_syn_does_not_refresh_the_timeout() {
    let mut lab = syn_sent();
    lab.wait(2.0);
    assert!(lab.o(&segment(SYN, ISN, 0)).accepted());
    assert_eq!(lab.tcp(), "SYN_SENT 118 [UNREPLIED]");
}

#[test]
fn case_11_a_reset_in_answer_to_the_syn_removes_the_connection() {
    let mut lab = syn_sent();
    assert!(lab.r(&segment(RST | ACK, 0, ISN + 1)).accepted());
    assert_eq!(lab.tcp(), "-");
    assert_eq!((lab.engine.count(), lab.moved().len()), (0, 0));
}

#[test]
fn case_12_a_reset_of_the_client_removes_it_too() {
    let mut lab = syn_sent();
    assert!(lab.o(&segment(RST, ISN + 1, 0)).accepted());
    assert_eq!(lab.tcp(), "-");
}

#[test]
fn case_13_a_challenge_ack_is_let_through_without_effect() {
    let mut lab = syn_sent();
    lab.wait(3.0);
    assert!(lab.r(&segment(ACK, 777_000, 888_000)).accepted());
    assert_eq!(lab.tcp(), "SYN_SENT 117");
}

#[test]
fn case_14_a_reset_in_answer_to_the_challenge_closes_and_a_syn_begins_anew() {
    let mut lab = syn_sent();
    lab.r(&segment(ACK, 777_000, 888_000));
    assert!(lab.o(&segment(RST, 888_000, 0)).accepted());
    assert_eq!(lab.tcp(), "CLOSE 10");
    assert!(lab.o(&segment(SYN, ISN, 0)).accepted());
    assert_eq!(lab.tcp(), "SYN_SENT 120 [UNREPLIED]");
}

#[test]
fn case_15_a_syn_ack_of_what_was_never_sent_is_invalid() {
    let mut lab = syn_sent();
    assert!(
        lab.r(&segment(SYN | ACK, SERVER_ISN, ISN + 500))
            .is_invalid()
    );
    assert_eq!(lab.tcp(), "SYN_SENT 120 [UNREPLIED]");
    assert_eq!(lab.moved(), [("invalid", 1)]);
    assert!(
        lab.r(&segment(SYN | ACK, SERVER_ISN, 777)).accepted(),
        "too low, but not by 66000"
    );
    assert_eq!(lab.tcp(), "SYN_RECV 60");
}

#[test]
fn case_16_a_repeated_syn_ack_is_ignored() {
    let mut lab = syn_recv();
    lab.wait(5.0);
    assert!(lab.r(&segment(SYN | ACK, SERVER_ISN, ISN + 1)).accepted());
    assert_eq!(lab.tcp(), "SYN_RECV 55");
}

#[test]
fn case_17_an_exact_reset_during_the_handshake_closes() {
    let mut lab = syn_recv();
    assert!(
        lab.r(&segment(RST | ACK, SERVER_ISN + 1, ISN + 1))
            .accepted()
    );
    assert_eq!(lab.tcp(), "CLOSE 10");
}

#[test]
fn case_18_a_reset_of_sequence_zero_during_the_handshake_changes_nothing() {
    // Zero lies more than a window before the server's numbers: too old, so ignored.
    let mut lab = syn_sent();
    lab.r(&segment(SYN | ACK, 1_000_000, ISN + 1));
    assert!(lab.r(&segment(RST, 0, 0)).accepted());
    assert_eq!(lab.tcp(), "SYN_RECV 60");
}

#[test]
fn case_19_a_reset_at_the_expected_number_closes() {
    let mut lab = established_acked();
    assert!(lab.r(&segment(RST, SERVER_ISN + 1, 0)).accepted());
    assert_eq!(lab.tcp(), "CLOSE 10 [ASSURED]");
}

#[test]
fn case_20_a_reset_before_the_acknowledged_is_invalid() {
    let mut lab = established_acked();
    assert!(lab.r(&segment(RST, SERVER_ISN - 10, 0)).is_invalid());
    assert_eq!(lab.tcp(), "ESTABLISHED 432000 [ASSURED]");
    assert_eq!(lab.moved(), [("invalid", 1)]);
}

#[test]
fn case_21_unless_tcp_ignore_invalid_rst_says_otherwise() {
    let mut lab = Lab::sysctls(|s| s.tcp_ignore_invalid_rst = true);
    lab.open();
    lab.r(&segment(ACK, SERVER_ISN + 1, ISN + 1));
    assert!(!lab.r(&segment(RST, SERVER_ISN - 10, 0)).is_invalid());
    assert!(lab.tcp().starts_with("ESTABLISHED"));
}

#[test]
fn case_22_a_reset_in_the_window_but_not_exact_keeps_the_state_for_the_close_timeout() {
    let mut lab = established_acked();
    assert!(lab.r(&segment(RST, SERVER_ISN + 100, 0)).accepted());
    assert_eq!(lab.tcp(), "ESTABLISHED 10 [ASSURED]");
}

#[test]
fn case_23_a_reset_far_outside_the_window_is_invalid() {
    let mut lab = established_acked();
    assert!(lab.r(&segment(RST, SERVER_ISN + 1_000_000, 0)).is_invalid());
    assert_eq!(lab.tcp(), "ESTABLISHED 432000 [ASSURED]");
}

#[test]
fn case_24_a_reset_right_behind_data_closes() {
    let mut lab = established();
    lab.r(&segment(ACK, SERVER_ISN + 1, ISN + 1).data(19));
    assert!(lab.r(&segment(RST, SERVER_ISN + 20, 0)).accepted());
    assert_eq!(lab.tcp(), "CLOSE 10 [ASSURED]");
}

#[test]
fn case_25_a_syn_after_the_servers_reset_is_ignored_until_it_is_answered() {
    let mut lab = established_acked();
    lab.r(&segment(RST, SERVER_ISN + 1, 0));
    lab.wait(2.0);
    assert!(lab.o(&segment(SYN, 80_000, 0)).accepted());
    assert_eq!(lab.tcp(), "CLOSE 8 [ASSURED]");
    assert!(lab.r(&segment(SYN | ACK, 90_000, 80_001)).accepted());
    assert_eq!(lab.tcp(), "SYN_RECV 60 [ASSURED]");
}

#[test]
fn case_26_a_syn_after_the_clients_own_reset_begins_anew() {
    let mut lab = established_acked();
    lab.o(&segment(RST, ISN + 1, 0));
    assert_eq!(lab.tcp(), "CLOSE 10 [ASSURED]");
    lab.o(&segment(SYN, 5, 0));
    assert_eq!(lab.tcp(), "SYN_SENT 120 [UNREPLIED]");
}

#[test]
fn case_27_a_forgotten_connection_is_reset_through_a_challenge_ack() {
    let mut lab = established();
    lab.wait(7.0);
    assert!(lab.o(&segment(SYN, 80_000, 0)).accepted());
    assert_eq!(lab.tcp(), "ESTABLISHED 431993 [ASSURED]");
    assert!(lab.r(&segment(ACK, SERVER_ISN + 1, ISN + 1)).accepted());
    assert!(lab.o(&segment(RST, ISN + 1, 0)).accepted());
    assert_eq!(lab.tcp(), "CLOSE 10 [ASSURED]");
    lab.o(&segment(SYN, 80_000, 0));
    assert_eq!(lab.tcp(), "SYN_SENT 120 [UNREPLIED]");
}

#[test]
fn case_28_a_challenge_ack_in_last_ack_is_taken_for_one_once() {
    let mut lab = established();
    lab.o(&segment(FIN | ACK, ISN + 1, SERVER_ISN + 1));
    lab.r(&segment(FIN | ACK, SERVER_ISN + 1, ISN + 2));
    assert_eq!(lab.tcp(), "LAST_ACK 30 [ASSURED]");
    assert!(lab.o(&segment(SYN, 80_000, 0)).accepted());
    assert!(lab.r(&segment(ACK, SERVER_ISN + 2, ISN + 2)).accepted());
    assert_eq!(lab.tcp(), "LAST_ACK 30 [ASSURED]");
    assert!(lab.r(&segment(ACK, SERVER_ISN + 2, ISN + 2)).accepted());
    assert_eq!(lab.tcp(), "TIME_WAIT 120 [ASSURED]");
}

#[test]
fn case_29_simultaneous_open() {
    let mut lab = syn_sent();
    lab.r(&segment(SYN, SERVER_ISN, 0));
    assert_eq!(lab.tcp(), "SYN_SENT2 120");
    lab.o(&segment(SYN | ACK, ISN, SERVER_ISN + 1));
    assert_eq!(lab.tcp(), "SYN_RECV 60");
    lab.r(&segment(SYN | ACK, SERVER_ISN, ISN + 1));
    assert_eq!(lab.tcp(), "SYN_RECV 60");
    lab.o(&segment(ACK, ISN + 1, SERVER_ISN + 1));
    assert_eq!(lab.tcp(), "ESTABLISHED 432000 [ASSURED]");
}

#[test]
fn case_30_a_connection_is_picked_up_from_its_middle() {
    let mut lab = Lab::new();
    lab.o(&segment(ACK, ISN, SERVER_ISN));
    assert_eq!(lab.tcp(), "ESTABLISHED 300 [UNREPLIED]");
    lab.r(&segment(ACK, SERVER_ISN, ISN));
    assert_eq!(lab.tcp(), "ESTABLISHED 300");
    lab.o(&segment(ACK, ISN, SERVER_ISN));
    assert_eq!(lab.tcp(), "ESTABLISHED 432000 [ASSURED]");
}

#[test]
fn case_31_unless_tcp_loose_is_off() {
    let mut lab = Lab::sysctls(|s| s.tcp_loose = false);
    assert!(lab.o(&segment(ACK, ISN, SERVER_ISN)).is_invalid());
    assert_eq!((lab.tcp(), lab.moved()), ("-".into(), vec![("invalid", 1)]));
}

#[test]
fn case_32_only_a_syn_or_an_ack_begins_a_connection() {
    for flags in [
        FIN,
        FIN | ACK,
        SYN | ACK,
        RST,
        RST | ACK,
        0,
        URG,
        SYN | FIN,
        SYN | RST,
    ] {
        let mut lab = Lab::new();
        assert!(
            lab.o(&segment(flags, ISN, SERVER_ISN)).is_invalid(),
            "flags {flags:#x}"
        );
        assert_eq!(
            (lab.engine.count(), lab.moved()),
            (0, vec![("invalid", 1)]),
            "flags {flags:#x}"
        );
    }
    for (flags, state) in [(SYN | ECE | CWR, "SYN_SENT"), (PSH | ACK, "ESTABLISHED")] {
        let mut lab = Lab::new();
        lab.o(&segment(flags, ISN, SERVER_ISN));
        assert!(
            lab.tcp().starts_with(state),
            "flags {flags:#x}: {}",
            lab.tcp()
        );
    }
}

#[test]
fn case_33_a_header_cut_to_the_ports_is_invalid() {
    for length in [2, 4] {
        let mut lab = Lab::new();
        let l4 = &segment(SYN, ISN, 0).packet(CLIENT, SERVER)[20..20 + length];
        assert!(
            lab.send(LAN, ipv4(CLIENT.0, SERVER.0, Protocol::TCP, l4))
                .is_invalid()
        );
        assert_eq!(
            (lab.engine.count(), lab.moved()),
            (0, vec![("invalid", 1)]),
            "{length} bytes"
        );
    }
}

#[test]
fn case_34_data_far_right_of_the_window_is_invalid_unless_liberal() {
    let far = segment(ACK, ISN + 1 + 1_000_000, SERVER_ISN + 1).data(10);
    let mut lab = established_acked();
    assert!(lab.o(&far).is_invalid());
    let mut lab = Lab::sysctls(|s| s.tcp_be_liberal = true);
    lab.open();
    lab.r(&segment(ACK, SERVER_ISN + 1, ISN + 1));
    assert!(!lab.o(&far).is_invalid());
}

#[test]
fn case_35_an_ack_of_data_never_sent_is_invalid_unless_liberal() {
    let never_sent = segment(ACK, ISN + 1, SERVER_ISN + 500_000);
    let mut lab = established_acked();
    assert!(lab.o(&never_sent).is_invalid());
    let mut lab = Lab::sysctls(|s| s.tcp_be_liberal = true);
    lab.open();
    assert!(!lab.o(&never_sent).is_invalid());
}

#[test]
fn case_36_very_old_data_and_very_old_acks_pass_without_effect() {
    let mut lab = established_acked();
    lab.wait(5.0);
    assert!(
        !lab.o(&segment(ACK, ISN.wrapping_sub(200_000), SERVER_ISN + 1).data(5))
            .is_invalid()
    );
    assert_eq!(lab.tcp(), "ESTABLISHED 431995 [ASSURED]");
    assert!(
        !lab.o(&segment(ACK, ISN + 1, SERVER_ISN.wrapping_sub(200_000)))
            .is_invalid()
    );
    assert_eq!(lab.tcp(), "ESTABLISHED 431995 [ASSURED]");
}

#[test]
fn case_37_data_that_begins_in_the_window_passes_and_a_little_overshoot_is_ignored() {
    let mut lab = Lab::new();
    lab.o(&segment(SYN, ISN, 0).window(1000));
    lab.r(&segment(SYN | ACK, SERVER_ISN, ISN + 1).window(1000));
    lab.o(&segment(ACK, ISN + 1, SERVER_ISN + 1).window(1000));
    lab.r(&segment(ACK, SERVER_ISN + 1, ISN + 1).window(1000));
    lab.wait(5.0);
    assert!(
        !lab.o(&segment(ACK, ISN + 901, SERVER_ISN + 1)
            .data(200)
            .window(1000))
            .is_invalid()
    );
    assert_eq!(
        lab.tcp(),
        "ESTABLISHED 300 [ASSURED]",
        "refreshed: 200 bytes wait for their ACK"
    );
}

#[test]
fn case_38_a_fin_outside_the_window_answered_by_another_shortens_the_timeout() {
    let mut lab = established_acked();
    assert!(
        lab.o(&segment(FIN | ACK, ISN + 900_000, SERVER_ISN + 1))
            .is_invalid()
    );
    assert_eq!(lab.tcp(), "ESTABLISHED 432000 [ASSURED]");
    assert!(
        lab.r(&segment(FIN | ACK, SERVER_ISN + 900_000, ISN + 1))
            .is_invalid()
    );
    assert_eq!(lab.tcp(), "ESTABLISHED 300 [ASSURED]");
}

#[test]
fn case_39_repetitions_without_end_shorten_the_timeout() {
    let mut lab = established_acked();
    for (n, expected) in [432_000, 432_000, 432_000, 300, 300]
        .into_iter()
        .enumerate()
    {
        lab.o(&segment(ACK, ISN + 1, SERVER_ISN + 1));
        assert_eq!(
            lab.tcp(),
            format!("ESTABLISHED {expected} [ASSURED]"),
            "number {}",
            n + 1
        );
    }
}

#[test]
fn case_40_a_closed_window_shortens_the_timeout() {
    let mut lab = established();
    lab.r(&segment(ACK, SERVER_ISN + 1, ISN + 1).window(0));
    assert_eq!(lab.tcp(), "ESTABLISHED 300 [ASSURED]");
    lab.o(&segment(ACK, ISN + 1, SERVER_ISN + 1));
    assert_eq!(lab.tcp(), "ESTABLISHED 432000 [ASSURED]");
}

#[test]
fn case_41_a_bad_checksum_is_invalid_only_where_it_is_verified() {
    let mut bytes = segment(SYN, ISN, 0).packet(CLIENT, SERVER);
    bytes[36] ^= 0x55;
    assert!(Lab::new().send(LAN, bytes.clone()).is_invalid());
    assert!(
        !Lab::sysctls(|s| s.checksum = false)
            .send(LAN, bytes.clone())
            .is_invalid()
    );
    let local = clashtrack_engine::packet::Origin::Local;
    assert!(
        !Lab::new().send(local, bytes).is_invalid(),
        "never at LOCAL_OUT"
    );
}
