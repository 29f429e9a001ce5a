//! The laboratory of the cases: a gateway between two networks, a clock that the case turns,
//! and questions to ask of it.
//!
//! ```text
//! a 10.0.0.11 ─ lan(2) ─ gateway ─ wan(3) ─ b 198.51.100.21
//!               10.0.0.1          198.51.100.1
//! ```

use std::net::Ipv4Addr;

use clashtrack_engine::config::Sysctls;
use clashtrack_engine::engine::{Engine, EngineConfig, Worker};
use clashtrack_engine::event::{Event, EventMask, Snapshot};
use clashtrack_engine::host::{Device, Host, LOOPBACK};
use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::packet::{Origin, Packet, Verdict};
use clashtrack_engine::proto::tcp::TcpConntrackState;
use clashtrack_engine::rules::{
    Chain, NatPorts, NatRule, NatTarget, NatTo, Network, RuleMatch, Ruleset,
};
use clashtrack_engine::stats::ConntrackStats;
use clashtrack_engine::status::{CtInfo, Status};
use clashtrack_engine::time::{Nanos, SECOND};
use clashtrack_engine::tuple::{Direction, Tuple};
use clashtrack_engine::zone::Zone;

use crate::TestTable;
use crate::packets::{Segment, ip};

/// The client.
pub const A: Ipv4Addr = ip(10, 0, 0, 11);
/// The server.
pub const B: Ipv4Addr = ip(198, 51, 100, 21);
/// The gateway's address on the server's side.
pub const GATEWAY: Ipv4Addr = ip(198, 51, 100, 1);
/// This host, talking to itself.
pub const LOCALHOST: Ipv4Addr = ip(127, 0, 0, 1);
/// The device of the clients.
pub const LAN: Origin = Origin::Device(2);
/// The device of the servers.
pub const WAN: Origin = Origin::Device(3);
/// The cases' TCP client.
pub const CLIENT: (Ipv4Addr, u16) = (A, 1234);
/// The cases' TCP server.
pub const SERVER: (Ipv4Addr, u16) = (B, 4321);

/// A gateway under test.
pub struct Lab {
    /// The engine; the cases' engines live as long as the test process.
    pub engine: &'static Engine<TestTable>,
    /// Its worker.
    pub worker: Worker<'static, TestTable>,
    /// The clock.
    pub now: Nanos,
    seen: ConntrackStats,
}

/// What became of a packet.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The bytes afterwards.
    pub bytes: Vec<u8>,
    /// The verdict.
    pub verdict: Verdict,
    /// Relation to the connection; `None` is INVALID.
    pub ctinfo: Option<CtInfo>,
}

impl Sent {
    /// Went on.
    pub fn accepted(&self) -> bool {
        self.verdict == Verdict::Accept
    }

    /// Went on without a connection.
    pub fn is_invalid(&self) -> bool {
        self.accepted() && self.ctinfo.is_none()
    }

    /// Its tuple afterwards.
    pub fn tuple(&self) -> Tuple {
        crate::packets::tuple(&self.bytes)
    }
}

/// The gateway of the picture.
pub fn gateway() -> Host {
    let device = |index, name: &str, address, prefix| Device {
        index,
        name: name.into(),
        addresses: vec![Network::v4(address, prefix)],
    };
    Host {
        devices: vec![
            device(LOOPBACK, "lo", LOCALHOST, 8),
            device(2, "lan", ip(10, 0, 0, 1), 24),
            device(3, "wan", GATEWAY, 24),
        ],
        default_route: Some(3),
        forwards_everything: false,
    }
}

impl Lab {
    /// The gateway without rules, with the kernel's defaults.
    pub fn new() -> Lab {
        Lab::with(Ruleset::default(), |_| {})
    }

    /// A gateway with rules and changed settings.
    pub fn with(rules: Ruleset, change: impl FnOnce(&mut EngineConfig)) -> Lab {
        let sysctls = Sysctls {
            max: 4096,
            ..Sysctls::default()
        };
        let mut config = EngineConfig::new(sysctls, 7);
        config.host = gateway();
        config.rules = rules;
        config.events = EventMask::all();
        change(&mut config);
        let engine = Box::leak(Box::new(
            Engine::new(config).expect("a sound configuration"),
        ));
        let worker = engine.worker().expect("the first worker");
        Lab {
            engine,
            worker,
            now: 1_000 * SECOND,
            seen: ConntrackStats::default(),
        }
    }

    /// A gateway with changed sysctls.
    pub fn sysctls(change: impl FnOnce(&mut Sysctls)) -> Lab {
        Lab::with(Ruleset::default(), |config| change(&mut config.sysctls))
    }

    /// Lets time pass.
    pub fn wait(&mut self, seconds: f64) {
        self.now += (seconds * SECOND as f64) as Nanos;
    }

    /// Sends a packet through.
    pub fn send(&mut self, origin: Origin, mut bytes: Vec<u8>) -> Sent {
        let mut packets = [Packet::new(&mut bytes, origin)];
        self.worker.process(&mut packets, self.now);
        let [packet] = packets;
        let (verdict, ctinfo) = (
            packet.verdict.expect("every packet gets a verdict"),
            packet.mark.ctinfo,
        );
        Sent {
            bytes,
            verdict,
            ctinfo,
        }
    }

    /// A TCP segment of the client (original direction).
    pub fn o(&mut self, segment: &Segment) -> Sent {
        self.send(LAN, segment.packet(CLIENT, SERVER))
    }

    /// A TCP segment of the server (reply direction).
    pub fn r(&mut self, segment: &Segment) -> Sent {
        self.send(WAN, segment.packet(SERVER, CLIENT))
    }

    /// The connection that a tuple belongs to, and which side of it the tuple is.
    pub fn find(&mut self, tuple: &Tuple) -> Option<(Snapshot, Direction)> {
        self.worker.lookup(tuple, Zone::DEFAULT, self.now)
    }

    /// The connection that a packet's tuple belongs to.
    pub fn ct_of(&mut self, bytes: &[u8]) -> Option<Snapshot> {
        self.find(&crate::packets::tuple(bytes))
            .map(|(snapshot, _)| snapshot)
    }

    /// The cases' TCP connection in words: `"SYN_SENT 120 [UNREPLIED]"`, or `"-"` if there is none.
    pub fn tcp(&mut self) -> String {
        let tuple = crate::packets::tuple(&crate::packets::segment(0, 0, 0).packet(CLIENT, SERVER));
        match self.find(&tuple) {
            None => "-".into(),
            Some((ct, direction)) => {
                let swapped = if direction == Direction::Reply {
                    " swapped"
                } else {
                    ""
                };
                let state = TcpConntrackState::from_number(ct.state).name();
                format!("{state} {}{swapped}", in_words(&ct))
            }
        }
    }

    /// Counters that moved since the last call.
    pub fn moved(&mut self) -> Vec<(&'static str, u64)> {
        let mut now = ConntrackStats::default();
        self.engine.stats().iter().for_each(|cpu| now.add(cpu));
        let moved = now.since(&self.seen);
        self.seen = now;
        moved.named().into_iter().filter(|(_, n)| *n > 0).collect()
    }

    /// Clash events since the last call that took events.
    pub fn clashes(&mut self) -> Vec<Event> {
        let events = self.worker.take_events();
        events
            .into_iter()
            .filter(|e| matches!(e, Event::Clash { .. }))
            .collect()
    }

    /// Opens the cases' connection: SYN of 1000, SYN/ACK of 5000, ACK.
    pub fn open(&mut self) {
        use crate::packets::{ACK, SYN, segment};
        self.o(&segment(SYN, 1000, 0));
        self.r(&segment(SYN | ACK, 5000, 1001));
        self.o(&segment(ACK, 1001, 5001));
        assert_eq!(self.tcp(), "ESTABLISHED 432000 [ASSURED]");
        self.moved();
    }
}

/// `"120 [UNREPLIED]"`: whole seconds left, and the flags that `conntrack -L` shows.
pub fn in_words(ct: &Snapshot) -> String {
    let mut words = (ct.remaining / SECOND).to_string();
    if !ct.status.contains(Status::SEEN_REPLY) {
        words += " [UNREPLIED]";
    }
    if ct.status.contains(Status::ASSURED) {
        words += " [ASSURED]";
    }
    words
}

/// A ruleset with one rule in the NAT chain of `POST_ROUTING`.
pub fn postrouting(target: NatTarget) -> Ruleset {
    Ruleset {
        postrouting: Some(0),
        chains: vec![one_rule("POSTROUTING", target)],
        ..Ruleset::default()
    }
}

/// A ruleset with one rule in the NAT chain of `PRE_ROUTING`.
pub fn prerouting(target: NatTarget) -> Ruleset {
    Ruleset {
        prerouting: Some(0),
        chains: vec![one_rule("PREROUTING", target)],
        ..Ruleset::default()
    }
}

/// NAT hooks without a rule: null bindings for everybody.
pub fn null_bindings() -> Ruleset {
    Ruleset {
        nat_hooks: true,
        ..Ruleset::default()
    }
}

fn one_rule(name: &str, target: NatTarget) -> Chain {
    let rule = NatRule {
        matches: RuleMatch::default(),
        target,
    };
    Chain {
        name: name.into(),
        rules: vec![rule],
        policy_drop: false,
    }
}

/// Addresses, ports and flags of a SNAT or DNAT target.
pub fn to(
    addresses: Option<(Ipv4Addr, Ipv4Addr)>,
    range: Option<(u16, u16)>,
    flags: NatFlags,
) -> NatTo {
    NatTo {
        addresses: addresses.map(|(first, last)| (first.into(), last.into())),
        ports: NatPorts {
            range,
            base: None,
            flags,
        },
    }
}
