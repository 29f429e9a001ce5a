//! A worker on a reference table, and first packets for it: what the tests of NAT need of
//! tracking and confirm, in its plainest form.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use etherparse::PacketBuilder;

use super::by_source::BySource;
use super::hook::NatAt;
use super::taken::set_tcp_view;
use crate::addr::Addr;
use crate::config::Sysctls;
use crate::engine::{Engine, Worker};
use crate::event::EventMask;
use crate::hook::HookPoint;
use crate::host::{Device, DeviceIndex, Host, LOOPBACK};
use crate::packet::ipv4::Ipv4Header;
use crate::packet::{Origin, Packet, Verdict};
use crate::random::WorkerRng;
use crate::rules::{Chain, NatPorts, NatRule, NatTarget, NatTo, Network, RuleMatch, Ruleset};
use crate::stats::WorkerCounters;
use crate::status::{CtInfo, Status};
use crate::table::hash::HashKey;
use crate::table::key::{FlowKey, KeyV4};
use crate::table::mutex::MutexTable;
use crate::table::slab::{Entry, EntryId};
use crate::table::{Clash, ClashPolicy, ClashStep, Confirmed, FlowTable, TableConfig};
use crate::time::{Nanos, SECOND};
use crate::tuple::{Direction, Protocol, Tuple};
use crate::zone::Zone;

pub(super) const CLIENT: [u8; 4] = [10, 0, 0, 5];
pub(super) const GATEWAY: [u8; 4] = [192, 0, 2, 10];
pub(super) const SERVER: [u8; 4] = [198, 51, 100, 1];
pub(super) const LAN: DeviceIndex = 2;
pub(super) const WAN: DeviceIndex = 3;

pub(super) type TestEngine = Engine<MutexTable<KeyV4>>;

/// An engine of a gateway between `lan` and `wan`.
pub(super) fn engine(rules: Ruleset) -> TestEngine {
    let device = |index, name: &str, addresses: &[[u8; 4]]| Device {
        index,
        name: name.into(),
        addresses: addresses
            .iter()
            .map(|a| Network::v4((*a).into(), 24))
            .collect(),
    };
    let hash_key = HashKey(1, 2);
    Engine {
        table: MutexTable::new(&TableConfig::new(1 << 11, hash_key)),
        sysctls: Sysctls::default(),
        host: Host {
            devices: vec![
                device(LOOPBACK, "lo", &[[127, 0, 0, 1]]),
                device(LAN, "lan", &[[10, 0, 0, 1]]),
                device(WAN, "wan", &[GATEWAY]),
            ],
            default_route: Some(WAN),
            forwards_everything: false,
        },
        rules,
        by_source: BySource::new(1024, hash_key),
        count: AtomicUsize::new(0).into(),
        early_drop_wanted: AtomicBool::new(false),
        counters: vec![WorkerCounters::default().into()].into(),
        seed: 1,
        events: EventMask::empty(),
    }
}

/// One rule for all packets of a place.
pub(super) fn rule(point: HookPoint, target: NatTarget) -> Ruleset {
    let mut rules = Ruleset {
        chains: vec![Chain {
            name: point.name().into(),
            rules: vec![NatRule {
                matches: RuleMatch::default(),
                target,
            }],
            policy_drop: false,
        }],
        ..Ruleset::default()
    };
    match point {
        HookPoint::PreRouting => rules.prerouting = Some(0),
        HookPoint::LocalOut => rules.output = Some(0),
        HookPoint::PostRouting => rules.postrouting = Some(0),
        _ => rules.input = Some(0),
    }
    rules
}

pub(super) fn no_rules() -> Ruleset {
    Ruleset {
        nat_hooks: true,
        ..Ruleset::default()
    }
}

pub(super) fn to(address: [u8; 4], range: Option<(u16, u16)>) -> NatTo {
    NatTo {
        addresses: Some((Addr::v4(address.into()), Addr::v4(address.into()))),
        ports: NatPorts {
            range,
            ..NatPorts::default()
        },
    }
}

/// A packet of a tuple; TCP's has SYN set, ICMP's is of the tuple's type.
pub(super) fn bytes_of(t: &Tuple) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(t.src.as_v4().octets(), t.dst.as_v4().octets(), 64);
    let mut bytes = Vec::new();
    match t.protocol {
        Protocol::TCP => builder
            .tcp(t.src_key, t.dst_key, 1, 1024)
            .syn()
            .write(&mut bytes, &[]),
        Protocol::UDP => builder
            .udp(t.src_key, t.dst_key)
            .write(&mut bytes, b"hello"),
        Protocol::ICMP if t.icmp_type() == 8 => builder
            .icmpv4_echo_request(t.src_key, 1)
            .write(&mut bytes, b"ping"),
        Protocol::ICMP => builder
            .icmpv4_echo_reply(t.src_key, 1)
            .write(&mut bytes, b"ping"),
        p => builder.write(
            &mut bytes,
            etherparse::IpNumber(p.0),
            &[0, 0, 8, 0, 0, 0, 0, 0],
        ),
    }
    .unwrap();
    bytes
}

pub(super) fn tuple(protocol: Protocol, src: ([u8; 4], u16), dst: ([u8; 4], u16)) -> Tuple {
    Tuple {
        src: Addr::v4(src.0.into()),
        dst: Addr::v4(dst.0.into()),
        src_key: src.1,
        dst_key: dst.1,
        family: crate::addr::Family::Ipv4,
        protocol,
    }
}

/// Drops every loser, and remembers that there was one.
struct DropLosers;

impl ClashPolicy<KeyV4> for DropLosers {
    fn decide(&mut self, _: &Clash, _: &Entry<KeyV4>, _: &Entry<KeyV4>) -> ClashStep {
        ClashStep::Drop
    }
}

/// What became of a first packet.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) id: EntryId,
    pub(super) verdict: Verdict,
    /// Rewritten.
    pub(super) bytes: Vec<u8>,
    /// False: dropped at confirm, or before.
    pub(super) confirmed: bool,
    /// How much `found` moved.
    pub(super) found: u64,
}

impl Sent {
    /// The tuple that left.
    pub(super) fn tuple(&self) -> Tuple {
        tuple_of(&self.bytes)
    }
}

pub(super) fn tuple_of(bytes: &[u8]) -> Tuple {
    Ipv4Header::parse(bytes, false)
        .unwrap()
        .tuple(bytes)
        .unwrap()
}

pub(super) struct Lab<'e> {
    pub(super) worker: Worker<'e, MutexTable<KeyV4>>,
    pub(super) now: Nanos,
    pub(super) zone: Zone,
    /// Ends of the next TCP connection's first segment.
    pub(super) tcp_end: u32,
}

impl<'e> Lab<'e> {
    pub(super) fn new(engine: &'e TestEngine) -> Lab<'e> {
        Lab {
            worker: Worker {
                engine,
                table: engine.table.worker(),
                rng: WorkerRng::new(7, 0),
                counters: &engine.counters[0],
                events: Vec::new(),
            },
            now: SECOND,
            zone: Zone::DEFAULT,
            tcp_end: 2,
        }
    }

    pub(super) fn entry(&self, id: EntryId) -> &'e Entry<KeyV4> {
        self.worker.engine.table.slab().entry(id)
    }

    pub(super) fn found(&self) -> u64 {
        self.worker.counters.conntrack.found.value()
    }

    /// An unconfirmed entry for a packet.
    pub(super) fn begin(&mut self, t: &Tuple) -> EntryId {
        let engine = self.worker.engine;
        let id = engine.table.allocate(&mut self.worker.table).unwrap();
        // Relaxed: one thread.
        engine
            .count
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let entry = engine.table.slab().entry(id);
        entry.set_keys(
            KeyV4::pack(t, self.zone.id_for(Direction::Original)),
            KeyV4::pack(&t.invert().unwrap(), self.zone.id_for(Direction::Reply)),
        );
        entry.set_deadline(120 * SECOND);
        set_tcp_view(engine.table.slab().tracker(id), 1, self.tcp_end);
        id
    }

    /// Sends bytes of a known connection through the NAT hook of one place.
    pub(super) fn hook(
        &mut self,
        bytes: &mut [u8],
        id: EntryId,
        ctinfo: CtInfo,
        at: NatAt,
    ) -> Verdict {
        let header = Ipv4Header::parse(bytes, false).unwrap();
        let mut packet = Packet::new(bytes, Origin::Local);
        packet.mark.connection = Some(id);
        packet.mark.ctinfo = Some(ctinfo);
        packet.mark.zone = self.zone;
        self.worker.nat_hook(&mut packet, &header, &at, self.now)
    }

    /// The destination's and the source's hook, for a packet that is forwarded (`lan` to `wan`) or sent by
    /// this host (to `wan`).
    pub(super) fn both_hooks(
        &mut self,
        bytes: &mut [u8],
        id: EntryId,
        ctinfo: CtInfo,
        first: HookPoint,
    ) -> Verdict {
        let in_device = (first == HookPoint::PreRouting).then_some(LAN);
        let places = [(first, None), (HookPoint::PostRouting, Some(WAN))];
        for (point, out_device) in places {
            let at = NatAt {
                point,
                in_device,
                out_device,
            };
            let verdict = self.hook(bytes, id, ctinfo, at);
            if verdict != Verdict::Accept {
                return verdict;
            }
        }
        Verdict::Accept
    }

    pub(super) fn confirm(&mut self, id: EntryId) -> bool {
        let table = &self.worker.engine.table;
        // No random bits: the chains are short here.
        let outcome = table.confirm(&mut self.worker.table, id, self.now, 0, &mut DropLosers);
        outcome == Confirmed::Inserted
    }

    /// A first packet, sent by this host, through both hooks and confirm.
    pub(super) fn send(&mut self, t: &Tuple) -> Sent {
        self.send_through(t, HookPoint::LocalOut)
    }

    /// A first packet, forwarded.
    pub(super) fn forward(&mut self, t: &Tuple) -> Sent {
        self.send_through(t, HookPoint::PreRouting)
    }

    fn send_through(&mut self, t: &Tuple, first: HookPoint) -> Sent {
        let before = self.found();
        let mut bytes = bytes_of(t);
        let id = self.begin(t);
        let verdict = self.both_hooks(&mut bytes, id, CtInfo::New, first);
        let (original, reply) = {
            let entry = self.entry(id);
            (entry.key(Direction::Original), entry.key(Direction::Reply))
        };
        let confirmed = verdict == Verdict::Accept && self.confirm(id);
        if !confirmed {
            // The table gave it back.
            self.worker.engine.by_source.unlink(&original, &reply, id);
        }
        Sent {
            id,
            verdict,
            bytes,
            confirmed,
            found: self.found() - before,
        }
    }

    /// Makes a confirmed TCP connection look closed, its original side ended at `end`.
    pub(super) fn close(&mut self, id: EntryId, state: u8, end: u32) {
        set_tcp_view(self.worker.engine.table.slab().tracker(id), state, end);
    }

    pub(super) fn status(&self, id: EntryId) -> Status {
        self.entry(id).status()
    }
}
