//! Captured packets through the real engine, in the time in which they were captured.
//!
//! The host is a gateway that a capture has seen from one side: every packet comes from a
//! device, is forwarded, and leaves (`PRE_ROUTING`, `FORWARD`, `POST_ROUTING`). What the
//! gateway received with a time to live of 1 it discarded before confirm; what it *sent* with
//! 1 had passed ([`capture::gateway`](crate::capture::gateway) tells them apart), so the
//! replay gives that hop back before the engine forwards it again.
//!
//! Time is that of the packets and never runs backwards. Between two packets the collector
//! runs whenever it is due, as the kernel's does.

mod discarded;
pub mod merge;

use std::collections::HashMap;

use clashtrack_engine::config::Sysctls;
use clashtrack_engine::engine::{Engine, EngineConfig, EngineError, Worker};
use clashtrack_engine::event::{Event, EventMask, Snapshot};
use clashtrack_engine::expire::GcState;
use clashtrack_engine::host::{Device, DeviceIndex, Host};
use clashtrack_engine::packet::checksum::{fold, pseudo_header_v4, replace16};
use clashtrack_engine::packet::ipv4::{CHECKSUM, Ipv4Header, TTL};
use clashtrack_engine::packet::{DropReason, Origin, Packet, Verdict};
use clashtrack_engine::rules::{Network, Ruleset};
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::lockfree::LockfreeTable;
use clashtrack_engine::table::slab::EntryId;
use clashtrack_engine::time::Nanos;
use clashtrack_engine::tuple::Protocol;
use serde::Serialize;

use crate::capture::Record;
use crate::capture::gateway::{Gateway, Leg};
use crate::capture::link::{Ends, Frame, Network as Carried};
use discarded::Discarded;

/// The table that a replay fills.
pub type ReplayTable = LockfreeTable<KeyV4>;

/// What a capture held, by what was done with it. Every record is in exactly one of the
/// first six.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// IPv4 packets that went through the engine.
    pub tracked: u64,
    /// "Time exceeded" that the gateway itself sent about a packet that it had discarded.
    pub own_errors: u64,
    /// IPv6 packets, which are not tracked yet.
    pub ipv6: u64,
    /// Address resolution: looked at for who is the gateway.
    pub arp: u64,
    /// Other frames that carry no IP.
    pub not_ip: u64,
    /// Frames of a link layer that is not understood (one interface of a pcapng file).
    pub unknown_link: u64,
    /// Of `tracked`: cut short by the capture. Lengths come from the headers, checksums are not verified.
    pub truncated: u64,
    /// Of `tracked`: checksum left to the network card, and so not verified.
    pub checksum_offloaded: u64,
    /// Of `tracked`: fragments, which are not put together.
    pub fragments: u64,
    /// Of `tracked`: discarded by the gateway, time to live run out.
    pub ttl_exceeded: u64,
    /// Records that are older than the one before them.
    pub out_of_order: u64,
}

const LAN: DeviceIndex = 2;

/// The gateway: it forwards every packet. Its one address is for rules that ask for one.
fn gateway_host() -> Host {
    let mut host = Host::loopback_only();
    host.devices.push(Device {
        index: LAN,
        name: "eth0".into(),
        addresses: vec![Network::v4([192, 0, 2, 10].into(), 24)],
    });
    host.default_route = Some(LAN);
    host.forwards_everything = true;
    host
}

/// An engine for [`Replay`].
///
/// # Errors
/// Settings that contradict each other.
pub fn engine(
    sysctls: Sysctls,
    rules: Ruleset,
    seed: u64,
) -> Result<Engine<ReplayTable>, EngineError> {
    let mut config = EngineConfig::new(sysctls, seed);
    config.host = gateway_host();
    config.rules = rules;
    config.events = EventMask::CONNTRACK;
    Engine::new(config)
}

/// A replay under way.
#[derive(Debug)]
pub struct Replay<'e> {
    worker: Worker<'e, ReplayTable>,
    gateway: Gateway,
    discarded: Discarded,
    /// Order in which connections were confirmed.
    order: HashMap<EntryId, u64>,
    confirmed: u64,
    tally: Tally,
    now: Nanos,
    gc: GcState,
    gc_due: Option<Nanos>,
}

impl<'e> Replay<'e> {
    /// A replay through an engine made by [`engine`].
    ///
    /// # Errors
    /// [`EngineError::WorkersExhausted`] where another replay runs through it.
    pub fn new(
        engine: &'e Engine<ReplayTable>,
        gateway: Gateway,
    ) -> Result<Replay<'e>, EngineError> {
        Ok(Replay {
            worker: engine.worker()?,
            gateway,
            discarded: Discarded::default(),
            order: HashMap::new(),
            confirmed: 0,
            tally: Tally::default(),
            now: 0,
            gc: GcState::default(),
            gc_due: None,
        })
    }

    /// What the captures held so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// One record: time goes on to it, then its packet passes. Gives what happened to
    /// connections, in order.
    pub fn feed(&mut self, record: Record) -> Vec<Event> {
        let mut events = self.advance(record.timestamp_ns);
        let truncated = record.is_truncated();
        let Some(link_type) = record.link_type else {
            self.tally.unknown_link += 1;
            return events;
        };
        let mut bytes = record.bytes;
        let frame = Frame::parse(link_type, &bytes);
        match frame.network {
            Carried::Ipv4(packet) => {
                let start = bytes.len() - packet.len();
                let ends = frame.ends;
                self.packet(&mut bytes[start..], ends, truncated);
            }
            Carried::Ipv6(_) => self.tally.ipv6 += 1,
            Carried::Arp(claim) => {
                self.tally.arp += 1;
                if let Some(claim) = claim {
                    self.gateway.claim(claim);
                }
            }
            Carried::Other => self.tally.not_ip += 1,
        }
        self.collect_events(&mut events);
        events
    }

    /// The end: what has expired by now is taken away, the rest is listed in the order of
    /// first packets. Gives the last events, then the connections.
    pub fn finish(mut self) -> (Vec<Event>, Vec<Snapshot>) {
        let mut events = Vec::new();
        self.collect_expired(self.now, &mut events);
        let mut connections = self.worker.engine().connections(self.now);
        connections.sort_by_key(|c| self.order.get(&c.id).copied().unwrap_or(u64::MAX));
        (events, connections)
    }

    /// Moves time on; the collector runs at each moment at which it is due until then.
    fn advance(&mut self, to: Nanos) -> Vec<Event> {
        let mut events = Vec::new();
        if to < self.now {
            self.tally.out_of_order += 1;
            return events;
        }
        while let Some(due) = self.gc_due.filter(|&due| due <= to) {
            if self.worker.engine().count() == 0 {
                self.gc_due = None;
                break;
            }
            let delay = self.collect_expired(due, &mut events);
            self.gc_due = Some(due.saturating_add(delay));
        }
        self.now = to;
        if self.gc_due.is_none() {
            // Nothing was there to expire; the first packet after that starts it anew.
            self.gc_due = Some(to);
        }
        events
    }

    /// Runs of the collector, until it asks for a pause. Gives the time to wait for the next.
    fn collect_expired(&mut self, now: Nanos, events: &mut Vec<Event>) -> Nanos {
        loop {
            let run = self.worker.gc(&mut self.gc, usize::MAX, now);
            self.collect_events(events);
            if run.delay > 0 {
                return run.delay;
            }
        }
    }

    fn collect_events(&mut self, events: &mut Vec<Event>) {
        for event in self.worker.take_events() {
            match &event {
                Event::New(_, connection) => {
                    self.order.insert(connection.id, self.confirmed);
                    self.confirmed += 1;
                }
                Event::Destroy(_, connection) => {
                    self.order.remove(&connection.id);
                }
                _ => {}
            }
            events.push(event);
        }
    }

    fn packet(&mut self, bytes: &mut [u8], ends: Ends, truncated: bool) {
        let mut unverifiable = truncated;
        if let Some(header) = Ipv4Header::parse(bytes, truncated) {
            if self.discarded.is_reported_by(&header, bytes) {
                self.tally.own_errors += 1;
                return;
            }
            let leg = self.gateway.leg(ends, &header);
            if leg != Leg::In && header.ttl <= 1 {
                give_hop_back(bytes);
            }
            if header.fragment_offset != 0 || header.more_fragments {
                self.tally.fragments += 1;
            } else if !truncated && is_checksum_offloaded(&header, bytes) {
                self.tally.checksum_offloaded += 1;
                unverifiable = true;
            }
        }
        self.tally.tracked += 1;
        self.tally.truncated += u64::from(truncated);
        let mut packet = Packet::new(bytes, Origin::Device(LAN));
        packet.truncated = unverifiable;
        self.worker
            .process(std::slice::from_mut(&mut packet), self.now);
        if packet.verdict == Some(Verdict::Drop(DropReason::TtlExceeded)) {
            self.tally.ttl_exceeded += 1;
            self.discarded.remember(packet.bytes);
        }
    }
}

/// Undoes the decrement of the gateway that has forwarded the packet. The header is present.
fn give_hop_back(bytes: &mut [u8]) {
    // TTL is the high half of a checksummed word, the protocol the low.
    let word = |bytes: &[u8]| u16::from_be_bytes([bytes[TTL], bytes[TTL + 1]]);
    let before = word(bytes);
    bytes[TTL] += 1;
    let check = u16::from_be_bytes([bytes[CHECKSUM.start], bytes[CHECKSUM.start + 1]]);
    let check = replace16(check, before, word(bytes));
    bytes[CHECKSUM].copy_from_slice(&check.to_be_bytes());
}

/// The sender left the checksum to its network card: the field holds the pseudo header's sum
/// alone (`CHECKSUM_PARTIAL`). The kernel takes such a packet for verified.
fn is_checksum_offloaded(header: &Ipv4Header, bytes: &[u8]) -> bool {
    let at = match header.protocol {
        Protocol::TCP => 16,
        Protocol::UDP => 6,
        _ => return false,
    };
    let Some(&[high, low]) = header.l4(bytes).get(at..at + 2) else {
        return false;
    };
    let (src, dst) = (header.src.to_u32(), header.dst.to_u32());
    let pseudo = pseudo_header_v4(src, dst, header.protocol.0, header.l4_length());
    u16::from_be_bytes([high, low]) == fold(pseudo)
}
