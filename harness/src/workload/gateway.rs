//! A NAT gateway, and packets as they come in from both sides: what the workloads of the whole data path share.
//!
//! Clients in 10.0.0.0/8 are behind `lan`, everything else behind `wan`; `SNAT --to-source` 203.0.113.1. Packets are made
//! beforehand and copied in front of the engine, which rewrites them in place. Each knows which address it must have
//! afterwards.

use std::net::{Ipv4Addr, SocketAddrV4};

use clashtrack_engine::addr::Addr;
use clashtrack_engine::config::Sysctls;
use clashtrack_engine::engine::{Engine, EngineConfig, Worker};
use clashtrack_engine::expire::GcState;
use clashtrack_engine::host::{Device, DeviceIndex, Host, LOOPBACK};
use clashtrack_engine::packet::checksum::checksum;
use clashtrack_engine::packet::{DropReason, Origin, Packet, Verdict};
use clashtrack_engine::rules::{
    Chain, NatPorts, NatRule, NatTarget, NatTo, Network, RuleMatch, Ruleset,
};
use clashtrack_engine::stats::{ConntrackStats, EngineStats};
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::time::{Nanos, SECOND};
use clashtrack_engine::tuple::{Protocol, Tuple};

use super::case::Case;
use super::tally::Tally;
use crate::simulate::segment::{Flags, Segment};

/// 203.0.113.1, of the documentation networks (RFC 5737).
pub(super) const TRANSLATED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const LAN: DeviceIndex = 2;
const WAN: DeviceIndex = 3;
/// Longer than a connection lives that has seen one packet (SYN_SENT: 120 s).
const FORGOTTEN: Nanos = 1000 * SECOND;
/// Place of the source address in an IPv4 header, and of the destination.
const SRC_AT: usize = 12;
const DST_AT: usize = 16;
/// The longest packet here: a SYN with its options.
const WIRE_BYTES: usize = 64;

/// Sequence numbers that each side starts with.
const CLIENT_SEQ: u32 = 1000;
const SERVER_SEQ: u32 = 5000;

/// A packet as it comes in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire {
    bytes: [u8; WIRE_BYTES],
    length: u8,
    from: DeviceIndex,
    /// Where NAT rewrites an address, and to what.
    place: usize,
    rewritten: [u8; 4],
}

/// Which packet of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The client's first.
    First,
    /// The server's answer to it.
    Answer,
    /// The client's, later.
    FromClient,
    /// The server's, later.
    FromServer,
}

impl Wire {
    /// A packet of the connection with this original tuple, which NAT has given `port`.
    pub(super) fn of(tuple: &Tuple, port: u16, stage: Stage) -> Wire {
        let client = SocketAddrV4::new(tuple.src.as_v4(), tuple.src_key);
        let server = SocketAddrV4::new(tuple.dst.as_v4(), tuple.dst_key);
        let outwards = matches!(stage, Stage::First | Stage::FromClient);
        let (src, dst) = if outwards {
            (client, server)
        } else {
            (server, SocketAddrV4::new(TRANSLATED, port))
        };
        let packet = match tuple.protocol {
            Protocol::TCP => tcp(src, dst, stage),
            _ => udp(src, dst),
        };
        let mut bytes = [0; WIRE_BYTES];
        bytes[..packet.len()].copy_from_slice(&packet);
        Wire {
            bytes,
            length: packet.len() as u8,
            from: if outwards { LAN } else { WAN },
            place: if outwards { SRC_AT } else { DST_AT },
            rewritten: if outwards { TRANSLATED } else { *client.ip() }.octets(),
        }
    }
}

fn tcp(src: SocketAddrV4, dst: SocketAddrV4, stage: Stage) -> Vec<u8> {
    let (seq, ack, flags) = match stage {
        Stage::First => (CLIENT_SEQ, 0, Flags::SYN),
        Stage::Answer => (SERVER_SEQ, CLIENT_SEQ + 1, Flags::SYN_ACK),
        Stage::FromClient => (CLIENT_SEQ + 1, SERVER_SEQ + 1, Flags::ACK),
        Stage::FromServer => (SERVER_SEQ + 1, CLIENT_SEQ + 1, Flags::ACK),
    };
    let segment = Segment {
        src,
        dst,
        seq,
        ack,
        flags,
    };
    segment.to_bytes()
}

/// Without data, and without a checksum, as UDP allows it.
fn udp(src: SocketAddrV4, dst: SocketAddrV4) -> Vec<u8> {
    let mut bytes = vec![0; 28];
    bytes[0] = 0x45; // version 4, five words
    bytes[3] = 28;
    bytes[8] = 64;
    bytes[9] = Protocol::UDP.0;
    bytes[12..16].copy_from_slice(&src.ip().octets());
    bytes[16..20].copy_from_slice(&dst.ip().octets());
    let header = checksum(&bytes[..20], 0);
    bytes[10..12].copy_from_slice(&header.to_be_bytes());
    bytes[20..22].copy_from_slice(&src.port().to_be_bytes());
    bytes[22..24].copy_from_slice(&dst.port().to_be_bytes());
    bytes[25] = 8;
    bytes
}

/// What became of packets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Seen {
    pub(super) packets: u64,
    pub(super) accepted: u64,
    /// Dropped as a clash at confirm.
    pub(super) clashed: u64,
    /// Accepted, but not with the address that NAT was to give them.
    pub(super) misdirected: u64,
}

impl Seen {
    /// With another worker's.
    pub(super) fn plus(self, other: &Seen) -> Seen {
        Seen {
            packets: self.packets + other.packets,
            accepted: self.accepted + other.accepted,
            clashed: self.clashed + other.clashed,
            misdirected: self.misdirected + other.misdirected,
        }
    }
}

/// Packets in front of the engine, copied there from where they were made.
#[derive(Debug, Default)]
pub(super) struct Ring(Vec<[u8; WIRE_BYTES]>);

impl Ring {
    /// Sends a batch through the engine. `accepted` is told which packets are through, with the port of the side that NAT
    /// rewrites.
    pub(super) fn send<T: FlowTable<KeyV4>>(
        &mut self,
        worker: &mut Worker<'_, T>,
        wires: &[Wire],
        now: Nanos,
        seen: &mut Seen,
        mut accepted: impl FnMut(usize, u16),
    ) {
        self.0.clear();
        self.0.extend(wires.iter().map(|wire| wire.bytes));
        let mut packets: Vec<Packet<'_>> = self
            .0
            .iter_mut()
            .zip(wires)
            .map(|(bytes, wire)| {
                Packet::new(
                    &mut bytes[..usize::from(wire.length)],
                    Origin::Device(wire.from),
                )
            })
            .collect();
        worker.process(&mut packets, now);
        seen.packets += wires.len() as u64;
        for (number, (packet, wire)) in packets.iter().zip(wires).enumerate() {
            match packet.verdict {
                Some(Verdict::Accept) => {
                    seen.accepted += 1;
                    let address = &packet.bytes[wire.place..wire.place + 4];
                    seen.misdirected += u64::from(address != wire.rewritten);
                    // Ports follow a header of 20 bytes, in the order of the addresses.
                    let at = 20 + (wire.place - SRC_AT) / 2;
                    accepted(
                        number,
                        u16::from_be_bytes([packet.bytes[at], packet.bytes[at + 1]]),
                    );
                }
                Some(Verdict::Drop(DropReason::Clash)) => seen.clashed += 1,
                _ => {}
            }
        }
    }
}

/// The gateway's engine, with what was counted before.
#[derive(Debug)]
pub(super) struct Gateway<T: FlowTable<KeyV4>> {
    pub(super) engine: Engine<T>,
    pub(super) now: Nanos,
    before: Vec<ConntrackStats>,
    booked: EngineStats,
}

impl<T: FlowTable<KeyV4>> Gateway<T> {
    /// With room for so many connections. NAT chooses among `ports`, or as it likes.
    ///
    /// # Panics
    /// If the table cannot have as many workers as the case, or so large a capacity.
    pub(super) fn new(case: &Case, connections: usize, ports: Option<(u16, u16)>) -> Gateway<T> {
        let device = |index, name: &str, address: [u8; 4], prefix| Device {
            index,
            name: name.to_owned(),
            addresses: vec![Network::v4(address.into(), prefix)],
        };
        let table = case.table();
        let sysctls = Sysctls {
            max: connections + case.in_hand(),
            ..Sysctls::default()
        };
        let mut config = EngineConfig::new(sysctls, case.seed);
        config.workers = case.workers;
        config.table.prefetch = table.prefetch;
        config.table.prefetch_write = table.prefetch_write;
        config.table.isa = table.isa;
        config.host = Host {
            devices: vec![
                device(LOOPBACK, "lo", [127, 0, 0, 1], 8),
                device(LAN, "lan", [10, 0, 0, 1], 8),
                device(WAN, "wan", TRANSLATED.octets(), 24),
            ],
            default_route: Some(WAN),
            forwards_everything: false,
        };
        config.rules = Ruleset {
            postrouting: Some(0),
            chains: vec![Chain {
                name: "POSTROUTING".to_owned(),
                rules: vec![NatRule {
                    matches: RuleMatch::default(),
                    target: NatTarget::Snat(NatTo {
                        addresses: Some((Addr::v4(TRANSLATED), Addr::v4(TRANSLATED))),
                        ports: NatPorts {
                            range: ports,
                            ..NatPorts::default()
                        },
                    }),
                }],
                policy_drop: false,
            }],
            ..Ruleset::default()
        };
        let engine = Engine::new(config).unwrap_or_else(|error| panic!("{}: {error}", T::NAME));
        Gateway {
            before: vec![ConntrackStats::default(); case.workers],
            booked: EngineStats::default(),
            now: SECOND,
            engine,
        }
    }

    /// As many workers as it was made for: one at least.
    pub(super) fn workers(&self) -> Vec<Worker<'_, T>> {
        std::iter::from_fn(|| self.engine.worker().ok()).collect()
    }

    /// The books since the last call: what became of so many packets that all were the first of their flows.
    pub(super) fn books(&mut self, seen: &Seen) -> Tally {
        let all = self.engine.engine_stats();
        let news = all.since(&self.booked);
        self.booked = all;
        Tally {
            offered: seen.packets,
            confirmed: news.confirmed,
            resolved_same: news.resolved_same,
            resolved_reply_only: news.resolved_reply_only,
            dropped: seen.packets - seen.accepted,
            recycle_stalled: news.recycle_stalled,
            ..Tally::default()
        }
    }

    /// Time passes, and all connections go that have seen one packet only.
    ///
    /// # Panics
    /// If some stay.
    pub(super) fn forget_all(&mut self) {
        self.now += FORGOTTEN;
        let places = self.engine.table().slab().capacity();
        let Some(worker) = &mut self.workers().pop() else {
            return;
        };
        let mut gc = GcState::default();
        // A run removes some hundred connections at least, or comes to the end of the table.
        for _ in 0..places / 64 + 4 {
            if self.engine.count() == 0 {
                return;
            }
            worker.gc(&mut gc, places, self.now);
        }
        panic!(
            "{}: {} connections stay for ever",
            T::NAME,
            self.engine.count()
        );
    }

    pub(super) fn per_cpu(&self) -> Vec<ConntrackStats> {
        let counted = self.engine.stats();
        counted
            .iter()
            .zip(&self.before)
            .map(|(now, before)| now.since(before))
            .collect()
    }

    pub(super) fn reset(&mut self) {
        self.before = self.engine.stats();
    }
}
