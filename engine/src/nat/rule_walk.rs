//! Walking the NAT chains with a connection's first packet.
//!
//! Source: `ipt_do_table` (ip_tables.c), `ip_packet_match`, the matches `tcp`/`udp`,
//! `multiport`, `icmp` and `addrtype`.

use crate::addr::Addr;
use crate::hook::HookPoint;
use crate::host::{DeviceIndex, Host};
use crate::packet::ipv4::Ipv4Header;
use crate::rules::{ChainIndex, DevicePattern, NatTarget, Network, Not, RuleMatch, Ruleset};
use crate::tuple::{Protocol, Tuple};

/// What rules can ask of a packet, as it is at this moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PacketFacts<'a> {
    src: Addr,
    dst: Addr,
    protocol: Protocol,
    /// `None` where there are none, or they are not in the packet.
    ports: Option<(u16, u16)>,
    /// ICMP type and code.
    icmp: Option<(u8, u8)>,
    in_device: &'a str,
    out_device: &'a str,
    host: &'a Host,
}

impl<'a> PacketFacts<'a> {
    /// Facts of a packet whose header was parsed from `bytes` since it was last rewritten.
    pub(crate) fn new(
        bytes: &[u8],
        header: &Ipv4Header,
        in_device: Option<DeviceIndex>,
        out_device: Option<DeviceIndex>,
        host: &'a Host,
    ) -> PacketFacts<'a> {
        let tuple = header.tuple(bytes);
        let keys_of = |wanted: bool, read: fn(&Tuple) -> (u16, u16)| {
            tuple.as_ref().filter(|_| wanted).map(read)
        };
        PacketFacts {
            src: header.src,
            dst: header.dst,
            protocol: header.protocol,
            ports: keys_of(header.protocol.has_ports(), |t| (t.src_key, t.dst_key)),
            icmp: tuple
                .filter(|t| t.protocol == Protocol::ICMP)
                .map(|t| (t.icmp_type(), t.icmp_code())),
            in_device: device_name(host, in_device),
            out_device: device_name(host, out_device),
            host,
        }
    }
}

/// No device has the empty name, as in the kernel: no pattern but a lone `+` matches it, and
/// every negated one does.
fn device_name(host: &Host, device: Option<DeviceIndex>) -> &str {
    device
        .and_then(|index| host.device(index))
        .map_or("", |device| device.name.as_str())
}

impl RuleMatch {
    /// Do all conditions hold?
    pub(crate) fn matches(&self, packet: &PacketFacts<'_>) -> bool {
        let within =
            |networks: &Vec<Network>, address| networks.iter().any(|n| n.contains(address));
        holds(&self.protocol, |p| *p == packet.protocol)
            && holds(&self.src, |networks| within(networks, packet.src))
            && holds(&self.dst, |networks| within(networks, packet.dst))
            && holds(&self.in_device, |d: &DevicePattern| {
                d.matches(packet.in_device)
            })
            && holds(&self.out_device, |d: &DevicePattern| {
                d.matches(packet.out_device)
            })
            && holds(&self.src_is_local, |()| packet.host.is_local(packet.src))
            && holds(&self.dst_is_local, |()| packet.host.is_local(packet.dst))
            && self.ports_match(packet)
            && self.icmp_matches(packet)
    }

    /// Conditions on ports never hold for a packet without them, negated or not.
    fn ports_match(&self, packet: &PacketFacts<'_>) -> bool {
        let asked =
            self.src_ports.is_some() || self.dst_ports.is_some() || self.either_port.is_some();
        let Some((src, dst)) = packet.ports else {
            return !asked;
        };
        let among = |ranges: &[std::ops::RangeInclusive<u16>], port| {
            ranges.iter().any(|range| range.contains(&port))
        };
        holds(&self.src_ports, |ranges| among(ranges, src))
            && holds(&self.dst_ports, |ranges| among(ranges, dst))
            && holds(&self.either_port, |ranges| {
                among(ranges, src) || among(ranges, dst)
            })
    }

    /// A condition on the ICMP type never holds for another protocol, negated or not.
    fn icmp_matches(&self, packet: &PacketFacts<'_>) -> bool {
        match (&self.icmp, packet.icmp) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(wanted), Some((icmp_type, code))) => {
                wanted.holds(|(t, codes)| *t == icmp_type && codes.contains(&code))
            }
        }
    }
}

/// A condition that was not made holds.
fn holds<T>(condition: &Option<Not<T>>, test: impl FnOnce(&T) -> bool) -> bool {
    condition.as_ref().is_none_or(|c| c.holds(test))
}

/// How the walk of a hook's chains ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WalkEnd<'r> {
    /// A rule's target decides: an address translation.
    Translate(&'r NatTarget),
    /// The packet is left as it is.
    Accept,
    /// The packet is dropped.
    Drop,
}

/// How the walk of one chain ended.
enum ChainEnd<'r> {
    Decided(WalkEnd<'r>),
    /// Nothing decided in this chain: the caller's next rule, or the policy.
    FellThrough,
}

impl Ruleset {
    /// Are the NAT hooks registered? They are as soon as one NAT chain exists, all of them.
    #[must_use]
    pub fn has_nat(&self) -> bool {
        self.nat_hooks
            || [self.prerouting, self.input, self.output, self.postrouting]
                .iter()
                .any(Option::is_some)
    }

    /// The NAT chain of a place.
    #[must_use]
    pub fn nat_chain(&self, point: HookPoint) -> Option<ChainIndex> {
        match point {
            HookPoint::PreRouting => self.prerouting,
            HookPoint::LocalIn => self.input,
            HookPoint::Forward => None,
            HookPoint::LocalOut => self.output,
            HookPoint::PostRouting => self.postrouting,
        }
    }

    /// Walks a base chain and those that it leads to.
    pub(crate) fn walk(&self, base: ChainIndex, packet: &PacketFacts<'_>) -> WalkEnd<'_> {
        match self.walk_chain(base, packet, 0) {
            ChainEnd::Decided(end) => end,
            ChainEnd::FellThrough => match self.chains.get(base) {
                Some(chain) if chain.policy_drop => WalkEnd::Drop,
                _ => WalkEnd::Accept,
            },
        }
    }

    /// `depth` is how many chains led here. More than there are chains is a circle, which the
    /// loader of rules refuses; the kernel drops packets that overflow its stack of chains.
    fn walk_chain(
        &self,
        index: ChainIndex,
        packet: &PacketFacts<'_>,
        depth: usize,
    ) -> ChainEnd<'_> {
        if depth > self.chains.len() {
            return ChainEnd::Decided(WalkEnd::Drop);
        }
        let Some(chain) = self.chains.get(index) else {
            return ChainEnd::FellThrough;
        };
        for rule in chain.rules.iter().filter(|r| r.matches.matches(packet)) {
            match &rule.target {
                NatTarget::Accept => return ChainEnd::Decided(WalkEnd::Accept),
                NatTarget::Drop => return ChainEnd::Decided(WalkEnd::Drop),
                NatTarget::Return => return ChainEnd::FellThrough,
                NatTarget::Goto(to) => return self.walk_chain(*to, packet, depth + 1),
                NatTarget::Jump(to) => match self.walk_chain(*to, packet, depth + 1) {
                    ChainEnd::FellThrough => {}
                    decided => return decided,
                },
                translation => return ChainEnd::Decided(WalkEnd::Translate(translation)),
            }
        }
        ChainEnd::FellThrough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Chain, NatRule};

    const SNAT: NatTarget = NatTarget::Netmap {
        to: std::net::Ipv4Addr::LOCALHOST,
        prefix: 8,
    };

    fn facts(host: &Host) -> PacketFacts<'_> {
        PacketFacts {
            src: Addr::v4([10, 0, 0, 5].into()),
            dst: Addr::v4([127, 0, 0, 1].into()),
            protocol: Protocol::TCP,
            ports: Some((1234, 8080)),
            icmp: None,
            in_device: "",
            out_device: "lo",
            host,
        }
    }

    fn chain(targets: Vec<NatTarget>) -> Chain {
        let rules = targets
            .into_iter()
            .map(|target| NatRule {
                matches: RuleMatch::default(),
                target,
            })
            .collect();
        Chain {
            rules,
            ..Chain::default()
        }
    }

    fn walk(chains: Vec<Chain>) -> String {
        let rules = Ruleset {
            postrouting: Some(0),
            chains,
            ..Ruleset::default()
        };
        let host = Host::loopback_only();
        match rules.walk(0, &facts(&host)) {
            WalkEnd::Translate(_) => "translate".into(),
            end => format!("{end:?}"),
        }
    }

    #[test]
    fn a_jump_comes_back_and_a_goto_does_not() {
        use NatTarget::{Accept, Drop, Goto, Jump, Return};
        assert_eq!(
            walk(vec![chain(vec![Jump(1), SNAT]), chain(vec![])]),
            "translate"
        );
        assert_eq!(
            walk(vec![chain(vec![Goto(1), SNAT]), chain(vec![])]),
            "Accept"
        );
        assert_eq!(
            walk(vec![chain(vec![Jump(1), SNAT]), chain(vec![Return, Drop])]),
            "translate"
        );
        assert_eq!(
            walk(vec![chain(vec![Jump(1), SNAT]), chain(vec![Drop])]),
            "Drop"
        );
        assert_eq!(walk(vec![chain(vec![Accept, SNAT])]), "Accept");
        // Jump to 1, which goes on to 2 for good; 2 returns to where the jump came from.
        let chains = vec![
            chain(vec![Jump(1), SNAT]),
            chain(vec![Goto(2), Drop]),
            chain(vec![Return]),
        ];
        assert_eq!(walk(chains), "translate");
    }

    #[test]
    fn a_base_chains_policy_decides_what_no_rule_did() {
        let mut base = chain(vec![NatTarget::Return, SNAT]);
        base.policy_drop = true;
        assert_eq!(walk(vec![base]), "Drop");
    }

    #[test]
    fn a_circle_of_chains_drops_the_packet_instead_of_going_round_for_ever() {
        use NatTarget::{Goto, Jump};
        assert_eq!(
            walk(vec![
                chain(vec![Jump(1), SNAT]),
                chain(vec![Jump(0), Jump(0)])
            ]),
            "Drop"
        );
        assert_eq!(walk(vec![chain(vec![Goto(0)])]), "Drop");
        // A chain that does not exist decides nothing.
        assert_eq!(walk(vec![chain(vec![Jump(77)])]), "Accept");
    }

    fn not<T>(value: T) -> Option<Not<T>> {
        Some(Not {
            negated: true,
            value,
        })
    }

    #[test]
    fn each_condition_can_be_met_and_negated() {
        let host = Host::loopback_only();
        let lo = DevicePattern {
            name: "lo".into(),
            prefix: false,
        };
        let local = Network::v4([127, 0, 0, 0].into(), 8);
        let rule = RuleMatch {
            protocol: Some(Not::is(Protocol::TCP)),
            src: not(vec![local]),
            dst: Some(Not::is(vec![Network::v4([9, 9, 9, 9].into(), 32), local])),
            src_ports: not(vec![1..=1023]),
            dst_ports: Some(Not::is(vec![80..=80, 8000..=8999])),
            either_port: Some(Not::is(vec![1234..=1234])),
            in_device: not(lo.clone()),
            out_device: Some(Not::is(lo)),
            icmp: None,
            dst_is_local: Some(Not::is(())),
            src_is_local: not(()),
        };
        assert!(rule.matches(&facts(&host)));
        let other_port = PacketFacts {
            ports: Some((1234, 81)),
            ..facts(&host)
        };
        assert!(!rule.matches(&other_port));
    }

    #[test]
    fn conditions_on_ports_and_icmp_types_never_hold_for_other_protocols() {
        let host = Host::loopback_only();
        let echo = PacketFacts {
            protocol: Protocol::ICMP,
            ports: None,
            icmp: Some((8, 0)),
            ..facts(&host)
        };
        let ports = RuleMatch {
            dst_ports: not(vec![80..=80]),
            ..RuleMatch::default()
        };
        assert!(ports.matches(&facts(&host)) && !ports.matches(&echo));
        let not_unreachable = RuleMatch {
            icmp: not((3, 0..=255)),
            ..RuleMatch::default()
        };
        assert!(not_unreachable.matches(&echo) && !not_unreachable.matches(&facts(&host)));
    }

    #[test]
    fn hooks_exist_with_any_chain_or_by_wish() {
        assert!(!Ruleset::default().has_nat());
        let by_wish = Ruleset {
            nat_hooks: true,
            ..Ruleset::default()
        };
        let by_chain = Ruleset {
            input: Some(0),
            ..Ruleset::default()
        };
        assert!(by_wish.has_nat() && by_chain.has_nat());
        assert_eq!(by_chain.nat_chain(HookPoint::LocalIn), Some(0));
        assert_eq!(by_chain.nat_chain(HookPoint::Forward), None);
    }
}
