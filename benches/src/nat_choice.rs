//! NAT choice: what the first packet of a flow pays for a tuple that nobody else has.
//!
//! A pass sends first packets of UDP flows through a gateway and removes their connections, so each figure is that
//! of the whole way; what NAT adds is the difference to `null_binding`. Dimensions: how the port is chosen.
//! We would change the code if the search in a full range cost more than its 128 lookups.

use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::packet::{DropReason, Verdict};
use clashtrack_engine::rules::{NatPorts, NatTarget, Ruleset};
use clashtrack_engine::table::lockfree::Isa;
use clashtrack_engine::tuple::Tuple;

use crate::gateway::{BATCH, GATEWAY, Gateway, LAN, SERVER, client, postrouting, prerouting, to};
use crate::operation::{Operation, Pass};
use crate::packets::{checksums_hold, tuple_of, udp};

const QUESTION: &str = "what_does_choosing_a_nat_tuple_cost";

const fn operation(variant: &'static str, prepare: fn(Isa) -> Pass) -> Operation {
    Operation {
        question: QUESTION,
        variant,
        has_vectors: true,
        prepare,
    }
}

/// The operations of this room.
pub const OPERATIONS: &[Operation] = &[
    operation("null_binding", |isa| {
        let rules = Ruleset {
            nat_hooks: true,
            ..Ruleset::default()
        };
        first_packets(rules, isa, |n, t| (t.src.as_v4(), t.src_key) == client(n))
    }),
    operation("snat_keeps_the_port", |isa| {
        let rules = postrouting(NatTarget::Snat(to(GATEWAY, None, NatFlags::empty())));
        first_packets(rules, isa, |n, t| {
            (t.src.as_v4(), t.src_key) == (GATEWAY, client(n).1)
        })
    }),
    operation("snat_draws_a_port", |isa| {
        let rules = postrouting(NatTarget::Snat(to(GATEWAY, None, NatFlags::RANDOM_FULLY)));
        first_packets(rules, isa, |_, t| {
            t.src.as_v4() == GATEWAY && t.src_key >= 1024
        })
    }),
    operation("masquerade", |isa| {
        let rules = postrouting(NatTarget::Masquerade(NatPorts::default()));
        first_packets(rules, isa, |n, t| {
            (t.src.as_v4(), t.src_key) == (GATEWAY, client(n).1)
        })
    }),
    operation("dnat_to_a_port", |isa| {
        let target = to(SERVER, Some((8053, 8053)), NatFlags::empty());
        first_packets(prerouting(NatTarget::Dnat(target)), isa, |_, t| {
            (t.dst.as_v4(), t.dst_key) == (SERVER, 8053)
        })
    }),
    Operation {
        question: "what_does_a_port_search_cost_that_finds_nothing",
        variant: "128_ports_taken",
        has_vectors: true,
        prepare: exhausted,
    },
];

/// First packets of 64 flows, each translated as `is_right` says, and their connections removed.
fn first_packets(rules: Ruleset, isa: Isa, is_right: fn(usize, &Tuple) -> bool) -> Pass {
    let mut gateway = Gateway::new(rules, isa);
    let originals: Vec<Vec<u8>> = (0..BATCH)
        .map(|n| udp(client(n), (SERVER, 53), 40))
        .collect();
    let mut packets = originals.clone();
    Pass::new(BATCH, move || {
        for (packet, original) in packets.iter_mut().zip(&originals) {
            packet.copy_from_slice(original);
        }
        gateway.send(&mut packets, LAN, Verdict::Accept);
        for (n, packet) in packets.iter().enumerate() {
            let tuple = tuple_of(packet);
            assert!(is_right(n, &tuple), "client {n} became {tuple:?}");
        }
        assert!(checksums_hold(&packets[0]));
        gateway.forget(&originals);
        assert_eq!(gateway.count(), 0);
    })
}

/// First packets behind an address of which all 128 ports are taken: each is dropped at confirm.
fn exhausted(isa: Isa) -> Pass {
    const PORTS: usize = 128;
    let target = to(
        GATEWAY,
        Some((1_001, 1_000 + PORTS as u16)),
        NatFlags::empty(),
    );
    let mut gateway = Gateway::new(postrouting(NatTarget::Snat(target)), isa);
    let of_clients = |clients: std::ops::Range<usize>| -> Vec<Vec<u8>> {
        clients.map(|n| udp(client(n), (SERVER, 53), 40)).collect()
    };
    // One after the other: each sees what those before have taken.
    for packet in &mut of_clients(0..PORTS) {
        gateway.send(std::slice::from_mut(packet), LAN, Verdict::Accept);
    }
    assert_eq!(gateway.count(), PORTS);
    let originals = of_clients(PORTS..PORTS + 8);
    let mut packets = originals.clone();
    Pass::new(originals.len(), move || {
        for (packet, original) in packets.iter_mut().zip(&originals) {
            packet.copy_from_slice(original);
        }
        gateway.send(&mut packets, LAN, Verdict::Drop(DropReason::Clash));
        assert_eq!(
            gateway.count(),
            PORTS,
            "who was dropped left something behind"
        );
    })
}
