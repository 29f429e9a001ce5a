//! Cases 55–61: NAT that has run out of ports, and which closing connections make room.

use std::net::Ipv4Addr;

use crate::lab::{A, B, GATEWAY, LAN, LOCALHOST, Lab, WAN, postrouting, to};
use crate::packets::{ACK, FIN, RST, SYN, segment, udp};
use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::packet::{DropReason, Origin, Verdict};
use clashtrack_engine::rules::{NatTarget, Ruleset};
use clashtrack_engine::status::Status;

const WEB: (Ipv4Addr, u16) = (LOCALHOST, 8080);
const CLASHED: Verdict = Verdict::Drop(DropReason::Clash);

fn snat_to_ports(address: Ipv4Addr, first: u16, last: u16) -> Ruleset {
    let target = to(
        Some((address, address)),
        Some((first, last)),
        NatFlags::empty(),
    );
    postrouting(NatTarget::Snat(target))
}

#[test]
fn case_55_a_second_tcp_flow_through_one_port_is_dropped_at_confirm() {
    let mut lab = Lab::with(snat_to_ports(LOCALHOST, 40000, 40000), |_| {});
    let client = (LOCALHOST, 33000);
    assert!(
        lab.send(Origin::Local, segment(SYN, 1, 0).packet(client, WEB))
            .accepted()
    );
    let first = lab.ct_of(&segment(SYN, 1, 0).packet(client, WEB)).unwrap();
    assert_eq!(first.reply.dst_key, 40000);
    lab.send(
        Origin::Local,
        segment(SYN | ACK, 9, 2).packet(WEB, (LOCALHOST, 40000)),
    );
    lab.send(Origin::Local, segment(ACK, 2, 10).packet(client, WEB));
    assert!(lab.moved().is_empty());

    let second = segment(SYN, 77, 0).packet((LOCALHOST, 33001), WEB);
    assert_eq!(lab.send(Origin::Local, second.clone()).verdict, CLASHED);
    assert_eq!(lab.moved(), [("insert_failed", 1), ("drop", 1)]);
    assert_eq!(lab.engine.count(), 1);
    assert!(lab.ct_of(&second).is_none());
}

#[test]
fn case_56_the_same_with_udp_counts_found_as_well() {
    let mut lab = Lab::with(snat_to_ports(LOCALHOST, 40000, 40000), |_| {});
    assert!(
        lab.send(Origin::Local, udp((LOCALHOST, 33000), WEB, 8))
            .accepted()
    );
    assert_eq!(
        lab.send(Origin::Local, udp((LOCALHOST, 33001), WEB, 8))
            .verdict,
        CLASHED
    );
    assert_eq!(
        lab.moved(),
        [("found", 1), ("insert_failed", 1), ("drop", 1)]
    );
}

/// Fills a range of `size` ports with established connections (TCP) or datagrams (UDP).
fn fill(lab: &mut Lab, size: u16, tcp: bool) {
    let mut taken = std::collections::HashSet::new();
    let mut client = 2000;
    while taken.len() < usize::from(size) {
        client += 1;
        let first = if tcp {
            segment(SYN, 1, 0).packet((A, client), (B, 80))
        } else {
            udp((A, client), (B, 80), 4)
        };
        let sent = lab.send(LAN, first);
        if !sent.accepted() {
            // The search over more than 128 ports may miss the free one; the next client tries again.
            continue;
        }
        let port = sent.tuple().src_key;
        taken.insert(port);
        if tcp {
            lab.send(
                WAN,
                segment(SYN | ACK, 9, 2).packet((B, 80), (GATEWAY, port)),
            );
            lab.send(LAN, segment(ACK, 2, 10).packet((A, client), (B, 80)));
        }
    }
    lab.moved();
}

#[test]
fn case_57_found_counts_the_tries_of_a_search_that_finds_nothing() {
    for (size, tcp_found, udp_found) in [
        (1, 0, 1),
        (4, 0, 4),
        (32, 0, 32),
        (33, 1, 33),
        (128, 96, 128),
        (200, 128, 248),
    ] {
        for (tcp, found) in [(true, tcp_found), (false, udp_found)] {
            let mut lab = Lab::with(snat_to_ports(GATEWAY, 40000, 40000 + size - 1), |_| {});
            fill(&mut lab, size, tcp);
            let one_more = if tcp {
                segment(SYN, 1, 0).packet((A, 1999), (B, 80))
            } else {
                udp((A, 1999), (B, 80), 4)
            };
            assert_eq!(
                lab.send(LAN, one_more).verdict,
                CLASHED,
                "{size} ports, tcp {tcp}"
            );
            let mut expected = vec![("found", found), ("insert_failed", 1), ("drop", 1)];
            expected.retain(|(_, n)| *n > 0);
            assert_eq!(lab.moved(), expected, "{size} ports, tcp {tcp}");
        }
    }
}

/// One-port SNAT whose port is held by a connection that has ended: its client's numbers
/// ended at ISN 1000 + 2 (FIN), or + 1 (RST).
fn occupied_by(closed_with: u8) -> Lab {
    let mut lab = Lab::with(snat_to_ports(GATEWAY, 40000, 40000), |_| {});
    let (client, server, outside) = ((A, 2000), (B, 80), (GATEWAY, 40000));
    lab.send(LAN, segment(SYN, 1000, 0).packet(client, server));
    lab.send(WAN, segment(SYN | ACK, 5000, 1001).packet(server, outside));
    lab.send(LAN, segment(ACK, 1001, 5001).packet(client, server));
    if closed_with == RST {
        lab.send(LAN, segment(RST, 1001, 0).packet(client, server));
    } else {
        lab.send(LAN, segment(FIN | ACK, 1001, 5001).packet(client, server));
        lab.send(WAN, segment(FIN | ACK, 5001, 1002).packet(server, outside));
        lab.send(LAN, segment(ACK, 1002, 5002).packet(client, server));
    }
    assert!(lab.moved().is_empty());
    lab
}

fn another_syn(lab: &mut Lab, isn_above: u32) -> bool {
    let isn = 1000u32.wrapping_add(isn_above);
    lab.send(LAN, segment(SYN, isn, 0).packet((A, 2001), (B, 80)))
        .accepted()
}

#[test]
fn case_58_time_wait_is_evicted_by_a_syn_that_lies_behind_its_numbers() {
    for above in [2, 3, 100, 0x7fff_ffff] {
        let mut lab = occupied_by(FIN);
        assert!(another_syn(&mut lab, above), "ISN + {above}");
        assert_eq!((lab.engine.count(), lab.moved().len()), (1, 0));
    }
    for above in [-5i32 as u32, 0, 1, 0x8000_0001] {
        let mut lab = occupied_by(FIN);
        assert!(!another_syn(&mut lab, above), "ISN + {above}");
        assert_eq!(lab.moved(), [("insert_failed", 1), ("drop", 1)]);
    }
}

#[test]
fn case_59_close_is_evicted_likewise_and_fin_wait_never() {
    for above in [1, 2, 3, 100, 0x7fff_ffff] {
        assert!(another_syn(&mut occupied_by(RST), above), "ISN + {above}");
    }
    for above in [-5i32 as u32, 0, 0x8000_0001] {
        let mut lab = occupied_by(RST);
        assert!(!another_syn(&mut lab, above), "ISN + {above}");
        lab.wait(10.0);
        assert!(
            another_syn(&mut lab, above),
            "after CLOSE's 10 s nothing is in the way"
        );
    }
    let mut lab = Lab::with(snat_to_ports(GATEWAY, 40000, 40000), |_| {});
    lab.send(LAN, segment(SYN, 1000, 0).packet((A, 2000), (B, 80)));
    lab.send(
        WAN,
        segment(SYN | ACK, 5000, 1001).packet((B, 80), (GATEWAY, 40000)),
    );
    lab.send(LAN, segment(ACK, 1001, 5001).packet((A, 2000), (B, 80)));
    lab.send(
        LAN,
        segment(FIN | ACK, 1001, 5001).packet((A, 2000), (B, 80)),
    );
    assert!(!another_syn(&mut lab, 100), "FIN_WAIT is alive");
}

#[test]
fn case_60_time_wait_without_source_nat_holds_its_tuple() {
    // The occupier speaks from the gateway's own address and port 40000: no NAT bit.
    let mut lab = Lab::with(snat_to_ports(GATEWAY, 40000, 40000), |_| {});
    let own = (GATEWAY, 40000);
    lab.send(Origin::Local, segment(SYN, 1000, 0).packet(own, (B, 80)));
    lab.send(WAN, segment(SYN | ACK, 5000, 1001).packet((B, 80), own));
    lab.send(Origin::Local, segment(ACK, 1001, 5001).packet(own, (B, 80)));
    lab.send(
        Origin::Local,
        segment(FIN | ACK, 1001, 5001).packet(own, (B, 80)),
    );
    lab.send(WAN, segment(FIN | ACK, 5001, 1002).packet((B, 80), own));
    lab.send(Origin::Local, segment(ACK, 1002, 5002).packet(own, (B, 80)));
    let occupier = lab.ct_of(&segment(SYN, 1, 0).packet(own, (B, 80))).unwrap();
    assert!(!occupier.status.intersects(Status::NAT_MASK));
    assert!(!another_syn(&mut lab, 100));
}

#[test]
fn case_61_only_the_last_32_tries_of_a_round_may_evict() {
    let size = 200;
    let mut lab = Lab::with(snat_to_ports(GATEWAY, 40000, 40000 + size - 1), |_| {});
    fill(&mut lab, size, true);
    let connections = lab.engine.connections(lab.now);
    for ct in connections {
        let (client, port) = ((A, ct.original.src_key), ct.reply.dst_key);
        lab.send(LAN, segment(FIN | ACK, 2, 10).packet(client, (B, 80)));
        lab.send(
            WAN,
            segment(FIN | ACK, 10, 3).packet((B, 80), (GATEWAY, port)),
        );
        lab.send(LAN, segment(ACK, 3, 11).packet(client, (B, 80)));
    }
    lab.moved();
    // All 200 are in TIME_WAIT: the first 96 tries of the first round find their tuples taken,
    // the next one evicts.
    assert!(
        lab.send(LAN, segment(SYN, 500, 0).packet((A, 1999), (B, 80)))
            .accepted()
    );
    assert_eq!(lab.moved(), [("found", 96)]);
    assert_eq!(lab.engine.count(), usize::from(size));
}
