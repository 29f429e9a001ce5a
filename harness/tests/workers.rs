//! Several workers of one engine, on flows that overlap.
//!
//! Aim: whatever the workers do to each other, every packet ends in one fate, every entry and
//! reference is given back, no two confirmed connections own one key, and what can happen to a
//! connection but once is told but once. Method: real threads send packets of the same few
//! flows, in both directions and with errors about them, through an engine with NAT rules;
//! in between they collect, list and delete. Nothing is timed: the end is an account.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use clashtrack::peer::striped::StripedTable;
use clashtrack_engine::config::Sysctls;
use clashtrack_engine::engine::{Engine, EngineConfig};
use clashtrack_engine::event::{Changes, Event, EventMask};
use clashtrack_engine::expire::GcState;
use clashtrack_engine::host::{Device, Host, LOOPBACK};
use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::packet::checksum::{checksum, pseudo_header_v4};
use clashtrack_engine::packet::{Origin, Packet};
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::rules::{Chain, NatPorts, NatRule, NatTarget, NatTo, Network, Not};
use clashtrack_engine::rules::{RuleMatch, Ruleset};
use clashtrack_engine::status::Status;
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::{FlowKey, KeyV4};
use clashtrack_engine::table::lockfree::LockfreeTable;
use clashtrack_engine::table::mutex::MutexTable;
use clashtrack_engine::table::slab::Life;
use clashtrack_engine::time::{Nanos, SECOND};
use clashtrack_engine::tuple::{Direction, Protocol};

const WORKERS: usize = 4;
const ROUNDS: usize = 6_000;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const LAN: Origin = Origin::Device(2);
const WAN: Origin = Origin::Device(3);

/// TCP gets the gateway's address and one of eight ports, UDP a random one of many.
fn rules() -> Ruleset {
    let snat = |protocol, range, flags| NatRule {
        matches: RuleMatch {
            protocol: Some(Not::is(protocol)),
            ..RuleMatch::default()
        },
        target: NatTarget::Snat(NatTo {
            addresses: Some((GATEWAY.into(), GATEWAY.into())),
            ports: NatPorts {
                range,
                base: None,
                flags,
            },
        }),
    };
    Ruleset {
        postrouting: Some(0),
        chains: vec![Chain {
            name: "POSTROUTING".into(),
            rules: vec![
                snat(Protocol::TCP, Some((40_000, 40_007)), NatFlags::empty()),
                snat(Protocol::UDP, None, NatFlags::RANDOM_FULLY),
            ],
            policy_drop: false,
        }],
        ..Ruleset::default()
    }
}

fn config(max: usize, rules: Ruleset) -> EngineConfig {
    let sysctls = Sysctls {
        max,
        ..Sysctls::default()
    };
    let device = |index, name: &str, address: [u8; 4], prefix| Device {
        index,
        name: name.into(),
        addresses: vec![Network::v4(address.into(), prefix)],
    };
    let mut config = EngineConfig::new(sysctls, 3);
    config.host = Host {
        devices: vec![
            device(LOOPBACK, "lo", [127, 0, 0, 1], 8),
            device(2, "lan", [10, 0, 0, 1], 24),
            device(3, "wan", GATEWAY.octets(), 24),
        ],
        default_route: Some(3),
        forwards_everything: false,
    };
    config.table.buckets = 16;
    config.rules = rules;
    config.workers = WORKERS;
    config.events = EventMask::all();
    config
}

fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: Protocol, mut l4: Vec<u8>) -> Vec<u8> {
    let pseudo = pseudo_header_v4(src.to_bits(), dst.to_bits(), protocol.0, l4.len());
    let (at, pseudo) = match protocol {
        Protocol::TCP => (16, pseudo),
        Protocol::UDP => (6, pseudo),
        _ => (2, 0),
    };
    let check = checksum(&l4, pseudo);
    l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
    let length = (20 + l4.len()) as u16;
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol.0, 0, 0];
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    let check = checksum(&bytes, 0);
    bytes[10..12].copy_from_slice(&check.to_be_bytes());
    bytes.extend(l4);
    bytes
}

/// A packet of one of a few flows: from a client, or from the server to where the client's
/// packets seem to come from.
fn packet(rng: &mut WorkerRng) -> (Origin, Vec<u8>) {
    let mut of = |n: u32| rng.below(n) as u8;
    let (client, server) = ([10, 0, 0, 11 + of(2)].into(), [198, 51, 100, 21].into());
    let answers = of(2) == 1;
    let (origin, src, dst) = if answers {
        (WAN, server, GATEWAY)
    } else {
        (LAN, client, server)
    };
    let ports = |client: u16, server: u16| {
        let (a, b) = if answers {
            (server, client)
        } else {
            (client, server)
        };
        [a.to_be_bytes(), b.to_be_bytes()].concat()
    };
    let port = u16::from(of(6));
    match of(4) {
        0 => {
            let kind = if answers { 0 } else { 8 };
            let l4 = vec![kind, 0, 0, 0, 0, port as u8, 0, 1];
            (origin, ipv4(src, dst, Protocol::ICMP, l4))
        }
        1 => {
            let mut l4 = ports(2000 + port, 53);
            l4.extend([0, 8, 0, 0]);
            (origin, ipv4(src, dst, Protocol::UDP, l4))
        }
        2 if answers => {
            // "Unreachable", about the client's packet as the server saw it.
            let mut quoted = [40_000 + port, 80].map(u16::to_be_bytes).concat();
            quoted.resize(20, 0);
            let quoted = ipv4(GATEWAY, server, Protocol::TCP, quoted);
            let l4 = [&[3, 1, 0, 0, 0, 0, 0, 0], &quoted[..28]].concat();
            (origin, ipv4(src, dst, Protocol::ICMP, l4))
        }
        _ => {
            let first = if answers { 40_000 } else { 1000 };
            let mut l4 = ports(first + port, 80);
            let (seq, ack) = if answers { (5000, 1001) } else { (1001, 5001) };
            let (flags, seq): (u8, u32) = match of(10) {
                0 => (4, seq),
                1 => (0x11, seq),
                2..=5 => (if answers { 0x12 } else { 2 }, seq - 1 + u32::from(answers)),
                _ => (0x10, seq + u32::from(answers)),
            };
            l4.extend(seq.to_be_bytes());
            l4.extend(u32::to_be_bytes(ack));
            l4.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            (origin, ipv4(src, dst, Protocol::TCP, l4))
        }
    }
}

/// What one worker does; returns how many packets it sent, and what it was told.
fn work<T: FlowTable<KeyV4>>(engine: &Engine<T>, number: usize) -> (u64, Vec<Event>) {
    let mut worker = engine.worker().expect("free");
    let mut rng = WorkerRng::new(77, number);
    let mut gc = GcState::default();
    let (mut sent, mut events) = (0, Vec::new());
    for round in 0..ROUNDS {
        // All clocks agree well enough; now and then all expires.
        let now = 1_000 * SECOND + round as Nanos * SECOND / 4;
        let mut bytes: Vec<_> = (0..1 + rng.below(8)).map(|_| packet(&mut rng)).collect();
        let mut packets: Vec<_> = bytes
            .iter_mut()
            .map(|(origin, bytes)| Packet::new(bytes, *origin))
            .collect();
        worker.process(&mut packets, now);
        assert!(packets.iter().all(|packet| packet.verdict.is_some()));
        sent += packets.len() as u64;
        match rng.below(16) {
            0 => {
                worker.gc(&mut gc, 1 << 20, now);
            }
            1 => {
                for ct in engine.connections(now) {
                    assert!(ct.status.contains(Status::CONFIRMED), "{ct:?}");
                }
            }
            2 => {
                if let Some(ct) = engine.connections(now).first() {
                    worker.delete(&ct.original, ct.zone(), now);
                }
            }
            _ => {}
        }
        events.append(&mut worker.take_events());
    }
    (sent, events)
}

fn assert_no_key_has_two_owners<T: FlowTable<KeyV4>>(engine: &Engine<T>) {
    let mut owners = HashMap::new();
    for (id, entry) in engine.table().slab().confirmed() {
        let reply_only = entry.status().contains(Status::NAT_CLASH);
        for direction in [Direction::Original, Direction::Reply] {
            if reply_only && direction == Direction::Original {
                continue;
            }
            let key = entry.key(direction);
            let owner = *owners.entry(key).or_insert(id);
            assert_eq!(owner, id, "{:?} has two owners", key.tuple());
        }
    }
}

/// Every worker tells what its own packets did, so the order of all events is not known; how
/// often each can have happened is.
fn check_events(events: &[Event]) {
    let mut told: HashMap<_, [usize; 4]> = HashMap::new();
    for event in events {
        match event {
            Event::New(_, ct) => told.entry(ct.id).or_default()[0] += 1,
            Event::Destroy(_, ct) => told.entry(ct.id).or_default()[1] += 1,
            Event::Update(_, ct, changes) => {
                assert!(!changes.is_empty());
                let life = told.entry(ct.id).or_default();
                life[2] += usize::from(changes.contains(Changes::REPLY));
                life[3] += usize::from(changes.contains(Changes::ASSURED));
            }
            Event::Clash { .. } => {}
        }
    }
    for (id, [new, destroyed, reply, assured]) in told {
        assert!(new <= 1 && reply <= 1, "{id:?}: {new} NEW, {reply} REPLY");
        assert!(assured <= 1, "{id:?} became ASSURED {assured} times");
        assert_eq!(destroyed, 1, "{id:?} ended once");
    }
}

fn run<T: FlowTable<KeyV4>>(max: usize, rules: Ruleset) {
    let engine = Engine::<T>::new(config(max, rules)).expect("a sound configuration");
    let (mut sent, mut events) = (0, Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| {
                scope.spawn({
                    let engine = &engine;
                    move || work(engine, number)
                })
            })
            .collect();
        for worker in workers {
            let (packets, mut told) = worker.join().expect("no worker panics");
            sent += packets;
            events.append(&mut told);
        }
    });
    let fates: u64 = engine.fates().named().iter().map(|(_, n)| n).sum();
    assert_eq!(fates, sent, "every packet has one fate");
    assert_no_key_has_two_owners(&engine);
    let in_use = || {
        let slab = engine.table().slab();
        (0..slab.capacity() as u32)
            .filter(|&index| slab.at(index).state().life != Life::Free)
            .count()
    };
    assert_eq!(engine.count(), in_use());
    let mut worker = engine.worker().expect("all have left");
    let mut gc = GcState::default();
    while worker.gc(&mut gc, usize::MAX, Nanos::MAX).expired > 0 {}
    assert_eq!((engine.count(), in_use()), (0, 0));
    events.append(&mut worker.take_events());
    assert_eq!(engine.engine_stats().events_lost, 0);
    check_events(&events);
}

/// The same body on each table, with room for all, with room for few, and without NAT.
macro_rules! workers_share_an_engine {
    ($($name:ident = $table:ident),*) => {
        $(mod $name {
            use super::*;
            type Table = $table<KeyV4>;

            #[test]
            fn workers_with_nat_give_everything_back() {
                run::<Table>(512, rules());
            }

            #[test]
            fn workers_of_a_full_table_give_everything_back() {
                run::<Table>(8, rules());
            }

            #[test]
            fn workers_without_nat_give_everything_back() {
                run::<Table>(512, Ruleset::default());
            }
        })*
    };
}

workers_share_an_engine!(
    lockfree = LockfreeTable,
    striped = StripedTable,
    mutex = MutexTable
);
