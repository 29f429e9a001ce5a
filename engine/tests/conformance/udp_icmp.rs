//! Cases 42–53: UDP, ICMP and the protocols without a tracker of their own.

use crate::lab::{A, B, LAN, Lab, WAN, in_words};
use crate::packets::{ACK, SYN, icmp, ip, ipv4, query, segment, udp, udplite, unreachable};
use clashtrack_engine::event::Event;
use clashtrack_engine::status::{CtInfo, Status};
use clashtrack_engine::time::SECOND;
use clashtrack_engine::tuple::Protocol;

fn question() -> Vec<u8> {
    udp((A, 5000), (B, 53), 20)
}

fn answer() -> Vec<u8> {
    udp((B, 53), (A, 5000), 40)
}

fn words(lab: &mut Lab, bytes: &[u8]) -> String {
    lab.ct_of(bytes).map_or("-".into(), |ct| in_words(&ct))
}

#[test]
fn case_42_udp_answered_within_two_seconds_is_no_stream() {
    let mut lab = Lab::new();
    lab.send(LAN, question());
    assert_eq!(words(&mut lab, &question()), "30 [UNREPLIED]");
    lab.wait(0.5);
    lab.send(WAN, answer());
    assert_eq!(words(&mut lab, &question()), "30");
    lab.wait(0.5);
    lab.send(LAN, question());
    assert_eq!(words(&mut lab, &question()), "30");
}

#[test]
fn case_43_udp_becomes_a_stream_after_two_seconds_of_two_way_traffic() {
    let mut lab = Lab::new();
    lab.send(LAN, question());
    lab.send(WAN, answer());
    lab.wait(2.2);
    lab.send(WAN, answer());
    assert_eq!(words(&mut lab, &question()), "120 [ASSURED]");

    let mut lab = Lab::new();
    lab.send(LAN, question());
    lab.wait(2.2);
    lab.send(WAN, answer());
    assert_eq!(
        words(&mut lab, &question()),
        "30",
        "the first answer finds no answer yet"
    );
    lab.send(LAN, question());
    assert_eq!(words(&mut lab, &question()), "120 [ASSURED]");
}

#[test]
fn case_44_udp_cut_short_or_longer_than_it_is_is_invalid() {
    let mut lab = Lab::new();
    let short = ipv4(A, B, Protocol::UDP, &[0x13, 0x88, 0, 53, 0, 8]);
    assert!(lab.send(LAN, short).is_invalid());
    let mut long = question();
    long[25] += 1;
    assert!(lab.send(LAN, long).is_invalid());
    assert_eq!((lab.engine.count(), lab.moved()), (0, vec![("invalid", 2)]));
}

#[test]
fn case_45_udplite_without_checksum_is_invalid_and_its_answer_assures_at_once() {
    let mut lab = Lab::new();
    let mut unsummed = udplite((A, 5000), (B, 53), 20);
    unsummed[26..28].fill(0);
    assert!(lab.send(LAN, unsummed).is_invalid());
    let question = udplite((A, 5000), (B, 53), 20);
    lab.send(LAN, question.clone());
    lab.send(WAN, udplite((B, 53), (A, 5000), 20));
    lab.send(LAN, question.clone());
    assert_eq!(words(&mut lab, &question), "120 [ASSURED]");
}

#[test]
fn case_46_an_echo_and_its_reply_are_one_connection() {
    let mut lab = Lab::new();
    lab.send(LAN, query(A, B, 8, 77));
    assert_eq!(words(&mut lab, &query(A, B, 8, 77)), "30 [UNREPLIED]");
    lab.send(WAN, query(B, A, 0, 77));
    assert_eq!(words(&mut lab, &query(A, B, 8, 77)), "30");
    assert_eq!(lab.engine.count(), 1);
    lab.send(LAN, query(A, B, 13, 78));
    assert_eq!(lab.engine.count(), 2);
}

#[test]
fn case_47_an_answer_without_a_question_is_invalid() {
    for kind in [0, 9, 18] {
        let mut lab = Lab::new();
        assert!(lab.send(WAN, query(B, A, kind, 1)).is_invalid());
        assert_eq!(
            (lab.engine.count(), lab.moved()),
            (0, vec![("invalid", 1)]),
            "type {kind}"
        );
    }
}

#[test]
fn case_48_icmp_errors_about_nothing_and_unknown_types_count_as_error() {
    let mut messages: Vec<_> = [3, 5, 12, 19, 40]
        .map(|kind| icmp(B, A, kind, 0, [0; 4], &[0; 8]))
        .into();
    messages.push(ipv4(B, A, Protocol::ICMP, &[8, 0, 0xf7, 0xff]));
    for bytes in messages {
        let mut lab = Lab::new();
        assert!(lab.send(WAN, bytes.clone()).is_invalid());
        assert_eq!(
            (lab.engine.count(), lab.moved()),
            (0, vec![("error", 1)]),
            "{bytes:?}"
        );
    }
}

#[test]
fn case_49_an_icmp_error_about_a_connections_packet_is_related_to_it() {
    let mut lab = Lab::new();
    lab.send(LAN, question());
    lab.wait(4.0);
    let error = lab.send(WAN, unreachable(ip(198, 51, 100, 99), A, &question()));
    assert_eq!(error.ctinfo, Some(CtInfo::RelatedReply));
    assert_eq!(words(&mut lab, &question()), "26 [UNREPLIED]");
    assert!(lab.moved().is_empty());
}

#[test]
fn case_50_an_icmp_error_to_somebody_else_or_about_others_ports_is_not() {
    let mut lab = Lab::new();
    lab.send(LAN, question());
    for error in [
        unreachable(B, ip(10, 0, 0, 12), &question()),
        unreachable(B, A, &udp((A, 5001), (B, 53), 20)),
    ] {
        assert!(lab.send(WAN, error).is_invalid());
        assert_eq!(lab.moved(), [("error", 1)]);
    }
}

#[test]
fn case_51_gre_has_no_keys_but_pptps_call_id() {
    let mut lab = Lab::new();
    let plain = ipv4(A, B, Protocol::GRE, &[0, 0, 8, 0, 1, 2, 3, 4]);
    lab.send(LAN, plain.clone());
    let ct = lab.ct_of(&plain).expect("tracked");
    assert_eq!(
        (
            ct.original.src_key,
            ct.original.dst_key,
            ct.remaining / SECOND
        ),
        (0, 0, 30)
    );
    let pptp = ipv4(
        A,
        B,
        Protocol::GRE,
        &[0x30, 1, 0x88, 0x0b, 0, 4, 0x12, 0x34, 0, 0, 0, 1],
    );
    lab.send(LAN, pptp.clone());
    let ct = lab.ct_of(&pptp).expect("tracked");
    assert_eq!((ct.original.dst_key, ct.reply.src_key), (0x1234, 0x1234));
    let other = ipv4(A, B, Protocol::GRE, &[0x30, 1, 8, 0, 0, 4, 0x12, 0x34]);
    assert!(lab.send(LAN, other).is_invalid());
}

#[test]
fn case_52_a_protocol_without_tracker_is_one_connection_per_pair_of_hosts() {
    for protocol in [253, 33] {
        let mut lab = Lab::new();
        let bytes = ipv4(A, B, Protocol(protocol), &[1, 2, 3, 4]);
        lab.send(LAN, bytes.clone());
        assert_eq!(words(&mut lab, &bytes), "600 [UNREPLIED]");
        let ct = lab.ct_of(&bytes).unwrap();
        assert_eq!(ct.original.protocol.name(), "unknown");
        lab.send(LAN, ipv4(A, B, Protocol(protocol), &[9, 9, 9, 9]));
        assert_eq!(lab.engine.count(), 1);
    }
}

#[test]
fn case_53_sctp_begins_with_an_init_of_tag_zero() {
    let mut lab = Lab::new();
    assert!(
        lab.send(
            LAN,
            ipv4(
                A,
                B,
                Protocol::SCTP,
                &[0x13, 0x88, 0, 80, 1, 2, 3, 4, 9, 9, 9, 9]
            )
        )
        .is_invalid()
    );
    let init = sctp_init();
    lab.send(LAN, init.clone());
    assert_eq!(words(&mut lab, &init), "10 [UNREPLIED]");
}

/// An SCTP INIT of tag 0, with the CRC32c it needs where checksums are verified.
fn sctp_init() -> Vec<u8> {
    let mut l4 = vec![0x13, 0x88, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0];
    l4.extend([
        1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0x10, 0, 0, 10, 0, 10, 0, 0, 0, 1,
    ]);
    let crc = crc32c(&l4);
    l4[8..12].copy_from_slice(&crc.to_le_bytes());
    ipv4(A, B, Protocol::SCTP, &l4)
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| {
            (c >> 1) ^ (0x82f6_3b78 & (c & 1).wrapping_neg())
        })
    })
}

#[test]
fn case_97_udplite_with_the_sum_of_its_rfc_is_invalid_where_sums_are_verified() {
    let mut rfc = udplite((A, 5000), (B, 53), 20);
    // The pseudo header's protocol is 136, not 17: the sum is smaller by the difference.
    let sum = u16::from_be_bytes([rfc[26], rfc[27]]);
    let with_136 = clashtrack_engine::packet::checksum::replace16(sum, 17, 136);
    rfc[26..28].copy_from_slice(&with_136.to_be_bytes());
    assert!(Lab::new().send(LAN, rfc.clone()).is_invalid());
    assert!(
        Lab::sysctls(|s| s.checksum = false)
            .send(LAN, rfc)
            .accepted()
    );
}

#[test]
fn case_89_a_packet_over_loopback_is_tracked_once() {
    let mut lab = Lab::with(crate::lab::null_bindings(), |_| {});
    let host = crate::lab::LOCALHOST;
    let local = clashtrack_engine::packet::Origin::Local;
    let syn = segment(SYN, 1, 0).packet((host, 1234), (host, 80));
    assert_eq!(lab.send(local, syn.clone()).ctinfo, Some(CtInfo::New));
    assert_eq!((lab.engine.count(), lab.moved().len()), (1, 0));
    let events = lab.worker.take_events();
    assert!(
        matches!(events[..], [Event::New(..)]),
        "one NEW and no more: {events:?}"
    );
    assert!(
        lab.ct_of(&syn)
            .unwrap()
            .status
            .contains(Status::NAT_DONE_MASK)
    );
    // An INVALID packet carries nothing, so both places look at it.
    let stray = segment(SYN | ACK, 1, 1).packet((host, 9), (host, 9999));
    assert!(lab.send(local, stray).is_invalid());
    assert_eq!(lab.moved(), [("invalid", 2)]);
}
