//! A gateway between two networks, the place where the benches' packets pass.
//!
//! ```text
//! clients 10.0.0.0/16 ─ lan(2) ─ gateway ─ wan(3) ─ server 198.51.100.21
//!                       10.0.0.1          198.51.100.1
//! ```

use std::net::Ipv4Addr;

use clashtrack_engine::config::Sysctls;
use clashtrack_engine::engine::{Engine, EngineConfig, Worker};
use clashtrack_engine::host::{Device, Host, LOOPBACK};
use clashtrack_engine::nat::range::NatFlags;
use clashtrack_engine::packet::{Origin, Packet, Verdict};
use clashtrack_engine::rules::{
    Chain, NatPorts, NatRule, NatTarget, NatTo, Network, RuleMatch, Ruleset,
};
use clashtrack_engine::table::key::KeyV4;
use clashtrack_engine::table::lockfree::{Isa, LockfreeTable};
use clashtrack_engine::zone::Zone;

use crate::NOW;
use crate::packets::{End, tuple_of};

/// The server.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 21);
/// The gateway's address on the server's side.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The device of the clients.
pub const LAN: Origin = Origin::Device(2);
/// The device of the servers.
pub const WAN: Origin = Origin::Device(3);

/// Packets that are sent together.
pub const BATCH: usize = 64;

/// Connections at most.
const CONNECTIONS_MAX: usize = 1 << 14;

type Table = LockfreeTable<KeyV4>;

/// Client number `n`, with a port of its own.
///
/// # Panics
/// Beyond 25600 clients.
#[must_use]
pub fn client(n: usize) -> End {
    let [high, low] = u16::try_from(n / 100 + 2)
        .expect("an address")
        .to_be_bytes();
    (Ipv4Addr::new(10, 0, high, low), 20_000 + n as u16)
}

/// An engine set up as the gateway of the picture, and its one worker.
#[derive(Debug)]
pub struct Gateway {
    worker: Worker<'static, Table>,
}

impl Gateway {
    /// The gateway with these rules. Its engine lives as long as the process.
    ///
    /// # Panics
    /// If the engine refuses the settings.
    #[must_use]
    pub fn new(rules: Ruleset, isa: Isa) -> Gateway {
        let sysctls = Sysctls {
            max: CONNECTIONS_MAX,
            ..Sysctls::default()
        };
        let mut config = EngineConfig::new(sysctls, 7);
        config.table.isa = isa;
        config.host = host();
        config.rules = rules;
        let engine: &Engine<Table> = Box::leak(Box::new(
            Engine::new(config).expect("a sound configuration"),
        ));
        Gateway {
            worker: engine.worker().expect("the first worker"),
        }
    }

    /// Sends packets through, which are rewritten in place.
    ///
    /// # Panics
    /// If a packet does not come to `verdict`.
    pub fn send(&mut self, packets: &mut [Vec<u8>], origin: Origin, verdict: Verdict) {
        for batch in packets.chunks_mut(BATCH) {
            let mut batch: Vec<Packet<'_>> = batch
                .iter_mut()
                .map(|bytes| Packet::new(bytes, origin))
                .collect();
            self.worker.process(&mut batch, NOW);
            for packet in &batch {
                assert_eq!(packet.verdict, Some(verdict), "{:?}", packet.mark);
            }
        }
    }

    /// Removes the connections of these packets.
    ///
    /// # Panics
    /// If there is none.
    pub fn forget(&mut self, packets: &[Vec<u8>]) {
        for bytes in packets {
            let known = self.worker.delete(&tuple_of(bytes), Zone::DEFAULT, NOW);
            assert!(known, "the packet's connection is in the table");
        }
    }

    /// Connections in existence.
    #[must_use]
    pub fn count(&self) -> usize {
        self.worker.engine().count()
    }
}

fn host() -> Host {
    let device = |index, name: &str, address: [u8; 4], prefix| Device {
        index,
        name: name.into(),
        addresses: vec![Network::v4(address.into(), prefix)],
    };
    Host {
        devices: vec![
            device(LOOPBACK, "lo", [127, 0, 0, 1], 8),
            device(2, "lan", [10, 0, 0, 1], 16),
            device(3, "wan", GATEWAY.octets(), 24),
        ],
        default_route: Some(3),
        forwards_everything: false,
    }
}

/// One rule for all packets in the NAT chain of `POST_ROUTING`.
#[must_use]
pub fn postrouting(target: NatTarget) -> Ruleset {
    Ruleset {
        postrouting: Some(0),
        chains: vec![one_rule("POSTROUTING", target)],
        ..Ruleset::default()
    }
}

/// One rule for all packets in the NAT chain of `PRE_ROUTING`.
#[must_use]
pub fn prerouting(target: NatTarget) -> Ruleset {
    Ruleset {
        prerouting: Some(0),
        chains: vec![one_rule("PREROUTING", target)],
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

/// One address, a range of ports if there is one, and how to choose.
#[must_use]
pub fn to(address: Ipv4Addr, range: Option<(u16, u16)>, flags: NatFlags) -> NatTo {
    NatTo {
        addresses: Some((address.into(), address.into())),
        ports: NatPorts {
            range,
            base: None,
            flags,
        },
    }
}
