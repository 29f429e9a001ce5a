//! Cases 71–80: two first packets are held back before source NAT, then sent on one after
//! the other; and chains that are too long.

use std::net::Ipv4Addr;

use crate::lab::{A, B, LOCALHOST, Lab, null_bindings, postrouting, to};
use crate::packets::{SYN, ipv4, query, segment, udp, udplite};
use clashtrack_engine::event::{ClashDecision, Event};
use clashtrack_engine::hook::{HookPoint, PRIORITY_FILTER};
use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::packet::{DropReason, Origin, Packet, Verdict};
use clashtrack_engine::rules::{NatTarget, Ruleset};
use clashtrack_engine::status::{CtInfo, Status};
use clashtrack_engine::time::SECOND;
use clashtrack_engine::tuple::{Direction, Protocol};

/// Where a queue at filter OUTPUT holds packets: tracked, not yet source-NATed.
const QUEUE: (HookPoint, i32) = (HookPoint::LocalOut, PRIORITY_FILTER);

/// Holds all packets back, then lets them go in order.
fn race(lab: &mut Lab, packets: &[Vec<u8>]) -> Vec<(Verdict, Vec<u8>, Option<CtInfo>)> {
    let mut bytes = packets.to_vec();
    let mut held: Vec<_> = bytes
        .iter_mut()
        .map(|b| {
            let mut packet = Packet::new(b, Origin::Local);
            let journey = lab
                .worker
                .park(&mut packet, QUEUE, lab.now)
                .expect("reaches the queue");
            (packet, journey)
        })
        .collect();
    held.drain(..)
        .map(|(mut packet, journey)| {
            lab.worker.resume(&mut packet, journey, lab.now);
            (
                packet.verdict.unwrap(),
                packet.bytes.to_vec(),
                packet.mark.ctinfo,
            )
        })
        .collect()
}

fn verdicts(lab: &mut Lab, packets: &[Vec<u8>]) -> Vec<bool> {
    race(lab, packets)
        .into_iter()
        .map(|(verdict, ..)| verdict == Verdict::Accept)
        .collect()
}

fn random_snat() -> Ruleset {
    let target = to(Some((LOCALHOST, LOCALHOST)), None, NatFlags::RANDOM_FULLY);
    postrouting(NatTarget::Snat(target))
}

fn one_port() -> Ruleset {
    let target = to(
        Some((LOCALHOST, LOCALHOST)),
        Some((40000, 40000)),
        NatFlags::empty(),
    );
    postrouting(NatTarget::Snat(target))
}

fn local(port: u16) -> (Ipv4Addr, u16) {
    (LOCALHOST, port)
}

fn decision(events: &[Event]) -> (Direction, ClashDecision) {
    match events {
        [Event::Clash { key, decision, .. }] => (*key, *decision),
        other => panic!("one clash, not {other:?}"),
    }
}

#[test]
fn case_71_the_same_udp_flow_twice_is_merged() {
    let datagram = udp(local(1000), local(53), 20);
    for rules in [Ruleset::default(), null_bindings(), one_port()] {
        let mut lab = Lab::with(rules, |_| {});
        let raced = race(&mut lab, &[datagram.clone(), datagram.clone()]);
        assert!(
            raced
                .iter()
                .all(|(verdict, ..)| *verdict == Verdict::Accept)
        );
        assert_eq!(raced[1].2, Some(CtInfo::New), "its relation is kept");
        assert_eq!(lab.moved(), [("clash_resolve", 1)]);
        assert_eq!(lab.engine.count(), 1);
        assert_eq!(
            decision(&lab.clashes()),
            (Direction::Original, ClashDecision::Merged)
        );
    }
}

#[test]
fn case_72_the_same_udp_flow_with_two_nat_ports_leaves_a_reply_only_entry() {
    let mut lab = Lab::with(random_snat(), |_| {});
    let datagram = udp(local(1000), local(53), 20);
    let raced = race(&mut lab, &[datagram.clone(), datagram.clone()]);
    let second = crate::packets::tuple(&raced[1].1);
    assert_ne!(crate::packets::tuple(&raced[0].1).src_key, second.src_key);
    assert_eq!(lab.moved(), [("clash_resolve", 1)]);
    assert_eq!(lab.engine.count(), 2, "counted");
    assert_eq!(
        lab.engine.connections(lab.now).len(),
        1,
        "but hidden from the list"
    );
    assert_eq!(
        decision(&lab.clashes()),
        (Direction::Original, ClashDecision::ReplyOnly)
    );

    let (loser, side) = lab
        .find(&second.invert().unwrap())
        .expect("found by its reply tuple");
    assert_eq!((side, loser.remaining), (Direction::Reply, SECOND));
    assert!(
        loser
            .status
            .contains(Status::NAT_CLASH | Status::FIXED_TIMEOUT)
    );
    lab.wait(1.1);
    assert_eq!(
        lab.engine.count(),
        2,
        "still counted until something walks over it"
    );
    assert!(lab.find(&second.invert().unwrap()).is_none());
    assert_eq!(lab.engine.count(), 1);
    let events = lab.worker.take_events();
    assert!(
        matches!(events[..], [Event::Destroy(_, ct)] if ct.id == loser.id),
        "{events:?}"
    );
}

#[test]
fn case_73_udp_packets_that_cross_are_merged_without_a_port_change() {
    let mut lab = Lab::with(null_bindings(), |_| {});
    let there = udp(local(1000), local(2000), 20);
    let back = udp(local(2000), local(1000), 20);
    let raced = race(&mut lab, &[there, back.clone()]);
    assert_eq!(raced[1].0, Verdict::Accept);
    assert_eq!(raced[1].1, back);
    assert_eq!(lab.moved(), [("found", 1), ("clash_resolve", 1)]);
    assert_eq!(lab.engine.count(), 1);
}

#[test]
fn case_74_two_udp_flows_that_get_one_port_cannot_both_live() {
    let mut lab = Lab::with(one_port(), |_| {});
    let flows = [
        udp(local(1000), local(53), 20),
        udp(local(1001), local(53), 20),
    ];
    assert_eq!(verdicts(&mut lab, &flows), [true, false]);
    assert_eq!(
        lab.moved(),
        [("found", 1), ("insert_failed", 1), ("drop", 1)]
    );
    let events = lab.clashes();
    assert_eq!(
        decision(&events),
        (Direction::Reply, ClashDecision::Dropped)
    );
    let [Event::Clash { winner, loser, .. }] = events[..] else {
        unreachable!()
    };
    assert_eq!(
        (winner.original.src_key, loser.original.src_key),
        (1000, 1001)
    );
    assert_eq!(
        winner.reply, loser.reply,
        "the event shows the tuple that both wanted"
    );
}

#[test]
fn case_75_tcp_sctp_and_icmp_losers_are_dropped() {
    let sctp = {
        let mut l4 = vec![0x13, 0x88, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0];
        l4.extend([
            1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0x10, 0, 0, 10, 0, 10, 0, 0, 0, 1,
        ]);
        ipv4(LOCALHOST, LOCALHOST, Protocol::SCTP, &l4)
    };
    let firsts = [
        segment(SYN, 1, 0).packet(local(1000), local(80)),
        sctp,
        query(LOCALHOST, LOCALHOST, 8, 5),
    ];
    for first in firsts {
        let mut lab = Lab::with(null_bindings(), |_| {});
        assert_eq!(
            verdicts(&mut lab, &[first.clone(), first.clone()]),
            [true, false]
        );
        assert_eq!(lab.moved(), [("insert_failed", 1), ("drop", 1)]);
        assert_eq!(lab.engine.count(), 1);
    }
}

#[test]
fn case_76_gre_udplite_and_protocols_without_tracker_are_merged() {
    let mut firsts: Vec<_> = [253, 33]
        .map(|p| ipv4(LOCALHOST, LOCALHOST, Protocol(p), &[1, 2, 3, 4]))
        .into();
    firsts.push(ipv4(
        LOCALHOST,
        LOCALHOST,
        Protocol::GRE,
        &[0, 0, 8, 0, 1, 2, 3, 4],
    ));
    firsts.push(udplite(local(1000), local(2000), 12));
    for first in firsts {
        // Towards another address of this host, so that the tuple is not its own inverse.
        let mut first = first;
        first[19] = 2;
        let mut lab = Lab::with(Ruleset::default(), |_| {});
        assert_eq!(
            verdicts(&mut lab, &[first.clone(), first.clone()]),
            [true, true]
        );
        assert_eq!(lab.moved(), [("clash_resolve", 1)], "{first:?}");
        assert_eq!(lab.engine.count(), 1);
    }
}

#[test]
fn case_77_tcp_syns_that_cross_clash_in_spite_of_the_changed_port() {
    let mut lab = Lab::with(null_bindings(), |_| {});
    let there = segment(SYN, 1, 0).packet(local(1000), local(2000));
    let back = segment(SYN, 9, 0).packet(local(2000), local(1000));
    assert_eq!(verdicts(&mut lab, &[there, back]), [true, false]);
    assert_eq!(
        lab.moved(),
        [("found", 2), ("insert_failed", 1), ("drop", 1)]
    );
}

#[test]
fn case_78_an_answer_to_the_reply_only_entry_is_translated_back_for_a_second() {
    let mut lab = Lab::with(random_snat(), |_| {});
    let datagram = udp(local(1000), local(53), 20);
    let raced = race(&mut lab, &[datagram.clone(), datagram.clone()]);
    let second = crate::packets::tuple(&raced[1].1);
    let answer = udp(local(53), local(second.src_key), 20);
    lab.wait(0.9);
    let sent = lab.send(Origin::Local, answer.clone());
    assert_eq!(
        (sent.ctinfo, sent.tuple().dst_key),
        (Some(CtInfo::EstablishedReply), 1000)
    );
    let (ct, _) = lab.find(&second.invert().unwrap()).unwrap();
    assert!(!ct.status.contains(Status::ASSURED) && ct.remaining == SECOND / 10);
    lab.wait(0.2);
    let late = lab.send(Origin::Local, answer);
    assert_eq!(
        late.ctinfo,
        Some(CtInfo::New),
        "after its second it is a flow of its own"
    );
}

#[test]
fn case_79_a_chain_of_52_may_refuse_and_one_of_81_always_does() {
    if !crate::KERNEL_CHAINS {
        return;
    }
    // One bucket: every entry puts both its nodes into the one chain, so after n entries it
    // holds 2n nodes. The limit counts nodes passed before the end.
    let mut refused_at = Vec::new();
    for seed in 0..40 {
        let mut lab = Lab::with(Ruleset::default(), |config| {
            config.table.buckets = 1;
            config.seed = seed;
        });
        let mut port = 1000;
        let refused = loop {
            port += 1;
            let sent = lab.send(Origin::Local, udp((A, port), (B, 53), 4));
            if !sent.accepted() {
                assert_eq!(sent.verdict, Verdict::Drop(DropReason::ChainTooLong));
                break 2 * usize::from(port - 1001);
            }
        };
        assert_eq!(lab.moved(), [("insert_failed", 1), ("chaintoolong", 1)]);
        refused_at.push(refused);
    }
    assert!(
        refused_at.iter().all(|nodes| (52..=82).contains(nodes)),
        "{refused_at:?}"
    );
    assert!(
        refused_at.iter().any(|n| *n != refused_at[0]),
        "the limit is drawn anew: {refused_at:?}"
    );
}

#[test]
fn case_80_an_entry_marked_dying_while_held_is_not_inserted() {
    let mut lab = Lab::with(null_bindings(), |_| {});
    let mut bytes = udp(local(1000), local(53), 20);
    let mut packet = Packet::new(&mut bytes, Origin::Local);
    let journey = lab.worker.park(&mut packet, QUEUE, lab.now).unwrap();
    assert!(lab.worker.mark_dying(&packet, lab.now));
    lab.worker.resume(&mut packet, journey, lab.now);
    assert_eq!(packet.verdict, Some(Verdict::Drop(DropReason::Dying)));
    assert_eq!(lab.moved(), [("insert_failed", 1)]);
    assert_eq!(lab.engine.count(), 0);
}
