//! Cases 62–66, 68, 70 and 98: what NAT chooses, what it keeps, what it rewrites.

use crate::lab::{A, B, GATEWAY, LAN, Lab, WAN, postrouting, prerouting, to};
use crate::packets::{SYN, checksums_hold, ip, ipv4, segment, udp, unreachable};
use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::packet::Origin;
use clashtrack_engine::rules::{NatTarget, Ruleset};
use clashtrack_engine::status::Status;
use clashtrack_engine::tuple::Protocol;

fn snat_to_gateway(flags: NatFlags) -> Ruleset {
    postrouting(NatTarget::Snat(to(Some((GATEWAY, GATEWAY)), None, flags)))
}

/// A client's connection through SNAT holds the tuple gateway:`port` → b:80.
fn with_taken_port(port: u16) -> Lab {
    let mut lab = Lab::with(snat_to_gateway(NatFlags::empty()), |_| {});
    let sent = lab.send(LAN, segment(SYN, 1, 0).packet((A, port), (B, 80)));
    assert_eq!(sent.tuple().src_key, port, "a free port is kept");
    lab.moved();
    lab
}

#[test]
fn case_62_an_un_nated_flow_that_collides_gets_another_source_port() {
    let mut lab = with_taken_port(1000);
    let own = segment(SYN, 9, 0).packet((GATEWAY, 1000), (B, 80));
    let sent = lab.send(Origin::Local, own);
    assert!(sent.accepted());
    assert_ne!(sent.tuple().src_key, 1000);
    assert!(checksums_hold(&sent.bytes));
    assert_eq!(lab.engine.count(), 2);
    let moved = lab.moved();
    assert_eq!((moved.len(), moved[0].0), (1, "found"));
    assert!(
        moved[0].1 >= 3,
        "DST null binding, T1, T0 again, then each port that was taken: {moved:?}"
    );
}

#[test]
fn case_63_the_new_port_is_of_the_old_ones_class() {
    for (port, class) in [
        (70, 1..=511),
        (700, 600..=1023),
        (1024, 1024..=65535),
        (40000, 1024..=65535),
    ] {
        let mut lab = with_taken_port(port);
        let sent = lab.send(
            Origin::Local,
            segment(SYN, 9, 0).packet((GATEWAY, port), (B, 80)),
        );
        let new = sent.tuple().src_key;
        assert!(class.contains(&new) && new != port, "{port} became {new}");
    }
}

#[test]
fn case_64_a_client_port_keeps_the_mapping_it_got_before() {
    let mut lab = Lab::with(snat_to_gateway(NatFlags::empty()), |_| {});
    // The gateway itself holds port 70 towards b:5000, so that a's is moved.
    lab.send(Origin::Local, udp((GATEWAY, 70), (B, 5000), 4));
    let moved = lab.send(LAN, udp((A, 70), (B, 5000), 4)).tuple().src_key;
    assert_ne!(moved, 70);
    let again = lab.send(LAN, udp((A, 70), (B, 5001), 4)).tuple().src_key;
    assert_eq!(again, moved, "though port 70 is free towards b:5001");
}

#[test]
fn case_65_random_changes_the_port_and_a_mapping_to_itself_is_no_nat() {
    for flags in [NatFlags::RANDOM, NatFlags::RANDOM_FULLY] {
        let mut lab = Lab::with(snat_to_gateway(flags), |_| {});
        let ports: std::collections::HashSet<u16> = (0..8)
            .map(|i| {
                lab.send(LAN, udp((A, 5000), (B, 6000 + i), 4))
                    .tuple()
                    .src_key
            })
            .collect();
        assert!(
            ports.len() > 4 && ports.iter().all(|p| *p >= 1024),
            "{ports:?}"
        );
    }
    let mut lab = Lab::with(snat_to_gateway(NatFlags::empty()), |_| {});
    let own = udp((GATEWAY, 5000), (B, 53), 4);
    lab.send(Origin::Local, own.clone());
    let ct = lab.ct_of(&own).unwrap();
    assert!(ct.status.contains(Status::SRC_NAT_DONE) && !ct.status.contains(Status::SRC_NAT));
}

#[test]
fn case_66_dnat_into_a_port_range_takes_the_first_that_is_free() {
    let server = ip(198, 51, 100, 50);
    let target = to(
        Some((server, server)),
        Some((8000, 8009)),
        NatFlags::empty(),
    );
    let mut lab = Lab::with(prerouting(NatTarget::Dnat(target)), |_| {});
    for client in 3000..3010 {
        let sent = lab.send(LAN, segment(SYN, 1, 0).packet((A, client), (B, 80)));
        assert_eq!(sent.tuple().dst_key, 8000);
    }
    // The same client port to another old destination: the reply tuple of 8000 is taken.
    let sent = lab.send(
        LAN,
        segment(SYN, 1, 0).packet((A, 3000), (ip(198, 51, 100, 22), 80)),
    );
    assert_eq!(sent.tuple().dst_key, 8001);
    assert!(lab.moved().is_empty());

    let no_ports = to(Some((server, server)), None, NatFlags::empty());
    let mut lab = Lab::with(prerouting(NatTarget::Dnat(no_ports)), |_| {});
    let sent = lab.send(LAN, segment(SYN, 1, 0).packet((A, 3000), (B, 81)));
    assert_eq!(
        (sent.tuple().dst.as_v4(), sent.tuple().dst_key),
        (server, 81)
    );
}

#[test]
fn case_68_an_address_range_is_chosen_by_the_addresses_alone() {
    let range = Some((ip(198, 51, 100, 101), ip(198, 51, 100, 104)));
    let address = |lab: &mut Lab, client: u16, server| {
        lab.send(LAN, segment(SYN, 1, 0).packet((A, client), (server, 80)))
            .tuple()
            .src
            .as_v4()
    };
    let mut lab = Lab::with(
        postrouting(NatTarget::Snat(to(range, None, NatFlags::empty()))),
        |_| {},
    );
    let first = address(&mut lab, 3000, B);
    assert!((3001..3020).all(|client| address(&mut lab, client, B) == first));
    // Each time from another port: one that was mapped before keeps its mapping (case 64).
    let others: std::collections::HashSet<_> = (22..60)
        .map(|n| address(&mut lab, 4000 + u16::from(n), ip(198, 51, 100, n)))
        .collect();
    assert!(others.len() > 1, "another server, another address");

    let persistent = to(range, None, NatFlags::PERSISTENT);
    let mut lab = Lab::with(postrouting(NatTarget::Snat(persistent)), |_| {});
    let all: std::collections::HashSet<_> = (22..60)
        .map(|n| address(&mut lab, 4000 + u16::from(n), ip(198, 51, 100, n)))
        .collect();
    assert_eq!(
        all.len(),
        1,
        "--persistent: one address whatever the server"
    );
}

#[test]
fn case_70_answers_and_errors_are_translated_back() {
    let mut lab = Lab::with(snat_to_gateway(NatFlags::RANDOM_FULLY), |_| {});
    let question = udp((A, 5000), (B, 53), 20);
    let out = lab.send(LAN, question.clone());
    assert!(checksums_hold(&out.bytes));
    let port = out.tuple().src_key;
    assert_ne!(port, 5000);

    let answer = lab.send(WAN, udp((B, 53), (GATEWAY, port), 30));
    assert_eq!(
        (answer.tuple().dst.as_v4(), answer.tuple().dst_key),
        (A, 5000)
    );
    assert!(checksums_hold(&answer.bytes));

    let error = lab.send(WAN, unreachable(B, GATEWAY, &out.bytes));
    assert!(error.accepted());
    assert!(checksums_hold(&error.bytes));
    let inner = &error.bytes[28..];
    assert_eq!(error.bytes[16..20], A.octets(), "the outer destination");
    assert_eq!(
        inner[12..16],
        A.octets(),
        "the source of the packet it is about"
    );
    assert_eq!(u16::from_be_bytes([inner[20], inner[21]]), 5000);
    assert_eq!(
        inner[..20],
        question[..20],
        "the client's own header, checksum and all"
    );
    assert!(lab.moved().is_empty());
}

#[test]
fn case_98_two_clients_of_a_protocol_without_ports_cannot_share_an_address() {
    for protocol in [Protocol(253), Protocol(50), Protocol::GRE] {
        let mut lab = Lab::with(snat_to_gateway(NatFlags::empty()), |_| {});
        let from = |client| ipv4(client, B, protocol, &[0, 0, 8, 0, 1, 2, 3, 4]);
        assert!(lab.send(LAN, from(A)).accepted());
        assert!(
            !lab.send(LAN, from(ip(10, 0, 0, 12))).accepted(),
            "{protocol:?}"
        );
        let moved = lab.moved();
        assert_eq!(moved[1..], [("insert_failed", 1), ("drop", 1)]);
        assert!(moved[0].0 == "found" && moved[0].1 >= 1);
    }
}
