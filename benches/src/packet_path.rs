//! Packet path: whole packets through all hooks of a gateway, in batches of 64.
//!
//! Dimensions: new or established flows, with or without NAT, and packets that have no connection. Packets are
//! written anew before each pass, since the gateway rewrites them in place; that copy is in the figure.
//! We would change the code if NAT on an established flow cost more than the lookup before it.

use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::packet::{Origin, Verdict};
use clashtrack_engine::rules::{NatTarget, RawRule, RawTarget, RuleMatch, Ruleset};
use clashtrack_engine::table::lockfree::Isa;

use crate::gateway::{BATCH, GATEWAY, Gateway, LAN, SERVER, WAN, client, postrouting, to};
use crate::operation::{Operation, Pass};
use crate::packets::{ACK, End, SYN, checksums_hold, tcp, tuple_of, udp};

/// The operations of this room.
pub const OPERATIONS: &[Operation] = &[
    operation("what_does_an_established_packet_cost", "udp_plain", |isa| {
        udp_established(Ruleset::default(), isa)
    }),
    operation("what_does_an_established_packet_cost", "udp_snat", |isa| {
        udp_established(snat(), isa)
    }),
    operation("what_does_an_established_packet_cost", "tcp_snat", |isa| {
        tcp_established(isa, true)
    }),
    operation(
        "what_does_an_established_packet_cost",
        "tcp_snat_answers",
        |isa| tcp_established(isa, false),
    ),
    operation("what_does_a_new_flow_cost", "udp_plain", |isa| {
        let packets = (0..BATCH).map(|n| udp(client(n), (SERVER, 53), 40));
        new_flows(Ruleset::default(), isa, packets.collect())
    }),
    operation("what_does_a_new_flow_cost", "tcp_snat", |isa| {
        let packets = (0..BATCH).map(|n| tcp(client(n), (SERVER, 443), SYN, 1_000, 0, 0));
        new_flows(snat(), isa, packets.collect())
    }),
    operation(
        "what_does_a_packet_without_a_connection_cost",
        "notrack",
        |isa| {
            let rule = RawRule {
                matches: RuleMatch::default(),
                target: RawTarget::NoTrack,
            };
            let rules = Ruleset {
                raw: vec![rule],
                ..Ruleset::default()
            };
            let packets = (0..BATCH).map(|n| udp(client(n), (SERVER, 53), 40));
            unconnected(rules, isa, packets.collect())
        },
    ),
    operation(
        "what_does_a_packet_without_a_connection_cost",
        "bad_checksum",
        |isa| {
            let packets = (0..BATCH).map(|n| {
                let mut bytes = udp(client(n), (SERVER, 53), 40);
                bytes[40] ^= 0xff;
                bytes
            });
            unconnected(Ruleset::default(), isa, packets.collect())
        },
    ),
];

const fn operation(
    question: &'static str,
    variant: &'static str,
    prepare: fn(Isa) -> Pass,
) -> Operation {
    Operation {
        question,
        variant,
        has_vectors: true,
        prepare,
    }
}

fn snat() -> Ruleset {
    postrouting(NatTarget::Snat(to(GATEWAY, None, NatFlags::empty())))
}

/// Where the gateway sends a client's packets from, port kept.
fn translated(n: usize) -> End {
    (GATEWAY, client(n).1)
}

/// Sends the packets again and again; afterwards the first one must come from `source`, whole.
fn again(
    mut gateway: Gateway,
    originals: Vec<Vec<u8>>,
    origin: Origin,
    source: End,
    connections: usize,
) -> Pass {
    let mut packets = originals.clone();
    Pass::new(originals.len(), move || {
        for (packet, original) in packets.iter_mut().zip(&originals) {
            packet.copy_from_slice(original);
        }
        gateway.send(&mut packets, origin, Verdict::Accept);
        let tuple = tuple_of(&packets[0]);
        assert_eq!((tuple.src.as_v4(), tuple.src_key), source);
        assert_eq!(gateway.count(), connections);
    })
}

fn udp_established(rules: Ruleset, isa: Isa) -> Pass {
    let source = if rules.has_nat() {
        translated(0)
    } else {
        client(0)
    };
    let mut gateway = Gateway::new(rules, isa);
    let originals: Vec<Vec<u8>> = (0..BATCH)
        .map(|n| udp(client(n), (SERVER, 53), 40))
        .collect();
    gateway.send(&mut originals.clone(), LAN, Verdict::Accept);
    again(gateway, originals, LAN, source, BATCH)
}

/// Pure ACKs on connections behind source NAT: the clients' own, or the server's answers to them.
fn tcp_established(isa: Isa, from_client: bool) -> Pass {
    const SERVER_END: End = (SERVER, 443);
    let mut gateway = Gateway::new(snat(), isa);
    let of_all =
        |packet: fn(usize) -> Vec<u8>| -> Vec<Vec<u8>> { (0..BATCH).map(packet).collect() };
    let syn = |n| tcp(client(n), SERVER_END, SYN, 1_000, 0, 0);
    let syn_ack = |n| tcp(SERVER_END, translated(n), SYN | ACK, 5_000, 1_001, 0);
    let ack = |n| tcp(client(n), SERVER_END, ACK, 1_001, 5_001, 0);
    let answer = |n| tcp(SERVER_END, translated(n), ACK, 5_001, 1_001, 0);
    gateway.send(&mut of_all(syn), LAN, Verdict::Accept);
    gateway.send(&mut of_all(syn_ack), WAN, Verdict::Accept);
    let mut acks = of_all(ack);
    gateway.send(&mut acks, LAN, Verdict::Accept);
    assert!(checksums_hold(&acks[0]), "a rewritten segment is whole");
    if from_client {
        again(gateway, of_all(ack), LAN, translated(0), BATCH)
    } else {
        again(gateway, of_all(answer), WAN, SERVER_END, BATCH)
    }
}

/// First packets, and their connections removed.
fn new_flows(rules: Ruleset, isa: Isa, originals: Vec<Vec<u8>>) -> Pass {
    let mut gateway = Gateway::new(rules, isa);
    let mut packets = originals.clone();
    Pass::new(originals.len(), move || {
        for (packet, original) in packets.iter_mut().zip(&originals) {
            packet.copy_from_slice(original);
        }
        gateway.send(&mut packets, LAN, Verdict::Accept);
        assert_eq!(gateway.count(), originals.len());
        gateway.forget(&originals);
        assert_eq!(gateway.count(), 0);
    })
}

fn unconnected(rules: Ruleset, isa: Isa, originals: Vec<Vec<u8>>) -> Pass {
    again(Gateway::new(rules, isa), originals, LAN, client(0), 0)
}
