//! Packets, rules and settings that nobody would send or load in good faith.
//!
//! Aim: whatever comes in, no packet makes the engine panic or go round for ever, each packet
//! ends in one fate, and every entry and reference is given back. Method: generators make
//! packets of a few hosts and ports (so that they meet), break some of them, and drive several
//! workers of one engine with random rules, small tables and little time between packets.
//! After each step the number of connections is compared with the entries in use; at the end
//! the collector runs in the far future, and nothing may be left.

use std::net::Ipv4Addr;

use clashtrack_engine::config::{KernelVersion, Sysctls};
use clashtrack_engine::engine::{Engine, EngineConfig, EngineError, Worker};
use clashtrack_engine::event::{Event, EventMask, Snapshot};
use clashtrack_engine::expire::GcState;
use clashtrack_engine::hook::HOOKS;
use clashtrack_engine::host::{Device, Host, LOOPBACK};
use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::packet::checksum::{checksum, pseudo_header_v4};
use clashtrack_engine::packet::{Origin, Packet, Verdict};
use clashtrack_engine::random::WorkerRng;
use clashtrack_engine::rules::{
    Chain, DevicePattern, NatPorts, NatRule, NatTarget, NatTo, Network, Not, RawRule, RawTarget,
    RuleMatch, Ruleset,
};
use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::hash::HashKey;
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::lockfree::LockfreeTable;
use clashtrack_engine::table::slab::Life;
use clashtrack_engine::time::{Nanos, SECOND};
use clashtrack_engine::tuple::Protocol;
use clashtrack_engine::zone::{Zone, ZoneDirections};

type Table = LockfreeTable<KeyV4>;

/// Hosts on both sides, the gateway's own addresses, loopback, and a few that no route knows.
const HOSTS: [[u8; 4]; 9] = [
    [10, 0, 0, 11],
    [10, 0, 0, 12],
    [198, 51, 100, 21],
    [198, 51, 100, 22],
    [10, 0, 0, 1],
    [198, 51, 100, 1],
    [127, 0, 0, 1],
    [0, 0, 0, 0],
    [203, 0, 113, 9],
];
const PORTS: [u16; 6] = [0, 53, 600, 1024, 40000, 65535];
/// A table with room for all: these seeds have 540 connections at most, and after each step all entries are looked at.
const ROOM: usize = 1024;
const PROTOCOLS: [u8; 8] = [1, 6, 17, 33, 47, 132, 136, 253];

/// What a case is made of, drawn from one seed.
struct Draw(WorkerRng);

impl Draw {
    fn new(seed: u64) -> Draw {
        Draw(WorkerRng::new(seed, 1 << 20))
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound as u32) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    fn maybe<T>(&mut self, n: usize, make: impl FnOnce(&mut Draw) -> T) -> Option<T> {
        self.one_in(n).then(|| make(self))
    }

    fn host(&mut self) -> Ipv4Addr {
        self.of(&HOSTS).into()
    }

    fn origin(&mut self) -> Origin {
        match self.below(4) {
            0 => Origin::Local,
            device => Origin::Device(device as u32 + u32::from(self.one_in(9)) * 7),
        }
    }

    fn packet(&mut self) -> Vec<u8> {
        let mut bytes = self.sound_packet();
        if self.one_in(3) {
            self.damage(&mut bytes);
        }
        bytes
    }

    fn sound_packet(&mut self) -> Vec<u8> {
        let protocol = self.of(&PROTOCOLS);
        let (src, dst) = (self.host(), self.host());
        let l4 = match protocol {
            1 => self.icmp(),
            6 => self.tcp(),
            132 => self.sctp(),
            47 => vec![
                0,
                self.of(&[0, 1, 2]),
                self.of(&[0x88, 8]),
                self.of(&[0x0b, 0]),
                0,
                0,
                self.byte(),
                1,
            ],
            17 | 136 => self.udp(),
            _ => vec![0; self.below(9)],
        };
        ipv4(src, dst, protocol, l4, self.of(&[1, 64, 64, 64]))
    }

    fn tcp(&mut self) -> Vec<u8> {
        let mut l4 = self.ports();
        let numbers = [0u32, 1, 2, 1000, 1001, 5000, u32::MAX];
        l4.extend(self.of(&numbers).to_be_bytes());
        l4.extend(self.of(&numbers).to_be_bytes());
        let options: &[u8] = self.of(&[
            &[][..],
            &[3, 3, 255, 0],
            &[4, 2, 1, 1],
            &[5, 10, 0, 0, 0, 1, 255, 255, 255, 255, 0, 0],
            &[8, 0, 0, 0],
        ]);
        let flags = [2u8, 2, 0x12, 0x12, 0x10, 0x10, 0x10, 0x11, 0x11, 4, 0x14];
        let flags = if self.one_in(12) {
            self.byte()
        } else {
            self.of(&flags)
        };
        l4.extend([0x50 + (options.len() as u8 / 4) * 16, flags]);
        l4.extend(self.of(&[0u16, 1, 1000, 65535]).to_be_bytes());
        l4.extend([0; 4]);
        l4.extend(options);
        l4.extend(vec![7; self.of(&[0, 0, 1, 100])]);
        l4
    }

    fn udp(&mut self) -> Vec<u8> {
        let mut l4 = self.ports();
        let data = self.below(5);
        l4.extend((8 + data as u16).to_be_bytes());
        l4.extend([0, 0]);
        l4.extend(vec![1; data]);
        l4
    }

    fn sctp(&mut self) -> Vec<u8> {
        let mut l4 = self.ports();
        l4.extend([0; 8]);
        l4.extend([self.of(&[0, 1, 1, 2]), 0, 0, 4]);
        l4
    }

    fn ports(&mut self) -> Vec<u8> {
        let (src, dst) = (self.of(&PORTS), self.of(&PORTS));
        [src.to_be_bytes(), dst.to_be_bytes()].concat()
    }

    /// A question, an answer, or an error about some packet.
    fn icmp(&mut self) -> Vec<u8> {
        if self.one_in(2) {
            let kind = self.of(&[8, 0, 8, 0, 13, 14, 9, 19]);
            return vec![kind, 0, 0, 0, 0, self.of(&[1, 2]), 0, 1];
        }
        let mut l4 = vec![self.of(&[3, 4, 5, 11, 12]), 1, 0, 0, 0, 0, 0, 0];
        let quoted = self.packet();
        l4.extend(&quoted[..quoted.len().min(self.of(&[20, 28, 60]))]);
        l4
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        match self.below(4) {
            0 => bytes.truncate(self.below(bytes.len() + 1)),
            1 => bytes.extend(vec![0xee; self.below(40)]),
            _ => {
                for _ in 0..=self.below(3) {
                    let places = if self.one_in(2) { 24 } else { bytes.len() };
                    let at = self.below(places.min(bytes.len()));
                    bytes[at] = self.byte();
                }
            }
        }
    }

    fn ports_of_target(&mut self) -> NatPorts {
        NatPorts {
            range: self.maybe(2, |d| (d.of(&PORTS), d.of(&PORTS))),
            base: self.maybe(3, |d| d.of(&PORTS)),
            flags: NatFlags::from_bits_retain(u32::from(self.byte() & self.byte())),
        }
    }

    fn to(&mut self) -> NatTo {
        NatTo {
            addresses: self.maybe(2, |d| (d.host().into(), d.host().into())),
            ports: self.ports_of_target(),
        }
    }

    fn target(&mut self) -> NatTarget {
        match self.below(12) {
            0 | 1 => NatTarget::Snat(self.to()),
            2 | 3 => NatTarget::Dnat(self.to()),
            4 | 5 => NatTarget::Masquerade(self.ports_of_target()),
            6 => NatTarget::Redirect(self.ports_of_target()),
            7 => NatTarget::Netmap {
                to: self.host(),
                prefix: self.of(&[0, 8, 24, 32, 33, 255]),
            },
            8 => NatTarget::Jump(self.below(7)),
            9 => NatTarget::Goto(self.below(7)),
            10 if self.one_in(2) => NatTarget::Accept,
            10 => NatTarget::Drop,
            _ => NatTarget::Return,
        }
    }

    fn matches(&mut self) -> RuleMatch {
        let negated = self.one_in(4);
        let not = |value| Not { negated, value };
        RuleMatch {
            protocol: self.maybe(3, |d| not(Protocol(d.of(&PROTOCOLS)))),
            dst: self.maybe(4, |d| {
                Not::is(vec![Network::v4(d.host(), d.of(&[0, 24, 32]))])
            }),
            dst_ports: self.maybe(5, |d| Not::is(vec![d.of(&PORTS)..=d.of(&PORTS)])),
            in_device: self.maybe(5, |d| {
                Not::is(DevicePattern {
                    name: d.of(&["", "lan", "w"]).into(),
                    prefix: d.one_in(2),
                })
            }),
            ..RuleMatch::default()
        }
    }

    fn rules(&mut self) -> Ruleset {
        let chains = (0..6)
            .map(|_| Chain {
                name: String::new(),
                rules: (0..self.below(3))
                    .map(|_| NatRule {
                        matches: self.matches(),
                        target: self.target(),
                    })
                    .collect(),
                policy_drop: self.one_in(20),
            })
            .collect();
        let raw = if self.one_in(3) {
            let zone = Zone {
                id: self.of(&[0, 5, 65535]),
                directions: self.of(&[
                    ZoneDirections::Both,
                    ZoneDirections::Original,
                    ZoneDirections::Reply,
                ]),
            };
            let target = self.of(&[RawTarget::NoTrack, RawTarget::Zone(zone)]);
            vec![RawRule {
                matches: self.matches(),
                target,
            }]
        } else {
            Vec::new()
        };
        Ruleset {
            raw,
            prerouting: self.maybe(2, |d| d.below(7)),
            input: self.maybe(3, |d| d.below(7)),
            output: self.maybe(2, |d| d.below(7)),
            postrouting: self.maybe(2, |d| d.below(7)),
            chains,
            nat_hooks: self.one_in(2),
        }
    }

    fn host_config(&mut self) -> Host {
        if self.one_in(6) {
            return Host::loopback_only();
        }
        let device = |index, name: &str, addresses: &[([u8; 4], u8)]| Device {
            index,
            name: name.into(),
            addresses: addresses
                .iter()
                .map(|&(address, prefix)| Network::v4(address.into(), prefix))
                .collect(),
        };
        Host {
            devices: vec![
                device(LOOPBACK, "lo", &[([127, 0, 0, 1], 8)]),
                device(2, "lan", &[([10, 0, 0, 1], 24)]),
                device(3, "wan", &[([198, 51, 100, 1], 24)]),
            ],
            default_route: self.of(&[None, Some(3), Some(LOOPBACK), Some(99)]),
            forwards_everything: self.one_in(6),
        }
    }

    fn config(&mut self) -> EngineConfig {
        let mut sysctls = Sysctls {
            max: self.of(&[0, 1, 7, 100, ROOM]),
            checksum: self.one_in(2),
            acct: self.one_in(2),
            tcp_loose: !self.one_in(3),
            tcp_be_liberal: self.one_in(3),
            ..Sysctls::default()
        };
        if self.one_in(3) {
            sysctls.kernel = KernelVersion::Article;
        }
        let room = if sysctls.max == 0 { ROOM } else { sysctls.max };
        let mut config = EngineConfig::new(
            Sysctls {
                max: room,
                ..sysctls.clone()
            },
            self.0.next_u64(),
        );
        config.sysctls = sysctls;
        config.table.buckets = self.of(&[1, 3, 64, 1024]);
        config.table.hash_key = HashKey(self.0.next_u64(), self.0.next_u64());
        config.host = self.host_config();
        config.rules = self.rules();
        config.workers = 3;
        config.events = EventMask::all();
        config
    }
}

/// A packet with right lengths and sums around a transport part whose sum is still 0.
fn ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, mut l4: Vec<u8>, ttl: u8) -> Vec<u8> {
    let pseudo = pseudo_header_v4(src.to_bits(), dst.to_bits(), protocol.min(17), l4.len());
    let field = match protocol {
        1 => Some((2, 0)),
        6 => Some((16, pseudo)),
        17 | 136 => Some((6, pseudo)),
        _ => None,
    };
    if let Some((at, pseudo)) = field {
        let check = checksum(&l4, pseudo);
        l4[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
    let length = (20 + l4.len()) as u16;
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, ttl, protocol, 0, 0];
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    bytes.extend(src.octets());
    bytes.extend(dst.octets());
    let check = checksum(&bytes, 0);
    bytes[10..12].copy_from_slice(&check.to_be_bytes());
    bytes.extend(l4);
    bytes
}

fn entries_in_use(engine: &Engine<Table>) -> usize {
    let slab = engine.table().slab();
    (0..slab.capacity() as u32)
        .filter(|&index| slab.at(index).state().life != Life::Free)
        .count()
}

fn fates_in_all(engine: &Engine<Table>) -> u64 {
    engine.fates().named().iter().map(|(_, n)| n).sum()
}

/// Runs the collector until it has walked the whole table and found nothing more.
fn collect_all(worker: &mut Worker<'_, Table>, now: Nanos) {
    let mut state = GcState::default();
    loop {
        let run = worker.gc(&mut state, usize::MAX, now);
        if run.expired + run.evicted == 0 {
            break;
        }
    }
}

/// NEW comes once and first, DESTROY once and last; an UPDATE names something that changed,
/// and nothing that can happen but once twice.
fn check_events(events: &[Event], seed: u64) {
    use clashtrack_engine::event::Changes;
    use std::collections::HashMap;
    #[derive(Default)]
    struct Told {
        new: usize,
        destroyed: usize,
        once: Changes,
    }
    let mut told: HashMap<_, Told> = HashMap::new();
    for event in events {
        match event {
            Event::New(_, ct) => {
                let life = told.entry(ct.id).or_default();
                assert_eq!((life.new, life.destroyed), (0, 0), "seed {seed}: {event:?}");
                life.new += 1;
            }
            Event::Update(_, ct, changes) => {
                let life = told.entry(ct.id).or_default();
                assert!(!changes.is_empty(), "seed {seed}: {event:?}");
                assert_eq!(life.destroyed, 0, "seed {seed}: {event:?}");
                let once = *changes & (Changes::REPLY | Changes::ASSURED);
                assert!(!life.once.intersects(once), "seed {seed}: twice: {event:?}");
                life.once |= once;
            }
            Event::Destroy(_, ct) => {
                let life = told.entry(ct.id).or_default();
                assert_eq!(life.destroyed, 0, "seed {seed}: {event:?}");
                life.destroyed += 1;
            }
            Event::Clash { .. } => {}
        }
    }
    for (id, life) in told {
        assert_eq!(life.destroyed, 1, "seed {seed}: {id:?} never ended");
    }
}

/// The events since the last call, which must be made before another worker does something.
fn take_all(workers: &mut [Worker<'_, Table>], events: &mut Vec<Event>) {
    for worker in workers {
        events.append(&mut worker.take_events());
    }
}

/// One engine, three workers, some hundred packets.
fn drive(seed: u64) {
    let mut draw = Draw::new(seed);
    let engine = Engine::<Table>::new(draw.config()).expect("a sound configuration");
    let mut workers: Vec<_> = (0..3).map(|_| engine.worker().expect("free")).collect();
    let mut now = 1_000 * SECOND;
    let (mut sent, mut events, mut parked) = (0, Vec::new(), Vec::new());
    for _ in 0..40 {
        now += draw.of(&[0, 1, SECOND / 3, 3 * SECOND, 200 * SECOND]);
        let number = draw.below(3);
        let worker = &mut workers[number];
        let mut bytes: Vec<_> = (0..draw.of(&[1, 1, 5, 70]))
            .map(|_| draw.packet())
            .collect();
        let mut packets: Vec<_> = bytes
            .iter_mut()
            .map(|b| {
                let mut packet = Packet::new(b, draw.origin());
                packet.truncated = draw.one_in(4);
                packet
            })
            .collect();
        worker.process(&mut packets, now);
        sent += packets.len() as u64;
        assert!(packets.iter().all(|p| p.verdict.is_some()), "seed {seed}");
        drop(packets);
        if draw.one_in(3) {
            let stop = (draw.of(HOOKS).point, draw.of(&[-250, 0, 200, i32::MAX]));
            let bytes: &'static mut [u8] = Box::leak(draw.packet().into_boxed_slice());
            let mut packet = Packet::new(bytes, draw.origin());
            sent += 1;
            if let Some(journey) = worker.park(&mut packet, stop, now) {
                parked.push((packet, journey, number));
            }
        }
        if draw.one_in(4)
            && let Some((packet, _, _)) = parked.last()
        {
            worker.mark_dying(packet, now);
        }
        if draw.one_in(2)
            && let Some((mut packet, journey, whose)) = parked.pop()
        {
            take_all(&mut workers, &mut events);
            workers[whose].resume(&mut packet, journey, now);
        }
        take_all(&mut workers, &mut events);
        if draw.one_in(8) {
            let budget = draw.of(&[1, 100, usize::MAX]);
            workers[number].gc(&mut GcState::default(), budget, now);
        }
        take_all(&mut workers, &mut events);
        assert_eq!(engine.count(), entries_in_use(&engine), "seed {seed}");
        let underway = parked.len() as u64;
        assert_eq!(fates_in_all(&engine), sent - underway, "seed {seed}");
    }
    for (mut packet, journey, whose) in parked.drain(..) {
        workers[whose].resume(&mut packet, journey, now);
        take_all(&mut workers, &mut events);
    }
    assert_no_key_has_two_owners(&engine, now, seed);
    collect_all(&mut workers[1], Nanos::MAX);
    assert_eq!(
        (engine.count(), entries_in_use(&engine)),
        (0, 0),
        "seed {seed}"
    );
    assert_eq!(fates_in_all(&engine), sent, "seed {seed}");
    take_all(&mut workers, &mut events);
    check_events(&events, seed);
}

fn assert_no_key_has_two_owners(engine: &Engine<Table>, now: Nanos, seed: u64) {
    let mut owners = std::collections::HashMap::new();
    for ct in engine.connections(now) {
        let Snapshot {
            id,
            original,
            reply,
            zones,
            ..
        } = ct;
        for key in [(original, zones.0), (reply, zones.1)] {
            let owner = *owners.entry(key).or_insert(id);
            assert_eq!(owner, id, "seed {seed}: {key:?} has two owners");
        }
    }
}

#[test]
fn a_packet_that_routes_back_into_loopback_passes_it_once() {
    // `lo` is the only device, so it is where a packet to anywhere leaves.
    let engine = Engine::<Table>::new(EngineConfig::new(Sysctls::default(), 1)).unwrap();
    let mut worker = engine.worker().unwrap();
    for origin in [Origin::Local, Origin::Device(2)] {
        let l4 = vec![0, 9, 0, 9, 0, 8, 0, 0];
        let mut bytes = ipv4(HOSTS[0].into(), HOSTS[2].into(), 17, l4, 64);
        let mut packets = [Packet::new(&mut bytes, origin)];
        worker.process(&mut packets, 0);
        assert_eq!(packets[0].verdict, Some(Verdict::Accept));
    }
    assert_eq!((engine.count(), engine.fates().accepted), (1, 2));
}

#[test]
fn a_packet_that_is_sent_through_again_gives_its_connection_back_once() {
    let engine = Engine::<Table>::new(EngineConfig::new(Sysctls::default(), 1)).unwrap();
    let mut worker = engine.worker().unwrap();
    let l4 = vec![0, 9, 0, 9, 0, 8, 0, 0];
    let mut bytes = ipv4(HOSTS[6].into(), HOSTS[6].into(), 17, l4, 64);
    let mut packets = [Packet::new(&mut bytes, Origin::Local)];
    for round in 1..=3 {
        worker.process(&mut packets, 0);
        assert_eq!((engine.count(), entries_in_use(&engine)), (1, 1));
        assert_eq!(engine.fates().accepted, round);
    }
    collect_all(&mut worker, Nanos::MAX);
    assert_eq!((engine.count(), entries_in_use(&engine)), (0, 0));
}

#[test]
fn a_limit_that_no_table_can_hold_is_an_error() {
    for max in [Table::CAPACITY_MAX, 1 << 40, usize::MAX] {
        let sysctls = Sysctls {
            max,
            ..Sysctls::default()
        };
        let error = Engine::<Table>::new(EngineConfig::new(sysctls, 1)).unwrap_err();
        assert!(matches!(error, EngineError::CapacityTooLarge { .. }));
    }
}

#[test]
fn more_workers_than_the_table_has_places_for_are_an_error() {
    let engine = |workers| {
        let sysctls = Sysctls {
            max: 1000,
            ..Sysctls::default()
        };
        let config = EngineConfig {
            workers,
            ..EngineConfig::new(sysctls, 1)
        };
        Engine::<Table>::new(config)
    };
    let most = engine(Table::WORKERS_MAX).unwrap();
    let workers: Vec<_> = (0..Table::WORKERS_MAX)
        .map(|_| most.worker().unwrap())
        .collect();
    assert_eq!(workers.len(), Table::WORKERS_MAX);
    let error = engine(Table::WORKERS_MAX + 1).unwrap_err();
    assert!(matches!(error, EngineError::TooManyWorkers { .. }));
}

#[test]
fn the_end_of_time_is_no_overflow() {
    let engine = Engine::<Table>::new(EngineConfig::new(Sysctls::default(), 1)).unwrap();
    let mut worker = engine.worker().unwrap();
    let mut draw = Draw::new(1);
    for now in [Nanos::MAX - 1, Nanos::MAX, 0] {
        for protocol in PROTOCOLS {
            let mut l4 = vec![0; 20];
            l4[4..8].copy_from_slice(&[0, 20, 0, 0]);
            (l4[12], l4[13]) = (0x50, 2);
            if protocol == 1 {
                l4[0] = 8;
            }
            let mut bytes = ipv4(HOSTS[0].into(), HOSTS[2].into(), protocol, l4, 64);
            let origin = draw.origin();
            worker.process(&mut [Packet::new(&mut bytes, origin)], now);
        }
    }
    assert_eq!(engine.count(), entries_in_use(&engine));
}

#[test]
fn no_packet_rule_or_setting_makes_the_engine_panic_or_lose_an_entry() {
    // Each case is one thread's, so they can share the cores.
    const THREADS: usize = 4;
    std::thread::scope(|scope| {
        for first in 0..THREADS as u64 {
            scope.spawn(move || (first..400).step_by(THREADS).for_each(drive));
        }
    });
}
